"""VeRA: LoRA with the same frozen random pair in every layer, rescaled by two trained vectors per layer.

    h = W₀x + Λ_b·B·Λ_d·A·x        A: r × in, B: out × r, random and shared;  d: r and b: out, trained

(Kopiczko et al. 2023, equation 2.) A matrix costs out + r trained numbers instead of LoRA's r·(in + out). The random
matrices need not be stored, since a seed gives them back; they are stored all the same, because another machine's
generator might not (PEFT's default too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import BadInput
from core.methods import lora, saved
from core.methods.base import Site
from core.methods.modules import check_plain, check_readable, head_sites, names_of
from core.methods.wrapped import Wrapped, shortest_names, wrap

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "vera"
TITLE = "VeRA"
SUMMARY = "Rescales one random low-rank pair, shared by all layers, with two small vectors per layer."
PAPER = "Kopiczko et al., 2023, VeRA: Vector-based Random Matrix Adaptation, arXiv:2310.11454"
FORMULA = "h = W₀x + Λ_b·B·Λ_d·A·x        A, B frozen and shared"
INFERENCE = "Nothing once merged; unmerged, as a LoRA of the same rank."
BASE = "frozen"
START = "base"
MERGES = True
CHECKPOINTS = True
RATES = (1e-2, 3e-2, 1e-1)
PATIENCE = 2
PUBLISHED = (4e-3, "Kopiczko et al. 2023, arXiv:2310.11454, table 9: LLaMA-7B and 13B")

_SHARED = {"A": "base_model.vera_A", "B": "base_model.vera_B"}
_MODULE = "vera_projection"


@dataclass(frozen=True)
class Config:
    """Settings of VeRA."""

    rank: int = knob(
        256, "Rank r of the shared pair; each layer trains r + out numbers.", low=1, high=4096, warn_high=1024,
        folded=False, why="The paper's ranks are high, since a rank costs one number per layer.",
    )  # fmt: skip
    target_modules: str = knob(
        lora.ALL_LINEAR,
        "Which matrices are changed: all-linear, attention, mlp, or the ends of module names, such as q_proj,v_proj.",
        why="All linear layers, so that it is compared with LoRA on equal terms.",
    )  # fmt: skip
    d_initial: float = knob(
        0.1, "What the inner vector d starts at.", low=1e-7, high=10.0, log=True,
        why="The paper finds 0.1 and 1e-7 better than 1.",
    )  # fmt: skip
    dropout: float = knob(
        0.0, "Share of the inputs of the pair set to zero while training.", low=0.0, high=0.9, warn_high=0.3,
        why="Short runs on many examples do not overfit.",
    )  # fmt: skip
    projection_seed: int = knob(
        0, "Seed of the random matrices (PEFT's projection_prng_key).", low=0, high=2**31 - 1,
        why="PEFT's default, so that both make the same matrices.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """What is wrong with the settings whatever the base."""
    return [] if names_of(config.target_modules) else ["target_modules names nothing; give all-linear, or names."]


def targets(architecture: Architecture, config: Config) -> list[Module]:
    """The layers that are changed: LoRA's choice of them.

    Raises:
        Incompatible: as LoRA's. (A rank above the dimensions is no mistake here: the paper's often is.)
    """
    return lora.targets(architecture, lora.Config(rank=1, target_modules=config.target_modules))


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Each changed matrix and its r + out numbers; then a classification head."""
    changed = [
        Site(m.name, (m.out_features, m.in_features), config.rank + m.out_features)
        for m in targets(architecture, config)
    ]
    return changed + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ (r + out) over the changed matrices, and a classification head."""
    return sum(site.trained for site in sites(architecture, config))


def saved_beside(architecture: Architecture, config: Config) -> int:
    """The shared pair, r·(widest in + widest out): a seed would give it back, but perhaps not on another machine."""
    rows = targets(architecture, config)
    return config.rank * (max(m.in_features for m in rows) + max(m.out_features for m in rows))


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model`, draw the shared pair and put two vectors beside every chosen layer.

    Args:
        keep_base: copy the classification head, if there is one; the rest of the base is never changed.

    Raises:
        Incompatible: as LoRA.
    """
    from core.architecture import Architecture
    from core.layers.vera import Projection, SharedRandomPair

    check_plain(model)
    chosen = targets(Architecture.of(model), config)
    check_readable(model, [m.name for m in chosen], TITLE)
    fan_in, fan_out = max(m.in_features for m in chosen), max(m.out_features for m in chosen)
    projection = Projection(fan_in, fan_out, config.rank, config.projection_seed)
    projection.to(model.get_submodule(chosen[0].name).weight.device)  # type: ignore[arg-type]
    layers = {
        m.name: SharedRandomPair(model.get_submodule(m.name), projection, config.dropout, config.d_initial)
        for m in chosen
    }
    wrap(model, layers)
    model.add_module(_MODULE, projection)
    return Attached(model, config, NAME, layers, keep_base=keep_base)


