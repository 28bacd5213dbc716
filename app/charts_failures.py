"""Figures of the museum of failures: the curves of a run that went wrong, without its name. Pure functions."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, series_style
from app.words import t

if TYPE_CHECKING:
    from app.story import Story


def curves(story: Story, mended: Story | None = None) -> Chart:
    """Training loss by step, the held-out loss at the steps where it was scored, and both of the mended run if it is
    given."""
    import plotly.graph_objects as go

    fig = figure(t("charts.step"), t("charts.loss"), height=300, series=4 if mended else 2)
    tables, told = [], []
    for index, (run, name, key) in enumerate(((story, "this run", "this"), (mended, "mended", "mended"))):
        if run is None:
            continue
        style = series_style(6 if index == 0 else 2)
        steps, values = [s["step"] for s in run.steps], [s["loss"] for s in run.steps]
        scored = [e for e in run.evaluated if e["loss"] is not None]
        fig.add_trace(
            go.Scatter(
                x=steps, y=values, name=t(f"charts_failures.training.{key}"), mode="lines",
                line={"color": style.colour, "dash": style.dash, "width": 2.5}, hovertemplate="%{y:.3f}",
            )
        )  # fmt: skip
        held = style if index else BASE_STYLE
        fig.add_trace(
            go.Scatter(
                x=[e["step"] for e in scored], y=[e["loss"] for e in scored], name=t(f"charts_failures.held_out.{key}"),
                mode="lines+markers", line={"color": held.colour, "dash": "dot", "width": 1.5},
                marker={"symbol": held.marker, "size": 9}, hovertemplate="%{y:.3f}",
            )
        )  # fmt: skip
        tables.append(pd.DataFrame({"run": name, "step": steps, "training_loss": values}))
        tables.append(pd.DataFrame({"run": name, "step": [e["step"] for e in scored],
                                    "held_out_loss": [e["loss"] for e in scored]}))  # fmt: skip
        if values and scored:
            told.append(
                t(
                    f"charts_failures.told.{key}", first=f"{values[0]:.2f}", last=f"{values[-1]:.2f}",
                    held_first=f"{scored[0]['loss']:.2f}", held_last=f"{scored[-1]['loss']:.2f}",
                )
            )  # fmt: skip
    fig.update_yaxes(rangemode="tozero")
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", "step", "training_loss"])
    title = t("charts_failures.losses") if mended is None else t("charts_failures.both")
    return Chart(title, fig, f"{t('charts_failures.alt')} {' '.join(told)}", table)


def scores(story: Story) -> list[dict[str, Any]]:
    """A row for each time that the run was scored: step, held-out right, old skills, and the median gradient norm since
    the row before."""
    rows: list[dict[str, Any]] = []
    last = 0
    for event in story.evaluated:
        norms = [s["grad_norm"] for s in story.steps if last < s["step"] <= event["step"]]
        skills = list((event.get("skills") or {}).values())
        row: dict[str, Any] = {t("charts_failures.column.step"): event["step"]}
        if event["exact_match"] is not None:
            row[t("charts_failures.column.right")] = f"{100 * event['exact_match']:.0f}\u00a0%"
        if skills:
            row[t("charts.comparison.skills")] = f"{100 * statistics.fmean(skills):.0f}\u00a0%"
        row[t("charts_failures.column.norm")] = f"{statistics.median(norms):.2g}" if norms else "–"
        rows.append(row)
        last = event["step"]
    return rows


def answers(story: Story, most: int = 2) -> list[dict[str, str]]:
    """A few of the last answers: what was asked, wanted and answered; those that are wrong first."""
    if not story.sampled:
        return []
    samples = sorted(story.sampled[-1]["samples"], key=lambda s: bool(s.get("right")))
    return [
        {
            t("rag.column.asked"): s["prompt"], t("rag.column.wanted"): s.get("reference", ""),
            t("rag.column.answered"): s["output"] or t("live.nothing"),
        }
        for s in samples[:most]
    ]  # fmt: skip


__all__ = ["answers", "curves", "scores"]
