"""Surrogates against the traces that they stand for: to the byte, term by term, at sizes they were not made from."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import core.train
from core.catalog import architecture_of, config_of, model, models
from core.errors import Incompatible
from core.memory import fit as fitting
from core.memory.estimate import (
    CUDNN_FIRST,
    FEW_TOKENS,
    MONOMIALS,
    ORDER,
    SHORT,
    Regime,
    Sizes,
    Surrogate,
    Unstable,
    find,
    key_of,
    largest,
    section_name,
    shipped,
)
from core.memory.fit import agrees, fit, period_of, random_sizes, versions, with_layers
from core.memory.meta import CUDNN_HEADS
from core.memory.setup import Device, Setup
from core.memory.trace import CATEGORIES, EAGER_TOKENS
from core.methods import METHODS
from tests.core import memory_support

AMPERE = Device((8, 0))


def setup_of(method: str, device: Device = AMPERE, **changes: Any) -> Setup:
    changes = {"batch": 4, "length": 48, "precision": device.precision, **changes}
    return Setup(method, changes.pop("settings", METHODS[method].Config()), device=device, **changes)


def model_of(family: str, **more: Any) -> Any:
    config = memory_support.config_of(family, width=64, layers=6)
    for name, value in more.items():
        setattr(config, name, value)
    return config


@cache
def made(
    family: str, method: str, checkpointing: bool = False, device: Device = AMPERE
) -> tuple[Any, Setup, Surrogate]:
    config, setup = model_of(family), setup_of(method, device, checkpointing=checkpointing)
    return config, setup, fit(config, setup, family)


@pytest.mark.parametrize(
    ("family", "method", "checkpointing", "device"),
    [
        ("llama", "lora", False, AMPERE),
        ("gpt2", "full", True, AMPERE),
        ("llama", "ia3", False, Device((7, 5))),  # attention with the square of the length
        ("opt", "ia3", True, Device((7, 5))),  # attention that counts in groups of 32
        ("gemma", "prefix_tuning", False, AMPERE),  # tensors that grow with the number of layers
        ("llama", "last_k", False, AMPERE),  # layers that differ at the end
    ],
)
def test_any_depth_and_sizes(family: str, method: str, checkpointing: bool, device: Device) -> None:
    config, setup, surrogate = made(family, method, checkpointing, device)
    drawn = random.Random(f"{family} {method}")
    for _ in range(3):
        sizes = random_sizes(surrogate, drawn, 1000, 32)
        assert agrees(surrogate, config, setup, sizes), sizes
    one = Sizes(1, 33, 7, setup.rank or 0, 6)  # one row, seven answers, all layers
    assert surrogate.holds(one)
    assert agrees(surrogate, config, setup, one)


@pytest.mark.parametrize(("rows", "tokens", "rank"), [(2, 2, 64), (1, 2, 2), (3, 5, 64), (2, 16, 8)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_so_short_that_gradients_decide(rows: int, tokens: int, rank: int, checkpointing: bool) -> None:
    """Whatever answers gives the trace's bytes; a shipped one that was never tried there does not answer."""
    asked = setup_of(
        "lora", batch=rows, length=tokens, settings=METHODS["lora"].Config(rank=rank), checkpointing=checkpointing
    )
    name = "Pythia-160M"
    for one in shipped(name, key_of(asked)):
        sizes = Sizes(rows, tokens, None, rank, one.first)
        assert not one.holds(sizes) or agrees(one, config_of(model(name)), asked, sizes)
        assert not one.covers(sizes) or one.tried_short or one.holds(sizes) == (rows * tokens >= FEW_TOKENS * rank)


def test_a_fresh_one_is_tried_on_short_rows() -> None:
    config, setup, surrogate = made("llama", "lora", False, AMPERE)
    assert surrogate.tried_short
    for sizes in (Sizes(2, 2, None, 32), Sizes(1, 5, None, 32), Sizes(4, 3, None, 20)):
        assert surrogate.holds(sizes)
        assert agrees(surrogate, config, setup, sizes), sizes
    untried = replace(surrogate, checked=surrogate.checked[:1])
    assert untried.covers(Sizes(2, 2, None, 32))
    assert not untried.holds(Sizes(2, 2, None, 32))


