"""QLoRA: LoRA on a base whose weights are stored in 4 bits (or in 8).

    Y = X·doubleDequant(c₁, c₂, W_NF4) + (α/r)·X·AᵀBᵀ          (Dettmers et al. 2023, equation 5)

Every linear layer but the head is stored in 4 bits, in blocks of 64 weights with a common scale c₂, itself stored in 8
bits with a scale c₁ per 256 blocks; it is decoded each time it is needed. The gradient flows through the decoded weight
into the two thin matrices, which stay in 32 bits. The embedding, the norms, the biases and the head stay as they were.

A checkpoint that bitsandbytes has stored in few bits is taken as it is: nothing is decoded and stored again, and what
it left in full precision stays so. The settings must then say what it is (`core.few_bits`), and LoRA on it is the same.

With `quant_type` int8 the base's layers take 8 bits instead, one scale a row: the older way (LLM.int8()), twice the
memory and a sixteenth of the rounding.

Because the stored weights differ a little from the base's, so does the model at step 0. What this method promises is
exact relative to the 4-bit base: at step 0, and when disabled, the model computes what that base computes.

The adapter is saved as LoRA saves it; PEFT loads it onto a base quantized the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import Incompatible
from core.few_bits import Stored, why_not
from core.methods import lora, saved
from core.methods.lora import count, problems, sites
from core.methods.modules import check_plain, dtype_name, replace_module

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "qlora"
TITLE = "QLoRA"
SUMMARY = "LoRA on a base stored in 4 bits per weight: a quarter of the memory of 16-bit weights, a little slower."
PAPER = "Dettmers et al., 2023, QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314"
FORMULA = "Y = X·doubleDequant(c₁, c₂, W_NF4) + (α/r)·X·AᵀBᵀ"
INFERENCE = "The 4-bit weights are decoded at every step; merged, a plain model of 16 or 32 bits again."
BASE = "quantized"
START = "base"  # the 4-bit base's
MERGES = True
CHECKPOINTS = True
RATES = (3e-3, 6e-3)
PATIENCE = 1
PUBLISHED = (2e-4, "Dettmers et al. 2023, QLoRA, arXiv:2305.14314, table 9: 7B and 13B (half of it above)")
PUBLISHED_ENCODER = (5e-4, "as LoRA: Hu et al. 2021, arXiv:2106.09685, table 9: RoBERTa-base")


@dataclass(frozen=True)
class Config(lora.Config):
    """Settings of LoRA, and how the base's weights are stored."""

    quant_type: str = knob(
        "nf4", "How a weight is stored: as one of 16 values, NormalFloat (nf4) or a 4-bit float (fp4), or in 8 bits.",
        choices=("nf4", "fp4", "int8"),
        why="NF4's values are spaced for normally distributed weights, which trained weights nearly are.",
    )  # fmt: skip
    double_quantization: bool = knob(
        True, "Store the scale of each block of 64 weights in 8 bits instead of 32 (of no effect on int8).",
        why="Saves 0.37 bits per weight (QLoRA, section 3) and changes the weights very little.",
    )  # fmt: skip


def quantized(architecture: Architecture) -> list[Module]:
    """The layers that are stored in few bits: every linear one but the head, and none that shares its matrix."""
    return [m for m in architecture.linears() if m.name not in architecture.heads and not m.tied_to]


def apply(
    model: torch.nn.Module, config: Config, *, keep_base: bool = True, device: torch.device | None = None
) -> lora.Attached:
    """Store the linear layers of `model` in 4 or 8 bits, layer by layer, and put LoRA's pairs beside the chosen ones.

    Args:
        model: one that is stored in few bits already (a checkpoint of bitsandbytes) is taken as it is.
        device: where the model is to run, when it is not there yet. Its layers are moved one by one and quantized
            there, so that a base that would not fit in 16 bits never stands there in 16 bits.
        keep_base: as LoRA's; the 4-bit base is never changed. (The base as it was before is not kept.)

    Raises:
        Incompatible: as LoRA; bitsandbytes cannot be used on this machine; or the model is stored in another form than
            the settings ask for.
    """
    from core.architecture import Architecture

    try:
        from core.layers.adopted import adopt, form_of
        from core.layers.eight_bit import EightBitLinear
        from core.layers.four_bit import FourBitLinear
    except ImportError as why:
        raise Incompatible(
            f"QLoRA needs bitsandbytes, which cannot be loaded here ({why}).",
            "Install bitsandbytes, or use the method lora.",
        ) from why
    check_plain(model)
    architecture = Architecture.of(model)
    lora.targets(architecture, config)  # refuses before anything is changed
    adopt(model)
    forms = {form for layer in model.modules() if (form := form_of(layer)) is not None}
    _check_forms(forms, config, architecture.name)
    rows = [] if forms else quantized(architecture)
    for row in rows:
        weight = model.get_parameter(f"{row.name}.weight")
        if not weight.is_floating_point():
            raise Incompatible(
                f"The weights of {row.name} are stored as {dtype_name(weight)} already.",
                "Load the base unquantized.",
            )
    for row in rows:
        # One at a time, so that at most one layer exists in both forms.
        plain = model.get_submodule(row.name).to(device)
        replace_module(
            model,
            row.name,
            EightBitLinear(plain)
            if config.quant_type == "int8"
            else FourBitLinear(plain, config.quant_type, config.double_quantization),
        )
    model.to(device)
    attached: lora.Attached = lora.attach(model, config, NAME, lora.plain_pair, keep_base=keep_base)
    return attached


def _check_forms(forms: set[tuple[str, bool]], config: Config, name: str) -> None:
    """Raise Incompatible when the layers of a model are stored in another form than the settings ask for."""
    for quant_type, double in sorted(forms):
        found = why_not(NAME, config, Stored(quant_type, double), name)
        if found is not None:
            raise Incompatible(*found)


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT's file says nothing of 4 bits: an adapter without our record is LoRA."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter, ours or PEFT's. PEFT's file says nothing of 4 bits: then the defaults.

    Raises:
        BadInput: as LoRA's.
    """
    plain = lora.read_config(folder, kind=Config)
    config: Config = saved.own_settings(folder, NAME) or plain
    return config


__all__ = [
    "BASE", "CHECKPOINTS", "FORMULA", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE", "PUBLISHED", "RATES", "START",
    "SUMMARY", "TITLE", "Config", "apply", "count", "problems", "quantized", "read_config", "reads", "sites",
]  # fmt: skip
