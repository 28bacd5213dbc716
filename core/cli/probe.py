"""`deltalab probe`: measure what finished runs changed, in this terminal's own process.

    deltalab probe last spectrum
    deltalab probe last truncation --set items=50
    deltalab probe RUN OTHER overlap --json

The result is kept with the run; the same question is answered from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.cli.arguments import DONE, asks_for_help, command, json_argument, pairs_of, print_fields, quiet_libraries
from core.cli.stored import OWNER, find_run, open_store
from core.errors import BadInput


def add(commands: Any) -> None:
    """The command's flags."""
    from core.probes import PROBES

    one = command(commands, "probe", _probe, "measure what finished runs changed")
    one.add_argument("runs", metavar="RUN", nargs="*", help="a run's id or its beginning, or last")
    one.add_argument("probe", metavar="NAME", help=f"what to measure: {', '.join(PROBES)}")
    one.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="set a knob of the measurement; --set help lists them",
    )  # fmt: skip
    one.add_argument(
        "--record", type=Path, metavar="FILE", help="also write the result, with device, versions and settings, here"
    )
    json_argument(one)


def _probe(asked: argparse.Namespace) -> int:
    from core.probes import probe
    from core.runs import prober

    what = probe(asked.probe)
    if asks_for_help(asked):
        print_fields(f"Settings of {asked.probe}", what.Config)
        return DONE
    store = open_store()
    ids = [find_run(store, name) for name in asked.runs]
    request, folder = prober.asked(store, asked.probe, ids, pairs_of(asked.settings), OWNER)
    # (A record says with which code and when it was measured, so it is.)
    found = prober.kept(folder) if asked.record is None else None
    if found is None:
        quiet_libraries()
        prober.prepare(folder, request)
        began = time.monotonic()
        result = prober.measure(request, folder, _tell(quiet=asked.json or not sys.stderr.isatty()))
        prober.keep(folder, result, time.monotonic() - began)
        found = prober.kept(folder)
        assert found is not None
    assert found.result is not None
    if asked.record is not None:
        _record(asked, [store.get(run, OWNER).config for run in ids], found.result)
    if asked.json:
        print(json.dumps({"probe": asked.probe, "runs": ids, "seconds": found.seconds, "result": found.result}))
        return DONE
    print(what.TITLE)
    for line in lines(found.result):
        print(line)
    return DONE


def _record(asked: argparse.Namespace, configs: list[dict[str, Any]], result: Mapping[str, Any]) -> None:
    """The result in one object that says how it came about."""
    from core.hardware import attached_light, versions
    from core.runs.recorded import commit_facts

    if not asked.record.parent.is_dir():
        raise BadInput(f"There is no folder {asked.record.parent} to write the record into.", "Make it first.")
    record = {
        "command": f"deltalab probe … {asked.probe} --record {asked.record.name}", "date": time.strftime("%Y-%m-%d"),
        "device": attached_light().name, **commit_facts(), "versions": versions(), "settings": pairs_of(asked.settings),
        "runs": configs, "result": result,
    }  # fmt: skip
    asked.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _tell(*, quiet: bool) -> Any:
    """What a probe tells, in one line of the terminal that is written over."""

    def tell(share: float | None, text: str) -> None:
        if not quiet:
            done = "    " if share is None else f"{100 * share:3.0f} %"
            print(f"\r{done} {text}\033[K", end="", file=sys.stderr, flush=True)
            if share == 1:
                print(file=sys.stderr)

    return tell


# --- a result for a terminal ------------------------------------------------------------------------------------------


def lines(result: Mapping[str, Any], indent: str = "  ") -> list[str]:
    """Any probe's result for people: a line for each number or sentence, a table for each list of objects. Lists inside
    a table's rows are left to --json."""
    out = []
    for name, value in result.items():
        title = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            out += [f"{title}:", *lines(value, indent + "  ")]
        elif isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            out += [f"{title}:", *(indent + "  " + line for line in _table(value))]
        elif isinstance(value, list):
            out += [f"{title}: {', '.join(map(_text, value))}"] if value else []
        elif value is not None:
            out.append(f"{title}: {_text(value)}")
    return out


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [n for n in rows[0] if not any(isinstance(row.get(n), (Mapping, list)) for row in rows)]
    cells = [[n.replace("_", " ") for n in names], *([_text(row.get(n)) for n in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
