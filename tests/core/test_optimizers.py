"""Optimizers: what they say about themselves, and that a saved state continues bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.config import TrainConfig
from core.errors import BadInput
from core.optimizers import OPTIMIZERS, load_optimizer_state, make_optimizer, optimizer_state

# Above and below the size from which 8-bit states are used, and one that is no multiple of their block of 256.
SHAPES = ((64, 128), (16, 8), (70, 90), (5,))


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def step(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], number: int) -> None:
    generator = torch.Generator().manual_seed(100 + number)
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 / (1 + number)  # a schedule, as the loop sets it
    optimizer.step()


def test_the_knob_offers_exactly_these() -> None:
    field = next(f for f in TrainConfig.__dataclass_fields__.values() if f.name == "optimizer")
    assert field.metadata["choices"] == OPTIMIZERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_saved_without_pickles_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    through = parameters()
    optimizer, _ = make_optimizer(name, through, 1e-2, 0.1)
    for number in range(7):
        if number == 3:
            tensors, described = optimizer_state(optimizer)
            save_file({k: t.contiguous().clone() for k, t in tensors.items()}, tmp_path / "state.safetensors")
            (tmp_path / "state.json").write_text(json.dumps(described), encoding="utf-8")
            save_file({str(i): p.detach().clone() for i, p in enumerate(through)}, tmp_path / "p.safetensors")
        step(optimizer, through, number)

    resumed = parameters(seed=1)
    with torch.no_grad():
        for index, value in load_file(tmp_path / "p.safetensors").items():
            resumed[int(index)].copy_(value)
    second, _ = make_optimizer(name, resumed, 1e-2, 0.1)
    load_optimizer_state(
        second, load_file(tmp_path / "state.safetensors"), json.loads((tmp_path / "state.json").read_text())
    )
    for number in range(3, 7):
        step(second, resumed, number)
    for one, other in zip(through, resumed, strict=True):
        assert torch.equal(one, other)
    # And what they remember is the same too.
    first_state, second_state = optimizer_state(optimizer), optimizer_state(second)
    assert first_state[1] == second_state[1]
    assert list(first_state[0]) == list(second_state[0])
    assert all(torch.equal(t, second_state[0][k]) for k, t in first_state[0].items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_forgotten_would_be_noticed(name: str) -> None:
    """The test above would pass if the state did not matter; it does."""
    a, b = parameters(), parameters()
    first, _ = make_optimizer(name, a, 1e-2, 0.0)
    for number in range(3):
        step(first, a, number)
    with torch.no_grad():
        for one, other in zip(a, b, strict=True):
            other.copy_(one)
    fresh, _ = make_optimizer(name, b, 1e-2, 0.0)
    step(first, a, 3)
    step(fresh, b, 3)
    assert not any(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_from_before_the_first_step_loads(name: str) -> None:
    params = parameters()
    optimizer, _ = make_optimizer(name, params, 1e-2, 0.0)
    tensors, described = optimizer_state(optimizer)
    assert tensors == {}
    step(optimizer, params, 0)
    load_optimizer_state(optimizer, tensors, json.loads(json.dumps(described)))
    assert not optimizer.state


def test_a_parameter_that_never_had_a_gradient_has_no_state() -> None:
    params = parameters()
    optimizer, _ = make_optimizer("adamw", params, 1e-2, 0.0)
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    tensors, described = optimizer_state(optimizer)
    assert {k.split(".")[0] for k in tensors} == {"0"}
    again = parameters()
    other, _ = make_optimizer("adamw", again, 1e-2, 0.0)
    load_optimizer_state(other, tensors, described)
    assert list(other.state) == [again[0]]


def test_a_loaded_state_is_a_copy() -> None:
    params = parameters()
    optimizer, _ = make_optimizer("adamw", params, 1e-2, 0.0)
    step(optimizer, params, 0)
    tensors, described = optimizer_state(optimizer)
    kept = {k: t.clone() for k, t in tensors.items()}
    other, _ = make_optimizer("adamw", parameters(), 1e-2, 0.0)
    load_optimizer_state(other, kept, described)
    step(optimizer, params, 1)
    assert all(torch.equal(t, kept[k]) for k, t in optimizer_state(other)[0].items())


def test_a_learning_rate_kept_as_a_tensor_is_restored_in_place() -> None:
    """Captured steps read the learning rate from a tensor; after loading it must be a tensor still."""

    def build() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        params = parameters()
        return params, torch.optim.AdamW(params, lr=torch.tensor(0.25), fused=True)

    params, optimizer = build()
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.param_groups[0]["lr"].fill_(0.125)
    tensors, described = optimizer_state(optimizer)
    json.dumps(described)
    _, other = build()
    load_optimizer_state(other, tensors, described)
    assert torch.equal(other.param_groups[0]["lr"], torch.tensor(0.125))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_changed_on_the_way_are_restored(name: str) -> None:
    optimizer, _ = make_optimizer(name, parameters(), 1e-2, 0.1)
    optimizer.param_groups[0].update(lr=3e-4, weight_decay=0.3, betas=(0.8, 0.95))
    tensors, described = optimizer_state(optimizer)
    other, _ = make_optimizer(name, parameters(), 1e-2, 0.1)
    load_optimizer_state(other, tensors, json.loads(json.dumps(described)))
    group = other.param_groups[0]
    assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (3e-4, 0.3, (0.8, 0.95))
    assert type(group["betas"]) is type(optimizer.param_groups[0]["betas"])


def test_states_that_do_not_belong_are_refused() -> None:
    params = parameters()
    optimizer, _ = make_optimizer("adamw", params, 1e-2, 0.0)
    step(optimizer, params, 0)
    tensors, described = optimizer_state(optimizer)
    eight, _ = make_optimizer("adamw_8bit", parameters(), 1e-2, 0.0)
    with pytest.raises(BadInput, match="is that of AdamW; this run uses AdamW8bit"):
        load_optimizer_state(eight, tensors, described)
    fewer, _ = make_optimizer("adamw", parameters()[:2], 1e-2, 0.0)
    with pytest.raises(BadInput, match="other trained parameters"):
        load_optimizer_state(fewer, tensors, described)
    partial = {k: t for k, t in tensors.items() if k != "2.exp_avg"}
    with pytest.raises(BadInput, match=r"2\.exp_avg is missing"):
        load_optimizer_state(make_optimizer("adamw", parameters(), 1e-2, 0.0)[0], partial, described)


def test_what_is_not_as_named_is_said() -> None:
    assert make_optimizer("adamw", parameters(), 1e-2, 0.0)[1] == ()
    (small,) = make_optimizer("adamw_8bit", parameters(), 1e-2, 0.0)[1]
    assert small.startswith("2 of 4 trained tensors have fewer than 4,096 numbers")
    (everything,) = make_optimizer("adamw_8bit", parameters()[1:2], 1e-2, 0.0)[1]
    assert everything.startswith("All trained tensors")
    assert make_optimizer("adamw_8bit", parameters()[:1], 1e-2, 0.0)[1] == ()
    (paged,) = make_optimizer("paged_adamw_8bit", parameters()[:1], 1e-2, 0.0)[1]
    assert "not paged here" in paged


def test_nothing_is_warned_about_besides(recwarn: pytest.WarningsRecorder) -> None:
    params = parameters()
    optimizer, _ = make_optimizer("paged_adamw_8bit", params, 1e-2, 0.0)
    step(optimizer, params, 0)
    assert [str(w.message) for w in recwarn] == []


def test_bad_requests_are_refused() -> None:
    with pytest.raises(BadInput, match="no optimizer 'sgd'"):
        make_optimizer("sgd", parameters(), 1e-2, 0.0)
    with pytest.raises(BadInput, match="no parameters to train"):
        make_optimizer("adamw", [], 1e-2, 0.0)


def test_each_computes_adamw() -> None:
    """Against the formula in float64: θ ← θ(1 - lr·wd) - lr·m̂/(√v̂ + ε)."""
    rate, decay, beta1, beta2, eps = 1e-2, 0.1, 0.9, 0.999, 1e-8
    for name in OPTIMIZERS:
        for index, shape in enumerate(SHAPES):
            theta = parameters()[index].detach().double()
            m, v = torch.zeros(shape, dtype=torch.double), torch.zeros(shape, dtype=torch.double)
            one = [torch.nn.Parameter(theta.float())]
            optimizer, _ = make_optimizer(name, one, rate, decay)
            generator = torch.Generator().manual_seed(index)
            for number in range(1, 6):
                grad = torch.randn(shape, generator=generator)
                one[0].grad = grad.clone()
                optimizer.step()
                g = grad.double()
                m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
                update = (m / (1 - beta1**number)) / ((v / (1 - beta2**number)).sqrt() + eps)
                theta = theta * (1 - rate * decay) - rate * update
            eight_bit = name != "adamw" and theta.numel() >= 4096
            error = (one[0].double() - theta).abs()
            if eight_bit:
                # States in 8 bits: about 1 % of a step on average, and steps are of size rate.
                assert error.mean() < 5 * rate * 0.02
            else:
                assert error.max() < 1e-6
