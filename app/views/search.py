"""Search: lessons, glossary, drill, claims, the guide's rules and the pages, in one field."""

from __future__ import annotations

import streamlit as st

from app import search, state
from app import words as interface
from app.choices import Choice, one_of, words
from app.story import plain
from app.words import n, t

PAGE = "search"
QUERY = Choice(PAGE, "q", "", words(200))
KIND = Choice(PAGE, "kind", None, one_of(search.KINDS))
ICONS = {
    search.LESSON: ":material/menu_book:", search.TERM: ":material/dictionary:", search.QUESTION: ":material/quiz:",
    search.CLAIM: ":material/rule:", search.RULE: ":material/alt_route:", search.PAGE: ":material/web_asset:",
}  # fmt: skip


def render() -> None:
    """Draw the page. ?q= is what is looked for."""
    st.title(t("search.title"), anchor=False)
    _find()


@st.fragment
def _find() -> None:
    QUERY.start()
    KIND.start()
    query = st.text_input(
        t("search.field"), value=QUERY.first, icon=":material/search:", key=QUERY.widget_key, on_change=QUERY.keep,
        placeholder=t("search.example"),
    )  # fmt: skip
    if not query or not query.strip():
        st.caption(t("search.hint"))
        return
    language = interface.current()
    every = search.find(query, language=language, most=60)
    kinds = [kind for kind in search.KINDS if any(r.entry.kind == kind for r in every)]
    if len(kinds) > 1:
        st.pills(
            t("search.kinds"), kinds, format_func=lambda kind: t(f"search.kind.{kind}"), label_visibility="collapsed",
            **{**KIND.one(), "default": KIND.first if KIND.first in kinds else None},
        )  # fmt: skip
    kind = KIND.value if KIND.value in kinds else None
    shown = search.find(query, kind, language) if kind else every[:30]
    if not shown:
        st.markdown(t("search.none", query=plain(query)))
        return
    st.caption(n("search.count", len(shown)))
    for number, result in enumerate(shown):
        _result(result, number)


def _result(result: search.Result, number: int) -> None:
    entry = result.entry
    with st.container(key=f"row-found-{number}", gap="xsmall"):
        st.page_link(
            state.page(entry.page), label=f"**{plain(entry.title)}**", icon=ICONS[entry.kind],
            query_params=entry.query or None,
        )  # fmt: skip
        snippet = plain(result.snippet).replace(search.OPENED, "**").replace(search.CLOSED, "**")
        where = f" · {plain(entry.where)}" if entry.where else ""
        st.caption(f"{t(f'search.kind.{entry.kind}')}{where}")
        if snippet.strip():
            st.markdown(snippet)
