"""The chat's page: what is asked of each side, what is kept, and how errors are said.

The answers come from a stand-in for the chat's process: what that process does is tested in tests/core, and both
together, with adapters and merged weights, in a real browser (tests/browser/test_ship.py).
"""

import pytest

from app import state
from core.config import RunConfig
from core.errors import DeltalabError, OutOfMemory
from core.runs.sides import Ended
from tests.app.filling import fill

ANSWERS = {"before": ("I do not", " know."), "after": ('{"name":', ' "Ann"}'), "merged": ('{"name":', ' "Ann"}')}


class Script:
    """Gives every question the same answers; `error` is raised after the first piece, and those of `failing` end a
    side."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.error: Exception | None = None
        self.failing: dict[str, DeltalabError] = {}
        self.answers = dict(ANSWERS)

    def sides(self, run_id, messages, max_new_tokens, owner, *, temperature, seed):
        how = {"longest": max_new_tokens, "temperature": temperature, "seed": seed}
        self.asked.append({"run": run_id, "owner": owner, **messages, **how})
        for side in messages:
            yield side, self.answers[side][0]
            if self.error is not None:
                raise self.error
        for side in messages:
            if side in self.failing:
                yield side, Ended(error=self.failing[side])
                continue
            yield side, self.answers[side][1]
            yield side, Ended(7, side != "before", 0.1, 123.4)


@pytest.fixture
def script(store, monkeypatch):
    made = Script()
    monkeypatch.setattr(state, "talker", lambda: made)
    return made


def page(run_id, suggestions=None, knobs=True):
    from app import chat, state

    chat.section(state.store().get(run_id, state.owner()), key="c", suggestions=suggestions, knobs=knobs)


def answers(test):
    return [c.value for c in test.code]


def test_both_sides_answer_and_are_kept(visit, store, script):
    run = fill(store, "alice")
    test = visit(page, kwargs={"run_id": run.id})
    test.chat_input(key="c-input").set_value("Who is *Ann*?").run()
    assert answers(test) == ["I do not know.", '{"name": "Ann"}']
    assert script.asked[0] == {
        "run": run.id,
        "owner": "alice",
        "after": [{"role": "user", "content": "Who is *Ann*?"}],
        "before": [{"role": "user", "content": "Who is *Ann*?"}],
        "longest": 96,
        "temperature": 0.0,
        "seed": 0,
    }
    captions = [c.value for c in test.caption]
    assert "7 tokens · 123 tokens/s · cut at the end of the context" in captions
    assert "7 tokens · 123 tokens/s" in captions
    assert any(r"Who is \*Ann\*?" in m.value for m in test.markdown)
    test.run()
    assert answers(test) == ["I do not know.", '{"name": "Ann"}']
    next(b for b in test.button if b.key == "c-clear").click().run()
    assert answers(test) == []


def test_suggestions_are_held_out_prompts_with_the_wanted_answer(visit, store, script):
    run = fill(store, "alice")
    test = visit(page, kwargs={"run_id": run.id})
    offered = [b for b in test.button if b.key.startswith("c-suggestion-")]
    assert len(offered) == 4
    offered[0].click().run()
    question = script.asked[0]["after"][-1]["content"]
    assert question.startswith("JSON: ")
    assert any(c.value.startswith("Wanted: ") for c in test.caption)


def test_a_lesson_brings_its_own_suggestions(visit, store, script):
    run = fill(store, "alice")
    test = visit(page, kwargs={"run_id": run.id, "suggestions": ["Say hello"]})
    assert [b.label for b in test.button if b.key.startswith("c-suggestion-")] == ["Say hello"]


def test_on_another_base_each_side_hears_what_it_said(visit, store, script, tmp_path):
    run = fill(store, "alice", RunConfig(base=str(tmp_path)))
    test = visit(page, kwargs={"run_id": run.id})
    test.chat_input(key="c-input").set_value("One").run()
    test.chat_input(key="c-input").set_value("Two").run()
    said = [m["content"] for m in script.asked[1]["before"]]
    assert said == ["One", "I do not know.", "Two"]
    assert script.asked[1]["after"][1]["content"] == '{"name": "Ann"}'


def test_the_embedded_base_hears_single_questions(visit, store, script):
    run = fill(store, "alice")
    test = visit(page, kwargs={"run_id": run.id})
    test.chat_input(key="c-input").set_value("One").run()
    test.chat_input(key="c-input").set_value("Two").run()
    assert [m["content"] for m in script.asked[1]["before"]] == ["Two"]


def test_an_error_is_said_in_place_of_the_answer(visit, store, script):
    script.error = OutOfMemory("The base does not fit.", "Choose a smaller one.")
    run = fill(store, "alice")
    test = visit(page, kwargs={"run_id": run.id})
    test.chat_input(key="c-input").set_value("One").run()
    assert test.error[0].value == "**The base does not fit.** Choose a smaller one."
    test.run()
    assert "The base does not fit." in test.error[0].value


def test_a_run_that_has_learnt_nothing_cannot_be_asked(visit, store, script):
    run = fill(store, "alice", status="cancelled")
    test = visit(page, kwargs={"run_id": run.id})
    assert len(test.chat_input) == 0
    assert "nothing to talk to yet" in test.caption[0].value


def test_three_sides_drawn_with_a_seed_and_all_of_it_in_the_address(visit, store, script):
    run = fill(store, "alice")
    link = {"c-sides": ["Merged", "Base", "Adapter"], "c-temperature": "0.8", "c-seed": "7", "c-longest": "32"}
    test = visit(page, kwargs={"run_id": run.id}, **link)
    test.chat_input(key="c-input").set_value("Who?").run()
    asked = script.asked[0]
    assert [side for side in asked if side in ANSWERS] == ["before", "after", "merged"]
    assert (asked["temperature"], asked["seed"], asked["longest"]) == (0.8, 7, 32)
    assert len(answers(test)) == 3
    captions = [c.value for c in test.caption]
    assert "Temperature 0.8, seed 7" in captions
    assert any("Word for word the adapter's answer." in c for c in captions)
    # What was asked stays as it was asked, whatever is chosen next.
    test.segmented_control(key="c-sides").set_value(["after"]).run()
    test.slider(key="c-temperature").set_value(0.0).run()
    assert not test.number_input
    test.chat_input(key="c-input").set_value("And?").run()
    assert list(script.asked[1])[2:] == ["after", "longest", "temperature", "seed"]
    assert len(answers(test)) == 4
    assert "Temperature 0.8, seed 7" in [c.value for c in test.caption]


def test_a_merged_answer_that_differs_says_why(visit, store, script, tmp_path):
    script.answers["merged"] = ("Some", "thing else")
    run = fill(store, "alice", RunConfig(base=str(tmp_path)))
    test = visit(page, kwargs={"run_id": run.id}, **{"c-sides": ["Adapter", "Merged"]})
    test.chat_input(key="c-input").set_value("One").run()
    assert any("Not word for word" in c.value and "almost equally likely" in c.value for c in test.caption)
    test.chat_input(key="c-input").set_value("Two").run()
    last = [c.value for c in test.caption if "Not word for word" in c.value][-1]
    assert "different answers before" in last
    assert [m["content"] for m in script.asked[1]["merged"]] == ["One", "Something else", "Two"]


def test_what_the_merged_side_is_depends_on_the_method(visit, store, script):
    prompts = fill(store, "alice", RunConfig(method="prompt_tuning"))
    test = visit(page, kwargs={"run_id": prompts.id}, **{"c-sides": ["Adapter", "Merged"]})
    assert test.segmented_control(key="c-sides").options == ["Base", "Adapter"]
    assert any("no merged side" in c.value and "cannot be merged" in c.value for c in test.caption)
    test.chat_input(key="c-input").set_value("One").run()
    assert "merged" not in script.asked[0]
    four_bit = fill(store, "alice", RunConfig(method="qlora"))
    test = visit(page, kwargs={"run_id": four_bit.id}, **{"c-sides": ["Adapter", "Merged"]})
    assert any("The base here is the 4-bit base" in c.value for c in test.caption)


def test_without_a_side_nothing_can_be_asked(visit, store, script):
    run = fill(store, "alice")
    test = visit(page, kwargs={"run_id": run.id})
    test.segmented_control(key="c-sides").set_value([]).run()
    assert test.chat_input(key="c-input").disabled
    next(b for b in test.button if b.key == "c-suggestion-0").click().run()
    assert script.asked == []
    assert "Choose at least one side." in [c.value for c in test.caption]


def test_a_side_that_fails_leaves_the_others(visit, store, script):
    script.failing["merged"] = OutOfMemory("There is no room for it.", "Leave merged out.")
    run = fill(store, "alice", RunConfig(base="some/model"))
    test = visit(page, kwargs={"run_id": run.id}, **{"c-sides": ["Base", "Adapter", "Merged"]})
    test.chat_input(key="c-input").set_value("One").run()
    assert answers(test)[1] == '{"name": "Ann"}'
    assert [e.value for e in test.error] == ["**There is no room for it.** Leave merged out."]
    test.chat_input(key="c-input").set_value("Two").run()
    assert [m["content"] for m in script.asked[1]["merged"]] == ["Two"], "half an answer is no history"
    assert len(script.asked[1]["after"]) == 3


def test_a_lesson_shows_no_knobs_unless_it_asks(visit, store, script):
    run = fill(store, "alice")
    test = visit(page, kwargs={"run_id": run.id, "knobs": False})
    assert not test.slider
    test.chat_input(key="c-input").set_value("One").run()
    assert len(answers(test)) == 2


def test_another_run_begins_another_talk(visit, store, script):
    one, two = fill(store, "alice"), fill(store, "alice")
    test = visit(page_of_address, run=one.id)
    test.chat_input(key="c-input").set_value("One").run()
    assert len(answers(test)) == 2
    test.query_params["run"] = two.id
    test.run()
    assert answers(test) == []
    test.query_params["run"] = one.id
    test.run()
    assert len(answers(test)) == 2


def page_of_address():
    import streamlit as st

    from app import chat, state

    chat.section(state.store().get(st.query_params["run"], state.owner()), key="c")
