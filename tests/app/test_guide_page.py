"""The guide and the retrieval page: answers in the address, a changed fact served at once, the recorded experiment."""

from __future__ import annotations

import pytest

from app import charts_rag, data, model_choice, reading, state, uploads
from app.views import rag as rag_view
from app.views import vram
from core.guide import answers_of, decide, rule_book
from core.guide.evidence import UNMEASURED
from core.guide.method import BATCH, LENGTH, choose
from core.guide.plan import vram_link
from core.rag.desk import PEOPLE, Desk, value_in
from core.rag.experiment import ARMS, Band, Cell, bands, recorded
from core.rag.needs import NEEDS, WORDINGS
from core.rag.retrieve import Hit
from core.rag.store import Chunk
from core.rag.verdicts import CLAIMS, CONFIRMED, NOT_CONFIRMED, UNDECIDED, UNKNOWN, verdicts
from core.world import question
from core.world.people import VALUES
from tests.app.test_views import button, words
from tests.core.test_guide import METHODS


def guide_page():
    from app.views import guide

    guide.render()


def playground_page():
    from app.views import playground

    playground.render()


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
    table = page.table[0].value
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
    judged = [rule.id for rule in rule_book().rules if not rule.measured]
    assert list(table[table["Measured"] == "judgement, not measured"]["Rule"]) == judged


def test_a_reason_leads_to_where_it_was_measured_or_is_called_a_judgement(visit):
    page = visit(guide_page, knowledge="many", changes="daily", rights="differ")
    text = words(page)
    assert "(rag#experiment)" in text
    assert UNMEASURED in text
    visit_costs = visit(guide_page, knowledge="many", changes="monthly")
    assert "(rag#costs)" in words(visit_costs)


def test_it_does_not_say_that_nothing_matters_when_two_answers_together_do(visit):
    answers = {"knowledge": "none", "format": "free", "tone": "no", "sources": "no", "rights": "same",
               "invention": "little", "changes": "never"}  # fmt: skip
    text = words(visit(guide_page, **answers))
    assert "None of them could change this by itself" in text
    assert "That would be: Fine-tuning." in text.replace("\\", "")
    text = words(visit(guide_page, **answers | {"domain": "near"}))
    assert "Nothing that is still open could change this, however it is answered." in text


@pytest.mark.parametrize("text", [text for text, *_ in METHODS])
def test_the_calculator_reads_every_word_of_the_guides_link(text):
    """Through the calculator's own choices: what it does not know it would silently replace by a default."""
    answers = answers_of(dict(pair.split("=") for pair in text.split()))
    choice = choose(decide(answers), answers)
    known = {one.name: one for one in (*vram.EVERY, *model_choice.choices(vram.PAGE, decoders=False))}
    read = {name: known[name].read(value) for name, value in vram_link(choice).items()}
    assert None not in read.values(), read
    assert (read["card"], read["model"], read["method"]) == (choice.gpu, choice.model, choice.tried)
    assert (read["gpus"], read["zero"]) == (choice.gpus, 3 if choice.gpus > 1 else 0)
    assert (read["batch"], read["length"], read["checkpointing"]) == (BATCH, LENGTH, choice.recomputed)


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
    assert f"The words stand in passage 1 (about {name})." in text
    assert "verified" not in text, "that words stand in a passage proves nothing"
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


def test_where_an_answer_stands_is_said_with_whom_it_is_about():
    def hit(text):
        return Hit(Chunk(1, "people.csv", "row 1", "csv", 0, 0, text), 1.0)

    asked, other = PEOPLE[0], PEOPLE[1]
    own, theirs = hit(f"{asked} lives in Oslo."), hit(f"{other} lives in Oslo.")
    question_ = f"Where does {asked} live?"
    assert reading.source_of("Oslo", [own], question_) == f"The words stand in passage 1 (about {asked})."
    told = reading.source_of("Oslo", [theirs], question_)
    assert told.startswith(f"The words stand in passage 1 (about {other}), whom the question does not name")
    assert reading.source_of("Oslo", [theirs, own], question_).endswith(f"passage 2 (about {asked}).")
    assert reading.source_of("Lima", [own], question_) == "The words stand in none of the passages."
    assert reading.source_of("It is not said.", [own], question_) == "It says that it is not said."
    assert reading.source_of("at nine", [hit("It opens at nine.")], "When?") == "The words stand in passage 1."


