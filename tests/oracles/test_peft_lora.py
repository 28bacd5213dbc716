"""LoRA against HF PEFT: the same adapters, gradients, merged weights, names and counts, in both directions."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

peft = pytest.importorskip("peft", reason="the oracle of LoRA is PEFT (pip install -e '.[test]')")

from core.architecture import Architecture, meta_model  # noqa: E402
from core.errors import BadInput  # noqa: E402
from core.methods import attach_saved, lora, qlora  # noqa: E402
from core.methods.modules import replace_module  # noqa: E402
from tests.checkpoints import FAMILIES, make_model  # noqa: E402
from tests.core.method_support import attach, ids, logits, train  # noqa: E402
from tests.core.real_configs import config_of  # noqa: E402

# PEFT computes base(x) + s·B(Ax) in three steps where ours adds in one: float32 rounding (1.2e-7) of logits of size 1.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def peft_model(model: torch.nn.Module, seed: int = 3, *, draw: bool = True, **settings: Any) -> Any:
    """PEFT's own LoRA around `model`; unless `draw` is off, B is drawn at random, so that the pair does something."""
    values = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it corrects fan_in_fan_out for Conv1D, and says so
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**values))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if draw and "lora_B" in name:
                parameter.normal_(std=0.02)
    return wrapped.eval()


def ours(name: str) -> str:
    """PEFT's parameter name in a live model -> ours."""
    return name.removeprefix("base_model.model.").replace(".default.", ".").replace(".base_layer.", ".")


def copy_pairs(source: torch.nn.Module, attached: lora.Attached) -> None:
    """PEFT's A and B into our layers."""
    mine = dict(attached.model.named_parameters())
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if "lora_" in name:
                mine[ours(name)].copy_(parameter)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_save_peft_loads_with_the_same_logits(family: str, tmp_path: Path) -> None:
    attached = attach("lora", family)
    train(attached)
    attached.save(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)  # no missing or left-over key goes unseen
        loaded = peft.PeftModel.from_pretrained(make_model(family), tmp_path / "a").eval()
    mine = dict(attached.model.named_parameters())
    theirs = {ours(n): p for n, p in loaded.named_parameters() if "lora_" in n}
    assert sorted(theirs) == sorted(attached.trainable_names())
    assert all(torch.equal(p, mine[n]) for n, p in theirs.items())
    torch.testing.assert_close(logits(loaded), logits(attached.model), **ROUNDING)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_peft_saves_we_load_with_the_same_logits(family: str, tmp_path: Path) -> None:
    theirs = peft_model(make_model(family))
    theirs.save_pretrained(tmp_path / "a")
    attached = attach("lora", family)
    attached.load(tmp_path / "a")
    torch.testing.assert_close(logits(attached.model), logits(theirs), **ROUNDING)
    # Without knowing the settings, from the folder alone.
    found = attach_saved(make_model(family), tmp_path / "a")
    assert torch.equal(logits(found.model), logits(attached.model))


