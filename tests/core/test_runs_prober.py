"""Measurements in their own process: what they say, how they end, whose they are, and that none is made twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadInput, NotFound, Refused
from core.probes import PROBES
from core.runs.claims import size_bytes
from core.runs.prober import KEPT, MOST_WAITING, Prober, Probing
from core.runs.store import Run, Store
from core.runs.worker import execute
from tests.core.runs_support import OWNER, quick_config, quick_train, wait_for

COMMAND = (sys.executable, "-m", "tests.core.probe_support")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(home=tmp_path / "home")
    yield store
    store.close()


@pytest.fixture
def prober(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prober]:
    monkeypatch.setitem(PROBES, "echo", "tests.core.probe_support")
    prober = Prober(store, command=COMMAND)
    yield prober
    prober.close()


@pytest.fixture
def run(store: Store) -> Run:
    return finished(store, "one")


def finished(store: Store, key: str) -> Run:
    made = store.create(OWNER, quick_config(steps=2), key=key)
    assert execute(store, made.id, train=quick_train) == "finished"
    return store.get(made.id, OWNER)


def outcome(prober: Prober, *asked: Any) -> Probing:
    prober.start(*asked)
    wait_for(lambda: not (prober.look(*asked) or Probing("")).active, 60)
    found = prober.look(*asked)
    assert found is not None
    return found


def test_a_result_is_kept_with_the_run_and_goes_with_it(prober: Prober, store: Store, run: Run) -> None:
    asked = ("echo", [run.id], {"times": 3}, OWNER)
    assert prober.look(*asked) is None
    found = outcome(prober, *asked)
    assert (found.status, found.result) == ("finished", {"runs": [run.id], "times": 3})
    assert found.folder is not None
    assert (found.folder / "made.txt").read_text() == "kept"
    assert run.folder in found.folder.parents
    wait_for(lambda: store.get(run.id, OWNER).size_bytes > run.size_bytes, 10)
    assert store.get(run.id, OWNER).size_bytes == size_bytes(run.folder), "what is kept counts for the owner's limit"
    before = (found.folder / "result.json").stat().st_mtime_ns
    assert prober.start(*asked).result == found.result, "asked again, nothing is measured again"
    assert Prober(store).look(*asked).result == found.result, "another server finds it"  # type: ignore[union-attr]
    assert (found.folder / "result.json").stat().st_mtime_ns == before
    assert prober.look("echo", [run.id], {"times": 4}, OWNER) is None, "other settings are another question"
    store.delete(run.id, OWNER)
    assert not found.folder.exists()


def test_it_says_how_far_it_is_and_can_be_stopped(prober: Prober, run: Run) -> None:
    asked = ("echo", [run.id], {"how": "never"}, OWNER)
    assert prober.start(*asked).active
    wait_for(lambda: "Number" in prober.look(*asked).text, 60)  # type: ignore[union-attr]
    seen = prober.look(*asked)
    assert seen is not None
    assert seen.share in (0.5, 1.0)
    prober.cancel(*asked)
    wait_for(lambda: prober.look(*asked).status == "cancelled", 20)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("how", "sentence", "advice"),
    [
        ("badly", "It cannot be measured.", "Measure something else."),
        ("unexpectedly", "The measurement broke off with ZeroDivisionError.", "log.txt"),
        ("killed", "The measurement ended without a result.", "too little memory"),
    ],
)
def test_a_failure_is_said_and_can_be_tried_again(
    prober: Prober, run: Run, how: str, sentence: str, advice: str
) -> None:
    asked = ("echo", [run.id], {"how": how}, OWNER)
    for _ in range(2 if how == "badly" else 1):
        found = outcome(prober, *asked)
        assert (found.status, found.sentence) == ("failed", sentence)
        assert advice in found.advice


def test_only_the_owner_may_ask_and_only_of_what_has_learnt(prober: Prober, store: Store, run: Run) -> None:
    outcome(prober, "echo", [run.id], {}, OWNER)
    with pytest.raises(NotFound):
        prober.look("echo", [run.id], {}, "somebody")
    with pytest.raises(NotFound):
        prober.start("echo", [run.id], {}, "somebody")
    waiting = store.create(OWNER, quick_config(), key="waits")
    with pytest.raises(Refused, match="learnt nothing"):
        prober.start("echo", [waiting.id], {}, OWNER)


def test_mistakes_are_said_at_once(prober: Prober, run: Run) -> None:
    with pytest.raises(NotFound, match="no measurement called 'nonsense'"):
        prober.start("nonsense", [run.id], {}, OWNER)
    with pytest.raises(BadInput, match="unknown setting 'colour'"):
        prober.start("echo", [run.id], {"colour": 1}, OWNER)
    with pytest.raises(BadInput, match="times must be at least 1"):
        prober.start("echo", [run.id], {"times": 0}, OWNER)
    with pytest.raises(BadInput, match="takes 0 to 2 runs, not 3"):
        prober.start("echo", [run.id] * 3, {}, OWNER)


def test_one_works_at_a_time_and_nobody_queues_many(prober: Prober, run: Run) -> None:
    asked = [("echo", [run.id], {"how": "never", "times": n + 1}, OWNER) for n in range(MOST_WAITING + 1)]
    for one in asked[:MOST_WAITING]:
        prober.start(*one)
    wait_for(lambda: sum(prober.look(*a).status == "running" for a in asked[:MOST_WAITING]) == 1, 20)  # type: ignore[union-attr]
    assert sum(prober.look(*a).status == "waiting" for a in asked[:MOST_WAITING]) == MOST_WAITING - 1  # type: ignore[union-attr]
    with pytest.raises(Refused, match="wait already"):
        prober.start(*asked[MOST_WAITING])


def test_without_a_run_the_result_is_the_owners_alone(prober: Prober) -> None:
    assert outcome(prober, "echo", [], {}, OWNER).result == {"runs": [], "times": 2}
    assert prober.look("echo", [], {}, "somebody") is None


def test_old_results_make_room(prober: Prober, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.runs.prober.KEPT", 2)
    assert KEPT > 2
    for times in (1, 2, 3):
        outcome(prober, "echo", [run.id], {"times": times}, OWNER)
    kept = [prober.look("echo", [run.id], {"times": times}, OWNER) is not None for times in (1, 2, 3)]
    assert kept == [False, True, True]
