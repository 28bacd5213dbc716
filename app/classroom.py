"""A class: who its teacher is, what a teacher's link settles, and how the class stands. Nothing is drawn here.

The operator of the server sets a teacher key: $DELTALAB_TEACHER_KEY, or a file named by $DELTALAB_TEACHER_KEY_FILE
(`deltalab serve --teacher-key-file FILE`). Without one there is no teacher, and nobody sees anybody else's progress.
Who types the key becomes a teacher in that browser: what is kept is not the key but a seal of the owner's name made
with it, so that a changed key ends it, and nobody can give the seal to another browser.

A teacher's link carries settings for one lesson, signed by this installation: which knobs of an experiment are locked
or left out, and what they start from. It is part of the address, so whoever opens the lesson without it has the usual
page: a link helps a class to do the same thing, and keeps nobody from trying something else.

Learners are shown by the name that they chose, else by four letters that say nothing about them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer

from app import clock, review
from app.index import Lesson
from app.progress import Guess, completion, guesses, next_lesson
from app.words import t
from core.errors import BadInput, DeltalabError

KEY, KEY_FILE = "DELTALAB_TEACHER_KEY", "DELTALAB_TEACHER_KEY_FILE"
SEAL = "settings/teacher"
NAME = "settings/name"
PARAMETER = "class"
SHORTEST_KEY = 8
LONGEST_NAME = 40
TRIES, TRIES_SECONDS = 5, 60.0


# --- the teacher ------------------------------------------------------------------------------------------------------


def key() -> str | None:
    """The teacher key that the operator has set; None when there is none.

    Raises:
        BadInput: it is too short to be one, or its file cannot be read.
    """
    given = os.environ.get(KEY)
    path = os.environ.get(KEY_FILE)
    if not given and path:
        try:
            given = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The teacher key's file {path} cannot be read: {error}.") from error
    given = (given or "").strip()
    if not given:
        return None
    if len(given) < SHORTEST_KEY:
        raise BadInput(f"A teacher key has at least {SHORTEST_KEY} characters.", "Choose a longer one.")
    return given


def seal(owner: str, teacher_key: str) -> str:
    """What a teacher's browser keeps: it fits this owner and this key only."""
    return hmac.new(teacher_key.encode(), f"deltalab-teacher:{owner}".encode(), hashlib.sha256).hexdigest()


def is_teacher(owner: str, progress: Mapping[str, Any]) -> bool:
    """Whether this owner has given the key that is set now."""
    kept = progress.get(SEAL)
    try:
        set_now = key()
    except DeltalabError:
        return False
    given = kept.get("seal") if isinstance(kept, Mapping) else None
    return set_now is not None and isinstance(given, str) and hmac.compare_digest(given, seal(owner, set_now))


_tried: list[float] = []


def matches(given: str) -> bool:
    """Whether this is the teacher key; after a few wrong ones nobody is heard for a while.

    Raises:
        BadInput: too many wrong keys were tried in the last minute.
    """
    now = time.monotonic()
    _tried[:] = [t for t in _tried if now - t < TRIES_SECONDS]
    if len(_tried) >= TRIES:
        raise BadInput("Too many wrong keys.", "Wait a minute and try again.")
    wanted = key()
    if wanted is not None and hmac.compare_digest(given.strip().encode(), wanted.encode()):
        return True
    _tried.append(now)
    return False


