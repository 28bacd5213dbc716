"""My progress: the path, the time, the predictions; take it along, bring it back, begin again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import charts, charts_progress, classroom, clock, compare, index, keeping, live, localized, state
from app.charts_progress import Stop
from app.index import Lesson
from app.progress import completion, guesses, next_lesson
from app.story import plain
from app.views import review as review_page
from app.words import n, t
from core.errors import BadInput, DeltalabError

UNDO = "_progress-undo"  # session_state: what was reset last, as long as the tab is open
TOLD = "_progress-told"  # and what the last press did, in a sentence


def lessons() -> tuple[Lesson, ...]:
    """The lessons, or none where they cannot be read."""
    return index.lessons()


def stops(found: Sequence[Lesson], progress: dict[str, Any]) -> list[Stop]:
    """The lessons as stops of the path."""
    here = next_lesson(found, progress)
    out = []
    for lesson in found:
        done = completion(lesson, progress)
        share = done.done / done.total if done.total else 0.0
        out.append(Stop(lesson.order, lesson.navigation, done.status, share, lesson is here))
    return out


def draw_path(found: Sequence[Lesson], progress: dict[str, Any]) -> None:
    """The picture of the course with what is done of it."""
    from app.cells.svg import coloured, text_colour

    if not found:
        return
    dark = st.context.theme.type == "dark"
    page = charts.DARK_BACKGROUND if dark else charts.LIGHT_BACKGROUND
    # How wide the visitor's screen is only the browser knows: the style sheet shows one of the two.
    for name, form in (("path-wide", charts_progress.WIDE), ("path-narrow", charts_progress.NARROW)):
        svg, alt, width = charts_progress.path(stops(found, progress), form)
        with st.container(key=name, horizontal_alignment="center"):
            st.image(coloured(svg.replace("PAGE", page), text_colour()), alt=alt, width=width)


def render() -> None:
    """Draw the page."""
    st.title(t("progress.title"), anchor=False)
    owner = state.owner()
    progress, times = state.store().progress(owner), state.store().progress_times(owner)
    review_page.enter(progress)
    found = lessons()
    told = st.session_state.pop(TOLD, None)
    if told:
        st.success(told, icon=":material/check:")
    if UNDO in st.session_state:
        st.button(t("progress.undo"), key="progress-undo", icon=":material/undo:", on_click=_undo)
    draw_path(found, progress)
    _lessons(found, progress)
    _calibration(found, progress, times)
    _take(progress, times)
    _name(progress)
    _reset(found, progress)


def _lessons(found: Sequence[Lesson], progress: dict[str, Any]) -> None:
    """A row for each lesson, as a table that can be read out."""
    import pandas as pd

    spent = clock.seconds(progress)
    st.markdown(t("progress.time", time=time_text(spent)) if spent else t("progress.no_time"))
    rows = []
    for lesson in found:
        done = completion(lesson, progress)
        rows.append(
            {
                t("progress.lesson"): lesson.navigation,
                t("progress.state"): t(f"home.state.{done.status.replace(' ', '_')}"),
                t("progress.steps"): f"{done.done} / {done.total}",
                t("progress.spent"): time_text(clock.seconds(progress, lesson.url_path)),
            }
        )
    if rows:
        table = pd.DataFrame(rows)
        localized.grid(table, hide_index=True, width="stretch", height="content", alt=t("progress.table_alt"))


def time_text(seconds: float) -> str:
    """Time worked, for a person: '–', '12 min', '1 h 05 min'."""
    whole = clock.minutes(seconds)
    if not whole:
        return "–"
    return f"{whole} min" if whole < 60 else f"{whole // 60} h {whole % 60:02d} min"


def _calibration(found: Sequence[Lesson], progress: dict[str, Any], times: dict[str, float]) -> None:
    st.header(t("calibration.head"), anchor="calibration")
    made = guesses(progress, times)
    if not made:
        st.markdown(t("calibration.none"))
        return
    titles = {
        lesson.state_name(c.id): str(c.body.get("title", c.id)) for lesson in found for c in lesson.cells if c.id
    }  # fmt: skip
    compare.draw(charts_progress.calibration(made, [titles.get(g.name, g.name) for g in made]), "calibration")


def _take(progress: dict[str, Any], times: dict[str, float]) -> None:
    """Out and in."""
    st.header(t("progress.take"), anchor="take")
    st.markdown(t("progress.take_why"))
    courses = review_page.courses()
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            t("progress.save"), keeping.as_json(progress, courses), "deltalab-progress.json", "application/json",
            key="progress-json", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        st.download_button(
            t("progress.csv"), keeping.for_spreadsheets(keeping.as_csv(keeping.rows(courses, progress, times))),
            "deltalab-progress.csv", "text/csv", key="progress-csv", icon=":material/table:", on_click="ignore",
        )  # fmt: skip
    given = st.file_uploader(t("progress.bring"), type=["json"], key="progress-file", max_upload_size=5)
    if given is None:
        return
    try:
        brought = keeping.read(given.getvalue().decode("utf-8"), courses)
    except UnicodeDecodeError:
        st.error(t("progress.no_text"), icon=":material/error:")
        return
    except BadInput as error:
        live.say(error)
        return
    changes = keeping.merged(progress, brought.progress, courses)
    if brought.unknown:
        st.caption(n("progress.unknown", brought.unknown))
    if not changes:
        st.markdown(t("progress.nothing_new"))
        return
    st.markdown(n("progress.would_bring", len(changes)))
    st.button(t("progress.do_bring"), key="progress-bring", type="primary", on_click=_bring, args=(changes,))


def _bring(changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        state.store().set_progress(state.owner(), name, value)
    st.session_state[TOLD] = n("progress.brought", len(changes))


def _name(progress: dict[str, Any]) -> None:
    """The name that the teacher sees; only where there is a teacher."""
    try:
        if classroom.key() is None:
            return
    except DeltalabError:
        return
    st.header(t("progress.name"), anchor="name")
    kept = progress.get(classroom.NAME)
    before = kept.get("name", "") if isinstance(kept, dict) else ""
    st.markdown(t("progress.name_why", shown=plain(classroom.shown_name(state.owner(), progress))))
    st.text_input(
        t("progress.name_field"), value=before, max_chars=classroom.LONGEST_NAME, key="progress-name",
        on_change=_rename, autocomplete="nickname",
    )  # fmt: skip


def _rename() -> None:
    name = " ".join(str(st.session_state.get("progress-name", "")).split())[: classroom.LONGEST_NAME]
    state.store().set_progress(state.owner(), classroom.NAME, {"name": name} if name else None)


def _reset(found: Sequence[Lesson], progress: dict[str, Any]) -> None:
    """One lesson or everything, in two steps, and with a way back while the tab is open."""
    with st.expander(t("progress.reset"), icon=":material/restart_alt:", key="progress-reset"):
        st.markdown(t("progress.reset_why"))
        begun = [lesson for lesson in found if keeping.of_lesson(lesson, progress)]
        choices = ["", *(lesson.slug for lesson in begun), "*"]
        called = {"": t("progress.reset_choose"), "*": t("progress.reset_all")}
        called |= {lesson.slug: lesson.navigation for lesson in begun}
        which = st.selectbox(
            t("progress.reset_what"), choices, format_func=lambda slug: called[slug], key="progress-which"
        )
        sure = st.checkbox(t("progress.reset_sure"), key="progress-sure", disabled=not which)
        st.button(
            t("progress.reset_do"), key="progress-do", on_click=_forget, args=(which,), disabled=not (which and sure),
            icon=":material/delete:",
        )  # fmt: skip


def _forget(which: str) -> None:
    """Forget, and remember it for this tab."""
    owner, store = state.owner(), state.store()
    progress = store.progress(owner)
    if which == "*":
        # Settings are no progress: the language stays, and so does a teacher.
        names = [name for name in progress if not name.startswith("settings/")]
        gone = {name: progress[name] for name in names}
        store.forget(owner, names)
    else:
        lesson = next(one for one in lessons() if one.slug == which)
        names = keeping.of_lesson(lesson, progress)
        gone = {name: progress[name] for name in names}
        store.forget(owner, names)
        rest = keeping.without_time(progress.get(clock.KEPT), lesson)
        if rest is not None:
            gone[clock.KEPT] = progress[clock.KEPT]
            store.set_progress(owner, clock.KEPT, rest)
    st.session_state[UNDO] = gone
    st.session_state[TOLD] = n("progress.forgotten", len(gone))
    st.session_state["progress-sure"] = False
    st.session_state["progress-which"] = ""


def _undo() -> None:
    gone = st.session_state.pop(UNDO, {})
    for name, value in gone.items():
        state.store().set_progress(state.owner(), name, value)
    st.session_state[TOLD] = n("progress.back", len(gone))
