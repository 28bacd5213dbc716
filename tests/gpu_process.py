"""Processes of `make gpu` that cases are handed to, one after the other.

    with Processes("tests.gpu_steps") as processes:
        answer = processes.ask("tests.gpu_steps:one", case, key="tiny", seconds=60)

A case is JSON and so is the answer. What raises, crashes the interpreter, spoils the card's context or takes too long
costs its own answer, {"failed": a reason}: the process is ended with all that it has started, and the next case gets a
fresh one. Cases with the same key share a process, for it takes seconds to start one; the next one may be started ahead
(`spare`). `Ahead` has answers worked out beside the measuring, in the order in which they will be wanted.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 10  # times as long may everything take in a rehearsal, on who knows what machine
NO_TIME = "There was no time left for it."
SPOILT = "spoilt"  # in an answer: it is good, but the process should not be used again


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, and whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def why_left_out(absent: Sequence[str], left: Callable[[], float]) -> str:
    """Why a case is not begun: packages are absent, or there is no time (seconds that there are still); '' if it is."""
    if absent:
        return f"Not installed: {', '.join(absent)}."
    return NO_TIME if left() < 5 else ""


def quiet() -> None:
    """What libraries have to say is not kept: only what goes wrong is."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


class Process:
    """One process.

    Args:
        modules: to import before the first case; a function `prepare` in them is called.
        environment: variables that are set.
    """

    def __init__(self, modules: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `end`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu_process", *modules],
            cwd=ROOT, env={**os.environ, **(environment or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, start_new_session=True,
        )  # fmt: skip
        self.read = b""

    def ask(self, function: str, case: Any, seconds: float) -> dict[str, Any]:
        """The answer of `function` ("module:name") to a case, or {"failed": why there is none}."""
        assert self.process.stdin is not None
        until = time.monotonic() + seconds
        try:
            self.process.stdin.write(json.dumps([function, case]).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return {"failed": self._how_it_ended()}
        line = self._line(until)
        if line is None:
            return {"failed": f"It took more than {seconds:.0f} s."}
        if not line:
            return {"failed": self._how_it_ended()}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _line(self, until: float) -> bytes | None:
        """The next line; b'' if the process has ended, None if the time is up."""
        assert self.process.stdout is not None
        where = self.process.stdout.fileno()
        while b"\n" not in self.read:
            ready, _, _ = select.select([where], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            more = os.read(where, 1 << 16)
            if not more:
                return b""
            self.read += more
        line, _, self.read = self.read.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return "The process closed its output and did not end."
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"The process ended with {how}" + (f": {lines[-1][:250]}" if lines else ".")

    def end(self) -> None:
        """End it, and whatever it has started."""
        end_group(self.process)
        for file in (self.process.stdin, self.process.stdout, self.errors):
            try:
                assert file is not None
                file.close()
            except OSError:  # what was still to be written to it
                continue


class Processes:
    """A process at a time, by key.

    Args:
        spare: start the next one already while the present one works (where there are processors for it).
    """

    def __init__(self, *modules: str, environment: dict[str, str] | None = None, spare: bool = False) -> None:
        self.modules, self.environment, self.spare = modules, environment, spare
        self.current: Process | None = None
        self.next: Process | None = None
        self.key: Hashable = None

    def _start(self) -> Process:
        return Process(self.modules, self.environment)

    def ask(self, function: str, case: Any, key: Hashable = "", seconds: float = 60.0) -> dict[str, Any]:
        """As `Process.ask`, in a process that has seen only cases of this key, and none that failed."""
        if self.key != key:
            self.renew()
        if self.current is None:
            self.current, self.next, self.key = self.next or self._start(), None, key
            if self.spare:
                self.next = self._start()
        answer = self.current.ask(function, case, seconds)
        spoilt = answer.pop(SPOILT, False)
        if spoilt or "failed" in answer or "broken" in answer:
            self.renew()
        return answer

    def ask_within(
        self, function: str, case: Any, most: float, left: Callable[[], float], key: Hashable = ""
    ) -> dict[str, Any]:
        """As `ask`, for `most` seconds or as long as there is time; what that cuts off is left out, not failed."""
        seconds = min(most, left())
        answer = self.ask(function, case, key, seconds)
        late = "failed" in answer and seconds < most and left() < 1
        return {"left_out": NO_TIME} if late else answer

    def renew(self) -> None:
        """The next case gets a fresh process."""
        if self.current is not None:
            self.current.end()
        self.current = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.renew()
        if self.next is not None:
            self.next.end()
            self.next = None


def attached(seconds: float) -> dict[str, Any]:
    """What is attached (tests.gpu_memory:card), or {"failed": why that is not known}: asked in a process that ends
    then, since the one that asks never touches the card."""
    with Processes() as processes:
        return processes.ask("tests.gpu_memory:card", None, seconds=seconds)


class Ahead:
    """Answers worked out in the background, in one process that sees no card.

    Args:
        wanted: (key, function, case), in the order in which the answers will be wanted.
        seconds: that one may take.
    """

    def __init__(self, wanted: Sequence[tuple[Hashable, str, Any]], *modules: str, seconds: float = 60.0) -> None:
        self.wanted, self.seconds = wanted, seconds
        self.processes = Processes(*modules, environment={"CUDA_VISIBLE_DEVICES": ""})
        self.found: dict[Hashable, dict[str, Any]] = {}
        self.changed = threading.Condition()
        self.over = False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            for key, function, case in self.wanted:
                if self.over:
                    return
                answer = self.processes.ask(function, case, seconds=self.seconds)
                with self.changed:
                    self.found[key] = answer
                    self.changed.notify_all()
        finally:
            with self.changed:
                self.over = True
                self.changed.notify_all()

    def get(self, key: Hashable, seconds: float) -> dict[str, Any]:
        """The answer, waited for if need be; {"failed": …} if there is none."""
        with self.changed:
            self.changed.wait_for(lambda: key in self.found or self.over, seconds)
            return self.found.get(key, {"failed": "It was not worked out in time."})

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        while self.thread.is_alive():
            current = self.processes.current  # (it may be about to start one)
            if current is not None:
                current.process.kill()  # what waits for its answer is told so
            self.thread.join(0.1)
        self.processes.__exit__()


def serve(modules: Sequence[str]) -> int:
    """Answer cases from standard input, one to a line, until there are no more or one has raised."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the errors, not between the answers
    for name in modules:
        getattr(import_module(name), "prepare", lambda: None)()
    for line in iter(sys.stdin.readline, ""):
        function, case = json.loads(line)
        module, _, name = function.partition(":")
        try:
            answer = getattr(import_module(module), name)(case)
        except BaseException as error:
            traceback.print_exc()
            first = (str(error).strip().splitlines() or [""])[0]
            answer = {"failed": f"{type(error).__name__}: {first}"[:300]}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()
        if "failed" in answer:
            return 1  # who knows what it has left behind
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
