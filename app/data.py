"""The report on a person's own file, before anything is trained on it."""

from __future__ import annotations

import html
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, live
from app.story import plain
from core.dataset import EXAMPLE, Dataset, Report, read_file
from core.errors import DeltalabError
from core.labelled import EXAMPLE as LABEL_EXAMPLE
from core.labelled import LabelReport, report_for
from core.template import token_view

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS = f"JSONL, a JSON list or CSV. {EXAMPLE} A CSV has a header line with such names."
LABEL_FORMATS = f"JSONL, a JSON list or CSV. {LABEL_EXAMPLE}"
ENDINGS = ["jsonl", "json", "csv", "tsv"]


@lru_cache(maxsize=8)
def tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer; loads no weights and no torch."""
    from core.base import load_tokenizer

    return load_tokenizer(base)


@lru_cache(maxsize=16)
def _read(path: Path) -> Dataset:
    # An upload's path names its content (app/uploads.py), so what was read once stays true.
    return read_file(path)


@lru_cache(maxsize=32)
def _report(path: Path, base: str, max_length: int, held_out: float, seed: int) -> Report | LabelReport:
    return report_for(path, base, max_length=max_length, held_out=held_out, seed=seed)


def show_report(path: Path, base: str, max_length: int, held_out: float, seed: int = 0) -> bool:
    """Draw the report on an upload; True when it can be trained on.

    Args:
        path: as `app.uploads.keep` gave it.
        base: whose tokenizer counts the tokens; an encoder reads texts with labels, others questions and answers.
        max_length, held_out, seed: as the form has them now.
    """
    try:
        with st.spinner("Reading your file", show_time=True):
            found = _report(path, base, max_length, held_out, seed)
    except DeltalabError as error:
        live.say(error)
        return False
    st.subheader("Your data", anchor="data")
    st.markdown(plain(found.taken))
    with st.container(horizontal=True, gap="large"):
        st.metric("Rows", f"{found.rows:,}", width="content")
        st.metric("To train on", f"{found.train:,}", width="content")
        st.metric("Held out for scoring", f"{found.held_out:,}", width="content")
        if isinstance(found, LabelReport):
            st.metric("Labels", f"{len(found.labels):,}", width="content")
        st.metric("Tokens a row", f"{found.lengths.median:.0f}", f"{found.lengths.shortest} to {found.lengths.longest}",
                  delta_color="off", delta_arrow="off", width="content")  # fmt: skip
    if found.warnings:
        st.warning("\n".join(f"- {plain(sentence)}" for sentence in found.warnings))
    else:
        st.markdown(":material/task_alt: Nothing stands out: no duplicates, nothing empty, no leaks, nothing too long.")
    left, right = st.columns(2, gap="large")
    with left:
        chart = charts.lengths(found.lengths, found.max_length, len(found.too_long))
        st.markdown(f"**{chart.title}**")
        st.plotly_chart(chart.figure, key="data-lengths", alt=chart.alt, config={"displayModeBar": False})
    with right:
        if isinstance(found, LabelReport):
            _labels(found)
        else:
            _tokens(path, base, found)
    with st.expander("Everything that was checked", key="data-details"):
        st.dataframe(checks(found), hide_index=True, alt="Each check and what it found.")
        if isinstance(found, Report):
            st.caption(found.template)
    return len(found.too_long) < found.rows and found.train > 0


def checks(found: Report | LabelReport) -> list[dict[str, Any]]:
    """Each check with its finding, as rows of a table; rows of the file are named by their line."""

    def lines(rows: Any) -> str:
        numbers = [str(n) for n in rows]
        return ", ".join(numbers[:10]) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")

    head: list[dict[str, Any]] = [
        {"Check": "Format", "Rows": f"{found.rows}", "Lines": found.format},
        {"Check": "Columns", "Rows": f"{len(found.columns)}", "Lines": ", ".join(found.columns)},
    ]
    what, other, empty = "texts", "label to an earlier text", [("Empty texts", getattr(found, "empty_texts", ()))]
    if isinstance(found, Report):
        what, other = "questions", "answer to an earlier question"
        empty = [("Empty answers", found.empty_answers), ("Empty questions", found.empty_prompts)]
        head.append({"Check": "Conversations of several turns", "Rows": f"{found.conversations}", "Lines": ""})
    found_rows = (
        (f"Longer than {found.max_length} tokens", found.too_long),
        ("Repeats of an earlier row", [b for _, b in found.duplicates]),
        (f"Another {other}", [b for _, b in found.contradictions]),
        *empty,
        ("Text that spells a special token", found.special),
        (f"Held-out {what} that also stand in the training rows", [leak.held_out for leak in found.leakage]),
    )
    return head + [{"Check": name, "Rows": str(len(rows)), "Lines": lines(rows)} for name, rows in found_rows]


def _labels(found: LabelReport) -> None:
    """How often each label stands, and what always giving the most frequent one would get right."""
    most = found.labels[0][0]
    st.markdown("**How often each label stands**")
    rows = [{"Label": label, "Rows": n, "Share": f"{100 * n / found.rows:.0f} %"} for label, n in found.labels]
    st.dataframe(rows, hide_index=True, height=min(240, 38 + 35 * len(rows)), alt="Rows of each label.")
    st.caption(f"Always saying “{plain(most)}” would be right in {100 * found.majority:.0f} % of the rows.")


def _tokens(path: Path, base: str, found: Report) -> None:
    """One row as the model sees it: its tokens, and which of them the loss counts."""
    st.markdown("**What the loss counts**")
    row = st.number_input("Row", min_value=1, max_value=found.rows, value=1, step=1, key="data-row")
    try:
        pieces = token_view(tokenizer(base), _read(path).dialogues[int(row) - 1])
    except DeltalabError as error:
        live.say(error)
        return
    st.html(token_html(pieces))
    counted = sum(inside for _, inside in pieces)
    st.caption(f"{len(pieces)} tokens, of which {counted} count: the underlined ones. The others are read, not learnt.")


def token_html(pieces: list[tuple[str, bool]]) -> str:
    """Tokens as HTML: one thin box each; what the loss counts is tinted, underlined and bold, so that it shows without
    colour too. Every text is escaped."""
    out = []
    for text, inside in pieces:
        shown = html.escape(text).replace("\n", "↵<br>") or "∅"
        out.append(f'<span class="{"in" if inside else "out"}">{shown}</span>')
    said = "".join(text for text, inside in pieces if inside)
    label = html.escape(f"Tokens of the row. The loss counts: {said}", quote=True)
    return f'<div class="tokens" role="figure" aria-label="{label}">{"".join(out)}</div>'
