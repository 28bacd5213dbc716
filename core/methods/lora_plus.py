"""LoRA+: LoRA in which B learns faster than A.

    h = W₀x + (α/r)·BAx        η_A = η,  η_B = λ·η,  λ > 1

(Hayou et al. 2024, section 4.) B starts at zero and has to grow before A's gradient amounts to anything; at one rate
for both, wide models learn A's features hardly at all. The model is LoRA's, and so is what is saved: the difference is
in the optimizer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.methods import lora, saved
from core.methods.lora import BASE, CHECKPOINTS, MERGES, START, count, problems, sites

if TYPE_CHECKING:
    import torch

NAME = "lora_plus"
TITLE = "LoRA+"
SUMMARY = "LoRA with a higher learning rate for B than for A; the adapter is an ordinary LoRA adapter."
PAPER = "Hayou et al., 2024, LoRA+: Efficient Low Rank Adaptation of Large Models, arXiv:2402.12354"
FORMULA = "h = W₀x + (α/r)·BAx        η_B = λ·η_A"
INFERENCE = lora.INFERENCE
RATES = (3e-4, 1e-3)
PATIENCE = 1
PUBLISHED = (5e-5, "a LoRA rate divided by the root of the ratio; Hayou et al. 2024, arXiv:2402.12354, section 5")
PUBLISHED_ENCODER = (1e-4, "a LoRA rate for RoBERTa-base (5e-4) divided by the root of the ratio, rounded")


@dataclass(frozen=True)
class Config(lora.Config):
    """Settings of LoRA, and how much faster B learns."""

    rate_ratio: float = knob(
        16.0, "Lambda: how many times A's learning rate B has.", low=1.0, high=128.0, warn_high=32.0, folded=False,
        log=True, why="The paper's recommendation for a start; the best value is found by trying.",
    )  # fmt: skip


class Attached(lora.Attached):
    """As LoRA's, with a rate of its own for B."""

    def rate_factors(self) -> dict[str, float]:
        """λ for every B."""
        return {n: self.config.rate_ratio for n in self.trainable_names() if n.endswith("lora_B.weight")}


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """As LoRA's `apply`.

    Raises:
        Incompatible: as LoRA.
    """
    attached: Attached = lora.attach(model, config, NAME, lora.plain_pair, keep_base=keep_base, kind=Attached)
    return attached


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT's file says nothing of rates: an adapter without our record is LoRA."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter; PEFT's file says nothing of the ratio: then the default.

    Raises:
        BadInput: as LoRA's.
    """
    plain = lora.read_config(folder, kind=Config)
    config: Config = saved.own_settings(folder, NAME) or plain
    return config


__all__ = [
    "BASE", "CHECKPOINTS", "FORMULA", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE", "PUBLISHED", "RATES", "START",
    "SUMMARY", "TITLE", "Attached", "Config", "apply", "count", "problems", "read_config", "reads", "sites",
]  # fmt: skip
