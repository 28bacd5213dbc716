"""Checks of the exercises of lesson 2."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong

INTO, OUT, WIDTH = 12, 20, 4


def adapter(space: dict[str, Any]) -> str:
    """`Adapted(layer, width)`: a frozen linear layer with a bottleneck adapter behind it."""
    import torch
    from torch import nn

    kind = space.get("Adapted")
    if not callable(kind):
        raise Wrong("There is no class called Adapted.")
    torch.manual_seed(0)
    layer = nn.Linear(INTO, OUT)
    x = torch.randn(5, INTO)
    before = layer(x).detach()
    made: Any = kind(layer, WIDTH)
    trained = [p for p in made.parameters() if p.requires_grad]
    if layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad):
        raise Wrong("The layer is not frozen: its weight or its bias still gets a gradient.")
    if not trained:
        raise Wrong("Nothing trains. Give the class two linear layers of its own, a narrow and a wide one.")
    wanted = 2 * OUT * WIDTH + WIDTH + OUT
    count = sum(p.numel() for p in trained)
    if count != wanted:
        raise Wrong(
            f"It trains {count} numbers. With outputs of {OUT} and a waist of {WIDTH} there should be "
            f"{OUT} × {WIDTH} + {WIDTH} on the way down and {WIDTH} × {OUT} + {OUT} on the way up: {wanted}."
        )
    out = made(x)
    if out.shape != before.shape:
        raise Wrong(f"It should give out {tuple(before.shape)}, and gives {tuple(out.shape)}.")
    if not torch.equal(out.detach(), before):
        if torch.equal(out.detach(), torch.zeros_like(before)):
            raise Wrong("It gives out the adapter's part alone. The formula adds that to h.")
        raise Wrong(
            "A fresh adapter should change nothing, so that training starts from the old model. Yours changes it."
        )
    optimizer = torch.optim.SGD(trained, lr=0.5)
    goal = torch.randn(5, OUT)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(made(x), goal)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    matrices = [p.detach() for p in trained if p.dim() == 2]
    still = [not bool(p.abs().sum() > 0) for p in matrices]
    if all(still):
        raise Wrong(
            "It cannot learn: with both matrices at zero, neither gets a gradient through the other, and they stay "
            "there. Let one of them be random."
        )
    if any(still):
        raise Wrong(
            "It can hardly learn: with W_down at zero, the relu gets nothing but zeros, and its slope there is zero. "
            "No gradient comes through it. Let W_down be random, and W_up zero."
        )
    if losses[-1] > 0.9 * losses[0]:
        raise Wrong(f"It hardly learns: the loss went from {losses[0]:.2f} to {losses[-1]:.2f} only.")
    check = made(x).detach() - layer(x).detach()
    by_shape = {tuple(p.shape): p for p in trained}
    flat, tall, b_down, b_up = (by_shape.get(s) for s in ((WIDTH, OUT), (OUT, WIDTH), (WIDTH,), (OUT,)))
    if flat is not None and tall is not None and b_down is not None and b_up is not None:
        h, linear = layer(x), nn.functional.linear
        # Either is the way down: matrices may be kept as nn.Linear keeps them or transposed.
        formulas = (
            linear(torch.relu(linear(h, down, b_down)), up, b_up).detach()
            for down, up in ((flat, tall), (tall.t(), flat.t()))
        )
        if not any(torch.allclose(check, formula, atol=1e-5) for formula in formulas):
            raise Wrong("What it adds to h is not W_up · relu(W_down · h + b_down) + b_up. Is the relu there?")
    return (
        f"It trains {count} numbers behind a layer of {INTO * OUT + OUT}, and took the loss from "
        f"{losses[0]:.2f} to {losses[-1]:.2f}."
    )
