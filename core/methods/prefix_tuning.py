"""Prefix tuning: trained keys and values stand before the text in every layer's attention.

    head = Attn(xW_q, [P_k; CW_k], [P_v; CW_v])        P_k, P_v: p × d per layer, trained

(Li and Liang 2021, section 4; in this form He et al. 2022, equation 7.) Where prompt tuning speaks to the first layer
only, a prefix speaks to all of them: 2·p·L·d numbers. The paper computes them from a smaller matrix by a network while
training, because training them directly was unstable (section 4.3); that is the setting `projection`, and afterwards
only what comes out is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import Incompatible
from core.methods import saved, virtual
from core.methods.base import Site
from core.methods.virtual import INFERENCE

if TYPE_CHECKING:
    from core.architecture import Architecture

NAME = "prefix_tuning"
TITLE = "Prefix tuning"
SUMMARY = "Trains keys and values that stand before the text in the attention of every layer."
PAPER = "Li and Liang, 2021, Prefix-Tuning: Optimizing Continuous Prompts for Generation, arXiv:2101.00190"
FORMULA = "head = Attn(xW_q, [P_k; CW_k], [P_v; CW_v])        P_k, P_v trained"
BASE = "frozen"
START = "other"
MERGES = False
CHECKPOINTS = False  # recomputing a block throws the cache away that the prefix stands in
PROMPT = virtual.AS_KEYS
RATES = (3e-3, 1e-2, 3e-2)
PATIENCE = 2
PUBLISHED = (5e-5, "Li and Liang 2021, arXiv:2101.00190, section 5.3: GPT-2 medium and large")


@dataclass(frozen=True)
class Config:
    """Settings of prefix tuning."""

    tokens: int = knob(
        10, "p: how many trained positions stand before the text in every layer.", unit="tokens", low=1, high=1024,
        warn_high=200, folded=False, why="The paper's best length for table-to-text.",
    )  # fmt: skip
    projection: int = knob(
        0, "Inner width of the network that computes keys and values while training; 0 trains them directly.",
        low=0, high=8192, warn_high=2048,
        why="0: on small models training directly is stable enough, and it is by far the fewest parameters.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """Nothing that the ranges do not say."""
    return []


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """The keys and values, 2·p·L·d in all; or what computes them.

    Raises:
        Incompatible: the model does not say how large its keys and values are.
    """
    width = virtual.embedding_width(architecture)
    numbers = architecture.cache_numbers
    if not numbers:
        raise Incompatible(
            f"{architecture.name} does not say how many keys and values a token leaves behind.",
            "Choose a decoder with an ordinary key-value cache.",
        )
    p, h = config.tokens, config.projection
    if not h:
        return [Site(virtual.TOKENS, (p, numbers), p * numbers)]
    return [
        Site(virtual.TOKENS, (p, width), p * width),
        Site(f"{virtual.MODULE}.transform", (width, h, numbers), (width + 1) * h + (h + 1) * numbers),
    ]


def count(architecture: Architecture, config: Config) -> int:
    """2·p·L·d, d being the width of the keys; or p·w + (w + 1)·h + (h + 1)·2·L·d with a projection."""
    return sum(site.trained for site in sites(architecture, config))


def saved_beside(architecture: Architecture, config: Config) -> int:
    """Where a network computes the keys and values, those too, so that PEFT can read them."""
    return config.tokens * architecture.cache_numbers if config.projection else 0


def apply(model: Any, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` and put trained keys and values before every text.

    Args:
        keep_base: of no effect here: the base is never changed.

    Raises:
        Incompatible: no token embedding, or no ordinary key-value cache.
    """
    from core.architecture import Architecture, cache_shape
    from core.layers.prompts import Prefix

    architecture = Architecture.of(model)
    count(architecture, config)
    virtual.check(model)
    layers, heads, size = cache_shape(model.config)
    width = virtual.embedding_width(architecture)
    device = model.get_input_embeddings().weight.device
    prompt = Prefix(
        config.tokens, layers, heads, size, projection=config.projection or None, width=width, device=device
    )
    virtual.put(model, prompt)
    return Attached(model, prompt, NAME, config)


class Attached(virtual.Attached):
    """A model with a prefix; see `core.methods.base.Attached`."""

    PEFT_TYPE = "PREFIX_TUNING"

    def peft_fields(self) -> dict[str, Any]:
        prompt: Any = self.prompt
        # PEFT's width and heads are those of the keys, where several queries share one.
        return {
            "num_attention_heads": prompt.heads,
            "token_dim": prompt.heads * prompt.size,
            "encoder_hidden_size": self.config.projection or None,
            "prefix_projection": False,
        }

    def without_encoder(self) -> str:
        return "Set projection to 0: then the keys and values themselves are trained on."


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") == "PREFIX_TUNING"


def read_config(folder: Path) -> Config:
    """The settings of a saved prefix, ours or PEFT's (whose folder holds keys and values, not what computed them).

    Raises:
        BadInput: none there, or of another type.
    """
    config: Config = saved.own_settings(folder, NAME) or Config(virtual.tokens_in(folder, Attached.PEFT_TYPE))
    return config


__all__ = [
    "BASE", "CHECKPOINTS", "FORMULA", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE", "PROMPT", "PUBLISHED",
    "RATES", "START", "SUMMARY", "TITLE", "Attached", "Config", "apply", "count", "problems", "read_config",
    "reads", "saved_beside", "sites",
]  # fmt: skip
