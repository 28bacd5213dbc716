"""The layer of LoRA: a frozen linear layer with a product of two thin matrices beside it.

    h = W₀x + (α/r)·BAx          (Hu et al. 2021, section 4.1)

W₀ is the base's weight, of shape (out, in), frozen. A, of shape (r, in), starts as random as any linear layer; B, of
shape (out, r), starts at zero, so at the first step the layer computes exactly what the base computed.

How it is fast: kernels/lora_linear.py. Update and output are summed by one `addmm_`, in 16 bits in the order that keeps
small updates, so no tensor of the size of the output is made for it; the backward pass is written out and keeps only x
(where A trains) and Ax. Over a weight in NF4, for few tokens, kernels/nf4_lora_linear.py has all of it in one launch,
on a card whose record says that this pays. Both are off within `kernels.base.switched_off`: then autograd does it step
by step. What the layer is not: it does not change W₀ (see `merge` in core/methods/lora.py), and it knows nothing of
4-bit weights beyond asking its base for `dense_weight` and `packed`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from core.layers.wrapping import Wrapping
from kernels import nf4, nf4_lora_linear
from kernels.base import off
from kernels.lora_linear import LoRALinear, sums_last


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype a matrix product of `x` runs in: autocast's inside an autocast region, else that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def features(layer: Any) -> tuple[int, int]:
    """(in, out) of a linear layer of any kind."""
    if isinstance(layer, Conv1D):
        fan_in, fan_out = layer.weight.shape
        return fan_in, fan_out
    return layer.in_features, layer.out_features


def is_conv1d(layer: nn.Module) -> bool:
    """Whether the layer is GPT-2's kind of linear layer, whose weight is stored as (in, out)."""
    return isinstance(layer, Conv1D) or bool(getattr(layer, "was_conv1d", False))


def dense_weight(base_layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """W₀ of shape (out, in) in `dtype`; a view where it can be, never to be written to."""
    own = getattr(base_layer, "dense_weight", None)
    if own is not None:
        return own(dtype)
    weight = base_layer.weight
    return (weight.t() if isinstance(base_layer, Conv1D) else weight).detach().to(dtype)


def packed_weight(base_layer: Any) -> nf4.Packed | None:
    """The weight as it lies in NF4, in blocks of 64 with their scales; None if it does not."""
    own = getattr(base_layer, "packed", None)
    return None if own is None else own()


def with_weight(base_layer: Any, weight: torch.Tensor) -> nn.Module:
    """The layer as a plain one with the given weight (out, in), float32, rounded once to the dtype of its own.

    A plain layer is changed in place and returned; one in four bits becomes a new plain one.
    """
    to_dense = getattr(base_layer, "to_dense", None)
    if to_dense is not None:
        return to_dense(weight)
    base_layer.weight.copy_((weight.t() if isinstance(base_layer, Conv1D) else weight).to(base_layer.weight.dtype))
    return base_layer


class LowRank(Wrapping):
    """A linear layer (nn.Linear, Conv1D or a 4-bit one) with a low-rank update beside it.

    Args:
        base_layer: the layer to wrap; its parameters are left as they are.
        rank: r. scale: what BAx is multiplied by (LoRA's is α/r). dropout: share of x set to zero on the way into A,
            while training.

    Parameters are named as PEFT names them: `lora_A.weight` (r, in) and `lora_B.weight` (out, r), in float32 whatever
    the base's dtype, because small steps would be lost in 16 bits.

    Returns (forward): for x of shape (..., in) a tensor of shape (..., out), in the dtype of the base's output.
    """

    def __init__(self, base_layer: Any, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base_layer)
        self.in_features, self.out_features = features(base_layer)
        self.rank, self.scale = rank, scale
        self.dropout = dropout
        # Drawn on the CPU whatever the device, so that a seed means the same weights everywhere.
        self.lora_A = nn.Linear(self.in_features, rank, bias=False, dtype=torch.float32)
        self.lora_B = nn.Linear(rank, self.out_features, bias=False, dtype=torch.float32)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        device = base_layer.weight.device
        self.lora_A.to(device)
        self.lora_B.to(device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return self.base_layer(x)
        a, b = self.lora_A.weight, self.lora_B.weight
        base_trains = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        # (What trains of the base can only be its bias: LoRA's `bias` setting.)
        if (self.dropout and self.training) or base_trains or torch.compiler.is_compiling() or off():
            # Step by step, for autograd or a compiler: what LoRALinear does in one, with dropout on the input of A.
            z = nn.functional.dropout(x, self.dropout, self.training).to(compute_dtype(x))
            h = nn.functional.linear(z, a.to(z.dtype)) * self.scale
            return self.base_layer(x) + nn.functional.linear(h, b.to(z.dtype))
        y: torch.Tensor
        dtype = compute_dtype(x)
        if nf4_lora_linear.takes(x, dtype, self.rank):
            packed = packed_weight(self.base_layer)
            if packed is not None:
                y = nf4_lora_linear.NF4LoRALinear.apply(x.to(dtype), packed, a, b, self.scale, self.bias)
                return y
        # (A weight in few bits that only answers has products of its own, which never write the decoded weight.)
        answers = not torch.is_grad_enabled() and hasattr(self.base_layer, "dense_weight")
        base = None if sums_last(dtype) and not answers else self.base_layer
        y = LoRALinear.apply(x, a, b, self.scale, base, partial(dense_weight, self.base_layer), dtype, self.bias)
        return y

    def delta(self) -> torch.Tensor:
        """ΔW = (α/r)·BA, of shape (out, in), in float32."""
        return (self.lora_B.weight @ self.lora_A.weight).detach() * self.scale

    def pair(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(sB, A), of shapes (out, r) and (r, in): their product is all that changes of the weight. None for a variant
        that changes it by more than a product."""
        return self.lora_B.weight.detach() * self.scale, self.lora_A.weight.detach()

    def trained(self) -> dict[str, nn.Parameter]:
        """The two matrices, by the ends of their names."""
        return {f"{part}.weight": self.get_parameter(f"{part}.weight") for part in ("lora_A", "lora_B")}

    def merged(self) -> nn.Module:
        """The plain layer with W = W₀ + ΔW; the sum is taken in float32 and rounded once."""
        return with_weight(self.base_layer, dense_weight(self.base_layer, torch.float32) + self.delta())

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scale={self.scale:g}, dropout={self.dropout:g}"
