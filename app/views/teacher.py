"""Teacher: how the class stands, and links that set up a lesson. Only for who has the operator's key."""

from __future__ import annotations

import datetime
from typing import Any

import pandas as pd
import streamlit as st

from app import classroom, configured, form, identity, index, keeping, live, localized, state
from app.classroom import Task
from app.index import Lesson
from app.views.progress import time_text
from app.words import n, t
from core.errors import DeltalabError


def render() -> None:
    """Draw the page."""
    st.title(t("teacher.title"), anchor=False)
    owner = state.owner()
    try:
        wanted = classroom.key()
    except DeltalabError as error:
        live.say(error)
        return
    if wanted is None:
        st.markdown(t("teacher.none"))
        st.code("deltalab serve --host 0.0.0.0 --teacher-key-file key.txt", language=None, wrap_lines=True)
        st.markdown(t("teacher.none_more"))
        return
    if not classroom.is_teacher(owner, state.store().progress(owner)):
        _ask()
        return
    st.markdown(t("teacher.intro"))
    _class()
    _links()
    st.button(t("teacher.leave"), key="teacher-leave", on_click=_leave, icon=":material/logout:")


def _ask() -> None:
    st.markdown(t("teacher.ask"))
    with st.form("teacher-form", border=False):
        given = st.text_input(t("teacher.key"), type="password", key="teacher-key", autocomplete="off")
        pressed = st.form_submit_button(t("teacher.enter"), key="teacher-enter")
    if not pressed:
        return
    try:
        right = classroom.matches(given or "")
    except DeltalabError as error:
        live.say(error)
        return
    if not right:
        st.error(t("teacher.wrong"), icon=":material/error:")
        return
    owner = state.owner()
    state.store().set_progress(owner, classroom.SEAL, {"seal": classroom.seal(owner, classroom.key() or "")})
    st.rerun()


def _leave() -> None:
    state.store().set_progress(state.owner(), classroom.SEAL, None)


def _lessons() -> tuple[Lesson, ...]:
    return index.lessons()