# --- a teacher's link -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What a link settles in one lesson.

    lesson: its address. preset: knob -> value, where its experiments begin. locked: knobs that cannot be moved.
    hidden: knobs that are not shown. folded: whether what is folded under "More settings" can be moved. note: a line
    from the teacher above the lesson.
    """

    lesson: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    locked: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    note: str = ""
    folded: bool = True


def _signer(secret: bytes) -> URLSafeSerializer:
    return URLSafeSerializer(secret, salt="deltalab-class")


def link(task: Task, secret: bytes) -> str:
    """The task as the text that stands in the address."""
    said = {
        "l": task.lesson, "p": dict(task.preset), "k": list(task.locked), "h": list(task.hidden), "n": task.note,
        "f": not task.folded,
    }  # fmt: skip
    return str(_signer(secret).dumps({name: value for name, value in said.items() if value}))


def task_of(text: str, secret: bytes) -> Task:
    """The task in an address.

    Raises:
        BadInput: it was altered, or made by another installation.
    """
    try:
        said = _signer(secret).loads(text)
    except BadSignature:
        raise BadInput(t("teacher.altered"), t("teacher.ask_again")) from None
    return Task(
        said["l"], said.get("p", {}), tuple(said.get("k", ())), tuple(said.get("h", ())), said.get("n", ""),
        not said.get("f"),
    )  # fmt: skip


# --- the class --------------------------------------------------------------------------------------------------------

Everybody = Mapping[str, Mapping[str, tuple[Any, float]]]
"""owner -> name -> (value, when): `Store.everybody()`."""


@dataclass(frozen=True)
class Learner:
    """How one of the class stands. done: lessons. at: the lesson where they go on. steps: done and all, in that lesson.
    factor: by which their predictions were off on average (None before the first). seen: the last sign, in seconds."""

    name: str
    done: int
    at: str
    steps: tuple[int, int]
    seconds: float
    factor: float | None
    guesses: int
    missed: int
    seen: float


def shown_name(owner: str, kept: Mapping[str, Any]) -> str:
    """The name that a learner chose, else four letters that say nothing about them."""
    chosen = kept.get(NAME)
    if isinstance(chosen, Mapping) and str(chosen.get("name", "")).strip():
        return str(chosen["name"]).strip()[:LONGEST_NAME]
    return t("teacher.nameless", letters=hashlib.sha256(f"deltalab-shown:{owner}".encode()).hexdigest()[:4])


def _split(kept: Mapping[str, tuple[Any, float]]) -> tuple[dict[str, Any], dict[str, float]]:
    return {n: v for n, (v, _) in kept.items()}, {n: when for n, (_, when) in kept.items()}


def learners(everybody: Everybody, lessons: Sequence[Lesson], teachers: Iterable[str] = ()) -> list[Learner]:
    """The class, who was seen last first. teachers: owners that are left out."""
    from statistics import fmean

    left_out = set(teachers)
    out = []
    for owner, rows in everybody.items():
        progress, times = _split(rows)
        if owner in left_out or not any("/" in name and not name.startswith("settings/") for name in progress):
            continue
        states = [(lesson, completion(lesson, progress)) for lesson in lessons]
        going = next_lesson(lessons, progress)
        here = next((state for lesson, state in states if lesson is going), None)
        made = guesses(progress, times)
        out.append(
            Learner(
                name=shown_name(owner, progress),
                done=sum(state.status == "done" for _, state in states),
                at=going.navigation if going else "",
                steps=(here.done, here.total) if here else (0, 0),
                seconds=clock.seconds(progress),
                factor=_factor(fmean(abs(g.ratio) for g in made)) if made else None,
                guesses=len(made),
                missed=sum(name.startswith(review.PREFIX) for name in progress),
                seen=max(times.values()),
            )
        )  # fmt: skip
    return sorted(out, key=lambda one: -one.seen)


def _factor(ratio: float) -> float:
    import math

    return math.exp(ratio)


@dataclass(frozen=True)
class Surprise:
    """A prediction of a lesson over the whole class. factor: by which it was off on average. high: how many said too
    much."""

    lesson: str
    title: str
    count: int
    factor: float
    high: int


def surprises(everybody: Everybody, lessons: Sequence[Lesson]) -> list[Surprise]:
    """The predictions of the class, those that were furthest off first."""
    from statistics import fmean

    made: dict[str, list[Guess]] = {}
    for rows in everybody.values():
        for guess in guesses(*_split(rows)):
            made.setdefault(guess.name, []).append(guess)
    out = [
        Surprise(
            lesson.navigation, str(cell.body["title"]), len(found), _factor(fmean(abs(g.ratio) for g in found)),
            sum(g.ratio > 0 for g in found),
        )
        for lesson in lessons
        for cell in lesson.cells
        if cell.kind == "predict" and (found := made.get(lesson.state_name(cell.id)))
    ]  # fmt: skip
    return sorted(out, key=lambda s: -s.factor)


def teachers(everybody: Everybody) -> list[str]:
    """The owners who have given the key."""
    return [owner for owner, rows in everybody.items() if is_teacher(owner, _split(rows)[0])]
