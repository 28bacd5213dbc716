"""The experiment behind the guide: change a fact and ask again; then every need against every approach, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, charts_rag, compare, live, probing, state, uploads
from app.address import keep_in_link, linked
from app.story import plain
from core.config import EMBEDDED
from core.errors import DeltalabError
from core.guide.evidence import value_text
from core.rag import experiment, quality, read
from core.rag.answer import citations, declines, prompt
from core.rag.desk import PEOPLE, Desk, value_in
from core.rag.experiment import Cell, bands, recorded
from core.rag.needs import STATEMENTS_TOLD, WORDINGS
from core.rag.retrieve import HYBRID, MODES, Retriever
from core.rag.verdicts import GOOD, verdicts
from core.units import seconds_text
from core.world import question
from core.world.people import ATTRIBUTES, VALUES

if TYPE_CHECKING:
    from core.rag.retrieve import Hit
    from core.runs.store import Run

PASSAGES = ["1", "2", "3"]
SEEDS = ["1", "2", "3"]
LONGEST = 24  # tokens of an answer here
MOST_RUNS = 100
SHOWN = 5  # passages of own documents
_CHANGED, _TOLD = "_rag_changed", "_rag_told"  # session_state: the last change, the last answers


@dataclass(frozen=True)
class Told:
    """A question and its answers: who answered -> what; with the passages that the first was given."""

    question: str
    wanted: str
    answers: dict[str, str]
    hits: tuple[Hit, ...]
    retrieve_seconds: float


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
    _documents()


# --- change a fact, ask again -----------------------------------------------------------------------------------------


@st.fragment
def _desk() -> None:
    st.header("Change a fact, and ask again", anchor="change")
    st.markdown(
        f"A table of 220 people is indexed, and {len(PEOPLE)} of them the base has never met. Change a row of theirs: "
        "it is indexed again at once, and nothing is trained."
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
    with desk.world() as store:
        found = Retriever(store).find(asked, count)
    passages = [hit.chunk.text for hit in found.hits]
    sides: dict[str, tuple[str | None, str]] = {
        "With retrieval": (None, prompt(asked, passages)),
        "From memory": (None, asked),
    }
    if run is not None:
        sides[f"{run.title or 'Your run'}, from memory"] = (run.id, asked)
        sides[f"{run.title or 'Your run'}, with retrieval"] = (run.id, prompt(asked, passages))
    answers = {}
    for side, (run_id, text) in sides.items():
        pieces = state.talker().ask(run_id, EMBEDDED, [{"role": "user", "content": text}], LONGEST, state.owner())
        answers[side] = "".join(pieces).strip()
    return Told(asked, wanted, answers, found.hits, found.seconds)


def _told(told: Told) -> None:
    """The answers side by side, then the sources."""
    st.markdown(f":material/chat: **{plain(told.question)}**")
    if told.wanted:
        st.caption(f"The row says: {plain(told.wanted)}")
    passages = [hit.chunk.text for hit in told.hits]
    for column, (side, text) in zip(st.columns(len(told.answers), gap="medium"), told.answers.items(), strict=True):
        with column:
            st.caption(plain(side))
            st.code(text or "(no answer)", language=None, wrap_lines=True)
            if declines(text):
                st.caption("It says that it is not said.")
            elif citations(text, passages):
                st.caption(f":material/verified: Stands in passage {', '.join(map(str, citations(text, passages)))}.")
            else:
                st.caption(":material/report: Stands in none of the passages.")
    st.caption(f"Retrieved in {1000 * told.retrieve_seconds:.1f} ms:")
    cited = citations(next(iter(told.answers.values())), passages)
    for number, hit in enumerate(told.hits, 1):
        mark = ":material/verified:" if number in cited else ":material/article:"
        st.markdown(f"{mark} **[{number}] {plain(hit.chunk.citation)}**  \n{plain(hit.chunk.text)}")


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
        st.caption(f":material/person: **Your run**: {seeds}, {settings['items']} questions a need.")
    else:
        st.caption(
            f":material/history: **Recorded**, not your run · {result['device']}, {result['date']}: {seeds}, "
            f"{settings['items']} questions a need, {seconds_text(result['seconds'])}. Your own takes its place."
        )
    compare.draw(charts_rag.needs(found), "rag-needs")
    if settings["seeds"] > 1:
        st.caption("Marks are means over the seeds, bars their range.")
    table = charts_rag.needs_table(found)
    st.dataframe(table, hide_index=True, height="content", alt="Right answers, a row a need, a column an approach.")
    _csv(charts_rag.numbers(found, "right"), "rag-right")
    st.subheader("What it costs", anchor="costs")
    costs = charts_rag.costs_table(found)
    st.dataframe(costs, hide_index=True, alt="Costs, a row an approach.")
    st.caption(
        "An update of retrieval indexes the rows that changed; one of fine-tuning trains on all facts anew, the "
        "changed ones among them."
    )
    _examples(result)


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
    held = sum(v.verdict == "confirmed here" for v in rows)
    st.markdown(
        "A table circulates that says what retrieval and fine-tuning do about five concerns. Of its claims "
        f"**{held} of {len(rows)}** are confirmed by these figures."
    )
    table = charts_rag.verdict_table(rows)
    st.dataframe(
        table, hide_index=True, height="content", alt="The usual claims, each with what was measured and its verdict."
    )
    _csv(table, "rag-verdicts")


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
    most = max((r["right"] for r in rows if r["told"] == STATEMENTS_TOLD), default=1.0)
    if most < GOOD:
        st.caption(
            f"Statements stay at {100 * most:.0f}\u00a0% and below, in however many wordings. In the paper paraphrases "
            "help in pre-training; this is a short fine-tuning on nothing else."
        )


def _csv(table: Any, key: str) -> None:
    st.download_button(
        "Table as CSV", charts.csv(table), f"{key}.csv", "text/csv", key=f"{key}-csv", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip


# --- own documents ----------------------------------------------------------------------------------------------------


@st.fragment
def _documents() -> None:
    st.header("Your own documents", anchor="own")
    st.markdown(
        "How well are the right passages found in yours? They stay on this machine. (To have a base of your own answer "
        'from them: `deltalab rag ask INDEX "…" --base …` in a terminal.)'
    )
    desk = Desk(state.home(), state.owner())
    given = st.file_uploader(
        "Documents", type=[e.removeprefix(".") for e in read.ENDINGS], accept_multiple_files=True, key="documents"
    )
    for one in given or []:
        try:
            path = uploads.keep(state.owner(), one.name, one.getvalue())
            change = desk.add(read.documents(path, one.name))
        except DeltalabError as error:
            live.say(error)
            continue
        if change.added:
            st.caption(f":material/check: {plain(one.name)}: {change.added:,} passages.")
    with desk.own() as store:
        held = store.sources()
        if not held:
            st.caption("Nothing is indexed yet: txt, md, pdf or csv.")
            return
        st.caption(", ".join(f"{plain(name)} ({n:,})" for name, n in list(held.items())[:20]))
        left, right = st.columns([3, 1], vertical_alignment="bottom")
        asked = left.text_input("Search", key="own-question", max_chars=2000)
        mode = right.selectbox("How", MODES, index=MODES.index(HYBRID), key="own-mode")
        try:
            if asked.strip():
                for hit in Retriever(store, str(mode)).find(asked, SHOWN).hits:
                    text = hit.chunk.text
                    st.markdown(
                        f"**{plain(hit.chunk.citation)}**  \n{plain(text[:600])}{'…' if len(text) > 600 else ''}"
                    )
            if st.button("Measure the search", key="own-measure", icon=":material/straighten:"):
                rows = quality.all_modes(store, quality.from_chunks(store, 60))
                st.dataframe(charts_rag.quality_table(rows), hide_index=True, alt="Recall and MRR by way to search.")
                st.caption(
                    f"{rows[0].questions} sentences of your documents, each asked for with half of its words left out. "
                    "People's questions are harder; with a file of them: `deltalab rag evaluate --questions`."
                )
        except DeltalabError as error:
            live.say(error)
    st.button(
        "Remove all of them", key="own-forget", icon=":material/delete:", type="tertiary", on_click=_forget,
        args=("own",),
    )  # fmt: skip
