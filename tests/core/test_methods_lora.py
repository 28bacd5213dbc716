"""LoRA and QLoRA beyond what every method promises: names, the layer's own arithmetic, dropout, odd adapters."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from core.architecture import Architecture
from core.config import RunConfig, problems
from core.errors import BadInput, Incompatible
from core.layers.low_rank import LowRank, dense_weight
from core.methods import bitfit, lora, qlora, saved_as
from kernels.lora_linear import LoRALinear
from tests.checkpoints import make_model
from tests.core.method_support import attach, logits, train

# --- names --------------------------------------------------------------------------------------------------------


def targets(family: str, names: str, **changes) -> list[str]:
    table = Architecture.of(make_model(family, **changes))
    return [m.name for m in lora.targets(table, lora.Config(target_modules=names))]


def test_all_linear_leaves_the_head_alone() -> None:
    for family, tied in (("llama", False), ("llama_biased", True), ("gpt2", True)):
        names = targets(family, "all-linear", tie_word_embeddings=tied)
        assert names
        assert "lm_head" not in names
        assert targets(family, "All-Linear", tie_word_embeddings=tied) == names
    assert len(targets("llama", "all-linear")) == 2 * 7


def test_names_match_whole_parts_at_the_end() -> None:
    assert targets("llama", "q_proj") == [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    assert targets("llama", " v_proj ,q_proj,") == [
        f"model.layers.{i}.self_attn.{n}_proj" for i in range(2) for n in ("q", "v")
    ]
    assert targets("llama", "1.mlp.up_proj") == ["model.layers.1.mlp.up_proj"]
    assert targets("llama", "model.layers.0.mlp.up_proj") == ["model.layers.0.mlp.up_proj"]
    assert targets("llama", "q_proj,lm_head")[-1] == "lm_head"


@pytest.mark.parametrize("module", [lora, qlora])
def test_an_unknown_name_is_refused_with_those_that_exist(module) -> None:
    # "proj" ends no part of a name on its own; "q_prjo" is a slip.
    for name in ("proj", "q_prjo"):
        with pytest.raises(Incompatible, match=f"no module called '{name}'") as caught:
            module.apply(make_model("llama"), module.Config(target_modules=f"v_proj,{name}"))
        assert "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in caught.value.advice


def test_what_is_not_a_linear_layer_is_refused() -> None:
    with pytest.raises(Incompatible, match="embed_tokens is not a linear layer but of kind embedding"):
        targets("llama", "embed_tokens")
    with pytest.raises(Incompatible, match="kind norm"):
        targets("llama", "input_layernorm")


def test_a_matrix_shared_with_the_embedding_is_refused() -> None:
    with pytest.raises(Incompatible, match=r"lm_head shares its matrix with model\.embed_tokens"):
        targets("llama_biased", "q_proj,lm_head")
    assert "lm_head" in targets("llama", "lm_head", tie_word_embeddings=False)


def test_a_refused_base_is_left_as_it_was() -> None:
    for module in (lora, qlora):
        model = make_model("llama")
        before = {n: (p.requires_grad, p.clone()) for n, p in model.named_parameters()}
        with pytest.raises(Incompatible):
            module.apply(model, module.Config(target_modules="nothing_like_it"))
        after = dict(model.named_parameters())
        assert list(after) == list(before)
        assert all(p.requires_grad == before[n][0] and torch.equal(p, before[n][1]) for n, p in after.items())


def test_empty_names_are_a_problem_of_the_settings() -> None:
    for method, settings in (("lora", {"target_modules": " , "}), ("bitfit", {"biases": ","})):
        found = problems(RunConfig.from_dict({"method": method, "settings": settings}))
        assert len(found) == 1
        assert "names nothing" in found[0]


# --- the layer ----------------------------------------------------------------------------------------------------


def linear(fan_in: int, fan_out: int, *, bias: bool = True, conv: bool = False, dtype=torch.float32) -> nn.Module:
    layer = Conv1D(fan_out, fan_in) if conv else nn.Linear(fan_in, fan_out, bias=bias)
    with torch.no_grad():
        layer.weight.normal_()
    return layer.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_the_fused_layer_against_finite_differences(conv: bool, bias: bool) -> None:
    torch.manual_seed(0)
    base = linear(5, 4, bias=bias, conv=conv, dtype=torch.float64)
    x, a, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 5), (2, 5), (4, 2)))

    def add(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return LoRALinear.apply(x, a, b, 1.7, base, partial(dense_weight, base), x.dtype)

    assert torch.autograd.gradcheck(add, (x, a, b))
    # Only some of the inputs may want a gradient (the first layer's x does not).
    x.requires_grad_(False)
    assert torch.autograd.gradcheck(lambda a, b: add(x, a, b), (a, b))


@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (2, 3, 5), (2, 0, 5)])
def test_the_layer_takes_any_leading_shape(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = LowRank(linear(5, 4), rank=2, scale=1.5)
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    expected = (
        x @ layer.base_layer.weight.t() + layer.bias + 1.5 * (x @ layer.lora_A.weight.t()) @ layer.lora_B.weight.t()
    )
    assert y.shape == (*shape[:-1], 4)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_the_layer_takes_input_that_is_not_contiguous() -> None:
    torch.manual_seed(0)
    layer = LowRank(linear(5, 4), rank=2, scale=1.5)
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(3, 5, 2).transpose(1, 2)
    assert not x.is_contiguous()
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


def test_the_base_of_the_layer_is_never_written() -> None:
    """The update is added in place into the base's output; neither the input nor a weight may be that memory."""
    torch.manual_seed(0)
    base = linear(4, 4)
    layer = LowRank(base, rank=2, scale=1)
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(3, 4)
    kept = x.clone(), base.weight.clone(), base.bias.clone()
    layer(x)
    assert all(torch.equal(a, b) for a, b in zip((x, base.weight, base.bias), kept, strict=True))


