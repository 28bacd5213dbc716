"""Settings that somebody has already: an adapter_config.json of PEFT, or the arguments of a training program.

    found = read(text)      # JSON, YAML, Python or a command, as pasted
    found.method, found.settings, found.batch, …       None: the text does not say

Understood are PEFT's own file (`core.memory.adapter_file`), transformers' TrainingArguments as JSON, the configuration
files of TRL, axolotl and LLaMA-Factory as far as they name the same things, and the same written as Python or as the
flags of a command (`core.memory.written`). Everything else that the text says is listed with its value, so that nobody
thinks it was taken over; nothing is read as something near it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import BadInput
from core.memory import adapter_file, written
from core.methods import METHODS
from core.outside import MOST_LISTED, check_sizes, listed, parse, quoted

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
FOUR_BITS, EIGHT_BITS, BITS = "load_in_4bit", "load_in_8bit", "quantization_bit"
QUANT_TYPE, DOUBLE = "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"
METHOD = ("adapter", "finetuning_type", "peft_method")
EPOCHS = ("num_train_epochs", "num_epochs")
VARIANTS = {"use_dora": "dora", "use_rslora": "rslora"}
# Optimizers elsewhere whose states are those of one of ours. (Not adamw_torch_4bit, whose states take half of 8 bits;
# not galore_adamw, not the paged one in 32 bits.)
OPTIMIZERS = {
    "adamw": "adamw", "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw",
    "adamw_apex_fused": "adamw", "adamw_torch_xla": "adamw", "adamw_torch_npu_fused": "adamw",
    "adamw_8bit": "adamw_8bit", "adamw_bnb_8bit": "adamw_8bit", "adamw_torch_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}  # fmt: skip
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "", "none")  # as people and YAML write it
MOST = 10**9  # of any whole number that is read
MOST_NAME = 200  # characters of a model's name


@dataclass(frozen=True)
class Imported:
    """What a text says. model: as it names it. unused: what it says beside that, as `name = value`."""

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
        BadInput: none of these, no object, a pickle, too long or too deep, nothing in it that is known here, or
            a value that cannot be (a batch of 0, a rank that is no number).
    """
    code = written.from_python(text)
    if code:
        return _both(code)
    record = written.from_flags(text) or parse(text)
    if "peft_type" in record:
        method, settings, unused = adapter_file.read(record)
        base = record.get("base_model_name_or_path")
        model = base if isinstance(base, str) and 0 < len(base) <= MOST_NAME else None
        return Imported(model=model, method=method, settings=settings, unused=unused)
    return _known(record)


def _both(code: Mapping[str, Any]) -> Imported:
    """What a piece of code says: an adapter's fields, the trainer's, and how the base is loaded."""
    if "peft_type" not in code:
        return _known(code)
    kind = str(code["peft_type"])
    fields = adapter_file.READ.get(kind, ())
    of_adapter = {n: v for n, v in code.items() if n in fields}
    if kind != "LORA" and of_adapter.get("target_modules") == "all-linear":
        del of_adapter["target_modules"]  # only LoRA's files say it so; for the others it is what is usual
    method, settings, unused = adapter_file.read({"peft_type": kind, **of_adapter})
    rest = {n: v for n, v in code.items() if n not in fields and n not in adapter_file.OF_NO_EFFECT}
    said = _Reading(rest)
    if method == "lora" and (bits := _bits(said)) is not None:
        shared = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
        method, settings = "qlora", METHODS["qlora"].Config(**shared, **_stored(said, bits))
        rest = {n: v for n, v in rest.items() if n not in said.read}
    found = _arguments(rest)
    return dataclasses.replace(found, method=method, settings=settings, unused=(*unused, *found.unused))


def _known(record: Mapping[str, Any]) -> Imported:
    """What a record says.

    Raises:
        BadInput: nothing that is known here, or a value that cannot be.
    """
    found = _arguments(record)
    if found == Imported(unused=found.unused):
        names = ", ".join(name[:MOST_LISTED] for name in list(record)[:4]) or "nothing"
        raise BadInput(
            f"There are no training settings in this text that are known here; it names {names}.",
            "Paste an adapter_config.json, or arguments such as per_device_train_batch_size.",
        )
    return found


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
    check_sizes(record, "the pasted configuration")
    return record


def truth(value: Any) -> bool | None:
    """On or off, as JSON, YAML and people say it; None for anything else."""
    if isinstance(value, bool):
        return value
    said = str(value).strip().lower() if isinstance(value, (str, int)) else "?"
    return True if said in YES else False if said in NO else None


