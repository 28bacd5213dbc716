"""How long a whole fine-tuning takes, what it costs and what it draws: from the model of a step's time.

    hours = steps × seconds of a step / 3600      money = hours × price of an hour
    energy = hours × power of the board, in kWh   (the rest of the computer is not in it)

The seconds of a step are a model with a wide band (`core.memory.speed`), so every figure is (least, likely, most).
Prices are inputs: those in core/catalog/costs.toml carry a vendor's page and the day on which it was read.
"""

from __future__ import annotations

import datetime
import math
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.catalog import FOLDER
from core.memory.sharded import ALONE, Sharding

if TYPE_CHECKING:
    from core.memory.setup import Setup
    from core.memory.speed import Speed

Band = tuple[float, float, float]


@dataclass(frozen=True)
class Price:
    """usd_per_hour: of one card. source, url: where it stands. read: on that day."""

    usd_per_hour: float
    source: str
    url: str
    read: datetime.date


@lru_cache
def _table() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "costs.toml").read_text(encoding="utf-8"))


def price(card: str) -> Price | None:
    """What an hour of a card costs where it can be rented; None: unknown."""
    found = _table()["usd_per_hour"].get(card)
    return Price(found, **_table()["price"]) if found is not None else None


def board_watts(card: str) -> int | None:
    """What a card draws under load; None: unknown."""
    found: int | None = _table()["board_watts"].get(card)
    return found


@dataclass(frozen=True)
class Cost:
    """Of a whole run. steps: of the optimizer. tokens: trained on. hours, money, kwh: (least, likely, most); money and
    kwh None where price or power is unknown."""

    steps: int
    tokens: int
    hours: Band
    money: Band | None
    kwh: Band | None


def steps_for(setup: Setup, examples: int, epochs: float, sharding: Sharding = ALONE) -> int:
    """Optimizer steps that see every example so often; every group of GPUs has a batch of its own."""
    return max(1, math.ceil(examples * epochs / (setup.batch * setup.accumulation * sharding.groups)))


def cost(speed: Speed, steps: int, usd_per_hour: float | None, watts: float | None, sharding: Sharding = ALONE) -> Cost:
    """Time, money and energy of so many steps, of all GPUs together.

    What GPUs send each other, and what waits in the CPU's memory, takes time that is not counted: with several, the
    quick end of the band is out of reach.
    """
    least, likely, most = (seconds / sharding.tensor * steps / 3600 for seconds in speed.step_seconds)
    hours = (least, likely, most)
    return Cost(
        steps, speed.tokens * sharding.groups * steps, hours,
        None if usd_per_hour is None else _times(hours, usd_per_hour * sharding.gpus),
        None if watts is None else _times(hours, watts * sharding.gpus / 1000),
    )  # fmt: skip


def _times(band: Band, factor: float) -> Band:
    return band[0] * factor, band[1] * factor, band[2] * factor


__all__ = ["Cost", "Price", "board_watts", "cost", "price", "steps_for"]
