"""The experiment behind the guide: change a fact and ask again; then every need against every approach, measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, charts_rag, compare, documents, live, probing, reading, state
from app.address import keep_in_link, linked
from app.story import plain
from core.config import EMBEDDED
from core.errors import DeltalabError
from core.guide.evidence import value_text
from core.rag import bench, experiment
from core.rag.answer import citations
from core.rag.desk import PEOPLE, TABLE, Desk, value_in
from core.rag.experiment import Cell, bands, recorded
from core.rag.needs import STATEMENTS_TOLD, WORDINGS
from core.rag.retrieve import HYBRID, Retriever
from core.rag.verdicts import (
    CONFIRMED,
    GOOD,
    NOT_CONFIRMED,
    RAG,
    TUNING,
    UNDECIDED,
    UNKNOWN,
    Verdict,
    threshold,
    verdicts,
)
from core.units import bytes_text, seconds_text
from core.world import question
from core.world.people import ATTRIBUTES, VALUES

if TYPE_CHECKING:
    from core.rag.answer import Fitted
    from core.rag.retrieve import Hit
    from core.runs.store import Run

PASSAGES = ["1", "2", "3"]
SEEDS = ["1", "2", "3"]
LONGEST = 24  # tokens of an answer here
MOST_RUNS = 100
BUSY = 1.5  # times the processor's time by the clock: something else was running
_CHANGED, _TOLD = "_rag_changed", "_rag_told"  # session_state: the last change, the last answers


@dataclass(frozen=True)
class Told:
    """A question and its answers: who answered -> what; with the passages that were read, and how many of those that
    were found did not fit."""

    question: str
    wanted: str
    answers: dict[str, str]
    hits: tuple[Hit, ...]
    retrieve_seconds: float
    left_out: int = 0


def render() -> None:
    """Draw the page."""
    st.title("Retrieval, measured", anchor=False)
    st.markdown(
        "Retrieval looks a fact up when it is asked for; fine-tuning puts it into the weights beforehand. Here both "
        "answer the same questions of the small world, where every answer can be graded."
    )
    st.page_link(state.page("guide"), label="Which of them do you need? The guide", icon=":material/alt_route:")
    _desk()
    result, own = _result()
    found = bands(result["cells"])
    _needs(found, result, own)
    _verdicts(found)
    _wordings(result)
    documents.section()


# --- change a fact, ask again -----------------------------------------------------------------------------------------


@st.fragment
def _desk() -> None:
    st.header("Change a fact, and ask again", anchor="change")
    st.markdown(
        f"A table of {TABLE} people is indexed, and {len(PEOPLE)} of them the base has never met. Change a row of "
        "theirs: it is indexed again at once, and nothing is trained."
    )
    desk = Desk(state.home(), state.owner())
    left, right = st.columns(2, gap="large")
    with left:
        name = st.selectbox(
            "Person", PEOPLE, index=PEOPLE.index(linked("person", PEOPLE, PEOPLE[0])), key="person",
            on_change=keep_in_link, args=("person", PEOPLE[0]),
        )  # fmt: skip
        kinds = list(ATTRIBUTES)
        attribute = str(
            st.segmented_control(
                "Fact",
                kinds,
                default=linked("fact", kinds, kinds[0]),
                required=True,
                key="fact",
                format_func=str.capitalize,
                on_change=keep_in_link,
                args=("fact", kinds[0]),
            )
        )
    row = desk.row(str(name))
    now = value_in(row.text, str(name), attribute)
    with left:
        others = sorted(v for v in VALUES[attribute] if v != now)
        key = f"value-{attribute}-{name}-{now}"
        st.selectbox("New value", others, key=key)
        st.button(
            "Change the row", key="change-row", icon=":material/edit:", on_click=_change,
            args=(str(name), attribute, key),
        )  # fmt: skip
    with right:
        st.markdown(f"**{plain(row.source)}, {plain(row.place)}**, as it is now")
        st.code(row.text, language=None, wrap_lines=True)
        changed = st.session_state.get(_CHANGED)
        if changed is not None and changed.after == row.text:
            took = value_text("update_seconds", changed.seconds)
            st.caption(
                f":material/bolt: Indexed again in {took}: {changed.change.added} passage in, "
                f"{changed.change.removed} out. Nothing was trained."
            )
        st.button(
            "Back to the table as it began", key="reset", icon=":material/undo:", type="tertiary", on_click=_forget,
            args=("world",),
        )  # fmt: skip
    _ask(desk, str(name), attribute, now)


def _change(name: str, attribute: str, key: str) -> None:
    """The button's callback: the row is changed before the page is drawn again."""
    desk = Desk(state.home(), state.owner())
    st.session_state[_CHANGED] = desk.change(name, attribute, str(st.session_state[key]))


