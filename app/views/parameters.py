"""Parameter calculator: what each method trains in a model, matrix by matrix, and how LoRA's rank decides it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import calculator_panels, charts, charts_parameters, live, localized, method_knobs, model_choice
from app.cells import svg
from app.charts import method_style
from app.charts_memory import SPACE, share, size
from app.charts_race import title_of
from app.choices import Choice, one_of, whole
from app.story import plain
from app.words import from_core, n, t
from core import counting
from core.errors import DeltalabError
from core.memory.exporting import count_command
from core.methods import METHODS
from core.methods.lora import Config as LoraConfig
from core.units import count_text

if TYPE_CHECKING:
    from app.model_choice import Model
    from core.counting import Count, Shape

PAGE = "parameters"
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
METHOD = Choice(PAGE, "method", "lora", one_of(list(METHODS)))
MATRIX = Choice(PAGE, "matrix", 0, whole(0, 200))


def render() -> None:
    """Draw the page."""
    st.title(t("page.parameters.title"), anchor=False)
    st.markdown(t("parameters.intro"))
    model_choice.redrawn(PAGE, _calculator)


def _calculator() -> None:
    METHOD.start()
    MATRIX.start()
    model = model_choice.choose(PAGE, decoders=False)
    settings = _knobs()
    if model is not None:
        _counts(model, settings)


def _has_rank(method: str) -> bool:
    return any(f.name == "rank" for f in dataclasses.fields(METHODS[method].Config))


def _rank(method: str) -> Choice:
    default = METHODS[method].Config().rank
    return Choice(PAGE, f"{method}.rank", default, whole(1, 4096))


def _knobs() -> Any:
    """Method and rank in sight, the rest folded. Returns the settings."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.selectbox(
            t("plan.method"), format_func=title_of, help=from_core(METHODS[str(METHOD.value)].SUMMARY),
            **METHOD.among(list(METHODS)),
        )  # fmt: skip
    method = str(METHOD.value)
    ranked = _has_rank(method)
    if ranked:
        rank = _rank(method)
        rank.start()
        with right:
            st.select_slider(t("parameters.rank"), sorted({*RANKS, int(rank.value), int(rank.first)}), **rank.shown())
    with st.expander(t("parameters.more"), key="parameters-more"):
        return method_knobs.settings(method, PAGE, skip=("rank",) if ranked else ())


def _counts(model: Model, settings: Any) -> None:
    method = str(METHOD.value)
    here = counting.count(model.table, method, settings, model.stored)
    if model.stored is not None:
        st.caption(f":material/info: {t('parameters.few_bits', model=plain(model.name), form=model.stored.title)}")
    if here.trainable is None:
        live.say(DeltalabError(here.why, here.advice))
    else:
        _figures(model, here)
    if _has_rank(method) and method != "vera":
        _arithmetic(model, method, settings, here)
    _modules(model, method, settings, here)
    _every(model, method, settings)
    _take(model, method, settings, here)


def _figures(model: Model, here: Count) -> None:
    assert here.trainable is not None
    assert here.share is not None
    told = t(
        "parameters.told", method=title_of(here.method), trained=f"{here.trainable:,}", total=f"{here.total:,}",
        share=share(here.share), model=plain(model.name),
    )  # fmt: skip
    st.markdown(f"#### {told}")
    with st.container(horizontal=True, gap="medium"):
        localized.metric(t("plan.trains"), count_text(here.trainable), width="content")
        localized.metric(t("parameters.fewer"), f"{here.total / here.trainable:,.0f}", width="content")
        localized.metric(t("plan.saved"), size(here.adapter_bytes), width="content")
        localized.metric(t("parameters.in_modules"), f"{here.modules:,}", width="content")
    notes = counting.experts_note(model.table, here.method), counting.texts_note(model.table, here.method)
    for note in filter(None, notes):
        st.caption(plain(from_core(note)))
    st.caption(f"{plain(METHODS[here.method].FORMULA)} · {plain(METHODS[here.method].PAPER)}")


# --- rank arithmetic --------------------------------------------------------------------------------------------------


def _arithmetic(model: Model, method: str, settings: Any, here: Count) -> None:
    st.header(t("parameters.arithmetic"), anchor="rank")
    shapes = [s for s in counting.shapes(model.table) if not s.tied]
    if not shapes:
        st.caption(t("parameters.no_matrices"))
        return
    rank = int(settings.rank)
    index = min(int(MATRIX.value), len(shapes) - 1)
    left, right = st.columns([3, 2], gap="medium", vertical_alignment="center")
    with left:
        st.selectbox(
            t("parameters.matrix"), format_func=lambda i: _called(shapes[i]), **MATRIX.among(list(range(len(shapes))))
        )
        shape = shapes[index]
        if rank > shape.most_rank:
            st.markdown(
                t(
                    "parameters.no_room", out=f"{shape.out:,}", into=f"{shape.into:,}", most=f"{shape.most_rank:,}",
                    rank=f"{rank:,}",
                )
            )  # fmt: skip
        else:
            _sum(shape, rank)
    with right:
        if rank <= shape.most_rank:
            drawn, alt = charts_parameters.to_scale(shape, rank, method_style("lora").colour)
            svg.draw(drawn, alt, most_wide=440)
            st.caption(t("parameters.to_scale"))
    rows = counting.ranks(model.table, method, settings, sorted({*RANKS, rank}))
    if here.trainable is not None and len(rows) > 1:
        calculator_panels.shown(charts_parameters.rank_curve(rows, rank, model.name), "parameters-ranks")


