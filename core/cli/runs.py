"""`deltalab runs`: list, show, resume, cancel or delete runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.arguments import DONE, command, json_argument, processes_argument
from core.cli.screen import carry_out
from core.cli.stored import OWNER, find_run, open_store, percent, score_line, summary
from core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.runs.store import Run


def add(commands: Any) -> None:
    """The command's actions and their flags."""
    runs = command(
        commands, "runs", _runs_list, "list, show, resume, cancel or delete runs; without an action, list them"
    )
    inner = runs.add_subparsers(metavar="ACTION", dest="action")

    def action(name: str, do: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        one = command(inner, name, do, text)
        json_argument(one, default=argparse.SUPPRESS)  # else it would undo the flag of `runs --json show RUN`
        return one

    listing = action("list", _runs_list, "list runs, the newest first")
    json_argument(runs)
    for one, default in ((runs, 20), (listing, argparse.SUPPRESS)):
        one.add_argument("--limit", type=int, default=default, help="list at most so many (default: 20)")
    show = action("show", _runs_show, "show one run: settings, scores, samples")
    resume = action("resume", _runs_resume, "go on with a run that was interrupted, cancelled or failed")
    for one in (show, resume):
        one.add_argument("run", metavar="RUN", help="the run's id or its beginning, or last")
    processes_argument(resume)
    for name, do, text in (
        ("cancel", _runs_cancel, "stop runs after their current step"),
        ("delete", _runs_delete, "forget runs and remove their files"),
    ):
        action(name, do, text).add_argument("run", metavar="RUN", nargs="+", help="ids or their beginnings, or last")


def _what(run: Run) -> str:
    return f"{run.config['method']} · {run.config['task'] or Path(run.config['data']).name}"


def _when(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _runs_list(asked: argparse.Namespace) -> int:
    store = open_store()
    if asked.limit < 1:
        raise BadInput("--limit must be at least 1.")
    runs = store.runs(OWNER, limit=asked.limit)
    if asked.json:
        print(json.dumps({"runs": [summary(store, run) | {"created": run.created} for run in runs]}))
        return DONE
    if not runs:
        print("No runs yet. Start one with: deltalab train --task json --method lora")
        return DONE
    for run in runs:
        got = summary(store, run)
        score = (
            f"{percent(got['before']['task'])} → {percent(got['after']['task'])}" if run.status == "finished" else ""
        )
        place = f"{run.step:>5}/{run.steps:<5}"
        parts = (run.id, _when(run.created), f"{run.status:<11}", place, f"{_what(run):<18}", f"{score:<13}")
        print("  ".join((*parts, run.title or "")).rstrip())
    return DONE


def _runs_show(asked: argparse.Namespace) -> int:
    store = open_store()
    run = store.get(find_run(store, asked.run), OWNER)
    events = [e for _, e in store.events(run.id, OWNER, limit=200_000)]
    got = summary(store, run)
    if asked.json:
        print(json.dumps(got | {"config": run.config, "created": run.created, "events": events}))
        return DONE
    print(f"Run {run.id}{f' ({run.title})' if run.title else ''}: {run.status}, step {run.step} of {run.steps}")
    if run.sentence:
        print(f"  {run.sentence} {run.advice}".rstrip())
    print(f"  {_what(run)} on {run.config['base']}, seed {run.config['seed']}, {_when(run.created)}")
    for part in ("settings", "train"):
        print(f"  {part}: " + ", ".join(f"{k}={v}" for k, v in run.config[part].items()))
    for event in events:
        if event["kind"] == "evaluated":
            line = (event["step"], event["task"], event["exact_match"], event["loss"], event["skills"])
            print(f"  {score_line(*line, event.get('macro_f1'))}")
    samples = [e for e in events if e["kind"] == "sampled"][-1:]
    for sample in samples[0]["samples"] if samples else ():
        print(f"  {sample['prompt']!r}\n    → {sample['output']!r} (wanted {sample['reference']!r})")
    print(f"  folder: {run.folder}")
    return DONE


def _runs_resume(asked: argparse.Namespace) -> int:
    import secrets

    from core.processes import follow, is_follower

    if is_follower():
        return follow()
    store = open_store()
    run_id = find_run(store, asked.run)
    store.resume(run_id, OWNER, key=secrets.token_hex(16), direct=True)
    return carry_out(store, run_id, as_json=asked.json, processes=asked.processes)


def _runs_cancel(asked: argparse.Namespace) -> int:
    store = open_store()
    ids = [find_run(store, name) for name in asked.run]
    runs = [store.cancel(run_id, OWNER) for run_id in ids]
    if asked.json:
        print(json.dumps({"runs": [{"run": r.id, "status": r.status, "cancelling": r.cancelling} for r in runs]}))
        return DONE
    for run in runs:
        print(f"{run.id}: " + ("stopping after its current step" if run.cancelling else run.status))
    return DONE


def _runs_delete(asked: argparse.Namespace) -> int:
    store = open_store()
    ids = [find_run(store, name) for name in asked.run]
    for run_id in dict.fromkeys(ids):
        store.delete(run_id, OWNER)
    print(json.dumps({"deleted": ids}) if asked.json else "\n".join(f"{i}: deleted" for i in ids))
    return DONE
