"""Storing a matrix block by block, and reading it again.

    absmax_b = max |w| over block b        q_i = the level nearest to w_i / absmax_b        ŵ_i = level[q_i] · absmax_b

Blocks run along the rows and over their ends (flat, row-major), as in bitsandbytes; the last may be short. With double
quantization the absmax values are themselves stored in 8 bits: their mean is subtracted, what is left is stored in
blocks of 256 with the 8-bit dynamic type, and only each such block keeps a 32-bit number (QLoRA, section 3, "Double
Quantization").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from core.errors import BadInput
from core.quantization.formats import FORMATS, Format, midpoints

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""What bitsandbytes offers; 64 is QLoRA's."""
SCALE_BITS = 32
OUTER_BLOCK = 256
"""Scales that share a 32-bit number under double quantization."""
FEW = 15  # borders between the levels of a format of four bits


@dataclass(frozen=True)
class NestedScales:
    """Scales stored in 8 bits. codes: (blocks,) uint8, levels of the dynamic type. outer: float32, one per 256 of them.
    mean: what was subtracted before."""

    codes: np.ndarray
    outer: np.ndarray
    mean: np.float32

    def values(self) -> np.ndarray:
        """(blocks,) float32: the scales as they are read."""
        return _read(self.codes, self.outer, OUTER_BLOCK, FORMATS["dynamic8"]) + self.mean


@dataclass(frozen=True)
class Quantized:
    """A stored matrix.

    format, shape, block_size: how it was stored; for a format of rows, block_size is the row's length. codes: (n,)
    uint8, numbers of levels. scales: (blocks,) float32, or nested. lows: (blocks,) float32, the smallest value of each
    block, for affine formats.
    """

    format: Format
    shape: tuple[int, ...]
    block_size: int
    codes: np.ndarray
    scales: np.ndarray | NestedScales
    lows: np.ndarray | None = None

    def scale_values(self) -> np.ndarray:
        """(blocks,) float32."""
        return self.scales.values() if isinstance(self.scales, NestedScales) else self.scales

    def dense(self) -> np.ndarray:
        """The matrix as it is read again, float32, of the original shape."""
        flat = _read(self.codes, self.scale_values(), self.block_size, self.format)
        if self.lows is not None:
            flat = flat + np.repeat(self.lows, self.block_size)[: flat.size]
        return flat.reshape(self.shape)

    @property
    def stored_bits(self) -> int:
        """Everything that has to be kept: codes, scales, smallest values."""
        bits = self.codes.size * self.format.bits
        if isinstance(self.scales, NestedScales):
            return bits + self.scales.codes.size * 8 + self.scales.outer.size * SCALE_BITS + SCALE_BITS
        return bits + self.scales.size * SCALE_BITS * (1 if self.lows is None else 2)

    @property
    def bits_per_weight(self) -> float:
        return self.stored_bits / self.codes.size


def bits_per_weight(form: Format, block_size: int, double: bool = False, columns: int | None = None) -> float:
    """Bits a weight takes in a large matrix, in closed form: NF4 in blocks of 64 takes 4 + 32/64 = 4.5, with double
    quantization 4 + 8/64 + 32/(64·256) = 4.127. (The one mean of a matrix is not counted.)

    Args:
        columns: a row's length, for formats whose scale belongs to a row.

    Raises:
        BadInput: double quantization of a format that has none, or no `columns` where they decide.
    """
    if double:
        _check_nests(form)
        return form.bits + 8 / block_size + SCALE_BITS / (block_size * OUTER_BLOCK)
    if form.scope == "row":
        if not columns:
            raise BadInput(f"{form.title} has one scale per row, so its size depends on the row's length.")
        block_size = columns
    return form.bits + SCALE_BITS * (2 if form.affine else 1) / block_size


