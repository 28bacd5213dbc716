"""A question: one choice, several, a number, or an order. Every wrong answer is told why it is wrong; the answer is
kept."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import answers
from app.cells.context import Context, frame, redraw
from app.index import Cell
from app.progress import cell_done
from app.words import t


def render(cell: Cell, context: Context) -> None:
    """Draw the question in a fragment of its own: an answer redraws nothing else."""
    _question(cell, context)


@st.fragment
def _question(cell: Cell, context: Context) -> None:
    body = cell.body
    kept = context.kept(cell)
    with frame(cell, context, body["title"]):
        context.say(body["question"], f"{cell.id}:question")
        if body.get("kind") == "ordering":
            answer: Any = _order(cell, context, kept.get("answer"))
            checked = st.button(t("quiz.check"), key=context.key(cell, "check"))
        else:
            with st.form(context.key(cell, "form"), border=False):
                answer = _ask(cell, context, kept.get("answer"))
                checked = st.form_submit_button(t("quiz.check"), key=context.key(cell, "check"))
        if checked and (wish := _wish(body, answer)):
            st.markdown(f":material/help: {wish}")
            return
        done_before = cell_done(cell, kept)
        if checked:
            kept = _keep(cell, context, answer, kept)
        if kept and (body.get("kind") != "ordering" or kept.get("answer") == answer):
            _tell(cell, context, kept)  # (an order that has been changed since is another answer)
    if cell_done(cell, kept) != done_before:
        redraw()  # what is done is counted at both ends of the page


def _wish(body: dict[str, Any], answer: Any) -> str:
    """What is lacking before an answer can be judged; "" if nothing is.

    A slip of the keyboard is no wrong answer: it is neither kept nor sent to the review.
    """
    numeric = body.get("kind") == "numeric"
    if answer in (None, "", []):
        return t("quiz.type_first" if numeric else "quiz.choose_first")
    return t("answers.no_number") if numeric and not answers.readings(str(answer)) else ""


def _ask(cell: Cell, context: Context, given: Any) -> Any:
    """The widget that takes the answer, showing the one that was given before."""
    body = cell.body
    kind = body.get("kind", "single")
    key = context.key(cell, "answer")
    if kind == "numeric":
        unit = body.get("unit", "")
        label = t("quiz.answer_in", unit=unit) if unit else t("quiz.answer")
        return st.text_input(label, value=given if isinstance(given, str) else "", key=key, width=280)
    texts = [context.text(c["text"]) for c in body["choices"]]
    # A choice is known by its place in the file, wherever it is shown.
    order = answers.dealt(len(texts), cell.id)
    if kind == "single":
        return st.radio(
            t("quiz.choose_one"),
            order,
            index=order.index(given) if given in order else None,
            format_func=texts.__getitem__,
            key=key,
            label_visibility="collapsed",
        )
    st.caption(t("quiz.choose_all"))
    before = given if isinstance(given, list) else []
    return sorted(i for i in order if st.checkbox(texts[i], value=i in before, key=f"{key}-{i}"))


def _order(cell: Cell, context: Context, given: Any) -> list[int]:
    """The items, each with a button up and one down. They are known by their place in the right order, from 0.

    A button belongs to its place, not to the item in it, so that whoever presses it with the keyboard stays on it.
    """
    items = [context.text(text) for text in cell.body["items"]]
    count, key = len(items), context.key(cell, "order")
    if sorted(st.session_state.get(key) or ()) != list(range(count)):
        before = given if isinstance(given, list) and sorted(given) == list(range(count)) else None
        st.session_state[key] = before or answers.shuffled(count, cell.id)
    order: list[int] = st.session_state[key]
    st.caption(t("quiz.move"))
    for place, item in enumerate(order):
        with st.container(horizontal=True, vertical_alignment="center", key=f"{key}-row-{place}"):
            st.markdown(f"**{place + 1}.** {items[item]}")
            for step, name, icon in ((-1, "up", "arrow_upward"), (1, "down", "arrow_downward")):
                st.button(
                    t(f"quiz.{name}", place=place + 1), key=f"{key}-{name}-{place}", icon=f":material/{icon}:",
                    disabled=not 0 <= place + step < count, on_click=_move, args=(key, place, place + step),
                )  # fmt: skip
    return list(order)


def _move(key: str, place: int, to: int) -> None:
    """Swap two neighbours."""
    order = list(st.session_state[key])
    order[place], order[to] = order[to], order[place]
    st.session_state[key] = order


def _keep(cell: Cell, context: Context, answer: Any, before: dict[str, Any]) -> dict[str, Any]:
    right = answers.grade(cell.body, answer, context.lesson.folder).right
    if before.get("answer") == answer:
        return before
    kept = {
        "answer": answer,
        # Once right stays right: trying out the wrong answers afterwards is how one reads their explanations.
        "right": right or bool(before.get("right")),
        "first_right": before.get("first_right", right),
        "tries": before.get("tries", 0) + 1,
    }
    context.save(cell, kept)
    return kept


def _tell(cell: Cell, context: Context, kept: dict[str, Any]) -> None:
    verdict = answers.grade(cell.body, kept["answer"], context.lesson.folder)
    icon = ":material/check_circle:" if verdict.right else ":material/cancel:"
    word = t("quiz.right" if verdict.right else "quiz.wrong")
    st.markdown(f"{icon} **{word}** " + "\n\n".join(verdict.explanations))
