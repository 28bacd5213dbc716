"""LoRA's arithmetic on something that can be seen: a picture is a matrix, and an edit laid over it is a ΔW.

    W = W₀ + ΔW_r,   ΔW_r = Σ_{i≤r} σᵢuᵢvᵢᵀ = B·A,   B = U_r·Σ_r  (rows × r),   A = V_rᵀ  (r × columns)

ΔW_r is the best edit of rank r: no other of that rank comes closer (Eckart and Young 1936). It takes r·(rows + columns)
numbers instead of rows·columns. Some edits need few directions (dusk that comes from one side: one), some many
(letters), some all of them (grain). The picture and the edits are drawn by this file; nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from core.errors import BadInput

ROWS, COLUMNS = 96, 128
Matrix = np.ndarray[Any, np.dtype[np.float64]]

# Letters of 7 rows and 5 columns, as they were on the displays of old machines.
LETTERS = {
    "D": ("####.", "#...#", "#...#", "#...#", "#...#", "#...#", "####."),
    "E": ("#####", "#....", "#....", "####.", "#....", "#....", "#####"),
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "A": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
}
WORD = "DELTA"


@lru_cache
def photo() -> Matrix:
    """Hills under an evening sky, with a sun and its glitter on a lake: (ROWS, COLUMNS), 0 black, 1 white."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(float)
    sky = 0.62 + 0.28 * y / ROWS
    picture = sky + 0.55 * np.exp(-((x - 92) ** 2 + (y - 34) ** 2) / 90.0)
    for height, width, shift, grey in ((52, 21, 8, 0.52), (58, 15, 40, 0.40), (64, 11, 3, 0.27)):
        ridge = height + 5 * np.sin((x + shift) / width) + 3 * np.sin((x + 2 * shift) / (0.41 * width))
        picture = np.where(y > ridge, grey + 0.05 * np.sin(x / 3.1 + y / 2.3), picture)
    lake = 0.34 + 0.05 * np.sin(y * 1.9 + np.sin(x / 9.0))
    lake += 0.42 * np.exp(-((x - 92) ** 2) / (40.0 + 2.2 * (y - 74) ** 2)) * (0.6 + 0.4 * np.sin(y * 2.7))
    picture = np.where(y > 74, lake, picture)
    return np.clip(picture, 0.0, 1.0)


def _dusk() -> Matrix:
    """A shadow that comes from the left and from above: a column times a row, so one direction."""
    return -0.6 * np.outer(np.linspace(1.0, 0.45, ROWS), np.linspace(1.0, 0.05, COLUMNS))


def _window() -> Matrix:
    """The bars of a window: one that goes down, two that go across."""
    bars = np.zeros((ROWS, COLUMNS))
    bars[:, 61:67] = -0.8
    bars[28:33, :] = -0.8
    bars[63:68, :] = -0.8
    return bars


def _caption() -> Matrix:
    """A word in large letters."""
    rows = ["".join(LETTERS[letter][i] + "." for letter in WORD) for i in range(7)]
    word = np.array([[c == "#" for c in row] for row in rows], dtype=float)
    large = np.kron(word, np.ones((4, 4)))
    out = np.zeros((ROWS, COLUMNS))
    top, left = (ROWS - large.shape[0]) // 2, (COLUMNS - large.shape[1]) // 2 + 2
    out[top : top + large.shape[0], left : left + large.shape[1]] = 0.75 * large
    return out


def _cloud() -> Matrix:
    """A round cloud: smooth, yet not a column times a row."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(float)
    puffs = ((40, 26, 13), (54, 20, 15), (68, 25, 12), (55, 30, 12))
    height = np.max(
        [np.sqrt(np.clip(r**2 - (x - cx) ** 2 - (y - cy) ** 2, 0, None)) / r for cx, cy, r in puffs], axis=0
    )
    return 0.5 * height


def _grain() -> Matrix:
    """Every dot by itself, as on old film."""
    return np.random.default_rng(0).normal(0.0, 0.14, (ROWS, COLUMNS))


@dataclass(frozen=True)
class Edit:
    """An edit of the picture. draw: gives ΔW, (ROWS, COLUMNS). told: what it shows about rank."""

    title: str
    draw: Callable[[], Matrix]
    told: str


EDITS: dict[str, Edit] = {
    "dusk": Edit("Dusk", _dusk, "One column times one row: rank one, and a pair of rank one is the whole edit."),
    "window": Edit("Window bars", _window, "Two kinds of rows, one with bars across and one without: rank two."),
    "cloud": Edit("A cloud", _cloud, "Smooth, so its directions fade quickly: a few give nearly all of it."),
    "caption": Edit("A word", _caption, "Its rows come in few kinds, one for each pattern of strokes."),
    "grain": Edit("Film grain", _grain, "Every dot is by itself, no direction outdoes the next: nothing is saved."),
}  # fmt: skip


def edit(name: str) -> Matrix:
    """ΔW of an edit, (ROWS, COLUMNS).

    Raises:
        BadInput: there is none of that name.
    """
    if name not in EDITS:
        raise BadInput(f"There is no edit called {name!r}.", f"There are {', '.join(EDITS)}.")
    return EDITS[name].draw()


def best_pair(change: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """B (rows × r) and A (r × columns) whose product comes closest to `change` among all of that rank.

    Raises:
        BadInput: the rank is below 0.
    """
    if rank < 0:
        raise BadInput("A rank is 0 or more.")
    u, s, vt = np.linalg.svd(change, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


@lru_cache(maxsize=16)
def singular_values(name: str) -> tuple[float, ...]:
    """σ₁ ≥ σ₂ ≥ … of an edit."""
    return tuple(float(v) for v in np.linalg.svd(edit(name), compute_uv=False))


def rank_of(name: str) -> int:
    """Directions of an edit that are more than rounding."""
    values = singular_values(name)
    return sum(v > 1e-9 * values[0] for v in values)


def kept(name: str, rank: int) -> float:
    """Share of an edit's energy Σσ² in its first `rank` directions, 0..1."""
    energies = np.square(singular_values(name))
    return float(energies[:rank].sum() / energies.sum())


def pair_numbers(rank: int) -> int:
    """r·(rows + columns): what a pair of that rank has, for this picture."""
    from core.methods.lora import pair_parameters

    return pair_parameters(COLUMNS, ROWS, rank)


__all__ = [
    "COLUMNS",
    "EDITS",
    "ROWS",
    "Edit",
    "best_pair",
    "edit",
    "kept",
    "pair_numbers",
    "photo",
    "rank_of",
    "singular_values",
]
