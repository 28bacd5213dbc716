"""Checks of the exercises of lesson 3."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong

INTO, OUT, RANK, ALPHA = 24, 16, 4, 12


def best_pair(space: dict[str, Any]) -> str:
    """`best_pair(change, r)`: B and A whose product is the nearest matrix of rank r."""
    import torch

    answer = space.get("best_pair")
    if not callable(answer):
        raise Wrong("There is no function called best_pair.")
    change = torch.randn(18, 30, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.linspace(3, 0.1, 30))
    values = torch.linalg.svdvals(change)
    for r in (1, 3, 18):
        pair = answer(change.clone(), r)
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(p, torch.Tensor) for p in pair)):
            raise Wrong("It should give back two torch tensors, B and A.")
        b, a = pair
        if tuple(b.shape) != (18, r) or tuple(a.shape) != (r, 30):
            raise Wrong(
                f"At rank {r} a matrix of 18 × 30 has a pair of 18 × {r} and {r} × 30. "
                f"Yours has {' × '.join(map(str, b.shape))} and {' × '.join(map(str, a.shape))}."
            )
        best = float(values[r:].square().sum().sqrt())
        found = float(torch.linalg.norm(change - b @ a))
        if found > best * 1.0001 + 1e-3:
            u, s, vt = torch.linalg.svd(change, full_matrices=False)
            if torch.allclose(b @ a, u[:, :r] @ vt[:r], atol=1e-4):
                raise Wrong(
                    "The directions are right, but each has the same strength. Where do the singular values come in?"
                )
            if torch.allclose(b @ a, (u[:, -r:] * s[-r:]) @ vt[-r:], atol=1e-4):
                raise Wrong("Those are the weakest directions. The strongest come first in the decomposition.")
            raise Wrong(f"At rank {r} your product is {found:.2f} away from the matrix; the best is {best:.2f} away.")
    return (
        f"At rank 3 your pair has {3 * (18 + 30)} numbers, the matrix {18 * 30}, and no pair of that rank comes closer."
    )


def lora_layer(space: dict[str, Any]) -> str:
    """`LoRA(layer, r, alpha)`, held against the engine's own layer."""
    import torch
    from torch import nn

    from core.layers.low_rank import LowRank

    kind = space.get("LoRA")
    if not callable(kind):
        raise Wrong("There is no class called LoRA.")
    torch.manual_seed(0)
    layer, x = nn.Linear(INTO, OUT), torch.randn(7, INTO)
    before = layer(x).detach()
    made: Any = kind(layer, RANK, ALPHA)
    a, b = getattr(made, "A", None), getattr(made, "B", None)
    if not (isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter)):
        raise Wrong("self.A and self.B should be two nn.Parameter: that is how torch knows that they train.")
    if tuple(a.shape) != (RANK, INTO) or tuple(b.shape) != (OUT, RANK):
        raise Wrong(
            f"For a layer of {INTO} inputs and {OUT} outputs at rank {RANK}, A is {RANK} × {INTO} and B is {OUT} × "
            f"{RANK}. Yours are {' × '.join(map(str, a.shape))} and {' × '.join(map(str, b.shape))}."
        )
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    if trained - {"A", "B"}:
        raise Wrong(f"W₀ is not frozen: {', '.join(sorted(trained - {'A', 'B'}))} still trains.")
    if not torch.equal(made(x).detach(), before):
        raise Wrong("A fresh layer should compute exactly what the old one did. B must be zero at the start.")
    if not bool(a.detach().abs().sum() > 0):
        raise Wrong("A and B are both zero. Then neither ever gets a gradient, and the layer can never learn.")
    with torch.no_grad():
        b.normal_()
    engine = LowRank(layer, RANK, ALPHA / RANK)
    with torch.no_grad():
        engine.lora_A.weight.copy_(a)
        engine.lora_B.weight.copy_(b)
    if not torch.allclose(made(x), engine(x), atol=1e-4):
        if torch.allclose(made(x) - layer(x), (engine(x) - layer(x)) * RANK / ALPHA, atol=1e-4):
            raise Wrong("The product is right, but its strength is not: it should be multiplied by alpha / r.")
        raise Wrong("With B filled in, it does not compute W₀x + (alpha / r)·BAx.")
    merged = made.merged_weight()
    wanted = layer.weight + engine.delta()
    if not isinstance(merged, torch.Tensor) or not torch.allclose(merged, wanted, atol=1e-4):
        raise Wrong("merged_weight() should give W₀ + (alpha / r)·BA, as one matrix.")
    return (
        f"The same numbers as the engine's own layer. {a.numel() + b.numel()} train instead of {layer.weight.numel()}."
    )
