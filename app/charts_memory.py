"""Figures of the VRAM calculator: a step's memory by term, methods, cards, the frontier, the course of a step."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from app.charts import BASE_STYLE, TASK_STYLE, Chart, figure, method_style, series_style
from app.charts_race import title_of
from app.words import t
from core.memory.card import FITS, TIGHT, Totals
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
    "optimizer state": (ORANGE, ""), "gradients": (GREEN, ""), "batch": (BLUE, "."), "activations": (PURPLE, ""),
    "recomputed activations": (PURPLE, "/"), "logits and loss": (RED, ""), "temporaries": (BROWN, ""),
}  # fmt: skip
RESERVE, CONTEXT = "allocator's reserve", "context and libraries"
OTHERS = {
    RESERVE: (TEAL, "/"), CONTEXT: (TEAL, "x"), "gathered weights": (GREY, "."), "gradients on their way": (GREEN, "/"),
    "gathered hidden states": (PURPLE, "."),
}  # fmt: skip
LINE = {"color": ORANGE, "width": 2.5, "dash": "dash"}
SPACE = "\u00a0"


def size(count: float) -> str:
    """bytes_text, never broken between number and unit."""
    return bytes_text(count).replace(" ", SPACE)


def band(found: Totals) -> str:
    """'35.2 to 41.0 GiB', or '35.2 GiB' where both ends read the same."""
    low, _, high = (size(b) for b in found.process)
    if low == high:
        return low
    number, _, unit = low.partition(SPACE)
    return t("plan.range", low=number if high.endswith(unit) else low, high=high)


def _ticks(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 times powers of ten around the values."""
    known = [v for v in values if v > 0]
    if not known:
        return {"type": "log"}
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    marks = (1, 2, 5) if high - low <= 3 else (1,)
    found = [m * 10.0**p for p in range(low, high + 1) for m in marks]
    found = [t for t in found if min(known) / 2.6 <= t <= max(known) * 2.6]
    return {"type": "log", "tickvals": found, "ticktext": [f"{t:,g}" for t in found]}


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

    parts = [(t.name, t.bytes) for t in ledger.terms]
    parts += [(RESERVE, found.reserved[1] - found.allocated), (CONTEXT, found.process[1] - found.reserved[1])]
    shown = [(n, b) for n, b in parts if b > 0]
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
            text=[f"{name}: {bytes_text(count)}" for name, count in shown], textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    low, likely, high = (b / GIB for b in found.process)
    fig.add_trace(
        go.Scatter(
            x=[likely], y=[""], mode="markers", showlegend=False, marker={"size": 1, "color": GREY},
            error_x={"type": "data", "symmetric": False, "array": [high - likely], "arrayminus": [likely - low],
                     "thickness": 2.5, "width": 9, "color": GREY},
            hovertemplate=f"process: {bytes_text(found.process[0])} to {bytes_text(found.process[2])}<extra></extra>",
        )
    )  # fmt: skip
    _card_line(fig, card, card_name)
    most = max(high, card.usable_bytes / GIB)
    fig.update_layout(barmode="overlay", hovermode="closest", showlegend=False, margin={"t": 26})
    fig.update_xaxes(range=[0, most * 1.06])
    table = pd.DataFrame(
        [{"term": n, "bytes": b, "gib": round(b / GIB, 4), "share": round(b / found.process[1], 4)} for n, b in shown]
    )
    largest = sorted(shown, key=lambda p: -p[1])[:2]
    told = f"{largest[0][0]} {size(largest[0][1])}"
    if len(largest) > 1 and largest[1][1] > 0.1 * found.process[1]:
        told += f", {largest[1][0]} {size(largest[1][1])}"
    title = f"{what}: {size(found.process[1])}, most of it {told}"
    alt = (
        f"Stacked bar of a training step's memory: {', '.join(f'{n} {bytes_text(b)}' for n, b in shown)}. "
        f"The whole process takes {bytes_text(found.process[0])} to {bytes_text(found.process[2])}; {card_name} has "
        f"{bytes_text(card.usable_bytes)} that can be used."
    )
    return Chart(title, fig, alt, table)


def step_legend(chart: Chart) -> str:
    """The legend of `step` as HTML, so that it breaks into lines as text does, on a phone too."""
    items = []
    for name, count in zip(chart.table["term"], chart.table["bytes"], strict=True):
        colour, pattern = TERMS.get(name) or OTHERS.get(name, (BROWN, "x"))
        fill = f"repeating-linear-gradient(45deg, {colour} 0 2px, transparent 2px 5px)" if pattern else colour
        items.append(
            f'<span><i style="background:{fill};border-color:{colour}"></i>{html.escape(name)} '
            f"<b>{html.escape(size(count))}</b></span>"
        )
    return f'<div class="legend">{"".join(items)}</div>'


