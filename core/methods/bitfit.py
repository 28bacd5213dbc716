"""BitFit: only the bias vectors train.

    Q(x) = W_q·x + b_q,  and so for K, V, the MLP and the layer norms        W frozen, b trained

(Ben Zaken et al. 2021, section 3.) No module is added and no shape changes. It was published on encoders of BERT's
kind, where the classification head trains beside the biases; on causal language models the biases train alone. It needs
a model that has them: many newer families (Llama, Mistral, Gemma) were trained without, and are refused rather than
given new ones, because a new bias would be another method.

PEFT has no BitFit, so the folder is of our own making: `bitfit.safetensors` holds the trained biases under their names
in the model (the values themselves, not differences, so that loading is exact), `deltalab.json` the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import Incompatible
from core.methods import saved
from core.methods.base import Site
from core.methods.in_place import SavedInPlace, train_only
from core.methods.modules import check_plain, ends_with, head_sites, names_of

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "bitfit"
TITLE = "BitFit"
SUMMARY = "Trains only the bias vectors: well under one per cent of the weights, and no new modules."
PAPER = "Ben Zaken et al., 2021, BitFit: Simple Parameter-efficient Fine-tuning, arXiv:2106.10199"
FORMULA = "Q(x) = W_q·x + b_q        W frozen, b trained"
INFERENCE = "Nothing: the biases were there before."
BASE = "trained"
START = "base"
MERGES = True
CHECKPOINTS = True
RATES = (1e-2, 3e-2)
PATIENCE = 2  # few parameters move slowly
VECTORS = True
PUBLISHED = (1e-3, "the BitFit authors' example, BERT-base: github.com/arendu/BitFit, README")

ALL = "all"
HAVE_BIASES = (
    "Models with biases are the embedded base, GPT-2, OPT, Phi-1.5 and Phi-2, Pythia, BLOOM, (in q, k and v) Qwen2; "
    "among encoders BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT and DeBERTa; for others use lora."
)


@dataclass(frozen=True)
class Config:
    """Settings of BitFit."""

    biases: str = knob(
        ALL, "Which biases train: all, or the ends of the names of modules that have one, such as q_proj,fc2.",
        why="The paper trains all; its smaller variant trains only the query biases and those of the second MLP layer.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """What is wrong with the settings whatever the base."""
    return [] if names_of(config.biases) else ["biases names nothing; give all, or names such as q_proj,fc2."]


def chosen(architecture: Architecture, config: Config) -> list[Module]:
    """The modules whose bias trains, in the model's order.

    Raises:
        Incompatible: the model has no biases, or none where the settings ask for one.
    """
    biased = [m for m in architecture.modules if m.bias and m.name not in architecture.classifier]
    if not biased:
        raise Incompatible(f"{architecture.name} has no bias vectors, so BitFit has nothing to train.", HAVE_BIASES)
    if config.biases.lower() == ALL:
        return biased
    names = names_of(config.biases)
    unknown = [name for name in names if not any(ends_with(m.name, name) for m in biased)]
    if unknown:
        known = ", ".join(sorted({m.name.rpartition(".")[2] for m in biased}))
        raise Incompatible(
            f"{architecture.name} has no bias in a module called {', '.join(map(repr, unknown))}.",
            f"Biases are in {known}.",
        )
    return [m for m in biased if any(ends_with(m.name, name) for name in names)]


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """The bias vector of each chosen module, and a classification head whole."""
    return [Site(m.name, (m.bias,), m.bias) for m in chosen(architecture, config)] + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ of the lengths of the chosen bias vectors, and the classification head."""
    return sum(site.trained for site in sites(architecture, config))


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> SavedInPlace:
    """Freeze `model` but for its biases and, if it has one, its classification head.

    Args:
        keep_base: copy the biases first, so that `disable` works; it costs next to nothing.

    Raises:
        Incompatible: no biases.
    """
    from core.architecture import Architecture, is_bias

    check_plain(model)
    paths = {m.name for m in chosen(Architecture.of(model), config)}
    parameters = {n: p for n, p in model.named_parameters() if is_bias(n) and n.rpartition(".")[0] in paths}
    parameters = train_only(model, parameters)
    return SavedInPlace(model, parameters, NAME, config, keep_base=keep_base)


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT does not have BitFit."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter.

    Raises:
        BadInput: there is no BitFit adapter in `folder`.
    """
    config: Config = saved.read_settings(folder, NAME)
    return config
