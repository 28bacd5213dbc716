"""Figures of the VRAM calculator: a step's memory by term, methods, cards, the frontier, the course of a step."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.charts import BASE_STYLE, TASK_STYLE, Chart, figure, log_axis, method_style, series_style
from app.charts_race import title_of
from app.words import from_core, n, number, t
from core.memory.card import FITS, TIGHT, TOO_LARGE, Totals
from core.memory.compare import UNKNOWN
from core.memory.several import fewest
from core.units import GB, GIB, bytes_text, count_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from core.catalog import GpuRow
    from core.memory.compare import CardRow, MethodRow, Reach
    from core.memory.cost import Cost
    from core.memory.ledger import Ledger
    from core.memory.rules import Rule
    from core.memory.several import Row
    from core.memory.storage import Storage

GREY, BLUE, ORANGE, GREEN, PURPLE, BROWN, RED, TEAL = (
    BASE_STYLE.colour, TASK_STYLE.colour, *(series_style(i).colour for i in (1, 2, 3, 4, 6, 7)),
)  # fmt: skip
# A term's colour and hatching: what belongs together shares a colour.
TERMS: Mapping[str, tuple[str, str]] = {
    "frozen weights": (GREY, ""), "quantization constants": (GREY, "/"), "trained weights": (BLUE, ""),
    "optimizer state": (ORANGE, ""), "gradients": (GREEN, ""), "batch": (BLUE, "."), "weight copies": (BLUE, "/"),
    "activations": (PURPLE, ""),
    "recomputed activations": (PURPLE, "/"), "logits and loss": (RED, ""), "temporaries": (BROWN, ""),
}  # fmt: skip
RESERVE, CONTEXT = "allocator's reserve", "context and libraries"
OTHERS = {
    RESERVE: (TEAL, "/"), CONTEXT: (TEAL, "x"), "gathered weights": (GREY, "."), "gradients on their way": (GREEN, "/"),
    "gathered hidden states": (PURPLE, "."),
}  # fmt: skip
SAID = {
    RESERVE: "charts.memory.reserve", CONTEXT: "charts.memory.context", FITS: "plan.fits", TIGHT: "plan.tight",
    TOO_LARGE: "plan.too_large",
}  # fmt: skip
"""Names that stand in tables as they are -> the keys of what people read. Core's terms have theirs in the locales."""
VERDICTS = {FITS: "vram.verdict.fits", TIGHT: "vram.verdict.tight", TOO_LARGE: "vram.verdict.too_large"}
LINE = {"color": ORANGE, "width": 2.5, "dash": "dash"}
SPACE = "\u00a0"


def size(count: float) -> str:
    """bytes_text, never broken between number and unit."""
    return bytes_text(count).replace(" ", SPACE)


def usable(card: GpuRow) -> str:
    """What can be used of a card, marked where that is estimated."""
    return card.usable_text.replace(" ", SPACE)


def named(name: str) -> str:
    """What people read for a term or a verdict, in their language; a name without words of its own as it is."""
    return t(SAID[name]) if name in SAID else from_core(name)


def band(found: Totals) -> str:
    """What the process takes, from the least to the most."""
    return between(found.process[0], found.process[2])


def between(least: float, most: float) -> str:
    """'35.2 to 41.0 GiB', or '35.2 GiB' where both ends read the same."""
    low, high = size(least), size(most)
    if low == high:
        return low
    number, _, unit = low.partition(SPACE)
    return t("plan.range", low=number if high.endswith(unit) else low, high=high)


def verdict(found: Totals, card: GpuRow, name: str) -> str:
    """Whether a step fits on a card, as a sentence: `core.memory.card.verdict_text` in every language.

    Args:
        name: what the card is called on the page.
    """
    return t(VERDICTS[found.verdict(card.usable_bytes)], card=name, needed=band(found), usable=usable(card))


def _memory_axis(fig: go.Figure) -> None:
    """A logarithmic axis with the sizes that cards have."""
    ticks = [8, 16, 24, 48, 80, 141, 288, 512]
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=list(map(str, ticks)))