def quantize(weight: np.ndarray, form: Format, block_size: int = 64, double: bool = False) -> Quantized:
    """Store a matrix.

    Args:
        weight: (rows, columns), or any shape for formats of blocks; finite numbers.
        form: one of FORMATS.
        block_size: weights that share a scale; of no effect for formats of rows.
        double: store the scales in 8 bits too.

    Raises:
        BadInput: an empty matrix, numbers that are not finite, a block size below 1, or double quantization of a format
            that has none.
    """
    flat = np.ascontiguousarray(weight, dtype=np.float32).reshape(-1)
    if not flat.size:
        raise BadInput("There is nothing to quantize: the matrix is empty.")
    if not np.isfinite(flat).all():
        raise BadInput("The matrix holds values that are not finite numbers.", "Look for NaN or infinity in it.")
    if form.scope == "row":
        block_size = weight.shape[-1]
    if block_size < 1:
        raise BadInput(f"A block holds at least one weight, not {block_size}.")
    if double:
        _check_nests(form)
    if form.affine:
        return _affine(flat, weight.shape, form, block_size)
    codes, absmax = _store(flat, block_size, form)
    stored = Quantized(form, weight.shape, block_size, codes, absmax)
    return nested(stored) if double else stored


def nested(stored: Quantized) -> Quantized:
    """The same codes with scales in 8 bits (double quantization). The weights' codes were chosen with the exact scales.

    Raises:
        BadInput: double quantization is not defined for the format.
    """
    _check_nests(stored.format)
    absmax = stored.scale_values()
    mean = np.float32(absmax.mean(dtype=np.float64))
    inner, outer = _store(absmax - mean, OUTER_BLOCK, FORMATS["dynamic8"])
    return replace(stored, scales=NestedScales(inner, outer, mean))


def normalised(weight: np.ndarray, form: Format, block_size: int) -> np.ndarray:
    """(n,) float32: every weight as the code book sees it, divided by its block's absmax (affine: from 0 to 1)."""
    flat = np.ascontiguousarray(weight, dtype=np.float32).reshape(-1)
    size = weight.shape[-1] if form.scope == "row" else block_size
    blocks = _blocks(flat, size)
    if form.affine:
        lows = blocks.min(axis=1, keepdims=True)
        scaled = (blocks - lows) * _inverse(blocks.max(axis=1, keepdims=True) - lows)
    else:
        scaled = blocks * _inverse(np.abs(blocks).max(axis=1, keepdims=True))
    return scaled.reshape(-1)[: flat.size]


# --- inside -----------------------------------------------------------------------------------------------------------


def _check_nests(form: Format) -> None:
    if not form.nests:
        raise BadInput(
            f"Double quantization stores one scale per block; {form.title} has "
            + ("two numbers per block." if form.affine else "one scale per row."),
            "Switch double quantization off, or take NF4, FP4, INT4 or INT8.",
        )


def _blocks(flat: np.ndarray, block_size: int) -> np.ndarray:
    """(blocks, block_size); a short last block is filled with its own last value, which changes no extreme."""
    missing = -flat.size % block_size
    if missing:
        flat = np.concatenate([flat, np.full(missing, flat[-1], flat.dtype)])
    return flat.reshape(-1, block_size)


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1/scale, and 0 where the scale is 0 (a block of zeros) or so small that its inverse has no float32."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _nearest(scaled: np.ndarray, form: Format) -> np.ndarray:
    borders = midpoints(form.name)
    if len(borders) > FEW:
        return np.searchsorted(borders, scaled, side="left").astype(np.uint8)
    # The level's number is how many borders lie below: for few of them counting is several times as fast as searching.
    codes = np.zeros(scaled.shape, dtype=np.uint8)
    for border in borders:
        codes += scaled > border
    return codes


def _store(flat: np.ndarray, block_size: int, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Codes and absmax values. The product with 1/absmax, not the quotient, is what bitsandbytes rounds."""
    blocks = _blocks(flat, block_size)
    absmax = np.abs(blocks).max(axis=1)
    scaled = (blocks * _inverse(absmax)[:, None]).reshape(-1)[: flat.size]
    return _nearest(scaled, form), absmax


def _affine(flat: np.ndarray, shape: tuple[int, ...], form: Format, block_size: int) -> Quantized:
    blocks = _blocks(flat, block_size)
    lows = blocks.min(axis=1)
    span = blocks.max(axis=1) - lows
    scaled = ((blocks - lows[:, None]) * _inverse(span)[:, None]).reshape(-1)[: flat.size]
    return Quantized(form, shape, block_size, _nearest(scaled, form), span, lows)


def _read(codes: np.ndarray, scales: np.ndarray, block_size: int, form: Format) -> np.ndarray:
    levels = form.array[codes]
    whole = math.ceil(codes.size / block_size) * block_size
    if whole == codes.size:
        return (levels.reshape(-1, block_size) * scales[:, None]).reshape(-1)
    return levels * np.repeat(scales, block_size)[: codes.size]
