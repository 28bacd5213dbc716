"""Settings as people write them for transformers: Python code, or the flags of a training command.

    record = from_python("args = TrainingArguments(per_device_train_batch_size=4, bf16=True)")
    record = from_flags("python train.py --per_device_train_batch_size 4 --bf16")

Both give what the same settings would be as JSON. Code is read, never run: of each call the arguments that are plain
values, whatever else stands around them; a name or a computed value is as if it were not there.
"""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

from core import syntax
from core.outside import MOST_YAML

# PEFT's configurations and the type that its file would name.
PEFT_TYPES = {
    "LoraConfig": "LORA", "IA3Config": "IA3", "VeraConfig": "VERA", "LNTuningConfig": "LN_TUNING",
    "PromptTuningConfig": "PROMPT_TUNING", "PrefixTuningConfig": "PREFIX_TUNING", "PromptEncoderConfig": "P_TUNING",
    "AdaLoraConfig": "ADALORA", "OFTConfig": "OFT", "LoHaConfig": "LOHA", "LoKrConfig": "LOKR",
}  # fmt: skip
_CALL = re.compile(r"\b\w+(Arguments|Config|from_pretrained)\s*\(")
_FLAG = re.compile(r"(?:^|\s)--[A-Za-z]")
MODEL = "model_name_or_path"


def from_python(text: str) -> dict[str, Any] | None:
    """The arguments of the configurations that a piece of code makes; {} where it makes none.

    Returns:
        all of them together, with `peft_type` where one is PEFT's; None where the text is no such code.
    """
    if not _CALL.search(text) or len(text) > MOST_YAML:
        return None
    try:
        tree = syntax.tree(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("requires_grad", "requires_grad_"):
            found["requires_grad"] = "set by the code"  # (what trains is then not for the configurations to say)
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        if name == "from_pretrained" and isinstance(node.func, ast.Attribute) and "Model" in _name(node.func.value):
            if node.args and isinstance(model := _plain(node.args[0]), str):
                found[MODEL] = model
        elif name == "create_loraplus_optimizer":
            found["optimizer_by"] = name
        elif name.endswith(("Arguments", "Config")):
            if name == "BitsAndBytesConfig":  # (its own defaults, where nothing is said)
                found |= {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}
            found |= {k.arg: v for k in node.keywords if k.arg and (v := _plain(k.value)) is not None}
            if name in PEFT_TYPES:
                found["peft_type"] = PEFT_TYPES[name]
    return found


def from_flags(text: str) -> dict[str, Any] | None:
    """What stands behind each flag of a command: a text, a list of several, or True where nothing does.

    Returns:
        None where the text has no flags.
    """
    if not _FLAG.search(text) or len(text) > MOST_YAML:
        return None
    try:
        words = shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "))
    except ValueError:  # a quotation that does not end
        return None
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = value if equals else True
        elif name:
            before = found[name]
            found[name] = word if before is True else [*(before if isinstance(before, list) else [before]), word]
    return found


def _name(node: ast.expr) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _plain(node: ast.expr) -> Any:
    """A number, text, truth or list that is written out; None for anything else."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return list(value) if isinstance(value, (tuple, set)) else value


__all__ = ["PEFT_TYPES", "from_flags", "from_python"]
