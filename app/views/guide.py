"""Guide: an interview, and which of prompting, retrieval and fine-tuning they call for, with the reasons."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from app import charts_rag, compare, localized, state
from app.address import keep_in_link, linked
from app.story import plain
from app.words import from_core, n, t
from core.guide import Decision, Question, RuleBook, decide, rule_book, sensitivity
from core.guide.evidence import UNMEASURED, measured, section
from core.guide.method import Choice, choose
from core.guide.plan import markdown, playground_link, vram_link

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
    st.title(t("guide.title"), anchor=False)
    st.markdown(t("guide.intro"))
    book = rule_book()
    answers = _interview(book)
    decision = decide(answers, book)
    _recommendation(decision, answers, book)
    _reasons(decision, book)
    choice = choose(decision, answers)
    _method(decision, answers, choice)
    _sensitivity(answers, decision, book)
    st.download_button(
        t("guide.plan"), markdown(answers, decision, book, address=_address()), "plan.md", "text/markdown",
        key="plan", icon=":material/download:", on_click="ignore", type="primary",
    )  # fmt: skip
    with st.expander(t("guide.rules", rules=len(book.rules)), key="rules"):
        judged = sum(not rule.measured for rule in book.rules)
        st.caption(t("guide.rules_why", strong=book.strong, measured=len(book.rules) - judged, judged=judged))
        localized.grid(charts_rag.rules_table(book), hide_index=True, alt=t("guide.rules_alt"))


def _address() -> str:
    """Of the app, in front of its pages' links; "" where there is none."""
    parts = urlsplit(st.context.url or "")
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def _worded(question: Question, key: str) -> str:
    return from_core(question.options.get(key) or "") or t("guide.no_answer_yet")


def _interview(book: RuleBook) -> dict[str, str]:
    out: dict[str, str] = {}
    columns: Any = ()
    for number, question in enumerate(book.questions.values()):
        if number % 2 == 0:
            columns = st.columns(2, gap="large")  # a row each, so that on a phone they stay in their order
        options = [NONE, *question.options]
        with columns[number % 2]:
            said = st.selectbox(
                from_core(question.ask),
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
    st.header(f"{ICONS[decision.approach]} {from_core(decision.title)}", anchor="recommendation")
    if not answers:
        st.caption(t("guide.nothing"))
    elif decision.certain and not decision.open:
        st.caption(f":material/check: {t('guide.all')}")
    elif decision.certain:
        st.caption(f":material/check: {t('guide.settled')}")
    elif any(other.question in decision.open for other in sensitivity(answers, book)):
        st.caption(f":material/help: {n('guide.open', len(decision.open))}")
    else:
        st.caption(f":material/help: {t('guide.together', open=len(decision.open))}")
    for text in decision.conflicts:
        st.warning(plain(from_core(text)), icon=":material/compare_arrows:")
    for _, rule in decision.lacking:
        st.warning(f"{plain(from_core(rule.because))} {plain(from_core(rule.instead))}", icon=":material/block:")
    compare.draw(charts_rag.pulls(decision.points, book), "guide-pulls")


def _reasons(decision: Decision, book: RuleBook) -> None:
    st.subheader(t("guide.why"), anchor="why")
    if not decision.reasons:
        st.markdown(t("guide.no_reason"))
    for reason in decision.reasons:
        st.markdown(f"- {plain(from_core(reason.rule.because))}")
        lines = [f":material/science: {plain(_measured(text))}" for text in measured(reason.rule)]
        if lines:
            lines[-1] += f" [{t('guide.see')}](rag#{section(reason.rule)})"
        else:
            lines = [f":material/balance: {from_core(UNMEASURED)}"]
        for key in reason.rule.literature:
            paper = book.references[key]
            first, *more = paper.authors.split(", ")
            who = f"{first} et al." if more else first
            lines.append(f":material/article: {plain(from_core(paper.found))} [{plain(who)} {paper.year}]({paper.url})")
        st.caption("  \n".join(lines).replace(" %", "\u00a0%"))
    if any(reason.rule.measured for reason in decision.reasons):
        st.caption(t("guide.brackets"))
    st.page_link(state.page("rag"), label=t("guide.experiment"), icon=":material/science:")


def _measured(text: str) -> str:
    """A measured value for a rule, in the visitor's words: 'New facts, RAG: 99 % (93 to 100, 80 questions) right.'"""
    where, _, found = text.partition(": ")
    return f"{_named(where)}: {from_core(found.removesuffix('.'))}."


def _named(where: str) -> str:
    """A need and an arm of the experiment; both may have a comma in their names."""
    parts = where.split(", ")
    for cut in range(len(parts) - 1, 0, -1):
        need = ", ".join(parts[:cut])
        if from_core(need) != need:
            return f"{from_core(need)}, {from_core(', '.join(parts[cut:]))}"
    return from_core(where)


def _together(decision: Decision, book: RuleBook) -> str:
    """The open questions that would change the recommendation only together."""
    said = "; ".join(
        f"{from_core(book.questions[q].ask)} {from_core(book.questions[q].options[a])}"
        for q, a in decision.change.items()
    )
    return t("guide.together_would", said=said, instead=from_core(decision.instead))


def _method(decision: Decision, answers: dict[str, str], choice: Choice | None) -> None:
    if choice is None:
        return
    st.subheader(t("guide.method"), anchor="method")
    st.markdown(plain(from_core(choice.because)))
    with st.container(horizontal=True):
        st.page_link(
            state.page("playground"), label=t("guide.try"), icon=":material/science:",
            query_params=playground_link(decision, answers, choice) or {},
        )  # fmt: skip
        if _is_a_page("vram"):
            st.page_link(
                state.page("vram"), label=t("guide.memory"), icon=":material/memory:",
                query_params=vram_link(choice) or {},
            )  # fmt: skip


def _is_a_page(url_path: str) -> bool:
    from app.views import VIEWS

    return any(view.url_path == url_path for view in VIEWS)


def _sensitivity(answers: dict[str, str], decision: Decision, book: RuleBook) -> None:
    st.subheader(t("guide.change"), anchor="sensitivity")
    others = sensitivity(answers, book)
    if len(decision.change) > 1:
        st.markdown(plain(_together(decision, book)))
    if not others:
        st.markdown(t("guide.no_change"))
        return
    rows: list[dict[str, Any]] = []
    for other in others:
        question = book.questions[other.question]
        rows.append(
            {
                t("guide.question"): from_core(question.ask),
                t("guide.if_answer"): from_core(question.options[other.answer]),
                t("guide.instead"): (
                    from_core(question.options[answers[other.question]]) if other.known else t("guide.no_answer")
                ),
                t("guide.would_be"): from_core(other.title),
            }
        )
    localized.table(rows, border="horizontal", hide_index=True, alt=t("guide.change_alt"))
