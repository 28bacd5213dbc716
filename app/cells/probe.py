"""A measurement of a finished run, or of the base."""

from __future__ import annotations

import streamlit as st

from app import calc
from app.cells.context import Context, frame
from app.index import Cell, probed_path


def render(cell: Cell, context: Context) -> None:
    """Draw the recorded numbers."""
    body = cell.body
    with frame(cell, context, body["title"]):
        if body.get("text"):
            st.markdown(context.text(body["text"]))
        figures = calc.probe_quantities(calc.probed_result(probed_path(context.lesson.folder, cell.id))["result"])
        st.markdown(
            "\n".join(f"- {name}: {calc.probe_text(name, value)}" for name, value in list(figures.items())[:12])
        )
