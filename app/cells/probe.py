"""A measurement of a finished run, or of the base: the recorded result at once, then one of the learner's own runs."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import calc, configured, findings, live, probing, state
from app.cells.context import Context, frame
from app.form import on_paper, shown
from app.index import Cell, probed_path
from app.story import plain
from app.words import from_core, n, t
from core.errors import DeltalabError, Refused
from core.probes import probe as find
from core.runs import together
from core.units import seconds_text

if TYPE_CHECKING:
    from core.runs.store import Run


def own_runs(cell: Cell, context: Context) -> list[Run] | None:
    """The learner's own finished runs that are measured, in order; None while one of them is missing."""
    found = []
    for name in cell.body["of"]:
        run = own_run(name, context)
        if run is None:
            return None
        found.append(run)
    return found


def own_run(name: str, context: Context) -> Run | None:
    """The learner's newest finished run of an experiment, or of a comparison (comparison/run)."""
    cell_id, _, run = name.partition("/")
    stored = context.run_name(context.lesson.cell(cell_id))
    return context.newest_finished(together.cell_of(stored, run) if run else stored)


def own_result(cell: Cell, context: Context) -> dict[str, Any] | None:
    """What the learner measured last, as far as it is still there."""
    kept = context.kept(cell).get("measured")
    if not kept:
        return None
    try:
        found = state.prober().look(cell.body["probe"], kept["runs"], kept["settings"], context.owner)
    except DeltalabError:
        return None  # the run is gone
    return found.result if found is not None else None


def render(cell: Cell, context: Context) -> None:
    """Draw the measurement: its knobs and button, the learner's own result, or the recorded one."""
    body = cell.body
    with frame(cell, context, body["title"]):
        if body.get("text"):
            context.say(body["text"], f"{cell.id}:text")
        runs = own_runs(cell, context)
        settings = configured.measurement(cell, _knobs(cell, context) if body.get("knobs") else {})
        now = False
        if runs is None:
            titles = [context.lesson.cell(name.partition("/")[0]) for name in body["of"]]
            links = ", ".join(dict.fromkeys(f"[{plain(c.body['title'])}](#{c.id})" for c in titles))
            st.caption(t("probe.first", links=links))
        else:
            now = _own(cell, context, runs, settings)
        before = own_result(cell, context)
        if before is None:
            _recorded(cell, context)
        elif not now:
            st.caption(f":material/update: {t('probe.earlier')}")
            _earlier(cell, context, before)


def _knobs(cell: Cell, context: Context) -> dict[str, Any]:
    """Widgets for the settings that the learner may change; returns those that differ from the lesson's."""
    usual = configured.measurement(cell)
    fields = find(cell.body["probe"]).Config.__dataclass_fields__
    columns = st.columns(2, gap="medium")
    told = []
    for i, name in enumerate(cell.body["knobs"]):
        meta, default = fields[name].metadata, usual[name]
        words, unit = name.replace("_", " "), meta.get("unit") or ""
        label = from_core(words.capitalize() + (f" ({unit})" if unit and unit not in words else ""))
        common: dict[str, Any] = {"key": context.key(cell, name), "help": from_core(meta.get("doc") or "") or None}
        with columns[i % 2]:
            if isinstance(default, bool):
                st.toggle(label, value=default, **common)
            elif meta.get("choices"):
                options = list(meta["choices"])
                st.selectbox(label, options, index=options.index(default), **common)
            elif isinstance(default, int):
                st.number_input(label, meta.get("low"), meta.get("high"), default, 1, **common)
            elif isinstance(default, float):
                st.number_input(label, meta.get("low"), meta.get("high"), default, **common)
            else:
                st.text_input(label, value=str(default), **common)
            if meta.get("why"):
                st.caption(t("probe.default", value=shown(default), why=from_core(meta["why"])))
        told.append(t("form.told", label=label, value=shown(st.session_state.get(common["key"], default))))
    on_paper(context.key(cell), told)
    return changed(cell, context)


