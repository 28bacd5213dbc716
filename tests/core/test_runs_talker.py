"""The chat process: the right model answers, owners are kept apart, and no death of the process is the end."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from core.config import RunConfig, TrainConfig
from core.errors import BadInput, BaseUnavailable, DeltalabError, NotFound, Refused
from core.methods import METHODS
from core.runs.sides import SIDES, Ended, why_not_merged
from core.runs.store import Run, Store
from core.runs.talker import Shelf, Talker, _answer
from core.runs.worker import execute
from tests import checkpoints
from tests.app.filling import fill
from tests.core.runs_support import OWNER, quick_config, wait_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        # In float32, where merging changes no answer here.
        loop = TrainConfig(learning_rate=0.1, steps=4, batch_size=4, eval_items=4, precision="float32")
        for name, method, seed in (("one", "lora", 3), ("two", "lora", 7), ("full", "full", 6)):
            config = RunConfig(base=self.base, task=None, data=str(data), method=method, seed=seed, train=loop)
            run = self.store.create(OWNER, config, key=name)
            assert execute(self.store, run.id) == "finished", self.store.get(run.id, OWNER).sentence
            setattr(self, name, self.store.get(run.id, OWNER))

    one: Run
    two: Run
    full: Run

    def expected(self, run: Run | None, side: str = "after", messages: Sequence[dict[str, str]] = QUESTION) -> str:
        """What a run answers when it is loaded afresh, in this process."""
        return self.answer(run.adapter if run is not None else None, side, messages)

    def answer(self, adapter: Path | None, side: str, messages: Sequence[dict[str, str]] = QUESTION) -> str:
        """As `expected`, of an adapter's folder."""
        from core.base import load_base
        from core.evaluate import stream
        from core.methods import attach_saved
        from core.template import conversation

        base = load_base(self.base)
        model = base.model
        if adapter is not None:
            attached = attach_saved(base.model, adapter)
            if side == "before":
                attached.disable()
            if side == "merged":
                model = cast("PreTrainedModel", attached.merge())
        return "".join(stream(model, base.tokenizer, conversation(messages), LENGTH))


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


def heard(talker: Talker, run: Run, *sides: str, **how: Any) -> tuple[dict[str, str], dict[str, Ended]]:
    """The answers of these sides, and how they ended."""
    answers, ends = dict.fromkeys(sides, ""), {}
    how = {"max_new_tokens": LENGTH, "owner": OWNER, **how}
    for side, said in talker.sides(run.id, dict.fromkeys(sides, QUESTION), **how):
        if isinstance(said, Ended):
            assert said.error is None, said.error
            ends[side] = said
        else:
            assert side not in ends
            answers[side] += said
    assert list(ends) == [side for side in ends if side in sides]
    assert len(ends) == len(sides)
    return answers, ends


def paired(talker: Talker, run: Run) -> dict[str, str]:
    return heard(talker, run, "before", "after")[0]


class Written(list[dict[str, Any]]):
    """What the process would write of one question, answered in this process instead."""

    def __init__(self, shelf: Shelf, made: Made, adapter: Path | None, *sides: str, **how: Any) -> None:
        question = {
            "base": made.base, "revision": None, "adapter": str(adapter), "dtype": "float32", "busy": True,
            "sides": dict.fromkeys(sides, QUESTION), "max_new_tokens": LENGTH, "temperature": 0.0, "seed": None,
        }  # fmt: skip
        _answer(shelf, {**question, **how}, lambda **record: self.append(record), lambda: False)

    def answer(self, side: str) -> str:
        return "".join(r["piece"] for r in self if r["side"] == side and "piece" in r)

    def order(self) -> list[tuple[str, str]]:
        """(side, "piece" | "ended") as it was written."""
        return [(r["side"], "piece" if "piece" in r else "ended") for r in self]


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


def test_merged_is_a_model_of_its_own_and_leaves_the_others_as_they_are(talker: Talker, made: Made) -> None:
    """In between the adapters that share a model are swapped; a merge left in it would show."""
    expected = {name: made.expected(getattr(made, name)) for name in ("one", "two", "full")}
    base = made.expected(None)
    for name in ("one", "two", "full", "two", "one"):
        run = getattr(made, name)
        answers, _ = heard(talker, run, *SIDES)
        assert answers == {"before": base, "after": expected[name], "merged": made.expected(run, "merged")}, name
        assert answers["merged"] == answers["after"], f"{name}: in float32 the two decide alike here"
    assert asked(talker, made, made.one) == expected["one"]
    assert asked(talker, made, None) == base


def adapter_of(made: Made, method: str, folder: Path) -> Path:
    """An adapter of a method, with noise where training would have put something."""
    import torch

    from core.base import load_base
    from core.methods import attach

    model = load_base(made.base).model
    attached = attach(model, method, METHODS[method].Config())
    parameters = dict(model.named_parameters())
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in attached.trainable_names():
            parameters[name].add_(torch.randn(parameters[name].shape, generator=noise) * 0.3)
    attached.save(folder / method)
    return folder / method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_in_turns_as_it_does_alone(made: Made, method: str, tmp_path: Path) -> None:
    """Token by token the change is switched off and on again, while each side keeps its own past."""
    adapter = adapter_of(made, method, tmp_path)
    sides = [side for side in SIDES if side != "merged" or why_not_merged(method) is None]
    written = Written(Shelf(4, 10**9, "cpu"), made, adapter, *sides)
    # (Of a method with a base in four bits, before is that base.)
    assert {side: written.answer(side) for side in sides} == {side: made.answer(adapter, side) for side in sides}


