"""Two workers side by side: each computes on a processor of its own; the processes that a test starts have them all."""

from __future__ import annotations

import os

import pytest

USABLE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


def _take(processors: list[int]) -> None:
    if WORKER.startswith("gw") and USABLE:
        os.sched_setaffinity(0, processors)


def _own() -> list[int]:
    return [USABLE[int(WORKER.removeprefix("gw")) % len(USABLE)]] if WORKER.startswith("gw") and USABLE else USABLE


def pytest_configure(config: pytest.Config) -> None:
    """Before torch counts the processors: two workers that share them would have twice as many threads, which wait for
    each other."""
    _take(_own())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `alone` or `browser` start processes, which inherit the processors: all of them, as a user's do."""
    _take(USABLE if item.get_closest_marker("alone") or item.get_closest_marker("browser") else _own())
