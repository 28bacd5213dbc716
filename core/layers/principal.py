"""The layer of PiSSA: the pair starts as the largest singular directions of the weight, which is left with the rest.

    W₀ = U·S·Vᵀ;   A = √(S_r/s)·V_rᵀ,  B = U_r·√(S_r/s);   W_res = W₀ − s·BA;   h = W_res·x + s·BAx

(Meng et al. 2024, equations 2 to 4, with LoRA's scale s.) At the start the layer computes what the base computed, up to
rounding. Because the base's weight changes, W₀ is kept beside it if the change is ever to be switched off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.errors import Refused
from core.layers.low_rank import LowRank, dense_weight, with_weight


class PrincipalPair(LowRank):
    """A linear layer whose principal singular directions have moved into the trained pair.

    Args:
        fast: find them by a randomised method with four iterations instead of a full decomposition.
        keep_base: keep a copy of W₀ (on the CPU), so that `enabled` can be switched.

    Attributes:
        start: A and B as they were at the start, (r, in) and (out, r): what is saved is the difference from them.
    """

    def __init__(
        self, base_layer: Any, rank: int, scale: float, dropout: float = 0.0, *, fast: bool, keep_base: bool
    ) -> None:
        self._enabled = True
        self._aside: torch.Tensor | None = None
        super().__init__(base_layer, rank, scale, dropout)
        whole = dense_weight(base_layer, torch.float32)
        if whole.is_meta:
            self.start = (self.lora_A.weight.detach(), self.lora_B.weight.detach())
            return
        if fast:
            # A few directions more than are kept: the last ones found are the least exact.
            u, s, v = torch.svd_lowrank(whole, q=min(rank + 8, *whole.shape), niter=4)
            vt = v.t()
        else:
            u, s, vt = torch.linalg.svd(whole, full_matrices=False)
        root = (s[:rank] / scale).sqrt()
        with torch.no_grad():
            self.lora_A.weight.copy_(root[:, None] * vt[:rank])
            self.lora_B.weight.copy_(u[:, :rank] * root)
            if keep_base:
                self._aside = base_layer.weight.detach().to("cpu", copy=True)
            self.start = (self.lora_A.weight.detach().clone(), self.lora_B.weight.detach().clone())
            with_weight(base_layer, whole - scale * self.start[1] @ self.start[0])

    @property
    def enabled(self) -> bool:
        """Whether the pair is added to what is left of the weight; otherwise the whole weight is in place."""
        return self._enabled

    @enabled.setter
    def enabled(self, wanted: bool) -> None:
        if wanted == self._enabled:
            return
        if self._aside is None:
            raise Refused(
                "The base's own weights are gone: PiSSA moved a part of them into the adapter, and no copy was kept.",
                "Load the base again to see it as it was.",
            )
        parameter = self.base_layer.weight
        here = parameter.data
        parameter.data = self._aside.to(here.device)
        self._aside = here.cpu()
        self._enabled = wanted

    def start_from(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Take another start than this machine's decomposition (another machine's), and leave W₀ minus that."""
        if torch.equal(a, self.start[0]) and torch.equal(b, self.start[1]):
            return
        with torch.no_grad():
            moved = self.start[1] @ self.start[0] - b @ a
            with_weight(self.base_layer, dense_weight(self.base_layer, torch.float32) + self.scale * moved)
        self.start = (a.clone(), b.clone())

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(s·[B, −B₀], [A; A₀]), of rank 2r: what changed of W₀, a part of which was the pair's own start."""
        a, b = self.start
        left = torch.cat([self.lora_B.weight.detach(), -b.to(self.lora_B.weight.device)], dim=1) * self.scale
        return left, torch.cat([self.lora_A.weight.detach(), a.to(self.lora_A.weight.device)])

    def merged(self) -> nn.Module:
        """The plain layer with W_res + s·BA, whether switched on or off."""
        self.enabled = True
        return super().merged()