def terms_table(rules: Sequence[Rule]) -> pd.DataFrame:
    """One row a term, as people read it: the traced figure, the formula's, the difference and its cause."""
    return pd.DataFrame(
        [
            {
                "Term": r.term, "Traced": bytes_text(r.traced), "Formula, with your numbers": r.formula,
                "Formula gives": "–" if r.bytes is None else bytes_text(r.bytes),
                "Difference": _difference(r),
            }
            for r in rules
        ]
    )  # fmt: skip


def _difference(rule: Rule) -> str:
    found = rule.difference
    if found is None:
        return "–"
    return "none" if found == 0 else f"{'+' if found > 0 else '−'}{bytes_text(abs(found))}"


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
    fig = figure("GiB, whole process", "", height=max(180, 70 + 27 * len(known)))
    bands = [[b / GIB for b in r.found.process] for r in known if r.found is not None]
    fig.add_trace(
        go.Scatter(
            x=[likely for _, likely, _ in bands], y=[title_of(r.method) for r in known], mode="markers",
            showlegend=False, marker=marks([r.method for r in known], chosen),
            error_x={"type": "data", "symmetric": False, "array": [high - likely for _, likely, high in bands],
                     "arrayminus": [likely - low for low, likely, _ in bands], "thickness": 2, "width": 5,
                     "color": GREY},
            text=[f"{title_of(r.method)}: {bytes_text(r.found.process[1])}, {r.verdict}" for r in known if r.found],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    _card_line(fig, card, card_name)
    fig.update_layout(hovermode="closest", margin={"t": 26})
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(rangemode="tozero")
    fitting = [r for r in known if r.verdict == FITS]
    if not known:
        title = "No method is traced for this step yet"
    elif not fitting:
        title = f"No method surely fits; {title_of(known[0].method)} takes least, {size(known[0].found.process[1])}"  # type: ignore[union-attr]
    elif len(fitting) == len(known):
        waiting = any(r.found is None and r.trainable is not None for r in rows)
        some = "The method" if len(known) == 1 else f"The {len(known)} methods"
        title = f"{some} worked out so far {'fits' if len(known) == 1 else 'fit'}" if waiting else "Every method fits"
    else:
        title = f"{len(fitting)} of {len(known)} methods fit; {title_of(known[0].method)} takes least"
    alt = f"Totals of {len(known)} methods. " + " ".join(
        f"{title_of(r.method)}: {bytes_text(r.found.process[1])}, {r.verdict}." for r in known if r.found
    )
    return Chart(title, fig, alt, methods_numbers(rows))


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
                "peak_at": r.section, **{f"{n.replace(' ', '_')}_bytes": b for n, b in r.parts.items()},
            }
            for r in rows
        ]
    )  # fmt: skip


def methods_table(rows: Sequence[MethodRow], total: int) -> pd.DataFrame:
    """As people read it."""
    return pd.DataFrame(
        [
            {
                "Method": title_of(r.method), "Verdict": r.verdict or r.why,
                "Process": band(r.found) if r.found else "–",
                "Trains": "–" if r.trainable is None else count_text(r.trainable),
                "Share": "–" if r.trainable is None else share(r.trainable / total),
                "Activations": _part(r, "activations", "recomputed activations"),
                "Optimizer and gradients": _part(r, "optimizer state", "gradients"),
                "Peak": r.section or "–",
            }
            for r in rows
        ]
    )  # fmt: skip


def _part(row: MethodRow, *names: str) -> str:
    return bytes_text(sum(row.parts.get(n, 0) for n in names)) if row.found else "–"


def share(value: float) -> str:
    """0.00261 -> '0.261 %'"""
    return f"{100 * value:.3g}{SPACE}%"


