"""An exercise: what is to be written, a place to write it, a check that teaches, hints, and the solution after a try.

Kept, beside what app/cells/coding.py keeps: "right" once the check has accepted an answer (or, where code cannot run,
once the solution was read), "tries" that were not the stub, "first_right", "hints" shown, "solution" shown.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from app.cells import coding
from app.cells.context import Context, frame, redraw
from app.index import Cell
from app.progress import cell_done
from app.words import t
from core import syntax
from core.notebook.kernel import Execution


def task(cell: Cell, context: Context) -> coding.Task:
    """What the editor of an exercise is for."""
    stub = cell.body["stub"].rstrip()
    check = cell.body.get("check", cell.id.replace("-", "_"))
    return coding.Task(
        stub,
        float(cell.body.get("seconds", coding.SECONDS)),
        check=(str((context.lesson.folder / "checks.py").resolve()), check),
        before=lambda kept, code: tried(kept, code, stub),
        after=judged,
    )


def same(one: str, other: str) -> bool:
    """Whether two pieces of code say the same, whatever their spaces and comments."""
    try:
        return ast.dump(syntax.tree(one)) == ast.dump(syntax.tree(other))
    except (SyntaxError, ValueError):
        return coding.digest(one) == coding.digest(other)


def tried(kept: dict[str, Any], code: str, stub: str) -> dict[str, Any]:
    """Count a try; to check the stub as it came is none."""
    return kept if same(code, stub) else {**kept, "tries": kept.get("tries", 0) + 1}


def judged(kept: dict[str, Any], execution: Execution) -> dict[str, Any]:
    """Keep what the check has said; once right stays right."""
    right = any(o["kind"] == "verdict" and o["right"] for o in execution.outputs.snapshot())
    first = {"first_right": right and kept.get("tries", 0) == 1} if "first_right" not in kept else {}
    return {**kept, "right": right or bool(kept.get("right")), **(first if kept.get("tries") else {})}


def render(cell: Cell, context: Context) -> None:
    """Draw the exercise in a fragment of its own."""
    _exercise(cell, context)


@st.fragment
def _exercise(cell: Cell, context: Context) -> None:
    body = cell.body
    done_before = cell_done(cell, context.kept(cell))
    with frame(cell, context, body["title"]):
        context.say(body["text"], f"{cell.id}:text")
        if not coding.allowed():
            _read(cell, context)
            return
        kept = coding.editor(cell, context, task(cell, context))
        _verdict(cell, context, kept)
        _help(cell, context, kept)
    if cell_done(cell, kept) != done_before:
        redraw()  # what is done is counted at both ends of the page


def _verdict(cell: Cell, context: Context, kept: Mapping[str, Any]) -> None:
    """What the check has said of the code that was run last."""
    verdict = next((o for o in kept.get("outputs") or () if o["kind"] == "verdict"), None)
    if verdict is None:
        if kept.get("right"):
            st.caption(f":material/task_alt: {t('exercise.solved')}")
        return
    right = verdict["right"]
    icon, word = (":material/check_circle:", "right") if right else (":material/cancel:", "not_yet")
    st.markdown(f"{icon} **{t(f'exercise.{word}')}** {verdict['text']}")
    if verdict["right"] and cell.body.get("cost"):
        st.caption(context.text(cell.body["cost"]))
    elif not verdict["right"] and kept.get("right"):
        st.caption(f":material/task_alt: {t('exercise.solved_before')}")


def _help(cell: Cell, context: Context, kept: dict[str, Any]) -> None:
    """Hints one at a time; the solution after a try, or once it is solved."""
    hints = cell.body["hints"]
    shown = min(int(kept.get("hints", 0)), len(hints))
    for number, hint in enumerate(hints[:shown], 1):
        which = t("exercise.hint", number=number, count=len(hints))
        st.markdown(f":material/lightbulb: **{which}.** {context.text(hint)}")
    open_solution = bool(kept.get("solution"))
    with st.container(horizontal=True):
        if shown < len(hints):
            st.button(
                t("exercise.hint", number=shown + 1, count=len(hints)), key=context.key(cell, "hint"),
                icon=":material/lightbulb:", on_click=partial(_save, cell, context, hints=shown + 1),
            )  # fmt: skip
        if kept.get("tries") or kept.get("right"):
            label = t("exercise.hide" if open_solution else "exercise.show")
            st.button(
                label, key=context.key(cell, "solution"), icon=":material/key:",
                on_click=partial(_save, cell, context, solution=not open_solution),
            )  # fmt: skip
        else:
            st.caption(t("exercise.first_try"))
    if open_solution:
        _solution(cell)


def _solution(cell: Cell) -> None:
    st.caption(t("exercise.solution"))
    coding.read_only(cell.body["solution"])


def _save(cell: Cell, context: Context, **more: Any) -> None:
    context.save(cell, {**context.kept(cell), **more})


def _read(cell: Cell, context: Context) -> None:
    """Where code cannot run: the stub, the hints, and the solution to be compared with one's own on paper."""
    kept = context.kept(cell)
    coding.read_only(cell.body["stub"])
    with st.expander(t("exercise.hints"), icon=":material/lightbulb:"):
        st.markdown("\n".join(f"{i}. {context.text(hint)}" for i, hint in enumerate(cell.body["hints"], 1)))
    if kept.get("solution"):
        _solution(cell)
    elif st.button(t("exercise.worked_out"), key=context.key(cell, "read"), icon=":material/key:"):
        context.save(cell, {**kept, "solution": True, "right": True})
        st.rerun()
