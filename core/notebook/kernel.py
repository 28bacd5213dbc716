"""One kernel: a process that runs one learner's code, and the thread of the server that drives it.

    kernel = Kernel(home, owner)
    execution = kernel.run("print(1)", seconds=30)       # starts the process if there is none; returns at once
    execution.over, execution.outputs.snapshot(), execution.sentence

The thread does everything with the process: it starts it, hands it one execution after the other, and between two looks
at the messages it sees to the limits. Too long: interrupt, and if the code does not listen, kill. Too much memory:
kill. Died by itself: say so. After any of these the next run starts a new process. Nobody has asked for a while: end
it, since its memory is worth more than its start.

The protocol is Jupyter's (jupyter_client), over sockets in a folder of the server's account or, where there are no such
sockets, over 127.0.0.1; every message is signed with a key that only the two ends know.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import Refused
from core.notebook.outputs import Outputs
from core.notebook.sandbox import Place, command, environment, sandbox
from core.units import GIB, bytes_text, seconds_text

logger = logging.getLogger("deltalab.notebook")

LOOK_SECONDS = 0.1
MEMORY_SECONDS = 0.2
START_SECONDS = 60.0
GRACE_SECONDS = 12.0  # after an interrupt, before the process is killed …
GRACE_COMPUTED = (
    3.0  # … or when it has computed for so long since: then it does not listen, and is not just kept waiting
)
IDLE_SECONDS = 15 * 60.0
MORE_SECONDS = 3.0  # for a check, beyond what the code it tries is given
WAITING = 24  # executions that may wait for one kernel
MOST_CODE = 16_000
MOST_MESSAGE = 16_000_000  # bytes
AGAIN = "Everything that cells had defined is gone; run them again from the top."


@dataclass
class Execution:
    """One run of a cell's code, watched while it happens.

    phase: queued → starting (the process) → running → over. end: ok | error | interrupted | too_long | too_large | died
    | dropped; empty while it is not over. sentence: how it ended, where the outputs do not say it. seconds: how long
    the code ran. pid: of the process that ran it: with another one, what it has defined is gone.
    """

    code: str
    seconds_allowed: float
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    name: str = ""
    check: tuple[str, str] | None = None
    outputs: Outputs = field(default_factory=Outputs)
    phase: str = "queued"
    end: str = ""
    sentence: str = ""
    began: float = 0.0
    seconds: float = 0.0
    pid: int | None = None

    @property
    def over(self) -> bool:
        return self.phase == "over"

    def close(self, end: str, sentence: str = "") -> None:
        """It has ended; what is said first stays."""
        if not self.over:
            self.end, self.sentence = end, sentence
            self.seconds = time.monotonic() - self.began if self.began else 0.0
            self.phase = "over"


class Gone(Exception):
    """The process is no more (or never was)."""


class Kernel:
    """A learner's kernel. Any thread may call its methods.

    Args:
        home: the server's data folder; the learner's folders are made in it.
        owner: whose it is.
        most_bytes: memory that the process may hold.
        idle_seconds: how long it lives without work.
    """

    def __init__(
        self, home: Path, owner: str, *, most_bytes: int = 4 * GIB, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self.home = home
        self.owner = owner
        self.most_bytes = most_bytes
        self.idle_seconds = idle_seconds
        self.used = time.monotonic()
        self._mutex = threading.Lock()
        self._queue: queue.SimpleQueue[Execution | None] = queue.SimpleQueue()
        self._open: list[Execution] = []
        self._thread: threading.Thread | None = None
        self._interrupt = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    # --- for everybody ----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether there is a process: what cells have defined is still there."""
        process = self._process
        return process is not None and process.poll() is None

    @property
    def busy(self) -> bool:
        """Whether something runs or waits."""
        return bool(self._open)

    @property
    def pid(self) -> int | None:
        """The process's number."""
        process = self._process
        return process.pid if process is not None else None

    def run(self, code: str, *, seconds: float, name: str = "", check: tuple[str, str] | None = None) -> Execution:
        """Queue code to run after what waits already.

        Args:
            seconds: how long it may run.
            name: of the cell.
            check: a lesson's checks.py and the function in it that looks at the outcome.

        Raises:
            Refused: too much waits already, or the code is too long.
        """
        if len(code) > MOST_CODE:
            raise Refused(f"A cell may hold {MOST_CODE:,} characters, not {len(code):,}.", "Shorten it.")
        execution = Execution(code, seconds, name=name, check=check)
        with self._mutex:
            if len(self._open) >= WAITING:
                raise Refused("Too many cells wait to be run.", "Wait for some, or stop them.")
            self._open.append(execution)
            self.used = time.monotonic()
            self._queue.put(execution)
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive, daemon=True, name="kernel")
                self._thread.start()
        return execution

    def interrupt(self) -> None:
        """Stop what runs, as Ctrl-C does, and drop what waits."""
        with self._mutex:
            waiting = self._open[1:]
        for one in waiting:
            one.close("dropped", "Not run: an earlier cell was stopped.")
        self._interrupt.set()

    def close(self) -> None:
        """End the process, at once; the next run starts another."""
        with self._mutex:
            thread = self._thread
            for one in self._open:
                one.close("interrupted", f"The kernel was started afresh. {AGAIN}")
            self._queue.put(None)
            process = self._process
        # The thread may wait for the process: it sees that it is gone, and leaves.
        if process is not None:
            _kill(process)
        if thread is not None and thread is not threading.current_thread():
            thread.join(10)

    restart = close

    # --- the thread -------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        line: _Line | None = None
        try:
            while True:
                try:
                    execution = self._queue.get(timeout=self.idle_seconds)
                except queue.Empty:
                    execution = None
                if execution is None:
                    with self._mutex:
                        if self._queue.empty():
                            self._thread = None
                            return
                    continue
                if not execution.over:
                    line = self._carry_out(execution, line)
                with self._mutex:
                    self._open.remove(execution)
                    self.used = time.monotonic()
                if not self._open:
                    self._interrupt.clear()
        except Exception:
            logger.exception("a kernel's thread failed")
            with self._mutex:
                self._thread = None
                left, self._open = self._open, []
                self._queue = queue.SimpleQueue()
            for one in left:
                one.close("died", f"The kernel could not be reached. {AGAIN}")
        finally:
            if line is not None:
                line.close()
                if self._process is line.process:  # and not that of a thread that was started meanwhile
                    self._process = None

    def _end(self, execution: Execution, end: str, sentence: str = "") -> None:
        """It is over. When it did not end well, neither is what waited behind it run; what is asked for from now on is
        (so both happen in one breath)."""
        with self._mutex:
            waiting = [one for one in self._open if one is not execution]
            execution.close(end, sentence)
            if execution.end != "ok":
                for one in waiting:
                    one.close("dropped", "Not run: an earlier cell did not end well.")

    def _carry_out(self, execution: Execution, line: _Line | None) -> _Line | None:
        """Run one execution to its end, whatever that is; returns the line to the process, None when it is gone."""
        self._interrupt.clear()
        if line is not None and line.process.poll() is not None:
            line.close()
            line = None
        try:
            if line is None:
                execution.phase = "starting"
                line = _Line(self.home, self.owner, self.most_bytes, self._started)
            execution.phase, execution.began, execution.pid = "running", time.monotonic(), line.process.pid
            parts = [(execution.code, execution.seconds_allowed, False)]
            if execution.check is not None:
                name = json.dumps(execution.name)
                arguments = ", ".join(map(json.dumps, execution.check))
                parts.insert(0, (f"{_INSIDE}.begin({name}, globals())", START_SECONDS, True))
                seconds = execution.seconds_allowed + MORE_SECONDS
                parts.append((f"{_INSIDE}.check({name}, {arguments}, globals())", seconds, True))
            for code, seconds, silent in parts:
                end, sentence = self._watch(line, execution, code, seconds, silent)
                if end != "ok":
                    self._end(execution, end, sentence)
                    break
            else:
                self._end(execution, "ok")
        except Gone as gone:
            self._end(execution, "died", f"{gone} {AGAIN}")
        if line is not None and line.process.poll() is not None:
            line.close()
            line = None
            self._process = None
        return line

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def _watch(self, line: _Line, execution: Execution, code: str, seconds: float, silent: bool) -> tuple[str, str]:
        """Have code executed, collect what it says, and see to the limits. Returns how it ended, and a sentence."""
        number = line.execute(code, silent=silent)
        began = time.monotonic()
        deadline = began + seconds
        asked_at, again_at, computed, why = 0.0, 0.0, 0.0, ""
        looked_at = 0.0
        status = ""
        replied_at = 0.0
        while True:
            for kind, content in line.messages(number, LOOK_SECONDS):
                if kind == "reply":
                    status, replied_at = str(content.get("status", "error")), time.monotonic()
                elif kind == "idle":
                    replied_at = replied_at or -1.0
                else:
                    execution.outputs.message(kind, content)
            now = time.monotonic()
            # The kernel says twice that it is done. A flood of output can drown the one that comes among the output.
            if status and (line.idle(number) or now - replied_at > 1.0):
                if not line.idle(number):
                    execution.outputs.add({"kind": "note", "text": "A part of the output was too large to be shown."})
                    line.reconnect()
                break
            if line.process.poll() is not None:
                for kind, content in line.messages(number, LOOK_SECONDS):  # its last words
                    if kind not in ("reply", "idle"):
                        execution.outputs.message(kind, content)
                raise Gone(_death(line.process.returncode))
            if now - looked_at > MEMORY_SECONDS:
                looked_at = now
                held = line.held_bytes()
                if held > self.most_bytes:
                    _kill(line.process)
                    return "too_large", (
                        f"Your code took {bytes_text(held)} of memory; a cell may take {bytes_text(self.most_bytes)}, "
                        f"so the kernel was ended. {AGAIN}"
                    )
            if not why and (self._interrupt.is_set() or now > deadline):
                why = "interrupted" if self._interrupt.is_set() else "too_long"
                asked_at, again_at, computed = now, 0.0, line.computed_seconds()
            if why and now - again_at > 0.5:  # more than once: between two lines of the kernel's own, it is lost
                again_at = now
                line.interrupt()
            if why and (now - asked_at > GRACE_SECONDS or line.computed_seconds() - computed > GRACE_COMPUTED):
                _kill(line.process)
                said = "You stopped it" if why == "interrupted" else f"It ran longer than {seconds_text(seconds)}"
                return why, f"{said}, and it did not listen, so the kernel was ended. {AGAIN}"
        if why == "interrupted":
            return why, "Stopped. What was defined before is still there."
        if why == "too_long":
            return why, (
                f"Stopped: it ran longer than {seconds_text(seconds)}, which is the limit of this cell. "
                "Is there a loop that never ends?"
            )
        return ("ok" if status == "ok" else "error"), ""


