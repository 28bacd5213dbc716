"""Several workers side by side: each gets a processor of its own."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Before torch counts the processors: workers that share them would have twice as many threads, which wait for each
    other. What a worker starts inherits its processor."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[int(worker.removeprefix("gw")) % len(usable)]})
