"""A probe for the tests of core.runs.prober, and the process that knows it.

python -m tests.core.probe_support FOLDER
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from core.config import knob
from core.errors import BadInput
from core.probes import PROBES, Subject, Tell

TITLE = "Echo"
RUNS = (0, 2)


@dataclass(frozen=True)
class Config:
    """times: how often it says something. how: how it ends."""

    times: int = knob(2, "how often", low=1, high=1000)
    how: str = knob("well", "how it ends", choices=("well", "badly", "unexpectedly", "killed", "never"))


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    for n in range(config.times):
        tell((n + 1) / config.times, f"Number {n + 1}")
    print("a library prints")
    if config.how == "badly":
        raise BadInput("It cannot be measured.", "Measure something else.")
    if config.how == "unexpectedly":
        raise ZeroDivisionError
    if config.how == "killed":
        os.abort()
    if config.how == "never":
        time.sleep(3600)
    (subject.folder / "made.txt").write_text("kept")
    return {"runs": [run.id for run in subject.runs], "times": config.times}


if __name__ == "__main__":
    from core.runs import prober

    # Nothing is computed here, and importing torch would take longer than all the rest. (Real measurements in a process
    # of their own: tests/app/test_views_inside.py, test_views_ship.py.)
    sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))  # type: ignore[assignment]
    PROBES["echo"] = "tests.core.probe_support"
    raise SystemExit(prober.main())
