"""Quantization: from one block of weights to what a whole model loses, and what QLoRA makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import charts_quantization as figures
from app import compare, findings, live, localized, probing, state, uploads
from app.address import keep_in_link, linked
from app.charts_quantization import share
from app.story import plain
from app.words import from_core, t
from core.base import describe_base
from core.config import EMBEDDED
from core.errors import DeltalabError
from core.quantization import blockwise, matrices, pairs, summaries
from core.quantization.formats import FORMATS, SHOWN, normal_float
from core.quantization.matrices import Matrix
from core.units import bytes_text
from core.world import TASKS

if TYPE_CHECKING:
    import numpy as np

    from app.charts import Chart
    from core.quantization.summaries import Block, Cost, Spread
    from core.runs.store import Run

CELL = "quantization"
"""Where the store files the runs that were started here."""
SOURCES = (EMBEDDED, "folder", "hub", "file")
SIZES = [str(size) for size in blockwise.BLOCK_SIZES]
PART_FORMATS = ["nf2", "nf3", *SHOWN]
GROUPS = ("matrix", "kind", "layer")
DUEL = ("float32", "nf4")
SHOWN_PAIRS = 200  # the newest of the visitor's runs that are looked through


def render() -> None:
    """Draw the page."""
    st.title(t("page.quantization.title"), anchor=False)
    st.markdown(t("quantization.intro"))
    _idea()
    source, path = _source()
    found = _choose(source, path)
    if found is not None:
        _matrix(found)
        _sizes(found, source, path)
    _suffering(source, path)
    _duel()


def _shown(chart: Chart, key: str) -> None:
    """A figure with its numbers as a table and as CSV."""
    findings.shown(chart, key, key)


# --- 1 ----------------------------------------------------------------------------------------------------------------


@st.fragment
def _idea() -> None:
    st.header(t("quantization.idea"), anchor="idea")
    formula = f"\\hat{{w}} = \\text{{{t('quantization.level')}}}[q] \\cdot \\text{{absmax}}"
    st.markdown(f"{t('quantization.idea_blocks')}\n\n$${formula}$$\n\n{t('quantization.idea_format')}")
    options = ["2", "3", "4"]
    bits = st.segmented_control(
        t("quantization.bits"),
        options,
        default=linked("bits", options, "4"),
        required=True,
        key="bits",
        on_change=keep_in_link,
        args=("bits", "4"),
    )
    found = normal_float(int(bits or "4"))
    half = len(found.negative)
    largest = f"{found.positive[-1][1]:.3f}"
    steps = (
        t("quantization.take", positive=half + 1, negative=half, offset=f"{found.offset:.4f}"),
        t("quantization.look_up", largest=largest),
        t("quantization.keep_zero", values=len(found.levels)),
        t("quantization.divide", largest=largest),
    )
    st.markdown("\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)))
    chart = figures.levels(found)
    _shown(chart, "levels")
    if "difference" in chart.table:
        st.caption(t("quantization.published", within=f"{chart.table['difference'].abs().max():.7f}"))
    else:
        st.caption(t("quantization.derived", bits=bits))


# --- 2 ----------------------------------------------------------------------------------------------------------------


def _source() -> tuple[str, Path | None]:
    """A base's name ("" until there is one), and the visitor's file if that is what they chose."""
    st.header(t("quantization.matrix"), anchor="matrix")
    kind = st.segmented_control(
        t("quantization.source"),
        list(SOURCES),
        format_func=lambda name: t(f"quantization.sources.{name}"),
        default=linked("source", list(SOURCES), EMBEDDED),
        required=True,
        key="source",
        on_change=keep_in_link,
        args=("source", EMBEDDED),
    )
    if kind == "folder":
        return str(st.text_input(t("quantization.folder"), key="folder", bind="query-params") or "").strip(), None
    if kind == "hub":
        return str(st.text_input(t("quantization.sources.hub"), key="hub", bind="query-params") or "").strip(), None
    if kind == "file":
        given = st.file_uploader(
            t("quantization.file"),
            type=list(matrices.ENDINGS),
            key="matrix-file",
            help=t("quantization.file_help"),
        )
        if given is None:
            st.caption(t("quantization.file_kinds", most=bytes_text(matrices.MOST_FILE_BYTES)))
            return "", None
        return "", uploads.keep(state.owner(), given.name, given.getvalue())
    return EMBEDDED, None


@st.cache_data(show_spinner=False, ttl=120, max_entries=32)
def _found(source: str, path: Path | None) -> tuple[Matrix, ...] | tuple[str, str]:
    """The matrices, or what is wrong, as (sentence, advice)."""
    try:
        return matrices.of_base(source) if path is None else matrices.of_file(path)
    except DeltalabError as error:
        return error.sentence, error.advice


@st.cache_data(show_spinner=False, ttl=120, max_entries=32)
def _fingerprint(source: str) -> str:
    """Tells a base's weights from others; "" while they are not here to be looked at."""
    try:
        return str(describe_base(source)["fingerprint"] or "")
    except DeltalabError:
        return ""


