"""A comparison: several runs of one idea, in one table and one figure."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import calc, live
from app.cells.context import Context, frame
from app.index import Cell, recorded_path


def render(cell: Cell, context: Context) -> None:
    """Draw the recorded runs side by side."""
    body = cell.body
    with frame(cell, context, body["title"]):
        if body.get("text"):
            st.markdown(context.text(body["text"]))
        runs = [(r, recorded_path(context.lesson.folder, f"{cell.id}/{r['name']}")) for r in body["runs"]]
        st.markdown(f":material/history: **Recorded**, not your runs · {live.recorded(runs[0][1]).label}")
        rows = []
        for run, path in runs:
            figures = calc.quantities(calc.recorded_events(path))
            texts = {what: calc.quantity_text(what, figures[what]) for what in body["columns"] if what in figures}
            rows.append({"run": run["label"], **texts})
        st.dataframe(pd.DataFrame(rows), hide_index=True, alt="The runs side by side, one row each.")
        if body.get("finding"):
            st.markdown(context.text(body["finding"]))
