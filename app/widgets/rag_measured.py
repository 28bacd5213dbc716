"""The recorded experiment of retrieval against fine-tuning, one view of it: needs, costs, verdicts or wordings."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_rag, compare, localized, state
from app.schema import Rule
from app.words import t

NAME = "rag-measured"
SHOWN = 4  # columns of the verdicts: what was claimed, and what became of it
OPTIONS = {"view": Rule("word", required=True, choices=("needs", "costs", "verdicts", "wordings"))}


def render(options: dict[str, Any], key: str) -> None:
    """Draw the view, with where it comes from."""
    from core.rag.experiment import bands, recorded
    from core.rag.verdicts import verdicts

    record = recorded()
    found = bands(record["cells"])
    settings = record["settings"]
    told = t(
        "widgets.rag_measured.run",
        device=record["device"],
        date=record["date"],
        seeds=settings["seeds"],
        items=settings["items"],
    )
    st.caption(f":material/history: {t('run.recorded')} · {told}")
    view = options["view"]
    if view == "needs":
        compare.draw(charts_rag.needs(found), f"{key}-needs")
    elif view == "costs":
        # The heads of a plain table break into lines: beside prose there is no room for one line each.
        alt = t("widgets.rag_measured.costs_alt")
        localized.table(charts_rag.costs_table(found), border="horizontal", hide_index=True, alt=alt)
    elif view == "verdicts":
        table = charts_rag.verdict_table(verdicts(found)).iloc[:, :SHOWN]
        localized.table(table, border="horizontal", hide_index=True, alt=t("widgets.rag_measured.verdicts_alt"))
        st.page_link(state.page("rag"), label=t("widgets.rag_measured.why"), icon=":material/manage_search:")
    else:
        compare.draw(charts_rag.wordings(record["wordings"]), f"{key}-wordings")
