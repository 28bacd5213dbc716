"""Figures of the parameter calculator: methods side by side, and what grows with the rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.cells.svg import document
from app.charts import Chart, figure, method_style, series_style
from app.charts_memory import SPACE, marks, share
from app.charts_race import title_of
from app.words import t
from core.units import bytes_text, count_text

if TYPE_CHECKING:
    from core.counting import Count, RankRow, Shape

MARK = series_style(1).colour


def _counts_axis() -> dict[str, Any]:
    """A logarithmic axis of parameters, in the words of the field: 10 M, 1 B."""
    values = [10.0**p for p in range(3, 13)]
    return {"type": "log", "tickvals": values, "ticktext": [count_text(v).replace(" ", SPACE) for v in values]}


def counted(rows: Sequence[Count], chosen: str) -> Chart:
    """How many parameters each method trains, on a logarithmic axis."""
    import plotly.graph_objects as go

    known = sorted((r for r in rows if r.trainable), key=lambda r: r.trainable or 0)
    fig = figure(t("charts.parameters.trained_axis"), "", height=70 + 27 * len(known))
    fig.add_trace(
        go.Scatter(
            x=[r.trainable for r in known], y=[title_of(r.method) for r in known], mode="markers", showlegend=False,
            marker=marks([r.method for r in known], chosen),
            text=[f"{title_of(r.method)}: {r.trainable:,}" for r in known], hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(**_counts_axis())
    fig.update_yaxes(autorange="reversed")
    if known:
        least, most = known[0], known[-1]
        factor = (most.trainable or 1) / (least.trainable or 1)
        title = t(
            "charts.parameters.counted", least=count_text(least.trainable or 0), method=title_of(least.method),
            most=count_text(most.trainable or 0), factor=f"{factor:,.0f}",
        )  # fmt: skip
    else:
        title = t("charts.parameters.nothing")
    alt = f"{t('charts.parameters.counted_alt', methods=len(known))} " + " ".join(
        f"{title_of(r.method)}: {r.trainable:,}." for r in known
    )
    return Chart(title, fig, alt, counts_numbers(rows))


def counts_numbers(rows: Sequence[Count]) -> pd.DataFrame:
    """Numbers for CSV."""
    return pd.DataFrame(
        [
            {"method": r.method, "trainable": r.trainable, "total": r.total, "share": r.share,
             "adapter_bytes": r.adapter_bytes or None, "modules": r.modules or None, "why_not": r.why}
            for r in rows
        ]
    )  # fmt: skip


def counts_table(rows: Sequence[Count]) -> pd.DataFrame:
    """As people read it."""
    return pd.DataFrame(
        [
            {
                t("plan.method"): title_of(r.method),
                t("plan.trains"): "–" if r.trainable is None else f"{r.trainable:,}",
                t("charts.memory.share"): "–" if r.share is None else share(r.share),
                t("plan.saved"): "–" if r.trainable is None else bytes_text(r.adapter_bytes),
                t("parameters.in_modules"): "–" if r.trainable is None else str(r.modules),
                t("charts.parameters.remark"): r.why or "",
            }
            for r in rows
        ]
    )  # fmt: skip


def rank_curve(rows: Sequence[RankRow], rank: int, what: str) -> Chart:
    """What trains by rank: a straight line, with the chosen rank marked."""
    import plotly.graph_objects as go

    style = method_style("lora")
    fig = figure(t("charts.parameters.rank_axis"), t("charts.parameters.trained_axis"), height=260)
    fig.add_trace(
        go.Scatter(
            x=[r.rank for r in rows], y=[r.trainable for r in rows], mode="lines+markers", showlegend=False,
            line={"color": style.colour, "width": 2}, marker={"symbol": style.marker, "size": 7},
            text=[
                t("charts.parameters.at_rank", rank=r.rank)
                + f": {r.trainable:,}, {share(r.share)}, {bytes_text(r.adapter_bytes)}"
                for r in rows
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    here = next((r for r in rows if r.rank == rank), None)
    if here is not None:
        fig.add_trace(
            go.Scatter(x=[here.rank], y=[here.trainable], mode="markers", showlegend=False, hoverinfo="skip",
                       marker={"symbol": "diamond", "size": 13, "color": MARK})
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(type="log", tickvals=[r.rank for r in rows if not r.rank & (r.rank - 1)])
    fig.update_yaxes(**_counts_axis())
    title = (
        t("charts.parameters.rank", rank=rank, share=share(here.share), what=what)
        if here is not None
        else t("charts.parameters.grows", what=what)
    )
    table = pd.DataFrame(
        [{"rank": r.rank, "trainable": r.trainable, "share": r.share, "adapter_bytes": r.adapter_bytes} for r in rows]
    )
    alt = f"{t('charts.parameters.rank_alt')} " + " ".join(
        t("charts.parameters.rank_trains", rank=r.rank, count=f"{r.trainable:,}") for r in rows
    )
    return Chart(title, fig, alt, table)


def to_scale(shape: Shape, rank: int, trained: str) -> tuple[str, str]:
    """One matrix and the two thin ones beside it, drawn to one scale, as SVG with its alt text.

    A pair that is thinner than a pixel is drawn as one pixel.

    Args:
        trained: the colour of what trains, as the theme's hex.
    """
    side = 190.0
    unit = side / max(shape.out, shape.into)
    tall, wide = shape.out * unit, shape.into * unit
    thin = max(rank * unit, 1.0)
    left, top, gap = 10.0, 34.0, 46.0
    b_x = left + wide + gap
    a_x = b_x + thin + 22
    frame = 'stroke="currentColor" stroke-opacity="0.45"'
    inner = f"""
