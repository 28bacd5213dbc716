"""The experiment: what it asks and teaches, that retrieval serves new and changed facts, and what was recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.cli import main
from core.config import EMBEDDED
from core.errors import BadInput, Refused
from core.rag import experiment, needs
from core.rag.answer import NOT_SAID, Reader, citations, declines, fit, prompt
from core.rag.experiment import ARMS, MEASURES, RETRIEVING, Config, bands, recorded
from core.rag.needs import NEEDS, TOLD, WORDINGS
from core.rag.quality import world_documents
from core.rag.retrieve import Retriever
from core.rag.store import Store
from core.rag.verdicts import CLAIMS, verdicts
from core.sweep import base_hash
from core.world import NEWCOMERS, question
from core.world.people import ATTRIBUTES, HELDOUT_NAMES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def items():
    return needs.make(0, 40)


def test_the_same_seed_draws_the_same_and_another_draws_other(items):
    again, other = needs.make(0, 40), needs.make(1, 40)
    for name, asked in items.asked.items():
        assert [a.prompt for a in asked] == [a.prompt for a in again.asked[name]]
    assert items.taught == again.taught
    assert [a.prompt for a in items.asked["facts"]] != [a.prompt for a in other.asked["facts"]]
    assert set(items.asked) == set(NEEDS)


def test_no_question_was_taught_and_nobody_of_nowhere_is_in_any_row(items):
    taught = {row["prompt"] for row in [*items.taught, *items.retaught]}
    for name in ("facts", "rare", "changed", "nowhere"):
        assert not taught & {a.prompt for a in items.asked[name]}
    told = " ".join(d.text for d in [*items.rows, *items.changed]) + json.dumps(items.taught)
    for asked in items.asked["nowhere"]:
        (name,) = (n for n in HELDOUT_NAMES if n in asked.prompt)
        assert name not in told


def test_a_rare_fact_is_told_once_and_the_others_often(items):
    assert len(items.asked["rare"]) == 4 * len(ATTRIBUTES)
    counts: dict[str, int] = {}
    for row in items.taught:
        for person in NEWCOMERS:
            if person.name in row["prompt"]:
                counts[person.name] = counts.get(person.name, 0) + 1
    assert sorted(set(counts.values())) == [len(ATTRIBUTES), len(ATTRIBUTES) * 3 * needs.OFTEN]
    assert list(counts.values()).count(len(ATTRIBUTES)) == needs.RARE


def test_a_changed_row_tells_the_new_value_and_no_longer_the_old(items):
    rows = {d.place: d.text for d in items.rows}
    assert len(items.asked["changed"]) == needs.CHANGED
    for document in items.changed:
        assert rows[document.place] != document.text
    changed = " ".join(d.text for d in items.changed)
    for asked in items.asked["changed"]:
        assert asked.wanted in changed
        assert asked.right(asked.wanted)
        assert asked.stale is not None
        assert not asked.stale(asked.wanted)
    before = {(r["prompt"], r["completion"]) for r in items.taught}
    after = {(r["prompt"], r["completion"]) for r in items.retaught}
    assert len(items.taught) == len(items.retaught)
    assert len(after - before) == 3 * needs.CHANGED, "each in its three training wordings"


def test_what_is_told_in_wordings_is_never_asked():
    for count in WORDINGS[needs.STATEMENTS_TOLD]:
        rows = needs.told(needs.STATEMENTS_TOLD, count)
        assert len({r["completion"] for r in rows}) == len(rows) == len(NEWCOMERS) * len(ATTRIBUTES) * count
        assert not any("?" in r["prompt"] + r["completion"] for r in rows)
    assert {len(set(w)) for w in TOLD.values()} == {max(WORDINGS[needs.STATEMENTS_TOLD])}
    asked = needs.questions_about_the_told(80, 0)
    for count in WORDINGS[needs.QUESTIONS_TOLD]:
        taught = {r["prompt"] for r in needs.told(needs.QUESTIONS_TOLD, count)}
        assert len(taught) == 80 * count
        assert not taught & {a.prompt for a in asked}
    assert len({a.prompt for a in asked}) == 80


# --- the base itself --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """The experiment's first seed, before anything is trained: the index and the untouched base."""
    one = experiment._Seed(0, Config(items=40), tmp_path_factory.mktemp("seed"), experiment._Stage(lambda *_: None, 1))
    store = Store(":memory:", create=True)
    items = needs.make(0, 40)
    store.put(items.rows)
    one.retriever = Retriever(store)
    one.shown = items.shown
    return one, items, experiment._load(None).model


def measured(one, arm, need, name="right"):
    return bands(one.cells)[arm, need, name].mean


