"""How far predictions are from what others published: the record of it, read without torch, and the band from it.

`make bench-memory` (tests/bench_memory.py) asks this program for the memory of every published step that it can express
(`core.memory.published`), and writes what came out beside what was measured into core/catalog/validation.json. A page
shows that record; `band` is the spread of measured over predicted in it, which the totals of a card carry
(`core.memory.card`).

`summarised` is all the arithmetic: means and quantiles over groups of rows. The record has published speeds as well
(`core.memory.throughput`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from core.catalog import FOLDER

FILE = FOLDER / "validation.json"
CAUSED = 0.15  # a row that is further off needs a named cause
TOLERANCE_BYTES = round(0.05 * 2**30)  # of resident state
LOW, HIGH = 0.05, 0.95  # quantiles of the band


@dataclass(frozen=True)
class Band:
    """What a prediction is to be multiplied by: (low, likely, high). rows: that it rests on. text: in words."""

    low: float
    likely: float
    high: float
    rows: int
    text: str


UNKNOWN = Band(1.0, 1.0, 1.0, 0, "Predictions were not compared with published figures yet: run make bench-memory.")


@lru_cache
def record() -> dict[str, Any]:
    """The whole record; empty when there is none."""
    if not FILE.is_file():
        return {}
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


@lru_cache
def band() -> Band:
    """Nine of ten published figures lie within it: measured over predicted, where nothing was fitted."""
    return band_of(record().get("rows", ()))


def band_of(rows: Iterable[Mapping[str, Any]]) -> Band:
    """The band of some rows, of those on one GPU whose total is known to be that of allocated memory."""
    ratios = sorted(
        r["measured_bytes"] / r["predicted_bytes"]
        for r in rows
        if r["role"] == "held out" and r["metric"] == "allocated" and r["gpus"] == 1
    )
    if not ratios:
        return UNKNOWN
    low, likely, high = (quantile(ratios, share) for share in (LOW, 0.5, HIGH))
    text = (
        f"Of {len(ratios)} published figures nine in ten lie between {low:.1%} and {high:.1%} of what is predicted for "
        f"them."
    )
    return Band(min(low, 1.0), likely, max(high, 1.0), len(ratios), text)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in order, by straight lines between them."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def summarised(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Errors by group: all rows, then by source, method, metric, role, and the rows that a target is set for."""
    groups: list[tuple[str, str, list[Mapping[str, Any]]]] = [("all", "all", list(rows))]
    for by in ("source", "method", "metric", "role"):
        names = dict.fromkeys(str(r[by]) for r in rows)
        groups += [(by, name, [r for r in rows if str(r[by]) == name]) for name in names]
    groups.append(("target", "LoRA and QLoRA, one GPU, trust A or B", [r for r in rows if is_target(r)]))
    return [_group(by, name, found) for by, name, found in groups if found]


def reserved_scored(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How far the reserved totals are off, over the rows in which that was measured.

    Returns:
        rows: how many. simulated, instant: mean_abs, bias and worst of the two ways to say it, the allocator's rules
        replayed on a trace, and the usual factor over allocated bytes. within: rows inside of the range that the
        calculator gives without a trace. Empty where there are none.
    """
    found = [r for r in rows if r["metric"] == "reserved"]
    if not found:
        return {}
    measured = [r["measured_bytes"] for r in found]
    ways = {
        "simulated": [r["predicted_bytes"] / m - 1 for r, m in zip(found, measured, strict=True)],
        "instant": [r["reserved_bytes"][1] / m - 1 for r, m in zip(found, measured, strict=True)],
    }
    within = sum(r["reserved_bytes"][0] <= m <= r["reserved_bytes"][2] for r, m in zip(found, measured, strict=True))
    return {"rows": len(found), "within": within} | {
        name: {**mean_and_bias(errors), "worst": max(map(abs, errors))} for name, errors in ways.items()
    }


def mean_and_bias(errors: Sequence[float]) -> dict[str, float]:
    """Mean of the absolute errors, and of the errors with their signs."""
    return {"mean_abs": sum(map(abs, errors)) / len(errors), "bias": sum(errors) / len(errors)}


def is_target(row: Mapping[str, Any]) -> bool:
    """Whether a row is of LoRA or QLoRA on one GPU, with a known configuration."""
    return row["method"].lower() in ("lora", "qlora", "dora", "rslora") and row["trust"] in "AB" and row["gpus"] == 1


def _group(by: str, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    errors = [float(r["error"]) for r in rows]
    sizes = [abs(e) for e in errors]
    return {
        "by": by, "name": name, "rows": len(rows), **mean_and_bias(errors), "worst": max(sizes),
        "within_5": _share(sizes, lambda e: e <= 0.05), "within_10": _share(sizes, lambda e: e <= 0.1),
    }  # fmt: skip


def _share(values: Sequence[float], holds: Callable[[float], bool]) -> float:
    return sum(map(holds, values)) / len(values)


__all__ = ["CAUSED", "TOLERANCE_BYTES", "Band", "band", "band_of", "is_target", "quantile", "record",
           "reserved_scored", "summarised"]  # fmt: skip
