"""What layers have in common whose weight is stored in few bits and decoded each time it is needed.

    y = x·decode(q)ᵀ + b            ∂x = G·decode(q)

Forward and backward decode the weight into the compute dtype, multiply, and forget it: memory is saved, time is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D


class Product(torch.autograd.Function):
    """y = xWᵀ + b with W decoded for the forward pass and again for the backward pass, and kept in neither."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dense_weight(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        grad_x = grad @ ctx.layer.dense_weight(grad.dtype) if ctx.needs_input_grad[0] else None
        grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[1] else None
        return grad_x, grad_bias, None


class Decoded:
    """Mix-in: what a module with `in_features`, `out_features`, `bias` and `dense_weight(dtype)` can do besides.

    was_conv1d: it was made from a Conv1D. dense_dtype: that of the weight it was made from.
    """

    in_features: int
    out_features: int
    bias: Any
    was_conv1d: bool
    dense_dtype: torch.dtype
    training: bool

    def dense_weight(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weight the layer really computes with, (out, in), decoded into `dtype` (default: the base's own)."""
        raise NotImplementedError

    def to_dense(self, weight: torch.Tensor | None = None) -> nn.Module:
        """A plain layer (nn.Linear, or Conv1D if it was one) with the decoded weight, or with the one given (out, in),
        in the base's dtype."""
        weight = (self.dense_weight(torch.float32) if weight is None else weight).to(self.dense_dtype)
        plain: Any
        with torch.device("meta"):
            if self.was_conv1d:
                plain = Conv1D(self.out_features, self.in_features)
            else:
                plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        plain.weight = nn.Parameter(weight.t().contiguous() if self.was_conv1d else weight, requires_grad=False)
        plain.bias = self.bias
        return plain.train(self.training)


def to_dense(model: nn.Module) -> nn.Module:
    """Plain layers with the decoded weights in the place of every layer in few bits; the model itself, changed."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, Decoded):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer.to_dense())
    return model
