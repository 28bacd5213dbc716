"""The supervisor: gives queued runs to worker processes, keeps one worker warm, and notices the dead.

One per server process, in a thread. It keeps nothing that matters in memory: what is queued, running or reserved stands
in the store, and whether a worker lives is told by its lock. So a server may be killed and another started, or several
run side by side, and the runs do not notice.

Why a warm worker: importing torch and transformers takes seconds, and a person who clicked waits for the first point of
the curve. The standby has done all that before the click; it gets the run's id through a pipe and starts at once. A
forked copy of a warm process would be as quick but shares torch's threads with its parent, which slows both.

A worker whose run has finished says so and waits a moment: if the next run in turn is the same person's, as in a race,
it gets that one and spares it the imports; else it is let go. So one person's runs never meet another's in a process,
and one that failed, was stopped or died takes nothing with it into the next. On a CUDA device every run has a process
of its own.

A worker that dies before it took its run gives the run back, three times at most; a standby that dies is replaced, more
and more slowly while it keeps dying.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import core
from core.runs.claims import Claims
from core.runs.queue import Slot, environment, slots

logger = logging.getLogger("deltalab.runs")

TICK_SECONDS = 0.5  # how often to look when nothing wakes us
RENEW_SECONDS = 1.5  # a reservation lapses after LEASE_SECONDS (core.runs.claims)
READY_SECONDS = 180.0  # a worker that was handed a run and has not taken it after this long is ended
# With no free slot, the next standby warms up only when the run that just began has had this long for itself: on two
# cores the warm-up takes half of what a run has, and a run of a lesson is over by then.
WARM_DELAY_SECONDS = 30.0
BACK_OFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
SWEEP_SECONDS = 600.0


@dataclass(eq=False)
class Worker:
    """A child process. run: what it was handed, None for a standby; taken: it has said that the run is its own.
    owner: whose run that is. kept: it has carried one of theirs out, so it takes nobody else's."""

    process: subprocess.Popen[bytes]
    slot: Slot
    errors: IO[bytes]
    run: str | None = None
    owner: str | None = None
    kept: bool = False
    taken: bool = False
    ready: bool = False
    problem: str = ""
    since: float = field(default_factory=time.monotonic)
    renewed: float = 0.0

    def last_words(self) -> str:
        """The last line it wrote to standard error before it had a log."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 4096))
        lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""


class Supervisor:
    """Carries out what is queued in `store`, until `stop`; running workers go on without it.

    Args:
        store: where the runs are. Creating and cancelling through this same object wakes the supervisor at once;
            what other processes write is seen within half a second.
        places: the slots of this machine; `core.runs.queue.slots()` when None.
        warm: keep one worker warm; `$DELTALAB_WARM`=0 saves its memory (about half a gigabyte) and costs every run
            the time of its imports.
        command: how a worker is started.
    """

    def __init__(
        self,
        store: Claims,
        *,
        places: Sequence[Slot] | None = None,
        warm: bool | None = None,
        command: Sequence[str] = (sys.executable, "-m", "core.runs.worker"),
    ) -> None:
        self.store = store
        self.places = list(places) if places is not None else slots()
        self.warm = os.environ.get("DELTALAB_WARM", "1") != "0" if warm is None else warm
        self.command = list(command)
        self._workers: list[Worker] = []
        self._messages: queue.SimpleQueue[tuple[Worker, dict[str, Any]]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = False
        self._deaths = 0
        self._next_standby = 0.0
        self._next_sweep = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> Supervisor:
        """Begin, in a thread of its own; returns itself."""
        if self._thread is None:
            self._stopping = False
            self.store.on_change(self.wake)
            self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """End the standby and the thread. Runs in progress go on; queued ones wait for the next supervisor."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for worker in self._workers:
            if worker.process.stdin is not None:
                worker.process.stdin.close()  # a standby ends; a worker that has its run does not read it any more
        for worker in [w for w in self._workers if w.run is None]:
            try:
                worker.process.wait(3)
            except subprocess.TimeoutExpired:
                worker.process.kill()  # it was in the middle of an import
                worker.process.wait()
            worker.errors.close()
        self._workers.clear()

    def __enter__(self) -> Supervisor:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wake(self) -> None:
        """Look at the queue now. From any thread, also from a signal handler."""
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """For a status line: slots with what they do, whether a worker is warm, how many runs wait."""
        occupied = self.store.occupied()
        standby = self._standby()
        return {
            "slots": [
                {"name": place.name, "device": place.device, "run": occupied.get(place.name)} for place in self.places
            ],
            "standby": "none" if standby is None else "ready" if standby.ready else "warming",
            "standby_problem": standby.problem if standby else "",
            "waiting": len(self.store.waiting()),
        }

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stopping:
            try:
                self._tick()
            except Exception:
                # The database may be away for a while; the loop is what brings the runs on once it is back.
                logger.exception("the supervisor could not do its round; it tries again")
                time.sleep(TICK_SECONDS)
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()

    def _tick(self) -> None:
        self._listen()
        causes = self._bury()
        self._renew()
        # The kernel drops a dying worker's lock a moment before it tells us how it died; we wait for that.
        dying = {w.run for w in self._workers if w.run is not None}
        self.store.reap(causes, sparing=dying)
        self._assign()
        self._dismiss()
        self._care_for_standby()
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            self.store.sweep()

    def _listen(self) -> None:
        while not self._messages.empty():
            worker, message = self._messages.get()
            if "taken" in message:
                worker.taken = True
            elif "lost" in message and worker.run is not None and worker.run == message["lost"]:
                # Cancelled, or somebody else was quicker. The worker is as warm as before.
                self.store.release(worker.run, worker.slot.name)
                worker.run = None
            elif "done" in message and worker.run == message["done"]:
                worker.run, worker.kept = None, True  # `_assign` has another for it, or `_dismiss` ends it
            elif message.get("ready"):
                worker.ready, self._deaths = True, 0
            elif "sentence" in message:
                worker.problem = str(message["sentence"])
                logger.warning("the standby could not warm up: %s", worker.problem)

    def _bury(self) -> dict[str, str]:
        """Forget dead children; returns run id -> how its worker died."""
        causes = {}
        for worker in list(self._workers):
            status = worker.process.poll()
            if status is None:
                continue
            self._workers.remove(worker)
            how = _how_it_died(status)
            if worker.run is None and not worker.kept:
                self._deaths += 1
                wait = BACK_OFF_SECONDS[min(self._deaths, len(BACK_OFF_SECONDS)) - 1]
                self._next_standby = time.monotonic() + wait
                logger.warning("the standby worker %s; the next one starts in %g s", how, wait)
            elif worker.run is not None:
                causes[worker.run] = f"The worker process {how}."
                if not worker.taken:
                    words = worker.last_words()
                    sentence = f"The worker process could not start: it {how}" + (f" ({words})." if words else ".")
                    failure = (sentence, "Run `deltalab doctor` to see what is missing.")
                    self.store.release(worker.run, worker.slot.name, failure=failure)
            worker.errors.close()
            if worker.process.stdin is not None:
                worker.process.stdin.close()
        return causes

    def _renew(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.run is None or worker.taken:
                continue
            if now - worker.since > READY_SECONDS:
                worker.process.kill()
            elif now - worker.renewed > RENEW_SECONDS:
                worker.renewed = now
                self.store.renew(worker.run, worker.slot.name)

    def _free(self) -> list[Slot]:
        """Slots without a run in the store and without a child that has not quite ended yet."""
        taken = set(self.store.occupied()) | {w.slot.name for w in self._workers if w.run is not None}
        return [place for place in self.places if place.name not in taken]

    def _assign(self) -> None:
        free = self._free()
        if not free:
            return
        for run_id in self.store.waiting():
            if not free:
                return
            owner = self.store.owner_of(run_id)
            worker = self._kept(owner, free) or self._standby()
            warm_slot = next((p for p in free if worker is not None and p.device == worker.slot.device), None)
            place = warm_slot or free[0]
            free.remove(place)
            if not self.store.dispatch(run_id, place.name):
                continue  # another supervisor was quicker with the run or with the slot
            if worker is not None and warm_slot is not None:
                worker.slot = place
                self._hand_over(worker, run_id)
            else:
                worker = self._spawn(place, "--run", run_id)
                worker.run, worker.renewed = run_id, time.monotonic()
            worker.owner = owner

    def _kept(self, owner: str | None, free: Sequence[Slot]) -> Worker | None:
        """A worker whose last run was the same person's."""
        devices = {place.device for place in free}
        return next((w for w in self._between() if w.owner == owner and w.slot.device in devices), None)

    def _between(self) -> list[Worker]:
        """Workers whose run is over and that can be handed another."""
        idle = [w for w in self._workers if w.run is None and w.kept and w.process.poll() is None]
        return [w for w in idle if w.process.stdin is not None and not w.process.stdin.closed]

    def _dismiss(self) -> None:
        """Let those go that have nothing more to do."""
        for worker in self._between():
            assert worker.process.stdin is not None
            worker.process.stdin.close()

    def _hand_over(self, worker: Worker, run_id: str) -> None:
        worker.run, worker.taken = run_id, False
        worker.since = worker.renewed = time.monotonic()
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(f"{run_id}\n".encode())
            worker.process.stdin.flush()
        except BrokenPipeError:
            worker.process.kill()  # dead or dying: the next round gives the run back
            self.wake()

    # --- processes --------------------------------------------------------------------------------------------------

    def _standby(self) -> Worker | None:
        idle = (w for w in tuple(self._workers) if w.run is None and not w.kept)
        return next((w for w in idle if w.process.poll() is None), None)

    def _care_for_standby(self) -> None:
        now = time.monotonic()
        if not self.warm or self._stopping or now < self._next_standby or self._standby() is not None:
            return
        free = self._free()
        youngest = max((w.since for w in self._workers), default=-WARM_DELAY_SECONDS)
        if not free and now - youngest < WARM_DELAY_SECONDS:
            return
        self._spawn((free or self.places)[0], "--standby")

    def _spawn(self, place: Slot, *arguments: str) -> Worker:
        root = str(Path(core.__file__).resolve().parents[1])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        variables = {
            **os.environ,
            **environment(place, sharing=sum(p.device == "cpu" for p in self.places)),
            "DELTALAB_HOME": str(self.store.home),
            "DELTALAB_STORE": self.store.url,
            "PYTHONPATH": path,
            "TOKENIZERS_PARALLELISM": "false",
        }
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the worker is forgotten)
        process = subprocess.Popen(
            [*self.command, *arguments, *(["--stay"] if place.device == "cpu" else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=variables,
            cwd=self.store.home,
            start_new_session=True,  # no terminal's Ctrl-C, no server's end reaches it
        )
        worker = Worker(process, place, errors)
        self._workers.append(worker)
        threading.Thread(target=self._hear, args=(worker,), name="worker's voice", daemon=True).start()
        return worker

    def _hear(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # not from us: a library that printed before the pipe was moved out of its way
                self._messages.put((worker, message))
                self.wake()
        self.wake()


def _how_it_died(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    if status == -9:
        return "was killed (by the system, if memory ran out)"
    return f"was ended by signal {-status}"
