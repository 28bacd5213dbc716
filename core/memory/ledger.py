"""The memory of a training step as a list of terms: what each is, how many bytes, and how it comes about.

Predicted, traced and measured memory share this type, so that they can be shown term beside term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Term:
    """One part of the memory at the step's peak.

    name: weights, quantization constants, adapters, gradients, optimizer state, activations and temporaries.
    bytes: how much of it there is at the peak. formula: how it comes about, with the run's own numbers.
    source: what the figure rests on.
    """

    name: str
    bytes: int
    formula: str
    source: str


@dataclass(frozen=True)
class Ledger:
    """Terms that add up to `allocated_bytes`, and the part of the step in which that peak occurs.

    allocated_bytes: held by live tensors. reserved_bytes: held by the allocator (0: the device has no such figure).
    process_bytes: held by the whole process, libraries included (0: unknown).
    """

    terms: tuple[Term, ...]
    peak_at: str
    allocated_bytes: int
    reserved_bytes: int
    process_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse."""
        return {**asdict(self), "terms": [asdict(term) for term in self.terms]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Ledger:
        """Read what `to_dict` wrote."""
        return cls(**{**record, "terms": tuple(Term(**t) for t in record["terms"])})
