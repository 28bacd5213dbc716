"""Figures as claims show them: a number with its unit, how it is told to a person, and how it comes about.

Also what most claims are computed from: the shipped surrogates of one training step. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.architecture import Architecture
from core.errors import NotFound
from core.memory.card import totals
from core.memory.estimate import Sizes, Surrogate, find
from core.memory.setup import Device, Setup
from core.methods import METHODS
from core.units import bytes_text

CARD = Device((8, 9))
LENGTH = 512


@dataclass(frozen=True)
class Figure:
    """A computed number. unit: bytes, share, times, parameters, USD, bits, or "" for a bare number. text: for a person.
    formula: how it comes about, with the numbers in it."""

    name: str
    value: float
    unit: str
    text: str
    formula: str


Cases = list[bool | None]
"""Whether the statement is true in each case that was looked at; None: that could not be measured here."""
Computed = tuple[Cases, str, list[Figure]]  # cases, the verdict as a sentence, figures


def decimal_text(count: float) -> str:
    """Bytes in the units in which disks and checkpoints are sold: 1.41e12 -> '1.41 TB'."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f} B"


def share_text(share: float) -> str:
    """0.0009 -> '0.09 %'."""
    return f"{100 * share:.3g} %"


def sized(name: str, value: float, formula: str) -> Figure:
    """Bytes, in decimal units."""
    return Figure(name, value, "bytes", decimal_text(value), formula)


def binary(name: str, value: float, formula: str) -> Figure:
    """Bytes as a card reports them, in binary units."""
    return Figure(name, value, "bytes", bytes_text(value), formula)


def share(name: str, value: float, formula: str) -> Figure:
    """A share, 0..1, told in per cent."""
    return Figure(name, value, "share", share_text(value), formula)


def number(name: str, value: float, formula: str, unit: str = "", text: str | None = None) -> Figure:
    """Any other number."""
    return Figure(name, value, unit, text if text is not None else f"{value:,.4g}", formula)


def near(value: float, claimed: float, within: float) -> bool:
    """Whether `value` is `claimed`, give or take so large a share of it."""
    return abs(value / claimed - 1) <= within


def made(model: str, method: str, length: int = LENGTH, *, checkpointing: bool = True) -> tuple[Surrogate, Sizes]:
    """The shipped surrogate of a step of one row, and its sizes.

    Raises:
        NotFound: none is shipped.
    """
    setup = Setup(
        method, METHODS[method].Config(), 1, length, device=CARD, precision="bfloat16",
        checkpointing=checkpointing and METHODS[method].CHECKPOINTS,
    )  # fmt: skip
    found = find(model, setup)
    if found is None:
        raise NotFound(
            f"No estimate of {model} with {method} comes with the program.", "Run python -m core.memory.fit."
        )
    return found, Sizes.of(setup)


def process(model: str, method: str) -> int:
    """The likely total of the process on a card, one row of 512 tokens, activations recomputed; in bytes."""
    surrogate, sizes = made(model, method)
    return totals(surrogate.peak_bytes(sizes), CARD).process[1]


def lora_count(table: Architecture, rank: int, targets: str) -> int:
    """What LoRA of that rank trains on those target modules."""
    return METHODS["lora"].count(table, METHODS["lora"].Config(rank=rank, target_modules=targets))
