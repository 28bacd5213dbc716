"""The figures of the page Ship: pure functions from what a probe measured to figure, alt text and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app.charts import BASE_STYLE, TASK_STYLE, Chart, figure, method_style, series_style
from app.story import percent
from app.words import t
from core.units import bytes_text

SKILLS_STYLE = series_style(2)


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def merging(result: Mapping[str, Any]) -> Chart | None:
    """Scores of a run in every form of its weights; None where nothing was held out."""
    import plotly.graph_objects as go

    rows = [r for r in result["rows"] if r["exact_match"] is not None]
    if not rows:
        return None
    names = [t(f"charts_ship.form.{r['form']}") for r in rows]
    task = [_points(r["exact_match"]) for r in rows]
    skills = [_points(r["skills_mean"]) for r in rows]
    fig = figure(t("charts_ship.right"), "", height=80 + 40 * len(rows), series=2)
    # One is open and larger, so that both are seen where they fall on one point.
    looks = ((TASK_STYLE, TASK_STYLE.marker, 9), (SKILLS_STYLE, f"{SKILLS_STYLE.marker}-open", 16))
    for label, values, (style, marker, size) in zip(
        (t("charts_ship.task"), t("charts_ship.skills")), (task, skills), looks, strict=True
    ):
        if any(v is not None for v in values):
            fig.add_trace(
                go.Scatter(
                    x=values, y=names, mode="markers", name=label, hovertemplate="%{x:.0f} %",
                    marker={"symbol": marker, "size": size, "color": style.colour, "line": {"width": 2}},
                )
            )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-4, 106])
    fig.update_yaxes(autorange="reversed")
    by_form = {r["form"]: r["exact_match"] for r in rows}
    lost = 100 * (by_form["trained"] - by_form["nf4"])
    title = t("charts_ship.free")
    if not by_form["trained"]:
        title = t("charts_ship.nothing_learnt")
    elif lost >= 0.5:
        title = t("charts_ship.loses", points=f"{lost:.0f}")
    table = pd.DataFrame(
        {
            "form": [r["label"] for r in rows],
            "exact_match_percent": task,
            "old_skills_percent": skills,
            "held_out_loss": [r["loss"] for r in rows],
            "same_answers_percent": [_points(r["same"]) for r in rows],
        }
    )
    alt = " ".join([t("charts_ship.merging_alt"), *(f"{r['label']}: {percent(r['exact_match'])}." for r in rows)])
    return Chart(title, fig, alt, table)


def conversion(result: Mapping[str, Any]) -> Chart:
    """Quality and error against the rank of the LoRA."""
    import plotly.graph_objects as go

    rows = result["rows"]
    ranks = [r["rank"] for r in rows]
    style = method_style(result["method"])
    fig = figure(t("charts_ship.rank"), t("charts_ship.share"), series=3)
    error = [100 * r["error"] for r in rows]
    series = [(t("charts_ship.left_out"), error, BASE_STYLE)]
    task = [_points(r["exact_match"]) for r in rows]
    if task and task[0] is not None:
        series.insert(0, (t("charts_ship.task_right"), task, style))
    skills = [_points(r["skills_mean"]) for r in rows]
    if skills and skills[0] is not None:
        series.insert(1, (t("charts_ship.skills_right"), skills, SKILLS_STYLE))
    for label, values, look in series:
        fig.add_trace(
            go.Scatter(
                x=ranks, y=values, name=label, mode="lines+markers", hovertemplate="%{y:.1f} %",
                line={"color": look.colour, "dash": look.dash, "width": 2.5},
                marker={"symbol": look.marker, "size": 9},
            )
        )  # fmt: skip
    trained = _points(result["trained"]["exact_match"])
    if trained is not None:
        fig.add_hline(y=trained, line={"color": style.colour, "dash": "dot", "width": 1})
    fig.update_xaxes(type="log", tickvals=ranks, ticktext=[str(r) for r in ranks])
    fig.update_yaxes(range=[-3, 103])
    table = pd.DataFrame(
        {
            "rank": ranks,
            "left_out_percent": error,
            "exact_match_percent": task,
            "old_skills_percent": skills,
            "held_out_loss": [r["loss"] for r in rows],
            "same_answers_percent": [_points(r["same"]) for r in rows],
        }
    )
    return Chart(_rank_finding(rows, trained), fig, _rank_alt(rows), table)


def _rank_finding(rows: Sequence[Mapping[str, Any]], trained: float | None) -> str:
    if trained is None:
        half = next((r for r in rows if r["error"] <= 0.5), rows[-1])
        return t("charts_ship.keeps", rank=half["rank"], share=f"{100 * half['error']:.0f}")
    enough = next((r for r in rows if 100 * (r["exact_match"] or 0) >= trained - 2), None)
    if enough is None:
        best = max(rows, key=lambda r: r["exact_match"] or 0)
        reached = {"right": percent(best["exact_match"]), "rank": best["rank"]}
        return t("charts_ship.no_rank", trained=f"{trained:.0f}", **reached)
    return t("charts_ship.enough", rank=enough["rank"], trained=f"{trained:.0f}")


def _rank_alt(rows: Sequence[Mapping[str, Any]]) -> str:
    told = [
        t(
            "charts_ship.at_rank", rank=r["rank"], left_out=f"{100 * r['error']:.1f}", right=percent(r["exact_match"])
        )
        for r in rows
    ]  # fmt: skip
    return " ".join([t("charts_ship.rank_alt"), *told])


def latency(result: Mapping[str, Any]) -> Chart:
    """Time per generated token and of the prompt, as multiples of the base's, with their range over the rounds; of
    classifiers, time of the pass that gives a label."""
    import plotly.graph_objects as go

    rows = [r for r in result["rows"] if r["form"] != "base"]
    names = [r["label"] for r in rows]
    labels = rows[0]["decode_ratio"] is None
    series = [
        (t("charts_ship.token"), "decode_ratio", TASK_STYLE),
        (t("charts_ship.prompt"), "prefill_ratio", SKILLS_STYLE),
    ]
    if labels:
        series = [(t("charts_ship.label"), "prefill_ratio", TASK_STYLE)]
    first = series[0][1]
    fig = figure(t("charts_ship.time"), "", height=80 + 46 * len(rows), series=len(series))
    for label, key, style in series:
        middle = [r[key][1] for r in rows]
        fig.add_trace(
            go.Scatter(
                x=middle, y=names, mode="markers", name=label, hovertemplate="%{x:.2f} ×",
                marker={"symbol": style.marker, "size": 11, "color": style.colour},
                error_x={
                    "type": "data", "symmetric": False, "color": style.colour,
                    "array": [r[key][2] - m for r, m in zip(rows, middle, strict=True)],
                    "arrayminus": [m - r[key][0] for r, m in zip(rows, middle, strict=True)],
                },
            )
        )  # fmt: skip
    fig.add_vline(x=1, line={"color": BASE_STYLE.colour, "dash": "dot", "width": 1.5})
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(autorange="reversed")
    slowest = max(rows, key=lambda r: r[first][1])
    said = "charts_ship.slowest_label" if labels else "charts_ship.slowest"
    title = t(said, model=slowest["label"], times=f"{slowest[first][1]:.2f}")
    table = pd.DataFrame(
        {
            "model": [r["label"] for r in result["rows"]],
            "token_ms": [r["decode_ms"] for r in result["rows"]],
            "prompt_ms": [r["prefill_ms"] for r in result["rows"]],
            "tokens_per_second": [r["tokens_per_second"] for r in result["rows"]],
            "token_ratio_low": [_at(r["decode_ratio"], 0) for r in result["rows"]],
            "token_ratio": [_at(r["decode_ratio"], 1) for r in result["rows"]],
            "token_ratio_high": [_at(r["decode_ratio"], 2) for r in result["rows"]],
            "prompt_ratio": [_at(r["prefill_ratio"], 1) for r in result["rows"]],
            "bytes": [r["bytes"] for r in result["rows"]],
        }
    )
    told = []
    for r in rows:
        low, middle_ratio, high = (f"{ratio:.2f}" for ratio in r[first])
        blanks = {"token": middle_ratio, "low": low, "high": high, "prompt": f"{r['prefill_ratio'][1]:.2f}"}
        told.append(t("charts_ship.label_times" if labels else "charts_ship.times", model=r["label"], **blanks))
    alt = " ".join([t("charts_ship.latency_alt"), *told])
    if labels:
        table = table.drop(columns=[name for name in table.columns if "token" in name])
    return Chart(title, fig, alt, table)


def _at(spread: Sequence[float] | None, place: int) -> float | None:
    return None if spread is None else spread[place]


def memory(result: Mapping[str, Any]) -> Chart:
    """What n runs hold in memory: one base with all adapters, against as many models (merged where that can be)."""
    import plotly.graph_objects as go

    many = len(result["runs"])
    names = [t("charts_ship.one_base", count=many), t("charts_ship.apart", count=many)]
    values = [result["one_base_bytes"], result["models_bytes"]]
    mib = [v / 2**20 for v in values]
    fig = figure(t("charts_ship.memory_axis"), "", height=70 + 45 * len(names))
    colours = [TASK_STYLE.colour, BASE_STYLE.colour]
    fig.add_trace(
        go.Bar(
            x=mib, y=names, orientation="h", marker={"color": colours}, hovertemplate="%{x:.1f} MiB",
            text=[bytes_text(v) for v in values], textposition="auto",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest", showlegend=False)
    fig.update_yaxes(autorange="reversed")
    title = t("charts_ship.memory", count=many, times=f"{values[1] / values[0]:.1f}")
    table = pd.DataFrame({"way": names, "bytes": values})
    told = [f"{name}: {bytes_text(v)}." for name, v in zip(names, values, strict=True)]
    alt = " ".join([t("charts_ship.memory_alt"), *told])
    return Chart(title, fig, alt, table)
