"""A race: everybody gets the same, what came out is counted right, and the front is the front."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.batches import Plan as Order
from core.cli import main
from core.config import TrainConfig, default_row
from core.errors import BadInput, Refused
from core.memory import own
from core.methods import METHODS
from core.race import (
    MEASURES,
    MOST_RUNS,
    SHARE_OF_STEPS,
    Plan,
    Row,
    aggregate,
    borrowed,
    cell_of,
    enter,
    entries,
    expected_seconds,
    front,
    measure,
    rate_notes,
    recorded,
    row,
    steps_of,
    swept_steps,
    unlearnt,
    usual_steps,
)  # fmt: skip
from core.runs.store import Store
from core.runs.worker import execute
from core.sweep import SHORT_TABLE, base_hash, best, read_table
from core.world import TASKS, examples
from tests.core.runs_support import OWNER, quick_config, quick_train

SOME = ("lora", "full", "bitfit")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(home=tmp_path / "home")
    yield store
    store.close()


def test_everybody_gets_the_same_but_the_learning_rate() -> None:
    runs = entries(Plan(methods=tuple(METHODS), seeds=2))
    assert [(r.method, r.seed) for r in runs] == [(m, s) for s in (0, 1) for m in METHODS]
    loops = {dataclasses.replace(r.train, learning_rate=None) for r in runs}
    assert len(loops) == 1, "one loop for all"
    assert {(r.base, r.task, r.data) for r in runs} == {("embedded", "json", None)}
    for run in runs:
        assert run.train.learning_rate == default_row(run)["rates"][str(run.train.steps)], run.method
    assert len({r.train.learning_rate for r in runs}) > 3
    usual = default_row(runs[0])["steps"]
    for run in entries(Plan(methods=tuple(METHODS), train=TrainConfig(steps=usual))):
        assert run.train.learning_rate == default_row(run)["learning_rate"], run.method


def test_the_best_rate_of_as_many_steps_is_raced() -> None:
    """As the sweep's table of short runs has it."""
    mine = base_hash()
    for run in entries(Plan(methods=tuple(METHODS))):
        here = [r for r in read_table(SHORT_TABLE) if (r["base"], r["method"], r["task"]) == (mine, run.method, "json")]
        assert {int(r["steps"]) for r in here} == {run.train.steps}
        assert len(here) >= 2, "a rate is best of several"
        assert run.train.learning_rate == float(best(here)["learning_rate"])


def test_a_rate_that_was_swept_on_another_task_is_said_to_be() -> None:
    """As the table of the sweep has it, which is where core/defaults.toml comes from."""
    mine = base_hash()
    swept = {(r["method"], r["task"]) for r in read_table() if r["base"] == mine}
    for task in TASKS:
        plan = Plan(methods=tuple(METHODS), task=task)
        elsewhere = {m for methods in borrowed(plan).values() for m in methods}
        assert elsewhere == {m for m in METHODS if (m, task) not in swept}, task
        for tasks, methods in borrowed(plan).items():
            for method in methods:
                assert set(tasks) == {t for m, t in swept if m == method}
    usual = default_row(entries(Plan(methods=("lora",)))[0])["steps"]
    as_swept = TrainConfig(steps=usual)
    assert rate_notes(Plan(methods=("lora", "full"), train=as_swept)) == []
    note, steps = rate_notes(Plan(methods=("lora", "vera"), task="persona"))
    assert "everybody has" in steps
    assert TASKS["json"].title in note
    assert TASKS["persona"].title in note
    assert METHODS["vera"].TITLE in note
    assert METHODS["lora"].TITLE not in note
    assert "published" in rate_notes(Plan(base="some/model", methods=("lora",)))[0]


def test_the_same_seed_is_the_same_data_in_the_same_order() -> None:
    """What a run trains on depends on the task, the seed and the loop, none of which a method may change."""
    first, second, other = (entries(Plan(methods=("lora", "full"), seeds=2))[i] for i in (0, 1, 2))
    assert first.method != second.method

    def order(run):
        made = examples(run.task, "train", run.train.train_examples, run.seed)
        plan = Order([len(e.prompt) for e in made], run.train.batch_size, run.seed, buckets=run.train.length_buckets)
        return [[made[i].prompt for i in plan.rows(n)] for n in range(5)]

    assert order(first) == order(second)
    assert order(first) != order(other)


