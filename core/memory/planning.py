"""A fine-tuning planned from a model, a method, a card and a number of examples: will it fit, how long, what it costs.

    found = plan("Llama-3.1-8B", "qlora", "RTX 4090", batch=1, length=1024, examples=1000, epochs=3)
    found.verdict, found.totals.process, found.cost.hours

Memory is the calculator's (core.memory.estimate: evaluated from traces that come with the program), time is a model
with a wide band (core.memory.speed), money is time at the catalogue's price or yours (core.memory.cost). It imports no
torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from core.catalog import GpuRow, architecture_of, gpu, model
from core.config import RunConfig
from core.errors import BadInput
from core.memory.card import Totals, largest_batch, totals
from core.memory.compare import device_of
from core.memory.cost import Cost, board_watts, cost, price, steps_for
from core.memory.estimate import Sizes, find
from core.memory.setup import Setup
from core.memory.speed import Speed, step_speed
from core.methods import METHODS


@dataclass(frozen=True)
class Plan:
    """totals: of the step's memory; None where no estimate ships for this method. verdict: fits, tight, does not fit,
    or not worked out. most_batch: the largest batch that fits. speed, cost: None where the card's rate or
    bandwidth is unknown. setup: the step."""

    model: str
    card: GpuRow
    setup: Setup
    totals: Totals | None
    verdict: str
    most_batch: int | None
    speed: Speed | None
    cost: Cost | None

    @property
    def possible(self) -> bool:
        """Whether the likely total fits."""
        return self.totals is not None and self.totals.process[1] <= self.card.usable_bytes


UNKNOWN = "not worked out"


def plan(
    name: str,
    method: str,
    card: str,
    *,
    batch: int = 1,
    length: int = 1024,
    accumulation: int = 1,
    checkpointing: bool = False,
    examples: int = 1000,
    epochs: float = 3.0,
    usd_per_hour: float | None = None,
) -> Plan:
    """The plan.

    Args:
        name: of a model of the catalogue. card: likewise.
        batch, length: rows and tokens of one pass. accumulation: passes in a step.
        examples, epochs: how many there are, and how often each is seen.
        usd_per_hour: of the card; the catalogue's if None.

    Raises:
        BadInput, NotFound: no such model, method or card, or numbers that cannot be.
    """
    if method not in METHODS:
        raise BadInput(f"There is no method {method!r}.", f"The methods are {', '.join(METHODS)}.")
    if examples < 1 or epochs <= 0:
        raise BadInput("There must be at least one example, and it must be seen.")
    row, chosen = gpu(card), model(name)
    device = device_of(row)
    setup = Setup.of(RunConfig(method=method), batch, length, device)
    recomputes = checkpointing and METHODS[method].CHECKPOINTS
    setup = dataclasses.replace(setup, accumulation=accumulation, checkpointing=recomputes)
    made = find(chosen.name, setup)
    found = None if made is None else totals(made.ledger(Sizes.of(setup)).allocated_bytes, device)
    speed = step_speed(architecture_of(chosen.name), setup, row)
    listed = price(row.name)
    rate = usd_per_hour if usd_per_hour is not None else (listed.usd_per_hour if listed else None)
    return Plan(
        chosen.name, row, setup, found, UNKNOWN if found is None else found.verdict(row.usable_bytes),
        None if made is None else largest_batch(made, Sizes.of(setup), device, row.usable_bytes), speed,
        None if speed is None else cost(speed, steps_for(setup, examples, epochs), rate, board_watts(row.name)),
    )  # fmt: skip


def first_that_fits(
    name: str, card: str, methods: Sequence[str] = ("full", "lora", "qlora"), *, batch: int = 1, length: int = 1024
) -> str | None:
    """The first of the methods whose step is likely to fit on the card; None: none is.

    Args:
        batch, length: as for `plan`.
    """
    return next((m for m in methods if plan(name, m, card, batch=batch, length=length).possible), None)


__all__ = ["UNKNOWN", "Plan", "first_that_fits", "plan"]
