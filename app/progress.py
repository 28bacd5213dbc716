"""What a learner has done in a lesson, from what is kept of them. Pure.

The store keeps one value per cell, named `slug/cell-id`:
quiz {"answer", "right", "tries", "first_right"}; predict {"value", "fair", "measured", "log_ratio", "source"};
experiment {"run"} once a run of the learner's own has finished, and {"shown"} once the recorded result was opened;
compare {"runs"} (name -> id) once all of them have finished, and {"shown"}; probe {"measured"} once the learner has
measured something of their own, and {"shown"}; exercise {"right"} once the check has accepted an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.index import Cell, Lesson

COUNTED = ("predict", "experiment", "quiz", "compare", "probe", "exercise")
DONE = {
    "quiz": "right", "predict": "value", "experiment": "run", "compare": "runs", "probe": "measured",
    "exercise": "right",
}  # fmt: skip
"""What of a cell's kept state says that it is done."""


def cell_done(cell: Cell, kept: Any) -> bool:
    """Whether a cell counts as done: a quiz or an exercise answered rightly, a prediction committed, an own run or
    measurement finished."""
    if not isinstance(kept, Mapping):
        return False
    value = kept.get(DONE.get(cell.kind, ""))
    return value is not None if cell.kind == "predict" else bool(value)


@dataclass(frozen=True)
class Completion:
    """How much of a lesson is done. `next` is the first cell that is not (None when all are)."""

    done: int
    total: int
    next: Cell | None
    begun: bool

    @property
    def status(self) -> str:
        """ "done", "in progress" or "not started"."""
        if self.total and self.done == self.total:
            return "done"
        return "in progress" if self.begun else "not started"


def completion(lesson: Lesson, progress: Mapping[str, Any]) -> Completion:
    """How much of `lesson` the learner with this `progress` (store.progress(owner)) has done."""
    counted = [c for c in lesson.cells if c.kind in COUNTED]
    open_cells = [c for c in counted if not cell_done(c, progress.get(lesson.state_name(c.id)))]
    return Completion(
        done=len(counted) - len(open_cells),
        total=len(counted),
        next=open_cells[0] if open_cells else None,
        begun=any(name.startswith(f"{lesson.slug}/") for name in progress),
    )


def next_lesson(lessons: Iterable[Lesson], progress: Mapping[str, Any]) -> Lesson | None:
    """Where the learner goes on: the first lesson in progress, else the first not started; None when all are done."""
    states = [(lesson, completion(lesson, progress).status) for lesson in lessons]
    for wanted in ("in progress", "not started"):
        for lesson, status in states:
            if status == wanted:
                return lesson
    return None


@dataclass(frozen=True)
class Calibration:
    """How good the predictions were so far. factor: the typical one by which they were off (1 is perfect)."""

    count: int
    factor: float


def calibration(progress: Mapping[str, Any]) -> Calibration | None:
    """Over all predictions made before their result was seen; None before the first."""
    ratios = [
        abs(kept["log_ratio"])
        for kept in progress.values()
        if isinstance(kept, Mapping) and kept.get("fair") and isinstance(kept.get("log_ratio"), (int, float))
    ]
    if not ratios:
        return None
    return Calibration(len(ratios), math.exp(sum(ratios) / len(ratios)))


@dataclass(frozen=True)
class Guess:
    """A fair prediction that was measured. ratio: natural logarithm of predicted over measured. when: of its reveal,
    seconds since the epoch (0 where it is not known)."""

    name: str
    said: float
    measured: float
    ratio: float
    when: float

    @property
    def factor(self) -> float:
        """By how much it was off: 1 is exact, 2 twice too much or half too little."""
        return math.exp(abs(self.ratio))


def guesses(progress: Mapping[str, Any], times: Mapping[str, float]) -> list[Guess]:
    """All fair predictions in the order in which they were revealed; `times`: store.progress_times(owner)."""
    found = [
        Guess(name, float(kept["value"]), float(kept["measured"]), float(kept["log_ratio"]), times.get(name, 0.0))
        for name, kept in progress.items()
        if isinstance(kept, Mapping)
        and kept.get("fair")
        and all(isinstance(kept.get(f), (int, float)) for f in ("value", "measured", "log_ratio"))
    ]
    return sorted(found, key=lambda g: g.when)
