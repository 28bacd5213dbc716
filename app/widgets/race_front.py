"""The recorded race of all methods: any two measures against each other, with who is beaten by nobody on both."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts, charts_race, compare, live, localized, state
from app.schema import Rule
from app.tables import widths
from app.words import from_core, t
from core.race import MEASURES, aggregate, measure, recorded

NAME = "race-front"
OPTIONS = {"x": Rule("word"), "y": Rule("word")}


def render(options: dict[str, Any], key: str) -> None:
    """Two measures; the figure, the table, and where to race for oneself."""
    found = recorded()
    bands = aggregate(found["rows"])
    names = [m.name for m in MEASURES]
    columns = st.columns(2)
    picked = []
    for column, label, name in zip(columns, (t("race.across"), t("race.up")), ("x", "y"), strict=True):
        with column:
            start = names.index(str(options.get(name, {"x": "trainable", "y": "exact_match"}[name])))
            picked.append(
                str(
                    st.selectbox(
                        label,
                        names,
                        index=start,
                        format_func=lambda n: from_core(measure(n).title),
                        key=f"{key}-{name}",
                    )
                )
            )
    told = t(
        "widgets.race_front.runs",
        methods=len(bands),
        seeds=found["seeds"],
        steps=found["steps"],
        batch=found["batch_size"],
    )
    st.markdown(f":material/history: {t('comparison.recorded')} · {live.made_where(found)} · {told}")
    if picked[0] == picked[1]:
        st.markdown(t("race.two"))
        return
    compare.draw(charts_race.pareto(bands, measure(picked[0]), measure(picked[1])), f"{key}-front")
    idle = charts_race.unlearnt(bands)
    if idle:
        st.caption(idle)
    with st.expander(t("widgets.numbers"), key=f"{key}-numbers"):
        table = charts_race.race_table(bands)
        localized.grid(table, hide_index=True, column_config=widths(table), alt=t("race.alt"))
        st.download_button(
            t("shared.table_csv"), charts.csv(charts_race.race_numbers(bands)), "race.csv", "text/csv",
            key=f"{key}-csv", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    st.page_link(state.page("race"), label=t("widgets.race_front.yourself"), icon=":material/arrow_forward:")
