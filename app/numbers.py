"""Numbers as a sentence has them."""

from __future__ import annotations


def grouped(value: float) -> str:
    """A whole number with thousands separated: 1536 -> '1,536'."""
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share in per cent, with as many digits as say something: 98.37 -> '98 %', 1.536 -> '1.5 %', 0 -> '0 %'."""
    if value == 0 or value >= 10:
        return f"{value:.0f} %"
    return f"{value:.2g} %" if value < 1 else f"{value:.1f} %"


def plain(value: float) -> str:
    """A number as short as it can be said: 0.003 -> '0.003', 16.0 -> '16'."""
    return f"{value:.4g}"
