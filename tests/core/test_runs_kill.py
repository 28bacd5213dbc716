"""Nothing is lost by killing any process at any moment.

Each round kills a worker, the server or both with SIGKILL at a seeded moment of a run's life: while it is being
created, handed over, begun, in a step, in the middle of writing a checkpoint or the adapter, at the very end, or just
after it was resumed. Then a server is there again, what was interrupted is resumed, and everything must be as if
nothing had happened: each request one run, each step said once, the losses those of an uninterrupted run, whole files,
no slot taken, and a database that passes its integrity check.

    DELTALAB_KILLS=100 python -m pytest tests/core/test_runs_kill.py -s
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from core.config import RunConfig, TrainConfig
from core.errors import NotFound
from core.runs import journal
from core.runs.locks import is_held
from core.runs.store import CHECKPOINT, Run, Store
from tests.core.runs_support import OWNER, Server, quick_config, quick_losses, store_in, wait_for, worker_pid

KILLS = int(os.environ.get("DELTALAB_KILLS", "14"))
REAL_KILLS = max(2, KILLS // 12)
MOMENTS = ("create", "start", "step", "checkpoint", "save", "finish", "resume")
VICTIMS = ("worker", "server", "both")
STEPS = 30


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = store_in(tmp_path, monkeypatch, QUICK_STEP_SECONDS="0.01")
    yield store
    for run in store.runs(OWNER, limit=1000):
        if (pid := worker_pid(run.folder)) is not None:
            os.kill(pid, signal.SIGKILL)
    store.close()


@dataclass
class Round:
    """One kill: when, whom, and how it went on."""

    number: int
    moment: str
    victim: str
    hit: str = ""
    status: str = ""
    attempts: int = 0
    noticed_seconds: float = 0.0


class Killer:
    """Kills, and brings a server back."""

    def __init__(self, store: Store, *flags: str) -> None:
        self.store = store
        self.flags = flags
        self.server: Server | None = None
        self.rounds: list[Round] = []

    def serving(self) -> Server:
        if self.server is None:
            self.server = Server(*self.flags)
        return self.server

    def kill(self, victim: str, run_id: str | None) -> str:
        """SIGKILL the victim; returns whom it hit. A worker that has taken the run, else those that would."""
        server, hit = self.server, []
        children = psutil.Process(server.process.pid).children() if server else []
        if victim in ("server", "both") and server is not None:
            server.kill()
            self.server = None
            hit.append("server")
        if victim in ("worker", "both"):
            pid = worker_pid(self.store.runs_folder / run_id) if run_id else None
            for target in [pid] if pid else [child.pid for child in children]:
                try:
                    os.kill(target, signal.SIGKILL)
                    hit.append("worker" if pid else "standby")
                except ProcessLookupError:
                    pass  # it had just ended by itself
        return "+".join(sorted(set(hit))) or "nobody"

    def settle(self, run_id: str, this: Round, seconds: float) -> Run:
        """With a server there, resume the run until it has ended for good."""
        end = time.monotonic() + seconds
        while True:
            self.serving()
            run = self.store.get(run_id, OWNER)
            if run.status in ("interrupted", "cancelled"):
                self.store.resume(run_id, OWNER, key=f"resume {this.number} {run.attempt}")
            elif not run.active:
                this.status, this.attempts = run.status, run.attempt
                return run
            assert time.monotonic() < end, f"{this}: still {run.status} after {seconds:g} s"
            time.sleep(0.02)

    def notice(self, run_id: str, this: Round) -> None:
        """A worker that was killed under a living server is noticed within five seconds."""
        if "worker" not in this.hit or self.server is None:
            return
        attempt = self.store.get(run_id, OWNER).attempt

        def noticed() -> bool:
            run = self.store.get(run_id, OWNER)
            return run.status != "running" or run.attempt != attempt

        this.noticed_seconds = wait_for(noticed, 5)


def check_ended_well(store: Store, run: Run, losses: list[float]) -> None:
    """The run is finished and whole."""
    assert run.status == "finished", run.sentence
    steps = [e for _, e in store.events(run.id, OWNER, kinds=("step",))]
    assert [e["step"] for e in steps] == list(range(1, len(losses) + 1))
    assert [e["loss"] for e in steps] == losses
    events = store.events(run.id, OWNER)
    assert [seq for seq, _ in events] == sorted({seq for seq, _ in events})
    kinds = [e["kind"] for _, e in events]
    assert kinds[-1] == "finished"
    assert not {"failed", "stopped"} & set(kinds)
    wait_for(lambda: not is_held(run.folder / "lock"), 10)
    assert journal.leftover(run.folder) == []
    store.sweep()  # a worker that was killed after its last word has left its checkpoint
    assert not (run.folder / CHECKPOINT).exists()


def check_store(store: Store) -> None:
    """The database is sound, no slot is taken for nothing, and every whole file can be read."""
    with store.engine.connect() as c:
        assert c.exec_driver_sql("pragma integrity_check").scalar_one() == "ok"
        assert c.exec_driver_sql("pragma foreign_key_check").all() == []
    assert store.occupied() == {}
    for path in store.runs_folder.rglob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                file.get_tensor(name)


def reach(killer: Killer, this: Round, rng: random.Random, config: RunConfig) -> str | None:
    """Start a run and come to the moment; returns its id, None while it is only being asked for."""
    store, key = killer.store, f"round {this.number}"
    server = killer.serving()
    if this.moment == "create":
        server.ask(key, config)
        time.sleep(rng.uniform(0, 0.04))
        return None
    run_id = server.create(key, config)
    folder = store.runs_folder / run_id
    if this.moment == "start":
        time.sleep(rng.uniform(0, 0.3))
    elif this.moment == "step":
        step = rng.randint(1, STEPS - 3)
        wait_for(lambda: store.get(run_id, OWNER).step >= step, every=0.005)
    elif this.moment == "checkpoint":
        wait_for((folder / "checkpoint.partial").exists, every=0.0005)
        time.sleep(rng.uniform(0, 0.012))
    elif this.moment == "save":
        wait_for((folder / "adapter").exists, every=0.0005)
        time.sleep(rng.uniform(0, 0.012))
    elif this.moment == "finish":
        wait_for((folder / "adapter" / "adapter_model.safetensors").exists, every=0.0005)
        time.sleep(rng.uniform(0, 0.01))
    elif this.moment == "resume":
        wait_for(lambda: store.get(run_id, OWNER).step >= 7, every=0.005)
        killer.kill("worker", run_id)
        wait_for(lambda: store.get(run_id, OWNER).status == "interrupted", 5)
        store.resume(run_id, OWNER, key=f"first {key}")
        time.sleep(rng.uniform(0, 0.6))
    return run_id


def report(rounds: list[Round], what: str) -> None:
    """Counts, for whoever reads the test's output."""
    print(f"\n{what}: {len(rounds)} rounds of SIGKILL")
    for moment in MOMENTS:
        here = [r for r in rounds if r.moment == moment]
        if here:
            hits = ", ".join(f"{n} {hit}" for hit, n in sorted(Counter(r.hit for r in here).items()))
            again = sum(r.attempts > 1 for r in here)
            print(f"  {moment:10} {len(here):3} (hit {hits}): {again} resumed, all {here[0].status}")
    noticed = [r.noticed_seconds for r in rounds if r.noticed_seconds]
    if noticed:
        mean = sum(noticed) / len(noticed)
        print(f"  a dead worker was noticed after {mean:.2f} s on average, {max(noticed):.2f} s at most")


