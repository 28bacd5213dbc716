"""Every kind of cell, drawn by Streamlit's own AppTest: what is shown, what is kept, what comes back after a reload."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import live
from app.cells import predict, svg
from app.story import Story
from app.widgets import lora_parameters
from core.config import RunConfig
from core.events import to_dict
from core.runs.store import Store
from tests.app import filling
from tests.app.test_index import EXPERIMENT, PREDICT, write

OWNER = "the-learner"
Open = Callable[..., AppTest]


def page(path: str) -> None:
    from pathlib import Path

    from app import index
    from app.cells import page

    lesson, mistakes = index.read(Path(path))
    assert lesson is not None, mistakes
    page.render(lesson)


@pytest.fixture
def open_lesson(visit: Any) -> Open:
    """open_lesson(path, owner=…): a new visit, in a fresh session, of the lesson in that file."""
    return lambda path, owner=OWNER: visit(page, owner=owner, kwargs={"path": str(path)})


def texts(app: AppTest) -> str:
    """All the text on the page."""
    shown = [str(e.value) for kind in (app.markdown, app.caption, app.subheader, app.title) for e in kind]
    return "\n".join(shown).replace("\u00a0", " ")


def press(app: AppTest, key: str) -> None:
    """Press the button with that key."""
    app.button(key).click().run()
    assert not app.exception, app.exception


def quiz(answer: str) -> str:
    question = "Which of the {calc}`matrix_parameters(d=2, k=3)`?"
    return f"```{{quiz}} one\ntitle: A question\nquestion: {question}\n{answer}```\n"


CHECK = "a-lesson-one-check"
SINGLE = quiz("choices:\n  - {text: This, why: Not this.}\n  - {text: That, right: true, why: Yes that.}\n")
MULTIPLE = quiz(
    "kind: multiple\nchoices:\n  - {text: A, right: true, why: Yes A.}\n  - {text: B, why: Not B.}\n"
    "  - {text: C, right: true, why: Yes C.}\n"
)
NUMERIC = quiz(
    "kind: numeric\nanswer: 1.5\ntolerance: 0.01\nwhy: Yes.\notherwise: Think of {calc}`matrix_parameters(d=1, k=1)`.\n"
    "mistakes:\n  - {answer: 3, why: Half of it.}\n"
)


def test_prose_and_head(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(
        write(tmp_path, "## A heading\n\nThere are {calc}`matrix_parameters(d=10, k=10)` numbers, $x^2$.\n")
    )
    assert "There are 100 numbers, $x^2$." in texts(app)
    assert app.title[0].value == "A lesson"
    assert "about 5 minutes" in texts(app)
    assert "[A paper](https://example.org/a)" in texts(app)


def test_pictures_carry_their_alt_text(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    path = write(tmp_path, '![A "quoted" square](square.svg)\n')
    (path.parent / "square.svg").write_text('<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>')
    (image,) = open_lesson(path).get("image")
    assert image.proto.imgs[0].alt == 'A "quoted" square'


def test_drawings_take_the_themes_colour() -> None:
    drawn = svg.coloured('<?xml version="1.0"?>\n<svg viewBox="0 0 1 1"><circle fill="currentColor"/></svg>', "#123456")
    assert drawn.startswith('<svg color="#123456"')


def test_single_choice(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    path = write(tmp_path, SINGLE)
    app = open_lesson(path)
    assert "Which of the 6?" in texts(app)
    press(app, CHECK)
    assert "Choose an answer first" in texts(app)
    assert store.progress(OWNER) == {}

    app.radio[0].set_value(0)
    press(app, CHECK)
    assert "Not quite." in texts(app)
    assert "Not this." in texts(app)
    assert "Yes that." not in texts(app)
    kept = store.progress(OWNER)["03_a_lesson/one"]
    assert kept == {"answer": 0, "right": False, "first_right": False, "tries": 1}

    again = open_lesson(path)
    assert again.radio[0].value == 0
    assert "Not this." in texts(again)
    again.radio[0].set_value(1)
    press(again, CHECK)
    assert "Yes that." in texts(again)
    assert "Not this." not in texts(again)
    kept = store.progress(OWNER)["03_a_lesson/one"]
    assert kept == {"answer": 1, "right": True, "first_right": False, "tries": 2}
    assert "Lesson complete" in texts(again)
    assert "1 of 1 steps done" in texts(open_lesson(path))


def test_somebody_else_has_their_own_answers(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    path = write(tmp_path, SINGLE)
    app = open_lesson(path)
    app.radio[0].set_value(1)
    press(app, CHECK)
    other = open_lesson(path, owner="somebody-else")
    assert other.radio[0].value is None
    assert "0 of 1 steps done" in texts(other)


def test_multiple_choice(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    path = write(tmp_path, MULTIPLE)
    app = open_lesson(path)

    def box(app: AppTest, label: str) -> Any:
        return next(box for box in app.checkbox if box.label == label)

    box(app, "A").check()
    press(app, CHECK)
    assert "Yes A." in texts(app)
    assert "1 more is right" in texts(app)
    box(app, "B").check()
    box(app, "C").check()
    press(app, CHECK)
    assert "Not B." in texts(app)
    box(app, "B").uncheck()
    press(app, CHECK)
    assert "Right." in texts(app)
    assert store.progress(OWNER)["03_a_lesson/one"]["answer"] == [0, 2]
    again = open_lesson(path)
    assert {b.label: b.value for b in again.checkbox} == {"A": True, "B": False, "C": True}


def test_choices_are_dealt_and_known_by_their_place_in_the_file(tmp_path: Path, open_lesson: Open) -> None:
    texts_of = [f"Choice {n}" for n in range(5)]
    lines = "".join(f"  - {{text: {text}, right: {'true' if not n else 'false'}, why: Because {n}.}}\n"
                    for n, text in enumerate(texts_of))  # fmt: skip
    app = open_lesson(write(tmp_path, quiz(f"choices:\n{lines}")))
    shown = app.radio[0].options
    assert sorted(shown) == texts_of
    assert shown != texts_of
    app.radio[0].set_value(0)
    press(app, CHECK)
    assert "Right." in texts(app)
    assert "Because 0." in texts(app)


@pytest.mark.parametrize("typed", ["1.5", "1,5", "1.505", " 1.50 "])
def test_numbers_with_a_point_or_a_comma(tmp_path: Path, open_lesson: Open, typed: str) -> None:
    path = write(tmp_path, NUMERIC)
    app = open_lesson(path)
    app.text_input[0].set_value(typed)
    press(app, CHECK)
    assert "Right." in texts(app)
    assert open_lesson(path).text_input[0].value == typed


def test_wrong_numbers_are_explained(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(write(tmp_path, NUMERIC))
    for typed, told in (("3", "Half of it."), ("7", "Think of 1."), ("seven", "Please type a number")):
        app.text_input[0].set_value(typed)
        press(app, CHECK)
        assert told in texts(app)


def test_a_slip_of_the_keyboard_is_no_answer(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(write(tmp_path, NUMERIC))
    for typed, told in (("one and a half", "Please type a number"), ("", "Type a number first")):
        app.text_input[0].set_value(typed)
        press(app, CHECK)
        assert told in texts(app)
        assert "Not quite" not in texts(app)
    assert not any("/one" in name for name in store.progress(OWNER)), "nothing of it comes back in the review"
    app.text_input[0].set_value("1.5")
    press(app, CHECK)
    kept = next(value for name, value in store.progress(OWNER).items() if name.endswith("/one"))
    assert (kept["first_right"], kept["tries"]) == (True, 1)


def test_the_widget_counts_at_once(tmp_path: Path, open_lesson: Open, store: Store) -> None:
    body = "```{widget} count\ntitle: Count\nwidget: lora-parameters\noptions: {d: 1000, k: 1000, r: 8}\n```\n"
    app = open_lesson(write(tmp_path, body))
    assert [m.value for m in app.metric] == ["1,000,000", "16,000"]
    assert "**1.6 %**" in texts(app)
    app.select_slider[2].set_value(16).run()
    assert app.metric[1].value == "32,000"
    app.select_slider[0].set_value(64)
    app.select_slider[1].set_value(64)
    app.select_slider[2].set_value(256).run()
    assert "nothing is saved" in texts(app)


def test_drawings_are_to_scale_and_say_what_they_show() -> None:
    drawn, alt = lora_parameters.drawn_to_scale(4096, 1024, 8)
    assert "4,096 by 1,024" in alt
    assert 'width="37.5" height="150.0"' in drawn
    _, alt = predict.number_line({"low": 0, "high": 100, "tolerance": 10}, 20, 90, "%")
    assert "you said 20 %, measured 90 %" in alt
    log, _ = predict.number_line({"low": 0.01, "high": 10, "tolerance": 1, "scale": "log"}, 0.1, 1, "")
    assert 'cx="247"' in log  # 1 stands two thirds of the way from 0.01 to 10
    assert 'cx="133"' in log


def test_log_scale_marks() -> None:
    assert predict.log_marks(0.1, 20) == [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    assert predict.log_marks(0.3, 4) == [0.3, 0.5, 1.0, 2.0, 4.0]


def test_on_a_log_scale_the_nearest_mark_is_close() -> None:
    body = {"low": 3, "high": 300, "scale": "log", "tolerance": 1}
    assert predict.closeness(body, 20, 23) == "close"  # the marks beside it are 10 and 50
    assert predict.closeness(body, 50, 36) == "close"
    assert predict.closeness(body, 20, 36) == "too low"
    assert predict.closeness(body, 300, 10_000) == "close"  # off the scale: its end
    assert predict.closeness({**body, "scale": "linear"}, 20, 23) == "too low"


@pytest.fixture
def guessing(tmp_path: Path) -> Path:
    """A lesson with a prediction and its experiment, whose recorded run went from 0 to 93 %."""
    guess = PREDICT.replace("loss_after", "exact_match_after").replace("high: 10", 'high: 100\nunit: "%"')
    path = write(tmp_path, guess.replace("tolerance: 1", "tolerance: 10") + "\n" + EXPERIMENT)
    (path.parent / "runs").mkdir()
    first = {"kind": "provenance", "device": "A test", "date": "2026-01-02T03:04:05+00:00", "commit": "abcdef0123"}
    lines = [first, *(to_dict(e) for e in filling.events(RunConfig()))]
    (path.parent / "runs" / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


GUESS, COMMIT, CHANGE = "a-lesson-guess-value", "a-lesson-guess-commit", "a-lesson-guess-change"
UNCOVER, RUN = "a-lesson-run-show", "a-lesson-run-run"


def test_a_recorded_run_is_there_at_once_with_its_scores_covered(guessing: Path, open_lesson: Open) -> None:
    app = open_lesson(guessing)
    assert "**Recorded**, not your run · A test · 2026-01-02 · commit abcdef0" in texts(app)
    assert "covered" in texts(app)
    assert "93 %" not in texts(app)
    assert "What happened" not in texts(app)
    assert "0 of 2 steps done" in texts(app)


@pytest.mark.parametrize("what", ["seconds", "exact_match_after"])
def test_the_time_of_a_covered_run_is_covered_when_it_is_asked_for(
    guessing: Path, open_lesson: Open, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    guessing.write_text(guessing.read_text(encoding="utf-8").replace("exact_match_after", what), encoding="utf-8")
    panels: list[live.Recorded] = []
    monkeypatch.setattr(live, "run_panel", lambda run, **_: panels.append(run))
    open_lesson(guessing)
    (shown,) = panels
    assert (Story.of(shown.events).seconds == 0) == (what == "seconds")


TOLD = """
```{reveal} told
after: [guess]
text: It came to {calc}`recorded(run='run', what='exact_match_after')`.
```
"""
WAITS = "This passage tells what came out."


def headings(app: AppTest) -> list[str]:
    return [str(s.value) for s in app.subheader]


def test_what_came_out_is_told_once_the_result_is_seen(guessing: Path, open_lesson: Open, store: Store) -> None:
    guessing.write_text(guessing.read_text(encoding="utf-8") + TOLD, encoding="utf-8")
    app = open_lesson(guessing)
    assert f"{WAITS} It opens once you have predicted, and seen the result of: [1 · Prediction" in texts(app)
    # Covered on the screen, it stands under a heading at the end, which is shown on paper only.
    assert headings(app)[-1] == "What came out"
    assert texts(app).count("It came to 93 %.") == 1
    press(app, COMMIT)
    assert WAITS in texts(app)  # committed, and nothing seen yet
    press(app, UNCOVER)
    assert WAITS not in texts(app)
    assert texts(app).count("It came to 93 %.") == 1
    assert "What came out" not in headings(app)
    assert "2 of 2" not in texts(app)  # a text is nothing to be done
    assert "1 of 2 steps done" in texts(app)


def test_what_is_covered_can_be_opened_all_the_same(guessing: Path, open_lesson: Open, store: Store) -> None:
    guessing.write_text(guessing.read_text(encoding="utf-8") + TOLD, encoding="utf-8")
    press(open_lesson(guessing), "a-lesson-told-anyway")
    assert store.progress(OWNER) == {"03_a_lesson/told": {"shown": True}}
    again = open_lesson(guessing)
    assert WAITS not in texts(again)
    assert "It came to 93 %." in texts(again)


def test_a_figure_that_gives_the_answer_away_waits_for_it(guessing: Path, open_lesson: Open) -> None:
    options = "options: {d: 1000, k: 1000, r: 8}"
    widget = f"\n```{{widget}} count\ntitle: Count\nwidget: lora-parameters\nafter: [guess]\n{options}\n```\n"
    guessing.write_text(guessing.read_text(encoding="utf-8") + widget, encoding="utf-8")
    app = open_lesson(guessing)
    assert "This would give an answer away." in texts(app)
    assert "3 · Try it" in texts(app)
    assert "16,000" not in [m.value for m in app.metric]
    press(app, COMMIT)
    press(app, UNCOVER)
    assert "This would give an answer away." not in texts(app)
    assert "16,000" in [m.value for m in app.metric]


def test_predict_then_uncover(guessing: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(guessing)
    app.slider(GUESS).set_value(40)
    press(app, COMMIT)
    assert "You committed to **40 %**" in texts(app)
    assert store.progress(OWNER)["03_a_lesson/guess"] == {"value": 40.0, "fair": True}
    press(app, UNCOVER)
    assert "You said **40 %**; the recorded run measured **93 %**. Your prediction was too low." in texts(app)
    assert "You predicted 40 %; this run reached 93 %" in texts(app)
    kept = store.progress(OWNER)["03_a_lesson/guess"]
    assert kept["measured"] == 93.0
    assert kept["log_ratio"] == pytest.approx(-0.8437, abs=1e-3)
    assert kept["fair"] is True
    later = open_lesson(guessing)
    assert "You said **40 %**" in texts(later)
    assert "1 of 2 steps done" in texts(later)
    assert "off by a factor of 2.3" in texts(later)


def test_a_prediction_can_be_changed_until_the_result_is_seen(guessing: Path, open_lesson: Open) -> None:
    app = open_lesson(guessing)
    app.slider(GUESS).set_value(90)
    press(app, COMMIT)
    press(app, CHANGE)
    assert app.slider(GUESS).value == 90
    press(app, COMMIT)
    press(app, UNCOVER)
    assert "That is close." in texts(app)
    assert not [b for b in app.button if b.key == CHANGE]


def test_a_prediction_after_the_fact_does_not_count(guessing: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(guessing)
    press(app, UNCOVER)
    assert "does not count towards your calibration" in texts(app)
    press(app, COMMIT)
    assert store.progress(OWNER)["03_a_lesson/guess"]["fair"] is False
    assert "off by a factor" not in texts(app)


@pytest.mark.parametrize("status", ["running", "cancelled", "failed", "interrupted"])
def test_the_scores_of_a_run_that_did_not_finish_count_as_seen(
    guessing: Path, open_lesson: Open, store: Store, status: str
) -> None:
    filling.fill(store, OWNER, cell="03_a_lesson/run", status=status)
    filling.fill(store, OWNER, cell="03_a_lesson/run", status="queued")  # a newer one hides it, and shows nothing yet
    app = open_lesson(guessing)
    assert "does not count towards your calibration" in texts(app)
    press(app, COMMIT)
    assert store.progress(OWNER)["03_a_lesson/guess"]["fair"] is False


def test_a_run_without_a_score_after_its_start_has_shown_nothing(
    guessing: Path, open_lesson: Open, store: Store
) -> None:
    run = store.create(OWNER, RunConfig(), key="k", cell="03_a_lesson/run")
    hand = filling.Hand(store, run)
    hand.say(*filling.events(RunConfig(), until=5))  # started, scored at step 0, five steps
    hand.leave()
    filling.fill(store, OWNER, cell="03_a_lesson/another")
    filling.fill(store, "somebody-else", cell="03_a_lesson/run")
    app = open_lesson(guessing)
    assert "does not count towards your calibration" not in texts(app)
    press(app, COMMIT)
    assert store.progress(OWNER)["03_a_lesson/guess"]["fair"] is True


def test_the_recorded_result_is_not_told_before_the_prediction(guessing: Path, open_lesson: Open, store: Store) -> None:
    filling.fill(store, OWNER, cell="03_a_lesson/run", reach=0.6)
    app = open_lesson(guessing)
    assert "What happened" in texts(app)
    assert "The recorded run reached" not in texts(app)
    assert "93 %" not in texts(app)
    press(app, COMMIT)
    assert "The recorded run reached 93 %" in texts(app)


def test_a_prediction_is_scored_once(guessing: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(guessing)
    app.slider(GUESS).set_value(50)
    press(app, COMMIT)
    first = filling.fill(store, OWNER, cell="03_a_lesson/run", reach=0.6)
    open_lesson(guessing)
    scored = store.progress(OWNER)["03_a_lesson/guess"]
    assert (scored["measured"], scored["source"]) == (60.0, "your run")

    second = filling.fill(store, OWNER, cell="03_a_lesson/run", reach=0.2)
    later = texts(open_lesson(guessing))
    assert "You said **50 %**; your run measured **60 %**. That is close." in later
    assert "Your newest run measured 20 %. The first result is the one that counts." in later
    assert store.progress(OWNER)["03_a_lesson/guess"] == scored

    # Nor does it become open again when the runs are gone.
    for run in (first, second):
        store.delete(run.id, OWNER)
    bare = open_lesson(guessing)
    assert "your run measured **60 %**" in texts(bare)
    assert not [b for b in bare.button if b.key == CHANGE]
    assert store.progress(OWNER)["03_a_lesson/guess"] == scored


def test_the_recorded_result_keeps_its_verdict(guessing: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(guessing)
    press(app, COMMIT)
    press(app, UNCOVER)
    scored = store.progress(OWNER)["03_a_lesson/guess"]
    assert (scored["measured"], scored["source"]) == (93.0, "the recorded run")
    filling.fill(store, OWNER, cell="03_a_lesson/run", reach=0.6)
    later = texts(open_lesson(guessing))
    assert "the recorded run measured **93 %**" in later
    assert "Your newest run measured 60 %." in later
    assert store.progress(OWNER)["03_a_lesson/guess"] == scored


def test_the_own_run_takes_the_place_of_the_recorded_one(guessing: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(guessing)
    app.slider(GUESS).set_value(50)
    press(app, COMMIT)
    filling.fill(store, OWNER, cell="03_a_lesson/run", reach=0.6)
    app = open_lesson(guessing)
    assert "**Your run**" in texts(app)
    assert "**Recorded**" not in texts(app)
    assert "The recorded run reached 93 %" in texts(app)
    assert "You said **50 %**; your run measured **60 %**. That is close." in texts(app)
    assert "2 of 2 steps done" in texts(app)
    assert "before and after" in texts(app)
    assert "Recorded" in texts(open_lesson(guessing, owner="somebody-else"))


def test_run_starts_a_run_with_the_knobs_as_they_stand(guessing: Path, open_lesson: Open, store: Store) -> None:
    app = open_lesson(guessing)
    rank = next(w for w in app.number_input if w.key.endswith("-rank"))
    rank.set_value(4).run()
    press(app, RUN)
    (run,) = store.runs(OWNER)
    assert (run.cell, run.status) == ("03_a_lesson/run", "queued")
    assert run.config["settings"]["rank"] == 4
    assert app.button(RUN).disabled
    again = open_lesson(guessing)  # a reload shows the same run
    assert "**Your run**" in texts(again)
    assert again.button(RUN).disabled
    assert len(store.runs(OWNER)) == 1


def test_changed_settings_are_said_to_be_newer_than_the_run(guessing: Path, open_lesson: Open, store: Store) -> None:
    filling.fill(store, OWNER, cell="03_a_lesson/run")
    app = open_lesson(guessing)
    assert "made with other settings" not in texts(app)
    next(w for w in app.number_input if w.key.endswith("-rank")).set_value(4).run()
    assert "made with other settings" in texts(app)
