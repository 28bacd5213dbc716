"""Figures of lessons 1 to 3: bytes of a trained number, predicted and measured terms, disks, an edit's directions."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, method_style, series_style
from app.charts_race import title_of
from app.words import from_core, n, t
from core.claims import decimal_text
from core.memory.per_parameter import RECIPES, Part
from core.memory.per_parameter import each as each_of
from core.units import GB, GIB, MIB, bytes_text

if TYPE_CHECKING:
    from core.memory.needs import Need
    from core.memory.storage import Storage

SPACE = "\u00a0"
TB = 1e12


def part_colours(parts: Sequence[Part]) -> list[str]:
    """A colour each: the weight grey, then the palette."""
    others = [series_style(i).colour for i in (0, 2, 3, 1, 4, 6)]
    found = iter(others)
    return [BASE_STYLE.colour if part.frozen else next(found) for part in parts]


def byte_squares(parts: Sequence[Part]) -> tuple[str, str]:
    """Every byte of a trained number as a square, a row for each part. Returns an SVG and its alt text."""
    from app.cells.svg import document

    size, gap, left, row = 22, 4, 232, 34
    out = []
    for i, (part, colour) in enumerate(zip(parts, part_colours(parts), strict=True)):
        y = 8 + i * row
        out.append(f'<text x="0" y="{y + 16}" font-size="14">{html.escape(from_core(part.name))}</text>')
        whole, rest = int(part.bytes), part.bytes - int(part.bytes)
        out += [
            f'<rect x="{left + k * (size + gap)}" y="{y}" width="{size}" height="{size}" rx="3" fill="{colour}"/>'
            for k in range(whole)
        ]
        if rest > 0:
            out.append(
                f'<rect x="{left + whole * (size + gap)}" y="{y}" width="{max(2.0, size * rest):.1f}" height="{size}" '
                f'rx="1" fill="{colour}"/>'
            )
    total = sum(p.bytes for p in parts)
    told = ", ".join(f"{from_core(p.name)}: {p.bytes:g}" for p in parts)
    alt = t("charts_lessons_a.squares_alt", bytes=f"{total:g}", parts=told)
    return document("\n".join(out), left + 4 * (size + gap), 8 + row * len(parts)), alt


def parts_table(parts: Sequence[Part]) -> pd.DataFrame:
    """As people read it."""
    return pd.DataFrame(
        [
            {
                t("charts_lessons_a.column.what"): from_core(p.name),
                t("charts_lessons_a.column.bytes"): f"{p.bytes:g}",
                t("charts_lessons_a.column.why"): from_core(p.why),
                t("charts_lessons_a.column.frozen"): t("rag.yes") if p.frozen else t("rag.no"),
            }
            for p in parts
        ]
    )  # fmt: skip


def rule_line(name: str, parameters: int, chosen: float, claims: Mapping[str, float]) -> Chart:
    """A model's training memory by bytes a parameter, with the known recipes, the chosen one, and what is claimed.

    Args:
        claims: words -> bytes, drawn as lines.
    """
    import plotly.graph_objects as go

    low, high = min(5.0, chosen - 1), max(21.0, chosen + 1)
    fig = figure(t("charts_lessons_a.each"), "TB" if parameters * 16 >= TB else "GB", height=290)
    unit = TB if parameters * 16 >= TB else GB
    fig.add_trace(
        go.Scatter(
            x=[low, high], y=[parameters * low / unit, parameters * high / unit], mode="lines", showlegend=False,
            line={"color": BASE_STYLE.colour, "width": 2}, hoverinfo="skip",
        )
    )  # fmt: skip
    known = [(from_core(title), each_of(recipe)) for title, recipe in RECIPES.values()]
    fig.add_trace(
        go.Scatter(
            x=[each for _, each in known], y=[parameters * each / unit for _, each in known],
            mode="markers", showlegend=False,
            text=[_of_recipe(name, each, parameters) for name, each in known],
            marker={"symbol": "circle-open", "size": 12, "color": series_style(0).colour, "line": {"width": 2}},
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(
            x=[chosen], y=[parameters * chosen / unit], mode="markers", showlegend=False,
            marker={"symbol": "diamond", "size": 15, "color": series_style(1).colour},
            text=[_of_recipe(t("charts_lessons_a.chosen_above"), chosen, parameters)],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    for text, size in claims.items():
        fig.add_hline(y=size / unit, line={"color": series_style(2).colour, "dash": "dot", "width": 2})
        fig.add_annotation(
            x=low, y=size / unit, xanchor="left", yanchor="bottom", showarrow=False, text=html.escape(text),
            font={"size": 13},
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_yaxes(rangemode="tozero")
    rows = [*known, (t("charts_lessons_a.chosen"), chosen)]
    table = pd.DataFrame(
        [{"recipe": which, "bytes_a_parameter": each, "bytes": round(parameters * each)} for which, each in rows]
    )
    alt = (
        t("charts_lessons_a.rule_alt", model=name)
        + " "
        + " ".join(f"{which}: {decimal_text(parameters * each)}." for which, each in rows)
        + " ".join(f" {text}." for text in claims)
    )
    title = t("charts_lessons_a.rule", model=name, bytes=f"{chosen:g}", size=decimal_text(parameters * chosen))
    return Chart(title, fig, alt, table)


def _of_recipe(name: str, each: float, parameters: int) -> str:
    return t("charts_lessons_a.of_recipe", name=name, bytes=f"{each:g}", size=decimal_text(parameters * each))


def apart(off: float) -> str:
    """A difference in per cent: 0.031 -> '0.031 %', 0.00002 -> 'less than 0.01 %'."""
    return t("charts_lessons_a.hardly") if off < 0.01 else f"{off:.2g}{SPACE}%"


def ledger_sides(rows: Sequence[Mapping[str, Any]], whose: str) -> Chart:
    """A run's memory term by term, predicted and measured side by side (rows of core.memory.predicted.residuals)."""
    import plotly.graph_objects as go

    names = [term_title(r) for r in rows]
    fig = figure("MiB", "", height=110 + 40 * len(rows), series=1)
    ring = 18  # seen where both are equal
    looks = (
        (t("charts_lessons_a.predicted"), "predicted", series_style(0).colour, "circle", 10),
        (t("charts_lessons_a.measured"), "measured", BASE_STYLE.colour, "circle-open", ring),
    )
    for name, key, colour, marker, width in looks:
        fig.add_trace(
            go.Scatter(
                x=[r[key] / MIB for r in rows], y=names, mode="markers", name=name, hovertemplate="%{x:.1f} MiB",
                cliponaxis=False,
                marker={"symbol": marker, "size": width, "color": colour, "line": {"width": 2.5, "color": colour}},
            )
        )  # fmt: skip
    # (Below the whole figure: below the plot alone its second line would be cut off on a phone.)
    legend = {"orientation": "h", "xref": "container", "x": 0.02, "yref": "container", "y": 0, "yanchor": "bottom"}
    fig.update_layout(hovermode="closest", legend=legend, margin={"b": 90})
    fig.update_yaxes(autorange="reversed")
    most = max(max(r["predicted"], r["measured"]) for r in rows) / MIB
    fig.update_xaxes(range=[-0.03 * most, 1.06 * most])
    whole = rows[-1]
    off = 100 * abs(whole["predicted"] / whole["measured"] - 1) if whole["measured"] else 0.0
    title = t(
        "charts_lessons_a.ledger", whose=whose, predicted=bytes_text(whole["predicted"]),
        measured=bytes_text(whole["measured"]), apart=apart(off),
    )  # fmt: skip
    told = [
        t("charts_lessons_a.term", name=name, predicted=bytes_text(r["predicted"]), measured=bytes_text(r["measured"]))
        for name, r in zip(names, rows, strict=True)
    ]
    alt = " ".join([t("charts_lessons_a.ledger_alt"), *told])
    table = pd.DataFrame(
        [
            {
                "term": name, "predicted_bytes": r["predicted"], "measured_bytes": r["measured"],
                "difference_bytes": r["difference"],
            }
            for name, r in zip(names, rows, strict=True)
        ]
    )  # fmt: skip
    return Chart(title, fig, alt, table)


