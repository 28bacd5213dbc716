"""What a measurement found, drawn: the same figures on the pages Inside, Quantization and Ship and in the lessons.

findings.draw("spectrum", result, key="lesson-cell", method="lora")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, charts_inside, charts_quantization, charts_rag, charts_ship, compare
from app.story import percent
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
    with st.expander("The numbers", key=f"{key}-numbers"):
        height: Any = "auto" if len(chart.table) < 12 else 320
        st.dataframe(chart.table, hide_index=True, height=height, alt=f"The numbers of the figure: {chart.title}")
        st.download_button(
            "Table as CSV", charts.csv(chart.table), f"{name}.csv", "text/csv", key=f"{key}-csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def show_spectrum(found: dict[str, Any], key: str) -> None:
    """Norms by layer, then the spectrum of a layer; or what there is of a method without ΔW."""
    if found["sentence"] is not None:
        st.markdown(f":material/info: {found['sentence']} What it trained instead:")
        shown(charts_inside.trained_tensors(found), f"tensors-{key}", "tensors")
        return
    st.markdown(
        "The length of a matrix is its Frobenius norm: the root of the sum of its squared numbers. Each cell is the "
        "length of the change as a share of the weight's own."
    )
    shown(charts_inside.norms(found), f"norms-{key}", "norms")
    layers = charts_inside.layers_with_matrices(found)
    if not layers:
        st.caption("Only vectors changed here, and a vector has one direction: there is no spectrum to look at.")
        return
    st.subheader("In how many directions", anchor=False)
    st.markdown(
        "A matrix reads a vector and writes another. Its singular values say how strongly it does so, one direction at "
        "a time: ΔW = σ₁u₁v₁ᵀ + σ₂u₂v₂ᵀ + … If the first few are much larger than the rest, the change is of *low "
        "rank* in effect, whatever the method allowed."
    )
    layer = st.segmented_control("Layer", layers, default=layers[0], required=True, key=f"layer-{key}")
    shown(charts_inside.spectra(found, int(layer if layer is not None else layers[0])), f"spectra-{key}", "spectrum")
    with st.expander("What the columns mean", key=f"columns-{key}"):
        st.markdown(
            "- **Effective rank**: the exponential of the entropy of the singular values' shares; *k* equal values "
            "give *k* (Roy and Vetterli 2007).\n"
            "- **Stable rank**: the squared length divided by the square of the largest singular value.\n"
            "- **Amplification**: how much longer the change is than the base's own weight in the directions of the "
            "change (LoRA, section 7.3). The paper found large factors in few directions: fine-tuning strengthens "
            "what the base had learnt but not emphasised. Beside it stands what the base has in random directions of "
            "that number, and in its own strongest."
        )
        table = charts_inside.modules_table(found)
        st.dataframe(table, hide_index=True, alt="Every changed parameter, one row each.")


def show_truncation(found: dict[str, Any], key: str, method: str) -> None:
    """Scores against the rank."""
    shown(charts_inside.truncation(found, method), f"truncation-{key}", "truncation")
    shown(charts_inside.truncation_loss(found, method), f"truncation-loss-{key}", "truncation")
    words = f"{found['items']} held-out items, {found['matrices']} matrices cut."
    if found["vectors"]:
        words += f" {found['vectors']} other tensors (vectors, a classification head) are kept whole, at rank 0 too."
    st.caption(words + " Uncut, it is the run's own model, scored as the run scored it.")


def show_tokens(found: dict[str, Any], key: str, method: str) -> None:
    """One answer at a time: probabilities, divergences, and the alternatives at a place."""
    items = found["items"]
    numbers = list(range(1, len(items) + 1))
    number = 1
    if len(items) > 1:
        picked = st.segmented_control("Item", numbers, default=1, required=True, key=f"item-{key}")
        number = int(picked or 1)
    item = items[number - 1]
    st.markdown("Asked")
    st.code(item["prompt"], language=None, wrap_lines=True)
    st.markdown("What it answers now" if found["typed"] else "Wanted")
    st.code(item["answer"] or " ", language=None, wrap_lines=True)
    shown(charts_inside.tokens(item, method), f"tokens-{key}", "tokens")
    shown(charts_inside.divergences(item, method), f"kl-{key}", "tokens")
    st.caption(
        "KL(after‖before) is 0 where fine-tuning left the model's expectations as they were. Before means "
        f"{found['base']}."
    )
    places = list(range(1, len(item["tokens"]) + 1))
    place = st.select_slider("What else could have stood at token", places, key=f"place-{key}-{number}") if (
        len(places) > 1
    ) else 1  # fmt: skip
    # (Not st.table: it takes a token such as "-" for Markdown.)
    table = charts_inside.alternatives_table(item, int(place))
    st.dataframe(table, hide_index=True, alt="The likeliest tokens at that place, before and after.", width="content")


def show_overlap(found: dict[str, Any], key: str) -> None:
    """φ by layer and part, then φ(i, j) of one matrix."""
    shown(charts_inside.overlaps(found), f"overlaps-{key}", "overlap")
    if found["apart"]:
        st.caption(f"{found['apart']} matrices that only one of the two changed are left out.")
    names = [m["name"] for m in found["modules"]]
    name = st.selectbox("Matrix", names, key=f"matrix-{key}")
    shown(charts_inside.overlap_map(found, str(name)), f"overlap-map-{key}", "overlap-of-a-matrix")


def show_quantization(result: dict[str, Any], key: str, form: str = "nf4") -> None:
    """Errors of all matrices in the format `form`, and bits against error."""
    shown(charts_quantization.matrices(result, form), f"{key}-errors", "errors")
    what = f"all {len(result['matrices'])} matrices of {result['source']}"
    shown(charts_quantization.curve(result["curve"], what=what), f"{key}-curve", "curve")
    if result["tokens"]:
        st.caption(f"Outputs on {result['tokens']} tokens of held-out text.")
    if result["sampled"]:
        st.caption("The second figure takes the first million weights of each matrix.")


def show_layers(result: dict[str, Any], key: str, group: str = "matrix") -> None:
    """What storing one part adds to the loss; then everything in every format."""
    if group == "matrix" and not result["matrices"]:
        st.caption("This base has too many matrices to take them one at a time; its kinds are shown.")
        group = "kind"
    shown(charts_quantization.parts(result, group), f"{key}-parts-{group}", f"parts-{group}")
    st.caption(
        f"{FORMATS[result['format']].title} in blocks of {result['block_size']}, {result['tokens']:,} tokens of "
        "held-out text; bars are two standard errors."
    )
    shown(charts_quantization.whole(result), f"{key}-whole", "whole")
    st.caption("What adds less than 0.0001, or nothing, stands at the left edge.")


def show_merge(result: dict[str, Any], key: str) -> None:
    """Scores merged and unmerged, and how the change compares with the rounding."""
    chart = charts_ship.merging(result)
    if chart is None:
        st.caption("This run held nothing out, so only the losses of weights can be told.")
    else:
        shown(chart, f"{key}-merge", "merge")
    change = result["change"]
    if change["learnt"] and change["rounded"]:
        ratio = change["rounded"] / change["learnt"]
        st.markdown(
            f"In its matrices the change has a norm of {change['learnt']:.2f}; storing the sums in NF4 moves them by "
            f"{change['rounded']:.2f}, **{ratio:.1f} times** as much. Whether the task survives that is what the "
            "scores say."
            if ratio >= 1
            else f"In its matrices the change has a norm of {change['learnt']:.2f}; storing the sums in NF4 moves them "
            f"by {change['rounded']:.2f}, {100 * ratio:.0f} % of that."
        )


def show_convert(result: dict[str, Any], key: str) -> None:
    """What is left of a change as a LoRA of each rank."""
    shown(charts_ship.conversion(result), f"{key}-convert", "convert")
    text = f"At rank {result['rank']} nothing of the matrices is lost."
    if result["rank"] > result["uniform"]:
        text += f" Above {result['uniform']} the narrower matrices keep ranks of their own, which vLLM does not read."
    if result["left_out"]:
        names = list(result["left_out"])
        text += (
            f" No LoRA holds {len(names)} of the changed parameters (biases, norms, embeddings), such as "
            f"`{names[0]}`: they are left out at every rank, and the scores are without them."
        )
    st.markdown(text)
    with st.expander("Matrix by matrix"):
        rows = [
            {
                "matrix": m["module"], "shape": " × ".join(map(str, m["shape"])), "rank of ΔW": m["rank"],
                "norm of ΔW": round(m["norm"], 3),
                **{
                    f"left out at rank {rank}, %": round(100 * error, 1)
                    for rank, error in zip(result["ranks"], m["errors"], strict=True)
                },
            }
            for m in result["modules"]
        ]  # fmt: skip
        st.dataframe(pd.DataFrame(rows), hide_index=True, alt="What each rank leaves out of each matrix.")


def show_latency(result: dict[str, Any], key: str) -> None:
    """Times against the base's."""
    shown(charts_ship.latency(result), f"{key}-latency", "latency")
    base = result["rows"][0]
    st.caption(
        f"Median of {result['rounds']} rounds, and their range. On {result['device']}, computing in "
        f"{result['precision']}, the base takes {base['decode_ms']:.1f} ms for a further token."
    )


