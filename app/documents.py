"""Own documents on a page: index them, search, have a base answer, measure the search, make training rows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import charts_rag, data, live, reading, state, uploads
from app.story import plain
from core.config import EMBEDDED, RunConfig
from core.errors import DeltalabError
from core.export.link import parameters
from core.rag import quality, raft, read
from core.rag.answer import citations
from core.rag.desk import Desk
from core.rag.retrieve import HYBRID, MODES, Retriever

if TYPE_CHECKING:
    from pathlib import Path

    from core.rag.store import Store

SHOWN = 5  # passages that a search shows
READ = 4  # passages that a base reads, if there is room
LONGEST = 128  # tokens of an answer
SENTENCES = 60  # that the search is measured with where there are no questions
_ROWS = "_raft_rows"  # session_state: key -> the link to the rows that were made there
_TOLD = "_own_told"  # session_state: question, answer, what was read


@st.fragment
def section() -> None:
    """The whole of it; in a fragment, so that a search redraws nothing else."""
    st.header("Your own documents", anchor="own")
    st.markdown("How well are the right passages found in yours? What does a base answer from them? They stay here.")
    desk = Desk(state.home(), state.owner())
    _index(desk)
    with desk.own() as store:
        held = store.sources()
        if not held:
            st.caption("Nothing is indexed yet: txt, md, pdf or csv.")
            return
        st.caption(", ".join(f"{plain(name)} ({n:,})" for name, n in list(held.items())[:20]))
        _search(store)
        _questions(store)
    st.button(
        "Remove all of them", key="own-forget", icon=":material/delete:", type="tertiary", on_click=desk.forget,
        args=("own",),
    )  # fmt: skip


def _index(desk: Desk) -> None:
    given = st.file_uploader(
        "Documents", type=[e.removeprefix(".") for e in read.ENDINGS], accept_multiple_files=True, key="documents"
    )
    for one in given or []:
        try:
            path = uploads.keep(state.owner(), one.name, one.getvalue())
            change = desk.add(read.documents(path, one.name))
        except DeltalabError as error:
            live.say(error)
            continue
        if change.added:
            st.caption(f":material/check: {plain(one.name)}: {change.added:,} passages.")


def _search(store: Store) -> None:
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    asked = left.text_input("Search, or ask", key="own-question", max_chars=2000).strip()
    mode = str(right.selectbox("How", MODES, index=MODES.index(HYBRID), key="own-mode"))
    base = _base()
    if not asked:
        return
    try:
        found = Retriever(store, mode).find(asked, SHOWN)
        if st.button("Have it answered", key="own-ask", icon=":material/chat:"):
            with st.spinner("Answering; the first answer waits for the model to load", show_time=True):
                prompt = reading.fitted(asked, found.hits[:READ], base, LONGEST)
                st.session_state[_TOLD] = (asked, base, reading.said(None, base, prompt, LONGEST), prompt)
        told = st.session_state.get(_TOLD)
        if told is not None and told[:2] == (asked, base):
            _, _, text, prompt = told
            st.code(text or "(no answer)", language=None, wrap_lines=True)
            st.caption(plain(reading.source_of(text, prompt.hits, asked)))
            reading.sources(prompt.hits, citations(text, [hit.chunk.text for hit in prompt.hits]), prompt.left_out)
        else:
            reading.sources(found.hits)
    except DeltalabError as error:
        live.say(error)


def _base() -> str:
    """Who answers: a folder, a hub id, or the embedded base."""
    with st.expander("Which base answers", key="own-base-place"):
        said = st.text_input(
            "Folder on this machine, or hub id", key="own-base", max_chars=400, placeholder="the embedded base",
            help="An instruction-tuned model answers from numbered passages and names them.",
        )  # fmt: skip
        st.caption(
            "The embedded base knows the words of its small world and little else; from documents like yours it can "
            "hardly answer. Name a model of your own."
        )
    return said.strip() or EMBEDDED


def _questions(store: Store) -> None:
    given = st.file_uploader(
        "Questions with answers", type=data.ENDINGS, key="own-questions",
        help="JSONL, JSON or CSV with prompt and completion. Without them the search is measured with sentences of "
        "your documents, half of their words left out.",
    )  # fmt: skip
    path = None if given is None else uploads.keep(state.owner(), given.name, given.getvalue())
    with st.container(horizontal=True):
        wanted = st.button("Measure the search", key="own-measure", icon=":material/straighten:")
        rows = path is not None and st.button(
            "Make training rows with distractors (RAFT)", key="own-raft", icon=":material/dataset:"
        )
    try:
        if wanted:
            _measure(store, path)
        if rows and path is not None:
            made = quality.pairs(path)
            _make("own", lambda: raft.rows(made, Retriever(store), base=_asked_base()), _asked_base())
        playground_link("own")
    except DeltalabError as error:
        live.say(error)


def _asked_base() -> str:
    return str(st.session_state.get("own-base", "")).strip() or EMBEDDED


def _measure(store: Store, path: Path | None) -> None:
    queries = quality.from_chunks(store, SENTENCES) if path is None else quality.from_file(path)
    rows = quality.all_modes(store, queries)
    st.dataframe(charts_rag.quality_table(rows), hide_index=True, alt="Recall and MRR by way to search.")
    if path is None:
        st.caption(
            f"{rows[0].questions} sentences of your documents, each asked for with half of its words left out. "
            "People's questions are harder: bring a file of them."
        )
        return
    vague = quality.common(store, queries)
    more = f" {vague} of the answers stand in more than a tenth of the passages: to find one of these is easy."
    st.caption(f"{rows[0].questions} questions of yours. {quality.RULE}{more if vague else ''}")
    if rows[-1].misses:
        st.caption("Not found among the first ten: " + "; ".join(plain(text[:200]) for text in rows[-1].misses))


# --- training rows ----------------------------------------------------------------------------------------------------


def _make(key: str, rows: Callable[[], Sequence[dict[str, str]]], base: str) -> None:
    made = rows()
    path = uploads.keep(state.owner(), "raft.jsonl", raft.jsonl(list(made)).encode())
    query = parameters(RunConfig(base=base, task=None, data=str(path))) | {"kept": uploads.token(path)}
    st.session_state[f"{_ROWS}-{key}"] = (len(made), query)


def playground_link(key: str) -> None:
    """The way to the Playground with the rows that were made under this key, if any were."""
    made = st.session_state.get(f"{_ROWS}-{key}")
    if made is None:
        return
    count, query = made
    st.page_link(
        state.page("playground"), label=f"{count:,} rows: train on them in the Playground", icon=":material/science:",
        query_params=query,
    )  # fmt: skip


def raft_preset(store: Store) -> None:
    """RAFT as it stands in the experiment: questions about the newcomers, each with its row among distractors."""
    _make("world", lambda: raft.rows(raft.newcomers(), Retriever(store)), EMBEDDED)


__all__ = ["playground_link", "raft_preset", "section"]
