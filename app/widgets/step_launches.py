"""What the host and what the card need for a step, from a tiny model to a large one, with and without a graph."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import calc_roofline, charts_roofline, findings
from app.schema import Rule
from app.words import t

NAME = "step-launches"
OPTIONS = {"card": Rule("text"), "length": Rule("int"), "method": Rule("word")}

MODELS = {"SmolLM2-135M": "135 M", "Llama-3.2-1B": "1 B", "Llama-3.2-3B": "3 B", "Llama-3.1-8B": "8 B"}
LENGTHS = (64, 256, 1024, 4096)


def render(options: dict[str, Any], key: str) -> None:
    """Card, tokens, fused kernels and graph to choose; then the two times for each model."""
    from core.catalog import gpus
    from core.roofline import limit_of

    cards = [row.name for row in gpus() if limit_of(row) is not None]
    first, second = st.columns(2, gap="medium")
    start = cards.index(options.get("card", "RTX 4090"))
    card = first.selectbox(t("widgets.card"), cards, index=start, key=f"{key}-card")
    length = second.select_slider(
        t("widgets.batch_tokens"), LENGTHS, value=options.get("length", 256), key=f"{key}-length",
        format_func=lambda n: f"{n:,}",
    )  # fmt: skip
    with st.container(horizontal=True):
        fused = st.toggle(t("widgets.step_launches.fused"), key=f"{key}-fused")
        graph = st.toggle(t("widgets.step_launches.graph"), key=f"{key}-graph")
    method = options.get("method", "lora")
    rows = [
        (title, calc_roofline.whole(str(card), name, method, 1, int(length), fused=fused, graph=graph))
        for name, title in MODELS.items()
    ]
    each = f"{calc_roofline.launch_us():.1f}"
    st.caption(f":material/functions: {t('widgets.step_launches.predicted', each=each)}")
    findings.shown(charts_roofline.launches(rows, calc_roofline.limit(str(card))), f"{key}-chart", NAME)
