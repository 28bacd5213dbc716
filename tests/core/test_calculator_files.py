"""What the calculators read and write: other people's settings, and code, JSON and CSV to take away."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from core.catalog import architecture_of, gpu
from core.errors import BadInput, Incompatible, Refused
from core.memory import exporting, importing, rules
from core.memory.card import totals
from core.memory.compare import on
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup
from core.memory.sharded import ALONE, Sharding
from core.memory.stack import stack_named
from core.methods import METHODS
from tests.core import memory_support

# --- import -----------------------------------------------------------------------------------------------------------


def test_peft_s_own_file_is_understood(tmp_path: Path) -> None:
    from peft import IA3Config, LoraConfig

    LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        base_model_name_or_path="meta-llama/Llama-3.1-8B",
    ).save_pretrained(tmp_path)  # fmt: skip
    found = importing.read((tmp_path / "adapter_config.json").read_text())
    assert (found.method, found.model) == ("lora", "meta-llama/Llama-3.1-8B")
    assert (found.settings.rank, found.settings.alpha, found.settings.dropout) == (16, 32, 0.05)
    assert found.settings.target_modules == "q_proj,v_proj"
    IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]).save_pretrained(
        tmp_path
    )
    assert importing.read((tmp_path / "adapter_config.json").read_text()).method == "ia3"


def test_training_arguments_are_understood() -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir="out", per_device_train_batch_size=3, gradient_accumulation_steps=4, gradient_checkpointing=True,
        optim="paged_adamw_8bit", use_cpu=True,
    )  # fmt: skip
    found = importing.read(arguments.to_json_string())
    assert (found.batch, found.accumulation, found.checkpointing, found.optimizer) == (3, 4, True, "paged_adamw_8bit")
    assert found.method is None
    assert "output_dir = 'out'" in found.unused


AXOLOTL = """
base_model: NousResearch/Llama-3.2-1B
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_alpha: 16
lora_target_linear: true
sequence_len: 4096
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 1
optimizer: adamw_bnb_8bit
gradient_checkpointing: true
sample_packing: true
"""
FACTORY = {
    "model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct", "finetuning_type": "lora", "lora_rank": 8,
    "lora_target": "all", "cutoff_len": 2048, "per_device_train_batch_size": 1, "use_dora": True, "optim": "adafactor",
}  # fmt: skip


def test_configurations_of_other_programs_are_understood() -> None:
    found = importing.read(AXOLOTL)
    assert (found.method, found.settings.rank, found.settings.alpha) == ("qlora", 32, 16)
    assert found.settings.target_modules == "all-linear"
    assert (found.batch, found.accumulation, found.length) == (2, 4, 4096)
    assert (found.optimizer, found.epochs, found.unused) == ("adamw_8bit", 1.0, ("sample_packing = True",))
    assert "QLoRA" in found.told
    other = importing.read(json.dumps(FACTORY))
    assert (other.method, other.settings.rank, other.length) == ("dora", 8, 2048)
    assert (other.optimizer, other.unused) == (None, ("optim = 'adafactor'",))
    assert importing.read("finetuning_type: full\nbatch_size: 2").method == "full"
    assert importing.read('{"optim": "adamw_torch_8bit", "batch_size": 1}').optimizer == "adamw_8bit"
    for no in ('"False"', '"no"', "false", "0"):
        assert importing.read(f'{{"gradient_checkpointing": {no}, "batch_size": 1}}').checkpointing is False
    assert importing.read('{"gradient_checkpointing": "true", "batch_size": 1}').checkpointing is True


@pytest.mark.parametrize(
    ("record", "method", "settings", "unused"),
    [
        ({"lora_rank": 16, "quantization_bit": 8, "finetuning_type": "lora"}, "qlora", {"quant_type": "int8"}, ""),
        ({"lora_rank": 16, "quantization_bit": 2}, "lora", {"rank": 16}, "quantization_bit = 2"),
        ({"lora_r": 16, "load_in_8bit": True, "adapter": "lora"}, "qlora", {"quant_type": "int8"}, ""),
        ({"lora_r": 16, "use_dora": True, "load_in_4bit": True}, "qlora", {"quant_type": "nf4"}, "use_dora = True"),
        ({"lora_r": 16, "use_dora": True, "use_rslora": True}, "dora", {"rank": 16}, "use_rslora = True"),
        ({"use_dora": "true"}, "dora", {}, ""),
        ({"lora_r": 16, "load_in_4bit": "false"}, "lora", {"rank": 16}, ""),
        ({"lora_r": 16, "optim": "adamw_torch_4bit"}, "lora", {}, "optim = 'adamw_torch_4bit'"),
        ({"lora_r": 8, "lora_dropout": "0.1"}, "lora", {"dropout": 0.1}, ""),
        ({"lora_r": 8, "lora_target_modules": {"a": 1}}, "lora", {}, "lora_target_modules"),
        ({"micro_batch_size": 2, "batch_size": 8, "lora_r": 4}, "lora", {}, "batch_size = 8"),
        ({"micro_batch_size": 2, "lora_alpha": 8}, None, None, "lora_alpha = 8"),
        ({"gradient_checkpointing": "unsloth", "lora_r": 8}, "lora", {}, "gradient_checkpointing = 'unsloth'"),
        ({"gradient_checkpointing": {"enabled": False}, "lora_r": 8}, "lora", {}, "gradient_checkpointing"),
        ({"lora_r": 8, "note": "x" * 5000}, "lora", {}, "note = 'xxxx"),
    ],
)  # fmt: skip
def test_nothing_is_read_as_something_near_it(record: Any, method: Any, settings: Any, unused: str) -> None:
    found = importing.read(json.dumps(record))
    assert found.method == method
    assert {n: getattr(found.settings, n) for n in settings or {}} == (settings or {})
    assert len(found.unused) == bool(unused)
    assert all(one.startswith(unused) and len(one) < 120 for one in found.unused)


@pytest.mark.parametrize(
    ("record", "method", "settings", "unused"),
    [
        ({"peft_type": "LORA", "r": 16, "target_modules": r".*\.(q|v)_proj$"}, "lora",
         {"rank": 16, "target_modules": "q_proj,v_proj"}, ["target_modules"]),
        ({"peft_type": "LORA", "r": 16, "target_modules": r"^(a+)+$"}, "lora", {"target_modules": None},
         ["target_modules = '^(a+)+$'", "target_modules is not said"]),
        ({"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lora",
         {"target_modules": "q_proj"}, ["modules_to_save"]),
        ({"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"], "layers_to_transform": 0}, "lora", {},
         ["layers_to_transform = 0"]),
        ({"peft_type": "LORA", "r": 16, "target_modules": "all-linear", "exclude_modules": ["x"]}, "lora",
         {"target_modules": "all-linear"}, ["exclude_modules"]),
        ({"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"], "use_dora": True, "use_rslora": True}, "dora", {},
         ["use_rslora = True"]),
        ({"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "lora", {},
         ["init_lora_weights = 'pissa'"]),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 30, "prefix_projection": True,
          "encoder_hidden_size": 4096}, "prefix_tuning", {"tokens": 30, "projection": 4096}, []),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 30}, "prefix_tuning",
         {"tokens": 30, "projection": 0}, []),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": 20, "encoder_hidden_size": 64}, "p_tuning",
         {"tokens": 20, "hidden": 64}, []),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": 20, "encoder_hidden_size": 64,
          "encoder_reparameterization_type": "LSTM"}, "p_tuning", {}, ["encoder_reparameterization_type = 'LSTM'"]),
        ({"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}, "ia3", {}, []),
    ],
)  # fmt: skip
def test_peft_s_file_needs_no_weights_beside_it(record: Any, method: str, settings: Any, unused: list[str]) -> None:
    if record["peft_type"] == "LORA":
        record = record | {"lora_alpha": 32, "lora_dropout": 0.05}
    found = importing.read(json.dumps(record))
    usual = METHODS[method].Config()
    assert found.method == method
    for name, value in settings.items():
        assert getattr(found.settings, name) == (getattr(usual, name) if value is None else value)
    assert len(found.unused) == len(unused)
    assert all(one.startswith(part) for one, part in zip(found.unused, unused, strict=True))


def _aliases(levels: int) -> str:
    """300 characters that stand for 9 to the power of `levels` letters."""
    lines = ["l0: &l0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"l{i}: &l{i} [{','.join([f'*l{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"hidden_size: *l{levels - 1}", f"micro_batch_size: *l{levels - 1}"])


HOSTILE = {
    "aliases": _aliases(9),
    "an alias of itself": "a: &a [*a]",
    "merged": "a: &a {b: 1}\nc: {<<: *a}",
    "deep lists": "[" * 5000,
    "deep objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "deep YAML": "".join(f"{' ' * i}a:\n" for i in range(200)),
    "digits": '{"micro_batch_size": ' + "9" * 100_000 + "}",
    "digits in YAML": "micro_batch_size: " + "9" * 30_000,
    "sixties": "micro_batch_size: " + ":".join(["59"] * 9_000),
    "a date": "micro_batch_size: 2020-99-01",
    "a superscript": '{"per_device_train_batch_size": "²"}',
    "another script": '{"per_device_train_batch_size": "٣"}',
    "a long value": '{"per_device_train_batch_size": "' + "x" * 150_000 + '"}',
    "a long name": '{"' + "x" * 150_000 + '": 1}',
    "infinity": '{"lora_r": 8, "num_train_epochs": Infinity}',
    "nothing": '{"lora_r": 8, "lora_dropout": NaN}',
    "a type": '{"peft_type": "' + "x" * 150_000 + '"}',
    "a rank": '{"peft_type": "LORA", "r": "' + "9" * 100_000 + '", "lora_alpha": 1, "target_modules": ["q"]}',
    "a start": '{"peft_type": "VERA", "r": 8, "target_modules": ["q"], "d_initial": "x"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_no_text_exhausts_whoever_reads_it(text: str) -> None:
    """A sentence, at once, and a short one."""
    import time

    began = time.process_time()
    for reader in (importing.read, importing.config):
        with pytest.raises(BadInput) as caught:
            reader(text)
        assert len(str(caught.value)) < 700
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "The text is empty"),
        ('{"peft_type": "LORA", "r": 16', "This is not whole JSON"),
        ("just words", "holds no named settings"),
        ('{"colour": "blue"}', "no training settings in this text"),
        ('{"peft_type": "LOHA", "r": 4}', "of type 'LOHA', which Deltalab does not have"),
        ("per_device_train_batch_size: 0", "per_device_train_batch_size is 0"),
        ("adapter: galore\nlora_r: 8", "'galore' is not one of"),
        ("PK\x03\x04rest", "a pickle and could run code"),
        ("a: [1", "neither JSON nor YAML"),
        ("x" * 200_001, "more than 200,000 characters"),
        ("!!python/object/apply:os.system ['true']", "neither JSON nor YAML"),
    ],
)
def test_what_cannot_be_used_is_said(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        importing.read(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model_type": "llama", "hidden_size": 20', "This is not whole JSON"),
        ('{"hidden_size": 2048}', "names no model_type"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000}', "num_hidden_layers .* is 1000000"),
        ('{"model_type": "llama", "hidden_size": -4}', "hidden_size .* is -4"),
        ('{"model_type": "gemma3", "text_config": {"num_hidden_layers": "many"}}', "num_hidden_layers .* is 'many'"),
        ('{"model_type": "llama", "num_hidden_layers": true}', "num_hidden_layers .* is True"),
        ('{"model_type": "mixtral", "num_local_experts": 100000}', "num_local_experts .* is 100000"),
        ('{"model_type": "llama", "vocab_size": 1e999}', "vocab_size .* is inf"),
        (
            '{"model_type": "llava", "vision_config": {"hidden_size": 1e12}}',
            "vision_config.hidden_size .* is 1000000000000",
        ),
    ],
)
def test_a_pasted_configuration_is_checked(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        importing.config(text)


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a folder, with biases, as somebody's script would load it."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    AutoModelForCausalLM.from_config(memory_support.config_of("llama_biased", width=32, layers=2)).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.filterwarnings("ignore")
def test_the_code_trains_what_was_counted(method: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is run as it is, by transformers and PEFT, and its model is counted."""
    from core.architecture import architecture_of_config
    from core.base import load_config

    table = architecture_of_config(load_config(str(tiny)), "tiny")
    settings = METHODS[method].Config()
    if method == "prompt_tuning":
        settings = METHODS[method].Config(start="random")
    setup = Setup(method, settings, 2, 64, accumulation=3, checkpointing=METHODS[method].CHECKPOINTS)
    text = exporting.code(str(tiny), table, setup)
    monkeypatch.chdir(tiny.parent)
    found: dict[str, Any] = {}
    exec(compile(text, "exported", "exec"), found)
    trained = sum(p.numel() for p in found["model"].parameters() if p.requires_grad)
    if method == "pissa":
        assert "pissa" in text
    expected = METHODS[method].count(table, settings)
    if method == "prefix_tuning":
        # PEFT puts its tokens through no projection either; the same 2·p·L·d.
        assert trained == expected
    assert trained == expected
    arguments = found["arguments"]
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 3)
    assert arguments.gradient_checkpointing == METHODS[method].CHECKPOINTS


