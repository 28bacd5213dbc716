"""A base reads retrieved passages, on a page: what fits into its context, what it answers, and where those words stand.

    read = fitted("Where does Ada live?", hits, "embedded", 24)    # the prompt, with as many passages as have room
    text = said(None, "embedded", read, 24)
    st.caption(plain(source_of(text, read.hits, question)))

The models are loaded and asked in the server's talking process; here are only their tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import data, state
from app.story import plain
from app.words import n
from core.errors import BadInput
from core.rag.answer import Fitted, citations, declines, fit
from core.rag.desk import subject

if TYPE_CHECKING:
    from core.rag.retrieve import Hit

MOST_SHOWN = 600  # characters of a passage


def fitted(asked: str, hits: Sequence[Hit], base: str, longest: int) -> Fitted:
    """The prompt with as many of the passages as leave room for an answer of `longest` tokens.

    Raises:
        DeltalabError: no question, or one that is too long by itself; the base cannot be used.
    """
    if not asked.strip():
        raise BadInput("There is no question.", "Write one.")
    return fit(asked, hits, data.tokenizer(base), _context(base), base=base, reserve=longest)


@st.cache_data(show_spinner=False, ttl=120, max_entries=16)
def _context(base: str) -> int | None:
    """The longest text that a base reads, in tokens; None where nothing says."""
    from core.base import describe_base

    found = describe_base(base)["context"]
    return None if found is None else int(found)


def said(run_id: str | None, base: str, read: Fitted, longest: int) -> str:
    """One answer, whole.

    Raises:
        DeltalabError: the model could not be asked.
    """
    turns = [{"role": message.role, "content": message.content} for message in read.messages]
    return "".join(state.talker().ask(run_id, base, turns, longest, state.owner())).strip()


def source_of(text: str, hits: Sequence[Hit], asked: str) -> str:
    """Where an answer's words stand, and for the small world's table whether that row is about the one asked about.

    That words stand in a passage proves nothing: an answer may be taken from a row about somebody else.
    """
    if declines(text):
        return "It says that it is not said."
    numbers = citations(text, [hit.chunk.text for hit in hits])
    if not numbers:
        return "The words stand in none of the passages."
    about = {n: subject(hits[n - 1].chunk.text) for n in numbers}
    told = ", ".join(f"passage {n}{f' (about {who})' if who else ''}" for n, who in about.items())
    if any(not who or who in asked for who in about.values()):
        return f"The words stand in {told}."
    return f"The words stand in {told}, whom the question does not name: this answer may be invented."


def sources(hits: Sequence[Hit], cited: Sequence[int] = (), left_out: int = 0) -> None:
    """The passages, with where they come from; those that hold the answer's words are marked."""
    for number, hit in enumerate(hits, 1):
        mark = ":material/format_quote:" if number in cited else ":material/article:"
        text = hit.chunk.text
        shown = f"{plain(text[:MOST_SHOWN])}{'…' if len(text) > MOST_SHOWN else ''}"
        st.markdown(f"{mark} **[{number}] {plain(hit.chunk.citation)}**  \n{shown}")
    if left_out:
        st.caption(n("reading.left_out", left_out))
