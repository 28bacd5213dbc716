"""Runs as files: made by the same engine, kept with the lesson, shown at once and labelled as recorded.

    python -m core.runs.recorded --out lessons/00_start_here/runs/first-run.jsonl --task json --method lora

A recorded run is the stream of events, written down: JSON, one event per line, after a first line that says where it
comes from: {"kind": "provenance", "device", "date", "commit", "changed", "base", "versions", "command"}. There,
`changed` says that the engine was not as in that commit, and `base` is the fingerprint of the base's weights. `read`
gives it the shape of a run from the store, with `recorded` set, so that whatever shows a run shows this one too, and
can tell the difference.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import EMBEDDED, RunConfig, resolved, with_settings
from core.errors import BadInput, DeltalabError
from core.events import Event, Failed, Preparing, Started, Stopped, to_dict
from core.runs.claims import ending
from core.runs.journal import clean
from core.runs.store import Run

if TYPE_CHECKING:
    from core.runs.worker import Trainer

FORMAT = 1  # of the file; raised when a line changes its meaning
OWNER = ""  # belongs to nobody


@dataclass(frozen=True)
class Recording:
    """A recorded run. provenance: device, date, commit, versions, command. run: as from the store, recorded=True."""

    path: Path
    provenance: dict[str, Any]
    run: Run
    lines: tuple[dict[str, Any], ...]

    def events(
        self, *, after: int = 0, kinds: Sequence[str] | None = None, limit: int = 5000
    ) -> list[tuple[int, dict[str, Any]]]:
        """As `Store.events`: (seq, event), seq from 1."""
        numbered = list(enumerate(self.lines, start=1))[after:]
        return [(seq, event) for seq, event in numbered if kinds is None or event["kind"] in kinds][:limit]


def read(path: Path) -> Recording:
    """The recorded run in a file.

    Raises:
        BadInput: there is none, or a line (named by its number) is not what it should be.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"The recorded run {path.name} cannot be read ({error.strerror}).") from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            record = json.loads(line)
            kind = record["kind"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"Line {number} of the recorded run {path.name} is no event.", _RECORD_ANEW) from error
        if (kind == "provenance") != (number == 1):
            raise BadInput(f"Line {number} of the recorded run {path.name} is out of place.", _RECORD_ANEW)
        lines.append(record)
    if len(lines) < 2 or lines[1]["kind"] != "started":
        raise BadInput(f"The recorded run {path.name} has no beginning.", _RECORD_ANEW)
    provenance, started, last = lines[0], lines[1], lines[-1]
    status, sentence, advice = ending(last, cancelled=False) or ("interrupted", "The recording breaks off.", "")
    date = datetime.datetime.fromisoformat(provenance["date"])
    run = Run(
        id=f"recorded-{path.stem}",
        owner=OWNER,
        title=provenance.get("title"),
        cell=None,
        status=status,
        config=started["config"],
        created=date.timestamp(),
        started=date.timestamp(),
        ended=date.timestamp() + float(last.get("seconds") or 0.0),
        sentence=sentence,
        advice=advice,
        resumable=False,
        step=int(last.get("step") or 0),
        steps=int(started["steps"]),
        queue_position=None,
        folder=path.parent,
        recorded=True,
    )
    return Recording(path, provenance, run, tuple(lines[1:]))


_RECORD_ANEW = "Record it again: python -m core.runs.recorded --out FILE …, as its first line says."


def import_recorded(folder: Path) -> dict[str, Recording]:
    """All recorded runs in a folder (a lesson's `runs/`), by name.

    Raises:
        BadInput: as `read`.
    """
    return {path.stem: read(path) for path in sorted(Path(folder).glob("*.jsonl"))}


