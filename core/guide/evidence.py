"""What the experiment measured for a rule: its keys become sentences with figures, from the recorded run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from core.guide.rules import Rule
from core.rag.experiment import ARMS, SHARES, Band, bands, recorded
from core.rag.needs import NEEDS
from core.units import bytes_text, seconds_text

Bands = Mapping[tuple[str, str, str], Band]
UNMEASURED = "A judgement: nothing here measured it."
_SAID = {
    "right": "{v} right",
    "stale": "{v} answered with the old value",
    "invented": "{v} answered all the same, with something invented",
    "refused": "{v} answered with 'It is not said.'",
    "sourced": "of the answers that it gave, {v} stand in the passage about the one who was asked about",
    "borrowed": "of the answers that it gave, {v} were taken from a passage about somebody else",
    "right_after_update": "{v} right once it was trained anew",
    "update_seconds": "{v} until a change is in",
    "update_items": "{v} items for a change",
    "context_tokens": "{v} tokens in the prompt",
    "first_ms": "{v} until the first token of the answer",
    "token_ms": "{v} for each further token",
    "retrieve_ms": "{v} to search",
    "storage_bytes": "{v} beside the base and the embedder",
    "training_seconds": "{v} of training",
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


def share_text(band: Band) -> str:
    """A share with the interval that its questions leave it: 45 % (31 to 60, 40 questions)."""
    low, high = (f"{100 * end:.0f}" for end in band.interval)
    return f"{100 * band.mean:.0f} % ({low} to {high}, {band.questions} questions)"


def measured(rule: Rule, found: Bands | None = None) -> list[str]:
    """A sentence for each key of a rule that was measured: 'New facts, RAG: 99 % (93 to 100, 80 questions) right.'"""
    found = recorded_bands() if found is None else found
    out = []
    for key in rule.measured:
        arm, need, measure = key.split(".")
        band = found.get((arm, need, measure))
        if band is None:
            continue
        who = f"{NEEDS[need].title}, {ARMS[arm]}" if need else ARMS[arm]
        value = share_text(band) if measure in SHARES else value_text(measure, band.mean)
        out.append(f"{who}: {_SAID[measure].format(v=value)}.")
    return out


def section(rule: Rule) -> str:
    """Where the experiment's page shows what a rule was measured by: the anchor of a section."""
    costs = ("_seconds", "_items", "_tokens", "_ms", "_bytes")
    return "costs" if rule.measured and all(key.endswith(costs) for key in rule.measured) else "experiment"
