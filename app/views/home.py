"""Home: what this is, where you were, and the course."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import index, live, state
from app.index import Lesson
from app.progress import Completion, completion, next_lesson
from app.story import plain
from core.errors import DeltalabError

if TYPE_CHECKING:
    from app.views import View


def render() -> None:
    """Draw the page."""
    from app.views import VIEWS  # which this page is one of

    st.title("Learn which delta to train, by training it", anchor=False)
    st.markdown(
        "All fine-tuning learns a small change to a model: ΔW in full, a thin product BA with LoRA, the biases alone "
        "with BitFit. Deltalab is a course in choosing among them, and a laboratory in which every lesson trains a "
        "small language model while you watch, and lets you talk to it before and after. "
        "It runs on this machine, needs no account, and sends nothing anywhere."
    )
    state.device_chip()
    try:
        found = index.lessons()
    except DeltalabError:
        found = ()  # the shell has said why
    progress = state.store().progress(state.owner())
    _continue(found, progress)
    _running()
    if found:
        st.header("The course", anchor="course")
        for lesson in found:
            _lesson(lesson, completion(lesson, progress))
    st.header("Beside the course", anchor="tools")
    for view in VIEWS:
        if view.url_path:
            _tool(view)


def _continue(found: tuple[Lesson, ...], progress: dict[str, object]) -> None:
    """One link to where the learner was."""
    lesson = next_lesson(found, progress)
    if lesson is None:
        if found:
            st.markdown(":material/task_alt: You have done every lesson. The Playground is yours.")
        return
    begun = completion(lesson, progress).begun
    label = f"{'Continue' if begun else 'Begin'}: {lesson.navigation}"
    if st.button(label, key="continue", type="primary", icon=":material/arrow_forward:"):
        st.switch_page(state.page(lesson.url_path))


def _running() -> None:
    """What is on at this moment, with the way to it."""
    on = [run for run in state.store().runs(state.owner(), limit=20) if run.status in live.ACTIVE]
    for run in on[:3]:
        far = f"step {run.step} of {run.steps}" if run.status == "running" and run.steps else run.status
        st.page_link(
            state.page("runs"),
            label=f"Now: {plain(run.title or 'a run')}, {far}",
            icon=":material/play_circle:",
            query_params={"run": run.id},
        )


def _lesson(lesson: Lesson, done: Completion) -> None:
    """One row of the course."""
    with st.container(key=f"lesson-{lesson.url_path}", gap="xsmall"):
        st.page_link(state.page(lesson.url_path), label=f"**{lesson.title}**")
        st.markdown(index.filled(lesson.summary, lesson.folder))
        state_words = {
            "done": ":material/task_alt: done",
            "in progress": f":material/timelapse: {done.done} of {done.total} steps done",
            "not started": f"{done.total} steps",
        }[done.status]
        st.caption(f"about {lesson.minutes} minutes · {state_words}")


def _tool(view: View) -> None:
    with st.container(key=f"tool-{view.url_path}", gap="xsmall"):
        st.page_link(state.page(view.url_path), label=f"**{view.title}**", icon=view.icon)
        st.markdown(view.summary)