def test_a_long_question_leaves_the_worst_passage_out_and_a_longer_one_says_so(visit, parrot):
    page = visit(rag_page, passages="3")
    name = PEOPLE[0]
    asked = question(name, "city", 1)
    tokenizer = data.tokenizer("embedded")
    more = f" {name}" * ((512 - 24 - 60) // len(tokenizer.encode(f" {name}")))
    page.text_input(key=f"question-{name}-city").set_value(f"{asked}{more}").run()
    button(page, "ask").click().run()
    assert not page.error
    assert "for which there is no room in what this base reads" in words(page)
    prompt = next(text for _, text in parrot.asked if text.startswith("Passage: "))
    assert name in prompt.split("\n")[0], "the best one is kept"
    page.text_input(key=f"question-{name}-city").set_value(f"why {asked} " * 60).run()
    button(page, "ask").click().run()
    assert "tokens, and this model reads 512 at most" in page.error[0].value


def test_rows_for_a_reader_with_distractors_are_made_and_chosen_in_the_playground(visit):
    page = visit(rag_page)
    button(page, "raft-world").click().run()
    assert page.exception == []
    _, query = page.session_state["_raft_rows-world"]
    path = uploads.kept("alice", query["kept"])
    assert path.name == "raft.jsonl"
    assert query["task"] == "own"
    assert uploads.kept("bob", query["kept"]) is None, "it is hers alone"
    for odd in ("", "../../etc/passwd", f"../{query['kept']}", f"{'0' * 16}/raft.jsonl", f"{'0' * 16}/../../x"):
        assert uploads.kept("alice", odd) is None
    there = visit(playground_page, **query)
    text = words(there)
    assert "raft\\.jsonl" in text or "raft.jsonl" in text
    assert not button(there, "knob-run").disabled
    button(there, "another-file").click().run()
    assert "kept" not in there.query_params
    assert "Learnt from:" not in words(there)


def test_the_recorded_experiment_is_shown_and_says_so(visit):
    page = visit(rag_page, told="questions", **{"wordings-questions": "2"})
    text = words(page)
    assert "**Recorded**, not your run" in text
    assert "The usual table, cell by cell" in text
    assert page.select_slider(key="wordings-questions").value == "2"
    needs = page.table[0].value
    assert list(needs.columns) == ["Need", "Questions", *ARMS.values()]
    seeds = recorded()["settings"]["seeds"]
    assert {needs.set_index("Need")["Questions"][n] for n in ("A changed fact", "A rare fact", "Old skills")} == {
        str(seeds * count) for count in (10, 16, 100)
    }
    assert "questions a need" not in text
    assert "A dash: not asked" in text
    assert "is there given the nearest of many solved examples" in text
    assert "there is no number from which on" in text
    assert "not decided here" in text
    assert len(needs) == len(NEEDS) + sum(map(len, charts_rag.MORE.values()))
    assert page.exception == []


def test_own_documents_are_indexed_searched_answered_and_measured(visit, parrot):
    desk = Desk(state.home(), "alice")
    from core.rag.read import Document

    text = "The museum opens at nine on every day except Monday. Tickets for <b>children</b> are free of charge."
    desk.add([Document("museum.txt", text)])
    page = visit(rag_page)
    assert "museum\\.txt" in words(page) or "museum.txt" in words(page)
    page.text_input(key="own-question").set_value("When does the museum open?").run()
    assert "opens at nine" in words(page)
    button(page, "own-ask").click().run()
    assert "The words stand in none of the passages." in words(page) or "It says" in words(page)
    base, prompt = parrot.asked[-1]
    assert base is None
    assert "Passage: The museum opens at nine" in prompt, "the embedded base's own form"
    button(page, "own-measure").click().run()
    assert "MRR" in page.dataframe[-1].value.columns
    assert "half of its words left out" in words(page)
    button(page, "own-forget").click().run()
    assert "Nothing is indexed yet" in words(page)


@pytest.mark.parametrize("what", ["own", "world"])
def test_a_damaged_index_is_told_on_the_page_and_stays_until_it_is_removed(visit, what):
    from core.rag.read import Document
    from core.rag.store import FILE

    desk = Desk(state.home(), "alice")
    desk.add([Document("museum.txt", "The museum opens at nine.")])
    desk.world().close()
    path = desk.folder / what / FILE
    content = path.read_bytes()[:-40_000]
    path.write_bytes(content)
    page = visit(rag_page)
    (told,) = [e.value for e in page.error]
    assert "This index is damaged" in told
    assert "It was left as it is" in told
    assert page.exception == []
    assert path.read_bytes() == content
    assert "The usual table, cell by cell" in words(page), "the rest of the page is there"
    button(page, "own-forget" if what == "own" else "reset").click().run()
    assert list(page.error) == list(page.exception) == []


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
    close = {("rag", "facts", "right"): band(0.85), ("base", "facts", "right"): band(0.03)}
    assert {v.claim: v for v in verdicts(close)}[first].verdict == UNDECIDED
    bad = {("rag", "facts", "right"): band(0.5), ("base", "facts", "right"): band(0.03)}
    assert {v.claim: v for v in verdicts(bad)}[first].verdict == NOT_CONFIRMED


def test_bands_are_means_and_ranges_over_the_seeds():
    cells = [Cell(s, "rag", "facts", "right", v, 40) for s, v in enumerate((0.9, 1.0, 0.8))]
    (found,) = bands(cells).values()
    assert (found.mean, found.low, found.high, found.seeds, found.count) == (pytest.approx(0.9), 0.8, 1.0, 3, 40)
    assert charts_rag.share(found) == "90 % (80–100)", "the seeds lie further apart than 120 questions leave open"
    (found,) = bands([Cell(s, "rag", "facts", "right", 0.9, 40) for s in range(3)]).values()
    assert charts_rag.share(found) == "90 % (83–94)", "of 120 questions"
    weighed = bands([Cell(0, "rag", "nowhere", "sourced", 1.0, 10), Cell(1, "rag", "nowhere", "sourced", 0.0, 30)])
    (found,) = weighed.values()
    assert (found.mean, found.questions) == (0.25, 40)


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
