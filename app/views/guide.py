"""Guide: an interview, and which of prompting, retrieval and fine-tuning they call for, with the reasons."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from app import charts_rag, compare, state
from app.address import keep_in_link, linked
from app.story import plain
from core.guide import Decision, Question, RuleBook, decide, rule_book, sensitivity
from core.guide.evidence import UNMEASURED, measured, section
from core.guide.method import Choice, choose
from core.guide.plan import markdown, playground_link, together, vram_link

NONE = ""
ICONS = {
    "prompting": ":material/edit_note:",
    "rag": ":material/manage_search:",
    "fine-tuning": ":material/tune:",
    "both": ":material/join:",
    "continued": ":material/model_training:",
}


def render() -> None:
    """Draw the page."""
    st.title("RAG or fine-tuning?", anchor=False)
    st.markdown(
        "Answer what you know; leave the rest. The recommendation follows from rules that you can read: with what the "
        "experiment here measured, where it measured one, and marked as a judgement where it did not. Your answers are "
        "in the address, so a link keeps them."
    )
    book = rule_book()
    answers = _interview(book)
    decision = decide(answers, book)
    _recommendation(decision, answers, book)
    _reasons(decision, book)
    choice = choose(decision, answers)
    _method(decision, answers, choice)
    _sensitivity(answers, decision, book)
    st.download_button(
        "Take the plan away", markdown(answers, decision, book, address=_address()), "plan.md", "text/markdown",
        key="plan", icon=":material/download:", on_click="ignore", type="primary",
    )  # fmt: skip
    with st.expander(f"All {len(book.rules)} rules", key="rules"):
        judged = sum(not rule.measured for rule in book.rules)
        st.caption(
            f"A rule holds when its answers were given. Its points pull towards an approach; from {book.strong} points "
            "on a pull is strong. Retrieval and fine-tuning both strong mean both; nothing strong means prompting, and "
            "a strong prompt takes the place of what has fewer points than it. The experiment measured "
            f"{len(book.rules) - judged} of the rules; {judged} are judgements."
        )
        st.dataframe(charts_rag.rules_table(book), hide_index=True, alt="The rules, one a row.")


def _address() -> str:
    """Of the app, in front of its pages' links; "" where there is none."""
    parts = urlsplit(st.context.url or "")
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def _worded(question: Question, key: str) -> str:
    return question.options.get(key, "No answer yet")


def _interview(book: RuleBook) -> dict[str, str]:
    out: dict[str, str] = {}
    columns: Any = ()
    for number, question in enumerate(book.questions.values()):
        if number % 2 == 0:
            columns = st.columns(2, gap="large")  # a row each, so that on a phone they stay in their order
        options = [NONE, *question.options]
        with columns[number % 2]:
            said = st.selectbox(
                question.ask,
                options,
                index=options.index(linked(question.key, options, NONE)),
                format_func=partial(_worded, question),
                key=question.key,
                on_change=keep_in_link,
                args=(question.key, NONE),
            )
        if said:
            out[question.key] = str(said)
    return out


def _recommendation(decision: Decision, answers: dict[str, str], book: RuleBook) -> None:
    st.header(f"{ICONS[decision.approach]} {decision.title}", anchor="recommendation")
    if not answers:
        st.caption("Nothing is answered yet; prompting is where everybody begins.")
    elif decision.certain and not decision.open:
        st.caption(":material/check: Every question is answered.")
    elif decision.certain:
        st.caption(":material/check: Nothing that is still open could change this, however it is answered.")
    elif any(other.question in decision.open for other in sensitivity(answers, book)):
        st.caption(f":material/help: {len(decision.open)} questions are open, and some of them could change this.")
    else:
        st.caption(
            f":material/help: {len(decision.open)} questions are open. None of them could change this by itself; "
            "together they could, as is said below."
        )
    for text in decision.conflicts:
        st.warning(plain(text), icon=":material/compare_arrows:")
    for _, rule in decision.lacking:
        st.warning(f"{plain(rule.because)} {plain(rule.instead)}", icon=":material/block:")
    compare.draw(charts_rag.pulls(decision.points, book), "guide-pulls")


def _reasons(decision: Decision, book: RuleBook) -> None:
    st.subheader("Why", anchor="why")
    if not decision.reasons:
        st.markdown("No answer calls for more than an instruction with a few examples.")
    for reason in decision.reasons:
        st.markdown(f"- {plain(reason.rule.because)}")
        lines = [f":material/science: {plain(text)}" for text in measured(reason.rule)]
        if lines:
            lines[-1] += f" [See it measured](rag#{section(reason.rule)})"
        else:
            lines = [f":material/balance: {UNMEASURED}"]
        for key in reason.rule.literature:
            paper = book.references[key]
            first, *more = paper.authors.split(", ")
            who = f"{first} et al." if more else first
            lines.append(f":material/article: {plain(paper.found)} [{plain(who)} {paper.year}]({paper.url})")
        st.caption("  \n".join(lines).replace(" %", "\u00a0%"))
    if any(reason.rule.measured for reason in decision.reasons):
        st.caption("In brackets: where the share lies with 95\u00a0% confidence, as far as so many questions tell.")
    st.page_link(
        state.page("rag"), label="The experiment behind these figures: change a fact, and ask again",
        icon=":material/science:",
    )  # fmt: skip


def _method(decision: Decision, answers: dict[str, str], choice: Choice | None) -> None:
    if choice is None:
        return
    st.subheader("Which method, and will it fit", anchor="method")
    st.markdown(plain(choice.because))
    with st.container(horizontal=True):
        st.page_link(
            state.page("playground"), label="Try the recipe in the Playground", icon=":material/science:",
            query_params=playground_link(decision, answers, choice) or {},
        )  # fmt: skip
        if _is_a_page("vram"):
            st.page_link(
                state.page("vram"), label="Its memory, term by term", icon=":material/memory:",
                query_params=vram_link(choice) or {},
            )  # fmt: skip


def _is_a_page(url_path: str) -> bool:
    from app.views import VIEWS

    return any(view.url_path == url_path for view in VIEWS)


def _sensitivity(answers: dict[str, str], decision: Decision, book: RuleBook) -> None:
    st.subheader("What would change this", anchor="sensitivity")
    others = sensitivity(answers, book)
    if len(decision.change) > 1:
        st.markdown(plain(together(decision, book)))
    if not others:
        st.markdown("No single other answer would.")
        return
    rows: list[dict[str, Any]] = []
    for other in others:
        question = book.questions[other.question]
        rows.append(
            {
                "Question": question.ask,
                "If the answer were": question.options[other.answer],
                "Instead of": question.options[answers[other.question]] if other.known else "no answer",
                "It would be": other.title,
            }
        )
    st.dataframe(rows, hide_index=True, alt="Other answers that would lead to another recommendation, one a row.")