def test_short_rows_are_drawn_as_often_as_long_ones() -> None:
    (_, surrogate), drawn = SHIPPED[0], random.Random(0)
    lengths = [random_sizes(surrogate, drawn).length for _ in range(200)]
    assert 40 < sum(n < 64 for n in lengths) < 160
    assert max(lengths) > 2000


def test_a_row_of_one_and_a_rank_of_one_are_cases_of_their_own() -> None:
    setup = setup_of("lora", settings=METHODS["lora"].Config(rank=1), batch=1)
    config = model_of("llama")
    surrogate = fit(config, setup, "llama")
    assert surrogate.regime == Regime((1, 1), (2, 2048), (1, 1))
    assert agrees(surrogate, config, setup, Sizes(1, 77, None, 1, 5))
    assert not surrogate.holds(Sizes(2, 77, None, 1))
    with pytest.raises(ValueError, match="does not hold"):
        surrogate.ledger(Sizes(1, 77, None, 8))


def test_a_window_that_is_shorter_than_the_text_needs_a_mask() -> None:
    config = model_of("mistral", sliding_window=100)
    inside, outside = setup_of("ia3", length=48), setup_of("ia3", length=200)
    assert fitting.regime_of(config, inside).length == (2, 99)
    assert fitting.regime_of(config, outside).length == (100, 2048)
    surrogate = fit(config, outside, "mistral")
    assert agrees(surrogate, config, outside, Sizes(3, 333, None, 0, 6))
    assert surrogate.kernels == ("efficient",), "the fused kernel without a mask is no choice"


def test_layers_of_two_kinds_repeat_in_pairs() -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING["qwen2"](
        hidden_size=64, intermediate_size=128, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, sliding_window=64, use_sliding_window=True,
        layer_types=["sliding_attention", "full_attention"] * 4,
    )  # fmt: skip
    assert period_of(config) == 2
    assert with_layers(config, 5).layer_types == [*config.layer_types[:4], "sliding_attention"]
    setup = setup_of("ia3", length=128)
    surrogate = fit(config, setup, "mixed")
    assert (surrogate.first, surrogate.period) == (6, 2)
    assert agrees(surrogate, config, setup, Sizes(2, 150, None, 0, 10))
    assert not surrogate.holds(Sizes(2, 150, None, 0, 9)), "half a pair"


