"""The store: what a person may see and do, on SQLite and, where there is one, on PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.config import RunConfig, TrainConfig, default_table
from core.errors import BadInput, DeltalabError, NotFound, Refused
from core.events import Step, to_dict
from core.runs import schema
from core.runs.claims import LEASE_SECONDS, MAX_TRIES
from core.runs.home import data_home
from core.runs.locks import FileLock
from core.runs.pool import Supervisor
from core.runs.store import CHECKPOINT, Run, Store, as_public
from tests.core.runs_support import ONE_SLOT, WORKER, quick_config, quick_losses, quick_train, wait_for, worker_pid


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of our own; the URL of an empty database comes from `database`."""
    pytest.importorskip("psycopg", reason="the tests on PostgreSQL need psycopg (pip install deltalab[cluster])")
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not binaries:
        pytest.skip("the tests on PostgreSQL need a PostgreSQL server installed")
    folder = binaries[-1].parent
    place = tmp_path_factory.mktemp("postgres")
    data = place / "data"
    # The server refuses to run as root; drop to an account that every system has.
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if drop:
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and setpriv is not there")
        os.chown(place, 65534, 65534)
        for parent in list(place.parents)[:3]:
            if os.stat(parent).st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
                os.chmod(parent, 0o711)
    subprocess.run(
        [*drop, folder / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"],
        check=True, capture_output=True, cwd=place,
    )  # fmt: skip
    options = f"-c listen_addresses='' -c unix_socket_directories={place} -c fsync=off"
    subprocess.run(
        [*drop, folder / "pg_ctl", "-D", data, "-o", options, "-l", place / "log", "-w", "start"],
        check=True, capture_output=True, cwd=place,
    )  # fmt: skip
    try:
        yield f"postgresql+psycopg://postgres@/{{}}?host={place}"
    finally:
        subprocess.run(
            [*drop, folder / "pg_ctl", "-D", data, "-m", "immediate", "stop"], capture_output=True, cwd=place
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    pattern = request.getfixturevalue("postgres")
    name = f"t{os.urandom(6).hex()}"
    admin = sa.create_engine(pattern.format("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as c:
        c.exec_driver_sql(f"create database {name}")
    admin.dispose()
    return pattern.format(name)


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    store = Store(url, tmp_path / "home")
    yield store
    store.close()


def finish(store: Store, run: Run, *, resume: bool = False) -> str | None:
    """Carry the run out here and now, with the quick trainer."""
    from core.runs.worker import execute

    return execute(store, run.id, train=quick_train)


def test_a_created_run_is_queued_with_its_folder_and_every_default(store: Store) -> None:
    run = store.create("ada", RunConfig(task="json"), key="k1", title="First", cell="00/try")
    assert (run.status, run.owner, run.title, run.cell) == ("queued", "ada", "First", "00/try")
    assert run.queue_position == 1
    assert run.config["train"]["learning_rate"] == default_table()["lora"]["json"]["learning_rate"]
    assert run.progress == (0, run.config["train"]["steps"])
    assert not run.recorded
    assert not run.resumable
    assert run.active
    kept = json.loads((run.folder / "config.json").read_text())
    assert kept == run.config
    assert RunConfig.from_dict(kept).method == "lora"
    assert store.get(run.id, "ada") == run
    assert store.events(run.id, "ada") == []
    json.dumps(as_public(run))
    assert "folder" not in as_public(run)


def test_the_checkpoints_name_is_the_engines(store: Store) -> None:
    from core import train

    assert train.CHECKPOINT == CHECKPOINT


def test_a_bad_config_is_refused_with_everything_that_is_wrong_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(BadInput, match=r"batch_size.*steps|steps.*batch_size"):
        store.create("ada", RunConfig(train=TrainConfig(batch_size=0, steps=0)), key="k")
    with pytest.raises(BadInput, match="owner"):
        store.create("", quick_config(), key="k")
    with pytest.raises(BadInput, match="cannot be read"):
        store.create("ada", RunConfig(task=None, data="/nowhere/mine.jsonl"), key="k")
    assert store.runs("ada") == []
    assert list(store.runs_folder.iterdir()) == []


def test_own_data_is_copied_into_the_run(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "my data; rm.jsonl"
    mine.write_text('{"prompt": "a", "completion": "b"}\n')
    run = store.create("ada", RunConfig(task=None, data=str(mine)), key="k")
    mine.unlink()
    assert run.config["data"] == "data/my_data__rm.jsonl"
    assert (run.folder / run.config["data"]).read_text().startswith('{"prompt"')
    claim = store.claim(run.id)
    assert claim is not None
    assert claim.config().data == str(run.folder / "data" / "my_data__rm.jsonl")
    assert run.size_bytes > 30


def test_a_folder_as_base_is_kept_with_its_full_path(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    run = store.create("ada", RunConfig(base="./model"), key="k")
    assert run.config["base"] == str(tmp_path / "model")


def test_the_same_request_gives_the_same_run(store: Store) -> None:
    first = store.create("ada", quick_config(), key="k")
    assert store.create("ada", quick_config(), key="k").id == first.id
    assert store.create("ada", quick_config(), key="k2").id != first.id
    assert store.create("bob", quick_config(), key="k").id != first.id
    assert len(store.runs("ada")) == 2
    assert len(list(store.runs_folder.iterdir())) == 3


def test_the_same_request_from_many_threads_gives_one_run(store: Store) -> None:
    ids: list[str] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        ids.append(store.create("ada", quick_config(), key="k").id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert len(store.runs("ada")) == 1
    assert [f.name for f in store.runs_folder.iterdir()] == [ids[0]]


ASK = """
import sys
from core.runs.store import Store
from tests.core.runs_support import quick_config
print("ready", flush=True); sys.stdin.readline()
store = Store()  # several processes open (and make) the store at one moment
print(*[store.create("ada", quick_config(), key=f"k{n}").id for n in range(4)])
"""


def test_several_processes_make_one_store_and_one_run_per_request(url: str, tmp_path: Path) -> None:
    variables = {**os.environ, "DELTALAB_HOME": str(tmp_path / "home"), "DELTALAB_STORE": url}
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        for _ in range(3)
    ]
    for process in asking:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in asking:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0] for process in asking}
    assert len(answers) == 1
    assert len(set(answers.pop().split())) == 4


def test_what_is_not_yours_does_not_exist(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    finish(store, run)  # so that there are events, an adapter and an end to be seen
    run = store.get(run.id, "ada")
    events = store.events(run.id, "ada")
    store.set_progress("ada", "quiz", 1)
    unknown = "0123456789abcdef"
    for run_id in (run.id, unknown, "", "'; drop table runs; --", "../../etc"):
        for ask in (
            lambda i: store.get(i, "eve"),
            lambda i: store.events(i, "eve"),
            lambda i: store.poll(i, "eve"),
            lambda i: store.cancel(i, "eve"),
            lambda i: store.resume(i, "eve", key="e"),
            lambda i: store.rename(i, "eve", "mine now"),
            lambda i: store.delete(i, "eve"),
        ):
            with pytest.raises(NotFound) as raised:
                ask(run_id)
            # Nothing tells a foreign run from an unknown one.
            assert raised.value.sentence == f"There is no run {run_id!r} here."
    assert store.runs("eve") == []
    assert store.progress("eve") == {}
    assert store.get(run.id, "ada") == run
    assert store.events(run.id, "ada") == events


def test_events_are_read_by_cursor_and_kind(store: Store) -> None:
    run = store.create("ada", quick_config(steps=12), key="k")
    assert finish(store, run) == "finished"
    everything = store.events(run.id, "ada")
    seqs = [seq for seq, _ in everything]
    assert seqs == sorted(set(seqs))
    assert everything[0][1]["kind"] == "started"
    assert everything[-1][1]["kind"] == "finished"
    read, cursor = [], 0
    while part := store.events(run.id, "ada", after=cursor, limit=5):
        assert len(part) <= 5
        read += part
        cursor = part[-1][0]
    assert read == everything
    steps = store.events(run.id, "ada", kinds=("step",))
    assert [e["step"] for _, e in steps] == list(range(1, 13))
    assert steps[0][1]["grad_norm"] is None  # infinity is no JSON
    assert {e["kind"] for _, e in store.events(run.id, "ada", kinds=("step", "saved"))} == {"step", "saved"}
    done, rest = store.poll(run.id, "ada", after=cursor)
    assert (done.status, rest) == ("finished", [])
    assert done.progress == (12, 12)
    assert done.adapter == run.folder / "adapter"
    assert done.size_bytes > 1000
    assert not (run.folder / CHECKPOINT).exists()


def test_runs_are_listed_newest_first_and_by_cell(store: Store) -> None:
    ids = [store.create("ada", quick_config(), key=f"k{n}", cell=f"c{n % 2}").id for n in range(4)]
    assert [r.id for r in store.runs("ada")] == ids[::-1]
    assert [r.id for r in store.runs("ada", limit=2)] == ids[:1:-1]
    assert [r.id for r in store.runs("ada", cell="c1")] == [ids[3], ids[1]]
    assert [r.queue_position for r in store.runs("ada")] == [4, 3, 2, 1]


def test_cancelling_a_waiting_run_is_immediate_and_harmless_twice(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    cancelled = store.cancel(run.id, "ada")
    assert (cancelled.status, cancelled.queue_position) == ("cancelled", None)
    assert cancelled.sentence == "Cancelled before it began."
    assert store.cancel(run.id, "ada") == cancelled
    assert store.claim(run.id) is None
    again = store.resume(run.id, "ada", key="r")
    assert (again.status, again.sentence) == ("queued", "")
    assert finish(store, again) == "finished"
    assert store.cancel(run.id, "ada").status == "finished"


def test_a_run_that_waits_to_go_on_had_begun(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    claim = store.claim(run.id)
    assert claim is not None
    store.record(claim, [(1, to_dict(Step(3, 1.0, 1e-3, 1.0, 10, 0.1)))], final=("interrupted", "Stopped.", ""))
    store.resume(run.id, "ada", key="r")
    assert store.cancel(run.id, "ada").sentence == "Cancelled before it went on."


def test_resuming_is_idempotent_and_refuses_what_is_finished(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    assert store.resume(run.id, "ada", key="early").status == "queued"  # it waits already: nothing to do
    store.cancel(run.id, "ada")
    # "early" was used up above: a repeated request must not do anything new.
    assert store.resume(run.id, "ada", key="early").status == "cancelled"
    assert store.resume(run.id, "ada", key="r").status == "queued"
    store.cancel(run.id, "ada")
    assert store.resume(run.id, "ada", key="r").status == "cancelled"
    store.resume(run.id, "ada", key="r2")
    finish(store, run)
    with pytest.raises(Refused, match="finished"):
        store.resume(run.id, "ada", key="r3")


def test_a_direct_run_is_kept_for_the_process_that_asked(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k", direct=True)
    assert store.waiting() == []
    assert finish(store, run) == "finished"
    other = store.create("ada", quick_config(), key="k2")
    store.cancel(other.id, "ada")
    again = store.resume(other.id, "ada", key="r", direct=True)
    assert again.status == "queued"
    assert store.waiting() == []
    assert finish(store, again) == "finished"
    assert store.occupied() == {}


def test_too_many_active_runs_are_refused(url: str, tmp_path: Path) -> None:
    store = Store(url, tmp_path / "home", max_active=2)
    runs = [store.create("ada", quick_config(), key=f"k{n}") for n in range(2)]
    with pytest.raises(Refused, match="2 is the limit"):
        store.create("ada", quick_config(), key="k2")
    assert len(list(store.runs_folder.iterdir())) == 2
    assert store.create("ada", quick_config(), key="k1").id == runs[1].id  # not a new one
    store.create("bob", quick_config(), key="k")
    store.cancel(runs[0].id, "ada")
    store.create("ada", quick_config(), key="k2")
    with pytest.raises(Refused):
        store.resume(runs[0].id, "ada", key="r")
    # One that runs in the caller's own process takes no slot from anybody.
    assert store.create("ada", quick_config(), key="own", direct=True).status == "queued"
    store.close()


def test_the_quota_holds_when_many_ask_at_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(url, tmp_path / "home", max_active=3)
    refused = []
    check = store._check_quota

    def slowly(*arguments: Any, **named: Any) -> None:
        check(*arguments, **named)
        time.sleep(0.1)  # long enough for the others to count too, if nothing made them wait

    monkeypatch.setattr(store, "_check_quota", slowly)
    barrier = threading.Barrier(8)

    def ask(n: int) -> None:
        barrier.wait()
        try:
            store.create("ada", quick_config(), key=f"k{n}")
        except Refused as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(store.runs("ada")), len(refused)) == (3, 5)
    store.close()


def test_disk_space_has_a_limit(url: str, tmp_path: Path) -> None:
    store = Store(url, tmp_path / "home", max_bytes=30_000)
    big = tmp_path / "big.jsonl"
    big.write_text("x" * 20_000)
    first = store.create("ada", RunConfig(task=None, data=str(big)), key="k1")
    with pytest.raises(Refused, match="on disk"):
        store.create("ada", RunConfig(task=None, data=str(big)), key="k2")
    store.delete(first.id, "ada")
    store.create("ada", RunConfig(task=None, data=str(big)), key="k2")
    store.close()


def test_deleting_removes_row_events_and_folder(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    finish(store, run)
    store.delete(run.id, "ada")
    assert not run.folder.exists()
    with pytest.raises(NotFound):
        store.get(run.id, "ada")
    with store.engine.connect() as c:
        for table in (schema.events_table, schema.requests_table):
            assert c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
    assert store.create("ada", quick_config(), key="k").id != run.id


def test_renaming(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    assert store.rename(run.id, "ada", "  Rank 8  ").title == "Rank 8"
    assert store.rename(run.id, "ada", "x" * 500).title == "x" * 200
    assert store.rename(run.id, "ada", " ").title is None


def test_progress_is_kept_per_owner(store: Store) -> None:
    store.set_progress("ada", "00/quiz-1", {"right": True, "tries": 2})
    store.set_progress("ada", "00/quiz-1", {"right": True, "tries": 3})
    store.set_progress("ada", "00/read", 1.0)
    store.set_progress("bob", "00/read", None)
    assert store.progress("ada") == {"00/quiz-1": {"right": True, "tries": 3}, "00/read": 1.0}
    assert store.progress("bob") == {}
    store.set_progress("ada", "00/read", None)
    assert list(store.progress("ada")) == ["00/quiz-1"]
    for wrong in (float("nan"), object(), "x" * 70_000):
        with pytest.raises(BadInput, match=r"cannot be kept|too long"):
            store.set_progress("ada", "bad", wrong)


def test_progress_written_from_many_threads_is_one_row(store: Store) -> None:
    errors = []

    def write(n: int) -> None:
        try:
            for _ in range(5):
                store.set_progress("ada", "same", n)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.progress("ada")["same"] in range(6)


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_run_and_a_slot_are_given_once(store: Store) -> None:
    one, two = (store.create("ada", quick_config(), key=f"k{n}") for n in range(2))
    assert store.waiting() == [one.id, two.id]
    assert store.dispatch(one.id, "cpu")
    assert not store.dispatch(one.id, "cpu/2")  # the run is reserved
    assert not store.dispatch(two.id, "cpu")  # the slot is
    assert store.occupied() == {"cpu": one.id}
    assert store.waiting() == [two.id]
    assert store.renew(one.id, "cpu")
    claim = store.claim(one.id)
    assert claim is not None
    assert store.claim(one.id) is None
    assert not store.renew(one.id, "cpu")
    store.record(claim, [], final=("finished", "", ""))
    assert store.occupied() == {}
    assert store.dispatch(two.id, "cpu")


def test_many_supervisors_dispatch_each_run_once(store: Store) -> None:
    runs = [store.create(f"o{n}", quick_config(), key="k") for n in range(6)]
    given: list[tuple[str, str]] = []
    barrier = threading.Barrier(3)

    def supervise() -> None:
        barrier.wait()
        for run_id in store.waiting():
            for slot in ("a", "b", "c"):
                if store.dispatch(run_id, slot):
                    given.append((run_id, slot))
                    break

    threads = [threading.Thread(target=supervise) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slot for _, slot in given) == ["a", "b", "c"]
    assert len({run_id for run_id, _ in given}) == 3
    assert {run_id for run_id, _ in given} <= {r.id for r in runs}


def test_a_reservation_that_nobody_takes_up_lapses(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.create("ada", quick_config(), key="k")
    store.dispatch(run.id, "cpu")
    store.reap()
    assert store.waiting() == []
    later = time.time() + LEASE_SECONDS + 1
    monkeypatch.setattr("core.runs.claims.time.time", lambda: later)
    with FileLock(run.folder / "lock") as lock:
        assert lock.acquire()  # a worker has just taken the lock and is about to claim
        store.reap()
        assert store.waiting() == []
    store.reap()
    assert store.waiting() == [run.id]
    assert store.occupied() == {}


def test_a_run_whose_workers_keep_dying_is_given_up(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    for _ in range(MAX_TRIES):
        assert store.get(run.id, "ada").status == "queued"
        assert store.dispatch(run.id, "cpu")
        store.release(run.id, "cpu", failure=("No module named torch.", "Install it."))
    given_up = store.get(run.id, "ada")
    assert (given_up.status, given_up.sentence, given_up.advice) == ("failed", "No module named torch.", "Install it.")
    assert store.events(run.id, "ada")[-1][1]["kind"] == "failed"
    again = store.resume(run.id, "ada", key="r")
    assert again.status == "queued"
    assert finish(store, again) == "finished"


def test_reap_tells_the_dead_from_the_living(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    with FileLock(run.folder / "lock") as lock:
        assert lock.acquire()
        assert store.claim(run.id) is not None
        assert store.reap() == []
        assert store.get(run.id, "ada").status == "running"
    assert store.reap({run.id: "The worker was killed."}) == [run.id]
    dead = store.get(run.id, "ada")
    assert (dead.status, dead.sentence) == ("interrupted", "The worker was killed.")
    assert "start again" in dead.advice
    assert not dead.resumable
    assert store.reap() == []


def test_whoever_opens_a_store_sees_the_dead(url: str, tmp_path: Path) -> None:
    store = Store(url, tmp_path / "home")
    run = store.create("ada", quick_config(), key="k")
    assert store.claim(run.id) is not None
    assert store.get(run.id, "ada").status == "running"
    other = Store(url, tmp_path / "home")
    assert other.get(run.id, "ada").status == "interrupted"
    other.close()
    store.close()


def test_a_run_on_another_machine_is_dead_only_after_a_long_silence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create("ada", quick_config(), key="k")
    assert store.claim(run.id) is not None
    monkeypatch.setattr(store, "host", "another-machine")
    assert store.reap() == []
    later = time.time() + 120
    monkeypatch.setattr("core.runs.claims.time.time", lambda: later)
    assert store.reap() == [run.id]


def test_an_older_worker_cannot_write_any_more(store: Store) -> None:
    run = store.create("ada", quick_config(), key="k")
    old = store.claim(run.id)
    assert old is not None
    store.reap()
    store.resume(run.id, "ada", key="r")
    new = store.claim(run.id)
    assert new is not None
    assert store.record(old, [(1, {"kind": "step", "step": 1})]).gone
    assert not store.record(new, []).gone
    assert store.events(run.id, "ada") == []
    store.delete(run.id, "ada")
    assert store.record(new, []).gone


def test_a_supervised_run_is_killed_resumed_and_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server, worker and store in three processes, on either database."""
    monkeypatch.setenv("QUICK_STEP_SECONDS", "0.01")
    config = quick_config(steps=80)
    with Supervisor(store, places=ONE_SLOT, command=WORKER, warm=False):
        run = store.create("ada", config, key="k")
        wait_for(lambda: store.get(run.id, "ada").step >= 12)
        pid = worker_pid(run.folder)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: store.get(run.id, "ada").status == "interrupted", 5)
        store.resume(run.id, "ada", key="r")
        wait_for(lambda: store.get(run.id, "ada").status == "finished")
    losses = [e["loss"] for _, e in store.events(run.id, "ada", kinds=("step",))]
    assert losses == quick_losses(config)
    assert store.occupied() == {}


def test_a_finished_run_whose_worker_was_killed_at_the_end_keeps_no_checkpoint(store: Store) -> None:
    finished, waiting = (store.create("ada", quick_config(), key=key) for key in "ab")
    assert finish(store, finished) == "finished"
    for run in (finished, waiting):
        (run.folder / CHECKPOINT).touch()
    with FileLock(finished.folder / "lock") as lock:
        assert lock.acquire()
        store.sweep()
        assert (finished.folder / CHECKPOINT).exists(), "its worker is alive, and removes it itself"
    store.sweep()
    assert not (finished.folder / CHECKPOINT).exists()
    assert (waiting.folder / CHECKPOINT).exists()


def test_folders_without_a_run_are_swept_when_they_are_old(store: Store, tmp_path: Path) -> None:
    kept = store.create("ada", quick_config(), key="k")
    old, young, foreign = (store.runs_folder / name for name in ("0" * 16, "1" * 16, "notes"))
    for folder in (old, young, foreign):
        folder.mkdir()
        (folder / "file").write_text("x")
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    os.utime(foreign, (an_hour_ago, an_hour_ago))
    os.utime(kept.folder, (an_hour_ago, an_hour_ago))
    assert store.sweep() == [old.name]
    assert young.exists()
    assert foreign.exists()
    assert kept.folder.exists()


# --- the database -----------------------------------------------------------------------------------------------------


def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    store = Store(home=tmp_path / "home")
    with store.engine.connect() as c:
        pragmas = {
            name: c.exec_driver_sql(f"pragma {name}").scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout", "integrity_check")
        }
    assert pragmas == {
        "journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "busy_timeout": 30000, "integrity_check": "ok",
    }  # fmt: skip
    store.close()


def test_the_data_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path / "new" / "home"))
    old = os.umask(0)
    try:
        store = Store()
        run = store.create("ada", quick_config(), key="k")
    finally:
        os.umask(old)
    for folder in (store.home, store.runs_folder, run.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in store.home.glob("deltalab.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store.close()
    monkeypatch.delenv("DELTALAB_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    if sys.platform.startswith("linux"):
        assert data_home() == tmp_path / "xdg" / "deltalab"


def test_an_older_store_is_brought_up_to_date_and_a_newer_one_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(url, tmp_path / "home")
    run = store.create("ada", quick_config(), key="k")
    store.close()

    def add_column(c: sa.Connection) -> None:
        c.execute(sa.DDL("alter table runs add column colour varchar(10)"))

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setitem(schema.MIGRATIONS, 2, add_column)
    newer = Store(url, tmp_path / "home")
    assert newer.get(run.id, "ada").id == run.id
    assert "colour" in {column["name"] for column in sa.inspect(newer.engine).get_columns("runs")}
    newer.close()
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 1)
    with pytest.raises(Refused, match="newer version"):
        Store(url, tmp_path / "home")


def test_a_store_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(DeltalabError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path / 'broken.db'}", tmp_path / "home")


def test_limits_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTALAB_MAX_ACTIVE", "3")
    monkeypatch.setenv("DELTALAB_MAX_BYTES", "1000000")
    store = Store(home=tmp_path / "home")
    assert (store.max_active, store.max_bytes) == (3, 1_000_000)
    store.close()
    monkeypatch.setenv("DELTALAB_MAX_ACTIVE", "many")
    with pytest.raises(BadInput, match="DELTALAB_MAX_ACTIVE"):
        Store(home=tmp_path / "home")


def test_importing_the_store_stays_light() -> None:
    code = (
        "import sys, core.runs, core.runs.store, core.runs.pool, core.runs.queue, core.runs.talker, core.runs.recorded;"
        "print([m for m in ('torch', 'transformers', 'bitsandbytes', 'streamlit') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    code = "import sys, core.runs, core.runs.home; core.runs.data_home; print('sqlalchemy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_opening_a_store_again_in_one_process_takes_no_lock_from_the_first(tmp_path):
    """SQLite's locks belong to the process: a descriptor of the file, opened and closed beside them, would drop them,
    and another process would then remove the WAL in use ("database disk image is malformed")."""
    import subprocess
    import sys

    first = Store(home=tmp_path)
    first.set_progress("me", "a", 1)
    Store(home=tmp_path)  # while the first has its connection
    code = (
        "import sys; from core.runs.store import Store; s = Store(home=sys.argv[1]); "
        "s.set_progress('me', 'b', 2); s.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "deltalab.db-wal").exists(), "the other process took itself for the last one"
    first.set_progress("me", "c", 3)
    assert Store(home=tmp_path).progress("me") == {"a": 1, "b": 2, "c": 3}
