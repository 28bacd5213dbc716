"""One run in one process: events, cancelling, limits, failures, resuming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.config import RunConfig
from core.events import Event, Finished, Started, Step
from core.runs import journal, worker
from core.runs.locks import FileLock, is_held
from core.runs.store import CHECKPOINT, Store
from core.runs.worker import execute
from tests.core.runs_support import (
    OWNER,
    WORKER,
    quick_config,
    quick_losses,
    quick_train,
    store_in,
    wait_for,
    worker_pid,
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = store_in(tmp_path, monkeypatch, QUICK_STEP_SECONDS="0.005")
    yield store
    store.close()


def losses(store: Store, run_id: str) -> list[float]:
    """The losses in the store, after checking that every step is there once and in order."""
    steps = [e for _, e in store.events(run_id, OWNER, kinds=("step",))]
    assert [e["step"] for e in steps] == list(range(1, len(steps) + 1))
    return [e["loss"] for e in steps]


def spawn(run_id: str, **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*WORKER, "--run", run_id], env={**os.environ, **variables}, start_new_session=True)


def test_a_run_ends_in_the_store_and_tells_its_caller_everything(store: Store) -> None:
    run = store.create(OWNER, quick_config(steps=20), key="k")
    heard: list[Event] = []
    assert execute(store, run.id, heard.append, train=quick_train) == "finished"
    assert isinstance(heard[0], Started)
    assert isinstance(heard[-1], Finished)
    stored = [e["kind"] for _, e in store.events(run.id, OWNER)]
    assert stored == [e.kind for e in heard]
    assert losses(store, run.id) == quick_losses(quick_config(steps=20))
    done = store.get(run.id, OWNER)
    assert done.ended is not None
    assert done.started is not None
    assert done.ended >= done.started >= done.created
    assert journal.leftover(run.folder) == []
    assert not is_held(run.folder / "lock")
    assert execute(store, run.id, train=quick_train) is None  # there is nothing left to do
    assert execute(store, "0" * 16, train=quick_train) is None


def test_the_record_does_not_tell_where_the_data_lies(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "a", "completion": "b"}\n')
    run = store.create(OWNER, RunConfig(task=None, data=str(mine), train=quick_config().train), key="k")
    execute(store, run.id, train=quick_train)
    started = store.events(run.id, OWNER, kinds=("started",))[0][1]
    assert started["config"]["data"] == "data/mine.jsonl"


def test_the_first_step_is_written_at_once_and_the_others_in_batches(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(OWNER, quick_config(steps=40, checkpoint_every=0), key="k")
    writes: list[list[str]] = []
    record = store.record

    def noting(claim: Any, events: Any, **rest: Any) -> Any:
        writes.append([e["kind"] for _, e in events])
        return record(claim, events, **rest)

    monkeypatch.setattr(store, "record", noting)
    monkeypatch.setenv("QUICK_STEP_SECONDS", "0.02")
    execute(store, run.id, train=quick_train)
    with_steps = [w for w in writes if "step" in w]
    assert with_steps[0].count("step") == 1
    assert len(with_steps) < 20  # of 40 steps


def test_two_workers_never_carry_out_one_run(store: Store) -> None:
    run = store.create(OWNER, quick_config(steps=30), key="k")
    results: list[str | None] = []
    barrier = threading.Barrier(3)

    def work() -> None:
        barrier.wait()
        results.append(execute(store, run.id, train=quick_train, signals=False))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["None", "None", "finished"]
    assert losses(store, run.id) == quick_losses(quick_config(steps=30))
    assert store.get(run.id, OWNER).attempt == 1


def test_cancelling_stops_within_a_second_and_resuming_continues_exactly(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_STEP_SECONDS", "0.02")
    config = quick_config(steps=60)
    run = store.create(OWNER, config, key="k")
    cancelled_at: list[float] = []

    def cancel_at_12(event: Event) -> None:
        if isinstance(event, Step) and event.step == 12:
            assert store.cancel(run.id, OWNER).cancelling
            cancelled_at.append(time.monotonic())

    assert execute(store, run.id, cancel_at_12, train=quick_train) == "cancelled"
    assert time.monotonic() - cancelled_at[0] < 1
    stopped = store.get(run.id, OWNER)
    assert (stopped.status, stopped.resumable, stopped.cancelling) == ("cancelled", True, False)
    assert stopped.sentence == f"Cancelled after step {stopped.step}."
    assert 12 <= stopped.step < 40
    cursor = store.events(run.id, OWNER)[-1][0]

    store.resume(run.id, OWNER, key="r")
    assert execute(store, run.id, train=quick_train) == "finished"
    assert losses(store, run.id) == quick_losses(config)
    later = store.events(run.id, OWNER, after=cursor)
    assert later[0][1]["kind"] == "started"
    assert later[0][1]["resumed_at"] == stopped.step
    assert [e["kind"] for _, e in store.events(run.id, OWNER, kinds=("stopped", "failed"))] == []
    assert store.get(run.id, OWNER).attempt == 2


def test_steps_after_the_checkpoint_are_said_once(store: Store) -> None:
    """Killed at step 13, the last checkpoint at 10: what was said of 11 to 13 is void when the run goes on from 10."""
    config = quick_config(steps=20)
    run = store.create(OWNER, config, key="k")
    claim = store.claim(run.id)
    assert claim is not None
    for seq, event in enumerate(quick_train(config, run.folder), start=1):
        store.record(claim, [(seq, worker.clean(worker.to_dict(event)))])
        if isinstance(event, Step) and event.step == 13:
            break
    store.reap()
    dead = store.get(run.id, OWNER)
    assert (dead.status, dead.resumable, dead.step) == ("interrupted", True, 13)
    assert len(losses(store, run.id)) == 13
    store.resume(run.id, OWNER, key="r")
    assert execute(store, run.id, train=quick_train) == "finished"
    assert losses(store, run.id) == quick_losses(config)
    evaluated = [e["step"] for _, e in store.events(run.id, OWNER, kinds=("evaluated",))]
    assert evaluated == [0, 10, 20]


def test_without_a_checkpoint_a_resumed_run_starts_over_and_says_nothing_twice(store: Store) -> None:
    config = quick_config(steps=20, checkpoint_every=0)
    run = store.create(OWNER, config, key="k")
    claim = store.claim(run.id)
    assert claim is not None
    for seq, event in enumerate(quick_train(config, run.folder), start=1):
        store.record(claim, [(seq, worker.clean(worker.to_dict(event)))])
        if isinstance(event, Step) and event.step == 7:
            break
    store.reap()
    assert not store.get(run.id, OWNER).resumable
    store.resume(run.id, OWNER, key="r")
    assert execute(store, run.id, train=quick_train) == "finished"
    assert losses(store, run.id) == quick_losses(config)
    events = store.events(run.id, OWNER)
    assert [e["kind"] for _, e in events].count("started") == 1
    assert events[0][0] > 7  # cursors of readers stay true: no seq is used twice


def test_a_dead_workers_journal_reaches_the_store(store: Store) -> None:
    config = quick_config(steps=20)
    run = store.create(OWNER, config, key="k")
    claim = store.claim(run.id)
    assert claim is not None
    store.record(claim, [(1, {"kind": "started", "steps": 20, "resumed_at": 0})])
    left = journal.Journal(run.folder)
    left.add(1, {"kind": "started", "steps": 20, "resumed_at": 0})  # written to the store, not yet removed here
    left.add(2, {"kind": "step", "step": 1, "loss": 0.5})
    left.add(3, {"kind": "step", "step": 2, "loss": 0.4})
    with (run.folder / journal.NAME).open("a") as file:
        file.write('[4, {"kind": "step", "st')  # the kill came in the middle of this one
    store.reap()
    assert [(seq, e["kind"]) for seq, e in store.events(run.id, OWNER)] == [(1, "started"), (2, "step"), (3, "step")]
    assert store.get(run.id, OWNER).step == 2
    assert not (run.folder / journal.NAME).exists()


def test_a_worker_that_died_after_its_last_word_has_finished(store: Store) -> None:
    run = store.create(OWNER, quick_config(steps=1), key="k")
    assert store.claim(run.id) is not None
    left = journal.Journal(run.folder)
    left.add(1, {"kind": "step", "step": 1, "loss": 0.5})
    left.add(2, {"kind": "finished", "step": 1})
    store.reap()
    assert store.get(run.id, OWNER).status == "finished"


def test_a_failure_is_recorded_with_its_sentence(store: Store) -> None:
    run = store.create(OWNER, quick_config(seed=444), key="k")
    assert execute(store, run.id, train=quick_train) == "failed"
    failed = store.get(run.id, OWNER)
    assert (failed.status, failed.sentence) == ("failed", "The loss is not a number any more.")
    assert failed.advice == "Lower the learning rate."
    assert store.events(run.id, OWNER)[-1][1]["kind"] == "failed"


def test_a_defect_becomes_a_sentence_and_the_traceback_stays_in_the_log(store: Store) -> None:
    run = store.create(OWNER, quick_config(seed=666), key="k")
    assert execute(store, run.id, train=quick_train) == "failed"
    failed = store.get(run.id, OWNER)
    assert failed.sentence == "The run broke off with ZeroDivisionError: a defect, on purpose."
    assert "log.txt" in failed.advice
    assert "Traceback" in (run.folder / "log.txt").read_text()
    assert all("Traceback" not in str(e) for _, e in store.events(run.id, OWNER))


def test_a_trainer_that_just_ends_or_exits_has_failed(store: Store) -> None:
    def silent(config: RunConfig, folder: Path, **_: Any) -> Iterator[Event]:
        yield Step(1, 1.0, 1.0, 1.0, 1, 0.0)

    def exits(config: RunConfig, folder: Path, **_: Any) -> Iterator[Event]:
        yield Step(1, 1.0, 1.0, 1.0, 1, 0.0)
        sys.exit(1)

    for key, train in (("a", silent), ("b", exits)):
        run = store.create(OWNER, quick_config(), key=key)
        assert execute(store, run.id, train=train) == "failed"
        assert store.get(run.id, OWNER).sentence


def test_a_setting_that_this_version_does_not_know_is_a_failure_not_a_crash(store: Store) -> None:
    run = store.create(OWNER, quick_config(), key="k")
    with store.engine.begin() as c:
        c.execute(sa.text('update runs set config = \'{"method": "prompt"}\''))
    assert execute(store, run.id, train=quick_train) == "failed"
    assert "prompt" in store.get(run.id, OWNER).sentence


def test_the_time_limit_ends_a_run_resumably(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICK_STEP_SECONDS", "0.02")
    config = quick_config(steps=50)
    run = store.create(OWNER, config, key="k")
    assert execute(store, run.id, train=quick_train, max_seconds=0.4) == "failed"
    failed = store.get(run.id, OWNER)
    assert "limit of 0.4 s" in failed.sentence
    assert failed.resumable
    assert store.events(run.id, OWNER)[-1][1]["failure"] == "time_limit"
    store.resume(run.id, OWNER, key="r")
    assert execute(store, run.id, train=quick_train) == "finished"
    assert losses(store, run.id) == quick_losses(config)


def test_a_deleted_run_ends_without_a_word(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICK_STEP_SECONDS", "0.02")
    run = store.create(OWNER, quick_config(steps=200), key="k")
    heard: list[int] = []

    def delete_at_5(event: Event) -> None:
        if isinstance(event, Step):
            heard.append(event.step)
            if event.step == 5:
                store.delete(run.id, OWNER)

    assert execute(store, run.id, delete_at_5, train=quick_train) is None
    assert heard[-1] < 60
    assert run.folder.exists()  # the worker was still at it; the sweep takes it later
    old = time.time() - 3600
    os.utime(run.folder, (old, old))
    assert store.sweep() == [run.id]


def test_a_store_that_is_away_for_a_while_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICK_STEP_SECONDS", "0.02")
    config = quick_config(steps=40)
    run = store.create(OWNER, config, key="k")
    record = store.record
    began = time.monotonic()

    def away(claim: Any, events: Any, **rest: Any) -> Any:
        if 0.3 < time.monotonic() - began < 1.0:
            raise sa.exc.OperationalError("insert", {}, Exception("database is locked"))
        return record(claim, events, **rest)

    monkeypatch.setattr(store, "record", away)
    assert execute(store, run.id, train=quick_train) == "finished"
    assert losses(store, run.id) == quick_losses(config)


def test_a_store_that_stays_away_leaves_everything_to_whoever_comes_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_STEP_SECONDS", "0.02")
    monkeypatch.setattr(worker, "STORE_PATIENCE_SECONDS", 0.5)
    run = store.create(OWNER, quick_config(steps=60), key="k")
    record = store.record
    began = time.monotonic()

    def gone(claim: Any, events: Any, **rest: Any) -> Any:
        if time.monotonic() - began > 0.4:
            raise sa.exc.OperationalError("insert", {}, Exception("database or disk is full"))
        return record(claim, events, **rest)

    monkeypatch.setattr(store, "record", gone)
    with pytest.raises(sa.exc.OperationalError, match="disk is full"):
        execute(store, run.id, train=quick_train)
    monkeypatch.setattr(store, "record", record)
    before = store.get(run.id, OWNER)
    assert before.status == "running"
    store.reap()
    after = store.get(run.id, OWNER)
    # The journal has what the store would not take, even why the run broke off.
    assert (after.status, after.step > before.step) == ("failed", True)
    assert "disk is full" in after.sentence
    store.resume(run.id, OWNER, key="r")
    assert execute(store, run.id, train=quick_train) == "finished"
    assert losses(store, run.id) == quick_losses(quick_config(steps=60))


def test_a_step_that_does_not_end_is_cut_off(store: Store) -> None:
    run = store.create(OWNER, quick_config(seed=555), key="k")
    code = (
        "import sys; from core.runs import worker; worker.STOP_GRACE_SECONDS = 0.5;"
        "from core.runs.store import Store; from tests.core.runs_support import quick_train;"
        "worker.execute(Store(), sys.argv[1], train=quick_train)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, run.id])
    wait_for(lambda: store.get(run.id, OWNER).status == "running")
    wait_for(lambda: store.events(run.id, OWNER))
    store.cancel(run.id, OWNER)
    assert process.wait(10) == worker.CUT_OFF
    ended = store.get(run.id, OWNER)
    assert ended.status == "cancelled"
    assert "Cut off" in ended.sentence


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_from_the_machine_stops_after_the_step_with_a_checkpoint(store: Store, number: int) -> None:
    config = quick_config(steps=100)
    run = store.create(OWNER, config, key="k")
    process = spawn(run.id, QUICK_STEP_SECONDS="0.02")
    wait_for(lambda: store.get(run.id, OWNER).step >= 3)
    process.send_signal(number)
    assert process.wait(10) == worker.FAILED
    stopped = store.get(run.id, OWNER)
    assert (stopped.status, stopped.resumable) == ("interrupted", True)
    store.resume(run.id, OWNER, key="r")
    assert execute(store, run.id, train=quick_train) == "finished"
    assert losses(store, run.id) == quick_losses(config)


def test_the_worker_process_is_nice_has_its_own_log_and_its_lock(store: Store) -> None:
    run = store.create(OWNER, quick_config(steps=100), key="k")
    process = spawn(run.id, QUICK_STEP_SECONDS="0.02")
    wait_for(lambda: store.get(run.id, OWNER).step >= 1)
    assert worker_pid(run.folder) == process.pid
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + worker.NICENESS)
    assert os.getsid(process.pid) == process.pid
    assert f"worker {process.pid}: attempt 1" in (run.folder / "log.txt").read_text()
    process.kill()
    process.wait()
    assert not is_held(run.folder / "lock")


def test_a_worker_with_nothing_to_do_says_so(store: Store) -> None:
    assert spawn("0" * 16).wait(20) == worker.NOT_TAKEN
    run = store.create(OWNER, quick_config(), key="k")
    with FileLock(run.folder / "lock") as lock:
        assert lock.acquire()
        assert spawn(run.id).wait(20) == worker.NOT_TAKEN
    assert store.get(run.id, OWNER).status == "queued"


def test_a_standby_ends_when_its_supervisor_does(store: Store) -> None:
    process = subprocess.Popen([*WORKER, "--standby"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == worker.FINISHED


def test_a_standby_takes_a_run_that_was_handed_over_before_the_supervisor_died(store: Store) -> None:
    run = store.create(OWNER, quick_config(), key="k")
    process = subprocess.Popen([*WORKER, "--standby"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{run.id}\n".encode())
    process.stdin.close()
    process.stdout.close()  # nobody listens any more
    assert process.wait(20) == worker.FINISHED
    assert store.get(run.id, OWNER).status == "finished"


def test_importing_torch_fails_inside_the_run(store: Store, tmp_path: Path) -> None:
    """An installation without a working torch: the run says so, and the worker does not."""
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text('raise ImportError("libtorch_cpu.so is missing")')
    run = store.create(OWNER, quick_config(), key="k")
    path = f"{tmp_path / 'broken'}:{Path(worker.__file__).parents[2]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "core.runs.worker", "--run", run.id], env={**os.environ, "PYTHONPATH": path}
    )
    assert process.wait(60) == worker.FAILED
    failed = store.get(run.id, OWNER)
    assert failed.status == "failed"
    assert "ImportError: libtorch_cpu.so is missing" in failed.sentence
    assert "Traceback" in (run.folder / "log.txt").read_text()


def test_the_end_is_the_end_also_while_the_other_thread_waits_to_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes now and then comes right after the last write, and must not take the run for lost."""
    end = worker.Scribe.end

    def slow(self: worker.Scribe, *what: Any) -> None:
        end(self, *what)
        time.sleep(3 * worker.BATCH_SECONDS)  # the other thread has its turn before this one goes on

    monkeypatch.setattr(worker.Scribe, "end", slow)
    run = store.create(OWNER, quick_config(steps=2), key="k")
    assert execute(store, run.id, train=quick_train) == "finished"
    assert not (run.folder / CHECKPOINT).exists()


def test_checkpoints_go_when_the_end_is_in_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last step and the store's word of it, the run still has what it goes on from."""
    run = store.create(OWNER, quick_config(steps=12), key="k")
    record: Callable[..., Any] = store.record
    there: list[bool] = []

    def noting(claim: Any, events: Any, **rest: Any) -> Any:
        if rest.get("final"):
            there.append((run.folder / CHECKPOINT).exists())
        return record(claim, events, **rest)

    monkeypatch.setattr(store, "record", noting)
    execute(store, run.id, train=quick_train)
    assert there == [True]
    assert not (run.folder / CHECKPOINT).exists()
