"""The decision guide in short: four of its questions, the recommendation, and the reasons with what was measured."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_rag, compare, state
from app.schema import Rule
from app.story import plain
from app.words import t

NAME = "guide-interview"
OPTIONS = {"knowledge": Rule("word"), "changes": Rule("word"), "format": Rule("word"), "data": Rule("word")}


def render(options: dict[str, Any], key: str) -> None:
    """Four questions, and what follows from the answers."""
    from core.guide import answers_of, decide, rule_book
    from core.guide.evidence import measured

    book = rule_book()
    given: dict[str, str] = {}
    for first in range(0, len(OPTIONS), 2):
        for column, name in zip(st.columns(2, gap="medium"), list(OPTIONS)[first : first + 2], strict=False):
            question = book.questions[name]
            choices = list(question.options)
            start = choices.index(options[name]) if options.get(name) in choices else 0
            with column:
                said = st.selectbox(
                    question.ask, choices, index=start, format_func=question.options.__getitem__, key=f"{key}-{name}"
                )
            given[name] = str(said)
    decision = decide(answers_of(given), book)
    st.markdown(f"**{decision.title}**")
    compare.draw(charts_rag.pulls(decision.points, book), f"{key}-pulls")
    for reason in decision.reasons:
        lines = "  \n".join(plain(text) for text in measured(reason.rule))
        below = f"  \n  :small[{lines}]" if lines else ""
        st.markdown(f"- {plain(reason.rule.because)}{below}")
    st.page_link(
        state.page("guide"), label=t("widgets.guide_interview.all", count=len(book.questions)),
        icon=":material/alt_route:", query_params=given,
    )  # fmt: skip
