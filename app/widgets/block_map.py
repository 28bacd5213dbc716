"""One transformer block, drawn: choose a method, and what it trains lights up, with the engine's own numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import live, localized
from app.block_drawing import block
from app.cells.svg import draw
from app.charts_race import title_of
from app.schema import Rule
from app.story import small
from app.words import from_core, t
from core.anatomy import KINDS, NAMES, depth, drawn, lit, table_of
from core.errors import DeltalabError
from core.methods import METHODS
from core.units import bytes_text, count_text

NAME = "block-map"
OPTIONS = {"method": Rule("word"), "model": Rule("text")}

MODELS = ("embedded", "Llama-3.1-8B", "GPT-2")


def render(options: dict[str, Any], key: str) -> None:
    """Method and model; the drawing, and where the numbers are."""
    columns = st.columns(2)
    with columns[0]:
        names = list(METHODS)
        start = names.index(str(options.get("method", "lora")))
        method = str(st.selectbox(t("widgets.method"), names, index=start, format_func=title_of, key=f"{key}-method"))
    with columns[1]:
        start = MODELS.index(str(options.get("model", "embedded")))
        model = str(st.selectbox(t("widgets.model"), MODELS, index=start, format_func=_model_name, key=f"{key}-model"))
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
        st.markdown(f"**{about.TITLE}.** {from_core(about.SUMMARY)}")
        st.code(about.FORMULA, language=None, wrap_lines=True)
        if shown:
            total = sum(one.total for one in shown)
            share = t("widgets.block_map.share", share=small(total / table.total), total=count_text(table.total))
            localized.metric(
                t("widgets.block_map.trained"), count_text(total), share, delta_color="off", delta_arrow="off"
            )
            from core.memory.storage import storage

            saved = storage(table, method, about.Config()).adapter
            st.markdown(t("widgets.block_map.saved", size=bytes_text(saved)))
        st.markdown(t("widgets.block_map.afterwards", told=from_core(about.INFERENCE)))
    if shown:
        rows = [
            {
                t("widgets.block_map.where"): from_core(NAMES[o.place]),
                t("widgets.block_map.what"): from_core(KINDS[o.kind]),
                t("widgets.block_map.each"): f"{o.each:,}",
                t("widgets.block_map.blocks"): f"{o.blocks}" if o.blocks > 1 else "–",
                t("widgets.block_map.in_all"): f"{o.total:,}",
            }
            for o in shown
        ]  # fmt: skip
        with st.expander(t("widgets.block_map.table"), key=f"{key}-table"):
            localized.grid(pd.DataFrame(rows), hide_index=True, alt=t("widgets.block_map.alt"))


def _model_name(model: str) -> str:
    return t("widgets.block_map.embedded") if model == "embedded" else model
