"""The pages around the lessons: what they say, what their buttons do, and that nobody sees another's."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from app import classroom, clock, drill, identity, index, keeping, review, search, state, words
from app.index import Lesson


def page_of(name: str) -> None:
    import importlib

    importlib.import_module(f"app.views.{name}").render()


@pytest.fixture
def at(visit):
    """at("glossary", term="nf4"): that page as its visitor sees it."""

    def draw(name: str, **how: Any) -> Any:
        return visit(page_of, kwargs={"name": name}, **how)

    return draw


def said(page: Any) -> str:
    """Everything that a page says."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "error", "warning", "success", "info")
    return "\n".join(str(e.value) for kind in kinds for e in getattr(page, kind)).replace("\\", "")


def links(page: Any) -> list[tuple[str, str]]:
    return [(e.proto.label, e.proto.query_string) for e in page.get("page_link")]


def button(page: Any, key: str) -> Any:
    return next(b for b in page.button if b.key == key)


def first_lesson() -> Lesson:
    return index.lessons()[0]


# --- glossary -------------------------------------------------------------------------------------------------------


def test_the_glossary_leads_to_a_word_by_any_of_its_names(at) -> None:
    page = at("glossary", term="NormalFloat")
    assert page.subheader[0].value.startswith("NF4")
    assert ("Quantization", "term=quantization") in links(page)
    assert "QLoRA: Efficient Finetuning" in said(page)
    button(page, "glossary-all").click().run()
    assert said(page).count("#### ") > 100


def test_the_glossary_searches_picks_a_letter_and_says_what_it_lacks(at) -> None:
    page = at("glossary", q="double quant")
    assert page.subheader[0].value == "Double quantization"
    assert len(page.subheader) < 10
    page = at("glossary", letter="Q")
    assert {h.value[0] for h in page.subheader} == {"Q"}
    assert "no word" in said(at("glossary", term="xyzzy <b>"))
    assert "Nothing is called" in said(at("glossary", q="xyzzy"))


# --- search ---------------------------------------------------------------------------------------------------------


def test_search_finds_lessons_terms_questions_claims_rules_and_pages() -> None:
    found = {kind: [e for e in search.entries() if e.kind == kind] for kind in search.KINDS}
    assert all(found.values())
    assert search.find("double quantization")[0].entry.title == "Double quantization"
    assert search.find("quantisation nested")[0].entry.query == {"term": "double-quantization"}
    assert search.find("vram")[0].entry.title == "VRAM (memory of the graphics card)"
    assert search.find("calcul", search.PAGE)  # an unfinished word
    assert search.find("70B 800 GB")[0].entry.kind == search.CLAIM
    assert search.find("") == search.find('"" ()*') == []
    assert search.find('he said "NEAR(" OR *') is not None


def test_search_shows_no_source_of_formulas() -> None:
    raw = [e.text for e in search.entries() if "\\frac" in e.text or "\\cdot" in e.text or "\\text" in e.text]
    assert raw == []
    assert any("…" in e.text for e in search.entries())


def test_search_gives_no_answer_away() -> None:
    for question in drill.questions():
        wrong = " ".join(str(c.get("why", "")) for c in question.cell.body.get("choices", ()))
        entry = next(e for e in search.entries() if e.query.get("question") == question.id)
        assert wrong == "" or wrong not in entry.text
    lesson = first_lesson()
    whys = [c.body["why"] for c in lesson.cells if c.kind == "predict"]
    text = " ".join(e.text for e in search.entries() if e.page == lesson.url_path)
    assert whys
    assert not any(search.plain(why)[:60] in text for why in whys)


def test_a_result_leads_to_its_place_and_is_made_in_time(at) -> None:
    import time

    search._index.cache_clear()
    start = time.perf_counter()
    search.find("rank")
    assert time.perf_counter() - start < 1.0  # 0.1 s on an idle machine
    page = at("search", q="quantities rank adapter")
    assert "places" in said(page)
    assert any(query for _, query in links(page))
    only = at("search", q="rank", kind="term")
    assert {c.value for c in only.caption[1:]} == {"Glossary"}
    assert "Nothing here" in said(at("search", q="xyzzyx"))