def test_what_does_not_agree_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A surrogate that has lost moments, or a monomial, never comes out."""
    config, setup = model_of("llama"), setup_of("ia3")
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "_undominated", lambda counts, growth: [0])
        with pytest.raises(Unstable, match="does not give the bytes"):
            fit(config, setup, "llama")
    monkeypatch.setattr(fitting, "monomials_of", lambda regime, kernels, square: ["1", "b", "s", "n"])
    with pytest.raises(Unstable, match="none of the known products"):
        fit(config, setup, "llama")


def test_a_surrogate_survives_json_and_explains_itself() -> None:
    _, _, surrogate = made("llama", "lora")
    again = Surrogate.from_dict(json.loads(json.dumps(surrogate.to_dict())))
    sizes = Sizes(3, 200, 50, 4)
    ledger = surrogate.ledger(sizes)
    assert again.ledger(sizes) == ledger
    assert np.array_equal(again.counts, surrogate.counts)
    assert sum(t.bytes for t in ledger.terms) == ledger.allocated_bytes == surrogate.peak_bytes(sizes)
    assert sum(row[2] for row in surrogate.parts(sizes)) == ledger.allocated_bytes
    # A weight of 192 × 64 numbers of two bytes in each of six layers; rows of 600 tokens.
    assert "6 × 12,288 × 2 bytes (mlp.down_proj.base_layer.weight)" in ledger.terms[0].formula
    activations = next(t for t in ledger.terms if t.name == "activations")
    assert "6 × batch 3 × length 200 × 192 × 2 bytes" in activations.formula
    assert "layers" not in ledger.peak_at
    assert "{" not in ledger.peak_at
    all_answers = replace(sizes, answers=None)
    head = next(g for g, _, _ in surrogate.parts(all_answers) if g.op == "aten::_log_softmax")
    assert head.formula(all_answers) == "answer tokens 597 × 1,000 × 4 bytes"


def test_it_answers_in_milliseconds() -> None:
    _, _, surrogate = made("llama", "lora")
    took = []
    for length in range(100, 140):
        began = time.perf_counter()
        surrogate.ledger(Sizes(2, length, None, 8))
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 5e-3


def test_small_parts() -> None:
    assert section_name("layer {-1} backward", 32) == "layer 31 backward"
    assert section_name("layer {0} forward", 32) == "layer 0 forward"
    assert section_name("optimizer", 32) == "optimizer"
    assert ORDER == CATEGORIES
    assert set(CUDNN_FIRST) == set(CUDNN_HEADS)
    assert SHORT == EAGER_TOKENS == core.train.EAGER_TOKENS
    assert [largest(lambda n, most=most: n <= most) for most in (0, 1, 2, 7, 8, 1000)] == [0, 1, 2, 7, 8, 1000]
    assert largest(lambda n: True, 50) == 50
    assert all(value(Sizes(2, 33, 5, 3)) > 0 for value, _ in MONOMIALS.values())


def test_keys_leave_out_sizes_and_what_weighs_nothing() -> None:
    one = setup_of("pissa")
    same = replace(one, batch=9, length=99, answers=3, settings=replace(one.settings, rank=4, alpha=1, fast=True))
    assert key_of(one) == key_of(same)
    assert key_of(one) != key_of(replace(one, checkpointing=True))
    assert key_of(one) != key_of(replace(one, settings=replace(one.settings, dropout=0.1)))
    assert key_of(replace(one, accumulation=2)) == key_of(replace(one, accumulation=8))


# --- those that come with the program ---------------------------------------------------------------------------------

SHIPPED = [(row.name, s) for row in models() for s in shipped(row.name)]


def test_the_popular_models_come_with_the_main_methods() -> None:
    names = {name for name, _ in SHIPPED} - set(fitting.ONE_SETUP)
    assert len(names) >= 25
    for name in names:
        for method in ("lora", "qlora", "full", "bitfit"):
            try:
                METHODS[method].count(architecture_of(name), METHODS[method].Config())
            except Incompatible:
                continue
            for checkpointing in (False, True):
                setup = setup_of(method, batch=2, length=512, checkpointing=checkpointing)
                assert find(name, setup) is not None, (name, method, checkpointing)


def test_shipped_ones_train_as_many_parameters_as_the_closed_form_counts() -> None:
    for name, surrogate in SHIPPED:
        record, settings = json.loads(surrogate.key)
        rank = 4 if surrogate.regime.rank[1] is None else 0
        own = METHODS[record["method"]].Config(**settings, **({"rank": rank} if rank else {}))
        wanted = 4 * METHODS[record["method"]].count(architecture_of(name), own)
        sizes = Sizes(max(2, surrogate.regime.batch[0]), surrogate.regime.length[0] + 62, None, rank)
        found = sum(b for g, _, b in surrogate.parts(sizes) if g.category == "trained weights")
        tensors = sum(n for g, n, _ in surrogate.parts(sizes) if g.category == "trained weights")
        assert wanted <= found <= wanted + surrogate.block * tensors, (name, surrogate.key)
        assert surrogate.checked
        assert set(surrogate.versions) == set(versions())


def test_a_shipped_one_gives_the_bytes_of_the_whole_model() -> None:
    setup = setup_of("lora", batch=3, length=777, answers=500)
    found = find("Llama-3.2-1B", setup)
    assert found is not None
    if dict(found.versions) != versions():
        pytest.skip(f"shipped for {dict(found.versions)}: run python -m core.memory.fit")
    assert agrees(found, config_of(model("Llama-3.2-1B")), setup, Sizes.of(setup))


@pytest.mark.parametrize(
    "surrogate", shipped("SmolLM2-135M"), ids=lambda s: f"{json.loads(s.key)[0]['method']}-{s.key.count('true')}"
)
def test_shipped_ones_are_of_this_code(surrogate: Surrogate) -> None:
    """A method's layers that keep other tensors than before need surrogates anew: one model stands for all."""
    if dict(surrogate.versions) != versions():
        pytest.skip(f"shipped for {dict(surrogate.versions)}: run python -m core.memory.fit")
    record, settings = json.loads(surrogate.key)
    own = METHODS[record["method"]].Config(**settings)
    # (Plain attention's matrices decide where rows are long.)
    length = 1000 if "math" in surrogate.kernels else surrogate.regime.length[0] + 30
    setup = Setup.from_dict({**fitting.record_of(record), "settings": vars(own), "batch": 2, "length": length,
                             "answers": None})  # fmt: skip
    sizes = Sizes(surrogate.regime.batch[0], length, 20, 3 if surrogate.regime.rank[1] is None else 0, surrogate.first)
    assert agrees(surrogate, config_of(model("SmolLM2-135M")), setup, sizes)


def test_runs_of_the_embedded_base_are_predicted() -> None:
    """Every method at its defaults, on a CPU, in both formats."""
    for precision in ("float32", "bfloat16"):
        for method in METHODS:
            setup = setup_of(method, Device(), batch=16, length=90, precision=precision)
            assert find("embedded", setup) is not None, (method, precision)
        recomputing = setup_of("lora", Device(), batch=16, length=90, checkpointing=True, precision=precision)
        assert find("embedded", recomputing) is not None, precision


def test_the_most_popular_models_come_with_qlora_on_an_old_card() -> None:
    for name in fitting.POPULAR[: fitting.OLD_QLORA]:
        for checkpointing in (False, True):
            setup = setup_of("qlora", Device((7, 5)), batch=2, length=256, checkpointing=checkpointing)
            assert find(name, setup) is not None, (name, checkpointing)


def test_later_cards_take_what_ampere_takes() -> None:
    name = "Llama-3.2-1B"
    ampere = find(name, setup_of("lora"))
    assert ampere is not None
    for capability in ((8, 6), (8, 9), (9, 0), (12, 0)):
        assert find(name, setup_of("lora", Device(capability))) is ampere
    windowed = "Gemma-3-1B (text)"
    masked = find(windowed, setup_of("lora", length=600))
    assert masked is not None
    assert "efficient" in masked.kernels
    assert find(windowed, setup_of("lora", Device((8, 9)), length=600)) is masked
    assert find(windowed, setup_of("lora", Device((9, 0)), length=600)) is None, "there cuDNN takes the mask"
    turing = find(name, setup_of("qlora", Device((7, 5))))
    assert turing is not None, "a T4 is what free notebooks have"
    assert turing is not find(name, setup_of("qlora"))
    assert find(name, setup_of("qlora", Device((7, 0)))) is turing, "a V100 has the same kernel for 32 bits"
    assert find(name, setup_of("qlora", Device((8, 9)), precision="float32")) is None, "nobody traced that"
    assert find("no such model", setup_of("lora")) is None


def test_an_estimate_needs_no_torch() -> None:
    program = """
import sys
from core.memory.card import largest_batch, totals
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup
from core.methods import METHODS
setup = Setup("qlora", METHODS["qlora"].Config(), 2, 512, device=Device((8, 9)), precision="bfloat16")
made = find("Llama-3.1-8B", setup)
assert totals(made.ledger(Sizes.of(setup)).allocated_bytes, setup.device).process[1] > 2**32
assert largest_batch(made, Sizes.of(setup), setup.device, 24 * 10**9) > 2
heavy = [m for m in ("torch", "transformers", "bitsandbytes") if m in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
