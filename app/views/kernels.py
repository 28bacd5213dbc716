"""Kernels: what a training step waits for, what fusing its operations saves, and what was measured where: of single
kernels, and of whole steps beside Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app import calculator_panels, charts_kernels, charts_steps, localized, probing, state
from app.charts_race import title_of
from app.charts_validation import percent
from app.choices import Choice, one_of, stop
from app.story import plain
from app.words import from_core, t
from core import kernel_records, roofline, step_records
from core.catalog import architecture_of, gpu, gpus, models
from core.errors import Incompatible
from core.methods import METHODS
from core.units import bytes_text

PAGE = "kernels"
CARDS = [g.name for g in gpus() if roofline.limit_of(g) is not None]
LENGTHS = [64, 128, 256, 512, 1024, 2048, 4096]
BATCHES = [1, 2, 4, 8, 16]
MODEL = Choice(PAGE, "model", "Llama-3.1-8B", one_of([m.name for m in models()]))
CARD = Choice(PAGE, "card", "H100 SXM", one_of(CARDS))
METHOD = Choice(PAGE, "method", "qlora", one_of(list(roofline.METHODS)))
BATCH = Choice(PAGE, "batch", 4, stop(BATCHES))
LENGTH = Choice(PAGE, "length", 1024, stop(LENGTHS))


def _covered() -> list[str]:
    """Models of the catalogue whose operations the roofline knows."""
    found = []
    for row in models():
        if row.is_decoder:
            try:
                roofline.operations(architecture_of(row.name), batch=1, length=8)
            except Incompatible:
                continue
            found.append(row.name)
    return found


def render() -> None:
    """Draw the page."""
    for choice in (MODEL, CARD, METHOD, BATCH, LENGTH):
        choice.start()
    st.title(t("page.kernels.title"), anchor=False)
    st.markdown(t("kernels.intro"))
    _predicted()
    _measured()
    _live()
    _steps()
    _sources()


def _choose() -> None:
    left, right = st.columns(2)
    with left:
        st.selectbox(t("model.model"), **MODEL.among(state_covered()))
        st.segmented_control(
            t("plan.method"),
            list(roofline.METHODS),
            format_func=lambda m: METHODS[m].TITLE,
            required=True,
            **METHOD.one(),
        )
    with right:
        st.selectbox(t("vram.card"), **CARD.among(CARDS))
        st.select_slider(t("kernels.rows"), BATCHES, **BATCH.shown())
        st.select_slider(t("kernels.length"), LENGTHS, **LENGTH.shown())


@st.cache_data(show_spinner=False)
def state_covered() -> list[str]:
    """`_covered`, once per server."""
    return _covered()


def _predicted() -> None:
    st.header(t("kernels.waits"), anchor="roofline")
    _choose()
    limit = roofline.limit_of(gpu(CARD.value))
    assert limit is not None
    step = {"batch": BATCH.value, "length": LENGTH.value, "method": METHOD.value}
    table = architecture_of(MODEL.value)
    one_by_one = roofline.operations(table, **step)
    fused = roofline.operations(table, **step, fused=True)
    before, after = roofline.total(one_by_one, limit), roofline.total(fused, limit)
    calculator_panels.shown(
        charts_kernels.roofline(one_by_one, fused, limit, before.device_seconds), "kernels-roofline",
        _operations_table(one_by_one, fused, limit),
    )  # fmt: skip
    waits = max(before.host_seconds, before.device_seconds) == before.host_seconds
    st.markdown(
        t(
            "kernels.told_waits" if waits else "kernels.told_hidden",
            card=charts_kernels.ms_text(before.device_seconds), launches=f"{before.launches:,}",
            host=charts_kernels.ms_text(before.host_seconds), fused=charts_kernels.ms_text(after.device_seconds),
            fused_launches=f"{after.launches:,}",
        )
    )  # fmt: skip
    st.caption(t("kernels.predicted"))
    st.header(t("kernels.saves"), anchor="saved")
    calculator_panels.shown(
        charts_kernels.saved(roofline.savings(one_by_one, fused, limit)), "kernels-saved",
        _savings_table(roofline.savings(one_by_one, fused, limit)),
    )  # fmt: skip


def _operations_table(one_by_one: Any, fused: Any, limit: roofline.Limit) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                t("kernels.operation"): from_core(a.name), t("kernels.intensity"): charts_kernels.three(a.intensity),
                t("kernels.bound"): t(f"kernels.bounds.{a.bound(limit)}"),
                t("kernels.least"): charts_kernels.ms_text(a.seconds(limit)),
                t("kernels.fused"): charts_kernels.ms_text(b.seconds(limit)) if b.kernel else "–",
                t("kernels.launches"): f"{a.launches:,}", t("kernels.launches_fused"): f"{b.launches:,}",
            }
            for a, b in zip(one_by_one, fused, strict=True)
        ]
    )  # fmt: skip


def _savings_table(rows: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                t("kernels.operation"): from_core(s.name), t("kernels.kernel"): f"kernels/{s.kernel}.py",
                t("kernels.saved"): bytes_text(round(s.bytes)), t("kernels.time"): charts_kernels.ms_text(s.seconds),
                t("kernels.launches"): f"{s.launches:,}",
            }
            for s in rows
        ]
    )  # fmt: skip


# --- measured ---------------------------------------------------------------------------------------------------------


def _measured() -> None:
    st.header(t("kernels.measured"), anchor="measured")
    found = kernel_records.cards()
    _damaged(found)
    if not found.records:
        st.info(t("kernels.no_record"), icon=":material/info:")
        return
    _record(_of_a_card(found, "kernels-device"), "kernels-record")


def _of_a_card(found: kernel_records.Found, key: str) -> Mapping[str, Any]:
    """The record of the card that is chosen, where there are several."""
    devices = list(found.records)
    device = st.selectbox(t("kernels.recorded_on"), devices, key=key) if len(devices) > 1 else devices[0]
    return found.records[str(device)]


def _damaged(found: kernel_records.Found) -> None:
    if found.damaged:
        names = ", ".join(plain(name) for name in found.damaged)
        st.warning(t("kernels.damaged", files=names), icon=":material/warning:")


def _record(record: Mapping[str, Any], key: str) -> None:
    points = kernel_records.points(record)
    if points:
        chart = charts_kernels.measured(points, kernel_records.limit(record), record["date"])
        calculator_panels.shown(chart, key)
        st.markdown(t("kernels.beside"))
        localized.grid(_beside_table(record), hide_index=True, alt=t("kernels.beside_alt"))
    broken = [r for r in record["rows"] if not r["passed"]]
    if broken:
        names = ", ".join(sorted({plain(r["kernel"]) for r in broken}))
        st.warning(t("kernels.broken", kernels=names), icon=":material/warning:")
    _provenance(record)


def _provenance(record: Mapping[str, Any]) -> None:
    st.caption(
        t(
            "kernels.measured_on", device=plain(record["device"]), date=plain(str(record["date"])),
            versions=_versions(record["versions"]),
        )
    )  # fmt: skip


def _versions(versions: Mapping[str, str]) -> str:
    return plain(", ".join(f"{name} {version}" for name, version in versions.items()))


def _beside_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Of every kernel and size: the least time that its work allows, the time that it took, and how many times as long
    the plain form should take and took."""
    return pd.DataFrame(
        [
            {
                t("kernels.kernel"): plain(one.label), t("kernels.least"): charts_kernels.ms_text(one.least_seconds),
                t("kernels.took"): charts_kernels.ms_text(one.seconds),
                t("kernels.gain_predicted"): f"{one.predicted_gain:.2f} ×",
                t("kernels.gain_measured"): f"{one.gain:.2f} ×",
            }
            for one in kernel_records.gains(record)
        ]
    )  # fmt: skip


