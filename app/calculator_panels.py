"""Below the calculator's answer: the same question asked of all methods, of all cards, of all models; what it takes on
disk, in time and money; the course of the step; and everything to take away. One of them is open at a time."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import charts, charts_memory, compare, live, model_choice, state
from app.charts_memory import SPACE, size
from app.charts_race import title_of
from app.choices import Choice, number, one_of, whole
from app.story import plain
from core.catalog import gpus
from core.errors import DeltalabError
from core.memory import compare as tables
from core.memory import cost as costs
from core.memory import exporting, fitter
from core.memory.several import several
from core.memory.speed import REACHED, step_speed
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

PANELS = {
    "methods": "All methods", "cards": "All cards", "gpus": "Several GPUs", "models": "Largest models",
    "disk": "On disk", "cost": "Time and cost", "step": "The step", "take": "Take away",
}  # fmt: skip
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
    st.header("Look further", anchor="further")
    chosen = st.segmented_control(
        "Look further", list(PANELS), format_func=PANELS.__getitem__, required=True, label_visibility="collapsed",
        **show.one(),
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
    with st.expander("The numbers", key=f"{key}-numbers"):
        seen = data if table is None else table
        st.dataframe(seen, hide_index=True, height="auto" if len(seen) < 14 else 420, alt=alt)
        st.download_button(
            "Table as CSV", charts.csv(data), f"{key}.csv", "text/csv", key=f"{key}-csv", icon=":material/download:",
            on_click="ignore",
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
        st.progress(now.share, text=f"{len(active)} to go: {now.text[:1].lower()}{now.text[1:]}")
    never = [s for s, w in zip(setups, works, strict=True) if w is None]
    if never and not active:
        st.button(
            f"Work out the {len(never)} missing" if len(never) > 1 else "Work out what is missing", key=key,
            icon=":material/play_arrow:", on_click=_ask, args=(model, never), help=f"Some seconds {what}.",
        )  # fmt: skip
    for text in dict.fromkeys(w.error.sentence for w in failed if w.error is not None):
        st.caption(plain(f"Not to be worked out by formula: {text}"))


# --- side by side -----------------------------------------------------------------------------------------------------


def _methods(model: Model, card: GpuRow, setup: Setup, page: str, sharding: Sharding) -> None:
    rows: list[MethodRow] = tables.methods(
        model.table, lambda asked: state.fitter().surrogate(model.source, asked), setup, card, sharding
    )
    name = "this computer" if card.name == tables.CPU else card.name
    chart = charts_memory.methods(rows, card, name, setup.method)
    shown(chart, "vram-methods", charts_memory.methods_table(rows, model.table.total))
    st.caption(
        "Each with its own defaults; kinds of LoRA share the rank, targets and dropout chosen above. How much a method "
        "trains hardly decides: where its parameters sit does, because that decides which activations are kept."
    )
    _shared(sharding)
    refused = [r for r in rows if r.trainable is None]
    for row in refused:
        st.caption(f":material/block: {title_of(row.method)}: {plain(row.why)}")
    missing = [r.setup for r in rows if r.trainable is not None and r.found is None]
    if missing:
        _missing(model, missing, "vram-methods-missing", page, "each")


def _shared(sharding: Sharding) -> None:
    """Say that the figures are of one GPU among several, where they are."""
    if not sharding.alone:
        st.caption(f":material/hub: Each figure is of {_one_of(sharding)}.")


def _one_of(sharding: Sharding) -> str:
    """The sharing in words: 'one of 8 GPUs, ZeRO-3'."""
    words = [f"one of {sharding.gpus} GPUs" if sharding.gpus > 1 else "one GPU"]
    if sharding.zero:
        words.append(f"ZeRO-{sharding.zero}")
    if sharding.tensor > 1:
        words.append(f"tensor parallelism of {sharding.tensor}")
    if sharding.offload != "none":
        what = "the optimizer's state" if sharding.offload == "optimizer" else "states and weights"
        words.append(f"{what} in the CPU's memory")
    return ", ".join(words)


def _cards(model: Model, card: GpuRow, setup: Setup, page: str, sharding: Sharding) -> None:
    rows = tables.all_cards(
        model.table, lambda asked: state.fitter().surrogate(model.source, asked), setup, sharding=sharding
    )
    shown(charts_memory.all_cards(rows, card.name), "vram-cards", charts_memory.cards_table(rows))
    st.caption(
        "Usable memory is the least that CUDA was seen to print, not what is on the box. Cards of before 2020 have no "
        "bfloat16: there the passes take 32 bits. Makers other than NVIDIA: attention as on NVIDIA's cards is assumed."
    )
    _shared(sharding)
    missing = [r.setup for r in rows if r.found is None]
    if missing:
        _missing(model, missing, "vram-cards-missing", page, "for each kind of card")


def _gpus(model: Model, card: GpuRow, setup: Setup) -> None:
    rows = several(model.table, lambda asked: state.fitter().surrogate(model.source, asked), setup, card)
    if not rows:
        return
    name = "this computer" if card.name == tables.CPU else card.name
    shown(charts_memory.several(rows, card, name), "vram-several", charts_memory.several_table(rows))
    st.caption(
        "Every GPU has a batch of its own. ZeRO-1 cuts the optimizer's state into as many parts as there are GPUs, "
        "ZeRO-2 the gradients too, ZeRO-3 (FSDP2) also the weights, and fetches a block's when it computes; what is "
        "kept for the backward pass stays whole. Closed forms over the traced step (Rajbhandari et al. 2020, "
        "arXiv:1910.02054, section 5); no run on several GPUs was measured here. Tensor parallelism and offloading are "
        "among the settings above."
    )


def _models(setup: Setup) -> None:
    with st.spinner("Asking the same of every model", show_time=True):
        rows = tables.frontier(setup)
    shown(charts_memory.frontier(rows, setup.batch, setup.length), "vram-frontier", charts_memory.frontier_table(rows))
    recomputed = "activations recomputed" if setup.checkpointing else "activations kept"
    st.caption(
        f"Batch {setup.batch:,}, rows of {setup.length:,} tokens, {recomputed}; the likely total decides, among the "
        f"{len(tables.traced_models())} models that come traced. BitFit is for those with biases. "
        "*Not worked out*: no model came traced with these settings for such a card; the answer above works out the "
        "one that you chose."
    )


# --- disk, time, money ------------------------------------------------------------------------------------------------


def _disk(model: Model, setup: Setup, page: str) -> None:
    tasks = Choice(page, "tasks", 10, whole(1, MOST_TASKS))
    tasks.start()
    st.number_input("Tasks, each with its own fine-tuned version", 1, MOST_TASKS, step=1, width=320, **tasks.shown())
    count = int(tasks.value)
    found = storage(model.table, setup.method, setup.settings, count)
    with st.container(horizontal=True, gap="medium"):
        st.metric("The model, 16 bits", size(found.base), width="content")
        st.metric("Saved per task", size(found.adapter), width="content")
        st.metric("All tasks", size(found.total), width="content")
        st.metric("To go on after a break", size(found.resume), width="content")
    rows: dict[str, Storage] = {}
    for name in METHODS:
        try:
            asked = tables.with_method(setup, name)
            rows[name] = storage(model.table, name, asked.settings, count)
        except DeltalabError:
            continue
    shown(charts_memory.disk(rows, setup.method), "vram-disk")
    st.caption(
        "What trains is saved in 32 bits, as PEFT does; a whole model in 16 bits. To go on after a break takes what "
        "trains and AdamW's two means."
    )


def _cost(model: Model, card: GpuRow, setup: Setup, page: str, sharding: Sharding) -> None:
    examples = Choice(page, "examples", 1000, whole(1, MOST_EXAMPLES))
    epochs = Choice(page, "epochs", 3.0, number(0.01, 1000))
    paid = Choice(page, "price", None, number(0, 100_000))
    watts = Choice(page, "watts", None, number(0, 100_000))
    for choice in (examples, epochs, paid, watts):
        choice.start()
    speed = step_speed(model.table, setup, card)
    listed, board = costs.price(card.name), costs.board_watts(card.name)
    columns = st.columns(4, gap="medium")
    with columns[0]:
        st.number_input("Examples, one a row", 1, MOST_EXAMPLES, step=100, **examples.shown())
    with columns[1]:
        st.number_input("Times each is seen", 0.01, 1000.0, step=1.0, format="%g", **epochs.shown())
    with columns[2]:
        st.number_input(
            "Price of an hour, USD", 0.0, 100_000.0, step=0.1, format="%g",
            placeholder=f"{listed.usd_per_hour:.2f}" if listed else "unknown", **paid.shown(),
        )  # fmt: skip
    with columns[3]:
        st.number_input(
            "Power, W", 0.0, 100_000.0, step=10.0, format="%g",
            placeholder=f"{board}" if board else "unknown", **watts.shown(),
        )  # fmt: skip
    if speed is None:
        st.markdown(
            f"How fast {plain('this computer' if card.name == tables.CPU else card.name)} computes in "
            f"{setup.precision} is not in the catalogue, so nothing is said about time."
        )
        return
    steps = costs.steps_for(setup, int(examples.value), float(epochs.value), sharding)
    rate = paid.value if paid.value is not None else (listed.usd_per_hour if listed else None)
    power = watts.value if watts.value is not None else board
    found = costs.cost(speed, steps, rate, power, sharding)
    with st.container(horizontal=True, gap="medium"):
        st.metric("Time", f"{charts_memory.hours(found.hours[1])}", width="content")
        st.metric("Money", "unknown" if found.money is None else f"${found.money[1]:,.2f}", width="content")
        st.metric("Energy", "unknown" if found.kwh is None else f"{found.kwh[1]:,.2f} kWh", width="content")
        together = speed.tokens_per_second[1] * sharding.gpus
        st.metric("Tokens per second", f"{together:,.0f}", width="content")
    least, _, most = found.hours
    dollars = "" if found.money is None else f", ${found.money[0]:,.2f} to ${found.money[2]:,.2f}"
    st.markdown(
        f"**{found.steps:,} steps, {count_text(found.tokens)} tokens: {charts_memory.hours(least)} to "
        f"{charts_memory.hours(most)}**".replace("$", "\\$")
        + dollars.replace("$", "\\$")
        + ". "
        f"This is a model, not a measurement: it takes the arithmetic of the step and the card's printed rate, and "
        f"supposes that {100 * REACHED[2]:.0f} to {100 * REACHED[0]:.0f}{SPACE}% of the rate is reached, most likely "
        f"{100 * REACHED[1]:.0f}{SPACE}%. "
        "Short rows, small models and slow data end at the slow side."
        + (
            f" All {sharding.gpus} GPUs together; what they send each other takes time that is not in it."
            if sharding.gpus > 1 else ""
        )
    )  # fmt: skip
    st.caption(_sources(listed, paid.value, board, watts.value))
    shown(charts_memory.costs(_per_card(model, setup, steps, sharding), card.name), "vram-cost")


def _sources(listed: costs.Price | None, paid: Any, board: int | None, watts: Any) -> str:
    if paid is not None:
        money = f"Price: yours, {datetime.date.today():%Y-%m-%d}."
    elif listed is not None:
        money = f"Price: [{listed.source}]({listed.url}), read {listed.read:%Y-%m-%d}; type in what you pay."
    else:
        money = "Price: none is known for this card; type in what you pay."
    if watts is not None:
        power = "Power: yours."
    else:
        power = f"Power: {board} W, the board's rating (TechPowerUp's data)." if board else "Power: unknown."
    return f"{money} {power} The rest of the computer is not counted."


def _per_card(model: Model, setup: Setup, steps: int, sharding: Sharding) -> list[tuple[str, str, costs.Cost]]:
    """(card, verdict, cost) of the cards that hold the step, at list prices; of as many of them as share it."""
    rows = tables.all_cards(
        model.table, lambda asked: state.fitter().surrogate(model.source, asked), setup,
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
        st.markdown("**The largest of what is alive at the peak**")
        table = pd.DataFrame(
            [
                {"Term": t["category"], "Module": t["where"] or "–", "Made by": t["op"] or "–", "Tensors": t["count"],
                 "All of them": bytes_text(t["bytes"])}
                for t in result["tensors"]
            ]
        )  # fmt: skip
        st.dataframe(table, hide_index=True, height=420, alt="What is alive at the peak, the largest first.")
        st.caption(
            f"The whole step, tensor by tensor, in {work.seconds:.1f}{SPACE}s. Attention: "
            f"{', '.join(result['kernels']) or 'eager'}."
        )
        return
    if work is not None and work.active:
        model_choice.watch(page)
        st.progress(work.share, text=f"Tracing: {work.text[:1].lower()}{work.text[1:]}")
        return
    if work is not None and work.error is not None:
        live.say(work.error)
    st.markdown(
        "The whole step can be run on tensors without data, with every one of them in view: what is alive when, and "
        "what fills the peak."
    )
    st.button(
        "Trace this step", key="vram-trace", icon=":material/play_arrow:", type="primary", on_click=_trace,
        args=(model, setup),
    )  # fmt: skip
    st.caption("It takes some seconds, in a process of its own; a minute for the largest models.")


def _trace(model: Model, setup: Setup) -> None:
    try:
        state.fitter().ask(fitter.TRACE, model.source, setup, state.owner())
    except DeltalabError as error:
        live.say(error)


def _take(model: Model, card: GpuRow, setup: Setup, found: Answer, rules: Sequence[Rule], sharding: Sharding) -> None:
    told = list(rules)
    with st.container(horizontal=True):
        st.download_button(
            "Calculation as JSON", exporting.as_json(
                model.name, setup, card, found.ledger, found.found, told, sharding=dataclasses.asdict(sharding)
            ),
            "memory.json", "application/json", key="vram-json", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        st.download_button(
            "Terms as CSV", exporting.as_csv(found.ledger, found.found, told), "memory.csv", "text/csv",
            key="vram-terms-csv", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    st.caption("The address of this page holds every choice: who opens the link sees what you see.")
    try:
        text = exporting.code(model.hub, model.table, setup, sharding)
    except DeltalabError as error:
        live.say(error)
        return
    st.markdown("**The same in transformers and PEFT**")
    st.code(text, language="python", wrap_lines=True)
    source = "config.json" if model.source.startswith("{") else model.source
    st.caption("The same in a terminal:")
    st.code(exporting.command(source, setup, card.name, sharding), language="bash", wrap_lines=True)