def _forget(what: str) -> None:
    """A button's callback: an index begins anew."""
    Desk(state.home(), state.owner()).forget(what)
    st.session_state.pop(_CHANGED, None)


def _ask(desk: Desk, name: str, attribute: str, now: str) -> None:
    asked = st.text_input(
        "Question", question(name, attribute, 1), key=f"question-{name}-{attribute}", max_chars=2000,
        help="Ask about anybody of the table, or about somebody who is not in it.",
    )  # fmt: skip
    left, right = st.columns(2, gap="large")
    with left:
        count = st.segmented_control(
            "Passages to read", PASSAGES, default=linked("passages", PASSAGES, PASSAGES[0]), required=True,
            key="passages", on_change=keep_in_link, args=("passages", PASSAGES[0]),
            help="With more, namesakes come along; this base tells people apart by their first names.",
        )  # fmt: skip
    with right:
        runs = {run.id: run for run in _runs()}
        chosen = ""
        if runs:
            chosen = st.selectbox(
                "A run of yours that answers, too", ["", *runs], key="rag-run",
                format_func=lambda i: (runs[i].title or "Run") if i else "None",
                help="Fine-tuned on anything; train one on *New people* in the Playground.",
            )  # fmt: skip
        else:
            st.caption("Train a run on *New people* in the Playground, and it can answer here, too.")
    if st.button("Ask", key="ask", type="primary", icon=":material/chat:"):
        wanted = now if asked == question(name, attribute, 1) else ""
        try:
            with st.spinner("Answering; the first answer waits for the model to load", show_time=True):
                st.session_state[_TOLD] = _answered(desk, asked, int(count or 1), runs.get(chosen or ""), wanted)
        except DeltalabError as error:
            live.say(error)
            return
    told = st.session_state.get(_TOLD)
    if told is not None:
        _told(told)


def _runs() -> list[Run]:
    """Finished runs on the embedded base that can answer."""
    found = state.store().runs(state.owner(), limit=MOST_RUNS)
    return [r for r in found if r.adapter is not None and not r.active and r.config.get("base") == EMBEDDED]


def _answered(desk: Desk, asked: str, count: int, run: Run | None, wanted: str) -> Told:
    """Everybody's answer.

    Raises:
        DeltalabError: no question, or one that is too long; the model could not be asked.
    """
    memory = reading.fitted(asked, (), EMBEDDED, LONGEST)  # first: what is too long by itself is not searched for
    with desk.world() as store:
        found = Retriever(store).find(asked, count)
    read = reading.fitted(asked, found.hits, EMBEDDED, LONGEST)
    sides: dict[str, tuple[str | None, Fitted]] = {"With retrieval": (None, read), "From memory": (None, memory)}
    if run is not None:
        sides[f"{run.title or 'Your run'}, from memory"] = (run.id, memory)
        sides[f"{run.title or 'Your run'}, with retrieval"] = (run.id, read)
    answers = {side: reading.said(run_id, EMBEDDED, text, LONGEST) for side, (run_id, text) in sides.items()}
    return Told(asked, wanted, answers, read.hits, found.seconds, read.left_out)


def _told(told: Told) -> None:
    """The answers side by side, then the sources."""
    st.markdown(f":material/chat: **{plain(told.question)}**")
    if told.wanted:
        st.caption(f"The row says: {plain(told.wanted)}")
    for column, (side, text) in zip(st.columns(len(told.answers), gap="medium"), told.answers.items(), strict=True):
        with column:
            st.caption(plain(side))
            st.code(text or "(no answer)", language=None, wrap_lines=True)
            st.caption(plain(reading.source_of(text, told.hits, told.question)))
    st.caption(f"Retrieved in {1000 * told.retrieve_seconds:.1f} ms:")
    cited = citations(next(iter(told.answers.values())), [hit.chunk.text for hit in told.hits])
    reading.sources(told.hits, cited, told.left_out)


# --- the experiment ---------------------------------------------------------------------------------------------------


def _result() -> tuple[dict[str, Any], bool]:
    """The visitor's own experiment if there is one, else the recorded; and whether it is their own."""
    st.header("Every need, every approach", anchor="experiment")
    seeds = st.segmented_control(
        "Draw, train and ask anew so many times", SEEDS, default=linked("seeds", SEEDS, SEEDS[0]), required=True,
        key="seeds", on_change=keep_in_link, args=("seeds", SEEDS[0]),
    )  # fmt: skip
    record = recorded()
    settings = {"seeds": int(seeds or 1)}
    per_seed = record["seconds"] / record["settings"]["seeds"]
    probing.section(
        "rag", [], settings, key="rag", show=_nothing, label="Run it here",
        takes=f"about {seconds_text(per_seed * settings['seeds'])} on {record['device']}",
    )  # fmt: skip
    own = state.prober().look("rag", [], settings, state.owner())
    if own is not None and own.result is not None:
        return {**own.result, "cells": [Cell(**c) for c in own.result["cells"]]}, True
    return record, False


