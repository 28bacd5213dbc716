"""What the layers that stand in the place of another have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Wrapping(nn.Module):
    """A module around `base_layer`, which stays as it is; switched off by `enabled`, it only passes on to it."""

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer: Any = base_layer
        self.enabled = True

    @property
    def weight(self) -> torch.Tensor:
        """The base's own weight: some models look at the dtype or device of a layer's weight."""
        weight: torch.Tensor = self.base_layer.weight
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's own bias."""
        bias: torch.Tensor | None = self.base_layer.bias
        return bias
