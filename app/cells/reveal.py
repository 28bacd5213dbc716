"""Prose that says what came out: shown once the predictions that it would give away are answered.

The same holds for a widget or a comparison with `after`: `covered` stands in its place until then. Nothing is kept from
anybody: a button opens it, and what is still covered is printed at the end of the lesson.
"""

from __future__ import annotations

import streamlit as st

from app.cells import predict
from app.cells.context import Context, name_of
from app.index import Cell
from app.words import t


def hidden(cell: Cell, context: Context) -> list[Cell]:
    """The predictions that a cell waits for; none once the learner has asked to see it all the same."""
    if not cell.body.get("after") or context.kept(cell).get("shown"):
        return []
    return predict.waiting(cell.body["after"], context)


def render(cell: Cell, context: Context) -> None:
    """Draw the text, or what it waits for."""
    if not covered(cell, context, "text"):
        context.say(cell.body["text"], f"{cell.id}:text")


def covered(cell: Cell, context: Context, what: str) -> bool:
    """Whether a cell waits for a prediction; if so, say for which, with a button that opens it.

    what: "text" or "figure", for the words.
    """
    guesses = hidden(cell, context)
    if not guesses:
        return False
    links = ", ".join(f"[{g.number} · {name_of(g.kind)}: {context.text(g.body['title'])}](#{g.id})" for g in guesses)
    with st.container(key=f"waits-{context.key(cell)}", gap="xsmall"):
        st.caption(f":material/lock: {t(f'reveal.{what}', links=links)}")
        if st.button(
            t("reveal.anyway"), key=context.key(cell, "anyway"), type="tertiary", icon=":material/visibility:"
        ):
            context.save(cell, {**context.kept(cell), "shown": True})
            st.rerun()
    return True
