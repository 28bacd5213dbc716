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

from app.story import Story, percent, small
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


def losses(runs: Sequence[tuple[str, Story]]) -> Chart:
    """Training loss of several runs over their steps.

    Args:
        runs: (label, story) each.
    """
    import plotly.graph_objects as go

    fig = figure("optimizer step", "loss, nats a token", series=len(runs))
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
    alt = "Line chart of training loss by step. " + " ".join(f"{n}: from {a:.2f} to {b:.2f}." for n, a, b in ends)
    best = min(ends, key=lambda e: e[2]) if ends else None
    title = f"Lowest loss at the end: {best[2]:.2f}, {best[0]}" if best and len(ends) > 1 else "The loss, step by step"
    return Chart(title, fig, alt.strip(), table)


def task_scores(runs: Sequence[tuple[str, Story]]) -> Chart:
    """Held-out exact match on the task (accuracy, for labels), over the steps, of several runs."""
    import plotly.graph_objects as go

    kinds = {story.classifies for _, story in runs}
    what = "right" if len(kinds) > 1 else "accuracy" if kinds == {True} else "exact match"
    fig = figure("optimizer step", f"{what}, %", series=len(runs))
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
    alt = f"Line chart of held-out {what} by step. " + " ".join(f"{n} ends at {v:.0f} %." for n, v in ends)
    best = max(ends, key=lambda e: e[1]) if ends else None
    title = (
        f"Best on the task: {best[1]:.0f}\u00a0%, {best[0]}" if best and len(ends) > 1 else "The task, as it is learnt"
    )
    return Chart(title, fig, alt.strip(), table)


def before_after(story: Story, *, title: str = "") -> Chart | None:
    """Scores before and after one run, a row each for the task and every old skill; None before there are two looks."""
    import plotly.graph_objects as go

    before, after = story.before, story.after
    if before is None or after is None:
        return None
    rows: list[tuple[str, float, float]] = []
    if before["exact_match"] is not None and after["exact_match"] is not None:
        rows.append((title or f"Task: {after['task']}", 100 * before["exact_match"], 100 * after["exact_match"]))
    rows += [
        (name.replace("_", " "), 100 * before["skills"][name], 100 * share)
        for name, share in after.get("skills", {}).items()
        if name in before.get("skills", {})
    ]
    if not rows:
        return None
    names = [r[0] for r in rows]
    style = method_style(story.method)
    fig = figure("share of held-out items right, %", "", height=90 + 34 * len(rows), series=2)
    for name, a, b in rows:
        fig.add_trace(
            go.Scatter(x=[a, b], y=[name, name], mode="lines", line={"color": BASE_STYLE.colour, "width": 2},
                       showlegend=False, hoverinfo="skip")
        )  # fmt: skip
    for label, column, colour, symbol in (
        ("before", 1, BASE_STYLE.colour, "circle-open"),
        ("after", 2, style.colour, style.marker),
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
    alt = "Scores before and after. " + " ".join(f"{n}: {a:.0f} % before, {b:.0f} % after." for n, a, b in rows)
    return Chart("What was gained, and what it cost", fig, alt, table)


def lengths(found: Lengths, limit: int, too_long: int) -> Chart:
    """How long the rows of a file are, in tokens, with the limit as a line."""
    import plotly.graph_objects as go

    low, high, rows = zip(*found.histogram, strict=True) if found.histogram else ((), (), ())
    fig = figure("tokens in a row", "rows", height=240)
    ends = list(zip(low, high, strict=True))
    fig.add_trace(
        go.Bar(
            x=[(a + b) / 2 for a, b in ends], y=rows, width=[b - a for a, b in ends],
            marker={"color": TASK_STYLE.colour, "line": {"width": 1, "color": "rgba(128,128,128,0.5)"}},
            customdata=[f"{a} to {b - 1}" for a, b in ends],
            hovertemplate="%{customdata} tokens: %{y} rows<extra></extra>", showlegend=False,
        )
    )  # fmt: skip
    if high and limit <= 1.5 * max(high):
        fig.add_vline(x=limit, line={"color": _STYLES[1].colour, "dash": "dash", "width": 2}, annotation_text="limit")
    fig.update_layout(hovermode="closest")
    if too_long:
        over = "1 row is" if too_long == 1 else f"{too_long} rows are"
        title = f"{over} longer than the limit of {limit} tokens"
    else:
        title = f"Every row fits into the limit of {limit} tokens"
    alt = (
        f"Histogram of row lengths in tokens: from {found.shortest} to {found.longest}, median {found.median:.0f}; "
        f"the limit is {limit}."
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


COMPARISON = {
    "run": "Run",
    "method": "Method",
    "task": "Task",
    "before": "Task before",
    "after": "Task after",
    "skills": "Old skills",
    "trained": "Trained",
    "share": "Share",
    "time": "Time",
    "memory": "Peak memory",
}
"""Columns of `comparison`, and their titles."""


def comparison(runs: Sequence[tuple[str, Story]]) -> pd.DataFrame:
    """One row a run, as people read it; `comparison_numbers` has the same as numbers with units in the names."""
    rows = []
    for row in comparison_numbers(runs).to_dict("records"):
        change = row["skills_change_points"]
        rows.append(
            {
                COMPARISON["run"]: row["run"],
                COMPARISON["method"]: row["method"],
                COMPARISON["task"]: row["task"],
                COMPARISON["before"]: percent(_number(row["before"])),
                COMPARISON["after"]: percent(_number(row["after"])),
                COMPARISON["skills"]: "not scored" if _number(change) is None else f"{change:+.0f} points",
                COMPARISON["trained"]: count_text(row["trainable"]) if row["trainable"] else "",
                COMPARISON["share"]: small(row["trainable"] / row["total"]) if row["total"] else "",
                COMPARISON["time"]: seconds_text(row["seconds"]),
                COMPARISON["memory"]: bytes_text(row["peak_bytes"]) if row["peak_bytes"] else "",
            }
        )
    return pd.DataFrame(rows, columns=list(COMPARISON.values()))


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
                "task": story.config.get("task") or "own data",
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
