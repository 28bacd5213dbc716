"""Race: methods on the same examples, in the same order, for as many steps; what each gave, and what it took."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, charts_race, compare, live, state
from app.address import keep_in_link, keep_list_in_link, linked, linked_list
from app.story import plain
from core.config import TrainConfig
from core.errors import DeltalabError
from core.literature import CAVEATS, SOURCE, method_comparison
from core.methods import METHODS
from core.race import MEASURES, Plan, Row, aggregate, cell_of, enter, entries, measure, recorded, row, steps_of
from core.runs.store import RACE
from core.units import seconds_text
from core.world import TASKS

if TYPE_CHECKING:
    from core.runs.store import Run

EVERY = list(METHODS)
TASK = next(iter(TASKS))
SEEDS = ["1", "2", "3"]
X, Y = "trainable", "forgetting"
LOOK_SECONDS = 2
MOST_RUNS_READ = 200


def render() -> None:
    """Draw the page."""
    st.title("Race", anchor=False)
    st.markdown(
        "Every method on the same examples, in the same order, for as many steps. Only the learning rate is each "
        "method's own: the one that did best in its sweep. Then no method is best at everything, and the question "
        "is which price you would rather pay."
    )
    plan = _setup()
    race = _shown_race()
    if race is not None and any(run.active for run in _runs(race)):
        st.fragment(_running, run_every=LOOK_SECONDS)(race)
    _result(race)
    _literature()
    _terminal(plan)


def _shown_race() -> str | None:
    """The race that the address names, else the visitor's newest one; None: the recorded one is shown."""
    wanted = st.query_params.get("race")
    if wanted == "recorded":
        return None
    if wanted and _runs(wanted):
        return wanted
    for run in state.store().runs(state.owner(), limit=MOST_RUNS_READ):
        if run.cell and run.cell.startswith(RACE):
            return run.cell.removeprefix(RACE)
    return None


def _runs(race: str) -> list[Run]:
    """The runs of a race of the visitor's, in the order in which they were entered."""
    return state.store().runs(state.owner(), cell=cell_of(race), limit=MOST_RUNS_READ)[::-1]


# --- setting up -------------------------------------------------------------------------------------------------------


def _setup() -> Plan:
    left, right = st.columns([2, 3], gap="large")
    with left:
        task = st.selectbox(
            "What they learn",
            list(TASKS),
            index=list(TASKS).index(linked("task", list(TASKS), TASK)),
            format_func=lambda name: TASKS[name].title,
            key="task",
            on_change=keep_in_link,
            args=("task", TASK),
        )
        seeds = st.segmented_control(
            "Runs of each, with different seeds",
            SEEDS,
            default=linked("seeds", SEEDS, SEEDS[0]),
            required=True,
            key="seeds",
            help="One run tells what happened once. With several, the bars say how much of it was luck.",
            on_change=keep_in_link,
            args=("seeds", SEEDS[0]),
        )
    with right:
        methods = st.multiselect(
            "Methods",
            EVERY,
            default=linked_list("methods", EVERY, EVERY),
            format_func=lambda name: METHODS[name].TITLE,
            key="methods",
            on_change=keep_list_in_link,
            args=("methods", EVERY),
        )
    plan = Plan(task=str(task), methods=tuple(methods), seeds=int(seeds or 1))
    if not methods:
        st.caption("Choose at least one method.")
        return plan
    plan = dataclasses.replace(plan, train=TrainConfig(steps=_steps(plan)))
    _start(plan)
    return plan


def _steps(plan: Plan) -> int:
    fewest = steps_of(plan)
    key = f"steps-{plan.task}"
    return int(
        st.number_input(
            "Steps for everybody", 5, 2000, value=fewest, step=5, key=key, width=220,
            help=f"{fewest} is what the quickest of them needs by default; with more, the slower ones catch up.",
        )
    )  # fmt: skip


def _start(plan: Plan) -> None:
    count = len(plan.methods) * plan.seeds
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button("Race", key="start-race", type="primary", icon=":material/flag:")
        st.caption(f"{count} {'run' if count == 1 else 'runs'} of {steps_of(plan)} steps. {_takes(plan)}")
    if not pressed:
        return
    try:
        entries(plan)
        race = enter(state.store(), state.owner(), plan, key=secrets.token_hex(6), title=live.title_of)
    except DeltalabError as error:
        live.say(error)
        return
    st.query_params["race"] = race
    st.rerun()


def _takes(plan: Plan) -> str:
    """How long it will take about, from the recorded race on its machine."""
    record = recorded()
    per_step = record["seconds"] / (len(record["rows"]) * record["steps"])
    seconds = per_step * len(plan.methods) * plan.seeds * steps_of(plan)
    return f"On {record['device']} that takes about {seconds_text(seconds)}; you need not wait here."


# --- while it is on ---------------------------------------------------------------------------------------------------


