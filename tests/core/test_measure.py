"""The measured ledger's gradients: each counted once, for as long as it exists, whatever the peak falls on.

The steps here are made by hand, so that what exists at the peak is known without measuring it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core import events
from core.config import RunConfig, resolved, with_settings
from core.memory.ledger import Ledger
from core.memory.measure import Mark, measure_step, resident_terms
from core.train import train
from tests import checkpoints

CPU = torch.device("cpu")
SPIKE = 1 << 22  # bytes: far more than everything else in these steps


class Spike(torch.autograd.Function):
    """Passes through, and takes SPIKE bytes for a moment in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        torch.empty(SPIKE, dtype=torch.uint8)
        return grad


def layers(*, sizes: tuple[int, ...] = (8, 24, 40, 16)) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))


def held(*modules: nn.Module) -> int:
    """Bytes of the modules' parameters, which are those of their gradients."""
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters() if p.requires_grad)


def measured(
    model: nn.ModuleList,
    accumulation: int = 1,
    *,
    spike_behind: int | None = None,
    spiked: Callable[[int], bool] = lambda batch: True,
    optimizer_bytes: int = 0,
) -> Ledger:
    """A step of `accumulation` batches through the layers.

    spike_behind: put a spike in front of this layer (or behind the last), so that the gradients of this layer and of
    those behind it exist when it comes. spiked: in which batches. optimizer_bytes: taken for a moment while the
    optimizer is at work.
    """
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, foreach=False)

    def step(mark: Mark) -> None:
        for batch in range(accumulation):
            mark("forward")
            x = torch.ones(4, model[0].in_features)
            for number, layer in enumerate(model):
                x = layer(Spike.apply(x) if number == spike_behind and spiked(batch) else x)
            if spike_behind == len(model) and spiked(batch):
                x = Spike.apply(x)
            mark("backward")
            x.square().mean().backward()
        mark("optimizer")
        torch.empty(optimizer_bytes, dtype=torch.uint8)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):  # the first builds what is built once
        _, ledger = measure_step(step, model, optimizer, CPU)
    assert sum(t.bytes for t in ledger.terms) == ledger.allocated_bytes
    assert all(t.bytes >= 0 for t in ledger.terms)
    assert all(p.grad is None for p in model.parameters())
    return ledger


def gradients(ledger: Ledger) -> int:
    return next(t.bytes for t in ledger.terms if t.name == "gradients")


def temporaries(ledger: Ledger) -> int:
    return next(t.bytes for t in ledger.terms if t.name == "activations and temporaries")


@pytest.mark.parametrize("accumulation", [1, 4])
def test_at_a_peak_in_the_optimizer_every_gradient_exists_once(accumulation: int) -> None:
    model = layers()
    ledger = measured(model, accumulation, optimizer_bytes=SPIKE)
    assert ledger.peak_at == "optimizer"
    assert gradients(ledger) == held(model)
    # The temporary, and what the loop still holds of the last batch: its two ends, of a few hundred bytes.
    assert SPIKE <= temporaries(ledger) <= SPIKE + 4096


@pytest.mark.parametrize("behind", [1, 2, 3])
def test_at_a_peak_inside_the_backward_pass_those_behind_it_exist(behind: int) -> None:
    model = layers()
    ledger = measured(model, spike_behind=behind)
    assert ledger.peak_at == "backward"
    assert gradients(ledger) == held(*list(model)[behind:])


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_peak_in_one_of_several_batches(batch: int) -> None:
    """In the first batch the gradients are being made; from the second on all exist, and are added to in place."""
    model = layers()
    ledger = measured(model, 4, spike_behind=2, spiked=lambda number: number == batch)
    assert ledger.peak_at == "backward"
    assert gradients(ledger) == (held(model[2]) if batch == 0 else held(model))


def test_a_peak_in_the_forward_pass_of_a_later_batch_has_all_gradients() -> None:
    """The inputs are far larger than the layers."""
    model = layers(sizes=(4, 4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)

    def step(mark: Mark) -> None:
        for rows in (1, 1, 5000):
            mark("forward")
            y = model[1](model[0](torch.ones(rows, 4)).relu()).sum()
            if rows > 1:
                torch.empty(SPIKE, dtype=torch.uint8)
            mark("backward")
            y.backward()
        mark("optimizer")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    _, ledger = measure_step(step, model, optimizer, CPU)
    assert ledger.peak_at == "forward"
    assert gradients(ledger) == held(model)


def test_what_others_held_before_and_release_meanwhile_makes_no_room() -> None:
    """As when Python collects an old cycle during the step, and the tensors that hung on it go with it."""
    model = layers()
    quiet = measured(model, spike_behind=2)
    garbage = [torch.ones(SPIKE, dtype=torch.uint8)]
    ledger = measured(model, spike_behind=2, spiked=lambda _: garbage.clear() is None)
    assert ledger == dataclasses.replace(quiet, process_bytes=ledger.process_bytes)


def test_a_gradient_that_is_itself_the_last_allocation_of_the_peak_is_a_gradient() -> None:
    """One wide layer and one row: nothing is as large as the gradient of its weight, and nothing comes after it."""
    model = nn.ModuleList([nn.Linear(1000, 500, bias=False)])
    ledger = measured(model)
    assert ledger.peak_at == "backward"
    assert gradients(ledger) == held(model) == 4 * 1000 * 500
    assert temporaries(ledger) < 100_000


def test_a_gradient_that_is_gone_before_the_peak_is_not_at_it() -> None:
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)

    def step(mark: Mark) -> None:
        mark("forward")
        y = model[0](torch.ones(4, 8)).sum()
        mark("backward")
        y.backward()
        mark("optimizer")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.empty(SPIKE, dtype=torch.uint8)

    _, ledger = measure_step(step, model, optimizer, CPU)
    assert ledger.peak_at == "optimizer"
    assert gradients(ledger) == 0


