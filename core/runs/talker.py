"""Chat with what the runs made: one process that keeps models loaded, and the server's end of the line to it.

    talker = Talker(store)
    for piece in talker.ask(run.id, messages=[{"role": "user", "content": "Hi"}], owner=me): …
    for side, said in talker.sides(run.id, {"before": …, "after": …, "merged": …}, owner=me): …

The server checks that the run is the owner's and hands over folders; the process loads, and streams pieces of text
back, as JSON lines over pipes. It answers one question at a time. It is started at the first question, ends by itself
when nobody has asked for a while (its memory is worth more than its start-up time), and is started anew if it died.

The sides of a run: before, its base; after, the base with the change switched on; merged, a plain model with the change
folded into its weights, which is what gets shipped. They take turns, a token each, so that all stream at once. Before
and after are one model, whose change is switched before each token: that costs microseconds where it sets a flag or
swaps pointers. Where it would copy weights (a method that trains the base's own, on a GPU) they answer one after the
other. Merged is a model loaded for itself: merging into the shared one and taking the change out again would leave
rounding in the weights (W + ΔW − ΔW is not W), and the other runs that share it would answer a little wrongly.

What it keeps: one model per base, method and settings, and one per merged run. Two runs that differ only in what they
learnt share a model, and the adapter is swapped; the least recently used model goes when there are too many or they are
too large. If a merged model does not fit beside the shared one, it is loaded when the other sides have answered.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import core
from core import errors
from core.config import EMBEDDED
from core.errors import BadInput, DeltalabError, Refused
from core.runs.sides import AFTER, BEFORE, MERGED, SIDES, Ended, why_not_merged
from core.runs.store import Store
from core.units import DTYPE_BYTES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        seed: int | None = None,
    ) -> Iterator[str]:
        """One answer, piece by piece.

        Args:
            run_id: the run whose adapter answers, on its own base (`base` is then ignored); None for a plain base.
            messages: {"role": "user" | "assistant" | "system", "content": …}, ending with the user's.
            temperature: 0 takes the likeliest token each time; up to 10.
            seed: of the sampling: the same one gives the same answer. None draws one.

        Raises:
            NotFound, Refused, BadInput: at once, when the question cannot be asked.
            DeltalabError: while iterating, what went wrong in the process (a base that is gone, no memory left).
        """
        what = self._what(run_id, base, revision, owner)
        how = _bounded(max_new_tokens, temperature, seed)
        return self._one({**what, "sides": {AFTER: _checked(messages)}, **how})

    def sides(
        self,
        run_id: str,
        messages: Mapping[str, Messages],
        max_new_tokens: int = 128,
        owner: str = "",
        *,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[tuple[str, str | Ended]]:
        """The answers of several sides of a run, as (side, piece) and at the end of each (side, Ended).

        Args:
            messages: what each side is asked, by its name: "before", "after", "merged". What they have said before may
                differ.
            temperature, seed: as `ask`; every side is given the same random numbers.

        Raises:
            as `ask`. Refused also when the merged side of a method is asked that has none. What goes wrong on one side
            alone is in that side's Ended.
        """
        what = self._what(run_id, EMBEDDED, None, owner)
        unknown = [side for side in messages if side not in SIDES]
        if unknown or not messages:
            raise BadInput(
                f"{unknown[0]!r} is no side." if unknown else "No side is asked.", f"The sides are {', '.join(SIDES)}."
            )
        why = why_not_merged(what["method"]) if MERGED in messages else None
        if why is not None:
            raise Refused(f"This run has no merged side. {why}", "Leave merged out.")
        asked = {side: _checked(messages[side]) for side in SIDES if side in messages}
        return self._pieces({**what, "sides": asked, **_bounded(max_new_tokens, temperature, seed)})

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
            "method": run.config["method"],
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

    def _one(self, question: dict[str, Any]) -> Iterator[str]:
        with closing(self._pieces(question)) as pieces:
            for _, said in pieces:
                if isinstance(said, str):
                    yield said
                elif said.error is not None:
                    raise said.error

    def _pieces(self, question: dict[str, Any]) -> Generator[tuple[str, str | Ended]]:
        for last_try in (False, True):
            line = self._connected()
            number, answers = line.send({**question, "busy": self.store.training()})
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
                    if "ended" in answer:
                        said = True
                        facts = answer["ended"]
                        yield answer["side"], Ended(**{**facts, "error": facts["error"] and _raised(facts["error"])})
                        continue
                    over = True
                    if "error" in answer:
                        raise _raised(answer["error"])
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


def _bounded(max_new_tokens: int, temperature: float, seed: int | None) -> dict[str, Any]:
    if not 1 <= max_new_tokens <= MOST_TOKENS:
        raise BadInput(f"The longest answer must be from 1 to {MOST_TOKENS} tokens, not {max_new_tokens}.")
    if not 0 <= temperature <= 10:  # which nan is not
        raise BadInput(f"The temperature must be from 0 to 10, not {temperature}.", "0 takes the likeliest token.")
    if seed is not None and not 0 <= seed < 2**63:
        raise BadInput(f"The seed must be a whole number from 0 to 2⁶³ − 1, not {seed}.")
    return {"max_new_tokens": int(max_new_tokens), "temperature": float(temperature), "seed": seed}


def _raised(told: Mapping[str, str]) -> DeltalabError:
    """An error that the process told of."""
    return KINDS.get(told["kind"], DeltalabError)(told["sentence"], told["advice"])


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
    """A loaded base; attached: with a method on it; adapter: which run's change it holds, and when that was saved.

    size_bytes: with what is kept so that the change can be switched off. plain_bytes: of the base as it was loaded,
    which is what a merged one takes. slow: switching the change copies weights.
    """

    base: Base
    attached: Attached | None
    adapter: tuple[str, int] | None
    size_bytes: int
    plain_bytes: int
    slow: bool = False

    def switch(self, side: str) -> None:
        """Be that side."""
        if self.attached is not None:
            self.attached.disable() if side == BEFORE else self.attached.enable()


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
        stamp = _stamp(folder)
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

    def merged(self, source: str, revision: str | None, adapter: str, needed_bytes: int = 0) -> _Model:
        """A model of its own with the adapter folded into its weights.

        Args:
            needed_bytes: what it will take, as far as that is known; others go before it comes.

        Raises:
            DeltalabError: as `get`; or the change cannot be folded in.
        """
        folder = Path(adapter)
        key = (source, revision, MERGED, _stamp(folder))
        kept = self._kept.get(key)
        if kept is None:
            self._make_room(needed_bytes)
            kept = self._load(source, revision, folder, merge=True)
        return self._keep(key, kept)

    def has_room_for_merged(self, beside: _Model) -> bool:
        """Whether a model and its merged form may be here at once."""
        return self.models > 1 and beside.size_bytes + beside.plain_bytes <= self.limit_bytes

    def _load(self, source: str, revision: str | None, folder: Path | None, *, merge: bool = False) -> _Model:
        import torch

        from core.hardware import pick_precision
        from core.methods import METHODS, load_saved, loading, saved_as

        precision = pick_precision(self.device)
        method = saved_as(folder)[0] if folder is not None else None
        trains_base = method is not None and METHODS[method].BASE == "trained"
        # A side that is asked in 16 bits is loaded amid its answer: the sum W + ΔW must not be taken in those.
        with torch.autocast(self.device.partition(":")[0], enabled=False):
            base, attached = load_saved(
                source, folder, revision=revision, precision=precision, device=self.device, keep_base=not merge
            )
            if merge and attached is not None:
                base, attached = replace(base, model=cast("PreTrainedModel", attached.merge())), None
        base.model.eval()
        plain_bytes = int(base.facts["parameters"] * DTYPE_BYTES[loading(method, precision, self.device)["dtype"]])
        size_bytes = _bytes_of(base.model)
        if attached is not None and trains_base:
            size_bytes += _bytes_of(base.model, trained=True)  # the copy of the base's values
        # Nothing trains here; and autocast keeps its 16-bit copies of what does, though it was switched meanwhile.
        base.model.requires_grad_(False)
        slow = trains_base and self.device.startswith("cuda")
        return _Model(base, attached, None, size_bytes, plain_bytes, slow)

    def _make_room(self, needed_bytes: int) -> None:
        while self._kept and (len(self._kept) >= self.models or self._bytes() + needed_bytes > self.limit_bytes):
            self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(m.size_bytes for m in self._kept.values())

    def _keep(self, key: tuple[Any, ...], model: _Model) -> _Model:
        self._kept[key] = model
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and (len(self._kept) > self.models or self._bytes() > self.limit_bytes):
            self._kept.popitem(last=False)
        return model

    def __len__(self) -> int:
        return len(self._kept)


def _stamp(folder: Path) -> tuple[str, int]:
    """Which adapter, and when it was written."""
    return str(folder), max(f.stat().st_mtime_ns for f in folder.iterdir())


def _bytes_of(model: Any, *, trained: bool = False) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad or not trained)


class _Cancelled(Exception):
    pass


Texts = Generator[str, None, bool]


def _answer(
    shelf: Shelf, question: Mapping[str, Any], write: Callable[..., None], cancelled: Callable[[], bool]
) -> None:
    """Answer every side of a question."""
    from contextlib import nullcontext

    import torch

    from core.evaluate import answering
    from core.hardware import best_threads, pick_precision

    if shelf.device == "cpu":
        # Two threads wait for each other many times a token. While a run trains, one of them mostly waits for a
        # processor, and each of those waits lasts as long as the run's turn: one thread is several times faster then.
        torch.set_num_threads(1 if question["busy"] else best_threads())
    where = (question["base"], question["revision"], question["adapter"])
    began = time.perf_counter()
    asked = [side for side in question["sides"] if side != MERGED]
    shared = shelf.get(*where) if asked else None
    groups = [[side] for side in asked] if shared is not None and shared.slow else [asked] if asked else []
    needed_bytes = shared.plain_bytes if shared is not None else 0
    if MERGED in question["sides"]:
        if shared is not None and shelf.has_room_for_merged(shared):
            groups[-1].append(MERGED)
        else:
            groups.append([MERGED])
    # In the precision of the run's own evaluations, so that the chat says what the samples on the page said.
    precision = question["dtype"] or pick_precision(shelf.device)
    device = shelf.device.partition(":")[0]
    for group in groups:
        if group == [MERGED]:
            shared = None  # and so the shelf may let go of it
        turns: dict[str, Texts] = {}
        for side in group:
            if side == MERGED:
                turns[side] = _merged_texts(shelf, where, needed_bytes, question)
            else:
                assert shared is not None
                turns[side] = _texts(shared, side, question)
        with (
            torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext(),
            answering(shared.base.model) if shared is not None and not shared.base.labels else nullcontext(),
        ):
            _take_turns(turns, began, write, cancelled)


def _texts(model: _Model, side: str, question: Mapping[str, Any]) -> Texts:
    """A side's answer, a text per token; the model is that side whenever it computes."""
    from core.objective import answer
    from core.template import conversation

    texts = answer(
        model.base.model,
        model.base.tokenizer,
        conversation(question["sides"][side]),
        question["max_new_tokens"],
        question["temperature"],
        seed=question["seed"],
    )
    with closing(texts):  # the generation must have ended before the model is used again
        while True:
            model.switch(side)
            try:
                text = next(texts)
            except StopIteration as end:
                return bool(end.value)
            yield text


