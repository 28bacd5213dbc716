"""Figures of the lesson on quantization: where NF4's levels come from, step by step, and what "optimal" means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, series_style
from app.charts_quantization import derivation, format_style, levels, share
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
    fig = figure("weight, in standard deviations", "share of the weights below", height=330, series=2)
    fig.add_trace(
        go.Scatter(x=x, y=curve, name="normal distribution", mode="lines", hoverinfo="skip",
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
            name="quantiles" if quantiles else "even steps of probability",
            marker={"color": style.colour, "symbol": style.marker, "size": 8}, hovertemplate="%{x:.3f}, %{y:.3f}",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-2.7, 2.6])
    fig.update_yaxes(range=[-0.03, 1.02])
    below, above = len(found.negative) - 1, len(found.positive) - 1
    if quantiles:
        title = f"Even steps of height become uneven steps of value: the last stands at {found.positive[-1][1]:.2f}"
    else:
        title = f"{len(rows)} heights: {below} even steps below one half, {above} above it"
    alt = (
        f"The rising S-shaped curve of a normal distribution's cumulative probability. {len(rows)} horizontal lines at "
        f"heights from {rows[0][0]:.3f} to {rows[-1][0]:.3f} meet it"
        + (" and drop to the axis, dense in the middle and sparse at the ends." if quantiles else ".")
    )
    return Chart(title, fig, alt, derivation(found))


def code_title(name: str) -> str:
    """'NF4'; of a fitted list, what it was fitted for."""
    return FORMATS[name].title if name in FORMATS else f"fitted for {name}"


def criteria(rows: Sequence[Judged]) -> Chart:
    """Error against the bits that the codes carry: right is equal use, down is least error."""
    import plotly.graph_objects as go

    fig = figure("what the four bits carry, bits", "error, % of the weights' spread", height=300, series=len(rows))
    for place, row in enumerate(rows):
        style = format_style(row.name) if row.name in FORMATS else series_style(place + 2)
        fig.add_trace(
            go.Scatter(
                x=[row.entropy_bits], y=[100 * row.rmse], mode="markers", name=code_title(row.name),
                marker={"symbol": style.marker, "size": 13, "color": style.colour},
                hovertemplate=f"{code_title(row.name)}: %{{x:.3f}} bits, %{{y:.2f}} %<extra></extra>",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    by = {r.name: r for r in rows}
    nf4, least, equal = by["nf4"], by[LEAST_ERROR], by[EQUAL_USE]
    title = (
        f"NF4 errs by {share(nf4.rmse)} and fills {nf4.entropy_bits:.2f} of 4 bits; the least possible error is "
        f"{share(least.rmse)}, and equal use costs {share(equal.rmse)}"
    )
    alt = "Scatter plot of code books by the bits that their codes carry and by their error. " + " ".join(
        f"{code_title(r.name)}: {r.entropy_bits:.2f} bits, {share(r.rmse)}." for r in rows
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