def test_alpha_over_rank_is_the_scale() -> None:
    torch.manual_seed(0)
    layer = lora.plain_pair(linear(6, 5), 2, lora.Config(rank=2, alpha=8))
    nn.init.normal_(layer.lora_B.weight)
    with torch.no_grad():
        expected = 4 * layer.lora_B.weight @ layer.lora_A.weight
    torch.testing.assert_close(layer.delta(), expected)
    assert layer.scale == 4


def test_a_starts_uniform_as_a_linear_layer_does_and_b_at_zero() -> None:
    """Kaiming-uniform with a = √5 is uniform in ±1/√in: the reference implementation's choice, and PEFT's."""
    torch.manual_seed(0)
    layer = LowRank(linear(400, 30), rank=16, scale=1)
    a = layer.lora_A.weight
    assert torch.count_nonzero(layer.lora_B.weight) == 0
    bound = 400**-0.5
    assert a.abs().max() <= bound
    # 6,400 draws: the standard deviation of a uniform is bound/√3, known here to about 1 %.
    assert a.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_dropout_acts_in_training_only_and_on_the_pair_only() -> None:
    torch.manual_seed(0)
    layer = LowRank(linear(64, 8), rank=4, scale=1, dropout=0.5)
    x = torch.randn(5, 64)
    assert torch.equal(layer.train()(x), layer.base_layer(x)), "B is zero: the base's path sees all of x"
    nn.init.normal_(layer.lora_B.weight)
    without = LowRank(layer.base_layer, rank=4, scale=1)
    without.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), without(x))
    layer.train()
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    many = torch.stack([layer(x) for _ in range(4000)]).mean(0)
    # The mean over draws is the value without dropout: 4,000 draws of deviation ~3 leave 3/√4000 ≈ 0.05.
    torch.testing.assert_close(many, without(x), rtol=0, atol=0.3)
    layer(x).sum().backward()
    assert layer.lora_A.weight.grad is not None


