"""A run of the museum of failures: its curves, scores and answers, with nothing said about what is wrong with it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from app import calc, charts_failures, compare, localized
from app.charts import Chart
from app.schema import Rule
from app.story import Story
from app.words import current, t

NAME = "exhibit"
OPTIONS = {"run": Rule("word", required=True), "mended": Rule("word")}

RUNS = Path(__file__).parents[2] / "lessons" / "11_museum_of_failures" / "runs"


def _story(name: str) -> tuple[dict[str, Any], Story]:
    provenance, *events = calc.recorded_events(RUNS / f"{name}.jsonl")
    return provenance, Story.of(events)


@lru_cache(maxsize=64)
def _curves(run: str, mended: str | None, _language: str) -> Chart:
    """The figure, made once for a language: ten of them would take nearly half of the time of the page's script."""
    return charts_failures.curves(_story(run)[1], _story(mended)[1] if mended else None)


def render(options: dict[str, Any], key: str) -> None:
    """The losses, the scores by step, two answers; and on request the mended run beside it."""
    provenance, story = _story(options["run"])
    started = story.started or {}
    told = t(
        "widgets.exhibit.run",
        steps=story.total_steps,
        examples=f"{started.get('examples', 0):,}",
        trainable=f"{started.get('trainable', 0):,}",
    )
    where = f"{provenance['device']}, {provenance['date'][:10]}"
    st.caption(f":material/history: {t('run.recorded')} · {where} · {told}")
    beside = options.get("mended")
    if beside and not st.toggle(t("widgets.exhibit.mended"), key=f"{key}-mended"):
        beside = None
    compare.draw(_curves(options["run"], beside, current()), f"{key}-curves")
    # (Not st.dataframe: ten grids would take the browser half of the time that the page takes.)
    localized.table(charts_failures.scores(story), border="horizontal", hide_index=True, alt=t("widgets.exhibit.alt"))
    boxes = []
    for row in charts_failures.answers(story):
        wide = max(map(len, row)) + 1
        boxes.append("\n".join(f"{name + ':':{wide}} {text}" for name, text in row.items()))
    if boxes:
        st.code("\n\n".join(boxes), language=None, wrap_lines=True)
