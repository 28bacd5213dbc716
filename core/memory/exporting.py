"""A calculation to take away: as JSON, as CSV, and as the transformers and PEFT code that trains so.

The code is what decides the memory: how the base is loaded, the method, and the arguments of the trainer. (A whole
script with data and templates comes from a run: `core.export`.)
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from typing import TYPE_CHECKING, Any

from core.errors import Refused
from core.export.method_code import freeze, frozen, method_code
from core.export.peft_config import WITHOUT_CONFIG, peft_arguments
from core.export.python_text import WIDTH, Code, call
from core.memory.sharded import ALONE, Sharding
from core.memory.stack import OWN, PRESETS
from core.methods import LORAS, METHODS
from core.methods.lora import targets
from core.methods.modules import ends_with
from core.units import GIB

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.catalog import GpuRow
    from core.memory.card import Totals
    from core.memory.ledger import Ledger
    from core.memory.rules import Rule
    from core.memory.setup import Setup

# (optimizer, how torch runs it) -> TrainingArguments' name
OPTIM = {
    ("adamw", "fused"): "adamw_torch_fused", ("adamw", "foreach"): "adamw_torch",
    ("adamw_8bit", "fused"): "adamw_bnb_8bit", ("adamw_8bit", "foreach"): "adamw_bnb_8bit",
    ("paged_adamw_8bit", "fused"): "paged_adamw_8bit", ("paged_adamw_8bit", "foreach"): "paged_adamw_8bit",
}  # fmt: skip


def as_json(
    model: str, setup: Setup, card: GpuRow, ledger: Ledger, found: Totals, rules: list[Rule], **more: Any
) -> str:
    """The question and the answer; sizes in bytes."""
    record = {
        "model": model, "setup": setup.to_dict(), "card": card.name, "usable_bytes": card.usable_bytes,
        "verdict": found.verdict(card.usable_bytes), "totals": found.to_dict(), "peak_at": ledger.peak_at,
        "terms": [
            {"name": t.name, "bytes": t.bytes, "parts": t.formula, "source": t.source,
             "rule": r.formula, "rule_bytes": r.bytes, "difference_bytes": r.difference, "why": r.why}
            for t, r in zip(ledger.terms, rules, strict=True)
        ], **more,
    }  # fmt: skip
    return json.dumps(record, ensure_ascii=False, indent=1, default=str)


def as_csv(ledger: Ledger, found: Totals, rules: list[Rule]) -> str:
    """One row a term, then the totals; bytes and GiB."""
    out = io.StringIO()
    write = csv.writer(out)
    write.writerow(["term", "bytes", "gib", "formula", "formula_bytes", "difference_bytes", "parts"])
    for term, rule in zip(ledger.terms, rules, strict=True):
        write.writerow(
            [term.name, term.bytes, f"{term.bytes / GIB:.4f}", rule.formula, rule.bytes, rule.difference, term.formula]
        )
    write.writerow(["allocated", found.allocated, f"{found.allocated / GIB:.4f}", "", "", "", ""])
    for name, band in (("reserved", found.reserved), ("process", found.process)):
        for which, value in zip(("least", "likely", "most"), band, strict=True):
            write.writerow([f"{name}, {which}", value, f"{value / GIB:.4f}", "", "", "", ""])
    return out.getvalue()


SWITCHES = {
    "compile": "--compile", "in_backward": "--optimizer-in-backward", "offload_activations": "--offload-activations",
    "kbit": "--kbit",
}  # fmt: skip


def command(source: str, setup: Setup, card: str, sharding: Sharding = ALONE) -> str:
    """The `deltalab memory` command that prints the same.

    Args:
        source: a name, a folder, a hub id; for a pasted configuration, where its file would lie.
    """
    changed = _changed(setup.method, setup.settings)
    loop: dict[str, Any] = {
        "gradient_checkpointing": "true" if setup.checkpointing else None,
        "optimizer": setup.optimizer if setup.optimizer != "adamw" else None,
        "accumulation": setup.accumulation if setup.accumulation > 1 else None,
        "precision": setup.precision if setup.precision != setup.device.precision else None,
    }
    changed |= {name: value for name, value in loop.items() if value is not None}
    words = ["deltalab", "memory", "--model", source, "--method", setup.method]
    if changed:
        words += ["--set", *(f"{name}={value}" for name, value in changed.items())]
    words += ["--batch", str(setup.batch), "--seq", str(setup.length)]
    if setup.answers is not None:
        words += ["--answers", str(setup.answers)]
    words += ["--gpu", card]
    stack, preset = setup.stack, PRESETS[setup.stack.name].stack
    if stack.name != OWN.name:
        words += ["--as", stack.name]
    if stack.loss != preset.loss:
        words += ["--loss", stack.loss]
    if stack.adapters != preset.adapters:
        words += ["--adapters", stack.adapters]
    if stack.optimizer != preset.optimizer:
        words += ["--optimizer-by", stack.optimizer]
    words += [flag for name, flag in SWITCHES.items() if getattr(stack, name) and not getattr(preset, name)]
    for name in ("gpus", "zero", "tensor", "offload"):
        value = getattr(sharding, name)
        if value != getattr(ALONE, name):
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def count_command(source: str, method: str, settings: Any) -> str:
    """The `deltalab params` command that counts the same; a shell reads it as it is."""
    changed = [f"{n}={v}" for n, v in _changed(method, settings).items()]
    words = ["deltalab", "params", "--model", source, "--method", method, *(["--set", *changed] if changed else [])]
    return shlex.join(words)


def _changed(method: str, settings: Any) -> dict[str, Any]:
    """Those of a method's settings that are not as usual, and can be written on a command line."""
    usual = METHODS[method].Config()
    return {n: v for n, v in vars(settings).items() if v != getattr(usual, n) and v != ""}


