"""Playground: any base, any task or your own file, any method; four knobs, and Run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from app import chat, compare, data, form, live, proposals, run_choice, state, takeaway, uploads
from app.address import keep_in_link, linked
from app.story import plain
from app.words import from_core, t
from core.base import CLASSIFICATION
from core.config import EMBEDDED, RunConfig
from core.errors import NotFound
from core.export.link import KEY as KNOB
from core.export.link import METHOD, OWN, TASK, parameters
from core.methods import METHODS
from core.world import TASKS

if TYPE_CHECKING:
    from pathlib import Path

    from core.runs.store import Run

CELL = "playground"
"""Where the store files the runs that were started here."""


def render() -> None:
    """Draw the page."""
    st.title(t("page.playground.title"), anchor=False)
    st.markdown(t("playground.intro"))
    _setup()
    run = shown_run()
    if run is not None:
        _result(run)
    _earlier(run)


def shown_run() -> Run | None:
    """The run that the address names, else the visitor's newest one from here."""
    wanted = st.query_params.get("run")
    if wanted:
        try:
            return state.store().get(wanted, state.owner())
        except NotFound:
            del st.query_params["run"]
    return live.latest(CELL)


@st.fragment
def _setup() -> None:
    """Everything that is chosen; in a fragment, so that a knob redraws nothing else."""
    left, right = st.columns(2, gap="large")
    with left:
        base, facts, place = run_choice.base()
        task, given = _material(facts)
    with right:
        method = _method(facts)
    path = None if given is None else _own(given, base)
    revision = facts.get("asked_revision")
    if base is None:
        base, ready = EMBEDDED, False
    else:
        ready = path is not None or (task is not None and facts.get("task") != CLASSIFICATION)
    defaults = RunConfig(
        base=base, revision=revision, task=task, data=None if path is None else str(path), method=method
    )
    if task is None and path is None:  # the knobs of the default task, until there is a file
        defaults = RunConfig(base=base, revision=revision, method=method)
    st.subheader(t("playground.settings"), anchor=False)
    run = shown_run()
    busy = run is not None and run.status in live.ACTIVE
    config = form.run_form(defaults, KNOB, label=t("form.run"), busy=busy, ready=ready, per_row=4)
    if not ready:
        st.caption(t("playground.waits"))
    now = form.config_of(defaults, KNOB)
    if place is not None:
        with place:
            proposals.choose("hub", now, KNOB)
    if run is not None and not busy and ready and live.differs(run, now):
        st.caption(f":material/update: {t('playground.stale', button=t('form.run'))}")
    _link(now)
    if ready:
        _race(now, path)
    if config is not None:
        new = live.start(config, key=CELL, cell=CELL)
        if new is not None:
            st.query_params["run"] = new.id
            st.rerun()


def _method(facts: dict[str, Any]) -> str:
    st.subheader(t("playground.method"), anchor=False)
    names = list(METHODS)
    method = str(
        st.selectbox(
            t("playground.method"),
            names,
            index=names.index(linked("method", names, METHOD)),
            format_func=lambda name: METHODS[name].TITLE,
            key="method",
            label_visibility="collapsed",
            on_change=keep_in_link,
            args=("method", METHOD),
        )
    )
    about = METHODS[method]
    st.markdown(from_core(about.SUMMARY))
    st.code(about.FORMULA, language=None, wrap_lines=True)
    st.caption(t("playground.inference", told=from_core(about.INFERENCE)))
    st.caption(about.PAPER)
    if method == "bitfit" and facts and facts.get("biases") is False:
        st.warning(t("playground.no_biases"))
    changes = getattr(about, "CHANGES_WEIGHTS", "")
    if changes and facts.get("few_bits"):
        st.warning(
            t("playground.changes_few_bits", method=about.TITLE, changes=changes, format=facts["few_bits"]["title"])
        )
    if facts.get("task") == CLASSIFICATION:
        if about.START == "other":
            st.warning(t("playground.encoder_tokens"))
        elif method != "full":
            st.caption(t("playground.encoder_head"))
    return method


