"""Claims: what courses say about fine-tuning, each computed here, with a verdict and its reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app import charts, localized
from app.choices import Choice, one_of
from app.story import plain
from app.words import from_core, n, t

if TYPE_CHECKING:
    from core.claims import Claim

PAGE = "claims"
ALL = "all"
VERDICTS = {
    "holds": (":material/check_circle:", "claims.holds"), "holds if": (":material/rule:", "claims.holds_if"),
    "off": (":material/block:", "claims.off"), "open": (":material/help:", "claims.open"),
}  # fmt: skip
TOPICS = [ALL, "memory", "parameters", "storage", "hardware", "quality"]
TOPIC = Choice(PAGE, "topic", ALL, one_of(TOPICS))


def render() -> None:
    """Draw the page."""
    st.title(t("page.claims.title"), anchor=False)
    st.markdown(t("claims.intro"))
    with st.spinner(t("claims.computing"), show_time=True):
        every = _every()
    counts = {verdict: sum(c.verdict == verdict for c in every) for verdict in VERDICTS}
    st.markdown(
        " ".join(
            VERDICTS[verdict][0] + " " + n(f"claims.sum.{verdict.replace(' ', '_')}", count)
            for verdict, count in counts.items()
            if count
        )
    )
    TOPIC.start()
    st.segmented_control(
        t("claims.topic"), TOPICS, format_func=lambda key: t(f"claims.topics.{key}"), required=True,
        label_visibility="collapsed", **TOPIC.one(),
    )  # fmt: skip
    shown = [c for c in every if TOPIC.value in (None, ALL, c.topic)]
    from core.claims.hardware import PRICES

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
                t("claims.price", card=row["gpu"]), 1, 1_000_000, int(row["usd"]), step=100, width=220,
                key=f"claims-price-{row['gpu']}",
            )  # fmt: skip


def _claim(one: Claim) -> None:
    icon, verdict = VERDICTS[one.verdict]
    with st.container(key=f"row-claim-{one.number}"):
        st.subheader(f"{one.number}. {plain(from_core(one.text))}", anchor=f"claim-{one.number}")
        st.markdown(f"{icon} **{t(verdict)}.** {plain(from_core(one.told))}")
        true, looked = one.cases
        if looked > 1:
            st.caption(t("claims.cases", true=f"{true:,}", looked=f"{looked:,}"))
        with st.expander(t("claims.more"), key=f"claim-{one.number}-more"):
            table = pd.DataFrame(
                [
                    {t("claims.figure"): f.name, t("claims.value"): f.text, t("claims.formula"): f.formula}
                    for f in one.figures
                ]
            )
            localized.grid(table, hide_index=True, alt=t("claims.alt", number=one.number))
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
        t("claims.csv"), charts.csv(rows), "claims.csv", "text/csv", key="claims-csv", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip
