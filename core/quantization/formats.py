"""The values that a stored weight may take: NF4 (derived here), FP4, INT4, INT8 and the 8-bit dynamic type.

A format is a code book, a sorted list of levels in [-1, 1], and what its scale belongs to. A weight is stored as the
number of the level that is nearest to weight / scale, where the scale is the largest magnitude of its block (absmax):

    w ≈ level[q] · absmax

FORMATS is the one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from core.errors import BadInput, NotFound

QLORA = "Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314"
_BITSANDBYTES = "bitsandbytes 0.50, bitsandbytes/functional.py"

NF4_PUBLISHED = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The sixteen values as they were published (QLoRA, appendix E) and as bitsandbytes stores with them. They are kept
beside the derivation (`normal_float`), which was done in 32 bits there: the two differ in the seventh digit."""

FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
"""By the three bits behind the sign, before the division by 12. Two bits of exponent and one of fraction (E2M1), with
exponents that grow in an order of their own and one subnormal, 0.0625 (bitsandbytes, `get_4bit_type`)."""


@dataclass(frozen=True)
class Format:
    """How a weight is stored.

    name: as in a config. title: for people. bits: per weight, without the scales. levels: ascending, in [-1, 1]
    (affine: in [0, 1]). patterns: the bits that stand for each level in bitsandbytes' memory. scope: what shares a
    scale, "block" or "row". affine: a block has a smallest value and a range in place of an absmax. source: where the
    levels come from.
    """

    name: str
    title: str
    bits: int
    levels: tuple[float, ...]
    source: str
    patterns: tuple[int, ...] = ()
    scope: str = "block"
    affine: bool = False

    @property
    def nests(self) -> bool:
        """Whether double quantization is defined for it: one scale per block of weights."""
        return self.scope == "block" and not self.affine

    @property
    def array(self) -> np.ndarray:
        """The levels, float32."""
        return np.asarray(self.levels, dtype=np.float32)


# --- NormalFloat, step by step ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormalFloat:
    """The construction of k-bit NormalFloat with its intermediate results, each from the middle outwards.

    offset: the outermost probability. positive, negative: the sides' probabilities, quantiles of N(0, 1) and levels,
    zero included in both. levels: the 2^k values, ascending.
    """

    bits: int
    offset: float
    positive: tuple[tuple[float, float, float], ...]
    negative: tuple[tuple[float, float, float], ...]
    levels: tuple[float, ...]


def outermost_probability(bits: int) -> float:
    """Where the quantiles stop: at probability 1 the quantile would be infinite.

    Half a step short of the end, a step being 1/2^k on the one side and 1/(2^k - 1) on the other: the mean of the two
    is taken. For k = 4: 1 - (1/32 + 1/30)/2 = 0.9677083, the constant in bitsandbytes.
    """
    n = 2**bits
    return 1 - (1 / (2 * n) + 1 / (2 * n - 2)) / 2


def normal_float(bits: int = 4, offset: float | None = None) -> NormalFloat:
    """Derive k-bit NormalFloat: levels at which normally distributed weights fall equally often, and an exact zero.

    1. 2^(k-1) + 1 probabilities, evenly spaced from 1/2 to the outermost one; 2^(k-1) of them for the negative side.
    2. The quantile of N(0, 1) at each: Φ⁻¹(p); for the negative side with the sign changed.
    3. Both sides begin with zero; one of the two is dropped: 2^k values.
    4. All are divided by the largest, so that they span [-1, 1], as the weights of a block do once they are divided by
       their absmax.

    (QLoRA, section 3, "4-bit NormalFloat quantization", and appendix E; the construction in bitsandbytes'
    `create_normal_map`; written out by Yoshida 2023, arXiv:2306.06965, section 2.)

    Args:
        bits: k, from 2 to 8.
        offset: the outermost probability, between 1/2 and 1; `outermost_probability` when None.

    Raises:
        BadInput: bits or offset out of range.
    """
    if not 2 <= bits <= 8:
        raise BadInput(f"NormalFloat is derived here for 2 to 8 bits, not {bits}.")
    end = outermost_probability(bits) if offset is None else offset
    if not 0.5 < end < 1:
        raise BadInput(f"The outermost probability must lie between 0.5 and 1, not at {end:g}.")
    normal, half = NormalDist(), 2 ** (bits - 1)
    largest = normal.inv_cdf(end)

    def side(count: int, sign: int) -> tuple[tuple[float, float, float], ...]:
        steps = [*(0.5 + (end - 0.5) * i / (count - 1) for i in range(count - 1)), end]
        quantiles = [0.0, *(normal.inv_cdf(p) for p in steps[1:])]
        out = [(p if sign > 0 else 1 - p, sign * z, sign * z / largest) for p, z in zip(steps, quantiles, strict=True)]
        return ((0.5, 0.0, 0.0), *out[1:])

    positive, negative = side(half + 1, 1), side(half, -1)
    levels = (*(level for *_, level in reversed(negative[1:])), *(level for *_, level in positive))
    return NormalFloat(bits, end, positive, negative, levels)


