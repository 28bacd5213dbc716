"""Claims on cards: what one is enough for, when a cluster is needed, and what it costs. Imports no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from core.catalog import FOLDER, architecture_of, gpu, gpus, models
from core.claims.figures import CARD, Cases, Computed, binary, made, near, number, process
from core.errors import NotFound
from core.memory.card import totals
from core.memory.published import rows as published_rows
from core.memory.sharded import Sharding
from core.methods import METHODS
from core.units import GIB, bytes_text, count_text

PRICES = 25  # the number of the claim on prices, which a reader may put in themselves
# Bytes a parameter that a step takes at the very least, so that models which cannot fit are not asked for.
LEAST = {"full": 12.0, "lora": 2.0, "qlora": 0.5}
ENOUGH = 6.5e9  # parameters: what is sold as a model of 7 billion
IN_ONE_CARD = "torchtune-speed-01"


def _largest(method: str, usable: int) -> tuple[str, int, int] | None:
    """Name, parameters and likely bytes of the largest model whose likely total fits."""
    for row in sorted((r for r in models() if r.is_decoder), key=lambda r: -r.parameters):
        if row.parameters * LEAST[method] > usable:
            continue
        try:
            needed = process(row.name, method)
        except NotFound:
            continue
        if needed <= usable:
            return row.name, row.parameters, needed
    return None


def one_card() -> Computed:
    """7: one consumer card with 24 GB is enough."""
    figures = []
    best: dict[str, str] = {}
    cases: Cases = []
    for card_name in ("RTX 3090", "RTX 4090"):
        card = gpu(card_name)
        for method in LEAST:
            found = _largest(method, card.usable_bytes)
            cases.append(found is not None and found[1] >= ENOUGH)
            if found is None:
                continue
            name, parameters, needed = found
            best[method] = name
            formula = f"it takes about {bytes_text(needed)} of {bytes_text(card.usable_bytes)}"
            text = f"{name} ({count_text(parameters)})"
            figures.append(
                number(
                    f"largest model with {METHODS[method].TITLE} on an {card_name}",
                    parameters,
                    formula,
                    "parameters",
                    text,
                )
            )
    limits = ", ".join(f"up to {name} with {METHODS[method].TITLE}" for method, name in best.items())
    return cases, f"It depends on the method: {limits}.", figures


def cluster() -> Computed:
    """24: full fine-tuning of a 7B model calls for a cluster with DeepSpeed or FSDP."""
    surrogate, sizes = made("Llama-2-7B", "full")
    table = architecture_of("Llama-2-7B")
    card = gpu("A100 80 GB SXM")
    figures = []
    least: int | None = None
    for count in (1, 2, 4, 8):
        for zero in (0, 1, 2, 3) if count > 1 else (0,):
            one = surrogate.shared(sizes, Sharding(count, zero), table)
            needed = totals(one.allocated_bytes, CARD).process[1]
            what = f"{count} GPU{'s' if count > 1 else ''}" + (f", ZeRO-{zero}" if count > 1 else "")
            figures.append(
                binary(what, needed, "; ".join(f"{t.name} {bytes_text(t.bytes)}" for t in one.terms if t.bytes > GIB))
            )
            if needed <= card.usable_bytes and (least is None or count < least):
                least = count
    fewest = f"{least} such cards are enough" if least and least > 1 else "one such card is enough"
    reported = next(row for row in published_rows() if row.id == IN_ONE_CARD)
    small = gpu("RTX 4090")
    figures.append(
        binary(f"reported by torchtune, {reported.model}, one {reported.gpu}", float(reported.value) * GIB,
               f"published: {reported.metric}, {reported.optimizer}")
    )  # fmt: skip
    told = (
        f"With 32-bit weights and states one card would need {figures[0].text}, so {fewest} ({card.name}, "
        f"{bytes_text(card.usable_bytes)} usable). In 16 bits, with an 8-bit paged optimizer that steps inside the "
        f"backward pass, torchtune reports {figures[-1].text} for 8B: then one card of 24 GB does it."
    )
    return [figures[0].value > card.usable_bytes, figures[-1].value > small.usable_bytes], told, figures


def listed_prices() -> list[dict[str, Any]]:
    """The prices that come with the program: gpu, usd, date, source, checked."""
    found: list[dict[str, Any]] = tomllib.loads((FOLDER / "prices.toml").read_text(encoding="utf-8"))["price"]
    return found


def prices(given: Mapping[str, float] | None = None) -> Computed:
    """25: an A100 or H100 costs about $30,000, a 3090 or 4090 about $1,500.

    Args:
        given: card -> US dollars, in place of the listed price.
    """
    known = {row.name: row for row in gpus()}
    figures = []
    cost: dict[str, float] = {}
    for row in listed_prices():
        card, usd = known[row["gpu"]], (given or {}).get(row["gpu"], row["usd"])
        cost[row["gpu"]] = usd
        note = f"{row['source']}, {row['date']}" + ("" if row["checked"] else "; not checked")
        if usd != row["usd"]:
            note = "entered by you"
        figures.append(number(row["gpu"], usd, note, "USD", f"${usd:,.0f}"))
        each = usd / card.memory_gb
        figures.append(number(f"{row['gpu']}, a GB of memory", each, f"${usd:,.0f} / {card.memory_gb:g} GB", "USD",
                              f"${each:,.0f}"))  # fmt: skip
    # A listed price that repeats the claim proves nothing.
    own = [row["gpu"] for row in listed_prices() if "claim itself" in row["source"] and row["gpu"] not in (given or {})]
    open_ones = f"The listed prices of {', '.join(own)} repeat the claim, so they are not compared. " if own else ""
    dear, cheap = cost["H100 SXM"], cost["RTX 4090"]
    told = open_ones + (
        f"By these inputs an H100 costs {dear / cheap:.0f} times an RTX 4090, and a GB of its memory "
        f"{(dear / known['H100 SXM'].memory_gb) / (cheap / known['RTX 4090'].memory_gb):.1f} times as much. Enter what "
        f"you would pay, since NVIDIA prints no price for the large ones."
    )
    claimed = {"A100 80 GB SXM": 30e3, "H100 SXM": 30e3, "RTX 3090": 1500.0, "RTX 4090": 1500.0}
    return [None if name in own else near(cost[name], usd, 0.1) for name, usd in claimed.items()], told, figures


COMPUTE: dict[int, Callable[[], Computed]] = {7: one_card, 24: cluster, PRICES: prices}
