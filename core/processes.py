"""One run in several processes: how they are started, and what all but the first of them do.

    deltalab train --processes 2 …                                       one machine
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d \
        --rdzv-endpoint HOST:PORT -m core.cli train …                    several: the same command on each

The first process carries the run out as any process would: it has the store, the screen and the files. The others
follow it (`follow`): they are told its settings and train in step with it, and nothing that they say is kept.

`started` makes this process the first and starts the others beside it. They meet through a file, talk through the
loopback interface only, and end when this one does: their standard input is a pipe from it. torchrun does the same with
a port, for any number of machines; those must see the base, the data and DELTALAB_HOME under the same paths.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput, DeltalabError
from core.events import Failed

if TYPE_CHECKING:
    from core.config import RunConfig
    from core.events import Event

MOST = 64
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
STORE = "DELTALAB_MEETING"  # the file through which a follower meets the first process
LOOK_SECONDS = 0.2
LEAVE_SECONDS = 5.0


def is_follower() -> bool:
    """Whether torchrun started this process as another than the first."""
    return int(os.environ.get("RANK", "0")) > 0


def trainer(count: int) -> Callable[..., Iterator[Event]]:
    """`core.train.train`, in `count` processes."""

    def train(
        config: RunConfig, folder: Path, *, resume: bool = False, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        from core.train import train as train_here

        with started(count):
            yield from train_here(config, folder, resume=resume, should_stop=should_stop)

    return train


@contextmanager
def started(count: int) -> Iterator[None]:
    """Within this, what `core.train.train` does here is done by `count` processes.

    Raises:
        BadInput: an impossible number of them.
        DeltalabError: one did not start.
    """
    if not 1 <= count <= MOST:
        raise BadInput(f"The number of processes must be from 1 to {MOST}, not {count}.")
    if count == 1:
        yield
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput("torchrun has started the processes already.", "Leave --processes out.")
    import torch.distributed as dist

    from core import distributed

    distributed.check_devices(count)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, LOOPBACK)
    with tempfile.TemporaryDirectory(prefix="deltalab-meeting-") as folder:
        path = str(Path(folder) / "store")
        others = [_follower(rank, count, path) for rank in range(1, count)]
        over = threading.Event()
        try:
            store = dist.FileStore(path, count)
            _wait_for(store, others)
            with distributed.meeting(store, 0, count, 0, count) as world:
                watch = threading.Thread(target=_watch, args=(others, world, over), daemon=True)
                watch.start()
                try:
                    yield
                finally:
                    over.set()
                    watch.join()
        finally:
            _end(others)


def _follower(rank: int, count: int, path: str) -> subprocess.Popen[bytes]:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, STORE: path}
    return subprocess.Popen(
        [sys.executable, "-m", "core.processes"],
        env=os.environ | {name: str(value) for name, value in places.items()},
        stdin=subprocess.PIPE,
        stdout=2,  # standard output is the first process's
        start_new_session=True,  # Ctrl-C is for the first process, which stops all of them after a step
    )


def _wait_for(store: Any, others: list[subprocess.Popen[bytes]]) -> None:
    """Until all have started.

    Raises:
        DeltalabError: one has ended instead.
    """
    while not store.check([f"here.{rank}" for rank, _ in enumerate(others, 1)]):
        for rank, other in enumerate(others, 1):
            if other.poll() is not None:
                raise DeltalabError(f"Process {rank + 1} did not start: it {_how(other)}.", "Its log has the details.")
        time.sleep(LOOK_SECONDS)


def _watch(others: list[subprocess.Popen[bytes]], world: Any, over: threading.Event) -> None:
    """If one ends before the run does, say so where the first process looks when its connection breaks."""
    import torch
    import torch.distributed as dist

    while not over.wait(LOOK_SECONDS):
        for rank, other in enumerate(others, 1):
            if other.poll():
                sentence = f"Process {rank + 1} of {world.size} {_how(other)}."
                advice = "See whether the machine has run out of memory, then resume the run."
                world.leave_reason(Failed(0, "process_lost", sentence, advice))
                if torch.cuda.is_available():  # NCCL would wait for it; gloo's connection has broken already
                    group: Any = dist.group.WORLD
                    group.abort()
                return


def _how(other: subprocess.Popen[bytes]) -> str:
    code = other.returncode
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _end(others: list[subprocess.Popen[bytes]]) -> None:
    """Let them go; those that do not are killed."""
    until = time.monotonic() + LEAVE_SECONDS
    for other in others:
        assert other.stdin is not None
        other.stdin.close()
    for other in others:
        try:
            other.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            other.kill()
            other.wait()


def follow() -> int:
    """Train in step with the first process, as it says; returns the exit status."""
    from core.config import RunConfig
    from core.train import train

    # When to stop is the first process's decision; it may come after a signal that all have got.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    last = ""
    for event in train(RunConfig(), Path()):
        last = event.kind
    return 0 if last in ("finished", "stopped") else 1


def _ends_with_the_first() -> None:
    """Wait on the pipe from the first process; it closes when that one leaves, however it does."""
    while os.read(0, 64):
        pass
    os._exit(1)


def main() -> int:
    """A process that `started` has started."""
    threading.Thread(target=_ends_with_the_first, daemon=True).start()
    import torch.distributed as dist

    from core import distributed

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(os.environ[STORE], size)
    store.set(f"here.{rank}", "1")
    with distributed.meeting(store, rank, size, rank, size):
        return follow()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # without the interpreter's orderly end: tearing torch down takes seconds
