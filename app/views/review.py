"""Review: questions that were missed, asked again when it is time, with the cell that asked them first."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from app import drill, index, review, state
from app.cells import quiz
from app.cells.context import Context
from app.index import Cell, Lesson
from app.review import Due
from app.words import n, t

_NOW = "_review-now"  # session_state: the question that is being asked
_ATTEMPT = "_review-attempt"  # and what was answered this time


def courses() -> list[Lesson]:
    """Where questions come from: the lessons and the drill."""
    return [*index.lessons(), drill.as_lesson()]


def today() -> datetime.date:
    """The visitor's day."""
    return state.local_time(datetime.datetime.now(datetime.UTC).timestamp()).date()


def enter(progress: dict[str, Any]) -> None:
    """Put what was missed since into the queue, for the present visitor."""
    for name, entry in review.fresh(progress, courses(), today()).items():
        state.store().set_progress(state.owner(), name, entry)
        progress[name] = entry


@dataclass
class Again(Context):
    """The context of a question that is asked again: its old answer is not shown, and the new one counts here only."""

    due: Due | None = None
    attempt: dict[str, Any] = field(default_factory=dict)

    def kept(self, cell: Cell) -> dict[str, Any]:
        """What was answered this time."""
        return dict(st.session_state.get(_ATTEMPT, {}))

    def save(self, cell: Cell, value: dict[str, Any]) -> None:
        """Move the question in the queue by the first answer of this time; more tries are for reading."""
        first = not st.session_state.get(_ATTEMPT)
        st.session_state[_ATTEMPT] = dict(value)
        if not first or self.due is None:
            st.rerun()
        right = drill.enough(cell, value["points"]) if "points" in value else bool(value.get("right"))
        entry = review.after(self.due.entry, right, review.clock(self.progress), today())
        name = review.name_of(self.due.lesson, cell)
        state.store().set_progress(self.owner, name, entry)
        self.progress[name] = entry
        st.rerun()  # the way on stands outside of the question

    def key(self, cell: Cell, part: str = "") -> str:
        """Not the key that the lesson's own cell has."""
        return f"review-{super().key(cell, part)}"


def render() -> None:
    """Draw the page."""
    st.title(t("review.title"), anchor=False)
    st.markdown(t("review.intro", others=review.OTHERS))
    owner = state.owner()
    progress = state.store().progress(owner)
    enter(progress)
    waiting = review.queue(progress, courses(), today())
    now = st.session_state.get(_NOW)
    asked = _asked(progress, now) if now else None
    if asked is None:
        ready = [due for due in waiting if due.ready]
        if not ready:
            _nothing(waiting, progress)
            return
        asked = ready[0]
        st.session_state[_NOW] = review.name_of(asked.lesson, asked.cell)
        st.session_state.pop(_ATTEMPT, None)
    st.caption(n("review.ready", sum(d.ready for d in waiting)))
    context = Again(asked.lesson, owner, progress, due=asked)
    if asked.cell.kind == drill.OPEN:
        from app.views.drill import open_question

        open_question(asked.cell, context)
    else:
        quiz.render(asked.cell, context)
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        answered = bool(st.session_state.get(_ATTEMPT))
        st.button(
            t("review.next"), key="review-next", on_click=_on, type="primary" if answered else "secondary",
            icon=":material/arrow_forward:", disabled=not answered,
        )  # fmt: skip
        query = {"question": asked.cell.id} if asked.lesson.slug == drill.SLUG else {"at": asked.cell.id}
        st.page_link(
            state.page(asked.lesson.url_path), label=t("review.source", title=asked.lesson.navigation),
            query_params=query, icon=":material/menu_book:",
        )  # fmt: skip


def _on() -> None:
    st.session_state.pop(_NOW, None)
    st.session_state.pop(_ATTEMPT, None)


def _asked(progress: dict[str, Any], name: str) -> Due | None:
    """The question of that name, as it was when it was asked."""
    for lesson in courses():
        for cell in lesson.cells:
            entry = progress.get(review.name_of(lesson, cell))
            if review.name_of(lesson, cell) == name and isinstance(entry, dict):
                return Due(lesson, cell, entry, True)
    return None


def _nothing(waiting: list[Due], progress: dict[str, Any]) -> None:
    """Nothing to ask now: what waits, and when."""
    if not waiting:
        done = sum(name.startswith(review.PREFIX) for name in progress)
        st.markdown(n("review.done", done) if done else t("review.empty"))
    else:
        st.markdown(n("review.waiting", len(waiting)))
        st.markdown("\n".join(f"- {d.cell.body['title']} ({d.lesson.navigation}): {_when(d)}" for d in waiting))
    with st.container(horizontal=True):  # where the other answers are given, after which a question comes back
        for page, icon in (("", ":material/menu_book:"), ("drill", ":material/quiz:")):
            st.page_link(state.page(page), label=t(f"page.{page or 'course'}.title"), icon=icon)


def _when(due: Due) -> str:
    day = datetime.date.fromisoformat(due.entry["day"])
    days = (day + datetime.timedelta(days=review.WAITS_DAYS[due.box]) - today()).days
    return t("review.soon", others=review.OTHERS) if due.box == 0 else n("review.days", max(1, days))
