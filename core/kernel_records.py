"""What was measured of the kernels, where there is anything: records by card, and points of them for the roofline.

`make gpu` leaves one file for each card in kernels/records (kernels.bench says what is in it). On a machine without a
GPU nothing is measured and nothing is made up: there are the records of other machines, or there are none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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


@dataclass(frozen=True)
class Found:
    """records: by device, the newest of each. damaged: names of files that are no such records."""

    records: Mapping[str, dict[str, Any]]
    damaged: tuple[str, ...]


def newest(folder: Path, pattern: str, read: Callable[[dict[str, Any]], object], but: str = " ") -> Found:
    """Records of a folder: files like `pattern`, but for those whose names begin with `but`. One that is cut off, or in
    which `read` does not find what it looks for, is told and left out: a page shows the others.
    """
    found: dict[str, dict[str, Any]] = {}
    damaged = []
    for file in sorted(folder.glob(pattern)):
        if file.name.startswith(but):
            continue
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            device, date = str(record["device"]), str(record["date"])
            dict(record["versions"])
            read(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
            damaged.append(file.name)
            continue
        known = found.get(device)
        if known is None or str(known["date"]) <= date:
            found[device] = record
    return Found(found, tuple(damaged))


def cards() -> Found:
    """The records of kernels."""

    def read(record: dict[str, Any]) -> object:
        return points(record), gains(record), [row["passed"] for row in record["rows"]]

    return newest(FOLDER, "*.json", read)


def records() -> dict[str, dict[str, Any]]:
    """Device -> record, the newest of each; {} if none was ever made."""
    return dict(cards().records)


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


__all__ = ["FOLDER", "Found", "Gain", "Point", "cards", "gains", "limit", "newest", "points", "records"]
