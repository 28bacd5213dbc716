"""Figures of the validation page: predicted against published memory, and how far off, by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, series_style
from app.charts_memory import SPACE
from app.words import has, t
from core.units import GIB, bytes_text

METRICS = ("allocated", "reserved", "process", "resident", "stated")
ROLES = ("held out", "fitted")
Rows = Sequence[Mapping[str, Any]]


def role_title(role: str) -> str:
    """What people read for a row's role."""
    return t("charts.validation.fitted" if role == "fitted" else "charts.validation.held_out")


def metric_title(metric: str) -> str:
    """What people read for what was measured."""
    return t(f"charts.validation.metrics.{metric}") if metric in METRICS else metric


def percent(share: float, digits: int = 1) -> str:
    """0.031 -> '3.1 %'"""
    return f"{100 * share:.{digits}f}{SPACE}%"


def signed(share: float) -> str:
    """-0.031 -> '−3.1 %'"""
    return f"{100 * share:+.1f}{SPACE}%".replace("-", "−")


def against(rows: Rows) -> Chart:
    """Predicted against published, one mark a row, the metric by its marker; on the line both are equal."""
    import plotly.graph_objects as go

    fig = figure(t("charts.validation.published_axis"), t("charts.validation.predicted_axis"), height=400, series=1)
    values = [r[k] / GIB for r in rows for k in ("measured_bytes", "predicted_bytes")]
    ends = [min(values, default=1.0) / 1.2, max(values, default=10.0) * 1.2]
    fig.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", name=t("charts.validation.equal"), hoverinfo="skip",
                   line={"color": BASE_STYLE.colour, "dash": "dot", "width": 1.5})
    )  # fmt: skip
    for number, metric in enumerate(METRICS):
        some = [r for r in rows if r["metric"] == metric]
        if not some:
            continue
        style = series_style(number)
        fig.add_trace(
            go.Scatter(
                x=[r["measured_bytes"] / GIB for r in some], y=[r["predicted_bytes"] / GIB for r in some],
                mode="markers", name=metric_title(metric),
                text=[f"{r['model']}, {r['method']}: {percent(r['error'])}<br>{r['source_title']}" for r in some],
                marker={"symbol": style.marker, "size": 9, "color": style.colour, "opacity": 1},
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    ticks = [1, 2, 5, 10, 20, 50, 100, 200]
    for axis in (fig.update_xaxes, fig.update_yaxes):
        axis(type="log", tickvals=ticks, ticktext=list(map(str, ticks)))
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.2})
    mean = sum(abs(r["error"]) for r in rows) / max(len(rows), 1)
    title = t("charts.validation.against", rows=len(rows), error=percent(mean))
    alt = t("charts.validation.against_alt", rows=len(rows), title=title)
    return Chart(title, fig, alt, numbers(rows))


def errors(rows: Rows) -> Chart:
    """The error of each row, in a line of its own for each source; the shaded stretch is within five per cent."""
    import plotly.graph_objects as go

    names: dict[str, list[Mapping[str, Any]]] = {}
    for r in rows:
        names.setdefault(str(r["source_title"]), []).append(r)
    order = sorted(names, key=lambda n: -len(names[n]))
    fig = figure(t("charts.validation.error_axis"), "", height=80 + 30 * len(order), series=1)
    fig.add_vrect(x0=-5, x1=5, fillcolor="rgba(128,128,128,0.18)", line_width=0)
    for role, number, marker in zip(ROLES, (0, 1), ("circle", "circle-open"), strict=True):
        colour = series_style(number).colour
        some = [r for r in rows if (r["role"] == "fitted") == (role == "fitted")]
        if some:
            fig.add_trace(
                go.Scatter(
                    x=[100 * r["error"] for r in some], y=[_short(str(r["source_title"])) for r in some],
                    mode="markers", name=role_title(role),
                    text=[f"{r['model']}, {r['method']}: {percent(r['error'])}" for r in some],
                    marker={"symbol": marker, "size": 8, "color": colour, "line": {"width": 1.5, "color": colour}},
                    hovertemplate="%{text}<extra></extra>",
                )
            )  # fmt: skip
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_yaxes(categoryorder="array", categoryarray=[_short(n) for n in reversed(order)])
    within = sum(abs(r["error"]) <= 0.05 for r in rows) / max(len(rows), 1)
    worst = max(rows, key=lambda r: abs(r["error"]), default=None)
    title = t("charts.validation.within", share=percent(within, 0))
    if worst is not None:
        title += f"; {t('charts.validation.worst_off', error=percent(abs(worst['error'])))}"
    alt = t("charts.validation.errors_alt", sources=len(order), title=title)
    return Chart(title, fig, alt, numbers(rows))


