"""What methods learn and what they forget: the sweep's runs of one task, each method's learning rates joined."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_forgetting, compare, localized, tables
from app.charts_race import title_of
from app.schema import Rule
from app.words import from_core, t
from core.forgetting import swept
from core.world import TASKS

NAME = "learn-forget"
OPTIONS = {"task": Rule("text"), "methods": Rule("list", item=Rule("word"))}


def render(options: dict[str, Any], key: str) -> None:
    """Choose the task and the methods; the figure and where its numbers come from."""
    names = [name for name in TASKS if any(r.task == name for r in swept())]
    first = str(options.get("task", names[0]))
    task = st.segmented_control(
        t("widgets.learn_forget.task"),
        names,
        format_func=lambda n: from_core(TASKS[n].title),
        default=first,
        required=True,
        key=f"{key}-task",
    )
    rows = [r for r in swept() if r.task == task]
    there = list(dict.fromkeys(r.method for r in rows))
    usual = [m for m in options.get("methods", ()) if m in there]
    chosen = st.pills(
        t("widgets.learn_forget.methods"),
        there,
        format_func=title_of,
        selection_mode="multi",
        default=usual or there,
        key=f"{key}-{task}",
    )
    if not chosen:
        st.caption(t("race.no_method"))
        return
    chart = charts_forgetting.learnt_and_kept(rows, chosen)
    compare.draw(chart, f"{key}-chart-{task}")
    st.caption(t("widgets.learn_forget.recorded", device=rows[0].device, date=rows[0].date))
    with st.expander(t("widgets.numbers")):
        localized.grid(tables.readable(chart.table), hide_index=True, alt=chart.alt)
