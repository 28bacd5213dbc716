"""The figures of the quantization page: pure functions from what was found to figure, alt text and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.charts import BASE_STYLE, Chart, Style, figure, method_style, series_style
from app.words import n, t
from core.quantization.formats import FORMATS, NF4_PUBLISHED, SHOWN, Format, NormalFloat, evenly, gaps
from core.quantization.pairs import STORAGES
from core.units import bytes_text

if TYPE_CHECKING:
    from core.quantization.pairs import Mean
    from core.quantization.summaries import Block, Cost, Saving, Spread

MOST_LINES = 32  # levels that can be told apart in a figure
MOST_WEIGHTS = 128  # of one block
MOST_PARTS = 16
_LINE = 2.5
_ORDER = (*SHOWN, "nf3", "nf2")


def format_style(name: str) -> Style:
    """The look of a format, the same in every figure of the page."""
    return series_style(_ORDER.index(name))


def format_title(name: str, double: bool = False) -> str:
    """'NF4', 'NF4 with double quantization'."""
    title = FORMATS[name].title
    return t("charts.quantization.double", format=title) if double else title


def signed(value: float) -> str:
    """-1.5 -> '−1.5', with a minus and not a hyphen."""
    return f"{value:+.1f}".replace("-", "−")


def share(value: float | None, digits: int = 1) -> str:
    """0.0923 -> '9.2 %' with a space that does not break; a dash for what is undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u00a0%"


# --- 1: levels from quantiles -----------------------------------------------------------------------------------------


