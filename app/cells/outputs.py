"""What a learner's code has said (core/notebook/outputs.py), drawn: text, tables, figures, pictures, errors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.story import plain
from app.words import from_core, t
from core.notebook.outputs import settled

MOST_WIDE = 8
"""Columns that a table without a scroll bar of its own may have."""


def draw(outputs: Sequence[Mapping[str, Any]], key: str) -> None:
    """Draw outputs in their order; a verdict is for whoever asked for it."""
    for i, output in enumerate(outputs):
        kind = output["kind"]
        if kind in ("text", "value"):
            _text(output)
        elif kind == "table":
            _table(output)
        elif kind == "figure":
            _figure(output, f"{key}-{i}")
        elif kind == "image":
            _image(output)
        elif kind == "error" and output["name"] != "KeyboardInterrupt":
            st.error(error_text(output), icon=":material/error:")
        elif kind == "note":
            st.caption(f":material/content_cut: {from_core(output['text'])}")


def _text(output: Mapping[str, Any]) -> None:
    text = settled(output["text"]).strip("\n")
    if text.strip():
        if output.get("name") == "stderr":
            st.caption(t("code.stderr"))
        st.code(text, language=None, wrap_lines=True)


def _table(output: Mapping[str, Any]) -> None:
    import pandas as pd

    rows, total = output["rows"], output["total"]
    names = output["columns"]
    # Streamlit wants every column to have a name of its own.
    unique = [name if names.index(name) == i else f"{name} ({i + 1})" for i, name in enumerate(names)]
    table = pd.DataFrame(rows, columns=unique)
    if len(names) <= MOST_WIDE and len(rows) <= 30:
        st.table(table)
    else:
        st.dataframe(table, hide_index=True)
    if total > len(rows):
        st.caption(t("code.first_rows", shown=len(rows), total=f"{total:,}"))


def _figure(output: Mapping[str, Any], key: str) -> None:
    import plotly.graph_objects as go

    try:
        figure = go.Figure(output["figure"], skip_invalid=True)
    except (TypeError, ValueError):
        figure = go.Figure()
    if not figure.data:
        st.caption(t("code.no_figure"))
        return
    title = figure.layout.title.text if figure.layout.title else None
    st.plotly_chart(figure, key=key, alt=t("code.figure_alt_title", title=title) if title else t("code.figure_alt"))


def _image(output: Mapping[str, Any]) -> None:
    try:
        content = base64.b64decode(output["png"], validate=True)
    except (binascii.Error, ValueError):
        return
    if content.startswith(b"\x89PNG"):
        st.image(content, alt=t("code.image_alt"))


def error_name(error: Mapping[str, Any]) -> str:
    """What it is called, and the line that it came from."""
    return t("code.error_line", name=error["name"], line=error["line"]) if error["line"] else str(error["name"])


def error_text(error: Mapping[str, Any]) -> str:
    """An error as Markdown: what, where in the learner's own code, and where else."""
    said = f": {plain(from_core(error['message']))}" if error["message"] else ""
    parts = [f"**{error_name(error)}**{said}"]
    frames = [f for f in error["frames"] if f["text"].strip()]
    if frames:
        parts.append("```text\n" + "\n".join(_frame(f) for f in frames) + "\n```")
    if error.get("where"):
        file, _, line = error["where"].rpartition(", line ")
        parts.append(t("code.raised_in", place=f"`{t('code.place', file=file, line=line)}`"))
    return "\n\n".join(parts)


def _frame(frame: Mapping[str, Any]) -> str:
    key = f"code.frame{'' if frame['here'] else '_earlier'}{'_in' if frame['name'] else ''}"
    return f"{t(key, line=frame['line'], name=frame['name'])}:  {frame['text'].strip()}"
