"""Published memory figures as setups that can be traced: what was run, as far as its source says.

The figures stand in core/catalog/published_memory.csv, as they were printed. `case_of` says what this program would be
asked to get the same: model, setup, and which of the three totals was measured. What a source does not say is assumed
here, in words, for all rows of the source alike; a row that would need a guess of its own is refused with the reason.

No constant is fitted here. Imports no torch.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from core import syntax
from core.catalog import FOLDER, gpu, models
from core.errors import NotFound
from core.memory.setup import Device, Setup
from core.memory.sharded import Sharding
from core.memory.stack import Stack, stack_named
from core.methods import METHODS
from core.units import GB, GIB

FILE = FOLDER / "published_memory.csv"
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where figures come from. title, address: for a reader. metric: which total was measured, in words and as
    'allocated', 'reserved' or 'stated' (the source does not say)."""

    title: str
    address: str
    metric: str
    says: str


SOURCES: dict[str, Source] = {
    "peft-bench": Source(
        "PEFT's method comparison (MetaMathQA)",
        "https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA", "reserved",
        "largest memory_reserved after a step, over the whole run",
    ),
    "torchtune-flags": Source(
        "torchtune, optimization flags", "https://github.com/pytorch/torchtune#optimization-flags", "allocated",
        "peak of active memory",
    ),
    "torchtune-speed": Source(
        "torchtune, memory and speed", "https://github.com/pytorch/torchtune#memory-and-training-speed", "allocated",
        "peak memory per GPU",
    ),
    "torchtune-lora": Source(
        "torchtune, LoRA tutorial", "https://pytorch.org/torchtune/stable/tutorials/lora_finetune.html", "allocated",
        "peak memory",
    ),
    "torchtune-qlora": Source(
        "torchtune, QLoRA tutorial", "https://pytorch.org/torchtune/stable/tutorials/qlora_finetune.html", "reserved",
        "peak memory reserved",
    ),
    "litgpt-tables": Source(
        "LitGPT, resource tables",
        "https://github.com/Lightning-AI/litgpt/blob/main/tutorials/resource-tables.md", "allocated",
        "torch.cuda.max_memory_allocated / 10⁹",
    ),
    "litgpt-configs": Source(
        "LitGPT, configuration hub", "https://github.com/Lightning-AI/litgpt/tree/main/config_hub/finetune",
        "allocated", "torch.cuda.max_memory_allocated / 10⁹",
    ),
    "lora-insights": Source(
        "Raschka, LoRA insights", "https://lightning.ai/pages/community/lora-insights/", "allocated",
        "as LitGPT's script prints it",
    ),
    "peft-readme": Source("PEFT, README", "https://github.com/huggingface/peft", "stated", "GPU memory"),
    "peft-distributed": Source(
        "PEFT, DeepSpeed and FSDP guides", "https://huggingface.co/docs/peft/accelerate/fsdp", "stated",
        "GPU memory per GPU",
    ),
    "torchtitan": Source(
        "torchtitan, Llama 3 on H100", "https://github.com/pytorch/torchtitan/tree/main/benchmarks", "stated", "memory"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A figure as it was printed; see the head of the file for its columns."""

    id: str
    source: str
    file: str
    model: str
    method: str
    detail: str
    gpu: str
    gpus: str
    batch: str
    length: str
    checkpointing: str
    attention: str
    optimizer: str
    dtype: str
    framework: str
    metric: str
    value: str
    unit: str
    trust: str
    note: str

    @property
    def measured_bytes(self) -> int:
        """The figure in bytes."""
        return round(float(self.value) * (GB if self.unit == "GB" else GIB))

    @property
    def resident_bytes(self) -> int | None:
        """What was allocated on average after a step, if the row says."""
        found = re.search(r"avg_alloc_post_step=([\d.]+)", self.note)
        return round(float(found[1]) * GIB) if found else None


def read(file: Path, kind: type[T]) -> tuple[T, ...]:
    """The rows of a file of published figures, in its order, each made into a `kind` by the names of its columns."""
    with file.open(encoding="utf-8", newline="") as lines:
        return tuple(kind(**row) for row in csv.DictReader(lines))


@lru_cache
def rows() -> tuple[Row, ...]:
    """All figures, in the file's order."""
    return read(FILE, Row)


@dataclass(frozen=True)
class Case:
    """A row as a question.

    model: name in the catalogue. metric: 'allocated' or 'reserved'. assumed: what the source leaves open.
    """

    row: Row
    model: str
    setup: Setup
    metric: str
    assumed: tuple[str, ...] = ()
    sharding: Sharding | None = None


@dataclass(frozen=True)
class Refused:
    """Why a row is not predicted."""

    row: Row
    reason: str


_NAMES = {
    "phi-1.5": "Phi-1.5", "phi-2": "Phi-2", "Phi-3-mini": "Phi-3-mini-4k", "gemma-2b": "Gemma-2B",
    "gemma-7b": "Gemma-7B", "gemma-2-2b": "Gemma-2-2B", "gemma-2-9b": "Gemma-2-9B", "falcon-7b": "Falcon-7B",
    "Mistral-7B": "Mistral-7B-v0.1", "stablelm-alpha-3b": "StableLM-Alpha-3B",
    "bloomz-7b1": "BLOOM-7B1",  # (the same architecture, tuned)
}  # fmt: skip
# What sources call a card that the catalogue has under another name.
_CARDS = {"A100": "A100 80 GB SXM", "A100-80GB": "A100 80 GB SXM", "A100-SXM4-40GB": "A100 40 GB",
          "A10G-24GB": "A10G", "A6000": "RTX A6000", "T4": "Tesla T4", "V100": "V100 32 GB"}  # fmt: skip
_UNSTATED = re.compile(r"\?|.*not stated.*|single GPU|", re.IGNORECASE)  # then a card with bfloat16 is assumed
LIMIT = 768  # tokens: max_seq_length of PEFT's benchmark (default_training_params.json)
# One rule for all figures of runs whose rows are as long as their texts: a peak is that of the longest batch, so of
# rows as long as the longest text of the data, in the model's own tokens. Of Alpaca that is known in Llama-2's (LitGPT,
# resource tables); of a model with other tokens the length is not known, and its figure is not predicted.
ALPACA = 1304


def case_of(row: Row) -> Case | Refused:
    """The question that a row answers, or why there is none."""
    model = _NAMES.get(row.model, row.model)
    if row.trust == "X":
        return Refused(row, f"The figure contradicts itself: {row.note}.")
    if model not in {m.name for m in models()}:
        return Refused(row, f"{row.model} is no causal language model of the catalogue.")
    if row.trust == "C":
        return Refused(
            row, f"What was run is not known well enough: {row.note or 'a rounded figure, configuration in prose'}."
        )
    if row.source not in _BY_SOURCE:
        return Refused(row, f"How {row.source or 'its source'} runs its steps is not written down here.")
    try:
        return _BY_SOURCE[row.source](row, model)
    except _Unknown as why:
        return Refused(row, str(why))


class _Unknown(Exception):
    """Why a row cannot be a case."""


def _setup(
    row: Row, method: str, settings: Mapping[str, Any], stack: Stack, batch: int, length: int, **more: Any
) -> Setup:
    return Setup(
        method, METHODS[method].Config(**settings), batch, length, device=_device(row), precision="bfloat16",
        stack=stack, **more,
    )  # fmt: skip


def _device(row: Row) -> Device:
    """The card that a row names; one with bfloat16 where the source does not say.

    Raises:
        _Unknown: the catalogue does not have it, or it computes in no bfloat16, which all these programs ask for.
    """
    if _UNSTATED.fullmatch(row.gpu):
        return Device.of("8.0")
    try:
        card = gpu(_CARDS.get(row.gpu, row.gpu))
    except NotFound:
        card = None
    if card is None or card.capability is None:
        raise _Unknown(f"Its card, {row.gpu}, is no CUDA card of the catalogue.")
    device = Device.of(card.capability)
    if device.precision != "bfloat16":
        raise _Unknown(f"Its card, {row.gpu}, does not compute in bfloat16, so the step was another.")
    return device


def _number(row: Row, column: str) -> int:
    """A column that should hold a whole number.

    Raises:
        _Unknown: it does not.
    """
    text = str(getattr(row, column)).strip()
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise _Unknown(f"The column {column} says {text!r}, which is no number.")
    return int(text)


def _rank(row: Row) -> int:
    """The rank in a row's detail, as r8.

    Raises:
        _Unknown: it says none.
    """
    found = re.search(r"\br(\d+)", row.detail)
    if found is None:
        raise _Unknown(f"The rank is not stated in {row.detail!r}.")
    return int(found[1])


def _peft_bench(row: Row, model: str) -> Case:
    text = re.search(r"\{.*?\}(?=; overrides)", row.detail)
    try:
        given: dict[str, Any] = ast.literal_eval(syntax.tree(text[0], mode="eval")) if text else {}
    except (ValueError, SyntaxError):
        given = {}
    needed = {"lora": "r", "prompt_tuning": "num_virtual_tokens"}.get(row.method)
    if needed and not isinstance(given.get(needed), int):
        raise _Unknown(f"{needed} is not stated in its settings.")
    names = ",".join(sorted(given.get("target_modules", []))) if isinstance(given.get("target_modules"), list) else ""
    settings: dict[str, Any]
    stack = stack_named("peft")
    if row.method == "full-finetuning":
        method, settings = "full", {}
    elif row.method == "lora" and not re.search(r"bdlora|mica", row.file):
        method = "dora" if given.get("use_dora") else "rslora" if given.get("use_rslora") else "lora"
        method = "lora_fa" if "lorafa" in row.file else method
        settings = {"rank": given["r"], "target_modules": names}
    elif row.method == "ia3":
        method, settings = "ia3", {"target_modules": names, "feedforward_modules": "down_proj"}
    elif row.method == "ln_tuning":
        method, settings = "ln_tuning", {}
    elif row.method == "prompt_tuning":
        method, settings = "prompt_tuning", {"tokens": given["num_virtual_tokens"]}
    else:
        variant = row.file.partition("--")[2] if row.method == "lora" else row.method
        raise _Unknown(f"The method {variant} is not one of Deltalab's.")
    setup = _setup(row, method, _known(method, settings), stack, 4, LIMIT)
    return Case(
        row, model, setup, "reserved",
        (f"The longest batch has {LIMIT} tokens a row, the limit: how much shorter it is, is not printed. The figure "
         "is the most that was reserved in a whole run, with batches of many lengths and evaluation in between; "
         "predicted is one step, its tensors given out by the allocator's rules.",),
    )  # fmt: skip


def _known(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that the method has."""
    known = {f.name for f in fields(METHODS[method].Config)}
    return {name: value for name, value in settings.items() if name in known}


_STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("+packed 4096", {}),
    ("+torch.compile", {"compile": True}),
    ("+chunked CE", {"loss": "chunked"}),
    ("+activation checkpointing", {"checkpointing": True}),
    ("+optimizer-in-backward", {"in_backward": True}),
    ("+activation offloading", {"offload_activations": True}),
    ("+AdamW8bit", {"optimizer": "adamw_8bit"}),
)
_TORCHTUNE_LORA = "q_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def _torchtune(switches: Mapping[str, Any]) -> tuple[Stack, dict[str, Any]]:
    own = {name: value for name, value in switches.items() if name not in ("checkpointing", "optimizer")}
    more = {name: switches[name] for name in ("checkpointing", "optimizer") if name in switches}
    return stack_named("torchtune").with_switches(**own), more


_LENGTH_UNKNOWN = (
    "Its rows are as long as their texts, and how long the longest is, is not stated: of Alpaca it is known in "
    "Llama-2's tokens alone."
)


def _torchtune_method(row: Row) -> str:
    named = {"full": "full", "LoRA": "lora", "QLoRA": "qlora"}.get(row.method)
    if named is None:
        raise _Unknown(f"The method {row.method} is not one of Deltalab's.")
    return named


def _torchtune_flags(row: Row, model: str) -> Case:
    if row.method == "full":
        switches: dict[str, Any] = {}
        if "unpacked" in row.length:
            raise _Unknown(_LENGTH_UNKNOWN)
        if row.detail not in dict(_STEPS):
            raise _Unknown(f"The switch {row.detail!r} is not one of torchtune's that are written down here.")
        for name, more in _STEPS:
            switches |= more
            if name == row.detail:
                break
        stack, more = _torchtune(switches)
        assumed: tuple[str, ...] = ()
        if "optimizer" in more:
            assumed = ("The 8-bit states are not paged: paged ones would not be among the active memory at all.",)
        return Case(row, model, _setup(row, "full", {}, stack, 2, 4096, **more), "allocated", assumed)
    stack, more = _torchtune({"compile": True, "loss": "chunked", "checkpointing": True, "offload_activations": True})
    method = _torchtune_method(row)
    settings = {"rank": _rank(row), "alpha": 2 * _rank(row), "target_modules": _TORCHTUNE_LORA}
    return Case(row, model, _setup(row, method, settings, stack, 2, 4096, **more), "allocated")


def _torchtune_speed(row: Row, model: str) -> Case:
    if _number(row, "gpus") > 1:
        raise _Unknown("Which switches were on, on eight GPUs, is not stated.")
    if row.gpu == "A6000":
        raise _Unknown("Which switches were on is not stated, and the row needs other ones than the default.")
    switches: dict[str, Any] = {"compile": True, "loss": "chunked", "checkpointing": True}
    assumed = ["The default configuration of 2024: activation checkpointing and chunked cross-entropy."]
    if row.method == "full":
        switches |= {"in_backward": True, "optimizer": "paged_adamw_8bit"}
        assumed.append("Optimizer in backward and paged 8-bit AdamW, as in 8B_full_single_device.yaml.")
    stack, more = _torchtune(switches)
    method = _torchtune_method(row)
    settings = {} if method == "full" else {"rank": _rank(row), "target_modules": _TORCHTUNE_LORA}
    return Case(row, model, _setup(row, method, settings, stack, 2, 2048, **more), "allocated", tuple(assumed))


def _torchtune_lora(row: Row, model: str) -> Case:
    stack, more = _torchtune({"checkpointing": True})
    names = "q_proj,v_proj" if "q,v" in row.detail else "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    setup = _setup(row, "lora", {"rank": _rank(row), "target_modules": names}, stack, 2, ALPACA, **more)
    return Case(
        row,
        model,
        setup,
        "allocated",
        (f"The longest batch has {ALPACA:,} tokens a row, Alpaca's longest in Llama-2's tokens.",),
    )


def _torchtune_qlora(row: Row, model: str) -> Case:
    raise _Unknown("The peak is that of loading the model (9.13 GB of it), not of a step.")


def _litgpt(row: Row, model: str) -> Case:
    if row.method not in ("LoRA", "QLoRA", "full"):
        raise _Unknown(f"The method {row.method} is not one of Deltalab's.")
    if row.gpus != "1":
        raise _Unknown("On how many GPUs it ran is not stated.")
    stack = stack_named("litgpt")
    stated = re.match(r"\d+", row.length)
    if stated is None and not model.startswith("Llama-2"):  # (ALPACA is in that model's tokens)
        raise _Unknown(_LENGTH_UNKNOWN)
    length = int(stated[0]) if stated else ALPACA
    batch, text = _number(row, "batch"), row.detail
    # The YAML files ask for more rows a step than a pass has: gradients wait, and so does the last pass's graph. In
    # 2023 the longest row came first, with nothing before it.
    passes = 2 if row.source == "litgpt-configs" else 1
    if row.method == "full":
        return Case(row, model, _setup(row, "full", {}, stack, batch, length, accumulation=passes), "allocated")
    if "all+head" in text or "all layers" in text:
        parts = "query,key,value,proj,mlp,head"
    else:
        parts = "query,value"
    rank = _rank(row)
    settings: dict[str, Any] = {"rank": rank, "target_modules": parts, "dropout": 0.05}
    method = "lora"
    if row.method == "QLoRA":
        method = "qlora"
        settings |= {"double_quantization": "dq" in text}
    # BitsandbytesPrecision goes with PagedAdamW: its states are not in the allocator's memory.
    assumed = []
    if "SGD" in text:
        assumed.append("SGD has no states; those of AdamW would be paged here, and are not counted either.")
    setup = _setup(row, method, settings, stack, batch, length, accumulation=passes)
    return Case(row, model, setup, "allocated", tuple(assumed))


def _not_modelled(row: Row, model: str) -> Case:
    raise _Unknown("Selective checkpointing, 8-bit floats and context parallelism are not modelled.")


_BY_SOURCE = {
    "peft-bench": _peft_bench, "torchtune-flags": _torchtune_flags, "torchtune-speed": _torchtune_speed,
    "torchtune-lora": _torchtune_lora, "torchtune-qlora": _torchtune_qlora, "litgpt-tables": _litgpt,
    "litgpt-configs": _litgpt, "lora-insights": _litgpt, "torchtitan": _not_modelled,
    "peft-readme": _not_modelled, "peft-distributed": _not_modelled,
}  # fmt: skip

__all__ = ["SOURCES", "Case", "Refused", "Row", "Source", "case_of", "rows"]