def test_the_step_by_step_path_and_the_fused_one_agree() -> None:
    torch.manual_seed(0)
    layer = LowRank(linear(16, 8), rank=4, scale=1, dropout=0.5).eval()
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(5, 16, requires_grad=True)
    results = []
    for frozen in (True, False):
        layer.base_layer.weight.requires_grad_(not frozen)  # an unfrozen base goes step by step
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad.clone(), layer.lora_A.weight.grad, layer.lora_B.weight.grad))
    assert layer.base_layer.weight.grad is not None
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_computes_in_bfloat16_and_returns_it(enabled: bool) -> None:
    torch.manual_seed(0)
    layer = LowRank(linear(64, 32), rank=4, scale=2)
    nn.init.normal_(layer.lora_B.weight, std=0.1)
    x = torch.randn(10, 64, requires_grad=True)
    full = layer(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        y = layer(x)
    assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
    # 8 bits: sums of 64 products of size 1 carry errors of about 2⁻⁸ of their size, 8.
    torch.testing.assert_close(y.float(), full, rtol=0.01, atol=0.15 if enabled else 0)
    y.float().sum().backward()
    assert x.grad.dtype == layer.lora_A.weight.grad.dtype == layer.lora_B.weight.grad.dtype == torch.float32


def test_little_is_kept_for_the_backward_pass() -> None:
    """x and xAᵀ, and nothing of the size of the output: what KERNELS calls for."""
    layer = LowRank(linear(32, 48), rank=4, scale=2)
    x = torch.randn(100, 32, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert sorted(tuple(t.shape) for t in kept) == [(4, 32), (48, 4), (100, 4), (100, 32)]


# --- adapters from elsewhere --------------------------------------------------------------------------------------


def edited(folder: Path, **changes) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")
    (folder / "deltalab.json").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True},
        {"alpha_pattern": {"q_proj": 4}}, {"modules_to_save": ["lm_head"]}, {"use_qalora": True},
        {"use_bdlora": {"nblocks": 2}}, {"kasa_config": {"beta": 1}}, {"velora_config": {"num_groups": 64}},
        {"monteclora_config": {"num_samples": 4}}, {"arrow_config": {"top_k": 3}}, {"layers_to_transform": [1]},
        {"layers_to_transform": 0}, {"layers_pattern": "layers"}, {"exclude_modules": ["k_proj"]},
        {"layer_replication": [[0, 2], [1, 2]]}, {"megatron_config": {"a": 1}}, {"alora_invocation_tokens": [5]},
        {"trainable_token_indices": [0]}, {"target_parameters": ["mlp.up_proj.weight"]}, {"ensure_weight_tying": True},
        {"a_field_of_next_year": 0.5}, {"merge_weights": True}, {"another": 0},
    ],
    ids=str,
)  # fmt: skip
def test_variants_that_compute_something_else_are_named_and_refused(tmp_path: Path, changes: dict) -> None:
    attached = attach("lora", "llama")
    attached.save(tmp_path / "a")
    ((name, value),) = changes.items()
    with pytest.raises(BadInput, match=re.escape(f"uses {name}={value!r}, which plain LoRA does not have")) as caught:
        attached.load(edited(tmp_path / "a", **changes))
    assert "Merge it with PEFT" in caught.value.advice


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "next_years", 3, {"a": 1}]
)
def test_starts_that_change_the_base_are_named_and_refused(tmp_path: Path, start) -> None:
    attached = attach("lora", "llama")
    attached.save(tmp_path / "a")
    kept = {n: p.clone() for n, p in attached.model.named_parameters()}
    with pytest.raises(BadInput, match=re.escape(f"started with init_lora_weights={start!r}, which changes")) as caught:
        attached.load(edited(tmp_path / "a", init_lora_weights=start))
    assert "path_initial_model_for_weight_conversion" in caught.value.advice
    assert "merge it there" in caught.value.advice
    assert all(torch.equal(p, kept[n]) for n, p in attached.model.named_parameters())
    with pytest.raises(BadInput, match="init_lora_weights"):
        saved_as(tmp_path / "a")


