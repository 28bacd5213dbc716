"""Model, method, card and examples: will it fit, how long, what it costs; with the links into the calculators."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_memory, live, state
from app.schema import Rule

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


def render(options: dict[str, Any], key: str) -> None:
    """The choices, the verdict, time and money, and where to go on."""
    from core.catalog import gpus, models
    from core.errors import DeltalabError
    from core.memory.planning import plan

    names = [row.name for row in models() if row.is_decoder]
    cards = [row.name for row in gpus()]
    first, second = st.columns(2, gap="medium")
    model = first.selectbox("Model", names, index=names.index(options.get("model", "Llama-3.1-8B")), key=f"{key}-model")
    card = second.selectbox("Card", cards, index=cards.index(options.get("card", "RTX 4090")), key=f"{key}-card")
    method = st.segmented_control(
        "Method", METHODS, default=options.get("method", "qlora"), required=True, key=f"{key}-method",
        format_func=TITLES.__getitem__,
    )  # fmt: skip
    first, second, third = st.columns(3, gap="medium")
    length = first.select_slider(
        "Tokens of a row",
        LENGTHS,
        value=options.get("length", 1024),
        key=f"{key}-length",
        format_func=lambda n: f"{n:,}",
    )
    examples = second.number_input("Examples", 1, 10_000_000, options.get("examples", 2000), 100, key=f"{key}-examples")
    epochs = third.number_input("Times each is seen", 1, 100, options.get("epochs", 3), 1, key=f"{key}-epochs")
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
    usable = charts_memory.size(found.card.usable_bytes)
    if found.totals is None:
        st.markdown(f"{ICONS[found.verdict]} No estimate ships for this step; the calculator works it out.")
    else:
        st.markdown(
            f"{ICONS[found.verdict]} **{found.verdict.capitalize()}**: {charts_memory.band(found.totals)} of {usable}, "
            f"one row at a time. Largest batch that is likely to fit: {found.most_batch or 'none'}."
        )
    if found.cost is None:
        st.markdown("How fast this card computes is not in the catalogue, so nothing is said about time.")
    else:
        least, likely, most = found.cost.hours
        money = "" if found.cost.money is None else f", \\${found.cost.money[0]:,.2f} to \\${found.cost.money[2]:,.2f}"
        st.markdown(
            f":material/schedule: {found.cost.steps:,} steps: about **{charts_memory.hours(likely)}**, between "
            f"{charts_memory.hours(least)} and {charts_memory.hours(most)}{money}."
        )
    st.caption(
        ":material/functions: **Predicted** by the calculators: memory from traces, time from a model with a band."
    )
    query = {"model": str(model), "method": str(method), "card": str(card), "length": str(length)}
    with st.container(horizontal=True):
        st.page_link(
            state.page("vram"), label="Term by term, in the calculator", icon=":material/memory:", query_params=query
        )
        st.page_link(state.page("parameters"), label="What trains", icon=":material/calculate:",
                     query_params={"model": str(model), "method": str(method)})  # fmt: skip