def test_frozen_parameters_have_no_gradients() -> None:
    model = layers()
    model[1].requires_grad_(False)
    ledger = measured(model, 2, optimizer_bytes=SPIKE)
    assert gradients(ledger) == held(model) == held(model[0], model[2])


def test_two_gradients_in_one_storage_count_once() -> None:
    """A parameter that is the two halves of another's gradient: views of one allocation, twice as large as each."""
    model = nn.ModuleList()
    model.a, model.b = nn.Parameter(torch.ones(300)), nn.Parameter(torch.ones(300))

    class Halves(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.cat([a, b])

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
            whole = grad * 2
            return whole[:300], whole[300:]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)

    def step(mark: Mark) -> None:
        mark("forward")
        y = Halves.apply(model.a, model.b)
        mark("backward")
        y.sum().backward()
        mark("optimizer")
        assert model.a.grad.untyped_storage().data_ptr() == model.b.grad.untyped_storage().data_ptr()
        torch.empty(SPIKE, dtype=torch.uint8)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    _, ledger = measure_step(step, model, optimizer, CPU)
    assert gradients(ledger) == 4 * 600


def test_every_storage_belongs_to_one_resident_term() -> None:
    """Tied weights, a buffer that is a view of a weight, and an optimizer that keeps the weight itself as its state."""
    model = nn.ModuleList([nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False), nn.Linear(5, 5, bias=False)])
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    model.register_buffer("rows", model[2].weight.detach()[1:])
    optimizer = torch.optim.SGD([model[0].weight], lr=0.1)
    optimizer.state[model[0].weight] = {"itself": model[0].weight, "mean": torch.zeros(6, 6)}
    terms = {t.name: t.bytes for t in resident_terms(model, optimizer)}
    assert terms == {"frozen weights": 4 * 25, "trained weights": 4 * 36, "optimizer state": 4 * 36}


@pytest.mark.parametrize(
    ("batch", "part", "number", "exist"),
    [
        (0, "forward", 1, []), (0, "backward", 2, [2]), (0, "backward", 1, [1, 2]), (0, "backward", 3, []),
        (1, "forward", 0, [0, 1, 2]), (1, "backward", 2, [0, 1, 2]), (None, "optimizer", 0, [0, 1, 2]),
    ],
)  # fmt: skip
def test_with_a_peak_counter_alone_those_written_before_the_peak_are_known(
    monkeypatch: pytest.MonkeyPatch, batch: int | None, part: str, number: int, exist: list[int]
) -> None:
    """The way a GPU is measured, with a counter that this test moves by hand: before layer `number` of that batch."""
    counter = {"now": 700, "most": 9999}
    for name, value in {
        "synchronize": lambda _: None, "memory_allocated": lambda _: counter["now"], "memory_reserved": lambda _: 4321,
        "max_memory_allocated": lambda _: counter["most"],
        "reset_peak_memory_stats": lambda _: counter.update(most=counter["now"]),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)

    class Peak(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, here: tuple[int, int]) -> torch.Tensor:
            ctx.here = here
            if (*here, "forward") == (batch, number, part):
                counter["most"] = SPIKE
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
            if (*ctx.here, "backward") == (batch, number, part):
                counter["most"] = SPIKE
            return grad, None

    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(mark: Mark) -> None:
        for k in range(3):
            mark("forward")
            x = torch.ones(4, 8)
            for i, layer in enumerate(model):
                x = layer(Peak.apply(x, (k, i)))
            mark("backward")
            Peak.apply(x, (k, 3)).square().mean().backward()
        mark("optimizer")
        if part == "optimizer":
            counter["most"] = SPIKE
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    _, ledger = measure_step(step, model, optimizer, torch.device("cuda"))
    assert (ledger.peak_at, ledger.reserved_bytes) == (part, 4321)
    assert gradients(ledger) == held(*(model[i] for i in exist))
    assert gradients(ledger) + temporaries(ledger) == SPIKE - 700


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_loop_itself(accumulation: int, tmp_path: Path) -> None:
    """Full fine-tuning by the real loop: with several batches the peak lies behind the first, where all exist."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"twice {i}", "completion": f"{2 * i}"}) for i in range(40)))
    base = checkpoints.write("llama_biased", tmp_path / "base")
    run = RunConfig(base=str(base), task=None, data=str(rows), method="full")
    loop = {"learning_rate": 1e-3, "steps": 2, "batch_size": 4, "eval_items": 4, "precision": "float32"}
    last = list(train(resolved(with_settings(run, loop | {"accumulation": accumulation})), tmp_path / "run"))[-1]
    assert isinstance(last, events.Finished), last
    ledger = Ledger.from_dict(last.ledger)
    assert sum(t.bytes for t in ledger.terms) == ledger.allocated_bytes == last.peak_bytes
    if accumulation > 1 or ledger.peak_at == "optimizer":
        assert gradients(ledger) == 4 * last.trainable
    assert gradients(ledger) <= 4 * last.trainable