def _class() -> None:
    """Who is where, and what surprised them."""
    everybody = state.store().everybody()
    found = classroom.learners(everybody, _lessons(), classroom.teachers(everybody))
    st.header(t("teacher.class"), anchor="class")
    if not found:
        st.markdown(t("teacher.nobody"))
        return
    with st.container(horizontal=True, gap="small"):
        st.button(t("teacher.refresh"), key="teacher-refresh", icon=":material/refresh:")
        table = pd.DataFrame([_row(one) for one in found])
        st.download_button(
            t("teacher.csv"), _file([vars_of(one) for one in found]), "class.csv", "text/csv",
            key="teacher-csv", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    st.caption(n("teacher.count", len(found)))
    localized.grid(table, hide_index=True, width="stretch", alt=t("teacher.table_alt"))
    off = classroom.surprises(everybody, _lessons())
    if off:
        st.subheader(t("teacher.surprises"), anchor="surprises")
        st.markdown(t("teacher.surprises_why"))
        rows = pd.DataFrame(
            [
                {
                    t("teacher.lesson"): s.lesson, t("teacher.prediction"): s.title, t("teacher.guesses"): s.count,
                    t("teacher.factor"): round(s.factor, 2), t("teacher.too_high"): s.high,
                }
                for s in off
            ]
        )  # fmt: skip
        localized.grid(rows, hide_index=True, width="stretch", alt=t("teacher.surprises_alt"))
        st.download_button(
            t("teacher.surprises_csv"), _file([_off(one) for one in off]), "predictions.csv", "text/csv",
            key="teacher-surprises-csv", icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def _row(one: classroom.Learner) -> dict[str, Any]:
    return {
        t("teacher.who"): one.name,
        t("teacher.at"): one.at or t("teacher.all_done"),
        t("teacher.steps"): f"{one.steps[0]} / {one.steps[1]}",
        t("teacher.done"): one.done,
        t("teacher.time"): time_text(one.seconds),
        t("teacher.factor"): "–" if one.factor is None else f"{one.factor:.2f}",
        t("teacher.missed"): one.missed,
        t("teacher.seen"): _when(one.seen),
    }


def _when(seconds: float) -> str:
    """'14:05 on 26 November', by the visitor's clock and in their language."""
    at = state.local_time(seconds)
    return t("live.when", time=f"{at:%H:%M}", day=f"{at:%d}", month=t("runs.months").split()[at.month - 1])


def vars_of(one: classroom.Learner) -> dict[str, Any]:
    """A learner as the columns of a table for machines."""
    seen = datetime.datetime.fromtimestamp(one.seen, datetime.UTC).isoformat(timespec="seconds")
    return {
        "name": one.name, "lessons_done": one.done, "at": one.at, "steps_done": one.steps[0], "steps": one.steps[1],
        "minutes": round(one.seconds / 60, 1), "predictions": one.guesses, "factor_off": one.factor,
        "missed_questions": one.missed, "last_seen": seen,
    }  # fmt: skip


def _off(one: classroom.Surprise) -> dict[str, Any]:
    """A prediction of the class as the columns of a table for machines."""
    return {
        "lesson": one.lesson, "prediction": one.title, "predictions": one.count, "factor_off": one.factor,
        "too_high": one.high,
    }  # fmt: skip


def _file(rows: list[dict[str, Any]]) -> bytes:
    """Rows as CSV, with names for machines at its head."""
    return keeping.for_spreadsheets(keeping.as_csv(rows, rows[0]))


def _links() -> None:
    """Build a link that sets up a lesson."""
    st.header(t("teacher.links"), anchor="links")
    st.markdown(t("teacher.links_why"))
    ready = [lesson for lesson in _lessons() if any(c.kind == "experiment" for c in lesson.cells)]
    if not ready:
        st.markdown(t("teacher.no_lessons"))
        return
    slug = st.selectbox(
        t("teacher.which"), [lesson.slug for lesson in ready], key="teacher-lesson",
        format_func=lambda one: next(lesson.navigation for lesson in ready if lesson.slug == one),
    )  # fmt: skip
    lesson = next(one for one in ready if one.slug == slug)
    knobs = {
        knob.name: knob
        for cell in lesson.cells
        if cell.kind == "experiment"
        for knob in form.knobs(configured.experiment(cell))
        if knob.name in cell.body["knobs"] and knob.kind in (int, float)
    }
    left, right = st.columns(2)
    with left:
        locked = st.multiselect(
            t("teacher.lock"),
            list(knobs),
            format_func=lambda k: knobs[k].label,
            key="teacher-lock",
            placeholder=t("shared.choose"),
        )
    with right:
        hidden = st.multiselect(
            t("teacher.hide"),
            list(knobs),
            format_func=lambda k: knobs[k].label,
            key="teacher-hide",
            placeholder=t("shared.choose"),
        )
    folded = not st.checkbox(t("teacher.no_more", more=t("form.more")), key="teacher-no-more")
    preset: dict[str, Any] = {}
    changed = st.multiselect(
        t("teacher.preset"),
        list(knobs),
        format_func=lambda k: knobs[k].label,
        key="teacher-preset",
        placeholder=t("shared.choose"),
    )
    for name in changed:
        knob = knobs[name]
        low, high = knob.meta.get("low"), knob.meta.get("high")
        preset[name] = st.number_input(
            knob.label, min_value=None if low is None else knob.kind(low),
            max_value=None if high is None else knob.kind(high), value=knob.kind(knob.default),
            step=1 if knob.kind is int else None, format=None if knob.kind is int else "%g",
            key=f"teacher-set-{lesson.slug}-{name}",
        )  # fmt: skip
    note = st.text_input(t("teacher.note"), max_chars=200, key="teacher-note")
    task = Task(lesson.url_path, preset, tuple(locked), tuple(hidden), (note or "").strip(), folded)
    token = classroom.link(task, identity.secret(state.home()))
    st.markdown(t("teacher.your_link"))
    st.code(f"{_origin()}/{lesson.url_path}?{classroom.PARAMETER}={token}", language=None, wrap_lines=True)
    st.page_link(
        state.page(lesson.url_path), label=t("teacher.try"), query_params={classroom.PARAMETER: token},
        icon=":material/open_in_new:",
    )  # fmt: skip


def _origin() -> str:
    """This server's address as the visitor's browser calls it."""
    from urllib.parse import urlsplit

    parts = urlsplit(st.context.url or "")
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""
