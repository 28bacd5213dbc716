"""A run's model as a plain checkpoint: the change folded into the weights, with tokenizer and settings beside them.

    W = W₀ + ΔW          written in float32, bfloat16, or quantized again: Q(W₀ + ΔW) in NF4

What is written needs neither Deltalab nor PEFT: transformers loads the folder. In float32 it computes what the unmerged
model computed, up to rounding. In bfloat16 every weight is rounded to 8 significant bits, in NF4 to one of 16 values
per block: changes smaller than that rounding are lost, which is why the probe `merge` measures it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import BadInput
from core.export.subject import check_merges, folder_bytes
from core.methods import attach_saved, loading, saved, saved_as

FORMATS = ("float32", "bfloat16", "nf4")


@dataclass(frozen=True)
class Written:
    """A merged model on the disk. parameters: how many. size_bytes: of the whole folder."""

    folder: Path
    method: str
    stored: str
    parameters: int
    size_bytes: int


def merge(
    source: str, adapter: Path, out: Path, *, revision: str | None = None, stored: str = "float32", card: str = ""
) -> Written:
    """Fold a change into its base and write the model.

    Args:
        source, revision: the base, as `core.base.load_base` takes it.
        adapter: the change's folder. out: the new folder; replaced whole.
        stored: 'float32', 'bfloat16' or 'nf4'.
        card: Markdown for the folder's README.md; '' for none.

    Raises:
        Refused: a method that cannot be merged.
        BadInput: an unknown format; or the change belongs to other weights.
    """
    from core.base import load_base

    method, _ = saved_as(adapter)
    check_merges(method)
    base = load_base(source, revision=revision, **loading(method, "float32", "cpu"), **saved.head_in(adapter))
    model = attach_saved(base.model, adapter, keep_base=False).merge()
    return write(model, base.tokenizer, out, method=method, stored=stored, card=card)


def write(model: Any, tokenizer: Any, out: Path, *, method: str, stored: str, card: str = "") -> Written:
    """Write a merged model, every layer of it as a plain one. In another format than float32 its own weights are
    changed on the way.

    Raises:
        BadInput: an unknown format.
    """
    import torch

    from core.layers.decoded import to_dense

    if stored not in FORMATS:
        raise BadInput(f"There is no format {stored!r} here.", f"The formats are {', '.join(FORMATS)}.")
    to_dense(model)  # what the method left in few bits: beside it are weights that are not
    parameters = sum(p.numel() for p in model.parameters())
    with saved.replacing(Path(out)) as fresh, saved.without_progress_bars():
        if stored == "nf4":
            _write_nf4(model, fresh)
        else:
            model.to(getattr(torch, stored)).save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        if card:
            (fresh / "README.md").write_text(card, encoding="utf-8")
    return Written(Path(out), method, stored, parameters, folder_bytes(Path(out)))


def stored_in(folder: Path) -> str:
    """The format of a merged model that `write` has written, by its config.json; 'float32' where that says nothing."""
    record = saved.read_json(Path(folder) / "config.json")
    four = (record.get("quantization_config") or {}).get("bnb_4bit_quant_type")
    return str(four or record.get("dtype") or record.get("torch_dtype") or FORMATS[0])


def _write_nf4(model: Any, folder: Path) -> None:
    """Quantized by transformers' own bitsandbytes loader, so that it loads what it wrote; double quantization, as
    QLoRA has it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

    import core.layers.quiet_bitsandbytes  # noqa: F401
    from core.architecture import classifier_of

    head = classifier_of(model)  # stays as it is, as a language model's does
    kind: Any = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    with tempfile.TemporaryDirectory(dir=folder) as between:
        model.save_pretrained(between)
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=list(head) or None,
        )  # fmt: skip
        four: Any = kind.from_pretrained(
            between, quantization_config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            device_map={"": 0 if torch.cuda.is_available() else "cpu"},
        )  # fmt: skip
        four.save_pretrained(folder)


def quantize(model: Any) -> dict[str, float]:
    """Store the linear layers of a plain model in NF4 in place, as QLoRA does.

    Returns:
        module -> ‖Q(W) − W‖, the norm of what its rounding changed.
    """
    import torch

    from core.architecture import Architecture
    from core.layers.four_bit import FourBitLinear
    from core.layers.low_rank import dense_weight
    from core.methods.modules import replace_module
    from core.methods.qlora import quantized

    lost = {}
    for row in quantized(Architecture.of(model)):
        plain: Any = model.get_submodule(row.name)
        weight = dense_weight(plain, torch.float32).clone()
        four = FourBitLinear(plain, "nf4", True)
        lost[row.name] = float((four.dense_weight(torch.float32) - weight).norm())
        replace_module(model, row.name, four)
    return lost
