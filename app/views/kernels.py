"""Kernels: what a training step waits for, what fusing its operations saves, and what was measured where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app import calculator_panels, charts_kernels, probing, state
from app.choices import Choice, one_of, whole
from app.story import plain
from core import kernel_records, roofline
from core.catalog import architecture_of, gpu, gpus, models
from core.errors import Incompatible
from core.methods import METHODS

PAGE = "kernels"
CARDS = [g.name for g in gpus() if roofline.limit_of(g) is not None]
LENGTHS = [64, 128, 256, 512, 1024, 2048, 4096]
BATCHES = [1, 2, 4, 8, 16]
MODEL = Choice(PAGE, "model", "Llama-3.1-8B", one_of([m.name for m in models()]))
CARD = Choice(PAGE, "card", "H100 SXM", one_of(CARDS))
METHOD = Choice(PAGE, "method", "qlora", one_of(list(roofline.METHODS)))
BATCH = Choice(PAGE, "batch", 4, whole(1, 64))
LENGTH = Choice(PAGE, "length", 1024, whole(8, 32_768))


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
    st.title("Kernels", anchor=False)
    st.markdown(
        "A step is a list of operations. Each needs arithmetic and moves bytes, and the slower of the two decides how "
        "long it takes at least. Fusing operations keeps what is between them on the chip: the same arithmetic, fewer "
        "bytes."
    )
    _predicted()
    _measured()
    _live()
    _sources()


def _choose() -> None:
    left, right = st.columns(2)
    with left:
        st.selectbox("Model", **MODEL.among(state_covered()))
        st.segmented_control(
            "Method", list(roofline.METHODS), format_func=lambda m: METHODS[m].TITLE, required=True, **METHOD.one()
        )
    with right:
        st.selectbox("Card", **CARD.among(CARDS))
        st.select_slider("Rows", BATCHES, **BATCH.shown())
        st.select_slider("Tokens in a row", LENGTHS, **LENGTH.shown())


@st.cache_data(show_spinner=False)
def state_covered() -> list[str]:
    """`_covered`, once per server."""
    return _covered()


def _predicted() -> None:
    st.header("What a step waits for", anchor="roofline")
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
        f"One by one, the card needs **{charts_kernels.ms_text(before.device_seconds)}** at least, and issuing its "
        f"{before.launches:,} launches takes the processor about {charts_kernels.ms_text(before.host_seconds)}: "
        + (
            "the card waits for its launches. Captured as one graph, the step is one launch."
            if waits
            else "the launches are hidden behind the arithmetic."
        )
        + f" Fused, it is **{charts_kernels.ms_text(after.device_seconds)}** and {after.launches:,} launches."
    )
    st.caption(
        "Predicted, by a closed form: every tensor is read or written once for each operation, at the card's printed "
        "rates. No step is faster than this; real ones are slower."
    )
    st.header("What each fusion saves", anchor="saved")
    calculator_panels.shown(
        charts_kernels.saved(roofline.savings(one_by_one, fused, limit)), "kernels-saved",
        _savings_table(roofline.savings(one_by_one, fused, limit)),
    )  # fmt: skip


def _operations_table(one_by_one: Any, fused: Any, limit: roofline.Limit) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Operation": a.name, "FLOPs per byte": f"{a.intensity:.3g}", "Waits for": a.bound(limit),
                "At least": charts_kernels.ms_text(a.seconds(limit)),
                "Fused": charts_kernels.ms_text(b.seconds(limit)) if b.kernel else "–",
                "Launches": f"{a.launches:,}", "Launches, fused": f"{b.launches:,}",
            }
            for a, b in zip(one_by_one, fused, strict=True)
        ]
    )  # fmt: skip


def _savings_table(rows: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Operation": s.name, "Kernel": f"kernels/{s.kernel}.py", "Saved": f"{s.bytes / 1e9:.2f} GB",
                "Time": charts_kernels.ms_text(s.seconds), "Launches": f"{s.launches:,}",
            }
            for s in rows
        ]
    )  # fmt: skip


# --- measured ---------------------------------------------------------------------------------------------------------


def _measured() -> None:
    st.header("What was measured", anchor="measured")
    found = kernel_records.records()
    if not found:
        st.info(
            "No record of a GPU comes with this version: the kernels are tested without one, and were timed on none. "
            "`make gpu` on a machine with a GPU measures them and writes the record that this page shows.",
            icon=":material/info:",
        )
        return
    device = st.selectbox("Recorded on", list(found), key="kernels-device") if len(found) > 1 else next(iter(found))
    _record(found[str(device)], "kernels-record")


def _record(record: Mapping[str, Any], key: str) -> None:
    points = kernel_records.points(record)
    if points:
        chart = charts_kernels.measured(points, kernel_records.limit(record), record["date"])
        calculator_panels.shown(chart, key)
    broken = [r for r in record["rows"] if not r["passed"]]
    if broken:
        st.warning(
            "Wrong or broken on this card, and therefore never used there: "
            + ", ".join(sorted({plain(r["kernel"]) for r in broken}))
            + ".",
            icon=":material/warning:",
        )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    st.caption(f"Measured on {plain(record['device'])}, {plain(record['date'])}, with {plain(versions)}.")


def _live() -> None:
    if state.hardware().kind != "cuda":
        return
    st.header("On this machine", anchor="live")
    probing.section(
        "kernels", [], {}, key="kernels", show=lambda result: _record(result, "kernels-live"),
        label="Time the kernels here", takes="a minute or two",
    )  # fmt: skip


def _sources() -> None:
    from kernels import KERNELS

    st.header("The files", anchor="files")
    st.markdown(
        "Each kernel is one file with its formula, its cost in bytes and FLOPs, a reference in plain PyTorch, and the "
        "kernel: "
        + ", ".join(f"`kernels/{name}.py`" for name in KERNELS)
        + ". A kernel is used in training only where "
        "a record says that it passed its tests on that kind of card, and from the size on at which it was faster."
    )
