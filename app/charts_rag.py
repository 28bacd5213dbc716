"""Figures and tables of retrieval against fine-tuning, and of the decision guide. Pure functions; no Streamlit."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app.charts import BASE_STYLE, Chart, Style, figure, method_style, series_style
from core.guide import RuleBook
from core.guide.evidence import value_text
from core.rag.experiment import ARMS, RETRIEVING, Band
from core.rag.needs import NEEDS, WORDINGS
from core.rag.quality import KS, Quality
from core.rag.verdicts import Verdict

Bands = Mapping[tuple[str, str, str], Band]
PULLS = {"prompt": "Leave it, and prompt", "rag": "Look things up", "tune": "Fine-tune", "deep": "Train more deeply"}
COSTS = {
    "update_seconds": "An update",
    "update_items": "Items for it",
    "retrieve_ms": "To retrieve",
    "first_ms": "To the first token",
    "token_ms": "Each further token",
    "context_tokens": "Tokens in the prompt",
    "storage_bytes": "Stored beside the base",
}
"""Measure -> title of its column."""
MORE = {
    "facts": {"sourced": "answers from the passage about the one asked"},
    "crowd": {"borrowed": "answers from somebody else's passage", "refused": "says that it is not said"},
    "changed": {"stale": "still the old answer", "right_after_update": "right after training anew"},
    "nowhere": {"invented": "invented", "borrowed": "answers from somebody else's passage"},
}
"""Need -> measure -> how its row is called."""
_OF = {"update_seconds": "changed", "update_items": "changed", "context_tokens": "facts"}
SHARE = "\u00a0%"


def arm_style(arm: str) -> Style:
    """The style of an arm: methods as everywhere, the untouched base grey."""
    if arm in ("lora", "full"):
        return method_style(arm)
    if arm == "base":
        return BASE_STYLE
    return series_style({"prompt": 4, "rag": 2, "both": 3, "raft": 7}[arm])


def needs(found: Bands) -> Chart:
    """Right answers of every arm on every need, a row a need, with the interval that its questions leave each."""
    import plotly.graph_objects as go

    arms = [arm for arm in ARMS if any((arm, need, "right") in found for need in NEEDS)]
    rows = {need.name: number for number, need in enumerate(NEEDS.values())}
    fig = figure("right answers, %", "", height=120 + 56 * len(NEEDS), series=len(arms))
    for number, arm in enumerate(arms):
        style = arm_style(arm)
        beside = 0.11 * (number - (len(arms) - 1) / 2)  # arms that are equally good stand under each other
        points = [(n, b) for n in NEEDS.values() if (b := found.get((arm, n.name, "right"))) is not None]
        fig.add_trace(
            go.Scatter(
                x=[100 * b.mean for _, b in points], y=[rows[n.name] + beside for n, _ in points],
                name=ARMS[arm], mode="markers",
                marker={"symbol": style.marker, "size": 10, "color": style.colour},
                error_x={
                    "type": "data", "symmetric": False, "array": [100 * (b.interval[1] - b.mean) for _, b in points],
                    "arrayminus": [100 * (b.mean - b.interval[0]) for _, b in points], "thickness": 1, "width": 3,
                },
                customdata=[f"{n.title}, {b.questions} questions" for n, b in points],
                hovertemplate="%{customdata}: %{x:.0f} %",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-4, 104])
    fig.update_yaxes(
        tickmode="array", tickvals=list(rows.values()), ticktext=[n.title for n in NEEDS.values()],
        range=[len(rows) - 0.4, -0.6],
    )  # fmt: skip
    table = numbers(found, "right")
    alt = "Right answers in per cent. " + " ".join(
        f"{n.title}: "
        + ", ".join(
            f"{ARMS[arm]} {100 * band.mean:.0f}"
            for arm in arms
            if (band := found.get((arm, n.name, "right"))) is not None
        )
        + "."
        for n in NEEDS.values()
    )
    return Chart(_finding(found), fig, alt, table)


def _finding(found: Bands) -> str:
    rag, tuned = found.get(("rag", "facts", "right")), found.get(("lora", "json", "right"))
    if rag is None or tuned is None:
        return "Right answers, by need and approach"
    return (
        f"New facts: retrieval {100 * rag.mean:.0f}{SHARE}. A strict format: fine-tuning {100 * tuned.mean:.0f}{SHARE}"
    )


def numbers(found: Bands, measure: str) -> pd.DataFrame:
    """One measure as numbers: a row for each need and arm, with the range over the seeds and the 95 % interval."""
    rows = []
    for (arm, need, name), band in found.items():
        if name == measure and need:
            rows.append(
                {"need": need, "approach": arm, measure: round(band.mean, 4), "low": round(band.low, 4),
                 "high": round(band.high, 4), "interval_low": round(band.interval[0], 4),
                 "interval_high": round(band.interval[1], 4), "seeds": band.seeds, "questions": band.questions}
            )  # fmt: skip
    return pd.DataFrame(rows)


def needs_table(found: Bands) -> pd.DataFrame:
    """A row a need, a column an arm; what else was counted of a need (MORE) in rows of its own."""
    rows = []
    for need in NEEDS.values():
        for measure, what in {"right": "", **MORE.get(need.name, {})}.items():
            title = f"{need.title}: {what}" if what else need.title
            line: dict[str, Any] = {"Need": title, "Questions": ""}
            counts = set()
            for arm, name in ARMS.items():
                band = found.get((arm, need.name, measure))
                line[name] = "–" if band is None else share(band)
                counts |= {band.questions} if band is not None else set()
            line["Questions"] = " to ".join(str(n) for n in sorted({min(counts), max(counts)})) if counts else ""
            rows.append(line)
    return pd.DataFrame(rows)


def share(band: Band) -> str:
    """A share with the interval that its questions leave it."""
    low, high = band.interval
    return f"{100 * band.mean:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def costs_table(found: Bands) -> pd.DataFrame:
    """What each arm costs: an update, the parts of an answer, the prompt, the disk."""
    rows = []
    for arm, title in ARMS.items():
        line: dict[str, Any] = {"Approach": title}
        for measure, column in COSTS.items():
            band = found.get((arm, _OF.get(measure, ""), measure))
            idle = measure == "retrieve_ms" and arm not in RETRIEVING
            line[column] = "–" if band is None or idle else value_text(measure, band.mean)
        rows.append(line)
    return pd.DataFrame(rows)


def verdict_table(rows: Sequence[Verdict]) -> pd.DataFrame:
    """The usual table cell by cell, with what was measured."""
    return pd.DataFrame(
        [
            {
                "Concern": v.claim.concern, "Of": v.claim.side, "It is said": v.claim.says, "Verdict": v.verdict,
                "Measured": v.figures or "–", "But": v.but, "Why a small model may differ": v.claim.small,
            }
            for v in rows
        ]
    )  # fmt: skip


def wordings(rows: Sequence[Mapping[str, Any]], chosen: tuple[str, int] | None = None) -> Chart:
    """Questions answered about facts that were told in so many wordings: as statements, and as other questions."""
    import plotly.graph_objects as go

    fig = figure("wordings in which each fact is told", "questions answered right, %", height=280, series=2)
    tables, ends, alts = [], [], []
    for number, how in enumerate(WORDINGS):
        mine = [r for r in rows if r["told"] == how]
        counts = sorted({r["wordings"] for r in mine})
        if not counts:
            continue
        shares = {c: [100 * r["right"] for r in mine if r["wordings"] == c] for c in counts}
        means = [statistics.fmean(shares[c]) for c in counts]
        style = method_style("lora") if number == 0 else series_style(1)
        fig.add_trace(
            go.Scatter(
                x=counts, y=means, mode="lines+markers", name=f"told as {how}",
                line={"color": style.colour, "dash": style.dash, "width": 2.5},
                marker={"symbol": style.marker, "size": [16 if (how, c) == chosen else 9 for c in counts],
                        "color": style.colour},
                error_y={
                    "type": "data", "symmetric": False,
                    "array": [max(shares[c]) - m for c, m in zip(counts, means, strict=True)],
                    "arrayminus": [m - min(shares[c]) for c, m in zip(counts, means, strict=True)],
                    "thickness": 1.5, "width": 4, "visible": any(len(s) > 1 for s in shares.values()),
                },
                hovertemplate="%{y:.0f} %",
            )
        )  # fmt: skip
        tables.append(
            pd.DataFrame(
                {"told": how, "wordings": counts, "right_percent": means, "lowest": [min(shares[c]) for c in counts],
                 "highest": [max(shares[c]) for c in counts]}
            )
        )  # fmt: skip
        alts.append(f"As {how}: " + ", ".join(f"{c}: {m:.0f} %" for c, m in zip(counts, means, strict=True)) + ".")
        ends.append(f"told as {how} in {counts[-1]} wordings, {means[-1]:.0f}{SHARE}")
    fig.update_xaxes(tickvals=sorted({r["wordings"] for r in rows}))
    fig.update_yaxes(range=[-3, 103])
    title = f"Can be asked for: {'; '.join(ends)}"
    return Chart(title, fig, "Line chart of questions answered right. " + " ".join(alts), pd.concat(tables))


def pulls(points: Mapping[str, int], book: RuleBook) -> Chart:
    """How strongly the answers pull towards each approach."""
    import plotly.graph_objects as go

    names = list(PULLS)
    values = [points[n] for n in names]
    style = series_style(0)
    fig = figure("points", "", height=190)
    fig.add_trace(
        go.Bar(
            x=values, y=[PULLS[n] for n in names], orientation="h", showlegend=False, text=[str(v) for v in values],
            marker={"color": [style.colour if v >= book.strong else BASE_STYLE.colour for v in values]},
            hovertemplate="%{y}: %{x} points<extra></extra>",
        )
    )  # fmt: skip
    fig.add_vline(x=book.strong, line={"color": series_style(1).colour, "dash": "dash", "width": 2})
    fig.update_yaxes(autorange="reversed")
    fig.update_layout(hovermode="closest")
    strong = [PULLS[n].lower() for n in names if points[n] >= book.strong]
    title = f"Strong from {book.strong} points on: {', '.join(strong) or 'nothing yet'}"
    alt = "Bar chart of points. " + " ".join(f"{PULLS[n]}: {points[n]}." for n in names)
    return Chart(title, fig, alt, pd.DataFrame({"pull": names, "points": values}))


def rules_table(book: RuleBook) -> pd.DataFrame:
    """Every rule, as a person reads it."""
    rows = []
    for rule in book.rules:
        when = "; ".join(f"{q} = {' or '.join(options)}" for q, options in rule.when.wanted.items())
        does = [f"{PULLS[p].lower()} {count:+d}" for p, count in rule.points.items()]
        does += [f"rules out: {PULLS[p].lower()}" for p in rule.rules_out]
        rows.append(
            {"Rule": rule.id, "When": when, "Does": ", ".join(does), "Because": rule.because,
             "Measured": ", ".join(rule.measured) or "judgement, not measured",
             "Literature": ", ".join(rule.literature)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def quality_table(rows: Sequence[Quality]) -> pd.DataFrame:
    """Recall and MRR of each way to retrieve."""
    return pd.DataFrame(
        [
            {
                "Search": q.mode, **{f"Recall@{k}": f"{100 * q.recall[k]:.0f} %" for k in KS}, "MRR": f"{q.mrr:.3f}",
                "Median": f"{q.median_ms:.1f} ms",
            }
            for q in rows
        ]
    )  # fmt: skip
