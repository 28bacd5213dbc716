"""Numbers about the memory, storage and price of training: lesson 1 prints them, others may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.numbers import grouped, percent, plain
from core.claims import claim, decimal_text
from core.errors import BadInput
from core.memory import per_parameter
from core.units import bytes_text, count_text


def bytes_a_parameter(recipe: str) -> float:
    """Bytes of one number that trains, under a recipe of core.memory.per_parameter."""
    return per_parameter.each(per_parameter.recipe(recipe))


def training_bytes(model: str, recipe: str) -> float:
    """Bytes to train every number of a model under a recipe; activations not counted."""
    return per_parameter.needed(per_parameter.recipe(recipe), model_parameters(model))


def training_gb(model: str, recipe: str) -> float:
    """The same in GB, for questions."""
    return training_bytes(model, recipe) / 1e9


def weight_gb(model: str, bytes_each: float = 2.0) -> float:
    """A model's weights in GB at so many bytes a parameter, for questions."""
    return weight_bytes(model, bytes_each) / 1e9


def model_parameters(model: str) -> float:
    """Parameters of a model of the catalogue, or of the embedded base."""
    from core.anatomy import table_of

    return float(table_of(model).total)


def weight_bytes(model: str, bytes_each: float = 2.0) -> float:
    """Bytes of a model's weights at so many bytes a parameter."""
    return model_parameters(model) * bytes_each


def claim_told(number: int) -> str:
    """What became of it, with its numbers."""
    return claim(number).told


def bytes_that_give(model: str, terabytes: float) -> float:
    """Bytes a parameter at which training a model takes so many TB."""
    return terabytes * 1e12 / model_parameters(model)


def step_bytes(model: str, method: str, batch: int = 1, length: int = 512) -> float:
    """Likely bytes of the process that trains so, on a card, activations recomputed; from the shipped estimate."""
    from core.memory.card import totals
    from core.memory.needs import setup_of, surrogate_of

    setup = setup_of(method, batch, length)
    made, sizes = surrogate_of(model, setup)
    return float(totals(made.peak_bytes(sizes), setup.device).process[1])


def cards(model: str, method: str, card: str) -> float:
    """Fewest cards that surely or barely hold that step, everything cut among them (ZeRO-3)."""
    from core.memory.needs import need

    found = need(model, method, card).cards
    if found is None:
        raise BadInput(f"{method} on {model} does not fit on 64 of {card}.")
    return float(found)


def usable_bytes(card: str) -> float:
    """Memory of a card that can be used."""
    from core.catalog import gpu

    return float(gpu(card).usable_bytes)


def disk_bytes(model: str, method: str, tasks: int = 1) -> float:
    """Bytes on disk for so many fine-tuned tasks, the base included where adapters need it."""
    from core.anatomy import table_of
    from core.memory.storage import storage
    from core.methods import METHODS

    return float(storage(table_of(model), method, METHODS[method].Config(), tasks).total)


def ledger_bytes(folder: Path, run: str, term: str, side: str = "measured") -> float:
    """A term of a recorded run's memory, measured or predicted; 'allocated' is the whole."""
    row = _ledger_row(folder, run, term)
    if side not in ("measured", "predicted"):
        raise BadInput(f"A ledger has the sides measured and predicted, not {side!r}.")
    return float(row[side])


def ledger_share(folder: Path, run: str, term: str) -> float:
    """A measured term as a share of the whole, in per cent."""
    return 100 * float(_ledger_row(folder, run, term)["measured"]) / ledger_bytes(folder, run, "allocated")


def ledger_error(folder: Path, run: str) -> float:
    """How far the prediction of the whole was from what was measured, in per cent of it."""
    whole = _ledger_row(folder, run, "allocated")
    return 100 * abs(whole["predicted"] / whole["measured"] - 1)


def _ledger_row(folder: Path, run: str, term: str) -> dict[str, Any]:
    from app.calc import recorded_events
    from core.memory.predicted import residuals

    end = recorded_events(folder / "runs" / f"{run}.jsonl")[-1]
    rows = {row["name"]: row for row in residuals(end.get("predicted") or {}, end.get("ledger") or {})}
    if rows and term == "gradients":  # (a term of which there is nothing at the peak has no row)
        return rows.get(term, {"predicted": 0, "measured": 0})
    if term not in rows:
        raise BadInput(f"The recorded run {run} has no term {term!r}.", f"It has {', '.join(rows) or 'none'}.")
    return rows[term]


def dollars(value: float) -> str:
    """1499 -> '$1,499', written so that Markdown takes it for money and not for mathematics."""
    return f"\\${value:,.0f}"


def card_price(card: str) -> float:
    """What the catalogue has as a card's price, in US dollars."""
    from core.memory.needs import price_of

    found = price_of(card)
    if found is None:
        raise BadInput(f"The catalogue has no price of {card}.")
    return float(found.usd)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {
    "bytes_a_parameter": (bytes_a_parameter, plain),
    "training_bytes": (training_bytes, decimal_text),
    "training_gb": (training_gb, lambda v: f"{v:,.0f} GB"),
    "weight_gb": (weight_gb, lambda v: f"{v:,.1f} GB"),
    "model_parameters": (model_parameters, count_text),
    "weight_bytes": (weight_bytes, decimal_text),
    "claim_told": (claim_told, str),
    "bytes_that_give": (bytes_that_give, lambda v: f"{v:.1f}"),
    "step_bytes": (step_bytes, bytes_text),
    "cards": (cards, grouped),
    "usable_bytes": (usable_bytes, bytes_text),
    "disk_bytes": (disk_bytes, decimal_text),
    "ledger_bytes": (ledger_bytes, bytes_text),
    "ledger_share": (ledger_share, percent),
    "ledger_error": (ledger_error, lambda v: "less than 0.01 %" if v < 0.01 else percent(v)),
    "card_price": (card_price, dollars),
}
