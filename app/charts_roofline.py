"""Figures of the lesson on kernels: the roofline, what fusing saves, a step's launches, decoding. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, log_axis, series_style
from app.words import from_core, t
from core.units import GIB, bytes_text

if TYPE_CHECKING:
    from core.decode_cost import Decoding
    from core.roofline import Limit, Op, Saving, Total

FEW = 0.5e6  # operations below which a point says nothing


def per_second(value: float) -> str:
    """3.1e12 -> '3.1 TFLOP/s'."""
    for size, unit in ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} FLOP/s"


def roofline(ops: Sequence[Op], limit: Limit, what: str) -> Chart:
    """Each kind of operation of a step at its intensity, under the card's two ceilings: predicted, not measured."""
    import plotly.graph_objects as go

    shown = [op for op in ops if op.bytes and op.flops > FEW]
    low = min([0.03, *(op.intensity for op in shown)]) / 1.5
    high = max([4 * limit.ridge, *(op.intensity for op in shown)]) * 1.5
    fig = figure(t("charts.roofline.intensity_axis"), t("charts.roofline.rate_axis"), height=340, series=3)
    roof_x = [low, limit.ridge, high]
    fig.add_trace(
        go.Scatter(
            x=roof_x, y=[limit.reachable(x) for x in roof_x], mode="lines", name=t("charts.roofline.roof"),
            line={"color": BASE_STYLE.colour, "width": 2.5}, hoverinfo="skip",
        )
    )  # fmt: skip
    names = {True: t("charts.roofline.waits_memory"), False: t("charts.roofline.waits_arithmetic")}
    hover = t("charts.roofline.hover", intensity="%{x:.3g}", time="%{customdata:.3g}", line="<br>")
    for memory in (True, False):
        points = [op for op in shown if (op.bound(limit) == "memory") is memory]
        style = series_style(1 if memory else 0)
        fig.add_trace(
            go.Scatter(
                x=[op.intensity for op in points], y=[limit.reachable(op.intensity) for op in points],
                mode="markers", name=names[memory],
                marker={"symbol": style.marker, "size": 11, "color": style.colour},
                text=[from_core(op.name) for op in points], customdata=[1000 * op.seconds(limit) for op in points],
                hovertemplate=f"%{{text}}<br>{hover}<extra></extra>",
            )
        )  # fmt: skip
    fig.update_xaxes(**log_axis([op.intensity for op in shown]))
    fig.update_yaxes(type="log", dtick=1, exponentformat="power")
    fig.update_layout(hovermode="closest")
    table = ops_table(ops, limit)
    waiting = [op for op in shown if op.bound(limit) == "memory"]
    time = sum(op.seconds(limit) for op in ops)
    share = sum(op.seconds(limit) for op in waiting) / time if time else 0.0
    none = t("charts.roofline.none")
    alt = t(
        "charts.roofline.roofline_alt", card=limit.name, ridge=f"{limit.ridge:.0f}", what=what,
        memory=", ".join(from_core(op.name) for op in waiting) or none,
        arithmetic=", ".join(from_core(op.name) for op in shown if op not in waiting) or none,
    )  # fmt: skip
    title = t("charts.roofline.roofline", share=f"{100 * share:.0f}")
    return Chart(title, fig, alt, table)


def ops_table(ops: Sequence[Op], limit: Limit) -> pd.DataFrame:
    """The operations of a step as numbers, the longest first."""
    rows = sorted(ops, key=lambda op: -op.seconds(limit))
    return pd.DataFrame(
        {
            t("charts.roofline.operation"): [from_core(op.name) for op in rows],
            "GFLOP": [round(op.flops / 1e9, 3) for op in rows],
            "MB": [round(op.bytes / 1e6, 2) for op in rows],
            t("charts.roofline.intensity"): [round(op.intensity, 2) for op in rows],
            t("charts.roofline.least_ms"): [round(1000 * op.seconds(limit), 3) for op in rows],
            t("charts.roofline.waits_for"): [t(f"kernels.bounds.{op.bound(limit)}") for op in rows],
            t("charts.roofline.launches"): [op.launches for op in rows],
        }
    )


