"""The form: every knob has its widget, and what the widgets say is the config, and the other way round."""

import dataclasses

import pytest

from app import form
from core.config import RunConfig, TrainConfig, resolved, with_settings
from core.methods import METHODS

pytestmark = pytest.mark.usefixtures("store")


def page(method="lora", task="json", opened=True, **options):
    import streamlit as st

    from app import form
    from core.config import RunConfig

    if opened:
        st.session_state["f-more"] = True
    config = form.run_form(RunConfig(method=method, task=task), "f", **options)
    if config is not None:
        st.session_state["started"] = config.to_dict()
    st.session_state["now"] = form.config_of(RunConfig(method=method, task=task), "f").to_dict()


def widgets(test):
    kinds = ("number_input", "select_slider", "selectbox", "toggle", "text_input")
    return {w.key: w for kind in kinds for w in getattr(test, kind)}


def run_button(test):
    return next(b for b in test.button if b.key == "f-run")


@pytest.mark.parametrize("method", METHODS)
def test_the_untouched_form_is_the_default_run(visit, method):
    test = visit(page, kwargs={"method": method})
    run_button(test).click().run()
    assert test.session_state["started"] == resolved(RunConfig(method=method)).to_dict()


@pytest.mark.parametrize("method", METHODS)
def test_every_knob_has_a_widget_with_its_doc(visit, method):
    test = visit(page, kwargs={"method": method})
    drawn = widgets(test)
    for knob in form.knobs(RunConfig(method=method)):
        widget = drawn[form.widget_key("f", RunConfig(method=method), knob)]
        assert knob.meta["doc"] in widget.help
        assert widget.label == knob.label


@pytest.mark.parametrize("method", METHODS)
def test_at_most_four_knobs_are_in_sight(visit, method):
    test = visit(page, kwargs={"method": method})
    folded = {w.key for kind in ("number_input", "select_slider", "selectbox", "toggle", "text_input")
              for w in getattr(test.expander[0], kind)}  # fmt: skip
    in_sight = set(widgets(test)) - folded
    assert 1 <= len(in_sight) <= 4


def test_what_is_folded_is_drawn_when_it_is_opened_or_a_link_sets_it(visit):
    test = visit(page, kwargs={"opened": False})
    assert len(widgets(test)) <= 4
    run_button(test).click().run()
    assert test.session_state["started"] == resolved(RunConfig()).to_dict()
    linked = visit(page, kwargs={"opened": False}, **{"f-batch_size": "16"})
    assert widgets(linked)["f-batch_size"].value == 16
    run_button(linked).click().run()
    assert linked.session_state["started"]["train"]["batch_size"] == 16


def test_why_stands_beside_the_knobs_in_sight(visit):
    test = visit(page)
    captions = " ".join(c.value for c in test.caption)
    for knob in form.in_sight(form.knobs(RunConfig()), 4, None):
        assert knob.meta["why"] in captions


def test_the_printed_form_says_what_each_knob_stands_at(visit):
    test = visit(page)
    told = [line for one in test.markdown for line in one.value.splitlines()]
    assert any(line.startswith("- Rank: 8, the default. ") for line in told)
    widgets(test)["f-lora-rank"].set_value(4).run()
    told = [line for one in test.markdown for line in one.value.splitlines()]
    assert "- Rank: 4." in told
    assert not any("Weight decay" in line for line in told)  # folded, and at its default


def test_moving_knobs_starts_nothing_and_run_takes_them(visit):
    test = visit(page)
    drawn = widgets(test)
    drawn["f-lora-rank"].set_value(4)
    drawn["f-lora-json-learning_rate"].set_value(0.001)
    drawn["f-batch_size"].set_value(16)
    drawn["f-schedule"].set_value("cosine")
    drawn["f-gradient_checkpointing"].set_value(True)
    drawn["f-lora-target_modules"].set_value("q_proj,v_proj")
    drawn["f-seed"].set_value(7)
    test.run()
    assert "started" not in test.session_state
    wanted = with_settings(
        RunConfig(),
        {
            "rank": 4, "learning_rate": 0.001, "batch_size": 16, "schedule": "cosine",
            "gradient_checkpointing": True, "target_modules": "q_proj,v_proj",
        },
    )  # fmt: skip
    wanted = resolved(dataclasses.replace(wanted, seed=7)).to_dict()
    assert test.session_state["now"] == wanted
    run_button(test).click().run()
    assert test.session_state["started"] == wanted


def test_a_method_keeps_its_own_learning_rate(visit):
    test = visit(page)
    widgets(test)["f-lora-json-learning_rate"].set_value(0.01).run()
    other = visit(page, kwargs={"method": "full"})
    full = resolved(RunConfig(method="full"))
    assert other.session_state["now"]["train"]["learning_rate"] == full.train.learning_rate


