"""Interview drill: the classic questions, one at a time, with checked answers and a score that is kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import streamlit as st

from app import drill, state
from app.cells import quiz
from app.cells.context import Context
from app.choices import Choice, one_of
from app.drill import Question
from app.index import Cell
from app.words import t

PAGE = "drill"
ALL = "all"
TOPIC = Choice(PAGE, "topic", ALL, one_of([ALL, *drill.TOPICS]))


class Drilling(Context):
    """The context of the drill: an answer draws the whole page again, since the score stands around the question."""

    def save(self, cell: Cell, value: dict[str, Any]) -> None:
        """Keep the answer."""
        super().save(cell, value)
        st.rerun()


def render() -> None:
    """Draw the page. ?topic= picks a topic, ?question= an exact question."""
    st.title(t("drill.title"), anchor=False)
    st.markdown(t("drill.intro"))
    TOPIC.start()
    st.segmented_control(
        t("drill.topic"), [ALL, *drill.TOPICS], format_func=lambda key: t(f"drill.topics.{key}"), required=True,
        label_visibility="collapsed", **TOPIC.one(),
    )  # fmt: skip
    chosen = list(drill.of_topic(None if TOPIC.value in (None, ALL) else TOPIC.value))
    context = Drilling.of(drill.as_lesson())
    _standing(chosen, context)
    at = _position(chosen, context)
    question = chosen[at]
    st.caption(t("drill.place", number=at + 1, total=len(chosen), topic=t(f"drill.topics.{question.topic}")))
    cell = dataclasses.replace(question.cell, number=at + 1)
    if cell.kind == drill.OPEN:
        open_question(cell, context)
    else:
        quiz.render(cell, context)
    _move(chosen, at, context)


def _standing(chosen: list[Question], context: Context) -> None:
    """The score, as words and as a bar."""
    score = drill.score(chosen, context.progress)
    st.progress(
        score.known / score.total, t("drill.score", known=score.known, answered=score.answered, total=score.total)
    )


def _position(chosen: list[Question], context: Context) -> int:
    """The question that the address names, else the first that is not answered."""
    ids = [q.id for q in chosen]
    asked = st.query_params.get("question")
    if asked in ids:
        return ids.index(asked)
    first = next(
        (i for i, q in enumerate(chosen) if drill.known(q, context.progress.get(q.state_name)) is None), 0
    )  # fmt: skip
    st.query_params["question"] = ids[first]  # it stays when the answer is given
    return first


def _move(chosen: list[Question], at: int, context: Context) -> None:
    """Back, on, and to the next one that is open."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.button(
            t("drill.back"), key="drill-back", on_click=_go, args=(chosen[at - 1].id,), disabled=at == 0,
            icon=":material/arrow_back:",
        )  # fmt: skip
        after = chosen[(at + 1) % len(chosen)].id
        st.button(
            t("drill.next"), key="drill-next", on_click=_go, args=(after,), type="primary",
            icon=":material/arrow_forward:",
        )  # fmt: skip
        wrong = [q.id for q in chosen if drill.known(q, context.progress.get(q.state_name)) is False]
        if wrong:
            st.page_link(state.page("review"), label=t("drill.review"), icon=":material/replay:")


def _go(question: str) -> None:
    st.query_params["question"] = question


def open_question(cell: Cell, context: Context) -> None:
    """An open question: think, look at the rubric, and mark oneself."""
    _open(cell, context)


@st.fragment
def _open(cell: Cell, context: Context) -> None:
    kept = context.kept(cell)
    body = cell.body
    key = context.key(cell)
    with st.container(border=True, key=f"{key}-cell"):
        st.caption(t("drill.open"))
        st.subheader(body["title"], anchor=cell.id)
        context.say(body["question"], f"{cell.id}:question")
        st.text_area(t("drill.yours"), value=kept.get("text", ""), key=f"{key}-text", max_chars=2000, height=140)
        shown = f"_{key}-shown"
        if "points" not in kept and not st.session_state.get(shown):
            st.button(t("drill.show"), key=f"{key}-show", icon=":material/visibility:", on_click=_show, args=(shown,))
            return
        st.markdown(f"**{t('drill.rubric')}**")
        before = kept.get("points", [])
        points = [
            i
            for i, point in enumerate(body["rubric"])
            if st.checkbox(context.text(point), value=i in before, key=f"{key}-point-{i}")
        ]
        if st.button(t("drill.mark"), key=f"{key}-mark", icon=":material/check:"):
            _keep(cell, context, points, kept, str(st.session_state.get(f"{key}-text", "")))
        if "points" in kept:
            told = "drill.enough" if drill.enough(cell, kept["points"]) else "drill.short"
            st.markdown(t(told, points=len(kept["points"]), total=len(body["rubric"])))
        with st.expander(t("drill.model"), key=f"{key}-model"):
            st.markdown(context.text(body["model"]))


def _show(name: str) -> None:
    st.session_state[name] = True


def _keep(cell: Cell, context: Context, points: list[int], kept: dict[str, Any], text: str) -> None:
    context.save(cell, {"points": points, "text": text[:2000], "tries": int(kept.get("tries", 0)) + 1})
