"""Checks of the exercises on shipping: merging a layer, and the size of a shelf."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong
from core.memory.storage import TRAINED
from core.methods.lora import pair_parameters


def _function(space: dict[str, Any], name: str) -> Any:
    found = space.get(name)
    if not callable(found):
        raise Wrong(f"There is no function called {name} yet.")
    return found


def merge(space: dict[str, Any]) -> str:
    """One matrix computes what the frozen one and the pair beside it do."""
    import torch

    own = _function(space, "merged")
    torch.manual_seed(0)
    for out, into, rank, alpha in ((6, 4, 2, 16), (5, 5, 3, 3)):
        weight, a, b = torch.randn(out, into), torch.randn(rank, into), torch.randn(out, rank)
        x = torch.randn(7, into)
        wanted = x @ weight.t() + (alpha / rank) * (x @ a.t() @ b.t())
        try:
            found = own(weight.clone(), a.clone(), b.clone(), alpha)
        except RuntimeError as error:
            raise Wrong(
                f"The shapes do not fit ({error}). B is (out, r) and A is (r, in), so the product is B @ A."
            ) from None
        if found is None:
            raise Wrong("merged(W, A, B, alpha) returns nothing yet.")
        if tuple(found.shape) != (out, into):
            raise Wrong(f"The merged matrix has W's shape, {(out, into)}, and yours has {tuple(found.shape)}.")
        if torch.allclose(x @ found.t(), wanted, atol=1e-4):
            continue
        if torch.allclose(found, weight + b @ a, atol=1e-4):
            raise Wrong("The product is there, but not its scale: alpha / rank.")
        if torch.allclose(found, weight + alpha * (b @ a), atol=1e-4):
            raise Wrong("The scale is alpha divided by the rank, not alpha alone.")
        if torch.allclose(found, (alpha / rank) * (b @ a), atol=1e-4):
            raise Wrong("That is the delta. The merged matrix is W with the delta added.")
        raise Wrong("It computes something else than W x + (alpha / r) B A x.")
    layer = (torch.randn(256, 256), torch.randn(8, 256), torch.randn(256, 8))
    kept = layer[0].clone()
    own(*layer, 16)
    if not torch.equal(layer[0], kept):
        raise Wrong("Your function has changed W itself. Return a new matrix, so that the base can serve others.")
    return "One product instead of three, and the base is left as it was."


def adapter_bytes(space: dict[str, Any]) -> str:
    """The base once, and the pairs of every task at four bytes a number."""
    own = _function(space, "shelf_bytes")
    shapes, rank, tasks, base = [(256, 256), (512, 256), (256, 512)], 8, 10, 1_000_000
    one = sum(pair_parameters(into, out, rank) for out, into in shapes)
    wanted = base + tasks * one * TRAINED
    found = own(shapes, rank=rank, tasks=tasks, base=base)
    if found is None:
        raise Wrong("shelf_bytes returns nothing yet.")
    if found == base + tasks * one:
        raise Wrong("You counted numbers. In 32 bits each takes four bytes.")
    if found == tasks * (base + one * TRAINED):
        raise Wrong("That keeps a copy of the base for every task. It is there once.")
    if found == base + tasks * TRAINED * sum(rank * out * into for out, into in shapes):
        raise Wrong("out times in is the whole matrix. The pair is thin: rank times (out plus in) numbers.")
    if found != wanted:
        raise Wrong(f"For three matrices at rank 8 and ten tasks it is {wanted:,.0f} bytes, and you have {found:,}.")
    if own([(4, 2)], rank=1, tasks=0, base=7) != 7:
        raise Wrong("With no task at all, only the base is on the shelf.")
    return f"{wanted:,.0f} bytes, where {tasks} whole models would take {tasks * base:,}."
