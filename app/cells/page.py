"""A lesson as a page: its head, its cells in order, what is done and what is open, and its references."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from app import index, notebook, state, summary
from app.cells import (
    code,
    compare,
    exercise,
    experiment,
    parts,
    predict,
    probe,
    prose,
    quiz,
    reveal,
    run_all,
    source,
    widget,
)
from app.cells.context import Context, name_of
from app.index import Cell, Lesson
from app.progress import calibration, completion
from app.words import n, t

RENDER: dict[str, Callable[[Cell, Context], None]] = {
    "prose": prose.render,
    "image": prose.render_image,
    "experiment": experiment.render,
    "predict": predict.render,
    "reveal": reveal.render,
    "quiz": quiz.render,
    "widget": widget.render,
    "compare": compare.render,
    "probe": probe.render,
    "source": source.render,
    "code": code.render,
    "exercise": exercise.render,
}


def render(lesson: Lesson) -> None:
    """Draw a whole lesson for the current visitor."""
    context = Context.of(lesson)
    if summary.asked():
        summary.render(lesson, context)
        return
    for cell in lesson.cells:
        if cell.kind == "experiment":
            experiment.settle(cell, context)
        elif cell.kind == "compare":
            compare.settle(cell, context)
    _head(lesson, context)
    run_all.bar(lesson, context)
    parts.render(lesson, context, lambda cell: RENDER[cell.kind](cell, context))
    st.divider()
    _foot(lesson, context)
    _on_paper(lesson, context)


def _on_paper(lesson: Lesson, context: Context) -> None:
    """What is covered on the screen stands at the end of the printed lesson (app/theme shows it in print only)."""
    covered = [cell for cell in lesson.cells if cell.kind == "reveal" and reveal.hidden(cell, context)]
    if not covered:
        return
    with st.container(key="paper-only"):
        st.subheader(t("reveal.on_paper"), anchor=False)
        for cell in covered:
            context.say(cell.body["text"], f"{cell.id}:paper")


def _head(lesson: Lesson, context: Context) -> None:
    st.title(context.text(lesson.title), anchor=False)
    done = completion(lesson, context.progress)
    head = {"number": lesson.order, "minutes": lesson.minutes, "done": done.done, "total": done.total}
    st.caption(t("lesson.head", **head))
    st.markdown(context.text(lesson.summary))
    with st.expander(t("lesson.goals"), icon=":material/flag:"):
        st.markdown("\n".join(f"- {context.text(line)}" for line in lesson.objectives))
        st.markdown(t("lesson.needs", needs="; ".join(context.text(line) for line in lesson.prerequisites)))


def _foot(lesson: Lesson, context: Context) -> None:
    """What is done and what is open; the next lesson, which waits for nobody to finish this one; the references."""
    done = completion(lesson, context.progress)
    if done.next is None:
        st.markdown(f":material/task_alt: {t('lesson.complete', total=done.total)}")
    else:
        title = done.next.body.get("title") or t("lesson.question", number=done.next.number)
        st.markdown(
            f":material/radio_button_unchecked: {t('lesson.open', done=done.done, total=done.total)} "
            f"[{done.next.number} · {name_of(done.next.kind)}: {title}](#{done.next.id})"
        )
    after = _after(lesson)
    if after is not None:
        st.page_link(
            state.page(after.url_path), label=t("lesson.next", title=after.title), icon=":material/arrow_forward:"
        )
    found = calibration(context.progress)
    if found is not None:
        st.caption(n("lesson.calibration", found.count, factor=f"{found.factor:.1f}"))
    _take_along(lesson)
    st.markdown(f"##### {t('lesson.references')}")
    st.markdown(
        "\n".join(
            f"- {r['authors']} ({r['year']}). [{r['title']}]({r['url']})." + (f" {r['note']}" if r.get("note") else "")
            for r in lesson.references
        )
    )


def _take_along(lesson: Lesson) -> None:
    """The lesson as a notebook, and on one page."""
    with st.container(key="take-along", horizontal=True, vertical_alignment="center"):
        st.download_button(
            t("summary.notebook"),
            data=partial(notebook.notebook, lesson),
            file_name=notebook.file_name(lesson),
            mime="application/x-ipynb+json",
            icon=":material/download:",
            on_click="ignore",
            key=f"{lesson.url_path}-notebook",
        )
        st.page_link(
            state.page(lesson.url_path),
            label=t("summary.print"),
            icon=":material/print:",
            query_params={"view": summary.VIEW},
        )


def _after(lesson: Lesson) -> Lesson | None:
    """The next lesson of the course."""
    return next((other for other in index.lessons() if other.order > lesson.order), None)
