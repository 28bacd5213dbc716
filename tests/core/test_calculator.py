"""What the calculators' pages compute: one step on one card, side by side, advice, rules, disk, time and money."""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from core.catalog import GpuRow, architecture_of, gpu, gpus
from core.errors import BadInput, Incompatible
from core.memory import advice, compare, cost, rules, storage
from core.memory.card import FITS, TOO_LARGE, totals
from core.memory.compare import Family, all_cards, answer, frontier, methods, on, with_method
from core.memory.estimate import Sizes, Surrogate, find
from core.memory.setup import Device, Setup
from core.memory.sharded import Sharding
from core.memory.speed import step_speed
from core.methods import METHODS
from core.units import GIB
from tests.core import memory_support

MODEL = "Llama-3.1-8B"
CARD = gpu("RTX 4090")


def setup_of(method: str = "qlora", card: GpuRow = CARD, **changes: Any) -> Setup:
    settings = changes.pop("settings", METHODS[method].Config())
    return on(Setup(method, settings, **{"batch": 1, "length": 2048, **changes}), card)


def lookup(name: str = MODEL) -> compare.Lookup:
    return lambda setup: find(name, setup)


def certain(setup: Setup, name: str = MODEL) -> Surrogate:
    made = find(name, setup)
    assert made is not None
    return made


# --- one step ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_surrogate_s_and_the_card_s() -> None:
    setup = setup_of(batch=2)
    found = answer(lookup(), setup, CARD)
    assert found is not None
    made = certain(setup)
    assert found.ledger == made.ledger(Sizes.of(setup))
    assert found.found == totals(made.peak_bytes(Sizes.of(setup)), setup.device)
    assert found.verdict == TOO_LARGE


def apart(setup: Setup) -> Surrogate | None:
    """As `lookup`, with one row and several told apart, as a model's step may have it."""
    made = find(MODEL, setup)
    if made is None:
        return None
    rows = (1, 1) if setup.batch == 1 else (2, None)
    return dataclasses.replace(made, regime=dataclasses.replace(made.regime, batch=rows))


def test_the_largest_batch_is_found_from_a_single_row_too() -> None:
    """Where one row is a regime of its own, its surrogate knows nothing of two."""
    one, four = setup_of(length=512), setup_of(length=512, batch=4)
    made = certain(four)
    expected = next(
        n for n in range(64, 0, -1)
        if totals(made.peak_bytes(Sizes(n, 512, rank=8)), four.device).process[2] <= CARD.usable_bytes
    )  # fmt: skip
    assert expected > 1
    for ask in (lookup(), apart):
        for setup in (one, four):
            found = answer(ask, setup, CARD)
            assert found is not None
            assert found.batch == expected
            assert found.tight[0] is not None
            assert found.tight[0] > expected
    alone = answer(lambda setup: apart(setup) if setup.batch == 1 else None, one, CARD)
    assert alone is not None
    assert alone.batch is None, "more rows are not traced, so nothing is said of them"


@pytest.mark.parametrize(("name", "length"), [("Gemma-3-1B (text)", 300), ("Mistral-7B-v0.1", 3000)])
def test_the_longest_rows_go_on_beyond_a_window(name: str, length: int) -> None:
    card = gpu("A100 80 GB SXM")
    setup = setup_of(length=length, checkpointing=True)
    family = Family.of(lookup(name), on(setup, card))
    assert family is not None
    end = family.first.regime.length[1]
    assert end is not None
    assert (family.largest(on(setup, card), card)[1] or 0) > end
    for sizes in (Sizes(1, length, rank=8), Sizes(2, length, rank=8), Sizes(1, end + 5, rank=8)):
        there = certain(dataclasses.replace(on(setup, card), batch=sizes.batch, length=sizes.length), name)
        assert family.peak_bytes(sizes) == there.peak_bytes(sizes)
    with pytest.raises(ValueError, match="nothing holds"):
        family.peak_bytes(Sizes(1, 1 << 30, rank=8))


def test_a_slider_is_answered_within_five_milliseconds() -> None:
    setup = setup_of()
    answer(lookup(), setup, CARD)
    seconds = []
    for step in range(40):
        asked = dataclasses.replace(setup, batch=1 + step % 6, length=512 + 64 * step)
        began = time.process_time()  # (its own: what else the machine does is not counted)
        assert answer(lookup(), asked, CARD) is not None
        seconds.append(time.process_time() - began)
    assert statistics.median(seconds) <= 0.005


