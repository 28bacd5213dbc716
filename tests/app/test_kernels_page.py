"""The kernel page: predictions of the roofline as they are, a record where there is one, and plain words where not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from app import charts_kernels, charts_steps
from core import kernel_records, roofline, step_records
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


CASE = {"shape": "Llama-3.2-1B", "method": "qlora"}
# Made up for this test, too: no step has been timed on a card.
STEPS = {
    "what": "made up by a test", "device": "A card", "date": "2026-01-02", "versions": {"torch": "2.11.0"},
    "steps": [
        {**CASE, "way": "graphed", "seconds": [0.1], "median_seconds": 0.1, "times_stock": 1.75, "least_seconds": 0.062,
         "roofline_share": 0.62, "peak_bytes": 3 * 2**30},
        {**CASE, "way": "stock", "seconds": [0.175], "median_seconds": 0.175, "times_stock": 1.0,
         "least_seconds": 0.062, "roofline_share": 0.35, "peak_bytes": 4 * 2**30},
        {**CASE, "way": "eager", "failed": "Its process ended."},
        {"shape": "tiny", "method": "lora", "way": "graphed", "left_out": "There was no time left for it."},
    ],
    "runs": [],
}  # fmt: skip


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for records of steps, with what the test makes up."""
    monkeypatch.setattr(step_records, "FOLDER", tmp_path)
    (tmp_path / "gpu_a_card.json").write_text(json.dumps(STEPS), encoding="utf-8")
    (tmp_path / "gpu_memory_a_card.json").write_text("{}", encoding="utf-8")  # another record, not of steps
    return tmp_path


def tables(shown: Any) -> str:
    return str([frame.value.to_dict() for frame in shown.dataframe]).replace("\u00a0", " ").replace("\\xa0", " ")


def test_steps_of_a_card_stand_beside_trainer(visit: Any, made_up: Path) -> None:
    shown = visit(page)
    assert not shown.exception
    numbers, text = tables(shown), words(shown)
    for said in ("1.75 ×", "62 %", "100 ms", "175 ms", "3.0 GiB / 4.0 GiB", "Llama-3.2-1B", "QLoRA"):
        assert said in numbers, said
    assert "Not timed: 2" in str(shown.expander)
    assert "Its process ended." in text
    assert "There was no time left for it." in text
    assert "Measured on A card, 2026-01-02, with torch 2.11.0" in text
    assert any("no record of `make bench`" in one.value for one in shown.info), "the folder has none"
    (qlora, tiny) = step_records.steps(STEPS)
    assert qlora.gain == pytest.approx(1.75)
    assert (qlora.share, qlora.seconds) == (0.62, {"graphed": 0.1})
    assert (tiny.gain, tiny.seconds) == (None, {})


def test_without_a_record_of_steps_the_page_says_so_and_shows_the_processors(visit: Any) -> None:
    """(The repository's own records: none of a card, one of a processor.)"""
    assert not list(step_records.FOLDER.glob("gpu_*")), "a card was measured: this test is out of date"
    shown = visit(page)
    assert not shown.exception
    assert any("none was timed" in one.value for one in shown.info)
    record = step_records.processor()
    lora = next(r for r in step_records.beside(record) if (r.method, r.comparison) == ("lora", "identical"))
    assert f"{lora.gain:.2f} × ({lora.low:.2f}–{lora.high:.2f})" in tables(shown)
    assert step_records.measured_on(record)["device"] in words(shown)


@pytest.mark.parametrize("damage", ["", "[]", '{"device": "A card"}', json.dumps({**STEPS, "steps": [{}]})])
def test_a_damaged_record_is_told_and_breaks_nothing(
    damage: str, visit: Any, made_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gpu_b.json", "bench_cpu.json", "kernels.json"):
        (made_up / name).write_text(damage, encoding="utf-8")
    monkeypatch.setattr(kernel_records, "FOLDER", made_up)
    shown = visit(page)
    assert not shown.exception
    assert any("kernels.json" in one.value for one in shown.warning)
    assert any("gpu\\_b.json" in one.value or "gpu_b.json" in one.value for one in shown.warning)
    assert "1.75 ×" in tables(shown), "the other record is shown"


def test_a_damaged_file_of_thresholds_switches_the_kernels_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from kernels import base

    caplog.set_level(logging.WARNING, base.__name__)  # whatever a benchmark has silenced before
    base.measured.cache_clear()
    monkeypatch.setattr(base, "MEASURED", tmp_path / "measured.json")
    base.MEASURED.write_text('{"9.0": ', encoding="utf-8")
    assert base.measured() == {}
    assert "damaged" in caplog.text
    base.measured.cache_clear()


def test_large_numbers_are_written_out(visit: Any) -> None:
    assert charts_kernels.ms_text(12.3456).replace("\u00a0", " ") == "12,346 ms"
    assert charts_kernels.ms_text(0.0123).replace("\u00a0", " ") == "12.3 ms"
    shown = visit(page, model="Llama-3.1-70B", batch="16", length="4096")
    assert not shown.exception
    assert "e+0" not in tables(shown)
    assert "e+0" not in words(shown)


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
        charts_steps.cards(step_records.steps(STEPS), "2026-01-02"),
        charts_steps.processor(step_records.beside(step_records.processor())),
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
