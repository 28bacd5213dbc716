"""The lessons that come with Deltalab: complete, without mistakes, and with recorded runs that are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import calc, configured, index, lint
from app.index import Lesson
from core.base import describe_base
from core.config import EMBEDDED, RunConfig
from core.runs import recorded
from tests.app.conftest import whole

LESSONS, MISTAKES = index.lessons(), index.mistakes()
RUNS = [(lesson, name, config) for lesson in LESSONS for name, config in configured.runs(lesson).items()]
MEASURED = [(lesson, cell) for lesson in LESSONS for cell in lesson.cells if cell.kind == "probe"]
each_recording = pytest.mark.parametrize(
    ("lesson", "path"),
    [(lesson, path) for lesson in LESSONS for path in sorted((lesson.folder / "runs").rglob("*.jsonl"))],
    ids=lambda x: getattr(x, "slug", None) or x.stem,
)


def test_there_are_no_mistakes() -> None:
    assert [str(m) for m in MISTAKES] == []
    assert LESSONS[0].url_path == "start-here"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_every_number_can_be_computed(lesson: Lesson) -> None:
    assert [str(m) for m in index.check(lesson)] == []


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_the_linter_finds_nothing(lesson: Lesson) -> None:
    """No number typed in, no dead link, no acronym out of the blue, nothing missing, no recording of something else."""
    assert [str(m) for m in lint.lint(lesson)] == []


def test_the_right_choice_is_not_known_by_its_length() -> None:
    """Of a lesson's or the drill's single choices the longest is the right one about as often as any other."""
    from app.drill import questions

    for cells in ([c for lesson in LESSONS for c in lesson.cells], [q.cell for q in questions()]):
        asked = [c.body["choices"] for c in cells if c.kind == "quiz" and c.body.get("kind", "single") == "single"]
        longest = [max(choices, key=lambda c: len(c["text"])).get("right", False) for choices in asked]
        assert 0.1 <= sum(longest) / len(longest) <= 0.4


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_predictions_come_before_what_they_are_about(lesson: Lesson) -> None:
    places = {cell.id: i for i, cell in enumerate(lesson.cells)}
    for cell in lesson.cells:
        if cell.kind == "predict":
            assert places[cell.id] < places[cell.body["experiment"]], cell.id
    assert len(lesson.objectives) >= 2
    assert all(r["url"].startswith("https://") for r in lesson.references)


@pytest.mark.parametrize(("lesson", "name", "config"), RUNS, ids=lambda x: getattr(x, "slug", None) or str(x)[:40])
def test_a_recorded_run_is_the_experiment(lesson: Lesson, name: str, config: RunConfig) -> None:
    """It was made by the engine, to its end, with the very settings that Run uses today."""
    found = recorded.read(index.recorded_path(lesson.folder, name))
    assert found.run.status == "finished"
    assert {"device", "date", "commit", "versions", "command"} <= found.provenance.keys()
    # (A knob that came later had its default then.)
    assert configured.same(config, found.run.config)


@pytest.mark.parametrize(("lesson", "cell"), MEASURED, ids=lambda x: getattr(x, "slug", None) or x.id)
def test_a_recorded_measurement_says_where_it_was_made(lesson: Lesson, cell: index.Cell) -> None:
    found = calc.probed_result(index.probed_path(lesson.folder, cell.id))
    assert {"device", "date", "commit", "versions", "command"} <= found["provenance"].keys()
    assert found["provenance"]["changed"] is False


@each_recording
def test_a_recorded_run_was_made_by_the_commit_that_it_names(lesson: Lesson, path: Path) -> None:
    assert recorded.read(path).provenance["changed"] is False


@each_recording
def test_a_recorded_run_was_made_on_the_base_that_is_shipped(lesson: Lesson, path: Path) -> None:
    """A base that was trained anew makes every recording of the old one untrue."""
    made = recorded.read(path)
    if made.run.config["base"] == EMBEDDED:
        assert made.provenance["base"] == describe_base(EMBEDDED)["fingerprint"]


def lesson_page(slug: str) -> None:
    from app import index
    from app.cells import page

    page.render(next(lesson for lesson in index.lessons() if lesson.slug == slug))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_a_lesson_is_drawn_whole(lesson: Lesson, visit: Any) -> None:
    app = whole(visit(lesson_page, kwargs={"slug": lesson.slug}), lesson)
    shown = "\n".join(str(e.value) for kind in (app.title, app.subheader, app.markdown, app.caption) for e in kind)
    assert "{calc}" not in shown
    for cell in lesson.cells:
        if cell.number:
            assert cell.body["title"] in shown
    assert "Recorded" in shown
    assert "steps done" in shown


def test_the_first_lesson_teaches_something_true() -> None:
    """What its text says in words, its recorded runs must show in numbers."""

    def found(run: str, what: str) -> float:
        return calc.recorded(LESSONS[0].folder, run, what)

    # The task is learnt, and a gentle run spares the old skills.
    assert found("json-lora", "exact_match_before") <= 5
    assert found("json-lora", "exact_match_after") >= 90
    assert found("json-lora", "skills_after") >= found("json-lora", "skills_before") - 5
    # A rougher one learns it too, and costs old skills.
    assert found("json-lora-high-rate", "exact_match_after") >= 90
    assert found("json-lora-high-rate", "skills_after") <= found("json-lora-high-rate", "skills_before") - 5
