"""Glossary: the words of the subject, to be searched, read by letter, and linked to."""

from __future__ import annotations

import streamlit as st

from app import index, state
from app.choices import Choice, one_of, words
from app.story import plain
from app.words import n, t
from core import glossary
from core.errors import DeltalabError
from core.glossary import Term

PAGE = "glossary"
MANY = 40  # words of a list that are drawn with everything that belongs to them
QUERY = Choice(PAGE, "q", "", words(80))
LETTER = Choice(PAGE, "letter", None, one_of([*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "#"]))


def render() -> None:
    """Draw the page. ?term=KEY leads to one word (any of its names will do), ?q= searches, ?letter= picks a letter."""
    st.title(t("glossary.title"), anchor=False)
    asked = st.query_params.get("term")
    found = glossary.find(asked) if asked else None
    if asked and found is None:
        st.warning(t("glossary.unknown", name=plain(asked[:60])), icon=":material/help:")
    if found is not None:
        with st.container(border=True, key="glossary-asked"):
            _term(found)
        st.button(t("glossary.all"), key="glossary-all", on_click=_forget, icon=":material/arrow_back:")
        return
    st.markdown(n("glossary.intro", len(glossary.terms())))
    _list()


def _forget() -> None:
    st.query_params.pop("term", None)


@st.fragment
def _list() -> None:
    QUERY.start()
    LETTER.start()
    query = st.text_input(
        t("glossary.search"), value=QUERY.first, icon=":material/search:", key=QUERY.widget_key, on_change=QUERY.keep
    )
    shown: tuple[Term, ...]
    if query and query.strip():
        shown = glossary.matching(query)
    else:
        letters = sorted({term.letter for term in glossary.terms()})
        st.pills(t("glossary.letter"), letters, label_visibility="collapsed", **LETTER.one())
        shown = tuple(term for term in glossary.terms() if LETTER.value in (None, term.letter))
    if not shown:
        st.markdown(t("glossary.none", query=plain(query or "")))
        return
    st.caption(n("glossary.count", len(shown)))
    for term in shown:
        with st.container(key=f"row-term-{term.key}"):
            if len(shown) > MANY:
                _line(term)
            else:
                _term(term)


def _line(term: Term) -> None:
    """A word in a long list: one text, since hundreds of elements make a page slow."""
    parts = [f"#### {plain(term.name)}", plain(term.text)]
    others = [name for name in term.aka if name != term.short]
    if others:
        parts.append(f":small[{t('glossary.also', names=plain(', '.join(others)))}]")
    st.markdown("\n\n".join(parts), anchors=False)


def _term(term: Term) -> None:
    """A word with its meaning and where to go on."""
    st.subheader(plain(term.name), anchor=f"term-{term.key}")
    st.markdown(plain(term.text))
    others = [name for name in term.aka if name != term.short]
    if others:
        st.caption(t("glossary.also", names=plain(", ".join(others))))
    lesson = _lesson(term.lesson)
    if term.see or lesson is not None:
        with st.container(horizontal=True, gap="small", key=f"links-{term.key}"):
            if lesson is not None:
                st.page_link(
                    state.page(lesson.url_path), label=t("glossary.lesson", title=lesson.navigation),
                    icon=":material/menu_book:",
                )  # fmt: skip
            for key in term.see:
                other = glossary.find(key)
                if other is not None:
                    st.page_link(
                        state.page(PAGE), label=plain(other.short), query_params={"term": other.key},
                        icon=":material/arrow_forward:",
                    )  # fmt: skip
    if term.reference is not None:
        r = term.reference
        st.caption(f"{plain(r.authors)} ({r.year}), [{plain(r.title)}]({r.address})")


def _lesson(address: str) -> index.Lesson | None:
    """The lesson at that address, if it is there."""
    try:
        return next((lesson for lesson in index.lessons() if lesson.url_path == address), None)
    except DeltalabError:
        return None
