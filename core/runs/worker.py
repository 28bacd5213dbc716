"""The process that carries out a run: it takes the run, trains, writes down what happens, and ends.

    python -m core.runs.worker --run ID     take this run now
    python -m core.runs.worker --standby    import and warm up everything, then wait for a run id on standard input

With --stay it says `done` after a run that finished and waits for another id, until its standard input is closed: the
supervisor hands it the next run of the same person, of a race say, which then waits for no imports. What a run leaves
behind is let go first (`let_go`), and after any other end than a finished one the process ends too. It ends in any case
on a CUDA device, where what the device keeps for a process would count as the next run's memory, and after a run whose
layers were compiled, which leaves the compiler's caches and helpers.

How it works: the main thread walks through `core.train.train`; a second thread, a few times a second, writes the events
to the store and reads from it whether the run was cancelled, deleted, or has had its time. Between two writes the
events stand in a journal in the run's folder, so that a SIGKILL loses none. The file lock on the run is held from the
claim to the last write; when the process dies the kernel drops it, and that is how everybody else knows.

A worker depends on nobody: it is in a session of its own, and the server may stop, crash or restart while it trains.
Inside another program (the command line), `execute` does the same in that program's process.

Made for Linux and macOS; on Windows the lock falls back to one that Windows has.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.exc import InterfaceError, OperationalError

from core.config import RunConfig
from core.errors import BadInput, DeltalabError, OutOfMemory
from core.events import Event, Failed, Started, Step, Stopped, to_dict
from core.memory.own import share
from core.runs.claims import CHECKPOINT, LOCK, Claim, Claims, ending
from core.runs.journal import Journal, clean
from core.runs.locks import FileLock
from core.runs.store import Store
from core.units import seconds_text

BATCH_SECONDS = 0.25  # events are written, and orders read, this often
LOCK_WAIT_SECONDS = 2.0  # somebody who only looks whether the lock is free has it for a moment
STOP_GRACE_SECONDS = 60.0  # a run that was told to stop and does not come to the end of a step is cut off
STORE_PATIENCE_SECONDS = 120.0  # without a store for this long, a worker gives up; its journal stays
NICENESS = 10  # the server and the browser go first

FINISHED, FAILED, NOT_TAKEN, CUT_OFF = 0, 1, 3, 4  # exit statuses


class Trainer(Protocol):
    """`core.train.train`, or something that keeps its contract."""

    def __call__(
        self, config: RunConfig, folder: Path, *, resume: bool = False, should_stop: Callable[[], bool] = ...
    ) -> Iterator[Event]: ...


def execute(
    store: Claims,
    run_id: str,
    on_event: Callable[[Event], None] | None = None,
    *,
    train: Trainer | None = None,
    on_claim: Callable[[Claim], None] | None = None,
    max_seconds: float | None = None,
    signals: bool = True,
) -> str | None:
    """Carry out a queued run in this process, to its end.

    Args:
        on_event: called with every event, in this thread, after it was made safe.
        train: takes the place of `core.train.train`.
        on_claim: called once the run is ours, before anything else.
        max_seconds: wall-clock limit of this attempt; `$DELTALAB_MAX_SECONDS`, else twelve hours.
        signals: let SIGTERM and SIGINT stop the run after its step (only possible in a main thread).

    Returns:
        The status the run ended with, or None if it could not be taken: it is gone, not queued any more, or another
        worker has it.
    """
    lock = FileLock(store.runs_folder / run_id / LOCK)
    try:
        if not lock.acquire(LOCK_WAIT_SECONDS):
            return None
    except FileNotFoundError:
        return None  # deleted
    with lock:
        lock.write(f"{os.getpid()}\n")
        limit = max_seconds or _limit_seconds()
        claim = store.claim(run_id)
        if claim is None:
            return None
        if on_claim is not None:
            on_claim(claim)
        try:
            with Scribe(store, claim, limit) as scribe, _stopping_on_signals(scribe, signals):
                final = _carry_out(claim, scribe, on_event, train)
        except Gone:
            return None
        if final[0] == "finished":
            # Only now: until the end stands in the store, the checkpoint is what a killed run goes on from.
            (claim.folder / CHECKPOINT).unlink(missing_ok=True)
        return final[0]


def _limit_seconds() -> float:
    text = os.environ.get("DELTALAB_MAX_SECONDS", "").strip()
    try:
        return float(text) if text else 12 * 3600.0
    except ValueError:
        raise BadInput(f"DELTALAB_MAX_SECONDS must be a number of seconds, not {text!r}.") from None


def _carry_out(
    claim: Claim, scribe: Scribe, on_event: Callable[[Event], None] | None, train: Trainer | None
) -> tuple[str, str, str]:
    """Train; returns (status, sentence, advice), which stands in the store by then."""
    step = 0
    try:
        if train is None:
            # Inside the try: an installation that cannot import torch must say so in the run's record.
            from core.train import train as real_train

            train = real_train
        events = train(claim.config(), claim.folder, resume=claim.resume, should_stop=scribe.should_stop)
        for event in events:
            step = getattr(event, "step", step)
            if isinstance(event, Started) and event.config.get("data"):
                # The record holds the path inside the run's folder, not where that folder is on this machine.
                event = dataclasses.replace(event, config={**event.config, "data": claim.settings.get("data")})
            if isinstance(event, Stopped) and scribe.out_of_time:
                event = _time_is_up(event.step, scribe.limit_seconds)
            final = scribe.write(event)
            if on_event is not None:
                on_event(event)
            if final is not None:
                return final
        failed = Failed(step, "defect", "The training ended without saying how.", _LOOK_AT_LOG)
    except DeltalabError as error:
        failed = Failed(step, error.kind, error.sentence, error.advice)
    except MemoryError:
        failed = Failed(step, OutOfMemory.kind, "The machine ran out of memory.", "Lower batch_size or max_length.")
    except KeyboardInterrupt:
        scribe.end(("interrupted", f"Interrupted from the keyboard after step {step}.", "Resume it to go on."))
        raise
    except (Exception, SystemExit) as error:
        _log(claim.folder, traceback.format_exc())
        failed = Failed(step, "defect", _sentence(error), _LOOK_AT_LOG)
    final = scribe.write(failed)
    assert final is not None
    if on_event is not None:
        on_event(failed)
    return final


_LOOK_AT_LOG = "This is a defect of Deltalab or of its installation: the run's log.txt has the details."


def _sentence(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"The run broke off with {type(error).__name__}" + (f": {said[0][:200]}" if said else "") + "."


def _time_is_up(step: int, limit_seconds: float) -> Failed:
    return Failed(
        step,
        "time_limit",
        f"The run was stopped after step {step}, at its limit of {seconds_text(limit_seconds)}.",
        "Resume it for as much time again, or raise DELTALAB_MAX_SECONDS.",
    )


def _log(folder: Path, text: str) -> None:
    with (folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write(text)


class Gone(BaseException):
    """The run was deleted or given to another worker: stop without a word. Not an Exception, so nobody handles it."""


class Scribe:
    """Writes a run's events to the store from a thread of its own, and brings back orders.

    Used as a context manager around the training. `write` makes an event safe at once (journal) and returns how the
    run ended if this event was its last; `should_stop` is what the training asks.
    """

    def __init__(self, store: Claims, claim: Claim, limit_seconds: float) -> None:
        self.store = store
        self.claim = claim
        self.limit_seconds = limit_seconds
        self.out_of_time = False
        self.cancelled = False
        self.stopped_by_signal = False
        self._began = time.monotonic()
        self._stop_since: float | None = None
        self._seq = claim.next_seq
        self._stepped = False
        self._journal = Journal(claim.folder)
        self._wake = threading.Event()
        self._closing = False
        self._ended = False
        self._gone = False
        self._defect: Exception | None = None
        self._writing = threading.RLock()  # one write to the store at a time
        self._adding = threading.Lock()  # one number per event
        self._thread = threading.Thread(target=self._loop, name="scribe", daemon=True)

    def __enter__(self) -> Scribe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._journal.close()

    def should_stop(self) -> bool:
        """Whether the run is to end after this step.

        Raises:
            Gone: there is nothing left to end.
        """
        if self._gone:
            raise Gone
        if self._defect is not None:
            raise self._defect
        return self.cancelled or self.out_of_time or self.stopped_by_signal

    def stop(self) -> None:
        """End the run after this step, because the machine or the terminal asks for it."""
        self.stopped_by_signal = True

    def write(self, event: Event) -> tuple[str, str, str] | None:
        """Keep an event. The last one of a run is in the store, with the run's end, when this returns.

        Raises:
            Gone: the run was deleted or taken away.
        """
        if self._gone:
            raise Gone
        record = clean(to_dict(event))
        final = ending(record, cancelled=self.cancelled)
        if final is not None:
            self.end(final, record)
            if self._gone:
                raise Gone
            return final
        self._add(record)
        first_step = isinstance(event, Step) and not self._stepped
        self._stepped = self._stepped or first_step
        if first_step or not isinstance(event, Step):
            self._wake.set()  # what people wait for is written now; the many steps after it, a batch at a time
        return None

    def end(self, final: tuple[str, str, str], record: dict[str, Any] | None = None) -> None:
        """Write how the run ended, with its last event and everything before it, in one transaction."""
        # The last event must not reach the store alone: whoever reads it there may rely on the run's end being there.
        with self._writing:
            if record is not None:
                self._add(record)
            self._flush(final)

    def _add(self, record: dict[str, Any]) -> None:
        with self._adding:
            self._journal.add(self._seq, record)
            self._seq += 1

    def _loop(self) -> None:
        try:
            while not self._closing:
                self._wake.wait(BATCH_SECONDS)
                self._wake.clear()
                if not self._closing:
                    self._flush()
                    self._watch()
        except Exception as error:  # handed to the training's thread, which reports it
            self._defect = error

    def _flush(self, final: tuple[str, str, str] | None = None) -> None:
        """Bring the journal's events into the store; with `final`, the end of the run in the same transaction."""
        patience = time.monotonic() + STORE_PATIENCE_SECONDS
        while not self._gone:
            with self._writing:
                if self._ended:
                    return  # by the other thread, meanwhile; to the store this run is no longer ours
                taken = self._journal.take()
                try:
                    orders = self.store.record(self.claim, taken, final=final)
                except (OperationalError, InterfaceError) as error:
                    # A full disk or a database that restarts: the journal has everything, so trying again is safe.
                    self._journal.give_back(taken)
                    if time.monotonic() > patience:
                        raise
                    _complain(f"the store cannot be written, trying again: {error.orig}")
                else:
                    self._journal.done()
                    self._gone = orders.gone
                    self._ended = final is not None
                    self.cancelled = self.cancelled or orders.cancel
                    return
            time.sleep(BATCH_SECONDS)

    def _watch(self) -> None:
        now = time.monotonic()
        if now - self._began > self.limit_seconds:
            self.out_of_time = True
        if not (self._gone or self.cancelled or self.out_of_time or self.stopped_by_signal):
            return
        self._stop_since = self._stop_since or now
        # A step (or a download) that does not end must not hold a slot for ever. Files are safe: they appear whole.
        if now - self._stop_since > STOP_GRACE_SECONDS:
            self._cut_off()

    def _cut_off(self) -> None:
        if not self._gone:
            status = "failed" if self.out_of_time else "cancelled" if self.cancelled else "interrupted"
            seconds = seconds_text(STOP_GRACE_SECONDS)
            self.end((status, f"Cut off: the step did not end within {seconds} of the request to stop.", "Resume it."))
        _complain("cut off in the middle of a step")
        os._exit(CUT_OFF)