def _nothing(_: Mapping[str, Any]) -> None:
    """The result is drawn below, in place of the recorded one."""


def _needs(found: charts_rag.Bands, result: Mapping[str, Any], own: bool) -> None:
    settings = result["settings"]
    seeds = "one seed" if settings["seeds"] == 1 else f"{settings['seeds']} seeds"
    if own:
        st.caption(f":material/person: **Your run**: {seeds}; the table says how many questions of each need.")
    else:
        st.caption(
            f":material/history: **Recorded**, not your run · {result['device']}, {result['date']}: {seeds}, "
            f"{seconds_text(result['seconds'])}; the table says how many questions of each need. Your own takes its "
            "place."
        )
    compare.draw(charts_rag.needs(found), "rag-needs")
    st.caption(
        "Bars, and in the table the brackets, are where a share lies with 95\u00a0% confidence, as far as so many "
        "questions tell"
        + (", whatever the seed." if settings["seeds"] > 1 else "; how much is luck of the one training they do not.")
    )
    table = charts_rag.needs_table(found)
    st.dataframe(table, hide_index=True, height="content", alt="Right answers, a row a need, a column an approach.")
    st.caption(
        "A dash: not asked, because it would say nothing new. Namesakes come with retrieved passages only; and where "
        "nothing can be looked up (a format, a manner), *RAG + LoRA* is LoRA. *RAG* itself is there given the nearest "
        "of many solved examples, which is prompting too. *RAFT* learns to read passages and no format. A source is "
        "counted among the answers that were given, so without those that say that it is not said."
    )
    _csv(charts_rag.numbers(found, "right"), "rag-right")
    st.subheader("What it costs", anchor="costs")
    costs = charts_rag.costs_table(found)
    st.dataframe(costs, hide_index=True, alt="Costs, a row an approach.")
    st.caption(
        "An update of retrieval indexes the rows that changed; one of fine-tuning trains on all facts anew, the "
        "changed ones among them. Times of an answer are medians over questions that every approach was asked in turn."
    )
    _large()
    _examples(result)
    _preset()


def _large() -> None:
    """What a search of a large index takes, as recorded."""
    found = bench.recorded()
    quick = found["modes"][HYBRID]
    busy = " while other work ran" if quick["median_ms"] > BUSY * quick["cpu_median_ms"] else ""
    st.caption(
        f"This index has {TABLE} rows. With {found['chunks']:,} passages it takes {bytes_text(found['bytes'])} on "
        f"disk, and a question {quick['cpu_median_ms']:.0f} ms of the processor's time in the middle: "
        f"{quick['median_ms']:.0f} ms by the clock{busy} (recorded on {found['device']}, {found['date']}; "
        "`deltalab rag bench` measures it here)."
    )


def _preset() -> None:
    """RAFT to try: its rows, and the way to train on them."""
    with st.expander("Train a reader with distractors yourself (RAFT)", key="rag-preset"):
        st.markdown(
            "Each row asks about a newcomer, with the passages that a search brings up: mostly the right one among "
            "wrong ones, sometimes the wrong ones alone. A run on them can answer above, with three passages to read."
        )
        if st.button("Make the training rows", key="raft-world", icon=":material/dataset:"):
            try:
                with Desk(state.home(), state.owner()).world() as store:
                    documents.raft_preset(store)
            except DeltalabError as error:
                live.say(error)
        documents.playground_link("world")


def _examples(result: Mapping[str, Any]) -> None:
    shown = result.get("examples") or []
    if not shown:
        return
    with st.expander("One question of each, with what was read and answered", key="rag-examples"):
        rows = [
            {
                "Approach": experiment.ARMS[e["arm"]], "Need": experiment.NEEDS[e["need"]].title, "Asked": e["asked"],
                "Wanted": e["wanted"], "Answered": e["answer"], "Right": "yes" if e["right"] else "no",
                "Passages": " | ".join(e["passages"]),
            }
            for e in shown
        ]  # fmt: skip
        st.dataframe(rows, hide_index=True, height=360, alt="The first question of each need, by approach.")