# --- drill and review -----------------------------------------------------------------------------------------------


def test_the_drill_asks_checks_keeps_and_goes_on(at, store) -> None:
    page = at("drill", topic="lora")
    question = next(q for q in drill.questions() if q.topic == "lora")
    assert page.subheader[0].value == question.cell.body["title"]
    page.text_input[0].input("8000")
    next(b for b in page.button if b.label == "Check").click().run()
    assert "one of the two matrices" in said(page)
    assert store.progress("alice")[question.state_name]["first_right"] is False
    assert ("Review what you missed", "") in links(page)
    button(page, "drill-next").click().run()
    assert page.subheader[0].value != question.cell.body["title"]
    assert "0 known, 1 answered" in page.get("progress")[0].proto.text
    assert store.progress("bob") == {}


def test_an_open_question_shows_its_rubric_only_after_one_has_thought(at, store) -> None:
    question = next(q for q in drill.questions() if q.cell.kind == "open")
    page = at("drill", question=question.id)
    assert not page.checkbox
    next(b for b in page.button if b.key.endswith("-show")).click().run()
    for box in page.checkbox:
        box.check()
    next(b for b in page.button if b.key.endswith("-mark")).click().run()
    kept = store.progress("alice")[question.state_name]
    assert drill.enough(question.cell, kept["points"])
    assert "That would do" in said(page)


def test_what_was_missed_is_asked_again_without_its_old_answer_and_moves_on_when_right(at, store) -> None:
    lesson = drill.as_lesson()
    missed, *others = [q for q in drill.questions() if q.cell.body.get("kind") == "numeric"]
    store.set_progress("alice", missed.state_name, {"answer": "7", "right": False, "first_right": False, "tries": 1})
    page = at("review")
    assert "1 question waits" in said(page)
    for other in others[:3]:
        store.set_progress("alice", other.state_name, {"answer": "1", "right": True, "first_right": True, "tries": 1})
    page = at("review")
    assert page.subheader[0].value == missed.cell.body["title"]
    assert page.text_input[0].value == ""
    assert button(page, "review-next").disabled
    page.text_input[0].input("16")
    next(b for b in page.button if b.label == "Check").click().run()
    assert "Right." in said(page)
    assert store.progress("alice")[review.name_of(lesson, missed.cell)]["box"] == 1
    assert store.progress("alice")[missed.state_name]["answer"] == "7"  # the lesson's own answer stays
    button(page, "review-next").click().run()
    assert "waits" in said(page)
    assert "Nothing to review" in said(at("review", owner="bob"))


# --- progress -------------------------------------------------------------------------------------------------------


def done(store: Any, owner: str, lesson: Lesson, count: int = 99) -> list[str]:
    """Answer cells of a lesson rightly; the names under which that is kept."""
    names = []
    for cell in [c for c in lesson.cells if c.kind == "quiz"][:count]:
        names.append(lesson.state_name(cell.id))
        store.set_progress(owner, names[-1], {"answer": 0, "right": True, "first_right": True, "tries": 1})
    return names


def guess(store: Any, owner: str, lesson: Lesson, value: float, measured: float) -> None:
    from app.answers import log_ratio

    for cell in lesson.cells:
        if cell.kind == "predict":
            ratio = log_ratio(value, measured, float(cell.body["high"]))
            kept = {"value": value, "fair": True, "measured": measured, "log_ratio": ratio, "source": "your run"}
            store.set_progress(owner, lesson.state_name(cell.id), kept)


def test_my_progress_shows_the_path_the_time_and_the_predictions(at, store) -> None:
    lesson = first_lesson()
    assert "No prediction has been measured yet" in said(at("progress"))
    done(store, "alice", lesson)
    guess(store, "alice", lesson, 80, 40)
    store.set_progress("alice", clock.KEPT, {"last": 1.0, "lessons": {lesson.url_path: 4000}})
    page = at("progress")
    assert "1 h 07 min" in said(page)
    assert "off by a factor of 2.0" in said(page)
    table = page.dataframe[0].value
    assert table.iloc[0]["Lesson"] == lesson.navigation
    assert table.iloc[0]["State"] == "in progress"


