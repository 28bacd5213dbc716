"""Captured steps and kernels on a CUDA device: the same losses as the steps that come one by one, and less time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import RunConfig, TrainConfig
from core.events import Finished, Step
from core.train import _Run, train
from kernels.base import SETTING

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LOOP: dict[str, Any] = {"steps": 30, "eval_items": 4, "skill_items": 0, "eval_every": 1000}


def losses(method: str, folder: Path, **loop: Any) -> list[float]:
    events = list(train(RunConfig(method=method, train=TrainConfig(**{**LOOP, **loop})), folder))
    assert isinstance(events[-1], Finished), events[-1]
    return [e.loss for e in events if isinstance(e, Step)]


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "bitfit"])
def test_a_captured_run_learns_what_the_eager_one_learns(method: str, tmp_path: Path) -> None:
    captured = losses(method, tmp_path / "captured", precision="float32")
    eager = losses(method, tmp_path / "eager", precision="float32", fast_step=False)
    assert captured[:8] == pytest.approx(eager[:8], rel=1e-3)
    assert captured[-1] == pytest.approx(eager[-1], rel=0.1)


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "bitfit"])
def test_with_every_kernel_a_run_learns_what_it_learns_without(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kernels on, whatever was measured, captured and one by one; against PyTorch's own operations."""
    pytest.importorskip("triton")
    monkeypatch.setenv(SETTING, "1")
    config = RunConfig(method=method, train=TrainConfig(**{**LOOP, "precision": "float32"}))
    run = _Run(config, tmp_path / "looked at", lambda: False)
    run._prepare()
    assert run.with_kernels is not None, run.plain_because
    assert run.graphs is not None
    assert run.graphs.form is run.with_kernels
    mine = losses(method, tmp_path / "mine", precision="float32")
    one_by_one = losses(method, tmp_path / "one by one", precision="float32", accumulation=2, batch_size=16)
    plain = losses(method, tmp_path / "plain", precision="float32", fast_step=False)
    twice = losses(method, tmp_path / "twice", precision="float32", accumulation=2, batch_size=16, fast_step=False)
    assert mine[:8] == pytest.approx(plain[:8], rel=1e-3)
    assert one_by_one[:8] == pytest.approx(twice[:8], rel=1e-3)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_steps_really_are_captured_and_take_less_time(method: str, tmp_path: Path) -> None:
    def seconds(fast: bool) -> float:
        config = RunConfig(method=method, train=TrainConfig(**{**LOOP, "steps": 500, "fast_step": fast}))
        run = _Run(config, tmp_path / f"{method}{fast}", lambda: False)
        run._prepare()
        run.measured_step = 0
        for _ in range(120):  # every bucket twice, at least
            run._train_step()
        if fast:
            assert run.graphs is not None
            assert run.graphs.reason == ""
            assert run.graphs.graphs
            assert run.graphs.bytes > 0
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(40):
            run._train_step()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    assert seconds(True) < 0.8 * seconds(False)


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = losses("lora", tmp_path / "whole")
    config = RunConfig(method="lora", train=TrainConfig(**LOOP))
    seen: list[float] = []
    for event in train(config, tmp_path / "cut", should_stop=lambda: len(seen) >= 15):
        if isinstance(event, Step):
            seen.append(event.loss)  # noqa: PERF401 (should_stop looks at it meanwhile)
    seen += [e.loss for e in train(config, tmp_path / "cut", resume=True) if isinstance(e, Step)]
    assert seen == pytest.approx(whole, rel=1e-3)
