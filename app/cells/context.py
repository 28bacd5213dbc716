"""What every cell is given: the lesson, the learner, and the learner's state; and the frame that cells stand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import calc, state, terms
from app.index import Cell, Lesson, filled
from app.words import t

if TYPE_CHECKING:
    from core.runs.store import Run

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


@contextmanager
def frame(cell: Cell, context: Context, title: str) -> Iterator[None]:
    """The calm box of an interactive cell: its number, what it is, its title with a link to it; and a way to fold it.

    What is folded is drawn all the same and hidden by a style: nothing that was typed or run in it is lost.
    """
    key = context.key(cell, "folded")
    with st.container(border=True, key=context.key(cell, "cell")):
        with st.container(horizontal=True, vertical_alignment="center", key=context.key(cell, "cellhead")):
            st.caption(f"{cell.number} · {name_of(cell.kind)}")
            folded = bool(st.session_state.get(key))
            label = t("cell.unfold" if folded else "cell.fold", number=cell.number)
            st.button(
                label, key=context.key(cell, "fold"), type="tertiary", on_click=_fold, args=(key,),
                icon=":material/unfold_more:" if folded else ":material/unfold_less:",
            )  # fmt: skip
        st.subheader(title, anchor=cell.id)
        body = context.key(cell, "body")
        # Not by another key of the container: then what stands in it would be made anew, and lose what was typed. And
        # only for what is folded: every style that comes in makes the browser work out those of the whole page again.
        if folded:
            st.html(f"<style>.st-key-{body} {{ display: none; }}</style>")
        with st.container(key=body):
            yield


def _fold(key: str) -> None:
    st.session_state[key] = not st.session_state.get(key)