def test_rates_from_runs_of_other_lengths_are_said_to_be() -> None:
    """On json they were swept in a race's steps too, elsewhere in a run's alone."""
    for method in METHODS:
        plan = Plan(methods=(method,), task="facts", train=TrainConfig(steps=50))
        note = rate_notes(plan)[-1]
        usual = default_row(entries(plan)[0])["steps"]
        assert f"runs of {usual} steps" in note
        assert "everybody has 50" in note
        assert swept_steps(plan) == (usual, usual)
        assert swept_steps(dataclasses.replace(plan, train=TrainConfig(steps=usual))) is None
    everybody = Plan(methods=tuple(METHODS))
    assert swept_steps(everybody) is None
    assert rate_notes(everybody) == []
    mixed = Plan(methods=("lora", "bitfit"), train=TrainConfig(steps=40))
    least, most = swept_steps(mixed)
    assert least < most
    assert swept_steps(dataclasses.replace(mixed, train=TrainConfig(steps=least))) == (least, most), "not BitFit's"
    assert swept_steps(Plan(base="some/model", methods=("lora",))) is None


def test_a_race_on_the_embedded_base_is_half_as_long_as_a_run() -> None:
    for task in TASKS:
        plan = Plan(task=task, methods=("lora", "bitfit"))
        assert steps_of(plan) == usual_steps(plan) * SHARE_OF_STEPS
        assert usual_steps(plan) == default_row(entries(Plan(task=task, methods=("lora",)))[0])["steps"]
    elsewhere = Plan(base="some/model", methods=("lora",))
    assert steps_of(elsewhere) == usual_steps(elsewhere)


def test_how_long_a_race_takes_is_told_from_the_recorded_one() -> None:
    record = recorded()
    again = Plan(
        task=record["task"], methods=tuple(METHODS), seeds=record["seeds"], train=TrainConfig(steps=record["steps"])
    )
    assert expected_seconds(again) == pytest.approx(record["seconds"], rel=0.15)
    assert expected_seconds(dataclasses.replace(again, seeds=1)) == pytest.approx(
        expected_seconds(again) / record["seeds"]
    )
    longer = dataclasses.replace(again, train=TrainConfig(steps=2 * record["steps"]))
    assert expected_seconds(again) < expected_seconds(longer) < 2 * expected_seconds(again), "not all of it is steps"
    one, two = (expected_seconds(Plan(methods=methods)) for methods in (("dora",), ("last_k",)))
    assert one > two, "the methods' own pace"


def test_open_steps_are_those_of_the_quickest() -> None:
    assert steps_of(Plan(methods=("bitfit",))) > steps_of(Plan(methods=("bitfit", "lora")))
    assert {r.train.steps for r in entries(Plan(methods=("bitfit", "lora")))} == {steps_of(Plan(methods=("lora",)))}
    assert {r.train.steps for r in entries(Plan(methods=("bitfit",), train=TrainConfig(steps=7)))} == {7}