def code(hub: str, table: Architecture, setup: Setup, sharding: Sharding = ALONE) -> str:
    """Python that loads the base, puts the method on it and sets the trainer up, as it was calculated.

    What the Trainer has no switch for is said in a comment, so that nobody takes its memory for the calculated one.

    Args:
        hub: what the model is loaded from, a hub id or a folder.
        table: the model's modules, whose own names are written out.
        sharding: how several GPUs share the step.

    Raises:
        Refused: the number format is none that the trainer has, or tensor parallelism is asked for. Incompatible: as
            the method's `count`.
    """
    method, s, stack = setup.method, setup.settings, setup.stack
    METHODS[method].count(table, s)
    if setup.precision not in ("bfloat16", "float32"):
        raise Refused(f"There is no code for passes in {setup.precision}.")
    if sharding.tensor > 1:
        raise Refused(
            "There is no code for tensor parallelism here: it belongs to programs such as Megatron-LM or torchtitan.",
            "Choose 1 for it, and ZeRO-3 to share the weights.",
        )
    half = setup.precision == "bfloat16"
    kind = METHODS[method].BASE
    dtype = Code("torch.bfloat16") if half and (kind != "trained" or not stack.autocast) else Code("torch.float32")
    kbit = ["prepare_model_for_kbit_training"] if stack.kbit and kind == "quantized" else []
    peft = [] if method in WITHOUT_CONFIG else [_class_of(method, s), "get_peft_model", *kbit]
    lines = [*_launch(sharding), "import torch"]
    if method == "adapters":
        lines.append("from torch import nn")
    if peft:
        lines.append(f"from peft import {', '.join(peft)}")
    if method == "lora_plus":
        lines += ["import bitsandbytes"] if setup.optimizer != "adamw" else []
        lines.append("from peft.optimizers import create_loraplus_optimizer")
    names = ["AutoModelForCausalLM", "TrainingArguments", *(["BitsAndBytesConfig"] if kind == "quantized" else [])]
    if setup.optimizer != "adamw":
        lines.append("# The optimizer in 8 bits needs: pip install bitsandbytes")
    lines += [f"from transformers import {', '.join(sorted(names))}", ""]
    arguments = _arguments(setup, half, sharding)  # (ZeRO-3 cuts a model while it is loaded, if it knows by then)
    loading: dict[str, Any] = {"dtype": dtype}
    if kind == "quantized":
        lines.append(_quantization(s, dtype, sharding))
        loading["quantization_config"] = Code("quantization")
    built = [_loaded(hub, loading), *_method(setup, table, hub)]
    lines += [*arguments, "", *built] if sharding.zero == 3 else [*built, "", *arguments]
    return "\n".join([*lines, *_own_optimizer(setup)]) + "\n"