def _choose(source: str, path: Path | None) -> Matrix | None:
    """The matrix that is looked at."""
    if not source and path is None:
        return None
    with st.spinner(t("quantization.looking"), show_time=True):
        found = _found(source, path)
    if isinstance(found[0], str):
        live.say(DeltalabError(found[0], str(found[1])))
        return None
    by_name = {m.name: m for m in found if isinstance(m, Matrix)}
    names = list(by_name)
    first = next((n for n in names if by_name[n].title == "layer 0 q_proj"), names[0])
    chosen = st.selectbox(
        t("quantization.chosen"),
        names,
        index=names.index(linked("matrix", names, first)),
        format_func=lambda name: f"{by_name[name].title}, {by_name[name].rows} × {by_name[name].columns}",
        key="matrix",
        on_change=keep_in_link,
        args=("matrix", first),
    )
    matrix = by_name[str(chosen)]
    if matrix.embedding:
        st.caption(t("quantization.embedding"))
    return matrix


@st.cache_data(show_spinner=False, max_entries=64)
def _weight(matrix: Matrix) -> np.ndarray:
    return matrices.read(matrix, summaries.AT_ONCE)


@st.cache_data(show_spinner=False, max_entries=256)
def _seen(matrix: Matrix, name: str, block_size: int) -> tuple[Cost, Spread, Block]:
    weight, form = _weight(matrix), FORMATS[name]
    return (
        summaries.cost(weight, form, block_size),
        summaries.spread(weight, form, block_size),
        summaries.block(weight, form, block_size),
    )


@st.cache_data(show_spinner=False, max_entries=32)
def _costs(matrix: Matrix) -> tuple[Cost, ...]:
    return summaries.costs(_weight(matrix))


def format_and_block() -> tuple[str, int]:
    """The format and the block size that are chosen."""
    left, right = st.columns(2, gap="medium")
    with left:
        name = st.selectbox(
            t("quantization.format"),
            SHOWN,
            index=SHOWN.index(linked("format", list(SHOWN), "nf4")),
            format_func=lambda n: FORMATS[n].title,
            key="format",
            on_change=keep_in_link,
            args=("format", "nf4"),
        )
    with right:
        size = st.select_slider(
            t("quantization.block"),
            SIZES,
            value=linked("block", SIZES, "64"),
            key="block",
            on_change=keep_in_link,
            args=("block", "64"),
        )
    return str(name), int(str(size))


