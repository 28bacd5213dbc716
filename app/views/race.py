"""Race: methods on the same examples, in the same order, for as many steps; what each gave, and what it took."""

from __future__ import annotations

import dataclasses
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts, charts_race, compare, data, live, localized, run_choice, state, uploads
from app.address import keep_in_link, keep_list_in_link, linked, linked_list
from app.story import plain
from app.tables import widths
from app.words import from_core, n, t
from core.base import CLASSIFICATION
from core.config import EMBEDDED, TrainConfig
from core.errors import DeltalabError
from core.export.link import OWN
from core.literature import CAVEATS, SOURCE, method_comparison
from core.methods import METHODS
from core.race import (
    MEASURES,
    Plan,
    Row,
    aggregate,
    borrowed,
    cell_of,
    enter,
    entries,
    examples_of,
    expected_seconds,
    measure,
    recorded,
    row,
    steps_of,
    swept_steps,
    usual_steps,
)
from core.runs.store import RACE
from core.units import seconds_text
from core.world import TASKS

if TYPE_CHECKING:
    from core.runs.store import Run

EVERY = list(METHODS)
TASK = next(iter(TASKS))
LIMITS = TrainConfig()  # length and share held back of a visitor's own file: as a run has them by default
SEEDS = ["1", "2", "3"]
X, Y = "trainable", "exact_match"
LOOK_SECONDS = 2
MOST_RUNS_READ = 200


def render() -> None:
    """Draw the page."""
    st.title(t("page.race.title"), anchor=False)
    st.markdown(t("race.intro"))
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
        names = [*TASKS, OWN]
        task = st.selectbox(
            t("race.task"),
            names,
            index=names.index(linked("task", names, TASK)),
            format_func=lambda name: t("race.own") if name == OWN else from_core(TASKS[name].title),
            key="task",
            on_change=keep_in_link,
            args=("task", TASK),
        )
        seeds = st.segmented_control(
            t("race.seeds"),
            SEEDS,
            default=linked("seeds", SEEDS, SEEDS[0]),
            required=True,
            key="seeds",
            help=t("race.seeds_help"),
            on_change=keep_in_link,
            args=("seeds", SEEDS[0]),
        )
    base, facts, file = _material(own=task == OWN)
    encoder = facts.get("task") == CLASSIFICATION
    able = [name for name in EVERY if not (encoder and METHODS[name].START == "other")]
    with right:
        methods = st.multiselect(
            t("race.methods"),
            able,
            default=linked_list("methods", able, able),
            format_func=lambda name: METHODS[name].TITLE,
            key="methods",
            on_change=keep_list_in_link,
            args=("methods", able),
            placeholder=t("shared.choose"),
        )
    plan = Plan(
        base=base or EMBEDDED, revision=facts.get("asked_revision"), task=None if task == OWN else str(task),
        data=None if file is None else str(file), methods=tuple(methods), seeds=int(seeds or 1),
    )  # fmt: skip
    if not methods:
        st.caption(t("race.no_method"))
        return plan
    if base is None or (plan.task is None and file is None):
        st.caption(t("race.waits"))
        return plan
    if encoder and plan.task is not None:
        st.info(t("playground.encoder_task"))
        return plan
    plan = dataclasses.replace(plan, train=_loop(plan))
    _start(plan)
    _rates(plan)
    return plan


def _material(*, own: bool) -> tuple[str | None, dict[str, Any], Path | None]:
    """The base (None while it cannot be used), its facts, and the visitor's file, if they learn from one."""
    elsewhere = linked("base", list(run_choice.BASES), EMBEDDED) != EMBEDDED
    with st.expander(t("race.another_base"), expanded=elsewhere, key="race-base"):
        base, facts, _ = run_choice.base(inside=True)
    if not own:
        return base, facts, None
    given = run_choice.own_file(encoder=facts.get("task") == CLASSIFICATION)
    if given is None:
        return base, facts, None
    path = uploads.keep(state.owner(), given.name, given.getvalue())
    st.query_params["kept"] = uploads.token(path)  # a reload, or a link, has it again
    with st.expander(t("data.yours"), key="race-data"):
        usable = data.show_report(path, base or EMBEDDED, LIMITS.max_length, LIMITS.held_out, 0)
    if not usable:
        st.warning(t("race.unusable"))
    return base, facts, path if usable else None