def _complain(text: str) -> None:
    """A line for the log; a worker's standard error is its run's log.txt."""
    print(f"{time.strftime('%H:%M:%S')} worker {os.getpid()}: {text}", file=sys.stderr, flush=True)


@contextmanager
def _stopping_on_signals(scribe: Scribe, wanted: bool) -> Iterator[None]:
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, _frame: Any) -> None:
        if scribe.stopped_by_signal and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        scribe.stop()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the process ------------------------------------------------------------------------------------------------------


def warm_up(folder: Path) -> Iterator[str]:
    """Do once, before anybody waits for it, what the first run would otherwise wait for: imports, the embedded base in
    the page cache, the first step's memory and kernels. Yields the name of each part when it is done."""
    from core.config import TrainConfig
    from core.train import train

    yield "engine"
    tiny = TrainConfig(learning_rate=1e-3, steps=2, train_examples=128, eval_items=4, skill_items=0)
    for event in train(RunConfig(task="json", method="lora", train=tiny), folder):
        if isinstance(event, Failed):
            raise DeltalabError(event.sentence, event.advice)
    yield "step"
    import bitsandbytes  # noqa: F401 (importing it is the point: QLoRA needs it, and it takes a second)

    yield "bitsandbytes"


class Line:
    """The pipe to the supervisor: run ids come in on standard input, one JSON object per line goes out.

    Standard output is moved away, so that whatever a library prints cannot be taken for an answer.
    """

    def __init__(self) -> None:
        self._out = os.dup(1)
        self._errors = os.dup(2)
        os.dup2(2, 1)
        self._buffer = b""
        self.closed = False
        self.compiled = False  # the run that was taken last compiles its layers

    def say(self, **message: Any) -> None:
        try:
            os.write(self._out, (json.dumps(message) + "\n").encode())
        except BrokenPipeError:
            self.closed = True  # the server is gone; a run that was handed over is carried out all the same

    def own_voice(self) -> None:
        """What is printed goes where it went before a run's log took it over (`_taken`)."""
        os.dup2(self._errors, 1)
        os.dup2(self._errors, 2)

    def ready(self) -> bool:
        """Whether `next` would return at once."""
        return b"\n" in self._buffer or bool(select.select([0], [], [], 0)[0])

    def next(self) -> str | None:
        """The next run id; None when the supervisor has closed the pipe (or died)."""
        while b"\n" not in self._buffer:
            piece = os.read(0, 4096)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode().strip()


