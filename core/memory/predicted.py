"""What a run was expected to take, for its own record: the shipped estimate of just this step, beside what it took.

Instant and without torch; only where an estimate ships for the model, the method and its settings. A run is never held
up or broken by it: what cannot be said is left out, and a page can trace the step later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.config import RunConfig
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup

# What a run measures as one term, and a trace tells apart.
ONE_TERM = "activations and temporaries"
PARTS = ("batch", "activations", "recomputed activations", "logits and loss", "temporaries")


def predicted(
    config: RunConfig, batch: int, length: int, answers: int, device: Device, precision: str
) -> dict[str, Any]:
    """The ledger of a step of a run, as `Ledger.to_dict`; empty where no estimate ships.

    Args:
        batch, length, answers: of the largest pass of the step. precision: what it computed in.
    """
    from dataclasses import replace

    from core.catalog import known
    from core.config import EMBEDDED

    row = None if config.base == EMBEDDED else known(config.base)
    name = EMBEDDED if config.base == EMBEDDED else row.name if row is not None else None
    if name is None:
        return {}
    setup = replace(Setup.of(config, batch, length, device, answers), precision=precision)
    made = find(name, setup)
    return made.ledger(Sizes.of(setup)).to_dict() if made is not None else {}


def residuals(told: Mapping[str, Any], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two ledgers of a run (`predicted` and the measured one), term by term.

    Returns:
        rows with name, predicted, measured and difference (measured − predicted), all in bytes; the last row is the
        whole. Empty when one of the two is.
    """
    if not told.get("terms") or not measured.get("terms"):
        return []
    ours: dict[str, int] = {}
    for term in told["terms"]:
        name = ONE_TERM if term["name"] in PARTS else term["name"]
        ours[name] = ours.get(name, 0) + term["bytes"]
    theirs = {term["name"]: term["bytes"] for term in measured["terms"]}
    rows = [(name, ours.get(name, 0), theirs.get(name, 0)) for name in dict.fromkeys((*theirs, *ours))]
    rows.append(("allocated", told["allocated_bytes"], measured["allocated_bytes"]))
    return [
        {"name": name, "predicted": mine, "measured": real, "difference": real - mine}
        for name, mine, real in rows
        if mine or real
    ]


__all__ = ["ONE_TERM", "predicted", "residuals"]
