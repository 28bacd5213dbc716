"""The trace against real training steps on the CPU, measured by the allocator's own events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import core.objective
import core.train
from core.config import RunConfig, with_settings
from core.errors import BadInput, Incompatible
from core.memory.ledger import Ledger
from core.memory.meta import autocast, cuda_kernel, standing_in
from core.memory.predicted import Measured, predicted
from core.memory.recorder import Recorder
from core.memory.setup import Device, Pass, Setup
from core.memory.trace import CATEGORIES, Trace, part_of, trace
from core.methods import METHODS
from core.optimizers import OPTIMIZERS
from tests.core.memory_support import FAMILIES, config_of, measured

# Of the peak: what is left is scalars of a few bytes each, such as the loss as a number.
TOLERANCE = 1e-3
RESIDENT = ("frozen weights", "quantization constants", "trained weights", "optimizer state", "gradients")
AMPERE, TURING = Device((8, 0)), Device((7, 5))


def setup_of(method: str, *, settings: dict[str, Any] | None = None, **changes: Any) -> Setup:
    sizes = {"batch": 3, "length": 40}
    return Setup(method, METHODS[method].Config(**(settings or {})), **{**sizes, **changes})


def compare(config: Any, setup: Setup) -> Trace:
    real, traced = measured(config, setup), trace(config, setup)
    ledger = traced.ledger()
    assert abs(ledger.allocated_bytes - real.allocated_bytes) <= TOLERANCE * real.allocated_bytes
    assert part_of(ledger.peak_at) == real.peak_at
    theirs, ours = ({t.name: t.bytes for t in one.terms} for one in (real, ledger))
    for name in RESIDENT:
        assert ours.get(name, 0) == theirs.get(name, 0), name
    return traced


CASES = [(m, c) for m in METHODS for c in (False, True) if not c or METHODS[m].CHECKPOINTS]


@pytest.mark.parametrize(("method", "checkpointing"), CASES)
def test_every_method(method: str, checkpointing: bool) -> None:
    compare(config_of("llama_biased", layers=2), setup_of(method, checkpointing=checkpointing))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "llama_biased"])
def test_every_family(family: str) -> None:
    compare(config_of(family, layers=2), setup_of("full"))
    compare(config_of(family, layers=2), setup_of("lora", checkpointing=True))


@pytest.mark.parametrize(
    ("family", "method", "changes"),
    [
        ("llama", "lora", {"length": 300}),  # beyond the length up to which attention is plain
        ("gpt2", "full", {"length": 300, "checkpointing": True}),
        ("llama", "full", {"accumulation": 3}),
        ("gpt2", "lora", {"accumulation": 2, "answers": 11}),
        ("llama", "lora", {"answers": 5}),
        # (long enough for the peak to be elsewhere than in bitsandbytes' CPU code, whose scratch is not traced)
        ("llama", "full", {"optimizer": "adamw_8bit", "length": 120}),
        ("llama", "lora", {"settings": {"dropout": 0.1, "rank_pattern": "q_proj=4"}}),
        ("opt", "lora", {"settings": {"rank": 1, "target_modules": "attention", "bias": "all"}}),
        ("llama", "full", {"batch": 1, "length": 2}),
        ("llama", "qlora", {"settings": {"quant_type": "int8"}}),
        # Autocast, converted as on a CPU:
        ("llama", "full", {"precision": "bfloat16", "checkpointing": True}),
        ("gpt2", "lora", {"precision": "bfloat16"}),
        ("llama", "dora", {"precision": "bfloat16"}),
    ],
)  # fmt: skip
def test_every_setting(family: str, method: str, changes: dict[str, Any]) -> None:
    compare(config_of(family, layers=2), setup_of(method, **changes))


@pytest.mark.parametrize("length", [40, 300])
def test_latent_attention_has_values_of_another_size(length: int) -> None:
    """DeepSeek's: heads of 24 numbers for queries and keys, and of 16 for values. (Its experts are left out: which of
    them a token goes to is not known without data.)"""
    from transformers import DeepseekV3Config

    config = DeepseekV3Config(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, first_k_dense_replace=2, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=32, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, vocab_size=500, max_position_embeddings=1024,
    )  # fmt: skip
    compare(config, setup_of("full", length=length))
    kernels = {
        c: trace(config, setup_of("lora", device=Device(c), precision="bfloat16", length=length)).kernels
        for c in ((8, 0), (9, 0))
    }
    assert kernels == {(8, 0): ("efficient",), (9, 0): ("cudnn",)}, "flash attention wants all heads alike"


def test_passes_of_different_sizes() -> None:
    """Gradients wait beside the second pass: the peak is another one when the large pass is not the first."""
    few, many = Pass(2, 20, 11), Pass(6, 60, 200)
    setup = setup_of("full", batch=6, length=60, answers=200, accumulation=2)
    config = config_of("llama", layers=2)
    alike, first, last = (trace(config, setup, p).peak_bytes for p in ((many, many), (many, few), (few, many)))
    assert trace(config, setup).peak_bytes == alike
    assert first < last < alike, "the last one by the batch that waits"
    assert alike - last == 2 * 8 * (6 * 60 - 2 * 20)
    silent, talkative = ((Pass(6, 60, 20), Pass(5, 60, answers)) for answers in (20, 290))
    assert trace(config, setup, talkative).peak_bytes > trace(config, setup, silent).peak_bytes


def test_a_run_of_the_product_takes_what_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of `core.train`, on the embedded base and a task: nothing here imitates it."""
    batches: list[tuple[int, int, int]] = []
    ledgers: list[Ledger] = []
    measure, collate = core.train.measure_step, core.objective.collate

    def watched(*arguments: Any) -> Any:
        batches.clear()
        result, ledger = measure(*arguments)
        ledgers.append(ledger)
        seen.extend(batches)
        return result, ledger

    def noted(examples: Any, pad: int) -> Any:
        batch = collate(examples, pad)
        batches.append((*batch.ids.shape, batch.answer_tokens))
        return batch

    seen: list[tuple[int, int, int]] = []
    monkeypatch.setattr(core.train, "measure_step", watched)
    monkeypatch.setattr(core.objective, "collate", noted)
    config = with_settings(
        RunConfig(task="json", method="lora"),
        {"steps": 2, "train_examples": 40, "eval_items": 4, "skill_items": 0, "batch_size": 8, "precision": "float32"},
    )
    monkeypatch.setattr("core.hardware.best_threads", lambda: 1)
    run = core.train.train(config, tmp_path)
    assert next(e.kind for e in run if e.kind == "failed" or ledgers) == "step"
    run.close()
    ((rows, tokens, answers),) = seen
    from core.base import load_config

    ledger = trace(load_config("embedded"), Setup.of(config, rows, tokens, Device(), answers)).ledger()
    # Making the batch takes a few kilobytes more than the two tensors that it is.
    assert ledger.allocated_bytes == pytest.approx(ledgers[0].allocated_bytes, rel=TOLERANCE)
    told = predicted(config, Measured((Pass(rows, tokens, answers),), "float32", "eager"))
    assert told["allocated_bytes"] == ledger.allocated_bytes, "and what the run's own record says of it"
    assert told["peak_at"] == ledger.peak_at