def standby(
    store: Store,
    *,
    train: Trainer | None = None,
    warm: Callable[[Path], Iterator[str]] = warm_up,
    stay: bool = False,
) -> int:
    """Warm up, wait for a run id, carry that run out. A run that another worker got first costs nothing: wait on."""
    line = Line()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="deltalab-warm-") as folder:
            for part in warm(Path(folder)):
                line.say(warm=part, seconds=round(time.monotonic() - began, 3))
                if line.ready():
                    break  # somebody waits (or the supervisor is gone): the rest comes as it is needed
        line.say(ready=True, seconds=round(time.monotonic() - began, 3))
    except Exception as error:
        # Not the end: a run may need less than this, and if not, its record is where the reason belongs.
        traceback.print_exc()
        line.say(ready=False, sentence=_sentence(error))
    return serve(store, line, train=train, stay=stay)


def serve(store: Store, line: Line, first: str | None = None, *, train: Trainer | None = None, stay: bool) -> int:
    """Carry out a run (`first`, or the one that the line names); with `stay`, those after it too, one at a time, as
    long as each finishes. Returns the exit status."""
    run_id = first
    while (run_id := run_id or line.next()) is not None:
        ended = execute(store, run_id, train=train, on_claim=partial(_taken, line))
        if ended is None:
            if run_id == first:
                return NOT_TAKEN
            line.say(lost=run_id)
        elif ended != "finished":
            return FAILED
        elif not (stay and _may_stay(line)):
            return FINISHED
        else:
            line.own_voice()
            let_go()
            line.say(done=run_id)
        run_id = None
    return FINISHED


