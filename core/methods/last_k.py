"""Last k layers: full fine-tuning of the top of the model alone.

    h_L = f_L(… f_{L−k+1}(h_{L−k}))        f_1 … f_{L−k} frozen, the last k blocks trained

The oldest way to train less: what lies lower is taken as it is. (Howard and Ruder 2018, section 3.3, begin so and
unfreeze downwards.) It saves the lower blocks' gradients, optimizer states and backward pass, but each task still
changes whole matrices, and what the lower layers miss cannot be put right above.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import Incompatible
from core.methods import saved
from core.methods.base import Site
from core.methods.in_place import SavedInPlace, train_only
from core.methods.modules import check_plain, check_unquantized, head_sites, whole

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "last_k"
TITLE = "Last k layers"
SUMMARY = "Trains the last blocks of the model and leaves everything below them frozen."
PAPER = "Howard and Ruder, 2018, Universal Language Model Fine-tuning for Text Classification, arXiv:1801.06146"
FORMULA = "h_L = f_L(… f_{L−k+1}(h_{L−k}))        the last k blocks trained"
INFERENCE = "Nothing; but each task needs its own copy of k blocks."
BASE = "trained"
START = "base"
MERGES = True
CHECKPOINTS = True
RATES = (5e-4, 1e-3, 2e-3)
PATIENCE = 1
CHANGES_WEIGHTS = "trains the weights of whole blocks"
PUBLISHED = (1e-5, "as full fine-tuning in the BitFit authors' example: github.com/arendu/BitFit, README")
PUBLISHED_ENCODER = (2e-5, "as full fine-tuning: Devlin et al. 2019, BERT, arXiv:1810.04805, appendix A.3")

_BLOCK = re.compile(r"^(.*?)\.(\d+)\.")


@dataclass(frozen=True)
class Config:
    """Settings of last-k fine-tuning."""

    blocks: int = knob(
        2, "k: how many of the last blocks train.", unit="blocks", low=1, high=256, folded=False,
        why="A third of the embedded base; more blocks cost more memory and come closer to full fine-tuning.",
    )  # fmt: skip
    final_norm: bool = knob(
        True, "Train the norm above the last block too.", why="It belongs to the top and costs next to nothing.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """Nothing that the ranges do not say."""
    return []


def chosen(architecture: Architecture, config: Config) -> list[Module]:
    """The modules of the last k blocks (and the norm above them), in the model's order.

    Raises:
        Incompatible: no numbered blocks, or fewer than k.
    """
    numbered: dict[str, set[int]] = {}
    for m in architecture.modules:
        found = _BLOCK.match(m.name)
        if found:
            numbered.setdefault(found[1], set()).add(int(found[2]))
    if not numbered:
        raise Incompatible(f"{architecture.name} has no numbered blocks.", "Choose a transformer as base.")
    stack = max(numbered, key=lambda name: len(numbered[name]))
    count = len(numbered[stack])
    if config.blocks > count:
        raise Incompatible(
            f"{architecture.name} has {count} blocks, and the last {config.blocks} are asked for.",
            f"Set blocks to {count} at most.",
        )
    first = sorted(numbered[stack])[-config.blocks]
    prefix = f"{stack}."
    rows = []
    inside = False
    for m in (m for m in architecture.modules if m.name not in architecture.classifier):
        found = _BLOCK.match(m.name)
        if m.name.startswith(prefix) and found:
            inside = True
            if int(found[2]) >= first and m.parameters:
                rows.append(m)
        elif inside and config.final_norm and m.kind == "norm" and m.parameters and not found:
            rows.append(m)
    return rows


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Every module of the trained blocks, and a classification head."""
    return [whole(m) for m in chosen(architecture, config)] + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ (weight + bias) over the last k blocks, the final norm and a classification head."""
    return sum(site.trained for site in sites(architecture, config))


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> SavedInPlace:
    """Freeze `model` but for its last blocks.

    Args:
        keep_base: copy them first (as much memory again), so that `disable` works.

    Raises:
        Incompatible: fewer blocks than asked for, or quantized ones.
    """
    from core.architecture import Architecture

    check_plain(model)
    rows = chosen(Architecture.of(model), config)
    check_unquantized(model, [m.name for m in rows if m.kind in ("linear", "conv1d")], TITLE, CHANGES_WEIGHTS)
    paths = {m.name for m in rows}
    parameters = {n: p for n, p in model.named_parameters() if n.rpartition(".")[0] in paths}
    parameters = train_only(model, parameters)
    return SavedInPlace(model, parameters, NAME, config, keep_base=keep_base)


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT does not have it."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of what was saved.

    Raises:
        BadInput: there is nothing of this method in `folder`.
    """
    config: Config = saved.read_settings(folder, NAME)
    return config
