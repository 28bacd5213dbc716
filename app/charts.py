"""Every still figure of the app: pure functions from data to figure, alt text and table; no Streamlit.

One palette: a method has the same colour, dash and marker on every page. The colours keep a contrast of at least 3:1
to both themes' backgrounds (a test computes it) and can be told apart by the colour-blind; dash and marker carry the
same information without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.story import Story, percent, skill_title, small
from app.words import DEFAULT, current, n, t
from core.units import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from core.dataset import Lengths

LIGHT_BACKGROUND, DARK_BACKGROUND = "#fdfcfa", "#12151a"
"""The page's backgrounds, as in .streamlit/config.toml (a test compares them)."""

_LINE = 2.5


@dataclass(frozen=True)
class Style:
    """How a series looks: colour (hex), dash (plotly's name), marker (plotly's symbol)."""

    colour: str
    dash: str
    marker: str


# Okabe and Ito's hues, darkened or lightened until each stands 3:1 off both backgrounds.
_STYLES = (
    Style("#2b7bba", "solid", "circle"),
    Style("#d55e00", "dash", "square"),
    Style("#00875f", "dashdot", "diamond"),
    Style("#a9549b", "dot", "triangle-up"),
    Style("#a87400", "longdash", "x"),
    Style("#7a8089", "longdashdot", "cross"),
    Style("#c2443f", "solid", "triangle-down"),
    Style("#0f8a8a", "dash", "star"),
)
_METHODS = {"lora": 0, "full": 1, "qlora": 2, "bitfit": 3}
_COLOURS = (4, 6, 7, 0, 1, 2, 3)
_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
_MARKERS = (
    "x", "triangle-down", "star", "pentagon", "hexagon", "diamond-wide", "triangle-left", "triangle-right", "hourglass",
    "bowtie", "star-diamond", "star-square", "hexagram",
)  # fmt: skip
BASE_STYLE = _STYLES[5]
"""The untouched base, wherever it is compared."""
TASK_STYLE = _STYLES[0]
"""The task being learnt, in a figure about one run."""


def method_style(name: str) -> Style:
    """The style of a method. There are more methods than colours that tell apart: each has a marker of its own, and no
    two share both colour and dash. Methods that come later take what is left, in the order of METHODS."""
    if name in _METHODS:
        return _STYLES[_METHODS[name]]
    from core.methods import METHODS

    later = [m for m in METHODS if m not in _METHODS]
    if name not in later:
        return BASE_STYLE
    index = later.index(name)
    colour = _STYLES[_COLOURS[index % len(_COLOURS)]].colour
    return Style(colour, _DASHES[index % len(_DASHES)], _MARKERS[index % len(_MARKERS)])


def series_style(index: int) -> Style:
    """The style of the n-th of several series that are not methods (old skills, seeds, ranks)."""
    return _STYLES[index % len(_STYLES)]


@dataclass(frozen=True)
class Chart:
    """A figure with everything it must come with.

    title: the finding, in a sentence. figure: plotly. alt: what a reader who cannot see it needs. table: its numbers.
    """

    title: str
    figure: go.Figure
    alt: str
    table: pd.DataFrame


