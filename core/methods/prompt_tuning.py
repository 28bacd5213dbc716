"""Prompt tuning: a few trained vectors stand before every text, and nothing else trains.

    X = [P; E(x)]        P: p × d, trained;  E: the model's embedding, frozen

(Lester et al. 2021, section 2.) The model is told what to do in words that no vocabulary has. p·d numbers per task;
many tasks can share one model in one batch. On small models it falls far behind (their figure 1).
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
    import torch

    from core.architecture import Architecture

NAME = "prompt_tuning"
TITLE = "Prompt tuning"
SUMMARY = "Trains a few vectors that stand before the text; the model itself does not change at all."
PAPER = "Lester et al., 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv:2104.08691"
FORMULA = "X = [P; E(x)]        P trained"
BASE = "frozen"
START = "other"
MERGES = False
CHECKPOINTS = True
PROMPT = virtual.AS_TOKENS
RATES = (1e-2, 3e-2, 1e-1)
PATIENCE = 3
PUBLISHED = (3e-1, "Lester et al. 2021, arXiv:2104.08691, section 3 (Adafactor on T5)")


@dataclass(frozen=True)
class Config:
    """Settings of prompt tuning."""

    tokens: int = knob(
        20, "p: how many trained tokens stand before the text; each takes one position of the context.",
        unit="tokens", low=1, high=1024, warn_high=200, folded=False,
        why="The paper finds little gain beyond 20.",
    )  # fmt: skip
    start: str = knob(
        "vocabulary", "What the tokens start as: words of the vocabulary, the words of a text, or random numbers.",
        choices=("vocabulary", "text", "random"),
        why="The paper finds real words better than random numbers, most of all on small models.",
    )  # fmt: skip
    text: str = knob(
        "", "The text that the tokens start as, repeated or cut to their number (for start=text).",
        why="Only used where it is asked for.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """What is wrong with the settings whatever the base."""
    if config.start == "text" and not config.text.strip():
        return ["start is text, but text is empty; write the instruction that the tokens are to start as."]
    return []


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """The trained tokens, which stand before what the embedding gives out; before both texts of an encoder-decoder."""
    width, many = virtual.embedding_width(architecture), virtual.vectors(architecture, config.tokens)
    return [Site(virtual.TOKENS, (many, width), many * width)]


def count(architecture: Architecture, config: Config) -> int:
    """p·d; 2·p·d in an encoder-decoder."""
    return sum(site.trained for site in sites(architecture, config))


def first_vectors(model: Any, config: Config) -> torch.Tensor:
    """What the tokens start as, (tokens, width), float32.

    Raises:
        Incompatible: a text is asked for and the model has no tokenizer with it.
    """
    import torch

    embedding = model.get_input_embeddings()
    table = embedding.weight.detach()
    if config.start == "random":
        drawn = torch.randn(config.tokens, table.shape[1])
        return drawn.to(table.device) * (table.float().std() if not table.is_meta else 1.0)
    if config.start == "text":
        from core.base import TOKENIZER

        tokenizer = getattr(model, TOKENIZER, None)
        if tokenizer is None:
            raise Incompatible("This model came without a tokenizer, so no text can be turned into tokens.")
        ids = tokenizer(config.text, add_special_tokens=False)["input_ids"]
        chosen = torch.tensor([ids[i % len(ids)] for i in range(config.tokens)])
    else:
        chosen = torch.randint(len(table), (config.tokens,), device="cpu")
    # Through the module rather than its table: some embeddings scale what they look up.
    with torch.no_grad():
        started: torch.Tensor = embedding(chosen.to(table.device)).float()
        return started


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` and put trained tokens before every text.

    Args:
        keep_base: of no effect here: the base is never changed.

    Raises:
        Incompatible: no token embedding; or a text without a tokenizer.
    """
    from core.architecture import Architecture
    from core.layers.prompts import SoftPrompt

    count(Architecture.of(model), config)
    virtual.check(model)
    prompt = SoftPrompt(first_vectors(model, config))
    virtual.put(model, prompt)
    return Attached(model, prompt, NAME, config)


class Attached(virtual.Attached):
    """A model with a soft prompt; see `core.methods.base.Attached`."""

    PEFT_TYPE = "PROMPT_TUNING"
    ALSO = ("P_TUNING",)  # in PEFT's folder the computed tokens alone

    def peft_fields(self) -> dict[str, Any]:
        return {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "tokenizer_name_or_path": None}


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") in (Attached.PEFT_TYPE, *Attached.ALSO)


def read_config(folder: Path) -> Config:
    """The settings of a saved prompt, ours or PEFT's.

    Raises:
        BadInput: none there, or of another type.
    """
    config: Config = saved.own_settings(folder, NAME) or Config(
        virtual.tokens_in(folder, Attached.PEFT_TYPE, *Attached.ALSO)
    )
    return config


__all__ = [
    "BASE", "CHECKPOINTS", "FORMULA", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE", "PROMPT", "PUBLISHED",
    "RATES", "START", "SUMMARY", "TITLE", "Attached", "Config", "apply", "count", "first_vectors", "problems",
    "read_config", "reads", "sites",
]  # fmt: skip