def levels(found: NormalFloat) -> Chart:
    """NormalFloat's levels under the normal density, with evenly spaced ones below."""
    import plotly.graph_objects as go

    top = found.positive[-1][1]
    x = np.linspace(-1.4, 1.4, 141)
    density = np.exp(-((x * top) ** 2) / 2)
    at = np.asarray(found.levels)
    height = np.exp(-((at * top) ** 2) / 2)
    fig = figure(t("charts.quantization.weight_axis"), t("charts.quantization.density_axis"), height=300, series=3)
    fig.add_trace(
        go.Scatter(x=x, y=density, name=t("charts.quantization.normal"), mode="lines", hoverinfo="skip",
                   line={"color": BASE_STYLE.colour, "dash": BASE_STYLE.dash, "width": 2})
    )  # fmt: skip
    style = format_style("nf4")
    stems = [v for level, h in zip(at, height, strict=True) for v in ((level, 0.0), (level, h), (None, None))]
    fig.add_trace(
        go.Scatter(x=[v[0] for v in stems], y=[v[1] for v in stems], mode="lines", showlegend=False, hoverinfo="skip",
                   line={"color": style.colour, "width": 2})
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(x=at, y=height, name=t("charts.quantization.by_probability", bits=found.bits), mode="markers",
                   marker={"color": style.colour, "symbol": style.marker, "size": 9}, hovertemplate="%{x:.4f}")
    )  # fmt: skip
    even = evenly(found.bits)
    other = format_style("int4")
    fig.add_trace(
        go.Scatter(x=even, y=[-0.08] * len(even), mode="markers",
                   name=t("charts.quantization.by_value", bits=found.bits),
                   marker={"color": other.colour, "symbol": other.marker, "size": 8}, hovertemplate="%{x:.4f}")
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_yaxes(range=[-0.14, 1.08], showticklabels=False)
    near, far = gaps(found.levels)
    title = t(
        "charts.quantization.levels", bits=found.bits, levels=len(found.levels), near=f"{near:.2f}", far=f"{far:.2f}"
    )
    alt = t(
        "charts.quantization.levels_alt", stems=len(found.levels), levels=", ".join(f"{v:.2f}" for v in found.levels),
        marks=len(even),
    )  # fmt: skip
    return Chart(title, fig, alt, derivation(found))


def derivation(found: NormalFloat) -> pd.DataFrame:
    """Every level with the probability and quantile that it comes from; for 4 bits the published value beside it."""
    rows = [(*row, "negative") for row in reversed(found.negative[1:])]
    rows += [(*found.positive[0], "zero"), *((*row, "positive") for row in found.positive[1:])]
    table = pd.DataFrame(rows, columns=["probability", "quantile", "level", "side"])
    table.insert(0, "number", range(len(table)))
    table = table[["number", "side", "probability", "quantile", "level"]]
    if found.bits == 4:
        table["published"] = NF4_PUBLISHED
        table["difference"] = table["level"] - table["published"]
    return table


# --- 2: one matrix ----------------------------------------------------------------------------------------------------


def spread(found: Spread, form: Format, block_size: int) -> Chart:
    """Histogram of the weights as the code book sees them, with its levels as lines."""
    import plotly.graph_objects as go

    width = found.edges[1] - found.edges[0]
    middles = [e + width / 2 for e in found.edges[:-1]]
    percent = [100 * s for s in found.share]
    unit = t("charts.quantization.affine_axis" if form.affine else "charts.quantization.weight_axis")
    fig = figure(unit, t("charts.quantization.weights_axis"), height=280, series=2)
    fig.add_trace(
        go.Bar(x=middles, y=percent, width=width, name=t("charts.quantization.weights"),
               hovertemplate="%{x:.2f}: %{y:.2f} %<extra></extra>",
               marker={"color": BASE_STYLE.colour, "opacity": 0.75})
    )  # fmt: skip
    top = 1.05 * max(percent)
    if len(found.levels) <= MOST_LINES:
        style = format_style(form.name)
        fig.add_trace(
            go.Scatter(x=[v for level in found.levels for v in (level, level, None)], mode="lines",
                       y=[v for _ in found.levels for v in (0.0, top, None)],
                       name=t("charts.quantization.levels_of", format=form.title),
                       line={"color": style.colour, "width": 1.5}, hoverinfo="skip")
        )  # fmt: skip
    fig.update_layout(hovermode="closest", bargap=0)
    inner = sum(s for m, s in zip(middles, found.share, strict=True) if abs(m - (0.5 if form.affine else 0.0)) <= 0.25)
    key = "charts.quantization.spread_affine" if form.affine else "charts.quantization.spread"
    title = t(key, share=share(inner, 0))
    alt = t("charts.quantization.spread_alt", block=block_size, levels=len(found.levels), title=title)
    table = pd.DataFrame({"from": found.edges[:-1], "to": found.edges[1:], "weights_percent": percent})
    return Chart(title, fig, alt, table)


def use(found: Spread, form: Format) -> Chart:
    """How many weights are stored as each level."""
    import plotly.graph_objects as go

    style, percent = format_style(form.name), [100 * u for u in found.used]
    fig = figure(t("charts.quantization.number_axis"), t("charts.quantization.stored_axis"), height=280, series=2)
    level = t("charts.quantization.level", level="%{customdata:.3f}")
    fig.add_trace(
        go.Bar(x=list(range(len(percent))), y=percent, name=t("charts.quantization.levels_of", format=form.title),
               marker={"color": style.colour}, customdata=found.levels,
               hovertemplate=f"{level}: %{{y:.1f}} %<extra></extra>")
    )  # fmt: skip
    even = 100 / len(percent)
    fig.add_trace(
        go.Scatter(x=[-0.5, len(percent) - 0.5], y=[even, even], mode="lines",
                   name=t("charts.quantization.equally"), hovertemplate="%{y:.1f} %",
                   line={"color": BASE_STYLE.colour, "dash": "dash", "width": 2})
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    least, most = f"{min(percent):.1f}", f"{max(percent):.1f}"
    title = t("charts.quantization.use", bits=form.bits, carried=f"{found.entropy_bits:.2f}", most=most, least=least)
    alt = t("charts.quantization.use_alt", levels=len(percent), least=least, most=most, even=f"{even:.1f}")
    table = pd.DataFrame({"level": found.levels, "weights_percent": percent})
    return Chart(title, fig, alt, table)


def one_block(found: Block, form: Format) -> Chart:
    """A block's weights before and after; of a long one the first MOST_WEIGHTS."""
    import plotly.graph_objects as go

    before, after = found.before[:MOST_WEIGHTS], found.after[:MOST_WEIGHTS]
    numbers = list(range(len(before)))
    fig = figure(t("charts.quantization.place_axis"), t("charts.quantization.weight"), height=280, series=2)
    moves = [v for i, (a, b) in enumerate(zip(before, after, strict=True)) for v in ((i, a), (i, b), (None, None))]
    fig.add_trace(
        go.Scatter(x=[v[0] for v in moves], y=[v[1] for v in moves], mode="lines", showlegend=False, hoverinfo="skip",
                   line={"color": BASE_STYLE.colour, "width": 1})
    )  # fmt: skip
    style = format_style(form.name)
    for name, values, colour, symbol in (
        (t("charts.quantization.before"), before, BASE_STYLE.colour, "circle-open"),
        (t("charts.quantization.read_from", format=form.title), after, style.colour, "line-ew-open"),
    ):
        fig.add_trace(
            go.Scatter(x=numbers, y=values, mode="markers", name=name, hovertemplate="%{y:.4f}",
                       marker={"symbol": symbol, "size": 7, "color": colour, "line": {"width": 2, "color": colour}})
        )  # fmt: skip
    worst = max(abs(a - b) for a, b in zip(found.before, found.after, strict=True))
    kept = len(set(found.codes))
    title = t(
        "charts.quantization.block", weights=len(found.before), values=kept, worst=f"{worst:.3f}",
        absmax=f"{found.absmax:.3f}",
    )  # fmt: skip
    alt = t("charts.quantization.block_alt", title=title)
    table = pd.DataFrame({"before": found.before, "code": found.codes, "after": found.after})
    return Chart(title, fig, alt, table)


# --- 3: block size and double quantization ----------------------------------------------------------------------------


def curve(found: Sequence[Mapping[str, Any]], *, what: str) -> Chart:
    """Error against bits a weight, by block size, for the formats of four bits; the others are in the table.

    Args:
        found: rows with format, block_size, double, bits, rmse.
        what: of what, for the alt text.
    """
    import plotly.graph_objects as go

    known = [r for r in found if r["rmse"] is not None]
    four = [r for r in known if FORMATS[r["format"]].bits == 4]
    groups = {(r["format"], r["double"]) for r in four}
    hover = t("charts.quantization.curve_hover", block="%{customdata}", bits="%{x:.3f}", error="%{y:.2f}")
    fig = figure(
        t("charts.quantization.bits_axis"), t("charts.quantization.error_axis"), height=340, series=len(groups)
    )
    for name in SHOWN:
        for double in (False, True):
            part = sorted((r for r in four if (r["format"], r["double"]) == (name, double)), key=lambda r: r["bits"])
            if not part:
                continue
            style = format_style(name)
            fig.add_trace(
                go.Scatter(
                    x=[r["bits"] for r in part], y=[100 * r["rmse"] for r in part], mode="lines+markers",
                    name=format_title(name, double), customdata=[r["block_size"] for r in part],
                    line={"color": style.colour, "dash": "dot" if double else style.dash,
                          "width": 1.5 if double else _LINE},
                    marker={"symbol": f"{style.marker}-open" if double else style.marker, "size": 8,
                            "color": style.colour},
                    hovertemplate=hover,
                )
            )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(range=[3.9, 5.1])
    cheap = [r for r in four if r["bits"] <= 4.5]
    table = curve_table(known)
    if not cheap:
        alt = t("charts.quantization.nothing_measured_alt", what=what)
        return Chart(t("charts.quantization.nothing_measured"), fig, alt, table)
    best = min(cheap, key=lambda r: r["rmse"])
    title = t(
        "charts.quantization.curve", format=format_title(best["format"], best["double"]), block=best["block_size"],
        error=share(best["rmse"]),
    )  # fmt: skip
    alt = t("charts.quantization.curve_alt", what=what, title=title)
    return Chart(title, fig, alt, table)


def cost_rows(found: Sequence[Cost]) -> list[dict[str, Any]]:
    """Costs of one matrix as rows for `curve`; of a format of rows the block size is 0, as over many matrices."""
    return [
        {
            "format": c.format, "block_size": 0 if FORMATS[c.format].scope == "row" else c.block_size,
            "double": c.double, "bits": c.bits, "stored_bytes": c.stored_bytes, "rmse": c.errors.rmse,
        }
        for c in found
    ]  # fmt: skip


def curve_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """As people and spreadsheets read it."""
    return pd.DataFrame(
        [
            {
                "format": FORMATS[r["format"]].title,
                "block_size": str(r["block_size"] or t("charts.quantization.a_row")),
                "double_quantization": r["double"],
                "bits_a_weight": round(r["bits"], 4),
                "stored_bytes": round(r["stored_bytes"]),
                "error_percent_of_spread": None if r["rmse"] is None else round(100 * r["rmse"], 4),
            }
            for r in rows
        ]
    )


def savings(found: Sequence[Saving], name: str) -> Chart:
    """What double quantization of one format saves at each block size."""
    import plotly.graph_objects as go

    mine = [s for s in found if s.format == name]
    style = format_style(name)
    sizes = [str(s.block_size) for s in mine]
    fig = figure(t("charts.quantization.block_axis"), t("charts.quantization.saved_axis"), height=260)
    fig.add_trace(
        go.Bar(x=sizes, y=[s.saved_bits for s in mine], marker={"color": style.colour}, showlegend=False,
               hovertemplate=t("charts.quantization.saved_hover", block="%{x}", bits="%{y:.3f}") + "<extra></extra>")
    )  # fmt: skip
    fig.update_xaxes(type="category")
    fig.update_layout(hovermode="closest")
    table = pd.DataFrame(
        {
            "block_size": [s.block_size for s in mine],
            "saved_bits_a_weight": [round(s.saved_bits, 4) for s in mine],
            "saved_bytes": [round(s.saved_bytes) for s in mine],
            "added_error_percent": [None if s.added is None else round(100 * s.added, 4) for s in mine],
        }
    )
    at = next((s for s in mine if s.block_size == 64), mine[0])
    title = t("charts.quantization.savings", block=at.block_size, bits=f"{at.saved_bits:.2f}")
    if at.added is not None:
        key = "charts.quantization.error_larger" if at.added >= 0 else "charts.quantization.error_smaller"
        title += f"; {t(key, share=f'{abs(100 * at.added):.2f}')}"
    told = ", ".join(f"{s.block_size}: {s.saved_bits:.3f}" for s in mine)
    alt = t("charts.quantization.savings_alt", told=told)
    return Chart(title, fig, alt, table)


def matrices(found: Mapping[str, Any], name: str) -> Chart:
    """The error of every matrix in one format, by layer and kind."""
    import plotly.graph_objects as go

    rows = found["matrices"]
    outputs = any(r["errors"][name]["output"] is not None for r in rows)
    key = "output" if outputs else "rmse"
    known = [r for r in rows if r["errors"][name][key] is not None]
    unit = t("charts.quantization.output_axis" if outputs else "charts.quantization.error_axis")
    layered = bool(known) and all(r["layer"] is not None for r in known)
    kinds = list(dict.fromkeys(r["kind"] for r in known)) if layered else [""]
    place = t("charts.quantization.layer" if layered else "charts.quantization.matrix")
    fig = figure(place, unit, height=320, series=len(kinds) if layered else 0)
    for index, kind in enumerate(kinds):
        part = [r for r in known if r["kind"] == kind] if layered else known
        style = series_style(index)
        fig.add_trace(
            go.Scatter(
                x=[r["layer"] if layered else r["title"] for r in part], name=kind,
                y=[100 * r["errors"][name][key] for r in part], mode="lines+markers" if layered else "markers",
                line={"color": style.colour, "dash": style.dash, "width": 2}, showlegend=layered,
                marker={"symbol": style.marker, "size": 8, "color": style.colour}, hovertemplate="%{y:.2f} %",
            )
        )  # fmt: skip
    fig.update_yaxes(rangemode="tozero")
    if layered:
        fig.update_xaxes(dtick=max(1, round(max(r["layer"] for r in known) / 12)))
    table = pd.DataFrame(
        [
            {
                "matrix": r["title"], "rows": r["rows"], "columns": r["columns"], "spread": r["std"],
                "excess_kurtosis": r["kurtosis"],
                **{
                    f"{form}_{label}": None if r["errors"][form][part] is None else factor * r["errors"][form][part]
                    for form in SHOWN
                    for part, label, factor in (
                        ("rmse", "error_percent", 100), ("output", "output_error_percent", 100),
                        ("sqnr_db", "sqnr_db", 1),
                    )
                },
            }
            for r in rows
        ]
    ).dropna(axis="columns", how="all")  # fmt: skip
    if not known:
        return Chart(t("charts.quantization.no_matrices"), fig, t("charts.quantization.no_matrices_alt"), table)
    low, high = (f(known, key=lambda r: r["errors"][name][key]) for f in (min, max))
    title = t(
        "charts.quantization.matrices", high=high["title"], most=share(high["errors"][name][key]),
        format=FORMATS[name].title, low=low["title"], least=share(low["errors"][name][key]),
    )  # fmt: skip
    title = title[:1].upper() + title[1:]
    alt = t("charts.quantization.matrices_alt", matrices=len(known), format=FORMATS[name].title, title=title)
    return Chart(title, fig, alt, table)


# --- 4: which layers suffer -------------------------------------------------------------------------------------------


def parts(found: Mapping[str, Any], group: str) -> Chart:
    """The parts of one group by what storing each alone adds to the loss, the worst first."""
    import plotly.graph_objects as go

    mine = sorted((p for p in found["parts"] if p["group"] == group), key=lambda p: -p["added"])
    shown = mine[:MOST_PARTS]
    form = FORMATS[found["format"]]
    style = format_style(form.name)
    fig = figure(t("charts.quantization.loss_axis"), "", height=90 + 22 * len(shown))
    fig.add_trace(
        go.Scatter(
            x=[p["added"] for p in shown], y=[p["name"] for p in shown], mode="markers", showlegend=False,
            error_x={"type": "data", "array": [2 * p["error"] for p in shown], "color": style.colour, "thickness": 1.5},
            marker={"color": style.colour, "symbol": style.marker, "size": 9}, hovertemplate="%{x:+.4f}",
        )
    )  # fmt: skip
    fig.add_vline(x=0, line={"color": BASE_STYLE.colour, "dash": "dash", "width": 1.5})
    fig.update_layout(hovermode="closest")
    fig.update_yaxes(autorange="reversed", type="category")
    table = pd.DataFrame(
        [
            {"part": p["name"], "weights": p["weights"], "added_loss": p["added"], "standard_error": p["error"]}
            for p in mine
        ]
    )
    if not mine:
        return Chart(t("charts.quantization.no_parts"), fig, t("charts.quantization.no_parts_alt"), table)
    calm = sum(abs(p["added"]) <= 2 * p["error"] or p["added"] < 0 for p in mine)
    worst = mine[0]
    if calm == len(mine):
        title = t("charts.quantization.all_calm", format=form.title)
    else:
        title = t("charts.quantization.suffers", part=worst["name"], loss=f"{worst['added']:+.3f}")
        title += f"; {t('charts.quantization.calm', calm=calm, parts=len(mine))}" if calm else ""
    title = title[:1].upper() + title[1:]
    alt = t("charts.quantization.parts_alt", shown=len(shown), parts=len(mine), title=title)
    return Chart(title, fig, alt, table)


def whole(found: Mapping[str, Any]) -> Chart:
    """What storing everything in each format adds to the loss, on a logarithmic axis."""
    import plotly.graph_objects as go

    rows = sorted(found["formats"], key=lambda f: (f["bits"], f["added"]))
    floor = 1e-4
    nats = t("charts.quantization.nats", loss="%{customdata:+.4f}")
    double = f" ({t('charts.quantization.doubled')})"
    names = [f"{format_title(r['format'])}{double if r['double'] else ''}" for r in rows]
    fig = figure(t("charts.quantization.loss_axis"), "", height=100 + 30 * len(rows))
    for name, row in zip(names, rows, strict=True):
        style = format_style(row["format"])
        fig.add_trace(
            go.Scatter(
                x=[max(row["added"], floor)], mode="markers", showlegend=False,
                y=[t("charts.quantization.in_bits", format=name, bits=f"{row['bits']:.2f}")],
                marker={"color": style.colour, "size": 11,
                        "symbol": f"{style.marker}-open" if row["double"] else style.marker},
                customdata=[row["added"]], hovertemplate=f"{nats}<extra></extra>",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(type="log", range=[-4.15, max(0.5, float(np.log10(max(r["added"] for r in rows) + floor)) + 0.3)],
                     dtick=1, exponentformat="power")  # fmt: skip
    fig.update_yaxes(autorange="reversed", type="category")
    by_name = {(r["format"], r["double"]): r for r in rows}
    nf4, nf2 = by_name["nf4", False], by_name["nf2", False]
    title = t("charts.quantization.whole", four=f"{nf4['added']:.4f}", two=f"{nf2['added']:.2f}")
    table = pd.DataFrame(
        [
            {
                "format": name, "bits_a_weight": round(r["bits"], 3), "stored": bytes_text(r["stored_bytes"]),
                "loss": round(r["loss"], 4), "perplexity": round(float(np.exp(min(r["loss"], 50))), 3),
                "added_loss": round(r["added"], 5), "standard_error": round(r["error"], 5),
                **{f"{skill}_percent": round(100 * v, 1) for skill, v in r["skills"].items()},
            }
            for name, r in zip(names, rows, strict=True)
        ]
    )  # fmt: skip
    told = ", ".join(f"{name} {r['added']:+.4f}" for name, r in zip(names, rows, strict=True))
    alt = t("charts.quantization.whole_alt", told=told)
    return Chart(title, fig, alt, table)


# --- 5: QLoRA against LoRA --------------------------------------------------------------------------------------------

_STORED_STYLES = {"nf4": method_style("qlora"), "fp4": series_style(4), "int8": series_style(7)}


def duel(found: Sequence[Mean], titles: Mapping[str, str]) -> Chart:
    """Exact match after LoRA and after QLoRA, by task; a line is the range of the differences."""
    import plotly.graph_objects as go

    tasks = list(dict.fromkeys(m.task for m in found))
    storages = list(dict.fromkeys(m.storage for m in found))
    fig = figure(t("charts.quantization.points_axis"), "", height=110 + 44 * len(tasks), series=len(storages))
    fig.add_vline(x=0, line={"color": method_style("lora").colour, "dash": "dash", "width": 2})
    for storage in storages:
        style = _STORED_STYLES[storage]
        part = [m for m in found if m.storage == storage]
        fig.add_trace(
            go.Scatter(
                x=[m.points for m in part], y=[titles.get(m.task, m.task) for m in part], mode="markers",
                name=t("charts.quantization.mean_and_range", method=STORAGES[storage]),
                hovertemplate=t("charts.quantization.points", points="%{x:+.1f}"),
                error_x={"type": "data", "symmetric": False, "array": [m.high - m.points for m in part],
                         "arrayminus": [m.points - m.low for m in part], "color": style.colour, "thickness": 1.5},
                marker={"color": style.colour, "symbol": style.marker, "size": 11},
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_yaxes(autorange="reversed", type="category")
    sentences = []
    for storage in storages:
        part = [m for m in found if m.storage == storage]
        number = sum(m.pairs for m in part)
        # By pair, so that a task that was tried once does not weigh as much as one that was tried often.
        points = sum(m.points * m.pairs for m in part) / number
        told = t("charts.quantization.points", points=signed(points))
        sentences.append(f"{STORAGES[storage]} {told} ({n('charts.quantization.pairs', number)})")
    title = t("charts.quantization.duel", told="; ".join(sentences))
    table = pd.DataFrame(
        [
            {
                "task": titles.get(m.task, m.task), "base_stored_as": FORMATS[m.storage].title, "pairs": m.pairs,
                "lora_percent": round(100 * m.plain, 1), "qlora_percent": round(100 * m.stored, 1),
                "points": round(m.points, 1), "lowest": round(m.low, 1), "highest": round(m.high, 1),
                "held_out_loss_added": None if m.loss is None else round(m.loss, 4),
            }
            for m in found
        ]
    )  # fmt: skip
    told = "; ".join(f"{titles.get(m.task, m.task)}, {STORAGES[m.storage]}: {m.points:+.1f}" for m in found)
    return Chart(title, fig, t("charts.quantization.duel_alt", told=told), table)


__all__ = [
    "cost_rows", "curve", "curve_table", "derivation", "duel", "format_style", "format_title", "levels", "matrices",
    "one_block", "parts", "savings", "share", "spread", "use", "whole",
]  # fmt: skip
