"""Checkpoints that bitsandbytes stored in few bits as bases: read, trained beside, saved, merged, and what is refused.

The oracles are transformers' own loading of the same checkpoint, PEFT on it, and QLoRA on the plain checkpoint, which
stores the same weights in the same form itself.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core import events
from core.base import describe_base, kind_of_base, load_base, load_config, stored_base
from core.cli import main
from core.config import RunConfig, problems, resolved, with_settings
from core.errors import BadInput, BaseUnavailable, Incompatible
from core.export.facts import Facts, requirements
from core.export.merged import merge
from core.export.rack import Rack
from core.export.script import script
from core.few_bits import OTHERS, in_few_bits, stored_by
from core.layers.adopted import form_of
from core.layers.decoded import Decoded
from core.memory.setup import Device, Setup
from core.memory.trace import trace
from core.methods import METHODS, attach, attach_saved, saved_as
from core.runs.talker import Shelf
from core.train import train
from tests.checkpoints import WIDE, quantized, write_doubles, write_encoder, write_half
from tests.core.method_support import logits
from tests.core.method_support import train as few_steps

pytestmark = pytest.mark.usefixtures("untraced")

peft = pytest.importorskip("peft", reason="the oracle is PEFT (pip install -e '.[test]')")

FOUR = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
# name -> how transformers is to store it, and the same as QLoRA's settings
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nf4": ({**FOUR, "bnb_4bit_quant_type": "nf4"}, {"quant_type": "nf4", "double_quantization": False}),
    "nf4-double": (
        {**FOUR, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
         "bnb_4bit_quant_storage": torch.bfloat16},  # the bytes are called bfloat16, for FSDP's sake
        {"quant_type": "nf4", "double_quantization": True},
    ),
    "fp4": ({**FOUR, "bnb_4bit_quant_type": "fp4"}, {"quant_type": "fp4", "double_quantization": False}),
    "fp4-double": (
        {**FOUR, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
        {"quant_type": "fp4", "double_quantization": True},
    ),
    "int8": ({"load_in_8bit": True}, {"quant_type": "int8"}),
}  # fmt: skip
BESIDE = [m for m, module in METHODS.items() if not getattr(module, "CHANGES_WEIGHTS", "") and m != "qlora"]
# Float32 rounding (1.2e-7) of logits of size 1, sums in another order.
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}
EXACT = {"rtol": 0, "atol": 0}
KNOBS = ("quant_type", "double_quantization")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with biases, tied embeddings and a head, so that BitFit has something to train too."""
    return write_half("llama_biased", tmp_path_factory.mktemp("plain"), **WIDE)


