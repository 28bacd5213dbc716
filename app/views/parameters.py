"""Parameter calculator: what each method trains in a model, matrix by matrix, and how LoRA's rank decides it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import calculator_panels, charts, charts_parameters, live, method_knobs, model_choice
from app.cells import svg
from app.charts import method_style
from app.charts_memory import SPACE, share, size
from app.charts_race import title_of
from app.choices import Choice, one_of, whole
from app.story import plain
from core import counting
from core.errors import DeltalabError
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
    st.title("Parameter calculator", anchor=False)
    st.markdown(
        "What does a method train, and how much of the model is that? All counts are closed forms over the model's "
        "own table of modules; they equal what is counted on the real model, and what PEFT prints."
    )
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
            "Method", format_func=title_of, help=METHODS[str(METHOD.value)].SUMMARY, **METHOD.among(list(METHODS))
        )
    method = str(METHOD.value)
    ranked = _has_rank(method)
    if ranked:
        rank = _rank(method)
        rank.start()
        with right:
            st.select_slider("Rank", sorted({*RANKS, int(rank.value), int(rank.first)}), **rank.shown())
    with st.expander("More settings of the method", key="parameters-more"):
        return method_knobs.settings(method, PAGE, skip=("rank",) if ranked else ())


def _counts(model: Model, settings: Any) -> None:
    method = str(METHOD.value)
    here = counting.count(model.table, method, settings)
    if here.trainable is None:
        live.say(DeltalabError(here.why, here.advice))
    else:
        _figures(model, here)
    if _has_rank(method) and method != "vera":
        _arithmetic(model, method, settings, here)
    _modules(model, method, settings)
    _every(model, method, settings)
    _take(model, method, settings, here)


def _figures(model: Model, here: Count) -> None:
    assert here.trainable is not None
    assert here.share is not None
    st.markdown(
        f"#### {title_of(here.method)} trains {here.trainable:,} of {here.total:,}: {share(here.share)} of "
        f"{plain(model.name)}"
    )
    with st.container(horizontal=True, gap="medium"):
        st.metric("Trains", count_text(here.trainable), width="content")
        st.metric("Fewer by a factor of", f"{here.total / here.trainable:,.0f}", width="content")
        st.metric("Saved per task", size(here.adapter_bytes), width="content")
        st.metric("In modules", f"{here.modules:,}", width="content")
    st.caption(f"{plain(METHODS[here.method].FORMULA)} · {plain(METHODS[here.method].PAPER)}")


# --- rank arithmetic --------------------------------------------------------------------------------------------------


def _arithmetic(model: Model, method: str, settings: Any, here: Count) -> None:
    st.header("Rank arithmetic", anchor="rank")
    shapes = [s for s in counting.shapes(model.table) if not s.tied]
    if not shapes:
        st.caption("This model has no matrices that a pair could stand beside.")
        return
    rank = int(settings.rank)
    index = min(int(MATRIX.value), len(shapes) - 1)
    left, right = st.columns([3, 2], gap="medium", vertical_alignment="center")
    with left:
        st.selectbox("Matrix", format_func=lambda i: _called(shapes[i]), **MATRIX.among(list(range(len(shapes)))))
        shape = shapes[index]
        if rank > shape.most_rank:
            st.markdown(
                f"No change of a {shape.out:,} × {shape.into:,} matrix has a rank above {shape.most_rank:,}, "
                f"and {rank:,} is asked for."
            )
        else:
            _sum(shape, rank)
    with right:
        if rank <= shape.most_rank:
            drawn, alt = charts_parameters.to_scale(shape, rank, method_style("lora").colour)
            svg.draw(drawn, alt, most_wide=440)
            st.caption("Drawn to scale.")
    rows = counting.ranks(model.table, method, settings, sorted({*RANKS, rank}))
    if here.trainable is not None and len(rows) > 1:
        calculator_panels.shown(charts_parameters.rank_curve(rows, rank, model.name), "parameters-ranks")


def _called(shape: Shape) -> str:
    many = f"{shape.count} of them" if shape.count > 1 else "one"
    return f"{shape.name}, {shape.out:,} × {shape.into:,}, {many}" + (", the output layer" if shape.head else "")


def _sum(shape: Shape, rank: int) -> None:
    pair = shape.pair(rank)
    less = f", {100 * (1 - pair / shape.numbers):.1f}{SPACE}% fewer" if pair < shape.numbers else ", more than it saves"
    st.markdown(
        f"$$r\\,(\\text{{in}} + \\text{{out}}) = {rank} \\cdot ({shape.into:,} + {shape.out:,}) = {pair:,}$$\n\n"
        f"instead of $\\text{{in}} \\cdot \\text{{out}} = {shape.numbers:,}$: {share(pair / shape.numbers)}{less}. "
        f"From rank {shape.even_rank:,} on, the pair is as large as the matrix."
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _modules(model: Model, method: str, settings: Any) -> None:
    st.header("Where they are", anchor="modules")
    shapes = counting.shapes(model.table)
    try:
        parts = counting.parts(model.table, method, settings)
    except DeltalabError:
        parts = []
    trained: dict[str, int] = {}
    for part in parts:
        trained[part.name] = trained.get(part.name, 0) + part.trained
    if parts:
        table = pd.DataFrame(
            [
                {"Module": p.name, "Shape": " × ".join(f"{n:,}" for n in p.shape), "How many": p.modules,
                 "Trains in each": f"{p.each:,}", "In all": f"{p.trained:,}"}
                for p in parts
            ]
        )  # fmt: skip
        st.dataframe(table, hide_index=True, alt=f"Where {title_of(method)} trains, alike modules together.")
        numbers = pd.DataFrame([dataclasses.asdict(p) for p in parts])
        st.download_button(
            "Table as CSV", charts.csv(numbers), "modules.csv", "text/csv", key="parameters-modules-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    rank = int(getattr(settings, "rank", LoraConfig().rank))
    with st.expander("All matrices of this model", key="parameters-matrices"):
        st.dataframe(
            charts_parameters.shapes_table(shapes, trained, rank), hide_index=True,
            alt="The kinds of matrices in this model, one row each.",
        )  # fmt: skip
        norms = [m for m in model.table.modules if m.kind == "norm"]
        tables = [m for m in model.table.modules if m.kind == "embedding"]
        biases = sum(m.bias for m in model.table.modules)
        st.caption(
            f"Beside them: {len(tables)} embedding table{'' if len(tables) == 1 else 's'}, {len(norms)} norms, and "
            + (f"{biases:,} biases." if biases else "no bias at all, so BitFit has nothing to train.")
        )


def _every(model: Model, method: str, settings: Any) -> None:
    st.header("Every method", anchor="methods")
    rows = counting.counts(model.table, method, settings)
    calculator_panels.shown(
        charts_parameters.counted(rows, method), "parameters-methods", charts_parameters.counts_table(rows)
    )
    st.caption("Each with its defaults, the chosen one with the settings above. Saved in 32 bits; a whole model in 16.")
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
            "All of it as JSON", json.dumps(record, ensure_ascii=False, indent=1), "parameters.json",
            "application/json", key="parameters-json", icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    defaults = METHODS[method].Config()
    changed = [f" --set {n}={v}" for n, v in vars(settings).items() if v != getattr(defaults, n) and v != ""]
    source = "config.json" if model.source.startswith("{") else model.source
    st.caption(
        "The address of this page holds every choice. The same in a terminal: "
        f"`deltalab params --model {source} --method {method}{''.join(changed)}`"
    )
