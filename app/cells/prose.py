"""Prose: Markdown with KaTeX, its calcs filled in; and the lesson's pictures."""

from __future__ import annotations

import streamlit as st

from app.cells.context import Context
from app.cells.svg import draw
from app.index import Cell


def render(cell: Cell, context: Context) -> None:
    """Draw a stretch of text."""
    text = cell.body["text"]
    if cell.body.get("code"):
        st.markdown(text)
    else:
        context.say(text, str(cell.line))


def render_image(cell: Cell, context: Context) -> None:
    """Draw a picture of the lesson; an SVG takes the theme's text colour."""
    path = context.lesson.folder / cell.body["file"]
    alt = cell.body["alt"]
    with st.container(horizontal_alignment="center"):
        if path.suffix == ".svg":
            draw(path.read_text(encoding="utf-8"), alt, most_wide=620)
        else:
            st.image(str(path), alt=alt)
