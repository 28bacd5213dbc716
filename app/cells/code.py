"""Code: a piece of Python of the lesson, to be changed and run."""

from __future__ import annotations

import streamlit as st

from app.cells import coding
from app.cells.context import Context, frame
from app.index import Cell


def task(cell: Cell) -> coding.Task:
    """What the editor of a code cell is for."""
    return coding.Task(cell.body["code"].rstrip() + "\n", float(cell.body.get("seconds", coding.SECONDS)))


def render(cell: Cell, context: Context) -> None:
    """Draw the cell in a fragment of its own."""
    _code(cell, context)


@st.fragment
def _code(cell: Cell, context: Context) -> None:
    with frame(cell, context, cell.body["title"]):
        if cell.body.get("text"):
            st.markdown(context.text(cell.body["text"]))
        if coding.allowed():
            coding.editor(cell, context, task(cell))
        else:
            coding.read_only(cell.body["code"])