def figure(x_title: str, y_title: str, *, height: int = 300, series: int = 0) -> go.Figure:
    """An empty figure in the house style: no frame, quiet grid, the legend as a list below the plot.

    Args:
        series: lines of the legend, which get room of their own instead of the plot's.
    """
    import plotly.graph_objects as go

    fig = go.Figure()
    fig.update_layout(
        height=height + 20 * series,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"y": -60 / height, "yanchor": "top", "x": 0, "xanchor": "left", "title": None},
        hovermode="x unified",
        dragmode=False,
    )
    fig.update_xaxes(title=x_title, automargin=True, zeroline=False, fixedrange=True)
    fig.update_yaxes(title=y_title, automargin=True, zeroline=False, fixedrange=True)
    return fig


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis for these values, with ticks at powers of ten, and at 2 and 5 times them where there is room:
    in plain figures, or as 1 k, 1 M where they are large."""
    import math

    known = [v for v in values if v > 0]
    if not known:
        return {"type": "log"}
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    marks = (1, 2, 5) if high - low <= 3 else (1,)
    found = [m * 10.0**p for p in range(low, high + 1) for m in marks]
    found = [tick for tick in found if min(known) / 2.6 <= tick <= max(known) * 2.6]
    text = [f"{tick:,g}" if tick < 1e4 else count_text(tick).replace(" ", "\u00a0") for tick in found]
    return {"type": "log", "tickvals": found, "ticktext": text}


def _unique(runs: Sequence[tuple[str, Story]]) -> list[tuple[str, Story, Style]]:
    """Runs with a style each: the method's; a second run of a method gets its colour with another dash and marker."""
    seen: dict[str, int] = {}
    out = []
    for label, story in runs:
        style = method_style(story.method)
        nth = seen.get(story.method, 0)
        seen[story.method] = nth + 1
        if nth:
            other = series_style(_STYLES.index(style) + nth)
            style = Style(style.colour, other.dash, other.marker)
        out.append((label, story, style))
    return out


def inside(text: str) -> str:
    """A title as it stands inside a sentence: its first letter small, but in German, where nouns keep theirs."""
    return text[:1].lower() + text[1:] if current() == DEFAULT else text


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(names) < 2:
        return "".join(names)
    return t("charts.listed", first=", ".join(names[:-1]), last=names[-1])


def losses(runs: Sequence[tuple[str, Story]]) -> Chart:
    """Training loss of several runs over their steps.

    Args:
        runs: (label, story) each.
    """
    import plotly.graph_objects as go

    fig = figure(t("charts.step"), t("charts.loss"), series=len(runs))
    tables = []
    ends = []
    for label, story, style in _unique(runs):
        steps, values = [s["step"] for s in story.steps], [s["loss"] for s in story.steps]
        fig.add_trace(
            go.Scatter(
                x=steps, y=values, name=label, mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": _LINE},
                marker={"symbol": style.marker, "size": 8, "maxdisplayed": 8},
                hovertemplate="%{y:.3f}",
            )
        )  # fmt: skip
        tables.append(pd.DataFrame({"run": label, "step": steps, "loss": values}))
        known = [v for v in values if v is not None]
        if known:
            ends.append((label, known[0], known[-1]))
    fig.update_yaxes(rangemode="tozero")
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", "step", "loss"])
    told = [t("charts.from_to", name=name, first=f"{a:.2f}", last=f"{b:.2f}") for name, a, b in ends]
    alt = " ".join([t("charts.losses_alt"), *told])
    best = min(ends, key=lambda e: e[2]) if ends else None
    title = (
        t("charts.lowest_loss", loss=f"{best[2]:.2f}", run=best[0]) if best and len(ends) > 1 else t("charts.losses")
    )
    return Chart(title, fig, alt, table)


def task_scores(runs: Sequence[tuple[str, Story]]) -> Chart:
    """Held-out exact match on the task (accuracy, for labels), over the steps, of several runs."""
    import plotly.graph_objects as go

    kinds = {story.classifies for _, story in runs}
    what = t(f"charts.scored.{'both' if len(kinds) > 1 else 'labels' if kinds == {True} else 'answers'}")
    fig = figure(t("charts.step"), f"{what}, %", series=len(runs))
    tables, ends = [], []
    for label, story, style in _unique(runs):
        rows = [e for e in story.evaluated if e["exact_match"] is not None]
        steps, values = [e["step"] for e in rows], [100 * e["exact_match"] for e in rows]
        fig.add_trace(
            go.Scatter(
                x=steps, y=values, name=label, mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": _LINE},
                marker={"symbol": style.marker, "size": 9}, hovertemplate="%{y:.0f} %",
            )
        )  # fmt: skip
        tables.append(pd.DataFrame({"run": label, "step": steps, "exact_match_percent": values}))
        if values:
            ends.append((label, values[-1]))
    fig.update_yaxes(range=[-3, 103])
    table = (
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", "step", "exact_match_percent"])
    )
    told = [t("charts.ends_at", name=name, share=f"{v:.0f}") for name, v in ends]
    alt = " ".join([t("charts.scores_alt", what=what), *told])
    best = max(ends, key=lambda e: e[1]) if ends else None
    title = t("charts.best", share=f"{best[1]:.0f}", run=best[0]) if best and len(ends) > 1 else t("charts.task_scores")
    return Chart(title, fig, alt, table)


