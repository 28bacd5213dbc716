"""An encoder in the browser: what the playground says of it, the report on labels, and how a run is told."""

import pytest

from app import chat, state
from app.charts import scores_table, task_scores
from app.story import Story, happened
from core.config import RunConfig
from core.runs.sides import Ended
from tests.app.filling import fill
from tests.checkpoints import write_encoder

ROWS = "text,label\n" + "".join(
    f"Number {i} is here.,{'odd' if i % 2 else 'even' if i % 4 else 'four'}\n" for i in range(60)
)


def playground_page():
    from app.views import playground

    playground.render()


def chat_page(run_id):
    from app import chat, state

    chat.section(state.store().get(run_id, state.owner()), key="c")


def words(page) -> str:
    parts = [e.value for kind in ("title", "header", "subheader", "markdown", "caption", "error", "warning", "info")
             for e in getattr(page, kind)]  # fmt: skip
    return "\n".join(map(str, parts)).replace("\u00a0", " ")


def button(page, key):
    return next(b for b in page.button if b.key == key)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(write_encoder("roberta", tmp_path_factory.mktemp("bases")))


def told(**last):
    """A classifier's run, as its events are recorded."""
    scored = {"kind": "evaluated", "task": "your data", "items": 50, "skills": {}, "seconds": 0.1}
    return [
        {"kind": "started", "base": {"name": "bert", "task": "classification"}, "config": {"method": "bitfit"},
         "steps": 10, "trainable": 100, "total": 10_000, "device": "cpu"},
        {**scored, "step": 0, "exact_match": 0.5, "loss": 0.7, "macro_f1": 0.33},
        {"kind": "step", "step": 1, "loss": 0.7, "seconds": 0.1},
        {**scored, "step": 10, "exact_match": 0.9, "loss": 0.3, "macro_f1": 0.81, **last},
    ]  # fmt: skip


def test_an_encoder_is_named_and_the_built_in_tasks_are_not_for_it(visit, base):
    page = visit(playground_page, base="folder", folder=base)
    text = words(page)
    assert "roberta, an encoder" in text
    assert "128 tokens of context" in text
    assert "it gives labels to texts and writes no answers" in text
    assert "the classification head trains too" in text
    assert button(page, "knob-run").disabled
    page = visit(playground_page, base="folder", folder=base, method="prompt_tuning")
    assert "trained tokens need a language model" in words(page)
    page = visit(playground_page, base="folder", folder=base, task="own")
    assert "text,label" in words(page)


def test_labelled_texts_are_reported_and_run(visit, store, base):
    page = visit(playground_page, base="folder", folder=base, task="own", method="bitfit")
    page.file_uploader(key="upload").set_value(("mine.csv", ROWS.encode(), "text/csv")).run()
    text = words(page)
    assert [(m.label, m.value) for m in page.metric] == [
        ("Rows", "60"), ("To train on", "54"), ("Held out for scoring", "6"), ("Labels", "3"),
        ("Tokens a row", page.metric[4].value),
    ]  # fmt: skip
    assert "'text' is read as the text and 'label' as its label" in text
    assert "Always saying “odd” would be right in 50 % of the rows" in text
    tables = [t.value for t in page.dataframe]
    assert [list(row) for row in tables[0].to_numpy()] == [
        ["odd", 30, "50 %"], ["even", 15, "25 %"], ["four", 15, "25 %"],
    ]  # fmt: skip
    assert "Another label to an earlier text" in set(tables[1]["Check"])
    button(page, "knob-run").click().run()
    (run,) = store.runs("alice")
    assert (run.config["base"], run.config["method"]) == (base, "bitfit")
    assert run.config["train"]["learning_rate"] == 1e-3  # as published
    assert (run.folder / run.config["data"]).read_text() == ROWS


def test_a_file_that_an_encoder_cannot_learn_from_is_refused(visit, base):
    page = visit(playground_page, base="folder", folder=base, task="own")
    page.file_uploader(key="upload").set_value(("mine.jsonl", b'{"prompt": "a", "completion": "b"}', "x")).run()
    assert "questions and answers" in page.error[0].value
    page.file_uploader(key="upload").set_value(("mine.csv", b"text,label\na,x\nb,\n", "x")).run()
    assert "Line 3" in page.error[0].value
    assert button(page, "knob-run").disabled


def test_the_same_file_on_a_language_model_is_questions_and_answers(visit):
    page = visit(playground_page, task="own")
    page.file_uploader(key="upload").set_value(("mine.csv", ROWS.encode(), "text/csv")).run()
    assert "'text' is read as the question and 'label' as the answer" in words(page)
    assert not button(page, "knob-run").disabled


def test_what_happened_is_told_in_labels():
    story = Story.of(told())
    assert story.classifies
    text = " ".join(happened(story))
    assert "50 % → 90 % of 50 held-out items given the right label (+40 points)" in text
    assert "macro F1): 33 % → 81 %" in text
    assert "on held-out texts fell from 0.70 to 0.30 nats a label" in text
    assert not Story.of([{**told()[0], "base": {"name": "embedded"}}]).classifies
    assert list(scores_table(story)["macro_f1_percent"]) == [33, 81]
    assert task_scores([("a", story)]).figure.layout.yaxis.title.text == "accuracy, %"


def test_a_text_is_tried_rather_than_talked_to(visit, store, base, monkeypatch):
    class Labels:
        def sides(self, run_id, messages, max_new_tokens, owner, *, temperature, seed):
            assert [len(m) for m in messages.values()] == [1, 1], "labels are given to single texts"
            assert temperature == 0
            for side, labels in (("before", "odd (51 %), even (49 %)"), ("after", "even (93 %), odd (7 %)")):
                yield side, labels
                yield side, Ended(1, True)

    monkeypatch.setattr(state, "talker", Labels)
    run = fill(store, "alice", RunConfig(base=base, method="lora"))
    assert chat.heading(run) == "Try a text, before and after"
    page = visit(chat_page, kwargs={"run_id": run.id})
    assert page.chat_input(key="c-input").placeholder == "Give both a text"
    for _ in range(2):
        page.chat_input(key="c-input").set_value("Number 2 is here.").run()
    assert [c.value for c in page.code][:2] == ["odd (51 %), even (49 %)", "even (93 %), odd (7 %)"]
    assert "Before: the head as it began" in words(page)
    assert "token" not in words(page)
    assert not page.slider
    assert page.segmented_control(key="c-sides").options == ["Base", "Adapter", "Merged"]
    assert chat.heading(fill(store, "alice")) == "Talk to it, before and after"


def test_the_curves_of_an_encoder_are_called_so_before_it_has_started(visit, store, base, tmp_path):
    data = tmp_path / "mine.csv"
    data.write_text(ROWS)
    queued = fill(store, "alice", RunConfig(base=base, task=None, data=str(data)), status="queued")
    from app import live

    assert live.panel_data(queued, Story())["words"]["loss"] == "nats a label"
    assert live.panel_data(queued, Story())["styles"]["title"] == "accuracy"
    assert live.panel_data(fill(store, "alice"), Story())["words"]["loss"] == "nats a token"
