"""A long lesson in parts: what is there at once, what comes when it is asked for, and that nothing is lost by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import index
from app.cells import parts
from tests.app.conftest import near
from tests.app.test_cells import page
from tests.app.test_index import write

CHAPTERS, QUIZZES = 4, 2


def long(chapters: int = CHAPTERS) -> str:
    """Chapters of questions, each under a heading."""
    told = []
    for chapter in range(1, chapters + 1):
        told.append(f"## Chapter {chapter}\n")
        told += [
            f"```{{quiz}} q-{chapter}-{i}\ntitle: Question {chapter}.{i}\nquestion: Which?\n"
            "choices:\n  - {text: This, why: Not this.}\n  - {text: That, right: true, why: Yes.}\n```\n"
            for i in range(1, QUIZZES + 1)
        ]
    return "\n".join(told)


def titles(app: AppTest) -> list[str]:
    return [one.value for one in app.subheader if one.value.startswith("Question")]


@pytest.fixture
def lesson(tmp_path: Path, visit: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A lesson of four chapters that is longer than most; drawn once when it is called."""
    monkeypatch.setattr(parts, "MOST_CELLS", CHAPTERS * QUIZZES - 1)
    monkeypatch.setattr(parts, "FIRST_CELLS", 1)
    path = write(tmp_path, long())
    return lambda **query: visit(page, owner="the-learner", kwargs={"path": str(path)}, **query)


def test_every_cell_of_a_lesson_is_in_one_part_in_order() -> None:
    for one in index.lessons():
        found = [cell for part in parts.split(one.cells) for cell in (*part.lead, *part.later)]
        assert found == list(one.cells)


def test_long_lessons_are_in_parts_that_begin_soon_and_short_ones_are_whole() -> None:
    for one in index.lessons():
        first, *others = parts.split(one.cells)
        cells = sum(cell.number > 0 for cell in one.cells)
        assert bool(others) == (cells > parts.MOST_CELLS)
        begins = sum(cell.number > 0 for cell in first.lead)
        assert begins <= (parts.LONGEST if others else parts.MOST_CELLS), one.slug
        assert not others or begins >= parts.FIRST_CELLS, one.slug
        assert all(sum(cell.number > 0 for cell in part.later) <= parts.LONGEST for part in others), one.slug


def test_a_long_lesson_begins_with_its_first_part_and_all_headings(lesson: Any) -> None:
    app = lesson()
    assert titles(app) == [f"Question 1.{i}" for i in range(1, QUIZZES + 1)]
    said = "\n".join(one.value for one in app.markdown)
    assert all(f"## Chapter {n}" in said for n in range(1, CHAPTERS + 1))
    assert sum("drawn in a moment" in one.value for one in app.caption) == CHAPTERS - 1
    assert f"0 of {CHAPTERS * QUIZZES} steps done" in "\n".join(one.value for one in app.caption)


def test_a_part_that_was_asked_for_stays_and_all_can_be_there(lesson: Any) -> None:
    app = lesson()
    near(app, 2)
    assert [t for t in titles(app) if t.startswith("Question 3.")] == [f"Question 3.{i}" for i in range(1, QUIZZES + 1)]
    assert not any(t.startswith("Question 2.") for t in titles(app))
    near(app, 1, 3)
    assert len(titles(app)) == CHAPTERS * QUIZZES
    app.run()
    assert len(titles(app)) == CHAPTERS * QUIZZES


def test_a_link_to_a_cell_finds_its_part_drawn(lesson: Any) -> None:
    found = titles(lesson(at="q-4-2"))
    assert "Question 4.2" in found
    assert "Question 3.1" not in found
