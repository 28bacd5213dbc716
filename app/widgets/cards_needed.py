"""How many cards a fine-tuning takes, and what they cost to buy: full, LoRA and QLoRA side by side."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_lessons_a, compare, live, localized
from app.schema import Rule
from app.words import t
from core.errors import DeltalabError
from core.memory.cost import price
from core.memory.needs import BATCH, LENGTH, need, price_of, priced

NAME = "cards-needed"
OPTIONS = {"model": Rule("text"), "card": Rule("text")}

MODELS = ("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B", "Llama-2-13B", "Llama-3.1-70B")
METHODS = ("full", "lora", "qlora")


def render(options: dict[str, Any], key: str) -> None:
    """Model, card and price; memory against one card; cards and money."""
    columns = st.columns(3)
    with columns[0]:
        start = MODELS.index(str(options.get("model", "Llama-3.1-8B")))
        model = str(st.selectbox(t("widgets.model"), MODELS, index=start, key=f"{key}-model"))
    with columns[1]:
        cards = list(priced())
        card = str(
            st.selectbox(
                t("widgets.card"), cards, index=cards.index(str(options.get("card", "RTX 4090"))), key=f"{key}-card"
            )
        )
    listed = price_of(card)
    assert listed is not None
    with columns[2]:
        usd = st.number_input(
            t("widgets.cards_needed.price"), 0, 1_000_000, int(listed.usd), 100, key=f"{key}-usd-{card}"
        )
    try:
        rows = [need(model, method, card) for method in METHODS]
    except DeltalabError as error:
        live.say(error)
        return
    rent = price(card)
    compare.draw(charts_lessons_a.needs(rows, model), f"{key}-bars")
    localized.grid(
        charts_lessons_a.needs_table(rows, float(usd), rent.usd_per_hour if rent else None),
        hide_index=True,
        alt=t("widgets.cards_needed.alt"),
    )
    told = [
        t("widgets.cards_needed.how", batch=BATCH, length=LENGTH),
        t("widgets.cards_needed.source", source=listed.source, date=listed.date),
    ]
    if not listed.checked:
        told.append(t("widgets.cards_needed.unchecked"))
    if rent:
        read = f"{rent.read:%Y-%m-%d}"
        told.append(t("widgets.cards_needed.rent", source=rent.source, link=rent.url, date=read))
    st.caption(" ".join(told))
