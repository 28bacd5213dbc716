"""The guide and the retrieval page: answers in the address, a changed fact served at once, the recorded experiment."""

from __future__ import annotations

import pytest

from app import charts_rag, state
from app.views import rag as rag_view
from core.guide import rule_book
from core.rag.desk import PEOPLE, Desk, value_in
from core.rag.experiment import ARMS, Band, Cell, bands, recorded
from core.rag.needs import NEEDS, WORDINGS
from core.rag.verdicts import CLAIMS, CONFIRMED, NOT_CONFIRMED, UNKNOWN, verdicts
from core.world import question
from core.world.people import VALUES
from tests.app.test_views import button, words


def guide_page():
    from app.views import guide

    guide.render()


def rag_page():
    from app.views import rag

    rag.render()


# --- the guide --------------------------------------------------------------------------------------------------------


def test_answers_in_the_address_give_a_recommendation_with_reasons(visit):
    page = visit(guide_page, knowledge="many", changes="daily", format="strict", data="hundreds", hardware="gpu24")
    text = words(page)
    assert "Retrieval and fine-tuning" in page.header[0].value
    assert "A changed row is served at once" in text
    assert "LoRA" in text
    assert page.selectbox(key="hardware").value == "gpu24"
    assert "QLoRA" in text
    table = page.dataframe[0].value
    assert {"Question", "If the answer were", "Instead of", "It would be"} == set(table.columns)


def test_answering_changes_the_address_and_the_recommendation(visit):
    page = visit(guide_page)
    assert "Prompting" in page.header[0].value
    assert "Nothing is answered yet" in words(page)
    page.selectbox(key="format").set_value("strict").run()
    assert page.query_params["format"] in ("strict", ["strict"])
    assert "Fine-tuning" in page.header[0].value
    page.selectbox(key="sources").set_value("must").run()
    page.selectbox(key="latency").set_value("edge").run()
    assert "Sources must be shown where no index can be" in page.warning[0].value
    assert any("no index to look into" in w.value for w in page.warning)
    page.selectbox(key="format").set_value("").run()
    assert "format" not in page.query_params


def test_nonsense_in_the_address_is_no_answer(visit):
    page = visit(guide_page, knowledge="<b>", colour="red")
    assert page.selectbox(key="knowledge").value == ""


def test_every_rule_can_be_read():
    table = charts_rag.rules_table(rule_book())
    assert len(table) == len(rule_book().rules)
    assert not (table == "").all(axis=1).any()


# --- the retrieval page -----------------------------------------------------------------------------------------------


class Parrot:
    """Answers with what it was asked: the model has tests of its own."""

    def __init__(self):
        self.asked = []

    def ask(self, run_id, base, messages, longest, owner):
        text = messages[-1]["content"]
        self.asked.append((run_id, text))
        passage = text.split("\n")[0].removeprefix("Passage: ") if text.startswith("Passage: ") else ""
        yield next((v for v in VALUES["city"] if v in passage), "It is not said.")


@pytest.fixture
def parrot(store, monkeypatch):
    made = Parrot()
    monkeypatch.setattr(state, "talker", lambda: made)
    return made


def test_a_changed_row_is_served_at_once_with_its_source(visit, parrot):
    name = PEOPLE[0]
    page = visit(rag_page, person=name)
    button(page, "ask").click().run()
    desk = Desk(state.home(), "alice")
    before = value_in(desk.row(name).text, name, "city")
    assert page.code[1].value == before
    new = next(v for v in sorted(VALUES["city"]) if v != before)
    page.selectbox(key=f"value-city-{name}-{before}").set_value(new).run()
    button(page, "change-row").click().run()
    assert "Indexed again in" in words(page)
    assert new in page.code[0].value
    assert before not in desk.row(name).text
    button(page, "ask").click().run()
    assert page.code[1].value == new
    text = words(page)
    assert "Stands in passage 1." in text
    assert "It says that it is not said." in text, "from memory"
    assert "people.csv, row" in text
    prompts = [text for _, text in parrot.asked]
    assert prompts[-2].endswith(f"Question: {question(name, 'city', 1)}")
    assert prompts[-1] == question(name, "city", 1)
    button(page, "reset").click().run()
    assert value_in(desk.row(name).text, name, "city") == before


