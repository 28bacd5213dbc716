"""Model, method, card and examples: will it fit, how long, what it costs; with the links into the calculators."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_memory, live, state
from app.schema import Rule
from app.words import t

NAME = "plan-it"
OPTIONS = {
    "model": Rule("text"), "method": Rule("word"), "card": Rule("text"), "length": Rule("int"), "examples": Rule("int"),
    "epochs": Rule("int"),
}  # fmt: skip

METHODS = ("full", "lora", "qlora", "bitfit")
TITLES = {"full": "Full", "lora": "LoRA", "qlora": "QLoRA", "bitfit": "BitFit"}
LENGTHS = (256, 512, 1024, 2048, 4096)
ICONS = {
    "fits": ":material/check_circle:", "tight": ":material/warning:", "does not fit": ":material/block:",
    "not worked out": ":material/help:",
}  # fmt: skip
VERDICTS = {"fits": "fits", "tight": "tight", "does not fit": "too_large"}
"""What the calculator says -> the key of its words."""


def render(options: dict[str, Any], key: str) -> None:
    """The choices, the verdict, time and money, and where to go on."""
    from core.catalog import gpus, models
    from core.errors import DeltalabError
    from core.memory.planning import plan

    names = [row.name for row in models() if row.is_decoder]
    cards = [row.name for row in gpus()]
    first, second = st.columns(2, gap="medium")
    start = names.index(options.get("model", "Llama-3.1-8B"))
    model = first.selectbox(t("widgets.model"), names, index=start, key=f"{key}-model")
    start = cards.index(options.get("card", "RTX 4090"))
    card = second.selectbox(t("widgets.card"), cards, index=start, key=f"{key}-card")
    method = st.segmented_control(
        t("widgets.method"), METHODS, default=options.get("method", "qlora"), required=True, key=f"{key}-method",
        format_func=TITLES.__getitem__,
    )  # fmt: skip
    first, second, third = st.columns(3, gap="medium")
    length = first.select_slider(
        t("widgets.plan_it.tokens"),
        LENGTHS,
        value=options.get("length", 1024),
        key=f"{key}-length",
        format_func=lambda n: f"{n:,}",
    )
    examples = second.number_input(
        t("widgets.plan_it.examples"), 1, 10_000_000, options.get("examples", 2000), 100, key=f"{key}-examples"
    )
    epochs = third.number_input(t("widgets.plan_it.epochs"), 1, 100, options.get("epochs", 3), 1, key=f"{key}-epochs")
    try:
        found = plan(
            str(model),
            str(method),
            str(card),
            batch=1,
            length=int(length),
            examples=int(examples),
            epochs=float(epochs),
        )
    except DeltalabError as error:
        live.say(error)
        return
    usable = charts_memory.usable(found.card)
    if found.totals is None:
        st.markdown(f"{ICONS[found.verdict]} {t('widgets.plan_it.no_estimate')}")
    else:
        told = t(
            "widgets.plan_it.memory",
            verdict=t(f"widgets.plan_it.verdict.{VERDICTS[found.verdict]}"),
            takes=charts_memory.band(found.totals),
            usable=usable,
            batch=found.most_batch or t("widgets.plan_it.no_batch"),
        )
        st.markdown(f"{ICONS[found.verdict]} {told}")
    if found.cost is None:
        st.markdown(t("widgets.plan_it.no_time"))
    else:
        least, likely, most = found.cost.hours
        hours = {
            "steps": f"{found.cost.steps:,}",
            "likely": charts_memory.hours(likely),
            "least": charts_memory.hours(least),
            "most": charts_memory.hours(most),
        }
        if found.cost.money is None:
            told = t("widgets.plan_it.time", **hours)
        else:
            low, _, high = found.cost.money
            told = t("widgets.plan_it.time_money", **hours, low=f"\\${low:,.2f}", high=f"\\${high:,.2f}")
        st.markdown(f":material/schedule: {told}")
    st.caption(f":material/functions: {t('widgets.plan_it.predicted')}")
    query = {"model": str(model), "method": str(method), "card": str(card), "length": str(length)}
    with st.container(horizontal=True):
        st.page_link(
            state.page("vram"), label=t("widgets.plan_it.calculator"), icon=":material/memory:", query_params=query
        )
        st.page_link(state.page("parameters"), label=t("widgets.plan_it.what_trains"), icon=":material/calculate:",
                     query_params={"model": str(model), "method": str(method)})  # fmt: skip
