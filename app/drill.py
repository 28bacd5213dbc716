"""The interview drill: questions from lessons/drill/questions.yaml, read and checked. Pure: nothing drawn.

A question is the body of a {quiz} cell with an id and a topic, so that the cell of the lessons asks it and its checks
hold: a right answer, an explanation for every wrong one, numbers that the engine computes. An open question has no
choices but a rubric, which the reader marks; it counts as known from `KNOWN_SHARE` of the points on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from app import answers, index, schema
from app.index import Cell, Lesson, LessonMistakes, Mistake

FILE = (index.ROOT if (index.ROOT / "drill").is_dir() else index.OWN) / "drill" / "questions.yaml"
"""Who serves lessons of their own need not write a drill for them."""
SLUG = "drill"
TOPICS = ("memory", "lora", "qlora", "methods", "forgetting", "practice", "rag", "serving")
KNOWN_SHARE = 2 / 3
OPEN = "open"

_OPEN_FIELDS = {
    "title": schema.TEXT,
    "question": schema.TEXT,
    "kind": schema.Rule("word", required=True, choices=(OPEN,)),
    "rubric": schema.Rule("list", item=schema.Rule("text"), required=True, least=3),
    "model": schema.TEXT,
}
_OWN_FIELDS = {
    "id": schema.Rule("word", required=True),
    "topic": schema.Rule("word", required=True, choices=TOPICS),
}


@dataclass(frozen=True)
class Question:
    """A question of the drill. cell: as the quiz cell takes it; its kind is "quiz", or "open" for one with a rubric."""

    topic: str
    cell: Cell

    @property
    def id(self) -> str:
        """Its id, unique in the drill."""
        return self.cell.id

    @property
    def state_name(self) -> str:
        """The name under which the learner's answer is kept."""
        return f"{SLUG}/{self.cell.id}"


def read(path: Path) -> tuple[list[Question], list[Mistake]]:
    """All questions of a file, and everything that is wrong with it."""
    mistakes: list[Mistake] = []

    def report(line: int, sentence: str) -> None:
        mistakes.append(Mistake(path, line, sentence))

    found = schema.load_yaml(path.read_text(encoding="utf-8"), 1, report)
    rows = found.get("questions") if found is not None else None
    if not isinstance(rows, list):
        if found is not None:
            report(1, "The file has a list of `questions`.")
        return [], mistakes
    out: list[Question] = []
    seen: set[str] = set()
    for row in rows:
        if not isinstance(row, schema.Lined):
            report(1, "Every question is `name: value` lines.")
            continue
        line = row.lines[None]
        body = schema.Lined((k, v) for k, v in row.items() if k not in _OWN_FIELDS)
        body.lines = dict(row.lines)
        own = schema.Lined((k, v) for k, v in row.items() if k in _OWN_FIELDS)
        own.lines = dict(row.lines)
        name = f"The question {row.get('id', '')}".strip()
        schema.check(own, schema.Rule("map", fields=_OWN_FIELDS), name, line, report)
        is_open = row.get("kind") == OPEN
        fields = _OPEN_FIELDS if is_open else schema.CELLS["quiz"].fields
        schema.check(body, schema.Rule("map", fields=fields), name, line, report)
        index._check_texts(body, line, report)
        if not is_open:
            index._check_answers(body, line, report)
            schema.CELLS["quiz"].check(body, line, report)
        if row.get("id") in seen:
            report(line, f"The id {row['id']!r} is taken already.")
        seen.add(str(row.get("id")))
        if isinstance(body.get("choices"), list):
            # In the file the right choice stands first, where it is easily seen; here it stands anywhere.
            body["choices"] = [body["choices"][i] for i in answers.shuffled(len(body["choices"]), str(row.get("id")))]
        kind = OPEN if is_open else "quiz"
        out.append(Question(str(row.get("topic")), Cell(kind, str(row.get("id")), len(out) + 1, line, body)))
    return out, mistakes


@lru_cache(maxsize=1)
def questions() -> tuple[Question, ...]:
    """The questions that come with Deltalab, read once.

    Raises:
        LessonMistakes: the file has any.
    """
    found, mistakes = read(FILE)
    if mistakes:
        raise LessonMistakes(mistakes)
    return tuple(found)


@lru_cache(maxsize=1)
def as_lesson() -> Lesson:
    """The drill as if it were a lesson: what cells, search and the redo queue take."""
    return Lesson(
        slug=SLUG, folder=FILE.parent, order=0, url_path=SLUG, title="Interview drill", navigation="Drill",
        summary="Classic questions, with checked answers.", minutes=30, objectives=(), prerequisites=(), references=(),
        cells=tuple(q.cell for q in questions()),
    )  # fmt: skip


def enough(cell: Cell, points: Sequence[int]) -> bool:
    """Whether so many points of an open question's rubric count as knowing it."""
    return len(points) >= KNOWN_SHARE * len(cell.body["rubric"])


def known(question: Question, kept: Any) -> bool | None:
    """Whether the last answer was right (an open one: enough of its rubric); None before the first."""
    if not isinstance(kept, Mapping) or not ("right" in kept or "points" in kept):
        return None
    if question.cell.kind == OPEN:
        return enough(question.cell, kept["points"])
    return bool(kept.get("right"))


@dataclass(frozen=True)
class Score:
    """Of a choice of questions: how many there are, how many were answered, how many are known."""

    total: int
    answered: int
    known: int


def score(chosen: Sequence[Question], progress: Mapping[str, Any]) -> Score:
    """The learner's standing in the chosen questions."""
    told = [known(q, progress.get(q.state_name)) for q in chosen]
    return Score(len(told), sum(t is not None for t in told), sum(t is True for t in told))


def of_topic(topic: str | None) -> Iterable[Question]:
    """The questions of a topic; all for None."""
    return [q for q in questions() if topic in (None, q.topic)]
