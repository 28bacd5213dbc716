"""Figures of the lesson on quantization: where NF4's levels come from, step by step, and what "optimal" means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, series_style
from app.charts_quantization import derivation, format_style, levels, share
from app.words import t
from core.quantization.criteria import EQUAL_USE, LEAST_ERROR, Judged
from core.quantization.formats import FORMATS, NormalFloat

STEPS = ("Probabilities", "Quantiles", "Levels")


def derived(found: NormalFloat, step: str) -> Chart:
    """The derivation up to one of STEPS: equal steps of probability, their quantiles, and the levels."""
    return levels(found) if step == STEPS[2] else _cumulative(found, quantiles=step == STEPS[1])


def _cumulative(found: NormalFloat, *, quantiles: bool) -> Chart:
    """The curve that says which share of a normal distribution lies below a value, cut at even heights."""
    import plotly.graph_objects as go

    normal = NormalDist()
    rows = [*found.negative[1:][::-1], *found.positive]  # (probability, quantile, level), ascending
    x = np.linspace(-2.6, 2.6, 131)
    curve = [normal.cdf(float(v)) for v in x]
    fig = figure(t("charts.levels.weight_axis"), t("charts.levels.below_axis"), height=330, series=2)
    fig.add_trace(
        go.Scatter(x=x, y=curve, name=t("charts.quantization.normal"), mode="lines", hoverinfo="skip",
                   line={"color": BASE_STYLE.colour, "dash": BASE_STYLE.dash, "width": 2})
    )  # fmt: skip
    style = format_style("nf4")
    ways: list[tuple[float | None, float | None]] = []
    for p, z, _ in rows:
        ways += [(-2.6, p), (z, p)]
        ways += [(z, 0.0)] if quantiles else []
        ways.append((None, None))
    fig.add_trace(
        go.Scatter(x=[v[0] for v in ways], y=[v[1] for v in ways], mode="lines", showlegend=False, hoverinfo="skip",
                   line={"color": style.colour, "width": 1.2})
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(
            x=[z for _, z, _ in rows] if quantiles else [-2.6] * len(rows),
            y=[0.0] * len(rows) if quantiles else [p for p, _, _ in rows], mode="markers",
            name=t("charts.levels.quantiles" if quantiles else "charts.levels.even_steps"),
            marker={"color": style.colour, "symbol": style.marker, "size": 8}, hovertemplate="%{x:.3f}, %{y:.3f}",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-2.7, 2.6])
    fig.update_yaxes(range=[-0.03, 1.02])
    below, above = len(found.negative) - 1, len(found.positive) - 1
    if quantiles:
        title = t("charts.levels.uneven", last=f"{found.positive[-1][1]:.2f}")
    else:
        title = t("charts.levels.heights", heights=len(rows), below=below, above=above)
    alt = t(
        "charts.levels.drop_alt" if quantiles else "charts.levels.heights_alt", heights=len(rows),
        low=f"{rows[0][0]:.3f}", high=f"{rows[-1][0]:.3f}",
    )  # fmt: skip
    return Chart(title, fig, alt, derivation(found))


def code_title(name: str) -> str:
    """'NF4'; of a fitted list, what it was fitted for."""
    if name in FORMATS:
        return FORMATS[name].title
    return t("charts.levels.fitted_least" if name == LEAST_ERROR else "charts.levels.fitted_equal")


def criteria(rows: Sequence[Judged]) -> Chart:
    """Error against the bits that the codes carry: right is equal use, down is least error."""
    import plotly.graph_objects as go

    fig = figure(t("charts.levels.carried_axis"), t("charts.quantization.error_axis"), height=300, series=len(rows))
    for place, row in enumerate(rows):
        style = format_style(row.name) if row.name in FORMATS else series_style(place + 2)
        fig.add_trace(
            go.Scatter(
                x=[row.entropy_bits], y=[100 * row.rmse], mode="markers", name=code_title(row.name),
                marker={"symbol": style.marker, "size": 13, "color": style.colour},
                hovertemplate=t("charts.levels.carries", name=code_title(row.name), bits="%{x:.3f}", error="%{y:.2f} %")
                + "<extra></extra>",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    by = {r.name: r for r in rows}
    nf4, least, equal = by["nf4"], by[LEAST_ERROR], by[EQUAL_USE]
    title = t(
        "charts.levels.criteria", error=share(nf4.rmse), bits=f"{nf4.entropy_bits:.2f}", least=share(least.rmse),
        equal=share(equal.rmse),
    )  # fmt: skip
    alt = f"{t('charts.levels.criteria_alt')} " + " ".join(
        t("charts.levels.carries", name=code_title(r.name), bits=f"{r.entropy_bits:.2f}", error=f"{share(r.rmse)}.")
        for r in rows
    )
    table = pd.DataFrame(
        [
            {
                "levels": code_title(r.name), "bits_carried": round(r.entropy_bits, 4),
                "error_percent_of_spread": round(100 * r.rmse, 4),
            }
            for r in rows
        ]
    )  # fmt: skip
    return Chart(title, fig, alt, table)


__all__ = ["STEPS", "code_title", "criteria", "derived"]