def fused(rows: Sequence[Saving], limit: Limit) -> Chart:
    """What one kernel in place of many saves of a step, operation by operation: bytes counted, time predicted."""
    import plotly.graph_objects as go

    rows = [s for s in rows if s.bytes > 0]
    ordered = list(reversed(rows))
    style = series_style(2)
    fig = figure(t("charts.roofline.not_moved_axis"), "", height=60 + 44 * len(rows))
    fig.add_trace(
        go.Bar(
            x=[s.bytes / GIB for s in ordered], y=[from_core(s.name) for s in ordered], orientation="h",
            marker={"color": style.colour}, customdata=[1000 * s.seconds for s in ordered],
            text=[f"{1000 * s.seconds:.3g} ms" for s in ordered], textposition="auto",
            hovertemplate="%{y}: %{x:.3g} GiB, %{customdata:.3g} ms<extra></extra>",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest", showlegend=False)
    table = pd.DataFrame(
        {
            t("charts.roofline.operation"): [from_core(s.name) for s in rows],
            t("charts.roofline.bytes_saved"): [int(s.bytes) for s in rows],
            t("charts.roofline.launches_saved"): [s.launches for s in rows],
            t("charts.roofline.ms_saved"): [round(1000 * s.seconds, 3) for s in rows],
        }
    )
    best = rows[0] if rows else None
    title = (
        t("charts.roofline.fused", card=limit.name, operation=from_core(best.name), bytes=bytes_text(best.bytes))
        if best
        else t("charts.roofline.nothing_fused")
    )
    alt = f"{t('charts.roofline.fused_alt')} " + " ".join(
        f"{from_core(s.name)}: {s.bytes / GIB:.3g} GiB, {1000 * s.seconds:.3g} ms." for s in rows
    )
    return Chart(title, fig, alt, table)


def launches(rows: Sequence[tuple[str, Total]], limit: Limit) -> Chart:
    """What the card and what the host need for a step, for several steps: the longer of the two is the wait."""
    import plotly.graph_objects as go

    names = [name for name, _ in rows]
    fig = figure("", t("charts.roofline.ms_axis"), height=320, series=2)
    for index, (label, values) in enumerate(
        (
            (t("charts.roofline.card_part"), [1000 * step.device_seconds for _, step in rows]),
            (t("charts.roofline.host_part"), [1000 * step.host_seconds for _, step in rows]),
        )
    ):
        style = series_style(index)
        fig.add_trace(
            go.Scatter(
                x=names, y=values, name=label, mode="markers",
                marker={"symbol": style.marker, "size": 12, "color": style.colour}, hovertemplate="%{y:.3g} ms",
            )
        )  # fmt: skip
    fig.update_yaxes(**log_axis([value for trace in fig.data for value in trace.y]))
    table = pd.DataFrame(
        {
            t("charts.roofline.step"): names,
            t("charts.roofline.launches"): [step.launches for _, step in rows],
            t("charts.roofline.card_ms"): [round(1000 * step.device_seconds, 3) for _, step in rows],
            t("charts.roofline.host_ms"): [round(1000 * step.host_seconds, 3) for _, step in rows],
        }
    )
    bound = [name for name, step in rows if step.host_seconds > step.device_seconds]
    title = t("charts.roofline.step_launches", card=limit.name, steps=", ".join(bound) or t("charts.roofline.none"))
    alt = f"{title}. " + " ".join(
        t("charts.roofline.both", name=name, card=f"{1000 * step.device_seconds:.3g}",
          host=f"{1000 * step.host_seconds:.3g}")
        for name, step in rows
    )  # fmt: skip
    return Chart(title, fig, alt, table)


def decodings(rows: Sequence[Decoding], limit: Limit) -> Chart:
    """How much faster a product can be that decodes inside, and how often it decodes each weight, by tokens."""
    import plotly.graph_objects as go

    tokens = [d.tokens for d in rows]
    fig = figure(t("charts.roofline.tokens_axis"), t("charts.roofline.times_axis"), height=320, series=2)
    for index, (label, values) in enumerate(
        ((t("charts.roofline.gain_line"), [d.gain for d in rows]),
         (t("charts.roofline.decodings_each"), [float(d.decodings) for d in rows]))
    ):  # fmt: skip
        style = series_style(index)
        fig.add_trace(
            go.Scatter(
                x=tokens, y=values, name=label, mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": 2.5},
                marker={"symbol": style.marker, "size": 8}, hovertemplate="%{y:.3g}",
            )
        )  # fmt: skip
    fig.update_xaxes(**log_axis(tokens))
    fig.update_yaxes(**log_axis([value for trace in fig.data for value in trace.y]))
    table = pd.DataFrame(
        {
            t("charts.roofline.tokens"): tokens,
            t("charts.roofline.gain"): [round(d.gain, 3) for d in rows],
            t("charts.roofline.decodings_each"): [d.decodings for d in rows],
            t("charts.roofline.apart"): [round(d.apart_bytes / 1e6, 2) for d in rows],
            t("charts.roofline.inside"): [round(d.inside_bytes / 1e6, 2) for d in rows],
        }
    )
    first, last = rows[0], rows[-1]
    title = t(
        "charts.roofline.decodings", first=f"{first.gain:.1f}", few=f"{first.tokens:,}", last=f"{last.gain:.2f}",
        many=f"{last.tokens:,}", decodings=last.decodings,
    )  # fmt: skip
    return Chart(title, fig, t("charts.roofline.decodings_alt", title=title), table)


__all__ = ["decodings", "fused", "launches", "ops_table", "per_second", "roofline"]