@pytest.mark.parametrize(
    "changes",
    [
        *({"init_lora_weights": start} for start in (True, False, None, "gaussian", "Gaussian", "orthogonal", "eva")),
        {"eva_config": {"rho": 2.0}, "loftq_config": {"loftq_bits": 4}, "corda_config": {"cache_file": "x"}},
        {"peft_version": "0.21.2", "revision": "main", "auto_mapping": {"base_model_class": "x"}, "r": 8},
        {"exclude_modules": [], "rank_pattern": None, "modules_to_save": [], "layers_pattern": "", "bias": None},
        {"enable_lora": None, "merge_weights": False, "a_field_of_next_year": {}, "qalora_group_size": 32},
    ],
    ids=str,
)
def test_fields_that_change_nothing_are_no_obstacle(tmp_path: Path, changes: dict) -> None:
    attached = attach("lora", "llama")
    train(attached)
    attached.save(tmp_path / "a")
    other = attach("lora", "llama", seed=8)
    other.load(edited(tmp_path / "a", **changes))
    assert torch.equal(logits(other.model), logits(attached.model))


def test_another_scale_is_refused_with_the_one_to_set(tmp_path: Path) -> None:
    attach("lora", "llama", rank=4, alpha=32).save(tmp_path / "a")
    with pytest.raises(BadInput, match="a scale of 8; this model has 2") as caught:
        attach("lora", "llama").load(tmp_path / "a")
    assert "rank to 4 and alpha to 32" in caught.value.advice
    assert saved_as(tmp_path / "a")[1] == lora.Config(rank=4, alpha=32)


@pytest.mark.parametrize("changes", [
    {"r": 0}, {"r": "8"}, {"r": None}, {"r": True}, {"lora_alpha": "16"}, {"lora_alpha": 0}, {"lora_dropout": 1},
    {"target_modules": None}, {"target_modules": [1]}, {"peft_type": "IA3"},
], ids=str)  # fmt: skip
def test_a_malformed_adapter_config_is_refused_by_the_field(tmp_path: Path, changes: dict) -> None:
    attached = attach("lora", "llama")
    attached.save(tmp_path / "a")
    with pytest.raises(BadInput, match=next(iter(changes)) if "peft_type" not in changes else "IA3"):
        attached.load(edited(tmp_path / "a", **changes))


@pytest.mark.parametrize("settings", [{"rank": "many"}, {"rank": None}, {"ranks": 8}, [8], 8, "r=8"], ids=str)
def test_a_malformed_record_of_ours_is_refused(tmp_path: Path, settings) -> None:
    for method in ("lora", "qlora"):
        attached = attach(method, "llama")
        attached.save(tmp_path / "a")
        path = tmp_path / "a" / "deltalab.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))
        with pytest.raises(BadInput):
            saved_as(tmp_path / "a")
        with pytest.raises(BadInput):
            attached.load(tmp_path / "a")


