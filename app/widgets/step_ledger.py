"""The memory of a run's step, predicted and measured, term beside term: of the learner's own run once
there is one, else of the recorded run."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts, charts_lessons_a, compare, index, live, localized
from app.schema import Rule
from app.story import plain
from app.words import t
from core.memory.predicted import residuals, why_not

NAME = "step-ledger"
OPTIONS = {"run": Rule("text", required=True)}


def render(options: dict[str, Any], key: str) -> None:
    """`run`: lesson's folder/experiment, or lesson's folder/comparison/run for a recorded run of a comparison."""
    slug, _, name = str(options["run"]).partition("/")
    run: Any = live.latest(f"{slug}/{name}")
    if run is None or run.status != "finished":
        run = live.recorded(index.recorded_path(index.ROOT / slug, name))
    end = live.story_of(run).end or {}
    both = end.get("predicted") or {}, end.get("ledger") or {}
    rows = residuals(*both)
    own = not isinstance(run, live.Recorded)
    if not rows:
        st.markdown(plain(why_not(*both)))
        return
    if own:
        st.markdown(f":material/person: {t('widgets.step_ledger.own')}")
    else:
        st.markdown(f":material/history: {t('run.recorded')} · {run.label}")
    chart = charts_lessons_a.ledger_sides(
        rows, t("widgets.step_ledger.own_step" if own else "widgets.step_ledger.step")
    )
    compare.draw(chart, key)
    with st.expander(t("widgets.numbers"), key=f"{key}-numbers"):
        localized.grid(charts_lessons_a.ledger_table(rows), hide_index=True, alt=t("widgets.step_ledger.alt"))
        st.download_button(
            t("shared.table_csv"), charts.csv(chart.table), "ledger.csv", "text/csv", key=f"{key}-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
