"""One block of real weights, stored and read again; and what a single large weight does to the others."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_quantization, compare
from app.charts_quantization import share
from app.schema import Rule
from app.words import t
from core.config import EMBEDDED
from core.quantization import matrices, summaries
from core.quantization.formats import FORMATS
from core.quantization.summaries import with_outlier

NAME = "one-block"
OPTIONS = {"block_size": Rule("int"), "matrix": Rule("text")}
SHOWN = ("nf4", "fp4", "int4", "int8")
SIZES = (16, 32, 64, 128)
TIMES = (1, 2, 4, 8, 16)


@st.cache_data(show_spinner=False, max_entries=8)
def weights(name: str) -> Any:
    """The first rows of a matrix of the embedded base."""
    return matrices.read(matrices.named(matrices.of_base(EMBEDDED), name), summaries.AT_ONCE)


def render(options: dict[str, Any], key: str) -> None:
    """Format, size, and how much larger one weight is made; the block before and after."""
    size0 = int(options.get("block_size", 32))
    left, middle, right = st.columns(3)
    with left:
        name = st.selectbox(
            t("widgets.one_block.format"), SHOWN, format_func=lambda n: FORMATS[n].title, key=f"{key}-format"
        )
    with middle:
        size = st.select_slider(t("widgets.one_block.weights"), SIZES, value=size0, key=f"{key}-size")
    with right:
        times = st.select_slider(
            t("widgets.one_block.larger"), TIMES, value=1, format_func=lambda f: f"{f}×", key=f"{key}-times"
        )
    weight = with_outlier(weights(str(options.get("matrix", FIRST))).reshape(-1)[: int(size)], int(times))
    form = FORMATS[str(name)]
    block = summaries.block(weight, form, int(size))
    compare.draw(charts_quantization.one_block(block, form), f"{key}-block")
    error = summaries.rest_error(block)
    st.markdown(
        t(
            "widgets.one_block.told",
            scale=f"{block.absmax:.3f}",
            error=share(error),
            used=len(set(block.codes)),
            levels=len(form.levels),
        )
    )


FIRST = "model.layers.0.self_attn.q_proj.weight"
