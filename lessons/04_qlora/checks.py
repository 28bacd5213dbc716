"""Checks of the exercises on QLoRA: the levels of NF4, and storing a matrix in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.exercise import Wrong
from core.quantization import blockwise, measures
from core.quantization.formats import FORMATS, NF4_PUBLISHED, evenly


def _function(space: dict[str, Any], name: str) -> Any:
    found = space.get(name)
    if not callable(found):
        raise Wrong(f"There is no function called {name} yet.")
    return found


def nf4_levels(space: dict[str, Any]) -> str:
    """Sixteen levels, ascending, from -1 to 1, with one zero, at the quantiles."""
    found = _function(space, "levels")()
    if found is None:
        raise Wrong("levels() returns nothing yet.")
    got = np.asarray(found, dtype=float).reshape(-1)
    wanted = np.asarray(NF4_PUBLISHED)
    if np.count_nonzero(np.abs(got) < 1e-9) > 1:
        raise Wrong("There are two zeros in it. Both sides begin with zero; drop it on one of them.")
    if got.size != wanted.size:
        raise Wrong(f"Four bits tell sixteen levels apart, and these are {got.size}.")
    if np.any(np.diff(got) <= 0):
        raise Wrong("The levels must be in ascending order.")
    if abs(got[-1]) > 1 + 1e-6:
        raise Wrong(f"The largest is {got[-1]:.3f}: divide all of them by the largest, so that they span -1 to 1.")
    if np.allclose(np.diff(got), np.diff(got)[0], atol=1e-6):
        raise Wrong(
            "These are evenly spaced in value, which is INT4's idea. NF4's are even in probability: take quantiles."
        )
    if not np.any(np.abs(got) < 1e-9):
        raise Wrong("There is no exact zero among them. Let both sides begin at probability one half.")
    worst = float(np.abs(got - wanted).max())
    if worst > 1e-4:
        place = int(np.abs(got - wanted).argmax())
        raise Wrong(
            f"Level {place} is {got[place]:.4f} and should be {wanted[place]:.4f}. The positive side has nine "
            "probabilities, the negative side eight, each with both ends included."
        )
    gap = float(np.abs(np.asarray(evenly(4)) - got[1:]).max())
    return (
        f"Yours differ from the published table by at most {worst:.1g}. Evenly spaced levels would be up to "
        f"{gap:.2f} away."
    )


def quantize(space: dict[str, Any]) -> str:
    """Blocks with an absmax each; reading multiplies by it; a block of zeros stays zero."""
    store, read = _function(space, "store"), _function(space, "read")
    rng = np.random.default_rng(1)
    size = 64
    # Blocks of different loudness, one all negative, one of zeros.
    weight = (rng.standard_normal((32, size)) * rng.lognormal(0, 1, (32, 1))).astype(np.float32)
    weight[3] = -np.abs(weight[3])
    weight[5] = 0
    flat = weight.reshape(-1)
    try:
        with np.errstate(divide="raise", invalid="raise"):
            answer = store(flat.copy(), size)
    except FloatingPointError:
        raise Wrong("In a block of zeros the scale is zero; do not divide by it.") from None
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise Wrong("store(w, size) returns two things: the codes and the scales.")
    codes, scales = (np.asarray(part) for part in answer)
    if scales.reshape(-1).size != len(weight):
        raise Wrong(f"There are {len(weight)} blocks, so there are as many scales; you return {scales.size}.")
    wanted = np.abs(weight).max(axis=1)
    if not np.allclose(scales.reshape(-1), wanted, rtol=1e-5):
        if np.allclose(scales.reshape(-1), wanted.max(), rtol=1e-5):
            raise Wrong("That is one scale for the whole matrix. The largest magnitude is taken in each block.")
        if np.allclose(scales.reshape(-1), weight.max(axis=1), rtol=1e-5):
            raise Wrong(
                "A block's scale is its largest magnitude, and in a block of negative weights that is not the max."
            )
        if np.allclose(np.delete(scales.reshape(-1), 5), np.delete(wanted, 5), rtol=1e-5):
            raise Wrong(
                f"The scale of a block of zeros is zero, and yours is {scales.reshape(-1)[5]:g}. Divide by one there, "
                "but store the zero."
            )
        raise Wrong("The scales are not the largest magnitude of each block.")
    if codes.reshape(-1).size != flat.size:
        raise Wrong(f"Every weight has a code: {flat.size} of them, not {codes.size}.")
    whole = codes.astype(float)
    if np.any(whole != np.round(whole)) or whole.min() < 0 or whole.max() > 15:
        raise Wrong("A code is the number of a level, a whole number from 0 to 15.")
    back = np.asarray(read(codes, scales, size), dtype=float).reshape(-1)
    if back.size != flat.size:
        raise Wrong(f"read() gives {back.size} numbers back for {flat.size} weights.")
    if not np.isfinite(back).all():
        raise Wrong("A weight was read back as nan. In a block of zeros the scale is zero; do not divide by it.")
    engine = blockwise.quantize(weight, FORMATS["nf4"], size).dense()
    own, best = (measures.errors(weight, copy).rmse or 0.0 for copy in (back.reshape(weight.shape), engine))
    if np.any(back.reshape(weight.shape)[5] != 0):
        raise Wrong("The block of zeros must be read back as zeros.")
    if own > best * 1.01:
        unscaled = np.asarray(NF4_PUBLISHED)[whole.astype(int)].reshape(-1)
        if np.allclose(back, unscaled):
            raise Wrong("These are the levels. To get weights, multiply each by the scale of its block.")
        raise Wrong(
            f"The error is {100 * own:.1f} % of the spread; with the nearest levels it would be {100 * best:.1f} %."
        )
    return f"The error is {100 * own:.2f} % of the spread, the engine's {100 * best:.2f} %."