@pytest.mark.timeout(60 + KILLS * 40)
def test_nothing_is_lost_by_killing_anything_at_any_moment(store: Store) -> None:
    killer = Killer(store)
    try:
        for number in range(KILLS):
            rng = random.Random(f"kill {number}")
            this = Round(number, MOMENTS[number % len(MOMENTS)], VICTIMS[(number // len(MOMENTS) + number) % 3])
            killer.rounds.append(this)
            config = quick_config(STEPS, seed=number)
            run_id = reach(killer, this, rng, config)
            this.hit = killer.kill(this.victim, run_id)
            if run_id is None:
                if killer.server is not None:
                    killer.server.answer()
                # Whether the request had got through or not: asked again, it is one run.
                run_id = killer.serving().create(f"round {number}", config)
            else:
                killer.notice(run_id, this)
            run = killer.settle(run_id, this, 40)
            check_ended_well(store, run, quick_losses(config))
            saved = load_file(run.folder / "adapter" / "adapter_model.safetensors")
            assert 1 / (1 + saved["weight"][0]) == quick_losses(config)[-1]
        assert len(store.runs(OWNER, limit=1000)) == KILLS
        check_store(store)
        # Folders of starts that were killed half-way belong to nobody and are swept when they are old enough.
        for folder in store.runs_folder.iterdir():
            os.utime(folder, (0, 0))
        store.sweep()
        assert {f.name for f in store.runs_folder.iterdir()} == {r.id for r in store.runs(OWNER, limit=1000)}
    finally:
        report(killer.rounds, "quick trainer")
        if killer.server is not None:
            killer.server.kill()


@pytest.mark.slow
@pytest.mark.timeout(300 + REAL_KILLS * 120)
def test_the_real_engine_goes_on_exactly_where_it_was_killed(store: Store, tmp_path: Path) -> None:
    from core.train import train

    loop = TrainConfig(
        learning_rate=3e-3, steps=STEPS, batch_size=8, train_examples=64, eval_items=4, skill_items=0,
        eval_every=10, checkpoint_every=6,
    )  # fmt: skip
    config = RunConfig(task="json", method="lora", train=loop)
    losses = [e.loss for e in train(config, tmp_path / "uninterrupted") if e.kind == "step"]
    whole = load_file(tmp_path / "uninterrupted" / "adapter" / "adapter_model.safetensors")
    killer = Killer(store, "--real")
    try:
        for number in range(REAL_KILLS):
            rng = random.Random(f"real kill {number}")
            this = Round(number, ("step", "checkpoint")[number % 2], ("worker", "both", "server")[number % 3])
            killer.rounds.append(this)
            run_id = killer.serving().create(f"round {number}", config)
            if this.moment == "step":
                step = rng.randint(2, STEPS - 3)
                wait_for(lambda run_id=run_id, step=step: store.get(run_id, OWNER).step >= step, 120, every=0.005)
            else:
                wait_for((store.runs_folder / run_id / "checkpoint.partial").exists, 120, every=0.0005)
                time.sleep(rng.uniform(0, 0.01))
            this.hit = killer.kill(this.victim, run_id)
            killer.notice(run_id, this)
            run = killer.settle(run_id, this, 200)
            check_ended_well(store, run, losses)
            saved = load_file(run.folder / "adapter" / "adapter_model.safetensors")
            assert saved.keys() == whole.keys()
            assert all((saved[name] == whole[name]).all() for name in whole)
        check_store(store)
    finally:
        report(killer.rounds, "real engine")
        if killer.server is not None:
            killer.server.kill()


def test_deleting_while_everything_is_killed_leaves_nothing(store: Store) -> None:
    killer = Killer(store)
    try:
        run_id = killer.serving().create("k", quick_config(300))
        wait_for(lambda: store.get(run_id, OWNER).step >= 3)
        store.delete(run_id, OWNER)
        killer.kill("both", run_id)
        with pytest.raises(NotFound):
            store.get(run_id, OWNER)
        other = killer.serving().create("k2", quick_config(5))
        wait_for(lambda: store.get(other, OWNER).status == "finished", 20)
    finally:
        if killer.server is not None:
            killer.server.kill()
    check_store(store)
