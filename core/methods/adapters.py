"""Bottleneck adapters: small two-layer networks inside every block, behind its sublayers.

    h ← h + W_up·f(W_down·h + b_down) + b_up        W_down: m × d, W_up: d × m

(Houlsby et al. 2019, section 2.1: behind attention and behind the MLP. Pfeiffer et al. 2021, section 3.1: behind the
MLP alone, at half the cost.) The first parameter-efficient method for transformers. What they learn is a function of
the activations rather than a change of weights, so it cannot be merged: the extra layers run with every token.

PEFT has no bottleneck adapters, so the folder is of our own making.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import Incompatible, Refused
from core.methods import saved
from core.methods.base import Site
from core.methods.modules import (
    ATTENTION_OUTPUTS,
    MLP_OUTPUTS,
    check_plain,
    head_sites,
    linears,
)
from core.methods.wrapped import Wrapped, wrap

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "adapters"
TITLE = "Adapters"
SUMMARY = "Puts small two-layer networks behind the sublayers of every block and trains only those."
PAPER = "Houlsby et al., 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751"
FORMULA = "h ← h + W_up·f(W_down·h + b_down) + b_up"
INFERENCE = "Two thin layers in a row behind every adapted sublayer, for every token: they cannot be merged."
BASE = "frozen"
START = "base"
MERGES = False
CHECKPOINTS = True
RATES = (1e-3, 3e-3, 6e-3)
PATIENCE = 1
PUBLISHED = (1e-4, "Pfeiffer et al. 2020, AdapterHub, arXiv:2007.07779, section 3.3")

PLACES = {"houlsby": (*ATTENTION_OUTPUTS, *MLP_OUTPUTS), "pfeiffer": MLP_OUTPUTS}


@dataclass(frozen=True)
class Config:
    """Settings of bottleneck adapters."""

    width: int = knob(
        16, "Bottleneck m: the inner width of each adapter.", low=1, high=4096, warn_high=512, folded=False,
        why="A sixteenth of the embedded base's width; the papers find from a quarter to a sixty-fourth enough.",
    )  # fmt: skip
    placement: str = knob(
        "houlsby", "Behind attention and MLP of every block (houlsby), or behind the MLP alone (pfeiffer).",
        choices=tuple(PLACES), folded=False,
        why="The original; Pfeiffer's has half the parameters and, in its paper, the same quality.",
    )  # fmt: skip
    activation: str = knob(
        "relu", "The function between the two layers.", choices=("relu", "gelu"), why="Pfeiffer's choice.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """Nothing that the ranges do not say."""
    return []


def targets(architecture: Architecture, config: Config) -> list[Module]:
    """The layers that get an adapter behind them, in the model's order.

    Raises:
        Incompatible: none is known to end a sublayer.
    """
    chosen = linears(architecture, PLACES[config.placement])
    if not chosen:
        known = ", ".join(sorted({m.name.rpartition(".")[2] for m in architecture.linears()})) or "none"
        raise Incompatible(
            f"{architecture.name} has no layers known to end an attention or MLP sublayer.",
            f"Its linear layers are {known}; use lora, which takes any of them by name.",
        )
    return chosen


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Each adapted layer's output and the 2·d·m + m + d parameters behind it; then a classification head."""
    m = config.width
    behind = [
        Site(row.name, (row.out_features, m), 2 * row.out_features * m + m + row.out_features)
        for row in targets(architecture, config)
    ]
    return behind + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ 2·d·m + m + d over the adapted sublayers, and a classification head."""
    return sum(site.trained for site in sites(architecture, config))


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` and put an adapter behind every chosen layer.

    Args:
        keep_base: copy the classification head, if there is one; the rest of the base is never changed.

    Raises:
        Incompatible: no layer to put one behind.
    """
    from core.architecture import Architecture
    from core.layers.bottleneck import Bottleneck

    check_plain(model)
    chosen = targets(Architecture.of(model), config)
    layers = {m.name: Bottleneck(model.get_submodule(m.name), config.width, config.activation) for m in chosen}
    wrap(model, layers)
    return Attached(model, config, NAME, layers, keep_base=keep_base)


class Attached(Wrapped):
    """A model with adapters in its blocks; see `core.methods.base.Attached`."""

    def merge(self) -> torch.nn.Module:
        """Raises:
        Refused: always.
        """
        raise Refused(
            "Adapters cannot be merged: there is a nonlinearity between their two layers.",
            "Keep them beside the base, or use a method that merges, such as lora.",
        )

    def check(self, folder: Path) -> None:
        saved.read_settings(folder, NAME)


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT does not have bottleneck adapters."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter.

    Raises:
        BadInput: there are no bottleneck adapters in `folder`.
    """
    config: Config = saved.read_settings(folder, NAME)
    return config
