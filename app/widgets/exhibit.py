"""A run of the museum of failures: its curves, scores and answers, with nothing said about what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from app import calc, charts_failures, compare
from app.schema import Rule
from app.story import Story

NAME = "exhibit"
OPTIONS = {"run": Rule("word", required=True), "mended": Rule("word")}

RUNS = Path(__file__).parents[2] / "lessons" / "11_museum_of_failures" / "runs"


def _story(name: str) -> tuple[dict[str, Any], Story]:
    provenance, *events = calc.recorded_events(RUNS / f"{name}.jsonl")
    return provenance, Story.of(events)


def render(options: dict[str, Any], key: str) -> None:
    """The losses, the scores by step, two answers; and on request the mended run beside it."""
    provenance, story = _story(options["run"])
    st.caption(
        f":material/history: **Recorded**, not your run · {provenance['device']}, {provenance['date'][:10]} · "
        f"{story.total_steps} steps, {(story.started or {}).get('examples', 0):,} examples, "
        f"{(story.started or {}).get('trainable', 0):,} parameters train"
    )
    beside = None
    if options.get("mended") and st.toggle("Put the mended run beside it", key=f"{key}-mended"):
        beside = _story(options["mended"])[1]
    compare.draw(charts_failures.curves(story, beside), f"{key}-curves")
    st.dataframe(
        charts_failures.scores(story), hide_index=True, height="content", alt="The scores of the run, a row a scoring."
    )
    for row in charts_failures.answers(story):
        st.code("\n".join(f"{name + ':':9} {text}" for name, text in row.items()), language=None, wrap_lines=True)
