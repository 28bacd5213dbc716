"""A run of the museum of failures: its curves, scores and answers, with nothing said about what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from app import calc, charts_failures, compare
from app.schema import Rule
from app.story import Story
from app.words import t

NAME = "exhibit"
OPTIONS = {"run": Rule("word", required=True), "mended": Rule("word")}

RUNS = Path(__file__).parents[2] / "lessons" / "11_museum_of_failures" / "runs"


def _story(name: str) -> tuple[dict[str, Any], Story]:
    provenance, *events = calc.recorded_events(RUNS / f"{name}.jsonl")
    return provenance, Story.of(events)


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
    beside = None
    if options.get("mended") and st.toggle(t("widgets.exhibit.mended"), key=f"{key}-mended"):
        beside = _story(options["mended"])[1]
    compare.draw(charts_failures.curves(story, beside), f"{key}-curves")
    # (Not st.dataframe: ten grids would take the browser half of the time that the page takes.)
    st.table(charts_failures.scores(story), border="horizontal", hide_index=True, alt=t("widgets.exhibit.alt"))
    for row in charts_failures.answers(story):
        wide = max(map(len, row)) + 1
        lines = [f"{name + ':':{wide}} {text}" for name, text in row.items()]
        st.code("\n".join(lines), language=None, wrap_lines=True)