def _short(title: str) -> str:
    return title if len(title) <= 28 else title[:27].rstrip() + "…"


def numbers(rows: Rows) -> pd.DataFrame:
    """For CSV."""
    columns = ("id", "source", "model", "method", "detail", "gpu", "gpus", "batch", "length", "metric", "trust", "role",
               "stack", "measured_bytes", "predicted_bytes", "allocated_bytes", "error", "peak_at",
               "cause")  # fmt: skip
    return pd.DataFrame([{c: r.get(c) for c in columns} for r in rows], columns=list(columns))


def rows_table(rows: Rows) -> pd.DataFrame:
    """As people read it, the worst first."""
    return pd.DataFrame(
        [
            {
                t("model.model"): r["model"], t("plan.method"): r["method"],
                t("validation.groups.source"): r["source_title"],
                t("charts.validation.metric"): metric_title(r["metric"]),
                t("validation.published_bytes"): bytes_text(r["measured_bytes"]),
                t("validation.predicted"): bytes_text(r["predicted_bytes"]),
                t("validation.error"): signed(r["error"]), t("charts.validation.trust"): r["trust"],
                t("charts.validation.role"): role_title(r["role"]),
                t("charts.validation.cause"): r.get("cause") or "–",
            }
            for r in sorted(rows, key=lambda r: -abs(r["error"]))
        ]
    )  # fmt: skip


def groups_table(
    groups: Sequence[Mapping[str, Any]], by: str, sources: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """How far off, by one thing.

    Args:
        sources: id -> title and more.
    """
    heading = t(f"charts.validation.groups.{by}") if has(f"charts.validation.groups.{by}") else by.capitalize()
    named = {"role": role_title, "metric": metric_title}.get(by, lambda name: sources.get(name, {}).get("title", name))
    return pd.DataFrame(
        [
            {
                heading: named(g["name"]), t("charts.validation.rows"): g["rows"],
                t("charts.validation.mean_error"): percent(g["mean_abs"]),
                t("charts.validation.bias"): signed(g["bias"]),
                t("charts.validation.worst"): percent(abs(g["worst"])),
                t("charts.validation.within_column", share=f"5{SPACE}%"): percent(g["within_5"], 0),
                t("charts.validation.within_column", share=f"10{SPACE}%"): percent(g["within_10"], 0),
            }
            for g in groups
            if g["by"] == by
        ]
    )  # fmt: skip


def waterfall(rows: Rows) -> Chart:
    """torchtune's steps, published and predicted side by side."""
    import plotly.graph_objects as go

    names = [str(r["step"]) for r in rows]
    fig = figure("GiB", "", height=70 + 34 * len(rows), series=1)
    looks = (
        (t("charts.validation.predicted"), "predicted_bytes", series_style(0).colour, "circle", 10),
        # a ring, seen where both are equal
        (t("charts.validation.published"), "measured_bytes", BASE_STYLE.colour, "circle-open", 17),
    )
    for name, key, colour, marker, width in looks:
        fig.add_trace(
            go.Scatter(
                x=[r[key] / GIB for r in rows], y=names, mode="markers", name=name, hovertemplate="%{x:.1f} GiB",
                marker={"symbol": marker, "size": width, "color": colour, "line": {"width": 2, "color": colour}},
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(rangemode="tozero")
    worst = max((abs(r["error"]) for r in rows), default=0.0)
    title = t("charts.validation.waterfall", error=percent(worst))
    alt = f"{t('charts.validation.waterfall_alt')} " + " ".join(
        t("charts.validation.step", step=r["step"], published=bytes_text(r["measured_bytes"]),
          predicted=bytes_text(r["predicted_bytes"]))
        for r in rows
    )  # fmt: skip
    return Chart(title, fig, alt, pd.DataFrame([dict(r) for r in rows]))
