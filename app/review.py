"""The redo queue: questions that were missed come back, until they have been answered rightly three times. Pure.

What is missed is in the progress that the quiz cells keep: `first_right` is False when the first answer was wrong. The
queue keeps an entry beside it, named `review/SLUG/CELL`:
{"box", "day", "clock", "asked"}: how often it has been right since, and when it was last missed or asked.

A missed question is due after `OTHERS` other answers or on the next day; answered rightly, it comes back a day later,
then three days later, and is then done. A wrong answer sends it back to the start. (Spacing helps memory more than
repeating at once: Cepeda et al. 2006, "Distributed practice in verbal recall tasks".)
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.index import Cell, Lesson

PREFIX = "review/"
OTHERS = 3
WAITS_DAYS = (1, 1, 3)
"""How long a question waits in each box; box 0 may come back sooner, after other questions."""
ASKED = ("quiz", "open")


@dataclass(frozen=True)
class Due:
    """A question in the queue. box: how often it was right since it was missed. ready: it may be asked now."""

    lesson: Lesson
    cell: Cell
    entry: Mapping[str, Any]
    ready: bool

    @property
    def box(self) -> int:
        """How often it was right since it was missed."""
        return int(self.entry["box"])


def name_of(lesson: Lesson, cell: Cell) -> str:
    """Under which the queue keeps a question."""
    return f"{PREFIX}{lesson.state_name(cell.id)}"


def clock(progress: Mapping[str, Any]) -> int:
    """How many answers have been given so far, to whatever question: what "after other questions" is counted by."""
    return sum(
        int(kept.get("tries", 0)) + int(kept.get("asked", 0)) for kept in progress.values() if isinstance(kept, Mapping)
    )


def missed(cell: Cell, kept: Any) -> bool:
    """Whether a question's first answer was wrong (of an open one: too few points)."""
    if not isinstance(kept, Mapping):
        return False
    if cell.kind == "open":
        from app.drill import enough

        return "points" in kept and not enough(cell, kept["points"])
    return kept.get("first_right") is False


def fresh(progress: Mapping[str, Any], lessons: Iterable[Lesson], today: datetime.date) -> dict[str, dict[str, Any]]:
    """Entries for questions that were missed and are not in the queue yet: to be kept by the caller."""
    now = clock(progress)
    return {
        name_of(lesson, cell): {"box": 0, "day": today.isoformat(), "clock": now, "asked": 0}
        for lesson in lessons
        for cell in lesson.cells
        if cell.kind in ASKED
        and missed(cell, progress.get(lesson.state_name(cell.id)))
        and name_of(lesson, cell) not in progress
    }


def ready(entry: Mapping[str, Any], now: int, today: datetime.date) -> bool:
    """Whether a question may be asked: enough others were answered since, or enough days have passed."""
    box = int(entry["box"])
    if box >= len(WAITS_DAYS):
        return False
    waited = (today - datetime.date.fromisoformat(entry["day"])).days
    return waited >= WAITS_DAYS[box] or (box == 0 and now - int(entry["clock"]) >= OTHERS)


def after(entry: Mapping[str, Any], right: bool, now: int, today: datetime.date) -> dict[str, Any]:
    """The entry once the question was asked again."""
    return {
        "box": int(entry["box"]) + 1 if right else 0,
        "day": today.isoformat(),
        "clock": now + 1,
        "asked": int(entry.get("asked", 0)) + 1,
    }


def queue(progress: Mapping[str, Any], lessons: Iterable[Lesson], today: datetime.date) -> list[Due]:
    """The questions that wait, those that may be asked first, the longest waiting before the others."""
    now = clock(progress)
    found = [
        Due(lesson, cell, entry, ready(entry, now, today))
        for lesson in lessons
        for cell in lesson.cells
        if cell.kind in ASKED
        and isinstance(entry := progress.get(name_of(lesson, cell)), Mapping)
        and int(entry["box"]) < len(WAITS_DAYS)
    ]
    return sorted(found, key=lambda d: (not d.ready, d.entry["day"], int(d.entry["clock"])))
