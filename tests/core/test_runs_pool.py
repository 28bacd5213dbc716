"""The supervisor: queue, warm worker, deaths, restarts. Real processes; the quick trainer unless said otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from core.config import RunConfig
from core.runs import pool
from core.runs.locks import is_held
from core.runs.pool import Supervisor
from core.runs.queue import Slot
from core.runs.store import Run, Store
from tests.core.runs_support import (
    ONE_SLOT,
    OWNER,
    WORKER,
    Server,
    quick_config,
    quick_losses,
    store_in,
    wait_for,
    worker_pid,
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = store_in(tmp_path, monkeypatch, QUICK_STEP_SECONDS="0.01")
    yield store
    for run in store.runs(OWNER):
        if (pid := worker_pid(run.folder)) is not None and pid != os.getpid():
            os.kill(pid, signal.SIGKILL)
    store.close()


def supervise(store: Store, *places: Slot, warm: bool = True) -> Supervisor:
    return Supervisor(store, places=places or ONE_SLOT, command=WORKER, warm=warm)


def ended(store: Store, run: Run) -> bool:
    return not store.get(run.id, run.owner).active


def standby_pid(supervisor: Supervisor) -> int:
    standby = supervisor._standby()
    assert standby is not None
    return standby.process.pid


def test_a_queued_run_is_carried_out_and_the_next_one_after_it(store: Store) -> None:
    with supervise(store) as supervisor:
        runs = [store.create(OWNER, quick_config(steps=20), key=f"k{n}") for n in range(3)]
        wait_for(lambda: all(ended(store, r) for r in runs), 30)
        done = [store.get(r.id, OWNER) for r in runs]
        assert [r.status for r in done] == ["finished"] * 3
        for before, after in pairwise(done):
            assert before.ended is not None
            assert after.started is not None
            assert before.ended <= after.started  # one slot: never two at once
        wait_for(lambda: supervisor.status()["slots"][0]["run"] is None)


def test_a_warm_standby_takes_the_run_and_another_takes_its_place(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "WARM_DELAY_SECONDS", 0.3)
    with supervise(store) as supervisor:
        wait_for(lambda: supervisor.status()["standby"] == "ready")
        pid = standby_pid(supervisor)
        run = store.create(OWNER, quick_config(steps=100), key="k")
        took = wait_for(lambda: store.events(run.id, OWNER, kinds=("step",)))
        print(f"first step of the quick trainer after {took:.2f} s")
        assert worker_pid(run.folder) == pid
        wait_for(lambda: supervisor.status()["standby"] == "ready")
        assert standby_pid(supervisor) != pid
        assert supervisor.status()["slots"] == [{"name": "cpu", "device": "cpu", "run": run.id}]
        wait_for(lambda: ended(store, run))


def test_without_a_standby_a_cold_worker_takes_the_run(store: Store) -> None:
    with supervise(store, warm=False) as supervisor:
        run = store.create(OWNER, quick_config(), key="k")
        wait_for(lambda: ended(store, run))
        assert store.get(run.id, OWNER).status == "finished"
        assert supervisor.status()["standby"] == "none"


def test_a_cold_worker_that_has_taken_its_run_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a worker that does *not* take what it was given is ended; how long the run then takes is its own affair."""
    monkeypatch.setattr(pool, "READY_SECONDS", 2.5)
    with supervise(store, warm=False):
        run = store.create(OWNER, quick_config(steps=350), key="k")
        took = wait_for(lambda: ended(store, run), 60)
    assert (store.get(run.id, OWNER).status, took > 2.5) == ("finished", True)


def workers_of(runs: list[Run]) -> list[int]:
    """The process that carried out each run, as its log says."""
    return [int((r.folder / "log.txt").read_text().split("worker ")[1].split(":")[0]) for r in runs]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_persons_runs_follow_each_other_in_one_process_and_nobody_elses(store: Store) -> None:
    runs = [store.create("ada", quick_config(steps=5, seed=n), key=f"k{n}") for n in range(4)]
    runs.append(store.create("bob", quick_config(steps=5), key="k"))
    with supervise(store):
        wait_for(lambda: all(ended(store, r) for r in runs), 30)
        pids = workers_of(runs)
        # Turns: ada, bob, then ada's others.
        assert len({pids[0], pids[4], pids[1]}) == 3, "another person's run lies between"
        assert pids[1] == pids[2] == pids[3]
        wait_for(lambda: all(is_gone(pid) for pid in pids), 5)  # nothing waits for them: the last one is let go
    for number, run in enumerate(runs[:4]):
        steps = [e["loss"] for _, e in store.events(run.id, "ada", kinds=("step",))]
        assert steps == quick_losses(quick_config(steps=5, seed=number))


