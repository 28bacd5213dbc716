"""How far a matrix that was stored and read again is from the one it was.

Errors are given relative to the spread of the weights, so that matrices of different size can stand beside each other.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Errors:
    """rmse: root mean square error, in standard deviations of the weights. largest: the worst error, in the same unit.
    sqnr_db: power of the weights over power of the error, in decibels (10·log₁₀), infinite where nothing was lost.
    cosine: of the angle between the matrix and its copy.
    None where it is undefined: a matrix of one value only has no spread, one of zeros no direction.
    """

    rmse: float | None
    largest: float | None
    sqnr_db: float | None
    cosine: float | None

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: an infinite ratio becomes None."""
        return {k: v if v is None or math.isfinite(v) else None for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Known:
    """A matrix that many copies are compared with: its values in a row (float64), their sum of squares, and their
    standard deviation."""

    values: np.ndarray
    squares: float
    spread: float

    @classmethod
    def of(cls, weight: np.ndarray) -> Known:
        w = np.asarray(weight, dtype=np.float64).reshape(-1)
        return cls(w, float(w @ w), float(w.std()))


def errors(weight: np.ndarray | Known, copy: np.ndarray) -> Errors:
    """Compare a matrix with its copy; both of one shape."""
    known = weight if isinstance(weight, Known) else Known.of(weight)
    w, spread, squares = known.values, known.spread, known.squares
    v = np.asarray(copy, dtype=np.float64).reshape(-1)
    gap = w - v
    noise = float(gap @ gap)
    length = math.sqrt(squares * float(v @ v))
    return Errors(
        rmse=math.sqrt(noise / w.size) / spread if spread else None,
        largest=float(np.abs(gap).max()) / spread if spread else None,
        sqnr_db=(10 * math.log10(squares / noise) if noise else math.inf) if squares else None,
        cosine=float(w @ v) / length if length else None,
    )


def output_error(inputs: np.ndarray, weight: np.ndarray, copy: np.ndarray) -> float | None:
    """‖XWᵀ − XŴᵀ‖ / ‖XWᵀ‖ (Frobenius): how much a layer's output changes on the inputs that it really gets.

    Args:
        inputs: (tokens, in). weight, copy: (out, in).
    """
    x = np.asarray(inputs, dtype=np.float32)
    whole = float(np.linalg.norm(x @ np.asarray(weight, dtype=np.float32).T))
    return float(np.linalg.norm(x @ (weight - copy).astype(np.float32).T)) / whole if whole else None


def excess_kurtosis(weight: np.ndarray) -> float | None:
    """0 for a normal distribution, more for heavier tails: a measure of outliers. None for a matrix of one value."""
    w = np.asarray(weight, dtype=np.float64).reshape(-1)
    centred = w - w.mean()
    variance = float((centred**2).mean())
    return float((centred**4).mean()) / variance**2 - 3 if variance else None
