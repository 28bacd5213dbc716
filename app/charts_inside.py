"""Figures of what a run changed: norms by layer, spectra, truncation, tokens, overlaps. Pure functions; no Streamlit.

They draw what the probes of core.probes measured, and compute nothing but their titles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.charts import BASE_STYLE, Chart, figure, method_style, series_style
from app.words import n, t
from core.probes.overlap import chance

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = Mapping[str, Any]
SCALE = "Cividis"
"""Made for colour-blind readers; dark to light on both themes."""
MOST_NUMBERS = 80
"""Cells of a heat map that still have room for their numbers."""
SPACE = "␣"


def percent_text(share: float) -> str:
    """0.1234 -> '12 %', 0.0123 -> '1.2 %', 0.00012 -> '0.012 %'; with a space that does not break."""
    value = 100 * share
    if value == 0 or value >= 10:
        return f"{value:.0f}\u00a0%"
    return f"{value:.2g}\u00a0%" if value >= 1e-3 else t("charts_inside.under")


def short(parts: Sequence[str]) -> dict[str, str]:
    """Parts by the shortest end of their name that no other part shares: 'self_attn.q_proj' -> 'q_proj'."""
    out = {}
    for part in parts:
        words = part.split(".")
        ends = [".".join(words[-n:]) for n in range(1, len(words) + 1)]
        out[part] = next(
            (e for e in ends if e != "bias" and not any(p != part and f".{p}".endswith(f".{e}") for p in parts)), part
        )
    return out


def readable_on(share: float) -> str:
    """Black or white, whichever stands out more (by WCAG's contrast) from the scale's colour at a share of its length:
    the better of the two always has 4.5:1."""
    from plotly.colors import sample_colorscale, unlabel_rgb

    (colour,) = sample_colorscale(SCALE, [min(max(share, 0.0), 1.0)])
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in unlabel_rgb(colour))
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def _inside_layers(modules: Sequence[Row]) -> list[Row]:
    """The matrices in numbered blocks, or the vectors where no matrix changed."""
    rows = [m for m in modules if m["layer"] is not None]
    return [m for m in rows if len(m["shape"]) == 2] or rows


def _map(
    rows: Sequence[Row], key: str, *, scale: float, unit: str, digits: int, top: float | None = None
) -> tuple[go.Figure, dict[str, str]]:
    """Blocks downwards, parts across, a number in each cell."""
    import plotly.graph_objects as go

    parts = list(dict.fromkeys(row["part"] for row in rows))
    layers = sorted({row["layer"] for row in rows})
    names = short(parts)
    known = {(row["layer"], row["part"]): row[key] for row in rows}
    cells = [
        [None if known.get((layer, part)) is None else scale * known[layer, part] for part in parts] for layer in layers
    ]
    fig = figure("", t("charts_inside.layer_axis"), height=110 + max(24 * len(layers), 110))
    if top is None:  # plotly takes both ends of the scale or neither
        top = max(value for line in cells for value in line if value is not None)
    fig.add_trace(
        go.Heatmap(
            z=cells, x=[names[p] for p in parts], y=[str(layer) for layer in layers], colorscale=SCALE, zmin=0,
            zmax=top, xgap=2, ygap=2, colorbar={"title": {"text": unit}, "thickness": 10, "outlinewidth": 0},
            hovertemplate=t("charts_inside.map_hover", unit=unit),
        )
    )  # fmt: skip
    if len(parts) * len(layers) <= MOST_NUMBERS:
        told = [
            (layer, part, v)
            for layer, line in zip(layers, cells, strict=True)
            for part, v in zip(parts, line, strict=True)
            if v is not None
        ]
        fig.add_trace(
            go.Scatter(
                x=[names[part] for _, part, _ in told], y=[str(layer) for layer, _, _ in told], mode="text",
                text=[f"{v:.{digits}f}" for _, _, v in told], hoverinfo="skip", showlegend=False,
                textfont={"color": [readable_on(v / top if top else 0.0) for _, _, v in told], "size": 12},
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(type="category", showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig, names


def norms(found: Row) -> Chart:
    """‖ΔW‖_F of every changed matrix (or vector, where only vectors changed) in per cent of ‖W₀‖_F, by layer and part.

    Args:
        found: result of the probe `spectrum`, with a ΔW.
    """
    rows = [m for m in _inside_layers(found["modules"]) if m["relative"] is not None]
    fig, names = _map(rows, "relative", scale=100, unit="%", digits=1)
    layers = [row for row in found["layers"] if row["relative"] is not None]
    most, least = (choose(layers, key=lambda r: r["relative"]) for choose in (max, min))
    furthest = max(rows, key=lambda m: m["relative"])
    title = t(
        "charts_inside.norms", part=names[furthest["part"]], layer=furthest["layer"],
        share=percent_text(furthest["relative"]), least=percent_text(least["relative"]),
        most=percent_text(most["relative"]),
    )  # fmt: skip
    told = [t("charts_inside.of_layer", layer=r["layer"], share=percent_text(r["relative"])) for r in layers]
    alt = " ".join([t("charts_inside.norms_alt"), *told])
    return Chart(title, fig, alt, modules_table(found))


def modules_table(found: Row) -> pd.DataFrame:
    """Every changed parameter, one row each."""
    out = []
    for m in found["modules"]:
        inside = m.get("amplification") or {}
        out.append(
            {
                "parameter": m["name"],
                "shape": " × ".join(map(str, m["shape"])),
                "norm": m["norm"],
                "base_norm": m["base_norm"],
                "relative_percent": None if m["relative"] is None else 100 * m["relative"],
                "rank": m.get("rank"),
                "effective_rank": m.get("effective_rank"),
                "stable_rank": m.get("stable_rank"),
                "directions_for_half": m.get("half"),
                "directions_for_90_percent": m.get("most"),
                "amplification": inside.get("factor"),
                "base_in_these_directions": inside.get("base"),
                "base_in_random_directions": inside.get("chance"),
                "base_in_its_own_directions": inside.get("own"),
            }
        )
    return pd.DataFrame(out)


def layers_with_matrices(found: Row) -> list[int]:
    """The layers that `spectra` can draw."""
    return [row["layer"] for row in found["layers"] if row["trained"]]


def spectra(found: Row, layer: int) -> Chart:
    """Singular values of each matrix that changed in a layer, the largest first.

    Args:
        found: result of the probe `spectrum`. layer: one of `layers_with_matrices`.
    """
    import plotly.graph_objects as go

    rows = [m for m in found["modules"] if m["layer"] == layer and m.get("rank")]
    names = short([m["part"] for m in rows])
    fig = figure(t("charts_inside.direction"), t("charts_inside.singular"), height=320, series=len(rows))
    tables = []
    for i, m in enumerate(rows):
        style = series_style(i)
        values = m["values"][: m["rank"]]
        fig.add_trace(
            go.Scatter(
                x=list(range(1, len(values) + 1)), y=values, name=names[m["part"]], mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": 2.5},
                marker={"symbol": style.marker, "size": 8, "maxdisplayed": 12}, hovertemplate="%{y:.3g}",
            )
        )  # fmt: skip
        tables.append(
            pd.DataFrame({"parameter": m["name"], "direction": range(1, len(values) + 1), "singular_value": values})
        )
    fig.update_yaxes(rangemode="tozero")
    whole = next(row for row in found["layers"] if row["layer"] == layer)
    title = t("charts_inside.spectra", layer=layer, half=whole["half"], directions=f"{whole['trained']:,}")
    told = [
        t(
            "charts_inside.spectrum", part=names[m["part"]], first=f"{m['values'][0]:.3g}",
            last=f"{m['values'][: m['rank']][-1]:.3g}", effective=f"{m['effective_rank']:.1f}", rank=m["rank"],
        )
        for m in rows
    ]  # fmt: skip
    alt = " ".join([t("charts_inside.spectra_alt", layer=layer), *told])
    return Chart(title, fig, alt, pd.concat(tables, ignore_index=True))


def trained_tensors(found: Row) -> Chart:
    """Norms of what a method without ΔW trained, a bar each."""
    import plotly.graph_objects as go

    rows = found["tensors"]
    fig = figure(t("charts_inside.frobenius"), "", height=90 + 22 * len(rows))
    style = method_style(found["method"])
    names = [row["name"] for row in rows]
    fig.add_trace(
        go.Bar(x=[row["norm"] for row in rows], y=names, orientation="h", marker={"color": style.colour},
               hovertemplate="%{x:.3g}<extra></extra>", showlegend=False)
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_yaxes(autorange="reversed", type="category")
    table = pd.DataFrame(
        [{"tensor": r["name"], "shape": " × ".join(map(str, r["shape"])), "norm": r["norm"]} for r in rows]
    )
    longest = max(rows, key=lambda r: r["norm"])
    alt = " ".join([t("charts_inside.tensors_alt"), *(f"{r['name']}: {r['norm']:.3g}." for r in rows)])
    title = n("charts_inside.tensors", len(rows), tensors=len(rows), longest=longest["name"])
    return Chart(title, fig, alt, table)


# --- truncation -------------------------------------------------------------------------------------------------------


def truncation_table(found: Row) -> pd.DataFrame:
    """One row a rank; the base first."""
    rows = [{"rank": "base", **found["base"], "kept": None}, *found["rows"]]
    return pd.DataFrame(
        [
            {
                "rank": f"{row['rank']} (whole)" if row.get("whole") else str(row["rank"]),
                "energy_kept_percent": None if row["kept"] is None else 100 * row["kept"],
                "exact_match_percent": None if row["exact_match"] is None else 100 * row["exact_match"],
                "held_out_loss": row["loss"],
                **{f"{name}_percent": 100 * share for name, share in row["skills"].items()},
            }
            for row in rows
        ]
    )


def truncation(found: Row, method: str) -> Chart:
    """Exact match on the task, and the energy that is kept, against the rank that ΔW is cut to."""
    import plotly.graph_objects as go

    rows = [row for row in found["rows"] if row["exact_match"] is not None]
    ranks = [str(row["rank"]) for row in rows]
    style = method_style(method)
    fig = figure(t("charts_inside.cut_to"), "%", height=300, series=3)
    series: list[tuple[str, list[float], Any]] = [
        (t("charts_inside.task"), [100 * row["exact_match"] for row in rows], style),
        (t("charts_inside.energy"), [100 * row["kept"] for row in rows], BASE_STYLE),
    ]
    skills = [row["skills"] for row in rows]
    if all(skills):
        other = series_style(2 if style.colour != series_style(2).colour else 1)
        series.append((t("charts_ship.skills"), [100 * sum(s.values()) / len(s) for s in skills], other))
    for name, values, look in series:
        fig.add_trace(
            go.Scatter(
                x=ranks, y=values, name=name, mode="lines+markers", hovertemplate="%{y:.0f} %",
                line={"color": look.colour, "dash": look.dash, "width": 2.5},
                marker={"symbol": look.marker, "size": 9},
            )
        )  # fmt: skip
    fig.update_xaxes(type="category")
    fig.update_yaxes(range=[-3, 103])
    told = [
        t(
            "charts_inside.at_rank", rank=row["rank"], right=percent_text(row["exact_match"]),
            kept=percent_text(row["kept"]),
        )
        for row in rows
    ]  # fmt: skip
    alt = " ".join([t("charts_inside.truncation_alt"), *told])
    return Chart(_enough(found), fig, alt, truncation_table(found))


def _enough(found: Row) -> str:
    enough, whole = found["enough"], found["rows"][-1]
    if enough is None or whole["exact_match"] is None:
        return t("charts_inside.nothing_held_out")
    if whole["exact_match"] == 0:
        return t("charts_inside.nothing_right")
    right = percent_text(whole["exact_match"])
    if enough == found["largest"]:
        below = found["rows"][-2]
        less = percent_text(below["exact_match"])
        return t("charts_inside.needs_all", right=right, less=less, rank=below["rank"])
    return t("charts_inside.enough", rank=enough, largest=found["largest"], right=right)


def truncation_loss(found: Row, method: str) -> Chart:
    """Held-out loss against the rank that ΔW is cut to."""
    import plotly.graph_objects as go

    rows = [row for row in found["rows"] if row["loss"] is not None]
    style = method_style(method)
    fig = figure(t("charts_inside.cut_to"), t("charts_inside.held_out_loss"), height=260)
    fig.add_trace(
        go.Scatter(
            x=[str(row["rank"]) for row in rows], y=[row["loss"] for row in rows], mode="lines+markers",
            line={"color": style.colour, "dash": style.dash, "width": 2.5}, showlegend=False,
            marker={"symbol": style.marker, "size": 9}, hovertemplate="%{y:.3g}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_xaxes(type="category")
    fig.update_yaxes(type="log")
    told = [t("charts_inside.loss_at_rank", rank=row["rank"], loss=f"{row['loss']:.3g}") for row in rows]
    alt = " ".join([t("charts_inside.loss_alt"), *told])
    title = t("charts_inside.nothing_held_out")
    if rows:
        first, last = f"{rows[0]['loss']:.3g}", f"{rows[-1]['loss']:.3g}"
        title = t("charts_inside.loss_falls", first=first, rank=rows[0]["rank"], last=last)
    return Chart(title, fig, alt, truncation_table(found))


# --- tokens -----------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """A token's text with what cannot be seen made visible: spaces and line breaks."""
    return text.replace(" ", SPACE).replace("\n", "⏎").replace("\t", "⇥") or "∅"


def _places(item: Row) -> list[str]:
    """Each token with its place, so that the same text twice is two rows."""
    return [f"{i}  {visible(t['text'])}" for i, t in enumerate(item["tokens"], 1)]


def tokens(item: Row, method: str) -> Chart:
    """Probability of each token of an answer before and after.

    Args:
        item: one of the items of the probe `tokens`.
    """
    rows = item["tokens"]
    fig = _moved(_places(item), rows, method, t("charts_inside.probability"))
    before, after, count = item["first_before"], item["first_after"], len(rows)
    title = t("charts_inside.tokens", before=before, count=count, after=_all(after, count))
    alt = " ".join([t("charts_inside.tokens_alt"), *_told(rows)])
    return Chart(title, fig, alt, tokens_table(item))


def labels(item: Row, method: str) -> Chart:
    """Probability of each label of a text before and after.

    Args:
        item: one of the items of the probe `tokens`, of a classifier.
    """
    rows = item["labels"]
    fig = _moved([row["text"] for row in rows], rows, method, t("charts_inside.label_probability"))
    answer = next(row for row in rows if row["text"] == item["answer"])
    title = t(
        "charts_inside.token", token=answer["text"], before=percent_text(answer["before"]["p"]),
        after=percent_text(answer["after"]["p"]),
    ).rstrip(".")  # fmt: skip
    alt = " ".join([t("charts_inside.labels_alt"), *_told(rows)])
    return Chart(title, fig, alt, labels_table(item))


def labels_table(item: Row) -> pd.DataFrame:
    """One row a label."""
    return pd.DataFrame(
        [
            {
                "label": row["text"], "wanted": row["text"] == item["answer"],
                "before_percent": 100 * row["before"]["p"], "after_percent": 100 * row["after"]["p"],
                "rank_before": row["before"]["rank"], "rank_after": row["after"]["rank"],
            }
            for row in item["labels"]
        ]
    )  # fmt: skip


def _moved(names: Sequence[str], rows: Sequence[Row], method: str, axis: str) -> go.Figure:
    """A line for each row from its probability before to the one after."""
    import plotly.graph_objects as go

    style = method_style(method)
    fig = figure(axis, "", height=110 + 24 * len(rows), series=2)
    for name, row in zip(names, rows, strict=True):
        fig.add_trace(
            go.Scatter(x=[100 * row["before"]["p"], 100 * row["after"]["p"]], y=[name, name], mode="lines",
                       line={"color": BASE_STYLE.colour, "width": 2}, showlegend=False, hoverinfo="skip")
        )  # fmt: skip
    for side, colour, symbol in (("before", BASE_STYLE.colour, "circle-open"), ("after", style.colour, style.marker)):
        fig.add_trace(
            go.Scatter(x=[100 * row[side]["p"] for row in rows], y=names, mode="markers", name=t(f"charts.{side}"),
                       hovertemplate="%{x:.3g} %",
                       marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}})
        )  # fmt: skip
    fig.update_layout(hovermode="closest", legend={"y": -70 / fig.layout.height})
    fig.update_xaxes(range=[-4, 104])
    fig.update_yaxes(type="category", autorange="reversed", tickfont={"family": "Source Code Pro, monospace"})
    return fig


