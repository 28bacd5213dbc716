"""Fits and traces in the background, for pages: asked for once, watched while they go on, kept when they are done.

    fitter = Fitter(Tracer())
    fitter.ask("fit", "owner/model", setup, owner=me)       # begins, unless it is known or on
    fitter.look("fit", "owner/model", setup)                # -> Work | None
    fitter.surrogate("Llama-3.1-8B", setup)                 # shipped, or fitted before: at once; else None

One warm process answers one question at a time (`core.memory.tracer`); questions wait in the order in which they came.
What is found says nothing about who asked, so it is shared: the second visitor with the same model waits for nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from dataclasses import dataclass
from typing import Any

from core.catalog import known
from core.config import EMBEDDED
from core.errors import DeltalabError, Refused
from core.memory.estimate import Sizes, Surrogate, find, key_of
from core.memory.setup import Setup
from core.memory.tracer import Tracer

WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"
FIT, TRACE, TABLE, WARM = "fit", "trace", "table", "warm"
MOST_WAITING = 24  # of one owner: all methods of a model, and a few more
KEPT = 400  # answers; the oldest go
DROPOUT = 0.1  # any other share takes the same memory
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Work:
    """How a question stands. share: done, 0..1. text: what is done now. result: a Surrogate (fit), what
    `Tracer.trace` gives (trace) or an Architecture (table). error: why there is none. seconds: it took so long."""

    status: str
    share: float = 0.0
    text: str = ""
    result: Any = None
    error: DeltalabError | None = None
    seconds: float = 0.0

    @property
    def active(self) -> bool:
        """It waits or runs: whoever watches should look again."""
        return self.status in (WAITING, RUNNING)


def alike(setup: Setup) -> Setup:
    """The setup that takes the same memory and stands for all like it."""
    if getattr(setup.settings, "dropout", 0.0) > 0:
        return dataclasses.replace(setup, settings=dataclasses.replace(setup.settings, dropout=DROPOUT))
    return setup


class Fitter:
    """The server's side; any thread may ask. One per server process."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self.tracer = tracer or Tracer()
        self._works: collections.OrderedDict[Key, Work] = collections.OrderedDict()
        self._queue: collections.deque[tuple[Key, str, Setup | None, str]] = collections.deque()
        self._fitted: dict[tuple[str, str], list[Surrogate]] = {}
        self._names: dict[str, str | None] = {}
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    # --- asking -------------------------------------------------------------------------------------------------------

    def surrogate(self, model: str, setup: Setup) -> Surrogate | None:
        """What answers a setup at once: shipped with the program, or fitted since the server began."""
        asked = alike(setup)
        if model not in self._names:  # (asked for every row of a table; whether a folder has that name costs a look)
            row = known(model) if model != EMBEDDED else None
            self._names[model] = row.name if row is not None else EMBEDDED if model == EMBEDDED else None
        name = self._names[model]
        found = find(name, asked) if name is not None else None
        if found is not None:
            return found
        with self._mutex:
            fitted = self._fitted.get((model, key_of(asked)), ())
        return next((one for one in fitted if one.holds(Sizes.of(asked))), None)

    def look(self, kind: str, model: str, setup: Setup | None = None) -> Work | None:
        """How a question stands; None when nobody has asked it."""
        with self._mutex:
            return self._works.get(_key(kind, model, setup))

    def ask(self, kind: str, model: str, setup: Setup | None = None, owner: str = "") -> Work:
        """Ask a question, unless it is on or was answered.

        Args:
            kind: FIT, TRACE, or TABLE (the model's table of modules; needs no setup).

        Raises:
            Refused: too many of the owner's questions wait.
        """
        key = _key(kind, model, setup)
        with self._mutex:
            now = self._works.get(key)
            if now is not None and now.status != FAILED:
                return now
            if sum(asker == owner for _, _, _, asker in self._queue) >= MOST_WAITING:
                raise Refused(f"{MOST_WAITING} of your questions wait already.", "Let some be answered first.")
            work = self._works[key] = Work(WAITING, text="Waiting for another trace")
            self._queue.append((key, model, alike(setup) if setup is not None else None, owner))
            while len(self._works) > KEPT:
                oldest = next((k for k, w in self._works.items() if not w.active), None)
                if oldest is None:
                    break
                del self._works[oldest]
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._carry_out, name="fitter", daemon=True)
                self._thread.start()
            return work

    def warm(self) -> None:
        """Somebody is about to describe a model: start the process that will be asked, once."""
        if self.look(WARM, "") is None:
            self.ask(WARM, "")

    def close(self) -> None:
        """Forget what waits, and end the process."""
        with self._mutex:
            self._queue.clear()
        self.tracer.close()

    # --- answering ----------------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        while True:
            with self._mutex:
                if not self._queue:
                    self._thread = None
                    return
                key, model, setup, _ = self._queue.popleft()
            began = time.monotonic()

            def tell(share: float, text: str, key: Key = key) -> None:
                self._set(key, Work(RUNNING, share, text))

            tell(0.0, "Starting the process that traces")
            try:
                result = self._answer(key[0], model, setup, tell)
            except DeltalabError as error:
                self._set(key, Work(FAILED, error=error, seconds=time.monotonic() - began))
            except Exception as error:  # a defect of ours must not leave the question open for ever
                told = DeltalabError(f"The trace broke off with {type(error).__name__}.", "Choose other settings.")
                self._set(key, Work(FAILED, error=told, seconds=time.monotonic() - began))
            else:
                self._set(key, Work(FINISHED, 1.0, "", result, None, time.monotonic() - began))

    def _answer(self, kind: str, model: str, setup: Setup | None, tell: Any) -> Any:
        if kind == WARM:
            self.tracer.warm()
            return None
        if kind == TABLE:
            return self.tracer.architecture(model)
        assert setup is not None
        if kind == TRACE:
            return self.tracer.trace(model, setup, tell)
        made = self.tracer.fit(model, setup, tell)
        with self._mutex:
            kept = self._fitted.setdefault((model, key_of(setup)), [])
            if not any(one is made for one in kept):
                kept.append(made)
        return made

    def _set(self, key: Key, work: Work) -> None:
        with self._mutex:
            self._works[key] = work


def _key(kind: str, model: str, setup: Setup | None) -> Key:
    """What tells questions apart: a trace is of one step; a fit, of all steps of its regime."""
    if setup is None:
        return kind, model, ""
    asked = alike(setup)
    if kind == TRACE:
        return kind, model, repr(asked)
    sizes = f"{min(asked.batch, 2)} {asked.length} {min(asked.rank or 0, 2)}"
    return kind, model, f"{key_of(asked)} {sizes}"


__all__ = ["FAILED", "FINISHED", "FIT", "RUNNING", "TABLE", "TRACE", "WAITING", "WARM", "Fitter", "Work", "alike"]
