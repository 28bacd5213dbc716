"""Playground: any base, any task or your own file, any method; four knobs, and Run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from app import chat, compare, data, form, live, proposals, state, takeaway, uploads
from app.address import keep_in_link, linked
from app.story import plain
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
BASES = {EMBEDDED: "Embedded", "folder": "Local folder", "hub": "Hub id"}


def render() -> None:
    """Draw the page."""
    st.title("Playground", anchor=False)
    st.markdown("Choose a base, something to learn and a method; then run it, and compare.")
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
        base, facts, place = _base()
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
    st.subheader("Settings", anchor=False)
    run = shown_run()
    busy = run is not None and run.status in live.ACTIVE
    config = form.run_form(defaults, KNOB, label="Run", busy=busy, ready=ready, per_row=4)
    if not ready:
        st.caption("Run waits for a base and for something to learn that can be used.")
    now = form.config_of(defaults, KNOB)
    if place is not None:
        with place:
            proposals.choose("hub", now, KNOB)
    if run is not None and not busy and ready and live.differs(run, now):
        st.caption(":material/update: The run below was made with other settings. *Run* shows what these do.")
    _link(now)
    if config is not None:
        new = live.start(config, key=CELL, cell=CELL)
        if new is not None:
            st.query_params["run"] = new.id
            st.rerun()


def _base() -> tuple[str | None, dict[str, Any], Any]:
    """The base, None while it cannot be used; its facts; and where models that fit are to be listed, or None."""
    st.subheader("Base", anchor=False)
    kind = st.segmented_control(
        "Where the base comes from",
        list(BASES),
        format_func=BASES.__getitem__,
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
            "Folder on this machine",
            key="folder",
            placeholder="/models/my-model",
            help="A folder with config.json, a tokenizer and safetensors weights.",
            bind="query-params",
        )
    elif kind == "hub":
        source = st.text_input(
            "Hub id",
            key="hub",
            placeholder="HuggingFaceTB/SmolLM2-135M-Instruct",
            help="It is fetched once and kept in the hub's cache; safetensors only, no code of the repository is run.",
            bind="query-params",
        )
        if source:
            revision = st.text_input(
                "Revision", key="revision", placeholder="main", help="A branch, a tag or a commit of it.",
                bind="query-params",
            )  # fmt: skip
        # Filled once the settings are drawn, which memory and time depend on.
        place = st.expander("Models that fit this machine", expanded=not source, key="proposals")
    source = (source or "").strip()
    if not source:
        st.caption("Nothing is named yet.")
        return None, {}, place
    with st.spinner("Looking at the base", show_time=True):
        facts = base_facts(source, (revision or "").strip() or None)
    if "error" in facts:
        live.say(DeltalabError(*facts["error"]))
        return None, {}, place
    parts = [str(facts.get("name") or source)]
    if facts.get("model_type"):
        parts.append(f"{facts['model_type']}{', an encoder' if facts.get('task') == CLASSIFICATION else ''}")
    if facts.get("parameters"):
        parts.append(f"{count_text(facts['parameters'])} parameters")
    if facts.get("layers"):
        parts.append(f"{facts['layers']} layers")
    if facts.get("context"):
        parts.append(f"{facts['context']} tokens of context")
    if facts.get("few_bits"):
        parts.append(f"stored in {facts['few_bits']['title']}")
    st.caption(" · ".join(parts))
    if source == EMBEDDED:
        st.caption(
            "A small model of a small world: it knows people, cities, jobs and pets, adds, and judges reviews. Every "
            "answer can be graded exactly."
        )
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
    st.subheader("Method", anchor=False)
    names = list(METHODS)
    method = str(
        st.selectbox(
            "Method",
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
    st.markdown(about.SUMMARY)
    st.code(about.FORMULA, language=None, wrap_lines=True)
    st.caption(f"When it runs: {about.INFERENCE[0].lower()}{about.INFERENCE[1:]}")
    st.caption(about.PAPER)
    if method == "bitfit" and facts and facts.get("biases") is False:
        st.warning(
            "This base has no biases, so BitFit has nothing to train. GPT-2 and OPT have them, and so have BERT and "
            "RoBERTa, the encoders that it was published on."
        )
    changes = getattr(about, "CHANGES_WEIGHTS", "")
    if changes and facts.get("few_bits"):
        st.warning(
            f"{about.TITLE} {changes}, and this base has them in {facts['few_bits']['title']}. Choose a method that "
            "trains beside them, such as LoRA, or the unquantized checkpoint of the same model."
        )
    if facts.get("task") == CLASSIFICATION:
        if about.START == "other":
            st.warning("This base is an encoder, and trained tokens need a language model. Choose another method.")
        elif method != "full":
            st.caption("On an encoder the classification head trains too, whole, beside what the method trains.")
    return method


def _material(facts: dict[str, Any]) -> tuple[str | None, Any]:
    """What is learnt: a built-in task, or the visitor's upload (None, None until there is one)."""
    encoder = facts.get("task") == CLASSIFICATION
    st.subheader("What it learns", anchor=False)
    names = [*TASKS, OWN]
    task = st.radio(
        "What it learns",
        names,
        index=names.index(linked("task", names, TASK)),
        format_func=lambda name: "My own file" if name == OWN else TASKS[name].title,
        captions=[
            *(t.summary for t in TASKS.values()),
            "JSONL, JSON or CSV with prompts and answers, with chats, or with text and label.",
        ],
        key="task",
        label_visibility="collapsed",
        on_change=keep_in_link,
        args=("task", TASK),
    )
    if task != OWN:
        if encoder:
            st.info(
                "This base is an encoder: it gives labels to texts and writes no answers. Choose *My own file*, with "
                "the columns text and label."
            )
        else:
            _example(str(task))
        return str(task), None
    made = _made()
    if made is not None:
        return None, made
    given = st.file_uploader(
        "Your file",
        type=data.ENDINGS,
        key="upload",
        help="It stays on this machine. A row is a prompt and a completion, a list of chat messages, or a text and its "
        "label.",
    )
    if given is None:
        st.caption(data.LABEL_FORMATS if encoder else data.FORMATS)
        return None, None
    return None, given


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
    left.markdown(f":material/description: **{plain(path.name)}**, made for you on another page.")
    right.button("Another file", key="another-file", icon=":material/upload_file:", on_click=_forget_made)
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
    with st.expander("An example of the task", key="example"):
        st.markdown("Asked")
        st.code(example.prompt, language=None, wrap_lines=True)
        st.markdown("Wanted")
        st.code(example.completion, language=None, wrap_lines=True)


def _link(config: RunConfig) -> None:
    """A link that reproduces what is chosen (an own file has to be chosen again)."""
    with st.popover("Link to this setup", icon=":material/link:", type="tertiary"):
        base = (st.context.url or "").split("?")[0]
        query = urlencode(parameters(config))
        st.code(f"{base}?{query}" if query else base, language=None, wrap_lines=True)
        st.caption("Whoever opens it on this machine sees the same choices. Your own file is not part of it.")


def _result(run: Run) -> None:
    st.divider()
    st.header(plain(run.title or "Run"), anchor="run")
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
        st.page_link(state.page("inside"), label="Look inside", icon=":material/frame_inspect:", query_params=query)
        st.page_link(state.page("ship"), label="Ship it", icon=":material/local_shipping:", query_params=query)
        takeaway.link(run)


def _show(run: Run) -> None:
    st.query_params["run"] = run.id


def _earlier(run: Run | None) -> None:
    runs = state.store().runs(state.owner(), limit=50)
    if len(runs) < 2 or run is None:
        return
    st.subheader("Beside earlier runs", anchor="compare")
    compare.compare(runs, "beside", label="Runs to compare", default=[run.id])
