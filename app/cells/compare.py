"""A comparison: several runs of one idea, made one after the other, in one table and one figure.

The recorded runs are there at once; the learner's own take their place, one by one as they come in.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import calc, charts, charts_lesson, configured, findings, form, live, localized, state
from app.cells import reveal
from app.cells.context import Context, frame
from app.charts_lesson import Compared
from app.compare import story
from app.index import Cell, recorded_path
from app.story import Story, plain
from app.words import from_core, t
from core.config import RunConfig, problems
from core.errors import DeltalabError
from core.runs import together
from core.units import seconds_text

if TYPE_CHECKING:
    from core.runs.store import Run

Runs = dict[str, "Run | None"]


def own_runs(cell: Cell, context: Context) -> Runs:
    """The learner's newest run of each name."""
    names = [run["name"] for run in cell.body["runs"]]
    return together.newest(state.store(), context.owner, context.run_name(cell), names)


def settle(cell: Cell, context: Context) -> None:
    """Note that the learner has finished all the runs, once."""
    if context.kept(cell).get("runs") is None:
        runs = own_runs(cell, context)
        if all(run is not None and run.status == "finished" for run in runs.values()):
            ids = {name: run.id for name, run in runs.items() if run is not None}
            context.save(cell, {**context.kept(cell), "runs": ids})


def render(cell: Cell, context: Context) -> None:
    """Draw the comparison: its knobs and Run, then the learner's own runs, or the recorded ones."""
    body = cell.body
    with frame(cell, context, body["title"]):
        if body.get("text"):
            context.say(body["text"], f"{cell.id}:text")
        runs = own_runs(cell, context)
        _controls(cell, context)
        if any(run is not None for run in runs.values()):
            _own(cell, context, runs)
        else:
            _recorded(cell, context)


# --- starting ---------------------------------------------------------------------------------------------------------


@st.fragment
def _controls(cell: Cell, context: Context) -> None:
    """The common knobs and the button, in a fragment: moving a knob redraws nothing else."""
    key, runs = context.key(cell), own_runs(cell, context)
    busy = any(run is not None and run.active for run in runs.values())
    usual = configured.comparison(cell)
    changed = form.common_knobs(next(iter(usual.values())), key, cell.body.get("knobs") or ())
    wrong: list[str] = []
    try:
        wanted = configured.comparison(cell, changed)
        wrong = list(dict.fromkeys(p for config in wanted.values() for p in problems(config)))
    except DeltalabError as error:
        wanted, wrong = usual, [str(error)]
    for sentence in wrong:
        st.error(plain(from_core(sentence)), icon=":material/error:")
    with st.container(horizontal=True, vertical_alignment="center"):
        label = t("comparison.run", count=len(wanted))
        pressed = st.button(
            t("comparison.running") if busy else label,
            key=f"{key}-run", type="primary", disabled=busy or bool(wrong),
            icon=":material/hourglass_top:" if busy else ":material/play_arrow:",
        )  # fmt: skip
        if not busy:
            st.caption(_takes(cell, context))
    if pressed and start(cell, context, wanted):
        st.rerun()
    made = [(run, wanted[name]) for name, run in runs.items() if run is not None]
    if made and not busy and any(live.differs(run, config) for run, config in made):
        st.caption(f":material/update: {t('comparison.stale', button=label)}")


def start(cell: Cell, context: Context, configs: dict[str, RunConfig]) -> bool:
    """Queue the runs, once however often it is clicked; False after saying why not."""
    key = context.key(cell)
    token = st.session_state.setdefault(f"{key}-intent", secrets.token_urlsafe(12))
    labels = {run["name"]: run["label"] for run in cell.body["runs"]}
    titles = {name: f"{context.lesson.navigation}: {cell.body['title']}, {label}" for name, label in labels.items()}
    try:
        made = together.enter(
            state.store(), context.owner, configs, cell=context.run_name(cell), key=f"{key}:{token}", titles=titles
        )
        if not any(run.active for run in made.values()):  # the click before last: this one means new runs
            token = st.session_state[f"{key}-intent"] = secrets.token_urlsafe(12)
            together.enter(
                state.store(), context.owner, configs, cell=context.run_name(cell), key=f"{key}:{token}", titles=titles
            )
    except DeltalabError as error:
        live.say(error)
        return False
    return True


def _takes(cell: Cell, context: Context) -> str:
    """How long the runs took where they were recorded."""
    seconds = 0.0
    for run in cell.body["runs"]:
        lines = live.recorded(recorded_path(context.lesson.folder, f"{cell.id}/{run['name']}")).events
        seconds += float(lines[-1].get("seconds") or 0.0)
    return t("comparison.takes", time=seconds_text(seconds))


# --- as a part of Run all ---------------------------------------------------------------------------------------------


def _wanted(cell: Cell, context: Context) -> dict[str, RunConfig]:
    """The runs with the knobs as they stand."""
    first = next(iter(configured.comparison(cell).values()))
    return configured.comparison(cell, form.changed_knobs(first, context.key(cell), cell.body.get("knobs") or ()))


