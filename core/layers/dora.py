"""The layer of DoRA: direction from LoRA, length from a vector of its own.

    W' = m · (W₀ + s·BA) / ‖W₀ + s·BA‖          (Liu et al. 2024, equation 5)

‖·‖ is the length of each output's row of weights (the paper's columns: it writes matrices the other way round); m, one
number per output, starts as ‖W₀‖, so at the first step the layer computes exactly what the base computed. As in the
paper's section 4.3, the length in the denominator gets no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.layers.low_rank import LowRank, compute_dtype, dense_weight, with_weight


class Magnitude(nn.Module):
    """The vector m, in a module of its own, as PEFT has it."""

    def __init__(self, length: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(length)


class DirectionAndMagnitude(LowRank):
    """A linear layer with a low-rank change of direction and a trained length for every output.

    Parameters beside LowRank's: `lora_magnitude_vector.weight` (out), float32.
    """

    def __init__(self, base_layer: Any, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base_layer, rank, scale, dropout)
        self.lora_magnitude_vector = Magnitude(self.length())

    def direction(self) -> torch.Tensor:
        """W₀ + s·BA, (out, in), in float32, without gradient."""
        return dense_weight(self.base_layer, torch.float32) + self.delta()

    def length(self) -> torch.Tensor:
        """‖W₀ + s·BA‖ of each output, (out), without gradient."""
        with torch.no_grad():
            return torch.linalg.norm(self.direction(), dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return self.base_layer(x)
        dtype = compute_dtype(x)
        ratio = (self.lora_magnitude_vector.weight / self.length()).to(dtype)  # (out)
        a, b = self.lora_A.weight.to(dtype), self.lora_B.weight.to(dtype)
        y = self.base_layer(x)
        if self.dropout and self.training:
            # As in PEFT: y sees all of x; what is added to it (both terms below) sees what dropout leaves.
            x = nn.functional.dropout(x, self.dropout)
            plain = nn.functional.linear(x.to(dtype), dense_weight(self.base_layer, dtype))
        else:
            plain = y if self.bias is None else y - self.bias.to(y.dtype)
        change = nn.functional.linear(nn.functional.linear(x.to(dtype), a), b) * self.scale
        # Written as a difference from y, so that at the first step (ratio 1, change 0) it is y to the bit.
        return y + (ratio - 1) * plain + ratio * change

    def pair(self) -> None:
        """None: new lengths change every row of the weight, in as many directions as it has."""

    def trained(self) -> dict[str, nn.Parameter]:
        """A, B and m, by the ends of their names."""
        name = "lora_magnitude_vector.weight"
        return super().trained() | {name: self.get_parameter(name)}

    def merged(self) -> nn.Module:
        """The plain layer with W'."""
        ratio = self.lora_magnitude_vector.weight / self.length()
        return with_weight(self.base_layer, ratio[:, None] * self.direction())
