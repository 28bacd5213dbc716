"""Published training speeds beside what `core.memory.speed` says: how far it is off.

The figures stand in core/catalog/published_speed.csv, as they were printed. Each belongs to a run whose memory is in
published_memory.csv as well, so `core.memory.published` says what was run; a row that cannot be asked for has a reason.
One constant is fitted, the share of a card's rate that is reached, on one source (`FITTED_ON`); the other rows took no
part. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from core.catalog import FOLDER, architecture_of, gpu
from core.memory.published import SOURCES, Refused, case_of, read
from core.memory.published import rows as memory_rows
from core.memory.setup import Setup
from core.memory.speed import SHARE, Work, work
from core.memory.validation import mean_and_bias

FILE = FOLDER / "published_speed.csv"
FITTED_ON = "torchtune-flags"


@dataclass(frozen=True)
class Row:
    """A speed as it was printed. memory_row: the same run in published_memory.csv. card: the catalogue's name. unit:
    'tokens/s', of one GPU, or another. length: mean tokens of a row, where they vary and the source says. where:
    repository, commit and file."""

    id: str
    source: str
    memory_row: str
    card: str
    value: str
    unit: str
    length: str
    detail: str
    where: str
    trust: str


@lru_cache
def rows() -> tuple[Row, ...]:
    """All of them, in the file's order."""
    return read(FILE, Row)


@dataclass(frozen=True)
class Case:
    """A row as a question: model of the catalogue, step and card."""

    row: Row
    model: str
    setup: Setup

    @property
    def measured(self) -> float:
        """Tokens a second."""
        return float(self.row.value)

    @property
    def work(self) -> Work | None:
        """What the step has to do; None where the card's rate is not known."""
        return work(architecture_of(self.model), self.setup, gpu(self.row.card))


def case(row: Row) -> Case | str:
    """The question that a row answers, or why there is none."""
    beside = next(r for r in memory_rows() if r.id == row.memory_row)
    found = case_of(beside)
    if isinstance(found, Refused):
        return found.reason
    if row.unit != "tokens/s" or beside.length.endswith("unpacked"):
        return "How many tokens its rows have on average is not printed."
    setup = found.setup
    if row.length:
        setup = dataclasses.replace(setup, length=int(row.length))
    one = Case(row, found.model, setup)
    return one if one.work is not None else "The card's rate is not known."


def share_reached(one: Case) -> float:
    """Of the card's rate: with it the model gives what was measured."""
    done = one.work
    assert done is not None
    return done.arithmetic / (done.tokens / one.measured - done.moving)


def fitted() -> float:
    """The share of the rate, as the one source has it: the median."""
    ours = [c for c in map(case, rows()) if isinstance(c, Case) and c.row.source == FITTED_ON]
    return statistics.median(map(share_reached, ours))


def scored() -> dict[str, Any]:
    """The record: every row predicted beside measured, errors by source, the rows that were left out.

    Returns:
        share: fitted. held_out: errors of all rows that took no part. groups: by source. rows, uncovered.
    """
    found: list[dict[str, Any]] = []
    uncovered: list[dict[str, Any]] = []
    for row in rows():
        one = case(row)
        plain = {"id": row.id, "source": row.source, "source_title": SOURCES[row.source].title, "card": row.card,
                 "detail": row.detail, "where": row.where}  # fmt: skip
        if isinstance(one, str):
            uncovered.append({**plain, "published": f"{row.value} {row.unit}", "reason": one})
            continue
        done = one.work
        assert done is not None
        told = done.tokens / done.seconds(SHARE)
        found.append({
            **plain, "model": one.model, "method": one.setup.method, "batch": one.setup.batch,
            "length": one.setup.length, "measured": one.measured, "predicted": round(told, 1),
            "error": told / one.measured - 1, "role": "fitted" if row.source == FITTED_ON else "held out",
        })  # fmt: skip
    sources = dict.fromkeys(r["source"] for r in found)
    groups = {name: errors([r for r in found if r["source"] == name]) for name in sources}
    held_out = [r for r in found if r["role"] == "held out"]
    ratios = [r["measured"] / r["predicted"] for r in found]
    return {
        "share": fitted(), "fitted_on": FITTED_ON, "band": [min(ratios), max(ratios)], "held_out": errors(held_out),
        "groups": groups, "rows": found, "uncovered": uncovered,
    }  # fmt: skip


def errors(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """rows, mean_abs, bias, worst: of predicted over measured, less one; and the cards."""
    off = [r["error"] for r in some]
    return {
        "rows": len(off), **mean_and_bias(off), "worst": max(off, key=abs),
        "cards": list(dict.fromkeys(r["card"] for r in some)),
    }  # fmt: skip


__all__ = ["FITTED_ON", "Case", "Row", "case", "errors", "fitted", "rows", "scored", "share_reached"]