def _may_stay(line: Line) -> bool:
    """Not on a CUDA device, whose context and reserved memory stay as long as the process does; nor once the compiler
    was at work."""
    torch = sys.modules.get("torch")
    return not line.compiled and (torch is None or not torch.cuda.is_initialized())


def let_go() -> None:
    """Give back what a run that is over has left: objects that hang on each other, and memory that the C library holds
    free. Not all of it goes, so of the runs that follow the size of the process is not told (core/memory/own.py)."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()  # what was compiled for another model
    gc.collect()
    # What is left are libraries, half a million objects by now: looking through them again would find nothing, and take
    # a third of a second after every run and time within it.
    gc.freeze()
    with suppress(OSError, AttributeError):  # (glibc's; others have their own ways)
        ctypes.CDLL(None).malloc_trim(0)
    share()


def _taken(line: Line, claim: Claim) -> None:
    """The run is ours: tell the supervisor. From here on, everything printed (also by C code) goes to the run's log."""
    line.say(taken=claim.id)
    line.compiled = bool(claim.settings.get("train", {}).get("compile"))
    fd = os.open(claim.folder / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    _complain(f"attempt {claim.attempt}" + (", from the checkpoint" if claim.resume else ""))


def main(
    argv: list[str] | None = None,
    *,
    train: Trainer | None = None,
    warm: Callable[[Path], Iterator[str]] = warm_up,
) -> int:
    """The worker's command line. The store is the one of `$DELTALAB_STORE` and `$DELTALAB_HOME`."""
    parser = argparse.ArgumentParser(prog="python -m core.runs.worker", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="ID", help="take this run now")
    what.add_argument("--standby", action="store_true", help="warm up, then wait for a run id on standard input")
    parser.add_argument("--stay", action="store_true", help="after a finished run, wait for another run id")
    arguments = parser.parse_args(argv)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    store = Store()
    if arguments.standby:
        return standby(store, train=train, warm=warm, stay=arguments.stay)
    return serve(store, Line(), arguments.run, train=train, stay=arguments.stay)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's orderly end: tearing torch down takes seconds, and the device is to be free now.
    os._exit(status)
