"""DoRA: LoRA for the direction of each row of weights, and a trained number for its length.

    W' = m · (W₀ + (α/r)·BA) / ‖W₀ + (α/r)·BA‖        m: out, starts as ‖W₀‖

(Liu et al. 2024, equation 5.) Full fine-tuning changes direction and length of a weight rather independently; LoRA
couples the two. DoRA gives the length a vector of its own: out more parameters per matrix. It costs time: in every step
the wrapped matrices are formed once to measure their lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.methods import lora
from core.methods.base import Site
from core.methods.lora import BASE, CHECKPOINTS, MERGES, START, problems

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture

NAME = "dora"
TITLE = "DoRA"
SUMMARY = "LoRA that trains the length of each row of weights apart from its direction."
PAPER = "Liu et al., 2024, DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353"
FORMULA = "W' = m · (W₀ + (α/r)·BA) / ‖W₀ + (α/r)·BA‖"
INFERENCE = "Nothing once merged; unmerged, each wrapped matrix is formed again for its lengths."
RATES = (1e-3, 3e-3)
PATIENCE = 1
PUBLISHED = (2e-4, "the DoRA authors' runs, LLaMA-7B: github.com/NVlabs/DoRA, commonsense_reasoning/README.md")
PUBLISHED_ENCODER = (5e-4, "as LoRA: Hu et al. 2021, arXiv:2106.09685, table 9: RoBERTa-base")

FLAGS = {"use_dora": True}
_SUFFIX = "lora_magnitude_vector"


@dataclass(frozen=True)
class Config(lora.Config):
    """Settings of LoRA."""


def pair(layer: Any, rank: int, config: Config) -> Any:
    """A pair with a magnitude vector."""
    from core.layers.dora import DirectionAndMagnitude

    return DirectionAndMagnitude(layer, rank, config.alpha / rank, config.dropout)


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """LoRA's, and one number for every output of a wrapped matrix."""
    wrapped = {m.name for m in lora.targets(architecture, config)}
    return [
        Site(s.module, s.shape, s.trained + (s.shape[0] if len(s.shape) == 2 and s.module in wrapped else 0))
        for s in lora.sites(architecture, config)
    ]


def count(architecture: Architecture, config: Config) -> int:
    """Σ r·(in + out) + out over the wrapped matrices."""
    return sum(site.trained for site in sites(architecture, config))


class Attached(lora.Attached):
    """As LoRA's; PEFT leaves `.weight` off the name of the magnitude vector in the file."""

    FLAGS = FLAGS

    def stored(self) -> dict[str, torch.Tensor]:
        return {n.replace(f"{_SUFFIX}.weight", _SUFFIX): t for n, t in super().stored().items()}


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """As LoRA's `apply`.

    Raises:
        Incompatible: as LoRA.
    """
    attached: Attached = lora.attach(model, config, NAME, pair, keep_base=keep_base, kind=Attached)
    return attached


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") == "LORA" and bool(record.get("use_dora"))


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter, ours or PEFT's.

    Raises:
        BadInput: as LoRA's.
    """
    config: Config = lora.read_config(folder, FLAGS, Config)
    return config


__all__ = [
    "BASE", "CHECKPOINTS", "FORMULA", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE", "PUBLISHED", "RATES", "START",
    "SUMMARY", "TITLE", "Attached", "Config", "apply", "count", "problems", "read_config", "reads", "sites",
]  # fmt: skip