def test_another_owner_has_a_table_of_their_own(store):
    mine, theirs = Desk(state.home(), "alice"), Desk(state.home(), "bob")
    name = PEOPLE[1]
    value = next(v for v in VALUES["job"] if v not in mine.row(name).text)
    mine.change(name, "job", value)
    assert value in mine.row(name).text
    assert value not in theirs.row(name).text
    assert "alice" not in str(mine.folder)


def test_more_passages_bring_more_people(visit, parrot):
    page = visit(rag_page, passages="3")
    button(page, "ask").click().run()
    assert words(page).count("people.csv, row") == 4, "three sources, and the row above"
    page.text_input(key=f"question-{PEOPLE[0]}-city").set_value(" ").run()
    button(page, "ask").click().run()
    assert "There is no question" in page.error[0].value


def test_the_recorded_experiment_is_shown_and_says_so(visit):
    page = visit(rag_page, told="questions", **{"wordings-questions": "2"})
    text = words(page)
    assert "**Recorded**, not your run" in text
    assert "The usual table, cell by cell" in text
    assert page.select_slider(key="wordings-questions").value == "2"
    needs = page.dataframe[0].value
    assert list(needs.columns) == ["Need", *ARMS.values()]
    assert len(needs) == len(NEEDS) + sum(map(len, charts_rag.MORE.values()))
    assert page.exception == []


def test_own_documents_are_indexed_searched_and_measured(visit):
    desk = Desk(state.home(), "alice")
    from core.rag.read import Document

    text = "The museum opens at nine on every day except Monday. Tickets for <b>children</b> are free of charge."
    desk.add([Document("museum.txt", text)])
    page = visit(rag_page)
    assert "museum\\.txt" in words(page) or "museum.txt" in words(page)
    page.text_input(key="own-question").set_value("When does the museum open?").run()
    assert "opens at nine" in words(page)
    button(page, "own-measure").click().run()
    assert "MRR" in page.dataframe[-1].value.columns
    button(page, "own-forget").click().run()
    assert "Nothing is indexed yet" in words(page)


# --- figures and verdicts ---------------------------------------------------------------------------------------------


def band(value):
    return Band(value, value, value, 1, 40)


def test_a_verdict_follows_the_figures():
    keys = {key for claim in CLAIMS for key in claim.keys}
    assert {v.verdict for v in verdicts({})} == {UNKNOWN}
    assert len(verdicts({key: band(0.5) for key in keys})) == len(CLAIMS)
    (first, *_) = CLAIMS
    good = {("rag", "facts", "right"): band(0.97), ("base", "facts", "right"): band(0.03)}
    by_claim = {v.claim: v for v in verdicts(good)}
    assert by_claim[first].verdict == CONFIRMED
    assert "97 %" in by_claim[first].figures
    bad = {("rag", "facts", "right"): band(0.5), ("base", "facts", "right"): band(0.03)}
    assert {v.claim: v for v in verdicts(bad)}[first].verdict == NOT_CONFIRMED


def test_bands_are_means_and_ranges_over_the_seeds():
    cells = [Cell(s, "rag", "facts", "right", v, 40) for s, v in enumerate((0.9, 1.0, 0.8))]
    (found,) = bands(cells).values()
    assert (found.mean, found.low, found.high, found.seeds, found.count) == (pytest.approx(0.9), 0.8, 1.0, 3, 40)
    assert charts_rag.share(found) == "90 % (80 to 100)"


def test_the_figures_come_with_alt_texts_and_tables():
    record = recorded()
    found = bands(record["cells"])
    for chart in (
        charts_rag.needs(found), charts_rag.wordings(record["wordings"], ("questions", 2)),
        charts_rag.pulls({"prompt": 1, "rag": 4, "tune": 0, "deep": 0}, rule_book()),
    ):  # fmt: skip
        assert chart.alt.count(".") >= 1
        assert not chart.table.empty
    costs = charts_rag.costs_table(found)
    assert list(costs["Approach"]) == list(ARMS.values())
    assert len(charts_rag.wordings(record["wordings"]).table) == sum(map(len, WORDINGS.values()))
    assert rag_view.PASSAGES[0] == "1"