def _card_line(fig: go.Figure, card: GpuRow, name: str) -> None:
    fig.add_vline(x=card.usable_bytes / GIB, line=LINE)
    fig.add_annotation(
        x=card.usable_bytes / GIB, y=1, yref="paper", yanchor="bottom", showarrow=False, text=name, font={"size": 13},
    )  # fmt: skip


def step(ledger: Ledger, found: Totals, card: GpuRow, what: str, card_name: str) -> Chart:
    """The terms of a step as one bar, from the weights to the process, with the card's usable memory as a line.

    Args:
        what: the model and method, for the title.
    """
    import plotly.graph_objects as go

    parts = [(term.name, term.bytes) for term in ledger.terms]
    parts += [(RESERVE, found.reserved[1] - found.allocated), (CONTEXT, found.process[1] - found.reserved[1])]
    shown = [(name, count) for name, count in parts if count > 0]
    fig = figure("GiB", "", height=170)
    looks = [TERMS.get(name) or OTHERS.get(name, (BROWN, "x")) for name, _ in shown]
    sizes = [count / GIB for _, count in shown]
    # One trace, each bar from where the last one ends: a trace each would cost several times as long.
    fig.add_trace(
        go.Bar(
            x=sizes, base=[sum(sizes[:i]) for i in range(len(sizes))], y=[""] * len(sizes), orientation="h", width=0.6,
            marker={
                "color": [colour for colour, _ in looks], "line": {"width": 1, "color": "rgba(128,128,128,0.55)"},
                "pattern": {"shape": [pattern for _, pattern in looks], "fillmode": "replace", "size": 7,
                            "fgcolor": [colour for colour, _ in looks]},
            },
            text=[f"{named(name)}: {bytes_text(count)}" for name, count in shown], textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    low, likely, high = (b / GIB for b in found.process)
    least, most = bytes_text(found.process[0]), bytes_text(found.process[2])
    fig.add_trace(
        go.Scatter(
            x=[likely], y=[""], mode="markers", showlegend=False, marker={"size": 1, "color": GREY},
            error_x={"type": "data", "symmetric": False, "array": [high - likely], "arrayminus": [likely - low],
                     "thickness": 2.5, "width": 9, "color": GREY},
            hovertemplate=f"{t('charts.memory.process', low=least, high=most)}<extra></extra>",
        )
    )  # fmt: skip
    _card_line(fig, card, card_name)
    fig.update_layout(barmode="overlay", hovermode="closest", showlegend=False, margin={"t": 26})
    fig.update_xaxes(range=[0, max(high, card.usable_bytes / GIB) * 1.06])
    table = pd.DataFrame(
        [
            {"term": name, "bytes": count, "gib": round(count / GIB, 4), "share": round(count / found.process[1], 4)}
            for name, count in shown
        ]
    )
    largest = sorted(shown, key=lambda p: -p[1])[:2]
    told = f"{named(largest[0][0])} {size(largest[0][1])}"
    if len(largest) > 1 and largest[1][1] > 0.1 * found.process[1]:
        told += f", {named(largest[1][0])} {size(largest[1][1])}"
    title = t("charts.memory.step", what=what, size=size(found.process[1]), told=told)
    alt = t(
        "charts.memory.step_alt", terms=", ".join(f"{named(name)} {bytes_text(count)}" for name, count in shown),
        low=least, high=most, card=card_name, usable=card.usable_text,
    )  # fmt: skip
    return Chart(title, fig, alt, table)


def step_legend(chart: Chart) -> str:
    """The legend of `step` as HTML, so that it breaks into lines as text does, on a phone too."""
    items = []
    for name, count in zip(chart.table["term"], chart.table["bytes"], strict=True):
        colour, pattern = TERMS.get(name) or OTHERS.get(name, (BROWN, "x"))
        fill = f"repeating-linear-gradient(45deg, {colour} 0 2px, transparent 2px 5px)" if pattern else colour
        items.append(
            f'<span><i style="background:{fill};border-color:{colour}"></i>{html.escape(named(name))} '
            f"<b>{html.escape(number(size(count)))}</b></span>"
        )
    return f'<div class="legend">{"".join(items)}</div>'


def terms_table(rules: Sequence[Rule]) -> pd.DataFrame:
    """One row a term, as people read it: the traced figure, the formula's, the difference and its cause."""
    return pd.DataFrame(
        [
            {
                t("plan.term"): named(r.term), t("charts.memory.traced"): bytes_text(r.traced),
                t("charts.memory.formula"): r.formula,
                t("charts.memory.formula_gives"): "–" if r.bytes is None else bytes_text(r.bytes),
                t("charts.memory.difference"): _difference(r),
            }
            for r in rules
        ]
    )  # fmt: skip


def _difference(rule: Rule) -> str:
    found = rule.difference
    if found is None:
        return "–"
    return t("charts.memory.no_difference") if found == 0 else f"{'+' if found > 0 else '−'}{bytes_text(abs(found))}"


def marks(names: Sequence[str], chosen: str) -> dict[str, Any]:
    """The markers of methods in one trace (a trace each would cost four times as long); the chosen one is larger."""
    styles = [method_style(name) for name in names]
    return {
        "symbol": [style.marker for style in styles], "color": [style.colour for style in styles], "opacity": 1,
        "size": [15 if name == chosen else 11 for name in names],
        "line": {"width": [2 if name == chosen else 0 for name in names], "color": "rgba(128,128,128,0.9)"},
    }  # fmt: skip


# --- side by side -----------------------------------------------------------------------------------------------------


def methods(rows: Sequence[MethodRow], card: GpuRow, card_name: str, chosen: str) -> Chart:
    """Every method's total on one model, smallest at the top, with the card's line."""
    import plotly.graph_objects as go

    known = sorted((r for r in rows if r.found is not None), key=lambda r: r.found.process[1])  # type: ignore[union-attr]
    fig = figure(t("charts.memory.whole_process"), "", height=max(180, 70 + 27 * len(known)))
    bands = [[b / GIB for b in r.found.process] for r in known if r.found is not None]
    fig.add_trace(
        go.Scatter(
            x=[likely for _, likely, _ in bands], y=[title_of(r.method) for r in known], mode="markers",
            showlegend=False, marker=marks([r.method for r in known], chosen),
            error_x={"type": "data", "symmetric": False, "array": [high - likely for _, likely, high in bands],
                     "arrayminus": [likely - low for low, likely, _ in bands], "thickness": 2, "width": 5,
                     "color": GREY},
            text=[told for told in map(_total, known) if told],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    _card_line(fig, card, card_name)
    fig.update_layout(hovermode="closest", margin={"t": 26})
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(rangemode="tozero")
    fitting = [r for r in known if r.verdict == FITS]
    if not known:
        title = t("charts.memory.no_method_yet")
    elif not fitting:
        least = size(known[0].found.process[1])  # type: ignore[union-attr]
        title = t("charts.memory.no_method_fits", method=title_of(known[0].method), size=least)
    elif len(fitting) == len(known):
        waiting = any(r.found is None and r.trainable is not None for r in rows)
        title = n("charts.memory.methods_so_far", len(known)) if waiting else t("charts.memory.every_method_fits")
    else:
        title = t(
            "charts.memory.methods_fit", fitting=len(fitting), methods=len(known), method=title_of(known[0].method)
        )
    alt = t("charts.memory.methods_alt", methods=len(known)) + " "
    alt += " ".join(f"{told}." for told in map(_total, known) if told)
    return Chart(title, fig, alt, methods_numbers(rows))


def _total(row: MethodRow) -> str:
    """'LoRA: 18.2 GiB, fits'; empty where it is not known."""
    return f"{title_of(row.method)}: {bytes_text(row.found.process[1])}, {named(row.verdict)}" if row.found else ""


def methods_numbers(rows: Sequence[MethodRow]) -> pd.DataFrame:
    """Numbers for CSV; bytes."""
    return pd.DataFrame(
        [
            {
                "method": r.method, "trainable": r.trainable, "verdict": r.verdict or r.why,
                "allocated_bytes": r.found.allocated if r.found else None,
                "process_low_bytes": r.found.process[0] if r.found else None,
                "process_bytes": r.found.process[1] if r.found else None,
                "process_high_bytes": r.found.process[2] if r.found else None,
                "peak_at": r.section, **{f"{part.replace(' ', '_')}_bytes": b for part, b in r.parts.items()},
            }
            for r in rows
        ]
    )  # fmt: skip


def methods_table(rows: Sequence[MethodRow], total: int) -> pd.DataFrame:
    """As people read it."""
    return pd.DataFrame(
        [
            {
                t("plan.method"): title_of(r.method), t("charts.memory.verdict"): named(r.verdict) or _why(r),
                t("charts.memory.process_column"): band(r.found) if r.found else "–",
                t("plan.trains"): "–" if r.trainable is None else count_text(r.trainable),
                t("charts.memory.share"): "–" if r.trainable is None else share(r.trainable / total),
                t("charts.memory.activations"): _part(r, "activations", "recomputed activations"),
                t("charts.memory.optimizer_and_gradients"): _part(r, "optimizer state", "gradients"),
                t("charts.memory.peak"): r.section or "–",
            }
            for r in rows
        ]
    )  # fmt: skip


def _part(row: MethodRow, *names: str) -> str:
    return bytes_text(sum(row.parts.get(name, 0) for name in names)) if row.found else "–"


def _why(row: MethodRow) -> str:
    """Why there is no verdict: in core's words where the method cannot be used."""
    return t("charts.memory.not_worked_out") if row.why == UNKNOWN else row.why


def share(value: float) -> str:
    """0.00261 -> '0.261 %'"""
    return f"{100 * value:.3g}{SPACE}%"


def all_cards(rows: Sequence[CardRow], chosen: str) -> Chart:
    """Largest batch by card memory; cards on which not one row fits stand at the bottom."""
    import plotly.graph_objects as go

    known = [r for r in rows if r.found is not None]
    fig = figure(t("charts.memory.usable_axis"), t("charts.memory.batch_axis"), height=330, series=1)
    looks = ((FITS, GREEN, "circle"), (TIGHT, BROWN, "diamond"), (TOO_LARGE, RED, "x"))
    nothing = t("charts.memory.no_batch")
    floor = 0.5
    for verdict, colour, marker in looks:
        chosen_rows = [r for r in known if r.verdict == verdict]
        fig.add_trace(
            go.Scatter(
                x=[r.card.usable_bytes / GIB for r in chosen_rows], y=[max(r.batch or 0, floor) for r in chosen_rows],
                mode="markers", name=named(verdict),
                text=[t("charts.memory.card_batch", card=r.card.name, batch=r.batch or nothing) for r in chosen_rows],
                marker={"symbol": marker, "size": [16 if r.card.name == chosen else 10 for r in chosen_rows],
                        "color": colour, "opacity": 1},
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    most = max((r.batch or 0 for r in known), default=1)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000) if tick <= max(most, 1) * 2]
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_yaxes(type="log", tickvals=[floor, *ticks], ticktext=[nothing, *map(str, ticks)])
    _memory_axis(fig)
    fitting = [r for r in known if r.verdict == FITS]
    if fitting:
        first = fitting[0]
        title = t("charts.memory.fits_from", size=usable(first.card), card=first.card.name)
    else:
        title = t("charts.memory.no_card")
    tight = sum(r.verdict == TIGHT for r in known)
    alt = t("charts.memory.cards_alt", cards=len(known), title=title, tight=tight)
    return Chart(title, fig, alt, cards_numbers(rows))


def cards_numbers(rows: Sequence[CardRow]) -> pd.DataFrame:
    """Numbers for CSV."""
    return pd.DataFrame(
        [
            {
                "card": r.card.name, "usable_bytes": r.card.usable_bytes,
                "usable_estimated": r.card.estimated, "verdict": r.verdict or UNKNOWN,
                "process_bytes": r.found.process[1] if r.found else None,
                "process_low_bytes": r.found.process[0] if r.found else None,
                "process_high_bytes": r.found.process[2] if r.found else None,
                "largest_batch": r.batch, "largest_length": r.length,
                "step_seconds": r.seconds[1] if r.seconds else None,
                "step_seconds_low": r.seconds[0] if r.seconds else None,
                "step_seconds_high": r.seconds[2] if r.seconds else None,
            }
            for r in rows
        ]
    )  # fmt: skip


def cards_table(rows: Sequence[CardRow]) -> pd.DataFrame:
    """As people read it."""
    from core.units import seconds_text

    return pd.DataFrame(
        [
            {
                t("vram.card"): r.card.name, t("charts.memory.usable"): r.card.usable_text,
                t("charts.memory.verdict"): named(r.verdict) or t("charts.memory.not_worked_out"),
                t("charts.memory.process_column"): band(r.found) if r.found else "–",
                t("charts.memory.largest_batch"): "–" if r.batch is None else f"{r.batch:,}",
                t("charts.memory.longest_rows"): "–" if r.length is None else f"{r.length:,}",
                t("charts.memory.step_takes"): t("plan.unknown") if r.seconds is None
                else t("plan.range", low=seconds_text(r.seconds[0]), high=seconds_text(r.seconds[2])),
            }
            for r in rows
        ]
    )  # fmt: skip


def _steps(reached: Sequence[Reach]) -> list[Reach]:
    """The cards from which on a larger model can be trained, and the largest card, where the line ends."""
    out: list[Reach] = []
    for r in reached:
        if r.name and (not out or r.parameters > out[-1].parameters):
            out.append(r)
    if out and reached[-1].card != out[-1].card:
        best = out[-1]
        out.append(dataclasses.replace(best, card=reached[-1].card))
    return out


def frontier(rows: Sequence[Reach], batch: int, length: int) -> Chart:
    """The largest model per method, by the card's usable memory."""
    import plotly.graph_objects as go

    fig = figure(t("charts.memory.usable_axis"), t("charts.memory.model_axis"), height=360, series=1)
    found: dict[str, list[Reach]] = {}
    for r in rows:
        found.setdefault(r.method, []).append(r)
    for method, reached in found.items():
        style = method_style(method)
        there = _steps(reached)
        fig.add_trace(
            go.Scatter(
                x=[r.card.usable_bytes / GIB for r in there], y=[r.parameters for r in there], mode="lines+markers",
                name=title_of(method),
                text=[
                    t("charts.memory.method_on_card", method=title_of(method), card=r.card.name, model=r.name)
                    for r in there
                ],
                line={"color": style.colour, "dash": style.dash, "width": 2, "shape": "hv"},
                marker={"symbol": style.marker, "size": 7, "color": style.colour},
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    _memory_axis(fig)
    values = [1e8, 3e8, 1e9, 3e9, 7e9, 1.4e10, 3.2e10, 7e10]
    fig.update_yaxes(type="log", tickvals=values, ticktext=[count_text(v).replace(" ", SPACE) for v in values])
    consumer = {m: next((r for r in rs if r.card.name == "RTX 4090"), None) for m, rs in found.items()}
    full, small = consumer.get("full"), consumer.get("qlora")
    title = t("charts.memory.frontier")
    if full and small and full.name and small.name:
        title = t("charts.memory.frontier_pair", full=full.name, small=small.name)
    alt = f"{t('charts.memory.frontier_alt', batch=batch, length=f'{length:,}')} " + " ".join(
        f"{title_of(m)}: {_reached(r)}." for m, r in consumer.items() if r
    )
    table = pd.DataFrame(
        [
            {"method": r.method, "card": r.card.name, "usable_bytes": r.card.usable_bytes, "model": r.name or None,
             "worked_out": r.known,
             "parameters": r.parameters or None, "process_bytes": r.process or None}
            for r in rows
        ]
    )  # fmt: skip
    return Chart(title, fig, alt, table)


def _reached(found: Reach) -> str:
    """The largest model's name, or why there is none: `told`, in every language."""
    return found.name or t("charts.memory.no_model" if found.known else "charts.memory.not_worked_out")


def frontier_table(rows: Sequence[Reach]) -> pd.DataFrame:
    """One row a card, a column a method."""
    head = t("charts.memory.usable")
    lines: dict[str, dict[str, Any]] = {}
    for r in rows:
        line = lines.setdefault(r.card.name, {t("vram.card"): r.card.name, head: r.card.usable_text})
        line[title_of(r.method)] = _reached(r)
    return pd.DataFrame(list(lines.values()))


def several(rows: Sequence[Row], card: GpuRow, card_name: str) -> Chart:
    """What one of several GPUs has, by their number; a line per ZeRO stage, and the card's memory."""
    import plotly.graph_objects as go

    fig = figure("GPUs", t("charts.memory.gpu_axis"), height=330, series=1)
    names = zero_names()
    for zero, name in enumerate(names):
        style = series_style((5, 1, 0, 2)[zero])
        some = [r for r in rows if r.zero == zero]
        fig.add_trace(
            go.Scatter(
                x=[r.gpus for r in some], y=[r.found.process[1] / GIB for r in some], mode="lines+markers", name=name,
                line={"color": style.colour, "dash": style.dash, "width": 2},
                marker={"symbol": style.marker, "size": 8},
                text=[
                    f"{name}, {r.gpus} GPUs: {bytes_text(r.found.process[1])}, {named(r.verdict)}" for r in some
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    fig.add_hline(y=card.usable_bytes / GIB, line=LINE)
    fig.add_annotation(
        x=1, xref="paper", xanchor="right", y=card.usable_bytes / GIB, yanchor="bottom", showarrow=False,
        text=card_name, font={"size": 13},
    )  # fmt: skip
    numbers = sorted({r.gpus for r in rows})
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_xaxes(type="log", tickvals=numbers, ticktext=list(map(str, numbers)))
    fig.update_yaxes(rangemode="tozero")
    found = {zero: fewest(rows, zero, FITS) for zero in range(4)}
    single = next((r for r in rows if r.gpus == 1 and r.zero == 0), None)
    reached = sorted((count, zero) for zero, count in found.items() if count is not None)
    if single is not None and single.verdict == FITS:
        title = t("charts.memory.one_is_enough")
    elif not reached:
        title = t("charts.memory.not_even", gpus=numbers[-1])
    else:
        count, zero = reached[0]
        title = t("charts.memory.fits_from_gpus", gpus=count, stage=names[zero])
    alt = f"{t('charts.memory.several_alt', title=title)} " + " ".join(
        t("charts.memory.with_eight", stage=name, size=bytes_text(r.found.process[1]))
        for zero, name in enumerate(names)
        for r in rows
        if r.zero == zero and r.gpus == 8
    )
    table = pd.DataFrame(
        [
            {"gpus": r.gpus, "zero": r.zero, "verdict": r.verdict, "allocated_bytes": r.found.allocated,
             "process_low_bytes": r.found.process[0], "process_bytes": r.found.process[1],
             "process_high_bytes": r.found.process[2]}
            for r in rows
        ]
    )  # fmt: skip
    return Chart(title, fig, alt, table)


def zero_names() -> tuple[str, str, str, str]:
    """What the stages 0 to 3 are called."""
    return (t("charts.memory.not_shared"), "ZeRO-1", "ZeRO-2", "ZeRO-3")


def several_table(rows: Sequence[Row]) -> pd.DataFrame:
    """One row a number of GPUs, a column a stage."""
    lines: dict[int, dict[str, Any]] = {}
    names = zero_names()
    for r in rows:
        line = lines.setdefault(r.gpus, {"GPUs": r.gpus})
        line[names[r.zero]] = f"{bytes_text(r.found.process[1])}, {named(r.verdict)}"
    return pd.DataFrame(list(lines.values()))


# --- the course of a step ---------------------------------------------------------------------------------------------


def course(timeline: Sequence[Mapping[str, Any]], peak_at: str) -> Chart:
    """What is alive while a traced step goes on."""
    import plotly.graph_objects as go

    first, last = timeline[0]["event"], timeline[-1]["event"]
    span = max(last - first, 1)
    x = [100 * (r["event"] - first) / span for r in timeline]
    y = [r["bytes"] / GIB for r in timeline]
    top = max(range(len(y)), key=y.__getitem__)
    fig = figure(t("charts.memory.course_axis"), t("charts.memory.alive_axis"), height=300)
    fig.add_trace(
        go.Scatter(
            x=x, y=y, mode="lines", line={"color": TASK_STYLE.colour, "width": 2}, fill="tozeroy",
            fillcolor="rgba(43,123,186,0.15)", text=[r["section"] for r in timeline], showlegend=False,
            hovertemplate="%{text}: %{y:.2f} GiB<extra></extra>",
        )
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(x=[x[top]], y=[y[top]], mode="markers", showlegend=False, hoverinfo="skip",
                   marker={"symbol": "diamond", "size": 12, "color": ORANGE})
    )  # fmt: skip
    for part, start in _parts(timeline):
        at = 100 * (start - first) / span
        fig.add_vline(x=at, line={"color": GREY, "width": 1, "dash": "dot"})
        fig.add_annotation(
            x=at, y=1.0, yref="paper", text=t(f"charts.memory.parts.{part}"), showarrow=False, xanchor="left",
            yanchor="bottom", font={"size": 13},
        )  # fmt: skip
    fig.update_layout(hovermode="closest", margin={"t": 26})
    fig.update_yaxes(rangemode="tozero")
    table = pd.DataFrame([{"event": r["event"], "section": r["section"], "bytes": r["bytes"]} for r in timeline])
    title = t("charts.memory.course", size=size(timeline[top]["bytes"]), place=peak_at)
    alt = t("charts.memory.course_alt", moments=len(timeline), title=title)
    return Chart(title, fig, alt, table)


def _parts(timeline: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Where forward, backward and optimizer begin (the first pass of several)."""
    out: list[tuple[str, int]] = []
    for r in timeline:
        last = str(r["section"]).rpartition(" ")[2]
        part = {"batch": "forward", "clipping": "optimizer", "end": "optimizer"}.get(last, last)
        if part in ("forward", "backward", "optimizer") and part not in [p for p, _ in out]:
            out.append((part, r["event"]))
    return out


# --- disk, time, money ------------------------------------------------------------------------------------------------


def disk(rows: Mapping[str, Storage], chosen: str) -> Chart:
    """What all tasks take on disk, by method, on a logarithmic axis."""
    import plotly.graph_objects as go

    known = sorted(rows.items(), key=lambda pair: pair[1].total)
    fig = figure(t("charts.memory.disk_axis"), "", height=70 + 27 * len(known))
    fig.add_trace(
        go.Scatter(
            x=[found.total / GB for _, found in known], y=[title_of(name) for name, _ in known], mode="markers",
            showlegend=False, marker=marks([name for name, _ in known], chosen),
            text=[f"{title_of(name)}: {bytes_text(found.total)}" for name, found in known],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(**log_axis([f.total / GB for _, f in known]))
    fig.update_yaxes(autorange="reversed")
    here = rows[chosen]
    tasks = n("charts.memory.tasks", here.tasks)
    title = (
        t("charts.memory.disk", tasks=tasks, size=size(here.total), whole=size(here.whole))
        if chosen != "full"
        else t("charts.memory.disk_full", tasks=tasks, models=f"{here.tasks:,}", size=size(here.total))
    )
    table = pd.DataFrame(
        [
            {"method": name, "tasks": f.tasks, "base_bytes": f.base, "adapter_bytes": f.adapter, "total_bytes": f.total,
             "saved_share": round(f.saved_share, 4), "resume_bytes": f.resume}
            for name, f in known
        ]
    )  # fmt: skip
    alt = f"{t('charts.memory.disk_alt', tasks=tasks)} "
    alt += " ".join(f"{title_of(name)}: {bytes_text(f.total)}." for name, f in known)
    return Chart(title, fig, alt, table)


def hours(value: float) -> str:
    """0.02 -> '1.2 min', 3.4 -> '3.4 h', 60 -> '2.5 days'."""
    if value < 1 / 60:
        return f"{value * 3600:.0f}{SPACE}s"
    if value < 1:
        return f"{value * 60:.2g}{SPACE}min"
    return f"{value:.2g}{SPACE}h" if value < 48 else t("plan.days", days=f"{value / 24:.2g}")


def costs(rows: Sequence[tuple[str, str, Cost]], chosen: str) -> Chart:
    """Hours against money, one point a card that holds the step, at list prices.

    Args:
        rows: (card, verdict, cost); all costs have money. chosen: the card that is looked at; its name stands beside
            it, as beside the cheapest and the fastest.
    """
    import plotly.graph_objects as go

    cheap = min(rows, key=lambda r: r[2].money[1] if r[2].money else 0.0, default=None)
    fast = min(rows, key=lambda r: r[2].hours[1], default=None)
    beside = {chosen, *(r[0] for r in (cheap, fast) if r is not None)}

    fig = figure(t("charts.memory.time_axis"), t("charts.memory.money_axis"), height=330, series=1)
    for verdict, colour, marker in ((FITS, GREEN, "circle"), (TIGHT, BROWN, "diamond")):
        some = [(name, c) for name, v, c in rows if v == verdict and c.money is not None]
        fig.add_trace(
            go.Scatter(
                x=[c.hours[1] for _, c in some], y=[c.money[1] for _, c in some if c.money], mode="markers+text",
                text=[name if name in beside else "" for name, _ in some], textposition="top center",
                textfont={"size": 13}, name=named(verdict), customdata=[name for name, _ in some],
                marker={"symbol": marker, "size": 10, "color": colour},
                hovertemplate="%{customdata}: %{x:.2g} h, $%{y:.3g}<extra></extra>",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_xaxes(**log_axis([c.hours[1] for _, _, c in rows]))
    fig.update_yaxes(**log_axis([c.money[1] for _, _, c in rows if c.money]))
    if cheap is None or fast is None:
        title = t("charts.memory.no_priced_card")
    elif cheap[0] == fast[0]:
        title = t("charts.memory.cheapest_and_fastest", card=cheap[0])
    else:
        title = t("charts.memory.cheapest", cheap=cheap[0], fast=fast[0])
    table = pd.DataFrame(
        [
            {"card": name, "verdict": v, "hours_low": c.hours[0], "hours": c.hours[1], "hours_high": c.hours[2],
             "usd": c.money[1] if c.money else None, "kwh": c.kwh[1] if c.kwh else None}
            for name, v, c in rows
        ]
    )  # fmt: skip
    alt = t("charts.memory.costs_alt", cards=len(rows), title=title)
    return Chart(title, fig, alt, table)


__all__ = [
    "SPACE",
    "all_cards",
    "band",
    "between",
    "cards_numbers",
    "cards_table",
    "costs",
    "course",
    "disk",
    "frontier",
    "frontier_table",
    "hours",
    "methods",
    "methods_numbers",
    "methods_table",
    "several",
    "several_table",
    "share",
    "size",
    "step",
    "step_legend",
    "terms_table",
    "verdict",
]  # fmt: skip
