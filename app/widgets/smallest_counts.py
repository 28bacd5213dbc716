"""How many numbers the smallest methods train on a model of the catalogue, beside LoRA."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_parameters, compare, localized
from app.charts_race import title_of
from app.schema import Rule
from app.story import plain
from app.words import t
from core.catalog import architecture_of
from core.counting import count
from core.methods import METHODS

NAME = "smallest-counts"
OPTIONS = {"model": Rule("text"), "tokens": Rule("int")}
MODELS = (
    "BERT-base-uncased", "GPT-2", "OPT-1.3B", "Qwen2.5-7B", "Phi-2", "Mistral-7B-v0.1", "Llama-3.2-1B", "Llama-3.1-8B",
    "Llama-3.1-70B",
)  # fmt: skip
TOKENS = (1, 5, 10, 20, 50, 100, 200)
SHOWN = ("bitfit", "ia3", "prompt_tuning", "prefix_tuning", "lora")


def render(options: dict[str, Any], key: str) -> None:
    """Choose the model and the number of virtual tokens; the counts, and who has no place there."""
    left, right = st.columns(2)
    with left:
        name = str(
            st.selectbox(
                t("widgets.model"), MODELS, index=MODELS.index(str(options.get("model", MODELS[0]))), key=f"{key}-model"
            )
        )
    with right:
        usual = int(options.get("tokens", 20))
        tokens = int(st.select_slider(t("widgets.smallest_counts.tokens"), TOKENS, value=usual, key=f"{key}-tokens"))
    table = architecture_of(name)
    rows = []
    for method in SHOWN:
        own = METHODS[method].Config
        rows.append(count(table, method, own(tokens=tokens) if method.startswith("pr") else own()))
    chart = charts_parameters.counted(rows, "bitfit")
    compare.draw(chart, f"{key}-chart")
    biased = sum(1 for m in table.modules if m.bias)
    modules = f"{len(table.modules):,}"
    st.markdown(t("widgets.smallest_counts.told", model=plain(name), modules=modules, biased=f"{biased:,}"))
    for row in rows:
        if row.trainable is None:
            st.caption(f":material/block: {title_of(row.method)}: {plain(row.why)}")
    with st.expander(t("widgets.numbers")):
        localized.grid(charts_parameters.counts_table(rows), hide_index=True, alt=chart.alt)
