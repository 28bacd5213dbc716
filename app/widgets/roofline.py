"""The roofline of a card with the operations of one training step under it: card, model, method, tokens to choose."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import calc_roofline, charts_roofline, findings
from app.schema import Rule
from app.words import t

NAME = "roofline"
OPTIONS = {"card": Rule("text"), "model": Rule("text"), "method": Rule("word"), "length": Rule("int")}

MODELS = ("SmolLM2-135M", "Llama-3.2-1B", "Llama-3.1-8B")
METHODS = ("full", "lora", "qlora")
LENGTHS = (64, 256, 1024, 4096)


def render(options: dict[str, Any], key: str) -> None:
    """The choices, the roof, and what each operation waits for."""
    from core.catalog import gpus
    from core.roofline import limit_of

    cards = [row.name for row in gpus() if limit_of(row) is not None]
    first, second = st.columns(2, gap="medium")
    start = cards.index(options.get("card", "RTX 4090"))
    card = first.selectbox(t("widgets.card"), cards, index=start, key=f"{key}-card")
    model = second.selectbox(
        t("widgets.model"), MODELS, index=MODELS.index(options.get("model", "Llama-3.1-8B")), key=f"{key}-model"
    )
    third, fourth = st.columns(2, gap="medium")
    with third:
        method = st.segmented_control(
            t("widgets.method"), METHODS, default=options.get("method", "lora"), required=True, key=f"{key}-method",
            format_func={"full": "Full", "lora": "LoRA", "qlora": "QLoRA"}.__getitem__,
        )  # fmt: skip
    with fourth:
        length = st.select_slider(
            t("widgets.batch_tokens"), LENGTHS, value=options.get("length", 1024), key=f"{key}-length",
            format_func=lambda n: f"{n:,}",
        )  # fmt: skip
    limit = calc_roofline.limit(str(card))
    rows = calc_roofline.ops(str(model), str(method), 1, int(length))
    told = t(
        "widgets.roofline.predicted",
        card=card,
        flops=charts_roofline.per_second(limit.flops_per_second),
        bandwidth=f"{limit.bytes_per_second / 1e9:,.0f} GB/s",
        ridge=f"{limit.ridge:.0f}",
    )
    st.caption(f":material/functions: {told}")
    what = t("widgets.roofline.what", method=method, model=model, length=length)
    findings.shown(charts_roofline.roofline(rows, limit, what), f"{key}-chart", NAME)
