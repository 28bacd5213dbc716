"""IA3: three vectors per layer that make keys, values and the MLP's inner activations larger or smaller.

    softmax(Q(l_k ⊙ K)ᵀ/√d)(l_v ⊙ V)        (l_ff ⊙ γ(W₁x))W₂        l: ones at the start

(Liu et al. 2022, section 3.3.) A few hundred numbers per layer, among the smallest of all methods, and all of them can
be multiplied into the weights afterwards. Keys and values are scaled where they come out of their matrices, the inner
activations where they go into the second matrix of the MLP. Where keys and values come out of one matrix together with
the queries (GPT-2, GPT-NeoX), PEFT scales all three, and so does this.
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
from core.methods.modules import (
    FUSED,
    KEYS,
    MLP_OUTPUTS,
    VALUES,
    check_plain,
    check_readable,
    ends_with,
    head_sites,
    is_one_of,
    linears,
    named_linears,
    names_of,
)
from core.methods.wrapped import Wrapped, shortest_names, wrap

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "ia3"
TITLE = "IA3"
SUMMARY = "Trains vectors that rescale keys, values and the MLP's inner activations: the fewest parameters of all."
PAPER = "Liu et al., 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper, arXiv:2205.05638"
FORMULA = "softmax(Q(l_k ⊙ K)ᵀ/√d)(l_v ⊙ V);  (l_ff ⊙ γ(W₁x))W₂"
INFERENCE = "Nothing once merged; unmerged, one multiplication per scaled vector."
BASE = "frozen"
START = "base"
MERGES = True
CHECKPOINTS = True
RATES = (1e-2, 3e-2, 1e-1)
PATIENCE = 2
PUBLISHED = (3e-3, "Liu et al. 2022, arXiv:2205.05638, section 3.2 (T-Few on T0)")

AUTO = "auto"


@dataclass(frozen=True)
class Config:
    """Settings of IA3."""

    target_modules: str = knob(
        AUTO, "Which layers are scaled: auto (keys, values and the MLP's second matrix), or the ends of module names.",
        why="The three places of the paper; scaling more of them did not help there.",
    )  # fmt: skip
    feedforward_modules: str = knob(
        AUTO, "Which of them are scaled at their inputs: auto (the MLP's second matrix), or the ends of module names.",
        why="The inner activations of the MLP are the inputs of its second matrix.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """What is wrong with the settings whatever the base."""
    return [] if names_of(config.target_modules) else ["target_modules names nothing; give auto, or names."]


def targets(architecture: Architecture, config: Config) -> list[tuple[Module, bool]]:
    """The layers that are scaled, in the model's order, and whether at their inputs.

    Raises:
        Incompatible: none, or an unknown name.
    """
    if config.target_modules.lower() == AUTO:
        chosen = linears(architecture, (*KEYS, *VALUES, *FUSED, *MLP_OUTPUTS))
        if not chosen:
            known = ", ".join(sorted({m.name.rpartition(".")[2] for m in architecture.linears()})) or "none"
            raise Incompatible(
                f"{architecture.name} has no layers known to make keys, values or the MLP's output.",
                f"Name them in target_modules; its linear layers are {known}.",
            )
    else:
        chosen = named_linears(architecture, config.target_modules, TITLE)
    if config.feedforward_modules.lower() == AUTO:
        return [(m, is_one_of(m.name, MLP_OUTPUTS)) for m in chosen]
    names = names_of(config.feedforward_modules)
    lost = [name for name in names if not any(ends_with(m.name, name) for m in chosen)]
    if lost:
        raise Incompatible(
            f"feedforward_modules names {', '.join(lost)}, which is not among the scaled layers.",
            f"Scaled are {', '.join(sorted({m.name.rpartition('.')[2] for m in chosen}))}.",
        )
    return [(m, any(ends_with(m.name, name) for name in names)) for m in chosen]


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Each scaled matrix and the length of its vector; then a classification head."""
    scaled = [
        Site(m.name, (m.out_features, m.in_features), m.in_features if inputs else m.out_features)
        for m, inputs in targets(architecture, config)
    ]
    return scaled + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ out over keys and values + Σ in over the MLPs' second matrices, and a classification head."""
    return sum(site.trained for site in sites(architecture, config))


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` and put a vector beside every chosen layer.

    Args:
        keep_base: copy the classification head, if there is one; the rest of the base is never changed.

    Raises:
        Incompatible: no such layers, an unknown name, or a base that is stored in a way that cannot be read.
    """
    from core.architecture import Architecture
    from core.layers.scaled import Scaled

    check_plain(model)
    chosen = targets(Architecture.of(model), config)
    check_readable(model, [m.name for m, _ in chosen], TITLE)
    layers = {m.name: Scaled(model.get_submodule(m.name), inputs=inputs) for m, inputs in chosen}
    wrap(model, layers)
    return Attached(model, config, NAME, layers, keep_base=keep_base)


class Attached(Wrapped):
    """A model with scaled layers; see `core.methods.base.Attached`."""

    def check(self, folder: Path) -> None:
        read_config(folder)

    def adapter_config(self) -> dict[str, Any]:
        from core.layers.low_rank import is_conv1d

        names = [n for n, _ in self.model.named_modules()]
        feed = [path for path, layer in self.layers.items() if layer.inputs]
        all_short = shortest_names(list(self.layers), names)
        feed_short = shortest_names(feed, names)
        # PEFT wants the names of the one list among those of the other.
        if not set(feed_short) <= set(all_short):
            all_short, feed_short = list(self.layers), feed
        return {
            "peft_type": "IA3",
            **saved.task_fields(self.model),
            **saved.base_fields(self.model),
            "target_modules": all_short,
            "feedforward_modules": feed_short,
            "fan_in_fan_out": all(is_conv1d(layer.base_layer) for layer in self.layers.values()),
            "init_ia3_weights": True,
            "inference_mode": True,
        }


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") == "IA3"


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter, ours or PEFT's.

    Raises:
        BadInput: no adapter there, or not IA3.
    """
    folder = Path(folder)
    record = saved.read_peft(folder, "IA3")
    own: Config | None = saved.own_settings(folder, NAME)
    if own is not None:
        return own
    if saved.modules_beside(record) or record.get("exclude_modules"):
        raise BadInput(
            f"The adapter in {folder.name} trains or leaves out whole modules, which is not known here.",
            "Merge it with PEFT and use the merged model as base.",
        )
    lists = [record.get(key) for key in ("target_modules", "feedforward_modules")]
    if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in lists):
        raise BadInput(f"The file {saved.ADAPTER_CONFIG} in {folder.name} lacks usable target_modules.")
    return Config(*(",".join(sorted(names)) for names in lists))  # type: ignore[arg-type]
