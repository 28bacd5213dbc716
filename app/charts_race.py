"""Figures of a race: two measures against each other, with the Pareto front. Pure functions; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.charts import BASE_STYLE, TASK_STYLE, Chart, figure, inside, listed, log_axis, method_style
from app.words import from_core, t
from core.literature import Experiment
from core.methods import METHODS
from core.race import MEASURES, Band, Measure, front
from core.race import unlearnt as who_did_not_learn

if TYPE_CHECKING:
    import plotly.graph_objects as go

Bands = Mapping[str, Mapping[str, Band]]


def title_of(method: str) -> str:
    """A method's name for people."""
    return METHODS[method].TITLE if method in METHODS else method


def pareto(bands: Bands, x: Measure, y: Measure) -> Chart:
    """One point a method: the medians of two measures, their ranges over the seeds as bars, and the front as a line.

    Args:
        bands: method -> measure -> band (core.race.aggregate); methods without both measures are left out.
    """
    import plotly.graph_objects as go

    both = {m: (b[x.name], b[y.name]) for m, b in bands.items() if x.name in b and y.name in b}
    best = front({m: (a.median, b.median) for m, (a, b) in both.items()}, x.better, y.better)
    across, up = from_core(x.title), from_core(y.title)
    fig = _axes(across, from_core(x.unit), up, from_core(y.unit), series=len(both))
    if x.log:
        fig.update_xaxes(**log_axis([a.median / x.scale for a, _ in both.values()]))
    if y.log:
        fig.update_yaxes(**log_axis([b.median / y.scale for _, b in both.values()]))
    line = [(both[m][0].median / x.scale, both[m][1].median / y.scale) for m in best]
    _front_line(fig, line)
    for method, (a, b) in both.items():
        style = method_style(method)
        fig.add_trace(
            go.Scatter(
                x=[a.median / x.scale], y=[b.median / y.scale], mode="markers", name=title_of(method),
                error_x=_bar(a, x.scale), error_y=_bar(b, y.scale),
                marker={"symbol": style.marker, "size": 13, "color": style.colour,
                        "line": {"width": 3 if method in best else 0, "color": "rgba(128,128,128,0.9)"}},
                hovertemplate=f"{title_of(method)}<br>{across}: {x.text(a.median)}<br>{up}: {y.text(b.median)}"
                "<extra></extra>",
            )
        )  # fmt: skip
    table = pd.DataFrame(
        [
            {"method": title_of(m), x.name: a.median, y.name: b.median, "on_front": m in best}
            for m, (a, b) in both.items()
        ]
    )
    names = listed([title_of(m) for m in best])
    alt = t("charts_race.alt", methods=len(both), x=inside(across), y=inside(up))
    alt += " " + " ".join(f"{title_of(m)}: {x.text(a.median)}, {y.text(b.median)}." for m, (a, b) in both.items())
    if len(both) < 2:
        title = t("charts_lesson.against", y=up, x=inside(across))
    elif len(best) == 1:
        title = t("charts_race.best", method=names, y=inside(up), x=inside(across))
    else:
        title = t("charts_race.front", methods=names)
    return Chart(title, fig, alt, table)


def unlearnt(bands: Bands) -> str:
    """Who learnt too little for the rest of the figures to count, in a sentence; '' where nobody."""
    names = [title_of(method) for method in who_did_not_learn(bands)]
    return t("charts_race.unlearnt", methods=listed(names)) if names else ""


