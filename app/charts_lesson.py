"""Figures and tables of comparisons in lessons. Pure functions; no Streamlit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from app.calc import less_is_better, quantity_axis, quantity_text, quantity_title, unit_of
from app.charts import Chart, Style, figure, inside, method_style, series_style
from app.words import t

Figures = Mapping[str, float]

# Of the width of an axis: what a number under it takes, and what the name of a point does.
TICK_ROOM = 0.09
LABEL_ROOM = 0.15
LONG_LABEL = 12  # characters


@dataclass(frozen=True)
class Compared:
    """One run of a comparison. figures: app.calc.run_figures; those that it has not reached are missing."""

    label: str
    method: str
    figures: Figures


def table(runs: Sequence[Compared], columns: Sequence[str]) -> pd.DataFrame:
    """One row a run, as people read it."""
    return pd.DataFrame(
        [
            {t("charts.comparison.run"): run.label, **{quantity_title(c): _text(c, run.figures) for c in columns}}
            for run in runs
        ]
    )  # fmt: skip


def numbers(runs: Sequence[Compared], columns: Sequence[str]) -> pd.DataFrame:
    """The same as numbers, for CSV; the names of the columns are those of the figures, with the unit where they lack
    it: exact_match_after_percent, loss_after_nats."""
    names = {c: _with_unit(c) for c in columns}
    return pd.DataFrame(
        [{"run": r.label, "method": r.method, **{names[c]: r.figures.get(c) for c in columns}} for r in runs],
        columns=["run", "method", *names.values()],
    )


def _with_unit(what: str) -> str:
    """The name of a figure as the head of a column for machines."""
    unit = unit_of(what)
    return f"{what}_{unit}" if unit and not what.endswith(f"_{unit}") else what


def _text(what: str, figures: Figures) -> str:
    return quantity_text(what, figures[what]) if what in figures else "–"


def _axis(what: str) -> str:
    unit = quantity_axis(what)[0]
    return quantity_title(what) + (f", {unit}" if unit else "")


def against(runs: Sequence[Compared], x: str, y: str, *, log: bool = False, joined: bool = True) -> Chart:
    """One point a run: two of its figures.

    Args:
        runs: those that lack one of the two are left out.
        log: whether x has a logarithmic axis.
        joined: a line through the runs of each method, in the order of x; for runs along one knob, not for runs that
            differ in kind.
    """
    import plotly.graph_objects as go

    told = [r for r in runs if x in r.figures and y in r.figures]
    fig = figure(_axis(x), _axis(y), height=320)
    fig.update_layout(hovermode="closest", showlegend=False)
    by_x, by_y = quantity_axis(x)[1], quantity_axis(y)[1]
    points = [(r.figures[x] / by_x, r.figures[y] / by_y) for r in told]
    for method in dict.fromkeys(r.method for r in told) if joined else ():
        line = sorted(point for point, run in zip(points, told, strict=True) if run.method == method)
        if len(line) > 1:
            fig.add_trace(
                go.Scatter(
                    x=[a for a, _ in line], y=[b for _, b in line], mode="lines", hoverinfo="skip",
                    line={"color": method_style(method).colour, "width": 1.5},
                )
            )  # fmt: skip
    for run, style, point, place in zip(told, _styles(told), points, _label_places(told, points, log), strict=True):
        fig.add_trace(
            go.Scatter(
                x=[point[0]], y=[point[1]], mode="markers+text", name=run.label,
                text=[run.label], textposition=place, textfont={"size": 13}, cliponaxis=False,
                marker={"symbol": style.marker, "size": 12, "color": style.colour},
                hovertemplate=f"{run.label}<br>{quantity_title(x)}: {_text(x, run.figures)}<br>"
                f"{quantity_title(y)}: {_text(y, run.figures)}<extra></extra>",
            )
        )  # fmt: skip
    if log:
        ticks = _apart(sorted({r.figures[x] for r in told}))
        fig.update_xaxes(
            type="log", tickvals=[value / by_x for value in ticks], ticktext=[quantity_text(x, v) for v in ticks],
        )  # fmt: skip
    if quantity_axis(y)[0] == "%":
        fig.update_yaxes(range=[-5, 112], tickvals=[0, 20, 40, 60, 80, 100])
    both = t("charts_lesson.against", y=quantity_title(y), x=inside(quantity_title(x)))
    alt = " ".join([f"{both}.", *(f"{r.label}: {_text(x, r.figures)}, {_text(y, r.figures)}." for r in told)])
    return Chart(_finding(told, x, y), fig, alt, numbers(told, [x, y]))


def _apart(values: Sequence[float]) -> list[float]:
    """Of ascending values those whose names have room beside each other on a logarithmic axis; the first is kept."""
    if len(values) < 2 or values[0] <= 0:
        return list(values)
    room = TICK_ROOM * math.log(values[-1] / values[0])
    kept = [values[0]]
    for value in values[1:]:
        if math.log(value / kept[-1]) >= room:
            kept.append(value)
    return kept


def _label_places(runs: Sequence[Compared], points: Sequence[tuple[float, float]], log: bool) -> list[str]:
    """Where the names of points stand: above, or below where one above would run into the name of a point before it;
    and towards the middle, where a long one would run out of the figure."""
    across = [math.log(a) if log and a > 0 else a for a, _ in points]
    wide = (max(across) - min(across) if across else 0) or 1
    ups = [b for _, b in points]
    high = (max(ups) - min(ups) if ups else 0) or 1
    out: list[str] = []
    for i, (a, b) in enumerate(zip(across, ups, strict=True)):
        near = [
            out[j].partition(" ")[0] for j in range(i)
            if abs(a - across[j]) < LABEL_ROOM * wide and abs(b - ups[j]) < LABEL_ROOM * high
        ]  # fmt: skip
        side = "center"
        if len(runs[i].label) > LONG_LABEL:
            at = (a - min(across)) / wide
            side = "right" if at < LABEL_ROOM else "left" if at > 1 - LABEL_ROOM else "center"
        out.append(f"{'bottom' if 'top' in near and 'bottom' not in near else 'top'} {side}")
    return out


def _styles(runs: Sequence[Compared]) -> list[Style]:
    """The method's colour; where runs of several methods meet, the method's marker too."""
    seen: dict[str, int] = {}
    out = []
    for run in runs:
        nth = seen[run.method] = seen.get(run.method, -1) + 1
        style = method_style(run.method)
        out.append(style if not nth else Style(style.colour, style.dash, series_style(nth).marker))
    return out


def _finding(runs: Sequence[Compared], x: str, y: str) -> str:
    """Who is best on y, in a sentence."""
    name = quantity_title(y)
    if len(runs) < 2:
        return t("charts_lesson.against", y=name, x=inside(quantity_title(x)))
    texts = {_text(y, r.figures) for r in runs}
    if len(texts) == 1:
        return t("charts_lesson.all_same", figure=name, value=texts.pop())
    best = (min if less_is_better(y) else max)(runs, key=lambda r: r.figures[y])
    same = [r.label for r in runs if _text(y, r.figures) == _text(y, best.figures)]
    which = "lowest" if less_is_better(y) else "highest"
    *most, last = same
    runs_named = f"{', '.join(most)} {t('charts.and')} {last}" if most else last
    return t(f"charts_lesson.{which}", figure=name, runs=runs_named, value=_text(y, best.figures))
