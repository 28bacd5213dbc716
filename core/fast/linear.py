"""Linear layers as a written-out step sees them: which numbers they multiply by, and which of those train.

A `Group` is one or more layers that read the same input (q, k and v): one product instead of several.

Where a LoRA pair stands beside a weight, W + s·BA is formed anew for each pass and multiplied with once:

    Y = X(W + sBA)ᵀ + b        ∂X = G(W + sBA)        ∂A = (s·GB)ᵀX        ∂B = s·Gᵀ(XAᵀ)

Forming it costs 2·r·N·K operations and the reading of one weight, however many tokens there are; what it spares are two
of the six thin products, M tokens long, which a processor does at a fraction of its speed, and their additions into
tensors of the layer's size. (Going further, ∂W = GᵀX whole and then ∂A = s·Bᵀ∂W, ∂B = s·∂W·Aᵀ, was tried and is no
gain: a LoRA step of the embedded base took a seventh longer.)

In bfloat16 the sum is taken in float32 and rounded once. An update that is smaller than the format's step at W is not
lost by that: it decides which weights round the other way, and a product adds up hundreds of them. A pair that is kept
apart adds s·BAx to an output that has been rounded already and rounds again, which does lose the small ones. So the sum
is the nearer of the two to float32: over 60 steps of LoRA (embedded base, json task, three seeds) the losses lay 0.0012
to 0.0026 from those in float32, root mean square, and with pairs kept apart 0.015 to 0.018, most of it at the start.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.layers.low_rank import LowRank, dense_weight

# A sum that is rounded right away is taken in pieces of this size, which a core's own cache holds.
SUM_BYTES = 2**19


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
        """The weight that the layer multiplies by, into `out` (out, in): summed in 32 bits, rounded once to out's."""
        if self.pair is None:
            out.copy_(self.base.weight.detach() if self.plain else dense_weight(self.base, out.dtype))
            return
        weight, a, b, scale = dense_weight(self.base, torch.float32), self.a, self.b, self.pair.scale
        if out.dtype == torch.float32:
            torch.addmm(weight, b, a, alpha=scale, out=out)
            return
        rows = max(1, SUM_BYTES // (4 * self.inputs))
        for o, w, left in zip(out.split(rows), weight.split(rows), b.split(rows), strict=True):
            o.copy_(torch.addmm(w, left, a, alpha=scale))


class Group:
    """Layers that read the same input, as one product.

    Args:
        dtype: that the products compute in. Gradients of parameters are in 32 bits, as the parameters are.
    """

    def __init__(self, *layers: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.parts = [Part(layer) for layer in layers]
        self.rows = [part.outputs for part in self.parts]
        self.outputs, self.inputs = sum(self.rows), self.parts[0].inputs
        self.biased = any(part.bias is not None for part in self.parts)
        self.parameters = [p for part in self.parts for p in part.trained.values()]
        self.pairs = [part for part in self.parts if "a" in part.trained or "b" in part.trained]
        self.ranks = [int(part.a.shape[0]) for part in self.pairs]
        self.trains_weight = any("weight" in part.trained for part in self.parts)
        self.needs_input = self.trains_weight or bool(self.pairs)  # for the gradients, in the backward pass

    def weight(self, kept: dict[Group, torch.Tensor]) -> torch.Tensor:
        """(outputs, inputs) of all layers, one under the other.

        Args:
            kept: what the forward pass leaves to the backward pass of the same tokens, which takes it out again: copies
                of weights that train, as autocast keeps them. All others are made twice.
        """
        if self in kept:
            return kept.pop(self)
        weight = self._made()
        if self.trains_weight and self.dtype != torch.float32:
            kept[self] = weight
        return weight

    def _made(self) -> torch.Tensor:
        first = self.parts[0]
        if len(self.parts) == 1 and first.pair is None:
            return dense_weight(first.base, self.dtype)
        out = torch.empty(self.outputs, self.inputs, dtype=self.dtype)
        for part, rows in zip(self.parts, out.split(self.rows), strict=True):
            part.write(rows)
        return out

    def bias(self) -> torch.Tensor | None:
        """(outputs) of all layers, zeros for those that have none; None if none has."""
        if not self.biased:
            return None
        if len(self.parts) == 1:
            bias = self.parts[0].bias
            return None if bias is None else bias.detach().to(self.dtype)
        return torch.cat([
            torch.zeros(p.outputs) if p.bias is None else p.bias.detach() for p in self.parts
        ]).to(self.dtype)  # fmt: skip

    def forward(self, x: torch.Tensor, kept: dict[Group, torch.Tensor]) -> torch.Tensor:
        """x (M, inputs) -> (M, outputs). kept: see `weight`."""
        return nn.functional.linear(x, self.weight(kept), self.bias())

    def added(self, x: torch.Tensor, to: torch.Tensor, kept: dict[Group, torch.Tensor]) -> torch.Tensor:
        """As `forward`, plus `to` (M, outputs), which is in 32 bits, as the sum is."""
        if self.dtype != to.dtype:
            return self.forward(x, kept).to(to.dtype).add_(to)
        out = torch.addmm(to, x, self.weight(kept).t())
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
            whole = list((g.t() @ x).float().split(self.rows))
        thin = self._thin(pieces, x) if self.pairs else {}
        biases = any("bias" in part.trained for part in self.parts)
        sums = g.sum(0, dtype=torch.float32).split(self.rows) if biases else None
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
            h = torch.cat([part.a for part in self.pairs]).to(x.dtype) @ x.t()  # (Σr, M): the long side inside
            for number, rows in zip(where, h.split(self.ranks), strict=True):
                pair = self.parts[number].pair
                assert pair is not None
                found[number, "b"] = (rows @ pieces[number]).float().mul_(pair.scale).t().contiguous()
        if any("a" in part.trained for part in self.pairs):
            p = x.new_empty(sum(self.ranks), len(x))  # (transposed too: G·B is several times slower than Bᵀ·Gᵀ)
            for number, rows in zip(where, p.split(self.ranks), strict=True):
                torch.mm(self.parts[number].b.t().to(x.dtype), pieces[number].t(), out=rows)
            da = (p @ x).float().split(self.ranks)
            for number, rows in zip(where, da, strict=True):
                pair = self.parts[number].pair
                assert pair is not None
                found[number, "a"] = rows * pair.scale
        return found