def term_title(row: Mapping[str, Any]) -> str:
    """What people read for a row of `core.memory.predicted.residuals`."""
    return t("charts_lessons_a.together") if row["name"] == "allocated" else from_core(row["name"])


def ledger_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The same as people read it."""
    signs = {1: "+", 0: "", -1: "−"}
    return pd.DataFrame(
        [
            {
                t("charts_lessons_a.column.term"): term_title(r),
                t("charts_lessons_a.column.predicted"): bytes_text(r["predicted"]),
                t("charts_lessons_a.column.measured"): bytes_text(r["measured"]),
                t("charts_lessons_a.column.difference"): signs[(r["difference"] > 0) - (r["difference"] < 0)]
                + bytes_text(abs(r["difference"])),
            }
            for r in rows
        ]
    )  # fmt: skip


def needs_table(rows: Sequence[Need], usd: float, hourly: float | None = None) -> pd.DataFrame:
    """What each method takes, how many cards hold it, and what those cost.

    Args:
        usd: of one card. hourly: of an hour with one, None where no price is known.
    """
    return pd.DataFrame(
        [
            {
                t("charts.comparison.method"): title_of(r.method),
                t("charts_lessons_a.column.process"): bytes_text(r.alone.process[1]),
                t("charts_lessons_a.column.cards"): (
                    t("charts_lessons_a.too_many") if r.cards is None else f"{r.cards:,}"
                ),
                t("charts_lessons_a.column.buy"): "–" if r.cards is None else f"${r.cards * usd:,.0f}",
                t("charts_lessons_a.column.rent"): (
                    "–" if r.cards is None or hourly is None else f"${r.cards * hourly:,.2f}"
                ),
            }
            for r in rows
        ]
    )  # fmt: skip


def needs(rows: Sequence[Need], name: str) -> Chart:
    """Likely memory of the process by method, with one card's usable memory as a line."""
    import plotly.graph_objects as go

    card = rows[0].card
    usable = card.usable_bytes / GIB
    fig = figure("GiB", "", height=90 + 46 * len(rows))
    fig.add_trace(
        go.Bar(
            x=[r.alone.process[1] / GIB for r in rows], y=[title_of(r.method) for r in rows], orientation="h",
            width=0.55,
            marker={"color": [method_style(r.method).colour for r in rows]}, showlegend=False,
            text=[bytes_text(r.alone.process[1]) for r in rows], hovertemplate="%{y}: %{text}<extra></extra>",
            textposition="none",
        )
    )  # fmt: skip
    fig.add_vline(x=usable, line={"color": series_style(1).colour, "width": 2.5, "dash": "dash"})
    fig.add_annotation(
        x=usable, y=1, yref="paper", xanchor="left", yanchor="bottom", showarrow=False,
        text=t("charts_lessons_a.one_card", card=card.name),
        font={"size": 13},
    )  # fmt: skip
    fig.update_layout(hovermode="closest", margin={"t": 26})
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(range=[0, 1.12 * max(usable * 1.2, *(r.alone.process[1] / GIB for r in rows))])
    fits = [title_of(r.method) for r in rows if r.cards == 1]
    title = (
        n("charts_lessons_a.fits", len(fits), model=name, card=card.name, methods=f" {t('charts.and')} ".join(fits))
        if fits
        else t("charts_lessons_a.fits_none", model=name, card=card.name)
    )
    table = pd.DataFrame(
        [
            {
                "method": r.method, "process_bytes": r.alone.process[1], "cards": r.cards,
                "usable_bytes": card.usable_bytes,
            }
            for r in rows
        ]
    )  # fmt: skip
    told = [
        t(
            "charts_lessons_a.needs", method=title_of(r.method), size=bytes_text(r.alone.process[1]),
            cards=r.cards or t("charts_lessons_a.too_many"),
        )
        for r in rows
    ]  # fmt: skip
    alt = " ".join([t("charts_lessons_a.needs_alt", model=name), *told])
    return Chart(title, fig, alt, table)


