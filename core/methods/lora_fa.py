"""LoRA-FA: LoRA whose A stays as it was drawn; B alone trains.

    h = W₀x + (α/r)·BAx        A: r × in, random and frozen;  B: out × r, zero at the start

(Zhang et al. 2023, section 3.) ∂B = s·Gᵀ·(xAᵀ) needs the r numbers xAᵀ of every token, where LoRA keeps all of x for
∂A. So less is kept of the forward pass, and half as much trains; in return the change can only read its input through
the r directions that chance gave it. What is saved is an ordinary LoRA adapter.

As in the paper, section 3, B's gradient goes to the optimizer as it is: ∂B = s·G·Aᵀ, with G what full fine-tuning would
see. PEFT's `create_lorafa_optimizer`, which names the same paper, also freezes A, but hands its AdamW another one:

    g = ∂B·(AAᵀ)⁻¹ / s²        so that  s·g·A = G·Aᵀ(AAᵀ)⁻¹A,  the part of G that lies in A's rows

Where the rows of A are orthogonal and of one length the two differ by a factor, which AdamW does not see; otherwise
they go different ways. Both are held by tests against PEFT (tests/oracles/test_peft_family.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.methods import lora, saved
from core.methods.base import Site
from core.methods.lora import BASE, CHECKPOINTS, MERGES, START, biases, problems, rank_of, targets
from core.methods.modules import head_sites

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture

NAME = "lora_fa"
TITLE = "LoRA-FA"
SUMMARY = "LoRA with A frozen as it was drawn: half the trained parameters, and less kept for the backward pass."
PAPER = "Zhang et al., 2023, LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models, arXiv:2308.03303"
FORMULA = "h = W₀x + (α/r)·BAx        A frozen"
INFERENCE = lora.INFERENCE
RATES = (1e-3, 3e-3, 6e-3)
PATIENCE = 1
FROZEN = ("lora_A",)
PUBLISHED = (2e-4, "as LoRA, of which it trains one half: github.com/microsoft/LoRA, examples/NLG/README.md")
PUBLISHED_ENCODER = (5e-4, "as LoRA: Hu et al. 2021, arXiv:2106.09685, table 9: RoBERTa-base")


@dataclass(frozen=True)
class Config(lora.Config):
    """Settings of LoRA."""


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Each wrapped matrix (out × in) and the r·out parameters of its B; then the biases, if they train, and a
    classification head."""
    halves = [
        Site(m.name, (m.out_features, m.in_features), rank_of(config, m.name) * m.out_features)
        for m in targets(architecture, config)
    ]
    return halves + [Site(m.name, (m.bias,), m.bias) for m in biases(architecture, config)] + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ r·out over the wrapped matrices, the biases that train, and a classification head."""
    return sum(site.trained for site in sites(architecture, config))


def saved_beside(architecture: Architecture, config: Config) -> int:
    """The A's, which stay as they were drawn: nobody could draw them again."""
    return lora.count(architecture, config) - count(architecture, config)


class Attached(lora.Attached):
    """As LoRA's; A is saved with B, since nobody could draw it again, and does not train."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for layer in self.layers.values():
            for name in FROZEN:
                layer.get_submodule(name).requires_grad_(False)

    def trainable_names(self) -> list[str]:
        """Names of the B's, and of the model's own parameters that train with them."""
        return [name for name in super().trainable_names() if not name.endswith(tuple(f"{n}.weight" for n in FROZEN))]


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """As LoRA's `apply`.

    Raises:
        Incompatible: as LoRA.
    """
    attached: Attached = lora.attach(model, config, NAME, lora.plain_pair, keep_base=keep_base, kind=Attached)
    return attached


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT's file does not say what trained: an adapter without our record is LoRA."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter.

    Raises:
        BadInput: as LoRA's.
    """
    plain = lora.read_config(folder, kind=Config)
    config: Config = saved.own_settings(folder, NAME) or plain
    return config


__all__ = [
    "BASE", "CHECKPOINTS", "FORMULA", "FROZEN", "INFERENCE", "MERGES", "NAME", "PAPER", "PATIENCE", "PUBLISHED",
    "RATES", "START", "SUMMARY", "TITLE", "Attached", "Config", "apply", "count", "problems", "read_config", "reads",
    "saved_beside", "sites",
]  # fmt: skip
