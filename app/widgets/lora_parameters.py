"""How many numbers LoRA trains beside one matrix: sliders for its size and the rank, and both drawn to scale."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import calc, charts, localized
from app.cells.svg import document, draw
from app.schema import Rule
from app.words import t

NAME = "lora-parameters"
OPTIONS = {"d": Rule("int"), "k": Rule("int"), "r": Rule("int")}

WIDTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def render(options: dict[str, Any], key: str) -> None:
    """Sizes of one matrix and the rank; the parameters of W0 and of B and A, and both drawn to scale."""
    left, middle, right = st.columns(3)
    with left:
        d = _pick(t("widgets.lora_parameters.outputs"), WIDTHS, options.get("d", 1024), f"{key}-d")
    with middle:
        k = _pick(t("widgets.lora_parameters.inputs"), WIDTHS, options.get("k", 1024), f"{key}-k")
    with right:
        r = _pick(t("widgets.rank_r"), RANKS, options.get("r", 8), f"{key}-r")
    whole, thin = calc.matrix_parameters(d, k), calc.lora_parameters(d, k, r)
    left, right = st.columns([3, 2], vertical_alignment="center")
    with left:
        draw(*drawn_to_scale(d, k, r), most_wide=380)
    with right:
        localized.metric(t("widgets.lora_parameters.frozen"), f"{whole:,.0f}")
        localized.metric(t("widgets.lora_parameters.trained"), f"{thin:,.0f}")
        if thin < whole:
            st.markdown(t("widgets.lora_parameters.share", share=calc.percent(100 * thin / whole)))
        else:
            st.markdown(t("widgets.lora_parameters.nothing_saved"))


def _pick(label: str, values: tuple[int, ...], start: int, key: str) -> int:
    options = sorted({*values, start})
    return int(st.select_slider(label, options, value=start, format_func=lambda v: f"{v:,}", key=key))


def drawn_to_scale(d: int, k: int, r: int) -> tuple[str, str]:
    """W0 (d × k) beside B (d × r) and A (r × k), all to one scale; what is thinner than a pixel is drawn as one.

    Returns the SVG and its alt text.
    """
    unit = 150 / max(d, k)
    h, w, thick = d * unit, k * unit, max(r * unit, 1.5)
    width, height = w + 50 + thick + 14 + w + 10, max(h, thick) + 34
    bx = w + 50
    ax = bx + thick + 14
    colour = charts.method_style("lora").colour
    alt = t("widgets.lora_parameters.alt", d=f"{d:,}", k=f"{k:,}", r=f"{r:,}")
    inner = f"""
<rect x="4" y="24" width="{w:.1f}" height="{h:.1f}" fill-opacity="0.18" stroke="currentColor" stroke-opacity="0.5"/>
<text x="4" y="16">W₀</text>
<text x="{w + 27:.0f}" y="{24 + h / 2 + 5:.0f}" text-anchor="middle">+</text>
<rect x="{bx:.1f}" y="24" width="{thick:.1f}" height="{h:.1f}" fill="{colour}"/>
<text x="{bx:.0f}" y="16">B</text>
<rect x="{ax:.1f}" y="24" width="{w:.1f}" height="{thick:.1f}" fill="{colour}"/>
<text x="{ax:.0f}" y="16">A</text>"""
    return document(inner, width, height), alt
