"""NF4 judged twice: are its levels used equally, and is its error the least? On normal numbers and on real weights."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_levels, compare, localized, tables
from app.schema import Rule
from app.widgets import one_block
from app.words import t
from core.quantization import criteria

NAME = "two-criteria"
OPTIONS: dict[str, Rule] = {}
OF = ("normal", "real")
SIZES = (32, 64, 256, 1024)


@st.cache_data(show_spinner=False, max_entries=16)
def _judged(of: str, block_size: int) -> tuple[criteria.Judged, ...]:
    weight = criteria.normal_weights() if of == "normal" else one_block.weights(one_block.FIRST)
    return criteria.judged(weight, block_size)


def render(options: dict[str, Any], key: str) -> None:
    """Choose the numbers and the block size; both criteria for five lists of levels."""
    left, right = st.columns(2)
    with left:
        of = st.segmented_control(
            t("widgets.two_criteria.numbers"), OF, format_func=lambda name: t(f"widgets.two_criteria.of.{name}"),
            default="normal", required=True, key=f"{key}-of",
        )  # fmt: skip
    with right:
        size = st.select_slider(t("widgets.block_weights"), SIZES, value=64, key=f"{key}-size")
    chart = charts_levels.criteria(_judged(str(of), int(size)))
    compare.draw(chart, f"{key}-chart")
    st.caption(t("widgets.two_criteria.how"))
    with st.expander(t("widgets.numbers")):
        localized.grid(tables.readable(chart.table), hide_index=True, alt=chart.alt)
