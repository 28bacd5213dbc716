"""The script that Streamlit runs for every visitor: navigation from the lessons on disk and the views, and the page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app import index, state
from app.index import Lesson
from app.views import VIEWS, home
from core.errors import DeltalabError

THEME = Path(__file__).resolve().parent / "theme"


def lessons() -> tuple[Lesson, ...]:
    """The lessons; none, with the mistakes shown, when one of them cannot be read."""
    try:
        return index.lessons()
    except DeltalabError as error:
        st.error(f"The lessons cannot be shown.\n\n{error.sentence}", icon=":material/error:")
        return ()


def pages(found: tuple[Lesson, ...]) -> dict[str, Any]:
    """Every page by its address: the course, the lessons in order, then the tools."""
    from app.cells.page import render as render_lesson

    first, *tools = VIEWS
    made = {
        first.url_path: st.Page(_framed(first.render, first.wide), title=first.title, icon=first.icon, default=True)
    }
    for lesson in found:
        made[lesson.url_path] = st.Page(
            _framed(partial(render_lesson, lesson), False),
            title=lesson.navigation,
            icon=":material/counter_0:" if lesson.order == 0 else f":material/counter_{min(lesson.order, 9)}:",
            url_path=lesson.url_path,
        )
    for view in tools:
        made[view.url_path] = st.Page(
            _framed(view.render, view.wide), title=view.title, icon=view.icon, url_path=view.url_path
        )
    return made


def menus(made: dict[str, Any]) -> dict[str, list[Any]]:
    """The pages by menu; the course and its lessons stand in the bar itself."""
    out: dict[str, list[Any]] = {"": []}
    sections = {view.url_path: view.section for view in VIEWS}
    for url_path, page in made.items():
        out.setdefault(sections.get(url_path, ""), []).append(page)
    return out


def _framed(render: Callable[[], None], wide: bool) -> Callable[[], None]:
    """A page in its column, with the device chip at the foot."""

    def page() -> None:
        with st.container(key="wide" if wide else "narrow"):
            render()
            if render is not home.render:
                st.space("large")
                state.device_chip()

    return page


def main() -> None:
    """Draw the page that was asked for."""
    st.set_page_config(page_title="Deltalab", page_icon=str(THEME / "mark.svg"), layout="wide")
    st.html(THEME / "deltalab.css")
    st.logo(str(THEME / "logo.svg"), size="large")
    made = pages(lessons())
    state.keep_pages(made)
    page = st.navigation(menus(made), position="top")
    st.set_page_config(page_title="Deltalab" if page.url_path == "" else f"{page.title} · Deltalab")
    page.run()


main()
