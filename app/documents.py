"""Own documents on a page: index them, search, have a base answer, measure the search, make training rows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import charts_rag, data, live, localized, reading, state, uploads
from app.story import plain
from app.words import n, t
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
    st.header(t("documents.title"), anchor="own")
    st.markdown(t("documents.intro"))
    desk = Desk(state.home(), state.owner())
    _index(desk)
    try:
        with desk.own() as store:
            held = store.sources()
            if not held:
                st.caption(t("documents.none"))
                return
            st.caption(", ".join(f"{plain(name)} ({count:,})" for name, count in list(held.items())[:20]))
            _search(store)
            _questions(store)
    except DeltalabError as error:  # a damaged index, say: it stays until its owner removes it
        live.say(error)
    st.button(
        t("documents.remove"), key="own-forget", icon=":material/delete:", type="tertiary", on_click=desk.forget,
        args=("own",),
    )  # fmt: skip


def _index(desk: Desk) -> None:
    given = st.file_uploader(
        t("documents.files"),
        type=[e.removeprefix(".") for e in read.ENDINGS],
        accept_multiple_files=True,
        key="documents",
    )
    for one in given or []:
        try:
            path = uploads.keep(state.owner(), one.name, one.getvalue())
            change = desk.add(read.documents(path, one.name))
        except DeltalabError as error:
            live.say(error)
            continue
        if change.added:
            st.caption(f":material/check: {n('documents.added', change.added, file=plain(one.name))}")


def _search(store: Store) -> None:
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    asked = left.text_input(t("documents.search"), key="own-question", max_chars=2000).strip()
    mode = str(
        right.selectbox(
            t("documents.how"),
            MODES,
            index=MODES.index(HYBRID),
            format_func=lambda mode: t(f"documents.modes.{mode}"),
            key="own-mode",
        )
    )
    base = _base()
    if not asked:
        return
    try:
        found = Retriever(store, mode).find(asked, SHOWN)
        if st.button(t("documents.answer"), key="own-ask", icon=":material/chat:"):
            with st.spinner(t("chat.answering"), show_time=True):
                prompt = reading.fitted(asked, found.hits[:READ], base, LONGEST)
                st.session_state[_TOLD] = (asked, base, reading.said(None, base, prompt, LONGEST), prompt)
        told = st.session_state.get(_TOLD)
        if told is not None and told[:2] == (asked, base):
            _, _, text, prompt = told
            st.code(text or t("rag.no_answer"), language=None, wrap_lines=True)
            st.caption(plain(reading.source_of(text, prompt.hits, asked)))
            reading.sources(prompt.hits, citations(text, [hit.chunk.text for hit in prompt.hits]), prompt.left_out)
        else:
            reading.sources(found.hits)
    except DeltalabError as error:
        live.say(error)


def _base() -> str:
    """Who answers: a folder, a hub id, or the embedded base."""
    with st.expander(t("documents.base"), key="own-base-place"):
        said = st.text_input(
            t("documents.base_name"), key="own-base", max_chars=400, placeholder=t("documents.base_embedded"),
            help=t("documents.base_help"),
        )  # fmt: skip
        st.caption(t("documents.base_why"))
    return said.strip() or EMBEDDED


def _questions(store: Store) -> None:
    given = st.file_uploader(
        t("documents.questions"), type=data.ENDINGS, key="own-questions", help=t("documents.questions_help"),
    )  # fmt: skip
    path = None if given is None else uploads.keep(state.owner(), given.name, given.getvalue())
    with st.container(horizontal=True):
        wanted = st.button(t("documents.measure"), key="own-measure", icon=":material/straighten:")
        rows = path is not None and st.button(t("documents.raft"), key="own-raft", icon=":material/dataset:")
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
    localized.grid(charts_rag.quality_table(rows), hide_index=True, alt=t("documents.measured_alt"))
    if path is None:
        st.caption(n("documents.sentences", rows[0].questions))
        return
    vague = quality.common(store, queries)
    told = [n("documents.asked", rows[0].questions), quality.RULE]
    if vague:
        told.append(n("documents.vague", vague))
    st.caption(" ".join(told))
    if rows[-1].misses:
        missed = "; ".join(plain(text[:200]) for text in rows[-1].misses)
        st.caption(t("documents.missed", texts=missed))


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
        state.page("playground"), label=n("documents.rows", count), icon=":material/science:", query_params=query,
    )  # fmt: skip


def raft_preset(store: Store) -> None:
    """RAFT as it stands in the experiment: questions about the newcomers, each with its row among distractors."""
    _make("world", lambda: raft.rows(raft.newcomers(), Retriever(store)), EMBEDDED)


__all__ = ["playground_link", "raft_preset", "section"]
