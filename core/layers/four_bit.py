"""A linear layer whose weight is stored in four bits, by bitsandbytes.

    W ≈ code[q] · absmax of its block of 64       q: 4-bit index into the 16 values of NF4 (or FP4)

(Dettmers et al. 2023, section 3). With double quantization the absmax values, one 32-bit number per 64 weights, are
themselves stored in 8 bits with a 32-bit scale per 256 of them: 4.127 instead of 4.5 bits per weight.

Why bitsandbytes' own `Linear4bit.forward` is not used as it is (all seen in 0.50.2, all held by tests):
- it fixes its compute dtype at the first call, so a run in bfloat16 after a test in float32 computes in the wrong one;
- it rewrites the bias in place in that dtype;
- on CPUs with AVX512-BF16 it re-packs the weight at the first evaluation; then no gradient reaches the layers below;
- on CPUs it takes the wrong block's scale when the row length is no multiple of 64 (for 48 × 32, errors of several
  times the weights): blocks run on over the ends of rows, and are read here as they were written.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from core.layers.decoded import Decoded, Product
from core.layers.low_rank import compute_dtype
from core.layers.quiet_bitsandbytes import bnb
from kernels import nf4
from kernels.base import pays

BLOCK_SIZE = 64


class FourBitLinear(Decoded, bnb.nn.Linear4bit):
    """A frozen y = xWᵀ + b with W in four bits, made from a layer with a plain weight.

    Args:
        base: an nn.Linear, a Conv1D (its weight is transposed into (out, in)) or a bitsandbytes Linear4bit (adopted
            with its packed weight as it is). Its bias is kept, the same object.
        quant_type: "nf4" or "fp4"; an adopted weight keeps its own.
        double_quantization: store the block scales in 8 bits too; an adopted weight's stay as they are.
    """

    def __init__(self, base: Any, quant_type: str = "nf4", double_quantization: bool = True) -> None:
        adopted = isinstance(base, bnb.nn.Linear4bit)
        transposed = isinstance(base, Conv1D)
        weight = base.weight if adopted else (base.weight.t() if transposed else base.weight).detach()
        fan_out, fan_in = (base.out_features, base.in_features) if adopted else weight.shape
        # On the meta device: the weight of the parent's constructor is thrown away, so none is allocated or drawn.
        super().__init__(fan_in, fan_out, bias=False, device="meta")
        self.weight: Any
        if adopted:
            self.weight = base.weight
            self.weight.module = self
            # (Packed codes that a checkpoint calls bfloat16, so that FSDP takes them for such, are bytes all the same.)
            self.weight.data = self.weight.data.contiguous().view(torch.uint8)
            self.weight.quant_storage = torch.uint8
            self.quant_state = base.weight.quant_state
        else:
            packed: Any = bnb.nn.Params4bit(
                weight.contiguous(),
                requires_grad=False,
                blocksize=BLOCK_SIZE,
                compress_statistics=double_quantization,
                quant_type=quant_type,
                module=self,
            )
            # Moving an unquantized Params4bit to a device is what quantizes it; on the meta device there is nothing to.
            self.weight = packed if weight.is_meta else packed.to(weight.device)
        self.bias = base.bias
        self.was_conv1d = transposed or getattr(base, "source_cls", None) is Conv1D  # transformers' note of what it was
        self.dense_dtype = self.weight.quant_state.dtype if adopted else weight.dtype
        # Without this, one evaluation on such a CPU silently ends training (see the module docstring).
        self.support_avx512bf16_for_cpu = False
        self.train(base.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out), computed in autocast's dtype inside an autocast region, else in that of x."""
        dtype = compute_dtype(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        trains = bias is not None and bias.requires_grad  # bitsandbytes sums its gradient over the rows alone
        whole_blocks = self.in_features % self.weight.quant_state.blocksize == 0
        if x.is_cuda and whole_blocks and not trains and not self._decodes(x):
            # Has a kernel for few rows (generation) that never writes the decoded weight to memory.
            return bnb.matmul_4bit(x.to(dtype), self.weight, bias=bias, quant_state=self.weight.quant_state)
        return Product.apply(x.to(dtype), bias, self)

    def _decodes(self, x: torch.Tensor) -> bool:
        """Whether our own kernel is to decode the weight for this input: for many rows, where it pays."""
        many, state = x.numel() > x.shape[-1], self.weight.quant_state
        return many and state.quant_type == "nf4" and pays("nf4", self.weight, state.shape.numel())

    def packed(self) -> nf4.Packed | None:
        """The weight as our kernels read it, nothing copied; None if it is not NF4 in blocks of 64."""
        state = self.weight.quant_state
        known = state.quant_type == "nf4" and state.blocksize == nf4.BLOCK
        return nf4.Packed.of_bitsandbytes(self.weight) if known else None

    def dense_weight(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weight the layer really computes with, (out, in), decoded into `dtype` (default: the base's own)."""
        state = self.weight.quant_state
        packed = self.packed() if pays("nf4", self.weight, state.shape.numel()) else None
        if packed is not None:
            return nf4.fused(packed, dtype or self.dense_dtype)
        absmax = state.absmax
        if state.nested:
            absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
        # As rows of one block each, or as one long row: bitsandbytes' CPU code does not see blocks that cross rows.
        size = state.shape.numel()
        flat = (size // state.blocksize, state.blocksize) if size % state.blocksize == 0 else (1, size)
        weight = torch.ops.bitsandbytes.dequantize_4bit(
            self.weight.data.view(-1, 1), absmax, state.blocksize, state.quant_type, flat, dtype or self.dense_dtype
        )
        return weight.view(state.shape)
