"""The report on a person's own file, before anything is trained on it."""

from __future__ import annotations

import html
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, live, localized
from app.story import plain
from app.words import from_core, t
from core.dataset import EXAMPLE, Dataset, Report, read_file
from core.errors import DeltalabError
from core.labelled import EXAMPLE as LABEL_EXAMPLE
from core.labelled import LabelReport, report_for
from core.template import token_view

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENDINGS = ["jsonl", "json", "csv", "tsv"]


def formats(*, labelled: bool) -> str:
    """What a file may look like: with texts and labels, else with questions and answers."""
    return t("data.label_formats", example=LABEL_EXAMPLE) if labelled else t("data.formats", example=EXAMPLE)


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
        with st.spinner(t("data.reading"), show_time=True):
            found = _report(path, base, max_length, held_out, seed)
    except DeltalabError as error:
        live.say(error)
        return False
    st.subheader(t("data.yours"), anchor="data")
    st.markdown(plain(found.taken))
    with st.container(horizontal=True, gap="large"):
        localized.metric(t("data.rows"), f"{found.rows:,}", width="content")
        localized.metric(t("data.train"), f"{found.train:,}", width="content")
        localized.metric(t("data.held_out"), f"{found.held_out:,}", width="content")
        if isinstance(found, LabelReport):
            localized.metric(t("data.labels"), f"{len(found.labels):,}", width="content")
        span = t("data.span", shortest=found.lengths.shortest, longest=found.lengths.longest)
        median = f"{found.lengths.median:.0f}"
        localized.metric(t("data.tokens"), median, span, delta_color="off", delta_arrow="off", width="content")
    if found.warnings:
        st.warning("\n".join(f"- {plain(sentence)}" for sentence in found.warnings))
    else:
        st.markdown(f":material/task_alt: {t('data.nothing')}")
    left, right = st.columns(2, gap="large")
    with left:
        chart = charts.lengths(found.lengths, found.max_length, len(found.too_long))
        st.markdown(f"**{chart.title}**")
        localized.figure(chart.figure, key="data-lengths", alt=chart.alt)
    with right:
        if isinstance(found, LabelReport):
            _labels(found)
        else:
            _tokens(path, base, found)
    with st.expander(t("data.details"), key="data-details"):
        localized.grid(checks(found), hide_index=True, alt=t("data.details_alt"))
        if isinstance(found, Report):
            st.caption(from_core(found.template))
    return len(found.too_long) < found.rows and found.train > 0


def checks(found: Report | LabelReport) -> list[dict[str, Any]]:
    """Each check with its finding, as rows of a table; rows of the file are named by their line."""

    def lines(rows: Any) -> str:
        numbers = [str(number) for number in rows]
        first = ", ".join(numbers[:10])
        return t("data.more", lines=first, count=len(numbers) - 10) if len(numbers) > 10 else first

    told = [
        (t("data.check.format"), f"{found.rows}", found.format),
        (t("data.check.columns"), f"{len(found.columns)}", ", ".join(found.columns)),
    ]
    if isinstance(found, Report):
        told.append((t("data.check.turns"), f"{found.conversations}", ""))
        contradiction, leak = t("data.check.another_answer"), t("data.check.leaked_questions")
        empty = [
            (t("data.check.empty_answers"), found.empty_answers),
            (t("data.check.empty_questions"), found.empty_prompts),
        ]
    else:
        contradiction, leak = t("data.check.another_label"), t("data.check.leaked_texts")
        empty = [(t("data.check.empty_texts"), found.empty_texts)]
    found_rows = (
        (t("data.check.too_long", limit=found.max_length), found.too_long),
        (t("data.check.repeats"), [b for _, b in found.duplicates]),
        (contradiction, [b for _, b in found.contradictions]),
        *empty,
        (t("data.check.special"), found.special),
        (leak, [leaked.held_out for leaked in found.leakage]),
    )
    told += [(name, str(len(rows)), lines(rows)) for name, rows in found_rows]
    return [{t("data.check.name"): a, t("data.rows"): b, t("data.check.lines"): c} for a, b, c in told]


def _labels(found: LabelReport) -> None:
    """How often each label stands, and what always giving the most frequent one would get right."""
    most = found.labels[0][0]
    st.markdown(f"**{t('data.how_often')}**")
    rows = [
        {t("data.label"): label, t("data.rows"): count, t("data.share"): f"{100 * count / found.rows:.0f} %"}
        for label, count in found.labels
    ]
    localized.grid(rows, hide_index=True, height=min(240, 38 + 35 * len(rows)), alt=t("data.labels_alt"))
    st.caption(t("data.majority", label=plain(most), share=f"{100 * found.majority:.0f}"))


def _tokens(path: Path, base: str, found: Report) -> None:
    """One row as the model sees it: its tokens, and which of them the loss counts."""
    st.markdown(f"**{t('data.loss')}**")
    row = st.number_input(t("data.row"), min_value=1, max_value=found.rows, value=1, step=1, key="data-row")
    try:
        pieces = token_view(tokenizer(base), _read(path).dialogues[int(row) - 1])
    except DeltalabError as error:
        live.say(error)
        return
    st.html(token_html(pieces))
    counted = sum(inside for _, inside in pieces)
    st.caption(t("data.counted", tokens=len(pieces), counted=counted))


def token_html(pieces: list[tuple[str, bool]]) -> str:
    """Tokens as HTML: one thin box each; what the loss counts is tinted, underlined and bold, so that it shows without
    colour too. Every text is escaped."""
    out = []
    for text, inside in pieces:
        shown = html.escape(text).replace("\n", "↵<br>") or "∅"
        out.append(f'<span class="{"in" if inside else "out"}">{shown}</span>')
    said = "".join(text for text, inside in pieces if inside)
    label = html.escape(t("data.tokens_alt", counted=said), quote=True)
    return f'<div class="tokens" role="figure" aria-label="{label}">{"".join(out)}</div>'
