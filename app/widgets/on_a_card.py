"""A training step's memory on a card, by method: where the bytes are, and whether they fit."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_memory, compare, localized, tables
from app.charts_race import title_of
from app.schema import Rule
from app.words import t
from core.catalog import gpu
from core.config import RunConfig, TrainConfig
from core.memory.card import totals
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup

NAME = "on-a-card"
OPTIONS = {
    "model": Rule("text"), "method": Rule("text", choices=("full", "lora", "qlora")), "card": Rule("text"),
    "length": Rule("int"),
}  # fmt: skip
MODELS = ("Llama-3.2-1B", "Llama-3.1-8B", "LLaMA-1-65B", "Llama-3.1-70B")
CARDS = ("RTX 4090", "RTX A6000", "A100 80 GB SXM")
METHODS = ("full", "lora", "qlora")
LENGTHS = (128, 256, 512, 1024, 2048)


def render(options: dict[str, Any], key: str) -> None:
    """Model, method, card and length; the ledger as one bar."""
    left, right = st.columns(2)
    with left:
        model = str(_pick(t("widgets.model"), MODELS, options.get("model"), f"{key}-model"))
        usual = int(options.get("length", 512))
        length = int(st.select_slider(t("widgets.on_a_card.tokens"), LENGTHS, value=usual, key=f"{key}-length"))
    with right:
        card = gpu(str(_pick(t("widgets.card"), CARDS, options.get("card"), f"{key}-card")))
        method = str(
            st.segmented_control(
                t("widgets.method"), METHODS, format_func=title_of, default=str(options.get("method", "qlora")),
                required=True, key=f"{key}-method",
            )
        )  # fmt: skip
    device = Device((8, 9))
    config = RunConfig(method=method, train=TrainConfig(gradient_checkpointing=True))
    setup = Setup.of(config, 1, length, device)
    made = find(model, setup)
    if made is None:
        st.caption(t("widgets.on_a_card.no_estimate"))
        return
    ledger = made.ledger(Sizes.of(setup))
    found = totals(ledger.allocated_bytes, device)
    what = t("widgets.on_a_card.what", method=title_of(method), model=model)
    chart = charts_memory.step(ledger, found, card, what, card.name)
    compare.draw(chart, f"{key}-chart")
    st.html(charts_memory.step_legend(chart))
    st.markdown(charts_memory.verdict(found, card, card.name))
    st.caption(t("widgets.on_a_card.how"))
    with st.expander(t("widgets.numbers")):
        localized.grid(tables.readable(chart.table), hide_index=True, alt=chart.alt)


def _pick(label: str, values: tuple[str, ...], start: Any, key: str) -> str | None:
    return st.selectbox(label, values, index=values.index(str(start)) if start in values else 0, key=key)
