"""Every exercise of every lesson: its check accepts the solution, and rejects the stub and each wrong answer with the
word that it must get."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app import index
from app.index import Cell, Lesson
from core import exercise

EXERCISES = [(lesson, cell) for lesson in index.lessons() for cell in lesson.cells if cell.kind == "exercise"]
each = pytest.mark.parametrize(
    ("lesson", "cell"), EXERCISES, ids=[f"{lesson.slug}/{cell.id}" for lesson, cell in EXERCISES]
)


def verdict(lesson: Lesson, cell: Cell, code: str) -> exercise.Verdict:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<cell>", "exec"), space)
    return exercise.run(lesson.folder / "checks.py", index.check_name(cell), space)


@each
def test_the_check_tells_right_from_wrong(lesson: Lesson, cell: Cell) -> None:
    solved = verdict(lesson, cell, cell.body["solution"])
    assert solved.right, solved.words
    assert len(solved.words) > len("Right.")
    assert not re.match("right|not yet", solved.words, re.I), "the page says that itself, before these words"
    assert not verdict(lesson, cell, cell.body["stub"]).right
    for wrong in cell.body["wrong"]:
        told = verdict(lesson, cell, wrong["code"])
        assert not told.right
        assert wrong["says"] in told.words, told.words
