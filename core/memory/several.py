"""The same step on several GPUs: what one of them has, by their number and by what ZeRO cuts.

    for row in several(family_lookup, table, setup, card): row.gpus, row.zero, row.found.process[1]

Closed forms over the traced step (`core.memory.sharded`); each GPU has its own batch of the asked size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.memory.card import Totals, totals
from core.memory.compare import Lookup
from core.memory.estimate import Sizes
from core.memory.sharded import Sharding

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.catalog import GpuRow
    from core.memory.setup import Setup

NUMBERS = (1, 2, 4, 8, 16, 32, 64)
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Row:
    """One GPU among so many. found: its totals."""

    gpus: int
    zero: int
    found: Totals
    verdict: str


def several(
    table: Architecture, lookup: Lookup, setup: Setup, card: GpuRow, offload: str = "none",
    numbers: Sequence[int] = NUMBERS,
) -> list[Row]:  # fmt: skip
    """One row per stage and number of GPUs; none where the step is not traced."""
    made = lookup(setup)
    if made is None:
        return []
    sizes = Sizes.of(setup)
    rows = []
    for zero in STAGES:
        for number in numbers:
            ledger = made.shared(sizes, Sharding(number, zero, offload=offload), table)
            found = totals(ledger.allocated_bytes, setup.device)
            rows.append(Row(number, zero, found, found.verdict(card.usable_bytes)))
    return rows


def fewest(rows: Sequence[Row], zero: int, verdict: str) -> int | None:
    """The fewest GPUs on which a stage has that verdict; None: none of the numbers asked for."""
    return min((r.gpus for r in rows if r.zero == zero and r.verdict == verdict), default=None)


__all__ = ["NUMBERS", "STAGES", "Row", "fewest", "several"]
