"""What a measurement found, drawn: the same figures on the pages Inside, Quantization and Ship and in the lessons.

findings.draw("spectrum", result, key="lesson-cell", method="lora")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, charts_inside, charts_quantization, charts_rag, charts_ship, compare, localized, tables
from app.story import percent, plain
from app.words import t
from core.quantization.formats import FORMATS
from core.rag.experiment import Cell, bands
from core.units import bytes_text


def shown(chart: charts.Chart, key: str, name: str) -> None:
    """A figure with its finding, and its numbers as table and CSV.

    Args:
        key: distinct on the page.
        name: of the file.
    """
    compare.draw(chart, key)
    with st.expander(t("plan.numbers"), key=f"{key}-numbers"):
        height: Any = "auto" if len(chart.table) < 12 else 320
        alt = t("findings.numbers_alt", figure=chart.title)
        localized.grid(tables.readable(chart.table), hide_index=True, height=height, alt=alt)
        st.download_button(
            t("shared.table_csv"), charts.csv(chart.table), f"{name}.csv", "text/csv", key=f"{key}-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def show_spectrum(found: dict[str, Any], key: str) -> None:
    """Norms by layer, then the spectrum of a layer; or what there is of a method without ΔW."""
    if found["sentence"] is not None:
        st.markdown(f":material/info: {found['sentence']} {t('findings.trained_instead')}")
        shown(charts_inside.trained_tensors(found), f"tensors-{key}", "tensors")
        return
    st.markdown(t("findings.norms"))
    shown(charts_inside.norms(found), f"norms-{key}", "norms")
    layers = charts_inside.layers_with_matrices(found)
    if not layers:
        st.caption(t("findings.only_vectors"))
        return
    st.subheader(t("findings.directions"), anchor=False)
    st.markdown(t("findings.spectrum"))
    layer = st.segmented_control(t("findings.layer"), layers, default=layers[0], required=True, key=f"layer-{key}")
    shown(charts_inside.spectra(found, int(layer if layer is not None else layers[0])), f"spectra-{key}", "spectrum")
    with st.expander(t("findings.columns"), key=f"columns-{key}"):
        names = ("effective", "stable", "amplification")
        st.markdown("\n".join(f"- {t(f'findings.column.{name}')}" for name in names))
        table = charts_inside.modules_table(found)
        localized.grid(tables.readable(table), hide_index=True, alt=t("findings.columns_alt"))


def show_truncation(found: dict[str, Any], key: str, method: str) -> None:
    """Scores against the rank."""
    shown(charts_inside.truncation(found, method), f"truncation-{key}", "truncation")
    shown(charts_inside.truncation_loss(found, method), f"truncation-loss-{key}", "truncation")
    told = [t("findings.cut", items=found["items"], matrices=found["matrices"])]
    if found["vectors"]:
        told.append(t("findings.kept_whole", tensors=found["vectors"]))
    st.caption(" ".join([*told, t("findings.uncut")]))


def show_tokens(found: dict[str, Any], key: str, method: str) -> None:
    """One answer at a time: probabilities, divergences, and the alternatives at a place."""
    items = found["items"]
    numbers = list(range(1, len(items) + 1))
    number = 1
    if len(items) > 1:
        picked = st.segmented_control(t("findings.item"), numbers, default=1, required=True, key=f"item-{key}")
        number = int(picked or 1)
    item = items[number - 1]
    if "labels" in item:
        _labels(found, item, key, method)
        return
    st.markdown(t("findings.asked"))
    st.code(item["prompt"], language=None, wrap_lines=True)
    st.markdown(t("findings.answers" if found["typed"] else "findings.wanted"))
    st.code(item["answer"] or " ", language=None, wrap_lines=True)
    shown(charts_inside.tokens(item, method), f"tokens-{key}", "tokens")
    shown(charts_inside.divergences(item, method), f"kl-{key}", "tokens")
    few = found["base"] != "the base"  # the probe's own words are English
    st.caption(t("findings.kl", base=t("findings.base_few" if few else "findings.base")))
    places = list(range(1, len(item["tokens"]) + 1))
    place = st.select_slider(t("findings.place"), places, key=f"place-{key}-{number}") if (
        len(places) > 1
    ) else 1  # fmt: skip
    # (Not st.table: it takes a token such as "-" for Markdown.)
    table = charts_inside.alternatives_table(item, int(place))
    localized.grid(table, hide_index=True, alt=t("findings.place_alt"), width="content")


def _labels(found: dict[str, Any], item: dict[str, Any], key: str, method: str) -> None:
    """A text, and what each of its labels' probability became."""
    st.markdown(t("findings.read"))
    st.code(item["prompt"], language=None, wrap_lines=True)
    st.markdown(f"{t('findings.gives' if found['typed'] else 'findings.wanted')}: **{plain(item['answer'])}**")
    shown(charts_inside.labels(item, method), f"labels-{key}", "labels")
    told = [t("findings.labels_kl", kl=f"{item['kl']:.2g}")]
    if item["left_out"]:
        told.append(t("findings.labels_left_out", labels=item["left_out"]))
    st.caption(" ".join(told))


