"""A kernel against its reference in 64 bits: every output and every gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from kernels.base import TOLERANCE

# A result may err by that much more than PyTorch's own operations in the same dtype do, but for what is noise anyway.
MORE_THAN_PLAIN, NOISE = 1.25, 0.5


def kernel(name: str) -> Any:
    """The file of that name."""
    return import_module(f"kernels.{name}")


@contextmanager
def unwritten_is_nan() -> Iterator[None]:
    """Fresh memory is full of NaN, so that what a kernel leaves unwritten is seen."""
    empty, new_empty = torch.empty, torch.Tensor.new_empty

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() and not tensor.is_meta else tensor

    torch.empty = lambda *a, **k: filled(empty(*a, **k))
    torch.Tensor.new_empty = lambda *a, **k: filled(new_empty(*a, **k))
    try:
        yield
    finally:
        torch.empty, torch.Tensor.new_empty = empty, new_empty


def own(args: tuple[Any, ...], dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    """The arguments as leaves of their own; in another dtype, if one is given. Strides stay, and what lies between the
    numbers of a tensor is NaN."""
    made = []
    for value in args:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            copy = _laid_out_like(value.detach(), dtype or value.dtype)
            made.append(copy.requires_grad_(value.requires_grad))
        elif dtype is not None and dataclasses.is_dataclass(value):
            made.append(value)  # a packed weight is rounded to its own dtype, then widened
        else:
            made.append(value)
    return tuple(made)


def _laid_out_like(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy with the same strides (`clone` closes the gaps of a tensor that has some)."""
    reach = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)) if value.numel() else 0
    room = torch.full((reach,), float("nan"), dtype=dtype, device=value.device)
    return room.as_strided(value.shape, value.stride()).copy_(value)


def results(function: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Outputs, then the gradients of the arguments for random gradients of the outputs."""
    found = function(*args)
    outputs = [t for t in (found if isinstance(found, tuple) else (found,)) if isinstance(t, torch.Tensor)]
    wanted = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    live = [o for o in outputs if o.requires_grad]
    if not wanted or not live:
        return outputs
    generator = torch.Generator().manual_seed(7)
    # Drawn in 16 bits, so that every dtype is given the same numbers.
    above = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).to(o) for o in live]
    return [*outputs, *torch.autograd.grad(live, wanted, above)]


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    """‖found − right‖ / ‖right‖."""
    assert found.shape == right.shape, (found.shape, right.shape)
    assert torch.isfinite(found).all(), "not finite: unwritten memory, or an overflow"
    found, right = found.detach().double(), right.detach().double()
    norm = right.norm()
    return float((found - right).norm() / (norm if norm > 0 else 1.0))


def compare(name: str, case: dict[str, int], dtype: torch.dtype, device: Any = "cpu") -> None:
    """Fail if an output or a gradient of `fused` is not what the reference gives in 64 bits."""
    file = kernel(name)
    args = file.make(case, dtype, device)
    right = results(file.reference, own(args, torch.float64)) if name != "nf4" else [file.reference(*args)]
    plain = results(file.reference, own(args))
    with unwritten_is_nan():
        found = results(file.fused, own(args))
    assert len(found) == len(right)
    for number, (mine, theirs, exact) in enumerate(zip(found, plain, right, strict=True)):
        if name == "nf4":
            assert torch.equal(mine, exact), "decoding is exact"
            continue
        assert mine.dtype == theirs.dtype, f"result {number}: {mine.dtype}, not {theirs.dtype}"
        off, usual = error(mine, exact), error(theirs, exact)
        limit = min(TOLERANCE[dtype], max(MORE_THAN_PLAIN * usual, NOISE * TOLERANCE[dtype]))
        assert off <= limit, f"result {number} of {name} {case}: off by {off:.2e}, PyTorch by {usual:.2e}"