@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
def test_a_merged_model_is_plain_and_shares_nothing(made: Made, method: str, tmp_path: Path) -> None:
    import torch

    from core.base import load_base

    adapter = str(adapter_of(made, method, tmp_path))
    shelf = Shelf(4, 10**9, "cpu")
    shared = shelf.get(made.base, None, adapter)
    merged = shelf.merged(made.base, None, adapter)
    assert merged.attached is None
    plain = load_base(made.base).model
    kinds = [type(m) for m in plain.modules()]
    assert [type(m) for m in merged.base.model.modules()] == kinds
    tensors = dict(merged.base.model.named_parameters())
    assert {p.data_ptr() for p in shared.base.model.parameters()}.isdisjoint(p.data_ptr() for p in tensors.values())
    assert any(not torch.equal(p, tensors[n]) for n, p in plain.named_parameters())
    assert shelf.merged(made.base, None, adapter) is merged
    with torch.autocast("cpu", torch.bfloat16):  # amid an answer in 16 bits: the sum is still taken in 32
        again = Shelf(4, 10**9, "cpu").merged(made.base, None, adapter)
    assert all(torch.equal(p, tensors[n]) for n, p in again.base.model.named_parameters())


@pytest.mark.parametrize("name", ["one", "full"])
def test_the_sides_take_turns_in_sixteen_bits_too(made: Made, name: str) -> None:
    """Autocast keeps 16-bit copies of weights that train, which would outlive the switch from one side to the other."""
    adapter, how = getattr(made, name).adapter, {"dtype": "bfloat16", "max_new_tokens": 24}
    alone = {side: Written(Shelf(4, 10**9, "cpu"), made, adapter, side, **how).answer(side) for side in SIDES}
    together = Written(Shelf(4, 10**9, "cpu"), made, adapter, *SIDES, **how)
    assert {side: together.answer(side) for side in SIDES} == alone
    assert alone["before"] != alone["after"]


def test_the_sides_stream_at_the_same_time(made: Made) -> None:
    shelf = Shelf(4, 10**9, "cpu")
    order = Written(shelf, made, made.one.adapter, *SIDES, max_new_tokens=60).order()
    first_end = min(order.index((side, "ended")) for side in SIDES)
    assert all((side, "piece") in order[:first_end] for side in SIDES), order
    # Where switching would copy weights, before has ended when after begins.
    shelf.get(made.base, None, str(made.one.adapter)).slow = True
    order = Written(shelf, made, made.one.adapter, *SIDES, max_new_tokens=60).order()
    assert order.index(("before", "ended")) < order.index(("after", "piece"))
    assert order.index(("merged", "piece")) < order.index(("after", "ended"))


def test_a_merged_model_that_does_not_fit_beside_the_shared_one_comes_after_it(made: Made) -> None:
    one = Shelf(4, 10**9, "cpu").get(made.base, None, str(made.one.adapter))
    tight = Shelf(4, one.size_bytes + one.plain_bytes - 1, "cpu")
    written = Written(tight, made, made.one.adapter, *SIDES)
    order = written.order()
    assert max(order.index((side, "ended")) for side in ("before", "after")) < order.index(("merged", "piece"))
    assert written.answer("merged") == made.expected(made.one, "merged")
    assert len(tight) == 1, "the shared model went before the merged one came"
    roomy = Shelf(4, one.size_bytes + one.plain_bytes, "cpu")
    Written(roomy, made, made.one.adapter, *SIDES)
    assert len(roomy) == 2
    # The copy of the base's values, with which a method that trains them is switched off, counts too.
    full = roomy.get(made.base, None, str(made.full.adapter))
    assert full.size_bytes >= 2 * full.plain_bytes


def test_what_goes_wrong_on_one_side_leaves_the_others(
    made: Made, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Shelf, "merged", no_memory)
    written = Written(Shelf(4, 10**9, "cpu"), made, made.one.adapter, *SIDES)
    assert written.answer("after") == made.expected(made.one)
    (end,) = [r["ended"] for r in written if r["side"] == "merged"]
    assert "not enough memory" in end["error"]["sentence"]
    assert "MemoryError" in capfd.readouterr().err


def test_a_seed_repeats_an_answer_and_is_the_same_for_every_side(talker: Talker, made: Made) -> None:
    how = {"temperature": 1.2, "max_new_tokens": 20}
    first, _ = heard(talker, made.one, *SIDES, seed=3, **how)
    assert heard(talker, made.one, *SIDES, seed=3, **how)[0] == first
    assert heard(talker, made.one, "after", seed=3, **how)[0]["after"] == first["after"], "alone as beside others"
    assert first["merged"] == first["after"], "the same dice, and in float32 the same odds"
    assert heard(talker, made.one, *SIDES, seed=4, **how)[0] != first
    drawn = {heard(talker, made.one, "after", **how)[0]["after"] for _ in range(2)}
    assert len(drawn) == 2, "without a seed one is drawn"
    by_ask = "".join(
        talker.ask(made.one.id, messages=QUESTION, max_new_tokens=20, owner=OWNER, temperature=1.2, seed=3)
    )
    assert by_ask == first["after"]


