"""A step's measured memory beside its predicted one, term by term: what is left between the two.

A measured ledger tells what stays (weights, optimizer) apart, and takes all else together; a predicted one tells more
apart. Both are brought to the measured one's terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.memory.ledger import Ledger

LUMP = "activations and temporaries"


@dataclass(frozen=True)
class Residual:
    """A term. predicted, measured: bytes."""

    term: str
    predicted: int
    measured: int

    @property
    def difference(self) -> int:
        """Predicted less measured."""
        return self.predicted - self.measured

    @property
    def share(self) -> float | None:
        """Of what was measured; None where that is nothing."""
        return self.difference / self.measured if self.measured else None


def residuals(predicted: Mapping[str, Any], measured: Mapping[str, Any]) -> list[Residual]:
    """One row a term of the measured ledger, and the total last; [] where one of the two is missing.

    Args:
        predicted, measured: as `Ledger.to_dict` gives them; {}: there is none.
    """
    if not predicted or not measured:
        return []
    said, seen = Ledger.from_dict(predicted), Ledger.from_dict(measured)
    names = [t.name for t in seen.terms]
    found = dict.fromkeys(names, 0)
    for term in said.terms:
        place = term.name if term.name in found else LUMP
        found[place] = found.get(place, 0) + term.bytes
    by_name = {t.name: t.bytes for t in seen.terms}
    rows = [Residual(name, found[name], by_name.get(name, 0)) for name in found]
    return [*rows, Residual("total", said.allocated_bytes, seen.allocated_bytes)]


__all__ = ["LUMP", "Residual", "residuals"]
