"""Settings that somebody has already: an adapter_config.json of PEFT, or the arguments of a training program.

    found = read(text)      # JSON or YAML, as pasted
    found.method, found.settings, found.batch, …       None: the text does not say

Understood are PEFT's own file, transformers' TrainingArguments as JSON, and the configuration files of TRL, axolotl and
LLaMA-Factory as far as they name the same things. What is not used is listed, so that nobody thinks it was.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import BadInput
from core.methods import METHODS, saved_as
from core.methods.saved import ADAPTER_CONFIG

MOST_CHARACTERS = 200_000
# One of our settings, and what others call it; the first that is there counts.
BATCH = ("per_device_train_batch_size", "micro_batch_size", "per_gpu_train_batch_size", "batch_size")
ACCUMULATION = ("gradient_accumulation_steps", "accumulation")
LENGTH = ("max_length", "max_seq_length", "sequence_len", "cutoff_len", "model_max_length", "length")
CHECKPOINTING = ("gradient_checkpointing",)
OPTIMIZER = ("optim", "optimizer")
MODEL = ("base_model", "model_name_or_path", "base_model_name_or_path", "model")
RANK = ("lora_r", "lora_rank", "r")
ALPHA = ("lora_alpha",)
DROPOUT = ("lora_dropout",)
TARGETS = ("lora_target_modules", "lora_target", "target_modules")
FOUR_BITS = ("load_in_4bit",)
BITS = ("quantization_bit",)
METHOD = ("adapter", "finetuning_type", "peft_method")
EPOCHS = ("num_train_epochs", "num_epochs")
VARIANTS = {"use_dora": "dora", "use_rslora": "rslora"}
# Names of optimizers elsewhere, by how they begin, and what they are here. Their states decide the memory.
OPTIMIZERS = (
    ("paged_adamw_8bit", "paged_adamw_8bit"), ("adamw_8bit", "adamw_8bit"), ("adamw_bnb_8bit", "adamw_8bit"),
    ("adamw_torch_8bit", "adamw_8bit"), ("adamw", "adamw"),
)  # fmt: skip
NO = ("", "false", "no", "0")  # as people and YAML write it
KNOWN = {
    *BATCH, *ACCUMULATION, *LENGTH, *CHECKPOINTING, *OPTIMIZER, *MODEL, *RANK, *ALPHA, *DROPOUT, *TARGETS, *FOUR_BITS,
    *BITS, *METHOD, *EPOCHS, *VARIANTS, "lora_target_linear",
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """What a text says. model: as it names it. unused: the names of what it says beside that."""

    model: str | None = None
    method: str | None = None
    settings: Any = None
    batch: int | None = None
    accumulation: int | None = None
    length: int | None = None
    checkpointing: bool | None = None
    optimizer: str | None = None
    epochs: float | None = None
    unused: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What was taken over, in a line."""
        parts = [f"model {self.model}" if self.model else "", METHODS[self.method].TITLE if self.method else ""]
        parts += [
            f"{name} {value}"
            for name, value in (
                ("batch", self.batch), ("passes", self.accumulation), ("length", self.length),
                ("optimizer", self.optimizer), ("epochs", self.epochs),
            )
            if value is not None
        ]  # fmt: skip
        if self.checkpointing is not None:
            parts.append("with recomputed activations" if self.checkpointing else "activations kept")
        return ", ".join(p for p in parts if p)


def read(text: str) -> Imported:
    """Understand a pasted file.

    Raises:
        BadInput: neither JSON nor YAML, no object, a pickle, nothing in it that is known here, or a value that cannot
            be (a batch of 0, a rank that is no number).
    """
    record = parse(text)
    if "peft_type" in record:
        return _adapter(record, text)
    found = _arguments(record)
    if found == Imported(unused=found.unused):
        names = ", ".join(list(record)[:4]) or "nothing"
        raise BadInput(
            f"There are no training settings in this text that are known here; it names {names}.",
            "Paste an adapter_config.json, or arguments such as per_device_train_batch_size.",
        )
    return found


# Above these a configuration is a mistake (or a trap: each block is built, if without weights).
MOST_LAYERS, MOST_WIDTH, MOST_EXPERTS = 400, 200_000, 1024
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
SIZES = ("hidden_size", "intermediate_size", "n_embd", "n_inner", "ffn_dim", "d_model")


def config(text: str) -> dict[str, Any]:
    """A pasted config.json.

    Raises:
        BadInput: it is cut off, is no object, names no model_type, or its sizes cannot be.
    """
    record = parse(text)
    if not isinstance(record.get("model_type"), str):
        raise BadInput(
            "This config.json names no model_type, so nobody knows its architecture.",
            "Paste the whole file as transformers wrote it.",
        )
    for part in (record, *(v for v in record.values() if isinstance(v, dict))):
        for names, most in ((LAYERS, MOST_LAYERS), (EXPERTS, MOST_EXPERTS), (SIZES, MOST_WIDTH)):
            for name in names:
                value = part.get(name)
                if value is None:
                    continue
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                    raise BadInput(f"{name} is {value!r}; it should be a whole number up to {most:,}.", "Mend it.")
    return record


