"""Tables, figures and single numbers as they are shown: in the visitor's language, whose decimal sign they get.

    localized.metric(t("plan.saved"), bytes_text(size))     # st.metric
    localized.grid(table, hide_index=True, alt=…)           # st.dataframe
    localized.table(rows, alt=…)                            # st.table
    localized.figure(chart.figure, key=…, alt=…)            # st.plotly_chart

In English these are Streamlit's own. Elsewhere the values stay numbers, so that a table can still be sorted, and only
what stands in its cells is written otherwise. Files and links keep the decimal point: machines read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.numbers import ENGLISH, written
from app.words import current, number, separators

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIGITS = 4
"""Decimals of a number in a grid, as Streamlit shows them."""
SMALL = 1e-4
"""Numbers nearer to 0 have as many decimals as reach their first digit."""


def metric(label: str, value: Any, delta: Any = None, **how: Any) -> None:
    """A single number with its label."""
    st.metric(label, number(str(value)), number(delta) if isinstance(delta, str) else delta, **how)


def grid(table: Any, **how: Any) -> Any:
    """A table that can be sorted and scrolled."""
    return st.dataframe(_styled(table, how.get("column_config")), **how)


def table(rows: Any, **how: Any) -> None:
    """A table that stands still."""
    import pandas as pd

    signs = separators(current())
    if signs != ENGLISH:
        rows = pd.DataFrame(rows).map(partial(cell, signs=signs))
    st.table(rows, **how)


def cell(value: Any, signs: tuple[str, str]) -> Any:
    """What stands in a cell: a number or a text with one, as a language writes it (signs: its `separators`)."""
    if isinstance(value, str):
        return written(value, signs)
    if isinstance(value, float) and value == value:  # not a number: an empty cell
        digits = DIGITS if not value or abs(value) >= SMALL else -math.floor(math.log10(abs(value)))
        return written(f"{value:.{digits}f}".rstrip("0").rstrip("."), signs)
    return value


def _styled(table: Any, columns: Mapping[str, Any] | None) -> Any:
    """The table with its cells written in the visitor's language; as it is where pandas cannot style it."""
    import pandas as pd

    signs = separators(current())
    if signs == ENGLISH:
        return table
    frame = pd.DataFrame(table)
    if not (frame.index.is_unique and frame.columns.is_unique):
        return frame
    links = {name for name, how in (columns or {}).items() if isinstance(how, Mapping) and "type_config" in how}
    says = partial(_says_a_number, signs=signs)
    told: Any = [name for name in frame.columns if name not in links and frame[name].map(says).any()]
    return frame.style.format(partial(cell, signs=signs), subset=told, na_rep="") if told else frame


def _says_a_number(value: Any, signs: tuple[str, str]) -> bool:
    """Whether another language may write a cell otherwise."""
    return isinstance(value, float) or (isinstance(value, str) and written(value, signs) != value)


def figure(drawn: go.Figure, **how: Any) -> Any:
    """A still figure."""
    return st.plotly_chart(localised(drawn), config={"displayModeBar": False}, **how)


def localised(drawn: go.Figure) -> go.Figure:
    """The figure with the decimal sign of the visitor's language on its axes, at its points and in its words. It is
    changed in place: a figure belongs to one language, and this done twice is the same as done once."""
    signs = separators(current())
    if signs == ENGLISH:
        return drawn

    def told(words: Any) -> Any:
        if isinstance(words, str):
            return written(words, signs)
        return None if words is None else [written(one, signs) if isinstance(one, str) else one for one in words]

    drawn.update_layout(separators="".join(signs))
    for trace in drawn.data:
        for name in ("text", "hovertext"):
            if name in trace and trace[name] is not None:
                trace[name] = told(trace[name])
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        if axis.ticktext is not None:
            axis.ticktext = told(axis.ticktext)
    for note in drawn.layout.annotations:
        note.text = told(note.text)
    return drawn
