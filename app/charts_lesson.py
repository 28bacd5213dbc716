"""Figures and tables of comparisons in lessons. Pure functions; no Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from app.calc import less_is_better, quantity_axis, quantity_text, quantity_title, unit_of
from app.charts import Chart, Style, figure, inside, method_style, series_style
from app.words import t

Figures = Mapping[str, float]


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


def against(runs: Sequence[Compared], x: str, y: str, *, log: bool = False) -> Chart:
    """One point a run: two of its figures; runs of one method are joined by a line, in the order of x.

    Args:
        runs: those that lack one of the two are left out.
        log: whether x has a logarithmic axis.
    """
    import plotly.graph_objects as go

    told = [r for r in runs if x in r.figures and y in r.figures]
    fig = figure(_axis(x), _axis(y), height=320)
    fig.update_layout(hovermode="closest", showlegend=False)
    by_x, by_y = quantity_axis(x)[1], quantity_axis(y)[1]
    if len(told) > 1 and len({r.method for r in told}) == 1:
        line = sorted((r.figures[x] / by_x, r.figures[y] / by_y) for r in told)
        fig.add_trace(
            go.Scatter(
                x=[a for a, _ in line], y=[b for _, b in line], mode="lines", hoverinfo="skip",
                line={"color": method_style(told[0].method).colour, "width": 1.5},
            )
        )  # fmt: skip
    for run, style in zip(told, _styles(told), strict=True):
        fig.add_trace(
            go.Scatter(
                x=[run.figures[x] / by_x], y=[run.figures[y] / by_y], mode="markers+text", name=run.label,
                text=[run.label], textposition="top center", textfont={"size": 13}, cliponaxis=False,
                marker={"symbol": style.marker, "size": 12, "color": style.colour},
                hovertemplate=f"{run.label}<br>{quantity_title(x)}: {_text(x, run.figures)}<br>"
                f"{quantity_title(y)}: {_text(y, run.figures)}<extra></extra>",
            )
        )  # fmt: skip
    if log:
        places = sorted({r.figures[x] for r in told})
        fig.update_xaxes(
            type="log", tickvals=[value / by_x for value in places], ticktext=[quantity_text(x, v) for v in places]
        )  # fmt: skip
    if quantity_axis(y)[0] == "%":
        fig.update_yaxes(range=[-5, 112], tickvals=[0, 20, 40, 60, 80, 100])
    both = t("charts_lesson.against", y=quantity_title(y), x=inside(quantity_title(x)))
    alt = " ".join([f"{both}.", *(f"{r.label}: {_text(x, r.figures)}, {_text(y, r.figures)}." for r in told)])
    return Chart(_finding(told, x, y), fig, alt, numbers(told, [x, y]))


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
    runs_named = f" {t('charts.and')} ".join(same)
    return t(f"charts_lesson.{which}", figure=name, runs=runs_named, value=_text(y, best.figures))
