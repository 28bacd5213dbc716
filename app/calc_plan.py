"""Numbers for the lesson on planning: memory, time and money of a fine-tuning, from the calculators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.errors import BadInput
from core.units import bytes_text


def _plan(model: str, method: str, card: str, batch: int, length: int, examples: int, epochs: float) -> Any:
    from core.memory.planning import plan

    return plan(model, method, card, batch=batch, length=length, examples=examples, epochs=epochs)


def plan_bytes(model: str, method: str, card: str, batch: int = 1, length: int = 1024) -> float:
    """What the process is likely to take on the card, in bytes."""
    found = _plan(model, method, card, batch, length, 1, 1.0).totals
    if found is None:
        raise BadInput(f"No estimate ships for {method} on {model}.")
    return float(found.process[1])


def plan_verdict(model: str, method: str, card: str, batch: int = 1, length: int = 1024) -> str:
    """fits, tight, or does not fit."""
    return str(_plan(model, method, card, batch, length, 1, 1.0).verdict)


def plan_method(model: str, card: str, length: int = 1024) -> str:
    """The first of full fine-tuning, LoRA and QLoRA that fits."""
    from core.memory.planning import first_that_fits
    from core.methods import METHODS

    found = first_that_fits(model, card, length=length)
    return str(METHODS[found].TITLE) if found else "none of them"


def plan_hours(model: str, method: str, card: str, examples: int, epochs: float, batch: int = 1, length: int = 1024,
               bound: str = "likely") -> float:  # fmt: skip
    """Hours: bound 'least', 'likely' or 'most'."""
    return _band(_plan(model, method, card, batch, length, examples, epochs).cost, "hours", bound)


def plan_money(model: str, method: str, card: str, examples: int, epochs: float, batch: int = 1, length: int = 1024,
               bound: str = "likely") -> float:  # fmt: skip
    """US dollars, at the catalogue's price of an hour."""
    return _band(_plan(model, method, card, batch, length, examples, epochs).cost, "money", bound)


def _band(found: Any, part: str, bound: str) -> float:
    if bound not in ("least", "likely", "most"):
        raise BadInput(f"A band has least, likely and most, not {bound!r}.")
    values = None if found is None else getattr(found, part)
    if values is None:
        raise BadInput(f"The {part} of this plan are not known.")
    return float(values[("least", "likely", "most").index(bound)])


def published_share(bound: str = "likely") -> float:
    """Per cent of a card's printed rate that published runs reached: bound 'least', 'likely' (the median) or 'most'."""
    import statistics

    from core.memory.throughput import Case, case, rows, share_reached

    reached = [100 * share_reached(one) for one in map(case, rows()) if isinstance(one, Case)]
    of: dict[str, Callable[[list[float]], float]] = {"least": min, "likely": statistics.median, "most": max}
    if bound not in of:
        raise BadInput(f"A band has least, likely and most, not {bound!r}.")
    return float(of[bound](reached))


def plan_steps(examples: int, epochs: float, batch: int, accumulation: int = 1) -> float:
    """Optimizer steps in which every example is seen so often."""
    import math

    return float(max(1, math.ceil(examples * epochs / (batch * accumulation))))


def card_usable(card: str) -> float:
    """What a program can use of a card's memory, in bytes."""
    from core.catalog import gpu

    return float(gpu(card).usable_bytes)


def published_rate(method: str) -> float:
    """The learning rate that is published for a method on other bases than the embedded one."""
    from core.config import default_table

    return float(default_table()[method]["other"]["learning_rate"])


def data_found(file: str, what: str) -> float:
    """How many rows of an example file of this lesson show something: rows, duplicates, contradictions, empty_answers,
    special, too_long, leakage."""
    from app.index import ROOT
    from app.widgets.data_check import report_of

    found = report_of(ROOT / "09_plan_your_own" / "data" / file)
    value = getattr(found, what, None)
    if isinstance(value, int):
        return float(value)
    if isinstance(value, tuple):
        return float(len(value))
    raise BadInput(f"A report says nothing about {what!r}.")


def hours_text(value: float) -> str:
    """0.05 -> '3 minutes', 2.4 -> '2.4 hours'."""
    if value < 1:
        return f"{max(1, round(60 * value))} minutes"
    return f"{value:.2g} hours" if value < 48 else f"{value / 24:.2g} days"


FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "plan_bytes": (plan_bytes, bytes_text),
    "plan_verdict": (plan_verdict, str),
    "plan_method": (plan_method, str),
    "plan_hours": (plan_hours, hours_text),
    "plan_money": (plan_money, lambda v: f"{v:,.2f}"),
    "published_share": (published_share, lambda v: f"{v:.0f} %"),
    "plan_steps": (plan_steps, lambda v: f"{v:,.0f}"),
    "card_usable": (card_usable, bytes_text),
    "published_rate": (published_rate, lambda v: f"{v:g}"),
    "data_found": (data_found, lambda v: f"{v:,.0f}"),
}