def before_after(story: Story, *, title: str = "") -> Chart | None:
    """Scores before and after one run, a row each for the task and every old skill; None before there are two looks."""
    import plotly.graph_objects as go

    before, after = story.before, story.after
    if before is None or after is None:
        return None
    rows: list[tuple[str, float, float]] = []
    if before["exact_match"] is not None and after["exact_match"] is not None:
        rows.append(
            (title or t("charts.task", task=after["task"]), 100 * before["exact_match"], 100 * after["exact_match"])
        )
    rows += [
        (skill_title(name), 100 * before["skills"][name], 100 * share)
        for name, share in after.get("skills", {}).items()
        if name in before.get("skills", {})
    ]
    if not rows:
        return None
    names = [r[0] for r in rows]
    style = method_style(story.method)
    fig = figure(t("charts.share_right"), "", height=90 + 34 * len(rows), series=2)
    for name, a, b in rows:
        fig.add_trace(
            go.Scatter(x=[a, b], y=[name, name], mode="lines", line={"color": BASE_STYLE.colour, "width": 2},
                       showlegend=False, hoverinfo="skip")
        )  # fmt: skip
    for label, column, colour, symbol in (
        (t("charts.before"), 1, BASE_STYLE.colour, "circle-open"),
        (t("charts.after"), 2, style.colour, style.marker),
    ):
        fig.add_trace(
            go.Scatter(x=[r[column] for r in rows], y=names, mode="markers", name=label, hovertemplate="%{x:.0f} %",
                       marker={"symbol": symbol, "size": 12, "color": colour, "line": {"width": 2, "color": colour}})
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-4, 104])
    fig.update_yaxes(autorange="reversed")
    table = pd.DataFrame(
        {"score": names, "before_percent": [r[1] for r in rows], "after_percent": [r[2] for r in rows]}
    )
    told = [t("charts.before_and_after", name=name, before=f"{a:.0f}", after=f"{b:.0f}") for name, a, b in rows]
    alt = " ".join([t("charts.before_after_alt"), *told])
    return Chart(t("charts.before_after"), fig, alt, table)


def lengths(found: Lengths, limit: int, too_long: int) -> Chart:
    """How long the rows of a file are, in tokens, with the limit as a line."""
    import plotly.graph_objects as go

    low, high, rows = zip(*found.histogram, strict=True) if found.histogram else ((), (), ())
    fig = figure(t("charts.row_tokens"), t("charts.rows"), height=240)
    ends = list(zip(low, high, strict=True))
    fig.add_trace(
        go.Bar(
            x=[(a + b) / 2 for a, b in ends], y=rows, width=[b - a for a, b in ends],
            marker={"color": TASK_STYLE.colour, "line": {"width": 1, "color": "rgba(128,128,128,0.5)"}},
            customdata=[t("charts.span", low=a, high=b - 1) for a, b in ends],
            hovertemplate=t("charts.rows_hover"), showlegend=False,
        )
    )  # fmt: skip
    if high and limit <= 1.5 * max(high):
        look = {"color": _STYLES[1].colour, "dash": "dash", "width": 2}
        fig.add_vline(x=limit, line=look, annotation_text=t("charts.limit"))
    fig.update_layout(hovermode="closest")
    title = n("charts.too_long", too_long, rows=too_long, limit=limit) if too_long else t("charts.all_fit", limit=limit)
    alt = t(
        "charts.lengths_alt", shortest=found.shortest, longest=found.longest, median=f"{found.median:.0f}", limit=limit
    )
    table = pd.DataFrame({"from_tokens": low, "below_tokens": high, "rows": rows})
    return Chart(title, fig, alt, table)


