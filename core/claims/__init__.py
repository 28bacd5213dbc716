"""Statements that circulate in courses, each with the figure that this engine computes for it, and a verdict.

    claim(8).told        # 'The checkpoint takes 141 GB, ten take 1.41 TB; one base and ten adapters of 100 MB …'

What is claimed, under which assumptions, and where it comes from, stands in core/catalog/claims.toml. The numbers come
from closed forms over the catalogue's tables, from the shipped surrogates of traced steps, and from records that
commands of this program made. Nothing is typed in: asked again after the catalogue has grown, a claim may fall.

Verdicts follow from the cases that a claim was computed for: it holds (in all of them), holds if (in some, which are
told, or in all that could be computed, when there are others), is off (in none), or is open (what it speaks of was not
measured). Imports no torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from core.catalog import FOLDER
from core.claims import hardware, memory, parameters, quality, storage
from core.claims.figures import Computed, Figure, decimal_text, share_text
from core.errors import NotFound

HOLDS, HOLDS_IF, OFF, OPEN = "holds", "holds if", "off", "open"
TOPICS = ("memory", "parameters", "storage", "hardware", "quality")

_COMPUTE: Mapping[int, Callable[[], Computed]] = (
    memory.COMPUTE | parameters.COMPUTE | storage.COMPUTE | hardware.COMPUTE | quality.COMPUTE
)


@dataclass(frozen=True)
class Reference:
    """A paper or page. where: section or table in it."""

    key: str
    title: str
    authors: str
    year: int
    where: str
    address: str


@dataclass(frozen=True)
class Claim:
    """A statement and what became of it. text: the statement. told: the verdict as a sentence, with its numbers. cases:
    in how many of those that were looked at it is true, and how many there were."""

    number: int
    topic: str
    text: str
    assumptions: tuple[str, ...]
    references: tuple[Reference, ...]
    figures: tuple[Figure, ...]
    verdict: str
    told: str
    cases: tuple[int, int]


def verdict_of(cases: Sequence[bool | None]) -> str:
    """The verdict on a statement that is true in these cases; None is one that could not be measured."""
    known = [case for case in cases if case is not None]
    if not known:
        return OPEN
    return HOLDS if all(cases) else HOLDS_IF if any(known) else OFF


@lru_cache
def _written() -> tuple[Mapping[str, Any], ...]:
    return tuple(tomllib.loads((FOLDER / "claims.toml").read_text(encoding="utf-8"))["claim"])


@lru_cache
def references() -> Mapping[str, Mapping[str, Any]]:
    """All papers and pages, by key."""
    return tomllib.loads((FOLDER / "references.toml").read_text(encoding="utf-8"))


@lru_cache
def claim(number: int) -> Claim:
    """A claim, computed.

    Raises:
        NotFound: there is none of that number.
    """
    row = next((r for r in _written() if r["number"] == number), None)
    if row is None:
        known = ", ".join(str(r["number"]) for r in _written())
        raise NotFound(f"There is no claim number {number}.", f"There are {known}.")
    return _judged(row, _COMPUTE[number]())


def with_prices(prices: Mapping[str, float]) -> Claim:
    """The claim on what hardware costs, at other prices: card -> US dollars; cards that are not named keep theirs."""
    row = next(r for r in _written() if r["number"] == hardware.PRICES)
    return _judged(row, hardware.prices(prices))


def _judged(row: Mapping[str, Any], computed: Computed) -> Claim:
    cases, told, figures = computed
    named = tuple(Reference(key, where=where, **references()[key]) for key, where in row["references"])
    known = [case for case in cases if case is not None]
    return Claim(
        row["number"], row["topic"], row["text"], tuple(row["assumptions"]), named, tuple(figures), verdict_of(cases),
        told, (sum(known), len(known)),
    )  # fmt: skip


def claims() -> tuple[Claim, ...]:
    """All claims, in the order of their numbers."""
    return tuple(claim(int(row["number"])) for row in sorted(_written(), key=lambda r: int(r["number"])))


__all__ = [
    "HOLDS",
    "HOLDS_IF",
    "OFF",
    "OPEN",
    "TOPICS",
    "Claim",
    "Figure",
    "Reference",
    "claim",
    "claims",
    "decimal_text",
    "references",
    "share_text",
    "verdict_of",
    "with_prices",
]