class Attached(Wrapped):
    """A model with VeRA's vectors in its layers; see `core.methods.base.Attached`."""

    def merge(self) -> torch.nn.Module:
        model = super().merge()
        delattr(model, _MODULE)
        return model

    def stored(self) -> dict[str, torch.Tensor]:
        projection = self.model.get_submodule(_MODULE)
        return super().stored() | {name: getattr(projection, part) for part, name in _SHARED.items()}

    def check(self, folder: Path) -> None:
        there = read_config(folder)
        if there.rank != self.config.rank:
            raise BadInput(
                f"The adapter in {folder.name} has rank {there.rank}; this model has {self.config.rank}.",
                f"Set rank to {there.rank}.",
            )

    def place(self, tensors: dict[str, torch.Tensor], what: str) -> None:
        if not tensors.keys() & set(_SHARED.values()):
            # PEFT may leave the pair out; then the seed must give it back.
            tensors = tensors | {name: self.stored()[name] for name in _SHARED.values()}
        super().place(tensors, what)

    def adapter_config(self) -> dict[str, Any]:
        from core.layers.low_rank import is_conv1d

        return {
            "peft_type": "VERA",
            **saved.task_fields(self.model),
            **saved.base_fields(self.model),
            "r": self.config.rank,
            "target_modules": shortest_names(list(self.layers), [n for n, _ in self.model.named_modules()]),
            "projection_prng_key": self.config.projection_seed,
            "save_projection": True,
            "vera_dropout": self.config.dropout,
            "d_initial": self.config.d_initial,
            "fan_in_fan_out": all(is_conv1d(layer.base_layer) for layer in self.layers.values()),
            "bias": "none",
            "init_weights": True,
            "inference_mode": True,
        }


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") == "VERA"


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter, ours or PEFT's.

    Raises:
        BadInput: no adapter there, not VeRA, or one that trains more than its vectors.
    """
    folder = Path(folder)
    record = saved.read_peft(folder, "VERA")
    own: Config | None = saved.own_settings(folder, NAME)
    if own is not None:
        return own
    there = record | {"modules_to_save": saved.modules_beside(record)}
    odd = [
        f"{key}={there[key]!r}"
        for key in ("bias", "modules_to_save", "layers_to_transform", "layers_pattern", "exclude_modules")
        if there.get(key) not in (None, "none", [], "")
    ]
    if odd:
        raise BadInput(
            f"The adapter in {folder.name} uses {', '.join(odd)}, which is not known here.",
            "Merge it with PEFT and use the merged model as base.",
        )
    names, rank, seed = record.get("target_modules"), record.get("r"), record.get("projection_prng_key", 0)
    if not isinstance(names, list) or not isinstance(rank, int) or not isinstance(seed, int):
        raise BadInput(f"The file {saved.ADAPTER_CONFIG} in {folder.name} lacks a usable r or target_modules.")
    start, dropout = float(record.get("d_initial", 0.1)), float(record.get("vera_dropout") or 0.0)
    return Config(rank, ",".join(sorted(map(str, names))), start, dropout, seed)