def parse(text: str) -> dict[str, Any]:
    """An object from JSON or YAML.

    Raises:
        BadInput: it is neither, or no object.
    """
    import yaml

    if not text.strip():
        raise BadInput("The text is empty.", "Paste the content of the file.")
    if len(text) > MOST_CHARACTERS:
        raise BadInput(f"The text has more than {MOST_CHARACTERS:,} characters.", "Paste the settings alone.")
    if "\x00" in text or text.startswith("PK"):
        raise BadInput(
            "This is a binary file, such as training_args.bin, which is a pickle and could run code; it is not opened.",
            "Paste the arguments as JSON or YAML.",
        )
    try:
        record = json.loads(text)
    except ValueError as why:
        if text.lstrip().startswith("{"):
            raise BadInput(
                f"This is not whole JSON: {why}.", "Paste the file from its first to its last line."
            ) from why
        try:
            record = yaml.safe_load(text)
        except yaml.YAMLError as error:
            line = str(error).strip().splitlines()[0]
            raise BadInput(f"This is neither JSON nor YAML: {line}.", "Paste the content of the file.") from error
    if not isinstance(record, dict):
        raise BadInput("This text holds no named settings.", 'It should read like {"r": 16, "lora_alpha": 32}.')
    return {str(k): v for k, v in record.items()}


def _adapter(record: Mapping[str, Any], text: str) -> Imported:
    """PEFT's file, read by the methods' own readers."""
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside) / ADAPTER_CONFIG  # a folder of this name: readers name the folder in what they say
        folder.mkdir()
        (folder / ADAPTER_CONFIG).write_text(json.dumps(dict(record)), encoding="utf-8")
        method, settings = saved_as(folder)
    base = record.get("base_model_name_or_path")
    return Imported(model=base if isinstance(base, str) and base else None, method=method, settings=settings)


def _arguments(record: Mapping[str, Any]) -> Imported:
    def first(names: tuple[str, ...]) -> Any:
        return next((record[name] for name in names if record.get(name) is not None), None)

    wrong: list[str] = []

    def whole(names: tuple[str, ...], least: int = 1) -> int | None:
        value = first(names)
        if value is None:
            return None
        if isinstance(value, str) and value.strip().isdigit():
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            wrong.append(f"{next(n for n in names if record.get(n) is not None)} is {value!r}")
            return None
        return value

    checkpointing = first(CHECKPOINTING)
    optimizer = first(OPTIMIZER)
    optimizer = optimizer.lower() if isinstance(optimizer, str) else None
    model = first(MODEL)
    method, settings = _method(record, first, whole, wrong)
    epochs = first(EPOCHS)
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, (int, float)) or epochs <= 0):
        wrong.append(f"the number of epochs is {epochs!r}")
        epochs = None
    found = Imported(
        model=model if isinstance(model, str) else None, method=method, settings=settings, batch=whole(BATCH),
        accumulation=whole(ACCUMULATION), length=whole(LENGTH, 2),
        checkpointing=None if checkpointing is None else str(checkpointing).strip().lower() not in NO,
        optimizer=next((ours for begins, ours in OPTIMIZERS if (optimizer or "").startswith(begins)), None),
        epochs=float(epochs) if epochs is not None else None,
        unused=(*(name for name in record if name not in KNOWN), *_unknown_optimizer(optimizer)),
    )  # fmt: skip
    if wrong:
        raise BadInput(f"These values cannot be used: {'; '.join(wrong)}.", "Mend them, or leave them out.")
    return found


def _unknown_optimizer(name: str | None) -> tuple[str, ...]:
    known = name is None or any(name.startswith(begins) for begins, _ in OPTIMIZERS)
    return () if known else (f"the optimizer {name}",)


def _method(record: Mapping[str, Any], first: Any, whole: Any, wrong: list[str]) -> tuple[str | None, Any]:
    said = first(METHOD)
    said = said.lower() if isinstance(said, str) else None
    four = bool(first(FOUR_BITS)) or first(BITS) in (4, "4")
    rank = whole(RANK)
    if said in ("full", "none") or (said is None and rank is None and not four):
        return ("full" if said == "full" else None), None
    variant = next((name for flag, name in VARIANTS.items() if record.get(flag) is True), "lora")
    method = "qlora" if said == "qlora" or four else variant if said in (None, "lora") else said
    if method not in METHODS:
        wrong.append(f"the method {method!r} is not one of {', '.join(METHODS)}")
        return None, None
    settings = METHODS[method].Config()
    names = first(TARGETS)
    if isinstance(names, list):
        names = ",".join(map(str, names))
    if record.get("lora_target_linear") is True or names in ("all", "all-linear"):
        names = "all-linear"
    dropout = first(DROPOUT)
    given = {
        "rank": rank, "alpha": whole(ALPHA), "target_modules": names if isinstance(names, str) else None,
        "dropout": float(dropout) if isinstance(dropout, (int, float)) and not isinstance(dropout, bool) else None,
    }  # fmt: skip
    fields = {f.name for f in dataclasses.fields(settings)}
    return method, dataclasses.replace(settings, **{k: v for k, v in given.items() if v is not None and k in fields})


__all__ = ["Imported", "config", "parse", "read"]