def all_cards(rows: Sequence[CardRow], chosen: str) -> Chart:
    """Largest batch by card memory; cards on which not one row fits stand at the bottom."""
    import plotly.graph_objects as go

    known = [r for r in rows if r.found is not None]
    fig = figure("usable memory, GiB", "largest batch", height=330, series=1)
    looks = (("fits", GREEN, "circle"), ("tight", BROWN, "diamond"), ("does not fit", RED, "x"))
    floor = 0.5
    for verdict, colour, marker in looks:
        chosen_rows = [r for r in known if r.verdict == verdict]
        fig.add_trace(
            go.Scatter(
                x=[r.card.usable_bytes / GIB for r in chosen_rows], y=[max(r.batch or 0, floor) for r in chosen_rows],
                mode="markers", name=verdict, text=[f"{r.card.name}: batch {r.batch or 'none'}" for r in chosen_rows],
                marker={"symbol": marker, "size": [16 if r.card.name == chosen else 10 for r in chosen_rows],
                        "color": colour, "opacity": 1},
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    most = max((r.batch or 0 for r in known), default=1)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000) if t <= max(most, 1) * 2]
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_yaxes(type="log", tickvals=[floor, *ticks], ticktext=["none", *map(str, ticks)])
    _memory_axis(fig)
    fitting = [r for r in known if r.verdict == FITS]
    if fitting:
        first = fitting[0]
        title = f"It surely fits from {size(first.card.usable_bytes)} on: the {first.card.name}"
    else:
        title = "No single card of the catalogue surely holds this step"
    alt = (
        f"Scatter plot of {len(known)} cards by usable memory and largest batch. {title}. "
        f"{sum(r.verdict == TIGHT for r in known)} are tight."
    )
    return Chart(title, fig, alt, cards_numbers(rows))


