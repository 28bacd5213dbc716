"""An exercise: what is to be written, and where to begin."""

from __future__ import annotations

import streamlit as st

from app.cells.context import Context, frame
from app.index import Cell


def render(cell: Cell, context: Context) -> None:
    """Draw the task and its stub, to be read."""
    with frame(cell, context, cell.body["title"]):
        st.markdown(context.text(cell.body["text"]))
        st.code(cell.body["stub"].rstrip(), language="python", wrap_lines=True)
