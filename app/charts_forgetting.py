"""Learning against forgetting: a figure of the sweep's runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from app.charts import Chart, figure, method_style
from app.charts_race import title_of
from core.forgetting import Outcome

LEARNT = 0.9
"""From this share of the task on a run counts as having learnt it, in the finding."""


def learnt_and_kept(rows: Sequence[Outcome], chosen: Sequence[str] = ()) -> Chart:
    """One mark a run: the task learnt to the right, the old skills kept upwards. A method's runs are joined in order
    of their learning rates.

    Args:
        rows: of one task. chosen: methods that are shown; all when empty.
    """
    import plotly.graph_objects as go

    methods = [m for m in dict.fromkeys(r.method for r in rows) if not chosen or m in chosen]
    fig = figure("task: held-out items right, %", "old skills right, %", height=340, series=len(methods))
    for method in methods:
        part = sorted((r for r in rows if r.method == method), key=lambda r: r.learning_rate)
        style = method_style(method)
        fig.add_trace(
            go.Scatter(
                x=[100 * r.learnt for r in part], y=[100 * r.kept for r in part], mode="lines+markers",
                name=title_of(method), line={"color": style.colour, "dash": style.dash, "width": 1.5},
                marker={"symbol": style.marker, "size": 11, "color": style.colour},
                text=[f"{title_of(method)} at {r.learning_rate:g}" for r in part],
                hovertemplate="%{text}: task %{x:.0f} %, old skills %{y:.0f} %<extra></extra>",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-4, 104])
    fig.update_yaxes(range=[-4, 104])
    shown = [r for r in rows if r.method in methods]
    good = [r for r in shown if r.learnt >= LEARNT]
    if good:
        low, high = min(r.kept for r in good), max(r.kept for r in good)
        title = (
            f"Of {len(good)} runs that learnt the task, the old skills kept {100 * low:.0f} to {100 * high:.0f}\u00a0%"
        )
    else:
        title = f"None of {len(shown)} runs learnt nine tenths of the task"
    alt = "Scatter plot of runs by what they learnt and what they kept. " + " ".join(
        f"{title_of(r.method)} at {r.learning_rate:g}: task {100 * r.learnt:.0f} per cent, old skills "
        f"{100 * r.kept:.0f}."
        for r in shown
    )
    table = pd.DataFrame(
        [
            {
                "method": title_of(r.method), "learning_rate": r.learning_rate, "steps": r.steps,
                "task_percent": round(100 * r.learnt, 1), "old_skills_percent": round(100 * r.kept, 1),
            }
            for r in shown
        ]
    )  # fmt: skip
    return Chart(title, fig, alt, table)


__all__ = ["learnt_and_kept"]