@pytest.mark.parametrize("stack", ["peft", "torchtune", "transformers"])
@pytest.mark.parametrize("method", ["adapters", "lora_plus"])
@pytest.mark.filterwarnings("ignore")
def test_the_code_takes_a_step(method: str, stack: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the number formats of a card, here on a CPU: forward, backward, and the optimizer where the code makes one."""
    import torch

    from core.architecture import architecture_of_config
    from core.base import load_config

    settings = METHODS[method].Config()
    setup = on(Setup(method, settings, 2, 16, stack=stack_named(stack)), gpu("A100 80 GB SXM"))
    text = exporting.code(str(tiny), architecture_of_config(load_config(str(tiny)), "tiny"), setup)
    monkeypatch.chdir(tiny.parent)
    arguments = text.index("arguments = TrainingArguments(")
    found: dict[str, Any] = {}
    exec(compile(text[:arguments], "exported", "exec"), found)
    rows = torch.randint(0, 90, (1, 16))
    with torch.autocast("cpu", torch.bfloat16, enabled=setup.stack.autocast):
        found["model"](input_ids=rows, labels=rows).loss.backward()
    assert ("bf16=True" in text) == setup.stack.autocast
    if method == "lora_plus":
        found["arguments"] = type("Arguments", (), {"learning_rate": 1e-3})
        exec(compile(text[text.index("optimizer = create_loraplus_optimizer(") :], "exported", "exec"), found)
        rates = {group["lr"] for group in found["optimizer"].param_groups}
        assert {1e-3, 1e-3 * settings.rate_ratio} <= rates
        found["optimizer"].step()


def test_code_for_a_card_is_in_sixteen_bits_and_four() -> None:
    table = architecture_of("Llama-3.1-8B")
    setup = on(Setup("qlora", METHODS["qlora"].Config(), 1, 512, optimizer="paged_adamw_8bit"), gpu("RTX 4090"))
    text = exporting.code("meta-llama/Llama-3.1-8B", table, setup)
    for part in ("load_in_4bit=True", "bnb_4bit_compute_dtype=torch.bfloat16", "bf16=True", 'optim="paged_adamw_8bit"'):
        assert part in text
    compile(text, "exported", "exec")
    with pytest.raises(Incompatible):
        exporting.code("x", table, Setup("bitfit", METHODS["bitfit"].Config(), 1, 512))


def test_code_for_experts_names_what_was_calculated() -> None:
    """PEFT's all-linear would put pairs beside experts, which are not counted here."""
    mixtral, config = architecture_of("Mixtral-8x7B"), METHODS["lora"].Config()
    text = exporting.code("x", mixtral, Setup("lora", config, 1, 512, precision="bfloat16"))
    assert 'target_modules=["k_proj", "o_proj", "q_proj", "v_proj"]' in text
    with pytest.raises(Refused, match="takes down_proj, gate_proj, up_proj for the experts"):
        exporting.code("x", architecture_of("DeepSeek-V3"), Setup("lora", config, 1, 512, precision="bfloat16"))


def _text(sharding: Sharding = ALONE, method: str = "qlora", optimizer: str = "adamw", **switches: Any) -> str:
    stack = stack_named(switches.pop("name", "transformers")).with_switches(**switches)
    setup = on(Setup(method, METHODS[method].Config(), 1, 512, optimizer=optimizer, stack=stack), gpu("A100 80 GB SXM"))
    text = exporting.code("meta-llama/Llama-3.1-8B", architecture_of("Llama-3.1-8B"), setup, sharding)
    compile(text, "exported", "exec")
    return text


def test_the_code_has_the_stacks_switches() -> None:
    plain = _text()
    assert 'optim="adamw_torch_fused"' in plain
    for word in ("torch_compile", "use_liger_kernel", "autocast_adapter_dtype", "deepspeed"):
        assert word not in plain
    assert "torch_compile=True" in _text(compile=True)
    assert "use_liger_kernel=True" in _text(loss="fused")
    kbit = _text(kbit=True)
    assert "import LoraConfig, get_peft_model, prepare_model_for_kbit_training" in kbit
    assert "model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)" in kbit
    narrow = _text(name="torchtune", method="full")
    assert "bf16=True" not in narrow  # no autocast: all in 16 bits
    assert "dtype=torch.bfloat16" in narrow
    assert "autocast_adapter_dtype=False" in _text(name="torchtune")
    assert 'optim="adamw_torch"' in _text(name="peft")
    # What the Trainer has no switch for is said.
    assert "# Calculated with the optimizer's step inside the backward pass" in _text(in_backward=True)
    assert "activation_offloading=True" in _text(offload_activations=True)
    assert "# Calculated for torchtune's single-device recipes" in narrow


def test_the_arguments_are_the_trainers_own(tmp_path: Path) -> None:
    """Every argument that is written is one that this version of transformers and PEFT takes."""
    import ast
    import inspect

    from peft import get_peft_model, prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig, TrainingArguments
    from transformers.training_args import OptimizerNames

    known = {
        "TrainingArguments": set(inspect.signature(TrainingArguments).parameters),
        "BitsAndBytesConfig": set(inspect.signature(BitsAndBytesConfig).parameters),
        "get_peft_model": set(inspect.signature(get_peft_model).parameters),
        "prepare_model_for_kbit_training": set(inspect.signature(prepare_model_for_kbit_training).parameters),
    }
    text = _text(Sharding(8, 3, offload="all"), name="torchtune", compile=True, loss="fused", kbit=True)
    seen = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            seen.add(node.func.id)
            assert {k.arg for k in node.keywords} <= known[node.func.id], node.func.id
    assert seen == set(known)
    assert set(exporting.OPTIM.values()) <= {o.value for o in OptimizerNames}


def test_the_code_shares_the_step_among_gpus() -> None:
    assert _text(Sharding(4)).startswith("# Start it with: torchrun --nproc_per_node 4 train.py")
    assert "deepspeed" not in _text(Sharding(4))
    text = _text(Sharding(8, 3, offload="optimizer"))
    found: dict[str, Any] = {}
    exec(text[text.index("sharing =") : text.index("arguments =")], found)
    zero = found["sharing"]["zero_optimization"]
    assert (zero["stage"], zero["offload_optimizer"]["device"]) == (3, "cpu")
    assert "offload_param" not in zero
    assert "bnb_4bit_quant_storage=torch.bfloat16" in text
    assert text.index("TrainingArguments(") < text.index("from_pretrained(")  # the model is cut while it is loaded
    with pytest.raises(Refused, match="tensor parallelism"):
        _text(Sharding(8, tensor=2))


def test_json_and_csv_hold_the_ledger() -> None:
    card, table = gpu("RTX 4090"), architecture_of("Llama-3.1-8B")
    setup = on(Setup("qlora", METHODS["qlora"].Config(), 1, 512), card)
    made = find("Llama-3.1-8B", setup)
    assert made is not None
    ledger = made.ledger(Sizes.of(setup))
    found, told = totals(ledger.allocated_bytes, setup.device), rules.rules(table, setup, ledger)
    record = json.loads(
        exporting.as_json("Llama-3.1-8B", setup, card, ledger, found, told, sharding=asdict(Sharding(8, 3)))
    )
    assert record["sharding"] == {"gpus": 8, "zero": 3, "tensor": 1, "offload": "none"}
    assert Setup.from_dict(record["setup"]) == setup
    assert sum(t["bytes"] for t in record["terms"]) == record["totals"]["allocated"] == ledger.allocated_bytes
    assert record["verdict"] == "fits"
    rows = list(csv.DictReader(io.StringIO(exporting.as_csv(ledger, found, told))))
    by_name = {r["term"]: int(r["bytes"]) for r in rows}
    assert by_name["allocated"] == sum(t.bytes for t in ledger.terms)
    assert by_name["process, most"] == found.process[2]


@pytest.mark.parametrize("zero", [0, 3])
def test_the_command_prints_the_same(zero: int, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    from core.cli import main
    from core.memory.compare import answer

    card, sharding = gpu("A100 80 GB SXM"), Sharding(8 if zero else 1, zero)
    settings = METHODS["lora"].Config(rank=16)
    setup = on(Setup("lora", settings, 3, 900, 1000, checkpointing=True), card)
    words = shlex.split(exporting.command("Llama-3.1-8B", setup, card.name, sharding))
    assert words[0] == "deltalab"
    assert main([*words[1:], "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = answer(lambda asked: find("Llama-3.1-8B", asked), setup, card, sharding, architecture_of("Llama-3.1-8B"))
    assert found is not None
    assert told["allocated_bytes"] == found.found.allocated
    assert (told["fits"], told["gpus"]) == (found.verdict, sharding.gpus)


def test_a_name_with_spaces_and_brackets_is_one_word_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    from core.cli import main

    settings = METHODS["lora"].Config(rank=4, target_modules="q_proj, v_proj")
    words = shlex.split(exporting.count_command("Gemma-3-1B (text)", "lora", settings))
    assert main([*words[1:], "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["trainable"] == METHODS["lora"].count(architecture_of("Gemma-3-1B (text)"), settings)


def test_the_command_shows_lines_that_a_terminal_has(capsys: pytest.CaptureFixture[str]) -> None:
    from core.cli import main

    assert main(["memory", "--model", "Llama-3.1-8B", "--method", "qlora", "--gpu", "RTX 4090", "--zero", "3"]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 160
    starts = [line[:14] for line in told.splitlines()]
    assert starts.count("      traced  ") >= starts.count("      formula ") > 4
    assert "nothing" in told[told.index("ZeRO cuts") :].splitlines()[0], "one GPU alone"
    assert main(["params", "--model", "Llama-3.1-8B"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8, "blocks that are alike have one line"
    assert lines[1].split() == ["model.layers.*.self_attn.q_proj", *"4096 × 4096 32 × 65,536 = 2,097,152".split()]


def test_a_trace_that_breaks_off_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import core.memory.trace
    from core.cli import main

    def broken(*_: Any) -> None:
        raise RuntimeError("a and b must have the same size")

    monkeypatch.setattr(core.memory.trace, "trace", broken)
    assert main(["memory", "--model", "DeepSeek-V3", "--method", "qlora"]) == 1
    assert "The trace broke off with RuntimeError: a and b must have the same size." in capsys.readouterr().err


# --- settings as code and as flags ------------------------------------------------------------------------------------

CODE = """
import torch
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
model = transformers.AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B", quantization_config=quantization)
tokenizer = AutoTokenizer.from_pretrained("somebody/else")
peft_config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type=TaskType.CAUSAL_LM)
args = SFTConfig(per_device_train_batch_size=2, max_length=2048, optim="paged_adamw_8bit", output_dir=os.getcwd())
"""


def test_code_is_read_and_not_run() -> None:
    found = importing.read(CODE)
    assert (found.model, found.method, found.batch, found.length) == ("meta-llama/Llama-3.1-8B", "qlora", 2, 2048)
    settings = {"rank": 16, "alpha": 32, "target_modules": "q_proj,v_proj", "double_quantization": False}
    assert found.settings == METHODS["qlora"].Config(**settings), "BitsAndBytesConfig's own defaults count"
    assert (found.optimizer, found.unused) == ("paged_adamw_8bit", ())
    assert importing.read("TrainingArguments(per_device_train_batch_size=4)").batch == 4
    with pytest.raises(BadInput, match="OFT"):
        importing.read("config = OFTConfig(r=8)")
    with pytest.raises(BadInput):
        importing.read("TrainingArguments(per_device_train_batch_size=__import__('os').getpid())")


@pytest.mark.parametrize("method", [m for m in METHODS if m != "bitfit"])
def test_the_page_reads_the_code_that_it_writes(method: str) -> None:
    module, hub = METHODS[method], "meta-llama/Llama-3.2-1B"
    setup = Setup(method, module.Config(), 4, 512, optimizer="adamw_8bit", checkpointing=module.CHECKPOINTS,
                  accumulation=2, device=Device((8, 0)), precision="bfloat16")  # fmt: skip
    found = importing.read(exporting.code(hub, architecture_of("Llama-3.2-1B"), setup))
    assert (found.model, found.batch, found.accumulation, found.optimizer) == (hub, 4, 2, "adamw_8bit")
    assert found.checkpointing == module.CHECKPOINTS
    told = " ".join(found.unused)
    if any(word in told for word in ("requires_grad", "create_loraplus_optimizer", "init_lora_weights")):
        assert found.method in ("lora", None), "what is not in a configuration is listed as not taken over"
    else:
        assert found.method == method
        assert module.count(architecture_of("Llama-3.2-1B"), found.settings) == module.count(
            architecture_of("Llama-3.2-1B"), module.Config()
        )


def test_flags_of_a_command_are_understood() -> None:
    found = importing.read(
        "accelerate launch sft.py --model_name_or_path meta-llama/Llama-3.1-8B \\\n --per-device-train-batch-size=2 "
        "--lora_r 16 --lora_target_modules q_proj v_proj --load_in_4bit --gradient_checkpointing --bf16"
    )
    assert (found.model, found.method, found.batch) == ("meta-llama/Llama-3.1-8B", "qlora", 2)
    assert (found.settings.rank, found.settings.target_modules) == (16, "q_proj,v_proj")
    assert (found.checkpointing, found.unused) == (True, ("bf16 = True",))
    with pytest.raises(BadInput, match="batch_size is '0'"):
        importing.read("--per_device_train_batch_size 0")


def test_an_adapter_s_file_written_by_hand_has_peft_s_defaults() -> None:
    found = importing.read('{"peft_type": "LORA", "target_modules": "all-linear"}')
    assert (found.settings.rank, found.settings.alpha) == (8, 8)