def _running(race: str) -> None:
    """How far the race is; in a fragment that looks again every other second."""
    runs = _runs(race)
    on = [run for run in runs if run.active]
    done = len(runs) - len(on)
    now = next((run for run in on if run.status == "running"), None)
    share = (done + (now.step / now.steps if now is not None and now.steps else 0)) / max(len(runs), 1)
    what = f"{plain(now.title or '')}, step {now.step} of {now.steps}" if now is not None else "the next one starts"
    st.progress(min(share, 1.0), text=f"{done} of {len(runs)} done: {what}")
    if st.button("Stop the race", key="stop-race", icon=":material/stop_circle:"):
        for run in on:
            state.store().cancel(run.id, state.owner())
    seen = st.session_state.get("_race_done")
    st.session_state["_race_done"] = done
    if not on or (seen is not None and seen != done):
        st.rerun(scope="app")  # one more is in: the figures below are drawn anew


# --- what came out ----------------------------------------------------------------------------------------------------


def _result(race: str | None) -> None:
    if race is None:
        record = recorded()
        seeds = "one seed" if record["seeds"] == 1 else f"{record['seeds']} seeds"
        st.header("A race that was run before", anchor="result")
        st.caption(
            f":material/videocam: Recorded on {record['device']}, {record['date']}: "
            f"{TASKS[record['task']].title}, {record['steps']} steps, {seeds}. "
            "Your own takes its place."
        )
        rows: Sequence[Row] = record["rows"]
    else:
        runs = _runs(race)
        rows = [_row(run) for run in runs]
        task = runs[0].config["task"] if runs else TASK
        st.header(f"Your race: {TASKS[task].title if task in TASKS else 'your own data'}", anchor="result")
    bands = aggregate(rows)
    for r in rows:
        if r.status in ("failed", "interrupted"):
            st.warning(f"{charts_race.title_of(r.method)}, seed {r.seed}: {plain(r.sentence)}", icon=":material/error:")
    if not bands:
        st.caption("Nobody is in yet.")
        return
    x, y = _axes()
    compare.draw(charts_race.pareto(bands, x, y), "race-front")
    st.caption(
        "A method is on the front if no other is at least as good on both axes and better on one. "
        + ("Bars span the seeds." if any(b.count > 1 for found in bands.values() for b in found.values()) else "")
    )
    table = charts_race.race_table(bands)
    st.dataframe(table, hide_index=True, alt="The race, one row a method.")
    st.download_button(
        "Table as CSV", charts.csv(charts_race.race_numbers(bands)), "race.csv", "text/csv", key="race-csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    if race is not None:
        _open(race)


def _row(run: Run) -> Row:
    told = compare.story(run, brief=True)
    events = [e for e in (told.started, *told.evaluated, told.end) if e is not None]
    return row(run.config, events, run.status, run.sentence)


def _axes() -> tuple[Any, Any]:
    names = [m.name for m in MEASURES]
    chosen = []
    for column, key, label, default in zip(st.columns(2), ("x", "y"), ("Across", "Up"), (X, Y), strict=True):
        with column:
            name = st.selectbox(
                label,
                names,
                index=names.index(linked(key, names, default)),
                format_func=lambda n: f"{measure(n).title} ({measure(n).better} is better)",
                key=key,
                on_change=keep_in_link,
                args=(key, default),
            )
            chosen.append(measure(str(name)))
    return chosen[0], chosen[1]


def _open(race: str) -> None:
    """Every run of a race is a run like any other: to be read, talked to, looked into and kept."""
    runs = {run.id: run for run in _runs(race) if run.status == "finished"}
    if not runs:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "One of its runs", list(runs), key="race-run",
            format_func=lambda i: f"{runs[i].title or 'Run'}, seed {runs[i].config['seed']}", width=420,
        )  # fmt: skip
        if chosen:
            st.page_link(
                state.page("runs"), label="Open it", icon=":material/arrow_forward:", query_params={"run": str(chosen)}
            )


# --- the literature ---------------------------------------------------------------------------------------------------


def _literature() -> None:
    st.header("What others measured", anchor="literature")
    rows = method_comparison()
    st.markdown(
        f"Hugging Face PEFT keeps [a comparison]({SOURCE}) of its methods on a model a thousand times larger: "
        "Llama-3.2-3B on grade-school mathematics."
    )
    compare.draw(charts_race.published(rows), "race-published")
    st.markdown("\n".join(f"- {text}" for text in CAVEATS))
    with st.expander("The table", key="published-table"):
        table = charts_race.published_table(rows)
        st.dataframe(
            table, hide_index=True, alt="The published experiments, one row each.",
            column_config={"source": st.column_config.LinkColumn("source", display_text="result file")},
        )  # fmt: skip
        st.download_button(
            "Table as CSV", charts.csv(table), "published.csv", "text/csv", key="published-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def _terminal(plan: Plan) -> None:
    """The command that does the same without a browser."""
    if plan.methods:
        some = "" if list(plan.methods) == EVERY else " --methods " + " ".join(plan.methods)
        usual = steps_of(dataclasses.replace(plan, train=TrainConfig()))
        steps = "" if steps_of(plan) == usual else f" --set steps={steps_of(plan)}"
        st.caption(f"The same in a terminal: `deltalab race --task {plan.task} --seeds {plan.seeds}{some}{steps}`")
