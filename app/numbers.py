"""Numbers as a sentence has them, and as another language writes them.

Texts with numbers are made in English everywhere, by f-strings and core/units.py, since tables, links and files read
them again. Where one is shown, `written` turns it into the visitor's language: app/words.py does so for whatever fills
a blank, app/localized.py for tables, figures and metrics.
"""

from __future__ import annotations

import re


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


ENGLISH = (".", ",")
"""What stands before the decimals, and between thousands."""
NARROW_SPACE = "\u202f"
"""Between thousands where the comma is taken (ISO 80000-1): a point there would be read as the decimal sign of the
lessons, which are in English."""
NUMBER = re.compile(r"(?<!\d)(?<!\d[.,])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?!\d|[.,]\d)")
UNITS = (
    "B KiB MiB GiB TiB kB KB MB GB TB PB k M T s ms µs μs min h d a W kW kWh dB nats Nats nat bit bits Bit byte bytes "
    "Byte FLOP FLOPs MFLOP GFLOP TFLOP PFLOP US dollars USD EUR points Punkte percent Prozent to bis of von and und or "
    "oder a per je hours Stunden days Tage weeks Wochen months Monate seconds minutes Minuten x e gain"
)
QUANTITY = re.compile(
    rf"(?:{NUMBER.pattern}|\b(?:{'|'.join(sorted(UNITS.split(), key=len, reverse=True))})\b|<[^<>]*>"
    r"|, |[\s%×/()~≈±+−–—·:;<>≤≥=$€²³-])+"
)
"""A text that is numbers and their units, and nothing else: no name, no version, no code."""
LONGEST = 120


def written(text: str, separators: tuple[str, str]) -> str:
    """A number with its unit as a language writes it: '1,234.5 GiB' -> '1 234,5 GiB'; any other text as it is.

    Args:
        separators: before the decimals, and between thousands.

    Returns:
        the text; written twice it is the same as once.
    """
    if separators == ENGLISH or not ("." in text or "," in text) or len(text) > LONGEST:
        return text
    if not QUANTITY.fullmatch(text):
        return text
    swap = str.maketrans({".": separators[0], ",": separators[1]})
    return NUMBER.sub(lambda m: m[0].translate(swap), text)
