"""Playground: any base, any task or your own file, any method; four knobs, and Run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from app import chat, compare, data, form, live, proposals, state, takeaway, uploads
from app.address import keep_in_link, linked
from app.story import plain
from app.words import from_core, t
from core.base import CLASSIFICATION
from core.config import EMBEDDED, RunConfig
from core.errors import DeltalabError, NotFound
from core.export.link import KEY as KNOB
from core.export.link import METHOD, OWN, TASK, parameters
from core.methods import METHODS
from core.units import count_text
from core.world import TASKS

if TYPE_CHECKING:
    from pathlib import Path

    from core.runs.store import Run

CELL = "playground"
"""Where the store files the runs that were started here."""
BASES = (EMBEDDED, "folder", "hub")
FOLDER_EXAMPLE, HUB_EXAMPLE, REVISION_EXAMPLE = "/models/my-model", "HuggingFaceTB/SmolLM2-135M-Instruct", "main"


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
        base, facts, place = base_choice()
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


def base_choice(*, inside: bool = False) -> tuple[str | None, dict[str, Any], Any]:
    """The base, None while it cannot be used; its facts; and where models that fit are to be listed, or None.

    Args:
        inside: of something that has a heading of its own; nothing is proposed there.
    """
    if not inside:
        st.subheader(t("playground.base"), anchor=False)
    kind = st.segmented_control(
        t("playground.where_from"),
        BASES,
        format_func=lambda kind: t(f"playground.bases.{kind}"),
        default=linked("base", list(BASES), EMBEDDED),
        required=True,
        key="base",
        label_visibility="collapsed",
        on_change=keep_in_link,
        args=("base", EMBEDDED),
    )
    source: str | None = EMBEDDED
    revision: str | None = None
    place = None
    if kind == "folder":
        source = st.text_input(
            t("playground.folder"),
            key="folder",
            placeholder=FOLDER_EXAMPLE,
            help=t("playground.folder_help"),
            bind="query-params",
        )
    elif kind == "hub":
        source = st.text_input(
            t("playground.bases.hub"),
            key="hub",
            placeholder=HUB_EXAMPLE,
            help=t("playground.hub_help"),
            bind="query-params",
        )
        if source:
            revision = st.text_input(
                t("playground.revision"), key="revision", placeholder=REVISION_EXAMPLE,
                help=t("playground.revision_help"), bind="query-params",
            )  # fmt: skip
        if not inside:
            # Filled once the settings are drawn, which memory and time depend on.
            place = st.expander(t("playground.fitting"), expanded=not source, key="proposals")
    source = (source or "").strip()
    if not source:
        st.caption(t("playground.unnamed"))
        return None, {}, place
    with st.spinner(t("playground.looking"), show_time=True):
        facts = base_facts(source, (revision or "").strip() or None)
    if "error" in facts:
        live.say(DeltalabError(*facts["error"]))
        return None, {}, place
    parts = [str(facts.get("name") or source)]
    if facts.get("model_type"):
        encoder = facts.get("task") == CLASSIFICATION
        kind = str(facts["model_type"])
        parts.append(t("playground.encoder", kind=kind) if encoder else kind)
    if facts.get("parameters"):
        parts.append(t("playground.parameters", count=count_text(facts["parameters"])))
    if facts.get("layers"):
        parts.append(t("playground.layers", count=facts["layers"]))
    if facts.get("context"):
        parts.append(t("playground.context", count=facts["context"]))
    if facts.get("few_bits"):
        parts.append(t("playground.few_bits", format=facts["few_bits"]["title"]))
    st.caption(" · ".join(parts))
    if source == EMBEDDED:
        st.caption(t("playground.embedded"))
    return source, facts, place


@st.cache_data(show_spinner=False, ttl=120, max_entries=64)
def base_facts(source: str, revision: str | None = None) -> dict[str, Any]:
    """What is known of a base without loading it, and `asked_revision`; {"error": (sentence, advice)} when it cannot be
    used.

    Both are kept for a while: the hub is not asked again at every move of a knob.
    """
    from core.base import describe_base

    try:
        return describe_base(source, revision) | {"asked_revision": revision}
    except DeltalabError as error:
        return {"error": (error.sentence, error.advice)}


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
    return None, own_file(encoder=encoder)


def own_file(*, encoder: bool) -> Any:
    """The visitor's file: one that the address names, else an upload; None until there is one.

    Args:
        encoder: the base reads texts with labels.
    """
    made = _made()
    if made is not None:
        return made
    given = st.file_uploader(
        t("playground.file"),
        type=data.ENDINGS,
        key="upload",
        help=t("playground.file_help"),
    )
    if given is None:
        st.caption(data.formats(labelled=encoder))
    return given


@dataclass(frozen=True)
class Made:
    """A file that another page has made for the visitor, in the form of an upload."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def getvalue(self) -> bytes:
        return self.path.read_bytes()


def _made() -> Made | None:
    """The file that the address names, if it is the visitor's and still there."""
    path = uploads.kept(state.owner(), st.query_params.get("kept", ""))
    if path is None:
        return None
    left, right = st.columns([3, 2], vertical_alignment="center")
    left.markdown(f":material/description: {t('playground.made', file=plain(path.name))}")
    right.button(t("playground.another_file"), key="another-file", icon=":material/upload_file:", on_click=_forget_made)
    return Made(path)


def _forget_made() -> None:
    """A button's callback: an upload takes the file's place."""
    st.query_params.pop("kept", None)


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