def test_retrieval_serves_new_facts_that_the_untouched_base_does_not_know(seed):
    one, items, model = seed
    for arm in ("base", "rag"):
        for need in ("facts", "rare", "nowhere"):
            one.ask(arm, need, items.asked[need], model)
    assert measured(one, "base", "facts") <= 0.1
    assert measured(one, "rag", "facts") >= 0.85
    assert measured(one, "rag", "rare") >= 0.85
    assert measured(one, "rag", "facts", "faithful") >= 0.95
    assert measured(one, "rag", "nowhere", "invented") == pytest.approx(1 - measured(one, "rag", "nowhere"))
    assert measured(one, "rag", "facts", "context_tokens") > measured(one, "base", "facts", "context_tokens")
    one.ask("rag", "crowd", items.asked["crowd"], model)
    assert measured(one, "rag", "crowd", "recall") >= measured(one, "rag", "crowd")


def test_a_changed_row_is_answered_from_at_once(seed):
    one, items, model = seed
    one.ask("rag", "changed", items.asked["changed"], model)
    assert measured(one, "rag", "changed") <= 0.2, "the rows are the old ones"
    assert measured(one, "rag", "changed", "stale") >= 0.8
    one.cells.clear()
    change = one.retriever.store.put(items.changed)
    assert change.added == change.removed == len(items.changed)
    one.ask("rag", "changed", items.asked["changed"], model)
    assert measured(one, "rag", "changed") >= 0.85
    assert measured(one, "rag", "changed", "stale") == 0


def test_an_answer_comes_with_its_sources_and_times(seed):
    one, items, _ = seed
    reader = Reader()
    asked = items.asked["facts"][0]
    answer = reader.ask(asked.look_up, one.retriever, 3)
    assert len(answer.hits) == 3
    assert set(answer.seconds) == {"retrieve", "first", "rest"}
    assert answer.prompt_tokens > 40
    assert answer.supported is (bool(answer.cited) if not answer.refused else None)
    single = reader.ask(asked.look_up, one.retriever, 1)
    assert single.text == asked.wanted
    assert single.cited == (1,)
    assert reader.ask("5 + 4 =").text == "9", "without a retriever it answers from memory"


def test_a_question_longer_than_the_context_and_an_empty_index_say_so(seed):
    one, *_ = seed
    reader = Reader()
    with pytest.raises(BadInput, match="tokens, and this model reads 512 at most"):
        reader.ask("why " * 700, one.retriever, 1)
    with pytest.raises(BadInput, match="There is no question"):
        reader.ask(" ", one.retriever)
    with Store(":memory:", create=True) as empty, pytest.raises(Refused, match="The index is empty"):
        reader.ask("Who?", Retriever(empty))
    hits = one.retriever.find("Who lives in Oslo?", 30).hits
    got = fit("Who lives in Oslo?", hits, reader.tokenizer, 512)
    assert 0 < len(got.hits) < 30
    assert got.left_out == 30 - len(got.hits)
    assert got.tokens <= 512


def test_citations_are_checked_and_not_believed():
    passages = ["Ada lives in Oslo.", "Bo works as a baker."]
    assert citations("Oslo", passages) == (1,)
    assert citations("A baker [2], in Oslo [1]", passages) == (1, 2)
    assert citations("Lima", passages) == citations("Oslo [7]", ["Rome"]) == ()
    assert citations("os", passages) == (), "no half words"
    assert citations(f"{NOT_SAID} [1]", passages) == ()
    assert declines("Sorry, it is not said") and not declines("Oslo")  # noqa: PT018
    other = prompt("Where?", passages, "some/model")
    assert "[1] Ada lives in Oslo." in other and other.endswith("Question: Where?")  # noqa: PT018
    assert prompt("Where?", [], EMBEDDED) == "Where?"


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return recorded()


def test_the_record_is_of_the_base_that_is_shipped_and_whole(record):
    assert record["base"] == base_hash()
    assert record["command"].startswith("deltalab rag experiment")
    found = bands(record["cells"])
    for arm in ARMS:
        wanted = {"facts", "rare", "changed", "nowhere", "skills"} | ({"crowd"} if arm in RETRIEVING else set())
        assert {need for a, need, m in found if a == arm and m == "right"} >= wanted, arm
    assert {c.measure for c in record["cells"]} <= set(MEASURES)
    told = {(how, count) for how, counts in WORDINGS.items() for count in counts}
    assert {(r["told"], r["wordings"]) for r in record["wordings"]} == told
    assert all(0 <= c.value <= 1 for c in record["cells"] if c.measure in ("right", "invented", "stale", "faithful"))
    assert len({c.seed for c in record["cells"]}) == record["settings"]["seeds"]


def test_the_record_reaches_what_the_experiment_promises(record):
    found = {key: band.mean for key, band in bands(record["cells"]).items()}
    assert found["base", "facts", "right"] <= 0.05
    assert found["rag", "facts", "right"] >= 0.85
    assert found["rag", "changed", "right"] >= 0.85
    assert found["lora", "json", "right"] >= 0.9
    assert found["rag", "changed", "update_seconds"] < 1 < found["lora", "changed", "update_seconds"]


