"""A look at a data file before it is trained on: the lesson's example files, or rows pasted in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import live
from app.schema import Rule
from app.story import plain

if TYPE_CHECKING:
    from core.dataset import Report

NAME = "data-check"
OPTIONS = {"file": Rule("text")}

FOLDER = Path(__file__).parents[2] / "lessons" / "09_plan_your_own" / "data"
PASTED = "pasted"
TITLES = {
    "support.jsonl": "Replies to customers, with faults",
    "clean.jsonl": "The same, mended",
    "quotes.jsonl": "A file that cannot be read",
    PASTED: "My own rows, pasted",
}
MAX_LENGTH, HELD_OUT = 128, 0.2
EXAMPLE = '{"prompt": "A question", "completion": "Its answer"}\n{"prompt": "Another", "completion": "And its own"}'


@lru_cache(maxsize=8)
def report_of(path: Path) -> Report:
    """The report on a file, by the embedded base's tokenizer.

    Raises:
        BadInput: it cannot be used, and why.
    """
    return _report(path.read_bytes(), path.name)


def _report(content: bytes, name: str) -> Report:
    from app.data import tokenizer
    from core.config import EMBEDDED
    from core.dataset import read_bytes, report

    return report(read_bytes(content, name=name), tokenizer(EMBEDDED), max_length=MAX_LENGTH, held_out=HELD_OUT, seed=0)


def render(options: dict[str, Any], key: str) -> None:
    """Choose a file or paste rows; then what stands out in them."""
    from core.errors import DeltalabError

    names = list(TITLES)
    chosen = st.selectbox(
        "File",
        names,
        index=names.index(options.get("file", names[0])),
        format_func=TITLES.__getitem__,
        key=f"{key}-file",
    )
    if chosen == PASTED:
        text = st.text_area("Rows, one JSON object a line", EXAMPLE, key=f"{key}-rows", height=140, max_chars=200_000)
        content = text.encode()
    else:
        content = (FOLDER / str(chosen)).read_bytes()
        with st.expander("The file", key=f"{key}-shown"):
            st.code(content.decode(), language=None, line_numbers=True, wrap_lines=True)
    # Reading the tokenizer takes a moment, the first time: not before somebody wants to know.
    if not st.session_state.get(f"{key}-checked"):
        if not st.button("Check this file", key=f"{key}-check", icon=":material/fact_check:"):
            return
        st.session_state[f"{key}-checked"] = True
    try:
        found = _report(content, "Your rows" if chosen == PASTED else str(chosen))
    except DeltalabError as error:
        live.say(error)
        return
    st.markdown(plain(found.taken))
    st.markdown(
        f"{found.rows:,} rows: {found.train:,} to train on, {found.held_out:,} held out. Tokens of a row: "
        f"{found.lengths.shortest} to {found.lengths.longest}, half of them up to {found.lengths.median:.0f}."
    )
    if found.warnings:
        st.warning("\n".join(f"- {plain(sentence)}" for sentence in found.warnings), icon=":material/report:")
    else:
        st.markdown(":material/task_alt: Nothing stands out: no duplicates, nothing empty, no leaks, nothing too long.")
