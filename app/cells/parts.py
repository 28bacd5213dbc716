"""A long lesson in parts: what is read first is there at once, the rest comes while it is read.

A page of eight thousand elements takes the browser seconds, during which nobody can press anything. So a lesson of many
cells is drawn up to a heading, and of the parts below only their headings and first words; the browser
(app/components/part) asks for one part after the other, those in sight or linked to first, until all are there. Each is
a fragment: that one comes redraws nothing else. Progress, Run all, search and the notebook are about the lesson, not
about what is drawn of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import streamlit as st

from app import components
from app.cells.context import Context
from app.index import Cell, Lesson
from app.words import t

MOST_CELLS = 8
"""A lesson of at most so many numbered cells is drawn whole, which takes about a second."""
FIRST_CELLS = 2
"""Of a longer one at least so many are there at once."""
LONGEST = 5
"""No part has more: what is drawn in one go keeps the browser from everything else."""
_OPEN = "_parts"
"""In the session: the lesson that is open, and the numbers of its parts that are drawn."""


@dataclass(frozen=True)
class Part:
    """A stretch of a lesson, under a heading unless it is a long one's. lead: the heading and what else is drawn at
    once; later: the rest."""

    lead: tuple[Cell, ...]
    later: tuple[Cell, ...]

    @property
    def ids(self) -> list[str]:
        """The cells that one can link to and that are not drawn at once."""
        return [cell.id for cell in self.later if cell.id]


def split(cells: Sequence[Cell]) -> list[Part]:
    """The parts of a lesson; the first is drawn whole."""
    if sum(cell.number > 0 for cell in cells) <= MOST_CELLS:
        return [Part(tuple(cells), ())]
    groups: list[list[Cell]] = [[]]
    for cell in cells:
        there = sum(one.number > 0 for one in groups[-1])
        begun = len(groups) > 1 or there >= FIRST_CELLS
        heading = cell.kind == "prose" and cell.body["text"].startswith("## ")
        if (begun and heading) or (there == LONGEST and cell.number > 0):
            groups.append([])
        groups[-1].append(cell)
    first, *others = groups
    return [Part(tuple(first), ()), *(_part(cells) for cells in others)]


def _part(cells: Sequence[Cell]) -> Part:
    """A part's prose and pictures up to its first numbered cell, and the rest."""
    at = next((i for i, cell in enumerate(cells) if cell.id), len(cells))
    return Part(tuple(cells[:at]), tuple(cells[at:]))


def render(lesson: Lesson, context: Context, draw: Callable[[Cell], None]) -> None:
    """Draw the lesson's cells.

    Args:
        draw: draws one cell.
    """
    drawn = _drawn(lesson)
    for number, part in enumerate(split(lesson.cells)):
        for cell in part.lead:
            draw(cell)
        if part.later:
            if st.query_params.get("at") in part.ids:
                drawn.add(number)
            _later(number, part, lesson, draw)


def _drawn(lesson: Lesson) -> set[int]:
    """The parts that this visit to the lesson has drawn; none when another page was open meanwhile."""
    kept = st.session_state.get(_OPEN)
    if not isinstance(kept, dict) or kept["lesson"] != lesson.slug:
        kept = st.session_state[_OPEN] = {"lesson": lesson.slug, "drawn": set()}
    found: set[int] = kept["drawn"]
    return found


def left() -> None:
    """Another page is open: the next visit begins anew."""
    st.session_state.pop(_OPEN, None)


@st.fragment
def _later(number: int, part: Part, lesson: Lesson, draw: Callable[[Cell], None]) -> None:
    """The rest of a part, or what stands in its place."""
    drawn = _drawn(lesson)
    key = f"{lesson.url_path}-part-{number}"
    if number in drawn:
        for cell in part.later:
            draw(cell)
        return
    with st.container(key=f"{key}-waiting"):
        st.caption(t("lesson.part_waits"))
        come = partial(drawn.add, number)
        components.component("part")(key=f"{key}-near", data={"ids": part.ids}, on_near_change=come)