def _merged_texts(
    shelf: Shelf, where: tuple[str, str | None, str], needed_bytes: int, question: Mapping[str, Any]
) -> Texts:
    """As `_texts`; the model is loaded when it is this side's turn, so that the others need not wait for it."""
    return (yield from _texts(shelf.merged(*where, needed_bytes), MERGED, question))


def _take_turns(
    turns: dict[str, Texts],
    began: float,
    write: Callable[..., None],
    cancelled: Callable[[], bool],
) -> None:
    """One token of each side after the other, until all have ended."""
    facts = {side: Ended() for side in turns}
    computed = dict.fromkeys(turns, 0.0)
    try:
        while turns:
            for side, texts in list(turns.items()):
                if cancelled():
                    raise _Cancelled
                so_far = facts[side]
                turn_began = time.perf_counter()
                try:
                    text = next(texts)
                except Exception as error:
                    del turns[side]
                    told = None
                    if isinstance(error, StopIteration):
                        so_far = replace(so_far, complete=error.value)
                    else:
                        told = _logged(error)
                    write(side=side, ended={**asdict(so_far), "error": told})
                    continue
                now = time.perf_counter()
                if so_far.first_seconds is None:
                    facts[side] = replace(so_far, tokens=1, first_seconds=now - began)
                else:
                    computed[side] += now - turn_began
                    facts[side] = replace(
                        so_far, tokens=so_far.tokens + 1, tokens_per_second=so_far.tokens / computed[side]
                    )
                if text:
                    write(side=side, piece=text)
    finally:
        for texts in turns.values():
            texts.close()


def _logged(error: Exception) -> dict[str, str]:
    """As `_told`; the unexpected is written into the log."""
    import traceback

    if not isinstance(error, DeltalabError):
        traceback.print_exception(error)
    return _told(error)


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

        def over(number: int = number) -> bool:
            return closed.is_set() or number in cancelled

        try:
            if over():
                raise _Cancelled  # nobody waits for it any more
            if shelf is None:
                write(id=number, error=broken)
            else:
                _answer(shelf, question, partial(write, id=number), over)
                write(id=number, done=True)
        except BrokenPipeError:
            return 0  # the server is gone
        except _Cancelled:
            cancelled.discard(number)
        except Exception as error:
            write(id=number, error=_logged(error))


def _shelf() -> Shelf:
    import torch

    import core.evaluate  # noqa: F401 (loads transformers' generation before the first question)
    from core.hardware import memory_bytes

    if torch.cuda.is_available():
        return Shelf(MODELS, int(torch.cuda.get_device_properties(0).total_memory * MEMORY_SHARE), "cuda:0")
    return Shelf(MODELS, int(memory_bytes() * MEMORY_SHARE), "cpu")


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # tearing torch down takes seconds, and nothing is left to be saved