def test_progress_goes_out_and_comes_back_and_loses_nothing(store) -> None:
    lesson = first_lesson()
    names = done(store, "alice", lesson)
    courses = [lesson, drill.as_lesson()]
    store.set_progress("alice", classroom.SEAL, {"seal": "x"})
    text = keeping.as_json(store.progress("alice"), courses)
    assert "seal" not in text
    brought = keeping.read(text, courses)
    assert set(brought.progress) == set(names)
    assert keeping.merged(store.progress("alice"), brought.progress, courses) == {}
    # What is done here is not undone by a file that knows less.
    worse = {names[0]: {"answer": 1, "right": False, "first_right": False, "tries": 1}}
    assert keeping.merged(store.progress("alice"), worse, courses) == {}
    assert keeping.merged(worse, brought.progress, courses) == brought.progress
    table = keeping.as_csv(keeping.rows(courses, store.progress("alice"), store.progress_times("alice")))
    assert len(table.splitlines()) == len(names) + 1
    assert keeping.as_csv([{"lesson": "=1+1"}], ["lesson"]).splitlines()[1] == "'=1+1"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format": "deltalab-progress", "version": 9, "progress": {}}', "[" * 5000,
     '{"format": "deltalab-progress", "version": 1, "progress": {"time/spent": {"lessons": {"a": "b"}}}}',
     '{"format": "deltalab-progress", "version": 1, "progress": {"time/spent": 3}}'],
)  # fmt: skip
def test_a_file_that_is_no_progress_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(keeping.BadInput) as caught:
        keeping.read(text, index.lessons())
    assert caught.value.sentence.endswith(".")


def test_a_file_cannot_make_a_teacher_or_touch_other_names(store) -> None:
    given = {"settings/teacher": {"seal": "x"}, "settings/lang": {"lang": "de"}, "../x": {}}
    text = json.dumps({"format": keeping.FORMAT, "version": 1, "progress": given})
    assert keeping.read(text, index.lessons()) == keeping.Brought({}, 3)


def test_resetting_needs_a_yes_forgets_one_lesson_and_can_be_undone(at, store) -> None:
    lesson = first_lesson()
    names = done(store, "alice", lesson)
    other = drill.questions()[0].state_name
    store.set_progress("alice", other, {"answer": "16", "right": True, "first_right": True, "tries": 1})
    store.set_progress("alice", clock.KEPT, {"last": 1.0, "lessons": {lesson.url_path: 60, "other": 5}})
    done(store, "bob", lesson)
    page = at("progress")
    assert button(page, "progress-do").disabled
    page.selectbox(key="progress-which").select(lesson.slug).run()
    assert button(page, "progress-do").disabled
    page.checkbox(key="progress-sure").check().run()
    button(page, "progress-do").click().run()
    kept = store.progress("alice")
    assert not set(names) & set(kept)
    assert other in kept
    assert kept[clock.KEPT]["lessons"] == {"other": 5}
    assert set(names) <= set(store.progress("bob"))
    button(page, "progress-undo").click().run()
    assert set(names) <= set(store.progress("alice"))
    assert store.progress("alice")[clock.KEPT]["lessons"][lesson.url_path] == 60


def test_the_clock_counts_signs_of_life_and_no_absence() -> None:
    kept = clock.beat(None, "a", 1000.0)
    for i in range(1, 5):
        kept = clock.beat(kept, "a", 1000.0 + 15 * i)
    assert kept["lessons"]["a"] == 15 * 5
    kept = clock.beat(kept, "b", 1060.0)  # a second tab at the same moment adds nothing
    assert kept["lessons"]["b"] == 0
    kept = clock.beat(kept, "b", 9000.0)  # after lunch
    assert kept["lessons"]["b"] == clock.BEAT_SECONDS
    assert clock.beat(kept, "b", 8000.0)["lessons"]["b"] == 2 * clock.BEAT_SECONDS  # a clock that was set back
    assert clock.seconds({clock.KEPT: kept}) == 90


