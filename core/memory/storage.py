"""What stays on disk: the base, what a method saves for each task, and what it takes to go on with a run.

    full fine-tuning   n tasks are n whole models
    an adapter         one base, and n small files

Bytes are of the tensors; a file's head adds some kibibytes. What trains is saved in 32 bits, a whole model for use in
16 bits (2 bytes a parameter), which is how models are published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.methods import METHODS
from core.units import DTYPE_BYTES

if TYPE_CHECKING:
    from core.architecture import Architecture

WHOLE = DTYPE_BYTES["bfloat16"]
TRAINED = DTYPE_BYTES["float32"]
ADAM_STATES = 2  # running means of the gradient and of its square, as large as what trains


@dataclass(frozen=True)
class Storage:
    """In bytes. base: the published model. adapter: what is saved for one task. resume: weights that train and the
    optimizer's states, to go on after a break. tasks: of them. total: on disk for all. whole: of as many whole models.
    """

    base: int
    adapter: int
    resume: int
    tasks: int

    @property
    def total(self) -> int:
        """The base once, and each task's file; whole models where a method saves those."""
        return self.tasks * self.adapter if self.adapter >= self.base else self.base + self.tasks * self.adapter

    @property
    def whole(self) -> int:
        """Of as many fully fine-tuned models."""
        return self.tasks * self.base

    @property
    def saved_share(self) -> float:
        """Of `whole`, 0..1: how much is spared."""
        return 1 - self.total / self.whole


def adapter_numbers(table: Architecture, method: str, settings: Any) -> int:
    """How many numbers are saved for one task.

    What trains, and what the method says that it saves beside that (`saved_beside` of its module).

    Raises:
        Incompatible: as the method's `count`.
    """
    module = METHODS[method]
    beside: Callable[[Architecture, Any], int] | None = getattr(module, "saved_beside", None)
    return module.count(table, settings) + (beside(table, settings) if beside is not None else 0)


def storage(table: Architecture, method: str, settings: Any, tasks: int = 1) -> Storage:
    """What a method leaves on disk.

    Raises:
        Incompatible: as the method's `count`.
    """
    base = round(table.total * WHOLE)
    trained = METHODS[method].count(table, settings)
    adapter = base if method == "full" else round(adapter_numbers(table, method, settings) * TRAINED)
    return Storage(base, adapter, round(trained * TRAINED * (1 + ADAM_STATES)), tasks)


__all__ = ["Storage", "adapter_numbers", "storage"]
