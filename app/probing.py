"""A measurement on a page: a button, how far it is, and what it found, shown by whoever asked for it.

    probing.section("spectrum", [run], {"rank": 4}, key="inside", show=draw, label="Measure the spectrum")

Moving a knob starts nothing. What was measured with the settings that are chosen is shown at once, from then on and
after a reload; while others are chosen, the last result stays, marked as being of other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import live, state
from app.words import t
from core.errors import DeltalabError
from core.runs.prober import CANCELLED, FAILED, FINISHED, WAITING, Probing
from core.units import seconds_text

if TYPE_CHECKING:
    from core.runs.store import Run

LOOK_SECONDS = 0.6
Show = Callable[[dict[str, Any]], None]


def section(
    name: str,
    runs: Sequence[Run],
    settings: Mapping[str, Any],
    *,
    key: str,
    show: Show,
    label: str,
    takes: str | None = None,
    keep: bool = True,
) -> None:
    """Offer a measurement, follow it, and show its result.

    Args:
        name: of the probe (core.probes.PROBES).
        runs: what it measures; the visitor's own.
        settings: its knobs, as they are chosen now.
        key: distinct on the page.
        show: draws a result.
        label: of the button.
        takes: how long it takes about, for the line beside the button; some seconds when None.
        keep: whether the last result stays while other settings are chosen, marked as such.
    """
    ids = [run.id for run in runs]
    try:
        now = state.prober().look(name, ids, settings, state.owner())
    except DeltalabError as error:
        live.say(error)
        return
    active = now is not None and now.active
    st.fragment(_section, run_every=LOOK_SECONDS if active else None)(
        name, ids, dict(settings), key, show, label, takes or t("inside.some_seconds"), active, keep
    )


def _section(
    name: str, ids: list[str], settings: dict[str, Any], key: str, show: Show, label: str, takes: str, watched: bool,
    keep: bool,
) -> None:  # fmt: skip
    last_key = f"{key}-{name}-last"
    prober, owner = state.prober(), state.owner()
    try:
        now = prober.look(name, ids, settings, owner)
    except DeltalabError as error:
        live.say(error)
        return
    if watched and (now is None or not now.active):
        st.rerun()  # it has just ended: once more, without the looking
    if now is not None and now.status == FINISHED and now.result is not None:
        st.session_state[last_key] = (ids, settings)
        show(now.result)
        st.caption(t("measure.measured", time=seconds_text(now.seconds), device=state.device_text()))
        return
    if now is not None and now.active:
        _progress(now)
        if st.button(t("measure.stop"), key=f"{key}-{name}-stop", icon=":material/stop_circle:"):
            prober.cancel(name, ids, settings, owner)
        return
    if now is not None and now.status == FAILED:
        live.say(DeltalabError(now.sentence, now.advice))
    elif now is not None and now.status == CANCELLED:
        st.caption(t("measure.stopped"))
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(label, key=f"{key}-{name}-start", icon=":material/play_arrow:", type="primary"):
            try:
                prober.start(name, ids, settings, owner)
            except DeltalabError as error:
                live.say(error)
            else:
                st.rerun()
        st.caption(t("measure.takes", time=takes))
    if keep:
        _stale(name, st.session_state.get(last_key), ids, show)


def _progress(now: Probing) -> None:
    text = t("measure.waiting") if now.status == WAITING else now.text
    st.progress(min(max(now.share or 0.0, 0.0), 1.0), text=f"{text} …")


def _stale(name: str, last: tuple[list[str], dict[str, Any]] | None, ids: list[str], show: Show) -> None:
    """The result of the settings before, if it is of the same runs."""
    if last is None or last[0] != ids:
        return
    before = state.prober().look(name, ids, last[1], state.owner())
    if before is None or before.result is None:
        return
    st.caption(f":material/update: {t('measure.stale')}")
    show(before.result)
