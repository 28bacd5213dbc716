"""Figures of the validation page: predicted against published memory, and how far off, by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, series_style
from app.charts_memory import SPACE
from core.units import GIB, bytes_text

METRICS = ("allocated", "reserved", "process", "resident", "stated")
Rows = Sequence[Mapping[str, Any]]


def percent(share: float, digits: int = 1) -> str:
    """0.031 -> '3.1 %'"""
    return f"{100 * share:.{digits}f}{SPACE}%"


def against(rows: Rows) -> Chart:
    """Predicted against published, one mark a row, the metric by its marker; on the line both are equal."""
    import plotly.graph_objects as go

    fig = figure("published, GiB", "predicted, GiB", height=400, series=1)
    values = [r[k] / GIB for r in rows for k in ("measured_bytes", "predicted_bytes")]
    ends = [min(values, default=1.0) / 1.2, max(values, default=10.0) * 1.2]
    fig.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", name="equal", hoverinfo="skip",
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
                mode="markers", name=metric,
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
    title = f"{len(rows)} published peaks: off by {percent(mean)} on average"
    alt = f"Scatter plot of {len(rows)} published memory figures and their predictions. {title}."
    return Chart(title, fig, alt, numbers(rows))


def errors(rows: Rows) -> Chart:
    """The error of each row, in a line of its own for each source; the shaded stretch is within five per cent."""
    import plotly.graph_objects as go

    names: dict[str, list[Mapping[str, Any]]] = {}
    for r in rows:
        names.setdefault(str(r["source_title"]), []).append(r)
    order = sorted(names, key=lambda n: -len(names[n]))
    fig = figure("error, %", "", height=80 + 30 * len(order), series=1)
    fig.add_vrect(x0=-5, x1=5, fillcolor="rgba(128,128,128,0.18)", line_width=0)
    for role, colour, marker in (("held out", series_style(0).colour, "circle"),
                                 ("fitted", series_style(1).colour, "circle-open")):  # fmt: skip
        some = [r for r in rows if (r["role"] == "fitted") == (role == "fitted")]
        if some:
            fig.add_trace(
                go.Scatter(
                    x=[100 * r["error"] for r in some], y=[_short(str(r["source_title"])) for r in some],
                    mode="markers", name=role,
                    text=[f"{r['model']}, {r['method']}: {percent(r['error'])}" for r in some],
                    marker={"symbol": marker, "size": 8, "color": colour, "line": {"width": 1.5, "color": colour}},
                    hovertemplate="%{text}<extra></extra>",
                )
            )  # fmt: skip
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_yaxes(categoryorder="array", categoryarray=[_short(n) for n in reversed(order)])
    within = sum(abs(r["error"]) <= 0.05 for r in rows) / max(len(rows), 1)
    worst = max(rows, key=lambda r: abs(r["error"]), default=None)
    title = f"{percent(within, 0)} of them within 5{SPACE}%"
    if worst is not None:
        title += f"; the worst is off by {percent(abs(worst['error']))}"
    alt = f"Strip plot of prediction errors by source, {len(order)} sources. {title}."
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
                "Model": r["model"], "Method": r["method"], "Source": r["source_title"], "Metric": r["metric"],
                "Published": bytes_text(r["measured_bytes"]), "Predicted": bytes_text(r["predicted_bytes"]),
                "Error": f"{100 * r['error']:+.1f}{SPACE}%", "Trust": r["trust"], "Role": r["role"],
                "Cause": r.get("cause") or "–",
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
    return pd.DataFrame(
        [
            {
                by.capitalize(): sources.get(g["name"], {}).get("title", g["name"]), "Rows": g["rows"],
                "Mean error": percent(g["mean_abs"]),
                "Bias": f"{100 * g['bias']:+.1f}{SPACE}%", "Worst": percent(abs(g["worst"])),
                f"Within 5{SPACE}%": percent(g["within_5"], 0), f"Within 10{SPACE}%": percent(g["within_10"], 0),
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
        ("predicted", "predicted_bytes", series_style(0).colour, "circle", 10),
        ("published", "measured_bytes", BASE_STYLE.colour, "circle-open", 17),  # a ring, seen where both are equal
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
    title = f"torchtune's savings, step by step: every step within {percent(worst)}"
    alt = "Published and predicted memory of torchtune's steps. " + " ".join(
        f"{r['step']}: {bytes_text(r['measured_bytes'])}, predicted {bytes_text(r['predicted_bytes'])}." for r in rows
    )
    return Chart(title, fig, alt, pd.DataFrame([dict(r) for r in rows]))
