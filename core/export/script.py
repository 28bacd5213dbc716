"""A run as a Python script that needs no Deltalab: transformers' Trainer (or TRL's SFTTrainer) and PEFT.

`script` writes it. It is made of parts, each with what it does and why (a comment in the script, a cell of prose in the
notebook) and its code: only what this run's settings need is in it, so that it reads like one that was written by hand.

It repeats the run: the same template and labels, the same random start from the same seed, the same batches when the
data stands beside it in the run's order, the same schedule, clipping and precision. What cannot be the same is said in
its first lines.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

from core.config import EMBEDDED, RunConfig, resolved
from core.export.facts import Facts, method_title
from core.export.method_code import BY_HAND, continues, continues_in_peft, is_prompt, prompt_table
from core.export.parts import parts
from core.export.peft_config import WITHOUT_CONFIG, peft_arguments
from core.export.python_text import WIDTH, value_text
from core.methods import METHODS

OUT = "out"


def script(
    config: RunConfig, facts: Facts | None = None, *, trainer: str = "transformers", name: str = "train.py"
) -> str:
    """The script.

    Args:
        config: the run's settings.
        facts: what else is known of the run.
        trainer: 'transformers' (its Trainer) or 'sft' (TRL's SFTTrainer).
        name: what the script will be called, for the commands in its first lines.

    Raises:
        BadInput: an unknown trainer, or settings that cannot be used.
    """
    config, facts = resolved(config), facts or Facts()
    blocks = [_arguments(config, facts)]
    for part in parts(config, facts, trainer=trainer):
        head = f"# --- {part.title} {'-' * (WIDTH - 7 - len(part.title))}"
        blocks.append("\n".join([head, *_comment(part.text), part.code]))
    needed = "\n".join(
        imports(config, trainer, "\n".join(blocks), classifies=bool(facts.labels), few_bits=facts.few_bits)
    )
    blocks = [_docstring(config, facts, trainer, name), needed, *blocks]
    return "\n\n".join(blocks) + "\n"


# --- the head -----------------------------------------------------------------------------------------------------


def what(config: RunConfig) -> str:
    """'LoRA on the task json'"""
    return f"{method_title(config.method)} on " + (f"the task {config.task}" if config.task else "your own data")


def requirements_file(trainer: str) -> str:
    """The file that lists what a script with this trainer needs."""
    return "requirements-trl.txt" if trainer == "sft" else "requirements.txt"


def differences(config: RunConfig, trainer: str, facts: Facts) -> list[str]:
    """What the script cannot repeat of the run, as sentences."""
    s, method = config.settings, config.method
    out = []
    if getattr(s, "quant_type", "") == "int8":
        out.append("bitsandbytes rounds activations to 8 bits as well as weights; the run rounded the weights alone.")
    if method == "lora_plus" and (s.bias != "none" or facts.labels):
        out.append("PEFT gives the trained biases B's learning rate; the run gave them A's.")
    if method == "p_tuning" or (method == "prefix_tuning" and s.projection):
        out.append("What computes the prompt starts as other random numbers, because PEFT draws them in another order.")
    if facts.labels:
        out.append("Where the encoder itself drops out (BERT's does), it draws other random numbers.")
    elif getattr(s, "dropout", 0.0):
        out.append("Dropout draws other random numbers.")
    if facts.few_bits:
        out.append(
            "transformers computes with the layers of bitsandbytes; the run decoded the same weights itself, and "
            "rounded no activations where they are stored in 8 bits."
        )
    if trainer == "sft" and (METHODS[method].BASE == "quantized" or facts.few_bits):
        out.append("TRL keeps what trains beside a quantized base in 16 bits, the run in 32.")
    if trainer == "sft":
        out.append(
            "TRL scores the last answer of a conversation with everything that the chat template writes behind it; "
            "the run scored every answer, up to the token that ends it. For one question and answer without such a "
            "tail this is the same."
        )
    return out


def _docstring(config: RunConfig, facts: Facts, trainer: str, name: str) -> str:
    loop = config.train
    lines = [f'"""{what(config)}, as a run of Deltalab did it, in {"TRL" if trainer == "sft" else "transformers"}.', ""]
    batch = f"{loop.batch_size} examples" + (f" × {loop.accumulation} passes" if loop.accumulation > 1 else "")
    about = (
        f"{'The run was called ' + json.dumps(facts.title, ensure_ascii=False) + '. ' if facts.title else ''}"
        f"{loop.steps} steps of {batch}, a learning rate of {loop.learning_rate:g}. {' '.join(facts.told)}"
    )
    lines += textwrap.wrap(about.replace("\\", "/").replace('"""', "'''"), WIDTH)
    own = f"--base owner/name --data mine.jsonl --out {OUT}"
    commands = [
        (f"pip install -r requirements{'-trl' if trainer == 'sft' else ''}.txt", ""),
        (f"python {name}", "the run again" if facts.base and facts.data else ""),
        (f"python {name} {own}", "your model, your data"),
        (f"accelerate launch {name}", "on all GPUs: they share each batch"),
    ]
    if not (facts.base and facts.data):
        said = [f"--{n} …" for n, value in (("base", facts.base), ("data", facts.data)) if not value]
        commands[1] = (f"python {name} {' '.join(said)}", "the run again")
        commands[3] = (f"accelerate launch {name} {' '.join(said)}", commands[3][1])
    width = max(len(c) for c, _ in commands) + 3
    lines += ["", *(f"    {c:{width}}{'# ' + why if why else ''}".rstrip() for c, why in commands)]
    row = '{"prompt": "…", "completion": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
    row = '{"text": "…", "label": "…"}, with "text_pair" beside it for pairs' if facts.labels else row
    lines += ["", f"A line of the data is {row}."]
    other = differences(config, trainer, facts)
    if other:
        lines += ["", "What differs from the run:"]
        for sentence in other:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "\n".join([*lines, '"""'])


def imports(
    config: RunConfig,
    trainer: str,
    code: str,
    *,
    notebook: bool = False,
    classifies: bool = False,
    few_bits: bool = False,
) -> list[str]:
    """The import lines of `code`: the standard library, a blank line, the rest. few_bits: see Facts."""
    method, s, loop = config.method, config.settings, config.train
    plain = method in WITHOUT_CONFIG
    standard = ["json", "os"] if notebook else ["argparse", "json", "os"]
    if loop.schedule == "cosine":
        standard.insert(-1, "math")
    kinds = {"AutoModelForCausalLM", "AutoTokenizer", "TrainerCallback", "set_seed"}
    if classifies:
        kinds = kinds - {"AutoModelForCausalLM"} | {"AutoConfig", "AutoModelForSequenceClassification"}
    if trainer == "transformers":
        collator = "DataCollatorWithPadding" if classifies else "DataCollatorForSeq2Seq"
        kinds |= {collator, "Trainer", "TrainingArguments"}
    if method == "qlora" and not few_bits:
        kinds.add("BitsAndBytesConfig")
    rest = [f"from transformers import {', '.join(sorted(kinds, key=lambda n: (n.islower(), n)))}"]
    rest.append("from torch.optim.lr_scheduler import LambdaLR")
    if method == "qlora" or few_bits:
        rest.append("from accelerate import PartialState")
    if not plain:
        kind, _ = peft_arguments(method, s)
        names = {kind, "get_peft_model"} | ({"PeftModel"} if continues_in_peft(method) else set())
        rest.append(f"from peft import {', '.join(sorted(names, key=lambda n: (n.islower(), n)))}")
    if method == "lora_plus":
        rest.append("from peft.optimizers import create_loraplus_optimizer")
    if method in BY_HAND:
        rest.append("from safetensors.torch import load_file, save_file")
    elif is_prompt(method) and prompt_table(config):
        rest.append("from safetensors.torch import load_file")
    if method == "adapters":
        rest.append("from torch import nn")
    if trainer == "sft":
        rest += ["from datasets import Dataset", "from trl import SFTConfig, SFTTrainer"]
    pathlib = ["from pathlib import Path"] if "Path(" in code else []
    torches = ["import torch"]
    if method == "lora_plus" and loop.optimizer != "adamw":
        torches.insert(0, "import bitsandbytes as bnb")
    ordered = sorted(rest, key=lambda line: line.split()[1].lower())
    wrapped = [line for one in ordered for line in _wrapped_import(one)]
    return [*(f"import {n}" for n in standard), *pathlib, "", *torches, *wrapped]


def _wrapped_import(line: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    head, _, names = line.partition(" import ")
    return [f"{head} import (", *(f"    {n}," for n in names.split(", ")), ")"]


def values(config: RunConfig, facts: Facts) -> list[tuple[str, Any, str]]:
    """(name, default, help) of everything that may be said when the script is started; None: it has to be said."""
    base_help = f"folder or hub id of {'an encoder' if facts.labels else 'a causal language model'}"
    if not facts.base:
        was = "Deltalab's own small one" if config.base == EMBEDDED else f"the folder {_last_name(config.base)}"
        base_help += f" (the run's was {was})"
    data_help = "JSONL file to learn from" + ("" if facts.data else " (the run's own file is not part of this)")
    out: list[tuple[str, Any, str]] = [
        ("base", facts.base or None, base_help),
        ("data", facts.data or None, data_help),
        ("out", OUT, "folder for what was learnt"),
        ("steps", config.train.steps, "optimizer steps"),
    ]
    if continues(config):
        out.append(("adapter", "", "folder of a saved one to go on from, instead of a new one"))
    return [*out, ("log", "", "file for one JSON object a step: step, loss, grad_norm, learning_rate")]


def _last_name(path: str) -> str:
    """A folder's name in one line: it goes into comments."""
    return " ".join(path.replace("\\", "/").rstrip("/").rpartition("/")[2].split())


def _arguments(config: RunConfig, facts: Facts) -> str:
    lines = ["HERE = Path(__file__).resolve().parent"] if uses_here(config, facts) else []
    lines.append("parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])")
    for name, default, text in values(config, facts):
        given = "required=True" if default is None else f"default={default_code(name, default, config, facts)}"
        given = f"type=int, {given}" if isinstance(default, int) else given
        shown = json.dumps(f"{text} (default: {default})" if default else text, ensure_ascii=False).replace("%", "%%")
        line = f'parser.add_argument("--{name}", {given}, help={shown})'
        if len(line) > WIDTH:
            line = f'parser.add_argument(\n    "--{name}", {given},\n    help={shown},\n)'
        lines.append(line)
    lines.append("args = parser.parse_args()")
    return "\n".join(lines)


def default_code(name: str, default: Any, config: RunConfig, facts: Facts) -> str:
    """A default of `values` as Python: what lies beside the script is looked for there."""
    if name == "data" or (name == "base" and _beside(config, facts)):
        return f"str(HERE / {json.dumps(default, ensure_ascii=False)})"
    return value_text(default)


def uses_here(config: RunConfig, facts: Facts) -> bool:
    """Whether something lies beside the script."""
    return bool(facts.data) or _beside(config, facts)


def _beside(config: RunConfig, facts: Facts) -> bool:
    """Whether the base is a folder that lies beside the script."""
    return bool(facts.base) and facts.base != config.base


def _comment(text: str) -> list[str]:
    """Prose as comment lines; a heading of the notebook's Markdown has no marks here."""
    return [f"# {line}" for p in text.replace("`", "").split("\n") for line in textwrap.wrap(p, WIDTH - 2)]