def _own_optimizer(setup: Setup) -> list[str]:
    """LoRA+'s two learning rates, which no argument of the Trainer says."""
    if setup.method != "lora_plus":
        return []
    kind = {"adamw": "torch.optim.AdamW", "adamw_8bit": "bitsandbytes.optim.AdamW8bit",
            "paged_adamw_8bit": "bitsandbytes.optim.PagedAdamW8bit"}[setup.optimizer]  # fmt: skip
    arguments: dict[str, Any] = {
        "model": Code("model"), "optimizer_cls": Code(kind), "lr": Code("arguments.learning_rate"),
        "loraplus_lr_ratio": setup.settings.rate_ratio,
    }  # fmt: skip
    if setup.optimizer == "adamw":
        arguments[setup.stack.optimizer] = True
    return [
        call("optimizer", "create_loraplus_optimizer", arguments),
        "# Hand it to the trainer, which makes no other then: Trainer(model, arguments, optimizers=(optimizer, None))",
    ]


def _launch(sharding: Sharding) -> list[str]:
    """How the script is started where there are several GPUs, or something waits in the CPU's memory."""
    if sharding.alone:
        return []
    needs = ["# Needs: pip install deepspeed"] if _deepspeed(sharding) else []
    return [*needs, f"# Start it with: torchrun --nproc_per_node {sharding.gpus} train.py"]


def _deepspeed(sharding: Sharding) -> dict[str, Any] | None:
    """DeepSpeed's configuration of the sharing, as transformers takes it; None where DistributedDataParallel does.

    https://huggingface.co/docs/transformers/deepspeed
    """
    if sharding.zero == 0 and sharding.offload == "none":
        return None
    away = {"device": "cpu", "pin_memory": True}
    # (Without sharding there is nothing that DeepSpeed offloads: stage 1 of one GPU is that GPU alone.)
    zero: dict[str, Any] = {"stage": 3 if sharding.offload == "all" else max(1, sharding.zero)}
    if sharding.offload != "none":
        zero["offload_optimizer"] = away
    if sharding.offload == "all":
        zero["offload_param"] = away
    if zero["stage"] == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    }  # fmt: skip


def _loaded(hub: str, arguments: dict[str, Any]) -> str:
    told = "".join(f", {k}={v}" for k, v in arguments.items())
    inside = f"{json.dumps(hub, ensure_ascii=False)}{told}"
    if len(inside) > WIDTH - 50:
        inside = f"\n    {inside},\n"
    return f"model = AutoModelForCausalLM.from_pretrained({inside})"


def _class_of(method: str, settings: Any) -> str:
    return peft_arguments(method, settings)[0]


def _quantization(s: Any, dtype: Code, sharding: Sharding) -> str:
    if s.quant_type == "int8":
        return "quantization = BitsAndBytesConfig(load_in_8bit=True)"
    arguments: dict[str, Any] = {
        "load_in_4bit": True, "bnb_4bit_quant_type": s.quant_type,
        "bnb_4bit_use_double_quant": s.double_quantization, "bnb_4bit_compute_dtype": dtype,
    }  # fmt: skip
    if sharding.zero == 3:  # what is cut must have the type that everything else is cut in
        arguments["bnb_4bit_quant_storage"] = dtype
    return call("quantization", "BitsAndBytesConfig", arguments)


