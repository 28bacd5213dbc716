"""Runs: everything the visitor has trained; open one, compare several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import api, charts, charts_lessons_a, chat, compare, live, state, takeaway
from app.story import percent, plain
from core.errors import DeltalabError, NotFound
from core.memory.predicted import residuals, why_not
from core.runs.store import RACE
from core.units import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from core.runs.store import Run

PAGE = 25
"""Runs listed at first, and added by each "Show older"."""
MOST = 500
STATUS = {
    "queued": (":material/schedule:", "queued"),
    "running": (":material/play_circle:", "running"),
    "finished": (":material/check_circle:", "finished"),
    "failed": (":material/error:", "failed"),
    "cancelled": (":material/cancel:", "cancelled"),
    "interrupted": (":material/power_off:", "interrupted"),
}


def render() -> None:
    """Draw one run when the address names it, else the list."""
    wanted = st.query_params.get("run")
    if wanted:
        try:
            run = state.store().get(wanted, state.owner())
        except NotFound as error:
            live.say(error)
            _back()
            return
        _one(run)
    else:
        _all()


def _all() -> None:
    st.title("Runs", anchor=False)
    runs = state.store().runs(state.owner(), limit=MOST)
    if not runs:
        st.markdown(
            "Nothing here yet. A run takes about half a minute: the first lesson starts one with you, and in the "
            "Playground you choose everything yourself."
        )
        with st.container(horizontal=True):
            st.page_link(state.page("start-here"), label="Start here", icon=":material/arrow_forward:")
            st.page_link(state.page("playground"), label="Playground", icon=":material/science:")
        return
    st.markdown("Everything you have trained, newest first. A run goes on when you close this page.")
    _list()
    if len(runs) > 1:
        st.header("Side by side", anchor="compare")
        compare.compare(runs, "compare", label="Runs to compare")


def _list() -> None:
    """The list; while something is on, it looks again every two seconds."""
    runs = state.store().runs(state.owner(), limit=MOST)
    on = any(run.status in live.ACTIVE for run in runs)
    st.fragment(_rows, run_every=2 if on else None)()


def _rows() -> None:
    runs = state.store().runs(state.owner(), limit=MOST)
    shown = st.session_state.get("_runs_shown", PAGE)
    lines = listed(runs)
    for line in lines[:shown]:
        if len(line) == 1:
            _row(line[0])
        else:
            _race(line)
    if len(lines) > shown:
        st.button("Show older", key="older", icon=":material/expand_more:", on_click=_show_older)
    if st.session_state.get("_runs_on") and not any(run.status in live.ACTIVE for run in runs):
        # The last one has just ended: run the page once more, which also ends the looking.
        st.session_state["_runs_on"] = False
        st.rerun()
    st.session_state["_runs_on"] = any(run.status in live.ACTIVE for run in runs)


def listed(runs: Sequence[Run]) -> list[list[Run]]:
    """The lines of the list: a run by itself, or all runs of one race where its newest one stands."""
    lines: dict[str, list[Run]] = {}
    for run in runs:
        raced = run.cell is not None and run.cell.startswith(RACE)
        lines.setdefault(str(run.cell) if raced else run.id, []).append(run)
    return list(lines.values())


def _race(runs: Sequence[Run]) -> None:
    """A race in the list: one line for all of its runs."""
    newest = runs[0]
    on = sum(run.active for run in runs)
    icon, word = STATUS["running" if on else "finished"]
    methods = len({run.config["method"] for run in runs})
    race = str(newest.cell).removeprefix(RACE)
    with st.container(key=f"row-race-{race}", horizontal=True, vertical_alignment="center", gap="medium"):
        with st.container(gap=None, width="stretch"):
            st.markdown(f"{icon} **Race of {methods} methods · {plain(live.task_title(newest.config['task']))}**")
            how_far = f"{word}, {len(runs) - on} of {len(runs)} runs" if on else f"{len(runs)} runs"
            st.caption(f"{how_far} · {when(newest.created)}")
        st.page_link(state.page("race"), label="Open", icon=":material/arrow_forward:", query_params={"race": race})


def _show_older() -> None:
    st.session_state["_runs_shown"] = st.session_state.get("_runs_shown", PAGE) + PAGE


def _row(run: Run) -> None:
    icon, word = STATUS[run.status]
    with st.container(key=f"row-{run.id}", horizontal=True, vertical_alignment="center", gap="medium"):
        with st.container(gap=None, width="stretch"):
            st.markdown(f"{icon} **{plain(run.title or 'Run')}**")
            st.caption(" · ".join([word + _how_far(run), *facts(run), when(run.created)]))
        tip = f"Open {plain(run.title or 'the run')}"
        if st.button("Open", key=f"open-{run.id}", icon=":material/arrow_forward:", help=tip):
            st.query_params["run"] = run.id
            st.rerun(scope="app")


def _how_far(run: Run) -> str:
    if run.status == "queued" and run.queue_position:
        return f", number {run.queue_position}"
    if run.status == "running" and run.steps:
        return f", step {run.step} of {run.steps}"
    return ""


def facts(run: Run) -> list[str]:
    """What a list says of a run: scores, changed settings, trained parameters, time."""
    story = compare.story(run, brief=True)
    out = []
    if story.before is not None and story.after is not None and story.after["exact_match"] is not None:
        out.append(f"{percent(story.before['exact_match'])} → {percent(story.after['exact_match'])}")
    elif story.before and story.after and None not in (story.before["loss"], story.after["loss"]):
        out.append(f"held-out loss {story.before['loss']:.2f} → {story.after['loss']:.2f}")
    changed = compare.changes(run)
    if changed:
        out.append(changed)
    if story.started is not None:
        out.append(f"{count_text(story.started['trainable'])} parameters trained")
    if story.seconds and run.status not in live.ACTIVE:
        out.append(seconds_text(story.seconds))
    return out


def when(moment: float) -> str:
    """A time for a person: today's by the hour, others by the day."""
    then = state.local_time(moment)
    today = then.date() == state.local_time(time.time()).date()
    return then.strftime("today %H:%M" if today else f"{then.day} %B %Y, %H:%M")