def show_swap(result: dict[str, Any], key: str) -> None:
    """What a switch of adapters takes, and whether the answers are the same."""
    low, middle, high = result["switch_seconds"]
    columns = st.columns(3)
    columns[0].metric("A switch", f"{1e3 * middle:.1f} ms" if middle >= 1e-3 else f"{1e6 * middle:.0f} µs", border=True)
    columns[1].metric("Answers as by itself", percent(result["equal"]), border=True)
    per = sum(r["adapter_bytes"] for r in result["runs"]) / len(result["runs"])
    columns[2].metric("An adapter in memory", bytes_text(per), border=True)
    text = f"Switches took from {1e6 * low:.0f} to {1e6 * high:.0f} µs."
    if result["load_seconds"]:
        text += f" Read from its folder each time, a switch takes {1e3 * result['load_seconds'][1]:.1f} ms."
    text += (
        f" {result['questions']} answers were compared; the logits differ by at most {result['differ']:.1g}."
        if result["differ"]
        else f" {result['questions']} answers were compared, and the logits are the same to the bit."
    )
    st.markdown(text)
    shown(charts_ship.memory(result), f"{key}-swap", "swap")


def show_rag(result: dict[str, Any], key: str) -> None:
    """What prompting, retrieval and fine-tuning gave for each need."""
    found = bands([Cell(**cell) for cell in result["cells"]])
    shown(charts_rag.needs(found), f"{key}-needs", "needs")
    st.dataframe(charts_rag.costs_table(found), hide_index=True, alt="What each way costs.")


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
