"""The layer of IA3: a frozen linear layer whose inputs or outputs are multiplied by a trained vector.

    y = l ⊙ (W₀x + b)    or    y = W₀(l ⊙ x) + b        (Liu et al. 2022, section 3.3)

l starts as ones, so at the first step the layer computes exactly what the base computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.layers.low_rank import dense_weight, features, with_weight
from core.layers.wrapping import Wrapping


class Scaled(Wrapping):
    """A linear layer with a trained scale.

    Args:
        base_layer: the layer to wrap; left as it is.
        inputs: scale what goes in (the feed-forward layer) rather than what comes out (keys and values).

    Parameter, named and shaped as PEFT has it: `ia3_l` (1, in) or (out, 1), float32.
    """

    def __init__(self, base_layer: Any, *, inputs: bool) -> None:
        super().__init__(base_layer)
        self.inputs = inputs
        self.in_features, self.out_features = features(base_layer)
        shape = (1, self.in_features) if inputs else (self.out_features, 1)
        self.ia3_l = nn.Parameter(torch.ones(shape, device=base_layer.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return self.base_layer(x)
        scale = self.ia3_l.flatten()
        if self.inputs:
            return self.base_layer((x * scale).to(x.dtype))
        y = self.base_layer(x)
        return (y * scale).to(y.dtype)

    def trained(self) -> dict[str, nn.Parameter]:
        """The vector, by its name."""
        return {"ia3_l": self.ia3_l}

    def merged(self) -> Any:
        """The plain layer with l multiplied into the rows or columns of W₀ (and, for outputs, into b)."""
        plain: Any = with_weight(self.base_layer, dense_weight(self.base_layer, torch.float32) * self.ia3_l)
        if not self.inputs and plain.bias is not None:
            plain.bias.copy_((plain.bias.float() * self.ia3_l.flatten()).to(plain.bias.dtype))
        return plain
