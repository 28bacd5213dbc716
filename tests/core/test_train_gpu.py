"""The training loop on a CUDA device: it learns, and the measured ledger adds up to the allocator's own peak."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core import events
from core.config import RunConfig, TrainConfig
from core.methods import METHODS
from core.train import train

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
    assert sum(terms.values()) == ledger["allocated_bytes"] <= ledger["reserved_bytes"]
    # The allocator rounds every block up to 512 bytes, so its count is a little above the sum of the tensors.
    assert ledger["allocated_bytes"] <= torch.cuda.max_memory_allocated() * 1.05
