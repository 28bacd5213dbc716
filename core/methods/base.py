"""The contract that every fine-tuning method fulfils: one file per method, the same conformance suite for all.

A method is a module of this package with the names of `Method` below. What it does to a model is held by an `Attached`:
it knows which parameters train, can switch the change off and on again, fold it into the base, and save and load it.
Methods wrap modules; they never patch a class of somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture


class Attached(Protocol):
    """A model with a method applied to it.

    model: the module to call; the same object that was passed to `apply`, changed in place.
    """

    model: torch.nn.Module

    def trainable_names(self) -> list[str]:
        """Names (in `model.named_parameters()`) of exactly the parameters that train."""

    def rate_factors(self) -> dict[str, float]:
        """Parameters, by name, whose learning rate is a multiple of the run's; those not named have the run's own."""

    def disable(self) -> None:
        """Make the model compute what the base computed before, bit for bit.

        Raises:
            Refused: the method trains the base's own weights and no copy was kept.
        """

    def enable(self) -> None:
        """Undo `disable`."""

    def merge(self) -> torch.nn.Module:
        """Fold the change into the base's weights and return the plain model, without wrappers.

        Raises:
            Refused: the change cannot be folded in (say why).
        """

    def save(self, folder: Path) -> None:
        """Write the change into `folder` (PEFT's file names, key names and config where PEFT has the method)."""

    def load(self, folder: Path) -> None:
        """Read into this model what `save`, or PEFT itself, wrote.

        Raises:
            BadInput: missing files, other shapes, other settings than this model has.
        """


class Method(Protocol):
    """What a module in `core.methods` offers."""

    NAME: str
    TITLE: str
    SUMMARY: str
    PAPER: str
    # The paper's equation, in its letters, and one sentence on what a trained model costs more to run than the base.
    FORMULA: str
    INFERENCE: str
    # What becomes of the base's own weights: "trained" (some of them), "frozen", or "quantized" (frozen, in 4 bits).
    BASE: str
    # What the model computes before the first step: what the "base" does, bit for bit; the same but for "rounding"; or
    # something "other" (prompts that nobody has trained yet).
    START: str
    # Whether `merge` can fold the change into the base's weights, and whether it trains with gradient checkpointing.
    MERGES: bool
    CHECKPOINTS: bool
    # For the sweep on the embedded base: the rates to try, and how many times the usual steps. For other bases: a rate
    # that was published, and where. (A module may have PUBLISHED_ENCODER too, for encoders, where theirs is another.)
    # (A kind of LoRA may have FROZEN too: which matrices of its pairs are saved and do not train.)
    # (A method whose folder holds more than what trains says how many numbers: saved_beside(architecture, config).)
    # (A method that changes no matrix has VECTORS = True: no LoRA can hold what it learns.)
    # (A method that cannot train beside weights in few bits says in CHANGES_WEIGHTS what it does to them.)
    # (A method that trains a prompt, settings.tokens long, says in PROMPT what of: "tokens", which every pass computes
    # before those of the text, or "keys" and values, which every layer looks at. PEFT's file has what came out alone.)
    RATES: tuple[float, ...]
    PATIENCE: int
    PUBLISHED: tuple[float, str]
    Config: type

    def apply(self, model: torch.nn.Module, config: Any, *, keep_base: bool = True) -> Attached:
        """Freeze `model`, attach the method to it in place and return the handle.

        Args:
            keep_base: whether `disable` must work later. A method that trains the base's own weights needs a copy of
                them for that (full fine-tuning: as much memory again); a run that only trains can spare it.

        Raises:
            Incompatible: nothing would train, or the base lacks what the method needs (one sentence and advice).
        """

    def count(self, architecture: Architecture, config: Any) -> int:
        """Number of trained parameters, as a closed form over the module table; imports no torch.

        Raises:
            Incompatible: as `apply`.
        """

    def sites(self, architecture: Architecture, config: Any) -> list[Site]:
        """Where those parameters are, module by module; they add up to `count`."""

    def reads(self, record: Mapping[str, Any]) -> bool:
        """Whether `record`, a PEFT `adapter_config.json`, is of this method."""

    def read_config(self, folder: Path) -> Any:
        """The settings of what was saved in `folder`, as an instance of Config.

        Raises:
            BadInput: nothing there that this method could read.
        """


@dataclass(frozen=True)
class Site:
    """Where a method puts its parameters, for diagrams and tables: module name, shape of the base matrix, trained."""

    module: str
    shape: tuple[int, ...]
    trained: int
