"""The chat process: the right model answers, owners are kept apart, and no death of the process is the end."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import RunConfig, TrainConfig
from core.errors import BadInput, BaseUnavailable, DeltalabError, NotFound, Refused
from core.runs.store import Run, Store
from core.runs.talker import Shelf, Talker
from core.runs.worker import execute
from tests import checkpoints
from tests.core.runs_support import OWNER, quick_config, wait_for

pytestmark = pytest.mark.alone

QUESTION = [{"role": "user", "content": "Who owns a cat?"}]
LENGTH = 8


class Made:
    """A store with finished runs on a tiny base: two of LoRA that differ by their seed, one full."""

    def __init__(self, place: Path) -> None:
        self.base = str(checkpoints.write("llama_biased", place / "base"))
        self.store = Store(home=place / "home")
        data = place / "rows.jsonl"
        data.write_text("".join(f'{{"prompt": "Say {n}", "completion": "{n} is said"}}\n' for n in range(20)))
        # A rate far too high, on purpose: the answers before and after must differ.
        loop = TrainConfig(learning_rate=0.1, steps=4, batch_size=4, eval_items=4)
        for name, method, seed in (("one", "lora", 4), ("two", "lora", 5), ("full", "full", 3)):
            config = RunConfig(base=self.base, task=None, data=str(data), method=method, seed=seed, train=loop)
            run = self.store.create(OWNER, config, key=name)
            assert execute(self.store, run.id) == "finished", self.store.get(run.id, OWNER).sentence
            setattr(self, name, self.store.get(run.id, OWNER))

    one: Run
    two: Run
    full: Run

    def expected(self, run: Run | None) -> str:
        """What the model answers when it is loaded afresh, in this process."""
        from core.base import load_base
        from core.evaluate import stream
        from core.methods import attach_saved
        from core.template import conversation

        base = load_base(self.base)
        if run is not None:
            assert run.adapter is not None
            attach_saved(base.model, run.adapter)
        return "".join(stream(base.model, base.tokenizer, conversation(QUESTION), LENGTH))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(tmp_path_factory.mktemp("talker"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def talker(made: Made) -> Iterator[Talker]:
    talker = Talker(made.store)
    yield talker
    talker.close()


def asked(talker: Talker, made: Made, run: Run | None) -> str:
    pieces = talker.ask(run.id if run else None, made.base, QUESTION, LENGTH, OWNER)
    return "".join(pieces)


def paired(talker: Talker, run: Run) -> dict[str, str]:
    said = {"before": "", "after": ""}
    for side, piece in talker.pair(run.id, QUESTION, LENGTH, OWNER):
        said[side] += piece
    return said


def pid_of(talker: Talker) -> int:
    assert talker._line is not None
    return talker._line._process.pid


def test_every_run_answers_as_itself_in_any_order(talker: Talker, made: Made) -> None:
    """The models are shared and their adapters swapped; nobody may notice."""
    expected = {name: made.expected(run) for name, run in (("base", None), ("one", made.one), ("two", made.two))}
    expected["full"] = made.expected(made.full)
    assert len(set(expected.values())) == 4, "the runs of this test must differ in what they say"
    for name in ("base", "one", "two", "full", "one", "base", "full", "two"):
        assert asked(talker, made, None if name == "base" else getattr(made, name)) == expected[name], name
    for name in ("two", "full", "one"):
        assert paired(talker, getattr(made, name)) == {"before": expected["base"], "after": expected[name]}, name
    assert asked(talker, made, made.two) == expected["two"]


def test_each_side_may_have_its_own_history(talker: Talker, made: Made) -> None:
    before = [*QUESTION, {"role": "assistant", "content": "Ben."}, {"role": "user", "content": "And a dog?"}]
    sides = [side for side, _ in talker.pair(made.one.id, QUESTION, LENGTH, OWNER, before=before)]
    assert sides == sorted(sides, reverse=True)  # before, then after


def test_only_the_owner_talks_to_a_run(talker: Talker, made: Made) -> None:
    for run_id in (made.one.id, "0" * 16):
        with pytest.raises(NotFound):
            talker.ask(run_id, messages=QUESTION, owner="eve")
        with pytest.raises(NotFound):
            talker.pair(run_id, QUESTION, owner="eve")


def test_what_cannot_be_asked_is_said_at_once(talker: Talker, made: Made) -> None:
    unfinished = made.store.create(OWNER, quick_config(), key="unfinished")
    with pytest.raises(Refused, match="learnt nothing yet"):
        talker.ask(unfinished.id, messages=QUESTION, owner=OWNER)
    for messages in ([], [{"role": "user", "content": "  "}], [{"role": "assistant", "content": "Hi"}]):
        with pytest.raises(BadInput, match="no question"):
            talker.ask(made.one.id, messages=messages, owner=OWNER)
    with pytest.raises(BadInput, match="role"):
        talker.ask(made.one.id, messages=[{"role": "root", "content": "x"}, *QUESTION], owner=OWNER)
    with pytest.raises(BadInput, match="longer than"):
        talker.ask(made.one.id, messages=[{"role": "user", "content": "x" * 30_000}], owner=OWNER)


def test_an_error_in_the_process_arrives_as_itself_and_the_process_goes_on(talker: Talker, made: Made) -> None:
    with pytest.raises(BaseUnavailable) as raised:
        list(talker.ask(None, "/no/such/folder", QUESTION, LENGTH, OWNER))
    assert raised.value.sentence
    pid = pid_of(talker)
    assert asked(talker, made, made.one) == made.expected(made.one)
    assert pid_of(talker) == pid


def test_many_threads_each_get_their_own_answer(talker: Talker, made: Made) -> None:
    runs = [made.one, made.two, made.full, None] * 2
    answers: dict[int, str] = {}

    def ask(number: int, run: Run | None) -> None:
        answers[number] = asked(talker, made, run)

    threads = [threading.Thread(target=ask, args=(n, run)) for n, run in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[n] for n in range(4)] == [answers[n] for n in range(4, 8)]
    assert answers[0] == made.expected(made.one)
    assert len(set(answers.values())) == 4


def test_an_answer_that_nobody_reads_any_more_is_ended(talker: Talker, made: Made) -> None:
    long = talker.ask(made.one.id, messages=QUESTION, max_new_tokens=1024, owner=OWNER)
    next(long)
    long.close()  # type: ignore[attr-defined]
    never_begun = talker.ask(made.one.id, messages=QUESTION, owner=OWNER)
    del never_begun
    assert asked(talker, made, made.two) == made.expected(made.two)


def test_a_killed_process_is_started_anew(talker: Talker, made: Made) -> None:
    asked(talker, made, made.one)
    pid = pid_of(talker)
    os.kill(pid, 9)
    assert asked(talker, made, made.one) == made.expected(made.one)
    assert pid_of(talker) != pid


# Stands in for the process: says one piece of an answer (if it is asked for the "half" base), then dies.
DIES = """
import json, os, sys
question = json.loads(sys.stdin.readline())
if question["base"] == "half":
    print(json.dumps({"id": question["id"], "side": "after", "piece": "Half an"}), flush=True)
