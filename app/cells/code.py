"""Code: a piece of Python of the lesson, to be changed and run."""

from __future__ import annotations

import streamlit as st

from app import state
from app.cells import coding
from app.cells.context import Context, frame
from app.index import Cell


def task(cell: Cell) -> coding.Task:
    """What the editor of a code cell is for."""
    return coding.Task(cell.body["code"].rstrip(), float(cell.body.get("seconds", coding.SECONDS)))


def render(cell: Cell, context: Context) -> None:
    """Draw the cell in a fragment of its own."""
    _code(cell, context)


def begin(cell: Cell, context: Context) -> bool:
    """Run the code as it stands in the editor."""
    coding.start(cell, context, task(cell), coding.draft(cell, context, task(cell)))
    return True


def standing(cell: Cell, context: Context) -> str:
    """How the code as it stands is: "done" in the kernel that is there now, "on", "failed", or "open"."""
    return coding.standing(cell, context, task(cell))


def halt(cell: Cell, context: Context) -> None:
    """Stop it."""
    state.kernels().interrupt(context.owner)


@st.fragment
def _code(cell: Cell, context: Context) -> None:
    with frame(cell, context, cell.body["title"]):
        if cell.body.get("text"):
            context.say(cell.body["text"], f"{cell.id}:text")
        if coding.allowed():
            coding.editor(cell, context, task(cell))
        else:
            coding.read_only(cell.body["code"])
