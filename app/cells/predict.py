"""A prediction: the learner commits a number, then sees it beside what was measured; how far off is kept.

It is scored once, by the first result that is revealed: a later run, with other settings perhaps, changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import answers, calc, state
from app.cells import probe
from app.cells.context import Context, frame, unbroken
from app.cells.svg import document, draw
from app.index import Cell
from app.words import t
from core.runs import together

if TYPE_CHECKING:
    from core.runs.store import Run


OWN, RECORDED = "your run", "the recorded run"
OWN_PROBE, RECORDED_PROBE = "your own measurement", "the recorded measurement"
SOURCES = {OWN: "own", RECORDED: "recorded", OWN_PROBE: "own_probe", RECORDED_PROBE: "recorded_probe"}
"""Where a result is from, as it is kept -> the end of its key in app/locales."""


@dataclass(frozen=True)
class Measured:
    """The figure that a prediction was about. source: OWN or RECORDED."""

    value: float
    source: str


def measured(cell: Cell, context: Context) -> Measured | None:
    """What the experiment gave: the learner's newest finished run or measurement, else the recorded one once it was
    opened."""
    about = context.lesson.cell(cell.body["experiment"])
    what = cell.body["what"]
    own = _own(cell, about, context)
    if own is not None and what in own:
        return Measured(own[what], _words(about)[0])
    if context.kept(about).get("shown"):
        return Measured(_recorded(cell, about, context), _words(about)[1])
    return None


def _words(about: Cell) -> tuple[str, str]:
    """How the two sources are called."""
    return (OWN, RECORDED) if about.kind != "probe" else (OWN_PROBE, RECORDED_PROBE)


def _own(cell: Cell, about: Cell, context: Context) -> dict[str, float] | None:
    """The figures of the learner's own result."""
    if about.kind == "probe":
        result = probe.own_result(about, context)
        return None if result is None else calc.probe_quantities(result)
    run = context.newest_finished(stored_name(cell, about, context))
    return None if run is None else figures_of(run, context.owner)


def stored_name(cell: Cell, about: Cell, context: Context) -> str:
    """The name under which the store files the runs that a prediction is about."""
    name = context.run_name(about)
    return together.cell_of(name, cell.body["run"]) if about.kind == "compare" else name


def _recorded(cell: Cell, about: Cell, context: Context) -> float:
    folder, what = context.lesson.folder, cell.body["what"]
    if about.kind == "probe":
        return calc.probed(folder, about.id, what)
    return calc.recorded(folder, f"{about.id}/{cell.body['run']}" if about.kind == "compare" else about.id, what)


def figures_of(run: Run, owner: str) -> dict[str, float]:
    """The named figures (`app.calc.quantities`) of a run in the store."""
    kinds = ("started", "step", "evaluated", "finished")
    return calc.quantities([event for _, event in state.store().events(run.id, owner, kinds=kinds)])


def seen(cell: Cell, context: Context) -> bool:
    """Whether the learner has seen a result, so that a prediction made now is no longer one.

    A run of their own shows scores long before its end, and also when it never gets there.
    """
    if measured(cell, context) is not None:
        return True
    about = context.lesson.cell(cell.body["experiment"])
    if about.kind == "probe":
        return False
    name = stored_name(cell, about, context)
    return any(_scored(run, context.owner) for run in state.store().runs(context.owner, cell=name))


def waiting(names: Iterable[str], context: Context) -> list[Cell]:
    """Those of the lesson's predictions of these names whose answer the learner has not seen yet."""
    found = [context.lesson.cell(name) for name in names]
    return [g for g in found if context.kept(g).get("measured") is None and not seen(g, context)]


def _scored(run: Run, owner: str) -> bool:
    """Whether a run has been scored after at least one step."""
    return any(event["step"] > 0 for _, event in state.store().events(run.id, owner, kinds=("evaluated",)))


def render(cell: Cell, context: Context) -> None:
    """Draw the prediction in a fragment of its own."""
    _prediction(cell, context)


@st.fragment
def _prediction(cell: Cell, context: Context) -> None:
    body = cell.body
    kept = context.kept(cell)
    with frame(cell, context, body["title"]):
        context.say(body["question"], f"{cell.id}:question")
        if kept.get("value") is None:
            _commit(cell, context, kept.get("was"))
        else:
            _reveal(cell, context, kept)


def _commit(cell: Cell, context: Context, start: float | None) -> None:
    body = cell.body if start is None else {**cell.body, "start": start}
    value = scale(body, context.key(cell, "value"))
    late = seen(cell, context)
    if late:
        st.caption(t("predict.late"))
    if st.button(t("predict.commit"), key=context.key(cell, "commit"), icon=":material/lock:"):
        context.save(cell, {"value": value, "fair": not late})
        # The steps done at both ends of the page and the experiment's own run depend on this: draw everything again.
        st.rerun()