def show_overlap(found: dict[str, Any], key: str) -> None:
    """φ by layer and part, then φ(i, j) of one matrix."""
    shown(charts_inside.overlaps(found), f"overlaps-{key}", "overlap")
    if found["apart"]:
        st.caption(t("findings.apart", matrices=found["apart"]))
    names = [m["name"] for m in found["modules"]]
    name = st.selectbox(t("findings.matrix"), names, key=f"matrix-{key}")
    shown(charts_inside.overlap_map(found, str(name)), f"overlap-map-{key}", "overlap-of-a-matrix")


def show_quantization(result: dict[str, Any], key: str, form: str = "nf4") -> None:
    """Errors of all matrices in the format `form`, and bits against error."""
    shown(charts_quantization.matrices(result, form), f"{key}-errors", "errors")
    what = t("findings.all_matrices", matrices=len(result["matrices"]), source=result["source"])
    shown(charts_quantization.curve(result["curve"], what=what), f"{key}-curve", "curve")
    if result["tokens"]:
        st.caption(t("findings.outputs", tokens=result["tokens"]))
    if result["sampled"]:
        st.caption(t("findings.sampled"))


def show_layers(result: dict[str, Any], key: str, group: str = "matrix") -> None:
    """What storing one part adds to the loss; then everything in every format."""
    if group == "matrix" and not result["matrices"]:
        st.caption(t("findings.too_many"))
        group = "kind"
    shown(charts_quantization.parts(result, group), f"{key}-parts-{group}", f"parts-{group}")
    st.caption(
        t(
            "findings.parts", format=FORMATS[result["format"]].title, block=result["block_size"],
            tokens=f"{result['tokens']:,}",
        )
    )  # fmt: skip
    shown(charts_quantization.whole(result), f"{key}-whole", "whole")
    st.caption(t("findings.left_edge"))


def show_merge(result: dict[str, Any], key: str) -> None:
    """Scores merged and unmerged, and how the change compares with the rounding."""
    chart = charts_ship.merging(result)
    if chart is None:
        st.caption(t("findings.nothing_held_out"))
    else:
        shown(chart, f"{key}-merge", "merge")
    change = result["change"]
    if change["learnt"] and change["rounded"]:
        ratio = change["rounded"] / change["learnt"]
        norms = {"learnt": f"{change['learnt']:.2f}", "rounded": f"{change['rounded']:.2f}"}
        st.markdown(
            t("findings.rounding", times=f"{ratio:.1f}", **norms)
            if ratio >= 1
            else t("findings.rounding_less", share=f"{100 * ratio:.0f} %", **norms)
        )


