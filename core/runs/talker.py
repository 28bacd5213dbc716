"""Chat with what the runs made: one process that keeps models loaded, and the server's end of the line to it.

    talker = Talker(store)
    for piece in talker.ask(run.id, messages=[{"role": "user", "content": "Hi"}], owner=me): …
    for side, piece in talker.pair(run.id, messages=…, owner=me): …          # side is "before" or "after"

The server checks that the run is the owner's and hands over folders; the process loads, switches the change off and on
again for before and after, and streams pieces of text back, as JSON lines over pipes. It answers one question at a
time. It is started at the first question, ends by itself when nobody has asked for a while (its memory is worth more
than its start-up time), and is started anew if it died.

What it keeps: one model per base, method and settings. Two runs that differ only in what they learnt share a model, and
the adapter is swapped; the least recently used model goes when there are too many or they are too large.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import core
from core import errors
from core.config import EMBEDDED
from core.errors import BadInput, DeltalabError, Refused
from core.runs.store import Store

if TYPE_CHECKING:
    from core.base import Base
    from core.methods.base import Attached

logger = logging.getLogger("deltalab.chat")

IDLE_SECONDS = 600.0
SILENCE_SECONDS = 600.0  # a question may wait for others, and a base may have to be downloaded first
MODELS = 4
MEMORY_SHARE = 0.35  # of the device's memory, for the models kept
MOST_TOKENS = 1024
MOST_CHARACTERS = 20_000
NICENESS = 5  # before training, behind the server

KINDS: dict[str, type[DeltalabError]] = {
    cls.kind: cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, DeltalabError)
}

Messages = Sequence[Mapping[str, str]]


class Talker:
    """The server's end: any thread may ask. One per server process.

    Args:
        store: whose runs are talked to.
        idle_seconds: how long the process lives without a question.
        command: how the process is started.
    """

    def __init__(
        self,
        store: Store,
        *,
        idle_seconds: float = IDLE_SECONDS,
        command: Sequence[str] = (sys.executable, "-m", "core.runs.talker"),
    ) -> None:
        self.store = store
        self.idle_seconds = idle_seconds
        self.command = list(command)
        self._line: _Line | None = None
        self._mutex = threading.Lock()

    def ask(
        self,
        run_id: str | None,
        base: str = EMBEDDED,
        messages: Messages = (),
        max_new_tokens: int = 128,
        owner: str = "",
        *,
        revision: str | None = None,
        temperature: float = 0.0,
    ) -> Iterator[str]:
        """One answer, piece by piece.

        Args:
            run_id: the run whose adapter answers, on its own base (`base` is then ignored); None for a plain base.
            messages: {"role": "user" | "assistant" | "system", "content": …}, ending with the user's.
            temperature: 0 takes the likeliest token each time.

        Raises:
            NotFound, Refused, BadInput: at once, when the question cannot be asked.
            DeltalabError: while iterating, what went wrong in the process (a base that is gone, no memory left).
        """
        what = self._what(run_id, base, revision, owner)
        question = {**what, "sides": {"after": _checked(messages)}, **_bounded(max_new_tokens, temperature)}
        return (piece for _, piece in self._pieces(question))

    def pair(
        self,
        run_id: str,
        messages: Messages = (),
        max_new_tokens: int = 128,
        owner: str = "",
        *,
        before: Messages | None = None,
        temperature: float = 0.0,
    ) -> Iterator[tuple[str, str]]:
        """The answers before and after a run's training, piece by piece, as ("before" | "after", piece).

        The two come one after the other from one model, with the change switched off and then on.

        Args:
            before: the messages for the side before, when its earlier answers differ; as `messages` otherwise.

        Raises:
            as `ask`.
        """
        what = self._what(run_id, EMBEDDED, None, owner)
        sides = {"before": _checked(messages if before is None else before), "after": _checked(messages)}
        return self._pieces({**what, "sides": sides, **_bounded(max_new_tokens, temperature)})

    def warm(self) -> None:
        """Start the process now, so that the first question does not wait for its imports."""
        self._connected()

    def close(self) -> None:
        """End the process."""
        with self._mutex:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def _what(self, run_id: str | None, base: str, revision: str | None, owner: str) -> dict[str, Any]:
        """Which model: the base, and the folder of the adapter once it is certain that it is the owner's."""
        if run_id is None:
            return {"base": base, "revision": revision, "adapter": None, "dtype": None}
        run = self.store.get(run_id, owner)
        if run.adapter is None:
            raise Refused("This run has learnt nothing yet that could answer.", "Wait until it is finished.")
        started = self.store.events(run_id, owner, kinds=("started",))
        return {
            "base": run.config["base"],
            "revision": run.config.get("revision"),
            "adapter": str(run.adapter),
            "dtype": started[-1][1].get("dtype") if started else None,
        }

    def _connected(self) -> _Line:
        with self._mutex:
            if self._line is None or self._line.ended:
                root = str(Path(core.__file__).resolve().parents[1])
                variables = {
                    **os.environ,
                    "DELTALAB_HOME": str(self.store.home),
                    "PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p),
                    "TOKENIZERS_PARALLELISM": "false",
                }
                command = [*self.command, "--idle-seconds", str(self.idle_seconds)]
                self._line = _Line(command, variables, self.store.home)
            return self._line

    def _pieces(self, question: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for last_try in (False, True):
            line = self._connected()
            number, answers = line.send(question)
            said = over = False
            try:
                while True:
                    try:
                        answer = answers.get(timeout=SILENCE_SECONDS)
                    except queue.Empty:
                        line.close()
                        raise DeltalabError("The chat has not answered for minutes and was ended.", _AGAIN) from None
                    if answer is None:
                        over = True
                        break
                    if "piece" in answer:
                        said = True
                        yield answer["side"], answer["piece"]
                        continue
                    over = True
                    if "error" in answer:
                        told = answer["error"]
                        raise KINDS.get(told["kind"], DeltalabError)(told["sentence"], told["advice"])
                    return
            finally:
                line.forget(number, cancel=not over)
            # The process ended: by idling just as we asked (then another answers), or by dying over the question.
            if said or last_try:
                raise DeltalabError("The chat process died while answering.", _AGAIN)


_AGAIN = "Ask again; if it happens again, the model may be too large for this machine's memory."


def _checked(messages: Messages) -> list[dict[str, str]]:
    turns = [{"role": str(m.get("role", "")), "content": str(m.get("content", ""))} for m in messages]
    if not turns or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        raise BadInput("There is no question to answer.", "The last message must be the user's and have a text.")
    if any(turn["role"] not in ("system", "user", "assistant") for turn in turns):
        raise BadInput("A message has a role that is none of system, user and assistant.")
    if sum(len(turn["content"]) for turn in turns) > MOST_CHARACTERS:
        raise BadInput(f"The conversation is longer than {MOST_CHARACTERS} characters.", "Begin a new one.")
    return turns


def _bounded(max_new_tokens: int, temperature: float) -> dict[str, Any]:
    return {
        "max_new_tokens": max(1, min(int(max_new_tokens), MOST_TOKENS)),
        "temperature": max(0.0, min(float(temperature), 10.0)),
    }


class _Line:
    """The process and the pipes to it; answers are sorted to whoever asked."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        log = os.open(folder / "chat.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(variables),
                cwd=folder,
                start_new_session=True,  # a Ctrl-C in the server's terminal is the server's; the pipe's end tells us
            )
        finally:
            os.close(log)
        self.ended = False
        self._number = 0
        self._asked: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._mutex = threading.Lock()
        threading.Thread(target=self._listen, name="chat", daemon=True).start()

    def send(self, question: dict[str, Any]) -> tuple[int, queue.SimpleQueue[dict[str, Any] | None]]:
        """Ask; the answers come through the queue, None when the process ended without one."""
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with self._mutex:
            self._number += 1
            number = self._number
            if self.ended or not self._write({"id": number, **question}):
                answers.put(None)
            else:
                self._asked[number] = answers
        return number, answers

    def forget(self, number: int, *, cancel: bool) -> None:
        """Nobody waits for these answers any more; with `cancel` the process is told to stop giving them."""
        with self._mutex:
            if self._asked.pop(number, None) is not None and cancel:
                self._write({"cancel": number})

    def close(self) -> None:
        with self._mutex:
            self.ended = True
            if self._process.stdin is not None:
                try:
                    self._process.stdin.close()
                except BrokenPipeError:
                    logger.debug("the chat process was gone already")
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, record: dict[str, Any]) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(record).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed by `close`
            return False
        return True

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            answer = json.loads(text)
            with self._mutex:
                answers = self._asked.get(answer["id"])
            if answers is not None:
                answers.put(answer)
        with self._mutex:
            self.ended = True
            for answers in self._asked.values():
                answers.put(None)
        self._process.stdout.close()
        self._process.wait()


# --- the process ------------------------------------------------------------------------------------------------------


@dataclass
class _Model:
    """A loaded base; attached: with a method on it; adapter: which run's change it holds, and when that was saved."""

    base: Base
    attached: Attached | None
    adapter: tuple[str, int] | None
    size_bytes: int


class Shelf:
    """The models that are kept loaded.

    Args:
        models: at most so many.
        limit_bytes: and at most so many bytes of parameters, though one is always kept.
        device: where they are.
    """

    def __init__(self, models: int, limit_bytes: int, device: str) -> None:
        self.models = models
        self.limit_bytes = limit_bytes
        self.device = device
        self._kept: OrderedDict[tuple[Any, ...], _Model] = OrderedDict()

    def get(self, source: str, revision: str | None, adapter: str | None) -> _Model:
        """The model of a base, with an adapter if one is named, which is loaded and switched on.

        Raises:
            DeltalabError: the base or the adapter cannot be loaded.
        """
        from core.methods import saved_as
        from core.methods.saved import head_in

        key: tuple[Any, ...] = (source, revision)
        if adapter is None:
            return self._keep(key, self._kept.get(key) or self._load(source, revision, None))
        folder = Path(adapter)
        method, settings = saved_as(folder)
        key = (source, revision, method, repr(settings), repr(head_in(folder)))
        stamp = (adapter, max(f.stat().st_mtime_ns for f in folder.iterdir()))
        model = self._kept.pop(key, None)
        if model is None:
            model = self._load(source, revision, folder)
        elif model.adapter != stamp:
            # Out of the shelf meanwhile: if this fails half-way, nobody gets a mixture of two runs.
            assert model.attached is not None
            model.attached.enable()
            model.attached.load(folder)
        model.adapter = stamp
        return self._keep(key, model)

    def _load(self, source: str, revision: str | None, folder: Path | None) -> _Model:
        from core.hardware import pick_precision
        from core.methods import load_saved

        precision = pick_precision(self.device)
        base, attached = load_saved(source, folder, revision=revision, precision=precision, device=self.device)
        return _Model(base, attached, None, sum(p.numel() * p.element_size() for p in base.model.parameters()))

    def _keep(self, key: tuple[Any, ...], model: _Model) -> _Model:
        self._kept[key] = model
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and (
            len(self._kept) > self.models or sum(m.size_bytes for m in self._kept.values()) > self.limit_bytes
        ):
            self._kept.popitem(last=False)
        return model

    def __len__(self) -> int:
        return len(self._kept)


class _Cancelled(Exception):
    pass


def _answer(
    shelf: Shelf, question: Mapping[str, Any], say: Callable[[str, str], None], cancelled: Callable[[], bool]
) -> None:
    """Answer each side of a question in turn."""
    from contextlib import nullcontext

    import torch

    from core.hardware import pick_precision
    from core.objective import answer
    from core.template import conversation

    model = shelf.get(question["base"], question["revision"], question["adapter"])
    # In the precision of the run's own evaluations, so that the chat says what the samples on the page said.
    precision = question["dtype"] or pick_precision(shelf.device)
    device = shelf.device.partition(":")[0]
    autocast = torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    for side, messages in question["sides"].items():
        if model.attached is not None:
            model.attached.disable() if side == "before" else model.attached.enable()
        pieces = answer(
            model.base.model,
            model.base.tokenizer,
            conversation(messages),
            question["max_new_tokens"],
            question["temperature"],
        )
        with autocast:
            for piece in pieces:
                if cancelled():
                    # Not left to the collector: the generation must have ended before the model is used again.
                    cast("Generator[str]", pieces).close()
                    raise _Cancelled
                say(side, piece)


def _told(error: BaseException) -> dict[str, str]:
    """An exception as what the server raises again."""
    import torch

    if isinstance(error, DeltalabError):
        return {"kind": error.kind, "sentence": error.sentence, "advice": error.advice}
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        kind, sentence = errors.OutOfMemory.kind, "There is not enough memory to answer."
        return {"kind": kind, "sentence": sentence, "advice": "Wait until no run is active, or ask a smaller model."}
    sentence = f"The chat broke off with {type(error).__name__}."
    return {"kind": DeltalabError.kind, "sentence": sentence, "advice": "The data folder's chat.log has the details."}


def main(argv: list[str] | None = None) -> int:
    """The process: questions as JSON lines on standard input, pieces of answers on standard output."""
    import argparse
    import traceback

    parser = argparse.ArgumentParser(prog="python -m core.runs.talker")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    idle_seconds = parser.parse_args(argv).idle_seconds
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer

    questions: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    cancelled: set[int] = set()
    closed = threading.Event()

    def listen() -> None:
        for text in sys.stdin:
            record = json.loads(text)
            if "cancel" in record:
                cancelled.add(record["cancel"])
            else:
                questions.put(record)
        closed.set()
        questions.put(None)

    def write(**record: Any) -> None:
        os.write(out, (json.dumps(record) + "\n").encode())

    threading.Thread(target=listen, name="questions", daemon=True).start()
    shelf: Shelf | None = None
    broken: dict[str, str] = {}
    try:
        shelf = _shelf()  # the imports, before anybody asks: that is what `Talker.warm` is for
    except Exception as error:
        traceback.print_exc()
        broken = {
            "kind": DeltalabError.kind,
            "sentence": f"The chat cannot start: {type(error).__name__}: {str(error)[:200]}.",
            "advice": "Run `deltalab doctor` to see what is missing.",
        }
    while True:
        try:
            question = questions.get(timeout=idle_seconds)
        except queue.Empty:
            return 0
        if question is None:
            return 0
        number = question["id"]

        def say(side: str, piece: str, number: int = number) -> None:
            write(id=number, side=side, piece=piece)

        def over(number: int = number) -> bool:
            return closed.is_set() or number in cancelled

        try:
            if over():
                raise _Cancelled  # nobody waits for it any more
            if shelf is None:
                write(id=number, error=broken)
            else:
                _answer(shelf, question, say, over)
                write(id=number, done=True)
        except BrokenPipeError:
            return 0  # the server is gone
        except _Cancelled:
            cancelled.discard(number)
        except Exception as error:
            if not isinstance(error, DeltalabError):
                traceback.print_exc()
            write(id=number, error=_told(error))


def _shelf() -> Shelf:
    import torch

    import core.evaluate  # noqa: F401 (loads transformers' generation before the first question)
    from core.hardware import best_threads, memory_bytes

    if torch.cuda.is_available():
        return Shelf(MODELS, int(torch.cuda.get_device_properties(0).total_memory * MEMORY_SHARE), "cuda:0")
    torch.set_num_threads(best_threads())
    return Shelf(MODELS, int(memory_bytes() * MEMORY_SHARE), "cpu")


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # tearing torch down takes seconds, and nothing is left to be saved
