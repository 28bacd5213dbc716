"""The race page: the recorded race at first, one's own in its place, and nobody else's ever."""

from __future__ import annotations

import pytest

from app import charts_race
from app.views import runs
from core.config import RunConfig, TrainConfig
from core.literature import method_comparison
from core.race import MEASURES, Band, aggregate, cell_of, enter, measure, recorded
from core.runs.store import RACE
from tests.app.filling import Hand, events, fill
from tests.app.test_views import button, runs_page, words

STEPS = 60  # of races that are made up


def race_page():
    from app.views import race

    race.render()


def race_of(store, owner, methods=("lora", "bitfit", "full"), *, finished=True, key="made"):
    """A race whose runs were told by made-up events."""
    from core.race import Plan

    plan = Plan(methods=methods, train=TrainConfig(steps=STEPS))
    race = enter(store, owner, plan, key=key, title=lambda c: c.method)
    for run in store.runs(owner, cell=cell_of(race)) if finished else []:
        hand = Hand(store, run)
        hand.say(*events(RunConfig.from_dict(run.config), reach={"bitfit": 0.3}.get(run.config["method"], 0.9)))
        hand.leave()
    return race


def test_the_recorded_race_is_shown_at_once_and_says_so(visit):
    page = visit(race_page)
    text = words(page)
    assert "A race that was run before" in text
    assert "Recorded on" in text
    assert len(page.dataframe[0].value) == len({r.method for r in recorded()["rows"]})


def test_racing_queues_everybody_once(visit, store):
    page = visit(race_page, methods="lora,bitfit", seeds="2", task="persona")
    assert "4 runs of" in words(page)
    button(page, "start-race").click().run()
    assert not page.exception
    made = store.runs("alice")
    assert sorted((r.config["method"], r.config["seed"]) for r in made) == [
        ("bitfit", 0), ("bitfit", 1), ("lora", 0), ("lora", 1)
    ]  # fmt: skip
    assert {r.config["task"] for r in made} == {"persona"}
    (cell,) = {r.cell for r in made}
    assert page.query_params["race"] in (cell.removeprefix(RACE), [cell.removeprefix(RACE)])
    assert "0 of 4 done" in str(page.get("progress")[0].proto)
    button(page, "start-race").click().run()
    assert "race of yours is on already" in page.error[0].value
    button(page, "stop-race").click().run()
    assert not any(r.active for r in store.runs("alice"))


def test_a_rate_from_another_tasks_sweep_is_said_before_and_after(visit, store):
    from core.race import Plan

    note = "not on this task: "
    assert note not in words(visit(race_page, methods="lora,vera", task="json"))
    text = words(visit(race_page, methods="lora,vera", task="persona"))
    assert f"{note}VeRA" in text, text
    enter(store, "alice", Plan(methods=("lora", "vera"), task="jargon"), key="made")
    assert note in words(visit(race_page, methods="lora", task="json")), "said of the race that is shown"


def test_how_much_everybody_trains_is_said_and_may_be_more(visit, store):
    from core.race import Plan, steps_of, usual_steps

    plan = Plan(methods=("lora", "full"))
    page = visit(race_page, methods="lora,full")
    assert f"2 runs of {steps_of(plan)} steps, 32 examples in each; give them more" in words(page)
    swept = f"did best in runs of {usual_steps(plan)} steps. In "
    assert swept not in words(page), "its rates were swept in as many steps"
    assert f"{recorded()['steps']} steps of {recorded()['batch_size']} examples" in words(page)
    page.number_input(key="steps-json").set_value(steps_of(plan) + 1).run()
    assert f"{swept}{steps_of(plan) + 1} steps" in words(page)
    page.number_input(key="steps-json").set_value(usual_steps(plan)).run()
    text = words(page)
    assert f"2 runs of {usual_steps(plan)} steps" in text
    assert swept not in text
    assert f"--set steps={usual_steps(plan)}" in text
    button(page, "start-race").click().run()
    assert {r.config["train"]["steps"] for r in store.runs("alice")} == {usual_steps(plan)}


def test_ones_own_race_takes_the_place_of_the_recorded(visit, store):
    race_of(store, "bob", key="theirs")
    assert "A race that was run before" in words(visit(race_page))
    assert "A race that was run before" in words(visit(race_page, race="theirs")), "not mine, so not to be seen"
    race_of(store, "alice")
    page = visit(race_page)
    assert "Your race: JSON (structure)" in words(page)
    table = page.dataframe[0].value
    assert list(table["Method"]) == ["LoRA", "BitFit", "Full fine-tuning"]
    assert list(table["Task learnt"]) == ["90 %", "30 %", "90 %"]
    assert "A race that was run before" in words(visit(race_page, race="recorded"))


def test_the_axes_are_in_the_link(visit):
    page = visit(race_page, x="seconds", y="nonsense")
    assert page.selectbox(key="x").value == "seconds"
    assert page.selectbox(key="y").value == "exact_match"
    page.selectbox(key="y").set_value("loss").run()
    assert page.query_params["y"] in ("loss", ["loss"])


ROWS = b"".join(b'{"prompt": "Number %d?", "completion": "%d."}\n' % (i, i) for i in range(40))