def disks(rows: Mapping[str, Sequence[Storage]], name: str) -> Chart:
    """Bytes on disk by number of tasks, one line a method; the last of each row is the chosen number."""
    import plotly.graph_objects as go

    most = max(s.total for line in rows.values() for s in line)
    unit, word = (TB, "TB") if most >= TB else (GB, "GB")
    fig = figure(t("charts_lessons_a.tasks"), word, series=len(rows))
    for method, line in rows.items():
        style = method_style(method)
        fig.add_trace(
            go.Scatter(
                x=[s.tasks for s in line], y=[s.total / unit for s in line], name=title_of(method),
                mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": 2.5},
                marker={"symbol": style.marker, "size": 9, "maxdisplayed": 6},
                text=[decimal_text(s.total) for s in line], hovertemplate="%{text}",
            )
        )  # fmt: skip
    fig.update_yaxes(rangemode="tozero")
    last = {method: line[-1] for method, line in rows.items()}
    first = next(iter(last.values()))
    least = min(last.items(), key=lambda row: row[1].total)
    sizes = ", ".join(f"{title_of(m)} {decimal_text(s.total)}" for m, s in last.items())
    title = n("charts_lessons_a.disks", first.tasks, tasks=first.tasks, model=name, sizes=sizes)
    if first.tasks > 1 and least[1].total < first.whole:
        title += t("charts_lessons_a.saved", share=f"{100 * least[1].saved_share:.0f}")
    table = pd.DataFrame(
        [
            {"method": m, "tasks": s.tasks, "bytes": s.total, "saved_each_bytes": s.adapter}
            for m, line in rows.items()
            for s in line
        ]
    )
    alt = (
        t("charts_lessons_a.disks_alt", tasks=first.tasks)
        + " "
        + " ".join(f"{title_of(m)}: {decimal_text(s.total)}." for m, s in last.items())
    )
    return Chart(title, fig, alt, table)


