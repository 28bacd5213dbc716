"""Widgets: sliders that only do arithmetic, and answer at once. Each is a file of app/widgets."""

from __future__ import annotations

import streamlit as st

from app import widgets
from app.cells import reveal
from app.cells.context import Context, frame
from app.index import Cell


def render(cell: Cell, context: Context) -> None:
    """Draw the widget in a fragment of its own."""
    _widget(cell, context)


@st.fragment
def _widget(cell: Cell, context: Context) -> None:
    with frame(cell, context, cell.body["title"]):
        if cell.body.get("text"):
            context.say(cell.body["text"], f"{cell.id}:text")
        if reveal.covered(cell, context, "figure"):
            return
        widgets.renderer(cell.body["widget"])(cell.body.get("options") or {}, context.key(cell))
