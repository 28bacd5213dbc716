"""A figure's numbers as people read them: heads in words instead of a file's names, sizes with their unit.

The table behind a figure is also its CSV, for machines: `held_out_loss`, `adapter_bytes`. On the page the same columns
are called "Held-out loss" and "Adapter", and bytes are written as 1.2 MiB. What a head is called in another language
stands in app/locales, in its folder `engine`, under the English head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from app.words import from_core
from core.units import bytes_text

UNITS = {
    "percent": "%", "bytes": "", "gib": "GiB", "ms": "ms", "seconds": "s", "hours": "h", "nats": "nats",
    "points": "points", "bits": "bits",
}  # fmt: skip
"""The last word of a column's name -> the unit that stands behind its head; sizes carry theirs themselves."""
SAID = {
    "kl": "KL", "gpus": "GPUs", "zero": "ZeRO", "lora": "LoRA", "qlora": "QLoRA", "nf4": "NF4", "fp4": "FP4",
    "int8": "INT8", "kwh": "kWh", "usd": "US dollars", "rmse": "RMSE", "flops": "FLOP", "gib": "GiB",
}  # fmt: skip
"""Words of names that are not written as other words are."""
HEADS = {
    "held_out_loss": "Held-out loss", "held_out_loss_added": "Held-out loss added", "exact_match_percent": "Right, %",
    "error_percent_of_spread": "Error, % of the spread", "macro_f1_percent": "Macro-F1, %", "on_front": "On the front",
    "flops_per_byte": "FLOP per byte", "why_not": "Why not", "bytes": "Size", "bytes_saved": "Saved",
    "directions_for_90_percent": "Directions for 90 %", "bytes_a_parameter": "Bytes a parameter",
    "bits_a_weight": "Bits a weight", "saved_bits_a_weight": "Saved, bits a weight", "seconds_saved": "Saved, s",
    "trainable": "Trained", "grad_norm": "Gradient norm", "memory_bytes": "Memory",
    "train_seconds": "Training, s", "worked_out": "Worked out", "peak_at": "Peak at",
}  # fmt: skip
"""Names of columns whose heads no rule makes."""
SIZES = ("bytes", "bytes_saved")
"""Columns of bytes beside those whose name ends with _bytes."""
NARROW, LETTER = 24, 6.5
"""Pixels beside the text of a cell, and about so many for a letter."""


def head(name: str) -> str:
    """What people read above a column: 'adapter_bytes' -> 'Adapter', 'token_ms' -> 'Token, ms'."""
    if name in HEADS:
        return from_core(HEADS[name])
    if not name.islower():
        return name  # words already
    words = name.split("_")
    end = [words.pop()] if words[-1] in ("low", "high") and len(words) > 1 else []
    unit = UNITS.get(words[-1]) if len(words) > 1 else None
    if unit is not None:
        words.pop()
    words += end
    said = " ".join(SAID.get(word, word) for word in words)
    said = from_core(said[:1].upper() + said[1:])
    return f"{said}, {from_core(unit)}" if unit else said


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows under heads in words, with bytes as sizes."""
    out = table.copy()
    for name in map(str, table.columns):
        if name in SIZES or name.endswith("_bytes"):
            out[name] = ["–" if pd.isna(value) else bytes_text(value) for value in table[name]]
    heads = [head(str(name)) for name in table.columns]
    return out.set_axis(heads if len(set(heads)) == len(heads) else list(table.columns), axis=1)


def widths(table: pd.DataFrame, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Widths for the columns of text whose longest cell is far longer than the others.

    The grid measures a column without its outliers, so that "90 % (88 to 92)" among many "100 %" would be cut off.

    Args:
        names: of the columns to look at; all when None.

    Returns:
        name -> width in pixels, as `column_config` takes it.
    """
    out = {}
    for name in names if names is not None else list(map(str, table.columns)):
        lengths = [len(value) for value in table[name] if isinstance(value, str)]
        if lengths and max(lengths) > 1.6 * sum(lengths) / len(lengths) and max(lengths) > len(name):
            out[name] = {"width": round(NARROW + LETTER * max(lengths))}
    return out