SHOWN = 40


def directions(values: Sequence[float], rank: int, title: str, kept: float) -> Chart:
    """An edit's singular values, those that a rank keeps in colour."""
    import plotly.graph_objects as go

    some = list(values[:SHOWN])
    fig = figure(t("charts_lessons_a.direction"), t("charts_lessons_a.singular"), height=230)
    colours = [method_style("lora").colour if i < rank else BASE_STYLE.colour for i in range(len(some))]
    fig.add_trace(
        go.Bar(
            x=list(range(1, len(some) + 1)), y=some,
            marker={"color": colours, "opacity": [1 if i < rank else 0.45 for i in range(len(some))]},
            hovertemplate="σ%{x} = %{y:.2f}<extra></extra>", showlegend=False,
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest", bargap=0.25)
    key = "some" if rank > 1 else "single" if rank else "none"
    blanks = {"edit": title, "rank": rank, "directions": len(values), "share": f"{100 * kept:.0f}"}
    first = ", ".join(f"{v:.2f}" for v in values[:6])
    alt = f"{t('charts_lessons_a.values_alt', edit=title, values=first)} {t(f'charts_lessons_a.kept.{key}', **blanks)}"
    table = pd.DataFrame({"direction": range(1, len(values) + 1), "singular_value": list(values)})
    return Chart(t(f"charts_lessons_a.hold.{key}", **blanks), fig, alt, table)
