"""Runs: everything the visitor has trained; open one, compare several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import api, charts, charts_lessons_a, chat, compare, live, localized, state, takeaway
from app.story import percent, plain
from app.words import t
from core.errors import DeltalabError, NotFound
from core.memory.predicted import residuals, why_not
from core.runs.store import RACE
from core.units import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from core.runs.store import Run

PAGE = 25
"""Runs listed at first, and added by each press of *Show older*."""
MOST = 500
STATUS = {
    "queued": ":material/schedule:",
    "running": ":material/play_circle:",
    "finished": ":material/check_circle:",
    "failed": ":material/error:",
    "cancelled": ":material/cancel:",
    "interrupted": ":material/power_off:",
}
"""A run's status -> its sign."""


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
    st.title(t("page.runs.title"), anchor=False)
    runs = state.store().runs(state.owner(), limit=MOST)
    if not runs:
        st.markdown(t("runs.none"))
        with st.container(horizontal=True):
            st.page_link(state.page("start-here"), label=t("runs.start_here"), icon=":material/arrow_forward:")
            st.page_link(state.page("playground"), label=t("page.playground.title"), icon=":material/science:")
        return
    st.markdown(t("runs.intro"))
    _list()
    if len(runs) > 1:
        st.header(t("runs.side_by_side"), anchor="compare")
        compare.compare(runs, "compare", label=t("runs.to_compare"))


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
        st.button(t("runs.older"), key="older", icon=":material/expand_more:", on_click=_show_older)
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
    status = "running" if on else "finished"
    methods = len({run.config["method"] for run in runs})
    race = str(newest.cell).removeprefix(RACE)
    with st.container(key=f"row-race-{race}", horizontal=True, vertical_alignment="center", gap="medium"):
        with st.container(gap=None, width="stretch"):
            race_title = t("runs.race", count=methods, task=plain(live.task_title(newest.config["task"])))
            st.markdown(f"{STATUS[status]} **{race_title}**")
            how_far = t("runs.so_many", count=len(runs))
            if on:
                how_far = f"{t(f'runs.status.{status}')}, {t('runs.of_all', done=len(runs) - on, total=len(runs))}"
            st.caption(f"{how_far} · {when(newest.created)}")
        st.page_link(
            state.page("race"), label=t("runs.open"), icon=":material/arrow_forward:", query_params={"race": race}
        )


def _show_older() -> None:
    st.session_state["_runs_shown"] = st.session_state.get("_runs_shown", PAGE) + PAGE


def _row(run: Run) -> None:
    with st.container(key=f"row-{run.id}", horizontal=True, vertical_alignment="center", gap="medium"):
        with st.container(gap=None, width="stretch"):
            st.markdown(f"{STATUS[run.status]} **{plain(run.title or t('runs.untitled'))}**")
            word = t(f"runs.status.{run.status}")
            st.caption(" · ".join([word + _how_far(run), *facts(run), when(run.created)]))
        tip = t("runs.open_it", title=plain(run.title or t("runs.the_run")))
        if st.button(t("runs.open"), key=f"open-{run.id}", icon=":material/arrow_forward:", help=tip):
            st.query_params["run"] = run.id
            st.rerun(scope="app")


def _how_far(run: Run) -> str:
    if run.status == "queued" and run.queue_position:
        return f", {t('runs.in_queue', place=run.queue_position)}"
    if run.status == "running" and run.steps:
        return f", {t('home.far', step=run.step, steps=run.steps)}"
    return ""


def facts(run: Run) -> list[str]:
    """What a list says of a run: scores, changed settings, trained parameters, time."""
    story = compare.story(run, brief=True)
    out = []
    if story.before is not None and story.after is not None and story.after["exact_match"] is not None:
        out.append(f"{percent(story.before['exact_match'])} → {percent(story.after['exact_match'])}")
    elif story.before and story.after and None not in (story.before["loss"], story.after["loss"]):
        out.append(t("runs.loss", change=f"{story.before['loss']:.2f} → {story.after['loss']:.2f}"))
    changed = compare.changes(run)
    if changed:
        out.append(changed)
    if story.started is not None:
        out.append(t("runs.trained", count=count_text(story.started["trainable"])))
    if story.seconds and run.status not in live.ACTIVE:
        out.append(seconds_text(story.seconds))
    return out