def steps_table(story: Story) -> pd.DataFrame:
    """Every recorded step: loss, learning rate, gradient norm, tokens, seconds, memory."""
    columns = ["step", "loss", "learning_rate", "grad_norm", "tokens", "seconds", "memory_bytes"]
    return pd.DataFrame([{c: s.get(c) for c in columns} for s in story.steps], columns=columns)


def scores_table(story: Story) -> pd.DataFrame:
    """Every look at the held-out items: task, loss and each old skill, in per cent."""
    return pd.DataFrame(
        [
            {
                "step": e["step"],
                "exact_match_percent": None if e["exact_match"] is None else 100 * e["exact_match"],
                "held_out_loss": e["loss"],
                **({"macro_f1_percent": 100 * e["macro_f1"]} if e.get("macro_f1") is not None else {}),
                **{f"{name}_percent": 100 * share for name, share in e.get("skills", {}).items()},
            }
            for e in story.evaluated
        ]
    )


COMPARISON = ("run", "method", "task", "before", "after", "skills", "trained", "share", "time", "memory")
"""Columns of `comparison`, by the ends of their keys in app/locales."""
OWN_DATA = "own data"
"""The task of a run on somebody's own file, in `comparison_numbers`."""


def comparison(runs: Sequence[tuple[str, Story]]) -> pd.DataFrame:
    """One row a run, as people read it; `comparison_numbers` has the same as numbers with units in the names."""
    rows = []
    titles = {name: t(f"charts.comparison.{name}") for name in COMPARISON}
    for row in comparison_numbers(runs).to_dict("records"):
        change = row["skills_change_points"]
        rows.append(
            {
                titles["run"]: row["run"],
                titles["method"]: row["method"],
                titles["task"]: t("charts.own_data") if row["task"] == OWN_DATA else row["task"],
                titles["before"]: percent(_number(row["before"])),
                titles["after"]: percent(_number(row["after"])),
                titles["skills"]: t("story.not_scored")
                if _number(change) is None
                else t("run.points", points=f"{change:+.0f}"),
                titles["trained"]: count_text(row["trainable"]) if row["trainable"] else "",
                titles["share"]: small(row["trainable"] / row["total"]) if row["total"] else "",
                titles["time"]: seconds_text(row["seconds"]),
                titles["memory"]: bytes_text(row["peak_bytes"]) if row["peak_bytes"] else "",
            }
        )
    return pd.DataFrame(rows, columns=list(titles.values()))


def _number(value: Any) -> float | None:
    """None for a missing number, however pandas spells it."""
    return None if value is None or pd.isna(value) else float(value)


def comparison_numbers(runs: Sequence[tuple[str, Story]]) -> pd.DataFrame:
    """One row a run: the numbers behind `comparison`, for CSV. Shares are 0..1."""
    rows = []
    for label, story in runs:
        before, after, started, end = story.before, story.after, story.started or {}, story.end or {}
        rows.append(
            {
                "run": label,
                "method": story.method,
                "task": story.config.get("task") or OWN_DATA,
                "before": before["exact_match"] if before else None,
                "after": after["exact_match"] if after else None,
                "held_out_loss": after["loss"] if after else None,
                "skills_change_points": _mean_change(before, after),
                "trainable": int(started.get("trainable", 0)),
                "total": int(started.get("total", 0)),
                "seconds": story.seconds,
                "peak_bytes": int(end.get("peak_bytes", 0) or 0),
                "steps": story.steps[-1]["step"] if story.steps else 0,
                "seed": story.config.get("seed"),
            }
        )
    return pd.DataFrame(rows)


def _mean_change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> float | None:
    """Mean change of the old skills, in points of a hundred; None when they were not scored twice."""
    if before is None or after is None:
        return None
    both = [k for k in after.get("skills", {}) if k in before.get("skills", {})]
    if not both:
        return None
    return 100 * sum(after["skills"][k] - before["skills"][k] for k in both) / len(both)


def csv(table: pd.DataFrame) -> bytes:
    """A table as CSV in UTF-8."""
    text: str = table.to_csv(index=False)
    return text.encode("utf-8")
