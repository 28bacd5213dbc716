"""An experiment: the recorded run is there at once, and the learner's own run takes its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import calc, chat, configured, form, live, state, tasks
from app.cells.context import Context, frame
from app.index import Cell, recorded_path
from app.words import t
from core.config import RunConfig

if TYPE_CHECKING:
    from core.runs.store import Run

COVERED = ("started", "step")
"""What of a recorded run gives no score away."""


def settle(cell: Cell, context: Context) -> None:
    """Note that the learner has finished a run of their own, once."""
    if context.kept(cell).get("run") is None:
        run = context.finished_run(cell)
        if run is not None:
            context.save(cell, {**context.kept(cell), "run": run.id})


def render(cell: Cell, context: Context) -> None:
    """Draw the experiment: its knobs and Run, then the learner's own run, or the recorded one."""
    body = cell.body
    with frame(cell, context, body["title"]):
        if body.get("text"):
            context.say(body["text"], f"{cell.id}:text")
        _controls(cell, context)
        run = live.latest(context.run_name(cell))
        if run is None:
            _recorded(cell, context)
        else:
            _own(cell, context, run)


@st.fragment
def _controls(cell: Cell, context: Context) -> None:
    """The knobs, in a fragment: moving one redraws nothing else; starting a run redraws the page."""
    run = live.latest(context.run_name(cell))
    busy = run is not None and run.status in live.ACTIVE
    key = context.key(cell)
    usual, locked, hidden = _usual(cell, context)
    config = form.run_form(usual, key, show=cell.body["knobs"], lock=locked, hide=hidden, busy=busy)
    if config is not None:
        if _start(config, cell, context):
            st.rerun()
    elif run is not None and not busy and live.differs(run, form.config_of(usual, key, (*locked, *hidden))):
        st.caption(f":material/update: {t('experiment.stale', button=t('form.run'))}")


def _usual(cell: Cell, context: Context) -> tuple[RunConfig, tuple[str, ...], tuple[str, ...]]:
    """What the form shows untouched, with what a teacher's link sets, and the knobs that it locks and hides."""
    task = tasks.of(context.lesson.url_path)
    locked, hidden = (task.locked, task.hidden) if task else ((), ())
    config = tasks.preset(configured.experiment(cell), task)
    if task is not None and not task.folded:
        in_sight = cell.body["knobs"]
        hidden = (*hidden, *(knob.name for knob in form.knobs(config) if knob.name not in in_sight))
        locked = locked if "seed" in in_sight else (*locked, "seed")
    return config, tuple(locked), tuple(hidden)


def _shown(cell: Cell, context: Context) -> RunConfig:
    """The run as the form shows it now."""
    usual, locked, hidden = _usual(cell, context)
    return form.config_of(usual, context.key(cell), (*locked, *hidden))


def _start(config: RunConfig, cell: Cell, context: Context) -> bool:
    title = f"{context.lesson.navigation}: {cell.body['title']}"
    return live.start(config, key=context.key(cell), cell=context.run_name(cell), title=title) is not None


# --- as a part of Run all ---------------------------------------------------------------------------------------------


def begin(cell: Cell, context: Context) -> bool:
    """Start a run with the settings that the form shows."""
    return _start(_shown(cell, context), cell, context)


def standing(cell: Cell, context: Context) -> str:
    """Whether a run with the settings that the form shows is there ("done"), "on", "failed", or none is ("open")."""
    run = live.latest(context.run_name(cell))
    if run is None or live.differs(run, _shown(cell, context)):
        return "on" if run is not None and run.active else "open"
    return "on" if run.active else "done" if run.status == "finished" else "failed"


def halt(cell: Cell, context: Context) -> None:
    """Cancel the run."""
    run = live.latest(context.run_name(cell))
    if run is not None and run.active:
        state.store().cancel(run.id, context.owner)


def _own(cell: Cell, context: Context, run: Run) -> None:
    expect = _predicted(cell, context)
    if all(context.kept(guess).get("value") is not None for guess in context.lesson.predictions_of(cell.id)):
        # Not while a prediction is open: it would give the answer away.
        reached = live.outcome(live.recorded(recorded_path(context.lesson.folder, cell.id)))
        if reached is not None and reached["after"] is not None:
            expect[t("experiment.recorded_reached")] = reached["after"]
    # "Run" above does what "Run again" would; a run that is not finished can be cancelled or resumed here.
    live.run_panel(run, key=context.key(cell, "own"), expect=expect, actions=run.status != "finished")
    if run.status == "finished":
        if cell.body.get("goal"):
            _goal(cell, context, run)
        st.markdown(f"#### {t('experiment.talk')}")
        asked, knobs = cell.body.get("chat"), cell.body.get("chat_knobs", False)
        chat.section(run, key=context.key(cell, "chat"), suggestions=asked, knobs=knobs)


def reached(goal: Mapping[str, Any], figures: Mapping[str, float]) -> bool | None:
    """Whether a run with these figures meets a goal; None when it has no such figure."""
    value = figures.get(goal["what"])
    if value is None:
        return None
    return bool(goal.get("least", value) <= value <= goal.get("most", value))


def _goal(cell: Cell, context: Context, run: Run) -> None:
    """Whether the learner's run does what the lesson asks of it."""
    goal = cell.body["goal"]
    figures = calc.quantities([event for _, event in state.store().events(run.id, context.owner, limit=200_000)])
    met = reached(goal, figures)
    if met is None:
        return
    value = calc.quantity_text(goal["what"], figures[goal["what"]])
    words = context.text(goal["met" if met else "missed"])
    (st.success if met else st.warning)(f"{words} ({value})", icon=":material/task_alt:" if met else ":material/build:")


def _predicted(cell: Cell, context: Context) -> dict[str, float]:
    """The learner's prediction of the task's score, for the panel's closing words."""
    for guess in context.lesson.predictions_of(cell.id):
        value = context.kept(guess).get("value")
        if guess.body["what"] == "exact_match_after" and value is not None:
            return {t("experiment.predicted"): float(value) / 100}
    return {}


def _recorded(cell: Cell, context: Context) -> None:
    """The recorded run. While a prediction is open, its loss curve only: the scores would give the answer away."""
    run = live.recorded(recorded_path(context.lesson.folder, cell.id))
    if context.kept(cell).get("shown") or not context.lesson.predictions_of(cell.id):
        live.run_panel(run, key=context.key(cell, "recorded"), expect=_predicted(cell, context))
        return
    shown = [e for e in run.events if e["kind"] in COVERED]
    if any(guess.body["what"].endswith("seconds") for guess in context.lesson.predictions_of(cell.id)):
        # Asked for the time, one is not told it by the line above the curve.
        shown = [{**e, "seconds": 0.0} if e["kind"] == "step" else e for e in shown]
    covered = dataclasses.replace(run, events=tuple(shown))
    live.run_panel(covered, key=context.key(cell, "covered"), brief=True)
    st.caption(t("experiment.covered"))
    if st.button(t("experiment.uncover"), key=context.key(cell, "show"), icon=":material/visibility:"):
        context.save(cell, {**context.kept(cell), "shown": True})
        st.rerun()
