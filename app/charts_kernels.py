"""Figures of the kernel page: the roofline with what is predicted and what was measured, and what each fusion saves."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from app.calc_roofline import plain as three
from app.charts import BASE_STYLE, Chart, figure, series_style
from app.charts_memory import SPACE
from app.charts_validation import percent
from app.words import from_core, t
from core.kernel_records import Point
from core.roofline import Limit, Op, Saving
from core.units import GIB, bytes_text

PLAIN, FUSED = "one by one", "fused"


def rate_text(flops_per_second: float) -> str:
    """2.5e13 -> '25 TFLOP/s'"""
    for size, unit in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")):
        if flops_per_second >= size:
            return f"{flops_per_second / size:.3g}{SPACE}{unit}"
    return f"{flops_per_second:.3g}{SPACE}FLOP/s"


def ms_text(seconds: float) -> str:
    """0.0123 -> '12.3 ms'; 12.3 -> '12,300 ms'"""
    return f"{three(1e3 * seconds)}{SPACE}ms"


def _roof(limit: Limit, low: float, high: float) -> tuple[list[float], list[float]]:
    xs = [low, limit.ridge, high]
    return xs, [limit.reachable(x) for x in xs]


def roofline(plain: Sequence[Op], fused: Sequence[Op], limit: Limit, step_seconds: float) -> Chart:
    """Every operation of a step on its card's roof: as PyTorch does it, and fused. All of them are predictions.

    Args:
        step_seconds: what the card needs at least for the step as PyTorch does it; sizes of marks are shares of it.
    """
    import plotly.graph_objects as go

    fig = figure(t("charts.kernels.intensity_axis"), t("charts.kernels.rate_axis"), height=400, series=3)
    ops = [*plain, *fused]
    low, high = min(o.intensity for o in ops) / 2, max(limit.ridge * 4, max(o.intensity for o in ops) * 2)
    xs, ys = _roof(limit, low, high)
    fig.add_trace(
        go.Scatter(x=xs, y=[y / 1e12 for y in ys], mode="lines",
                   name=t("charts.kernels.limit", card=limit.name), line={"color": BASE_STYLE.colour, "width": 2},
                   hoverinfo="skip")
    )  # fmt: skip
    for number, (name, some) in enumerate(((PLAIN, plain), (FUSED, [o for o in fused if o.kernel]))):
        style = series_style(number)
        fig.add_trace(
            go.Scatter(
                x=[o.intensity for o in some], y=[limit.reachable(o.intensity) / 1e12 for o in some], mode="markers",
                name=t("charts.kernels.predicted_plain" if name == PLAIN else "charts.kernels.predicted_fused"),
                marker={
                    "symbol": style.marker + ("-open" if name == PLAIN else ""), "color": style.colour,
                    "size": [8 + 26 * (o.seconds(limit) / step_seconds) ** 0.5 for o in some],
                    "line": {"width": 2, "color": style.colour},
                },
                text=[f"{from_core(o.name)}: {ms_text(o.seconds(limit))}, {bytes_text(round(o.bytes))}" for o in some],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    fig.update_xaxes(type="log", dtick=1)
    fig.update_yaxes(type="log", dtick=1)
    fig.update_layout(hovermode="closest")
    waits = sum(o.seconds(limit) for o in plain if o.bound(limit) == "memory") / step_seconds
    title = t("charts.kernels.roofline", share=percent(waits, 0))
    table = pd.DataFrame(
        [
            {"operation": o.name, "done": name, "kernel": o.kernel, "flops": o.flops, "bytes": o.bytes,
             "launches": o.launches, "flops_per_byte": o.intensity, "least_seconds": o.seconds(limit),
             "waits_for": o.bound(limit)}
            for name, some in ((PLAIN, plain), (FUSED, fused)) for o in some
        ]
    )  # fmt: skip
    alt = (
        t(
            "charts.kernels.roofline_alt",
            card=limit.name,
            rate=rate_text(limit.flops_per_second),
            ridge=f"{limit.ridge:.0f}",
        )
        + " "
        + " ".join(
            t(
                "charts.kernels.operation",
                name=from_core(o.name),
                intensity=three(o.intensity),
                time=ms_text(o.seconds(limit)),
            )
            for o in plain
        )
    )
    return Chart(title, fig, alt, table)


def saved(savings: Sequence[Saving]) -> Chart:
    """Bytes that each fusion spares in a step, the largest first."""
    import plotly.graph_objects as go

    rows = [s for s in savings if s.bytes > 0]
    names = [from_core(s.name) for s in rows]
    fig = figure(t("charts.kernels.saved_axis"), "", height=90 + 34 * len(rows))
    style = series_style(1)
    fig.add_trace(
        go.Bar(
            x=[s.bytes / GIB for s in rows], y=names, orientation="h", marker={"color": style.colour},
            text=[t("charts.kernels.launches", time=ms_text(s.seconds), launches=f"{s.launches:,}") for s in rows],
            textposition="auto",
            hovertemplate="%{y}: %{x:.1f} GiB<extra></extra>",
        )
    )  # fmt: skip
    fig.update_yaxes(autorange="reversed")
    fig.update_layout(showlegend=False)
    total = sum(s.bytes for s in rows)
    launches = sum(s.launches for s in savings)
    title = t("charts.kernels.saved", bytes=bytes_text(round(total)), launches=f"{launches:,}")
    told = " ".join(
        f"{from_core(s.name)}: {bytes_text(round(s.bytes))}, "
        + t("charts.kernels.launches", time=ms_text(s.seconds), launches=f"{s.launches:,}")
        + "."
        for s in rows
    )
    alt = f"{t('charts.kernels.saved_alt')} {told}"
    table = pd.DataFrame(
        [
            {"operation": s.name, "kernel": s.kernel, "bytes_saved": s.bytes, "launches_saved": s.launches,
             "seconds_saved": s.seconds}
            for s in savings
        ]
    )  # fmt: skip
    return Chart(title, fig, alt, table)


def measured(points: Sequence[Point], limit: Limit, date: str) -> Chart:
    """Timed kernels under the roof that the card reached itself."""
    import plotly.graph_objects as go

    versions = list(dict.fromkeys(p.version for p in points))
    rate = t("charts.kernels.reached_axis")
    fig = figure(t("charts.kernels.intensity_axis"), rate, height=400, series=1 + len(versions))
    low, high = min(p.intensity for p in points) / 2, max(limit.ridge * 4, max(p.intensity for p in points) * 2)
    xs, ys = _roof(limit, low, high)
    fig.add_trace(
        go.Scatter(x=xs, y=[y / 1e12 for y in ys], mode="lines", name=limit.name, hoverinfo="skip",
                   line={"color": BASE_STYLE.colour, "width": 2})
    )  # fmt: skip
    for number, version in enumerate(versions):
        style, some = series_style(number), [p for p in points if p.version == version]
        fig.add_trace(
            go.Scatter(
                x=[p.intensity for p in some], y=[p.rate / 1e12 for p in some], mode="markers", name=version,
                marker={"symbol": style.marker, "color": style.colour, "size": 9},
                text=[
                    f"{p.label}: {ms_text(p.seconds)}, {t('charts.kernels.of_limit', share=percent(p.share, 0))}"
                    for p in some
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    fig.update_xaxes(type="log", dtick=1)
    fig.update_yaxes(type="log", dtick=1)
    fig.update_layout(hovermode="closest")
    own = [p.share for p in points if p.version == "kernel"]
    title = t("charts.kernels.measured", date=date, low=percent(min(own), 0), high=percent(max(own), 0))
    table = pd.DataFrame([vars(p) for p in points])
    alt = t("charts.kernels.measured_alt", card=limit.name, title=title)
    return Chart(title, fig, alt, table)
