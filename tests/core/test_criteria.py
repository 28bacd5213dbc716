"""The two criteria for a list of levels: fitted lists are best at what they are fitted for, and NF4 is neither."""

from __future__ import annotations

import numpy as np
import pytest

from core.quantization import criteria, summaries
from core.quantization.criteria import EQUAL_USE, LEAST_ERROR, Judged
from core.quantization.formats import FORMATS

WEIGHT = criteria.normal_weights(128, 128)


def by_name(block_size: int = 64) -> dict[str, Judged]:
    return {row.name: row for row in criteria.judged(WEIGHT, block_size)}


def error_of(levels: tuple[float, ...], block_size: int = 64) -> float:
    """By hand, without the module: divide, take the nearest level, multiply."""
    blocks = WEIGHT.astype(float).reshape(-1, block_size)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    book = np.asarray(levels)
    read = book[np.abs((blocks / absmax)[..., None] - book).argmin(-1)] * absmax
    return float(np.sqrt(((read - blocks) ** 2).mean()) / blocks.std())


def test_errors_are_those_of_a_computation_by_hand() -> None:
    for row in by_name().values():
        assert row.rmse == pytest.approx(error_of(row.levels), rel=1e-4), row.name


def test_each_fitted_list_is_the_best_at_its_own_criterion() -> None:
    rows = by_name()
    assert min(rows.values(), key=lambda r: r.rmse).name == LEAST_ERROR
    assert max(rows.values(), key=lambda r: r.entropy_bits).name == EQUAL_USE
    assert rows[EQUAL_USE].entropy_bits == pytest.approx(4, abs=0.01)


def test_nf4_is_neither_and_beats_the_other_formats() -> None:
    """What the lesson says of the claim that NF4 is optimal for normal numbers."""
    rows = by_name()
    assert rows["nf4"].entropy_bits < 3.95
    assert rows["nf4"].rmse > 1.03 * rows[LEAST_ERROR].rmse
    assert rows["nf4"].rmse < min(rows["fp4"].rmse, rows["int4"].rmse)
    assert rows[EQUAL_USE].rmse == max(r.rmse for r in rows.values())


def test_no_single_level_can_be_moved_to_lessen_the_least_error() -> None:
    levels = criteria.least_error(WEIGHT, 64)
    least = error_of(levels)
    for place in range(16):
        for step in (-0.02, 0.02):
            moved = tuple(v + step * (i == place) for i, v in enumerate(levels))
            assert error_of(tuple(sorted(moved))) > least - 1e-7


def test_an_outlier_harms_the_rest_of_its_block() -> None:
    block = WEIGHT.reshape(-1)[:64]
    form = FORMATS["nf4"]
    plain = summaries.block(block, form, 64)
    spoilt = summaries.block(summaries.with_outlier(block, 8), form, 64)
    assert spoilt.absmax == pytest.approx(8 * plain.absmax)
    rest, worse = summaries.rest_error(plain), summaries.rest_error(spoilt)
    assert rest is not None
    assert worse is not None
    assert worse > 4 * rest
    assert summaries.rest_error(summaries.block(np.ones(4, np.float32), form, 4)) is None