def test_what_is_measured_of_an_answer(talker: Talker, made: Made) -> None:
    _, ends = heard(talker, made.one, *SIDES)
    for end in ends.values():
        assert 1 <= end.tokens <= LENGTH
        assert end.complete == (end.tokens < LENGTH)
        assert end.first_seconds is not None
        assert 0 < end.first_seconds < 60
        if end.tokens > 1:
            assert end.tokens_per_second is not None
            assert 1 < end.tokens_per_second < 1e5
    _, ends = heard(talker, made.one, "after", max_new_tokens=1)
    assert (ends["after"].tokens, ends["after"].tokens_per_second) == (1, None)


def test_each_side_may_have_its_own_history(talker: Talker, made: Made) -> None:
    longer = [*QUESTION, {"role": "assistant", "content": "Ben."}, {"role": "user", "content": "And a dog?"}]
    said = {"after": "", "merged": ""}
    for side, piece in talker.sides(made.one.id, {"merged": longer, "after": QUESTION}, LENGTH, OWNER):
        said[side] += piece if isinstance(piece, str) else ""
    assert said["after"] == made.expected(made.one)
    assert said["merged"] == made.expected(made.one, "merged", longer) != said["after"]


def test_a_models_own_chat_template_frames_the_question(made: Made) -> None:
    """What the model reads first is the conversation as its tokenizer's template writes it, ready to be answered."""
    shelf = Shelf(4, 10**9, "cpu")
    base = shelf.get(made.base, None, str(made.one.adapter)).base
    messages = [*QUESTION, {"role": "assistant", "content": "Ben."}, {"role": "user", "content": "And a dog?"}]
    read: list[str] = []
    base.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(base.tokenizer.decode(kwargs["input_ids"][0])), with_kwargs=True
    )
    Written(shelf, made, made.one.adapter, "after", sides={"after": messages})
    assert "<|start_header_id|>" in base.tokenizer.chat_template
    assert read[0] == base.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert read[0].endswith("assistant<|end_header_id|>\n\n")


def test_only_the_owner_talks_to_a_run(talker: Talker, made: Made) -> None:
    for run_id in (made.one.id, "0" * 16):
        with pytest.raises(NotFound):
            talker.ask(run_id, messages=QUESTION, owner="eve")
        with pytest.raises(NotFound):
            talker.sides(run_id, {"after": QUESTION}, owner="eve")


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
    for how, words in (
        ({"temperature": -0.1}, "temperature must be from 0 to 10, not -0.1"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": 11}, "temperature must be"),
        ({"max_new_tokens": 0}, "longest answer must be from 1"),
        ({"max_new_tokens": 5000}, "longest answer must be"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(BadInput, match=words):
            talker.ask(made.one.id, messages=QUESTION, owner=OWNER, **how)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match=words):
            talker.sides(made.one.id, {"merged": QUESTION}, owner=OWNER, **how)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="'both' is no side"):
        talker.sides(made.one.id, {"both": QUESTION}, owner=OWNER)
    with pytest.raises(BadInput, match="No side is asked"):
        talker.sides(made.one.id, {}, owner=OWNER)
    prompts = fill(made.store, OWNER, RunConfig(method="prompt_tuning"))
    with pytest.raises(Refused, match=r"no merged side.*cannot be merged"):
        talker.sides(prompts.id, {"after": QUESTION, "merged": QUESTION}, owner=OWNER)


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
    for side in SIDES:  # stopped in the middle of any of them
        sides = talker.sides(made.one.id, dict.fromkeys(SIDES, QUESTION), 200, OWNER)
        assert any(said[0] == side for said in sides)
        sides.close()  # type: ignore[attr-defined]
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


@pytest.mark.skipif(sys.platform == "win32", reason="the pipes are POSIX ones")
def test_a_question_waits_for_a_slow_start_and_the_process_ends_unasked_and_with_the_server(
    made: Made,
) -> None:
    talker = Talker(made.store, idle_seconds=0.5)
    talker.warm()
    began = time.monotonic()
    assert asked(talker, made, made.one) == made.expected(made.one), "asked while the imports were still going on"
    print(f"first answer {time.monotonic() - began:.1f} s after the start of the process")
    line = talker._line
    assert line is not None
    wait_for(lambda: line.ended, 60)
    assert asked(talker, made, made.one) == made.expected(made.one), "ended unasked, it comes back"
    second = talker._line
    assert second is not None
    assert second is not line
    talker.close()
    talker.warm()  # closing is not for ever either
    assert talker._line is not None
    assert talker._line is not second
    process = talker._line._process
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()  # what the kernel does when the server dies
    wait_for(lambda: process.poll() is not None, 120)
    talker.close()


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
