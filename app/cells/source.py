"""Source: the very function that runs, from the repository, beside the equation that it computes."""

from __future__ import annotations

import streamlit as st

from app import sources
from app.cells.context import Context, frame
from app.index import Cell
from app.words import t


def render(cell: Cell, context: Context) -> None:
    """Draw the equation, the text, and the code with its file and line."""
    body = cell.body
    found = sources.source(body["object"])
    with frame(cell, context, body["title"]):
        if body.get("text"):
            context.say(body["text"], f"{cell.id}:text")
        if body.get("equation"):
            st.latex(body["equation"])
        paper = body.get("paper")
        if paper:
            section = f", {paper['section']}" if paper.get("section") else ""
            st.caption(f"[{paper['title']}]({paper['url']}){section}")
        st.caption(t("source.place", path=f"`{found.path}`", line=found.line))
        st.code(found.text, language="python", line_numbers=False, wrap_lines=True)
