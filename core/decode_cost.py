"""A product with a matrix in 4 bits, two ways: decode it once beforehand, or in the product itself.

Apart:  a kernel reads 4 bits a weight and writes 16; the product reads the 16. The decoding is done once, whatever the
        number of tokens.
Inside: the product reads 4 bits, and decodes a weight whenever it needs it: once in each tile of rows of its output.
        Fewer bytes, and as many decodings as there are tiles.

With few tokens the product waits for the weights, and reading a quarter of the bytes wins. With many it waits for its
arithmetic: the bytes are read in its shadow, and decoding again and again takes the time of the very units that should
multiply. Bytes are counted; what a decoding costs inside a product depends on the kernel and is left to a measurement.
Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import BadInput
from core.roofline import NF4_BYTES, NF4_SCALE_BYTES

if TYPE_CHECKING:
    from core.roofline import Limit

ELEMENT = 2  # bytes of a number in 16 bits
TILE = 128  # rows of the output that one program of a matrix product makes: what large ones are tuned to


@dataclass(frozen=True)
class Decoding:
    """A product of so many tokens with one matrix. apart_bytes, inside_bytes: moved. apart_seconds, inside_seconds: the
    least they take at the card's limits, decoding arithmetic not counted. decodings: of each weight, inside."""

    tokens: int
    apart_bytes: float
    inside_bytes: float
    apart_seconds: float
    inside_seconds: float
    decodings: int

    @property
    def gain(self) -> float:
        """How many times faster the product inside can be, at the very most."""
        return self.apart_seconds / self.inside_seconds


def decoding(tokens: int, fan_in: int, fan_out: int, limit: Limit, tile: int = TILE) -> Decoding:
    """Both ways, for x (tokens × in) times Wᵀ (in × out) with W in NF4 and nested scales.

    Raises:
        BadInput: no tokens.
    """
    if tokens < 1:
        raise BadInput("A product needs at least one token.")
    weights = fan_in * fan_out
    around = ELEMENT * tokens * (fan_in + fan_out)
    four_bit = weights * (NF4_BYTES + NF4_SCALE_BYTES)
    arithmetic = 2.0 * tokens * weights / limit.flops_per_second

    def least(moved: float) -> float:
        return max(arithmetic, moved / limit.bytes_per_second)

    before = four_bit + ELEMENT * weights
    apart = before / limit.bytes_per_second + least(ELEMENT * weights + around)
    return Decoding(
        tokens, before + ELEMENT * weights + around, four_bit + around, apart, least(four_bit + around),
        math.ceil(tokens / tile),
    )  # fmt: skip


__all__ = ["TILE", "Decoding", "decoding"]