def _back() -> None:
    if st.button("All runs", key="back", icon=":material/arrow_back:", type="tertiary"):
        del st.query_params["run"]
        st.rerun()


def _one(run: Run) -> None:
    _back()
    st.title(plain(run.title or "Run"), anchor=False)
    _tools(run)
    live.run_panel(run, key=f"run-{run.id}", on_new=_show)
    _memory(run)
    if run.adapter is not None:
        st.header("Try a text" if chat.gives_labels(run) else "Talk to it", anchor="chat")
        chat.section(run, key="chat")


OTHERS = {
    "written out": "All other steps took the decoder that is written out by hand, which takes less memory: for them "
    "this is an upper bound.",
    "captured": "The other steps were captured and replayed; what they keep is a term of its own, which is not "
    "predicted.",
}


def _memory(run: Run) -> None:
    """One step's memory term by term, predicted beside measured; or why there is nothing to compare."""
    end = compare.story(run, brief=True).end or {}
    if end.get("kind") != "finished":
        return
    told, measured = end.get("predicted") or {}, end.get("ledger") or {}
    rows = residuals(told, measured)
    with st.expander("Memory of one step, predicted and measured", key="run-memory"):
        if not rows:
            st.markdown(plain(why_not(told, measured)))
            if measured.get("terms"):
                st.markdown("\n".join(f"- {plain(m['name'])}: {bytes_text(m['bytes'])}" for m in measured["terms"]))
            return
        chart = charts_lessons_a.ledger_sides(rows, "One step")
        compare.draw(chart, "run-memory-sides")
        st.dataframe(
            charts_lessons_a.ledger_table(rows), hide_index=True, alt="Predicted and measured, one row a term."
        )
        st.caption(
            "Predicted from the model, the settings and the sizes of the batch alone; measured in a step that was "
            f"carried out operation by operation. {OTHERS.get(end.get('others', ''), '')}"
        )
        st.download_button(
            "Table as CSV", charts.csv(chart.table), "memory.csv", "text/csv", key="run-memory-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def _show(run: Run) -> None:
    st.query_params["run"] = run.id


def _tools(run: Run) -> None:
    """What can be done with a run that is not about training it."""
    store, owner = state.store(), state.owner()
    with st.container(horizontal=True, vertical_alignment="center", key="run-tools"):
        if api.adapter_folder(run) is not None:
            st.link_button("Download the adapter", f"/api/runs/{run.id}/adapter.zip", icon=":material/download:")
            st.page_link(
                state.page("ship"), label="Ship it", icon=":material/local_shipping:", query_params={"run": run.id}
            )
            if run.adapter is not None and not run.active:
                takeaway.link(run)
        if run.config.get("task"):
            st.page_link(
                state.page("playground"),
                label="Open in the Playground",
                icon=":material/science:",
                query_params=takeaway.playground_link(run),
            )
        if run.adapter is not None and not run.active:
            link = {"run": run.id}
            st.page_link(state.page("inside"), label="Look inside", icon=":material/frame_inspect:", query_params=link)
        with st.popover("Rename", icon=":material/edit:"):
            title = st.text_input("Name", value=run.title or "", max_chars=200, key=f"name-{run.id}")
            if st.button("Save", key=f"rename-{run.id}"):
                store.rename(run.id, owner, title)
                st.rerun()
        with st.popover("Delete", icon=":material/delete:"):
            st.markdown("The run, its curves and its adapter are removed for good.")
            if st.button("Delete it", key=f"delete-{run.id}", type="primary"):
                try:
                    store.delete(run.id, owner)
                except DeltalabError as error:
                    live.say(error)
                else:
                    del st.query_params["run"]
                    st.rerun()
