"""The validation page: the record that was written, as it is; and the visitor's own runs, term by term."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from app import charts_validation
from core.config import RunConfig
from core.memory.predicted import ONE_TERM, TOO_SHORT
from core.memory.validation import record
from tests.app.filling import Hand, events
from tests.app.test_views import words as escaped


def words(page: Any) -> str:
    return escaped(page).replace("\\", "")


def page() -> None:
    from app.views import validation

    validation.render()


def run_page() -> None:
    from app.views import runs

    runs.render()


def ledger(**terms: int) -> dict[str, Any]:
    rows = [{"name": n.replace("_", " "), "bytes": b, "formula": "", "source": ""} for n, b in terms.items()]
    return {"terms": rows, "peak_at": "head backward", "allocated_bytes": sum(terms.values()), "reserved_bytes": 0,
            "process_bytes": 0}  # fmt: skip


MEASURED = ledger(frozen_weights=1000, trained_weights=40, activations_and_temporaries=600)
PREDICTED = ledger(frozen_weights=1000, trained_weights=40, activations=400, logits_and_loss=190, batch=4)


@pytest.mark.skipif(not record(), reason="make bench-memory has not written its record here")
def test_the_record_is_shown_as_it_is(visit: Any) -> None:
    found = record()
    text = words(visit(page)).replace("\u00a0", " ")
    mean = sum(abs(r["error"]) for r in found["rows"]) / len(found["rows"])
    assert f"{len(found['rows'])} published peaks: off by {100 * mean:.1f} % on average" in text
    assert f"{found['summary']['covered']} of {found['summary']['rows']} rows are covered" in text
    from app.views.validation import LACKING, summed

    assert sum(n for _, n in summed(found["uncovered"])) == len(found["uncovered"]) == found["summary"]["uncovered"]
    for row in found["uncovered"]:
        lacking = LACKING.fullmatch(row["reason"])
        assert (lacking[1] if lacking else row["reason"]).replace("\u00a0", " ") in text
    told = found["reserved"]
    assert f"{told['rows']} published figures are of reserved memory" in text
    assert f"{told['within']} of {told['rows']}** lie within the range" in text
    assert "none is of a whole process" in text
    resident = found["resident"]
    assert f"{resident['others_within']} of {resident['others']}" in text
    for entry in resident["unexpressed"]:
        assert entry["reason"] in text
    speed = found["speed"]
    for reason in {r["reason"] for r in speed["uncovered"]}:
        assert reason in text
    for row in found["rows"]:
        assert not row["cause"] or row["cause"].replace("\u00a0", " ") in text


@pytest.mark.skipif(not record(), reason="make bench-memory has not written its record here")
def test_every_figure_has_what_it_must() -> None:
    found = record()
    for chart in (
        charts_validation.against(found["rows"]), charts_validation.errors(found["rows"]),
        charts_validation.waterfall(found["waterfall"]),
    ):  # fmt: skip
        assert chart.title
        assert not chart.title.endswith(".")
        assert len(chart.alt) > 30
        assert not chart.table.empty


def test_own_runs_are_shown_term_by_term_and_only_to_their_owner(visit: Any, store: Any) -> None:
    run = store.create("alice", RunConfig(), key="mine", cell="playground", title="Mine", direct=True)
    hand = Hand(store, run)
    *told, end = events(RunConfig())
    hand.say(*told, dataclasses.replace(end, ledger=MEASURED, predicted=PREDICTED))
    hand.leave()
    seen = visit(page)
    text = words(seen).replace("\u00a0", " ")
    assert "1 run: off by 0.37 % on average" in text
    table = next(d.value for d in seen.dataframe if "Residual" in d.value)
    assert list(table["Residual"]) == ["0 B", "0 B", "+6 B", "+6 B"]
    assert list(table["Term"]) == ["frozen weights", "trained weights", ONE_TERM, "all together"]
    assert "Runs without a comparison" not in text
    assert "None of yours has both yet" in words(visit(page, owner="bob"))


def finished(store: Any, key: str, **more: Any) -> Any:
    run = store.create("alice", RunConfig(), key=key, cell="playground", title=key, direct=True)
    hand = Hand(store, run)
    *told, end = events(RunConfig())
    hand.say(*told, dataclasses.replace(end, **more))
    hand.leave()
    return run


def test_a_run_without_a_comparison_says_why(visit: Any, store: Any) -> None:
    finished(store, "two", ledger=MEASURED, predicted={"reason": "2 processes shared this run's steps."})
    finished(store, "three", ledger=MEASURED, predicted={"reason": "2 processes shared this run's steps."})
    finished(store, "short")
    text = words(visit(page))
    assert "None of yours has both yet" in text
    assert "2 runs: 2 processes shared this run's steps." in text
    assert f"1 run: {TOO_SHORT}" in text


def test_a_runs_own_page_shows_its_memory_by_term(visit: Any, store: Any) -> None:
    both = {"ledger": MEASURED, "predicted": PREDICTED}
    quick = finished(store, "quick", **both, others="written out")
    seen = visit(run_page, run=quick.id)
    table = next(d.value for d in seen.dataframe if "Difference" in d.value)
    assert list(table["Difference"]) == ["0 B", "0 B", "+6 B", "+6 B"]
    assert [m.delta for m in seen.metric if m.label == "Peak memory"] == ["an upper bound"]
    assert "for them this is an upper bound" in words(seen)

    plain = visit(run_page, run=finished(store, "plain", **both).id)
    assert [m.delta for m in plain.metric if m.label == "Peak memory"] == [""]
    assert "upper bound" not in words(plain)

    alone = finished(store, "alone", ledger=MEASURED, predicted={"reason": "2 processes shared this run's steps."})
    text = words(visit(run_page, run=alone.id))
    assert "2 processes shared this run's steps." in text
    assert "activations and temporaries: 600 B" in text
    assert TOO_SHORT in words(visit(run_page, run=finished(store, "short").id))
