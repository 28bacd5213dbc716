"""Lessons 8 to 11: their checks judge rightly, their code runs, and what they say in words their records show."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from app import calc, index
from core import exercise

SLUGS = ("08_rag_or_fine_tuning", "09_plan_your_own", "10_under_the_hood", "11_museum_of_failures")
LESSONS = [lesson for lesson in index.lessons() if lesson.slug in SLUGS]
EXERCISES = [(lesson, cell) for lesson in LESSONS for cell in lesson.cells if cell.kind == "exercise"]
CODE = [(lesson, cell) for lesson in LESSONS for cell in lesson.cells if cell.kind == "code"]


def ran(code: str) -> tuple[dict[str, Any], str]:
    """The names that a piece of code leaves behind, and what it prints."""
    space: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "<cell>", "exec"), space)
    return space, out.getvalue()


def judged(lesson: index.Lesson, cell: index.Cell, code: str) -> exercise.Verdict:
    return exercise.run(lesson.folder / "checks.py", index.check_name(cell), ran(code)[0])


def test_all_four_are_there() -> None:
    assert [lesson.slug for lesson in LESSONS] == list(SLUGS)


@pytest.mark.parametrize(("lesson", "cell"), EXERCISES, ids=lambda x: getattr(x, "slug", None) or x.id)
def test_a_check_accepts_the_solution_and_nothing_else(lesson: index.Lesson, cell: index.Cell) -> None:
    right = judged(lesson, cell, cell.body["solution"])
    assert right.right, right.words
    assert not judged(lesson, cell, cell.body["stub"]).right
    for wrong in cell.body["wrong"]:
        found = judged(lesson, cell, wrong["code"])
        assert not found.right, wrong["code"]
        assert wrong["says"] in found.words
    assert not exercise.run(lesson.folder / "checks.py", index.check_name(cell), {}).right


@pytest.mark.parametrize(("lesson", "cell"), CODE, ids=lambda x: getattr(x, "slug", None) or x.id)
def test_code_prints_what_it_should(lesson: index.Lesson, cell: index.Cell) -> None:
    assert cell.body["expect"] in ran(cell.body["code"])[1]


def recorded(slug: str, run: str, what: str) -> float:
    return calc.recorded(index.ROOT / slug, run, what)


def test_the_lesson_on_retrieval_says_what_was_measured() -> None:
    assert recorded("08_rag_or_fine_tuning", "facts-in-weights", "exact_match_before") < 10
    assert recorded("08_rag_or_fine_tuning", "facts-in-weights", "exact_match_after") > 85
    rag = index.ROOT / "08_rag_or_fine_tuning"
    for place, low, high in (
        ("lora.changed.right", 0, 20), ("rag.changed.right", 85, 100), ("rag.json.right", 0, 20),
        ("lora.nowhere.invented", 80, 100),
    ):  # fmt: skip
        assert low <= calc.probed(rag, "rag-live", f"figures.{place}") <= high, place


def test_the_lesson_on_planning_says_what_was_measured() -> None:
    def of(what: str) -> list[float]:
        return [recorded("09_plan_your_own", f"rates/{name}", what) for name in ("low", "middle", "high")]

    low, middle, high = of("exact_match_after")
    assert low < 20 < middle <= high  # the highest rate learns the task, and tramples on the old skills
    assert of("skills_after")[2] < 60 < of("skills_after")[1]
    assert recorded("09_plan_your_own", "dry-run", "exact_match_after") > 80


def test_the_lesson_on_kernels_says_what_was_measured() -> None:
    small, large = (recorded("10_under_the_hood", f"batches/{n}", "step_seconds") for n in ("b4", "b64"))
    assert small < large < 16 * small


MUSEUM = "11_museum_of_failures"


def test_every_exhibit_is_broken_and_every_mend_mends() -> None:
    """A goal is missed by the run as the exhibit begins, and met by the mended one; each fault shows as it is told."""
    from app.cells.experiment import reached

    lesson = next(one for one in LESSONS if one.slug == MUSEUM)
    goals = {c.id: c.body["goal"] for c in lesson.cells if c.kind == "experiment" and "goal" in c.body}
    for name, goal in goals.items():
        figures = calc.quantities(calc.recorded_events(index.recorded_path(lesson.folder, name)))
        assert reached(goal, figures) is (name == "healthy"), name
    assert recorded(MUSEUM, "healthy", "exact_match_after") > 85
    for name in ("both-zero", "wrong-template", "no-end", "lr-times-100", "quiet-delta", "few-targets", "overfit"):
        assert recorded(MUSEUM, name, "exact_match_after") < 20, name
    assert recorded(MUSEUM, "lr-times-100", "skills_after") < 10
    assert recorded(MUSEUM, "wrong-template", "loss_after") > 10 * recorded(MUSEUM, "wrong-template", "last_loss")
    assert recorded(MUSEUM, "unmasked", "last_loss") > 10 * recorded(MUSEUM, "unmasked", "loss_after")
    assert recorded(MUSEUM, "overfit", "last_loss") < 0.01 < 0.5 < recorded(MUSEUM, "overfit", "loss_after")
    assert recorded(MUSEUM, "leaked", "exact_match_after") > 95
    assert calc.probed(lesson.folder, "shipped", "rows.4.same") < 0.95
    assert calc.value(calc.parse("leaked_fresh()"), lesson.folder) < 85
