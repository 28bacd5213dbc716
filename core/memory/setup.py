"""What the memory of a training step depends on: the question that trace and estimate answer. Imports no torch.

A `Setup` says how a model is trained and on what kind of device; the model itself comes beside it, as a transformers
configuration. `Device` is a CPU or a card by its compute capability: that decides the number format (bfloat16 from 8.0
on, as `core.hardware.precision_choice` rules), which attention kernel runs, and how the allocator rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.config import RunConfig
from core.errors import BadInput
from core.hardware import BFLOAT16_CAPABILITY
from core.memory.stack import OWN, Stack
from core.methods import METHODS

# Blocks that CUDA's caching allocator hands out are multiples of so many bytes (c10/cuda/CUDACachingAllocator.cpp,
# kMinBlockSize); the CPU's are as large as asked for.
CUDA_BLOCK_BYTES = 512


class Pass(NamedTuple):
    """The sizes of one pass of a step. answers: tokens with a loss (None: all that can have one)."""

    rows: int
    tokens: int
    answers: int | None


@dataclass(frozen=True)
class Device:
    """A kind of device. capability: (major, minor) of a CUDA card, None for a CPU."""

    capability: tuple[int, int] | None = None

    @classmethod
    def of(cls, text: str | None) -> Device:
        """'8.9' -> a card of that compute capability; None or 'cpu' -> a CPU.

        Raises:
            BadInput: neither.
        """
        if text is None or text == "cpu":
            return cls()
        major, dot, minor = text.partition(".")
        if not (dot and major.isdigit() and minor.isdigit()):
            raise BadInput(f"{text!r} is no compute capability.", "They read like 8.0 or 12.0.")
        return cls((int(major), int(minor)))

    @property
    def is_cuda(self) -> bool:
        """Whether it is a card."""
        return self.capability is not None

    @property
    def precision(self) -> str:
        """The number format that training takes by itself there ('float32' for a CPU: there it is measured)."""
        return "bfloat16" if self.capability is not None and self.capability >= BFLOAT16_CAPABILITY else "float32"

    @property
    def block_bytes(self) -> int:
        """Sizes are rounded up to multiples of this."""
        return CUDA_BLOCK_BYTES if self.is_cuda else 1

    def __str__(self) -> str:
        return "cpu" if self.capability is None else ".".join(map(str, self.capability))


@dataclass(frozen=True)
class Setup:
    """One training step.

    method, settings: the fine-tuning method and its Config. batch, length: rows and tokens of one pass. answers: how
    many of the batch's tokens have a loss (None: all that can, batch × (length − 1)). optimizer, accumulation,
    checkpointing: as in TrainConfig. precision: what the passes compute in. device: where. attention: 'auto' chooses as
    training does; or a name that transformers knows ('eager', 'sdpa'). stack: the program that trains.
    """

    method: str
    settings: Any
    batch: int
    length: int
    answers: int | None = None
    optimizer: str = "adamw"
    accumulation: int = 1
    checkpointing: bool = False
    precision: str = "float32"
    device: Device = Device()
    attention: str = "auto"
    stack: Stack = OWN

    @classmethod
    def of(
        cls, config: RunConfig, batch: int, length: int, device: Device | None = None, answers: int | None = None,
        stack: Stack | None = None,
    ) -> Setup:  # fmt: skip
        """The step of a run with these settings, on that device.

        Raises:
            BadInput: no rows, no tokens, more answers than there are tokens, or settings that cannot be run.
        """
        from core.config import problems

        # Data, base and number of steps are of no interest here.
        wrong = [p for p in problems(config) if "task or a data file" not in p]
        if batch < 1 or length < 2:
            wrong.append("A step needs at least one row of two tokens.")
        if answers is not None and not 1 <= answers <= batch * (length - 1):
            wrong.append(f"Of {batch} rows of {length} tokens 1 to {batch * (length - 1)} tokens can be answers.")
        if wrong:
            raise BadInput(" ".join(wrong))
        device = device or Device()
        loop = config.train
        settings = config.settings if config.settings is not None else METHODS[config.method].Config()
        return cls(
            method=config.method, settings=settings, batch=batch, length=length, answers=answers,
            optimizer=loop.optimizer, accumulation=loop.accumulation,
            checkpointing=loop.gradient_checkpointing,
            precision=device.precision if loop.precision == "auto" else loop.precision, device=device,
            stack=stack or OWN,
        )  # fmt: skip

    @property
    def answer_tokens(self) -> int:
        """Tokens with a loss in one pass."""
        return self.batch * (self.length - 1) if self.answers is None else self.answers

    @property
    def rank(self) -> int | None:
        """The method's rank, if it has one."""
        return getattr(self.settings, "rank", None)

    def with_sizes(self, batch: int, length: int, answers: int | None, rank: int | None = None) -> Setup:
        """The same step at another size."""
        settings = self.settings if rank is None else dataclasses.replace(self.settings, rank=rank)
        return dataclasses.replace(self, batch=batch, length=length, answers=answers, settings=settings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse."""
        # (Not dataclasses.asdict, which copies every value deeply: this is asked at each move of a slider.)
        record = _flat(self) | {"settings": _flat(self.settings), "device": str(self.device)}
        record.pop("stack")
        changes = self.stack.changes()
        return record | ({"stack": changes} if changes else {})

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Setup:
        """Read what `to_dict` wrote."""
        settings = METHODS[record["method"]].Config(**record["settings"])
        stack = Stack.from_dict(record.get("stack", {}))
        return cls(**{**record, "settings": settings, "device": Device.of(record["device"]), "stack": stack})


def _flat(one: Any) -> dict[str, Any]:
    return {f.name: getattr(one, f.name) for f in dataclasses.fields(one)}


__all__ = ["CUDA_BLOCK_BYTES", "Device", "Pass", "Setup"]
