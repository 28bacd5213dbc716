"""What a worker has said but not yet written to the store: a file that survives its death.

The worker writes to the store a few times a second. In between, each event is appended here at once, with one system
call, so a kill loses none: whoever next holds the run's lock moves the leftover into the store (`Store.absorb`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

NAME = "events.part"


def clean(value: Any) -> Any:
    """`value` as plain JSON: tuples become lists, and numbers that JSON does not have (nan, inf) become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    return value


class Journal:
    """Appends (seq, event) lines to `folder`/events.part. Only the holder of the run's lock may have one.

    Safe to use from two threads: one adds, another takes.
    """

    def __init__(self, folder: Path) -> None:
        # O_APPEND: every line goes to the end in one write, also right after `done` has emptied the file.
        self._fd = os.open(folder / NAME, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._mutex = threading.Lock()
        self._pending: list[tuple[int, dict[str, Any]]] = []

    def add(self, seq: int, record: dict[str, Any]) -> None:
        """Keep an event; when this returns, the death of this process does not lose it."""
        line = json.dumps([seq, record], ensure_ascii=True, allow_nan=False) + "\n"
        data = line.encode("ascii")
        with self._mutex:
            if os.write(self._fd, data) < len(data):
                raise OSError(errno.ENOSPC, "the run's journal could not be written whole")
            self._pending.append((seq, record))

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        """The events not yet taken; they stay in the file until `done`."""
        with self._mutex:
            taken, self._pending = self._pending, []
        return taken

    def give_back(self, taken: list[tuple[int, dict[str, Any]]]) -> None:
        """Undo `take`: the store could not be written."""
        with self._mutex:
            self._pending = taken + self._pending

    def done(self) -> None:
        """What was taken is in the store; forget it, unless more has come since (the store skips what it has)."""
        with self._mutex:
            if not self._pending:
                os.ftruncate(self._fd, 0)

    def close(self) -> None:
        os.close(self._fd)


def leftover(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """The events in a dead worker's journal. A last line that was cut off in the middle never happened."""
    path = folder / NAME
    if not path.exists():
        return []
    out = []
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        try:
            seq, record = json.loads(line)
        except ValueError:
            break
        out.append((int(seq), record))
    return out


def discard(folder: Path) -> None:
    """Remove the journal once its content is in the store."""
    (folder / NAME).unlink(missing_ok=True)
