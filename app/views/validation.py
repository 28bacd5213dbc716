"""Validation: what others measured beside what is predicted, with all errors; and your own runs, term by term."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import calculator_panels, charts, charts_validation, compare, state
from app.charts_memory import SPACE
from app.charts_validation import percent
from app.choices import Choice, one_of
from app.story import plain
from core.memory.predicted import residuals, why_not
from core.units import bytes_text

if TYPE_CHECKING:
    from app.story import Story
    from core.runs.store import Run

PAGE = "validation"
MOST_RUNS = 200
SIGNS = {1: "+", 0: "", -1: "−"}
LACKING = re.compile(r"The method (.+) is not one of Deltalab's\.")
BY = {"source": "Source", "method": "Method", "metric": "Metric", "role": "Fitted or held out"}
GROUP = Choice(PAGE, "by", "source", one_of(list(BY)))
METRIC = Choice(PAGE, "metric", "all", one_of(["all", *charts_validation.METRICS]))


def render() -> None:
    """Draw the page."""
    st.title("Validation", anchor=False)
    st.markdown(
        "How wrong is the calculator? Every published memory figure that it covers, predicted beside measured; those "
        "that it does not cover, with the reason; and your own runs."
    )
    found = _record()
    if not found:
        st.info(
            "The comparison has not been run in this checkout: `make bench-memory` writes it.", icon=":material/info:"
        )
    else:
        _published(found)
        _waterfall(found)
        _reserved(found)
        _resident(found)
        _fitted(found)
        _uncovered(found)
    _own()


def _record() -> Mapping[str, Any]:
    from core.memory.validation import record

    return record()


# --- published --------------------------------------------------------------------------------------------------------


def _published(found: Mapping[str, Any]) -> None:
    GROUP.start()
    METRIC.start()
    st.header("Published figures", anchor="published")
    present = [m for m in charts_validation.METRICS if any(r["metric"] == m for r in found["rows"])]
    st.segmented_control(
        "What was measured", ["all", *present], format_func=str.capitalize, required=True, **METRIC.one(),
        help="Allocated, reserved and process memory of the same step differ by up to three GiB: like is compared with "
        "like.",
    )  # fmt: skip
    rows = [r for r in found["rows"] if METRIC.value in (None, "all", r["metric"])]
    if not rows:
        return
    compare.draw(charts_validation.against(rows), "validation-against")
    calculator_panels.shown(charts_validation.errors(rows), "validation-errors", charts_validation.rows_table(rows))
    st.segmented_control("How far off, by", list(BY), format_func=BY.__getitem__, required=True, **GROUP.one())
    by = str(GROUP.value or "source")
    st.dataframe(
        charts_validation.groups_table(found["summary"]["groups"], by, found.get("sources", {})),
        hide_index=True,
        alt=f"Errors by {by}.",
    )
    causes = [r for r in rows if r.get("cause")]
    if causes:
        st.markdown("**Rows with a named cause**")
        st.markdown(
            "\n".join(
                f"- {plain(r['model'])}, {plain(r['method'])} ({percent(r['error'])}): {plain(r['cause'])}"
                for r in causes
            )
        )
    st.caption(
        f"{found['summary']['covered']} of {found['summary']['rows']} rows are covered; {plain(found['date'])}, "
        f"by `{found.get('command', 'make bench-memory')}`."
    )


def _waterfall(found: Mapping[str, Any]) -> None:
    if found.get("waterfall"):
        st.header("One step after the other", anchor="waterfall")
        calculator_panels.shown(charts_validation.waterfall(found["waterfall"]), "validation-waterfall")


def _reserved(found: Mapping[str, Any]) -> None:
    told = found.get("reserved") or {}
    if not told:
        return
    st.header("Reserved and process totals", anchor="reserved")
    rows = [r for r in found["rows"] if r["metric"] == "reserved"]
    names = ", ".join(dict.fromkeys(str(r["source_title"]) for r in rows))
    st.markdown(f"{told['rows']} published figures are of reserved memory, from {plain(names)}. Off by:")
    ways = {"simulated": "The allocator's rules, replayed on a trace", "instant": "The usual factor, without a trace"}
    table = pd.DataFrame(
        [
            {"Predicted by": text, "On average": percent(told[name]["mean_abs"]),
             "Bias": f"{100 * told[name]['bias']:+.1f}{SPACE}%", "At worst": percent(told[name]["worst"])}
            for name, text in ways.items()
        ]
    )  # fmt: skip
    st.dataframe(table, hide_index=True, alt="Errors of reserved totals, predicted in two ways.")
    st.markdown(
        f"- **{told['within']} of {told['rows']}** lie within the range that the calculator gives without a trace. How "
        "long the longest batch was, is not printed; the limit is assumed, and a shorter one lies lower.\n"
        "- Of the **whole process** no covered row has a figure: that total rests on the context and workspaces that "
        "are documented, and is not validated here. `make gpu` measures all three on an attached card."
    )


def _resident(found: Mapping[str, Any]) -> None:
    resident = found.get("resident") or {}
    if not resident.get("rows"):
        return
    st.header("What stays between two steps", anchor="resident")
    st.markdown(
        f"In the PEFT project's benchmark, **{resident['within']} of {resident['rows']}** resident states are within "
        f"{bytes_text(resident['tolerance_bytes'])}."
    )
    table = pd.DataFrame(
        [
            {"Entry": e["id"], "Method": e["method"], "Published": bytes_text(e["measured_bytes"]),
             "Predicted": bytes_text(e["predicted_bytes"]),
             "Difference": f"{(e['predicted_bytes'] - e['measured_bytes']) / 2**20:+.0f} MiB"}
            for e in resident["entries"]
        ]
    )  # fmt: skip
    calculator_panels.numbers(pd.DataFrame(resident["entries"]), "validation-resident", table, "Resident states.")


def _fitted(found: Mapping[str, Any]) -> None:
    st.header("What was fitted", anchor="fitted")
    if not found.get("fitted"):
        st.markdown("Nothing: no constant of the calculator was fitted to any of these figures.")
        return
    for one in found["fitted"]:
        where = ", ".join(found.get("sources", {}).get(s, {}).get("title", s) for s in one["on"])
        st.markdown(
            f"- **{plain(one['name'])}**: {one['value']} {plain(one['unit'])}. {plain(one['what'])} ({plain(where)})"
        )
    st.caption("All else follows from the trace and from documented rules. Rows marked *held out* took no part in it.")


def _uncovered(found: Mapping[str, Any]) -> None:
    rows = found.get("uncovered") or []
    if not rows:
        return
    st.header("Not covered", anchor="uncovered")
    st.markdown("\n".join(f"- {n} {'row' if n == 1 else 'rows'}: {plain(text)}" for text, n in summed(rows)))
    table = pd.DataFrame(
        [
            {"Model": r["model"], "Method": r["method"], "Source": r["source_title"], "Metric": r["metric"],
             "Published": f"{r['published']:g} {r['unit']}", "Why not": r["reason"]}
            for r in rows
        ]
    )  # fmt: skip
    calculator_panels.numbers(pd.DataFrame(rows), "validation-uncovered", table, "Rows that are not covered.")


def summed(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """(reason, rows), the most frequent first; methods that are not had make one line together."""
    reasons: dict[str, int] = {}
    lacking: dict[str, int] = {}
    for r in rows:
        found = LACKING.fullmatch(r["reason"])
        place, name = (lacking, found[1]) if found else (reasons, r["reason"])
        place[name] = place.get(name, 0) + 1
    if lacking:
        reasons[f"Deltalab does not have the method: {', '.join(lacking)}."] = sum(lacking.values())
    return sorted(reasons.items(), key=lambda pair: -pair[1])


# --- the visitor's own ------------------------------------------------------------------------------------------------


def _own() -> None:
    st.header("Your own runs", anchor="own")
    told, reasons = [], []
    for run in state.store().runs(state.owner(), limit=MOST_RUNS):
        if run.status != "finished":
            continue
        story = compare.story(run, brief=True)
        end = story.end or {}
        both = end.get("predicted") or {}, end.get("ledger") or {}
        if rows := residuals(*both):
            told.append((run, story, rows))
        else:
            reasons.append({"reason": why_not(*both)})
    if not told:
        st.markdown(
            "Every run measures one of its steps, and stores beside it what was expected of that step. None of yours "
            "has both yet: train in the Playground, and look here again."
        )
    else:
        _compared(told)
    if reasons:
        st.markdown("**Runs without a comparison**")
        st.markdown("\n".join(f"- {n} {'run' if n == 1 else 'runs'}: {plain(text)}" for text, n in summed(reasons)))


def _compared(told: Sequence[tuple[Run, Story, list[dict[str, Any]]]]) -> None:
    """Runs that have both ledgers: totals, and one of them term by term."""
    labels = compare.named([run for run, _, _ in told])
    lines, data = [], []
    for run, story, rows in told:
        total = rows[-1]
        lines.append(
            {"Run": labels[run.id], "Computed in": (story.started or {}).get("dtype", ""),
             "Predicted": bytes_text(total["predicted"]), "Measured": bytes_text(total["measured"]),
             "Error": f"{100 * round(_share(total), 4) + 0:+.2f}{SPACE}%"}
        )  # fmt: skip
        data += [
            {"run": labels[run.id], "computed_in": (story.started or {}).get("dtype", ""), "term": r["name"],
             "predicted_bytes": r["predicted"], "measured_bytes": r["measured"], "residual_bytes": r["difference"]}
            for r in rows
        ]  # fmt: skip
    mean = sum(abs(_share(rows[-1])) for _, _, rows in told) / len(told)
    st.markdown(f"**{len(told)} {'run' if len(told) == 1 else 'runs'}: off by {percent(mean, 2)} on average**")
    st.dataframe(pd.DataFrame(lines), hide_index=True, alt="Your runs, predicted and measured.")
    chosen = st.selectbox(
        "Term by term", range(len(told)), format_func=lambda i: labels[told[i][0].id], key="validation-run"
    )
    rows = told[int(chosen or 0)][2]
    table = pd.DataFrame(
        [
            {"Term": r["name"], "Predicted": bytes_text(r["predicted"]), "Measured": bytes_text(r["measured"]),
             "Residual": f"{SIGNS[(r['difference'] > 0) - (r['difference'] < 0)]}{bytes_text(abs(r['difference']))}"}
            for r in rows
        ]
    )  # fmt: skip
    st.dataframe(table, hide_index=True, alt="The chosen run's memory, term by term.")
    st.caption(
        "Predicted from the model, the settings and the sizes of the batch alone. Measured in one step that is carried "
        "out operation by operation; on a CPU in float32 most steps take a faster form, which takes less memory. In "
        "bfloat16 the CPU's library takes scratch of its own for some products, which no trace can see: a few tenths "
        "of a per cent."
    )
    st.download_button(
        "All of them as CSV", charts.csv(pd.DataFrame(data)), "residuals.csv", "text/csv", key="validation-own-csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip


def _share(row: Mapping[str, Any]) -> float:
    """Predicted over measured, less one."""
    return row["predicted"] / row["measured"] - 1 if row["measured"] else 0.0