def published(rows: Sequence[Experiment]) -> Chart:
    """The literature's comparison: test accuracy against memory; the methods taught here stand out."""
    import plotly.graph_objects as go

    points = {r.label: (r.memory_gib, r.test_accuracy) for r in rows}
    best = front(points, "less", "more")
    fig = _axes(t("charts_race.memory"), "GiB", t("charts_race.accuracy"), "%", series=2)
    _front_line(fig, [(points[n][0], 100 * points[n][1]) for n in best])
    for name, chosen, style in (
        (t("charts_race.others"), [r for r in rows if r.ours is None], BASE_STYLE),
        (t("charts_race.here_too"), [r for r in rows if r.ours is not None], TASK_STYLE),
    ):
        fig.add_trace(
            go.Scatter(
                x=[r.memory_gib for r in chosen], y=[100 * r.test_accuracy for r in chosen], mode="markers", name=name,
                text=[r.label for r in chosen],
                marker={"symbol": style.marker, "size": 10, "color": style.colour},
                hovertemplate="%{text}<br>%{x:.1f} GiB, %{y:.1f} %<extra></extra>",
            )
        )  # fmt: skip
    table = published_table(rows)
    title = t("charts_race.on_front", names=listed(best))
    alt = f"{t('charts_race.published_alt', experiments=len(rows))} {title}."
    return Chart(title, fig, alt, table)


def published_table(rows: Sequence[Experiment]) -> pd.DataFrame:
    """The literature's rows with units in the names of the columns."""
    return pd.DataFrame(
        [
            {
                "experiment": r.label,
                "test_accuracy_percent": 100 * r.test_accuracy,
                "memory_gib": r.memory_gib,
                "train_seconds": r.train_seconds,
                "trainable": r.trainable,
                "file_bytes": r.file_bytes,
                "source": r.source,
            }
            for r in rows
        ]
    )


def race_table(bands: Bands) -> pd.DataFrame:
    """One row a method, as people read it: the median, with the range where there are several seeds."""
    out = []
    for method, found in bands.items():
        line: dict[str, Any] = {t("charts.comparison.method"): title_of(method)}
        for m in MEASURES:
            band = found.get(m.name)
            line[from_core(m.title)] = "–" if band is None else m.text(band.median) + _range(m, band)
        out.append(line)
    return pd.DataFrame(out)


def race_numbers(bands: Bands) -> pd.DataFrame:
    """The same as numbers, for CSV: median, lowest and highest of each measure, and how many runs."""
    out = []
    for method, found in bands.items():
        line: dict[str, Any] = {"method": method}
        for m in MEASURES:
            band = found.get(m.name)
            line |= {
                m.name: band.median if band else None,
                f"{m.name}_low": band.low if band else None,
                f"{m.name}_high": band.high if band else None,
            }
        line["runs"] = max(b.count for b in found.values())
        out.append(line)
    return pd.DataFrame(out)


def _range(m: Measure, band: Band) -> str:
    """' (142 to 144)' behind '144 MiB': the unit once more only where it is another one."""
    low, high = m.text(band.low), m.text(band.high)
    if low == high:
        return ""
    units = {
        text.rpartition(" ")[2].removesuffix("s") for text in (m.text(band.median), low, high)
    }  # 1 point, 2 points
    if len(units) == 1 and " " in low:
        low, high = low.rpartition(" ")[0], high.rpartition(" ")[0]
    return f" ({low}–{high})"


def _axes(x: str, x_unit: str, y: str, y_unit: str, *, series: int) -> go.Figure:
    fig = figure(_axis(x, x_unit), _axis(y, y_unit), height=380, series=(series + 2) // 3)
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.22})
    return fig


def _axis(title: str, unit: str) -> str:
    return title if unit in title else f"{title}, {unit}"


def _front_line(fig: go.Figure, points: Sequence[tuple[float, float]]) -> None:
    import plotly.graph_objects as go

    if len(points) > 1:
        fig.add_trace(
            go.Scatter(
                x=[p[0] for p in points], y=[p[1] for p in points], mode="lines", name=t("charts_race.pareto"),
                line={"color": BASE_STYLE.colour, "dash": "dot", "width": 1.5}, hoverinfo="skip",
            )
        )  # fmt: skip


def _bar(band: Band, scale: float) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "array": [(band.high - band.median) / scale],
        "arrayminus": [(band.median - band.low) / scale], "visible": band.count > 1, "thickness": 1.5, "width": 4,
    }  # fmt: skip