def _rates(plan: Plan) -> None:
    """Whose learning rate was found on another task than the one that is raced, or in runs of another length."""
    for tasks, methods in borrowed(plan).items():
        names = ", ".join(METHODS[m].TITLE for m in methods)
        where = ", ".join(f"“{from_core(TASKS[task].title)}”" for task in tasks)
        st.caption(t("race.borrowed" if tasks else "race.unswept", methods=names, tasks=where))
    swept = swept_steps(plan)
    if swept is not None:
        least, most = swept
        span = str(least) if least == most else t("race.span", least=least, most=most)
        st.caption(t("race.other_steps", swept=span, steps=steps_of(plan)))


def _loop(plan: Plan) -> TrainConfig:
    """Steps for everybody; on another base than the embedded one also how many examples go into a pass, since what fits
    is not known."""
    own = plan.base != EMBEDDED or plan.task is None
    with st.container(horizontal=True):
        steps = st.number_input(
            t("race.steps"), 5, 2000, value=steps_of(plan), step=5, width=220,
            key=f"steps-{plan.base}-own" if own else f"steps-{plan.task}",
            help=t("race.steps_help", steps=steps_of(plan), usual=usual_steps(plan)),
        )  # fmt: skip
        if not own:
            return TrainConfig(steps=int(steps))
        batch = st.number_input(
            t("race.batch"), 1, 1024, value=LIMITS.batch_size, key="race-batch", width=220, help=t("race.batch_help")
        )
    return TrainConfig(steps=int(steps), batch_size=int(batch))


def _start(plan: Plan) -> None:
    count = len(plan.methods) * plan.seeds
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(t("race.start"), key="start-race", type="primary", icon=":material/flag:")
        told = n("race.runs", count, steps=steps_of(plan), examples=examples_of(plan))
        st.caption(f"{told} {_takes(plan)}".strip())
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
    """How long it will take about, from the recorded race on its machine; '' on other bases and data."""
    if plan.base != EMBEDDED or plan.task is None:
        return ""
    return t("race.takes", device=recorded()["device"], time=seconds_text(expected_seconds(plan)))


# --- while it is on ---------------------------------------------------------------------------------------------------


