"""bitsandbytes' layers in a loaded checkpoint become the project's own: the same codes, the same scales.

    y = x·decode(q)ᵀ + b        q and its scales: the very tensors that were in the file

Nothing is decoded, rounded or copied. Why the layers that transformers makes are not used as they are: see
core/layers/four_bit.py; and its 8-bit layer rounds activations to 8 bits too (LLM.int8()), which gives no exact
gradient, where core/layers/eight_bit.py multiplies with the weight that is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.layers.decoded import Decoded
from core.layers.eight_bit import EightBitLinear
from core.layers.four_bit import FourBitLinear
from core.layers.quiet_bitsandbytes import bnb


def adopt(model: nn.Module, dtype: torch.dtype | None = None) -> list[str]:
    """Put a layer of our own in the place of each of bitsandbytes'; returns their paths, in the model's order.

    Args:
        dtype: what the layers are decoded into where nobody asks for another (merging); None: what each was made from.
    """
    found = []
    for path, layer in list(model.named_modules()):
        own: Any
        if isinstance(layer, Decoded):
            continue
        if isinstance(layer, bnb.nn.Linear4bit):
            own = FourBitLinear(layer)
        elif isinstance(layer, bnb.nn.Linear8bitLt):
            own = EightBitLinear(layer)
        else:
            continue
        own.dense_dtype = dtype or own.dense_dtype
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, own)
        found.append(path)
    return found


def form_of(layer: Any) -> tuple[str, bool] | None:
    """(quant_type, whether the scales are in 8 bits) of a layer in few bits; None for a plain one."""
    if isinstance(layer, EightBitLinear):
        return "int8", False
    if isinstance(layer, FourBitLinear):
        state = layer.weight.quant_state
        return state.quant_type, bool(state.nested)
    return None


__all__ = ["adopt", "form_of"]