def _method(setup: Setup, table: Architecture, hub: str) -> list[str]:
    method, s, stack = setup.method, setup.settings, setup.stack
    if method == "full":
        return ["model.requires_grad_(True)"]
    if method in WITHOUT_CONFIG:
        from core.config import RunConfig

        # (What follows goes on with an adapter that a script's arguments name; there are none here.)
        converts = stack.autocast or setup.precision != "bfloat16"
        text = method_code(RunConfig(method=method, settings=s), adapters="" if converts else stack.adapters)[1]
        return ["", text.partition("\nif args.adapter:")[0]]

    def there(_: str, names: list[str]) -> list[str]:
        modules = [m.name for m in table.linears() if m.name not in table.heads]
        return [name for name in names if any(ends_with(path, name) for path in modules)]

    norms = sorted({m.name.rpartition(".")[2] for m in table.modules if m.kind == "norm"})
    kind, arguments = peft_arguments(method, s, find=there, norms=norms, base=hub)
    if method in LORAS and table.experts:
        arguments["target_modules"] = _beside_experts(table, s)
    narrow = "" if stack.adapters == "float32" else ", autocast_adapter_dtype=False"
    lines = [call("config", kind, arguments), f"model = get_peft_model(model, config{narrow})"]
    if METHODS[method].BASE == "quantized":
        lines.insert(
            0,
            f"model = prepare_model_for_kbit_training(model, use_gradient_checkpointing={setup.checkpointing})"
            if stack.kbit
            else "# (prepare_model_for_kbit_training would copy the embedding, the norms and the head into 32 bits; "
            "here they stay.)",
        )
    return [*lines, *(freeze(method) if frozen(method) else []), "model.print_trainable_parameters()"]


# What the experts' matrices and routers were called when they were linear layers. PEFT takes these names for the stacks
# that they are now, wherever they stand (_MOE_TARGET_MODULE_MAPPING in peft/utils/transformers_weight_conversion.py).
OF_EXPERTS = ("gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj")


def _beside_experts(table: Architecture, settings: Any) -> list[str]:
    """The names of the layers that get pairs here, in a model whose experts get none.

    Raises:
        Refused: by these names PEFT would put pairs beside the experts as well.
    """
    names = sorted({m.name.rpartition(".")[2] for m in targets(table, settings)})
    taken = [name for name in names if name in OF_EXPERTS]
    if taken:
        raise Refused(
            f"PEFT takes {', '.join(taken)} for the experts of {table.name} too, which were not calculated with.",
            "Choose attention as target_modules.",
        )
    return names


def _arguments(setup: Setup, half: bool, sharding: Sharding) -> list[str]:
    stack = setup.stack
    arguments: dict[str, Any] = {
        "output_dir": "out", "per_device_train_batch_size": setup.batch,
        "gradient_accumulation_steps": setup.accumulation, "gradient_checkpointing": setup.checkpointing,
    }  # fmt: skip
    if setup.checkpointing:
        arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    if half and stack.autocast:
        arguments["bf16"] = True
    arguments["optim"] = OPTIM[setup.optimizer, stack.optimizer]
    if stack.compile:
        arguments["torch_compile"] = True
    if stack.loss == "fused":
        arguments["use_liger_kernel"] = True
    lines = []
    shared = _deepspeed(sharding)
    if shared is not None:
        lines.append(f"sharing = {json.dumps(shared, indent=4)}".replace(": true", ": True"))
        arguments["deepspeed"] = Code("sharing")
    lines.append(call("arguments", "TrainingArguments", arguments))
    lines.append(f"# Calculated for rows of {setup.length:,} tokens: cut or leave out what is longer.")
    return lines + [f"# {text}" for text in _unsaid(setup)]


def _unsaid(setup: Setup) -> list[str]:
    """What was calculated with, and the Trainer has no argument for."""
    stack, out = setup.stack, []
    if stack.name not in ("deltalab", "transformers", "peft"):
        out.append(f"Calculated for {PRESETS[stack.name].title}: the Trainer's own memory is another.")
    if setup.answers is not None:
        out.append(f"Calculated for {setup.answers:,} tokens with a loss in a pass; the Trainer computes all logits.")
    elif stack.loss == "answers":
        out.append("Calculated with the logits of the answers' tokens alone; the Trainer computes all of them.")
    if stack.loss == "chunked":
        out.append("Calculated with a loss in parts; the Trainer has none (use_liger_kernel=True is nearest).")
    if stack.loss == "fused":
        out.append("The fused loss needs: pip install liger-kernel")
    if stack.in_backward:
        out.append("Calculated with the optimizer's step inside the backward pass; the Trainer has no such switch.")
    if stack.offload_activations:
        out.append("Calculated with activations in the CPU's memory; TRL's SFTConfig has activation_offloading=True.")
    return out


__all__ = ["as_csv", "as_json", "code", "command", "count_command"]