# --- what a card takes: nothing here is measured, but these are consequences of what was ------------------------------


def card(method: str, device: Device = AMPERE, family: str = "llama", **changes: Any) -> Trace:
    return trace(config_of(family, layers=2), setup_of(method, device=device, precision=device.precision, **changes))


def terms(found: Trace) -> dict[str, int]:
    return {t.name: t.bytes for t in found.ledger().terms}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_a_card(method: str) -> None:
    found = card(method, family="llama_biased")
    ledger = found.ledger()
    assert sum(t.bytes for t in ledger.terms) == ledger.allocated_bytes == found.peak_bytes
    assert all(t.bytes % 512 == 0 for t in ledger.terms), "the allocator gives out blocks of 512 bytes"
    assert [t.name for t in ledger.terms] == [c for c in CATEGORIES if c in terms(found)]
    assert found.trained == METHODS[method].count(_table("llama_biased"), METHODS[method].Config())
    assert found.total == _table("llama_biased").total


def _table(family: str) -> Any:
    from core.architecture import architecture_of_config

    return architecture_of_config(config_of(family, layers=2), family)


def test_weights_are_as_training_loads_them() -> None:
    """A frozen base in bfloat16, one that trains in float32, a quantized one in 4 bits."""
    numbers = _table("llama").total
    assert terms(card("full"))["trained weights"] == pytest.approx(4 * numbers, rel=0.01)
    assert terms(card("lora"))["frozen weights"] == pytest.approx(2 * numbers, rel=0.01)
    assert terms(card("lora", TURING))["frozen weights"] == pytest.approx(4 * numbers, rel=0.01)
    quantized = sum(m.weight for m in _table("llama").linears() if not m.tied_to)
    assert terms(card("qlora"))["frozen weights"] == pytest.approx(quantized / 2 + 2 * (numbers - quantized), rel=0.01)


