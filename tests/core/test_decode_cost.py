"""Decoding 4-bit weights apart or inside a product: bytes, limits and how often."""

from __future__ import annotations

import pytest

from core.catalog import gpu
from core.decode_cost import TILE, decoding
from core.errors import BadInput
from core.roofline import limit_of


def test_inside_wins_for_one_token_and_not_for_a_batch() -> None:
    limit = limit_of(gpu("RTX 4090"))
    assert limit is not None
    one, many = decoding(1, 4096, 4096, limit), decoding(8192, 4096, 4096, limit)
    # One token waits for bytes alone: 0.5 read, against 0.5 read, 2 written and 2 read again.
    assert one.gain == pytest.approx(one.apart_bytes / one.inside_bytes, rel=1e-6)
    assert 8 < one.gain < 9
    assert many.gain < 1.05
    assert (one.decodings, many.decodings) == (1, 8192 // TILE)


def test_the_last_tile_counts_though_it_is_not_full() -> None:
    limit = limit_of(gpu("RTX 4090"))
    assert limit is not None
    assert [decoding(n, 64, 64, limit).decodings for n in (1, TILE, TILE + 1, 1000)] == [1, 1, 2, 8]


def test_no_tokens_are_refused() -> None:
    limit = limit_of(gpu("RTX 4090"))
    assert limit is not None
    with pytest.raises(BadInput, match="at least one token"):
        decoding(0, 64, 64, limit)