def scale(body: dict[str, Any], key: str) -> float:
    """The slider: linear in about a hundred steps, or over the 1-2-5 series of a logarithmic scale."""
    low, high, unit = float(body["low"]), float(body["high"]), body.get("unit", "")
    label = t("predict.label_in", unit=unit) if unit else t("predict.label")
    if body.get("scale") == "log":
        marks = log_marks(low, high)
        middle = min(marks, key=lambda m: abs(math.log(m / float(body.get("start", math.sqrt(low * high))))))
        return float(
            st.select_slider(label, marks, value=middle, format_func=lambda m: f"{m:g}", key=key, on_change="ignore")
        )
    step = 10.0 ** math.floor(math.log10((high - low) / 50))
    start = float(body.get("start", low + step * round((high - low) / 2 / step)))
    whole = step >= 1 and low.is_integer() and high.is_integer()
    if whole:
        return float(st.slider(label, int(low), int(high), int(start), int(step), key=key, on_change="ignore"))
    return float(st.slider(label, low, high, start, step, key=key, on_change="ignore"))


def log_marks(low: float, high: float) -> list[float]:
    """The numbers 1, 2, 5, 10, 20 … within [low, high], and its two ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inner = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return sorted({low, high, *(float(f"{m:.6g}") for m in inner if low < m < high)})


def _reveal(cell: Cell, context: Context, kept: dict[str, Any]) -> None:
    body = cell.body
    unit = body.get("unit", "")
    said = number(kept["value"], unit)
    newest = measured(cell, context)
    found = newest if kept.get("measured") is None else Measured(kept["measured"], kept["source"])
    if found is None:
        st.markdown(f":material/lock: {t('predict.committed', value=said)} {_next(cell, context)}")
        if st.button(t("predict.change"), key=context.key(cell, "change"), type="tertiary"):
            context.save(cell, {"was": kept["value"]})
            st.rerun()
        return
    if kept.get("measured") is None:
        kept = {
            **kept,
            "measured": found.value,
            "source": found.source,
            "log_ratio": answers.log_ratio(kept["value"], found.value, float(body["high"])),
        }
        context.save(cell, kept)
    verdict = closeness(body, kept["value"], found.value)
    words = t(f"predict.{verdict.replace(' ', '_')}")
    told = t(f"predict.told.{SOURCES[found.source]}", said=said, found=number(found.value, unit))
    st.markdown(unbroken(f"{told} {words}"))
    draw(*number_line(body, kept["value"], found.value, unit), most_wide=460)
    if newest is not None and newest.source in (OWN, OWN_PROBE) and newest.value != found.value:
        later = t(f"predict.newest.{SOURCES[newest.source]}", value=number(newest.value, unit))
        st.caption(unbroken(later))
    context.say(body["why"], f"{cell.id}:why")


def closeness(body: Mapping[str, Any], said: float, found: float) -> str:
    """The verdict on a prediction. On a logarithmic scale the mark that is nearest is as close as one can come."""
    if body.get("scale") == "log" and found > 0:
        marks = log_marks(float(body["low"]), float(body["high"]))
        if said == min(marks, key=lambda m: abs(math.log(m / found))):
            return "close"
    return answers.closeness(said, found, float(body["tolerance"]))


def _next(cell: Cell, context: Context) -> str:
    """What reveals the answer, with a link to it."""
    about = context.lesson.cell(cell.body["experiment"])
    return t(f"predict.next.{about.kind}", link=f"#{about.id}")


def number(value: float, unit: str) -> str:
    """A value of the scale with its unit, short: (97.0, "%") -> '97 %'."""
    shown = f"{value:.0f}" if abs(value) >= 10 or float(value).is_integer() else f"{value:.2g}"
    return f"{shown} {unit}".strip()


def number_line(body: dict[str, Any], said: float, found: float, unit: str) -> tuple[str, str]:
    """The scale as a line with both numbers on it: a hollow mark for what was said, a filled one for what was found.

    The shaded stretch is what counts as close. Returns the SVG and its alt text.
    """
    low, high = float(body["low"]), float(body["high"])
    log = body.get("scale") == "log"

    def at(value: float) -> float:
        value = min(max(value, low), high)
        share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return 20 + 340 * share

    tolerance = float(body["tolerance"])
    left, right = at(found - tolerance if not log else max(found - tolerance, low)), at(found + tolerance)
    x_said, x_found = at(said), at(found)
    alt = t(
        "predict.alt",
        low=number(low, unit),
        high=number(high, unit),
        said=number(said, unit),
        found=number(found, unit),
    )
    inner = f"""
<line x1="20" y1="38" x2="360" y2="38" stroke="currentColor" stroke-opacity="0.45" stroke-width="2"/>
<line x1="{left:.0f}" y1="38" x2="{right:.0f}" y2="38" stroke="currentColor" stroke-opacity="0.25" stroke-width="14"/>
<circle cx="{x_found:.0f}" cy="38" r="7"/>
<circle cx="{x_said:.0f}" cy="38" r="8" fill="none" stroke="currentColor" stroke-width="2.5"/>
<text x="{x_said:.0f}" y="18" text-anchor="{anchor(x_said)}">{t("predict.you_said")}</text>
<text x="{x_found:.0f}" y="66" text-anchor="{anchor(x_found)}">{t("predict.measured")}</text>"""
    return document(inner, 380, 74), alt


def anchor(x: float) -> str:
    """How a label at x is aligned so that it stays inside the picture."""
    return "start" if x < 50 else "end" if x > 330 else "middle"