@pytest.fixture(scope="module")
def stored(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same in every form."""
    folder = tmp_path_factory.mktemp("stored")
    return {name: quantized(plain, folder / name, **how) for name, (how, _) in FORMS.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_doubles(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def config(base: Path, rows: Path, method: str = "lora", **settings: Any) -> RunConfig:
    loop = {"learning_rate": 1e-2, "steps": 5, "batch_size": 8, "eval_items": 4, "precision": "float32"}
    run = RunConfig(base=str(base), task=None, data=str(rows), method=method)
    return with_settings(run, loop | settings)


def losses(stream: list[events.Event]) -> list[float]:
    assert isinstance(stream[-1], events.Finished), stream[-1]
    return [e.loss for e in stream if isinstance(e, events.Step)]


def theirs(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' own loading, as in training: in evaluation some CPUs make its 4-bit layers compute in bfloat16."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": "cpu"}).train()


def attached_to(folder: Path, method: str, **settings: Any) -> Any:
    model = load_base(str(folder)).model
    torch.manual_seed(7)
    return attach(model, method, METHODS[method].Config(**settings))


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_transformers_computes_with_the_same_codes(form: str, stored: dict[str, Path]) -> None:
    base, oracle = load_base(str(stored[form])), theirs(stored[form])
    layers = {path: layer for path, layer in base.model.named_modules() if isinstance(layer, Decoded)}
    assert len(layers) == 2 * 7
    for path, layer in layers.items():
        other: Any = oracle.get_submodule(path)
        assert {form_of(layer)} == {tuple({"double_quantization": False, **FORMS[form][1]}[k] for k in KNOBS)}
        assert torch.equal(layer.weight.data.view(torch.uint8), other.weight.data.view(torch.uint8)), path
        mine, scales = (
            (layer.absmax, other.weight.SCB)
            if form == "int8"
            else (layer.weight.quant_state.absmax, other.weight.quant_state.absmax)
        )
        assert torch.equal(mine, scales), path
    if form == "int8":
        # Its own layers round activations to 8 bits as well, in evaluation: no more than that is between them.
        assert (logits(base.model) - logits(oracle.eval())).abs().max() < 0.02 * logits(oracle).abs().max()
        oracle = oracle.dequantize()
    torch.testing.assert_close(logits(base.model), logits(oracle), **(ROUNDING if form == "int8" else EXACT))
    assert not hasattr(base.model.config, "quantization_config"), "a merged model must not say that it is quantized"
    assert base.model.to("cpu") is base.model, "transformers refuses to move what it takes for quantized in 8 bits"


def test_in_16_bits_what_is_not_stored_in_few_is_in_16(stored: dict[str, Path]) -> None:
    base, oracle = load_base(str(stored["nf4"]), dtype="bfloat16"), theirs(stored["nf4"], torch.bfloat16)
    assert {p.dtype for p in base.model.parameters()} == {torch.uint8, torch.bfloat16}
    # (transformers leaves norms and embedding in 32 bits here.)
    for parameter in oracle.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)
    # Its layers compute in the format that the checkpoint names, 32 bits here: bfloat16 has 8 of a logit's size of 1.
    torch.testing.assert_close(logits(base.model), logits(oracle), rtol=0, atol=2**-7)


@pytest.mark.parametrize("form", FORMS)
def test_the_facts_are_told_without_loading(form: str, stored: dict[str, Path], plain: Path) -> None:
    facts, before = describe_base(str(stored[form])), describe_base(str(plain))
    same = ("parameters", "layers", "width", "biases", "tied_embeddings", "context")
    assert {k: facts[k] for k in same} == {k: before[k] for k in same}
    few = facts["few_bits"]
    assert {k: few[k] for k in FORMS[form][1]} == FORMS[form][1]
    assert facts["stored_dtype"] == few["quant_type"]
    inside = [m for m in load_base(str(stored[form])).model.modules() if isinstance(m, Decoded)]
    assert few["parameters"] == sum(m.in_features * m.out_features for m in inside)
    assert few["bytes"] > few["parameters"] * (1 if form == "int8" else 0.5)
    assert facts["stored_bytes"] < before["stored_bytes"]
    assert before["few_bits"] is None
    assert stored_base(str(plain)) is None
    told = stored_base(str(stored[form]))
    assert told is not None
    assert told.settings == FORMS[form][1]
    assert json.loads(json.dumps(facts)) == facts


def test_conv1d_layers_come_back_as_such(tmp_path: Path) -> None:
    plain = write_half("gpt2", tmp_path, n_embd=64)
    folder = quantized(plain, tmp_path / "few", **FORMS["nf4"][0])
    attached = attached_to(folder, "lora")
    few_steps(attached)
    before = logits(attached.model)
    torch.testing.assert_close(logits(attached.merge()), before, rtol=1e-4, atol=1e-5)
    assert not [n for n, m in attached.model.named_modules() if type(m).__name__ == "Linear" and n != "lm_head"]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_run_on_it_is_qlora_on_the_plain_checkpoint_bit_for_bit(
    form: str, stored: dict[str, Path], plain: Path, rows: Path, tmp_path: Path
) -> None:
    settings = FORMS[form][1]
    reference = list(train(config(plain, rows, "qlora", **settings), tmp_path / "plain"))
    by_lora = list(train(config(stored[form], rows), tmp_path / "lora"))
    by_qlora = list(train(config(stored[form], rows, "qlora", **settings), tmp_path / "qlora"))
    assert losses(by_lora) == losses(by_qlora) == losses(reference)
    assert losses(reference)[-1] < losses(reference)[0]
    first, begun = by_lora[0], reference[0]
    assert isinstance(first, events.Started)
    assert isinstance(begun, events.Started)
    assert (first.total, first.trainable) == (begun.total, begun.trainable)
    assert first.base["few_bits"]["quant_type"] == settings["quant_type"]
    one, other = (e.ledger for e in (by_lora[-1], reference[-1]) if isinstance(e, events.Finished))
    told = ("frozen weights", "quantization constants", "trained weights", "optimizer state")
    assert [t for t in one["terms"] if t["name"] in told] == [t for t in other["terms"] if t["name"] in told]


@pytest.mark.parametrize("form", ["nf4-double", "int8"])
@pytest.mark.parametrize("method", BESIDE)
def test_every_method_that_leaves_the_weights_alone_trains_beside_them(
    method: str, form: str, stored: dict[str, Path], tmp_path: Path
) -> None:
    base = load_base(str(stored[form]))
    codes = {n: p.detach().clone() for n, p in base.model.named_parameters() if not p.is_floating_point()}
    before = logits(base.model)
    torch.manual_seed(7)
    attached = attach(base.model, method, METHODS[method].Config())
    if METHODS[method].START == "base":
        assert torch.equal(logits(attached.model), before)
    few_steps(attached, steps=2)
    for name in attached.trainable_names():
        gradient = attached.model.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
    after = logits(attached.model)
    assert not torch.equal(after, before)
    attached.disable()
    assert torch.equal(logits(attached.model), before)
    attached.enable()
    now = {n.replace(".base_layer", ""): p for n, p in attached.model.named_parameters()}
    assert all(torch.equal(now[n], code) for n, code in codes.items()), "the stored weights are never touched"
    attached.save(tmp_path / "a")
    again = attach_saved(load_base(str(stored[form])).model, tmp_path / "a")
    assert torch.equal(logits(again.model), after)
    record = json.loads((tmp_path / "a" / "deltalab.json").read_text())
    assert record["base_stored"] == FORMS[form][1]


@pytest.mark.parametrize("method", ["full", "last_k", "pissa"])
def test_methods_that_change_the_weights_say_that_they_cannot(
    method: str, stored: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    (wrong,) = problems(config(stored["nf4"], rows, method))
    assert METHODS[method].TITLE in wrong
    assert "those of nf4 are stored in NF4 already" in wrong
    assert "such as lora" in wrong
    # And whoever comes without that check.
    with pytest.raises(Incompatible, match=r"stored as uint8"):
        attached_to(stored["nf4"], method)


def test_peft_refuses_pissa_there_too(stored: dict[str, Path]) -> None:
    lora = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights="pissa")
    with pytest.raises(TypeError, match="Please initialize PiSSA under float32, float16, or bfloat16"):
        peft.get_peft_model(theirs(stored["nf4"]), lora)


@pytest.mark.parametrize(
    ("form", "asked", "sentence"),
    [
        ("fp4", {}, "fp4 is stored in FP4 already, and quant_type nf4 and double_quantization true would be another"),
        ("nf4", {}, "nf4 is stored in NF4 already, and double_quantization true would be another storage. Set quant"),
        ("nf4", {"quant_type": "int8", "double_quantization": False}, "and quant_type int8 would be another"),
        ("int8", {}, "int8 is stored in 8 bits already, and quant_type nf4 would be another storage. Set quant_type"),
    ],
)
def test_settings_that_contradict_the_checkpoint_are_refused(
    form: str, asked: dict[str, Any], sentence: str, stored: dict[str, Path], rows: Path
) -> None:
    with pytest.raises(BadInput, match=sentence):
        resolved(config(stored[form], rows, "qlora", **asked))
    with pytest.raises(Incompatible, match="would be another storage"):
        attached_to(stored[form], "qlora", **asked)
    right = config(stored[form], rows, "qlora", **FORMS[form][1])
    assert problems(right) == []


def test_fsdp_is_refused_whatever_the_method(stored: dict[str, Path], rows: Path) -> None:
    (wrong,) = problems(config(stored["nf4"], rows, "lora", parallel="fsdp"))
    assert "stored in few bits" in wrong
    assert in_few_bits(config(stored["nf4"], rows).to_dict())
    assert not in_few_bits(RunConfig().to_dict())


def test_a_stopped_run_goes_on_from_its_checkpoint(stored: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    same = config(stored["nf4-double"], rows, steps=6)
    whole = list(train(same, tmp_path / "whole"))
    asked = iter([False] * 3 + [True])
    part = list(train(same, tmp_path / "parts", should_stop=lambda: next(asked)))
    assert isinstance(part[-1], events.Stopped)
    rest = list(train(same, tmp_path / "parts", resume=True))
    seen = [e.loss for e in (*part, *rest) if isinstance(e, events.Step)]
    assert seen == losses(whole)


# --- what becomes of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_adapter_is_pefts_on_the_same_checkpoint(form: str, stored: dict[str, Path], tmp_path: Path) -> None:
    attached = attached_to(stored[form], "lora")
    few_steps(attached)
    attached.save(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)  # no missing or left-over key goes unseen
        loaded = peft.PeftModel.from_pretrained(theirs(stored[form]), tmp_path / "a").train()
    torch.testing.assert_close(logits(loaded), logits(attached.model), **ROUNDING)
    # And back: what PEFT trained on it is a LoRA of ours.
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    loaded.save_pretrained(tmp_path / "b", save_embedding_layers=False)  # (it would ask the hub)
    found = attach_saved(load_base(str(stored[form])).model, tmp_path / "b")
    assert saved_as(tmp_path / "b")[0] == "lora"
    torch.testing.assert_close(logits(found.model), logits(loaded), **ROUNDING)


def test_an_adapter_of_the_plain_weights_is_not_taken_for_one_of_these(
    stored: dict[str, Path], plain: Path, tmp_path: Path
) -> None:
    attached_to(plain, "lora").save(tmp_path / "a")
    with pytest.raises(BadInput, match="trained on other weights"):
        attach_saved(load_base(str(stored["nf4"])).model, tmp_path / "a")


@pytest.mark.parametrize("targets", ["all-linear", "q_proj"])
@pytest.mark.parametrize("form", ["nf4-double", "int8"])
def test_merged_it_is_a_plain_checkpoint_in_full_precision(
    form: str, targets: str, stored: dict[str, Path], tmp_path: Path
) -> None:
    attached = attached_to(stored[form], "lora", target_modules=targets)
    few_steps(attached)
    attached.save(tmp_path / "a")
    done = merge(str(stored[form]), tmp_path / "a", tmp_path / "m")
    record = json.loads((tmp_path / "m" / "config.json").read_text())
    assert "quantization_config" not in record
    assert record["dtype"] == "float32"
    model = load_base(str(tmp_path / "m")).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert done.parameters == describe_base(str(stored[form]))["parameters"]
    torch.testing.assert_close(logits(model), logits(attached.model), rtol=1e-4, atol=1e-5)


def test_the_chat_has_all_three_sides(stored: dict[str, Path], tmp_path: Path) -> None:
    attached = attached_to(stored["nf4"], "lora")
    few_steps(attached)
    after = logits(attached.model)
    attached.save(tmp_path / "a")
    shelf = Shelf(4, 10**9, "cpu")
    base = str(stored["nf4"])
    model = shelf.get(base, None, str(tmp_path / "a"))
    assert torch.equal(logits(model.base.model), after)
    merged = shelf.merged(base, None, str(tmp_path / "a"))
    torch.testing.assert_close(logits(merged.base.model), after, rtol=1e-4, atol=1e-5)
    assert model.attached is not None
    model.attached.disable()
    assert torch.equal(logits(model.base.model), logits(load_base(base).model))


def test_lora_and_qlora_share_a_rack_on_it(stored: dict[str, Path], tmp_path: Path) -> None:
    expected = {}
    for method, settings in (("lora", {}), ("qlora", FORMS["nf4"][1]), ("ia3", {})):
        attached = attached_to(stored["nf4"], method, **settings)
        few_steps(attached)
        expected[method] = logits(attached.model)
        attached.save(tmp_path / method)
    rack = Rack(load_base(str(stored["nf4"])).model)
    for method in expected:
        rack.add(method, tmp_path / method)
    for method, wanted in expected.items():
        rack.use(method)
        assert torch.equal(logits(rack.model), wanted), method


def test_the_exported_script_leaves_the_storage_to_the_checkpoint(stored: dict[str, Path], rows: Path) -> None:
    facts = Facts(few_bits=True)
    for method, settings in (("lora", {}), ("qlora", FORMS["nf4"][1])):
        text = script(config(stored["nf4"], rows, method, **settings), facts)
        compile(text, "train.py", "exec")
        assert "BitsAndBytesConfig" not in text
        assert "quantization_config" not in text
        assert 'device_map={"": PartialState().device}' in text
    with pytest.raises(BadInput, match="adapter of PEFT's only, which BitFit is not"):
        script(config(stored["nf4"], rows, "bitfit"), facts)
    assert "bitsandbytes" in requirements("lora", "adamw", {}, few_bits=True)


# --- calculators ------------------------------------------------------------------------------------------------------


def test_the_traced_step_is_qloras_on_the_plain_model(stored: dict[str, Path], plain: Path, rows: Path) -> None:
    right = config(stored["nf4-double"], rows, "qlora")
    setup = Setup.of(replace(right, base="embedded"), 2, 32, Device((8, 0)))
    told = trace(load_config(str(stored["nf4-double"])), setup).ledger()
    assert told == trace(load_config(str(plain)), setup).ledger()
    for base, method, sentence in (
        ("fp4", "qlora", "would be another storage"),
        ("nf4-double", "lora", "only told for the method qlora. Choose qlora with quant_type nf4, double_quantization"),
        ("nf4", "full", "trains the weights themselves"),
    ):
        other = Setup.of(replace(config(plain, rows, method), base="embedded"), 2, 32, Device((8, 0)))
        with pytest.raises(BadInput, match=sentence):
            trace(load_config(str(stored[base])), other)


def test_the_command_line_counts_and_tells(
    stored: dict[str, Path], plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["params", "--model", str(stored["nf4-double"]), "--method", "lora", "--json"]) == 0
    few = json.loads(capsys.readouterr().out)
    assert main(["params", "--model", str(plain), "--method", "lora", "--json"]) == 0
    assert few == json.loads(capsys.readouterr().out)
    assert main(["params", "--model", str(stored["nf4"]), "--method", "full"]) == 2
    assert "those of nf4 are stored in NF4 already" in capsys.readouterr().err
    asked = ["--batch", "2", "--seq", "32"]
    assert main(["memory", "--model", str(stored["nf4"]), "--method", "lora", *asked]) == 2
    assert "lora is the same step" in capsys.readouterr().err


# --- what is refused --------------------------------------------------------------------------------------------------


def changed(folder: Path, target: Path, **values: Any) -> Path:
    shutil.copytree(folder, target)
    content = json.loads((target / "config.json").read_text()) | values
    (target / "config.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "mxfp4", "torchao", "compressed-tensors", "hqq", "what"])
def test_other_quantizations_are_named_and_refused(method: str, plain: Path, tmp_path: Path) -> None:
    folder = changed(plain, tmp_path / "other", quantization_config={"quant_method": method})
    for ask in (load_base, describe_base, load_config):
        with pytest.raises(BaseUnavailable) as caught:
            ask(str(folder))
        assert f"quantized already (by {method}), and {OTHERS.get(method, 'what')}" in caught.value.sentence
        assert "unquantized checkpoint of the same model" in caught.value.advice
    assert stored_base(str(folder)) is None


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "bitsandbytes"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "int3"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_has_fp16_weight": True},
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": True},
    ],
)
def test_an_unknown_form_of_bitsandbytes_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(BaseUnavailable, match="neither 4 bits as NF4 or FP4 nor 8 bits"):
        stored_by({"quantization_config": said}, "it")


def test_a_config_that_does_not_say_who_wrote_it_is_understood() -> None:
    """As transformers understands it: bitsandbytes was there before quant_method was."""
    found = stored_by({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, "it")
    assert found is not None
    assert found.title == "NF4"
    assert stored_by({"quantization_config": None}, "it") is None
    skips = {"load_in_8bit": True, "llm_int8_skip_modules": ["model.layers.0.mlp.down_proj", "lm_head"]}
    kept = stored_by({"quantization_config": skips}, "it")
    assert kept is not None
    assert kept.skipped == ("model.layers.0.mlp.down_proj", "lm_head")


def test_layers_that_the_checkpoint_left_out_stay_plain(plain: Path, rows: Path, tmp_path: Path) -> None:
    left_out = ["model.layers.0.mlp.down_proj", "lm_head"]
    folder = quantized(plain, tmp_path / "few", **FORMS["nf4"][0], llm_int8_skip_modules=left_out)
    attached = attached_to(folder, "qlora", **FORMS["nf4"][1])
    kinds = {path: isinstance(layer.base_layer, Decoded) for path, layer in attached.layers.items()}
    assert [path for path, few in kinds.items() if not few] == ["model.layers.0.mlp.down_proj"]
    setup = Setup.of(replace(config(plain, rows, "qlora", **FORMS["nf4"][1]), base="embedded"), 2, 32)
    with pytest.raises(BadInput, match=r"leaves layers of its own choice out of NF4 \(model.layers.0.mlp.down_proj"):
        trace(load_config(str(folder)), setup)


def test_a_config_that_promises_another_form_than_the_weights_have(stored: dict[str, Path], tmp_path: Path) -> None:
    said = json.loads((stored["fp4"] / "config.json").read_text())["quantization_config"]
    folder = changed(stored["fp4"], tmp_path / "other", quantization_config={**said, "bnb_4bit_quant_type": "nf4"})
    with pytest.raises(BaseUnavailable, match=r"stored in NF4, and those of model\.layers\.0\.self_attn"):
        load_base(str(folder))


def test_a_quantized_encoder_is_refused(tmp_path: Path) -> None:
    plain = write_encoder("bert", tmp_path)
    said = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    folder = changed(plain, tmp_path / "few", quantization_config=said)
    assert kind_of_base(str(folder)) == "classification"
    with pytest.raises(BaseUnavailable, match="an encoder whose weights are stored in 8 bits"):
        load_base(str(folder), labels=("a", "b"))