def _matrix(matrix: Matrix) -> None:
    name, size = format_and_block()
    form = FORMATS[name]
    try:
        cost, spread, block = _seen(matrix, name, size)
    except DeltalabError as error:
        live.say(error)
        return
    with st.container(horizontal=True, gap="large"):
        localized.metric(t("quantization.bits_a_weight"), f"{cost.bits:.3f}".rstrip("0").rstrip("."), width="content")
        localized.metric(t("quantization.error"), share(cost.errors.rmse), width="content")
        localized.metric(t("quantization.worst"), share(cost.errors.largest, 0), width="content")
        ratio = cost.errors.sqnr_db
        localized.metric(t("quantization.noise"), "–" if ratio is None else f"{ratio:.1f} dB", width="content")
    st.caption(plain(f"{form.title}: {form.source}."))
    if matrix.size > summaries.AT_ONCE:
        rows = max(1, summaries.AT_ONCE // matrix.columns)
        st.caption(t("quantization.first_rows", shown=rows, rows=matrix.rows))
    if form.scope == "row":
        st.caption(t("quantization.row_scale"))
    left, right = st.columns(2, gap="medium")
    with left:
        _shown(figures.spread(spread, form, size), "spread")
    with right:
        _shown(figures.use(spread, form), "use")
    _shown(figures.one_block(block, form), "block-before-after")


# --- 3 ----------------------------------------------------------------------------------------------------------------


def _sizes(matrix: Matrix, source: str, path: Path | None) -> None:
    st.header(t("quantization.blocks"), anchor="blocks")
    unit = f"\\text{{ {t('quantization.bit_unit')}}}"
    single, double = "4 + \\tfrac{32}{64} = 4.5", "4 + \\tfrac{8}{64} + \\tfrac{32}{64\\cdot 256} = 4.127"
    st.markdown(f"{t('quantization.blocks_why')}\n\n$${single} {unit}$$\n\n$${double} {unit}$$")
    try:
        costs = _costs(matrix)
    except DeltalabError as error:
        live.say(error)
        return
    _shown(figures.curve(figures.cost_rows(costs), what=t("quantization.of_matrix", matrix=matrix.title)), "curve")
    _shown(figures.savings(summaries.savings(costs), "nf4"), "savings")
    st.subheader(t("quantization.all"), anchor="all-matrices")
    size = int(linked("block", SIZES, "64"))
    settings: dict[str, Any] = {"block_size": size}
    settings |= {"file": str(path)} if path is not None else {"base": source, "weights": _fingerprint(source)}
    st.markdown(t("quantization.all_outputs" if path is None else "quantization.all_weights", block=size))
    probing.section(
        "quantization", [], settings, key="all", show=_errors, label=t("quantization.all_start"),
        takes=t("quantization.all_takes"),
    )  # fmt: skip


def _errors(result: dict[str, Any]) -> None:
    findings.show_quantization(result, "all", linked("format", list(SHOWN), "nf4"))


# --- 4 ----------------------------------------------------------------------------------------------------------------


def _suffering(source: str, path: Path | None) -> None:
    st.header(t("quantization.layers"), anchor="layers")
    st.markdown(t("quantization.layers_why"))
    if path is not None or not source:
        st.caption(t("quantization.layers_need"))
        return
    left, middle, right = st.columns(3, gap="medium")
    with left:
        name = st.selectbox(
            t("quantization.part"),
            PART_FORMATS,
            index=PART_FORMATS.index(linked("part", PART_FORMATS, "nf2")),
            format_func=lambda n: FORMATS[n].title,
            key="part",
            on_change=keep_in_link,
            args=("part", "nf2"),
            help=t("quantization.part_help"),
        )
    with middle:
        items = st.number_input(
            t("quantization.items"),
            2,
            200,
            40 if source == EMBEDDED else 8,
            key="items",
            bind="query-params",
            help=t("quantization.items_help"),
        )
    with right:
        group = st.segmented_control(
            t("quantization.show"),
            list(GROUPS),
            format_func=lambda name: t(f"quantization.groups.{name}"),
            default=linked("group", list(GROUPS), "matrix"),
            required=True,
            key="group",
            on_change=keep_in_link,
            args=("group", "matrix"),
        )
    settings = {
        "base": source,
        "weights": _fingerprint(source),
        "format": name,
        "items": int(items),
        "block_size": int(linked("block", SIZES, "64")),
    }
    probing.section(
        "quantized_layers",
        [],
        settings,
        key="layers",
        show=lambda result: findings.show_layers(result, "layers", str(group)),
        label=t("quantization.layers_start"),
        takes=t("quantization.layers_takes"),
    )


# --- 5 ----------------------------------------------------------------------------------------------------------------


def _duel() -> None:
    st.header(t("quantization.duel"), anchor="qlora")
    st.markdown(t("quantization.duel_why"))
    titles = {name: from_core(task.title) for name, task in TASKS.items()}
    recorded = pairs.means(pairs.pairs(pairs.recorded()))
    if recorded:
        first = pairs.recorded()[0]
        st.markdown(f":material/history: {t('comparison.recorded')} · {plain(first.device)} · {first.date}")
        _shown(figures.duel(recorded, titles), "duel-recorded")
        _luck(pairs.recorded(), titles)
    outcomes = _own()
    own = pairs.pairs(outcomes)
    if own:
        st.markdown(f":material/person: {t('quantization.duel_own')}")
        _shown(figures.duel(pairs.means(own), titles), "duel-own")
        _luck(outcomes, titles)
    _start(titles)


def _luck(outcomes: Sequence[pairs.Outcome], titles: dict[str, str]) -> None:
    """How much of a difference may be the seed's doing."""
    found = pairs.luck(outcomes)
    if found is not None:
        task, points = found
        st.caption(t("quantization.luck", points=f"{points:.0f}", task=plain(titles.get(task, task))))


def _own() -> list[pairs.Outcome]:
    """What the visitor's finished runs came to, the newest first."""
    out = []
    for run in state.store().runs(state.owner(), limit=SHOWN_PAIRS):
        if run.status != "finished":
            continue
        story = compare.story(run, brief=True)
        after = story.after
        if after is None or after["exact_match"] is None:
            continue
        skills = list(after.get("skills", {}).values())
        found = pairs.outcome_of(
            run.config,
            exact_match=after["exact_match"],
            held_out_loss=after["loss"],
            skills_after=sum(skills) / len(skills) if skills else None,
            device=str((story.started or {}).get("device", "")),
            date=state.local_time(run.created).strftime("%Y-%m-%d"),
        )
        if found is not None:
            out.append(found)
    return out


def _start(titles: dict[str, str]) -> None:
    """Start both with one seed, and show the two that were started last."""
    runs = _newest()
    busy = any(run.status in live.ACTIVE for run in runs)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        task = st.selectbox(
            t("quantization.task"),
            list(TASKS),
            index=list(TASKS).index(linked("duel", list(TASKS), "jargon")),
            format_func=titles.__getitem__,
            key="duel",
            on_change=keep_in_link,
            args=("duel", "jargon"),
        )
        seed = st.number_input(t("shared.seed"), 0, 2**31 - 1, 0, key="seed", bind="query-params")
        pressed = st.button(
            t("form.running") if busy else t("quantization.train_both"),
            key="train-both",
            type="primary",
            icon=":material/hourglass_top:" if busy else ":material/play_arrow:",
            disabled=busy,
        )
    st.caption(t("quantization.train_takes"))
    if pressed:
        made = [
            live.start(pairs.config(str(task), storage, int(seed)), key=f"duel-{storage}", cell=CELL)
            for storage in DUEL
        ]
        if any(run is not None for run in made):
            st.rerun()
    if runs:
        for column, run in zip(st.columns(2, gap="medium"), runs, strict=False):
            with column:
                st.subheader(plain(run.title or t("quantization.run")), anchor=False)
                live.run_panel(run, key=f"duel-{run.config['method']}", brief=True)


def _newest() -> list[Run]:
    """The newest LoRA and the newest QLoRA run that were started here, if they belong together."""
    found: dict[str, Run] = {}
    for run in state.store().runs(state.owner(), limit=10, cell=CELL):
        found.setdefault(str(run.config.get("method")), run)
    both = [found[method] for method in ("lora", "qlora") if method in found]
    same = len({(run.config.get("task"), run.config.get("seed")) for run in both}) == 1
    return both if same else sorted(both, key=lambda run: -run.created)[:1]
