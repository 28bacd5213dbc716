"""The option `compile`: the same losses, only where it works, and neither in scores nor in the measured step."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import RunConfig, resolved, with_settings
from core.events import Failed, Finished, Step
from core.fast import compiled
from core.train import train
from tests import checkpoints
from tests.core.test_fast import prepared


def config(folder: Path, **changes: Any) -> RunConfig:
    base = checkpoints.write("llama_biased", folder / "base")
    rows = checkpoints.write_doubles(folder / "rows.jsonl", 12)
    asked = {"learning_rate": 1e-2, "steps": 4, "batch_size": 2, "eval_items": 4, "precision": "float32", **changes}
    return resolved(with_settings(RunConfig(base=str(base), task=None, data=str(rows), method="lora"), asked))


def test_a_compiled_run_has_the_losses_of_a_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's front end alone: it reads the layers and their gradients, and leaves the loops to PyTorch."""
    taken: list[str] = []

    def reading(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        taken.append(graph.print_readable(print_output=False))
        return graph.forward

    real = compiled.compile_layers
    monkeypatch.setattr(compiled, "compile_layers", lambda model: real(model, backend=reading))
    asked = config(tmp_path, compile=True)
    events = list(train(asked, tmp_path / "compiled"))
    assert isinstance(events[-1], Finished), events[-1]
    assert events[-1].others == "compiled"
    assert events[-1].ledger
    # One graph for a layer in training and no more: all layers share it, scores do not go through it.
    assert 1 <= len(taken) <= 2
    assert "lora_" in taken[0]
    plain = list(train(with_settings(asked, {"compile": False, "fast_step": False}), tmp_path / "plain"))
    mine, theirs = ([e.loss for e in found if isinstance(e, Step)] for found in (events, plain))
    assert mine == pytest.approx(theirs, rel=1e-5)


def test_where_it_does_not_work_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(tmp_path, compile=True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    last = list(train(asked, tmp_path / "run"))[-1]
    assert isinstance(last, Failed)
    assert "C++ compiler" in last.sentence
    assert "compile" in last.advice


def test_reasons_not_to_compile() -> None:
    model = prepared("grouped", "lora")
    here: dict[str, Any] = {"device": torch.device("cpu"), "processes": 1, "recomputing": False, "in_few_bits": False}
    assert "compiler" in compiled.why_not(model, **here) or compiled.why_not(model, **here) == ""
    for name, value, reason in (
        ("processes", 2, "processes"), ("recomputing", True, "recomputed"), ("in_few_bits", True, "decoded"),
    ):  # fmt: skip
        assert reason in compiled.why_not(model, **{**here, name: value})
    assert "no list" in compiled.why_not(torch.nn.Linear(2, 2), **here)


def test_a_checkpoint_from_before_the_knob_still_fits(tmp_path: Path) -> None:
    """A knob that comes later stands at its default: a run that was interrupted before can go on."""
    from core.train import _as_today

    whole = RunConfig(method="lora").to_dict()
    older = {**whole, "train": {k: v for k, v in whole["train"].items() if k != "compile"}}
    assert _as_today(older)["train"] == whole["train"]
    unknown = {**whole, "train": {"no_such_knob": 1}}
    assert _as_today(unknown) == unknown
    assert dataclasses.asdict(RunConfig().train)["compile"] is False
