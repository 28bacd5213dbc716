"""The kernels on the attached card: against their references and rivals, as kernels.bench measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.config import knob
from core.errors import Refused
from core.probes import Subject, Tell

TITLE = "Kernels"
RUNS = (0, 0)


@dataclass(frozen=True)
class Config:
    """What is timed."""

    kernel: str = knob(
        "all", "Which kernel: all, or the name of a file in kernels/.",
        why="All of them take a minute or two; one takes seconds.",
    )  # fmt: skip


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Measure them here and now.

    Returns:
        a record as kernels.bench writes it: device, versions, date, ceilings, rows.

    Raises:
        Refused: there is no CUDA device, or no such kernel.
    """
    import torch

    from kernels import KERNELS, bench

    if not torch.cuda.is_available():
        raise Refused("There is no CUDA device here to time kernels on.", "The recorded figures are on the page.")
    if config.kernel not in ("all", *KERNELS):
        raise Refused(f"There is no kernel {config.kernel!r}.", f"There are {', '.join(KERNELS)}.")
    names = list(KERNELS) if config.kernel == "all" else [config.kernel]
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        tell(number / len(names), f"Timing {name}")
        rows += bench.measure([name], False, lambda row: None)
    tell(None, "Measuring the card's own ceilings")
    return {**bench.about(), "ceilings": bench.ceilings(), "rows": rows}