os._exit(1)
"""


def test_an_answer_that_dies_half_way_is_an_error_and_not_half_an_answer(made: Made) -> None:
    talker = Talker(made.store, command=[sys.executable, "-c", DIES])
    heard: list[str] = []
    for base, expected in (("half", ["Half an"]), ("nothing", [])):
        heard.clear()
        pieces = talker.ask(None, base, QUESTION, LENGTH, OWNER)
        with pytest.raises(DeltalabError, match="died while answering"):
            deque(map(heard.append, pieces))
        assert heard == expected
    talker.close()


def test_the_process_ends_when_nobody_asks_and_comes_back(made: Made) -> None:
    talker = Talker(made.store, idle_seconds=0.5)
    first = asked(talker, made, made.one)
    line = talker._line
    assert line is not None
    wait_for(lambda: line.ended, 60)
    assert asked(talker, made, made.one) == first
    talker.close()
    assert asked(talker, made, made.one) == first  # closing is not for ever
    talker.close()


def test_it_ends_with_the_server(made: Made) -> None:
    talker = Talker(made.store)
    talker.warm()
    assert talker._line is not None
    process = talker._line._process
    assert process.stdin is not None
    process.stdin.close()  # what the kernel does when the server dies
    wait_for(lambda: process.poll() is not None, 120)


def test_a_process_that_cannot_import_torch_says_so(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise ImportError("libtorch_cpu.so is missing")')
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from core.runs.talker import main; main(sys.argv[1:])"
    talker = Talker(made.store, command=[sys.executable, "-c", path])
    with pytest.raises(DeltalabError, match=r"cannot start: ImportError: libtorch_cpu.so is missing"):
        asked(talker, made, made.one)
    talker.close()


def test_the_shelf_keeps_what_was_used_last(made: Made) -> None:
    shelf = Shelf(models=2, limit_bytes=10**9, device="cpu")
    assert made.one.adapter
    assert made.full.adapter
    one = shelf.get(made.base, None, str(made.one.adapter))
    base = shelf.get(made.base, None, None)
    assert shelf.get(made.base, None, str(made.two.adapter)) is one  # the same settings: the adapter was swapped
    shelf.get(made.base, None, str(made.full.adapter))
    assert len(shelf) == 2
    assert shelf.get(made.base, None, None) is not base  # that one was the oldest
    tight = Shelf(models=4, limit_bytes=1, device="cpu")
    tight.get(made.base, None, None)
    tight.get(made.base, None, str(made.one.adapter))
    assert len(tight) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the pipes are POSIX ones")
def test_a_question_waits_for_a_slow_start(made: Made) -> None:
    """Asked while the imports are still going on."""
    talker = Talker(made.store)
    talker.warm()
    began = time.monotonic()
    assert asked(talker, made, made.one)
    print(f"first answer {time.monotonic() - began:.1f} s after the start of the process")
    began = time.monotonic()
    assert asked(talker, made, made.one)
    print(f"next answer after {time.monotonic() - began:.2f} s")
    talker.close()
