"""From live bytes to a card: the allocator's rules by hand, totals, verdicts, time, and what is proposed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.catalog import GpuRow, architecture_of, gpu, gpus
from core.cli import main
from core.errors import BadInput, DeltalabError
from core.memory.allocator import CachingAllocator, replay
from core.memory.card import (
    CONTEXT_BYTES,
    FITS,
    TIGHT,
    TOO_LARGE,
    Totals,
    largest_batch,
    largest_length,
    totals,
    verdict_text,
)
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup
from core.memory.speed import BAND, SHARE, operations_per_token, step_speed, work
from core.memory.trace import trace
from core.memory.tracer import Tracer
from core.memory.validation import band
from core.methods import METHODS
from core.units import GIB, MIB, bytes_text
from tests.core import memory_support

ADA = Device((8, 9))


def setup_of(method: str = "lora", **changes: Any) -> Setup:
    changes = {"batch": 2, "length": 512, "device": ADA, "precision": "bfloat16", **changes}
    return Setup(method, METHODS[method].Config(), **changes)


# --- the allocator ----------------------------------------------------------------------------------------------------


def test_small_requests_share_a_segment_of_two_mebibytes() -> None:
    one = CachingAllocator()
    blocks = [one.allocate(n) for n in (1, 512, 513, MIB)]
    assert [b.bytes for b in blocks] == [512, 512, 1024, MIB]
    assert (one.allocated, one.reserved) == (MIB + 2048, 2 * MIB)
    one.allocate(MIB)
    assert one.reserved == 4 * MIB, "the first segment has no room for another mebibyte"


def test_large_requests_take_segments_of_their_own() -> None:
    one = CachingAllocator()
    middling = one.allocate(2 * MIB)
    assert (middling.bytes, one.reserved) == (2 * MIB, 20 * MIB)
    one.allocate(17 * MIB)
    assert one.reserved == 20 * MIB
    assert one.allocated == 20 * MIB, "a rest of one mebibyte is not cut off"
    one.allocate(10 * MIB + 1)
    assert one.reserved == 32 * MIB, "in steps of two mebibytes"


def test_freed_blocks_are_joined_and_used_again() -> None:
    one = CachingAllocator()
    first, second, third = (one.allocate(4 * MIB) for _ in range(3))
    one.release(first)
    one.release(third)
    one.release(second)
    assert (one.allocated, one.reserved) == (0, 20 * MIB)
    assert one.allocate(9 * MIB).bytes == 9 * MIB
    assert one.reserved == 20 * MIB
    assert (one.most_allocated, one.most_reserved) == (12 * MIB, 20 * MIB)


def test_the_best_fit_is_taken() -> None:
    one = CachingAllocator()
    wide, _, narrow, _ = (one.allocate(n * MIB) for n in (8, 2, 4, 2))
    one.release(wide)
    one.release(narrow)
    assert one.allocate(3 * MIB).before is not None, "from the gap of four, not the one of eight"


def test_a_traced_step_reserves_more_than_it_holds() -> None:
    found = trace(memory_support.config_of("llama", width=256), setup_of(batch=4, length=256))
    after = replay(found)
    assert found.peak_bytes <= after.most_allocated <= after.most_reserved
    assert after.most_reserved < 1.6 * found.peak_bytes
    assert after.most_reserved % (2 * MIB) == 0


# --- totals -----------------------------------------------------------------------------------------------------------


def test_three_totals() -> None:
    estimated = totals(10 * GIB, ADA)
    assert estimated.allocated == 10 * GIB
    assert estimated.reserved[0] < estimated.reserved[1] < estimated.reserved[2]
    assert [p - r for p, r in zip(estimated.process, estimated.reserved, strict=True)] == [
        c + 8 * MIB for c in CONTEXT_BYTES
    ]
    simulated = totals(10 * GIB, Device((9, 0)), 11 * GIB)
    assert simulated.reserved == (round(11 * GIB * band().low), 11 * GIB, round(11 * GIB * band().high))
    assert simulated.process[0] == simulated.reserved[0] + CONTEXT_BYTES[0] + 32 * MIB
    assert totals(GIB, Device()).reserved == (GIB,) * 3


def test_a_verdict_has_three_values() -> None:
    found = Totals(8 * GIB, (9 * GIB,) * 3, (9 * GIB, 10 * GIB, 11 * GIB))
    assert [found.verdict(n * GIB) for n in (8, 9, 10, 11)] == ["does not fit", "tight", "tight", "fits"]
    card = GpuRow("Card", "NVIDIA", 11, ("R",), usable_gib=(10.5, 10.6))
    assert verdict_text(found, card) == "It is tight on Card: the step needs 9.0 to 11.0 GiB, and 10.5 GiB can be used."


def test_the_largest_batch_and_length_that_fit() -> None:
    made = find("Llama-3.2-1B", setup_of())
    assert made is not None
    usable = gpu("RTX 3060 12 GB").usable_bytes
    sizes = Sizes(2, 512, None, 8)
    batch = largest_batch(made, sizes, ADA, usable)
    assert batch > 2

    def verdict(rows: int, tokens: int) -> str:
        return totals(made.peak_bytes(Sizes(rows, tokens, None, 8)), ADA).verdict(usable)

    assert (verdict(batch, 512), verdict(batch + 1, 512)) == (FITS, TIGHT)
    tight = largest_batch(made, sizes, ADA, usable, TIGHT)
    assert (verdict(tight, 512), verdict(tight + 1, 512)) == (TIGHT, TOO_LARGE)
    length = largest_length(made, sizes, ADA, usable)
    assert 512 < length < 131_072
    assert (verdict(2, length), verdict(2, length + 1)) == (FITS, TIGHT)
    assert largest_batch(made, sizes, ADA, GIB) == 0
    assert largest_batch(made, Sizes(2, 512, 20, 8), ADA, usable) > batch, "few answers, few logits"


# --- time -------------------------------------------------------------------------------------------------------------


def test_arithmetic_by_hand() -> None:
    table = architecture_of("Llama-2-7B")
    body = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    head = 32000 * 4096
    attention = 2 * 32 * 4096 * 512
    assert operations_per_token(table, setup_of("lora")) == 2 * 2 * (body + head) + 3 * attention
    assert operations_per_token(table, setup_of("full")) == 2 * 3 * (body + head) + 3 * attention
    assert operations_per_token(table, setup_of("lora", checkpointing=True), 0.5) == (
        2 * (3 * body + 2 * head / 2) + 4 * attention
    )


def test_a_step_takes_a_band_of_time_or_nothing_is_said() -> None:
    table, card = architecture_of("Llama-3.2-3B"), gpu("L40S")
    found = step_speed(table, setup_of(batch=4, length=210), card)
    assert found is not None
    slow, likely, fast = found.tokens_per_second
    assert (slow, fast) == pytest.approx((likely * BAND[0], likely * BAND[1]))
    short, long = (work(table, setup_of(batch=4, length=n), card) for n in (210, 4096))
    assert short is not None
    assert long is not None
    assert short.seconds(SHARE) == short.issuing + short.moving, "a short pass waits for the processor"
    assert long.seconds(SHARE) == long.arithmetic / SHARE + long.moving
    assert short.issuing == pytest.approx(28 * 0.003)
    assert step_speed(table, setup_of(precision="float32"), card) is None
    assert step_speed(table, setup_of(), gpu("A10G")) is None, "its rate is not known"
    four_bit = step_speed(table, setup_of("qlora", batch=4, length=210), card)
    assert four_bit is not None
    assert four_bit.step_seconds[1] > found.step_seconds[1], "decoding takes time"
    ahead = step_speed(table, setup_of("prompt_tuning", batch=4, length=210), card)
    assert ahead is not None
    assert ahead.tokens == found.tokens, "tokens that train are the rows' own"
    assert ahead.operations > found.operations, "but those before them are computed, too"


# --- proposals --------------------------------------------------------------------------------------------------------


# --- the process and the command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    memory_support.config_of("llama", width=64).save_pretrained(made)
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    (made / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}), encoding="utf-8")
    return made


def test_a_process_of_its_own_answers(folder: Path) -> None:
    tracer, said = Tracer(), []
    try:
        found = tracer.trace(str(folder), setup_of(), lambda share, text: said.append((share, text)))
        assert found["ledger"]["allocated_bytes"] == sum(t["bytes"] for t in found["ledger"]["terms"])
        assert found["reserved_bytes"] >= found["ledger"]["allocated_bytes"]
        assert found["timeline"]
        assert found["tensors"]
        assert said[-1] == (0.8, "Replaying the allocator")
        process = tracer._process
        made = tracer.fit(str(folder), setup_of())
        assert made.peak_bytes(Sizes.of(setup_of())) == found["ledger"]["allocated_bytes"]
        assert tracer.fit(str(folder), setup_of(batch=7)) is made, "kept, for all sizes"
        assert tracer.architecture(str(folder)).total == found["total"]
        with pytest.raises(BadInput, match="reads 2,048 tokens at most"):
            tracer.trace(str(folder), setup_of(length=9999))
        assert tracer._process is process, "and it is still there"
        assert process is not None
        process.kill()
        process.wait()
        assert tracer.trace(str(folder), setup_of())["total"] == found["total"], "a new one is started"
    finally:
        tracer.close()
    with pytest.raises(DeltalabError, match="ended without an answer"):
        Tracer(("false",)).trace(str(folder), setup_of())


def test_the_command(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    asked = ["memory", "--model", "Llama-3.2-1B", "--batch", "2", "--seq", "512", "--set", "rank=4"]
    assert main([*asked, "--gpu", "RTX 4090", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"total", "trainable", "allocated_bytes", "reserved_bytes", "process_bytes", "peak_at", "terms", "fits",
            "versions"} <= set(told)  # fmt: skip
    assert (told["total"], told["fits"]) == (1_235_814_400, "fits")
    assert told["allocated_bytes"] == sum(t["bytes"] for t in told["terms"])
    assert {"name", "bytes", "formula", "source"} == set(told["terms"][0])
    assert main([*asked, "--gpu", "RTX 4090", "--json", "--trace"]) == 0
    traced = json.loads(capsys.readouterr().out)
    assert traced["allocated_bytes"] == told["allocated_bytes"]
    assert traced["peak_at"] == told["peak_at"]
    assert main(["memory", "--model", str(folder), "--batch", "1", "--seq", "64", "--gpu", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "on a CPU" in out
    assert "at its most:" in out


# A model of embeddings alone.
NO_LINEAR = json.dumps({
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 0,
    "num_attention_heads": 4, "max_position_embeddings": 512, "architectures": ["LlamaForCausalLM"],
})  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "Llama-9B"], "There is no model called 'Llama-9B'"),
        (["--gpu", "RTX 9"], "There is no card called 'RTX 9'"),
        (["--model", "Llama-3.1-8B", "--method", "bitfit"], "has no bias vectors"),
        (["--model", "Llama-3.1-8B", "--seq", "500000"], "reads at most 131,072 tokens"),
        (["--model", "GPT-2", "--method", "prompt_tuning", "--seq", "1024"], "of the method's own before each"),
        (["--model", "Llama-3.1-8B", "--gpu", "Tesla T4", "--set", "precision=bfloat16"], "does not compute in bf"),
        (["--gpu", ""], "There is no card called ''"),
        (["--model", NO_LINEAR, "--method", "lora"], "has no linear layers that LoRA could wrap"),
        (["--model", "Llama-3.1-8B", "--set", "rank=9999"], "rank must be at most 1024"),
        (["--batch", "0"], "at least one row of two tokens"),
        (["--gpus", "4", "--zero", "7"], "stages 0 to 3"),
        (["--as", "nobody"], "no way of training called 'nobody'"),
        (["--loss", "free"], "no loss 'free'"),
        (["--gpu", "cpu", "--gpus", "2"], "known for GPUs only"),
        (["--model", '{"model_type": "llama"'], "cut off"),
        (["--model", "BERT-base-uncased"], "no causal language model"),
    ],
)
def test_mistakes_get_a_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_card_without_bfloat16_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["memory", "--model", "Llama-3.1-8B", "--method", "qlora", "--seq", "1024", "--gpu"]
    assert main([*asked, "RTX 4090"]) == 0
    assert "no bfloat16" not in capsys.readouterr().out
    assert main([*asked, "Tesla T4"]) == 0
    setup = Setup("qlora", METHODS["qlora"].Config(), 1, 1024, device=Device((8, 0)), precision="bfloat16")
    made = find("Llama-3.1-8B", setup)
    assert made is not None
    takes = totals(made.peak_bytes(Sizes.of(setup)), setup.device).process[1]
    assert f"takes on a later card: {bytes_text(takes)}" in capsys.readouterr().out


def test_the_command_for_several_gpus_and_other_programs(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["memory", "--model", "Llama-3.2-1B", "--method", "full", "--batch", "2", "--seq", "512", "--json"]
    peaks = []
    for more in (
        [],
        ["--gpus", "8"],
        ["--gpus", "8", "--zero", "1"],
        ["--gpus", "8", "--zero", "3"],
        ["--offload", "all"],
    ):
        assert main([*asked, *more]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["allocated_bytes"] == sum(t["bytes"] for t in told["terms"])
        assert told["gpus"] == (8 if "--gpus" in more else 1)
        peaks.append(told["allocated_bytes"])
    alone, copies, states, everything, away = peaks
    assert copies > alone > states > everything
    assert away < alone
    assert main([*asked[:-1], "--as", "torchtune", "--loss", "chunked", "--optimizer-in-backward", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["as"] == "torchtune"
    assert other["allocated_bytes"] < alone / 1.5, "16-bit states, and gradients that do not stay"


# --- the measurement on a card, rehearsed -----------------------------------------------------------------------------


def test_the_measurement_of_make_gpu_runs_on_a_cpu() -> None:
    """The same path with a small model: a process of its own is measured, and its prediction stands beside it."""
    from tests import gpu_memory
    from tests.gpu_process import Ahead, Processes

    given = [next(c for c in gpu_memory.cases(dry=True) if c["method"] == "qlora")]
    with (
        Processes("tests.gpu_memory") as processes,
        Ahead(gpu_memory.wanted(True, None, given), seconds=300.0) as ahead,
    ):
        (row,) = gpu_memory.rows(True, processes, ahead, lambda: 300.0, given=given)
    assert abs(row["allocated_error"]) < 1e-3, row
    assert row["measured"]["process"] > 100 * MIB
    assert "allocated -0.0%" in gpu_memory.line(row) or "allocated +0.0%" in gpu_memory.line(row)
    whole = gpu_memory.cases(dry=False)
    assert {c["model"] for c in whole} == set(gpu_memory.METHODS_OF)
    assert {c.get("optimizer", "adamw") for c in whole} == {"adamw", "adamw_8bit", "paged_adamw_8bit"}
    assert {c["checkpointing"] for c in whole} == {False, True}
    assert len({(c["batch"], c["length"]) for c in whole}) == 3
    pairs = [(c["model"], c["method"]) for c in whole]
    assert len(set(pairs[: len(set(pairs))])) == len(set(pairs)), "each method of each model comes once before the rest"


# --- cards of which something is not known ----------------------------------------------------------------------------


def test_what_is_estimated_of_a_card_is_marked_everywhere() -> None:
    """One rule: as a known card that differs in its name's ending alone, else a share of what is printed."""
    known, twin, other = gpu("RTX 3090"), gpu("RTX 3090 Ti"), gpu("V100 32 GB")
    assert not known.estimated
    assert known.usable_text == "23.7 GiB"
    assert twin.usable_bytes == known.usable_bytes
    assert twin.usable_text == "≈ 23.7 GiB"
    assert "as RTX 3090" in twin.usable_source
    assert gpu("A10").usable_bytes == gpu("A10G").usable_bytes
    assert other.usable_text == "≈ 29.2 GiB"
    assert not gpu("Apple M2 Ultra").estimated, "the system's own rule"
    for row in gpus():
        assert row.estimated == row.usable_text.startswith("≈")
        assert row.estimated == row.usable_source.startswith("not known")
        assert row.usable_text in verdict_text(totals(GIB, Device.of("8.0")), row)


