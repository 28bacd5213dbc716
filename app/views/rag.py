"""The experiment behind the guide: change a fact and ask again; then every need against every approach, measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, charts_rag, compare, documents, live, localized, probing, reading, state
from app.address import keep_in_link, linked
from app.story import plain
from app.words import from_core, n, t
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
PARAPHRASES = "https://arxiv.org/abs/2309.14316"
BUSY = 1.5  # times the processor's time by the clock: something else was running
_CHANGED, _TOLD = "_rag_changed", "_rag_told"  # session_state: the last change, the last answers


@dataclass(frozen=True)
class Told:
    """A question and its answers: who answered (None for the base, else a run's title) and whether with passages ->
    what; with the passages that were read, and how many of those that were found did not fit."""

    question: str
    wanted: str
    answers: dict[tuple[str | None, bool], str]
    hits: tuple[Hit, ...]
    retrieve_seconds: float
    left_out: int = 0


def render() -> None:
    """Draw the page."""
    st.title(t("rag.title"), anchor=False)
    st.markdown(t("rag.intro"))
    st.page_link(state.page("guide"), label=t("rag.guide"), icon=":material/alt_route:")
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
    st.header(t("rag.change"), anchor="change")
    st.markdown(t("rag.change_how", table=TABLE, people=len(PEOPLE)))
    desk = Desk(state.home(), state.owner())
    left, right = st.columns(2, gap="large")
    with left:
        name = st.selectbox(
            t("rag.person"), PEOPLE, index=PEOPLE.index(linked("person", PEOPLE, PEOPLE[0])), key="person",
            on_change=keep_in_link, args=("person", PEOPLE[0]),
        )  # fmt: skip
        kinds = list(ATTRIBUTES)
        attribute = str(
            st.segmented_control(
                t("rag.fact"),
                kinds,
                default=linked("fact", kinds, kinds[0]),
                required=True,
                key="fact",
                format_func=lambda kind: t(f"rag.facts.{kind}"),
                on_change=keep_in_link,
                args=("fact", kinds[0]),
            )
        )
    try:
        row = desk.row(str(name))
    except DeltalabError as error:  # a damaged table, say
        live.say(error)
        _reset()
        return
    now = value_in(row.text, str(name), attribute)
    with left:
        others = sorted(v for v in VALUES[attribute] if v != now)
        key = f"value-{attribute}-{name}-{now}"
        st.selectbox(t("rag.new_value"), others, key=key)
        st.button(
            t("rag.change_row"), key="change-row", icon=":material/edit:", on_click=_change,
            args=(str(name), attribute, key),
        )  # fmt: skip
    with right:
        st.markdown(t("rag.row_now", row=f"{plain(row.source)}, {plain(row.place)}"))
        st.code(row.text, language=None, wrap_lines=True)
        changed = st.session_state.get(_CHANGED)
        if changed is not None and changed.after == row.text:
            took = value_text("update_seconds", changed.seconds)
            told = t("rag.indexed", time=took, added=changed.change.added, removed=changed.change.removed)
            st.caption(f":material/bolt: {told}")
        _reset()
    _ask(desk, str(name), attribute, now)


def _reset() -> None:
    st.button(t("rag.reset"), key="reset", icon=":material/undo:", type="tertiary", on_click=_forget, args=("world",))


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
        t("rag.question"), question(name, attribute, 1), key=f"question-{name}-{attribute}", max_chars=2000,
        help=t("rag.question_help"),
    )  # fmt: skip
    left, right = st.columns(2, gap="large")
    with left:
        count = st.segmented_control(
            t("rag.passages"), PASSAGES, default=linked("passages", PASSAGES, PASSAGES[0]), required=True,
            key="passages", on_change=keep_in_link, args=("passages", PASSAGES[0]),
            help=t("rag.passages_help"),
        )  # fmt: skip
    with right:
        runs = {run.id: run for run in _runs()}
        chosen = ""
        if runs:
            chosen = st.selectbox(
                t("rag.run"), ["", *runs], key="rag-run",
                format_func=lambda i: (runs[i].title or t("runs.untitled")) if i else t("rag.no_run"),
                help=t("rag.run_help"),
            )  # fmt: skip
        else:
            st.caption(t("rag.train_one"))
    if st.button(t("rag.ask"), key="ask", type="primary", icon=":material/chat:"):
        wanted = now if asked == question(name, attribute, 1) else ""
        try:
            with st.spinner(t("chat.answering"), show_time=True):
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
    sides: dict[tuple[str | None, bool], tuple[str | None, Fitted]] = {
        (None, True): (None, read),
        (None, False): (None, memory),
    }
    if run is not None:
        sides[run.title or "", False] = (run.id, memory)
        sides[run.title or "", True] = (run.id, read)
    answers = {side: reading.said(run_id, EMBEDDED, text, LONGEST) for side, (run_id, text) in sides.items()}
    return Told(asked, wanted, answers, read.hits, found.seconds, read.left_out)


def side_title(who: str | None, reads: bool) -> str:
    """Who answered, for people: the base, or a run of the title `who`; with passages or without."""
    how = "read" if reads else "memory"
    return t(f"rag.base_side.{how}") if who is None else t(f"rag.run_side.{how}", run=who or t("rag.your_run"))


def _told(told: Told) -> None:
    """The answers side by side, then the sources."""
    st.markdown(f":material/chat: **{plain(told.question)}**")
    if told.wanted:
        st.caption(t("rag.row_says", value=plain(told.wanted)))
    for column, (side, text) in zip(st.columns(len(told.answers), gap="medium"), told.answers.items(), strict=True):
        with column:
            st.caption(plain(side_title(*side)))
            st.code(text or t("rag.no_answer"), language=None, wrap_lines=True)
            st.caption(plain(reading.source_of(text, told.hits, told.question)))
    st.caption(t("rag.retrieved", ms=f"{1000 * told.retrieve_seconds:.1f}"))
    cited = citations(next(iter(told.answers.values())), [hit.chunk.text for hit in told.hits])
    reading.sources(told.hits, cited, told.left_out)


# --- the experiment ---------------------------------------------------------------------------------------------------


def _result() -> tuple[dict[str, Any], bool]:
    """The visitor's own experiment if there is one, else the recorded; and whether it is their own."""
    st.header(t("rag.experiment"), anchor="experiment")
    seeds = st.segmented_control(
        t("rag.seeds"), SEEDS, default=linked("seeds", SEEDS, SEEDS[0]), required=True,
        key="seeds", on_change=keep_in_link, args=("seeds", SEEDS[0]),
    )  # fmt: skip
    record = recorded()
    settings = {"seeds": int(seeds or 1)}
    per_seed = record["seconds"] / record["settings"]["seeds"]
    probing.section(
        "rag", [], settings, key="rag", show=_nothing, label=t("rag.run_here"),
        takes=t("rag.takes", time=seconds_text(per_seed * settings["seeds"]), device=record["device"]),
    )  # fmt: skip
    own = state.prober().look("rag", [], settings, state.owner())
    if own is not None and own.result is not None:
        return {**own.result, "cells": [Cell(**c) for c in own.result["cells"]]}, True
    return record, False


def _nothing(_: Mapping[str, Any]) -> None:
    """The result is drawn below, in place of the recorded one."""


def _needs(found: charts_rag.Bands, result: Mapping[str, Any], own: bool) -> None:
    settings = result["settings"]
    seeds = n("race.so_many_seeds", settings["seeds"])
    if own:
        st.caption(f":material/person: {t('rag.own', seeds=seeds)}")
    else:
        told = t(
            "rag.recorded",
            device=result["device"],
            date=result["date"],
            seeds=seeds,
            time=seconds_text(result["seconds"]),
        )
        st.caption(f":material/history: {t('run.recorded')} · {told}")
    compare.draw(charts_rag.needs(found), "rag-needs")
    st.caption(t("rag.bars_seeds" if settings["seeds"] > 1 else "rag.bars_seed"))
    table = charts_rag.needs_table(found)
    # (Not a grid: on a phone its first column, which does not break into lines, would be all that is seen.)
    with st.container(key="table-needs"):
        localized.table(table, border="horizontal", hide_index=True, alt=t("rag.needs_alt"))
    st.caption(t("rag.dash"))
    _csv(charts_rag.numbers(found, "right"), "rag-right")
    st.subheader(t("rag.costs"), anchor="costs")
    costs = charts_rag.costs_table(found)
    with st.container(key="table-costs"):
        localized.table(costs, border="horizontal", hide_index=True, alt=t("rag.costs_alt"))
    st.caption(t("rag.costs_how"))
    _large()
    _examples(result)
    _preset()


def _large() -> None:
    """What a search of a large index takes, as recorded."""
    found = bench.recorded()
    quick = found["modes"][HYBRID]
    st.caption(
        t(
            "rag.large_busy" if quick["median_ms"] > BUSY * quick["cpu_median_ms"] else "rag.large",
            rows=TABLE,
            passages=f"{found['chunks']:,}",
            size=bytes_text(found["bytes"]),
            cpu=f"{quick['cpu_median_ms']:.0f}",
            clock=f"{quick['median_ms']:.0f}",
            device=found["device"],
            date=found["date"],
        )
    )


def _preset() -> None:
    """RAFT to try: its rows, and the way to train on them."""
    with st.expander(t("rag.raft"), key="rag-preset"):
        st.markdown(t("rag.raft_how"))
        if st.button(t("rag.raft_make"), key="raft-world", icon=":material/dataset:"):
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
    with st.expander(t("rag.examples"), key="rag-examples"):
        rows = [
            {
                t("rag.column.approach"): from_core(experiment.ARMS[e["arm"]]),
                t("rag.column.need"): from_core(experiment.NEEDS[e["need"]].title), t("rag.column.asked"): e["asked"],
                t("rag.column.wanted"): e["wanted"], t("rag.column.answered"): e["answer"],
                t("rag.column.right"): t("rag.yes") if e["right"] else t("rag.no"),
                t("rag.column.passages"): " | ".join(e["passages"]),
            }
            for e in shown
        ]  # fmt: skip
        localized.grid(rows, hide_index=True, height=360, alt=t("rag.examples_alt"))


def _verdicts(found: charts_rag.Bands) -> None:
    st.header(t("rag.verdicts"), anchor="verdicts")
    rows = verdicts(found)
    counts = Counter(v.verdict for v in rows)
    told = ", ".join(f"{counts[kind]} {_kind(kind)}" for kind in BADGES if counts[kind])
    st.markdown(t("rag.verdicts_sum", claims=len(rows), told=told))
    st.caption(t("rag.verdicts_how", share=f"{100 * GOOD:.0f}"))
    for concern in dict.fromkeys(v.claim.concern for v in rows):
        st.markdown(f"**{plain(from_core(concern))}**")
        sides = [v for v in rows if v.claim.concern == concern]
        columns = dict(zip((RAG, TUNING), st.columns(2, gap="large"), strict=True))
        for verdict in sides:
            side = verdict.claim.side
            _verdict(columns[side] if side in columns else st.container(), verdict)
    table = charts_rag.verdict_table(rows)
    with st.expander(t("rag.one_table"), key="verdict-table"):
        localized.grid(
            table,
            hide_index=True,
            height="content",
            alt=t("rag.verdicts_alt"),
        )
    _csv(table, "rag-verdicts")


BADGES = {
    CONFIRMED: ("green", ":material/check:", "confirmed"),
    NOT_CONFIRMED: ("orange", ":material/close:", "not_confirmed"),
    UNDECIDED: ("gray", ":material/question_mark:", "undecided"),
    UNKNOWN: ("gray", ":material/remove:", "unknown"),
}
"""verdict -> colour and sign of its badge, and the key of its words; in the order in which they are counted."""


def _kind(verdict: str) -> str:
    return t(f"rag.verdict.{BADGES[verdict][2]}")


def _verdict(place: Any, found: Verdict) -> None:
    """One cell of the usual table: what is said, the verdict, and what it rests on."""
    colour, icon, _ = BADGES[found.verdict]
    badge = f":{colour}-badge[{icon} {_kind(found.verdict)}]"
    with place:
        st.markdown(f"{plain(from_core(found.claim.side))}: {plain(from_core(found.claim.says))}  \n{badge}")
        lines = [plain(part) for part in (from_core(found.but), charts_rag.measured_text(found.figures)) if part]
        lines.append(t("rag.small", told=plain(from_core(found.claim.small))))
        st.caption("  \n".join(lines).replace(" %", "\u00a0%"))


@st.fragment
def _wordings(result: Mapping[str, Any]) -> None:
    rows = result["wordings"]
    st.header(t("rag.wordings"), anchor="wordings")
    st.markdown(t("rag.wordings_how", link=PARAPHRASES))
    if not rows:
        st.caption(t("rag.wordings_none"))
        return
    ways = list(WORDINGS)
    how = st.segmented_control(
        t("rag.told_as"), ways, default=linked("told", ways, ways[0]), required=True, key="told",
        format_func=lambda way: t(f"rag.ways.{way}"), on_change=keep_in_link, args=("told", ways[0]),
    )  # fmt: skip
    options = [str(c) for c in WORDINGS[str(how)]]
    name = f"wordings-{how}"
    chosen = st.select_slider(
        t("rag.number_of_wordings"), options, value=linked(name, options, options[0]), key=name, on_change=keep_in_link,
        args=(name, options[0]),
    )  # fmt: skip
    count = int(str(chosen))
    mine = [r for r in rows if (r["told"], r["wordings"]) == (how, count)]
    if mine:
        right = sum(r["right"] for r in mine) / len(mine)
        named = sum(r["named"] for r in mine) / len(mine)
        localized.metric(t("rag.right"), f"{100 * right:.0f} %", width="content")
        if round(100 * named) > round(100 * right):
            st.caption(t("rag.named", share=f"{100 * named:.0f}"))
    compare.draw(charts_rag.wordings(rows, (str(how), count)), "rag-wordings")
    for way in ways:
        enough = threshold(rows, way)
        tried = max(WORDINGS[way])
        told = {"way": t(f"rag.told_in.{way}"), "share": f"{100 * GOOD:.0f}"}
        if enough is None:
            st.caption(t("rag.never_enough", tried=tried, **told))
        else:
            st.caption(n("rag.enough", enough, **told))
    if threshold(rows, STATEMENTS_TOLD) is None:
        st.caption(t("rag.paper"))


def _csv(table: Any, key: str) -> None:
    st.download_button(
        t("shared.table_csv"), charts.csv(table), f"{key}.csv", "text/csv", key=f"{key}-csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip
