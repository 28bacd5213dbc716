"""What every cell is given: the lesson, the learner, and the learner's state; and the frame that cells stand in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import streamlit as st

from app import calc, state, terms
from app.index import Cell, Lesson, filled
from app.words import t

if TYPE_CHECKING:
    from core.runs.store import Run

SENT_SECONDS = 0.05
"""More than a thread needs to send what it was given."""

Compute = Callable[[calc.Call, Path], str]
"""A calc as it is told: its number with its unit."""


def name_of(kind: str) -> str:
    """What a kind of cell is called: 'Prediction', 'Experiment' …"""
    return t(f"cell.kind.{kind}")


def unbroken(text: str) -> str:
    """`text` with every number on one line with its percent sign."""
    return text.replace(" %", "\u00a0%")


@dataclass
class Context:
    """One visit of one learner to one lesson.

    progress: what the store keeps of the learner, read once per page run and changed through `save`.
    """

    lesson: Lesson
    owner: str
    progress: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, lesson: Lesson) -> Context:
        """The context of the current visitor."""
        owner = state.owner()
        return cls(lesson, owner, state.store().progress(owner))

    def kept(self, cell: Cell) -> dict[str, Any]:
        """The learner's state of a cell; empty when there is none."""
        found = self.progress.get(self.lesson.state_name(cell.id))
        return dict(found) if isinstance(found, dict) else {}

    def save(self, cell: Cell, value: dict[str, Any]) -> None:
        """Keep the learner's state of a cell; it survives reload, tab and server."""
        name = self.lesson.state_name(cell.id)
        state.store().set_progress(self.owner, name, value)
        self.progress[name] = value

    def text(self, source: str) -> str:
        """`source` with its calcs filled in."""
        return unbroken(filled(source, self.lesson.folder))

    def say(self, source: str, where: str, compute: Compute = calc.text) -> None:
        """Draw a text of the lesson with its terms explained. where: its place in the lesson, such as `cell:text`."""
        terms.say(source, self.lesson.folder, f"{self.lesson.slug}:{where}", compute)

    def key(self, cell: Cell, part: str = "") -> str:
        """A widget key that no other cell of any lesson has."""
        return "-".join(p for p in (self.lesson.url_path, cell.id, part) if p)

    def run_name(self, cell: Cell) -> str:
        """The name under which the store files the runs of an experiment."""
        return self.lesson.state_name(cell.id)

    def finished_run(self, cell: Cell) -> Run | None:
        """The learner's newest finished run of an experiment, or None."""
        return self.newest_finished(self.run_name(cell))

    def newest_finished(self, stored: str) -> Run | None:
        """The learner's newest finished run under that name in the store, or None."""
        for run in state.store().runs(self.owner, limit=20, cell=stored):
            if run.status == "finished":
                return run
        return None


def redraw() -> NoReturn:
    """Draw the whole page anew, from within a fragment; what that has drawn is in sight before.

    Streamlit sends what is drawn from another thread, and throws away what has not been sent when a page begins anew.
    A page takes the browser about a second, and nobody should wait so long for the verdict on an answer.
    """
    time.sleep(SENT_SECONDS)
    st.rerun()


@contextmanager
def frame(cell: Cell, context: Context, title: str) -> Iterator[None]:
    """The calm box of an interactive cell: its number, what it is, its title with a link to it; and a way to fold it.

    What is folded is drawn all the same and hidden by a style: nothing that was typed or run in it is lost.
    """
    key = context.key(cell, "folded")
    with st.container(border=True, key=context.key(cell, "cell")):
        with st.container(horizontal=True, vertical_alignment="center", key=context.key(cell, "cellhead")):
            folded, body = bool(st.session_state.get(key)), context.key(cell, "body")
            # By a style, not by another key of the body: that would make anew what stands in it, and lose what was
            # typed. In the caption, not by st.html: Streamlit gathers pure styles outside of the cells, where those of
            # several fragments take each other's place.
            style = f"<style>@media screen {{ .st-key-{body} {{ display: none; }} }}</style>" if folded else ""
            st.caption(f"{cell.number} · {name_of(cell.kind)}{style}", unsafe_allow_html=folded)
            label = t("cell.unfold" if folded else "cell.fold", number=cell.number)
            st.button(
                label, key=context.key(cell, "fold"), type="tertiary", on_click=_fold, args=(key,),
                icon=":material/unfold_more:" if folded else ":material/unfold_less:",
            )  # fmt: skip
        st.subheader(title, anchor=cell.id)
        with st.container(key=body):
            yield


def _fold(key: str) -> None:
    st.session_state[key] = not st.session_state.get(key)
