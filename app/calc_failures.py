"""Numbers for the museum of failures that stand in no run's events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import BadInput


def leaked_fresh(folder: Path) -> float:
    """Share of new questions that the model of the leaked run answers right, in per cent."""
    path = folder / "runs" / "leaked-fresh.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise BadInput(
            f"There is no {path.name}.", "Record it: python -m core.failures leaked --out runs/leaked.jsonl."
        ) from None
    return 100 * float(record["exact_match"])


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{value:.0f} %"


FUNCTIONS: dict[str, tuple[Any, Any]] = {"leaked_fresh": (leaked_fresh, percent)}
