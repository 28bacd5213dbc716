"""The script that Streamlit runs for every visitor: navigation from the lessons on disk and the views, and the page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from app import clock, components, index, state, tasks, words
from app.cells import parts
from app.index import Lesson
from app.views import LESSONS, VIEWS, home
from app.words import t

THEME = Path(__file__).resolve().parent / "theme"
_OPEN_ANEW = "_open_anew"  # in a session whose language has just been changed
IN_THE_BAR = 3
"""So many lessons stand in the bar itself; more get a menu of their own."""


def lessons() -> tuple[Lesson, ...]:
    """The lessons; what is wrong with one that cannot be shown is said above all pages."""
    wrong = index.mistakes()
    if wrong:
        told = "\n\n".join(map(str, wrong))
        st.error(f"{t('shell.lessons_broken')}\n\n{told}", icon=":material/error:")
    return index.lessons()


def pages(found: tuple[Lesson, ...]) -> dict[str, Any]:
    """Every page by its address: the course, the lessons in order, then the tools."""
    from app.cells.page import render as render_lesson

    first, *tools = VIEWS
    made = {
        first.url_path: st.Page(_framed(first.render, first.wide), title=first.title, icon=first.icon, default=True)
    }
    for lesson in found:
        made[lesson.url_path] = st.Page(
            _framed(partial(render_lesson, lesson), False, lesson.url_path),
            title=lesson.navigation,
            icon=f":material/counter_{lesson.order}:" if lesson.order < 10 else ":material/menu_book:",
            url_path=lesson.url_path,
        )
    for view in tools:
        made[view.url_path] = st.Page(
            _framed(view.render, view.wide), title=view.title, icon=view.icon, url_path=view.url_path
        )
    return made


def menus(made: dict[str, Any], found: tuple[Lesson, ...]) -> dict[str, list[Any]]:
    """The pages by menu; the course stands in the bar itself, and so do its lessons while they are few."""
    sections = {view.url_path: view.section for view in VIEWS}
    if len(found) > IN_THE_BAR:
        sections |= {lesson.url_path: LESSONS for lesson in found}
    out: dict[str, list[Any]] = {"": []}
    for url_path, page in made.items():
        section = sections.get(url_path, "")
        out.setdefault(t(f"menu.{section}") if section else "", []).append(page)
    return out


def _framed(render: Callable[[], None], wide: bool, lesson: str = "") -> Callable[[], None]:
    """A page in its column, with the device chip and the languages at the foot. lesson: the address of one, for the
    clock."""

    def page() -> None:
        if _OPEN_ANEW in st.session_state:
            _helper("")
            return
        with st.container(key="wide" if wide else "narrow"):
            if lesson:
                tasks.settle(lesson)
            else:
                parts.left()
            render()
            st.space("large")
            if render is not home.render:
                state.device_chip()
            _languages()
            _helper(lesson)

    return page


def _languages() -> None:
    """The switch between languages: what is chosen is kept for the learner and stands in the address."""
    known = words.languages()
    now, key = words.current(), "language"
    st.segmented_control(
        t("shell.language"), list(known), default=now, format_func=known.__getitem__, required=True, key=key,
        label_visibility="collapsed", on_change=_speak, args=(key,),
    )  # fmt: skip


def _speak(key: str) -> None:
    code = str(st.session_state[key])
    words.choose(code)
    # A widget remembers the words of its choice, which are no option any more: the page is opened anew, and its choices
    # come from the address.
    st.session_state[_OPEN_ANEW] = True
    state.store().set_progress(state.owner(), words.KEPT, {"lang": code} if code != words.DEFAULT else None)


def _helper(lesson: str) -> None:
    """What a page cannot say in Python: its language, its address, the place that a link leads to, and that somebody is
    at work."""
    root = components.root()
    at = st.query_params.get("at", "")
    data = {
        "lang": words.current(), "usual": words.DEFAULT, "anew": _OPEN_ANEW in st.session_state, "at": at,
        "query": urlencode([(name, value) for name in st.query_params for value in st.query_params.get_all(name)]),
        "beat": f"{root}/api/seen/{lesson}" if lesson else "", "every": clock.BEAT_SECONDS, "search": f"{root}/search",
    }  # fmt: skip
    with st.container(key="helper"):
        components.component("page")(key="page-helper", data=data)


def _stored_language() -> str | None:
    """What the learner chose at another time; asked once a session."""
    if words.settled():
        return None
    kept = state.store().progress_of(state.owner(), words.KEPT)
    return str(kept.get("lang")) if isinstance(kept, dict) else None


def main() -> None:
    """Draw the page that was asked for."""
    st.set_page_config(page_title="Deltalab", page_icon=str(THEME / "mark.svg"), layout="wide")
    st.html(THEME / "deltalab.css")
    st.logo(str(THEME / "logo.svg"), size="large")
    words.settle(_stored_language())
    found = lessons()
    made = pages(found)
    state.keep_pages(made)
    page = st.navigation(menus(made, found), position="top")
    st.set_page_config(page_title="Deltalab" if page.url_path == "" else f"{page.title} · Deltalab")
    words.in_address()
    page.run()


main()
