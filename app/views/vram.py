"""VRAM calculator: what a training step takes on a card, term by term, and what to change so that it fits."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import (
    answers,
    calculator_panels,
    charts,
    charts_memory,
    compare,
    live,
    localized,
    method_knobs,
    model_choice,
    state,
)
from app.charts_memory import band, size
from app.charts_race import title_of
from app.choices import Choice, one_of, switch, whole
from app.story import plain
from app.words import from_core, inside, number, t
from core.catalog import GpuRow, gpu, gpus
from core.config import RunConfig, TrainConfig
from core.counting import experts_note
from core.errors import DeltalabError
from core.memory import advice, fitter, importing, rules, validation
from core.memory.card import FITS, TIGHT, TOO_LARGE, check_runs, other_kernels
from core.memory.compare import CPU, Answer, answer, answer_of_trace, at, check, cpu_row, device_of, half_note
from core.memory.estimate import Unstable
from core.memory.setup import Setup
from core.memory.sharded import OFFLOADS, Sharding
from core.memory.stack import ADAPTERS, LOSSES, OPTIMIZERS, OWN, PRESETS, Stack
from core.methods import METHODS
from core.units import GIB, bytes_text, count_text

if TYPE_CHECKING:
    from app.model_choice import Model
    from core.memory.advice import Change
    from core.memory.rules import Rule

PAGE = "vram"
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LENGTHS = (
    64, 128, 256, 384, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 8192, 12288, 16384,
    32768, 65536, 131072,
)  # fmt: skip
MOST_BATCH, MOST_LENGTH = 4096, 1 << 20

METHOD = Choice(PAGE, "method", "qlora", one_of(list(METHODS)))
CARD = Choice(PAGE, "card", "RTX 4090", one_of([*(row.name for row in gpus()), CPU]))
BATCH = Choice(PAGE, "batch", 1, whole(1, MOST_BATCH))
LENGTH = Choice(PAGE, "length", 1024, whole(2, MOST_LENGTH))
CHECKPOINTING = Choice(PAGE, "checkpointing", False, switch)
OPTIMIZER = Choice(PAGE, "optimizer", "adamw", one_of(["adamw", "adamw_8bit", "paged_adamw_8bit"]))
ACCUMULATION = Choice(PAGE, "passes", 1, whole(1, 256))
ANSWERS = Choice(PAGE, "answers", 100, whole(1, 100))
PRECISION = Choice(PAGE, "precision", "auto", one_of(["auto", "bfloat16", "float32"]))
PREDICT = Choice(PAGE, "predict", False, switch)
STACK = Choice(PAGE, "as", OWN.name, one_of(list(PRESETS)))
LOSS = Choice(PAGE, "loss", "own", one_of(["own", *LOSSES]))
ADAPTER_TYPE = Choice(PAGE, "adapters", "own", one_of(["own", *ADAPTERS]))
RUN_BY = Choice(PAGE, "optimizer_by", "own", one_of(["own", *OPTIMIZERS]))
COMPILE = Choice(PAGE, "compile", False, switch)
IN_BACKWARD = Choice(PAGE, "in_backward", False, switch)
OFFLOADED = Choice(PAGE, "offload_activations", False, switch)
KBIT = Choice(PAGE, "kbit", False, switch)
GPUS = Choice(PAGE, "gpus", 1, whole(1, 4096))
ZERO = Choice(PAGE, "zero", 0, whole(0, 3))
TENSOR = Choice(PAGE, "tensor", 1, whole(1, 64))
OFFLOAD = Choice(PAGE, "offload", "none", one_of(list(OFFLOADS)))
EVERY = (
    METHOD, CARD, BATCH, LENGTH, CHECKPOINTING, OPTIMIZER, ACCUMULATION, ANSWERS, PRECISION, PREDICT, STACK, LOSS,
    ADAPTER_TYPE, RUN_BY, COMPILE, IN_BACKWARD, OFFLOADED, KBIT, GPUS, ZERO, TENSOR, OFFLOAD,
)  # fmt: skip
ICONS = {FITS: ":material/check_circle:", TIGHT: ":material/warning:", TOO_LARGE: ":material/block:"}


def render() -> None:
    """Draw the page."""
    st.title(t("page.vram.title"), anchor=False)
    st.markdown(t("vram.intro"))
    model_choice.redrawn(PAGE, _calculator)


def _calculator() -> None:
    """The whole calculator."""
    for choice in EVERY:
        choice.start()
    model = model_choice.choose(PAGE)
    card = _knobs(model)
    settings = _more(model)
    if model is not None and settings is not None:
        _worked_out(model, card, settings)


# --- the knobs --------------------------------------------------------------------------------------------------------


def _knobs(model: Model | None) -> GpuRow:
    left, right = st.columns(2, gap="medium")
    with left:
        st.selectbox(
            t("plan.method"), format_func=title_of, help=from_core(METHODS[str(METHOD.value)].SUMMARY),
            **METHOD.among(list(METHODS)),
        )  # fmt: skip
    with right:
        by_name = {row.name: row for row in gpus()}
        st.selectbox(
            t("vram.card"), help=t("vram.card_help"),
            format_func=lambda n: t("vram.own_cpu") if n == CPU else f"{n} · {charts_memory.usable(by_name[n])}",
            **CARD.among([*by_name, CPU]),
        )  # fmt: skip
    left, right = st.columns(2, gap="medium")
    with left:
        st.select_slider(
            t("vram.batch"), sorted({*BATCHES, int(BATCH.value), int(BATCH.first)}), **BATCH.shown()
        )  # fmt: skip
    with right:
        most = model.context if model is not None and model.context else MOST_LENGTH
        stops = (
            {n for n in LENGTHS if n <= most}
            | {int(LENGTH.value), int(LENGTH.first)}
            | ({most} if most < MOST_LENGTH else set())
        )
        st.select_slider(t("vram.length"), sorted(stops), format_func=lambda n: f"{n:,}", **LENGTH.shown())
    return _card()


def _card() -> GpuRow:
    name = str(CARD.value)
    return cpu_row(state.hardware().ram_bytes, state.device_text()) if name == CPU else gpu(name)


def _card_name(card: GpuRow) -> str:
    return t("plan.this_computer") if card.name == CPU else card.name


def _more(model: Model | None) -> Any:
    """What is folded: the method's own settings, the loop's, exact sizes, an import. Returns the settings."""
    method = str(METHOD.value)
    with st.expander(t("vram.more"), key="vram-more"):
        st.markdown(f"**{title_of(method)}**")
        settings = method_knobs.settings(method, PAGE)
        st.markdown(f"**{t('vram.loop')}**")
        columns = st.columns(3, gap="medium")
        with columns[0]:
            st.toggle(t("vram.checkpointing"), help=t("vram.checkpointing_help"), **CHECKPOINTING.shown())
            st.toggle(t("vram.predict.first"), help=t("vram.predict.help"), **PREDICT.shown())
        with columns[1]:
            st.selectbox(
                t("vram.optimizer"), **OPTIMIZER.among(["adamw", "adamw_8bit", "paged_adamw_8bit"]),
                format_func=lambda name: t(f"vram.optimizers.{name}"),
            )  # fmt: skip
            st.number_input(t("vram.passes"), 1, 256, step=1, **ACCUMULATION.shown())
        with columns[2]:
            st.selectbox(t("vram.precision"), **PRECISION.among(["auto", "bfloat16", "float32"]))
            st.number_input(
                t("vram.answers"), 1, 100, step=5, **ANSWERS.shown(),
                help=t("vram.answers_help"),
            )  # fmt: skip
        _program()
        _several()
        st.markdown(f"**{t('vram.exact')}**")
        left, right = st.columns(2, gap="medium")
        for column, choice, label, most in (
            (left, BATCH, t("vram.exact_batch"), MOST_BATCH), (right, LENGTH, t("vram.exact_length"), MOST_LENGTH)
        ):  # fmt: skip
            with column:
                key = f"{choice.key}-exactly"
                st.session_state[key] = int(choice.value)
                st.number_input(
                    label, 1 if choice is BATCH else 2, most, step=1, key=key, on_change=_exactly, args=(choice, key)
                )
        _import()
    return settings


def _program() -> None:
    """What trains: this program, or another that the memory is wanted of."""
    st.markdown(f"**{t('vram.program')}**")
    columns = st.columns(3, gap="medium")
    with columns[0]:
        st.selectbox(
            t("vram.trained_by"), format_func=lambda n: PRESETS[n].title, **STACK.among(list(PRESETS)),
            help=t("vram.trained_by_help"),
        )  # fmt: skip
    with columns[1]:
        st.selectbox(
            t("vram.loss"), **LOSS.among(["own", *LOSSES]),
            format_func=lambda n: t("vram.as_program") if n == "own" else LOSSES[n],
        )  # fmt: skip
    with columns[2]:
        st.toggle(t("vram.compile"), **COMPILE.shown())
        st.toggle(t("vram.in_backward"), **IN_BACKWARD.shown())
    with columns[0]:
        st.selectbox(
            t("vram.adapters"), **ADAPTER_TYPE.among(["own", *ADAPTERS]),
            format_func=lambda n: t("vram.as_program") if n == "own" else n,
        )  # fmt: skip
        st.toggle(t("vram.offloaded"), **OFFLOADED.shown())
    with columns[1]:
        st.selectbox(
            t("vram.run_by"), **RUN_BY.among(["own", *OPTIMIZERS]),
            format_func=lambda n: t("vram.as_program") if n == "own" else f"{n}: {OPTIMIZERS[n]}",
        )  # fmt: skip
        st.toggle(t("vram.kbit"), help=t("vram.kbit_help"), **KBIT.shown())


def _several() -> None:
    """Several GPUs."""
    st.markdown(f"**{t('vram.several')}**")
    columns = st.columns(4, gap="medium")
    with columns[0]:
        st.number_input(t("vram.gpus"), 1, 4096, step=1, **GPUS.shown())
    with columns[1]:
        st.selectbox(t("vram.zero"), format_func=lambda n: t(f"vram.zeros.{n}"), **ZERO.among(list(range(4))))
    with columns[2]:
        st.number_input(t("vram.tensor"), 1, 64, step=1, **TENSOR.shown())
    with columns[3]:
        st.selectbox(
            t("vram.offload"), **OFFLOAD.among(list(OFFLOADS)),
            format_func=lambda name: t(f"vram.offloads.{name}"),
        )  # fmt: skip


def _sharding() -> Sharding:
    return Sharding(int(GPUS.value), int(ZERO.value), int(TENSOR.value), str(OFFLOAD.value))


def _stack() -> Stack:
    made = PRESETS[str(STACK.value)].stack
    named = {"loss": LOSS, "adapters": ADAPTER_TYPE, "optimizer": RUN_BY}
    switches = {"compile": COMPILE, "in_backward": IN_BACKWARD, "offload_activations": OFFLOADED, "kbit": KBIT}
    return made.with_switches(
        **{name: str(choice.value) for name, choice in named.items() if choice.value != "own"},
        **{name: True for name, choice in switches.items() if choice.value},
    )


def _exactly(choice: Choice, key: str) -> None:
    choice.put(int(st.session_state[key]))


# --- an import --------------------------------------------------------------------------------------------------------


def _import() -> None:
    st.markdown(f"**{t('vram.import.head')}**")
    st.text_area(
        t("vram.import.field"), key="vram-import", height=120,
        placeholder=t("vram.import.or", one='{"peft_type": "LORA", "r": 16, …}', other="micro_batch_size: 2"),
    )  # fmt: skip
    st.button(t("vram.import.use"), key="vram-import-use", icon=":material/input:", on_click=_use_import)
    told = st.session_state.get("vram-imported")
    if isinstance(told, DeltalabError):
        live.say(told)
    elif told is not None:
        taken, left_out, model = told
        if model:
            left_out = [*left_out, t("vram.import.model", model=model)]
        text = t("vram.import.taken", told=taken) if taken else t("vram.import.nothing")
        if left_out:
            names = ", ".join(left_out[:12]) + (" …" if len(left_out) > 12 else "")
            text += " " + t("vram.import.left_out", names=names)
        st.caption(plain(text))


def _use_import() -> None:
    """The button's callback: what the text says becomes the page's choices."""
    try:
        found = importing.read(str(st.session_state.get("vram-import") or ""))
    except DeltalabError as error:
        st.session_state["vram-imported"] = error
        return
    no_model, left_out = "", list(found.unused)
    place, named, _, _, hub = model_choice.choices(PAGE, True)
    if found.model:
        from core.catalog import known

        row = known(found.model)
        if row is not None and row.is_decoder:
            place.put(model_choice.CATALOGUE)
            named.put(row.name)
        elif "/" in found.model and not found.model.startswith((".", "/", "~")):
            place.put(model_choice.HUB)
            hub.put(found.model)
        else:
            no_model = found.model
    if found.method:
        METHOD.put(found.method)
        left_out += method_knobs.put(found.method, found.settings, PAGE)
    beyond: dict[str, Any] = {"model": None} if no_model else {}
    for choice, name in (
        (BATCH, "batch"), (LENGTH, "length"), (ACCUMULATION, "accumulation"), (CHECKPOINTING, "checkpointing"),
        (OPTIMIZER, "optimizer"), (calculator_panels.epochs(PAGE), "epochs"),
    ):  # fmt: skip
        value = getattr(found, name)
        if value is None:
            continue
        if isinstance(value, bool) or choice.read(str(value)) is not None:
            choice.put(value)
        else:  # (more than the page has)
            beyond[name] = None
            left_out.append(f"{name} = {value}")
    taken = _told(dataclasses.replace(found, **beyond))
    st.session_state["vram-imported"] = (taken, left_out, no_model)


def _told(found: importing.Imported) -> str:
    """What an import took over, in a line."""
    parts = [t("vram.import.of_model", model=found.model)] if found.model else []
    parts += [title_of(found.method)] if found.method else []
    numbers = {"batch": found.batch, "accumulation": found.accumulation, "length": found.length}
    parts += [t(f"vram.import.{name}", value=f"{value:,}") for name, value in numbers.items() if value is not None]
    if found.optimizer is not None:
        parts.append(t(f"vram.optimizers.{found.optimizer}"))
    if found.epochs is not None:
        parts.append(t("vram.import.epochs", value=f"{found.epochs:g}"))
    if found.checkpointing is not None:
        parts.append(t("vram.import.recomputed" if found.checkpointing else "vram.import.kept"))
    return ", ".join(parts)


# --- the answer -------------------------------------------------------------------------------------------------------


def _asked(model: Model, card: GpuRow, settings: Any) -> Setup:
    """The question as the core has it.

    Raises:
        DeltalabError: it cannot be.
    """
    batch, length = int(BATCH.value), int(LENGTH.value)
    share = int(ANSWERS.value)
    loop = TrainConfig(
        optimizer=str(OPTIMIZER.value), accumulation=int(ACCUMULATION.value), precision=str(PRECISION.value),
        gradient_checkpointing=bool(CHECKPOINTING.value),
    )  # fmt: skip
    config = RunConfig(method=str(METHOD.value), settings=settings, train=loop)
    tokens = None if share == 100 else max(1, round(share / 100 * batch * (length - 1)))
    setup = Setup.of(config, batch, length, device_of(card), tokens, _stack())
    check(model.table, model.context, setup, model.name, _sharding())
    check_runs(card, setup)
    return setup


def _worked_out(model: Model, card: GpuRow, settings: Any) -> None:
    try:
        setup = _asked(model, card, settings)
    except DeltalabError as error:
        live.say(error)
        return
    try:
        found = answer(model_choice.lookup(model), setup, card, _sharding(), model.table)
    except DeltalabError as error:
        live.say(error)
        return
    if found is not None:
        if found.batch is None:
            _other_rows(model, setup)
        _answer(model, card, setup, found)
        return
    work = state.fitter().look(fitter.FIT, model.source, setup)
    if work is not None and isinstance(work.error, Unstable):
        _whole_trace(model, card, setup)
    elif work is not None and work.error is not None:
        live.say(work.error)
        st.button(
            t("plan.again"), key="vram-again", icon=":material/refresh:", on_click=_ask_all, args=(model, [setup])
        )
    else:
        _wait(work or _ask(model, setup), t("vram.tracing", model=model.name, method=title_of(setup.method)))


def _other_rows(model: Model, setup: Setup) -> None:
    """A pass of one row and a pass of several are traced apart; the largest batch needs both."""
    other = at(setup, 2 if setup.batch == 1 else 1, setup.length)
    work = state.fitter().look(fitter.FIT, model.source, other) or _ask(model, other)
    if work is not None and work.active:
        model_choice.watch(PAGE)


def _ask(model: Model, setup: Setup, kind: str = fitter.FIT) -> fitter.Work | None:
    try:
        return state.fitter().ask(kind, model.source, setup, state.owner())
    except DeltalabError as error:
        live.say(error)
        return None


def _wait(work: fitter.Work | None, what: str, why: str = "vram.first") -> None:
    if work is None:
        return
    model_choice.watch(PAGE)
    st.progress(min(max(work.share, 0.0), 1.0), text=f"{plain(what)}: {inside(work.text)}")
    st.caption(t(why))


def _whole_trace(model: Model, card: GpuRow, setup: Setup) -> None:
    """A step that no formula describes is traced as it is, size by size."""
    work = state.fitter().look(fitter.TRACE, model.source, setup)
    if work is not None and work.status == fitter.FINISHED:
        _answer(model, card, setup, answer_of_trace(work.result, setup, card))
    elif work is not None and work.error is not None:
        live.say(work.error)
    else:
        _wait(work or _ask(model, setup, fitter.TRACE), t("vram.tracing_all", model=model.name), "vram.first_whole")


def _answer(model: Model, card: GpuRow, setup: Setup, found: Answer) -> None:
    if PREDICT.value and not _predicted(model, card, setup, found):
        return
    st.markdown(f"#### {ICONS[found.verdict]} {plain(charts_memory.verdict(found.found, card, _card_name(card)))}")
    if note := other_kernels(card):
        st.caption(plain(from_core(note)))
    shared = _sharding()
    what = f"{model.name}, {title_of(setup.method)}"
    if not shared.alone:
        what += f", {t('plan.one_of', gpus=shared.gpus)}"
    chart = charts_memory.step(found.ledger, found.found, card, what, _card_name(card))
    compare.draw(chart, "vram-step")
    st.html(charts_memory.step_legend(chart))
    _figures(model, setup, found)
    _notes(model, setup)
    told = rules.rules(model.table, setup, found.ledger, shared.factors())
    _terms(told, chart)
    if not shared.alone:
        st.caption(t("vram.shares"))
    _advice(model, card, setup, found, shared)
    calculator_panels.panels(model, card, setup, found, told, PAGE, shared)


def _figures(model: Model, setup: Setup, found: Answer) -> None:
    trained = METHODS[setup.method].count(model.table, setup.settings)
    with st.container(horizontal=True, gap="medium"):
        for label, value, tight in (
            (t("vram.largest"), found.batch, found.tight[0]), (t("vram.longest"), found.length, found.tight[1])
        ):  # fmt: skip
            if value is not None:
                told = f"{value:,}" if value else t("plan.none")
                more = tight is not None and tight > value
                localized.metric(
                    label, t("vram.tight_to", fits=told, tight=f"{tight:,}") if more else told, width="content"
                )
        localized.metric(t("plan.trains"), count_text(trained), width="content")
        localized.metric(t("vram.of_model"), charts_memory.share(trained / model.table.total), width="content")
    low, likely, high = found.found.reserved
    reserved = size(likely) if low == high else charts_memory.between(low, high)
    told = t(
        "vram.totals", peak=found.ledger.peak_at, allocated=size(found.found.allocated), reserved=reserved,
        process=band(found.found),
    )  # fmt: skip
    st.caption(f"{told} {_band()} {t('vram.validation', page=t('page.validation.title'))}")


def _notes(model: Model, setup: Setup) -> None:
    """What is to be known of experts, of cards without bfloat16, and of a sharing that changes nothing."""
    for note in (
        _sharding().note(), experts_note(model.table, setup.method), half_note(model_choice.lookup(model), setup)
    ):  # fmt: skip
        if note:
            st.caption(plain(from_core(note)))


def _band() -> str:
    """How far published figures lie from what is predicted for them."""
    known = validation.band()
    if not known.rows:
        return plain(known.text)
    low, high = (f"{100 * share:.1f}\u00a0%" for share in (known.low, known.high))
    return t("vram.band", rows=known.rows, low=low, high=high)


def _terms(told: list[Rule], chart: charts.Chart) -> None:
    with st.expander(t("vram.terms"), key="vram-terms"):
        localized.grid(charts_memory.terms_table(told), hide_index=True, alt=t("vram.terms_alt"))
        reasons = [f"- *{charts_memory.named(rule.term)}*: {plain(rule.why)}" for rule in told if rule.why]
        differ = f" {t('vram.terms_differ')}\n\n" + "\n".join(reasons) if reasons else ""
        st.markdown(t("vram.terms_why") + differ)
        st.download_button(
            t("vram.figure_csv"), charts.csv(chart.table), "step.csv", "text/csv", key="vram-step-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


# --- what to change ---------------------------------------------------------------------------------------------------


def _advice(model: Model, card: GpuRow, setup: Setup, found: Answer, shared: Sharding) -> None:
    lookup = model_choice.lookup(model)
    if lookup(setup) is None:
        return
    rows = advice.changes(model.table, lookup, setup, card, shared)
    if not rows:
        return
    if found.verdict == FITS:
        with st.expander(t("vram.smaller"), key="vram-smaller"):
            _changes(model, rows)
        return
    st.header(t("vram.change"), anchor="change")
    _changes(model, rows)


def _changes(model: Model, rows: list[Change]) -> None:
    missing = [row for row in rows if row.found is None]
    for place, row in enumerate(rows):
        if row.found is None:
            continue
        with st.container(horizontal=True, vertical_alignment="center", key=f"row-vram-change-{place}"):
            less = t("vram.less" if row.saved >= 0 else "vram.more_bytes", bytes=bytes_text(abs(row.saved)))
            verdict = charts_memory.named(row.verdict)
            name, says = plain(from_core(row.name)), plain(from_core(row.says))
            takes = number(size(row.found.process[1]))
            st.markdown(f"**{name}**: {takes}, {verdict}  \n{says} ({less})", width="stretch")
            st.button(
                t("vram.use"), key=f"vram-use-{place}", on_click=_use, args=(row.setup, row.sharding), width="content"
            )
    waiting = [w for row in missing if (w := state.fitter().look(fitter.FIT, model.source, row.setup)) and w.active]
    if waiting:
        model_choice.watch(PAGE)
        st.caption(f":material/hourglass_top: {plain(from_core(waiting[0].text))}")
    elif missing:
        names = ", ".join(row.name for row in missing)
        st.button(
            t("vram.work_out_also", names=names), key="vram-more-changes", icon=":material/play_arrow:",
            on_click=_ask_all, args=(model, [row.setup for row in missing]),
        )  # fmt: skip


def _ask_all(model: Model, setups: list[Setup]) -> None:
    for setup in setups:
        _ask(model, setup)


def _use(setup: Setup, shared: Sharding) -> None:
    """The button's callback: the changed step becomes the page's."""
    METHOD.put(setup.method)
    method_knobs.put(setup.method, setup.settings, PAGE)
    BATCH.put(setup.batch)
    LENGTH.put(setup.length)
    CHECKPOINTING.put(setup.checkpointing)
    OPTIMIZER.put(setup.optimizer)
    ACCUMULATION.put(setup.accumulation)
    ZERO.put(shared.zero)
    OFFLOAD.put(shared.offload)


# --- predict first ----------------------------------------------------------------------------------------------------

TOLERANCE = 0.15  # relative: within it a guess is called close


def _predicted(model: Model, card: GpuRow, setup: Setup, found: Answer) -> bool:
    """Ask for a guess before the answer is shown; whether it may be shown."""
    what = repr((model.source, setup))
    name = f"vram/{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    kept = state.store().progress(state.owner()).get(name)
    likely = found.found.process[1] / GIB
    if not kept:
        st.markdown(
            t(
                "vram.predict.ask_recomputed" if setup.checkpointing else "vram.predict.ask",
                model=plain(model.name),
                method=title_of(setup.method),
                batch=f"{setup.batch:,}",
                length=f"{setup.length:,}",
                card=plain(_card_name(card)),
                usable=charts_memory.usable(card),
            )
        )
        guess = st.number_input(t("vram.predict.label"), 0.1, 5000.0, 16.0, step=1.0, key="vram-guess", width=220)
        if st.button(t("predict.commit"), key="vram-commit", icon=":material/lock:"):
            high = max(likely, guess)
            record = {"value": guess, "fair": True, "measured": likely,
                      "log_ratio": answers.log_ratio(guess, likely, high)}  # fmt: skip
            state.store().set_progress(state.owner(), name, record)
            st.rerun()
        return False
    verdict = answers.closeness(kept["value"], likely, TOLERANCE * likely)
    told = t("vram.predict.told", said=f"{kept['value']:g}", likely=f"{likely:.1f}")
    close = t(f"vram.predict.{verdict.replace(' ', '_')}")
    st.markdown(f":material/lock_open: {told} {close}")
    return True
