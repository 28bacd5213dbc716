"""Runs: the record of every training run, the processes that carry them out, and the chat with what they made.

`Store` keeps runs, their events and the learner's progress; `Supervisor` gives queued runs to worker processes;
`Talker` is the process that chats with a run's adapter; `core.runs.worker` is the worker itself and
`core.runs.recorded` reads and writes runs as files. No module here imports torch into the process that uses it, except
`core.runs.worker.execute`, which trains.

The names below are imported when they are first used, so that `core.runs.home` stays free of SQLAlchemy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.runs.home import data_home
    from core.runs.pool import Supervisor
    from core.runs.recorded import Recording, import_recorded
    from core.runs.store import Run, Store
    from core.runs.talker import Talker

_PLACES = {
    "data_home": "core.runs.home",
    "Store": "core.runs.store",
    "Run": "core.runs.store",
    "Supervisor": "core.runs.pool",
    "Talker": "core.runs.talker",
    "Recording": "core.runs.recorded",
    "import_recorded": "core.runs.recorded",
}

__all__ = ["Recording", "Run", "Store", "Supervisor", "Talker", "data_home", "import_recorded"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'core.runs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
