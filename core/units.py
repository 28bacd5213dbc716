"""Bytes and their units: the only place where they are converted.

1 GB = 10**9 bytes (what a shop prints on a card), 1 GiB = 2**30 bytes (what CUDA reports). The two differ by 7 %.
"""

from __future__ import annotations

KIB, MIB, GIB = 2**10, 2**20, 2**30
KB, MB, GB = 10**3, 10**6, 10**9

DTYPE_BYTES: dict[str, float] = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int8": 1,
    "uint8": 1,
    "nf4": 0.5,
    "fp4": 0.5,
}


def bytes_text(count: float) -> str:
    """`count` bytes for a person, in binary units: 1536 -> '1.5 KiB', 0 -> '0 B'."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def count_text(count: float) -> str:
    """A number of parameters for a person: 1_234_567 -> '1.23 M', 850 -> '850'."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * limit:  # three digits: 999.9 M are 1 B
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f}"


def seconds_text(seconds: float) -> str:
    """A duration for a person: 0.42 -> '0.42 s', 75 -> '1 min 15 s', 4000 -> '1 h 7 min'."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def range_text(least: float, most: float) -> str:
    """A span of durations for a person, in one unit: (12, 80) -> '12 to 80 s', (300, 1800) -> '5 to 30 min'."""
    size, unit = next(((n, u) for n, u in ((3600, "h"), (60, "min")) if least >= 2 * n or most >= 120 * n), (1, "s"))
    if most >= 3 * 60 and size == 1:
        size, unit = 60, "min"
    low, high = (f"{v:.2g}" if v < 10 else f"{v:,.0f}" for v in (least / size, most / size))
    return f"{low} to {high} {unit}" if low != high else f"{low} {unit}"
