"""What it takes to train a model of the catalogue: memory, how many cards of a kind, and what those cost.

    need("Llama-3.1-8B", "full", "RTX 4090").cards        # cards that hold the step, everything cut among them

A plain step throughout: one row of 512 tokens, 16-bit passes, activations recomputed. From shipped estimates of traced
steps; several cards by ZeRO-3's closed forms (core.memory.sharded). Imports no torch.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache

from core.catalog import FOLDER, GpuRow, architecture_of, gpu
from core.errors import NotFound
from core.memory.card import TOO_LARGE, Totals, totals
from core.memory.compare import device_of
from core.memory.estimate import Sizes, Surrogate, find
from core.memory.setup import Device, Setup
from core.memory.several import NUMBERS
from core.memory.sharded import Sharding
from core.methods import METHODS

CARD = Device((8, 9))
BATCH, LENGTH = 1, 512


@dataclass(frozen=True)
class Price:
    """What a card costs. usd: dollars. date, source: of the figure. checked: compared with a second source."""

    usd: float
    date: str
    source: str
    checked: bool


@lru_cache
def _prices() -> dict[str, Price]:
    rows = tomllib.loads((FOLDER / "prices.toml").read_text(encoding="utf-8"))["price"]
    return {r["gpu"]: Price(r["usd"], str(r["date"]), r["source"], r["checked"]) for r in rows}


def price_of(card: str) -> Price | None:
    """The price of a card; None: none is known."""
    return _prices().get(card)


def priced() -> tuple[str, ...]:
    """The cards whose price is in the catalogue."""
    return tuple(_prices())


def setup_of(method: str, batch: int = BATCH, length: int = LENGTH, device: Device = CARD) -> Setup:
    """The plain step, with the method's own defaults."""
    module = METHODS[method]
    return Setup(
        method, module.Config(), batch, length, device=device, precision="bfloat16", checkpointing=module.CHECKPOINTS
    )


def surrogate_of(model: str, setup: Setup) -> tuple[Surrogate, Sizes]:
    """The shipped estimate of a step, and its sizes.

    Raises:
        NotFound: none is shipped.
    """
    found = find(model, setup)
    if found is None:
        raise NotFound(
            f"No estimate of {model} with {setup.method} comes with the program.", "The VRAM calculator works one out."
        )
    return found, Sizes.of(setup)


@dataclass(frozen=True)
class Need:
    """alone: totals on one card. cards: the fewest that hold the step (None: not even the most that were asked for).
    each: the totals of one of so many."""

    method: str
    card: GpuRow
    alone: Totals
    cards: int | None
    each: Totals | None


def need(model: str, method: str, card: str) -> Need:
    """What one method takes on cards of a kind.

    Raises:
        NotFound: no such model or card, or no estimate of the step is shipped.
    """
    row = gpu(card)
    setup = setup_of(method, device=device_of(row))
    made, sizes = surrogate_of(model, setup)
    table = architecture_of(model)
    alone = totals(made.peak_bytes(sizes), setup.device)
    for count in NUMBERS:
        found = alone
        if count > 1:
            found = totals(made.shared(sizes, Sharding(count, 3), table).allocated_bytes, setup.device)
        if found.verdict(row.usable_bytes) != TOO_LARGE and found.process[1] <= row.usable_bytes:
            return Need(method, row, alone, count, found)
    return Need(method, row, alone, None, None)


__all__ = ["Need", "Price", "need", "price_of", "priced", "setup_of", "surrogate_of"]
