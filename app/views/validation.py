"""Validation: what others measured beside what is predicted, with all errors; and your own runs, term by term."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app import calculator_panels, charts, charts_validation, compare, localized, state
from app.charts_lessons_a import term_title
from app.charts_memory import SPACE
from app.charts_validation import percent, signed
from app.choices import Choice, one_of
from app.story import plain
from app.words import n, t
from core.memory.predicted import residuals, why_not
from core.units import bytes_text

if TYPE_CHECKING:
    from app.story import Story
    from core.runs.store import Run

PAGE = "validation"
MOST_RUNS = 200
SIGNS = {1: "+", 0: "", -1: "−"}
LACKING = re.compile(r"The method (.+) is not one of Deltalab's\.")
BY = ("source", "method", "metric", "role")
GROUP = Choice(PAGE, "by", "source", one_of(list(BY)))
METRIC = Choice(PAGE, "metric", "all", one_of(["all", *charts_validation.METRICS]))


def render() -> None:
    """Draw the page."""
    st.title(t("page.validation.title"), anchor=False)
    st.markdown(t("validation.intro"))
    found = _record()
    if not found:
        st.info(t("validation.no_record"), icon=":material/info:")
    else:
        _published(found)
        _waterfall(found)
        _reserved(found)
        _process(found)
        _resident(found)
        _speed(found)
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
    st.header(t("validation.published"), anchor="published")
    present = [m for m in charts_validation.METRICS if any(r["metric"] == m for r in found["rows"])]
    st.segmented_control(
        t("validation.metric"), ["all", *present], format_func=lambda name: t(f"validation.metrics.{name}"),
        required=True, help=t("validation.metric_help"), **METRIC.one(),
    )  # fmt: skip
    rows = [r for r in found["rows"] if METRIC.value in (None, "all", r["metric"])]
    if not rows:
        return
    compare.draw(charts_validation.against(rows), "validation-against")
    calculator_panels.shown(charts_validation.errors(rows), "validation-errors", charts_validation.rows_table(rows))
    st.segmented_control(
        t("validation.by"), list(BY), format_func=lambda name: t(f"validation.groups.{name}"), required=True,
        **GROUP.one(),
    )  # fmt: skip
    by = str(GROUP.value or "source")
    localized.grid(
        charts_validation.groups_table(found["summary"]["groups"], by, found.get("sources", {})),
        hide_index=True,
        alt=t(f"validation.errors_by.{by}"),
    )
    causes = [r for r in rows if r.get("cause")]
    if causes:
        st.markdown(f"**{t('validation.causes')}**")
        st.markdown(
            "\n".join(
                f"- {plain(r['model'])}, {plain(r['method'])} ({signed(r['error'])}): {plain(r['cause'])}"
                for r in causes
            )
        )
    st.caption(
        t(
            "validation.covered", covered=found["summary"]["covered"], rows=found["summary"]["rows"],
            date=plain(found["date"]), command=f"`{found.get('command', 'make bench-memory')}`",
        )
    )  # fmt: skip


def _waterfall(found: Mapping[str, Any]) -> None:
    if found.get("waterfall"):
        st.header(t("validation.waterfall"), anchor="waterfall")
        calculator_panels.shown(charts_validation.waterfall(found["waterfall"]), "validation-waterfall")


def _reserved(found: Mapping[str, Any]) -> None:
    told = found.get("reserved") or {}
    if not told:
        return
    st.header(t("validation.reserved"), anchor="reserved")
    names = dict.fromkeys(str(r["source_title"]) for r in found["rows"] if r["metric"] == "reserved")
    st.markdown(t("validation.reserved_rows", rows=told["rows"], source=plain(", ".join(names))))
    table = pd.DataFrame(
        [
            {t("validation.predicted_by"): t(f"validation.ways.{name}"),
             t("validation.average"): percent(told[name]["mean_abs"]),
             t("validation.bias"): signed(told[name]["bias"]),
             t("validation.at_worst"): percent(told[name]["worst"])}
            for name in ("simulated", "instant")
        ]
    )  # fmt: skip
    localized.grid(table, hide_index=True, alt=t("validation.reserved_alt"))
    st.markdown(t("validation.reserved_how", within=told["within"], rows=told["rows"]))


def _process(found: Mapping[str, Any]) -> None:
    """What nobody published: said where the other two totals are scored."""
    from core.memory.card import CONTEXT_BYTES, HOPPER, workspace_bytes
    from core.memory.setup import Device

    low, likely, high = map(bytes_text, CONTEXT_BYTES)
    st.header(t("validation.process_head"), anchor="process")
    st.markdown(
        t(
            "validation.process_how", rows=found["summary"]["rows"], low=low, likely=likely, high=high,
            workspace=bytes_text(workspace_bytes(Device((8, 0)))), hopper=bytes_text(workspace_bytes(Device(HOPPER))),
        )
    )  # fmt: skip


def _resident(found: Mapping[str, Any]) -> None:
    resident = found.get("resident") or {}
    if not resident.get("rows"):
        return
    st.header(t("validation.resident"), anchor="resident")
    st.markdown(
        t(
            "validation.resident_within", within=resident["within"], rows=resident["rows"],
            others_within=resident["others_within"], others=resident["others"],
            bytes=bytes_text(resident["tolerance_bytes"]),
        )
    )  # fmt: skip
    named = [(e["name"], e["cause"]) for e in resident["entries"] if e.get("cause")]
    named += [(e["method"], e["reason"]) for e in resident.get("unexpressed", ())]
    if named:
        st.markdown(t("validation.resident_not"))
        st.markdown("\n".join(f"- {plain(name)}: {plain(why)}" for name, why in named))
    table = pd.DataFrame(
        [
            {t("validation.entry"): e["id"], t("validation.groups.method"): e["method"],
             t("validation.trained_as"): t(f"validation.trained_how.{e['how']}"),
             t("validation.published_bytes"): bytes_text(e["measured_bytes"]),
             t("validation.predicted"): bytes_text(e["predicted_bytes"]),
             t("validation.difference"): f"{(e['predicted_bytes'] - e['measured_bytes']) / 2**20:+.0f} MiB"}
            for e in resident["entries"]
        ]
    )  # fmt: skip
    calculator_panels.numbers(
        pd.DataFrame(resident["entries"]), "validation-resident", table, t("validation.resident_alt")
    )


def _speed(found: Mapping[str, Any]) -> None:
    told = found.get("speed") or {}
    if not told:
        return
    from core.memory.speed import BAND

    titles = {r["source"]: r["source_title"] for r in told["rows"]}
    roles = {r["source"]: r["role"] for r in told["rows"]}
    st.header(t("validation.speed"), anchor="speed")
    st.markdown(t("validation.speed_how", fitted=plain(titles[told["fitted_on"]])))
    table = pd.DataFrame(
        [
            {t("validation.speed_source_column"): titles[name], t("validation.card"): ", ".join(group["cards"]),
             t("validation.groups.role"): charts_validation.role_title(roles[name]),
             t("validation.speed_rows"): group["rows"],
             t("validation.average"): percent(group["mean_abs"]),
             t("validation.bias"): f"{100 * group['bias']:+.1f}{SPACE}%",
             t("validation.at_worst"): percent(abs(group["worst"]))}
            for name, group in told["groups"].items()
        ]
    )  # fmt: skip
    localized.grid(table, hide_index=True, alt=t("validation.speed_alt"))
    low, high = told["band"]
    st.markdown(
        t("validation.speed_band", low=f"{low:.2f}", high=f"{high:.2f}", least=f"{BAND[0]:g}", most=f"{BAND[1]:g}")
    )
    rows = pd.DataFrame(
        [
            {t("validation.entry"): r["id"], t("model.model"): r["model"], t("validation.groups.method"): r["detail"],
             t("validation.card"): r["card"], t("validation.tokens_published"): f"{r['measured']:,.0f}",
             t("validation.tokens_predicted"): f"{r['predicted']:,.0f}",
             t("validation.error"): f"{100 * r['error']:+.0f}{SPACE}%",
             t("validation.groups.role"): charts_validation.role_title(r["role"])}
            for r in told["rows"]
        ]
    )  # fmt: skip
    calculator_panels.numbers(pd.DataFrame(told["rows"]), "validation-speed", rows, t("validation.speed_rows_alt"))
    st.markdown(f"**{t('validation.speed_left_out')}**")
    st.markdown(
        "\n".join(f"- {n('validation.rows', count)}: {plain(text)}" for text, count in summed(told["uncovered"]))
    )


def _fitted(found: Mapping[str, Any]) -> None:
    st.header(t("validation.fitted"), anchor="fitted")
    if not found.get("fitted"):
        st.markdown(t("validation.nothing_fitted"))
        return
    for one in found["fitted"]:
        where = ", ".join(found.get("sources", {}).get(s, {}).get("title", s) for s in one["on"])
        st.markdown(
            f"- **{plain(one['name'])}**: {one['value']} {plain(one['unit'])}. {plain(one['what'])} {plain(where)}."
        )
    st.caption(t("validation.fitted_why"))


def _uncovered(found: Mapping[str, Any]) -> None:
    rows = found.get("uncovered") or []
    if not rows:
        return
    st.header(t("validation.uncovered"), anchor="uncovered")
    st.markdown("\n".join(f"- {n('validation.rows', count)}: {plain(text)}" for text, count in summed(rows)))
    table = pd.DataFrame(
        [
            {t("model.model"): r["model"], t("validation.groups.method"): r["method"],
             t("validation.groups.source"): r["source_title"], t("validation.groups.metric"): r["metric"],
             t("validation.published_bytes"): f"{r['published']:g} {r['unit']}", t("validation.why_not"): r["reason"]}
            for r in rows
        ]
    )  # fmt: skip
    calculator_panels.numbers(pd.DataFrame(rows), "validation-uncovered", table, t("validation.uncovered_alt"))


def summed(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """(reason, rows), the most frequent first; methods that are not had make one line together."""
    reasons: dict[str, int] = {}
    lacking: dict[str, int] = {}
    for r in rows:
        found = LACKING.fullmatch(r["reason"])
        place, name = (lacking, found[1]) if found else (reasons, r["reason"])
        place[name] = place.get(name, 0) + 1
    if lacking:
        reasons[t("validation.lacking", methods=", ".join(lacking))] = sum(lacking.values())
    return sorted(reasons.items(), key=lambda pair: -pair[1])


# --- the visitor's own ------------------------------------------------------------------------------------------------


def _own() -> None:
    st.header(t("validation.own"), anchor="own")
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
        st.markdown(t("validation.no_own"))
    else:
        _compared(told)
    if reasons:
        st.markdown(f"**{t('validation.no_comparison')}**")
        st.markdown("\n".join(f"- {n('validation.runs', count)}: {plain(text)}" for text, count in summed(reasons)))


def _compared(told: Sequence[tuple[Run, Story, list[dict[str, Any]]]]) -> None:
    """Runs that have both ledgers: totals, and one of them term by term."""
    labels = compare.named([run for run, _, _ in told])
    lines, data = [], []
    for run, story, rows in told:
        total = rows[-1]
        lines.append(
            {t("validation.run"): labels[run.id], t("validation.format"): (story.started or {}).get("dtype", ""),
             t("validation.predicted"): bytes_text(total["predicted"]),
             t("validation.measured"): bytes_text(total["measured"]),
             t("validation.error"): f"{100 * round(_share(total), 4) + 0:+.2f}{SPACE}%".replace("-", "−")}
        )  # fmt: skip
        data += [
            {"run": labels[run.id], "computed_in": (story.started or {}).get("dtype", ""), "term": r["name"],
             "predicted_bytes": r["predicted"], "measured_bytes": r["measured"], "residual_bytes": r["difference"]}
            for r in rows
        ]  # fmt: skip
    mean = sum(abs(_share(rows[-1])) for _, _, rows in told) / len(told)
    st.markdown(f"**{n('validation.own_off', len(told), error=percent(mean, 2))}**")
    localized.grid(pd.DataFrame(lines), hide_index=True, alt=t("validation.own_alt"))
    chosen = st.selectbox(
        t("validation.by_term"), range(len(told)), format_func=lambda i: labels[told[i][0].id], key="validation-run"
    )
    rows = told[int(chosen or 0)][2]
    table = pd.DataFrame(
        [
            {t("plan.term"): term_title(r), t("validation.predicted"): bytes_text(r["predicted"]),
             t("validation.measured"): bytes_text(r["measured"]),
             t("validation.residual"): _signed(r["difference"])}
            for r in rows
        ]
    )  # fmt: skip
    localized.grid(table, hide_index=True, alt=t("validation.by_term_alt"))
    st.caption(t("validation.own_how"))
    st.download_button(
        t("validation.own_csv"), charts.csv(pd.DataFrame(data)), "residuals.csv", "text/csv", key="validation-own-csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip


def _signed(count: float) -> str:
    return SIGNS[(count > 0) - (count < 0)] + bytes_text(abs(count))


def _share(row: Mapping[str, Any]) -> float:
    """Predicted over measured, less one."""
    return row["predicted"] / row["measured"] - 1 if row["measured"] else 0.0