def test_every_claim_of_the_usual_table_was_measured(record):
    found = verdicts(bands(record["cells"]))
    assert len(found) == len(CLAIMS)
    assert all(v.figures for v in found)


# --- the command ------------------------------------------------------------------------------------------------------


def said(capsys, *arguments):
    assert main(["rag", *arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_index_ask_evaluate_raft(capsys, tmp_path):
    index = str(tmp_path / "index")
    told = said(capsys, "index", "--world", "--to", index)
    assert (told["added"], told["chunks"], told["sources"]) == (220, 220, 1)
    assert said(capsys, "index", "--world", "--to", index)["unchanged"] == 220
    person = NEWCOMERS[0]
    asked = question(person.name, "city", 1)
    answer = said(capsys, "ask", index, asked, "--passages", "1")
    assert answer["answer"] == person.city
    assert answer["cited"] == [1]
    assert answer["passages"][0]["source"] == "people.csv"
    (tmp_path / "qa.csv").write_text(f"prompt,completion\n{asked},{person.city}\n")
    for quality in said(capsys, "evaluate", index, "--questions", str(tmp_path / "qa.csv")):
        assert quality["questions"] == 1
    made = said(capsys, "raft", index, "--questions", str(tmp_path / "qa.csv"), "--out", str(tmp_path / "rows.jsonl"))
    assert made == {"rows": 1, "left_out": 0, "out": str(tmp_path / "rows.jsonl")}
    assert json.loads((tmp_path / "rows.jsonl").read_text())["completion"] == person.city
    assert main(["rag", "ask", index, asked, "--retrieve-only", "--mode", "lexical", "--passages", "2"]) == 0
    assert "people.csv, row" in capsys.readouterr().out
    assert said(capsys, "index", "--delete", "people.csv", "--to", index)["chunks"] == 0


def test_bad_input_is_one_sentence_and_code_2(capsys, tmp_path):
    for arguments, says in (
        (["ask", str(tmp_path), "Who?"], "There is no index"),
        (["index", "--to", str(tmp_path / "x")], "nothing to index"),
        (["index", str(tmp_path / "no.txt"), "--to", str(tmp_path / "x")], "There is no file"),
        (["evaluate", "--embedder", "no such:thing"], "There is no embedder"),
        (["experiment", "--set", "seeds=9"], "seeds must be at most 3"),
    ):
        assert main(["rag", *arguments]) == 2, arguments
        assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists(), "no index is begun for what cannot be read"


def test_retrieval_needs_no_torch():
    """What the server's pages do: index, search, write the prompt."""
    code = (
        "import sys; from core.rag.store import Store; from core.rag.retrieve import Retriever\n"
        "from core.rag.quality import world_documents; from core.rag.answer import prompt\n"
        "import core.rag.experiment, core.guide.evidence, core.guide.plan\n"
        "s = Store(':memory:', create=True); s.put(world_documents(30)); Retriever(s).find('Who?')\n"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.alone
def test_a_query_on_twenty_thousand_chunks_is_quick(tmp_path):
    """A fifth of the 100,000 of `deltalab rag bench`, in half of its 50 ms, of processor time."""
    from core.rag.bench import bench

    found = bench(20_000, 20, tmp_path)
    assert found["chunks"] == 20_000
    assert found["modes"]["hybrid"]["cpu_median_ms"] <= 25


def test_the_worlds_table_is_the_same_every_time():
    assert world_documents(30) == world_documents(30)


def test_further_seeds_are_added_behind_those_recorded(record):
    half = {**record, "settings": {**record["settings"], "seeds": 1, "first": 0}, "cells": [1], "wordings": [2]}
    more = {
        **half,
        "settings": {**half["settings"], "seeds": 2, "first": 1},
        "cells": [3],
        "wordings": [4],
        "seconds": 5.0,
    }
    both = experiment.joined(half, more)
    assert (both["cells"], both["wordings"]) == ([1, 3], [2, 4])
    assert both["settings"]["seeds"] == 3
    assert both["seconds"] == half["seconds"] + 5
    with pytest.raises(BadInput, match="had other settings"):
        experiment.joined(half, {**more, "settings": {**more["settings"], "items": 9}})
    with pytest.raises(BadInput, match="had other settings"):
        experiment.joined(both, more)
    old, new = {"measure": "first_ms", "value": 9}, {"measure": "first_ms", "value": 7}
    right = {"measure": "right", "value": 1}
    quick = {**more, "settings": {**more["settings"], "part": "latency", "first": 0}, "cells": [new]}
    assert experiment.joined({**half, "cells": [right, old]}, quick)["cells"] == [right, new]
