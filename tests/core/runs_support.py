"""For the tests of core.runs: a trainer that keeps the contract of `core.train.train` but takes milliseconds a step,
and the worker and server processes that use it.

    python -m tests.core.runs_support worker --standby | --run ID      a worker with the quick trainer
    python -m tests.core.runs_support server [--real]                  a supervisor; creates the runs it is told to

It really writes checkpoints and adapters (safetensors), really resumes from them, and writes slowly on purpose, so that
a kill has something to hit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import RunConfig, TrainConfig
from core.events import Evaluated, Event, Failed, Finished, Sampled, Saved, Started, Step, Stopped
from core.runs.queue import Slot
from core.runs.store import CHECKPOINT, Store

if TYPE_CHECKING:
    import pytest

OWNER = "learner"
WORKER = (sys.executable, "-m", "tests.core.runs_support", "worker")
ONE_SLOT = (Slot("cpu", "cpu"),)


def store_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Store:
    """A store of a test's own, for this process and those that it starts, with that in their environment."""
    monkeypatch.setenv("DELTALAB_HOME", str(folder / "home"))
    monkeypatch.delenv("DELTALAB_STORE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Store()


def quick_config(steps: int = 20, seed: int = 0, **loop: object) -> RunConfig:
    """A config for the quick trainer: a checkpoint every five steps."""
    return RunConfig(seed=seed, train=TrainConfig(**{"steps": steps, "checkpoint_every": 5, **loop}))  # type: ignore[arg-type]


def quick_train(
    config: RunConfig, folder: Path, *, resume: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Looks like training: the loss depends on everything done before, so a wrong resumption shows."""
    pause = float(os.environ.get("QUICK_STEP_SECONDS", "0.01"))
    loop = config.train
    assert loop.steps is not None
    step, weight = 0, float(config.seed)
    if resume and (folder / CHECKPOINT).exists():
        step, weight = _read(folder / CHECKPOINT)
    if config.seed == 666:
        raise ZeroDivisionError("a defect, on purpose")
    yield Started(config.to_dict(), {}, "none", "float32", 1, 2, 3, 4, loop.steps, {}, resumed_at=step)
    if step == 0:
        yield Evaluated(0, "json", 0.0, 3.0, 4)
    while step < loop.steps:
        if should_stop():
            yield _save(folder / CHECKPOINT, step, weight, pause)
            yield Stopped(step, 0.0)
            return
        if config.seed == 555:
            time.sleep(3600)  # a step that does not end
        time.sleep(pause)
        step += 1
        weight = weight * 0.9 + step
        yield Step(step, 1 / (1 + weight), 1e-3, float("inf"), 10, step * pause)
        if config.seed == 444 and step == 3:
            yield Failed(step, "diverged", "The loss is not a number any more.", "Lower the learning rate.")
            return
        if step % 10 == 0:
            yield Evaluated(step, "json", step / loop.steps, 1 / (1 + weight), 4)
            yield Sampled(step, ({"prompt": "p", "reference": "r", "output": "o", "right": None},))
        if loop.checkpoint_every and step % loop.checkpoint_every == 0 and step < loop.steps:
            yield _save(folder / CHECKPOINT, step, weight, pause)
    saved = _save(folder / "adapter" / "adapter_model.safetensors", step, weight, pause)
    yield Saved(step, "adapter", "adapter", saved.size_bytes)
    yield Finished(step, 0.0, 0.0, 0, 1, 2, "adapter", saved.size_bytes, 10 * step)


def quick_losses(config: RunConfig) -> list[float]:
    """What an uninterrupted run of the quick trainer says."""
    weight, losses = float(config.seed), []
    assert config.train.steps is not None
    for step in range(1, config.train.steps + 1):
        weight = weight * 0.9 + step
        losses.append(1 / (1 + weight))
    return losses


def _save(path: Path, step: int, weight: float, pause: float) -> Saved:
    import numpy as np
    from safetensors.numpy import save

    path.parent.mkdir(exist_ok=True)
    data = save({"weight": np.full(2048, weight), "step": np.array([step])})
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        for start in range(0, len(data), 4096):
            file.write(data[start : start + 4096])
            file.flush()
            time.sleep(pause / 4)
        os.fsync(file.fileno())
    partial.replace(path)
    return Saved(step, "checkpoint", path.name, len(data))


def _read(path: Path) -> tuple[int, float]:
    from safetensors.numpy import load_file

    content = load_file(path)
    return int(content["step"][0]), float(content["weight"][0])


def wait_for(condition: Callable[[], object], seconds: float = 20.0, every: float = 0.02) -> float:
    """Wait until the condition holds; returns how long that took, in seconds.

    Raises:
        AssertionError: it does not hold after `seconds`.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"still not so after {seconds:g} s"
        time.sleep(every)
    return time.monotonic() - began


def worker_pid(folder: Path) -> int | None:
    """The process that holds the run's lock, as it noted in the lock file."""
    from core.runs.locks import is_held

    try:
        text = (folder / "lock").read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text and is_held(folder / "lock") else None


class Server:
    """A server process without pages: a supervisor, and `create` for the one owner of these tests."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.core.runs_support", "server", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "serving"

    def ask(self, key: str, config: RunConfig) -> None:
        """Send a request for a run without waiting for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"key": key, "config": config.to_dict()}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def create(self, key: str, config: RunConfig) -> str:
        """Ask for a run; returns its id."""
        self.ask(key, config)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        self.process.kill()
        self.process.wait()


def serve(real: bool) -> None:
    """A server process without a web page: supervises, and creates a run per line {"key", "config"} on standard
    input. Says `serving` and then the id of each run."""
    from core.runs.pool import Supervisor

    store = Store()
    command = {} if real else {"command": WORKER}
    with Supervisor(store, places=ONE_SLOT, **command):  # type: ignore[arg-type]
        print("serving", flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            run = store.create(OWNER, RunConfig.from_dict(asked["config"]), key=asked["key"])
            print(run.id, flush=True)


def main() -> int:
    what, *rest = sys.argv[1:]
    if what == "server":
        serve("--real" in rest)
        return 0
    from core.runs import worker

    def warm(folder: Path) -> Iterator[str]:
        import safetensors.numpy  # noqa: F401

        if os.environ.get("QUICK_WARM_FAILS"):
            raise ImportError("nothing works here")
        yield "nothing"

    return worker.main(rest, train=quick_train, warm=warm)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
