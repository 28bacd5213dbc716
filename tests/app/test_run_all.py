"""Run all, and folding: what is begun, in which order, what ends it, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import index
from app.cells import run_all
from core.config import RunConfig
from core.events import Failed
from core.runs import prober
from core.runs.store import Run, Store
from tests.app import filling
from tests.app.filling import Hand
from tests.app.test_cells import OWNER, Open, open_lesson, press
from tests.app.test_cells_compare import measure, record, texts
from tests.app.test_index import COMPARE, EXPERIMENT, PREDICT, PROBE, QUIZ, write

__all__ = ["open_lesson"]  # a fixture

START, STOP = "a-lesson-all-start", "a-lesson-all-stop"


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    return record(
        write(tmp_path, PREDICT + EXPERIMENT + QUIZ + COMPARE + PROBE.replace("directions: 4", "directions: 8"))
    )  # fmt: skip


def carry_out(store: Store, run: Run, *, failed: bool = False) -> None:
    """Do what a worker does with a queued run."""
    hand = Hand(store, run)
    config = RunConfig.from_dict(run.config)
    if failed:
        hand.say(*filling.events(config, until=3), Failed(3, "diverged", "The loss stopped being a number.", "Slower."))
    else:
        (run.folder / "adapter").mkdir()
        (run.folder / "adapter" / "adapter_config.json").write_text("{}")
        hand.say(*filling.events(config))
    hand.leave()


def queued(store: Store) -> list[Run]:
    return sorted(store.runs(OWNER, active=True), key=lambda r: (r.created, r.cell or ""))


def look(app: AppTest) -> None:
    """What the fragment does when it looks again."""
    app.run()
    assert not app.exception, app.exception


def test_what_it_will_run_is_said_and_that_predictions_are_open(lesson: Path, open_lesson: Open) -> None:
    said = texts(open_lesson(lesson))
    assert "1 experiment, 1 comparison and 1 measurement, from top to bottom;" in said
    assert "One prediction is still open." in said


def test_one_after_the_other_to_the_end(
    lesson: Path, open_lesson: Open, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def start(self: Any, name: str, ids: list[str], settings: dict[str, Any], owner: str) -> None:
        asked.append((name, ids))
        measure(store, store.get(ids[0], owner))

    monkeypatch.setattr(prober.Prober, "start", start)
    app = open_lesson(lesson)
    press(app, START)
    (run,) = queued(store)
    assert run.cell == "03_a_lesson/run"
    assert "Now: [2 · A run](#run)" in app.get("progress")[0].proto.text.replace("\\", "")
    look(app)
    assert queued(store) == [run]  # nothing else begins while it is on
    carry_out(store, run)
    look(app)
    first, second = queued(store)
    assert (first.cell, second.cell) == ("compare/03_a_lesson/ranks/r1", "compare/03_a_lesson/ranks/r8")
    carry_out(store, first)
    carry_out(store, second)
    look(app)
    assert asked == [("spectrum", [second.id])]
    assert not app.get("progress")
    assert "All of it is there." in texts(app)
    assert app.button(START)
    # Once more: everything is there already, and nothing is made again.
    press(app, START)
    assert queued(store) == []
    assert len(asked) == 1
    assert "All of it is there." in texts(app)


def test_stop_stops_what_is_on_and_what_would_come(lesson: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(lesson)
    press(app, START)
    press(app, STOP)
    assert [r.status for r in store.runs(OWNER)] == ["cancelled"]
    assert "Stopped at 2 · A run." in texts(app)
    look(app)
    assert queued(store) == []


def test_a_failure_ends_it(lesson: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(lesson)
    press(app, START)
    carry_out(store, queued(store)[0], failed=True)
    look(app)
    assert "2 · A run came to no result" in texts(app)
    assert queued(store) == []
    press(app, START)  # again: the failed one is tried anew
    assert [r.cell for r in queued(store)] == ["03_a_lesson/run"]


def test_a_result_of_other_settings_is_made_again(lesson: Path, open_lesson: Open, store: Store) -> None:
    filling.fill(store, OWNER, RunConfig.from_dict({"task": "json", "method": "lora"}), cell="03_a_lesson/run")
    app = open_lesson(lesson)
    next(w for w in app.number_input if w.key.startswith("a-lesson-run") and w.key.endswith("-rank")).set_value(4).run()
    press(app, START)
    (run,) = queued(store)
    assert run.config["settings"]["rank"] == 4


def test_the_settings_of_a_comparison_are_those_of_its_knobs(lesson: Path, open_lesson: Open, store: Store) -> None:
    filling.fill(store, OWNER, RunConfig.from_dict({"task": "json", "method": "lora"}), cell="03_a_lesson/run")
    app = open_lesson(lesson)
    next(
        w for w in app.number_input if w.key.startswith("a-lesson-ranks") and w.key.endswith("-steps")
    ).set_value(30).run()  # fmt: skip
    press(app, START)
    assert {r.config["train"]["steps"] for r in queued(store)} == {30}


def test_every_kind_that_runs_offers_what_run_all_needs(lesson: Path) -> None:
    for module in run_all.RUNNERS.values():
        assert all(callable(getattr(module, name)) for name in ("begin", "standing", "halt"))
    read, _ = index.read(lesson)
    assert read is not None
    assert [c.id for c in run_all.runnable(read)] == ["run", "ranks", "directions"]


def test_a_folded_cell_keeps_what_is_in_it(lesson: Path, open_lesson: Open) -> None:
    app = open_lesson(lesson)
    rank = next(w for w in app.number_input if w.key.startswith("a-lesson-run") and w.key.endswith("-rank"))
    rank.set_value(4).run()
    assert app.button("a-lesson-run-fold").label == "Fold 2"
    press(app, "a-lesson-run-fold")
    assert app.button("a-lesson-run-fold").label == "Unfold 2"
    assert app.button("a-lesson-one-fold").label == "Fold 3"
    hidden = [c.value for c in app.caption if "display: none" in c.value]
    assert len(hidden) == 1
    assert ".st-key-a-lesson-run-body" in hidden[0]
    press(app, "a-lesson-run-fold")
    assert not any("display: none" in c.value for c in app.caption)
    assert app.number_input(rank.key).value == 4
    assert app.button("a-lesson-run-fold").label == "Fold 2"
