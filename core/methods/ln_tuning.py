"""LN tuning: only the normalization layers train.

    y = γ ⊙ (x − μ)/σ + β        γ and β trained (Llama's RMSNorm has γ alone)

(Zhao et al. 2023, section 3.) Less than a thousandth of the weights: one or two numbers per channel and norm. Like
BitFit it adds nothing to the model. The folder is PEFT's: it stores the trained norms whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import BadInput, Incompatible
from core.methods import saved
from core.methods.base import Site
from core.methods.in_place import SavedInPlace, train_only
from core.methods.modules import check_plain, ends_with, head_sites, names_of, whole
from core.methods.wrapped import shortest_names

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "ln_tuning"
TITLE = "LN tuning"
SUMMARY = "Trains only the gains (and offsets) of the normalization layers."
PAPER = "Zhao et al., 2023, Tuning LayerNorm in Attention, arXiv:2312.11420"
FORMULA = "y = γ ⊙ (x − μ)/σ + β        γ, β trained"
INFERENCE = "Nothing: the norms were there before."
BASE = "trained"
START = "base"
MERGES = True
CHECKPOINTS = True
RATES = (1e-2, 3e-2)
PATIENCE = 2
VECTORS = True
PUBLISHED = (
    1e-3,
    "as BitFit's authors, whose parameters include these norms' offsets: github.com/arendu/BitFit, README",
)

ALL = "all"


@dataclass(frozen=True)
class Config:
    """Settings of LN tuning."""

    norms: str = knob(
        ALL, "Which norms train: all, or the ends of their names, such as input_layernorm.",
        why="The paper trains all of them.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """What is wrong with the settings whatever the base."""
    return [] if names_of(config.norms) else ["norms names nothing; give all, or names such as input_layernorm."]


def chosen(architecture: Architecture, config: Config) -> list[Module]:
    """The norms that train, in the model's order.

    Raises:
        Incompatible: the model has none, or none of a name.
    """
    rows = [
        m for m in architecture.modules if m.kind == "norm" and m.parameters and m.name not in architecture.classifier
    ]
    if not rows:
        raise Incompatible(
            f"{architecture.name} has no normalization layers with weights, so {TITLE} has nothing to train.",
            "Choose a transformer as base.",
        )
    if config.norms.lower() == ALL:
        return rows
    names = names_of(config.norms)
    unknown = [name for name in names if not any(ends_with(m.name, name) for m in rows)]
    if unknown:
        known = ", ".join(sorted({m.name.rpartition(".")[2] for m in rows}))
        raise Incompatible(
            f"{architecture.name} has no norm called {', '.join(map(repr, unknown))}.", f"Its norms are {known}."
        )
    return [m for m in rows if any(ends_with(m.name, name) for name in names)]


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Each norm with its gain and offset, and a classification head whole."""
    return [whole(m) for m in chosen(architecture, config)] + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ (gain + offset) over the chosen norms, and the classification head."""
    return sum(site.trained for site in sites(architecture, config))


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` but for its norms.

    Args:
        keep_base: copy them first, so that `disable` works; it costs next to nothing.

    Raises:
        Incompatible: no norms.
    """
    from core.architecture import Architecture

    check_plain(model)
    paths = {m.name for m in chosen(Architecture.of(model), config)}
    parameters = {n: p for n, p in model.named_parameters() if n.rpartition(".")[0] in paths}
    norms = tuple(parameters)
    parameters = train_only(model, parameters)
    attached = Attached(model, parameters, NAME, config, keep_base=keep_base)
    attached.norms = norms
    return attached


class Attached(SavedInPlace):
    """A model whose norms train; see `core.methods.base.Attached`.

    norms: names of the norms' parameters; the others are a classification head's.
    """

    norms: tuple[str, ...] = ()

    def file_name(self) -> str:
        return saved.ADAPTER_WEIGHTS

    def stored_name(self, name: str) -> str:
        if name not in self.norms:
            return saved.PEFT_PREFIX + name
        path, _, last = name.rpartition(".")
        return f"{saved.PEFT_PREFIX}{path}.ln_tuning_layers.{last}"

    def check(self, folder: Path) -> None:
        read_config(folder)

    def adapter_config(self) -> dict[str, Any]:
        paths = list(dict.fromkeys(name.rpartition(".")[0] for name in self.norms))
        return {
            "peft_type": "LN_TUNING",
            **saved.task_fields(self.model),
            **saved.base_fields(self.model),
            "target_modules": shortest_names(paths, [n for n, _ in self.model.named_modules()]),
            "inference_mode": True,
        }


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") == "LN_TUNING"


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter, ours or PEFT's.

    Raises:
        BadInput: no adapter there, or not LN tuning.
    """
    folder = Path(folder)
    record = saved.read_peft(folder, "LN_TUNING")
    own: Config | None = saved.own_settings(folder, NAME)
    if own is not None:
        return own
    names = record.get("target_modules")
    if saved.modules_beside(record) or record.get("exclude_modules") or not isinstance(names, list):
        raise BadInput(
            f"The file {saved.ADAPTER_CONFIG} in {folder.name} asks for something other than named norms.",
            "Merge it with PEFT and use the merged model as base.",
        )
    return Config(",".join(sorted(map(str, names))))