def test_a_card_takes_the_attention_that_pytorch_would() -> None:
    assert card("lora").kernels == ("flash",)
    assert card("lora", Device((9, 0))).kernels == ("cudnn",)
    later = [card("lora", Device(c)).peak_bytes for c in ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0))]
    assert len(set(later)) == 1, "which of the fused kernels it is makes no difference"
    # Llama's grouped keys in float32: neither of the fused kernels takes them.
    assert card("lora", TURING).kernels == ("math",)
    assert card("lora", TURING, family="gpt2").kernels == ("efficient",)
    assert card("lora", attention="eager").kernels == ()
    long = {"batch": 1, "length": 1000}
    assert card("lora", attention="eager", **long).peak_bytes > card("lora", **long).peak_bytes


def test_cuda_kernels_by_rule() -> None:
    half, single = torch.bfloat16, torch.float32
    plain = {"masked": False, "head_dim": 64, "grouped": False, "square": True}
    assert cuda_kernel((8, 0), half, **plain) == "flash"
    assert cuda_kernel((10, 0), half, **{**plain, "head_dim": 256}) == "flash"
    assert cuda_kernel((9, 0), half, **{**plain, "masked": True}) == "cudnn"
    assert cuda_kernel((8, 0), half, **{**plain, "masked": True}) == "efficient"
    assert cuda_kernel((8, 9), half, **{**plain, "head_dim": 208}) == "efficient"
    assert cuda_kernel((8, 0), half, **{**plain, "head_dim": 208}) == "flash"
    assert cuda_kernel((8, 0), single, **{**plain, "head_dim": 66}) == "math", "rows of 16 bytes"
    assert cuda_kernel((7, 5), single, **{**plain, "head_dim": 66}) == "efficient"
    assert cuda_kernel((7, 5), half, **plain) == "math"
    assert cuda_kernel((8, 0), half, **plain, value_dim=32) == "efficient", "as DeepSeek's latent attention has"
    assert cuda_kernel((8, 0), half, **plain, value_dim=36) == "math"
    assert cuda_kernel((9, 0), half, **plain, value_dim=32) == "cudnn"


def test_what_saves_memory_saves_it() -> None:
    big = {"batch": 8, "length": 200}
    assert card("lora", checkpointing=True, **big).peak_bytes < card("lora", **big).peak_bytes
    assert card("lora", answers=100, **big).peak_bytes < card("lora", **big).peak_bytes
    states = {o: terms(card("full", optimizer=o))["optimizer state"] for o in OPTIMIZERS}
    assert states["paged_adamw_8bit"] <= states["adamw_8bit"] < states["adamw"] / 2


def test_the_course_of_a_step() -> None:
    found = card("full", accumulation=2)
    sections = [name for _, name in found.cuts]
    assert sections.count("forward") == sections.count("head backward") == 2
    assert sections[-3:] == ["clipping", "optimizer", "end"]
    rows = found.timeline(50)
    assert len(rows) <= 51
    assert max(row["bytes"] for row in rows) == found.peak_bytes
    assert found.ledger(rows[0]["event"]).allocated_bytes == rows[0]["bytes"]
    alive = found.tensors(most=10_000)
    assert sum(row["bytes"] for row in alive) == found.peak_bytes
    assert alive == sorted(alive, key=lambda row: -row["bytes"])
    weights = [row for row in alive if row["where"] == "model.layers.*.mlp.down_proj.weight" and row["op"] == ""]
    assert [(row["category"], row["count"]) for row in weights] == [("trained weights", 2)]
    end = found.ledger(len(found.events) - 1)
    assert {t.name for t in end.terms} <= {*RESIDENT[:4], "batch", "temporaries"}, "gradients and activations are gone"


