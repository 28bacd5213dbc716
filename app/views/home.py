"""Home: what this is, where you were, the course as a path, and everything beside it."""

from __future__ import annotations

import streamlit as st

from app import clock, index, live, review, state
from app.index import Lesson
from app.progress import Completion, completion, next_lesson
from app.story import plain
from app.views import progress as progress_page
from app.views import review as review_page
from app.words import n, t

MENUS = ("practice", "find", "plan", "train", "look", "take")


def render() -> None:
    """Draw the page."""
    st.title(t("home.title"), anchor=False)
    st.markdown(t("home.intro"))
    state.device_chip()
    found = index.lessons()
    progress = state.store().progress(state.owner())
    review_page.enter(progress)
    _continue(found, progress)
    _running()
    _again(progress)
    if found:
        st.header(t("home.course"), anchor="course")
        progress_page.draw_path(found, progress)
        going = next_lesson(found, progress)
        _left(found, progress)
        for lesson in found:
            _lesson(lesson, completion(lesson, progress), lesson is going, progress)
    st.header(t("home.beside"), anchor="tools")
    _tools()


def _continue(found: tuple[Lesson, ...], progress: dict[str, object]) -> None:
    """One link to where the learner was."""
    lesson = next_lesson(found, progress)
    if lesson is None:
        if found:
            st.markdown(f":material/task_alt: {t('home.all_done')}")
        return
    done = completion(lesson, progress)
    label = t("home.continue" if done.begun else "home.begin", title=lesson.navigation)
    if st.button(label, key="continue", type="primary", icon=":material/arrow_forward:"):
        # To the first step that is open; a lesson that was not begun opens at its top.
        at = {"at": done.next.id} if done.begun and done.next is not None else None
        st.switch_page(state.page(lesson.url_path), query_params=at)


def _running() -> None:
    """What is on at this moment, with the way to it."""
    on = [run for run in state.store().runs(state.owner(), limit=20) if run.status in live.ACTIVE]
    for run in on[:3]:
        if run.status == "running" and run.steps:
            far = t("home.far", step=run.step, steps=run.steps)
        else:
            far = t(f"runs.status.{run.status}")
        st.page_link(
            state.page("runs"),
            label=t("home.now", title=plain(run.title or t("home.a_run")), far=far),
            icon=":material/play_circle:",
            query_params={"run": run.id},
        )


def _again(progress: dict[str, object]) -> None:
    """Questions that are due in the redo queue."""
    due = sum(d.ready for d in review.queue(progress, review_page.courses(), review_page.today()))
    if due:
        st.page_link(state.page("review"), label=n("home.due", due), icon=":material/replay:")


def minutes_left(lesson: Lesson, done: Completion) -> int:
    """About how long the rest of a lesson takes: its minutes by the share of steps that are open."""
    return round(lesson.minutes * (1 - done.done / done.total)) if done.total else lesson.minutes


def _left(found: tuple[Lesson, ...], progress: dict[str, object]) -> None:
    """How much is done, what it took, and about what is left."""
    states = [(lesson, completion(lesson, progress)) for lesson in found]
    left = sum(minutes_left(lesson, done) for lesson, done in states)
    finished = sum(done.status == "done" for _, done in states)
    told = [n("home.lessons_done", len(found), done=finished)]
    spent = clock.seconds(progress)
    if spent:
        told.append(t("home.spent", time=progress_page.time_text(spent)))
    if left:
        told.append(t("home.left", time=progress_page.time_text(60 * left)))
    st.caption(" · ".join(told))


def _lesson(lesson: Lesson, done: Completion, here: bool, progress: dict[str, object]) -> None:
    """One row of the course."""
    with st.container(key=f"lesson-{lesson.url_path}", gap="xsmall"):
        st.page_link(state.page(lesson.url_path), label=f"**{lesson.order}. {lesson.title}**")
        st.markdown(index.filled(lesson.summary, lesson.folder))
        left = minutes_left(lesson, done)
        if done.status == "done":
            words = f":material/task_alt: {t('home.state.done')}"
        elif done.status == "in progress":
            steps = n("home.steps_done", done.total, done=done.done)
            words = f":material/timelapse: {steps} · {n('home.minutes_left', left)}"
        else:
            words = f"{n('home.minutes', lesson.minutes)} · {n('home.steps', done.total)}"
        if here:
            words = f":material/arrow_forward: {t('home.next')} · {words}"
        st.caption(words)


def _tools() -> None:
    """Every other page, menu by menu."""
    from app.views import VIEWS  # which this page is one of

    for menu in MENUS:
        st.subheader(t(f"menu.{menu}"), anchor=f"menu-{menu}")
        for view in VIEWS:
            if view.section == menu:
                with st.container(key=f"tool-{view.url_path}", gap="xsmall"):
                    st.page_link(state.page(view.url_path), label=f"**{view.title}**", icon=view.icon)
                    st.markdown(view.summary)
