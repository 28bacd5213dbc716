"""Several runs side by side: curves on one chart, a table, and the table as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, form, live, localized, state
from app.story import Story, plain
from app.words import t
from core.config import RunConfig
from core.errors import DeltalabError

if TYPE_CHECKING:
    from core.runs.store import Run

MOST = 6
"""Curves that can still be told apart on one chart."""


BRIEF = ("started", "evaluated", "finished", "stopped", "failed")
"""The events that a line in a list needs: not the steps, of which there are many."""


def story(run: Run, *, brief: bool = False) -> Story:
    """The run's story; that of a run which is over is read once per process.

    Args:
        brief: without its steps and samples.
    """
    read = _read if run.status in live.ACTIVE else _told
    return read(run.id, state.owner(), run.attempt, run.status, brief)


def _read(run_id: str, owner: str, attempt: int, status: str, brief: bool) -> Story:
    # attempt and status are part of the cache's key only: a run that is resumed is another story.
    kinds = BRIEF if brief else None
    return Story.of(event for _, event in state.store().events(run_id, owner, kinds=kinds, limit=200_000))


@st.cache_data(show_spinner=False, max_entries=1024)
def _told(run_id: str, owner: str, attempt: int, status: str, brief: bool) -> Story:
    return _read(run_id, owner, attempt, status, brief)


def named(runs: Sequence[Run]) -> dict[str, str]:
    """A label for each run (id -> label): its title and what it changed; told apart by a number where they coincide."""
    out: dict[str, str] = {}
    taken: dict[str, int] = {}
    for run in sorted(runs, key=lambda r: r.created):
        label = run.title or t("runs.untitled")
        changed = changes(run)
        if changed:
            label += f" · {changed}"
        taken[label] = taken.get(label, 0) + 1
        out[run.id] = label if taken[label] == 1 else f"{label} ({taken[label]})"
    return out


def changes(run: Run) -> str:
    """The settings in which a run departs from the defaults: 'rank 4, steps 60'; at most three are named."""
    try:
        config = RunConfig.from_dict({**run.config, "data": None, "task": run.config.get("task")})
        plain = RunConfig(task=run.config.get("task"), method=config.method)
        told = [
            f"{knob.short} {form.shown(value)}"
            for knob in form.knobs(plain)
            if (value := getattr(config.settings if knob.part == "settings" else config.train, knob.name)) is not None
            and value != knob.default
        ]
    except DeltalabError:
        return ""  # made by another version, with settings that this one does not know
    if config.seed:
        told.append(t("changes.seed", seed=config.seed))
    some = ", ".join(told[:3])
    return t("changes.more", some=some, more=len(told) - 3) if len(told) > 3 else some


def compare(runs: Sequence[Run], key: str, *, label: str, default: Sequence[str] = ()) -> None:
    """A choice among `runs`, and what is chosen side by side.

    Args:
        runs: candidates, newest first.
        key: distinct per page; also the name of the choice in the address.
        label: of the choice.
        default: ids chosen at first.
    """
    told = [r for r in runs if r.started is not None]
    if not told:
        return
    labels = named(told)
    by_id = {r.id: r for r in told}
    linked = st.query_params.get(key)
    chosen: list[str] = st.multiselect(
        label,
        list(by_id),
        default=[i for i in (default if linked is None else linked.split(",")) if i in by_id][:MOST],
        format_func=labels.__getitem__,
        key=key,
        max_selections=MOST,
        placeholder=t("compare.choose"),
        on_change=_keep_in_link,
        args=(key,),
    )
    picked = [(labels[i], story(by_id[i])) for i in chosen if i in by_id]
    if len(picked) < 2:
        if picked:
            st.caption(t("compare.one_more"))
        return
    side_by_side(picked, key)


def _keep_in_link(key: str) -> None:
    """The widget's callback: ids into the address. (Streamlit's own binding would write labels, which change.)"""
    if st.session_state[key]:
        st.query_params[key] = ",".join(st.session_state[key])
    else:
        st.query_params.pop(key, None)


def side_by_side(picked: Sequence[tuple[str, Story]], key: str) -> None:
    """Curves, table and CSV of several stories."""
    columns = st.columns(2, gap="medium")
    for column, chart, name in (
        (columns[0], charts.losses(picked), "loss"),
        (columns[1], charts.task_scores(picked), "score"),
    ):
        with column:
            draw(chart, f"{key}-{name}")
    localized.grid(charts.comparison(picked), hide_index=True, alt=t("compare.alt"))
    st.download_button(
        t("shared.table_csv"),
        charts.csv(charts.comparison_numbers(picked)),
        "runs.csv",
        "text/csv",
        key=f"{key}-csv",
        icon=":material/download:",
        on_click="ignore",
    )


def draw(chart: charts.Chart, key: str) -> Any:
    """A still figure with its finding as title, and its alt text."""
    st.markdown(f"**{plain(chart.title)}**")
    return localized.figure(chart.figure, key=key, alt=chart.alt)
