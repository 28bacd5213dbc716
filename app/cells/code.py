"""Code: a piece of Python of the lesson."""

from __future__ import annotations

import streamlit as st

from app.cells.context import Context, frame
from app.index import Cell


def render(cell: Cell, context: Context) -> None:
    """Draw the code, to be read."""
    with frame(cell, context, cell.body["title"]):
        if cell.body.get("text"):
            st.markdown(context.text(cell.body["text"]))
        st.code(cell.body["code"].rstrip(), language="python", wrap_lines=True)