# --- whole steps ------------------------------------------------------------------------------------------------------


def _steps() -> None:
    st.header(t("kernels.steps"), anchor="steps")
    st.markdown(t("kernels.steps_why"))
    st.subheader(t("kernels.on_cards"), anchor=False)
    found = step_records.cards()
    _damaged(found)
    if found.records:
        _card_steps(_of_a_card(found, "kernels-steps-device"))
    else:
        st.info(t("kernels.no_steps"), icon=":material/info:")
    _processor()


def _card_steps(record: Mapping[str, Any]) -> None:
    steps = step_records.steps(record)
    if any(s.gain is not None for s in steps):
        calculator_panels.shown(charts_steps.cards(steps, str(record["date"])), "kernels-steps")
    if steps:
        localized.grid(_steps_table(steps), hide_index=True, alt=t("kernels.steps_alt"))
    missing = [
        f"- {plain(s.shape)}, {title_of(s.method)}, {t(f'kernels.ways.{way}')}: {plain(from_core(why))}"
        for s in steps for way, why in s.missing.items()
    ]  # fmt: skip
    if missing:
        with st.expander(t("kernels.without_time", count=len(missing))):
            st.markdown("\n".join(missing))
    _provenance(record)


def _steps_table(steps: list[step_records.Step]) -> pd.DataFrame:
    def ms(seconds: float | None) -> str:
        return "–" if seconds is None else charts_kernels.ms_text(seconds)

    return pd.DataFrame(
        [
            {
                t("model.model"): plain(s.shape), t("plan.method"): title_of(s.method),
                **{t(f"kernels.ways.{way}"): ms(s.seconds.get(way)) for way in step_records.WAYS},
                t("kernels.ways.stock"): ms(s.stock_seconds),
                t("kernels.faster"): "–" if s.gain is None else charts_steps.times(s.gain),
                t("kernels.of_roofline"): "–" if s.share is None else percent(s.share, 0),
                t("kernels.memory"): _both(s.peak_bytes, s.stock_peak_bytes),
            }
            for s in steps
        ]
    )  # fmt: skip


