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
NUMBER = re.compile(r"(?<!\d)(?<!\d[.,])(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?!\d|[.,]\d)")
UNITS = (
    "B KiB MiB GiB TiB kB KB MB GB TB PB k M T s ms µs μs min h d a W kW kWh dB nats Nats nat bit bits Bit byte bytes "
    "Byte FLOP FLOPs MFLOP GFLOP TFLOP PFLOP US dollars USD EUR points Punkte percent Prozent to bis of von and und or "
    "oder a per je hours Stunden days Tage weeks Wochen months Monate seconds minutes Minuten x e gain"
)
QUANTITY = re.compile(
    rf"(?:{NUMBER.pattern}|\b(?:{'|'.join(sorted(UNITS.split(), key=len, reverse=True))})\b|<[^<>]*>"
    r"|, |[\s%×/()~≈±+−–—·:;<>≤≥=$€²³-])++"
)
"""A text that is numbers and their units, and nothing else: no name, no version, no code. (What is read is kept, ++: of
"<><>…" there would be as many readings as there are ways to pair the signs.)"""
MEASURES = "% KiB MiB GiB TiB kB KB MB GB TB ms µs s nats Nats dB Bit bits".split()
MEASURED = re.compile(rf"(?<![\w.,=-]){NUMBER.pattern}(?=[ \u00a0](?:{'|'.join(MEASURES)})(?!\w))")
"""A number before its unit, within other words."""
LONGEST = 120


class Told(str):
    """A text whose numbers are written in a language already: "4,127" is no longer to be taken for four thousand."""

    __slots__ = ()


def written(text: str, separators: tuple[str, str]) -> str:
    """A number with its unit as a language writes it: '1,234.5 GiB' -> '1 234,5 GiB'. In any other text only what is
    before a unit of measure: 'AMD EPYC, 23.5 GiB' -> 'AMD EPYC, 23,5 GiB'; 'Llama 3.1' stays.

    Args:
        separators: before the decimals, and between thousands.
    """
    if separators == ENGLISH or isinstance(text, Told) or not ("." in text or "," in text):
        return text
    swap = str.maketrans({".": separators[0], ",": separators[1]})
    whole = len(text) <= LONGEST and QUANTITY.fullmatch(text)
    return Told((NUMBER if whole else MEASURED).sub(lambda m: m[0].translate(swap), text))