def test_autocast_converts_a_weight_that_trains_once_and_keeps_it() -> None:
    """As torch's own does (cached_cast in ATen/autocast_mode.cpp), and forgets it at the end of the region."""
    setup = setup_of("full", device=AMPERE, precision="bfloat16")
    x, trained = (torch.empty(8, 8, device="meta", requires_grad=r) for r in (False, True))
    frozen = torch.empty(8, 8, device="meta")
    recorder = Recorder()
    with standing_in(setup), recorder:
        for weight, conversions in ((trained, 1), (frozen, 2)):
            with autocast(setup):
                before = len([r for r in recorder.records if r.op == "aten::_to_copy"])
                outputs = [torch.nn.functional.linear(x.bfloat16(), weight) for _ in range(2)]
            made = [r for r in recorder.records if r.op == "aten::_to_copy"][before:]
            assert len(made) == 2 + conversions, "x twice, and the weight"
            assert {o.dtype for o in outputs} == {torch.bfloat16}
            del outputs
        assert torch.nn.functional.layer_norm(x.bfloat16(), (8,)).dtype == torch.bfloat16, "outside of the region"
        with autocast(setup):
            assert torch.nn.functional.layer_norm(x.bfloat16(), (8,)).dtype == torch.float32
            assert torch.softmax(x.bfloat16(), -1).dtype == torch.float32
            with torch.autocast("meta", enabled=False):
                assert (x @ x).dtype == torch.float32
    assert all(r.died is not None for r in recorder.records if r.op == "aten::_to_copy")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_experts_that_train_in_32_bits(checkpointing: bool) -> None:
    """Autocast knows no products of experts: they, and what comes of them, are as wide as the experts' weights."""
    from transformers import MixtralConfig

    config = MixtralConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=200, max_position_embeddings=256, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    found = trace(config, setup_of("full", device=AMPERE, precision="bfloat16", checkpointing=checkpointing))
    grouped = [r for r in found.records if r.op == "aten::_grouped_mm"]
    assert grouped
    assert {r.item for r in grouped} == {4}
    assert sum(r.bytes // r.item for r in found.records if found.category(r) == "gradients") == found.trained


def test_nothing_stays_replaced() -> None:
    import bitsandbytes.functional as theirs
    from bitsandbytes.optim import optimizer

    theirs.name2qmap.pop("dynamic", None)
    waits = optimizer.sync_gpu
    card("qlora", optimizer="adamw_8bit")
    assert optimizer.sync_gpu is waits
    assert not theirs.name2qmap["dynamic"].is_meta, "a real quantization in the same process needs its numbers"
    functions = [torch.nn.functional.scaled_dot_product_attention, torch.autocast, torch.get_rng_state]
    card("lora")
    trace(config_of("llama", layers=2), setup_of("lora", checkpointing=True))
    assert functions == [torch.nn.functional.scaled_dot_product_attention, torch.autocast, torch.get_rng_state]
    assert not torch.ones(1, device="meta").is_cuda


def test_what_cannot_be_traced_is_said() -> None:
    with pytest.raises(BadInput, match="reads 2,048 tokens at most, not 3,000"):
        trace(config_of("llama"), setup_of("lora", length=3000))
    with pytest.raises(Incompatible, match="no bias vectors"):
        trace(config_of("llama"), setup_of("bitfit"))
    from transformers import BertConfig

    with pytest.raises(BadInput, match="no causal language model"):
        trace(BertConfig(), setup_of("lora"))
    with pytest.raises(BadInput, match="at least one row of two tokens"):
        Setup.of(RunConfig(), 0, 40)
    with pytest.raises(BadInput, match="Of 2 rows of 8 tokens 1 to 14 tokens"):
        Setup.of(RunConfig(), 2, 8, answers=15)
    with pytest.raises(BadInput, match="no compute capability"):
        Device.of("ampere")


def test_a_setup_survives_json() -> None:
    import json

    one = setup_of("qlora", device=AMPERE, answers=7, settings={"rank": 3})
    assert Setup.from_dict(json.loads(json.dumps(one.to_dict()))) == one
