"""`deltalab race`: several methods on the same data, in turn, and what each gave for what it cost."""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.arguments import DONE, FAILED, command, json_argument, pairs_of, quiet_libraries
from core.cli.screen import Silent
from core.cli.stored import OWNER, open_store, percent

if TYPE_CHECKING:
    from core.race import Plan


def add(commands: Any) -> None:
    """The command's flags."""
    one = command(commands, "race", _race, "train several methods on the same data and compare them")
    one.add_argument("--base", default="embedded", help="embedded, a folder, or a hub id (default: embedded)")
    one.add_argument("--revision", help="branch, tag or commit of a hub id")
    what = one.add_mutually_exclusive_group()
    what.add_argument("--task", help="a built-in task (default: json)")
    what.add_argument("--data", metavar="FILE", help="your own JSONL, JSON or CSV file")
    one.add_argument("--methods", nargs="+", metavar="NAME", help="which; default: all")
    one.add_argument("--seeds", type=int, default=1, help="runs per method, for a range (default: 1)")
    one.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="set a knob of the training loop, the same for all (steps=60: more of them than a race has by default)",
    )  # fmt: skip
    one.add_argument("--record", type=Path, metavar="FILE", help="also write the rows, with device and versions, here")
    json_argument(one)


def _race(asked: argparse.Namespace) -> int:
    from core.config import TrainConfig, settings_of
    from core.methods import METHODS
    from core.race import Plan, aggregate, cell_of, entries, measure, rate_notes, row, unlearnt
    from core.runs.worker import execute, let_go

    plan = Plan(
        base=asked.base, revision=asked.revision, task=None if asked.data else asked.task or "json", data=asked.data,
        methods=tuple(asked.methods or METHODS), seeds=asked.seeds,
        train=settings_of(TrainConfig, pairs_of(asked.settings)),
    )  # fmt: skip
    configs = entries(plan)
    quiet_libraries()
    store = open_store()
    race = secrets.token_hex(6)
    for note in (_length(plan, len(configs)), *rate_notes(plan)):
        print(note, file=sys.stderr)
    began = time.monotonic()
    rows = []
    for number, config in enumerate(configs, 1):
        run = store.create(OWNER, config, key=f"{cell_of(race)}/{number}", cell=cell_of(race), direct=True)
        execute(store, run.id, Silent().event)
        run = store.get(run.id, OWNER)
        events = [e for _, e in store.events(run.id, OWNER, kinds=("started", "evaluated", "finished"))]
        rows.append(row(run.config, events, run.status, run.sentence))
        let_go()
        last = rows[-1]
        if not asked.json:
            told = percent(last.exact_match) if run.status == "finished" else f"{run.status}: {run.sentence}"
            print(f"{number:>3}/{len(configs)}  {config.method:<14} seed {config.seed}  {told}", file=sys.stderr)
        if run.status in ("cancelled", "interrupted"):  # Ctrl-C or the like: what follows is not wanted either
            break
    seconds = time.monotonic() - began
    if asked.record is not None and all(r.status == "finished" for r in rows):
        _write(asked.record, plan, rows, seconds)
    if asked.json:
        print(json.dumps({"race": race, "seconds": seconds, "rows": [dataclasses.asdict(r) for r in rows]}))
    else:
        bands = aggregate(rows)
        print(f"{'':14}" + "".join(f"{measure(m).title:>24}" for m in _SHOWN))
        for method, found in bands.items():
            print(f"{method:14}" + "".join(f"{_text(m, found.get(m)):>24}" for m in _SHOWN))
        idle = unlearnt(bands)
        if idle:
            print(f"Less than half of what the best learnt: {', '.join(idle)}. They need more steps.")
    failed = [r for r in rows if r.status != "finished"]
    return FAILED if failed else DONE


def _length(plan: Plan, runs: int) -> str:
    """How long everybody trains, and how to have it otherwise."""
    from core.race import examples_of, steps_of, usual_steps

    told = f"{runs} run{'s' if runs > 1 else ''} of {steps_of(plan)} steps, {examples_of(plan)} examples in each."
    usual = usual_steps(plan)
    more = f" --set steps={usual} gives everybody as many as a run takes by default." if steps_of(plan) < usual else ""
    return told + more


_SHOWN = ("exact_match", "forgetting", "peak_bytes", "seconds", "trainable", "adapter_bytes")


def _text(name: str, band: Any) -> str:
    from core.race import measure

    return "–" if band is None else measure(name).text(band.median)


def _write(path: Path, plan: Any, rows: list[Any], seconds: float) -> None:
    """The record of a race, in one object that says how it came about."""
    from core.hardware import attached_light
    from core.race import rate_notes, steps_of
    from core.runs.recorded import commit_facts
    from core.sweep import base_hash
    from core.train import versions

    record = {
        "what": "methods raced on the same base, data, order of the data, steps and seeds, each at its swept rate",
        "date": time.strftime("%Y-%m-%d"),
        "device": attached_light().name,
        **commit_facts(),
        "versions": versions(),
        "base": base_hash() if plan.base == "embedded" else plan.base,
        "task": plan.task or Path(plan.data).name,
        "steps": steps_of(plan),
        "batch_size": plan.train.batch_size,
        "seeds": plan.seeds,
        "seconds": round(seconds, 1),
        "notes": rate_notes(plan),
        "rows": [dataclasses.asdict(r) for r in rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