def test_what_did_not_finish_takes_its_process_with_it(store: Store) -> None:
    failing, cancelled = quick_config(steps=5, seed=444), quick_config(steps=5000)
    compiled = quick_config(steps=5, compile=True)
    configs = [quick_config(steps=5), failing, quick_config(steps=5), cancelled, compiled, quick_config(steps=5)]
    runs = [store.create(OWNER, config, key=f"k{n}") for n, config in enumerate(configs)]
    with supervise(store):
        wait_for(lambda: store.get(runs[3].id, OWNER).step >= 1, 30)
        store.cancel(runs[3].id, OWNER)
        wait_for(lambda: all(ended(store, r) for r in runs), 30)
    statuses = [store.get(r.id, OWNER).status for r in runs]
    assert statuses == ["finished", "failed", "finished", "cancelled", "finished", "finished"]
    first, failed, between, stopped, compiling, last = workers_of(runs)
    assert first == failed != between == stopped != compiling != last, "a compiler leaves things behind too"


def test_a_kept_worker_that_is_killed_takes_its_own_run_alone(store: Store) -> None:
    runs = [store.create(OWNER, quick_config(steps=n), key=f"k{n}") for n in (5, 4000, 6)]
    with supervise(store):
        wait_for(lambda: store.get(runs[1].id, OWNER).step >= 1, 30)
        pid = worker_pid(runs[1].folder)
        assert [pid] == workers_of(runs[:1])
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(ended(store, r) for r in runs), 30)
    assert [store.get(r.id, OWNER).status for r in runs] == ["finished", "interrupted", "finished"]
    assert workers_of(runs)[2] != pid


def test_a_kept_worker_whose_next_run_is_lost_is_not_a_standby_for_others(store: Store) -> None:
    """It belongs to its person still; nobody's thread here, so that nothing is handed out meanwhile."""
    supervisor = supervise(store, warm=False)
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    process = subprocess.Popen(waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
    worker = pool.Worker(process, ONE_SLOT[0], errors, run="x", owner="ada", kept=True)
    supervisor._workers.append(worker)
    supervisor._messages.put((worker, {"lost": "x"}))
    supervisor._listen()
    assert worker.run is None
    assert supervisor._standby() is None
    assert supervisor._kept("bob", ONE_SLOT) is None
    assert supervisor._kept("ada", ONE_SLOT) is worker
    supervisor._dismiss()
    assert process.wait(5) == 0
    assert supervisor._kept("ada", ONE_SLOT) is None
    supervisor._bury()
    assert supervisor._deaths == 0, "it was let go, it did not die"


def test_turns_go_round_between_owners(store: Store) -> None:
    runs = [store.create("ada", quick_config(steps=5), key=f"k{n}") for n in range(3)]
    runs += [store.create("bob", quick_config(steps=5), key="k"), store.create("eve", quick_config(steps=5), key="k")]
    with supervise(store):
        wait_for(lambda: all(ended(store, r) for r in runs), 30)
    done = sorted((store.get(r.id, r.owner) for r in runs), key=lambda r: r.started or 0)
    assert [r.owner for r in done] == ["ada", "bob", "eve", "ada", "ada"]


def test_two_slots_carry_out_two_runs_at_once(store: Store) -> None:
    with supervise(store, Slot("cpu", "cpu"), Slot("cpu/2", "cpu")):
        runs = [store.create(OWNER, quick_config(steps=150), key=f"k{n}") for n in range(3)]
        wait_for(lambda: [store.get(r.id, OWNER).status for r in runs].count("running") == 2)
        assert store.get(runs[2].id, OWNER).queue_position == 1
        wait_for(lambda: all(ended(store, r) for r in runs), 30)


def test_cancelling_a_running_run_frees_its_slot(store: Store) -> None:
    with supervise(store):
        long, short = (store.create(OWNER, quick_config(steps=n), key=f"k{n}") for n in (5000, 5))
        wait_for(lambda: store.get(long.id, OWNER).step >= 1)
        store.cancel(long.id, OWNER)
        took = wait_for(lambda: store.get(long.id, OWNER).status == "cancelled", 5)
        assert took < 2
        wait_for(lambda: store.get(short.id, OWNER).status == "finished")


def test_cancelling_between_the_handing_over_and_the_taking_leaves_the_standby_warm(store: Store) -> None:
    with supervise(store) as supervisor:
        wait_for(lambda: supervisor.status()["standby"] == "ready")
        pid = standby_pid(supervisor)
        os.kill(pid, signal.SIGSTOP)
        run = store.create(OWNER, quick_config(), key="k")
        wait_for(lambda: store.occupied())
        assert store.cancel(run.id, OWNER).status == "cancelled"
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: supervisor.status()["standby"] == "ready")
        assert standby_pid(supervisor) == pid
        other = store.create(OWNER, quick_config(), key="k2")
        wait_for(lambda: store.get(other.id, OWNER).status == "finished")
        assert store.get(run.id, OWNER).attempt == 0


