"""An experiment: the recorded run is there at once, and the learner's own run takes its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import calc, chat, configured, form, live, state
from app.cells.context import Context, frame
from app.index import Cell, recorded_path

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
            st.markdown(context.text(body["text"]))
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
    usual = configured.experiment(cell)
    config = form.run_form(usual, key, show=cell.body["knobs"], busy=busy)
    if config is not None:
        title = f"{context.lesson.navigation}: {cell.body['title']}"
        if live.start(config, key=key, cell=context.run_name(cell), title=title) is not None:
            st.rerun()
    elif run is not None and not busy and live.differs(run, form.config_of(usual, key)):
        st.caption(":material/update: The run below was made with other settings. *Run* shows what these do.")


def _own(cell: Cell, context: Context, run: Run) -> None:
    expect = _predicted(cell, context)
    if all(context.kept(guess).get("value") is not None for guess in context.lesson.predictions_of(cell.id)):
        # Not while a prediction is open: it would give the answer away.
        reached = live.outcome(live.recorded(recorded_path(context.lesson.folder, cell.id)))
        if reached is not None and reached["after"] is not None:
            expect["The recorded run reached"] = reached["after"]
    # "Run" above does what "Run again" would; a run that is not finished can be cancelled or resumed here.
    live.run_panel(run, key=context.key(cell, "own"), expect=expect, actions=run.status != "finished")
    if run.status == "finished":
        if cell.body.get("goal"):
            _goal(cell, context, run)
        st.markdown("#### Talk to it, before and after")
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
            return {"You predicted": float(value) / 100}
    return {}


def _recorded(cell: Cell, context: Context) -> None:
    """The recorded run. While a prediction is open, its loss curve only: the scores would give the answer away."""
    run = live.recorded(recorded_path(context.lesson.folder, cell.id))
    if context.kept(cell).get("shown") or not context.lesson.predictions_of(cell.id):
        live.run_panel(run, key=context.key(cell, "recorded"), expect=_predicted(cell, context))
        return
    covered = dataclasses.replace(run, events=tuple(e for e in run.events if e["kind"] in COVERED))
    live.run_panel(covered, key=context.key(cell, "covered"), brief=True)
    st.caption("The scores of this recorded run are covered, because your predictions are about them.")
    if st.button("Uncover the recorded scores", key=context.key(cell, "show"), icon=":material/visibility:"):
        context.save(cell, {**context.kept(cell), "shown": True})
        st.rerun()
