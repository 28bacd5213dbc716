"""What can be seen of a matrix that was stored: how its weights spread over the levels, one block in full, and what
block size and double quantization cost and save. Plain arithmetic on one matrix, quick enough to follow a slider."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.quantization import blockwise
from core.quantization.blockwise import NestedScales, Quantized
from core.quantization.formats import FORMATS, SHOWN, Format
from core.quantization.measures import Errors, Known, errors

BINS = 81  # odd: one of them has zero in its middle
AT_ONCE = 2**16
"""Weights of a matrix that a page looks at while a slider moves; a measurement takes all of them."""


@dataclass(frozen=True)
class Spread:
    """How the weights lie between -1 and 1 once they are divided by their block's absmax.

    edges: (bins + 1,). share: (bins,) of the weights, 0..1. levels: ascending, each value once. used: share of the
    weights that is stored as that level. entropy_bits: what the codes carry; the format's bits at most, reached when
    all levels are used equally.
    """

    edges: tuple[float, ...]
    share: tuple[float, ...]
    levels: tuple[float, ...]
    used: tuple[float, ...]
    entropy_bits: float


def spread(weight: np.ndarray, form: Format, block_size: int, bins: int = BINS) -> Spread:
    """Histogram of a matrix as the code book sees it, and the use of every level."""
    scaled = blockwise.normalised(weight, form, block_size)
    low = 0.0 if form.affine else -1.0
    counts, edges = np.histogram(scaled, bins=bins, range=(low, 1.0))
    codes = blockwise.quantize(weight, form, block_size).codes
    by_code = np.bincount(codes, minlength=len(form.levels))
    used: dict[float, int] = {}
    for level, n in zip(form.levels, by_code.tolist(), strict=True):
        used[level] = used.get(level, 0) + n  # FP4 has two zeros
    shares = [n / codes.size for n in used.values()]
    entropy = -sum(p * math.log2(p) for p in shares if p)
    return Spread(
        tuple(edges.tolist()), tuple((counts / scaled.size).tolist()), tuple(used), tuple(shares), abs(entropy)
    )


@dataclass(frozen=True)
class Block:
    """One block in full. number: which, from 0. absmax: its scale. before, after: its weights. codes: their levels'
    numbers."""

    number: int
    absmax: float
    before: tuple[float, ...]
    after: tuple[float, ...]
    codes: tuple[int, ...]


def block(weight: np.ndarray, form: Format, block_size: int, double: bool = False, number: int = 0) -> Block:
    """The block of that number, as it was and as it is read."""
    stored = blockwise.quantize(weight, form, block_size, double)
    size = stored.block_size
    part = slice(number * size, (number + 1) * size)
    before = np.asarray(weight, dtype=np.float32).reshape(-1)[part]
    after = stored.dense().reshape(-1)[part]
    return Block(
        number, float(np.abs(before).max()), tuple(before.tolist()), tuple(after.tolist()),
        tuple(stored.codes[part].tolist()),
    )  # fmt: skip


def with_outlier(weight: np.ndarray, times: float) -> np.ndarray:
    """A copy in which the weight of the largest magnitude is `times` as large."""
    out = np.array(weight, dtype=np.float32)
    flat = out.reshape(-1)
    flat[int(np.abs(flat).argmax())] *= times
    return out


def rest_error(found: Block) -> float | None:
    """The error of a block's weights but the largest, in standard deviations of those; None if they are alike."""
    before, after = np.asarray(found.before), np.asarray(found.after)
    rest = np.arange(before.size) != int(np.abs(before).argmax())
    return errors(before[rest], after[rest]).rmse if before.size > 1 else None


@dataclass(frozen=True)
class Cost:
    """A matrix in one format: what it takes and what it loses. scale_bytes: the part of stored_bytes that is scales."""

    format: str
    block_size: int
    double: bool
    bits: float
    stored_bytes: float
    scale_bytes: float
    errors: Errors


def cost(weight: np.ndarray, form: Format, block_size: int, double: bool = False) -> Cost:
    """Store a matrix and say what that takes and loses."""
    return _cost(weight, blockwise.quantize(weight, form, block_size, double))


def _cost(weight: np.ndarray | Known, stored: Quantized) -> Cost:
    total = stored.stored_bits / 8
    return Cost(
        stored.format.name, stored.block_size, isinstance(stored.scales, NestedScales), stored.bits_per_weight, total,
        total - stored.codes.size * stored.format.bits / 8, errors(weight, stored.dense()),
    )  # fmt: skip


def costs(
    weight: np.ndarray, names: Sequence[str] = SHOWN, block_sizes: Sequence[int] = blockwise.BLOCK_SIZES
) -> tuple[Cost, ...]:
    """Every format at every block size, with and without double quantization where it is defined. A format of rows has
    one."""
    out = []
    known = Known.of(weight)
    for name in names:
        form = FORMATS[name]
        for size in block_sizes if form.scope == "block" else block_sizes[:1]:
            stored = blockwise.quantize(weight, form, size)
            out.append(_cost(known, stored))
            if form.nests:
                out.append(_cost(known, blockwise.nested(stored)))
    return tuple(out)


@dataclass(frozen=True)
class Saving:
    """What double quantization of one format saves and costs at one block size. saved_bits: per weight. added: how much
    larger the RMSE becomes, as a share of it; None where there was none."""

    format: str
    block_size: int
    saved_bits: float
    saved_bytes: float
    added: float | None


def savings(found: Sequence[Cost]) -> tuple[Saving, ...]:
    """Every pair of costs that differ in double quantization alone."""
    plain = {(c.format, c.block_size): c for c in found if not c.double}
    out = []
    for c in found:
        if not c.double:
            continue
        p = plain[c.format, c.block_size]
        known = p.errors.rmse is not None and c.errors.rmse is not None and p.errors.rmse > 0
        added = c.errors.rmse / p.errors.rmse - 1 if known else None  # type: ignore[operator]
        out.append(Saving(c.format, c.block_size, p.bits - c.bits, p.stored_bytes - c.stored_bytes, added))
    return tuple(out)
