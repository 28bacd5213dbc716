"""What was measured of whole training steps beside `transformers.Trainer`: records of cards, and that of processors.

`make gpu` leaves one file for each card (tests/records/gpu_<card>.json: the engine's step captured and as it comes, and
the stock stack's, with the share of the roofline), `make bench` one for the processor that it ran on
(tests/records/bench_cpu.json). On a machine that has neither, nothing is made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernels
from core.kernel_records import Found, newest

FOLDER = Path(kernels.__file__).parents[1] / "tests" / "records"
PROCESSOR = "bench_cpu.json"
WAYS = ("graphed", "eager")
"""The engine's, the one that a run takes where it can first."""


@dataclass(frozen=True)
class Step:
    """The steps of one shape and method on a card.

    seconds: of the engine's, by its way ('graphed', 'eager'); stock_seconds: of Trainer's with PEFT and bitsandbytes,
    None where it has none. gain: Trainer's over the engine's. share: of what the card's measured ceilings allow.
    peak_bytes, stock_peak_bytes: that were held at most. missing: why a way has no time, by way ('stock' is Trainer's).
    """

    shape: str
    method: str
    seconds: Mapping[str, float]
    stock_seconds: float | None
    gain: float | None
    share: float | None
    peak_bytes: int | None
    stock_peak_bytes: int | None
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Beside:
    """A method on a processor beside Trainer: examples per second, the engine's over the other's, as the median of the
    rounds with their range; the peak memory of a process of each. comparison: 'defaults', 'identical' or '135M'."""

    method: str
    comparison: str
    gain: float
    low: float
    high: float
    peak_bytes: int
    stock_peak_bytes: int


def cards(folder: Path | None = None) -> Found:
    """The records of cards."""
    return newest(FOLDER if folder is None else folder, "gpu_*.json", steps, but="gpu_memory_")


def steps(record: Mapping[str, Any]) -> list[Step]:
    """Of every shape and method, in the record's order."""
    rows: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in record["steps"]:
        rows.setdefault((str(row["shape"]), str(row["method"])), {})[str(row["way"])] = row
    return [_step(*pair, ways) for pair, ways in rows.items()]


def _step(shape: str, method: str, ways: Mapping[str, Mapping[str, Any]]) -> Step:
    timed = {way: row for way, row in ways.items() if row.get("median_seconds")}
    best = next((timed[way] for way in WAYS if way in timed), None)
    stock = timed.get("stock")
    return Step(
        shape, method, {way: float(timed[way]["median_seconds"]) for way in WAYS if way in timed},
        float(stock["median_seconds"]) if stock else None,
        float(stock["median_seconds"]) / float(best["median_seconds"]) if stock and best else None,
        best.get("roofline_share") if best else None, best.get("peak_bytes") if best else None,
        stock.get("peak_bytes") if stock else None,
        {way: str(row.get("left_out") or row.get("failed") or "") for way, row in ways.items() if way not in timed},
    )  # fmt: skip


def processor(folder: Path | None = None) -> dict[str, Any]:
    """The record of `make bench`; {} where there is none, or none that can be read."""
    file = (FOLDER if folder is None else folder) / PROCESSOR
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        beside(record)
        measured_on(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return record


def beside(record: Mapping[str, Any]) -> list[Beside]:
    """Every row of the record of a processor."""
    return [
        Beside(
            str(row["method"]), str(row["comparison"]), float(row["ratio_median"]), float(row["ratio_min"]),
            float(row["ratio_max"]), int(row["engine_peak_bytes"]), int(row["stock_peak_bytes"]),
        )
        for row in record["rows"]
    ]  # fmt: skip


def measured_on(record: Mapping[str, Any]) -> dict[str, Any]:
    """Where and when the rows of a processor's record come from: device, threads, versions (of the newest row), and the
    first and last date. (A row says it itself, or the record says it of all.)"""
    rows = [{**record, **row} for row in record["rows"]]
    newest_row = max(rows, key=lambda row: str(row["date"]))
    dates = [str(row["date"]) for row in rows]
    return {
        "device": str(newest_row["device"]), "threads": int(newest_row["threads"]),
        "versions": dict(newest_row["versions"]), "first": min(dates), "last": max(dates),
    }  # fmt: skip


__all__ = ["FOLDER", "WAYS", "Beside", "Step", "beside", "cards", "measured_on", "processor", "steps"]
