"""What is the best list of sixteen levels? Two answers to that question, fitted to a matrix, beside the usual formats.

    least error    levels that make the root mean square error of the stored weights as small as it can be
    equal use      levels that equally many weights fall on, so that the four bits carry four bits

They are not the same list. NF4 is derived from the second idea (equal steps of probability), on the assumption that a
weight divided by its block's absmax is still normally distributed, which it is not: the larger the block, the smaller
the rest beside its largest weight (Yoshida 2023, NF4 Isn't Information Theoretically Optimal, arXiv:2306.06965).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from core.quantization import blockwise, summaries
from core.quantization.formats import FORMATS, NF4_PUBLISHED, Format

LEAST_ERROR, EQUAL_USE = "least error", "equal use"
COMPARED = ("nf4", "fp4", "int4")
ROUNDS = 40  # of Lloyd's algorithm; it stands still long before


@dataclass(frozen=True)
class Judged:
    """A code book on a matrix. name: of the format, or of what it was fitted for. entropy_bits: what its codes carry, 4
    at most. rmse: error of the stored weights, in standard deviations of them."""

    name: str
    levels: tuple[float, ...]
    entropy_bits: float
    rmse: float


def least_error(weight: np.ndarray, block_size: int, count: int = 16) -> tuple[float, ...]:
    """Levels with the smallest squared error on this matrix (Lloyd 1982): every weight goes to the nearest level, every
    level to the mean of its weights, until nothing moves. An error counts by the square of its block's absmax, since
    that is what it is multiplied by.

    Args:
        weight: any shape; blocks of `block_size` along it. count: of levels.
    """
    scaled, scale = _normalised(weight, block_size)
    counted: np.ndarray = scale.astype(np.float64) ** 2
    levels = np.asarray(NF4_PUBLISHED if count == 16 else np.linspace(-1, 1, count), dtype=np.float64)
    for _ in range(ROUNDS):
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled)
        mass = np.bincount(codes, counted, minlength=count)
        total = np.bincount(codes, counted * scaled, minlength=count)
        levels = np.where(mass > 0, total / np.maximum(mass, 1e-30), levels)
    return tuple(levels.tolist())


def equal_use(weight: np.ndarray, block_size: int, count: int = 16) -> tuple[float, ...]:
    """Levels that equally many weights of this matrix are nearest to: the middle of each of `count` equal shares."""
    scaled, _ = _normalised(weight, block_size)
    return tuple(np.quantile(scaled, (np.arange(count) + 0.5) / count).tolist())


def judged(weight: np.ndarray, block_size: int) -> tuple[Judged, ...]:
    """NF4, FP4 and INT4, and the two lists that are fitted to this very matrix, by both criteria."""
    formats = [FORMATS[name] for name in COMPARED]
    formats += [
        Format(name, name, 4, fit(weight, block_size), "fitted to this matrix")
        for name, fit in ((LEAST_ERROR, least_error), (EQUAL_USE, equal_use))
    ]
    return tuple(_judge(weight, form, block_size) for form in formats)


@lru_cache(maxsize=16)
def normal_weights(rows: int = 256, columns: int = 256) -> np.ndarray:
    """Numbers from N(0, 1), always the same ones: what NF4 was derived for."""
    drawn: np.ndarray = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    return drawn


def _normalised(weight: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every weight divided by its block's absmax, and that absmax; both (n,)."""
    scaled = blockwise.normalised(weight, FORMATS["nf4"], block_size)
    absmax = blockwise.quantize(weight, FORMATS["nf4"], block_size).scale_values()
    return scaled, np.repeat(absmax, block_size)[: scaled.size]


def _judge(weight: np.ndarray, form: Format, block_size: int) -> Judged:
    if form.name in FORMATS:
        found = summaries.cost(weight, form, block_size).errors.rmse
        return Judged(
            form.name, form.levels, summaries.spread(weight, form, block_size).entropy_bits, float(found or 0.0)
        )
    scaled, scale = _normalised(weight, block_size)
    levels = np.asarray(form.levels)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled)
    shares = np.bincount(codes, minlength=len(levels)) / codes.size
    entropy = -sum(p * math.log2(p) for p in shares.tolist() if p)
    spread = float(np.asarray(weight, dtype=np.float64).std())
    rmse = math.sqrt(float(np.mean((scale * (levels[codes] - scaled)) ** 2))) / spread if spread else 0.0
    return Judged(form.name, form.levels, entropy, rmse)


__all__ = ["EQUAL_USE", "LEAST_ERROR", "Judged", "equal_use", "judged", "least_error", "normal_weights"]