def test_a_killed_worker_is_noticed_within_five_seconds_and_its_run_can_go_on(store: Store) -> None:
    config = quick_config(steps=150)
    with supervise(store):
        run = store.create(OWNER, config, key="k")
        wait_for(lambda: store.get(run.id, OWNER).step >= 10)
        pid = worker_pid(run.folder)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        took = wait_for(lambda: store.get(run.id, OWNER).status == "interrupted", 10)
        print(f"a SIGKILL was noticed after {took:.2f} s")
        assert took < 5
        dead = store.get(run.id, OWNER)
        assert "killed" in dead.sentence
        assert dead.resumable
        store.resume(run.id, OWNER, key="r")
        wait_for(lambda: store.get(run.id, OWNER).status == "finished", 30)
    steps = [e for _, e in store.events(run.id, OWNER, kinds=("step",))]
    assert [e["loss"] for e in steps] == quick_losses(config)


def test_an_idle_standby_that_dies_is_replaced(store: Store) -> None:
    with supervise(store) as supervisor:
        wait_for(lambda: supervisor.status()["standby"] == "ready")
        pid = standby_pid(supervisor)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: supervisor.status()["standby"] == "ready" and standby_pid(supervisor) != pid, 20)


def test_a_standby_that_dies_with_a_run_in_its_hands_gives_it_back(store: Store) -> None:
    with supervise(store) as supervisor:
        wait_for(lambda: supervisor.status()["standby"] == "ready")
        pid = standby_pid(supervisor)
        os.kill(pid, signal.SIGSTOP)  # it cannot take the run …
        run = store.create(OWNER, quick_config(), key="k")
        wait_for(lambda: store.occupied())
        os.kill(pid, signal.SIGKILL)  # … and then dies
        wait_for(lambda: store.get(run.id, OWNER).status == "finished", 30)


def test_a_slow_worker_keeps_its_reservation(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.runs.claims.LEASE_SECONDS", 0.8)
    monkeypatch.setattr(pool, "RENEW_SECONDS", 0.2)
    with supervise(store) as supervisor:
        wait_for(lambda: supervisor.status()["standby"] == "ready")
        pid = standby_pid(supervisor)
        os.kill(pid, signal.SIGSTOP)
        run = store.create(OWNER, quick_config(), key="k")
        wait_for(lambda: store.occupied())
        for _ in range(20):
            assert store.occupied() == {"cpu": run.id}
            time.sleep(0.1)
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: store.get(run.id, OWNER).status == "finished")
        wait_for(lambda: all(w.process.pid != pid for w in supervisor._workers))  # it ends, and is forgotten


