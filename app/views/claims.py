"""Claims: what courses say about fine-tuning, each computed here, with a verdict and its reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app import charts
from app.choices import Choice, one_of
from app.story import plain

if TYPE_CHECKING:
    from core.claims import Claim

PAGE = "claims"
PRICES = 25  # the claim whose inputs a reader may change
ALL = "all"
VERDICTS = {
    "holds": (":material/check_circle:", "holds"), "holds if": (":material/rule:", "holds if"),
    "off": (":material/block:", "is off"), "open": (":material/help:", "open"),
}  # fmt: skip
SUMS = {"holds": "hold", "holds if": "hold under assumptions", "off": "are off", "open": "open: not measured here"}
TOPICS = [ALL, "memory", "parameters", "storage", "hardware", "quality"]
TOPIC = Choice(PAGE, "topic", ALL, one_of(TOPICS))


def render() -> None:
    """Draw the page."""
    st.title("Claims", anchor=False)
    st.markdown(
        "Statements that circulate in courses on fine-tuning. Each is computed here, from the models' own tables, from "
        "traced steps and from this program's recorded runs: under which assumptions it holds, and where it does not."
    )
    with st.spinner("Computing every claim", show_time=True):
        every = _every()
    counts = {verdict: sum(c.verdict == verdict for c in every) for verdict in VERDICTS}
    st.markdown(
        " ".join(
            f"{VERDICTS[verdict][0]} **{count}** {words}."
            for verdict, count in counts.items()
            if count
            for words in [SUMS[verdict]]
        )
    )
    TOPIC.start()
    st.segmented_control(
        "Topic", TOPICS, format_func=str.capitalize, required=True, label_visibility="collapsed",
        **TOPIC.one(),
    )  # fmt: skip
    shown = [c for c in every if TOPIC.value in (None, ALL, c.topic)]
    for one in shown:
        if one.number == PRICES:
            _priced(one)
        else:
            _claim(one)
    _table(every)


@lru_cache(maxsize=1)
def _every() -> tuple[Claim, ...]:
    """All claims; they depend on nothing but the catalogue, so they are computed once per server."""
    from core.claims import claims

    return claims()


@st.fragment
def _priced(listed: Claim) -> None:
    """The claim on prices, at those that the reader enters."""
    from core.claims import with_prices
    from core.claims.hardware import listed_prices

    rows = listed_prices()
    given = {}
    for row in rows:
        typed = st.session_state.get(f"claims-price-{row['gpu']}")
        if typed is not None and typed != row["usd"]:
            given[row["gpu"]] = float(typed)
    _claim(with_prices(given) if given else listed)
    with st.container(horizontal=True, key="row-claims-prices"):
        for row in rows:
            st.number_input(
                f"{row['gpu']}, US dollars", 1, 1_000_000, int(row["usd"]), step=100, width=220,
                key=f"claims-price-{row['gpu']}",
            )  # fmt: skip


def _claim(one: Claim) -> None:
    icon, verdict = VERDICTS[one.verdict]
    with st.container(key=f"row-claim-{one.number}"):
        st.subheader(f"{one.number}. {plain(one.text)}", anchor=f"claim-{one.number}")
        st.markdown(f"{icon} **{verdict.capitalize()}.** {plain(one.told)}")
        true, looked = one.cases
        if looked > 1:
            st.caption(f"True in {true} of the {looked} cases looked at.")
        with st.expander("Figures, assumptions, reference", key=f"claim-{one.number}-more"):
            table = pd.DataFrame(
                [{"Figure": f.name, "Value": f.text, "How it comes about": f.formula} for f in one.figures]
            )
            st.dataframe(table, hide_index=True, alt=f"The figures behind claim {one.number}.")
            for text in one.assumptions:
                st.markdown(f"- {plain(text)}")
            for r in one.references:
                where = f", {plain(r.where)}" if r.where else ""
                title = f"[{plain(r.title)}]({r.address})" if r.address else plain(r.title)
                st.caption(f"{plain(r.authors)} ({r.year}), {title}{where}")


def _table(every: Sequence[Claim]) -> None:
    rows = pd.DataFrame(
        [
            {"claim": c.number, "topic": c.topic, "verdict": c.verdict, "figure": f.name, "value": f.value,
             "unit": f.unit, "formula": f.formula}
            for c in every
            for f in c.figures
        ]
    )  # fmt: skip
    st.download_button(
        "All figures as CSV", charts.csv(rows), "claims.csv", "text/csv", key="claims-csv", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip
