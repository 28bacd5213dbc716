"""The chat's page: what is asked of each side, what is kept, and how errors are said.

The answers come from a stand-in for the chat's process: what that process does is tested in tests/core, and both
together in a real browser in tests/browser.
"""

import pytest

from app import state
from core.config import RunConfig
from core.errors import OutOfMemory
from tests.app.filling import fill


class Script:
    """Answers every question of the same two sides; `error` is raised after the first piece."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[dict] = []
        self.error = error

    def pair(self, run_id, messages, max_new_tokens, owner, *, before):
        self.asked.append({"run": run_id, "owner": owner, "after": messages, "before": before})
        yield "before", "I do not"
        if self.error is not None:
            raise self.error
        yield "before", " know."
        yield "after", '{"name":'
        yield "after", ' "Ann"}'


@pytest.fixture
def script(store, monkeypatch):
    made = Script()
    monkeypatch.setattr(state, "talker", lambda: made)
    return made


def page(run_id, suggestions=None):
    from app import chat, state

    chat.chat_pair(state.store().get(run_id, state.owner()), key="c", suggestions=suggestions)


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
    }
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
