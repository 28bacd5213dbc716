"""Linear layers as a written-out step sees them: which numbers they multiply by, and which of those train.

A `Group` is one or more layers that read the same input (q, k and v; gate and up): one product instead of several.

Where a LoRA pair stands beside a weight, W + s·BA is formed anew for each pass and multiplied with once:

    Y = X(W + sBA)ᵀ + b        ∂X = G(W + sBA)        ∂A = (s·GB)ᵀX        ∂B = s·Gᵀ(XAᵀ)

Forming it costs 2·r·N·K operations and the reading of one weight, however many tokens there are; what it spares are two
of the six thin products, M tokens long, which a processor does at a fraction of its speed, and their additions into
tensors of the layer's size. (Going further, ∂W = GᵀX whole and then ∂A = s·Bᵀ∂W, ∂B = s·∂W·Aᵀ, was tried and is no
gain: a LoRA step of the embedded base took a seventh longer.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.layers.low_rank import LowRank, dense_weight


class Part:
    """One layer: its weight (out, in), bias, and pair; those parameters of it that train, in `trained`.

    Args:
        layer: an nn.Linear, a layer in few bits, or a LowRank around one of them.
    """

    def __init__(self, layer: Any) -> None:
        self.pair: LowRank | None = layer if type(layer) is LowRank else None
        self.base: Any = layer.base_layer if self.pair is not None else layer
        self.plain = type(self.base) is nn.Linear
        self.outputs, self.inputs = int(self.base.out_features), int(self.base.in_features)
        self.bias: torch.Tensor | None = self.base.bias
        self.trained: dict[str, nn.Parameter] = {}
        for name, value in (("weight", self.base.weight if self.plain else None), ("bias", self.bias)):
            if isinstance(value, nn.Parameter) and value.requires_grad:
                self.trained[name] = value
        if self.pair is not None:
            for name, thin in (("a", self.pair.lora_A), ("b", self.pair.lora_B)):
                if thin.weight.requires_grad:
                    self.trained[name] = thin.get_parameter("weight")

    @property
    def a(self) -> torch.Tensor:
        """(r, in)."""
        assert self.pair is not None
        return self.pair.lora_A.weight.detach()

    @property
    def b(self) -> torch.Tensor:
        """(out, r)."""
        assert self.pair is not None
        return self.pair.lora_B.weight.detach()

    def write(self, out: torch.Tensor) -> None:
        """The weight that the layer multiplies by, into `out` (out, in)."""
        weight = dense_weight(self.base, torch.float32)
        if self.pair is None:
            out.copy_(weight)
        else:
            torch.addmm(weight, self.b, self.a, alpha=self.pair.scale, out=out)


class Group:
    """Layers that read the same input, as one product."""

    def __init__(self, *layers: Any) -> None:
        self.parts = [Part(layer) for layer in layers]
        self.rows = [part.outputs for part in self.parts]
        self.outputs, self.inputs = sum(self.rows), self.parts[0].inputs
        self.biased = any(part.bias is not None for part in self.parts)
        self.parameters = [p for part in self.parts for p in part.trained.values()]
        self.pairs = [part for part in self.parts if "a" in part.trained or "b" in part.trained]
        self.ranks = [int(part.a.shape[0]) for part in self.pairs]
        self.trains_weight = any("weight" in part.trained for part in self.parts)
        self.needs_input = self.trains_weight or bool(self.pairs)  # for the gradients, in the backward pass

    def weight(self) -> torch.Tensor:
        """(outputs, inputs) of all layers, one under the other."""
        first = self.parts[0]
        if len(self.parts) == 1 and first.pair is None:
            return dense_weight(first.base, torch.float32)
        out = torch.empty(self.outputs, self.inputs)
        for part, rows in zip(self.parts, out.split(self.rows), strict=True):
            part.write(rows)
        return out

    def bias(self) -> torch.Tensor | None:
        """(outputs) of all layers, zeros for those that have none; None if none has."""
        if not self.biased:
            return None
        if len(self.parts) == 1:
            bias = self.parts[0].bias
            return None if bias is None else bias.detach()
        return torch.cat([
            torch.zeros(p.outputs) if p.bias is None else p.bias.detach() for p in self.parts
        ])  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (M, inputs) -> (M, outputs)."""
        return nn.functional.linear(x, self.weight(), self.bias())

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """As `forward`, plus `to` (M, outputs)."""
        out = torch.addmm(to, x, self.weight().t())
        bias = self.bias()
        return out if bias is None else out.add_(bias)

    def gradients(self, g: torch.Tensor, x: torch.Tensor | None) -> list[torch.Tensor]:
        """Of `parameters`, in their order, for ∂loss/∂y = g (M, outputs) and the input x (M, inputs).

        x may be None where `needs_input` is False.
        """
        pieces = list(g.split(self.rows, 1))
        whole = None
        if self.trains_weight:
            assert x is not None
            whole = list((g.t() @ x).split(self.rows))
        thin = self._thin(pieces, x) if self.pairs else {}
        sums = g.sum(0).split(self.rows) if any("bias" in part.trained for part in self.parts) else None
        found: list[torch.Tensor] = []
        for number, part in enumerate(self.parts):
            for name in part.trained:
                if name == "bias":
                    assert sums is not None
                    found.append(sums[number])
                elif name == "weight":
                    assert whole is not None
                    found.append(whole[number])
                else:
                    found.append(thin[number, name])
        return found

    def _thin(self, pieces: list[torch.Tensor], x: torch.Tensor | None) -> dict[tuple[int, str], torch.Tensor]:
        """∂A and ∂B by thin products, those with x for all pairs at once."""
        assert x is not None
        found: dict[tuple[int, str], torch.Tensor] = {}
        where = [number for number, part in enumerate(self.parts) if part in self.pairs]
        if any("b" in part.trained for part in self.pairs):
            h = torch.cat([part.a for part in self.pairs]) @ x.t()  # (Σr, M): the long side inside
            for number, rows in zip(where, h.split(self.ranks), strict=True):
                pair = self.parts[number].pair
                assert pair is not None
                found[number, "b"] = (rows @ pieces[number]).mul_(pair.scale).t().contiguous()
        if any("a" in part.trained for part in self.pairs):
            p = x.new_empty(len(x), sum(self.ranks))
            for number, columns in zip(where, p.split(self.ranks, 1), strict=True):
                torch.mm(pieces[number], self.parts[number].b, out=columns)
            da = (p.t() @ x).split(self.ranks)
            for number, rows in zip(where, da, strict=True):
                pair = self.parts[number].pair
                assert pair is not None
                found[number, "a"] = rows * pair.scale
        return found