# --- home -----------------------------------------------------------------------------------------------------------


def test_home_shows_where_one_is_what_is_left_and_what_is_due(at, store) -> None:
    lesson = first_lesson()
    page = at("home")
    assert f"about {lesson.minutes} minutes" in said(page)
    done(store, "alice", lesson, 1)
    page = at("home")
    assert re.search(r"1 of \d+ steps done · about \d+ minutes? left", said(page))
    assert page.get("image")


# --- teacher --------------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher_key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(classroom.KEY, "a-long-enough-key")
    classroom._tried.clear()
    return "a-long-enough-key"


def test_without_a_key_there_is_no_teacher_and_the_page_says_how(at, monkeypatch) -> None:
    monkeypatch.delenv(classroom.KEY, raising=False)
    page = at("teacher")
    assert "no teacher" in said(page)
    assert not page.text_input
    assert "teacher-key-file" in page.code[0].value


def test_a_key_that_is_too_short_or_cannot_be_read_is_told(at, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(classroom.KEY, "short")
    assert "at least 8" in said(at("teacher"))
    monkeypatch.delenv(classroom.KEY)
    monkeypatch.setenv(classroom.KEY_FILE, str(tmp_path / "missing"))
    assert "cannot be read" in said(at("teacher"))
    (tmp_path / "missing").write_text("from-a-file-1\n")
    assert classroom.key() == "from-a-file-1"


def test_a_learner_sees_no_class_and_a_wrong_key_opens_nothing(at, store, teacher_key) -> None:
    done(store, "bob", first_lesson())
    page = at("teacher")
    page.text_input[0].input("wrong")
    button(page, "teacher-enter").click().run()
    assert "not the key" in said(page)
    assert not page.dataframe
    for _ in range(classroom.TRIES):
        button(page, "teacher-enter").click().run()
    page.text_input[0].input(teacher_key)
    button(page, "teacher-enter").click().run()
    assert "Too many wrong keys" in said(page)


def test_the_teacher_sees_the_class_by_chosen_names_and_what_surprised_it(at, store, teacher_key, monkeypatch) -> None:
    lesson = first_lesson()
    done(store, "bob", lesson)
    guess(store, "bob", lesson, 90, 30)
    store.set_progress("bob", classroom.NAME, {"name": "=Bob"})
    done(store, "carol", lesson, 1)
    page = at("teacher")
    page.text_input[0].input(teacher_key)
    button(page, "teacher-enter").click().run()
    assert "2 learners" in said(page)
    names = set(page.dataframe[0].value["Who"])
    assert "=Bob" in names
    assert any(re.fullmatch(r"Learner [0-9a-f]{4}", name) for name in names)
    shown = " ".join(str(frame.value) for frame in page.dataframe)
    assert "carol" not in shown
    assert set(page.dataframe[1].value["Off by (factor)"]) == {3.0}
    # The teacher is not one of the class, the seal fits nobody else, and another key ends it.
    assert classroom.is_teacher("alice", store.progress("alice"))
    assert not classroom.is_teacher("bob", {classroom.SEAL: store.progress("alice")[classroom.SEAL]})
    monkeypatch.setenv(classroom.KEY, "another-long-key")
    assert not classroom.is_teacher("alice", store.progress("alice"))


def test_a_link_locks_hides_and_presets_and_an_altered_one_is_refused(visit, store) -> None:
    lesson = next(one for one in index.lessons() if any(c.kind == "experiment" for c in one.cells))
    cell = next(c for c in lesson.cells if c.kind == "experiment")
    first, second = [k for k in cell.body["knobs"] if k in ("rank", "steps", "learning_rate")][:2]
    task = classroom.Task(lesson.url_path, {"rank": 4, "steps": 33}, (first,), (second,), "Do *this*")
    token = classroom.link(task, identity.secret(state.home()))
    assert classroom.task_of(token, identity.secret(state.home())) == task

    def draw(slug):
        from app import index, tasks, words
        from app.cells.context import Context
        from app.cells.experiment import _controls

        words.settle(None)
        found = next(one for one in index.lessons() if one.slug == slug)
        tasks.settle(found.url_path)
        _controls(next(c for c in found.cells if c.kind == "experiment"), Context.of(found))

    page = visit(draw, kwargs={"slug": lesson.slug}, **{classroom.PARAMETER: token})
    assert "Do *this*" in said(page)
    drawn = {w.label: w for kind in ("number_input", "select_slider", "slider") for w in getattr(page, kind)}
    from app import configured
    from app.form import knobs

    labels = {k.name: k.label for k in knobs(configured.experiment(cell))}
    assert drawn[labels[first]].disabled
    assert labels[second] not in drawn
    if first == "rank":
        assert drawn[labels[first]].value == 4
    assert any(e.label == "More settings" for e in page.expander)
    only = classroom.Task(lesson.url_path, locked=(first,), folded=False)
    token = classroom.link(only, identity.secret(state.home()))
    assert classroom.task_of(token, identity.secret(state.home())) == only
    page = visit(draw, kwargs={"slug": lesson.slug}, **{classroom.PARAMETER: token})
    assert not page.expander
    assert {w.label for w in page.number_input} <= {labels[k] for k in cell.body["knobs"]}
    page = visit(draw, kwargs={"slug": lesson.slug}, **{classroom.PARAMETER: token[:-2] + "xx"})
    assert "altered" in said(page)
    assert not any(w.disabled for w in page.number_input)
    page = visit(draw, kwargs={"slug": lesson.slug}, lang="de", **{classroom.PARAMETER: token[:-2] + "xx"})
    assert "Dieser Link wurde verändert" in said(page)
    assert "altered" not in said(page)
    with pytest.raises(classroom.BadInput):
        classroom.task_of(token, b"another installation")


# --- language -------------------------------------------------------------------------------------------------------


def test_german_is_spoken_when_the_address_or_the_learner_says_so(visit, store) -> None:
    def draw(stored):
        from app import words
        from app.views import home

        words.settle(stored)
        words.in_address()
        home.render()

    page = visit(draw, kwargs={"stored": None}, lang="de")
    assert page.title[0].value.startswith("Lerne")
    page = visit(draw, kwargs={"stored": "de"})
    assert page.title[0].value.startswith("Lerne")
    assert page.query_params["lang"] == "de"
    page = visit(draw, kwargs={"stored": "de"}, lang="en")
    assert page.title[0].value.startswith("Learn")
    assert visit(draw, kwargs={"stored": "xx"}, lang="yy").title[0].value.startswith("Learn")
    assert set(words.languages()) >= {"en", "de"}


# --- signs of life --------------------------------------------------------------------------------------------------


def test_signs_of_life_are_counted_for_the_cookie_that_sends_them(store) -> None:
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    from app.api import ROUTES

    client = TestClient(identity.Guard(Starlette(routes=ROUTES)), base_url="http://localhost")
    key = identity.secret(state.home())
    mine = {"cookie": f"{identity.cookie_name(key)}={identity.sign('alice', key)}"}
    page = first_lesson().url_path
    assert client.post(f"/api/seen/{page}", headers=mine).status_code == 204
    assert clock.seconds(store.progress("alice"), page) == clock.BEAT_SECONDS
    assert store.progress("bob") == {}
    assert client.post(f"/api/seen/{page}").status_code == 404  # nobody
    assert client.post("/api/seen/no-such-lesson", headers=mine).status_code == 404
    assert client.get(f"/api/seen/{page}", headers=mine).status_code == 405
    foreign = {**mine, "origin": "http://elsewhere.example"}
    assert client.post(f"/api/seen/{page}", headers=foreign).status_code == 403
    assert clock.seconds(store.progress("alice"), page) == clock.BEAT_SECONDS


def test_a_file_for_spreadsheets_says_how_its_letters_are_written() -> None:
    file = keeping.for_spreadsheets(keeping.as_csv([{"name": "Jürgen", "factor": 1.5}], ["name", "factor"]))
    assert file.decode("utf-8-sig").splitlines() == ["name,factor", "Jürgen,1.5"]
    assert file.startswith(b"\xef\xbb\xbf")  # without these a spreadsheet shows "JÃ¼rgen"