def begin(cell: Cell, context: Context) -> bool:
    """Queue the runs."""
    return start(cell, context, _wanted(cell, context))


def standing(cell: Cell, context: Context) -> str:
    """Whether all the runs are there with the knobs as they stand ("done"), "on", "failed", or "open"."""
    wanted = _wanted(cell, context)
    runs = own_runs(cell, context)
    if any(run is not None and run.active for run in runs.values()):
        return "on"
    if any(run is None or live.differs(run, wanted[name]) for name, run in runs.items()):
        return "open"
    return "done" if all(run is not None and run.status == "finished" for run in runs.values()) else "failed"


def halt(cell: Cell, context: Context) -> None:
    """Cancel the runs that are on or wait."""
    for run in own_runs(cell, context).values():
        if run is not None and run.active:
            state.store().cancel(run.id, context.owner)


# --- what came out ----------------------------------------------------------------------------------------------------


def _own(cell: Cell, context: Context, runs: Runs) -> None:
    """The learner's runs: the one that is on moves; those that are in stand side by side."""
    key = context.key(cell)
    active = [(name, run) for name, run in runs.items() if run is not None and run.active]
    labels = {run["name"]: run["label"] for run in cell.body["runs"]}
    for name, run in runs.items():
        if run is not None and run.status in ("failed", "interrupted"):
            st.warning(f"{plain(labels[name])}: {live.spoken(run.sentence, run.advice)}", icon=":material/error:")
    if active:
        name, now = next(((n, r) for n, r in active if r.status == "running"), active[0])
        done = len(runs) - len(active)
        with st.container(horizontal=True, vertical_alignment="center"):
            now_on = t("comparison.now", done=done, total=len(runs), name=plain(labels[name]))
            st.markdown(f":material/hourglass_top: {now_on}")
            if st.button(t("comparison.stop"), key=f"{key}-stop", icon=":material/stop_circle:"):
                halt(cell, context)
                st.rerun()
        live.run_panel(now, key=f"{key}-now", brief=True, actions=False)
    told = [
        (Compared(labels[name], run.config["method"], _figures(story(run))), story(run))
        for name, run in runs.items()
        if run is not None and run.status == "finished"
    ]
    if not told:
        return
    st.markdown(f":material/person: {t('comparison.own', count=len(told), total=len(runs))}")
    _side_by_side(cell, context, [c for c, _ in told], [s for _, s in told], "own")


def _figures(told: Story) -> dict[str, float]:
    return calc.run_figures([dict(e) for e in (told.started, *told.steps, *told.evaluated, told.end) if e is not None])


def _recorded(cell: Cell, context: Context) -> None:
    """The recorded runs. While a prediction is open, their names only: whose loss ends lowest would give it away."""
    told, stories = [], []
    for run in cell.body["runs"]:
        path = recorded_path(context.lesson.folder, f"{cell.id}/{run['name']}")
        told.append(Compared(run["label"], run["method"], calc.run_figures(calc.recorded_events(path))))
        stories.append(live.story_of(live.recorded(path)))
    label = live.recorded(recorded_path(context.lesson.folder, f"{cell.id}/{cell.body['runs'][0]['name']}")).label
    st.markdown(f":material/history: {t('comparison.recorded')} · {plain(label)}")
    own = context.lesson.predictions_of(cell.id)
    if context.kept(cell).get("shown") or not (own or reveal.hidden(cell, context)):
        _side_by_side(cell, context, told, stories, "recorded")
        return
    st.markdown("\n".join(f"- {plain(c.label)}" for c in told))
    st.caption(t("comparison.covered"))
    if st.button(t("comparison.uncover"), key=context.key(cell, "show"), icon=":material/visibility:"):
        context.save(cell, {**context.kept(cell), "shown": True})
        st.rerun()


def _side_by_side(cell: Cell, context: Context, told: Sequence[Compared], stories: Sequence[Story], part: str) -> None:
    """Figure, table, CSV, and what they show."""
    key, axes = context.key(cell, part), cell.body.get("figure")
    if axes:
        log, joined = axes.get("scale") == "log", bool(axes.get("joined", True))
        drawn = charts_lesson.against(told, axes["x"], axes["y"], log=log, joined=joined)
        findings.shown(drawn, f"{key}-figure", f"{cell.id}-figure")
    else:
        named = [(c.label, s) for c, s in zip(told, stories, strict=True)]
        findings.shown(charts.losses(named), f"{key}-losses", f"{cell.id}-losses")
    columns: list[str] = cell.body["columns"]
    table: Any = charts_lesson.table(told, columns)
    localized.grid(table, hide_index=True, alt=t("comparison.alt"))
    st.download_button(
        t("comparison.csv"), charts.csv(charts_lesson.numbers(told, columns)), f"{cell.id}.csv", "text/csv",
        key=f"{key}-table-csv", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    if cell.body.get("finding"):
        if part == "own":
            st.caption(t("comparison.written"))
        context.say(cell.body["finding"], f"{cell.id}:finding")
