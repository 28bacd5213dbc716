"""A run's record has its measured memory and what was expected of it, or the reason why there is nothing to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig, with_settings
from core.events import Finished
from core.memory.predicted import OLDER, TOO_SHORT, Measured, predicted, residuals, why_not
from core.memory.setup import Pass
from core.methods import METHODS
from tests.core.memory_support import OTHER, Case, grid, run_of

# Of the whole. In bfloat16 the CPU's library takes scratch for some products (oneDNN), which no trace can see.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02}
ONE = Measured((Pass(4, 64, 10),), "float32", "eager")

# One run a method: in bfloat16, which a CPU may choose by itself, and with settings that no estimate ships for.
QUICK: list[Case] = [
    *((method, "bfloat16", settings) for method, settings in OTHER.items()),
    ("lora", "bfloat16", {"gradient_checkpointing": True}),
    ("lora", "float32", {"rank": 1}),
    ("full", "float32", {"accumulation": 3, "length_buckets": False}),
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.hardware.best_threads", lambda: 1)


def test_the_grid_of_make_bench_memory_has_every_method() -> None:
    assert set(OTHER) == set(METHODS)
    assert {case[:2] for case in grid()} == {(m, p) for m in METHODS for p in TOLERANCE}
    for method, settings in OTHER.items():
        with_settings(RunConfig(task="json", method=method), settings)


@pytest.mark.parametrize("case", QUICK, ids=lambda c: "-".join(map(str, (*c[:2], *c[2]))))
def test_a_run_has_both_ledgers(case: Case, tmp_path: Path) -> None:
    end = run_of(case, tmp_path, batch_size=4)
    assert isinstance(end, Finished), end
    rows = residuals(end.predicted, end.ledger)
    assert rows, why_not(end.predicted, end.ledger)
    assert why_not(end.predicted, end.ledger) == ""
    whole = rows[-1]
    assert abs(whole["difference"]) <= TOLERANCE[case[1]] * whole["measured"], rows
    resident = [r for r in rows if r["name"] in ("frozen weights", "trained weights", "optimizer state")]
    assert [r["name"] for r in resident] == ["frozen weights", "trained weights", "optimizer state"]
    assert all(r["difference"] == 0 for r in resident), rows


@pytest.mark.parametrize(("precision", "others"), [("float32", "written out"), ("bfloat16", "written out")])
def test_a_run_says_how_its_other_steps_went(precision: str, others: str, tmp_path: Path) -> None:
    assert run_of(("bitfit", precision, {}), tmp_path, batch_size=2).others == others


def test_a_run_that_was_resumed_behind_the_measured_step_knows_how_that_went(tmp_path: Path) -> None:
    from core.train import CHECKPOINT, train

    few = {"steps": 4, "train_examples": 64, "eval_items": 4, "skill_items": 0, "precision": "float32",
           "batch_size": 4, "rank": 3, "checkpoint_every": 1, "length_buckets": False}  # fmt: skip
    config = with_settings(RunConfig(task="json", method="lora"), few)
    whole = list(train(config, tmp_path / "whole"))[-1]
    assert isinstance(whole, Finished)
    first = train(config, tmp_path / "parts")
    for event in first:
        if event.kind == "saved" and event.step == 3:
            break
    first.close()
    assert (tmp_path / "parts" / CHECKPOINT).exists()
    again = list(train(config, tmp_path / "parts", resume=True))[-1]
    assert isinstance(again, Finished)
    assert again.predicted == whole.predicted
    assert abs(residuals(again.predicted, again.ledger)[-1]["difference"]) < 1000


# --- what cannot be said ----------------------------------------------------------------------------------------------


def reason(config: RunConfig, step: Measured) -> str:
    (key, sentence), *more = predicted(config, step).items()
    assert (key, more) == ("reason", [])
    assert sentence.endswith(".")
    return str(sentence)


def test_a_reason_stands_in_the_place_of_a_figure(tmp_path: Path) -> None:
    config = RunConfig(task="json", method="lora")
    assert reason(config, Measured((), "float32", "eager")).startswith("This run trained a classifier")
    assert reason(config, Measured(ONE.passes, "float32", "eager", processes=2)).startswith("2 processes shared")
    assert "reads 512 tokens at most" in reason(config, Measured((Pass(1, 600, 9),), "float32", "sdpa"))
    gone = RunConfig(base=str(tmp_path / "gone"), task="json", method="lora")
    assert reason(gone, ONE) not in ("", OLDER)


def test_a_defect_of_the_trace_breaks_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError("by nothing\nat all")

    monkeypatch.setattr("core.memory.trace.trace", broken)
    config = with_settings(RunConfig(task="json", method="lora"), {"rank": 1})
    assert reason(config, ONE) == "The trace of this step broke off with ZeroDivisionError: by nothing."


def test_a_run_of_one_step_is_too_short(tmp_path: Path) -> None:
    end = run_of(("bitfit", "float32", {}), tmp_path, batch_size=2, steps=1)
    assert (end.predicted, end.ledger) == ({}, {})
    assert why_not(end.predicted, end.ledger) == TOO_SHORT


def test_why_a_record_has_no_residuals() -> None:
    real = {"terms": [{"name": "frozen weights", "bytes": 1}], "allocated_bytes": 1}
    assert why_not(real, real) == ""
    assert why_not({}, real) == OLDER
    assert why_not({"reason": "No."}, real) == "No."
    assert why_not(real, {}) == TOO_SHORT


def test_attention_is_that_of_the_run(tmp_path: Path) -> None:
    """Where one row of the data is long, the fused kernel runs on short rows, too; it keeps no probabilities."""
    config = with_settings(RunConfig(task="json", method="full"), {"max_length": 400})
    step = Pass(8, 200, 100)
    plain, fused = (
        predicted(config, Measured((step,), "float32", name))["allocated_bytes"] for name in ("eager", "sdpa")
    )
    assert fused < plain