def test_a_race_on_ones_own_file(visit, store):
    page = visit(race_page, methods="lora,bitfit", task="own")
    assert "The race waits for a base" in words(page)
    assert not any(b.key == "start-race" for b in page.button)
    page.file_uploader(key="upload").set_value(("mine.jsonl", ROWS, "x")).run()
    assert not page.exception, page.exception
    text = words(page)
    assert "Your data" in text
    assert "deltalab race --data mine.jsonl --seeds 1 --methods lora bitfit" in text, text
    assert "takes about" not in text, "how long is known of the recorded race's data alone"
    page.number_input(key="race-batch").set_value(4).run()
    page.number_input(key="steps-embedded-own").set_value(5).run()
    button(page, "start-race").click().run()
    assert not page.exception, page.exception
    made = store.runs("alice")
    assert sorted((r.config["method"], r.config["data"]) for r in made) == [
        ("bitfit", "data/mine.jsonl"),
        ("lora", "data/mine.jsonl"),
    ]
    assert {(r.config["train"]["steps"], r.config["train"]["batch_size"]) for r in made} == {(5, 4)}
    assert "Your race: your own data" in words(page)


def test_a_file_that_cannot_be_learnt_from_starts_no_race(visit, store):
    page = visit(race_page, task="own")
    page.file_uploader(key="upload").set_value(("mine.jsonl", b'{"prompt": "a"', "x")).run()
    assert not page.exception, page.exception
    assert "cannot be learnt from yet" in words(page) + page.warning[0].value
    assert not any(b.key == "start-race" for b in page.button)
    assert not store.runs("alice")


def test_another_base_is_looked_at_first(visit, tmp_path):
    from tests.checkpoints import write, write_encoder

    page = visit(race_page, base="folder", folder=str(tmp_path / "nothing"))
    assert "There is no folder" in page.error[0].value
    assert not any(b.key == "start-race" for b in page.button)
    folder = write("llama_biased", tmp_path / "mine")
    page = visit(race_page, base="folder", folder=str(folder), methods="lora,bitfit")
    text = words(page)
    assert f"deltalab race --base {folder} --task json --seeds 1 --methods lora bitfit" in text
    assert "published ones are used" in text
    encoder = write_encoder("bert", tmp_path / "encoder")
    page = visit(race_page, base="folder", folder=str(encoder), task="own")
    assert "prompt_tuning" not in page.multiselect(key="methods").options
    assert len(page.multiselect(key="methods").options) > 10


def test_two_measures_are_two(visit):
    page = visit(race_page, x="seconds", y="seconds")
    assert "Choose two different measures" in words(page)
    assert "Beaten by nobody" not in words(page)


def test_who_learnt_little_is_named_beside_the_figure(visit, store):
    race_of(store, "alice")
    text = words(visit(race_page, x="trainable", y="forgetting"))
    assert "Less than half of what the best method learnt: BitFit." in text, text


def test_no_method_no_race(visit):
    page = visit(race_page)
    page.multiselect(key="methods").set_value([]).run()
    assert "Choose at least one method" in words(page)
    assert not any(b.key == "start-race" for b in page.button)


def test_a_race_is_one_line_of_the_list(visit, store):
    race = race_of(store, "alice")
    fill(store, "alice", title="By itself")
    lines = runs.listed(store.runs("alice"))
    assert [len(line) for line in lines] == [1, 3]
    text = words(visit(runs_page))
    assert "Race of 3 methods · JSON (structure)" in text
    assert "3 runs" in text
    assert "By itself" in text
    assert race


def test_the_literature_stands_beside_it_with_its_caveats(visit):
    text = words(visit(race_page))
    assert "One seed, one task, one model" in text
    assert "What others measured" in text


def bands(**values):
    return {m: {"seconds": Band(a, a, a, 1), "loss": Band(b, b - 0.1, b + 0.1, 3)} for m, (a, b) in values.items()}


def test_the_figure_says_who_is_on_the_front():
    chart = charts_race.pareto(
        bands(lora=(10, 1.0), full=(20, 0.5), bitfit=(30, 2.0)), measure("seconds"), measure("loss")
    )
    assert chart.title == "Beaten by nobody on both: LoRA and Full fine-tuning"
    assert "BitFit: 30" in chart.alt
    assert list(chart.table["on_front"]) == [True, True, False]
    line = next(t for t in chart.figure.data if t.name == "Pareto front")
    assert list(zip(line.x, line.y, strict=True)) == [(10, 1.0), (20, 0.5)]
    point = next(t for t in chart.figure.data if t.name == "LoRA")
    assert point.error_y.visible
    assert not point.error_x.visible
    alone = charts_race.pareto(bands(lora=(1, 1), full=(2, 2)), measure("seconds"), measure("loss"))
    assert alone.title == "LoRA is best on both, held-out loss and training time"


@pytest.mark.parametrize("y", MEASURES, ids=lambda m: m.name)
@pytest.mark.parametrize("x", MEASURES, ids=lambda m: m.name)
def test_any_two_measures_make_a_figure(x, y):
    found = aggregate(recorded()["rows"])
    chart = charts_race.pareto(found, x, y)
    assert len(chart.table) == len(found)


def test_the_published_figure_marks_our_methods():
    chart = charts_race.published(method_comparison())
    assert chart.title.startswith("On the front: ")
    ours = next(t for t in chart.figure.data if t.name == "methods that are here too")
    assert "lora (rank32)" in ours.text
