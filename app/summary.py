"""A lesson on one page, to be printed: what to take away, its formulas, and what the engine has measured.

Shown at the lesson's address with `?view=summary`. Every figure is computed or read from a recorded run, as in the
lesson itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import streamlit as st

from app import calc, charts, live, localized, state
from app.index import Cell, Lesson, recorded_path
from app.words import t
from core.errors import DeltalabError

if TYPE_CHECKING:
    import pandas as pd

    from app.cells.context import Context

VIEW = "summary"
FORMULAS = 6
RUNS = 8
FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
COLUMNS = {
    "trainable": "trained", "exact_match_before": "before", "exact_match_after": "after", "skills_after": "skills",
    "seconds": "time", "adapter_bytes": "file",
}  # fmt: skip
"""What stands in the table of runs: a figure of `calc.quantities` -> the key of its heading."""


def asked() -> bool:
    """Whether the visitor wants the summary instead of the lesson."""
    return st.query_params.get("view") == VIEW


def formulas(lesson: Lesson) -> list[str]:
    """The lesson's displayed equations, each once, in order."""
    found: dict[str, None] = {}
    for cell in lesson.cells:
        if cell.kind in ("prose", "reveal") and not cell.body.get("code"):
            found |= dict.fromkeys(" ".join(m.split()) for m in FORMULA.findall(cell.body["text"]))
        elif cell.kind == "source" and cell.body.get("equation"):
            found[" ".join(cell.body["equation"].split())] = None
    return list(found)[:FORMULAS]


def runs(lesson: Lesson) -> Iterator[tuple[str, str]]:
    """(label, name) of the lesson's recorded runs, as many as fit on the page."""
    left = RUNS
    for cell in lesson.cells:
        for label, name in _runs_of(cell):
            if left and recorded_path(lesson.folder, name).is_file():
                left -= 1
                yield label, name


def _runs_of(cell: Cell) -> list[tuple[str, str]]:
    if cell.kind == "experiment":
        return [(cell.body["title"], cell.id)]
    if cell.kind == "compare":
        return [(run["label"], f"{cell.id}/{run['name']}") for run in cell.body["runs"]]
    return []


def table(lesson: Lesson, context: Context) -> pd.DataFrame:
    """One row for each recorded run; a column that no run has is left out."""
    import pandas as pd

    rows = {}
    for label, name in runs(lesson):
        found = calc.quantities(calc.recorded_events(recorded_path(lesson.folder, name)))
        rows[context.text(label)] = {
            t(f"summary.{heading}"): calc.quantity_text(what, found[what]) if what in found else "–"
            for what, heading in COLUMNS.items()
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.loc[:, [c for c in frame.columns if (frame[c] != "–").any()]]


def render(lesson: Lesson, context: Context) -> None:
    """Draw the page."""
    with st.container(key="summary-bar", horizontal=True, vertical_alignment="center"):
        st.page_link(state.page(lesson.url_path), label=t("summary.back"), icon=":material/arrow_back:")
        st.caption(t("summary.how"))
    with st.container(key="summary-sheet"):  # app/theme makes it fit on one page in print
        _sheet(lesson, context)


def _sheet(lesson: Lesson, context: Context) -> None:
    """What is printed."""
    st.title(context.text(lesson.title), anchor=False)
    st.caption(t("summary.which", number=lesson.order))
    st.markdown(context.text(lesson.summary))
    st.markdown("\n".join(f"- {context.text(point)}" for point in lesson.summary_points or lesson.objectives))
    with st.container(key="summary-formulas"):
        for formula in formulas(lesson):
            st.latex(formula)
    _measured(lesson, context)
    names = "; ".join(f"{r['authors']} ({r['year']}), *{r['title']}*" for r in lesson.references)
    st.caption(t("summary.sources", names=names))


def _measured(lesson: Lesson, context: Context) -> None:
    """The recorded runs: their loss curves over each other, their figures, and where they were made."""
    found = list(runs(lesson))
    if not found:
        return
    stories, where = [], ""
    for label, name in found:
        try:
            run = live.recorded(recorded_path(lesson.folder, name))
        except DeltalabError:
            continue
        stories.append((context.text(label), live.story_of(run)))
        where = where or run.label
    if stories:
        chart = charts.losses(stories)
        chart.figure.update_layout(height=260 + 20 * len(stories))
        localized.figure(chart.figure, key=f"{lesson.url_path}-summary", alt=chart.alt)
    localized.table(table(lesson, context))
    st.caption(t("summary.recorded", where=where))