def changed(cell: Cell, context: Context) -> dict[str, Any]:
    """The settings that the learner has changed, as the widgets stand."""
    usual = configured.measurement(cell)
    out: dict[str, Any] = {}
    for name in cell.body.get("knobs") or ():
        value = st.session_state.get(context.key(cell, name), usual[name])
        if isinstance(usual[name], str):
            value = (value or "").strip()
        elif isinstance(usual[name], (int, float)) and value is not None:
            value = type(usual[name])(value)
        if value is not None and value != usual[name]:
            out[name] = value
    return out


# --- as a part of Run all ---------------------------------------------------------------------------------------------


def _now(cell: Cell, context: Context) -> tuple[list[str], dict[str, Any]]:
    """What would be measured: the runs' ids and the settings.

    Raises:
        Refused: a run is missing.
    """
    runs = own_runs(cell, context)
    if runs is None:
        raise Refused("A run that is to be measured is missing.", "It comes before this.")
    return [run.id for run in runs], configured.measurement(cell, changed(cell, context))


def begin(cell: Cell, context: Context) -> bool:
    """Start the measurement."""
    state.prober().start(cell.body["probe"], *_now(cell, context), context.owner)
    return True


def standing(cell: Cell, context: Context) -> str:
    """How the measurement with the settings as they stand is: "done", "on", "failed", or "open"."""
    try:
        now = state.prober().look(cell.body["probe"], *_now(cell, context), context.owner)
    except DeltalabError:
        return "open"
    if now is None:
        return "open"
    return "on" if now.active else "done" if now.result is not None else "failed"


def halt(cell: Cell, context: Context) -> None:
    """Stop the measurement."""
    with contextlib.suppress(DeltalabError):
        state.prober().cancel(cell.body["probe"], *_now(cell, context), context.owner)


# --- the result -------------------------------------------------------------------------------------------------------


def _own(cell: Cell, context: Context, runs: list[Run], settings: dict[str, Any]) -> bool:
    """Offer, follow and show the measurement of the learner's runs; True when it is made."""
    recorded = calc.probed_result(probed_path(context.lesson.folder, cell.id))
    probing.section(
        cell.body["probe"], runs, settings, key=context.key(cell, "own"), keep=False,
        show=partial(_found, cell=cell, context=context, runs=[run.id for run in runs], settings=settings),
        label=n("probe.measure", len(runs)) if runs else t("probe.measure_here"),
        takes=t("probe.takes", time=seconds_text(recorded["seconds"])),
    )  # fmt: skip
    found = state.prober().look(cell.body["probe"], [run.id for run in runs], settings, context.owner)
    return found is not None and found.result is not None


def _found(result: dict[str, Any], cell: Cell, context: Context, runs: list[str], settings: dict[str, Any]) -> None:
    """Show the learner's result, and note it once."""
    asked, kept = {"runs": runs, "settings": settings}, context.kept(cell)
    if kept.get("measured") != asked:
        context.save(cell, {**kept, "measured": asked})
        st.rerun(scope="app")  # the recorded result goes, predictions are revealed, and one more step is done
    st.markdown(f":material/person: {t('probe.own')}")
    findings.draw(cell.body["probe"], result, context.key(cell, "own"), _method(cell, context))


@st.fragment
def _earlier(cell: Cell, context: Context, result: dict[str, Any]) -> None:
    findings.draw(cell.body["probe"], result, context.key(cell, "earlier"), _method(cell, context))


def _method(cell: Cell, context: Context) -> str:
    of = cell.body["of"]
    if not of:
        return ""
    return configured.runs(context.lesson)[of[0]].method


@st.fragment
def _recorded(cell: Cell, context: Context) -> None:
    """The recorded result, covered while a prediction about it is open."""
    found = calc.probed_result(probed_path(context.lesson.folder, cell.id))
    p = found["provenance"]
    st.markdown(f":material/history: {t('probe.recorded')} · {plain(live.made_where(p))}")
    if context.lesson.predictions_of(cell.id) and not context.kept(cell).get("shown"):
        st.caption(t("probe.covered"))
        if st.button(t("probe.uncover"), key=context.key(cell, "show"), icon=":material/visibility:"):
            context.save(cell, {**context.kept(cell), "shown": True})
            st.rerun(scope="app")
        return
    findings.draw(cell.body["probe"], found["result"], context.key(cell, "recorded"), _method(cell, context))
    if cell.body.get("finding"):
        context.say(cell.body["finding"], f"{cell.id}:finding")
