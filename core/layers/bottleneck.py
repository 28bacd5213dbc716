"""The layer of bottleneck adapters: after a sublayer's last matrix, a small network with a residual connection.

    h ← h + W_up·f(W_down·h + b_down) + b_up        W_down: m × d, W_up: d × m, f: ReLU (or GELU)

(Houlsby et al. 2019, section 2.1.) W_up and b_up start at zero, so at the first step the layer computes exactly what
the base computed. The nonlinearity is why it cannot be folded into the base.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.layers.low_rank import compute_dtype, features
from core.layers.wrapping import Wrapping

ACTIVATIONS: dict[str, Any] = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


class Bottleneck(Wrapping):
    """A linear layer with an adapter behind it.

    Args:
        base_layer: the sublayer's last linear layer; left as it is.
        width: m. activation: one of ACTIVATIONS.

    Parameters, float32: `adapter_down.weight` (m, d), `.bias` (m), `adapter_up.weight` (d, m), `.bias` (d).
    """

    def __init__(self, base_layer: Any, width: int, activation: str) -> None:
        super().__init__(base_layer)
        self.in_features, self.out_features = features(base_layer)
        self.activation = activation
        self.adapter_down = nn.Linear(self.out_features, width, dtype=torch.float32)
        self.adapter_up = nn.Linear(width, self.out_features, dtype=torch.float32)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)
        device = base_layer.weight.device
        self.adapter_down.to(device)
        self.adapter_up.to(device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base_layer(x)
        if not self.enabled:
            return y
        dtype = compute_dtype(x)
        down, up = self.adapter_down, self.adapter_up
        h = nn.functional.linear(y.to(dtype), down.weight.to(dtype), down.bias.to(dtype))
        change = nn.functional.linear(ACTIVATIONS[self.activation](h), up.weight.to(dtype), up.bias.to(dtype))
        return y + change.to(y.dtype)

    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's four tensors, by the ends of their names."""
        return {
            f"{part}.{name}": parameter
            for part in ("adapter_down", "adapter_up")
            for name, parameter in self.get_submodule(part).named_parameters()
        }
