"""Traces and fits in a process of their own, kept warm: the server imports no torch, and a trace puts much of torch
aside while it is on (`core.memory.meta`).

    tracer = Tracer()
    tracer.trace("Llama-3.1-8B", setup)            # -> what core.memory.trace.Trace.to_dict gives
    tracer.fit("owner/model", setup, tell=print)   # -> a Surrogate

The process starts at the first question, which takes seconds, answers one at a time, and ends with `close`. Questions
and answers are JSON, one to a line.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from core.architecture import Architecture
from core.errors import BadInput, BaseUnavailable, DeltalabError, Incompatible, NotFound
from core.memory.estimate import Sizes, Surrogate, Unstable, key_of
from core.memory.setup import Setup

Tell = Callable[[float, str], None]
MOST_SECONDS = 600.0
_KINDS: dict[str, type[DeltalabError]] = {
    k.kind: k for k in (BadInput, BaseUnavailable, Incompatible, NotFound, Unstable)
}


class Tracer:
    """The server's side; any thread may ask. One per server process.

    Args:
        command: how the process is started.
    """

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "core.memory.tracer")) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._fitted: dict[tuple[str, str], Surrogate] = {}
        atexit.register(self.close)

    def trace(self, model: str, setup: Setup, tell: Tell = lambda share, text: None) -> dict[str, Any]:
        """The trace of a step.

        Args:
            model: a name of the catalogue, a folder, or a hub id. tell: hears how far it is.

        Returns:
            ledger, timeline, tensors, trainable, total, kernels and reserved_bytes (simulated; 0 on a CPU).

        Raises:
            DeltalabError: as `core.memory.trace.trace` and `core.base.load_config`; or the process broke off.
        """
        return self._ask({"do": "trace", "model": model, "setup": setup.to_dict()}, tell)

    def fit(self, model: str, setup: Setup, tell: Tell = lambda share, text: None) -> Surrogate:
        """The surrogate of a model and a setup, for all sizes that go the same way; kept for the next question.

        Raises:
            Unstable: no surrogate gives the traces' bytes; `trace` does. DeltalabError: as `trace`.
        """
        known = self._fitted.get((model, key_of(setup)))
        if known is not None and known.holds(Sizes.of(setup)):
            return known
        made = Surrogate.from_dict(self._ask({"do": "fit", "model": model, "setup": setup.to_dict()}, tell))
        self._fitted[model, made.key] = made
        return made

    def architecture(self, model: str) -> Architecture:
        """The table of modules of a model that the catalogue does not have (`core.catalog.architecture_of` is faster).

        Raises:
            DeltalabError: as `trace`.
        """
        return Architecture.from_dict(self._ask({"do": "architecture", "model": model}, lambda share, text: None))

    def warm(self) -> None:
        """Start the process and have it import what it will need, before anybody waits for an answer."""
        self._ask({"do": "warm"}, lambda share, text: None)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _ask(self, question: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
        with self._turn:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            alarm = threading.Timer(MOST_SECONDS, process.kill)
            alarm.daemon = True
            alarm.start()
            try:
                process.stdin.write((json.dumps(question) + "\n").encode())
                process.stdin.flush()
                for line in process.stdout:
                    said = json.loads(line)
                    if "result" in said:
                        result: dict[str, Any] = said["result"]
                        return result
                    if "error" in said:
                        error = said["error"]
                        raise _KINDS.get(error["kind"], DeltalabError)(error["sentence"], error["advice"])
                    tell(said["share"], said["text"])
            except BrokenPipeError:
                pass
            finally:
                alarm.cancel()
            self.close()
            raise DeltalabError(
                "The trace ended without an answer.", "There may be too little memory: wait until no run is active."
            )

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            from pathlib import Path

            import core

            root = str(Path(core.__file__).resolve().parents[1])
            path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}, start_new_session=True,
            )  # fmt: skip
        return self._process


# --- the process ------------------------------------------------------------------------------------------------------


def answer(question: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Carry a question out in this process.

    Raises:
        DeltalabError: as the trace does.
    """
    import warnings

    from core.architecture import architecture_of_config
    from core.catalog import configuration
    from core.memory.fit import fit
    from core.memory.trace import trace

    warnings.simplefilter("ignore")
    if question["do"] == "warm":
        from importlib.util import find_spec

        if find_spec("bitsandbytes") is not None:
            import bitsandbytes  # noqa: F401 (a step in four bits asks for it)
        from transformers import AutoModelForCausalLM

        return {"ready": AutoModelForCausalLM.__name__}
    tell(0.0, "Reading the model's configuration")
    config = configuration(question["model"])
    if question["do"] == "architecture":
        return architecture_of_config(config, question["model"]).to_dict()
    setup = Setup.from_dict(question["setup"])
    if question["do"] == "fit":
        return fit(config, setup, question["model"], tell).to_dict()
    tell(0.1, "Running the step on tensors without data")
    found = trace(config, setup)
    reserved = 0
    if setup.device.is_cuda:
        from core.memory.allocator import replay

        tell(0.8, "Replaying the allocator")
        reserved = replay(found).most_reserved
    return {**found.to_dict(), "reserved_bytes": reserved}


def main() -> int:
    """Answer the questions that come on standard input."""
    if hasattr(os, "nice"):
        os.nice(5)
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be taken for a line of ours

    def write(record: Mapping[str, Any]) -> None:
        os.write(out, (json.dumps(record) + "\n").encode())

    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            try:
                write({"result": answer(json.loads(line), lambda share, text: write({"share": share, "text": text}))})
            except DeltalabError as error:
                write({"error": {"kind": error.kind, "sentence": error.sentence, "advice": error.advice}})
            except BrokenPipeError:
                raise
            except Exception as error:
                told = broke_off(error)
                write({"error": {"kind": told.kind, "sentence": told.sentence, "advice": told.advice}})
    return 0


def broke_off(error: BaseException) -> DeltalabError:
    """What some library raised in the middle of a trace, as a sentence."""
    said = (str(error).strip().splitlines() or ["no message"])[0][:160].rstrip(".")
    return DeltalabError(
        f"The trace broke off with {type(error).__name__}: {said}.",
        "This architecture may do what tensors without data cannot; train it and see.",
    )


if __name__ == "__main__":
    sys.exit(main())
