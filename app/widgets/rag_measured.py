"""The recorded experiment of retrieval against fine-tuning, one view of it: needs, costs, verdicts or wordings."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_rag, compare
from app.schema import Rule

NAME = "rag-measured"
OPTIONS = {"view": Rule("word", required=True, choices=("needs", "costs", "verdicts", "wordings"))}


def render(options: dict[str, Any], key: str) -> None:
    """Draw the view, with where it comes from."""
    from core.rag.experiment import bands, recorded
    from core.rag.verdicts import verdicts

    record = recorded()
    found = bands(record["cells"])
    settings = record["settings"]
    st.caption(
        f":material/history: **Recorded**, not your run · {record['device']}, {record['date']}: seeds: "
        f"{settings['seeds']}, at most {settings['items']} questions a need."
    )
    view = options["view"]
    if view == "needs":
        compare.draw(charts_rag.needs(found), f"{key}-needs")
    elif view == "costs":
        st.dataframe(charts_rag.costs_table(found), hide_index=True, alt="What each approach costs, one a row.")
    elif view == "verdicts":
        table = charts_rag.verdict_table(verdicts(found))
        st.dataframe(table, hide_index=True, height="content", alt="Each claim of the usual table with its verdict.")
    else:
        compare.draw(charts_rag.wordings(record["wordings"]), f"{key}-wordings")