def cards_numbers(rows: Sequence[CardRow]) -> pd.DataFrame:
    """Numbers for CSV."""
    return pd.DataFrame(
        [
            {
                "card": r.card.name, "usable_bytes": r.card.usable_bytes, "verdict": r.verdict or "not worked out",
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
                "Card": r.card.name, "Usable": bytes_text(r.card.usable_bytes),
                "Verdict": r.verdict or "not worked out", "Process": band(r.found) if r.found else "–",
                "Largest batch": "–" if r.batch is None else f"{r.batch:,}",
                "Longest rows": "–" if r.length is None else f"{r.length:,}",
                "A step takes": "unknown" if r.seconds is None
                else f"{seconds_text(r.seconds[0])} to {seconds_text(r.seconds[2])}",
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

    fig = figure("usable memory, GiB", "parameters of the largest model", height=360, series=1)
    found: dict[str, list[Reach]] = {}
    for r in rows:
        found.setdefault(r.method, []).append(r)
    for method, reached in found.items():
        style = method_style(method)
        there = _steps(reached)
        fig.add_trace(
            go.Scatter(
                x=[r.card.usable_bytes / GIB for r in there], y=[r.parameters for r in there], mode="lines+markers",
                name=title_of(method), text=[f"{title_of(method)} on {r.card.name}: {r.name}" for r in there],
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
    title = "The largest model that a method trains on a card"
    if full and small and full.name and small.name:
        title = f"On 24{SPACE}GB: {full.name} in full, {small.name} with QLoRA"
    alt = f"Lines of the largest model by card memory, batch {batch}, {length:,} tokens. On an RTX 4090: " + " ".join(
        f"{title_of(m)}: {r.told}." for m, r in consumer.items() if r
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


def frontier_table(rows: Sequence[Reach]) -> pd.DataFrame:
    """One row a card, a column a method."""
    lines: dict[str, dict[str, Any]] = {}
    for r in rows:
        line = lines.setdefault(r.card.name, {"Card": r.card.name, "Usable": bytes_text(r.card.usable_bytes)})
        line[title_of(r.method)] = r.told
    return pd.DataFrame(list(lines.values()))


def several(rows: Sequence[Row], card: GpuRow, card_name: str) -> Chart:
    """What one of several GPUs has, by their number; a line per ZeRO stage, and the card's memory."""
    import plotly.graph_objects as go

    fig = figure("GPUs", "one GPU's process, GiB", height=330, series=1)
    for zero, name in enumerate(ZERO_NAMES):
        style = series_style((5, 1, 0, 2)[zero])
        some = [r for r in rows if r.zero == zero]
        fig.add_trace(
            go.Scatter(
                x=[r.gpus for r in some], y=[r.found.process[1] / GIB for r in some], mode="lines+markers", name=name,
                line={"color": style.colour, "dash": style.dash, "width": 2},
                marker={"symbol": style.marker, "size": 8},
                text=[f"{name}, {r.gpus} GPUs: {bytes_text(r.found.process[1])}, {r.verdict}" for r in some],
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
        title = "One GPU is enough; more make it faster"
    elif not reached:
        title = f"Not even {numbers[-1]} of them surely hold it"
    else:
        count, zero = reached[0]
        title = f"It surely fits from {count} GPUs on, with {ZERO_NAMES[zero]}"
    alt = f"Lines of one GPU's memory by the number of GPUs. {title}. " + " ".join(
        f"{name} with 8: {bytes_text(r.found.process[1])}."
        for zero, name in enumerate(ZERO_NAMES)
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


ZERO_NAMES = ("not shared", "ZeRO-1", "ZeRO-2", "ZeRO-3")


def several_table(rows: Sequence[Row]) -> pd.DataFrame:
    """One row a number of GPUs, a column a stage."""
    lines: dict[int, dict[str, Any]] = {}
    for r in rows:
        line = lines.setdefault(r.gpus, {"GPUs": r.gpus})
        line[ZERO_NAMES[r.zero]] = f"{bytes_text(r.found.process[1])}, {r.verdict}"
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
    fig = figure("course of the step, % of its allocations", "alive, GiB", height=300)
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
            x=at, y=1.0, yref="paper", text=part, showarrow=False, xanchor="left", yanchor="bottom", font={"size": 13}
        )
    fig.update_layout(hovermode="closest", margin={"t": 26})
    fig.update_yaxes(rangemode="tozero")
    table = pd.DataFrame([{"event": r["event"], "section": r["section"], "bytes": r["bytes"]} for r in timeline])
    title = f"The peak, {size(timeline[top]['bytes'])}, is at {peak_at}"
    alt = f"Area chart of live memory over a training step, {len(timeline)} moments. {title}."
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
    fig = figure("on disk for all tasks, GB", "", height=70 + 27 * len(known))
    fig.add_trace(
        go.Scatter(
            x=[found.total / GB for _, found in known], y=[title_of(name) for name, _ in known], mode="markers",
            showlegend=False, marker=marks([name for name, _ in known], chosen),
            text=[f"{title_of(name)}: {bytes_text(found.total)}" for name, found in known],
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_layout(hovermode="closest")
    fig.update_xaxes(**_ticks([f.total / GB for _, f in known]))
    fig.update_yaxes(autorange="reversed")
    here = rows[chosen]
    tasks = f"{here.tasks:,} task{'s' if here.tasks > 1 else ''}"
    title = (
        f"{tasks}: {size(here.total)}; as whole models {size(here.whole)}"
        if chosen != "full"
        else f"{tasks} of full fine-tuning are {tasks.split()[0]} whole models: {size(here.total)}"
    )
    table = pd.DataFrame(
        [
            {"method": n, "tasks": f.tasks, "base_bytes": f.base, "adapter_bytes": f.adapter, "total_bytes": f.total,
             "saved_share": round(f.saved_share, 4), "resume_bytes": f.resume}
            for n, f in known
        ]
    )  # fmt: skip
    alt = f"Disk space of {tasks} by method. " + " ".join(f"{title_of(n)}: {bytes_text(f.total)}." for n, f in known)
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
    named = {chosen, *(r[0] for r in (cheap, fast) if r is not None)}

    fig = figure("time, hours", "money, USD", height=330, series=1)
    for verdict, colour, marker in ((FITS, GREEN, "circle"), (TIGHT, BROWN, "diamond")):
        some = [(n, c) for n, v, c in rows if v == verdict and c.money is not None]
        fig.add_trace(
            go.Scatter(
                x=[c.hours[1] for _, c in some], y=[c.money[1] for _, c in some if c.money], mode="markers+text",
                text=[n if n in named else "" for n, _ in some], textposition="top center", textfont={"size": 13},
                name=verdict, customdata=[n for n, _ in some],
                marker={"symbol": marker, "size": 10, "color": colour},
                hovertemplate="%{customdata}: %{x:.2g} h, $%{y:.3g}<extra></extra>",
            )
        )  # fmt: skip
    fig.update_layout(hovermode="closest", legend={"orientation": "h", "y": -0.25})
    fig.update_xaxes(**_ticks([c.hours[1] for _, _, c in rows]))
    fig.update_yaxes(**_ticks([c.money[1] for _, _, c in rows if c.money]))
    if cheap is None or fast is None:
        title = "No card with a known price holds this step"
    elif cheap[0] == fast[0]:
        title = f"Cheapest and fastest: {cheap[0]}"
    else:
        title = f"Cheapest: {cheap[0]}; fastest: {fast[0]}"
    table = pd.DataFrame(
        [
            {"card": n, "verdict": v, "hours_low": c.hours[0], "hours": c.hours[1], "hours_high": c.hours[2],
             "usd": c.money[1] if c.money else None, "kwh": c.kwh[1] if c.kwh else None}
            for n, v, c in rows
        ]
    )  # fmt: skip
    alt = f"Scatter plot of {len(rows)} cards by time and money. {title}."
    return Chart(title, fig, alt, table)


__all__ = [
    "SPACE",
    "all_cards",
    "band",
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
]  # fmt: skip