_INSIDE = "__import__('core.notebook.inside', fromlist=['inside'])"


def _death(code: int) -> str:
    """How a process died that nobody here has killed."""
    if code in (-9, 137):
        return "The kernel was killed from outside, perhaps because the machine ran out of memory."
    return "The kernel has ended by itself, as when code calls exit or a library crashes."


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything that it has started."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.Error:
        family = []
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        logger.warning("a kernel's process does not end")


class _Line:
    """The server's end of the line to one process; used by one thread.

    Raises:
        Gone: the process did not start.
    """

    def __init__(self, home: Path, owner: str, most_bytes: int, started: Any) -> None:
        from jupyter_client.connect import write_connection_file

        self.place = Place.of(home, owner)
        self._family: list[Any] = []
        self._family_at = 0.0
        self._idle: set[str] = set()
        local = hasattr(os, "mkfifo")  # sockets with a path, as on every Unix
        file, facts = write_connection_file(
            str(self.place.line / "connection.json"),
            transport="ipc" if local else "tcp",
            ip=str(self.place.line / "socket") if local else "127.0.0.1",
            key=os.urandom(32).hex().encode(),
            kernel_name="deltalab",
        )
        log = self.place.folder / "kernel.log"
        arguments = ["-m", "core.notebook.process", file, str(most_bytes)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command(arguments, self.place, home, sandboxed=sandbox().on),
                env=environment(self.place), cwd=self.place.work, stdin=subprocess.PIPE, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        started(self.process)
        self._facts, self._log = facts, log
        self.client = self._connected()
        try:
            self._wait()
        except Gone:
            self.close()
            raise
        finally:
            # Both ends have read it, and a file could be read by others.
            Path(file).unlink(missing_ok=True)

    def _connected(self) -> Any:
        import zmq
        from jupyter_client.blocking.client import BlockingKernelClient

        client = BlockingKernelClient()
        # What is larger is not received: one print of a gigabyte must not become the server's gigabyte.
        client.context.setsockopt(zmq.MAXMSGSIZE, MOST_MESSAGE)
        client.load_connection_info(self._facts)
        client.start_channels(stdin=False, hb=False)  # the others: requests, outputs, interrupts
        return client

    def reconnect(self) -> None:
        """Connect anew: a message that was too large has ended the connection.

        Raises:
            Gone: the process does not answer.
        """
        self.client.stop_channels()
        self.client = self._connected()
        self._wait()

    def _wait(self) -> None:
        """Until the process answers, and what it says is heard here."""
        deadline = time.monotonic() + START_SECONDS
        asked_at = 0.0
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                said = (self._log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
                logger.error("a kernel did not start; it said: %s", said)
                raise Gone("The kernel did not start.")
            if time.monotonic() - asked_at > 1.0:
                # Each question is also answered on the channel of outputs; the first answer there shows that it is on.
                self.client.kernel_info()
                asked_at = time.monotonic()
            try:
                self.client.get_iopub_msg(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            return
        _kill(self.process)
        raise Gone("The kernel did not start in time.")

    def execute(self, code: str, *, silent: bool) -> str:
        """Send code; returns the number of the request."""
        self._idle.clear()
        return str(self.client.execute(code, silent=silent, store_history=not silent, allow_stdin=False))

    def messages(self, number: str, seconds: float) -> list[tuple[str, Mapping[str, Any]]]:
        """What has come for a request, waiting so long for the first."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        wait = seconds
        for _ in range(400):  # then the limits are looked at again
            try:
                message = self.client.get_iopub_msg(timeout=wait)
            except queue.Empty:
                break
            wait = 0
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status":
                if content["execution_state"] == "idle":
                    self._idle.add(number)
                    found.append(("idle", content))
                    break
            elif kind != "execute_input":
                found.append((kind, content))
        try:
            while True:
                reply = self.client.get_shell_msg(timeout=0.5 if number in self._idle else 0)
                if reply["parent_header"].get("msg_id") == number:
                    found.append(("reply", reply["content"]))
                    break
        except queue.Empty:
            pass
        return found

    def idle(self, number: str) -> bool:
        """Whether the kernel has said that it is done with a request."""
        return number in self._idle

    def interrupt(self) -> None:
        """Ask the process to stop what it does, as Ctrl-C would. (By message: a signal would hit the sandbox.)"""
        self.client.control_channel.send(self.client.session.msg("interrupt_request", {}))

    def held_bytes(self) -> int:
        """Memory of the process and of what it has started."""
        import psutil

        now = time.monotonic()
        if now - self._family_at > 1.0:
            try:
                self._family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(True)]
            except psutil.Error:
                self._family = []
            self._family_at = now
        total = 0
        for one in self._family:
            try:
                total += one.memory_info().rss
            except psutil.Error:
                continue
        return total

    def computed_seconds(self) -> float:
        """Processor time of the process and of what it has started."""
        import psutil

        total = 0.0
        for one in self._family:
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        """End the process and the sockets."""
        if self.process.poll() is None:
            _kill(self.process)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.client.stop_channels()
        self.place.clear()


def share_of_memory() -> int:
    """Bytes that a kernel may hold by default: 4 GiB, and no more than half of the machine's."""
    from core.hardware import memory_bytes

    return max(GIB, min(4 * GIB, memory_bytes() // 2))


__all__ = ["AGAIN", "MOST_CODE", "Execution", "Gone", "Kernel", "share_of_memory"]
