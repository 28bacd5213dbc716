"""What a block size costs in bits and in error, and what double quantization saves, on a matrix of the base."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_quantization, compare, localized, tables
from app.charts_quantization import share
from app.schema import Rule
from app.widgets import one_block
from app.words import t
from core.quantization import blockwise, summaries
from core.quantization.formats import FORMATS

NAME = "block-size"
OPTIONS = {"block_size": Rule("int")}
SIZES = (32, 64, 128, 256, 512, 1024)


@st.cache_data(show_spinner=False, max_entries=4)
def _costs() -> tuple[summaries.Cost, ...]:
    return summaries.costs(one_block.weights(one_block.FIRST), ("nf4", "fp4", "int4"), SIZES)


def render(options: dict[str, Any], key: str) -> None:
    """Block size and double quantization; the sum of the bits, the error, and both for every size."""
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    with left:
        size = st.select_slider(
            t("widgets.block_weights"), SIZES, value=int(options.get("block_size", 64)), key=f"{key}-size"
        )
    with right:
        double = st.toggle(t("widgets.block_size.double"), key=f"{key}-double")
    found = _costs()
    mine = next(c for c in found if (c.format, c.block_size, c.double) == ("nf4", size, double))
    form = FORMATS["nf4"]
    bits = blockwise.bits_per_weight(form, int(size), bool(double))
    terms = (
        rf"4 + \tfrac{{8}}{{{size}}} + \tfrac{{32}}{{{size}\cdot {blockwise.OUTER_BLOCK}}}"
        if double
        else rf"4 + \tfrac{{32}}{{{size}}}"
    )
    unit = rf"\text{{ {t('widgets.block_size.unit')}}}"
    st.markdown(f"$${terms} = {bits:.3f}{unit}$$")
    with st.container(horizontal=True, gap="large"):
        localized.metric(t("widgets.block_size.bits"), f"{bits:.3f}", width="content")
        localized.metric(t("widgets.block_size.error"), share(mine.errors.rmse, 2), width="content")
        localized.metric(t("widgets.block_size.of_whole"), f"{100 * bits / 16:.0f} %", width="content")
    chart = charts_quantization.curve(charts_quantization.cost_rows(found), what=t("widgets.block_size.of_what"))
    compare.draw(chart, f"{key}-curve")
    with st.expander(t("widgets.numbers")):
        localized.grid(tables.readable(chart.table), hide_index=True, alt=chart.alt)
