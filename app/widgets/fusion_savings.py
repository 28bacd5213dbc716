"""What each fused kernel saves of a step: bytes counted, time predicted."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import calc_roofline, charts_roofline, findings
from app.charts_race import title_of
from app.schema import Rule
from app.words import t

NAME = "fusion-savings"
OPTIONS = {"card": Rule("text"), "model": Rule("text"), "method": Rule("word"), "length": Rule("int")}

LENGTHS = (256, 1024, 4096, 8192)


def render(options: dict[str, Any], key: str) -> None:
    """Card and tokens to choose; bars of what is not moved."""
    from core.catalog import gpus
    from core.roofline import limit_of, savings

    cards = [row.name for row in gpus() if limit_of(row) is not None]
    first, second = st.columns(2, gap="medium")
    start = cards.index(options.get("card", "RTX 4090"))
    card = first.selectbox(t("widgets.card"), cards, index=start, key=f"{key}-card")
    length = second.select_slider(
        t("widgets.batch_tokens"), LENGTHS, value=options.get("length", 4096), key=f"{key}-length",
        format_func=lambda n: f"{n:,}",
    )  # fmt: skip
    model, method = options.get("model", "Llama-3.1-8B"), options.get("method", "qlora")
    limit = calc_roofline.limit(str(card))
    rows = savings(
        calc_roofline.ops(model, method, 1, int(length)), calc_roofline.ops(model, method, 1, int(length), fused=True),
        limit,
    )  # fmt: skip
    told = t("widgets.fusion_savings.predicted", method=title_of(method), model=model, length=f"{length:,}")
    st.caption(f":material/functions: {told}")
    findings.shown(charts_roofline.fused(rows, limit), f"{key}-chart", NAME)