def test_what_cannot_be_is_said() -> None:
    table = architecture_of("Llama-2-7B")
    with pytest.raises(BadInput, match="reads at most 4,096 tokens; rows of 8,192"):
        compare.check(table, 4096, setup_of(length=8192), "Llama-2-7B")
    prompts = setup_of("prompt_tuning", length=4090)
    ahead = prompts.settings.tokens
    with pytest.raises(BadInput, match=f"rows of 4,090, with {ahead} of the method's own before each"):
        compare.check(table, 4096, prompts, "Llama-2-7B")
    compare.check(table, 4090 + ahead, prompts, "Llama-2-7B")
    asked = dataclasses.replace(setup_of(), device=Device((7, 5)))
    with pytest.raises(BadInput, match="does not compute in bfloat16"):
        compare.check(table, None, asked, "Llama-2-7B")
    wide = METHODS["lora"].Config(rank=1024, target_modules="k_proj")
    with pytest.raises(Incompatible, match="no change of it has a rank above 512"):
        compare.check(architecture_of("Qwen2.5-7B"), None, setup_of("lora", settings=wide), "Qwen2.5-7B")
    with pytest.raises(Incompatible, match="no bias vectors"):
        compare.check(table, None, setup_of("bitfit"), "Llama-2-7B")


# --- side by side -----------------------------------------------------------------------------------------------------


def test_methods_side_by_side() -> None:
    setup = setup_of(settings=METHODS["qlora"].Config(rank=32))
    rows = {r.method: r for r in methods(architecture_of(MODEL), lookup(), setup, CARD)}
    assert list(rows) == list(METHODS)
    assert rows["bitfit"].trainable is None
    assert "no bias vectors" in rows["bitfit"].why
    assert rows["lora"].setup.settings.rank == 32, "kinds of LoRA share what was chosen"
    assert rows["vera"].setup.settings.rank == 256, "VeRA's rank is another thing"
    for name in ("full", "lora", "qlora", "ia3"):
        row = rows[name]
        assert row.found is not None
        assert row.found.allocated == certain(row.setup).peak_bytes(Sizes.of(row.setup)) == sum(row.parts.values())
        assert row.trainable == METHODS[name].count(architecture_of(MODEL), row.setup.settings)
    prefix = with_method(setup_of(checkpointing=True), "prefix_tuning")
    assert not prefix.checkpointing, "its keys and values stand in the cache that recomputing throws away"


def test_every_card_side_by_side() -> None:
    setup = setup_of()
    rows = all_cards(architecture_of(MODEL), lookup(), setup)
    assert sorted(r.card.name for r in rows) == sorted(row.name for row in gpus())
    sizes = [r.card.usable_bytes for r in rows]
    assert sizes == sorted(sizes)
    by_name = {r.card.name: r for r in rows}
    single = answer(lookup(), setup, CARD)
    assert single is not None
    assert (by_name["RTX 4090"].batch, by_name["RTX 4090"].length) == (single.batch, single.length)
    assert by_name["RTX 4090"].found == single.found
    old = by_name["V100 32 GB"]
    assert old.setup.precision == "float32"
    assert old.found is not None
    alike = by_name["Tesla T4"].found
    assert alike is not None
    assert old.found.allocated == alike.allocated != single.found.allocated
    whole = all_cards(architecture_of(MODEL), lookup(), setup_of("full"), [gpu("V100 32 GB")])
    assert whole[0].found is None, "nobody trains all of 8 B in 32 bits there, and nothing was traced"
    known = [r for r in rows if r.batch is not None]
    assert all(r.verdict != FITS or (r.batch or 0) >= 1 for r in known)


def test_the_frontier_is_the_largest_that_fits() -> None:
    setup = setup_of(length=512)
    rows = frontier(setup, [gpu("RTX 4090"), gpu("A100 80 GB SXM")])
    by = {(r.method, r.card.name): r for r in rows}
    assert by["qlora", "RTX 4090"].parameters > by["lora", "RTX 4090"].parameters > by["full", "RTX 4090"].parameters
    assert by["lora", "A100 80 GB SXM"].parameters > by["lora", "RTX 4090"].parameters
    best = by["lora", "RTX 4090"]
    for name in compare.traced_models():
        made = find(name, setup_of("lora", length=512))
        if made is not None and architecture_of(name).total > 1.01 * best.parameters:
            found = totals(made.peak_bytes(Sizes(1, 512, rank=8)), Device((8, 9)))
            assert found.process[1] > CARD.usable_bytes, name