@pytest.mark.parametrize(
    ("card", "more", "says"),
    [
        ("Apple M2 Ultra", [], "those of Apple M2 Ultra differ"),
        ("MI300X", [], "those of MI300X differ"),
        ("V100 32 GB", ["--method", "full"], "What can be used of V100 32 GB is not known"),
    ],
)
def test_a_card_s_limits_are_said(card: str, more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--model", "GPT-2", "--method", "lora", "--seq", "64", "--gpu", card, *more]) == 0
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--gpu", "cpu", "--zero", "2"], "known for GPUs only"),
        (["--gpu", "cpu", "--offload", "all"], "known for GPUs only"),
        (["--gpu", "Apple M2 Ultra", "--set", "optimizer=adamw_8bit"], "none for Apple's GPUs"),
        (["--gpu", "Apple M2 Ultra", "--set", "optimizer=paged_adamw_8bit"], "none for Apple's GPUs"),
    ],
)
def test_what_a_device_cannot_is_said(more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--model", "GPT-2", "--method", "lora", "--seq", "64", *more]) == 2
    assert says in capsys.readouterr().err


def test_a_whole_trace_is_explained_and_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    """With the formulas that an instant answer has; as JSON with the course of the step and what lives at its peak."""
    asked = ["memory", "--model", "GPT-2", "--method", "lora", "--seq", "32"]
    assert main([*asked, "--trace", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(t["bytes"] for t in told["tensors"]) == pytest.approx(told["allocated_bytes"], rel=0.01)
    assert max(t["bytes"] for t in told["timeline"]) == told["allocated_bytes"]
    terms = {t["name"]: t for t in told["terms"]}
    assert terms["optimizer state"]["rule_bytes"] == 2 * 4 * told["trainable"]
    assert str(f"{told['trainable']:,}") in terms["optimizer state"]["rule"]
    assert main([*asked, "--json"]) == 0
    quick = {t["name"]: t["rule"] for t in json.loads(capsys.readouterr().out.splitlines()[-1])["terms"]}
    assert quick == {name: term["rule"] for name, term in terms.items()}
    assert main([*asked, "--trace"]) == 0
    assert terms["optimizer state"]["rule"] in capsys.readouterr().out
