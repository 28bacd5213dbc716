"""Several workers side by side: each gets a processor of its own."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Threads of two workers that share processors wait for each other, and torch's wait by spinning: two busy test
    files then take longer side by side than in turn. What a worker starts inherits its processor."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[int(worker.removeprefix("gw")) % len(usable)]})
