"""Learning against forgetting: a figure of the sweep's runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from app.charts import Chart, figure, method_style
from app.charts_race import title_of
from app.words import t
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
    fig = figure(t("charts_forgetting.learnt"), t("charts_forgetting.kept"), height=340, series=len(methods))
    for method in methods:
        part = sorted((r for r in rows if r.method == method), key=lambda r: r.learning_rate)
        style = method_style(method)
        fig.add_trace(
            go.Scatter(
                x=[100 * r.learnt for r in part], y=[100 * r.kept for r in part], mode="lines+markers",
                name=title_of(method), line={"color": style.colour, "dash": style.dash, "width": 1.5},
                marker={"symbol": style.marker, "size": 11, "color": style.colour},
                text=[_name(r) for r in part],
                hovertemplate=t("charts_forgetting.hover"),
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-4, 104])
    fig.update_yaxes(range=[-4, 104])
    shown = [r for r in rows if r.method in methods]
    good = [r for r in shown if r.learnt >= LEARNT]
    if good:
        low, high = min(r.kept for r in good), max(r.kept for r in good)
        title = t("charts_forgetting.found", runs=len(good), low=f"{100 * low:.0f}", high=f"{100 * high:.0f}")
    else:
        title = t("charts_forgetting.none", runs=len(shown))
    alt = " ".join(
        [
            t("charts_forgetting.alt"),
            *(
                t("charts_forgetting.run", name=_name(r), task=f"{100 * r.learnt:.0f}", skills=f"{100 * r.kept:.0f}")
                for r in shown
            ),
        ]
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


def _name(row: Outcome) -> str:
    return t("charts_forgetting.name", method=title_of(row.method), rate=f"{row.learning_rate:g}")


__all__ = ["learnt_and_kept"]
