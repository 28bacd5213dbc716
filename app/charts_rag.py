"""Figures and tables of retrieval against fine-tuning, and of the decision guide. Pure functions; no Streamlit."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app.charts import BASE_STYLE, Chart, Style, figure, inside, method_style, series_style
from app.words import from_core, t
from core.guide import RuleBook
from core.guide.evidence import value_text
from core.rag.experiment import ARMS, RETRIEVING, Band
from core.rag.needs import NEEDS, WORDINGS
from core.rag.quality import KS, Quality
from core.rag.verdicts import Verdict

Bands = Mapping[tuple[str, str, str], Band]
PULLS = ("prompt", "rag", "tune", "deep")
"""What the guide's answers pull towards."""
COSTS = (
    "update_seconds", "update_items", "retrieve_ms", "first_ms", "token_ms", "context_tokens", "storage_bytes",
)  # fmt: skip
"""What is measured of an arm's costs, a column each."""
MORE = {
    "facts": ("sourced",),
    "crowd": ("borrowed", "refused"),
    "changed": ("stale", "right_after_update"),
    "nowhere": ("invented", "borrowed"),
}
"""Need -> what else is measured of it, a row each."""
_OF = {"update_seconds": "changed", "update_items": "changed", "context_tokens": "facts"}


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
    fig = figure(t("charts_rag.right"), "", height=120 + 56 * len(NEEDS), series=len(arms))
    for number, arm in enumerate(arms):
        style = arm_style(arm)
        beside = 0.11 * (number - (len(arms) - 1) / 2)  # arms that are equally good stand under each other
        points = [(n, b) for n in NEEDS.values() if (b := found.get((arm, n.name, "right"))) is not None]
        fig.add_trace(
            go.Scatter(
                x=[100 * b.mean for _, b in points], y=[rows[n.name] + beside for n, _ in points],
                name=from_core(ARMS[arm]), mode="markers",
                marker={"symbol": style.marker, "size": 10, "color": style.colour},
                error_x={
                    "type": "data", "symmetric": False, "array": [100 * (b.interval[1] - b.mean) for _, b in points],
                    "arrayminus": [100 * (b.mean - b.interval[0]) for _, b in points], "thickness": 1, "width": 3,
                },
                customdata=[
                    t("charts_rag.questions", need=from_core(n.title), questions=b.questions) for n, b in points
                ],
                hovertemplate="%{customdata}: %{x:.0f} %",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[-4, 104])
    fig.update_yaxes(
        tickmode="array", tickvals=list(rows.values()), ticktext=[from_core(n.title) for n in NEEDS.values()],
        range=[len(rows) - 0.4, -0.6],
    )  # fmt: skip
    table = numbers(found, "right")
    alt = (
        t("charts_rag.needs_alt")
        + " "
        + " ".join(
            f"{from_core(n.title)}: "
            + ", ".join(
                f"{from_core(ARMS[arm])} {100 * band.mean:.0f}"
                for arm in arms
                if (band := found.get((arm, n.name, "right"))) is not None
            )
            + "."
            for n in NEEDS.values()
        )
    )
    return Chart(_finding(found), fig, alt, table)


def _finding(found: Bands) -> str:
    rag, tuned = found.get(("rag", "facts", "right")), found.get(("lora", "json", "right"))
    if rag is None or tuned is None:
        return t("charts_rag.needs")
    return t("charts_rag.found", retrieval=f"{100 * rag.mean:.0f}", tuning=f"{100 * tuned.mean:.0f}")


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
        for measure in ("right", *MORE.get(need.name, ())):
            title = from_core(need.title) if measure == "right" else f"↳ {t(f'charts_rag.more.{measure}')}"
            questions = t("charts_rag.column.questions")
            line: dict[str, Any] = {t("rag.column.need"): title, questions: ""}
            counts = set()
            for arm, name in ARMS.items():
                band = found.get((arm, need.name, measure))
                line[from_core(name)] = "–" if band is None else share(band)
                counts |= {band.questions} if band is not None else set()
            if counts:
                low, high = min(counts), max(counts)
                line[questions] = str(low) if low == high else f"{low}–{high}"
            rows.append(line)
    return pd.DataFrame(rows)


def share(band: Band) -> str:
    """A share with the interval that its questions leave it."""
    low, high = band.interval
    return f"{100 * band.mean:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def costs_table(found: Bands) -> pd.DataFrame:
    """What each arm costs: an update, the parts of an answer, the prompt, the disk."""
    rows = []
    for arm, title in ARMS.items():
        line: dict[str, Any] = {t("rag.column.approach"): from_core(title)}
        for measure in COSTS:
            band = found.get((arm, _OF.get(measure, ""), measure))
            idle = measure == "retrieve_ms" and arm not in RETRIEVING
            said = "–" if band is None or idle else value_text(measure, band.mean)
            line[t(f"charts_rag.cost.{measure}")] = said.replace(" ", "\u00a0")  # a number stays with its unit
        rows.append(line)
    return pd.DataFrame(rows)


def verdict_table(rows: Sequence[Verdict]) -> pd.DataFrame:
    """The usual table cell by cell, with what was measured."""
    return pd.DataFrame(
        [
            {
                t("charts_rag.column.concern"): from_core(v.claim.concern),
                t("charts_rag.column.side"): from_core(v.claim.side),
                t("charts_rag.column.said"): from_core(v.claim.says),
                t("charts_rag.column.verdict"): from_core(v.verdict),
                t("charts_rag.column.measured"): measured_text(v.figures) or "–",
                t("charts_rag.column.but"): from_core(v.but),
                t("charts_rag.column.small"): from_core(v.claim.small),
            }
            for v in rows
        ]
    )  # fmt: skip


def wordings(rows: Sequence[Mapping[str, Any]], chosen: tuple[str, int] | None = None) -> Chart:
    """Questions answered about facts that were told in so many wordings: as statements, and as other questions."""
    import plotly.graph_objects as go

    fig = figure(t("charts_rag.in_wordings"), t("charts_rag.answered"), height=280, series=2)
    tables, ends, alts = [], [], []
    for number, how in enumerate(WORDINGS):
        mine = [r for r in rows if r["told"] == how]
        counts = sorted({r["wordings"] for r in mine})
        if not counts:
            continue
        shares = {c: [100 * r["right"] for r in mine if r["wordings"] == c] for c in counts}
        means = [statistics.fmean(shares[c]) for c in counts]
        way = t(f"rag.told_in.{how}")
        style = method_style("lora") if number == 0 else series_style(1)
        fig.add_trace(
            go.Scatter(
                x=counts, y=means, mode="lines+markers", name=t("charts_rag.told_as", way=way),
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
        told = ", ".join(f"{c}: {m:.0f} %" for c, m in zip(counts, means, strict=True))
        alts.append(t("charts_rag.as_way", way=way, told=told))
        ends.append(t("charts_rag.end", way=way, wordings=counts[-1], share=f"{means[-1]:.0f}"))
    fig.update_xaxes(tickvals=sorted({r["wordings"] for r in rows}))
    fig.update_yaxes(range=[-3, 103])
    title = t("charts_rag.wordings", ends="; ".join(ends))
    return Chart(title, fig, " ".join([t("charts_rag.wordings_alt"), *alts]), pd.concat(tables))


def pull_title(pull: str) -> str:
    """What one of PULLS is called."""
    return t(f"charts_rag.pull.{pull}")


def pulls(points: Mapping[str, int], book: RuleBook) -> Chart:
    """How strongly the answers pull towards each approach."""
    import plotly.graph_objects as go

    names = list(PULLS)
    values = [points[n] for n in names]
    style = series_style(0)
    fig = figure(t("charts_rag.points"), "", height=190)
    fig.add_trace(
        go.Bar(
            x=values, y=[pull_title(n) for n in names], orientation="h", showlegend=False,
            text=[str(v) for v in values],
            marker={"color": [style.colour if v >= book.strong else BASE_STYLE.colour for v in values]},
            hovertemplate=t("charts_rag.points_hover"),
        )
    )  # fmt: skip
    fig.add_vline(x=book.strong, line={"color": series_style(1).colour, "dash": "dash", "width": 2})
    fig.update_yaxes(autorange="reversed")
    fig.update_layout(hovermode="closest")
    strong = [inside(pull_title(n)) for n in names if points[n] >= book.strong]
    title = t("charts_rag.strong", points=book.strong, pulls=", ".join(strong) or t("charts_rag.nothing_yet"))
    alt = " ".join([t("charts_rag.points_alt"), *(f"{pull_title(n)}: {points[n]}." for n in names)])
    return Chart(title, fig, alt, pd.DataFrame({"pull": names, "points": values}))


def measured_text(figures: str) -> str:
    """The figures of a verdict in the visitor's language: 'RAG, new facts: 100 % (97 to 100, 120 questions) right'."""
    needs = {need.title.lower(): need.title for need in NEEDS.values()}
    out = []
    for part in figures.split("; ") if figures else ():
        who, _, found = part.partition(": ")
        need = next((title for title in needs if who.endswith(f", {title}")), None)
        arm = who.removesuffix(f", {need}") if need else who
        about = f", {inside(from_core(needs[need]))}" if need else ""
        out.append(f"{from_core(arm)}{about}: {from_core(found)}")
    return "; ".join(out)


def rules_table(book: RuleBook) -> pd.DataFrame:
    """Every rule, as a person reads it."""
    rows = []
    either = f" {t('charts_rag.or')} "
    for rule in book.rules:
        when = "; ".join(f"{q} = {either.join(options)}" for q, options in rule.when.wanted.items())
        does = [f"{inside(pull_title(p))} {count:+d}" for p, count in rule.points.items()]
        does += [t("charts_rag.rules_out", pull=inside(pull_title(p))) for p in rule.rules_out]
        rows.append(
            {t("charts_rag.column.rule"): rule.id, t("charts_rag.column.when"): when,
             t("charts_rag.column.does"): ", ".join(does), t("charts_rag.column.because"): from_core(rule.because),
             t("charts_rag.column.measured"): ", ".join(rule.measured) or t("charts_rag.judgement"),
             t("charts_rag.column.literature"): ", ".join(rule.literature)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def quality_table(rows: Sequence[Quality]) -> pd.DataFrame:
    """Recall and MRR of each way to retrieve."""
    return pd.DataFrame(
        [
            {
                t("charts_rag.column.search"): q.mode, **{f"Recall@{k}": f"{100 * q.recall[k]:.0f} %" for k in KS},
                "MRR": f"{q.mrr:.3f}",
                t("charts_rag.column.median"): f"{q.median_ms:.1f} ms",
            }
            for q in rows
        ]
    )  # fmt: skip
