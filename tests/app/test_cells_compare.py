"""Comparisons, measurements, source and ordering, drawn by AppTest: what is recorded, one's own, predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import charts_lesson, configured, index
from app.charts_lesson import Compared
from core.config import RunConfig, resolved
from core.events import to_dict
from core.probes.example import recorded
from core.runs import prober
from core.runs.store import Store
from core.runs.together import cell_of
from tests.app import filling
from tests.app.test_cells import OWNER, Open, open_lesson, press
from tests.app.test_cells import texts as escaped
from tests.app.test_index import CODE, COMPARE, EXERCISE, ORDERING, PREDICT, PROBE, SOURCE, write

__all__ = ["open_lesson"]  # a fixture

RUNS = "compare/03_a_lesson/ranks"
GUESS = (
    PREDICT.replace("experiment: run\n", "experiment: ranks\nrun: r8\n")
    .replace("loss_after", "exact_match_after")
    .replace("high: 10", 'high: 100\nunit: "%"')
    .replace("tolerance: 1", "tolerance: 10")
)
FINDING = COMPARE.replace(
    "```\n", "finding: \"It reached {calc}`recorded(run='ranks/r8', what='exact_match_after')`.\"\n```\n"
)
FIRST = {"kind": "provenance", "device": "A test", "date": "2026-01-02T03:04:05+00:00", "commit": "abcdef0123"}
RUN, UNCOVER = "a-lesson-ranks-run", "a-lesson-ranks-show"


def record(path: Path) -> Path:
    """Write the recorded results of a lesson: runs that reached 50 and 90 %, and a real measurement."""
    lesson, mistakes = index.read(path, recorded=False)
    assert lesson is not None, mistakes
    for name, config in configured.runs(lesson).items():
        lines = [FIRST, *(to_dict(e) for e in filling.events(config, reach=0.5 if name.endswith("r1") else 0.9))]
        target = index.recorded_path(path.parent, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for cell in lesson.cells:
        if cell.kind == "probe":
            found = {
                "provenance": {k: v for k, v in FIRST.items() if k != "kind"}, "probe": cell.body["probe"],
                "of": cell.body["of"], "runs": {}, "settings": configured.measurement(cell), "seconds": 12.0,
                "result": recorded()["results"][cell.body["probe"]],
            }  # fmt: skip
            index.probed_path(path.parent, cell.id).write_text(json.dumps(found))
    return path


def finish(store: Store, name: str, *, status: str = "finished", reach: float = 0.7, **settings: Any) -> Any:
    """A run of the learner's of the comparison."""
    record = {"task": "json", "method": "lora", "settings": {"rank": int(name[1:])}, "train": {"steps": 20} | settings}
    return filling.fill(
        store, OWNER, RunConfig.from_dict(record), status=status, cell=f"{RUNS}/{name}", reach=reach
    )  # fmt: skip


def texts(app: AppTest) -> str:
    """All the text on the page, without Markdown's escapes."""
    return escaped(app).replace("\\", "")


def frames(app: AppTest) -> list[Any]:
    return [table.value for table in app.dataframe]


def compared(app: AppTest) -> dict[str, Any]:
    """The table of runs: label -> row."""
    *_, table = [f for f in frames(app) if "Run" in f.columns]  # below the figure, whose numbers have runs as well
    return {row["Run"]: row for row in table.to_dict("records")}


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_the_recorded_runs_stand_side_by_side_at_once(tmp_path: Path, open_lesson: Open) -> None:
    app = open_lesson(record(write(tmp_path, FINDING)))
    said = texts(app)
    assert "**Recorded**, not your runs · A test · 2026-01-02 · commit abcdef0" in said
    assert "Task after is highest with r = 8: 90 %" in said
    assert "It reached 90 %." in said
    assert "They took" in said
    rows = compared(app)
    assert {name: row["Task after"].replace("\u00a0", " ") for name, row in rows.items()} == {
        "r = 1": "50 %", "r = 8": "90 %",
    }  # fmt: skip
    assert rows["r = 1"]["Trained parameters"] == "61,440"
    assert app.button(RUN).label == "Run all 2"
    assert "0 of 1 steps done" in said