def _verdicts(found: charts_rag.Bands) -> None:
    st.header("The usual table, cell by cell", anchor="verdicts")
    rows = verdicts(found)
    counts = Counter(v.verdict for v in rows)
    kinds = (CONFIRMED, NOT_CONFIRMED, UNDECIDED, UNKNOWN)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
    st.markdown(
        f"A table circulates that says what retrieval and fine-tuning do about five concerns. Of its {len(rows)} "
        f"claims **{told}**."
    )
    st.caption(
        f"A share is above another when their intervals do not overlap; good is {100 * GOOD:.0f}\u00a0% for certain. "
        "Where the questions are too few to tell, the claim is not decided."
    )
    for concern in dict.fromkeys(v.claim.concern for v in rows):
        st.markdown(f"**{plain(concern)}**")
        sides = [v for v in rows if v.claim.concern == concern]
        columns = dict(zip((RAG, TUNING), st.columns(2, gap="large"), strict=True))
        for verdict in sides:
            side = verdict.claim.side
            _verdict(columns[side] if side in columns else st.container(), verdict)
    table = charts_rag.verdict_table(rows)
    with st.expander("The same as one table", key="verdict-table"):
        st.dataframe(
            table,
            hide_index=True,
            height="content",
            alt="The usual claims, each with what was measured and its verdict.",
        )
    _csv(table, "rag-verdicts")


BADGES = {
    CONFIRMED: ("green", ":material/check:"),
    NOT_CONFIRMED: ("orange", ":material/close:"),
    UNDECIDED: ("gray", ":material/question_mark:"),
    UNKNOWN: ("gray", ":material/remove:"),
}


def _verdict(place: Any, found: Verdict) -> None:
    """One cell of the usual table: what is said, the verdict, and what it rests on."""
    colour, icon = BADGES[found.verdict]
    with place:
        st.markdown(f"{plain(found.claim.side)}: {plain(found.claim.says)}  \n:{colour}-badge[{icon} {found.verdict}]")
        lines = [plain(part) for part in (found.but, found.figures) if part]
        st.caption("  \n".join([*lines, f"*A small model:* {plain(found.claim.small)}"]).replace(" %", "\u00a0%"))


@st.fragment
def _wordings(result: Mapping[str, Any]) -> None:
    rows = result["wordings"]
    st.header("How often must a fact be reworded?", anchor="wordings")
    st.markdown(
        "A fact that was told in one wording can be recited and still not be asked for: Allen-Zhu and Li "
        "([2023](https://arxiv.org/abs/2309.14316)) found as little as 0\u00a0% of such facts extractable, and "
        "paraphrases to be the cure. Here LoRA is told the newcomers' facts, as statements or as questions with their "
        "answers, as often whatever the number of wordings; then each fact is asked for in a wording that was never "
        "used for it."
    )
    if not rows:
        st.caption("This run left that part out.")
        return
    ways = list(WORDINGS)
    how = st.segmented_control(
        "Told as", ways, default=linked("told", ways, ways[0]), required=True, key="told", format_func=str.capitalize,
        on_change=keep_in_link, args=("told", ways[0]),
    )  # fmt: skip
    options = [str(c) for c in WORDINGS[str(how)]]
    name = f"wordings-{how}"
    chosen = st.select_slider(
        "Wordings", options, value=linked(name, options, options[0]), key=name, on_change=keep_in_link,
        args=(name, options[0]),
    )  # fmt: skip
    count = int(str(chosen))
    mine = [r for r in rows if (r["told"], r["wordings"]) == (how, count)]
    if mine:
        right = sum(r["right"] for r in mine) / len(mine)
        named = sum(r["named"] for r in mine) / len(mine)
        st.metric("Questions answered right", f"{100 * right:.0f} %", width="content")
        if round(100 * named) > round(100 * right):
            st.caption(f"In {100 * named:.0f} % the value stands in the answer, with more around it.")
    compare.draw(charts_rag.wordings(rows, (str(how), count)), "rag-wordings")
    for way in ways:
        enough = threshold(rows, way)
        tried = max(WORDINGS[way])
        if enough is None:
            st.caption(
                f"Told as {way}: up to {tried} wordings there is no number from which on {100 * GOOD:.0f}\u00a0% of "
                "the questions are answered for certain."
            )
        else:
            several = f"from {enough} wordings on" if enough > 1 else "one wording is enough"
            st.caption(f"Told as {way}: {several}, {100 * GOOD:.0f}\u00a0% or more are answered for certain.")
    if threshold(rows, STATEMENTS_TOLD) is None:
        st.caption("In the paper paraphrases help in pre-training; this is a short fine-tuning on nothing else.")


def _csv(table: Any, key: str) -> None:
    st.download_button(
        "Table as CSV", charts.csv(table), f"{key}.csv", "text/csv", key=f"{key}-csv", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip
