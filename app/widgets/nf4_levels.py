"""Where NormalFloat's levels come from: even steps of probability, their quantiles, the levels; one step a click."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_levels, compare, localized, tables
from app.schema import Rule
from app.words import t
from core.quantization.formats import normal_float

NAME = "nf4-levels"
OPTIONS = {"bits": Rule("int")}
BITS = ["2", "3", "4"]


def render(options: dict[str, Any], key: str) -> None:
    """Choose the bits and the step; the figure, and what it says."""
    with st.container(horizontal=True, gap="medium"):
        step = st.segmented_control(
            t("widgets.normal_float.step"), charts_levels.STEPS, default=charts_levels.STEPS[0], required=True,
            format_func=lambda step: t(f"widgets.normal_float.steps.{step.lower()}"), key=f"{key}-step",
        )  # fmt: skip
        usual = str(options.get("bits", 4))
        bits = st.segmented_control(
            t("widgets.normal_float.bits"), BITS, default=usual, required=True, key=f"{key}-bits"
        )
    found = normal_float(int(bits or "4"))
    chart = charts_levels.derived(found, str(step))
    compare.draw(chart, f"{key}-{bits}-{step}")
    st.caption(_told(str(step), found.positive[-1][1]))
    with st.expander(t("widgets.numbers")):
        localized.grid(tables.readable(chart.table), hide_index=True, alt=chart.alt)


def _told(step: str, largest: float) -> str:
    if step == charts_levels.STEPS[0]:
        return t("widgets.normal_float.heights")
    if step == charts_levels.STEPS[1]:
        return t("widgets.normal_float.drop")
    return t("widgets.normal_float.divided", largest=f"{largest:.3f}")