def test_an_adapter_trained_on_another_4_bit_type_is_refused(tmp_path: Path) -> None:
    attach("qlora", "llama", quant_type="fp4").save(tmp_path / "a")
    with pytest.raises(BadInput, match="on a base in fp4; this one is in nf4"):
        attach("qlora", "llama").load(tmp_path / "a")
    attach("lora", "llama").load(tmp_path / "a")  # on the plain base it may be used
    assert qlora.read_config(tmp_path / "a") == qlora.Config(quant_type="fp4")
    (tmp_path / "a" / "deltalab.json").unlink()
    assert qlora.read_config(tmp_path / "a").quant_type == "nf4"
    attach("qlora", "llama").load(tmp_path / "a")  # nothing is said about its base


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".a.new-x1y2"
    left.mkdir()
    (left / "half").write_bytes(b"written")
    attach("lora", "llama").save(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_another_rank_or_other_layers_are_refused(tmp_path: Path) -> None:
    attach("lora", "llama", rank=4, alpha=8).save(tmp_path / "rank")
    with pytest.raises(BadInput, match=r"shape \(4, 32\) there and \(8, 32\) here"):
        attach("lora", "llama").load(tmp_path / "rank")
    attach("lora", "llama", target_modules="q_proj").save(tmp_path / "fewer")
    with pytest.raises(BadInput, match="lacks"):
        attach("lora", "llama").load(tmp_path / "fewer")
    attach("lora", "llama").save(tmp_path / "more")
    with pytest.raises(BadInput, match="does not train"):
        attach("lora", "llama", target_modules="q_proj").load(tmp_path / "more")


def test_a_folder_without_our_record_is_read_by_pefts(tmp_path: Path) -> None:
    attached = attach("lora", "llama", target_modules="q_proj,v_proj", rank=3, alpha=9, dropout=0.1)
    attached.save(tmp_path / "a")
    (tmp_path / "a" / "deltalab.json").unlink()
    assert saved_as(tmp_path / "a") == ("lora", lora.Config(3, 9, "q_proj,v_proj", 0.1))


def test_a_newer_record_is_refused(tmp_path: Path) -> None:
    attach("lora", "llama").save(tmp_path / "a")
    record = json.loads((tmp_path / "a" / "deltalab.json").read_text())
    for change, message in (({"format": 2}, "this version reads 1"), ({"method": "moonshot"}, "called 'moonshot'")):
        (tmp_path / "a" / "deltalab.json").write_text(json.dumps(record | change))
        with pytest.raises(BadInput, match=message):
            saved_as(tmp_path / "a")
    (tmp_path / "a" / "deltalab.json").write_text("[1, 2")
    with pytest.raises(BadInput, match="cannot be read"):
        saved_as(tmp_path / "a")


def test_the_record_names_the_base_without_a_path_on_this_machine(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from tests.checkpoints import write

    model = AutoModelForCausalLM.from_pretrained(write("llama", tmp_path))
    attached = lora.apply(model, lora.Config())
    attached.save(tmp_path / "a")
    for name in ("adapter_config.json", "deltalab.json"):
        text = (tmp_path / "a" / name).read_text()
        assert str(tmp_path) not in text
        assert '"llama"' in text


def test_names_in_the_file_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    def written(family: str, names: str) -> list[str]:
        attach("lora", family, target_modules=names).save(tmp_path / "a")
        return json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]

    assert written("llama", "q_proj,v_proj") == ["q_proj", "v_proj"]
    assert written("gpt2", "all-linear") == ["c_attn", "c_fc", "c_proj"]
    # One layer of two cannot be told by the last part of its name.
    assert written("llama", "0.mlp.up_proj") == ["model.layers.0.mlp.up_proj"]


# --- BitFit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma"])
def test_bitfit_on_a_model_without_biases_says_which_have_them(family: str) -> None:
    with pytest.raises(Incompatible, match="has no bias vectors, so BitFit has nothing to train") as caught:
        bitfit.apply(make_model(family), bitfit.Config())
    for name in ("embedded base", "GPT-2", "OPT", "BERT", "Phi", "Qwen2"):
        assert name in caught.value.advice


def test_bitfit_trains_only_the_biases_that_are_named() -> None:
    attached = attach("bitfit", "llama_biased", biases="q_proj,down_proj")
    assert attached.trainable_names() == [
        f"model.layers.{i}.{n}.bias" for i in range(2) for n in ("self_attn.q_proj", "mlp.down_proj")
    ]
    with pytest.raises(Incompatible, match="no bias in a module called 'lm_head'") as caught:
        attach("bitfit", "llama_biased", biases="q_proj,lm_head")
    assert "down_proj, gate_proj, k_proj" in caught.value.advice


def test_bitfit_includes_the_biases_of_layer_norms() -> None:
    names = attach("bitfit", "gpt2").trainable_names()
    assert "transformer.ln_f.bias" in names
    assert "transformer.h.0.ln_1.bias" in names
    assert all(n.endswith(".bias") for n in names)


# --- without a copy of the base -----------------------------------------------------------------------------------


def test_a_run_that_keeps_no_base_cannot_switch_off_and_says_so(tmp_path: Path) -> None:
    from core.errors import Refused
    from core.methods import full

    attached = full.apply(make_model("opt"), full.Config(), keep_base=False)
    train(attached)
    trained = logits(attached.model)
    with pytest.raises(Refused, match="no copy was kept"):
        attached.disable()
    assert torch.equal(logits(attached.model), trained)
    attached.save(tmp_path / "a")
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert torch.equal(logits(again), trained), "transformers loads what full fine-tuning saved"
