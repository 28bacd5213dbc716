"""A learner's progress as a file: out (CSV for a table, JSON to bring back), in again, and away. Pure.

Clearing a browser's cookies loses the name under which progress is kept, so it can be taken along. A file that comes
back is somebody's text: only names of cells that exist and of the few things kept beside them are taken, only short
JSON, and nothing in it is run. A run that it names stays with the browser that made it.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app import clock, review
from app.index import Lesson
from app.progress import cell_done
from core.errors import BadInput

FORMAT = "deltalab-progress"
VERSION = 1
LONGEST = 8_192  # characters of one value; answers are far shorter, drafts of code may come near
MOST = 5_000  # names in a file
COLUMNS = ("lesson", "cell", "kind", "title", "done", "answer", "right", "tries", "predicted", "measured", "unit",
           "log_ratio", "updated")  # fmt: skip


def rows(lessons: Iterable[Lesson], progress: Mapping[str, Any], times: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row for each cell that something is kept of, with the columns of COLUMNS."""
    out = []
    for lesson in lessons:
        for cell in lesson.cells:
            name = lesson.state_name(cell.id)
            kept = progress.get(name)
            if not cell.id or not isinstance(kept, Mapping):
                continue
            when = times.get(name)
            out.append(
                {
                    "lesson": lesson.url_path, "cell": cell.id, "kind": cell.kind,
                    "title": str(cell.body.get("title", "")), "done": cell_done(cell, kept),
                    "answer": json.dumps(kept["answer"]) if "answer" in kept else "",
                    "right": kept.get("right", ""), "tries": kept.get("tries", ""),
                    "predicted": kept.get("value", "") if cell.kind == "predict" else "",
                    "measured": kept.get("measured", "") if cell.kind == "predict" else "",
                    "unit": cell.body.get("unit", "") if cell.kind == "predict" else "",
                    "log_ratio": kept.get("log_ratio", ""),
                    "updated": datetime.datetime.fromtimestamp(when, datetime.UTC).isoformat(timespec="seconds")
                    if when else "",
                }
            )  # fmt: skip
    return out


def as_csv(table: Iterable[Mapping[str, Any]], columns: Iterable[str] = COLUMNS) -> str:
    """Rows as CSV. A text that a spreadsheet would take for a formula is made plain by an apostrophe."""
    out = io.StringIO()
    names = list(columns)
    writer = csv.writer(out)
    writer.writerow(names)
    for row in table:
        writer.writerow([harmless(row.get(name, "")) for name in names])
    return out.getvalue()


def for_spreadsheets(text: str) -> bytes:
    """A CSV as a file that people open with a double click: by its first bytes a spreadsheet knows that it is UTF-8,
    and shows the names of learners as they wrote them."""
    return text.encode("utf-8-sig")


def harmless(value: Any) -> Any:
    """A value as it may stand in a CSV: a text that begins like a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def as_json(progress: Mapping[str, Any], lessons: Iterable[Lesson]) -> str:
    """Everything that can be brought back, as a file."""
    mine = names(lessons)
    kept = {name: value for name, value in progress.items() if name in mine}
    return json.dumps({"format": FORMAT, "version": VERSION, "progress": kept}, indent=1, sort_keys=True)


def names(lessons: Iterable[Lesson]) -> set[str]:
    """The names under which something of these lessons may be kept."""
    out = {clock.KEPT}
    for lesson in lessons:
        for cell in lesson.cells:
            if cell.id:
                out |= {lesson.state_name(cell.id), review.name_of(lesson, cell)}
    return out


def of_lesson(lesson: Lesson, progress: Mapping[str, Any]) -> list[str]:
    """The names of what is kept of one lesson, its place in the redo queue included."""
    begins = (f"{lesson.slug}/", f"{review.PREFIX}{lesson.slug}/")
    return [name for name in progress if name.startswith(begins)]


def without_time(spent: Any, lesson: Lesson) -> dict[str, Any] | None:
    """The time kept, without that of one lesson; None when there is none of it."""
    if not isinstance(spent, Mapping) or lesson.url_path not in spent.get("lessons", {}):
        return None
    rest = {page: seconds for page, seconds in spent["lessons"].items() if page != lesson.url_path}
    return {**spent, "lessons": rest}


@dataclass(frozen=True)
class Brought:
    """A file that can be taken. unknown: how many of its names this installation does not have."""

    progress: dict[str, Any]
    unknown: int


def read(text: str, lessons: Iterable[Lesson]) -> Brought:
    """A file that `as_json` has made.

    Raises:
        BadInput: it is no such file.
    """
    advice = "Choose a file that “Save my progress” has made."
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("This file is not JSON.", advice) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("progress"), dict):
        raise BadInput("This is no progress of Deltalab.", advice)
    if found.get("version") != VERSION:
        raise BadInput("This progress was saved by another version of Deltalab, which this one cannot read.", advice)
    if len(found["progress"]) > MOST:
        raise BadInput(f"The file has more than {MOST:,} entries.", advice)
    mine = names(lessons)
    taken: dict[str, Any] = {}
    unknown = 0
    for name, value in found["progress"].items():
        if name not in mine:
            unknown += 1
        elif not isinstance(value, dict) or len(json.dumps(value)) > LONGEST or not _sound(name, value):
            raise BadInput(f"The file's entry {name!r} is not what is kept there.", advice)
        else:
            taken[name] = value
    return Brought(taken, unknown)


def _sound(name: str, value: dict[str, Any]) -> bool:
    """Whether what is read later has the types that it is read as."""

    def number(field: str, *, needed: bool = False) -> bool:
        found = value.get(field)
        return (found is None and not needed) or (isinstance(found, (int, float)) and not isinstance(found, bool))

    if not all(number(f) for f in ("tries", "asked", "value", "measured", "log_ratio", "was")):
        return False
    if "points" in value and not isinstance(value["points"], list):
        return False
    if name == clock.KEPT:
        lessons = value.get("lessons")
        return isinstance(lessons, dict) and all(isinstance(s, (int, float)) for s in lessons.values())
    if name.startswith(review.PREFIX):
        try:
            datetime.date.fromisoformat(str(value.get("day")))
        except ValueError:
            return False
        return number("box", needed=True) and number("clock", needed=True)
    return True


def merged(here: Mapping[str, Any], brought: Mapping[str, Any], lessons: Iterable[Lesson]) -> dict[str, Any]:
    """What changes when a file is brought in: what is missing here, and what is done there and not here. Nothing that
    is done here is lost, and of the time spent the longer one counts."""
    cells = {lesson.state_name(c.id): c for lesson in lessons for c in lesson.cells if c.id}
    out: dict[str, Any] = {}
    for name, value in brought.items():
        if name == clock.KEPT:
            out[name] = clock.longer(here.get(name), value)
        elif name not in here or (
            name in cells and cell_done(cells[name], value) and not cell_done(cells[name], here[name])
        ):
            out[name] = value
    return {name: value for name, value in out.items() if here.get(name) != value}