def _both(mine: int | None, other: int | None) -> str:
    """'1.2 GiB / 1.4 GiB'"""
    return " / ".join("–" if size is None else bytes_text(size) for size in (mine, other))


def _processor() -> None:
    st.subheader(t("kernels.on_processor"), anchor=False)
    record = step_records.processor()
    rows = step_records.beside(record) if record else []
    if not rows:
        st.info(t("kernels.no_bench"), icon=":material/info:")
        return
    calculator_panels.shown(charts_steps.processor(rows), "kernels-bench", _processor_table(rows))
    where = step_records.measured_on(record)
    dates = where["first"] if where["first"] == where["last"] else f"{where['first']} – {where['last']}"
    st.caption(
        t(
            "kernels.bench_on", device=plain(where["device"]), threads=where["threads"], dates=dates,
            versions=_versions(where["versions"]),
        )
    )  # fmt: skip


def _processor_table(rows: list[step_records.Beside]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                t("plan.method"): title_of(r.method),
                t("kernels.compared"): t(f"charts.steps.comparisons.{r.comparison}"),
                t("kernels.faster"): f"{charts_steps.times(r.gain)} ({r.low:.2f}–{r.high:.2f})",
                t("kernels.memory"): _both(r.peak_bytes, r.stock_peak_bytes),
            }
            for r in rows
        ]
    )  # fmt: skip


def _live() -> None:
    if state.hardware().kind != "cuda":
        return
    st.header(t("kernels.here"), anchor="live")
    probing.section(
        "kernels", [], {}, key="kernels", show=lambda result: _record(result, "kernels-live"),
        label=t("kernels.start"), takes=t("kernels.takes"),
    )  # fmt: skip


def _sources() -> None:
    from kernels import KERNELS

    st.header(t("kernels.files"), anchor="files")
    st.markdown(t("kernels.files_why", files=", ".join(f"`kernels/{name}.py`" for name in KERNELS)))
