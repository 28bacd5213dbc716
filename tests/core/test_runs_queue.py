"""The queue's order and the machine's slots: pure functions."""

from __future__ import annotations

import pytest

from core.errors import BadInput
from core.runs.queue import Slot, Waiting, environment, fair_order, slots


def queue(*runs: str) -> list[Waiting]:
    """'a1 b1 a2' queued in this order; the letter is the owner."""
    return [Waiting(run, run[0], float(n)) for n, run in enumerate(runs)]


def test_one_owner_is_served_first_come_first_served() -> None:
    assert fair_order(queue("a1", "a2", "a3")) == ["a1", "a2", "a3"]
    assert fair_order(reversed(queue("a1", "a2", "a3"))) == ["a1", "a2", "a3"]
    assert fair_order([]) == []


def test_turns_go_round_between_owners() -> None:
    assert fair_order(queue("a1", "a2", "a3", "b1", "c1", "b2")) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_twenty_runs_of_one_delay_another_by_one() -> None:
    order = fair_order(queue(*[f"a{n}" for n in range(20)], "b1"), running={"a": 1})
    assert order[0] == "b1"


def test_who_was_served_last_waits_when_nothing_runs() -> None:
    assert fair_order(queue("a1", "b1"), served={"a": 100.0}) == ["b1", "a1"]
    assert fair_order(queue("a1", "b1"), served={"a": 100.0, "b": 200.0}) == ["a1", "b1"]


def test_no_owner_starves_whatever_the_others_queue() -> None:
    """Serve one at a time, while a greedy owner adds a run after every turn."""
    waiting, served, order = queue("a1", "a2", "b1", "c1", "b2"), {}, []
    for turn in range(12):
        first = fair_order(waiting, served)[0]
        order.append(first[0])
        served[first[0]] = float(turn + 1)
        waiting = [w for w in waiting if w.id != first] + [Waiting(f"a{10 + turn}", "a", 100.0 + turn)]
    assert order[:6] == ["a", "b", "c", "a", "b", "a"]


def test_a_slot_per_device() -> None:
    assert slots("", 0) == [Slot("cpu", "cpu")]
    assert slots("", 2) == [Slot("cuda:0", "cuda:0"), Slot("cuda:1", "cuda:1")]
    assert slots("3", 0) == [Slot("cpu", "cpu"), Slot("cpu/2", "cpu"), Slot("cpu/3", "cpu")]
    assert [s.device for s in slots("3", 2)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert slots("cpu, cuda:1", 0) == [Slot("cpu", "cpu"), Slot("cuda:1", "cuda:1")]


@pytest.mark.parametrize("setting", ["gpu", "cuda", "cuda:x", "0", "cpu:1"])
def test_a_setting_that_names_no_device_is_refused(setting: str) -> None:
    with pytest.raises(BadInput, match="DELTALAB_SLOTS"):
        slots(setting, 0)


def test_a_worker_sees_only_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment(Slot("cuda:1", "cuda:1")) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert environment(Slot("cpu", "cpu")) == {"CUDA_VISIBLE_DEVICES": ""}
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert environment(Slot("cpu", "cpu"), sharing=4)["OMP_NUM_THREADS"] == "2"
    # Whoever started the server may have given it some of the devices only.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert environment(Slot("cuda:1", "cuda:1")) == {"CUDA_VISIBLE_DEVICES": "6"}
    assert len(slots("")) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert slots("") == [Slot("cpu", "cpu")]