<text x="{left:.1f}" y="20">{t("charts.parameters.frozen")}</text>
<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.2f}" height="{tall:.2f}" fill-opacity="0.12" {frame}/>
<text x="{left + wide + gap / 2:.1f}" y="{top + min(tall, side) / 2 + 5:.1f}" text-anchor="middle">+</text>
<text x="{b_x:.1f}" y="20">{t("charts.parameters.pair")}</text>
<rect x="{b_x:.1f}" y="{top:.1f}" width="{thin:.2f}" height="{tall:.2f}" fill="{trained}"/>
<rect x="{a_x:.1f}" y="{top:.1f}" width="{wide:.2f}" height="{thin:.2f}" fill="{trained}"/>
<rect x="{a_x:.1f}" y="{top:.1f}" width="{wide:.2f}" height="{tall:.2f}" fill="none" stroke-dasharray="2 4" {frame}/>"""
    width, height = a_x + wide + left, top + tall + 14
    alt = t("charts.parameters.to_scale_alt", out=f"{shape.out:,}", into=f"{shape.into:,}", rank=rank)
    return document(inner, max(width, 240), height), alt


def shapes_table(shapes: Sequence[Shape], trained: Mapping[str, int], rank: int) -> pd.DataFrame:
    """The kinds of matrices, whether the method trains beside them, and LoRA's arithmetic on each."""
    return pd.DataFrame(
        [
            {
                t("parameters.matrix"): s.name,
                t("charts.parameters.does"): _does(s),
                t("charts.parameters.shape"): f"{s.out:,} × {s.into:,}", t("parameters.how_many"): s.count,
                t("charts.parameters.in_one"): f"{s.numbers:,}",
                t("charts.parameters.pair_at", rank=rank): f"{s.pair(rank):,}" if rank <= s.most_rank else "–",
                t("charts.parameters.of_matrix"): share(s.pair(rank) / s.numbers) if rank <= s.most_rank else "–",
                t("charts.parameters.even"): f"{s.even_rank:,}",
                "Bias": t("charts.parameters.has_bias" if s.bias else "charts.parameters.no_bias"),
                t("charts.parameters.now"): f"{trained[s.name]:,}" if trained.get(s.name) else "–",
            }
            for s in shapes
        ]
    )  # fmt: skip


def _does(shape: Shape) -> str:
    """What a kind of matrix is for."""
    kind = "head" if shape.head else "rest" if shape.kind == "other" else shape.kind
    return t(f"charts.parameters.kinds.{kind}")