def record(
    config: RunConfig,
    path: Path,
    *,
    title: str | None = None,
    command: str = "",
    on_event: Callable[[Event], None] | None = None,
    train: Trainer | None = None,
    folder: Path | None = None,
) -> Recording:
    """Really run `config` here and now, and write what it said to `path`, whole or not at all.

    Args:
        command: how to make the recording again.
        train: takes the place of `core.train.train`.
        folder: where the run keeps its adapter; it stays. None: nowhere.

    Raises:
        DeltalabError: the run failed; nothing is written.
    """
    if train is None:
        from core.train import train as real_train

        train = real_train
    config = resolved(config)
    lines: list[dict[str, Any]] = []
    device, versions, base = "", {}, ""
    with tempfile.TemporaryDirectory(prefix="deltalab-recording-") as passing:
        for event in train(config, folder or Path(passing)):
            if isinstance(event, Failed):
                raise DeltalabError(event.sentence, event.advice)
            if isinstance(event, Stopped):
                raise DeltalabError("The run was stopped; half a run is not recorded.")
            if isinstance(event, Started):
                device, versions, base = event.device, event.versions, event.base.get("fingerprint", "")
            if not isinstance(event, Preparing):  # how the base came here is no part of the run
                lines.append(_without_places(clean(to_dict(event)), config))
            if on_event is not None:
                on_event(event)
    now = datetime.datetime.now(datetime.UTC)
    provenance = {
        "kind": "provenance",
        "format": FORMAT,
        "device": device,
        "date": now.isoformat(timespec="seconds"),
        **commit_facts(),
        "base": base,
        "versions": versions,
        "command": command,
    }
    if title:
        provenance["title"] = title
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(
        "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in [provenance, *lines]),
        encoding="utf-8",
    )
    os.replace(partial, path)
    return read(path)


def _without_places(value: Any, config: RunConfig) -> Any:
    """The event without the folders of the machine it was recorded on: of a path, its last part remains."""
    local = [p for p in (config.data, config.base) if p is not None and p != EMBEDDED and Path(p).exists()]
    if isinstance(value, str):
        for place in local:
            value = value.replace(str(Path(place).resolve()), Path(place).name).replace(place, Path(place).name)
        return value
    if isinstance(value, Mapping):
        return {k: _without_places(v, config) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_places(v, config) for v in value]
    return value


def commit_facts() -> dict[str, Any]:
    """{"commit", "changed"}: the commit of the engine, and whether it had been changed since.

    Where there is no repository, the version stands in the commit's place.
    """
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno", "--", "core"))}
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import version

        return {"commit": f"version {version('deltalab')}", "changed": False}


def main(argv: list[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed run, 2 bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m core.runs.recorded", description="Record a run for a lesson.")
    parser.add_argument("--out", required=True, type=Path, help="the file to write (.jsonl)")
    parser.add_argument("--task", help="a built-in task (json when no data is given)")
    parser.add_argument("--data", help="a JSONL or CSV file instead of a task")
    parser.add_argument("--base", default=EMBEDDED)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--title")
    asked = parser.parse_args(arguments)

    def show(event: Event) -> None:
        step = getattr(event, "step", None)
        loss = getattr(event, "loss", None)
        print(event.kind, *([f"step {step}"] if step is not None else []), *([f"loss {loss:.4f}"] if loss else []))

    try:
        pairs = dict(pair.split("=", 1) for pair in asked.set if "=" in pair)
        if len(pairs) < len(asked.set):
            raise BadInput("A setting is written KEY=VALUE.", f"You gave {' '.join(asked.set)}.")
        task = None if asked.data else asked.task or "json"
        record_ = {"base": asked.base, "task": task, "data": asked.data, "method": asked.method, "seed": asked.seed}
        config = with_settings(RunConfig.from_dict(record_), pairs)
        resolved(config)
    except DeltalabError as error:
        print(error, file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "core.runs.recorded", *arguments])
    try:
        done = record(config, asked.out, title=asked.title, command=command, on_event=show)
    except DeltalabError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{asked.out}: {len(done.lines)} events, {asked.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