def test_a_worker_that_cannot_start_fails_the_run_with_a_sentence_and_does_not_loop(store: Store) -> None:
    started: list[int] = []
    command = [sys.executable, "-c", "raise ImportError('no such library: libcuda')"]
    supervisor = Supervisor(store, places=ONE_SLOT, command=command)
    spawn = supervisor._spawn
    supervisor._spawn = lambda *a: (started.append(1), spawn(*a))[1]  # type: ignore[method-assign]
    with supervisor:
        run = store.create(OWNER, quick_config(), key="k")
        wait_for(lambda: store.get(run.id, OWNER).status == "failed", 30)
        failed = store.get(run.id, OWNER)
        assert "could not start" in failed.sentence
        assert "ImportError: no such library: libcuda" in failed.sentence
        assert "doctor" in failed.advice
        so_far = len(started)
        time.sleep(2)
        assert len(started) - so_far <= 2  # the standby's back-off grows
    assert len(started) < 12


def test_a_standby_that_cannot_warm_up_still_takes_a_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICK_WARM_FAILS", "1")
    with supervise(store) as supervisor:
        wait_for(lambda: supervisor.status()["standby_problem"])
        assert "nothing works here" in supervisor.status()["standby_problem"]
        run = store.create(OWNER, quick_config(), key="k")
        wait_for(lambda: store.get(run.id, OWNER).status == "finished")


def test_stopping_ends_the_standby_and_leaves_the_run_alone(store: Store) -> None:
    supervisor = supervise(store).start()
    run = store.create(OWNER, quick_config(steps=150), key="k")
    wait_for(lambda: store.get(run.id, OWNER).step >= 1)
    supervisor.stop()
    assert is_held(run.folder / "lock")
    wait_for(lambda: store.get(run.id, OWNER).status == "finished", 20)


def test_two_supervisors_share_a_store_and_a_machine(store: Store) -> None:
    other = Store()
    with supervise(store), supervise(other):
        runs = [store.create(f"o{n}", quick_config(steps=15), key="k") for n in range(5)]
        wait_for(lambda: all(ended(store, r) for r in runs), 40)
    done = sorted((store.get(r.id, r.owner) for r in runs), key=lambda r: r.started or 0)
    assert [(r.status, r.attempt) for r in done] == [("finished", 1)] * 5
    for before, after in pairwise(done):
        assert (before.ended or 0) <= (after.started or 0)  # the slot is the machine's, not the supervisor's
    other.close()


def test_a_run_outlives_its_server_and_the_next_server_takes_over(store: Store) -> None:
    config, short = quick_config(steps=120), quick_config(steps=10)
    server = Server()
    running, waiting = server.create("a", config), server.create("b", short)
    wait_for(lambda: store.get(running, OWNER).step >= 3)
    server.kill()
    before = store.get(running, OWNER)
    wait_for(lambda: store.get(running, OWNER).step > before.step)
    assert store.get(waiting, OWNER).queue_position == 1
    next_server = Server()
    try:
        wait_for(lambda: store.get(waiting, OWNER).status == "finished", 40)
    finally:
        next_server.kill()
    for run_id, asked in ((running, config), (waiting, short)):
        assert store.get(run_id, OWNER).attempt == 1
        losses = [e["loss"] for _, e in store.events(run_id, OWNER, kinds=("step",))]
        assert losses == quick_losses(asked)


@pytest.mark.alone
@pytest.mark.slow
def test_the_first_loss_comes_within_two_seconds_of_the_request(store: Store) -> None:
    """The real engine and the embedded base, a warm standby, and the default JSON run.

    Other work on the machine only ever adds to the time, so the quickest of three requests is what the engine needs;
    the others are made only where the first was not quick enough.
    """

    def first_loss_seconds(supervisor: Supervisor, key: str) -> float:
        warm = wait_for(lambda: supervisor.status()["standby"] == "ready", 240, every=0.1)
        assert supervisor.status()["standby_problem"] == ""
        began = time.monotonic()
        run = store.create(OWNER, RunConfig(), key=key)
        wait_for(lambda: store.events(run.id, OWNER, kinds=("step",)) or ended(store, run), 120)
        took = time.monotonic() - began
        print(f"standby warm after {warm:.1f} s; first loss {took:.2f} s after create()")
        assert store.get(run.id, OWNER).attempt == 1
        store.cancel(run.id, OWNER)
        wait_for(lambda: ended(store, run), 60)
        return took

    with Supervisor(store, places=ONE_SLOT) as supervisor:
        assert any(first_loss_seconds(supervisor, f"k{n}") < 2 for n in range(3))
