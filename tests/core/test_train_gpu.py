"""The training loop on a CUDA device: it learns, and the measured ledger adds up to the allocator's own peak."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from core import events
from core.config import RunConfig, TrainConfig
from core.methods import METHODS
from core.train import _Run, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("method", METHODS)
def test_a_short_run_learns_and_accounts_for_its_memory(method: str, tmp_path: Path) -> None:
    config = RunConfig(method=method, train=TrainConfig(steps=40, eval_items=20, skill_items=8))
    stream = list(train(config, tmp_path))
    last = stream[-1]
    assert isinstance(last, events.Finished), last
    losses = [e.loss for e in stream if isinstance(e, events.Step)]
    assert sum(losses[-5:]) < sum(losses[:5])
    ledger = last.ledger
    terms = {t["name"]: t["bytes"] for t in ledger["terms"]}
    assert sum(terms.values()) == ledger["allocated_bytes"]
    # What captured steps keep is the allocator's reserve, not allocated once they are captured.
    alone = ledger["allocated_bytes"] - terms.get("captured steps", 0)
    assert alone <= ledger["reserved_bytes"]
    # The allocator rounds every block up to 512 bytes, so its count is a little above the sum of the tensors.
    assert alone <= torch.cuda.max_memory_allocated() * 1.05


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_is_the_peak_that_the_allocator_counted(method: str, accumulation: int, tmp_path: Path) -> None:
    """Neither more nor less: what the step took, and all that lay there before it, against the allocator's counter."""
    loop = TrainConfig(steps=4, batch_size=8, accumulation=accumulation, eval_items=4, skill_items=0)
    config = RunConfig(method=method, train=loop)
    # What the libraries take once and keep (workspaces of cuBLAS, tables of bitsandbytes) is there from here on.
    assert isinstance(list(train(config, tmp_path / "first"))[-1], events.Finished)
    gc.collect()
    there = torch.cuda.memory_allocated()
    run = _Run(config, tmp_path / "second", lambda: False)
    run._prepare()
    assert run.measured_step > 1
    while run.step < run.measured_step:
        run._train_step()
    reached = torch.cuda.max_memory_allocated() - there
    terms = {t["name"]: t["bytes"] for t in run.ledger["terms"]}
    # Tensors are counted by their own size; the allocator rounds each up to 512 bytes, which weighs little here.
    assert 0.95 * reached <= run.ledger["allocated_bytes"] <= 1.01 * reached, (terms, reached)
    assert 0 <= terms["gradients"] <= 4 * run.trainable + 512 * len(run.parameters)
    if run.ledger["peak_at"] == "optimizer":
        assert terms["gradients"] == 4 * run.trainable