def _called(shape: Shape) -> str:
    many = t("parameters.of_them", count=shape.count) if shape.count > 1 else t("parameters.only_one")
    head = f", {t('parameters.head')}" if shape.head else ""
    return f"{shape.name}, {shape.out:,} × {shape.into:,}, {many}{head}"


def _sum(shape: Shape, rank: int) -> None:
    pair = shape.pair(rank)
    if pair < shape.numbers:
        less = t("parameters.less", share=f"{100 * (1 - pair / shape.numbers):.1f}{SPACE}%")
    else:
        less = t("parameters.more_than_it_saves")
    told = t(
        "parameters.instead", product=f"$\\text{{in}} \\cdot \\text{{out}} = {shape.numbers:,}$",
        share=share(pair / shape.numbers), less=less, rank=f"{shape.even_rank:,}",
    )  # fmt: skip
    pairs = f"r\\,(\\text{{in}} + \\text{{out}}) = {rank} \\cdot ({shape.into:,} + {shape.out:,}) = {pair:,}"
    st.markdown(f"$${pairs}$$\n\n{told}")


# --- tables -----------------------------------------------------------------------------------------------------------


def _modules(model: Model, method: str, settings: Any, here: Count) -> None:
    st.header(t("parameters.where"), anchor="modules")
    shapes = counting.shapes(model.table)
    parts = counting.parts(model.table, method, settings) if here.trainable is not None else []
    trained: dict[str, int] = {}
    for part in parts:
        trained[part.name] = trained.get(part.name, 0) + part.trained
    if parts:
        table = pd.DataFrame(
            [
                {t("plan.module"): p.name, t("parameters.shape"): " × ".join(f"{size:,}" for size in p.shape),
                 t("parameters.how_many"): p.modules, t("parameters.in_each"): f"{p.each:,}",
                 t("parameters.in_all"): f"{p.trained:,}"}
                for p in parts
            ]
        )  # fmt: skip
        localized.grid(table, hide_index=True, alt=t("parameters.where_alt", method=title_of(method)))
        numbers = pd.DataFrame([dataclasses.asdict(p) for p in parts])
        st.download_button(
            t("shared.table_csv"), charts.csv(numbers), "modules.csv", "text/csv", key="parameters-modules-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    rank = int(getattr(settings, "rank", LoraConfig().rank))
    with st.expander(t("parameters.matrices"), key="parameters-matrices"):
        localized.grid(
            charts_parameters.shapes_table(shapes, trained, rank), hide_index=True,
            alt=t("parameters.matrices_alt"),
        )  # fmt: skip
        norms = [m for m in model.table.modules if m.kind == "norm"]
        tables = [m for m in model.table.modules if m.kind == "embedding"]
        biases = sum(m.bias for m in model.table.modules)
        biased = t("parameters.biases", biases=f"{biases:,}") if biases else t("parameters.no_biases")
        st.caption(n("parameters.beside", len(tables), norms=len(norms), biases=biased))


def _every(model: Model, method: str, settings: Any) -> None:
    st.header(t("parameters.methods"), anchor="methods")
    rows = counting.counts(model.table, method, settings, model.stored)
    calculator_panels.shown(
        charts_parameters.counted(rows, method), "parameters-methods", charts_parameters.counts_table(rows)
    )
    st.caption(t("parameters.methods_why"))
    for row in rows:
        if row.trainable is None:
            st.caption(f":material/block: {title_of(row.method)}: {plain(row.why)}")


def _take(model: Model, method: str, settings: Any, here: Count) -> None:
    record = {
        "model": model.name, "method": method, "settings": vars(settings), "total": here.total,
        "trainable": here.trainable, "adapter_bytes": here.adapter_bytes, "why_not": here.why,
        "modules": [vars(s) for s in METHODS[method].sites(model.table, settings)] if here.trainable else [],
    }  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            t("parameters.json"), json.dumps(record, ensure_ascii=False, indent=1), "parameters.json",
            "application/json", key="parameters-json", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    source = "config.json" if model.source.startswith("{") else model.source
    st.caption(f"{t('parameters.terminal')} `{count_command(source, method, settings)}`")
