"""Figures of whole training steps beside `transformers.Trainer`: on cards and on a processor."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, series_style
from app.charts_race import title_of
from app.words import t
from core.step_records import Beside, Step

COMPARISONS = ("defaults", "identical", "135M")


def times(value: float) -> str:
    """2.144 -> '2.14 ×'"""
    return f"{value:.2f} ×"


def cards(steps: Sequence[Step], date: str) -> Chart:
    """How many times as fast the engine's step is as Trainer's, of every shape and method that both have.

    Args:
        steps: of which at least one has a gain.
    """
    import plotly.graph_objects as go

    rows = [(f"{s.shape}, {title_of(s.method)}", s.gain) for s in steps if s.gain is not None]
    fig = figure(t("charts.steps.gain_axis"), "", height=110 + 30 * len(rows))
    fig.add_trace(
        go.Bar(
            x=[gain for _, gain in rows], y=[name for name, _ in rows], orientation="h",
            marker={"color": series_style(1).colour}, text=[times(gain) for _, gain in rows], textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    _as_fast(fig)
    fig.update_yaxes(autorange="reversed")
    fig.update_layout(showlegend=False)
    gains = [gain for _, gain in rows]
    fig.update_xaxes(range=[0, 1.15 * max(1.0, *gains)])
    title = t("charts.steps.cards", date=date, low=f"{min(gains):.2f}", high=f"{max(gains):.2f}")
    alt = f"{title}. " + " ".join(f"{name}: {times(gain)}." for name, gain in rows)
    table = pd.DataFrame(
        [
            {"shape": s.shape, "method": s.method, "captured_seconds": s.seconds.get("graphed"),
             "eager_seconds": s.seconds.get("eager"), "trainer_seconds": s.stock_seconds, "times_trainer": s.gain,
             "share_of_roofline": s.share, "peak_bytes": s.peak_bytes, "trainer_peak_bytes": s.stock_peak_bytes}
            for s in steps
        ]
    )  # fmt: skip
    return Chart(title, fig, alt, table)


def processor(rows: Sequence[Beside]) -> Chart:
    """Examples per second over Trainer's, by method: one mark for each comparison, with the range of its rounds."""
    import plotly.graph_objects as go

    methods = list(dict.fromkeys(r.method for r in rows))
    fig = figure(t("charts.steps.rate_axis"), "", height=130 + 26 * len(methods), series=len(COMPARISONS))
    for number, comparison in enumerate(COMPARISONS):
        style, some = series_style(number), [r for r in rows if r.comparison == comparison]
        if not some:
            continue
        fig.add_trace(
            go.Scatter(
                x=[r.gain for r in some], y=[title_of(r.method) for r in some], mode="markers",
                name=t(f"charts.steps.comparisons.{comparison}"),
                marker={"symbol": style.marker, "color": style.colour, "size": 9},
                error_x={"type": "data", "array": [r.high - r.gain for r in some],
                         "arrayminus": [r.gain - r.low for r in some], "thickness": 1.2, "width": 3},
                hovertemplate="%{y}: %{x:.2f} ×<extra></extra>",
            )
        )  # fmt: skip
    _as_fast(fig)
    fig.update_yaxes(categoryorder="array", categoryarray=[title_of(m) for m in reversed(methods)])
    fig.update_layout(hovermode="closest")
    means = {c: [r.gain for r in rows if r.comparison == c] for c in COMPARISONS}
    told = {c: f"{min(v):.1f}–{max(v):.1f}" for c, v in means.items() if v}
    title = t("charts.steps.processor", default=told.get("defaults", "–"), identical=told.get("identical", "–"))
    alt = f"{title}. " + " ".join(
        f"{title_of(r.method)}, {t(f'charts.steps.comparisons.{r.comparison}')}: {times(r.gain)}." for r in rows
    )
    table = pd.DataFrame([vars(r) for r in rows])
    return Chart(title, fig, alt, table)


def _as_fast(fig: object) -> None:
    """A line at 1: as fast as Trainer."""
    fig.add_vline(x=1, line={"color": BASE_STYLE.colour, "width": 1.5, "dash": "dot"})  # type: ignore[attr-defined]
    fig.update_xaxes(rangemode="tozero")  # type: ignore[attr-defined]
