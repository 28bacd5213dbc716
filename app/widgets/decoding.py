"""A product with a 4-bit matrix: how much faster decoding inside it can be, and how often it then decodes."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import calc_roofline, charts_roofline, findings
from app.schema import Rule
from app.words import t

NAME = "decoding"
OPTIONS = {"card": Rule("text"), "width": Rule("int")}

TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
WIDTHS = (512, 1024, 2048, 4096, 8192)


def render(options: dict[str, Any], key: str) -> None:
    """Card and width to choose; gain and decodings over the tokens."""
    from core.catalog import gpus
    from core.decode_cost import TILE, decoding
    from core.roofline import limit_of

    cards = [row.name for row in gpus() if limit_of(row) is not None]
    first, second = st.columns(2, gap="medium")
    start = cards.index(options.get("card", "RTX 4090"))
    card = first.selectbox(t("widgets.card"), cards, index=start, key=f"{key}-card")
    width = second.select_slider(
        t("widgets.decoding.width"), WIDTHS, value=options.get("width", 4096), key=f"{key}-width",
        format_func=lambda n: f"{n:,}",
    )  # fmt: skip
    limit = calc_roofline.limit(str(card))
    rows = [decoding(tokens, int(width), int(width), limit) for tokens in TOKENS]
    st.caption(f":material/functions: {t('widgets.decoding.predicted', tile=TILE)}")
    findings.shown(charts_roofline.decodings(rows, limit), f"{key}-chart", NAME)