class _Reading:
    """What of a record was asked for, what could not be read, and what is left over."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.read: set[str] = set()
        self.wrong: list[str] = []

    def first(self, *names: str) -> Any:
        """The value of the first of these names that is there; None for none."""
        name = next((name for name in names if self.record.get(name) is not None), None)
        if name is None:
            return None
        self.read.add(name)
        return self.record[name]

    def leave(self, *names: str) -> None:
        """What was asked for under these names is not taken over after all."""
        self.read -= set(names)

    def whole(self, names: tuple[str, ...], least: int = 1) -> int | None:
        """A whole number; what is none counts as wrong."""
        value = self.first(*names)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value.strip()):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            self._wrong(names)
            return None
        return value

    def number(self, names: tuple[str, ...], least: float, most: float) -> float | None:
        """A number within bounds; what is none counts as wrong."""
        value = self.first(*names)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,10})?([eE]-?[0-9]{1,2})?", value.strip()):
            value = float(value)
        if (
            isinstance(value, bool) or not isinstance(value, (int, float))
            or not math.isfinite(value) or not least <= value <= most
        ):  # fmt: skip
            self._wrong(names)
            return None
        return float(value)

    def _wrong(self, names: tuple[str, ...]) -> None:
        name = next(n for n in names if self.record.get(n) is not None)
        self.wrong.append(f"{name} is {quoted(self.record[name])}")

    @property
    def unused(self) -> tuple[str, ...]:
        """What nobody asked for: the name, and the value if it is a plain one."""
        return tuple(listed(n, v) for n, v in self.record.items() if n not in self.read and v is not None)


def _arguments(record: Mapping[str, Any]) -> Imported:
    said = _Reading(record)
    model = said.first(*MODEL)
    if not isinstance(model, str) or len(model) > MOST_NAME:
        said.leave(*MODEL)
        model = None
    optimizer = said.first(*OPTIMIZER)
    optimizer = OPTIMIZERS.get(optimizer.lower()) if isinstance(optimizer, str) else None
    if optimizer is None:
        said.leave(*OPTIMIZER)
    again = said.first(*CHECKPOINTING)
    checkpointing = truth(again) if again is not None else None
    if checkpointing is None:  # ("unsloth": recomputed, and moved to the CPU's memory)
        said.leave(*CHECKPOINTING)
    method, settings = _method(said)
    found = Imported(
        model=model, method=method, settings=settings, batch=said.whole(BATCH), accumulation=said.whole(ACCUMULATION),
        length=said.whole(LENGTH, 2), checkpointing=checkpointing, optimizer=optimizer,
        epochs=said.number(EPOCHS, 1e-9, 1e9),
    )  # fmt: skip
    if said.wrong:
        raise BadInput(f"These values cannot be used: {'; '.join(said.wrong)}.", "Mend them, or leave them out.")
    return dataclasses.replace(found, unused=said.unused)


def _method(said: _Reading) -> tuple[str | None, Any]:
    """The method and its settings; (None, None) where the text names none."""
    named = said.first(*METHOD)
    named = named.lower() if isinstance(named, str) else None
    bits = _bits(said)
    rank = said.whole(RANK)
    variant = next((flag for flag in VARIANTS if truth(said.record.get(flag))), None)
    if named in ("full", "none") or (named is None and rank is None and bits is None and variant is None):
        said.leave(*RANK, FOUR_BITS, EIGHT_BITS, BITS)
        return ("full" if named == "full" else None), None
    method = named or "lora"
    if bits is not None and method in ("lora", "qlora"):
        method = "qlora"  # (a variant of LoRA in few bits is none of ours: it stays in the list of what is unused)
    elif bits is not None:
        said.leave(FOUR_BITS, EIGHT_BITS, BITS)
    elif method == "lora" and variant is not None:
        said.read.add(variant)
        method = VARIANTS[variant]
    said.read |= {flag for flag in VARIANTS if truth(said.record.get(flag)) is False}
    if method not in METHODS:
        said.wrong.append(f"the method {quoted(method)} is not one of {', '.join(METHODS)}")
        return None, None
    settings = METHODS[method].Config()
    given = {
        "rank": rank, "alpha": said.whole(ALPHA), "target_modules": _targets(said),
        "dropout": said.number(DROPOUT, 0.0, 1.0 - 1e-9), **(_stored(said, bits) if method == "qlora" else {}),
    }  # fmt: skip
    fields = {f.name for f in dataclasses.fields(settings)}
    for field, names in (("rank", RANK), ("alpha", ALPHA), ("target_modules", TARGETS), ("dropout", DROPOUT)):
        if field not in fields:
            said.leave(*names)
    return method, dataclasses.replace(settings, **{k: v for k, v in given.items() if v is not None and k in fields})


def _bits(said: _Reading) -> int | None:
    """In how many bits the base is: 4, 8, or None for plain numbers; any other number of bits is left in the list."""
    for name, bits in ((FOUR_BITS, 4), (EIGHT_BITS, 8)):
        value = said.record.get(name)
        if value is not None and truth(value) is not None:
            said.read.add(name)
            if truth(value):
                return bits
    value = said.record.get(BITS)
    if str(value).strip() in ("4", "8"):
        said.read.add(BITS)
        return int(str(value))
    return None


def _stored(said: _Reading, bits: int | None) -> dict[str, Any]:
    """How a base in few bits is stored, as far as a text says it: QLoRA's settings."""
    if bits == 8:
        return {"quant_type": "int8"}
    found: dict[str, Any] = {}
    kind, twice = said.record.get(QUANT_TYPE), said.record.get(DOUBLE)
    if kind in ("nf4", "fp4"):
        said.read.add(QUANT_TYPE)
        found["quant_type"] = kind
    if twice is not None and truth(twice) is not None:
        said.read.add(DOUBLE)
        found["double_quantization"] = truth(twice)
    return found


def _targets(said: _Reading) -> str | None:
    """Names of layers, as our settings have them."""
    value = said.first(*TARGETS)
    linear = "lora_target_linear"
    if truth(said.record.get(linear)) is not None:
        said.read.add(linear)
    if truth(said.record.get(linear)):
        return "all-linear"
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        value = ",".join(value)
    if value in ("all", "all-linear"):
        return "all-linear"
    if isinstance(value, str) and re.fullmatch(r"[\w.,\- ]{1,400}", value):
        return value
    said.leave(*TARGETS)
    return None


__all__ = ["Imported", "config", "read"]
