"""A linear layer whose weight is stored in eight bits, one scale a row.

    W ≈ q · absmax of its row / 127          q: a whole number from −127 to 127

The weights are stored as LLM.int8() stores them (Dettmers et al. 2022, arXiv:2208.07339, section 2: absmax a row). Its
other half, activations rounded to eight bits with outliers kept apart, is left out on purpose: here the weight is
decoded and multiplied with x as it is, so nothing is lost but what the stored weight lost, on any device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from core.layers.decoded import Decoded, Product
from core.layers.low_rank import compute_dtype
from core.layers.quiet_bitsandbytes import bnb

LEVELS = 127


class EightBitLinear(Decoded, nn.Linear):
    """A frozen y = xWᵀ + b with W in eight bits, made from a layer with a plain weight.

    Args:
        base: an nn.Linear, a Conv1D (its weight is transposed into (out, in)) or a bitsandbytes Linear8bitLt (adopted
            with its codes as they are). Its bias is kept, the same object.
    """

    def __init__(self, base: Any) -> None:
        adopted = isinstance(base, bnb.nn.Linear8bitLt)
        transposed = isinstance(base, Conv1D)
        if adopted:
            codes = base.weight.data
            absmax = base.weight.SCB if base.weight.SCB is not None else base.state.SCB
            dtype = base.bias.dtype if base.bias is not None else torch.float16
        else:
            weight = (base.weight.t() if transposed else base.weight).detach()
            dtype = weight.dtype
            codes, absmax = quantize(weight)
        fan_out, fan_in = codes.shape
        # On the meta device: the weight of the parent's constructor is thrown away, so none is allocated or drawn.
        super().__init__(fan_in, fan_out, bias=False, device="meta")
        # (source_cls: transformers' note of what its layer was made from.)
        self.was_conv1d = transposed or getattr(base, "source_cls", None) is Conv1D
        self.dense_dtype = dtype
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("absmax", absmax)
        self.bias = base.bias
        self.train(base.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out), computed in autocast's dtype inside an autocast region, else in that of x."""
        dtype = compute_dtype(x)
        y: torch.Tensor = Product.apply(x.to(dtype), None if self.bias is None else self.bias.to(dtype), self)
        return y

    def dense_weight(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weight the layer really computes with, (out, in), decoded into `dtype` (default: the base's own)."""
        scale: Any = self.absmax
        return (self.weight * (scale / LEVELS)[:, None]).to(dtype or self.dense_dtype)


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes int8, absmax float32 a row) of a weight (out, in). A row of zeros has the codes 0."""
    weight = weight.float()
    absmax = weight.abs().amax(1)
    codes = torch.round(weight * (LEVELS / absmax.clamp_min(torch.finfo(torch.float32).tiny))[:, None])
    return codes.to(torch.int8), absmax