def test_several_gpus_are_advised_too() -> None:
    """The figures are of one GPU among them; cutting more, or keeping the optimizer out, is among the proposals."""
    setup, among, table = setup_of("full", length=512), Sharding(4, 1), architecture_of(MODEL)
    rows = {row.name: row for row in advice.changes(table, lookup(), setup, CARD, among)}
    assert {"ZeRO-2", "ZeRO-3", "The optimizer in the CPU's memory", "LoRA instead"} <= set(rows)
    assert "ZeRO-1" not in rows
    cut = rows["ZeRO-3"]
    assert (cut.sharding, cut.setup) == (Sharding(4, 3), setup)
    found = answer(lookup(), setup, CARD, Sharding(4, 3), table)
    assert found is not None
    assert cut.found == found.found
    assert rows["LoRA instead"].sharding == among
    assert cut.saved > rows["ZeRO-2"].saved > 0
    assert not any(row.name.startswith("ZeRO") for row in advice.changes(table, lookup(), setup, CARD))


def test_where_nothing_was_traced_the_frontier_does_not_say_none() -> None:
    old, new = (r for r in frontier(setup_of(length=512), [gpu("Tesla T4"), gpu("RTX 4090")], of=("dora",)))
    assert (old.name, old.known, old.told) == ("", False, "not worked out")
    assert new.known
    assert new.told == new.name != ""
    (small,) = frontier(setup_of(length=512, batch=4096), [gpu("RTX 4090")], of=("lora",))
    assert (small.known, small.told) == (True, "none")


def test_the_computer_itself_is_a_card() -> None:
    row = compare.cpu_row(16 * GIB, "some processor")
    assert row.usable_bytes == 16 * GIB
    assert not compare.device_of(row).is_cuda


# --- advice -----------------------------------------------------------------------------------------------------------


def test_every_advice_is_the_answer_to_the_changed_question() -> None:
    setup = setup_of("full", batch=4)
    rows = advice.changes(architecture_of(MODEL), lookup(), setup, CARD)
    before = totals(certain(setup).peak_bytes(Sizes.of(setup)), setup.device).process[1]
    names = [r.name for r in rows]
    assert {"Recompute activations", "Batch 1", "LoRA instead", "QLoRA instead", "AdamW in 8 bits"} <= set(names)
    assert any(" and " in name for name in names), "no single change is enough, so some go together"
    for row in rows:
        if row.found is not None:
            made = certain(row.setup)
            assert row.found.allocated == made.peak_bytes(Sizes.of(row.setup))
            assert row.saved == before - row.found.process[1]
            assert row.verdict == row.found.verdict(CARD.usable_bytes)
    told = [r.saved for r in rows if r.found is not None]
    assert told == sorted(told, reverse=True)
    assert rows[-1].found is None, "what is not traced comes last, without a figure"
    assert any(r.verdict == FITS for r in rows)


def test_no_advice_where_nothing_can_be_changed_so() -> None:
    setup = setup_of("qlora", checkpointing=True, length=128, optimizer="adamw")
    names = [r.name for r in advice.changes(architecture_of(MODEL), lookup(), setup, CARD)]
    assert names == ["Rank 4", "AdamW in 8 bits"]


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_textbook_s_formulas_meet_the_trace(method: str, checkpointing: bool) -> None:
    setup = setup_of(method, batch=2, checkpointing=checkpointing)
    ledger = certain(setup).ledger(Sizes.of(setup))
    found = {r.term: r for r in rules.rules(architecture_of(MODEL), setup, ledger)}
    assert list(found) == [t.name for t in ledger.terms]
    for term in ("trained weights", "optimizer state"):
        rule = found[term]
        assert rule.bytes is not None
        assert abs(rule.traced - rule.bytes) <= 0.005 * rule.traced
        assert rule.why == ""
    if method != "full":
        frozen = found["frozen weights"]
        assert frozen.bytes is not None
        assert abs(frozen.difference or 0) < 2048
    for rule in found.values():
        if rule.bytes is not None and abs(rule.traced - rule.bytes) > 0.005 * max(rule.traced, rule.bytes):
            assert rule.why, f"{rule.term} is off by {rule.difference} and nobody says why"


def test_rules_carry_the_reader_s_numbers() -> None:
    setup = setup_of(batch=2)
    ledger = certain(setup).ledger(Sizes.of(setup))
    found = {r.term: r.formula for r in rules.rules(architecture_of(MODEL), setup, ledger)}
    assert found["frozen weights"] == "6,979,321,856 × 0.5 bytes + 1,050,939,392 × 2 bytes"
    assert found["logits and loss"] == "4,094 answer tokens × 128,256 words × 3 × 4 bytes"
    assert found["trained weights"] == "20,971,520 trained × 4 bytes"
    assert (rules.width(architecture_of("GPT-2")), rules.depth(architecture_of("GPT-2"))) == (768, 12)
    assert rules.vocabulary(architecture_of("GPT-2")) == 50257