def test_what_predictions_are_about_is_covered(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(record(write(tmp_path, GUESS + FINDING)))
    said = texts(app)
    assert "is covered, because your predictions are about it" in said
    assert "90 %" not in said
    assert not app.get("plotly_chart")  # whose loss ends lowest tells as much as the table
    assert not [f for f in frames(app) if "Task after" in f.columns]
    press(app, "a-lesson-guess-commit")
    assert "Now [run the comparison](#ranks)" in texts(app)
    press(app, UNCOVER)
    assert "the recorded run measured **90 %**" in texts(app)
    assert app.get("plotly_chart")
    assert "Task after" in compared(app)["r = 8"]
    assert store.progress(OWNER)["03_a_lesson/guess"]["measured"] == 90.0


def test_a_comparison_may_wait_for_the_prediction_of_another(tmp_path: Path, open_lesson: Open) -> None:
    other = FINDING.replace("} ranks", "} others").replace("title:", "after: [guess]\ntitle:", 1)
    app = open_lesson(record(write(tmp_path, GUESS + FINDING + other)))
    assert not [f for f in frames(app) if "Task after" in f.columns]
    assert "90 %" not in texts(app)
    press(app, "a-lesson-guess-commit")
    press(app, UNCOVER)
    assert len([f for f in frames(app) if "Task after" in f.columns]) == 2


def test_run_queues_all_of_them_once(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    path = record(write(tmp_path, COMPARE))
    app = open_lesson(path)
    steps = next(w for w in app.number_input if w.key.endswith("-steps"))
    assert steps.value == 20
    steps.set_value(30).run()
    press(app, RUN)
    runs = store.runs(OWNER)
    assert sorted((r.cell, r.status, r.config["settings"]["rank"], r.config["train"]["steps"]) for r in runs) == [
        (f"{RUNS}/r1", "queued", 1, 30), (f"{RUNS}/r8", "queued", 8, 30),
    ]  # fmt: skip
    assert {r.title for r in runs} == {"A lesson: Ranks, r = 1", "A lesson: Ranks, r = 8"}
    assert app.button(RUN).disabled
    assert "**0 of 2 done.** Now: r = 1" in texts(app)
    again = open_lesson(path)
    assert again.button(RUN).disabled
    press(again, "a-lesson-ranks-stop")
    assert {r.status for r in store.runs(OWNER)} == {"cancelled"}
    assert not again.button(RUN).disabled
    press(again, RUN)
    assert len(store.runs(OWNER)) == 4


def test_runs_of_a_comparison_do_not_use_up_the_learners_places(
    tmp_path: Path, open_lesson: Open, store: Store
) -> None:
    many = "".join(
        f'  - {{name: r{n}, label: "r = {n}", method: lora, settings: {{rank: {n}}}}}\n' for n in (2, 3, 4, 5)
    )
    app = open_lesson(record(write(tmp_path, COMPARE.replace("knobs:", many + "knobs:"))))
    press(app, RUN)
    assert len(store.runs(OWNER, active=True)) == 6
    assert store.create(OWNER, RunConfig(), key="another").status == "queued"
    other = open_lesson(record(write(tmp_path / "b", COMPARE, folder="04_b")))
    press(other, "b-ranks-run")
    assert "A comparison of yours is on already." in other.error[0].value


def test_own_runs_take_the_recorded_ones_place_as_they_come_in(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    path = record(write(tmp_path, GUESS + FINDING))
    finish(store, "r1", reach=0.4)
    finish(store, "r8", status="running")
    said = texts(open_lesson(path))
    assert "**1 of 2 done.** Now: r = 8" in said
    assert "**Your runs** · 1 of 2" in said
    assert "**Recorded**" not in said
    assert "0 of 2 steps done" in said
    assert "does not count towards your calibration" in said  # the running one has shown scores already


def test_a_finished_comparison_is_done_and_settles_the_prediction(
    tmp_path: Path, open_lesson: Open, store: Store
) -> None:
    path = record(write(tmp_path, GUESS + FINDING))
    app = open_lesson(path)
    press(app, "a-lesson-guess-commit")
    finish(store, "r1", reach=0.4)
    finish(store, "r8", reach=0.6)
    finish(store, "r8", status="cancelled")  # a newer one that came to nothing
    finish(store, "r8", reach=0.8)
    filling.fill(store, "somebody-else", RunConfig(), cell=f"{RUNS}/r8")
    app = open_lesson(path)
    said = texts(app)
    assert "**Your runs** · 2 of 2" in said
    assert "your run measured **80 %**" in said
    assert "The lesson was written beside the recorded runs" in said
    assert {row["Task after"].replace("\u00a0", " ") for row in compared(app).values()} == {"40 %", "80 %"}
    assert "2 of 2 steps done" in said
    assert set(store.progress(OWNER)["03_a_lesson/ranks"]["runs"]) == {"r1", "r8"}
    assert "made with other settings" not in said
    next(w for w in app.number_input if w.key.endswith("-steps")).set_value(30).run()
    assert "made with other settings" in texts(app)


def test_a_run_that_failed_says_why_and_the_others_stand(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    finish(store, "r1")
    finish(store, "r8", status="failed")
    app = open_lesson(record(write(tmp_path, COMPARE)))
    assert "The loss stopped being a number" in app.warning[0].value
    assert list(compared(app)) == ["r = 1"]
    assert "0 of 1 steps done" in texts(app)


def test_without_a_figure_the_losses_are_drawn(tmp_path: Path, open_lesson: Open) -> None:
    body = COMPARE.replace("figure: {x: trainable, y: exact_match_after, scale: log}\n", "")
    assert "Lowest loss at the end" in texts(open_lesson(record(write(tmp_path, body))))


def test_a_setting_that_a_run_fixes_is_not_changed_by_the_common_knob(tmp_path: Path) -> None:
    body = COMPARE.replace("settings: {rank: 8}}", "seed: 3, settings: {rank: 8}}")
    lesson, _ = index.read(write(tmp_path, body), recorded=False)
    assert lesson is None  # seed is a knob, and one of the runs has its own
    lesson, _ = index.read(write(tmp_path / "x", body.replace("[steps, seed]", "[steps]")), recorded=False)
    assert lesson is not None
    made = configured.comparison(lesson.cell("ranks"), {"steps": 7})
    assert {name: (c.seed, resolved(c).train.steps) for name, c in made.items()} == {"r1": (0, 7), "r8": (3, 7)}


# --- figures ----------------------------------------------------------------------------------------------------------


def rows(*values: tuple[str, float, float], method: str = "lora") -> list[Compared]:
    return [
        Compared(label, method, {"trainable": a, "exact_match_after": b, "peak_bytes": b}) for label, a, b in values
    ]


def test_a_figure_says_who_is_best_and_leaves_out_who_is_not_in() -> None:
    runs = [*rows(("a", 100, 50), ("b", 1000, 90)), Compared("c", "lora", {"trainable": 5.0})]
    chart = charts_lesson.against(runs, "trainable", "exact_match_after", log=True)
    assert chart.title == "Task after is highest with b: 90 %"
    assert [t.name for t in chart.figure.data if t.mode != "lines"] == ["a", "b"]
    assert chart.figure.layout.xaxis.type == "log"
    assert list(chart.table["trainable"]) == [100, 1000]
    assert charts_lesson.against(runs, "trainable", "peak_bytes").title == "Peak memory is lowest with a: 50 B"
    fast = [Compared(str(n), "lora", {"batch_size": n, "examples_per_second": 2.0 * n}) for n in (1, 4)]
    assert charts_lesson.against(fast, "batch_size", "examples_per_second").title.endswith("highest with 4: 8")
    same = charts_lesson.against(rows(("a", 1, 90.1), ("b", 2, 90.2)), "trainable", "exact_match_after")
    assert same.title == "Task after: 90 %, whichever run"


def test_runs_of_one_method_are_joined_in_the_order_of_x_and_others_are_not() -> None:
    runs = rows(("b", 1000, 90), ("a", 100, 50))
    (line,) = [
        t for t in charts_lesson.against(runs, "trainable", "exact_match_after").figure.data if t.mode == "lines"
    ]
    assert list(line.x) == [100, 1000]
    mixed = [*runs, Compared("c", "full", {"trainable": 1.0, "exact_match_after": 2.0})]
    drawn = charts_lesson.against(mixed, "trainable", "exact_match_after").figure.data
    (line,) = [t for t in drawn if t.mode == "lines"]
    assert list(line.x) == [100, 1000]  # the one of the other method stands by itself
    apart = charts_lesson.against(runs, "trainable", "exact_match_after", joined=False).figure.data
    assert not [t for t in apart if t.mode == "lines"]


def test_names_that_would_overlap_have_room() -> None:
    """Numbers under a logarithmic axis that are close together, and names of points that lie beside each other."""
    runs = rows(("a", 100, 90), ("b", 110, 91), ("c", 1000, 20), ("d", 10000, 90))
    chart = charts_lesson.against(runs, "trainable", "exact_match_after", log=True)
    assert list(chart.figure.layout.xaxis.tickvals) == [100, 1000, 10000]
    places = {t.name: t.textposition for t in chart.figure.data if t.mode != "lines"}
    assert places == {"a": "top center", "b": "bottom center", "c": "top center", "d": "top center"}
    two = rows(("a", 1, 90), ("b", 2, 90), ("c", 3, 80))
    assert "with a and b:" in charts_lesson.against(two, "trainable", "exact_match_after").title
    long = rows(("a long name at the left", 1, 9), ("one in the middle", 5, 9), ("a long name at the right", 10, 9))
    drawn = charts_lesson.against(long, "trainable", "exact_match_after").figure.data
    assert [t.textposition for t in drawn if t.mode != "lines"] == ["top right", "top center", "top left"]
    three = rows(("a", 1, 90), ("b", 2, 90), ("c", 3, 90), ("d", 4, 80))
    assert "with a, b and c:" in charts_lesson.against(three, "trainable", "exact_match_after").title


# --- the measurement --------------------------------------------------------------------------------------------------


@pytest.fixture
def probing_lesson(tmp_path: Path) -> Path:
    return record(write(tmp_path, COMPARE + PROBE.replace("settings: {directions: 4}", "settings: {directions: 8}")))


def measure(store: Store, run: Any, mean: float | None = None, **settings: Any) -> None:
    """Leave a result where the page looks for it, as the measuring process does."""
    asked = {"directions": 8, **settings}
    request, folder = prober.asked(store, "spectrum", [run.id], asked, OWNER)
    prober.prepare(folder, request)
    found = dict(recorded()["results"]["spectrum"])
    prober.keep(folder, found if mean is None else {**found, "mean": mean}, 1.0)


def test_the_recorded_measurement_is_there_and_says_how_to_make_ones_own(
    probing_lesson: Path, open_lesson: Open
) -> None:
    app = open_lesson(probing_lesson)
    said = texts(app)
    assert "**Recorded**, not your measurement · A test · 2026-01-02" in said
    assert "To measure a run of your own, make it first: [Ranks](#ranks)" in said
    assert "The length of a matrix is its Frobenius norm" in said
    assert not [b for b in app.button if b.key.endswith("-spectrum-start")]


def test_a_finished_run_can_be_measured_and_the_result_is_kept(
    probing_lesson: Path, open_lesson: Open, store: Store
) -> None:
    run = finish(store, "r8")
    app = open_lesson(probing_lesson)
    assert app.button("a-lesson-directions-own-spectrum-start").label == "Measure your run"
    assert "**Recorded**, not your measurement" in texts(app)
    measure(store, run)
    app = open_lesson(probing_lesson)
    said = texts(app)
    assert "**Your measurement**" in said
    assert "**Recorded**, not your measurement" not in said
    assert store.progress(OWNER)["03_a_lesson/directions"]["measured"]["runs"] == [run.id]
    assert "1 of 2 steps done" in said
    # Other settings: the earlier result stays, marked as such, and the button is back.
    app.number_input("a-lesson-directions-directions").set_value(2).run()
    assert not app.exception
    assert "with other settings or on an earlier run" in texts(app)
    assert app.button("a-lesson-directions-own-spectrum-start")
    # A run that is gone takes its measurement along; the recorded one is shown again.
    store.delete(run.id, OWNER)
    assert "**Recorded**, not your measurement" in texts(open_lesson(probing_lesson))


def test_a_prediction_about_a_measurement(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    what = "modules.0.effective_rank"
    guess = PREDICT.replace("experiment: run\n", "experiment: directions\n").replace("loss_after", what)
    path = record(write(tmp_path, COMPARE + guess + PROBE.replace("directions: 4", "directions: 8")))
    app = open_lesson(path)
    assert "What was measured is covered" in texts(app)
    assert "Frobenius" not in texts(app)
    press(app, "a-lesson-guess-commit")
    assert "Now [make the measurement](#directions)" in texts(app)
    run = finish(store, "r8")
    measure(store, run)
    open_lesson(path)
    said = texts(open_lesson(path))
    wanted = recorded()["results"]["spectrum"]["modules"][0]["effective_rank"]
    assert store.progress(OWNER)["03_a_lesson/guess"]["measured"] == pytest.approx(wanted)
    assert "your own measurement gave" in said


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_source_shows_the_function_that_runs(tmp_path: Path, open_lesson: Open) -> None:
    import inspect

    from core.methods.lora import pair_parameters

    app = open_lesson(write(tmp_path, SOURCE))
    assert app.code[0].value.strip() == inspect.getsource(pair_parameters).strip()
    assert app.latex[0].value.strip().strip("$").strip() == "r (d + k)"
    line = inspect.getsourcelines(pair_parameters)[1]
    assert f"`core/methods/lora.py`, line {line}" in texts(app)
    assert "[LoRA](https://arxiv.org/abs/2106.09685), section 4" in texts(app)


def test_ordering_is_answered_by_moving(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(write(tmp_path, ORDERING))

    def order() -> list[str]:
        rows = [m.value.partition("** ") for m in app.markdown if m.value.startswith("**") and ".** " in m.value]
        return [row[2] for row in rows if row[2] in ("One", "Two", "Three")]

    def arrange(*wanted: str) -> str:
        for place, text in enumerate(wanted):
            for at in range(order().index(text), place, -1):
                press(app, f"a-lesson-order-order-up-{at}")
        assert order() == list(wanted)
        press(app, "a-lesson-order-check")
        return texts(app)

    first = order()
    assert sorted(first) == ["One", "Three", "Two"]
    assert first != ["One", "Two", "Three"]
    assert app.button("a-lesson-order-order-up-0").disabled
    assert app.button("a-lesson-order-order-down-2").disabled
    assert "03_a_lesson/order" not in store.progress(OWNER)
    assert "That is backwards." in arrange("Three", "Two", "One")
    assert "It is right up to place 1." in arrange("One", "Three", "Two")
    press(app, "a-lesson-order-order-down-0")
    assert "It is right up to" not in texts(app)  # moved since: not an answer yet
    assert "It counts." in arrange("One", "Two", "Three")
    assert store.progress(OWNER)["03_a_lesson/order"] == {
        "answer": [0, 1, 2], "right": True, "first_right": False, "tries": 3,
    }  # fmt: skip
    app = open_lesson(tmp_path / "03_a_lesson" / "lesson.md")
    assert order() == ["One", "Two", "Three"]
    assert "1 of 1 steps done" in texts(app)


def test_every_kind_is_drawn(tmp_path: Path, open_lesson: Open) -> None:
    path = write(tmp_path, COMPARE + PROBE.replace("directions: 4", "directions: 8") + SOURCE + CODE + EXERCISE)
    (path.parent / "checks.py").write_text("def count_them(space):\n    return 'Right.'\n")
    said = texts(open_lesson(record(path)))
    for name in ("1 · Comparison", "2 · Measurement", "3 · Source", "4 · Code", "5 · Exercise"):
        assert name in said
    assert cell_of("03_a_lesson/ranks", "r1") == f"{RUNS}/r1"