def test_what_makes_no_sense_is_said_and_cannot_be_run(visit):
    def no_rate():
        import streamlit as st

        from app import form
        from core.config import RunConfig

        st.session_state["f-more"] = True
        form.run_form(RunConfig(base="owner/name"), "f")

    test = visit(no_rate)
    widgets(test)["f-replay"].set_value(0.3).run()
    assert "Replay" in test.error[0].value
    assert run_button(test).disabled


def test_what_is_unusual_is_said_and_can_be_run(visit):
    test = visit(page)
    widgets(test)["f-lora-rank"].set_value(512).run()
    assert any("Rank above 256 is unusual" in c.value for c in test.caption)
    assert not run_button(test).disabled


def test_a_busy_form_waits(visit):
    test = visit(page, kwargs={"busy": True})
    assert run_button(test).disabled
    assert run_button(test).label == "Running"


def test_a_page_chooses_the_knobs_in_sight_and_locks_some(visit):
    test = visit(page, kwargs={"show": ["steps", "batch_size"], "lock": ["steps"]})
    folded = {w.key for w in test.expander[0].number_input}
    assert "f-batch_size" not in folded
    assert "f-lora-rank" in folded
    assert widgets(test)["f-lora-json-steps"].disabled
    with pytest.raises(ValueError, match="no knob is called nonsense"):
        form.in_sight(form.knobs(RunConfig()), 4, ["nonsense"])


CHANGED = with_settings(
    RunConfig(method="qlora", task="facts", seed=3),
    {
        "rank": 12, "learning_rate": 0.0025, "steps": 77, "warmup": 0.25, "length_buckets": False,
        "optimizer": "adamw_8bit",
    },
)  # fmt: skip


def test_a_link_says_only_what_differs():
    assert form.link(RunConfig(), "f") == {}
    assert form.link(resolved(RunConfig(method="full")), "f") == {}
    assert form.link(CHANGED, "f") == {
        "f-qlora-rank": "12",
        "f-qlora-facts-learning_rate": "0.0025",
        "f-qlora-facts-steps": "77",
        "f-warmup": "0.25",
        "f-length_buckets": "false",
        "f-optimizer": "adamw_8bit",
        "f-seed": "3",
    }


def test_a_link_reproduces_the_settings(visit):
    test = visit(page, kwargs={"method": "qlora", "task": "facts"}, **form.link(CHANGED, "f"))
    assert test.session_state["now"] == resolved(CHANGED).to_dict()


def test_a_link_with_nonsense_shows_the_defaults(visit):
    test = visit(page, **{"f-lora-rank": "many", "f-lora-json-learning_rate": "x", "f-lora-json-steps": "-4"})
    assert test.session_state["now"] == resolved(RunConfig()).to_dict()


def test_numbers_for_people():
    assert [form.shown(v) for v in (0.003, 3e-5, 1e-6, True, "auto", 8, 0.5)] == [
        "0.003", "3e-5", "1e-6", "on", "auto", "8", "0.5",
    ]  # fmt: skip


def test_the_logarithmic_slider_has_the_default_among_its_stops():
    knob = next(k for k in form.knobs(RunConfig()) if k.name == "learning_rate")
    stops = form.steps_of(dataclasses.replace(knob, default=0.0042))
    assert 0.0042 in stops
    assert stops == sorted(stops)
    assert max(stops) <= 1.0


def test_every_field_of_the_loop_is_a_knob():
    names = {k.name for k in form.knobs(RunConfig())}
    assert {f.name for f in dataclasses.fields(TrainConfig) if f.metadata["form"]} <= names
    assert "parallel" not in names  # runs of the browser have one process


def test_an_untouched_knob_follows_its_default_to_another_base(visit):
    """The rate that a sweep found for the embedded base must not become the rate of a model from the hub."""

    def page_of(base="embedded"):
        import streamlit as st

        from app import form
        from core.config import RunConfig

        st.session_state["shown"] = form.run_form(
            RunConfig(base=st.session_state.get("chosen", base), method="lora", task="json"), key="f"
        ) or form.config_of(RunConfig(base=st.session_state.get("chosen", base), method="lora", task="json"), "f")

    page = visit(page_of)
    first = page.session_state["shown"].train.learning_rate
    page.session_state["chosen"] = "owner/name"
    page.run()
    assert not page.exception
    assert not page.warning
    second = page.session_state["shown"].train.learning_rate
    assert second == pytest.approx(2e-4) != first
    page.select_slider(key="f-lora-json-learning_rate").set_value(0.01).run()
    page.session_state["chosen"] = "embedded"
    page.run()
    assert page.session_state["shown"].train.learning_rate == 0.01, "what was chosen stays"