@pytest.mark.parametrize("settings", [
    {"target_modules": ["q_proj", "v_proj"], "r": 3, "lora_alpha": 7, "lora_dropout": 0.25},
    {"target_modules": ["q_proj", "lm_head"], "r": 2, "lora_alpha": 2},
])  # fmt: skip
def test_pefts_settings_are_read_from_its_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = peft_model(make_model("llama"), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a pair on the head makes it save the head too
        theirs.save_pretrained(tmp_path / "a")
    config = lora.read_config(tmp_path / "a")
    assert (config.rank, config.alpha) == (settings["r"], settings["lora_alpha"])
    assert config.dropout == settings.get("lora_dropout", 0.0)
    assert sorted(config.target_modules.split(",")) == sorted(settings["target_modules"])
    found = attach_saved(make_model("llama"), tmp_path / "a")
    torch.testing.assert_close(logits(found.model), logits(theirs), **ROUNDING)


def test_the_table_of_fields_is_pefts_own() -> None:
    """Every field that PEFT writes is known here: read, of no effect, or a variant with PEFT's default."""
    defaults = json.loads(json.dumps(peft.LoraConfig().to_dict(), default=list))
    tables = (set(lora._READ), set(lora._OF_NO_EFFECT), set(lora._VARIANTS))
    assert sum(map(len, tables)) == len(set.union(*tables)), "in one table each"
    assert set(defaults) <= set.union(*tables)
    assert {k: v for k, v in lora._VARIANTS.items() if k in defaults} == {
        k: defaults[k] for k in lora._VARIANTS if k in defaults
    }
    fields = {f.name: f.metadata for f in dataclasses.fields(peft.LoraConfig)}
    assert not [n for n in lora._OF_NO_EFFECT if fields.get(n, {}).get("is_lora_variant")]


# Under these PEFT leaves the base as it is.
@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_adapters_that_were_started_otherwise_load_with_the_same_logits(start: bool | str, tmp_path: Path) -> None:
    plain = make_model("llama").state_dict()
    theirs = peft_model(make_model("llama"), init_lora_weights=start)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_A" in name:
                parameter.normal_(std=0.1)  # mica starts A at zero
            elif "lora_" not in name:
                assert torch.equal(parameter, plain[ours(name)]), name
    theirs.save_pretrained(tmp_path / "a")
    found = attach_saved(make_model("llama"), tmp_path / "a")
    torch.testing.assert_close(logits(found.model), logits(theirs), **ROUNDING)
    assert not torch.allclose(logits(found.model), logits(make_model("llama")), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_adapters_that_changed_the_base_are_refused_and_load_after_pefts_conversion(start: str, tmp_path: Path) -> None:
    theirs = peft_model(make_model("llama"), init_lora_weights=start)
    before = make_model("llama").state_dict()
    changed = [n for n, p in theirs.named_parameters() if "lora_" not in n and not torch.equal(p, before[ours(n)])]
    assert len(changed) == 2 * 7, "PEFT has changed the wrapped weights themselves"
    theirs.save_pretrained(tmp_path / "a")
    with pytest.raises(BadInput, match=f"init_lora_weights='{start}'"):
        attach_saved(make_model("llama"), tmp_path / "a")
    with pytest.raises(BadInput, match=f"init_lora_weights='{start}'"):
        attach("lora", "llama").load(tmp_path / "a")
    with pytest.raises(BadInput, match=f"init_lora_weights='{start}'"):
        qlora.read_config(tmp_path / "a")

    # What the sentence advises: the adapter as it was at the start is kept, and the saved one is the difference.
    again = peft_model(make_model("llama"), init_lora_weights=start, draw=False)
    again.peft_config["default"].init_lora_weights = True
    again.save_pretrained(tmp_path / "start")
    again.peft_config["default"].init_lora_weights = start
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says what it does
        again.save_pretrained(tmp_path / "b", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    found = attach_saved(make_model("llama"), tmp_path / "b")
    assert found.config.rank == 16
    # Twice the rank, and a sum that cancels: rounding of weights of size 1 rather than of their small difference.
    torch.testing.assert_close(logits(found.model), logits(again), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("lora_bias", {"lora_bias": True}), ("use_rslora", {"use_rslora": True, "use_dora": True}),
        ("layers_to_transform", {"layers_to_transform": [1], "target_modules": ["q_proj"]}),
        ("exclude_modules", {"exclude_modules": ["k_proj"]}), ("alpha_pattern", {"alpha_pattern": {"q_proj": 2}}),
        ("alora_invocation_tokens", {"alora_invocation_tokens": [5, 6]}),
        ("trainable_token_indices", {"trainable_token_indices": [0, 1]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_variants_that_peft_saved_are_refused_by_name(field: str, settings: dict[str, Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a bias that is not there, for one
        peft_model(make_model("llama"), **settings).save_pretrained(tmp_path / "a")
    with pytest.raises(BadInput, match=f"uses {field}="):
        attach_saved(make_model("llama"), tmp_path / "a")


def test_layers_that_peft_chose_by_a_pattern_are_those_that_have_pairs(tmp_path: Path) -> None:
    theirs = peft_model(make_model("llama"), target_modules=r".*layers\.1\..*\.(q|down)_proj")
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "a")
    found = attach_saved(make_model("llama"), tmp_path / "a")
    assert list(found.layers) == ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    torch.testing.assert_close(logits(found.model), logits(theirs), **ROUNDING)


def test_the_round_trip_through_peft_keeps_every_bit(tmp_path: Path) -> None:
    attached = attach("lora", "gpt2")
    train(attached)
    attached.save(tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(make_model("gpt2"), tmp_path / "ours")
    loaded.save_pretrained(tmp_path / "theirs")
    again = attach_saved(make_model("gpt2"), tmp_path / "theirs")
    assert torch.equal(logits(again.model), logits(attached.model))
    first, second = (json.loads((tmp_path / d / "adapter_config.json").read_text()) for d in ("ours", "theirs"))
    for key in ("peft_type", "r", "lora_alpha", "fan_in_fan_out", "bias", "use_rslora", "task_type"):
        assert first[key] == second[key], key
    assert sorted(first["target_modules"]) == sorted(second["target_modules"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_give_the_same_gradients(family: str) -> None:
    theirs = peft_model(make_model(family))
    attached = attach("lora", family)
    copy_pairs(theirs, attached)
    losses = []
    for model in (theirs, attached.model):
        loss = model(input_ids=ids(), labels=ids(), use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    mine = dict(attached.model.named_parameters())
    compared = 0
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            grad = mine[ours(name)].grad
            # Sums over 33 tokens in another order: a few units in the last place of the largest entry.
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-4, atol=1e-5 * parameter.grad.abs().max().item())
            compared += 1
    assert compared == len(attached.trainable_names())
    assert all(p.grad is None for m in (theirs, attached.model) for n, p in m.named_parameters() if "lora_" not in n)


def test_a_short_training_run_stays_together() -> None:
    theirs = peft_model(make_model("llama_biased"))
    attached = attach("lora", "llama_biased")
    copy_pairs(theirs, attached)
    runs = []
    for model in (theirs, attached.model):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
        losses = []
        for step in range(12):
            optimizer.zero_grad()
            loss = model(input_ids=ids(step % 3), labels=ids(step % 3), use_cache=False).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append(losses)
    assert runs[0][-1] < runs[0][0] - 0.1
    # Rounding grows along the run (Adam divides by small numbers), but not in twelve steps.
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_merged_weights_are_pefts(family: str) -> None:
    theirs = peft_model(make_model(family))
    attached = attach("lora", family)
    copy_pairs(theirs, attached)
    one, other = theirs.merge_and_unload().state_dict(), attached.merge().state_dict()
    assert list(one) == list(other)
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), f"{name}: W + s·BA, rounded once, has one value"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "names", ["all-linear", "q_proj,v_proj", "0.mlp.up_proj", "c_attn", "mlp.c_proj", "fc1,out_proj"]
)
def test_names_pick_out_the_same_modules(family: str, names: str) -> None:
    asked = names if names == "all-linear" else names.split(",")
    try:
        wrapped = peft_model(make_model(family), target_modules=asked)
        theirs = sorted({ours(n).rpartition(".lora_")[0] for n, _ in wrapped.named_parameters() if "lora_" in n})
    except ValueError:  # it found none of the names
        theirs = []
    table = Architecture.of(make_model(family))
    try:
        mine = sorted(m.name for m in lora.targets(table, lora.Config(target_modules=names)))
    except lora.Incompatible:
        mine = []
        # Ours wants every name to match something; PEFT is content with one of them.
        theirs = theirs if names.count(",") == 0 else []
    assert mine == theirs


# Real shapes on the meta device; PEFT makes its pairs for real too, so rank 1.
@pytest.mark.parametrize(
    "name", ["Llama-2-7B", "Mistral-7B-v0.1", "Qwen2.5-0.5B", "Gemma-2B", "Phi-2", "GPT-2", "OPT-350M"]
)
def test_counts_on_real_shapes_are_pefts(name: str) -> None:
    model = meta_model(config_of(name))
    table = Architecture.of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules="all-linear"), low_cpu_mem_usage=True)
    trained, total = wrapped.get_nb_trainable_parameters()
    assert lora.count(table, lora.Config(rank=1)) == trained
    assert table.total + trained == total


def test_qlora_is_pefts_qlora(tmp_path: Path) -> None:
    """The same adapter on PEFT's layers around bitsandbytes' own 4-bit layers: same logits, same gradients."""
    from core.layers.quiet_bitsandbytes import bnb

    # 64 wide: bitsandbytes' own layer decodes rows that are no multiple of its block wrongly on a CPU.
    shape = {"hidden_size": 64, "intermediate_size": 128}
    attached = qlora.apply(make_model("llama_biased", **shape), qlora.Config())
    train(attached)
    attached.save(tmp_path / "a")

    stock = make_model("llama_biased", **shape)
    for path, layer in list(stock.named_modules()):
        if isinstance(layer, torch.nn.Linear) and path != "lm_head":
            four = bnb.nn.Linear4bit(layer.in_features, layer.out_features, compute_dtype=torch.float32)
            four.weight = bnb.nn.Params4bit(
                layer.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True, module=four
            ).to("cpu")
            four.bias = layer.bias
            four.support_avx512bf16_for_cpu = False
            replace_module(stock, path, four)
    stock.is_loaded_in_4bit = True
    loaded = peft.PeftModel.from_pretrained(stock, tmp_path / "a", is_trainable=True).eval()
    kinds = {type(m).__name__ for m in loaded.modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert kinds == {"Linear4bit"}, "PEFT's own 4-bit layer is what we compare with"
    torch.testing.assert_close(logits(loaded), logits(attached.model), **ROUNDING)

    mine = dict(attached.model.named_parameters())
    for model in (loaded, attached.model):
        model.zero_grad()
        model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
    for name, parameter in loaded.named_parameters():
        if "lora_" in name:
            largest = parameter.grad.abs().max().item()
            torch.testing.assert_close(mine[ours(name)].grad, parameter.grad, rtol=1e-4, atol=1e-5 * largest)
    assert attached.method == qlora.NAME
