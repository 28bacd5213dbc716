"""What the experiment measured for a rule: its keys become sentences with figures, from the recorded run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from core.guide.rules import Rule
from core.rag.experiment import ARMS, SHARES, Band, bands, recorded
from core.rag.needs import NEEDS
from core.units import bytes_text, seconds_text

Bands = Mapping[tuple[str, str, str], Band]
_SAID = {
    "right": "answered {v} right",
    "stale": "gave the old answer to {v}",
    "invented": "invented an answer to {v}",
    "faithful": "gave an answer that stands in the passages, or none, to {v}",
    "right_after_update": "answered {v} right after the update",
    "update_seconds": "took {v} for an update",
    "update_items": "needed {v} items for an update",
    "context_tokens": "read {v} tokens a question",
    "first_ms": "took {v} to the first token",
    "retrieve_ms": "took {v} to retrieve",
    "storage_bytes": "stored {v} beside the base",
    "training_seconds": "trained for {v}",
}


@lru_cache(maxsize=1)
def recorded_bands() -> Bands:
    """Of the experiment that is shipped."""
    return bands(recorded()["cells"])


def value_text(measure: str, value: float) -> str:
    """A measured value for a person."""
    if measure in SHARES:
        return f"{100 * value:.0f} %"
    if measure.endswith("_seconds"):
        return seconds_text(value) if value >= 1 else f"{1000 * value:.0f} ms"
    if measure.endswith("_ms"):
        return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
    if measure.endswith("_bytes"):
        return bytes_text(value)
    return f"{value:,.0f}"


def measured(rule: Rule, found: Bands | None = None) -> list[str]:
    """A sentence for each key of a rule that was measured: 'New facts: RAG answered 99 % right.'"""
    found = recorded_bands() if found is None else found
    out = []
    for key in rule.measured:
        arm, need, measure = key.split(".")
        band = found.get((arm, need, measure))
        if band is None:
            continue
        about = f"{NEEDS[need].title}: " if need else ""
        out.append(f"{about}{ARMS[arm]} {_SAID[measure].format(v=value_text(measure, band.mean))}.")
    return out
