"""Models that fit this machine, to choose a base from: each with its memory, its time, and what it asks for first.

proposals.choose("hub", config)      # choosing one writes its hub id into the widget of that key
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import streamlit as st

from app.words import t
from core.config import RunConfig
from core.errors import BadInput
from core.export.link import name_of
from core.methods import METHODS
from core.units import bytes_text, count_text, range_text

if TYPE_CHECKING:
    from core.catalog.proposals import Offer, Proposal

HEIGHT = 340


def choose(key: str, config: RunConfig, knob: str) -> None:
    """Draw the list.

    Args:
        key: of the text input that a choice fills. config: the settings that memory and time are predicted for. knob:
            what the form's widgets begin with: where a batch has to be cut into passes, a choice sets both of them.
    """
    try:
        offer = _offer(json.dumps(dataclasses.replace(config, base="owner/name").to_dict(), sort_keys=True))
    except BadInput:
        st.caption(t("proposals.settings_first"))
        return
    place = offer.place
    st.caption(
        t(
            "proposals.intro", place=place.name, memory=bytes_text(place.memory_bytes), source=place.source,
            steps=f"{offer.steps:,}", batch=offer.batch, length=offer.length, method=METHODS[config.method].TITLE,
        )
    )  # fmt: skip
    tuned = st.toggle(
        t("proposals.tuned"), value=True, key=f"{key}-tuned", help=t("proposals.tuned_help"),
    )  # fmt: skip
    by_id = {_hub_id(p, tuned): p for p in offer.models}
    if not by_id:
        st.markdown(t("proposals.none"))
        return
    here = _here(tuple(by_id))
    batch, passes = (name_of(knob, config.method, config.task, "train", f) for f in ("batch_size", "accumulation"))
    sizes = {
        i: {batch: p.rows, passes: config.train.accumulation * p.passes} if p.passes > 1 else {}
        for i, p in by_id.items()
    }
    with st.container(height=HEIGHT if len(by_id) > 4 else "content", border=True, key=f"{key}-proposals"):
        ids = list(by_id)
        now = st.session_state.get(key)
        st.radio(
            t("proposals.fit"), ids, index=ids.index(now) if now in by_id else None, key=f"{key}-proposed-{tuned}",
            format_func=lambda i: f"**{by_id[i].name}** · {_size(by_id[i])}",
            captions=[told(p, config.method, offer, i in here) for i, p in by_id.items()],
            label_visibility="collapsed", on_change=_take, args=(key, f"{key}-proposed-{tuned}", sizes),
        )  # fmt: skip


def _size(proposal: Proposal) -> str:
    return t("proposals.parameters", count=count_text(proposal.parameters))


def _take(key: str, chosen: str, sizes: dict[str, dict[str, int]]) -> None:
    """The radio's callback: its choice becomes the base, with as many rows a pass as fit."""
    model = st.session_state.get(chosen)
    if model:
        st.session_state[key] = model
        st.session_state.update(sizes[model])


def _hub_id(proposal: Proposal, tuned: bool) -> str:
    return proposal.instruct if tuned and proposal.instruct else proposal.hub


def told(p: Proposal, method: str, offer: Offer, here: bool) -> str:
    """A proposal in a line: memory, time, what is fetched, and under which licence."""
    memory = t("proposals.memory", needed=bytes_text(p.bytes), there=bytes_text(offer.place.memory_bytes))
    memory += f" ({t('proposals.traced_as', method=METHODS[p.traced].TITLE)})" if p.traced != method else ""
    memory += f", {t('plan.tight')}" if p.verdict == "tight" else ""
    parts = [memory]
    if p.passes > 1:
        parts.append(t("proposals.passes", rows=p.rows, passes=p.passes))
    parts.append(range_text(60 * p.minutes[0], 60 * p.minutes[2]) if p.minutes else t("proposals.no_time"))
    parts.append(t("proposals.here") if here else t("proposals.fetches", bytes=bytes_text(p.download_bytes)))
    parts.append(t("proposals.licence_gated" if p.gated else "proposals.licence", licence=p.licence))
    return " · ".join(parts)


@st.cache_data(show_spinner=False, ttl=30, max_entries=64)
def _offer(record: str) -> Offer:
    """Kept for half a minute: free memory changes."""
    from core.catalog.proposals import attached_place, fits
    from core.hardware import attached_light

    return fits(attached_place(attached_light()), RunConfig.from_dict(json.loads(record)))


@st.cache_data(show_spinner=False, ttl=30, max_entries=8)
def _here(ids: tuple[str, ...]) -> frozenset[str]:
    """Which of these the hub's cache has."""
    from core.base import is_cached

    return frozenset(i for i in ids if is_cached(i))