# --- disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if m != "full"])
def test_what_is_saved_is_as_large_as_was_said(method: str, tmp_path: Path) -> None:
    """Against the files that the methods really write."""
    import json

    from transformers import AutoModelForCausalLM

    from core.architecture import Architecture

    model = AutoModelForCausalLM.from_config(memory_support.config_of("llama_biased"))
    table = Architecture.of(model)
    settings = METHODS[method].Config()
    said = storage.adapter_numbers(table, method, settings) * 4
    METHODS[method].apply(model, settings, keep_base=False).save(tmp_path / "adapter")
    written = 0
    for path in (tmp_path / "adapter").glob("*.safetensors"):
        content = path.read_bytes()
        head = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + head])
        written += sum(e["data_offsets"][1] - e["data_offsets"][0] for n, e in header.items() if n != "__metadata__")
    assert written == said


def test_one_base_and_ten_adapters_against_ten_models() -> None:
    table = architecture_of("Llama-2-70B")
    adapter = storage.storage(table, "lora", METHODS["lora"].Config(), 10)
    whole = storage.storage(table, "full", METHODS["full"].Config(), 10)
    assert whole.total == 10 * 2 * table.total == adapter.whole
    assert adapter.total == 2 * table.total + 10 * 4 * METHODS["lora"].count(table, METHODS["lora"].Config())
    assert 0.8 < adapter.saved_share < 0.9
    assert whole.saved_share == 0


# --- time and money ---------------------------------------------------------------------------------------------------


def test_costs_are_hours_times_price_and_power() -> None:
    setup = setup_of(batch=4, accumulation=2)
    speed = step_speed(architecture_of(MODEL), setup, CARD)
    assert speed is not None
    steps = cost.steps_for(setup, 1000, 3)
    assert steps == 375
    found = cost.cost(speed, steps, 2.0, 450)
    assert found.hours == pytest.approx([s * steps / 3600 for s in speed.step_seconds])
    assert found.money == pytest.approx([h * 2.0 for h in found.hours])
    assert found.kwh == pytest.approx([h * 0.45 for h in found.hours])
    assert found.tokens == steps * 4 * 2 * 2048
    unknown = cost.cost(speed, steps, None, None)
    assert (unknown.money, unknown.kwh) == (None, None)
    # Eight GPUs in pairs are four groups with a batch each: a quarter of the steps, each in half the time, and all of
    # them are paid for.
    eight = Sharding(8, 1, tensor=2)
    fewer = cost.steps_for(setup, 1000, 3, eight)
    assert fewer == 94
    shared = cost.cost(speed, fewer, 2.0, 450, eight)
    assert shared.hours == pytest.approx([s / 2 * fewer / 3600 for s in speed.step_seconds])
    assert shared.money == pytest.approx([8 * h * 2.0 for h in shared.hours])
    assert shared.tokens == fewer * 4 * 4 * 2 * 2048


def test_methods_and_cards_tell_of_one_gpu_among_several() -> None:
    setup, shared = setup_of(), Sharding(8, 3)
    table = architecture_of(MODEL)
    alone = {r.method: r for r in methods(table, lookup(), setup, CARD)}
    for row in methods(table, lookup(), setup, CARD, shared):
        if row.found is None:
            continue
        made = find(MODEL, row.setup)
        assert made is not None
        assert row.found.allocated == made.shared(Sizes.of(row.setup), shared, table).allocated_bytes
        before = alone[row.method].found
        assert before is not None
        assert row.found.allocated < before.allocated
    smaller = all_cards(table, lookup(), setup, [CARD], shared)[0]
    assert smaller.found is not None
    found = answer(lookup(), setup, CARD, shared, table)
    assert found is not None
    assert smaller.found.allocated == found.found.allocated
    assert (smaller.batch, smaller.length) == (found.batch, found.length)


def test_prices_have_a_source_and_a_day_and_belong_to_cards() -> None:
    names = {row.name for row in gpus()}
    table = cost._table()
    assert set(table["board_watts"]) <= names
    assert set(table["usd_per_hour"]) <= names
    found = cost.price("RTX 4090")
    assert found is not None
    assert found.url.startswith("https://")
    assert found.read.year >= 2026
    assert cost.price("Apple M4 Max") is None
    assert cost.board_watts("Apple M4 Max") is None
