"""Claims: every one computed, and each figure by hand where a hand is enough."""

from __future__ import annotations

import numpy as np
import pytest

from core.catalog import architecture_of
from core.claims import (
    HOLDS,
    HOLDS_IF,
    OFF,
    OPEN,
    TOPICS,
    claim,
    claims,
    decimal_text,
    references,
    share_text,
    verdict_of,
    with_prices,
)
from core.errors import NotFound
from core.quantization.criteria import LEAST_ERROR, judged

NUMBERS = list(range(1, 26))


def value(number: int, name: str) -> float:
    return next(f.value for f in claim(number).figures if f.name == name)


def test_all_claims_are_here() -> None:
    assert [c.number for c in claims()] == NUMBERS
    for c in claims():
        assert c.verdict in (HOLDS, HOLDS_IF, OFF, OPEN)
        assert 0 <= c.cases[0] <= c.cases[1]
        assert c.topic in TOPICS
        assert c.text.endswith(".")
        assert c.told.endswith(".")
        assert c.assumptions
        assert c.figures
        for figure in c.figures:
            assert figure.text
            assert figure.formula
            assert figure.value >= 0
        assert c.references or c.number == 25
        assert all(r.address.startswith("https://") and r.where for r in c.references)
    assert set(references()) >= {r.key for c in claims() for r in c.references}
    with pytest.raises(NotFound, match="no claim number 99"):
        claim(99)


def test_figures_by_hand() -> None:
    total = architecture_of("Llama-3.1-70B").total
    assert value(1, "mixed precision with a master copy") == 16
    assert value(1, "and gradients summed in 32 bits") == 20
    assert value(2, "at 16 bytes a parameter") == 16 * total
    assert value(2, "bytes a parameter that give the claim") == pytest.approx(17.0, abs=0.02)
    assert value(3, "at 12 bytes a parameter") == pytest.approx(0.847e12, rel=1e-3)
    assert value(4, "32-bit states a parameter") == pytest.approx(2, abs=0.001)
    assert value(8, "saved") == pytest.approx(0.8993, abs=1e-3)
    assert value(9, "trained") == 18_874_368
    assert value(12, "rank 8, q_proj,v_proj") == 4 * 3_407_872
    assert value(14, "BERT-base-uncased") == pytest.approx(0.00094, abs=1e-5)
    assert value(14, "Llama-3.1-8B") == 0
    assert value(16, "the weights") == 2 * 65_285_660_672
    assert value(17, "saved") == pytest.approx(0.373, abs=1e-3)
    assert value(17, "at 65B") == pytest.approx(3.04e9, rel=1e-2)


def test_a_verdict_is_what_its_cases_say() -> None:
    assert verdict_of([True, True]) == HOLDS
    assert verdict_of([True, False, None]) == verdict_of([True, None]) == HOLDS_IF
    assert verdict_of([False, None]) == OFF
    assert verdict_of([None]) == verdict_of([]) == OPEN


def test_verdicts_follow_the_figures() -> None:
    held = (1, 4, 8, 9, 10, 11, 15, 16, 17)
    assert {n: claim(n).verdict for n in held} == dict.fromkeys(held, HOLDS)
    for number in (2, 3, 5, 6, 7, 12, 14, 18, 20, 21, 22, 23, 24):
        assert claim(number).verdict == HOLDS_IF, number
    assert claim(19).verdict == OPEN  # only a GPU can show it, and none has yet
    assert value(15, "whole process, likely") < value(15, "usable on an RTX A6000") < 48 * 2**30
    assert 0.5 < value(6, "lora on Llama-3.1-8B") < value(6, "qlora on Llama-3.1-8B") < 1
    assert value(24, "8 GPUs, ZeRO-3") < value(24, "8 GPUs, ZeRO-1") < value(24, "1 GPU")
    assert value(25, "H100 SXM") / value(25, "RTX 4090") == pytest.approx(18.8, abs=0.1)


def test_a_readers_own_prices() -> None:
    assert claim(25).verdict == HOLDS_IF  # by the makers' prices of the small cards; the large ones' repeat the claim
    assert claim(25).cases == (2, 2)
    assert "not compared" in claim(25).told
    assert "H100 SXM" in claim(25).told
    assert with_prices({"A100 80 GB SXM": 31_000, "H100 SXM": 30_000}).verdict == HOLDS
    dear = with_prices({"RTX 4090": 3000, "H100 SXM": 30_000})
    assert dear.verdict == HOLDS_IF
    assert next(f.value for f in dear.figures if f.name == "RTX 4090") == 3000
    assert "10 times an RTX 4090" in dear.told
    assert with_prices({"RTX 3090": 700, "RTX 4090": 700}).verdict == OFF


def test_the_counts_of_the_smallest_methods() -> None:
    assert value(23, "prompt tuning trains") == 20 * 4096
    assert value(23, "prefix tuning trains") == 2 * 20 * 32 * 1024
    assert value(23, "IA3 trains") == 32 * (1024 + 1024 + 14_336)


def test_levels_are_judged_by_both_criteria() -> None:
    normal = np.random.default_rng(1).standard_normal((1024, 64)).astype(np.float32)
    found = {one.name: one for one in judged(normal, 64)}
    even = {name: one.entropy_bits / 4 for name, one in found.items()}
    assert 0.8 < even["int4"] < even["fp4"] < even["nf4"] < 1
    error, levels = found[LEAST_ERROR].rmse, found[LEAST_ERROR].levels
    assert len(levels) == 16
    assert (np.diff(levels) > 0).all()
    assert error < value(18, "NF4, error, normal weights") < value(18, "INT4, error, normal weights")
    assert value(18, "NF4, evenness of its levels, normal weights") > 0.95
    # Weights that are the levels themselves are stored without a loss.
    exact = np.asarray([[-1.0, -0.5, 0.5, 1.0] * 16] * 32, dtype=np.float32)
    assert next(one for one in judged(exact, 64) if one.name == LEAST_ERROR).rmse < 0.01


def test_sizes_as_they_are_sold() -> None:
    assert [decimal_text(n) for n in (12, 1.4e3, 1.41e11, 1.13e12)] == ["12 B", "1.4 kB", "141 GB", "1.13 TB"]
    assert share_text(0.00094) == "0.094 %"