def show_convert(result: dict[str, Any], key: str) -> None:
    """What is left of a change as a LoRA of each rank."""
    shown(charts_ship.conversion(result), f"{key}-convert", "convert")
    told = [t("findings.lossless", rank=result["rank"])]
    if result["rank"] > result["uniform"]:
        told.append(t("findings.not_uniform", rank=result["uniform"]))
    if result["left_out"]:
        names = list(result["left_out"])
        told.append(t("findings.left_out", count=len(names), name=f"`{names[0]}`"))
    st.markdown(" ".join(told))
    with st.expander(t("findings.by_matrix")):
        rows = [
            {
                t("findings.by.matrix"): m["module"], t("findings.by.shape"): " × ".join(map(str, m["shape"])),
                t("findings.by.rank"): m["rank"], t("findings.by.norm"): round(m["norm"], 3),
                **{
                    t("findings.by.left_out", rank=rank): round(100 * error, 1)
                    for rank, error in zip(result["ranks"], m["errors"], strict=True)
                },
            }
            for m in result["modules"]
        ]  # fmt: skip
        localized.grid(pd.DataFrame(rows), hide_index=True, alt=t("findings.by_matrix_alt"))


def show_latency(result: dict[str, Any], key: str) -> None:
    """Times against the base's."""
    shown(charts_ship.latency(result), f"{key}-latency", "latency")
    base = result["rows"][0]
    labels = base["decode_ms"] is None
    st.caption(
        t(
            "findings.latency_label" if labels else "findings.latency",
            rounds=result["rounds"], device=result["device"], precision=result["precision"],
            time=f"{base['prefill_ms' if labels else 'decode_ms']:.1f} ms",
            **({"texts": result["batch"]} if labels else {}),
        )
    )  # fmt: skip


def show_swap(result: dict[str, Any], key: str) -> None:
    """What a switch of adapters takes, and whether the answers are the same."""
    low, middle, high = result["switch_seconds"]
    columns = st.columns(3)
    per = sum(r["adapter_bytes"] for r in result["runs"]) / len(result["runs"])
    for column, name, value in zip(
        columns,
        ("switch", "same_answers", "adapter"),
        (
            f"{1e3 * middle:.1f} ms" if middle >= 1e-3 else f"{1e6 * middle:.0f} µs",
            percent(result["equal"]),
            bytes_text(per),
        ),
        strict=True,
    ):
        with column:
            localized.metric(t(f"findings.{name}"), value, border=True)
    told = [t("findings.switches", low=f"{1e6 * low:.0f}", high=f"{1e6 * high:.0f}")]
    if result["load_seconds"]:
        told.append(t("findings.loading", time=f"{1e3 * result['load_seconds'][1]:.1f} ms"))
    told.append(
        t("findings.logits_differ", answers=result["questions"], most=f"{result['differ']:.1g}")
        if result["differ"]
        else t("findings.logits_same", answers=result["questions"])
    )
    st.markdown(" ".join(told))
    shown(charts_ship.memory(result), f"{key}-swap", "swap")


def show_rag(result: dict[str, Any], key: str) -> None:
    """What prompting, retrieval and fine-tuning gave for each need."""
    found = bands([Cell(**cell) for cell in result["cells"]])
    shown(charts_rag.needs(found), f"{key}-needs", "needs")
    localized.grid(charts_rag.costs_table(found), hide_index=True, alt=t("findings.costs_alt"))


DRAW: dict[str, Callable[[dict[str, Any], str, str], None]] = {
    "spectrum": lambda found, key, method: show_spectrum(found, key),
    "truncation": show_truncation,
    "tokens": show_tokens,
    "overlap": lambda found, key, method: show_overlap(found, key),
    "quantization": lambda found, key, method: show_quantization(found, key),
    "quantized_layers": lambda found, key, method: show_layers(found, key),
    "merge": lambda found, key, method: show_merge(found, key),
    "convert": lambda found, key, method: show_convert(found, key),
    "latency": lambda found, key, method: show_latency(found, key),
    "swap": lambda found, key, method: show_swap(found, key),
    "rag": lambda found, key, method: show_rag(found, key),
}
"""Name of a probe -> what draws its result, given the result, a key and the (first) run's method."""


def draw(probe: str, found: dict[str, Any], key: str, method: str = "") -> None:
    """Draw the result of a measurement.

    Args:
        key: distinct on the page.
        method: of the run that was measured; "" of a base.
    """
    DRAW[probe](found, key, method)
