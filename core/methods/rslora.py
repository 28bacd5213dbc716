"""rsLoRA: LoRA whose scale falls with the root of the rank instead of the rank.

    h = W₀x + (α/√r)·BAx

(Kalajdzievski 2023, theorem 3.2.) With α/r the change that a step makes dwindles as r grows, so that large ranks learn
no more than small ones; with α/√r it keeps its size. At rank r it is LoRA with √r times the alpha, which is why the
default alpha here is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.methods import lora
from core.methods.lora import BASE, CHECKPOINTS, MERGES, START, count, problems, sites

if TYPE_CHECKING:
    import torch

NAME = "rslora"
TITLE = "rsLoRA"
SUMMARY = "LoRA scaled by alpha over the root of the rank, so that high ranks learn as fast as low ones."
PAPER = "Kalajdzievski, 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732"
FORMULA = "h = W₀x + (α/√r)·BAx"
INFERENCE = lora.INFERENCE
RATES = (1e-3, 3e-3)
PATIENCE = 1
PUBLISHED = (2e-4, "as LoRA, whose runs on GPT-2 medium it rescales: github.com/microsoft/LoRA, examples/NLG/README.md")
PUBLISHED_ENCODER = (5e-4, "as LoRA: Hu et al. 2021, arXiv:2106.09685, table 9: RoBERTa-base")

FLAGS = {"use_rslora": True}


@dataclass(frozen=True)
class Config(lora.Config):
    """Settings of LoRA; alpha is divided by the root of the rank."""

    rank: int = knob(
        16, "Rank r: the inner width of the two thin matrices; parameters grow in proportion to it.",
        low=1, high=1024, warn_high=512, folded=False,
        why="Twice LoRA's: what rsLoRA changes shows between ranks, at one rank it is LoRA with another alpha.",
    )  # fmt: skip
    alpha: int = knob(
        8, "Alpha: the learnt change is multiplied by alpha / √rank before it is added.", low=1, high=4096,
        warn_high=512, folded=False, why="A scale of 2 at rank 16, that of LoRA's default.",
    )  # fmt: skip


def pair(layer: Any, rank: int, config: Config) -> Any:
    """BA scaled by α/√r."""
    from core.layers.low_rank import LowRank

    return LowRank(layer, rank, config.alpha / math.sqrt(rank), config.dropout)


class Attached(lora.Attached):
    """As LoRA's."""

    FLAGS = FLAGS


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """As LoRA's `apply`.

    Raises:
        Incompatible: as LoRA.
    """
    attached: Attached = lora.attach(model, config, NAME, pair, keep_base=keep_base, kind=Attached)
    return attached


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") == "LORA" and bool(record.get("use_rslora")) and not record.get("use_dora")


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
