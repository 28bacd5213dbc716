"""Everybody's kernels: one each, so many at once, and what their cells last said.

There is no name by which one learner could reach another's kernel: every method asks whose it is, and the server takes
that from the signed cookie.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from core.errors import BadInput, Refused
from core.notebook.kernel import IDLE_SECONDS, Execution, Kernel, share_of_memory
from core.notebook.sandbox import Place
from core.units import GIB

KEPT = 400
"""Executions that are remembered, of all learners together."""


class Kernels:
    """The kernels of a server. Any thread may call.

    Args:
        home: the server's data folder.
        most: processes at once; `$DELTALAB_CODE_KERNELS`, else two for each processor, at least four.
        most_bytes: memory for each; `$DELTALAB_CODE_MEMORY` in GiB, else `share_of_memory`.
        idle_seconds: how long one lives without work; `$DELTALAB_CODE_IDLE` in minutes, else 15.
    """

    def __init__(
        self, home: Path, *, most: int | None = None, most_bytes: int | None = None, idle_seconds: float | None = None
    ) -> None:
        self.home = home
        self.most = most or int(_number("DELTALAB_CODE_KERNELS", max(4, 2 * (os.cpu_count() or 2))))
        self.most_bytes = most_bytes or int(_number("DELTALAB_CODE_MEMORY", 0) * GIB) or share_of_memory()
        self.idle_seconds = idle_seconds or 60 * _number("DELTALAB_CODE_IDLE", IDLE_SECONDS / 60)
        self._mutex = threading.Lock()
        self._kernels: dict[str, Kernel] = {}
        self._last: OrderedDict[tuple[str, str], Execution] = OrderedDict()
        Place.sweep(home)

    def run(
        self, owner: str, name: str, code: str, *, seconds: float, check: tuple[str, str] | None = None
    ) -> Execution:
        """Run a cell's code in its learner's kernel; a cell that waits or runs already is not run twice.

        Args:
            name: of the cell, such as `03_lora_rank/count`.
            check: a lesson's checks.py and the function in it, for an exercise.

        Raises:
            Refused: all kernels are at work, or the learner's queue is full.
        """
        with self._mutex:
            last = self._last.get((owner, name))
            if last is not None and not last.over:
                return last
            execution = self._kernel(owner).run(code, seconds=seconds, name=name, check=check)
            self._last[owner, name] = execution
            self._last.move_to_end((owner, name))
            while len(self._last) > KEPT:
                self._last.popitem(last=False)
            return execution

    def last(self, owner: str, name: str) -> Execution | None:
        """The latest execution of a cell, while this server remembers it."""
        return self._last.get((owner, name))

    def alive(self, owner: str) -> bool:
        """Whether the learner's kernel is there, with what its cells have defined."""
        kernel = self._kernels.get(owner)
        return kernel is not None and kernel.alive

    def pid(self, owner: str) -> int | None:
        """The number of the learner's process; None when there is none."""
        kernel = self._kernels.get(owner)
        return kernel.pid if kernel is not None and kernel.alive else None

    def interrupt(self, owner: str) -> None:
        """Stop what runs in the learner's kernel."""
        kernel = self._kernels.get(owner)
        if kernel is not None:
            kernel.interrupt()

    def restart(self, owner: str) -> None:
        """End the learner's kernel; the next run starts a new one, with nothing defined."""
        kernel = self._kernels.get(owner)
        if kernel is not None:
            kernel.restart()

    def close(self) -> None:
        """End all of them."""
        with self._mutex:
            kernels, self._kernels = list(self._kernels.values()), {}
        for kernel in kernels:
            kernel.close()

    def _kernel(self, owner: str) -> Kernel:
        """The learner's kernel; when there are too many, the one that was unused longest makes room."""
        if owner not in self._kernels:
            self._kernels[owner] = Kernel(self.home, owner, most_bytes=self.most_bytes, idle_seconds=self.idle_seconds)
        kernel = self._kernels[owner]
        if not kernel.alive and not kernel.busy:
            others = [k for k in self._kernels.values() if k is not kernel and (k.alive or k.busy)]
            if len(others) >= self.most:
                resting = [k for k in others if not k.busy]
                if not resting:
                    raise Refused(
                        f"All {self.most} kernels of this server are at work for others.", "Try again in a moment."
                    )
                min(resting, key=lambda k: k.used).close()
        return kernel


def _number(name: str, usual: float) -> float:
    """A number from the environment.

    Raises:
        BadInput: it is none, or below zero.
    """
    given = os.environ.get(name, "").strip()
    try:
        value = float(given) if given else usual
    except ValueError:
        value = -1.0
    if value < 0:
        raise BadInput(f"{name} must be a number of at least 0, not {given!r}.", "Set it, and start again.")
    return value
