"""Steps of other programs than ours: each switch changes what it stands for, and published figures come out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.catalog import architecture_of, configuration, model
from core.errors import BadInput
from core.memory import litgpt
from core.memory.estimate import Sizes, find, key_of
from core.memory.setup import Device, Setup
from core.memory.sharded import COPIES, Sharding, parts_of
from core.memory.stack import OWN, PRESETS, Stack, stack_named
from core.memory.trace import Trace, trace
from core.methods import METHODS
from tests.core import memory_support

AMPERE = Device((8, 0))


def setup_of(method: str = "lora", stack: Stack = OWN, **changes: Any) -> Setup:
    settings = METHODS[method].Config(**changes.pop("settings", {}))
    changes = {"batch": 4, "length": 256, **changes}
    return Setup(method, settings, device=AMPERE, precision="bfloat16", stack=stack, **changes)


def traced(
    method: str = "lora", stack: Stack = OWN, *, layers: int = 4, vocabulary: int = 4000, **changes: Any
) -> Trace:
    config = memory_support.config_of("llama", width=256, layers=layers, vocabulary=vocabulary)
    return trace(config, setup_of(method, stack, **changes))


def terms(found: Trace) -> dict[str, int]:
    return {t.name: t.bytes for t in found.ledger().terms}


# --- the settings -----------------------------------------------------------------------------------------------------


def test_our_own_way_leaves_no_mark_in_a_setup() -> None:
    """So that shipped surrogates stay found; any other way is another key."""
    assert "stack" not in setup_of().to_dict()
    other = setup_of(stack=stack_named("torchtune").with_switches(compile=True, loss=None))
    assert other.to_dict()["stack"]["compile"] is True
    assert Setup.from_dict(other.to_dict()) == other
    assert key_of(other) != key_of(setup_of())
    with pytest.raises(BadInput, match="no way of training called 'nobody'"):
        stack_named("nobody")
    with pytest.raises(BadInput, match="no loss 'free'"):
        OWN.with_switches(loss="free")
    assert all(preset.source for preset in PRESETS.values())


def test_losses_keep_what_they_say() -> None:
    """Of 1,024 tokens and 4,000 words: all logits in 32 bits; in 16 bits and part by part; or hardly any."""
    plain = stack_named("torchtune")
    peaks = {
        loss: traced("lora", plain.with_switches(loss=loss), batch=4).peak_bytes for loss in ("all", "chunked", "fused")
    }
    assert peaks["fused"] < peaks["chunked"] < peaks["all"]
    numbers = 1024 * 4000
    # Log-softmax, its gradient and that of the logits in 32 bits, against a sixteenth of that and what is in 16 bits.
    assert peaks["all"] - peaks["fused"] > 8 * numbers
    compiled = traced("lora", plain.with_switches(loss="chunked", compile=True)).peak_bytes
    assert compiled < peaks["chunked"]


def test_compiling_keeps_what_products_read_and_nothing_else() -> None:
    """By hand, of one Llama block that trains (width d, keys and values k, inner f, two bytes a number): the inputs of
    its norms (2·d), what goes into its products (2·d, out of attention d, f), queries, keys, values, gate and up."""
    stack = stack_named("torchtune").with_switches(compile=True)
    tokens = 4 * 256
    d, f = 256, 3 * 256
    sizes = []
    for layers in (3, 4):
        found = traced("full", stack, layers=layers)
        ends = next(at for at, name in found.cuts if name == "head forward")
        alive = [r for r in found.alive(ends - 1) if found.category(r) == "activations"]
        sizes.append(sum(map(found.size, alive)))
    expected = 2 * tokens * (2 * d + 2 * d + d + (d + 2 * d) + 3 * f)  # (keys are repeated: as wide as queries)
    assert sizes[1] - sizes[0] == pytest.approx(expected, rel=0.03)
    plain = traced("full", stack_named("torchtune")).peak_bytes
    assert traced("full", stack).peak_bytes < plain


def test_an_optimizer_in_the_backward_pass_keeps_no_gradients() -> None:
    stack = stack_named("torchtune")
    one, other = (terms(traced("full", s, batch=1, length=64)) for s in (stack, stack.with_switches(in_backward=True)))
    assert other.get("gradients", 0) < one["gradients"] / 3
    assert one["optimizer state"] == pytest.approx(other["optimizer state"], rel=0.01)


def test_offloaded_activations_are_not_there() -> None:
    stack = stack_named("torchtune")
    big: dict[str, Any] = {"batch": 16, "checkpointing": True, "layers": 8}
    here, away = (traced("lora", s, **big).peak_bytes for s in (stack, stack.with_switches(offload_activations=True)))
    checkpoints = 8 * 16 * 256 * 256 * 2
    assert here - away == pytest.approx(checkpoints, rel=0.15)


def test_what_prepares_a_quantized_base_doubles_what_is_not_quantized() -> None:
    stack = stack_named("transformers")
    plain, prepared = (terms(traced("qlora", s)) for s in (stack, stack.with_switches(kbit=True)))
    embeddings = 4000 * 256  # (tied with the output layer)
    norms = (2 * 4 + 1) * 256
    assert prepared["frozen weights"] - plain["frozen weights"] == 2 * (embeddings + norms)
    assert prepared["quantization constants"] == plain["quantization constants"]


def test_padded_batches_and_copied_keys_cost_memory() -> None:
    stack = stack_named("peft")
    alone = traced("lora", stack.with_switches(padded=False, repeated_keys=False))
    repeated = traced("lora", stack.with_switches(padded=False))
    padded = traced("lora", stack)
    assert alone.peak_bytes < repeated.peak_bytes < padded.peak_bytes
    assert alone.kernels == ("flash",)
    assert padded.kernels == ("efficient",), "the fused kernel takes no mask"


# --- LitGPT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts", "rank", "trained"),
    [  # as LitGPT printed them (tutorials/resource-tables.md; Raschka's notes)
        ("Llama-2-7B", "query,value", 8, 4_194_304),
        ("Llama-2-7B", "query,key,value,proj,mlp,head", 8, 20_277_248),
        ("Llama-2-13B", "query,value", 8, 6_553_600),
        ("Phi-1.5", "query,value", 8, 1_572_864),
        ("StableLM-Alpha-3B", "query,value", 8, 2_097_152),
        ("Falcon-40B", "query,value", 8, 12_042_240),
    ],
)
def test_it_trains_as_many_parameters_as_litgpt_printed(name: str, parts: str, rank: int, trained: int) -> None:
    settings = METHODS["lora"].Config(rank=rank, target_modules=parts)
    built = litgpt.build(configuration(name), "lora", settings)
    assert sum(p.numel() for p in built.parameters() if p.requires_grad) == trained


def test_its_weights_are_the_models() -> None:
    """But for the output layer, which is never shared with the embedding."""
    for name in ("Llama-2-7B", "Llama-3.2-1B", "Phi-2", "Gemma-2B", "StableLM-Alpha-3B", "Falcon-7B"):
        table = architecture_of(name)
        built = litgpt.build(configuration(name), "full", METHODS["full"].Config())
        tied = next((m for m in table.modules if m.name == table.head and m.tied_to), None)
        own = sum(p.numel() for p in built.parameters())
        assert own == model(name).parameters + (tied.weight if tied else 0), name


def test_what_it_does_not_have_is_said() -> None:
    lit = stack_named("litgpt")
    with pytest.raises(BadInput, match="How LitGPT trains with ia3"):
        traced("ia3", lit)
    with pytest.raises(BadInput, match="several GPUs only"):
        traced("lora", lit, checkpointing=True)
    with pytest.raises(BadInput, match="family 'bloom'"):
        litgpt.shape_of(configuration("BLOOM-560M"))
    with pytest.raises(BadInput, match="no flag for 'c_attn'"):
        litgpt.recipe_of("lora", METHODS["lora"].Config(target_modules="c_attn"), True)


def test_an_old_four_bit_layer_holds_its_input_until_the_next_loss() -> None:
    lit = stack_named("litgpt")
    small: dict[str, Any] = {"settings": {"target_modules": "q_proj,v_proj"}, "layers": 8, "vocabulary": 200}
    once, twice = (traced("qlora", lit, accumulation=n, **small).peak_bytes for n in (1, 2))
    new = stack_named("litgpt").with_switches(packed_inputs=False)
    assert twice > 1.1 * once
    fresh = [traced("qlora", new, accumulation=n, **small).peak_bytes for n in (1, 2)]
    assert fresh[1] < 1.02 * fresh[0], "and a new one does not"


# --- several GPUs -----------------------------------------------------------------------------------------------------


def test_shares_by_hand() -> None:
    """ZeRO's table: N GPUs have 1/N of the states, then of the gradients, then of the weights."""
    assert Sharding(8, 0).factors() == {}
    assert Sharding(8, 1).factors() == {"optimizer state": 1 / 8}
    assert Sharding(8, 2).factors() == {"optimizer state": 1 / 8, "gradients": 1 / 8}
    assert Sharding(8, 3).factors()["trained weights"] == 1 / 8
    both = Sharding(8, 3, tensor=2).factors()
    assert both["trained weights"] == both["optimizer state"] == 1 / 8
    assert both["activations"] == 1 / 2
    assert Sharding(1, 0, 1, "optimizer").factors()["optimizer state"] == 0
    for wrong, said in (
        (Sharding(0), "at least one GPU"), (Sharding(4, 5), "stages 0 to 3"),
        (Sharding(4, 0, 3), "groups of 3"), (Sharding(1, 0, 1, "disk"), "no offloading called 'disk'"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            wrong.checked()


@pytest.mark.parametrize(("method", "checkpointing"), [("full", True), ("full", False), ("lora", True)])
def test_estimate_and_trace_share_alike(method: str, checkpointing: bool) -> None:
    name = "SmolLM2-135M"
    table = architecture_of(name)
    setup = setup_of(method, batch=2, length=512, checkpointing=checkpointing)
    made = find(name, setup)
    assert made is not None
    whole = trace(configuration(name), setup)
    for sharding in (Sharding(4, 1), Sharding(4, 2), Sharding(8, 3), Sharding(8, 3, 2), Sharding(2, 3, 1, "all")):
        told = made.shared(Sizes.of(setup), sharding, table)
        found = whole.shared(sharding, table, 2, 512)
        assert told.allocated_bytes == pytest.approx(found.allocated_bytes, rel=1e-5), sharding  # (blocks of 512)
        assert [t.name for t in told.terms] == [t.name for t in found.terms]
        assert told.peak_at == found.peak_at
        if (
            method == "full" or sharding.zero != 2
        ):  # (of LoRA's gradients nothing is gained, and a block's are on the way)
            assert told.allocated_bytes < made.peak_bytes(Sizes.of(setup)), sharding


def test_gathered_weights_take_the_place_of_copies() -> None:
    """Autocast's 16-bit copies of the weights are a term of their own, which no size of the step changes; where weights
    are gathered in 16 bits, or come from the CPU's memory so, there are none."""
    name, asked = "Llama-3.1-8B", setup_of("full", batch=1, length=64)
    made, table = find(name, asked), architecture_of(name)
    assert made is not None
    few, more = ({t.name: t.bytes for t in made.ledger(size).terms} for size in (Sizes(4, 8192), Sizes(4, 16384)))
    assert few[COPIES] == more[COPIES] == pytest.approx(2 * sum(m.weight for m in table.linears()), rel=0.07)
    for sharding in (Sharding(64, 3), Sharding(1, 0, 1, "all")):
        one = made.shared(Sizes.of(asked), sharding, table)
        terms = {t.name: t.bytes for t in one.terms}
        assert COPIES not in terms
        assert terms["gathered weights"] < 0.25 * 2 * table.total
        assert one.allocated_bytes < 0.6 * 2 * table.total
        assert made.shared(Sizes.of(asked), Sharding(64, 2), table).allocated_bytes > one.allocated_bytes


def test_the_parts_that_are_gathered() -> None:
    table = architecture_of("Llama-2-7B")
    weights = {"trained weights": 4 * table.total}
    parts = parts_of(table, weights, table.total)
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert parts.block == pytest.approx(4 * block, rel=1e-6)
    assert parts.outside == pytest.approx(4 * (2 * 32000 * 4096 + 4096), rel=1e-6)
    assert parts.block_gradients == parts.block
    halved = parts_of(table, weights, table.total, halved=True)
    assert halved.block == pytest.approx(parts.block / 2, rel=1e-6)
    lora = parts_of(table, {"frozen weights": 2 * table.total}, 4_194_304)
    assert lora.outside_gradients == 0
    assert lora.block_gradients == pytest.approx(4 * 4_194_304 / 32, rel=1e-3)


def test_nothing_of_a_stack_stays_behind() -> None:
    before = torch.nn.functional.scaled_dot_product_attention
    traced("qlora", stack_named("peft"))
    assert torch.nn.functional.scaled_dot_product_attention is before
    assert traced("lora").kernels == ("flash",)