def when(moment: float) -> str:
    """A time for a person: today's by the hour, others by the day."""
    then = state.local_time(moment)
    today = then.date() == state.local_time(time.time()).date()
    clock = then.strftime("%H:%M")
    if today:
        return t("runs.today", time=clock)
    return t("runs.day", day=then.day, month=t("runs.months").split()[then.month - 1], year=then.year, time=clock)


def _back() -> None:
    if st.button(t("runs.all"), key="back", icon=":material/arrow_back:", type="tertiary"):
        del st.query_params["run"]
        st.rerun()


def _one(run: Run) -> None:
    _back()
    st.title(plain(run.title or t("runs.untitled")), anchor=False)
    _tools(run)
    live.run_panel(run, key=f"run-{run.id}", on_new=_show)
    _memory(run)
    if run.adapter is not None:
        st.header(t("runs.try_text" if chat.gives_labels(run) else "runs.talk"), anchor="chat")
        chat.section(run, key="chat")


OTHERS = {
    "written out": "validation.others.written", "captured": "validation.others.captured",
    "with kernels": "validation.others.kernels", "compiled": "validation.others.compiled",
}  # fmt: skip


def _memory(run: Run) -> None:
    """One step's memory term by term, predicted beside measured; or why there is nothing to compare."""
    end = compare.story(run, brief=True).end or {}
    if end.get("kind") != "finished":
        return
    told, measured = end.get("predicted") or {}, end.get("ledger") or {}
    rows = residuals(told, measured)
    with st.expander(t("validation.run_memory"), key="run-memory"):
        if not rows:
            st.markdown(plain(why_not(told, measured)))
            if measured.get("terms"):
                st.markdown("\n".join(f"- {plain(m['name'])}: {bytes_text(m['bytes'])}" for m in measured["terms"]))
            return
        chart = charts_lessons_a.ledger_sides(rows, t("validation.one_step"))
        compare.draw(chart, "run-memory-sides")
        localized.grid(charts_lessons_a.ledger_table(rows), hide_index=True, alt=t("validation.by_term_alt"))
        others = OTHERS.get(end.get("others", ""), "")
        st.caption(" ".join(filter(None, (t("validation.run_how"), others and t(others)))))
        st.download_button(
            t("shared.table_csv"), charts.csv(chart.table), "memory.csv", "text/csv", key="run-memory-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def _show(run: Run) -> None:
    st.query_params["run"] = run.id


def _tools(run: Run) -> None:
    """What can be done with a run that is not about training it."""
    store, owner = state.store(), state.owner()
    with st.container(horizontal=True, vertical_alignment="center", key="run-tools"):
        if api.adapter_folder(run) is not None:
            st.link_button(t("runs.download"), f"/api/runs/{run.id}/adapter.zip", icon=":material/download:")
            st.page_link(
                state.page("ship"),
                label=t("runs.ship"),
                icon=":material/local_shipping:",
                query_params={"run": run.id},
            )
            if run.adapter is not None and not run.active:
                takeaway.link(run)
        if run.config.get("task"):
            st.page_link(
                state.page("playground"),
                label=t("runs.in_playground"),
                icon=":material/science:",
                query_params=takeaway.playground_link(run),
            )
        if run.adapter is not None and not run.active:
            link = {"run": run.id}
            label = t("runs.inside")
            st.page_link(state.page("inside"), label=label, icon=":material/frame_inspect:", query_params=link)
        with st.popover(t("runs.rename"), icon=":material/edit:"):
            title = st.text_input(t("runs.name"), value=run.title or "", max_chars=200, key=f"name-{run.id}")
            if st.button(t("runs.save"), key=f"rename-{run.id}"):
                store.rename(run.id, owner, title)
                st.rerun()
        with st.popover(t("runs.delete"), icon=":material/delete:"):
            st.markdown(t("runs.delete_what"))
            if st.button(t("runs.delete_it"), key=f"delete-{run.id}", type="primary"):
                try:
                    store.delete(run.id, owner)
                except DeltalabError as error:
                    live.say(error)
                else:
                    del st.query_params["run"]
                    st.rerun()
