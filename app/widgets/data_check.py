"""A look at a data file before it is trained on: the lesson's example files, or rows pasted in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import live
from app.schema import Rule
from app.story import plain
from app.words import t

if TYPE_CHECKING:
    from core.dataset import Report

NAME = "data-check"
OPTIONS = {"file": Rule("text")}

FOLDER = Path(__file__).parents[2] / "lessons" / "09_plan_your_own" / "data"
PASTED = "pasted"
FILES = {"support.jsonl": "support", "clean.jsonl": "clean", "quotes.jsonl": "quotes", PASTED: PASTED}
"""A choice -> the key of its words."""
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

    names = list(FILES)
    chosen = st.selectbox(
        t("widgets.data_check.file"),
        names,
        index=names.index(options.get("file", names[0])),
        format_func=lambda name: t(f"widgets.data_check.files.{FILES[name]}"),
        key=f"{key}-file",
    )
    if chosen == PASTED:
        label = t("widgets.data_check.rows")
        text = st.text_area(label, EXAMPLE, key=f"{key}-rows", height=140, max_chars=200_000)
        content = text.encode()
    else:
        content = (FOLDER / str(chosen)).read_bytes()
        with st.expander(t("widgets.data_check.shown"), key=f"{key}-shown"):
            st.code(content.decode(), language=None, line_numbers=True, wrap_lines=True)
    # Reading the tokenizer takes a moment, the first time: not before somebody wants to know.
    if not st.session_state.get(f"{key}-checked"):
        if not st.button(t("widgets.data_check.check"), key=f"{key}-check", icon=":material/fact_check:"):
            return
        st.session_state[f"{key}-checked"] = True
    try:
        found = _report(content, t("widgets.data_check.your_rows") if chosen == PASTED else str(chosen))
    except DeltalabError as error:
        live.say(error)
        return
    st.markdown(plain(found.taken))
    st.markdown(
        t(
            "widgets.data_check.told",
            rows=f"{found.rows:,}",
            train=f"{found.train:,}",
            held_out=f"{found.held_out:,}",
            shortest=found.lengths.shortest,
            longest=found.lengths.longest,
            median=f"{found.lengths.median:.0f}",
        )
    )
    if found.warnings:
        st.warning("\n".join(f"- {plain(sentence)}" for sentence in found.warnings), icon=":material/report:")
    else:
        st.markdown(f":material/task_alt: {t('data.nothing')}")
