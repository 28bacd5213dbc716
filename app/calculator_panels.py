"""Below the calculator's answer: the same question asked of all methods, of all cards, of all models; what it takes on
disk, in time and money; the course of the step; and everything to take away. One of them is open at a time."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import charts, charts_memory, compare, live, localized, model_choice, state
from app.charts_memory import SPACE, size
from app.charts_race import title_of
from app.choices import Choice, number, one_of, whole
from app.story import plain
from app.tables import readable
from app.words import from_core, inside, n, t
from core.catalog import gpus
from core.errors import DeltalabError
from core.memory import compare as tables
from core.memory import cost as costs
from core.memory import exporting, fitter, validation
from core.memory.several import several
from core.memory.speed import SHARE, step_speed
from core.memory.storage import Storage, storage
from core.methods import METHODS
from core.units import bytes_text, count_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.charts import Chart
    from app.model_choice import Model
    from core.catalog import GpuRow
    from core.memory.compare import Answer, MethodRow
    from core.memory.rules import Rule
    from core.memory.setup import Setup
    from core.memory.sharded import Sharding

PANELS = ("methods", "cards", "gpus", "models", "disk", "cost", "step", "take")
MOST_TASKS, MOST_EXAMPLES = 10_000, 100_000_000


def panels(
    model: Model, card: GpuRow, setup: Setup, found: Answer, rules: Sequence[Rule], page: str, sharding: Sharding
) -> None:  # fmt: skip
    """A choice among them, and the chosen one.

    Args:
        page: whose choices these are. sharding: how several GPUs share the step.
    """
    show = Choice(page, "show", "methods", one_of(list(PANELS)))
    show.start()
    st.header(t("panels.head"), anchor="further")
    chosen = st.segmented_control(
        t("panels.head"), list(PANELS), format_func=lambda name: t(f"panels.names.{name}"), required=True,
        label_visibility="collapsed", **show.one(),
    )  # fmt: skip
    draw = {
        "methods": lambda: _methods(model, card, setup, page, sharding),
        "cards": lambda: _cards(model, card, setup, page, sharding),
        "gpus": lambda: _gpus(model, card, setup), "models": lambda: _models(setup),
        "disk": lambda: _disk(model, setup, page),
        "cost": lambda: _cost(model, card, setup, page, sharding), "step": lambda: _step(model, setup, page),
        "take": lambda: _take(model, card, setup, found, rules, sharding),
    }  # fmt: skip
    draw[chosen or "methods"]()


def shown(chart: Chart, key: str, table: pd.DataFrame | None = None) -> None:
    """A figure, its numbers as a table for people, and as CSV."""
    compare.draw(chart, key)
    numbers(chart.table, key, table, chart.alt)


def numbers(data: pd.DataFrame, key: str, table: pd.DataFrame | None, alt: str) -> None:
    """A table and its CSV, folded."""
    with st.expander(t("plan.numbers"), key=f"{key}-numbers"):
        seen = readable(data) if table is None else table
        localized.grid(seen, hide_index=True, height="auto" if len(seen) < 14 else 420, alt=alt)
        st.download_button(
            t("shared.table_csv"), charts.csv(data), f"{key}.csv", "text/csv", key=f"{key}-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def _ask(model: Model, setups: list[Setup]) -> None:
    try:
        for setup in setups:
            state.fitter().ask(fitter.FIT, model.source, setup, state.owner())
    except DeltalabError as error:
        live.say(error)


def _missing(model: Model, setups: list[Setup], key: str, page: str, what: str) -> None:
    """Offer to work out what nobody has traced yet, and say how far that is."""
    setups = list({repr(s): s for s in setups}.values())
    works = [state.fitter().look(fitter.FIT, model.source, s) for s in setups]
    failed = [w for w in works if w is not None and w.error is not None]
    active = [w for w in works if w is not None and w.active]
    if active:
        model_choice.watch(page)
        now = next((w for w in active if w.status == fitter.RUNNING), active[0])
        st.progress(now.share, text=f"{t('panels.to_go', count=len(active))}: {inside(now.text)}")
    never = [s for s, w in zip(setups, works, strict=True) if w is None]
    if never and not active:
        st.button(
            n("panels.missing", len(never)), key=key, icon=":material/play_arrow:", on_click=_ask,
            args=(model, never), help=what,
        )  # fmt: skip
    for text in dict.fromkeys(w.error.sentence for w in failed if w.error is not None):
        st.caption(plain(t("panels.no_formula", why=from_core(text))))


# --- side by side -----------------------------------------------------------------------------------------------------


def _methods(model: Model, card: GpuRow, setup: Setup, page: str, sharding: Sharding) -> None:
    rows: list[MethodRow] = tables.methods(model.table, model_choice.lookup(model), setup, card, sharding)
    chart = charts_memory.methods(rows, card, _card_name(card), setup.method)
    if any(r.found is not None for r in rows):
        shown(chart, "vram-methods", charts_memory.methods_table(rows, model.table.total))
    else:  # (a figure of nothing has axes alone)
        st.markdown(f"**{chart.title}**")
    st.caption(t("panels.methods_why"))
    _shared(sharding)
    refused = [r for r in rows if r.trainable is None]
    for row in refused:
        st.caption(f":material/block: {title_of(row.method)}: {plain(row.why)}")
    missing = [r.setup for r in rows if r.trainable is not None and r.found is None]
    if missing:
        _missing(model, missing, "vram-methods-missing", page, t("panels.seconds_each"))


def _card_name(card: GpuRow) -> str:
    return t("plan.this_computer") if card.name == tables.CPU else card.name


def _shared(sharding: Sharding) -> None:
    """Say that the figures are of one GPU among several, where they are."""
    if not sharding.alone:
        st.caption(f":material/hub: {t('panels.shared', sharing=_one_of(sharding))}")


def _one_of(sharding: Sharding) -> str:
    """The sharing in words: 'one of 8 GPUs, ZeRO-3'."""
    words = [t("plan.one_of", gpus=sharding.gpus) if sharding.gpus > 1 else t("plan.one_gpu")]
    if sharding.zero:
        words.append(f"ZeRO-{sharding.zero}")
    if sharding.tensor > 1:
        words.append(t("panels.tensor", gpus=sharding.tensor))
    if sharding.offload != "none":
        words.append(t("panels.offload_optimizer" if sharding.offload == "optimizer" else "panels.offload_all"))
    return ", ".join(words)


def _cards(model: Model, card: GpuRow, setup: Setup, page: str, sharding: Sharding) -> None:
    rows = tables.all_cards(model.table, model_choice.lookup(model), setup, sharding=sharding)
    shown(charts_memory.all_cards(rows, card.name), "vram-cards", charts_memory.cards_table(rows))
    st.caption(t("panels.cards_why"))
    _shared(sharding)
    missing = [r.setup for r in rows if r.found is None]
    if missing:
        _missing(model, missing, "vram-cards-missing", page, t("panels.seconds_each_card"))


def _gpus(model: Model, card: GpuRow, setup: Setup) -> None:
    rows = several(model.table, model_choice.lookup(model), setup, card)
    if not rows:
        return
    shown(charts_memory.several(rows, card, _card_name(card)), "vram-several", charts_memory.several_table(rows))
    st.caption(t("panels.gpus_why"))


def _models(setup: Setup) -> None:
    with st.spinner(t("panels.models_asking"), show_time=True):
        rows = tables.frontier(setup)
    shown(charts_memory.frontier(rows, setup.batch, setup.length), "vram-frontier", charts_memory.frontier_table(rows))
    st.caption(
        t(
            "panels.models_why_recomputed" if setup.checkpointing else "panels.models_why",
            batch=f"{setup.batch:,}", length=f"{setup.length:,}", models=len(tables.traced_models()),
        )
    )  # fmt: skip


# --- disk, time, money ------------------------------------------------------------------------------------------------


def _disk(model: Model, setup: Setup, page: str) -> None:
    tasks = Choice(page, "tasks", 10, whole(1, MOST_TASKS))
    tasks.start()
    st.number_input(t("panels.tasks"), 1, MOST_TASKS, step=1, width=320, **tasks.shown())
    count = int(tasks.value)
    found = storage(model.table, setup.method, setup.settings, count)
    with st.container(horizontal=True, gap="medium"):
        localized.metric(t("panels.model_bytes"), size(found.base), width="content")
        localized.metric(t("plan.saved"), size(found.adapter), width="content")
        localized.metric(t("panels.all_tasks"), size(found.total), width="content")
        localized.metric(t("panels.resume"), size(found.resume), width="content")
    rows: dict[str, Storage] = {}
    for name in METHODS:
        try:
            asked = tables.with_method(setup, name)
            rows[name] = storage(model.table, name, asked.settings, count)
        except DeltalabError:
            continue
    shown(charts_memory.disk(rows, setup.method), "vram-disk")
    st.caption(t("panels.disk_why"))


def epochs(page: str) -> Choice:
    """How often the examples are gone through; an import may say it too."""
    return Choice(page, "epochs", 3.0, number(0.01, 1000))


def _cost(model: Model, card: GpuRow, setup: Setup, page: str, sharding: Sharding) -> None:
    examples = Choice(page, "examples", 1000, whole(1, MOST_EXAMPLES))
    rounds = epochs(page)
    paid = Choice(page, "price", None, number(0, 100_000))
    watts = Choice(page, "watts", None, number(0, 100_000))
    for choice in (examples, rounds, paid, watts):
        choice.start()
    speed = step_speed(model.table, setup, card)
    listed, board = costs.price(card.name), costs.board_watts(card.name)
    columns = st.columns(4, gap="medium")
    with columns[0]:
        st.number_input(t("panels.examples"), 1, MOST_EXAMPLES, step=100, **examples.shown())
    with columns[1]:
        st.number_input(t("panels.epochs"), 0.01, 1000.0, step=1.0, format="%g", **rounds.shown())
    with columns[2]:
        st.number_input(
            t("panels.price"), 0.0, 100_000.0, step=0.1, format="%g",
            placeholder=f"{listed.usd_per_hour:.2f}" if listed else t("plan.unknown"), **paid.shown(),
        )  # fmt: skip
    with columns[3]:
        st.number_input(
            t("panels.watts"), 0.0, 100_000.0, step=10.0, format="%g",
            placeholder=f"{board}" if board else t("plan.unknown"), **watts.shown(),
        )  # fmt: skip
    if speed is None:
        st.markdown(t("panels.no_speed", card=plain(_card_name(card)), precision=setup.precision))
        return
    steps = costs.steps_for(setup, int(examples.value), float(rounds.value), sharding)
    rate = paid.value if paid.value is not None else (listed.usd_per_hour if listed else None)
    power = watts.value if watts.value is not None else board
    found = costs.cost(speed, steps, rate, power, sharding)
    with st.container(horizontal=True, gap="medium"):
        localized.metric(t("panels.time"), f"{charts_memory.hours(found.hours[1])}", width="content")
        localized.metric(
            t("panels.money"), t("plan.unknown") if found.money is None else f"${found.money[1]:,.2f}", width="content"
        )
        localized.metric(
            t("panels.energy"), t("plan.unknown") if found.kwh is None else f"{found.kwh[1]:,.2f} kWh", width="content"
        )
        together = speed.tokens_per_second[1] * sharding.gpus
        localized.metric(t("panels.speed"), f"{together:,.0f}", width="content")
    least, _, most = found.hours
    hours = t("plan.range", low=charts_memory.hours(least), high=charts_memory.hours(most))
    told = f"**{t('panels.steps', steps=f'{found.steps:,}', tokens=count_text(found.tokens))}: {hours}**"
    if found.money is not None:
        dollars = t("plan.range", low=f"${found.money[0]:,.2f}", high=f"${found.money[2]:,.2f}")
        told += f", {dollars}".replace("$", "\\$")
    together_why = f" {t('panels.cost_together', gpus=sharding.gpus)}" if sharding.gpus > 1 else ""
    st.markdown(f"{told}. {t('panels.cost_why', share=f'{100 * SHARE:.0f}{SPACE}%')}{together_why}")
    _speed_error()
    st.caption(_sources(listed, paid.value, board, watts.value))
    shown(charts_memory.costs(_per_card(model, setup, steps, sharding), card.name), "vram-cost")


def _speed_error() -> None:
    """How far the model of time is off, where others measured: beside every estimate of it."""
    found = validation.record().get("speed")
    if not found:
        st.caption(t("panels.speed_unscored"))
        return
    off = found["held_out"]
    titles = {r["source"]: r["source_title"] for r in found["rows"]}
    held_out = {r["source"] for r in found["rows"] if r["role"] == "held out"}
    each = "; ".join(
        t(
            "panels.speed_source", source=titles[name], cards=", ".join(group["cards"]),
            mean=f"{100 * group['mean_abs']:.0f}{SPACE}%", bias=f"{100 * group['bias']:+.0f}{SPACE}%",
        )
        for name, group in found["groups"].items()
        if name in held_out
    )  # fmt: skip
    st.caption(
        plain(
            t(
                "panels.speed_error", rows=off["rows"], mean=f"{100 * off['mean_abs']:.0f}{SPACE}%",
                worst=f"{100 * abs(off['worst']):.0f}{SPACE}%", each=each, page=t("page.validation.title"),
            )
        )
    )  # fmt: skip


def _sources(listed: costs.Price | None, paid: Any, board: int | None, watts: Any) -> str:
    if paid is not None:
        money = t("panels.price_yours", date=f"{datetime.date.today():%Y-%m-%d}")
    elif listed is not None:
        source = f"[{listed.source}]({listed.url})"
        money = t("panels.price_listed", source=source, date=f"{listed.read:%Y-%m-%d}")
    else:
        money = t("panels.price_none")
    if watts is not None:
        power = t("panels.power_yours")
    else:
        power = t("panels.power_board", watts=board) if board else t("panels.power_unknown")
    return f"{money} {power} {t('panels.power_rest')}"


def _per_card(model: Model, setup: Setup, steps: int, sharding: Sharding) -> list[tuple[str, str, costs.Cost]]:
    """(card, verdict, cost) of the cards that hold the step, at list prices; of as many of them as share it."""
    rows = tables.all_cards(
        model.table, model_choice.lookup(model), setup,
        [c for c in gpus() if costs.price(c.name) is not None], sharding,
    )  # fmt: skip
    out = []
    for row in rows:
        speed = step_speed(model.table, row.setup, row.card)
        listed = costs.price(row.card.name)
        if row.verdict in (tables.FITS, tables.TIGHT) and speed is not None and listed is not None:
            found = costs.cost(speed, steps, listed.usd_per_hour, costs.board_watts(row.card.name), sharding)
            out.append((row.card.name, row.verdict, found))
    return out


# --- the step, and what to take away ----------------------------------------------------------------------------------


def _step(model: Model, setup: Setup, page: str) -> None:
    work = state.fitter().look(fitter.TRACE, model.source, setup)
    if work is not None and work.status == fitter.FINISHED:
        result = work.result
        shown(charts_memory.course(result["timeline"], result["ledger"]["peak_at"]), "vram-course")
        st.markdown(f"**{t('panels.alive')}**")
        table = pd.DataFrame(
            [
                {t("plan.term"): one["category"], t("plan.module"): one["where"] or "–",
                 t("panels.made_by"): one["op"] or "–", t("panels.tensors"): one["count"],
                 t("panels.bytes"): bytes_text(one["bytes"])}
                for one in result["tensors"]
            ]
        )  # fmt: skip
        localized.grid(table, hide_index=True, height=420, alt=t("panels.alive_alt"))
        kernels = ", ".join(result["kernels"]) or "eager"
        st.caption(t("panels.traced", time=f"{work.seconds:.1f}{SPACE}s", kernels=kernels))
        return
    if work is not None and work.active:
        model_choice.watch(page)
        st.progress(work.share, text=f"{t('panels.tracing')}: {inside(work.text)}")
        return
    if work is not None and work.error is not None:
        live.say(work.error)
    st.markdown(t("panels.trace_why"))
    st.button(
        t("panels.trace"), key="vram-trace", icon=":material/play_arrow:", type="primary", on_click=_trace,
        args=(model, setup),
    )  # fmt: skip
    st.caption(t("panels.trace_takes"))


def _trace(model: Model, setup: Setup) -> None:
    try:
        state.fitter().ask(fitter.TRACE, model.source, setup, state.owner())
    except DeltalabError as error:
        live.say(error)


def _take(model: Model, card: GpuRow, setup: Setup, found: Answer, rules: Sequence[Rule], sharding: Sharding) -> None:
    told = list(rules)
    with st.container(horizontal=True):
        st.download_button(
            t("panels.json"), exporting.as_json(
                model.name, setup, card, found.ledger, found.found, told, sharding=dataclasses.asdict(sharding)
            ),
            "memory.json", "application/json", key="vram-json", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        st.download_button(
            t("panels.terms_csv"), exporting.as_csv(found.ledger, found.found, told), "memory.csv", "text/csv",
            key="vram-terms-csv", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    st.caption(t("panels.address"))
    try:
        text = exporting.code(model.hub, model.table, setup, sharding)
    except DeltalabError as error:
        live.say(error)
        return
    st.markdown(f"**{t('panels.script')}**")
    st.code(text, language="python", wrap_lines=True)
    source = "config.json" if model.source.startswith("{") else model.source
    st.caption(t("panels.terminal"))
    st.code(exporting.command(source, setup, card.name, sharding), language="bash", wrap_lines=True)