def test_a_race_scores_before_and_after_alone_unless_asked_otherwise() -> None:
    (run,) = entries(Plan(methods=("bitfit",), train=TrainConfig(steps=7)))
    assert run.train.eval_every == 7
    (run,) = entries(Plan(methods=("bitfit",), train=TrainConfig(steps=7, eval_every=2)))
    assert run.train.eval_every == 2


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(methods=()), "at least one method"),
        (Plan(methods=("lora", "lora")), "named twice"),
        (Plan(methods=("nonsense",)), "no method 'nonsense'"),
        (Plan(methods=SOME, seeds=0), "seeds must be from 1"),
        (Plan(methods=tuple(METHODS), seeds=5), f"{MOST_RUNS} is the limit"),
        (Plan(methods=SOME, train=TrainConfig(learning_rate=0.1)), "learning rate open"),
        (Plan(methods=SOME, task="cooking"), "no task 'cooking'"),
    ],
)
def test_what_cannot_be_raced_is_said(plan: Plan, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        entries(plan)


def test_a_race_is_entered_once_and_one_at_a_time(store: Store) -> None:
    plan = Plan(methods=tuple(METHODS))
    assert len(METHODS) > store.max_active, "else this test says nothing of the limit"
    for _ in range(2):
        race = enter(store, OWNER, plan, key="one", title=lambda c: c.method)
    runs = store.runs(OWNER, cell=cell_of(race))
    assert sorted(r.title or "" for r in runs) == sorted(METHODS)
    with pytest.raises(Refused, match="race of yours is on"):
        enter(store, OWNER, plan, key="another")
    enter(store, "somebody else", plan, key="one")
    store.create(OWNER, quick_config(), key="a run beside it")
    for run in store.runs(OWNER, cell=cell_of(race)):
        store.cancel(run.id, OWNER)
    enter(store, OWNER, plan, key="another")


def test_a_bad_plan_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(BadInput):
        enter(store, OWNER, Plan(methods=("lora", "nonsense")), key="bad")
    assert store.runs(OWNER) == []


def test_a_row_is_what_the_events_say() -> None:
    config = quick_config(steps=20).to_dict() | {"method": "lora"}
    events = [
        {"kind": "started", "trainable": 10, "total": 100},
        {"kind": "evaluated", "step": 0, "exact_match": 0.1, "loss": 3.0, "skills": {"a": 1.0, "b": 0.8}},
        {"kind": "evaluated", "step": 20, "exact_match": 0.9, "loss": 0.5, "skills": {"a": 0.7, "b": 0.7}},
    ]
    half = row(config, events, "running")
    assert (half.before, half.exact_match, half.trainable) == (0.1, None, 10)
    end = {"kind": "finished", "peak_bytes": 5, "seconds": 2.0, "tokens": 100, "adapter_bytes": 7}
    done = row(config, [*events, end], "finished")
    assert (done.exact_match, done.loss, done.peak_bytes, done.tokens_per_second) == (0.9, 0.5, 5, 50.0)
    assert done.forgetting == pytest.approx(20.0)


def test_bands_are_medians_and_ranges_of_what_finished() -> None:
    def one(method: str, seed: int, value: float, status: str = "finished") -> Row:
        return Row(method, seed, 0.1, 5, status, exact_match=value)

    rows = [
        one("lora", 0, 0.2),
        one("full", 0, 1.0),
        one("lora", 1, 0.8),
        one("lora", 2, 0.5),
        one("full", 1, 0, "failed"),
    ]
    bands = aggregate(rows)
    assert list(bands) == ["lora", "full"]
    band = bands["lora"]["exact_match"]
    assert (band.median, band.low, band.high, band.count) == (0.5, 0.2, 0.8, 3)
    assert bands["full"]["exact_match"].count == 1
    assert "loss" not in bands["lora"], "nobody measured it"


def test_who_learnt_less_than_half_of_the_best_is_named() -> None:
    def one(method: str, value: float | None) -> Row:
        return Row(method, 0, 0.1, 5, "finished", exact_match=value, loss=1.0)

    rows = [one("lora", 0.8), one("full", 0.4), one("bitfit", 0.39), one("ia3", 0.0), one("dora", None)]
    assert unlearnt(aggregate(rows)) == ["bitfit", "ia3"]
    assert unlearnt(aggregate([one("lora", 0.0), one("full", 0.0)])) == [], "nobody learnt anything"


def test_the_front_is_who_is_beaten_by_nobody() -> None:
    points = {"cheap": (1, 10), "good": (9, 90), "middle": (4, 60), "beaten": (5, 60), "worst": (9, 1), "twin": (4, 60)}
    assert front(points, "less", "more") == ["cheap", "middle", "twin", "good"]
    assert front(points, "more", "more") == ["good"]
    assert front({}, "less", "more") == []
    for x in ("less", "more"):
        for y in ("less", "more"):
            best = front(points, x, y)
            for name, (a, b) in points.items():
                beaten = any(
                    (c >= a if x == "more" else c <= a) and (d >= b if y == "more" else d <= b) and (c, d) != (a, b)
                    for c, d in points.values()
                )
                assert (name in best) is not beaten


def test_every_measure_is_a_field_of_a_row() -> None:
    names = {f.name for f in dataclasses.fields(Row)}
    for one in MEASURES:
        assert one.name in names
        assert measure(one.name) is one
        assert one.text(1.0)


def test_runs_of_a_race_are_counted_like_any(store: Store) -> None:
    race = enter(store, OWNER, Plan(methods=("lora", "full"), train=TrainConfig(steps=2)), key="quick")
    for run in store.runs(OWNER, cell=cell_of(race)):
        assert execute(store, run.id, train=quick_train) == "finished"
    rows = [
        row(r.config, [e for _, e in store.events(r.id, OWNER)], r.status)
        for r in store.runs(OWNER, cell=cell_of(race))[::-1]
    ]
    assert [r.method for r in rows] == ["lora", "full"]
    assert all(r.status == "finished" and r.seconds is not None for r in rows)


def test_the_command_races_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(own, "_shared", False)  # (and put back: this process carries out other tests)
    record = tmp_path / "race.json"
    given = ["race", "--methods", "bitfit", "ln_tuning", "--set", "steps=2", "eval_items=4", "skill_items=1",
             "batch_size=2", "train_examples=8", "--json", "--record", str(record)]  # fmt: skip
    assert main(given) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(r["method"], r["status"], r["steps"]) for r in said["rows"]] == [
        ("bitfit", "finished", 2), ("ln_tuning", "finished", 2)
    ]  # fmt: skip
    assert all(r["peak_bytes"] > 0 and r["trainable"] > 0 and 0 <= r["exact_match"] <= 1 for r in said["rows"])
    written = json.loads(record.read_text())
    assert written["rows"] == said["rows"]
    assert {"device", "date", "commit", "versions", "base"} <= set(written)
    (note,) = written["notes"]
    assert "120 steps; here everybody has 2" in note
    assert main(["race", "--methods", "nonsense"]) == 2
    assert "no method 'nonsense'" in capsys.readouterr().err
