"""PEFT's adapter_config.json as the settings of one of our methods, for calculators: there are no weights beside it.

    method, settings, unused = read(record)

A run that continues an adapter must have all of it and refuses what it does not know (`core.methods.saved_as`); a
calculation goes on without, and lists what it left out. So the fields that our methods have no setting for are taken
out, and the rest is read by the methods' own readers.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import BadInput
from core.methods import METHODS, p_tuning, prefix_tuning, saved_as
from core.methods.lora import ALL_LINEAR, STARTS
from core.methods.saved import ADAPTER_CONFIG
from core.outside import listed, quoted

# Fields of which a method's reader knows what to make, by PEFT's type.
READ = {
    "LORA": ("r", "lora_alpha", "lora_dropout", "target_modules", "init_lora_weights", "rank_pattern", "bias",
             "use_dora", "use_rslora"),
    "IA3": ("target_modules", "feedforward_modules"),
    "VERA": ("r", "target_modules", "projection_prng_key", "d_initial", "vera_dropout"),
    "LN_TUNING": ("target_modules",),
    "PROMPT_TUNING": ("num_virtual_tokens",),
    "PREFIX_TUNING": ("num_virtual_tokens", "prefix_projection", "encoder_hidden_size"),
    "P_TUNING": ("num_virtual_tokens", "encoder_hidden_size", "encoder_reparameterization_type", "encoder_num_layers"),
}  # fmt: skip
# What PEFT's LoraConfig has where nothing is said. (PEFT writes every field; who writes by hand leaves some out.)
USUAL = {"r": 8, "lora_alpha": 8}
# Where the adapter comes from, and what changes neither the memory nor the counts.
OF_NO_EFFECT = {
    "peft_type", "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision",
    "runtime_config", "task_type", "fan_in_fan_out", "megatron_core", "qalora_group_size", "save_projection",
    "init_weights", "init_ia3_weights", "token_dim", "num_attention_heads", "num_layers", "num_transformer_submodules",
    "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "encoder_dropout",
    "layers_pattern",
}  # fmt: skip


def _neutral(value: Any) -> bool:
    """Whether a field is left at what means "not used". 0 is a value: it can number a layer."""
    return value is None or value is False or value in ("", [], {}, "none")


def read(record: Mapping[str, Any]) -> tuple[str, Any, tuple[str, ...]]:
    """Method, settings, and what is not taken over, as `name = value`.

    Raises:
        BadInput: of a type that no method here has, or a value that cannot be (a rank that is no number).
    """
    kind = record["peft_type"]
    if not isinstance(kind, str) or kind not in READ:
        raise BadInput(
            f"The adapter is of type {quoted(kind)}, which Deltalab does not have.",
            f"It has {', '.join(module.TITLE for module in METHODS.values())}.",
        )
    known = {n: v for n, v in record.items() if n in READ[kind]}
    unused = {n: v for n, v in record.items() if n not in known and n not in OF_NO_EFFECT and not _neutral(v)}
    notes = tuple(listed(name, value) for name, value in unused.items())
    if kind == "LORA":
        known, more = _lora({**USUAL, **known})
        notes += more
    if isinstance(known.get("target_modules"), str) and known["target_modules"].lower() != ALL_LINEAR:
        pattern = known["target_modules"]
        names = names_in(pattern)
        notes += (f"target_modules = {quoted(pattern)}" + (f" (read as {', '.join(names)})" if names else ""),)
        known["target_modules"] = names or None
    if kind == "P_TUNING":
        return _p_tuning(known, notes)
    method, settings, more = _by_its_reader({"peft_type": kind, **known})
    if kind == "PREFIX_TUNING" and known.get("prefix_projection"):
        settings = dataclasses.replace(
            settings, projection=_whole(known, "encoder_hidden_size", prefix_tuning.Config, "projection")
        )
    return method, settings, notes + more


def _by_its_reader(record: dict[str, Any]) -> tuple[str, Any, tuple[str, ...]]:
    """What the method's own reader makes of a cleaned file. Where the file does not say which layers, the method's
    usual ones stand, and the list says so."""
    defaults = next((m.Config() for m in METHODS.values() if m.reads(record)), None)
    missing = tuple(
        name
        for name in ("target_modules", "feedforward_modules")
        if name in READ[record["peft_type"]] and record.get(name) is None and defaults is not None
    )
    for name in missing:
        record[name] = ["?"]
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(record), encoding="utf-8")
        try:
            method, settings = saved_as(folder)
        except BadInput as why:  # (the folder is ours, and means nothing to the reader)
            raise BadInput(
                why.sentence.replace(f" in {folder.name}", "").replace("The file adapter_config.json", "This file")
            ) from why
        except (TypeError, ValueError) as why:
            raise BadInput(
                f"A value of this file cannot be: {quoted(str(why))}.", "Correct it, or leave it out."
            ) from why
    usual = METHODS[method].Config()
    settings = dataclasses.replace(settings, **{name: getattr(usual, name) for name in missing})
    return method, settings, tuple(f"{name} is not said" for name in missing)


def _lora(known: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """LoRA's file without what no one method here has: DoRA and rsLoRA at once, or a start that changes the base's own
    weights (which takes no memory)."""
    notes: tuple[str, ...] = ()
    if known.get("use_dora") and known.get("use_rslora"):
        known = known | {"use_rslora": False}
        notes += ("use_rslora = True",)
    start = known.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in STARTS)):
        known = known | {"init_lora_weights": True}
        notes += (f"init_lora_weights = {quoted(start)}",)
    return known, notes


def _p_tuning(known: Mapping[str, Any], notes: tuple[str, ...]) -> tuple[str, Any, tuple[str, ...]]:
    """P-tuning, whose file holds the width of the network that makes the tokens."""
    shape = known.get("encoder_reparameterization_type", "MLP")
    if shape not in ("MLP", None):
        notes += (f"encoder_reparameterization_type = {quoted(shape)}",)
    elif known.get("encoder_num_layers", 2) != 2:  # (PEFT's MLP has three linear layers, whatever this says)
        notes += (f"encoder_num_layers = {quoted(known['encoder_num_layers'])}",)
    tokens = _whole(known, "num_virtual_tokens", p_tuning.Config, "tokens")
    hidden = p_tuning.Config().hidden
    if known.get("encoder_hidden_size") is None:
        notes += ("encoder_hidden_size is not said",)
    else:
        hidden = _whole(known, "encoder_hidden_size", p_tuning.Config, "hidden")
    return p_tuning.NAME, p_tuning.Config(tokens, hidden), notes


def _whole(known: Mapping[str, Any], name: str, kind: Any, field: str) -> int:
    """A whole number of the file, within the bounds of the setting that it becomes."""
    value = known.get(name)
    bounds = next(f for f in dataclasses.fields(kind) if f.name == field).metadata
    if isinstance(value, bool) or not isinstance(value, int) or not bounds["low"] <= value <= bounds["high"]:
        raise BadInput(
            f"{name} is {quoted(value)}; it should be a whole number from {bounds['low']} to {bounds['high']:,}.",
            "Correct it, or leave it out.",
        )
    return value


# A pattern is read, not run (some take for ever): an optional beginning that stands for any path, then one name, or
# several in brackets.
_PATTERN = re.compile(r"\^?(?:\.\*\??(?:\\\.)?)?([\w|()\\.]+)\$?")
MOST_PATTERN, MOST_NAMES = 400, 64


def names_in(pattern: str) -> list[str]:
    r"""The names that a pattern for PEFT's target_modules ends in, if it is of the usual kind.

    >>> names_in(r".*\.(q|v)_proj$")
    ['q_proj', 'v_proj']

    Returns:
        [] for any other pattern.
    """
    found = _PATTERN.fullmatch(pattern) if len(pattern) <= MOST_PATTERN else None
    if found is None:
        return []
    names = [""]
    for part in re.findall(r"\([^()]*\)|[^()]+", found[1]):
        options = part[1:-1].split("|") if part.startswith("(") else [part]
        names = [name + option for name in names for option in options][: MOST_NAMES + 1]
    names = [name.replace("\\.", ".") for name in names]
    usual = all(re.fullmatch(r"\w+(\.\w+)*", name) for name in names)
    return names if usual and len(names) <= MOST_NAMES else []


__all__ = ["names_in", "read"]
