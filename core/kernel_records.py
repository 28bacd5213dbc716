"""What was measured of the kernels, where there is anything: records by card, and points of them for the roofline.

`make gpu` leaves one file for each card in kernels/records (kernels.bench says what is in it). On a machine without a
GPU nothing is measured and nothing is made up: there are the records of other machines, or there are none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernels
from core.roofline import Limit

FOLDER = Path(kernels.__file__).parent / "records"


@dataclass(frozen=True)
class Point:
    """A kernel as it was timed. label: the kernel and its size. version: 'kernel', 'reference' or a rival's name.
    intensity: FLOPs per byte that this version has to move at least. rate: FLOP/s reached. share: of what the card's
    measured ceilings allow at that intensity."""

    label: str
    version: str
    seconds: float
    intensity: float
    rate: float
    share: float


def records() -> dict[str, dict[str, Any]]:
    """Device -> record, the newest of each; {} if none was ever made."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(FOLDER.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        known = found.get(record["device"])
        if known is None or known["date"] <= record["date"]:
            found[record["device"]] = record
    return found


def limit(record: Mapping[str, Any]) -> Limit:
    """The ceilings that the card reached itself: a copy, and a large product."""
    ceilings = record["ceilings"]
    return Limit(f"{record['device']}, measured", ceilings["flops_per_second"], ceilings["bytes_per_second"])


def points(record: Mapping[str, Any]) -> list[Point]:
    """Every timed version of every kernel at every size."""
    top = limit(record)
    found = []
    for row in record["rows"]:
        for version, time in row.get("seconds", {}).items():
            moved = row["bytes"] if version == "kernel" else row["plain_bytes"]
            intensity, rate = row["flops"] / moved, row["flops"] / time["median"]
            found.append(
                Point(
                    _label(row), version, time["median"], intensity, rate,
                    rate / top.reachable(intensity),
                )
            )  # fmt: skip
    return found


@dataclass(frozen=True)
class Gain:
    """Prediction beside measurement, of a kernel at one size. least_seconds: what its FLOPs and bytes take at the
    card's measured ceilings; seconds: what it took. predicted_gain, gain: the plain form's time over the kernel's, so
    predicted and as measured."""

    label: str
    least_seconds: float
    seconds: float
    predicted_gain: float
    gain: float


def gains(record: Mapping[str, Any]) -> list[Gain]:
    """Of every kernel and size that was timed beside its reference."""
    top = limit(record)
    found = []
    for row in record["rows"]:
        seconds = row.get("seconds", {})
        if "kernel" not in seconds or "reference" not in seconds:
            continue
        flops = row["flops"]
        least, plain = (flops / top.reachable(flops / moved) for moved in (row["bytes"], row["plain_bytes"]))
        took = seconds["kernel"]["median"]
        found.append(Gain(_label(row), least, took, plain / least, seconds["reference"]["median"] / took))
    return found


def _label(row: Mapping[str, Any]) -> str:
    where = ", ".join(f"{name} {value}" for name, value in row["case"].items())
    return f"{row['kernel']} ({where})"


__all__ = ["FOLDER", "Gain", "Point", "gains", "limit", "points", "records"]