# --- the others -------------------------------------------------------------------------------------------------------


def evenly(bits: int) -> tuple[float, ...]:
    """Whole numbers from -(2^(k-1) - 1) to 2^(k-1) - 1, divided by the largest: symmetric, zero exact, one pattern
    unused."""
    top = 2 ** (bits - 1) - 1
    return tuple(n / top for n in range(-top, top + 1))


def dynamic_8bit() -> tuple[float, ...]:
    """The 8-bit dynamic type: seven decades of magnitude, each cut finer than the one below, zero and 1.

    Within a decade the levels are the means of neighbouring points evenly spaced from 0.1 to 1: 1 in the lowest decade,
    2, 4, … 64 in the highest. -1 is not among them: the most negative level is -0.993. (Dettmers 2016, 8-Bit
    Approximations for Parallelism in Deep Learning, arXiv:1511.04561, section 2; computed in 32 bits, as in
    bitsandbytes' `create_dynamic_map`.)
    """
    found = [0.0, 1.0]
    for i in range(7):
        points = _float32_steps(0.1, 1.0, 2**i + 1)
        means = (points[:-1] + points[1:]) / np.float32(2)
        decade = (np.float32(10.0 ** (i - 6)) * means).tolist()
        found += [*decade, *(-m for m in decade)]
    return tuple(sorted(found))


def _float32_steps(first: float, last: float, count: int) -> np.ndarray:
    """Evenly spaced numbers computed in 32 bits from both ends towards the middle: so torch.linspace rounds."""
    step = np.float32((np.float32(last) - np.float32(first)) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float32)
    # torch multiplies and adds in one rounding: in 64 bits the product of two 32-bit numbers is exact.
    up = (np.float64(np.float32(first)) + np.float64(step) * index).astype(np.float32)
    down = (np.float64(np.float32(last)) - np.float64(step) * (count - 1 - index)).astype(np.float32)
    return np.where(np.arange(count) < count // 2, up, down)


def _fp4() -> tuple[tuple[float, ...], tuple[int, ...]]:
    """FP4's levels ascending, and the pattern of each. Of the two zeros the positive one stands below the negative."""
    top = max(FP4_MAGNITUDES)
    values = [(m / top, pattern) for pattern, m in enumerate(FP4_MAGNITUDES)]
    values += [(-m, pattern + 8) for m, pattern in values]
    ordered = sorted(values, key=lambda v: (v[0], v[1]))
    return tuple(v + 0.0 for v, _ in ordered), tuple(p for _, p in ordered)


_FP4_LEVELS, _FP4_PATTERNS = _fp4()

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("nf4", "NF4", 4, NF4_PUBLISHED, f"{QLORA}, section 3 and appendix E", tuple(range(16))),
        Format("fp4", "FP4", 4, _FP4_LEVELS, f"{_BITSANDBYTES}, get_4bit_type", _FP4_PATTERNS),
        Format("int4", "INT4", 4, evenly(4), "symmetric absmax: whole numbers from -7 to 7"),
        Format(
            "int4_affine", "INT4, min to max", 4, tuple(n / 15 for n in range(16)),
            "asymmetric: sixteen even steps between a block's smallest and largest value", affine=True,
        ),
        Format("nf3", "NF3", 3, normal_float(3).levels, "derived as NF4, for comparison", tuple(range(8))),
        Format("nf2", "NF2", 2, normal_float(2).levels, "derived as NF4, for comparison", tuple(range(4))),
        Format("int8", "INT8", 8, evenly(8), "symmetric absmax: whole numbers from -127 to 127"),
        Format(
            "int8_row", "INT8, per row", 8, evenly(8),
            "Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339, section 3.1: vector-wise; a row of the weight has one "
            "scale",
            scope="row",
        ),
        Format(
            "dynamic8", "8-bit dynamic", 8, dynamic_8bit(), f"{_BITSANDBYTES}, create_dynamic_map",
            tuple(range(256)),
        ),
    )
}  # fmt: skip
"""Every format by name."""

SHOWN = ("nf4", "fp4", "int4", "int4_affine", "int8", "int8_row")
"""Those for weights, in the order of charts. (The dynamic type stores what is spread over decades: scales, and the
moments of Adam.)"""


@lru_cache
def midpoints(name: str) -> np.ndarray:
    """Where one level ends and the next begins, float32; a value on the border belongs to the lower level."""
    levels = FORMATS[name].array
    return (levels[1:] + levels[:-1]) / np.float32(2)


def format_of(name: str) -> Format:
    """The format of that name.

    Raises:
        NotFound: there is none.
    """
    if name not in FORMATS:
        raise NotFound(f"There is no format {name!r}.", f"The formats are {', '.join(FORMATS)}.")
    return FORMATS[name]


def gaps(levels: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest distance between neighbouring levels."""
    found = [b - a for a, b in pairwise(levels) if b > a]
    return min(found), max(found)
