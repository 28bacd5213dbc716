"""One transformer block, drawn: choose a method, and what it trains lights up, with the engine's own numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import live
from app.block_drawing import block
from app.cells.svg import draw
from app.charts_race import title_of
from app.schema import Rule
from app.story import small
from core.anatomy import KINDS, NAMES, depth, drawn, lit, table_of
from core.errors import DeltalabError
from core.methods import METHODS
from core.units import bytes_text, count_text

NAME = "block-map"
OPTIONS = {"method": Rule("word"), "model": Rule("text")}

MODELS = {"embedded": "This course's model", "Llama-3.1-8B": "Llama-3.1-8B", "GPT-2": "GPT-2"}


def render(options: dict[str, Any], key: str) -> None:
    """Method and model; the drawing, and where the numbers are."""
    columns = st.columns(2)
    with columns[0]:
        names = list(METHODS)
        start = names.index(str(options.get("method", "lora")))
        method = str(st.selectbox("Method", names, index=start, format_func=title_of, key=f"{key}-method"))
    with columns[1]:
        models = list(MODELS)
        start = models.index(str(options.get("model", "embedded")))
        model = str(st.selectbox("Model", models, index=start, format_func=MODELS.__getitem__, key=f"{key}-model"))
    about, table = METHODS[method], table_of(model)
    try:
        shown = lit(table, method)
    except DeltalabError as error:
        live.say(error)
        shown = []
    head = next(m for m in table.modules if m.name == table.head)
    tied = head.tied_to is not None
    left, right = st.columns([3, 2], gap="medium")
    with left:
        four_bit = about.BASE == "quantized"
        draw(*block(drawn(table), shown, method, blocks=depth(table), tied=tied, four_bit=four_bit), most_wide=440)
    with right:
        st.markdown(f"**{about.TITLE}.** {about.SUMMARY}")
        st.code(about.FORMULA, language=None, wrap_lines=True)
        if shown:
            total = sum(one.total for one in shown)
            st.metric("Trained", count_text(total), f"{small(total / table.total)} of {count_text(table.total)}",
                      delta_color="off", delta_arrow="off")  # fmt: skip
            from core.memory.storage import storage

            saved = storage(table, method, about.Config()).adapter
            st.markdown(f"**Saved for a task:** {bytes_text(saved)}.")
        st.markdown(f"**Afterwards, when it answers:** {about.INFERENCE}")
    if shown:
        rows = [
            {
                "Where": NAMES[o.place], "What trains": KINDS[o.kind], "In one block": f"{o.each:,}",
                "Blocks": f"{o.blocks}" if o.blocks > 1 else "–", "In all": f"{o.total:,}",
            }
            for o in shown
        ]  # fmt: skip
        with st.expander("The numbers, place by place", key=f"{key}-table"):
            st.dataframe(pd.DataFrame(rows), hide_index=True, alt="What trains, one row a place.")
