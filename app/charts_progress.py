"""Figures of a learner's way: the course as a path, and how far off predictions were, one after the other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from app.cells.svg import document
from app.charts import BASE_STYLE, TASK_STYLE, Chart, figure
from app.progress import Guess
from app.words import n, t

DONE, GOING, OPEN = "done", "in progress", "not started"
WIDE, NARROW = (4, 168), (3, 116)
"""Stops in a row and the width of each, in pixels: beside prose, and on a phone."""
_RADIUS, _LINE = 19, 15


@dataclass(frozen=True)
class Stop:
    """A lesson on the path. share: of its steps that are done, 0..1. here: where the learner goes on."""

    number: int
    name: str
    status: str
    share: float
    here: bool


def path(stops: Sequence[Stop], form: tuple[int, int] = WIDE) -> tuple[str, str, int]:
    """The course as a winding path: a full disc is done, a ring fills as steps are done, the next stop has a halo.

    Returns the SVG, its alt text and its width in pixels.
    """
    per_row, step = form
    lines = [_lines(stop.name, step // 7) for stop in stops]
    down = 66 + _LINE * max([1, *map(len, lines)])

    def place(i: int) -> tuple[float, float]:
        row, column = divmod(i, per_row)
        if row % 2:
            column = per_row - 1 - column  # back again, so that the path never jumps
        return step / 2 + step * column, 34 + down * row

    inner = []
    for i in range(len(stops) - 1):
        (x0, y0), (x1, y1) = place(i), place(i + 1)
        walked = stops[i].status == DONE
        bow = 0.44 * step * (1 if (i // per_row) % 2 == 0 else -1)  # how far the path swings out at the end of a row
        bend = (
            f"L{x1:.0f} {y1:.0f}" if y0 == y1 else f"C{x0 + bow:.0f} {y0:.0f} {x1 + bow:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
        )
        look = f'stroke="{TASK_STYLE.colour}"' if walked else 'stroke="currentColor" stroke-opacity="0.3"'
        inner.append(f'<path d="M{x0:.0f} {y0:.0f}{bend}" fill="none" {look} stroke-width="4"/>')
    for i, stop in enumerate(stops):
        inner.append(_disc(stop, lines[i], *place(i)))
    rows = -(-len(stops) // per_row)
    width, height = step * per_row, 34 + down * max(rows, 1) - 22
    done = sum(s.status == DONE for s in stops)
    here = next((s.name for s in stops if s.here), "")
    alt = n("path.alt", len(stops), done=done) + (" " + t("path.here", name=here) if here else "")
    return document("".join(inner), width, height), alt, width


def _disc(stop: Stop, lines: Sequence[str], x: float, y: float) -> str:
    """One stop with its number and name."""
    import math

    colour = TASK_STYLE.colour
    around = 2 * math.pi * _RADIUS

    def ring(radius: float, look: str) -> str:
        return f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{radius}" {look}/>'

    parts = []
    if stop.here:
        parts.append(ring(_RADIUS + 7, f'fill="none" stroke="{colour}" stroke-opacity="0.45" stroke-width="4"'))
    # The page's own background hides the path behind the disc; whoever draws this puts its colour in for PAGE.
    parts.append(ring(_RADIUS, 'fill="PAGE" stroke="currentColor" stroke-opacity="0.45" stroke-width="2"'))
    if stop.status == DONE:
        parts.append(ring(_RADIUS, f'fill="{colour}"'))
        tick = f"M{x - 8:.0f} {y + 1:.0f}l5.5 6l10.5 -12"
        parts.append(f'<path d="{tick}" fill="none" stroke="#ffffff" stroke-width="3.2" stroke-linecap="round"/>')
    else:
        if stop.share > 0:
            dashes = f'stroke-dasharray="{around * min(stop.share, 1):.1f} {around:.1f}"'
            turned = f'transform="rotate(-90 {x:.0f} {y:.0f})"'
            parts.append(ring(_RADIUS, f'fill="none" stroke="{colour}" stroke-width="5" {dashes} {turned}'))
        parts.append(f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" font-weight="600">{stop.number}</text>')
    behind = 'stroke="PAGE" stroke-width="4" stroke-linejoin="round" paint-order="stroke"'  # the path does not cross it
    for line, words in enumerate(lines):
        at = f'x="{x:.0f}" y="{y + _RADIUS + 19 + _LINE * line:.0f}"'
        parts.append(f'<text {at} text-anchor="middle" font-size="12.5" {behind}>{html.escape(words)}</text>')
    return "".join(parts)


def _lines(name: str, most: int) -> list[str]:
    """A name in lines of at most so many letters, where its words allow it."""
    import textwrap

    return textwrap.wrap(name, max(most, 8), break_long_words=False)[:3]


def calibration(guesses: Sequence[Guess], titles: Sequence[str]) -> Chart:
    """How far off each prediction was, in their order: the logarithm of predicted over measured, written as a factor.

    Args:
        titles: of the predictions, in the same order.
    """
    import math

    import plotly.graph_objects as go

    numbers = list(range(1, len(guesses) + 1))
    most = max([2.0, *(g.factor for g in guesses)])
    ticks = [f for f in (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0) if f <= most * 1.3]
    marks = [-f for f in reversed(ticks[1:])] + ticks
    fig = figure(t("calibration.x"), t("calibration.y"), height=280)
    fig.add_hline(y=0, line={"color": BASE_STYLE.colour, "width": 1.5, "dash": "dot"})
    fig.add_trace(
        go.Scatter(
            x=numbers, y=[g.ratio for g in guesses], mode="lines+markers", name="", text=list(titles),
            line={"color": TASK_STYLE.colour, "width": 1.5}, marker={"size": 10, "color": TASK_STYLE.colour},
            customdata=[g.factor for g in guesses],
            hovertemplate="%{text}<br>× %{customdata:.2g}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_yaxes(
        tickvals=[math.copysign(math.log(abs(m)), m) for m in marks],
        ticktext=["=" if abs(m) == 1 else f"{'×' if m > 0 else '÷'}{abs(m):g}" for m in marks],
        range=[-math.log(most) * 1.25, math.log(most) * 1.25],
    )
    fig.update_xaxes(dtick=max(1, len(guesses) // 10), range=[0.5, max(len(guesses), 2) + 0.5])
    fig.update_layout(hovermode="closest", showlegend=False)
    half = len(guesses) // 2
    title = n("calibration.title", len(guesses), factor=f"{_mean(guesses):.1f}")
    if half >= 2:
        early, late = _mean(guesses[:half]), _mean(guesses[half:])
        title += " " + t("calibration.trend", early=f"{early:.1f}", late=f"{late:.1f}")
    table = pd.DataFrame(
        {
            t("calibration.prediction"): list(titles), t("calibration.said"): [g.said for g in guesses],
            t("calibration.measured"): [g.measured for g in guesses],
            t("calibration.factor"): [g.factor for g in guesses],
        }
    )  # fmt: skip
    return Chart(title, fig, t("calibration.alt") + " " + title, table)


def _mean(guesses: Sequence[Guess]) -> float:
    """The typical factor."""
    import math

    return math.exp(sum(abs(g.ratio) for g in guesses) / len(guesses))