def _told(rows: Sequence[Row]) -> list[str]:
    return [
        t(
            "charts_inside.token", token=visible(r["text"]), before=percent_text(r["before"]["p"]),
            after=percent_text(r["after"]["p"]),
        )
        for r in rows
    ]  # fmt: skip


def _all(some: int, count: int) -> str:
    return t("charts_inside.all", count=count) if some == count else t("charts_inside.some", some=some, count=count)


def divergences(item: Row, method: str) -> Chart:
    """KL(after‖before) at each token of an answer."""
    import plotly.graph_objects as go

    names, rows = _places(item), item["tokens"]
    fig = figure(t("charts_inside.kl"), "", height=90 + 22 * len(rows))
    fig.add_trace(
        go.Bar(x=[row["kl"] for row in rows], y=names, orientation="h", showlegend=False,
               marker={"color": method_style(method).colour}, hovertemplate="%{x:.3g} nats<extra></extra>")
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_yaxes(type="category", autorange="reversed", tickfont={"family": "Source Code Pro, monospace"})
    place, most = max(enumerate(rows, 1), key=lambda r: r[1]["kl"])
    title = t(
        "charts_inside.mind", place=place, token=visible(most["text"]), some=f"{most['kl']:.2g}",
        all=f"{item['kl']:.3g}",
    )  # fmt: skip
    alt = " ".join([t("charts_inside.kl_alt"), *(f"{visible(r['text'])}: {r['kl']:.2g}." for r in rows)])
    return Chart(title, fig, alt, tokens_table(item))


def tokens_table(item: Row) -> pd.DataFrame:
    """One row a token, with the alternative that was likeliest before and what became of it."""
    out = []
    for place, row in enumerate(item["tokens"], 1):
        lost = next((found for found in row["likeliest_before"] if found[0] != row["text"]), ("", None, None))
        out.append(
            {
                "place": place,
                "token": visible(row["text"]),
                "before_percent": 100 * row["before"]["p"],
                "after_percent": 100 * row["after"]["p"],
                "rank_before": row["before"]["rank"],
                "rank_after": row["after"]["rank"],
                "kl_nats": row["kl"],
                "alternative": visible(lost[0]),
                "alternative_before_percent": None if lost[1] is None else 100 * lost[1],
                "alternative_after_percent": None if lost[2] is None else 100 * lost[2],
            }
        )
    return pd.DataFrame(out)


def alternatives_table(item: Row, place: int) -> pd.DataFrame:
    """The likeliest tokens at one place (from 1), before and after, as people read them."""
    row = item["tokens"][place - 1]
    both = {token: (p, q) for token, p, q in [*row["likeliest_before"], *row["likeliest_after"]]}
    both.setdefault(row["text"], (row["before"]["p"], row["after"]["p"]))
    return pd.DataFrame(
        [
            {
                t("charts_inside.column.token"): visible(token), t("charts_inside.column.before"): percent_text(p),
                t("charts_inside.column.after"): percent_text(q),
            }
            for token, (p, q) in sorted(both.items(), key=lambda e: -e[1][1])
        ]
    )  # fmt: skip


# --- overlap ----------------------------------------------------------------------------------------------------------


def overlaps(found: Row) -> Chart:
    """φ of each module at all the directions compared, by layer and part."""
    rows = [m for m in found["modules"] if m["layer"] is not None] or [{**m, "layer": 0} for m in found["modules"]]
    fig, _ = _map(rows, "top", scale=1, unit="φ", digits=2, top=1)
    title = t(
        f"charts_inside.share.{found['side']}", share=percent_text(found["mean"]),
        chance=percent_text(found["mean_chance"]),
    )  # fmt: skip
    told = [
        t("charts_inside.overlap", name=m["name"], share=f"{m['top']:.2f}", chance=f"{m['chance']:.2f}") for m in rows
    ]
    alt = " ".join([t("charts_inside.overlaps_alt"), *told])
    table = pd.DataFrame(
        [
            {
                "parameter": m["name"],
                "dimensions": m["dimensions"],
                "directions_first": len(m["phi"]),
                "directions_second": len(m["phi"][0]),
                "phi": m["top"],
                "chance": m["chance"],
            }
            for m in found["modules"]
        ]
    )
    return Chart(title, fig, alt, table)


def overlap_map(found: Row, name: str) -> Chart:
    """φ(i, j) of one module.

    Args:
        name: the parameter's.
    """
    import plotly.graph_objects as go

    module = next(m for m in found["modules"] if m["name"] == name)
    phi, dimensions = module["phi"], module["dimensions"]
    fig = figure(t("charts_inside.second"), t("charts_inside.first"), height=340)
    fig.add_trace(
        go.Heatmap(
            z=phi, x=list(range(1, len(phi[0]) + 1)), y=list(range(1, len(phi) + 1)), colorscale=SCALE, zmin=0, zmax=1,
            xgap=1, ygap=1, colorbar={"title": {"text": "φ"}, "thickness": 10, "outlinewidth": 0},
            hovertemplate="φ(%{y}, %{x}) = %{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(showgrid=False, dtick=1 if len(phi[0]) <= 16 else None)
    fig.update_yaxes(showgrid=False, autorange="reversed", dtick=1 if len(phi) <= 16 else None)
    j = len(phi[0])
    title = n(
        "charts_inside.lies", j, directions=j, share=percent_text(phi[0][-1]),
        chance=percent_text(chance(1, j, dimensions)),
    )  # fmt: skip
    table = pd.DataFrame(
        [
            {"i": i, "j": k, "phi": value, "chance": chance(i, k, dimensions)}
            for i, row in enumerate(phi, 1)
            for k, value in enumerate(row, 1)
        ]
    )
    alt = t("charts_inside.overlap_alt", name=name, one=f"{phi[0][0]:.2f}", all=f"{phi[-1][-1]:.2f}")
    return Chart(title, fig, alt, table)
