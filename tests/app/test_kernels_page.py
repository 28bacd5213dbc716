"""The kernel page: predictions of the roofline as they are, a record where there is one, and plain words where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app import charts_kernels
from core import kernel_records, roofline
from core.catalog import architecture_of, gpu
from tests.app.test_views import words as escaped


def words(page: Any) -> str:
    return escaped(page).replace("\\", "").replace("\u00a0", " ")


def page() -> None:
    from app.views import kernels

    kernels.render()


# Made up for this test: no card has been measured.
RECORD = {
    "device": "A card", "date": "2026-01-02", "versions": {"torch": "2.11.0", "triton": "3.6.0"},
    "ceilings": {"bytes_per_second": 1e12, "flops_per_second": 1e14},
    "rows": [
        {"kernel": "swiglu", "case": {"rows": 4, "columns": 8}, "flops": 1e9, "bytes": 1e9, "plain_bytes": 2e9,
         "passed": True, "seconds": {"kernel": {"median": 2e-3}, "reference": {"median": 4e-3}}},
        {"kernel": "rope", "case": {"rows": 4}, "passed": False, "broken": "it broke"},
    ],
}  # fmt: skip


def test_without_a_record_it_says_so_and_predicts(visit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_records, "FOLDER", tmp_path)
    shown = visit(page)
    assert not shown.exception
    text = words(shown)
    assert "timed on none" in shown.info[0].value
    limit = roofline.limit_of(gpu("H100 SXM"))
    assert limit is not None
    table = architecture_of("Llama-3.1-8B")
    step = roofline.total(roofline.operations(table, batch=4, length=1024, method="qlora"), limit)
    assert f"{step.launches:,} launches" in text
    assert charts_kernels.ms_text(step.device_seconds).replace("\u00a0", " ") in text
    assert "Time the kernels here" not in text, "there is no GPU here"


def test_a_record_is_shown_with_where_it_comes_from(
    visit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a_card.json").write_text(json.dumps(RECORD), encoding="utf-8")
    monkeypatch.setattr(kernel_records, "FOLDER", tmp_path)
    text = words(visit(page))
    assert "Measured on A card, 2026-01-02, with torch 2.11.0, triton 3.6.0" in text
    assert "never used there: rope" in text
    # 10⁹ FLOPs over 10⁹ bytes at 10¹² bytes a second: 1 ms at least, and 2 were taken.
    (kernel, reference) = kernel_records.points(RECORD)
    assert (kernel.share, kernel.intensity) == (0.5, 1.0)
    assert (reference.share, reference.intensity) == (0.5, 0.5)
    (gain,) = kernel_records.gains(RECORD)
    assert (gain.least_seconds, gain.seconds, gain.predicted_gain, gain.gain) == (1e-3, 2e-3, 2.0, 2.0)
    assert "2.00 ×" in str([frame.value.to_dict() for frame in visit(page).dataframe])
    assert "side by side" in text


def test_a_link_to_where_no_slider_stops_is_as_none(visit: Any) -> None:
    for nonsense in ({"length": "100"}, {"batch": "3"}, {"length": "-1"}, {"batch": "1e9"}):
        shown = visit(page, **nonsense)
        assert {s.value for s in shown.select_slider} == {4, 1024}


def test_the_figures_have_what_they_must() -> None:
    limit = roofline.limit_of(gpu("H100 SXM"))
    assert limit is not None
    table = architecture_of("Llama-3.2-1B")
    plain = roofline.operations(table, batch=1, length=512)
    fused = roofline.operations(table, batch=1, length=512, fused=True)
    seconds = roofline.total(plain, limit).device_seconds
    charts = (
        charts_kernels.roofline(plain, fused, limit, seconds),
        charts_kernels.saved(roofline.savings(plain, fused, limit)),
        charts_kernels.measured(kernel_records.points(RECORD), kernel_records.limit(RECORD), RECORD["date"]),
    )
    for chart in charts:
        assert chart.title
        assert chart.alt
        assert len(chart.table)
        assert chart.figure.layout.xaxis.title.text
    assert len(charts[0].table) == len(plain) + len(fused)


def test_the_newest_record_of_a_card_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_records, "FOLDER", tmp_path)
    assert kernel_records.records() == {}
    for name, date in (("b", "2026-02-01"), ("a", "2026-03-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps({**RECORD, "date": date}), encoding="utf-8")
    assert kernel_records.records()["A card"]["date"] == "2026-03-01"
