"""P-tuning: as prompt tuning, with the tokens computed by a small network that trains with them.

    X = [P; E(x)],  P = MLP(Z)        Z: p × d and the MLP trained;  MLP: d → h → h → d with ReLU

(Liu et al. 2021, section 2.2, whose network is an LSTM followed by an MLP; PEFT's default is the MLP alone, as here.)
Tokens that are trained one by one are hard to move together; through a common network they are. After training only
what came out is needed: p·d numbers, as in prompt tuning. The folder holds those for PEFT, and the network beside them
for going on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.methods import saved, virtual
from core.methods.base import Site
from core.methods.virtual import INFERENCE

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture

NAME = "p_tuning"
TITLE = "P-tuning"
SUMMARY = "Prompt tuning whose vectors come out of a small trained network, which makes them easier to train."
PAPER = "Liu et al., 2021, GPT Understands, Too, arXiv:2103.10385"
FORMULA = "X = [P; E(x)],  P = MLP(Z)        Z and the MLP trained"
BASE = "frozen"
START = "other"
MERGES = False
CHECKPOINTS = True
PROMPT = virtual.AS_TOKENS
RATES = (1e-3, 3e-3, 1e-2)
PATIENCE = 3
PUBLISHED = (1e-5, "Liu et al. 2021, arXiv:2103.10385, section 4.1 (the smallest of the rates searched)")


@dataclass(frozen=True)
class Config:
    """Settings of P-tuning."""

    tokens: int = knob(
        20, "p: how many trained tokens stand before the text; each takes one position of the context.",
        unit="tokens", low=1, high=1024, warn_high=200, folded=False, why="As in prompt tuning.",
    )  # fmt: skip
    hidden: int = knob(
        128, "h: inner width of the network that makes the tokens.", low=1, high=8192, warn_high=2048,
        why="Half of the embedded base's width. It costs nothing once trained.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """Nothing that the ranges do not say."""
    return []


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """What the tokens are made from, and the network that makes them."""
    d, h, many = virtual.embedding_width(architecture), config.hidden, virtual.vectors(architecture, config.tokens)
    return [
        Site(virtual.TOKENS, (many, d), many * d),
        Site(f"{virtual.MODULE}.encoder", (d, h, h, d), (d + 1) * h + (h + 1) * h + (h + 1) * d),
    ]


def count(architecture: Architecture, config: Config) -> int:
    """p·d + (d + 1)·h + (h + 1)·h + (h + 1)·d; with 2·p·d in an encoder-decoder."""
    return sum(site.trained for site in sites(architecture, config))


def saved_beside(architecture: Architecture, config: Config) -> int:
    """The tokens that the network makes, p·d, so that PEFT can read them."""
    return virtual.vectors(architecture, config.tokens) * virtual.embedding_width(architecture)


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` and put computed tokens before every text.

    Args:
        keep_base: of no effect here: the base is never changed.

    Raises:
        Incompatible: no token embedding.
    """
    import torch
    from torch import nn

    from core.architecture import Architecture
    from core.layers.prompts import SoftPrompt

    width = virtual.embedding_width(Architecture.of(model))
    virtual.check(model)
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    h = config.hidden
    # Drawn on the CPU whatever the device, so that a seed means the same weights everywhere; named as PEFT's.
    encoder = nn.Sequential(
        nn.Linear(width, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, width)
    ).to(table.device)  # fmt: skip
    prompt = SoftPrompt(torch.randn(config.tokens, width).to(table.device), encoder)
    virtual.put(model, prompt)
    return Attached(model, prompt, NAME, config)


class Attached(virtual.Attached):
    """A model with a computed soft prompt; see `core.methods.base.Attached`."""

    PEFT_TYPE = "P_TUNING"

    def peft_fields(self) -> dict[str, Any]:
        return {
            "encoder_reparameterization_type": "MLP",
            "encoder_hidden_size": self.config.hidden,
            "encoder_num_layers": 2,
            "encoder_dropout": 0.0,
        }

    def without_encoder(self) -> str:
        return "Load it as a prompt_tuning adapter: without the encoder that is what it is."


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT's own folders hold no encoder: without our record they are prompt tuning."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved prompt.

    Raises:
        BadInput: none of ours in `folder`.
    """
    saved.read_peft(folder, Attached.PEFT_TYPE)
    config: Config = saved.read_settings(folder, NAME)
    return config


__all__ = [
    "BASE", "CHECKPOINTS", "FORMULA", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE", "PROMPT", "PUBLISHED",
    "RATES", "START", "SUMMARY", "TITLE", "Attached", "Config", "apply", "count", "problems", "read_config",
    "reads", "saved_beside", "sites",
]  # fmt: skip
