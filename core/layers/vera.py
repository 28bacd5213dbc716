"""The layer of VeRA: two random matrices that all layers share, and two trained vectors of its own.

    h = W₀x + Λ_b·B·Λ_d·A·x          (Kopiczko et al. 2023, equation 2)

A (r × in) and B (out × r) are drawn once and frozen; d (r) and b (out) train. b starts at zero, so at the first step
the layer computes exactly what the base computed. Layers of different shapes use the first columns of A and rows of B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from core.layers.low_rank import compute_dtype, dense_weight, features, with_weight
from core.layers.wrapping import Wrapping


class Projection(nn.Module):
    """A and B, shared by all layers of a model: buffers, made from `seed` on the CPU as PEFT makes them.

    Both are uniform within ±√(6/columns) (Kaiming's rule for a gain of √2; section 3.2).
    """

    A: torch.Tensor
    B: torch.Tensor

    def __init__(self, fan_in: int, fan_out: int, rank: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("A", (rank, fan_in)), ("B", (fan_out, rank))):
            bound = math.sqrt(6 / shape[1])
            drawn = torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)
            self.register_buffer(name, drawn, persistent=False)


class SharedRandomPair(Wrapping):
    """A linear layer with VeRA's two vectors, named as PEFT names them: `vera_lambda_b` (out), `vera_lambda_d` (r).

    Args:
        base_layer: the layer to wrap; left as it is.
        projection: the matrices; whoever makes the layers keeps them in the model, this layer only refers to them.
        dropout: share of x set to zero on the way into A, while training.
        d_initial: what d starts at.
    """

    def __init__(self, base_layer: Any, projection: Projection, dropout: float, d_initial: float) -> None:
        super().__init__(base_layer)
        self.in_features, self.out_features = features(base_layer)
        self.shared = (projection,)  # in a tuple: not a module of this layer, or it would be counted in each
        self.dropout = dropout
        device = base_layer.weight.device
        self.vera_lambda_b = nn.Parameter(torch.zeros(self.out_features, device=device))
        self.vera_lambda_d = nn.Parameter(torch.full((projection.A.shape[0],), d_initial, device=device))

    def _pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, in) and B (out, r) as this layer uses them."""
        (projection,) = self.shared
        return projection.A[:, : self.in_features], projection.B[: self.out_features]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return self.base_layer(x)
        y = self.base_layer(x)
        dtype = compute_dtype(x)
        a, b = self._pair()
        z = nn.functional.dropout(x, self.dropout, self.training).to(dtype)
        h = nn.functional.linear(z, a.to(dtype)) * self.vera_lambda_d.to(dtype)
        return y + self.vera_lambda_b.to(dtype) * nn.functional.linear(h, b.to(dtype))

    def trained(self) -> dict[str, nn.Parameter]:
        """The two vectors, by their names."""
        return {"vera_lambda_b": self.vera_lambda_b, "vera_lambda_d": self.vera_lambda_d}

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(Λ_b·B, Λ_d·A), of shapes (out, r) and (r, in): their product is ΔW."""
        a, b = self._pair()
        return (self.vera_lambda_b[:, None] * b).detach(), (self.vera_lambda_d[:, None] * a).detach()

    def delta(self) -> torch.Tensor:
        """ΔW = Λ_b·B·Λ_d·A, of shape (out, in), in float32."""
        left, right = self.pair()
        return left @ right

    def merged(self) -> nn.Module:
        """The plain layer with W₀ + ΔW."""
        return with_weight(self.base_layer, dense_weight(self.base_layer, torch.float32) + self.delta())
