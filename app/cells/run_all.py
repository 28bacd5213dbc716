"""Run all: a lesson's experiments, comparisons, measurements and code from top to bottom, one after the other.

What is there already, made with the settings that the page shows now, is not made again: the same settings and seed
give the same result. A run that was begun goes on when the page is left; what would come after it waits until the page
is open again and Run all is pressed.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import streamlit as st

from app import live
from app.cells import code, compare, experiment, probe
from app.cells.context import Context
from app.index import Cell, Lesson
from app.story import plain
from app.words import n, t
from core.errors import DeltalabError

LOOK_SECONDS = 1.5
OPEN, ON, DONE, FAILED = "open", "on", "done", "failed"


class Runs(Protocol):
    """What a kind of cell that can be run offers."""

    def begin(self, cell: Cell, context: Context) -> bool:
        """Start it with the settings that the page shows; False when it says itself why not.

        Raises:
            DeltalabError: it cannot be started.
        """

    def standing(self, cell: Cell, context: Context) -> str:
        """OPEN (nothing is there, or of other settings), ON, DONE, or FAILED."""

    def halt(self, cell: Cell, context: Context) -> None:
        """Stop what is on."""


RUNNERS: dict[str, Runs] = {
    "experiment": cast(Runs, experiment),
    "compare": cast(Runs, compare),
    "probe": cast(Runs, probe),
    "code": cast(Runs, code),
}
"""The kinds that run, and their modules."""


def runnable(lesson: Lesson) -> list[Cell]:
    """The cells that Run all takes, in order."""
    return [cell for cell in lesson.cells if cell.kind in RUNNERS]


def _key(lesson: Lesson) -> str:
    return f"{lesson.url_path}-all"


def bar(lesson: Lesson, context: Context) -> None:
    """The button, or how far it is."""
    cells = runnable(lesson)
    if not cells:
        return
    now = st.session_state.get(_key(lesson))
    if now is None:
        _offer(lesson, context, cells)
        return
    st.fragment(_going, run_every=LOOK_SECONDS)(lesson, context)


def _offer(lesson: Lesson, context: Context, cells: list[Cell]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key=f"{_key(lesson)}-bar"):
        if st.button(t("run_all.start"), key=_key(lesson) + "-start", icon=":material/fast_forward:"):
            st.session_state[_key(lesson)] = {"at": None, "done": 0}
            st.session_state.pop(_key(lesson) + "-said", None)
            st.rerun()
        guesses = [c for c in lesson.cells if c.kind == "predict" and context.kept(c).get("value") is None]
        hint = f" {n('run_all.guesses', len(guesses))}" if guesses else ""
        st.caption(t("run_all.what", parts=_counted(cells)) + hint)
    said = st.session_state.get(_key(lesson) + "-said")
    if said:
        st.caption(f":material/info: {said}")


def _counted(cells: list[Cell]) -> str:
    """'2 experiments, 1 comparison and 3 measurements'."""
    parts = []
    for kind in dict.fromkeys(cell.kind for cell in cells):
        count = sum(cell.kind == kind for cell in cells)
        parts.append(n(f"run_all.count.{kind}", count))
    return parts[0] if len(parts) == 1 else t("run_all.and", first=", ".join(parts[:-1]), last=parts[-1])


def _going(lesson: Lesson, context: Context) -> None:
    """One look: begin what is next, or wait for what is on."""
    cells, key = runnable(lesson), _key(lesson)
    state = st.session_state.get(key)
    if state is None:
        st.rerun(scope="app")
        return
    done = [cell for cell in cells if RUNNERS[cell.kind].standing(cell, context) == DONE]
    current = next((cell for cell in cells if cell not in done), None)
    if current is None:
        _end(key, t("run_all.all_there"))
        return
    name = f"{current.number} · {plain(current.body['title'])}"
    st.progress(
        len(done) / len(cells),
        text=t("run_all.now", done=len(done), total=len(cells), name=f"[{name}](#{current.id})"),
    )  # fmt: skip
    if st.button(t("run_all.stop"), key=f"{key}-stop", icon=":material/stop_circle:"):
        RUNNERS[current.kind].halt(current, context)
        _end(key, t("run_all.stopped", name=name))
        return
    _advance(current, context, state, key)
    if len(done) != state["done"]:
        state["done"] = len(done)
        st.rerun(scope="app")  # one more is in: the page shows it, and what depends on it


def _advance(cell: Cell, context: Context, state: dict[str, Any], key: str) -> None:
    """Begin the cell when it is its turn; give up when it has failed, or was stopped on the page."""
    runner = RUNNERS[cell.kind]
    standing = runner.standing(cell, context)
    if standing == ON:
        return
    name = f"{cell.number} · {plain(cell.body['title'])}"
    if state["at"] == cell.id:
        _end(key, t("run_all.no_result", name=name))
        return
    try:
        begun = runner.begin(cell, context)
    except DeltalabError as error:
        _end(key, f"{t('run_all.not_started', name=name)} {live.spoken(error.sentence, error.advice)}")
        return
    if not begun:
        _end(key, t("run_all.not_started", name=name))
        return
    state["at"] = cell.id
    st.rerun(scope="app")  # the cell shows that it is on


def _end(key: str, said: str) -> None:
    st.session_state.pop(key, None)
    st.session_state[f"{key}-said"] = said
    st.rerun(scope="app")
