"""Makes the recorded results of a lesson with the engine that the learner uses: runs first, then what is measured on
them. Pure of any page; `deltalab lessons record` calls it.

A run's adapter is no part of the lesson, but measurements need it, so it is kept in the data folder, under
`recordings/`. Where it is gone, the run is made once more and must come out as recorded.
"""

from __future__ import annotations

import datetime
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import configured
from app.index import Cell, Lesson, probed_path, recorded_path, recordings, run_names
from core.config import RunConfig, resolved
from core.errors import BadInput, DeltalabError, NotFound
from core.probes.example import rounded
from core.runs import prober
from core.runs.home import data_home
from core.runs.recorded import commit_facts, read, record

Tell = Callable[[str], None]
"""Called with a line on what is being done now."""


@dataclass(frozen=True)
class Job:
    """One result to be made. name: a run ("id" or "comparison/run") or a measurement's id. path: its file."""

    name: str
    cell: Cell
    path: Path


def jobs(lesson: Lesson) -> list[Job]:
    """Everything that a lesson keeps recorded, in the order in which it can be made."""
    runs, measurements = [], []
    for cell in lesson.cells:
        for path in recordings(cell, lesson.folder):
            if cell.kind == "probe":
                measurements.append(Job(cell.id, cell, path))
            else:
                name = cell.id if cell.kind == "experiment" else f"{cell.id}/{path.stem}"
                runs.append(Job(name, cell, path))
    return runs + measurements


def stale(lesson: Lesson, job: Job) -> str:
    """Why a result must be made (again): it is missing, or was made of something else; "" when it is right."""
    if not job.path.is_file():
        return "missing"
    try:
        if job.cell.kind != "probe":
            made = next(line for line in read(job.path).lines if line["kind"] == "started")["config"]
            return "" if configured.same(configured.runs(lesson)[job.name], made) else "made with other settings"
        found = json.loads(job.path.read_text(encoding="utf-8"))
        if (found["probe"], list(found["of"])) != (job.cell.body["probe"], list(job.cell.body["of"])):
            return "made of something else"
        asked = configured.measurement(job.cell)
        # (A knob that came later had its default then.)
        if {**configured.usual(job.cell), **found["settings"]} != asked:
            return "made with other settings"
        for run in job.cell.body["of"]:
            path = recorded_path(lesson.folder, run)
            if path.is_file() and found["runs"].get(run) != read(path).provenance["date"]:
                return f"made before {run} was recorded anew"
    except (DeltalabError, KeyError, ValueError, StopIteration):
        return "unreadable"
    return ""


def chosen(lesson: Lesson, names: Sequence[str], *, again: bool = False) -> list[Job]:
    """The results to make: of the named cells or runs; without names those that are missing or stale, or all.

    Raises:
        NotFound: a name that the lesson has not.
    """
    every = jobs(lesson)
    if not names:
        return [job for job in every if again or stale(lesson, job)]
    for name in names:
        if not any(name in (job.name, job.cell.id) for job in every):
            known = ", ".join(dict.fromkeys([*(job.cell.id for job in every), *run_names(lesson.cells)]))
            raise NotFound(f"The lesson {lesson.slug} records nothing called {name!r}.", f"There are: {known}.")
    return [job for job in every if job.name in names or job.cell.id in names]


def make(lesson: Lesson, job: Job, tell: Tell) -> None:
    """Make one result and write it into the lesson's folder.

    Raises:
        DeltalabError: the run failed, or cannot be measured; nothing is written.
    """
    if job.cell.kind == "probe":
        _measure(lesson, job, tell)
    else:
        config = configured.runs(lesson)[job.name]
        command = shlex.join(["deltalab", "lessons", "record", lesson.slug, job.name])
        _train(lesson, job.name, config, job.path, command, tell)


def _kept(lesson: Lesson, run: str) -> Path:
    return data_home() / "recordings" / lesson.slug / run.replace("/", "--")


def _train(lesson: Lesson, name: str, config: RunConfig, path: Path, command: str, tell: Tell) -> None:
    """Record a run into `path`, and keep its folder for measurements."""
    folder = _kept(lesson, name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def heard(event: Any) -> None:
        if event.kind == "step" and event.step % 10 == 0:
            tell(f"{name}: step {event.step}, loss {event.loss:.3f}")

    made = record(config, path, command=command, on_event=heard, folder=folder)
    _stamp(folder, made.provenance["date"])
    end = made.lines[-1]
    tell(f"{name}: {len(made.lines)} events in {end.get('seconds', 0):.1f} s, {path.stat().st_size} bytes")


def _stamp(folder: Path, date: str) -> None:
    (folder / "recorded.txt").write_text(date, encoding="utf-8")


def _source(lesson: Lesson, run: str, tell: Tell) -> dict[str, Any]:
    """A recorded run as a measurement reads it; trained once more where its adapter is not here."""
    path = recorded_path(lesson.folder, run)
    if not path.is_file():
        raise BadInput(f"The run {run} is not recorded yet.", f"deltalab lessons record {lesson.slug} {run}")
    recording = read(path)
    folder = _kept(lesson, run)
    stamp = folder / "recorded.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recording.provenance["date"]:
        tell(f"{run}: its adapter is not here; it is trained once more")
        with tempfile.TemporaryDirectory() as elsewhere:
            _train(lesson, run, configured.runs(lesson)[run], Path(elsewhere) / path.name, "", tell)
            again = read(Path(elsewhere) / path.name)
        if _losses(again.lines) != _losses(recording.lines):
            stamp.unlink()
            raise BadInput(
                f"The run {run} does not come out here as it was recorded.",
                f"Record it anew first: deltalab lessons record {lesson.slug} {run}",
            )
        _stamp(folder, recording.provenance["date"])
    started = next(line for line in recording.lines if line["kind"] == "started")
    return {
        "id": run, "title": _title(lesson, run), "config": resolved(configured.runs(lesson)[run]).to_dict(),
        "adapter": str(folder / "adapter"), "dtype": started["dtype"],
    }  # fmt: skip


def _title(lesson: Lesson, run: str) -> str:
    cell_id, _, name = run.partition("/")
    cell = lesson.cell(cell_id)
    if not name:
        return str(cell.body["title"])
    return str(next(r["label"] for r in cell.body["runs"] if r["name"] == name))


def _losses(lines: Sequence[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if line["kind"] == "step"]


def _measure(lesson: Lesson, job: Job, tell: Tell) -> None:
    from core.hardware import attached, versions

    of = list(job.cell.body["of"])
    sources = [_source(lesson, run, tell) for run in of]
    settings = configured.measurement(job.cell)
    request = {"probe": job.cell.body["probe"], "runs": sources, "settings": settings}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = prober.measure(request, Path(folder), lambda share, text: tell(f"{job.name}: {text}"))
    seconds = time.monotonic() - began
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = {
        "provenance": {
            "device": attached().chip(), "date": now, **commit_facts(), "versions": versions(),
            "command": shlex.join(["deltalab", "lessons", "record", lesson.slug, job.name]),
        },
        "probe": job.cell.body["probe"],
        "of": of,
        "runs": {run: read(recorded_path(lesson.folder, run)).provenance["date"] for run in of},
        "settings": settings,
        "seconds": round(seconds, 2),
        "result": rounded(result),
    }  # fmt: skip
    path = probed_path(lesson.folder, job.cell.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
    tell(f"{job.name}: measured in {seconds:.1f} s, {path.stat().st_size} bytes")
