"""PiSSA: LoRA whose pair starts as the principal part of the weight instead of as nothing.

    W₀ ≈ U_r·S_r·V_rᵀ = s·BA at the start;    h = (W₀ − s·B₀A₀)x + s·BAx        s = α/r

(Meng et al. 2024, equations 2 to 4.) The model is LoRA's; the first steps go further, because A and B begin in the
directions that matter most to the weight, where LoRA begins with noise and zero. The base's weights change: they lose
what moved into the pair. What is saved is therefore the difference, BA − B₀A₀, as an ordinary LoRA adapter of rank 2r
for the unchanged base (PEFT's conversion of PiSSA adapters does the same).

A base that is stored in few bits is refused, as PEFT refuses it: what is left of a weight would have to be stored anew.
(The paper's QPiSSA, section 4, goes the other way round: it starts from the full weights and quantizes what is left.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import BadInput
from core.methods import lora, saved
from core.methods.lora import BASE, CHECKPOINTS, MERGES, count, problems, sites
from core.methods.modules import check_plain, check_unquantized

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture

NAME = "pissa"
TITLE = "PiSSA"
SUMMARY = "LoRA that starts from the weight's own largest singular directions, so that it learns faster at first."
PAPER = "Meng et al., 2024, PiSSA: Principal Singular Values and Singular Vectors Adaptation, arXiv:2404.02948"
FORMULA = "h = (W₀ − s·B₀A₀)x + s·BAx        s·B₀A₀ = U_r·S_r·V_rᵀ"
INFERENCE = "Nothing once merged; on the unchanged base it runs as a LoRA adapter of twice the rank."
START = "rounding"
RATES = (3e-4, 1e-3)
PATIENCE = 1
CHANGES_WEIGHTS = "moves a part of the weights into its pair"
PUBLISHED = (2e-5, "Meng et al. 2024, arXiv:2404.02948, section 5.1: LLaMA-2-7B, Mistral-7B and Gemma-7B")


@dataclass(frozen=True)
class Config(lora.Config):
    """Settings of LoRA, and how the decomposition is found."""

    alpha: int = knob(
        8, "Alpha: the product is multiplied by alpha / rank before it is added.", low=1, high=4096, warn_high=512,
        folded=False, why="Equal to the rank, as in the paper: the pair holds the singular values at their own size.",
    )  # fmt: skip
    fast: bool = knob(
        False, "Find the singular directions by a randomised method instead of a full decomposition.",
        why="A full decomposition is exact and quick on small matrices; at a width of 4096 it takes seconds for each.",
    )  # fmt: skip


def pair(layer: Any, rank: int, config: Config, *, keep_base: bool) -> Any:
    """A pair that holds the layer's principal part."""
    from core.layers.principal import PrincipalPair

    return PrincipalPair(layer, rank, config.alpha / rank, config.dropout, fast=config.fast, keep_base=keep_base)


def saved_beside(architecture: Architecture, config: Config) -> int:
    """The pairs as they began, which were taken out of the weights: the file is a LoRA of twice the rank."""
    return sum(
        lora.pair_parameters(m.in_features, m.out_features, lora.rank_of(config, m.name))
        for m in lora.targets(architecture, config)
    )


class Attached(lora.Attached):
    """As LoRA's; what is saved is the difference from the start, as a pair of twice the rank."""

    def stored(self) -> dict[str, torch.Tensor]:
        import torch

        found = super().stored()
        for path, layer in self.layers.items():
            a, b = (f"{saved.PEFT_PREFIX}{path}.{part}.weight" for part in ("lora_A", "lora_B"))
            found[a] = torch.cat([found[a], layer.start[0].to(found[a].device)])
            found[b] = torch.cat([found[b], -layer.start[1].to(found[b].device)], dim=1)
        return found

    def place(self, tensors: dict[str, torch.Tensor], what: str) -> None:
        import torch

        mine = {n: torch.empty_like(t) for n, t in self.stored().items()}
        saved.copy_into(mine, tensors, what)
        with torch.no_grad():
            own = super().stored()
            for path, layer in self.layers.items():
                a, b = (f"{saved.PEFT_PREFIX}{path}.{part}.weight" for part in ("lora_A", "lora_B"))
                rank = layer.rank
                layer.start_from(mine[a][rank:], -mine[b][:, rank:])
                own[a].copy_(mine[a][:rank])
                own[b].copy_(mine[b][:, :rank])
            for name in own.keys() - {n for n in own if ".lora_" in n}:
                own[name].copy_(mine[name])

    def check(self, folder: Path) -> None:
        there = read_config(folder)
        if (there.rank, there.alpha) != (self.config.rank, self.config.alpha):
            raise BadInput(
                f"The adapter in {folder.name} was trained with alpha {there.alpha:g} at rank {there.rank}; this model "
                f"has alpha {self.config.alpha:g} at rank {self.config.rank}.",
                f"Set rank to {there.rank} and alpha to {there.alpha:g}.",
            )

    def adapter_config(self) -> dict[str, Any]:
        found = super().adapter_config()
        found |= {"r": 2 * found["r"], "lora_alpha": 2 * found["lora_alpha"]}
        return found | {"rank_pattern": {name: 2 * rank for name, rank in found["rank_pattern"].items()}}


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Move the principal part of every chosen layer into a pair beside it.

    Args:
        keep_base: keep a copy of the chosen layers' weights, so that `disable` works.

    Raises:
        Incompatible: as LoRA; or a base in few bits.
    """
    from core.architecture import Architecture

    check_plain(model)
    chosen = [m.name for m in lora.targets(Architecture.of(model), config)]
    check_unquantized(model, chosen, TITLE, CHANGES_WEIGHTS)
    make = partial(pair, keep_base=keep_base)
    attached: Attached = lora.attach(model, config, NAME, make, keep_base=keep_base, kind=Attached)
    return attached


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT's own PiSSA folders hold a change of weights that are not in them: they are refused (see LoRA)."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter.

    Raises:
        BadInput: there is no PiSSA adapter of ours in `folder`.
    """
    config: Config = saved.read_settings(folder, NAME)
    return config


__all__ = [
    "BASE", "CHANGES_WEIGHTS", "CHECKPOINTS", "FORMULA", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE",
    "PUBLISHED", "RATES", "START", "SUMMARY", "TITLE", "Attached", "Config", "apply", "count", "problems",
    "read_config", "reads", "saved_beside", "sites",
]  # fmt: skip
