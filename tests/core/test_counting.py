"""Counts for pages: every method side by side, the kinds of matrices, and the arithmetic of ranks."""

from __future__ import annotations

import pytest

from core import counting
from core.architecture import architecture_of_config
from core.catalog import architecture_of, config_of, model, models
from core.counting import experts_note
from core.memory.setup import Device, Setup
from core.memory.speed import operations_per_token
from core.methods import METHODS
from core.methods.lora import Config


def test_every_method_is_counted_or_refused_with_a_reason() -> None:
    table = architecture_of("Llama-3.1-8B")
    rows = {r.method: r for r in counting.counts(table, "lora", Config(rank=16))}
    assert list(rows) == list(METHODS)
    assert rows["lora"].trainable == 41_943_040
    assert rows["lora"].share == pytest.approx(41_943_040 / table.total)
    assert (rows["bitfit"].trainable, rows["bitfit"].share) == (None, None)
    assert "no bias vectors" in rows["bitfit"].why
    assert "GPT-2" in rows["bitfit"].advice
    assert rows["full"].trainable == table.total
    assert rows["full"].adapter_bytes == 2 * table.total


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "GPT-2", "Qwen2.5-7B", "Gemma-2-2B"])
def test_parts_add_up_and_shapes_cover_the_matrices(name: str) -> None:
    table = architecture_of(name)
    for method in METHODS:
        found = counting.count(table, method)
        if found.trainable is not None:
            parts = counting.parts(table, method, METHODS[method].Config())
            assert sum(p.trained for p in parts) == found.trainable, method
    shapes = counting.shapes(table)
    assert sum(s.count * s.numbers for s in shapes) == sum(m.in_features * m.out_features for m in table.linears())
    assert [s.head for s in shapes].count(True) == 1
    assert shapes[-1].head


def test_rank_arithmetic_of_the_courses() -> None:
    """1000 × 1000 at rank 8: 16,000 instead of a million; 4096 × 4096 at rank 16: 131,072 of 16.8 million."""
    small = counting.Shape("w", 1000, 1000, 1, "other", False, False, False)
    assert (small.pair(8), small.numbers, small.even_rank, small.most_rank) == (16_000, 1_000_000, 500, 1000)
    large = counting.Shape("w", 4096, 4096, 1, "other", False, False, False)
    assert (large.pair(16), large.numbers) == (131_072, 16_777_216)


def test_ranks_grow_in_proportion_and_end_where_no_matrix_has_room() -> None:
    table = architecture_of("SmolLM2-135M")
    rows = counting.ranks(table, "lora", Config(), [1, 2, 64, 128, 100_000])
    assert [r.rank for r in rows] == [1, 2, 64, 128]
    assert rows[1].trainable == 2 * rows[0].trainable
    assert rows[2].adapter_bytes == 64 * rows[0].adapter_bytes


def test_encoders_can_be_counted_too() -> None:
    name = next(row.name for row in models() if not row.is_decoder)
    table = architecture_of(name)
    assert counting.count(table, "lora").trainable
    assert counting.shapes(table)


def test_experts_are_told_of_and_a_token_is_computed_with_few() -> None:
    mixtral = architecture_of("Mixtral-8x7B")
    assert mixtral.experts == 32 * 8 * 3 * 4096 * 14336
    assert mixtral.active == 2 / 8
    assert "stay in 16 bits" in experts_note(mixtral, "qlora")
    assert f"{mixtral.experts:,}" in experts_note(mixtral, "lora")
    assert experts_note(mixtral, "full") == experts_note(architecture_of("Llama-3.1-8B"), "lora") == ""
    assert architecture_of("Llama-3.1-8B").active == 1
    read = architecture_of_config(config_of(model("Mixtral-8x7B")))
    assert (read.experts, read.active) == (mixtral.experts, mixtral.active)
    # 12.9 B weights of 46.7 B are at work (Jiang et al. 2024, arXiv:2401.04088): two operations each, forward and back.
    setup = Setup("lora", METHODS["lora"].Config(), 1, 1024, device=Device((9, 0)), precision="bfloat16")
    assert operations_per_token(mixtral, setup) == pytest.approx(4 * 12.9e9, rel=0.04)


def test_two_texts_have_tokens_each() -> None:
    """As PEFT counts (tests/oracles/test_peft_family.py), and the reader is told."""
    t5, llama = architecture_of("T5-base"), architecture_of("Llama-3.1-8B")
    assert (t5.texts, llama.texts) == (2, 1)
    assert architecture_of("BERT-base-uncased with its output layer").texts == 1
    assert counting.count(t5, "prompt_tuning").trainable == 2 * 20 * 768
    assert "two texts" in counting.texts_note(t5, "p_tuning")
    assert counting.texts_note(t5, "prefix_tuning") == counting.texts_note(llama, "prompt_tuning") == ""