def _running(race: str) -> None:
    """How far the race is; in a fragment that looks again every other second."""
    runs = _runs(race)
    on = [run for run in runs if run.active]
    done = len(runs) - len(on)
    now = next((run for run in on if run.status == "running"), None)
    share = (done + (now.step / now.steps if now is not None and now.steps else 0)) / max(len(runs), 1)
    what = t("race.next")
    if now is not None:
        what = t("race.at_step", title=plain(now.title or ""), step=now.step, steps=now.steps)
    st.progress(min(share, 1.0), text=t("race.done", done=done, total=len(runs), what=what))
    if st.button(t("race.stop"), key="stop-race", icon=":material/stop_circle:"):
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
        st.header(t("race.recorded"), anchor="result")
        told = t(
            "race.recorded_where",
            device=record["device"],
            date=record["date"],
            task=from_core(TASKS[record["task"]].title),
            steps=record["steps"],
            examples=record["batch_size"],
            seeds=n("race.so_many_seeds", record["seeds"]),
        )
        st.caption(f":material/history: {told}")
        rows: Sequence[Row] = record["rows"]
        loop = TrainConfig(steps=record["steps"], batch_size=record["batch_size"])
        _rates(Plan(task=record["task"], methods=tuple(aggregate(rows)), train=loop))
    else:
        runs = _runs(race)
        rows = [_row(run) for run in runs]
        task = runs[0].config["task"] if runs else TASK
        what = from_core(TASKS[task].title) if task in TASKS else t("race.own_data")
        st.header(t("race.yours", task=what), anchor="result")
        if runs:
            first = runs[0].config
            methods = tuple(dict.fromkeys(run.config["method"] for run in runs))
            loop = TrainConfig(steps=first["train"]["steps"])
            _rates(Plan(base=first["base"], task=first["task"], data=first["data"], methods=methods, train=loop))
    bands = aggregate(rows)
    for r in rows:
        if r.status in ("failed", "interrupted"):
            what = t("race.of_seed", title=charts_race.title_of(r.method), seed=r.seed)
            st.warning(f"{what}: {plain(r.sentence)}", icon=":material/error:")
    if not bands:
        st.caption(t("race.nobody"))
        return
    x, y = _axes()
    if x.name == y.name:
        st.caption(t("race.two"))
    else:
        compare.draw(charts_race.pareto(bands, x, y), "race-front")
        several = any(b.count > 1 for found in bands.values() for b in found.values())
        st.caption(f"{t('race.front')} {t('race.bars') if several else ''}")
    idle = charts_race.unlearnt(bands)
    if idle:
        st.caption(idle)
    table = charts_race.race_table(bands)
    localized.grid(table, hide_index=True, height="content", column_config=widths(table), alt=t("race.alt"))
    st.download_button(
        t("shared.table_csv"), charts.csv(charts_race.race_numbers(bands)), "race.csv", "text/csv", key="race-csv",
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
    for column, key, label, default in zip(
        st.columns(2), ("x", "y"), (t("race.across"), t("race.up")), (X, Y), strict=True
    ):
        with column:
            name = st.selectbox(
                label,
                names,
                index=names.index(linked(key, names, default)),
                format_func=axis_title,
                key=key,
                on_change=keep_in_link,
                args=(key, default),
            )
            chosen.append(measure(str(name)))
    return chosen[0], chosen[1]


def axis_title(name: str) -> str:
    """A measure's name for people, and which end of it is the better one."""
    return t(f"race.better.{measure(name).better}", title=from_core(measure(name).title))


def _open(race: str) -> None:
    """Every run of a race is a run like any other: to be read, talked to, looked into and kept."""
    runs = {run.id: run for run in _runs(race) if run.status == "finished"}
    if not runs:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            t("race.one_run"), list(runs), key="race-run",
            width=420, format_func=lambda i: t(
                "race.of_seed", title=runs[i].title or t("runs.untitled"), seed=runs[i].config["seed"]
            ),
        )  # fmt: skip
        if chosen:
            st.page_link(
                state.page("runs"),
                label=t("race.open"),
                icon=":material/arrow_forward:",
                query_params={"run": str(chosen)},
            )


# --- the literature ---------------------------------------------------------------------------------------------------


def _literature() -> None:
    st.header(t("race.others"), anchor="literature")
    rows = method_comparison()
    st.markdown(t("race.peft", link=SOURCE))
    compare.draw(charts_race.published(rows), "race-published")
    st.markdown("\n".join(f"- {from_core(text)}" for text in CAVEATS))
    with st.expander(t("race.table"), key="published-table"):
        table = charts_race.published_table(rows)
        localized.grid(
            table, hide_index=True, alt=t("race.published_alt"),
            column_config={"source": _source_column()},
        )  # fmt: skip
        st.download_button(
            t("shared.table_csv"), charts.csv(table), "published.csv", "text/csv", key="published-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def _source_column() -> Any:
    return st.column_config.LinkColumn(t("race.source"), display_text=t("race.result_file"))


def _terminal(plan: Plan) -> None:
    """The command that does the same without a browser."""
    if not plan.methods or (plan.task is None and plan.data is None):
        return
    base = "" if plan.base == EMBEDDED else f" --base {shlex.quote(plan.base)}"
    base += f" --revision {shlex.quote(plan.revision)}" if plan.revision else ""
    what = f" --task {plan.task}" if plan.task else f" --data {shlex.quote(Path(str(plan.data)).name)}"
    some = "" if list(plan.methods) == EVERY else " --methods " + " ".join(plan.methods)
    loop = {
        "steps": (steps_of(plan), steps_of(dataclasses.replace(plan, train=TrainConfig()))),
        "batch_size": (plan.train.batch_size, LIMITS.batch_size),
    }
    said = [f"{name}={value}" for name, (value, usual) in loop.items() if value != usual]
    knobs = " --set " + " ".join(said) if said else ""
    st.caption(t("race.terminal", command=f"deltalab race{base}{what} --seeds {plan.seeds}{some}{knobs}"))