def _material(facts: dict[str, Any]) -> tuple[str | None, Any]:
    """What is learnt: a built-in task, or the visitor's upload (None, None until there is one)."""
    encoder = facts.get("task") == CLASSIFICATION
    st.subheader(t("playground.learns"), anchor=False)
    names = [*TASKS, OWN]
    task = st.radio(
        t("playground.learns"),
        names,
        index=names.index(linked("task", names, TASK)),
        format_func=lambda name: t("playground.own") if name == OWN else from_core(TASKS[name].title),
        captions=[*(from_core(one.summary) for one in TASKS.values()), t("playground.own_formats")],
        key="task",
        label_visibility="collapsed",
        on_change=keep_in_link,
        args=("task", TASK),
    )
    if task != OWN:
        if encoder:
            st.info(t("playground.encoder_task"))
        else:
            _example(str(task))
        return str(task), None
    return None, run_choice.own_file(encoder=encoder)


def _own(given: Any, base: str | None) -> Path | None:
    """The report on an upload; its path, if it can be trained on."""
    path = uploads.keep(state.owner(), given.name, given.getvalue())
    seed = int(st.session_state.get(f"{KNOB}-seed", 0))
    return path if data.show_report(path, base or EMBEDDED, length_limit(), held_out(), seed) else None


def length_limit() -> int:
    """The length limit that the form shows now."""
    return int(st.session_state.get(f"{KNOB}-max_length", RunConfig().train.max_length))


def held_out() -> float:
    """The share kept back for scoring that the form shows now."""
    return float(st.session_state.get(f"{KNOB}-held_out", RunConfig().train.held_out))


def _example(task: str) -> None:
    from core.world import examples

    example = examples(task, "heldout", 1, 0)[0]
    with st.expander(t("playground.example"), key="example"):
        st.markdown(t("playground.asked"))
        st.code(example.prompt, language=None, wrap_lines=True)
        st.markdown(t("playground.wanted"))
        st.code(example.completion, language=None, wrap_lines=True)


def _link(config: RunConfig) -> None:
    """A link that reproduces what is chosen (an own file has to be chosen again)."""
    with st.popover(t("playground.link"), icon=":material/link:", type="tertiary"):
        base = (st.context.url or "").split("?")[0]
        query = urlencode(parameters(config))
        st.code(f"{base}?{query}" if query else base, language=None, wrap_lines=True)
        st.caption(t("playground.link_why"))


def _race(config: RunConfig, path: Path | None) -> None:
    """The way to a race of methods on the same base and the same data."""
    query = {name: value for name, value in parameters(config).items() if name in ("base", "folder", "hub", "revision")}
    query |= {"task": OWN, "kept": uploads.token(path)} if path is not None else {"task": str(config.task)}
    st.page_link(state.page("race"), label=t("playground.race"), icon=":material/flag:", query_params=query)


def _result(run: Run) -> None:
    st.divider()
    st.header(plain(run.title or t("runs.untitled")), anchor="run")
    live.run_panel(run, key="playground-run", on_new=_show)
    if run.adapter is not None and not run.active:
        _onwards(run)
    if run.adapter is not None:
        st.subheader(chat.heading(run), anchor="chat")
        chat.section(run, key="playground-chat")


def _onwards(run: Run) -> None:
    """What a finished run is good for, beside talking to it."""
    with st.container(horizontal=True, key="playground-onwards"):
        query = {"run": run.id}
        st.page_link(state.page("inside"), label=t("runs.inside"), icon=":material/frame_inspect:", query_params=query)
        st.page_link(state.page("ship"), label=t("runs.ship"), icon=":material/local_shipping:", query_params=query)
        takeaway.link(run)


def _show(run: Run) -> None:
    st.query_params["run"] = run.id


def _earlier(run: Run | None) -> None:
    runs = state.store().runs(state.owner(), limit=50)
    if len(runs) < 2 or run is None:
        return
    st.subheader(t("playground.beside"), anchor="compare")
    compare.compare(runs, "beside", label=t("runs.to_compare"), default=[run.id])
