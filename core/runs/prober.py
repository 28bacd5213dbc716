"""Measurements in a process of their own: the server's side, and the process.

    prober = Prober(store)
    prober.start("spectrum", [run.id], {"rank": 4}, owner=me)
    prober.look("spectrum", [run.id], {"rank": 4}, owner=me)     # -> Probing | None

The server imports no torch, and a measurement must not slow its pages, so each is a process that reads a request, says
how far it is in JSON lines, and leaves its result in a folder. The folder is inside the (first) run's own, so that what
was measured on a run goes when the run does, and nobody else can ask for it. The same question is answered from the
folder; other settings, or a run that went on since, are another question. One process works at a time; the others wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import core
from core.config import settings_of
from core.errors import BadInput, DeltalabError, OutOfMemory, Refused
from core.probes import Source, Subject, probe
from core.runs.store import Store

WAITING, RUNNING, FINISHED, FAILED, CANCELLED = "waiting", "running", "finished", "failed", "cancelled"
MOST_WAITING = 3  # of one owner
MOST_SECONDS = 3600.0
KEPT = 20  # results per run and probe; the oldest go
NICENESS = 5  # as the chat: before training, behind the server
_RESULT, _REQUEST, _LOG = "result.json", "request.json", "log.txt"


@dataclass(frozen=True)
class Probing:
    """How a measurement stands.

    share: what is done of it, None while that is unknown. text: what it is doing. result: once it is finished. folder:
    where its files are. sentence, advice: why it failed. seconds: how long it has taken.
    """

    status: str
    share: float | None = None
    text: str = ""
    result: dict[str, Any] | None = None
    folder: Path | None = None
    sentence: str = ""
    advice: str = ""
    seconds: float = 0.0

    @property
    def active(self) -> bool:
        """It waits or runs: whoever watches should look again."""
        return self.status in (WAITING, RUNNING)


class Prober:
    """The server's side; any thread may ask. One per server process.

    Args:
        store: whose runs are measured.
        command: how the process is started; the folder is appended.
    """

    def __init__(self, store: Store, *, command: Sequence[str] = (sys.executable, "-m", "core.runs.prober")) -> None:
        self.store = store
        self.command = list(command)
        self._jobs: dict[Path, _Job] = {}
        self._mutex = threading.Lock()
        self._turn = threading.Lock()

    def start(self, name: str, run_ids: Sequence[str], settings: Mapping[str, Any], owner: str) -> Probing:
        """Begin a measurement, unless it is on or has been made already.

        Raises:
            NotFound, Refused, BadInput: no such run or probe, a run that has learnt nothing, wrong settings, or too
                many measurements waiting.
        """
        request, folder = asked(self.store, name, run_ids, settings, owner)
        with self._mutex:
            known = self._known(folder)
            if known is not None and known.status not in (FAILED, CANCELLED):
                return known
            if sum(job.owner == owner and job.state.active for job in self._jobs.values()) >= MOST_WAITING:
                raise Refused(f"{MOST_WAITING} of your measurements wait already.", "Let one finish, or stop it.")
            prepare(folder, request)
            job = self._jobs[folder] = _Job(owner, Probing(WAITING, text="Waiting", folder=folder))
            threading.Thread(target=self._carry_out, args=(folder, job), name="probe", daemon=True).start()
            return job.state

    def look(self, name: str, run_ids: Sequence[str], settings: Mapping[str, Any], owner: str) -> Probing | None:
        """How that measurement stands; None when nobody has begun it.

        Raises:
            as `start`.
        """
        _, folder = asked(self.store, name, run_ids, settings, owner)
        with self._mutex:
            return self._known(folder)

    def cancel(self, name: str, run_ids: Sequence[str], settings: Mapping[str, Any], owner: str) -> None:
        """Stop it, if it is on."""
        _, folder = asked(self.store, name, run_ids, settings, owner)
        with self._mutex:
            job = self._jobs.get(folder)
        if job is not None:
            job.stop()

    def close(self) -> None:
        """Stop everything; for the end of the server."""
        with self._mutex:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _known(self, folder: Path) -> Probing | None:
        job = self._jobs.get(folder)
        if job is not None and job.state.status != FINISHED:
            return job.state
        return kept(folder)

    def _carry_out(self, folder: Path, job: _Job) -> None:
        """One measurement from its turn to its end, in a thread."""
        with self._turn:
            if job.stopped:
                job.state = Probing(CANCELLED, folder=folder)
                return
            began = time.monotonic()
            job.state = Probing(RUNNING, text="Loading the libraries", folder=folder)
            root = str(Path(core.__file__).resolve().parents[1])
            variables = {
                **os.environ,
                "DELTALAB_HOME": str(self.store.home),
                "PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p),
                "TOKENIZERS_PARALLELISM": "false",
            }
            with (folder / _LOG).open("wb") as log:
                process = subprocess.Popen(
                    [*self.command, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                    env=variables, cwd=self.store.home, start_new_session=True,
                )  # fmt: skip
            job.process = process
            if job.stopped:
                process.terminate()
            alarm = threading.Timer(MOST_SECONDS, process.kill)
            alarm.daemon = True
            alarm.start()
            error: dict[str, str] | None = None
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                error = said.get("error", error)
                if "text" in said:
                    job.state = Probing(
                        RUNNING, said["share"], said["text"], folder=folder, seconds=time.monotonic() - began
                    )
            process.wait()
            alarm.cancel()
            process.stdout.close()
            seconds = time.monotonic() - began
            self._recount(folder)
            if (folder / _RESULT).exists():
                job.state = Probing(FINISHED, 1.0, folder=folder, seconds=seconds)
            elif job.stopped:
                job.state = Probing(CANCELLED, folder=folder, seconds=seconds)
            else:
                told = error or {
                    "sentence": "The measurement ended without a result.",
                    "advice": "There may be too little memory: wait until no run is active, and try again.",
                }
                job.state = Probing(
                    FAILED, folder=folder, sentence=told["sentence"], advice=told["advice"], seconds=seconds
                )

    def _recount(self, folder: Path) -> None:
        """What a measurement leaves in its run's folder counts for its owner's limit from now on."""
        run_folder = folder.parent.parent
        if run_folder.parent == self.store.runs_folder:
            self.store.recount(run_folder.name)


@dataclass(eq=False)
class _Job:
    owner: str
    state: Probing
    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


# --- what is asked, and what is kept of the answer --------------------------------------------------------------------


def asked(
    store: Store, name: str, run_ids: Sequence[str], settings: Mapping[str, Any], owner: str
) -> tuple[dict[str, Any], Path]:
    """A measurement as `measure` takes it, and the folder in which its result is kept.

    Raises:
        NotFound, Refused, BadInput: no such run or probe, a run that has learnt nothing, wrong settings.
    """
    what = probe(name)
    config = settings_of(what.Config, dict(settings))
    least, most = what.RUNS
    if not least <= len(run_ids) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise BadInput(
            f"{what.TITLE} takes {wanted} run, not {len(run_ids)}." if most == 1 else
            f"{what.TITLE} takes {wanted} runs, not {len(run_ids)}."
        )  # fmt: skip
    runs = [_source(store, run_id, owner) for run_id in run_ids]
    request = {"probe": name, "runs": runs, "settings": dataclasses.asdict(config)}
    # A run's name is no part of the question: what was measured outlives its renaming.
    unnamed = {**request, "runs": [{k: v for k, v in run.items() if k != "title"} for run in runs]}
    stamps = [max(f.stat().st_mtime_ns for f in Path(r["adapter"]).iterdir()) for r in runs]
    key = hashlib.sha256(json.dumps([unnamed, stamps], sort_keys=True).encode()).hexdigest()[:16]
    if run_ids:
        home = store.get(run_ids[0], owner).folder / "probes"
    else:
        home = store.home / "probes" / hashlib.sha256(owner.encode()).hexdigest()[:16]
    return request, home / f"{name}-{key}"


def _source(store: Store, run_id: str, owner: str) -> dict[str, Any]:
    run = store.get(run_id, owner)
    if run.adapter is None or run.active:
        raise Refused("This run has learnt nothing yet that could be measured.", "Wait until it is finished.")
    started = store.events(run_id, owner, kinds=("started",))
    data = run.config.get("data")
    return {
        "id": run.id,
        "title": run.title or "",
        "config": {**run.config, "data": str(run.folder / data)} if data else run.config,
        "adapter": str(run.adapter),
        "dtype": started[-1][1].get("dtype") if started else None,
    }


def prepare(folder: Path, request: Mapping[str, Any]) -> None:
    """Make the folder of a measurement that is about to begin, with the request in it."""
    _make_room(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")


def keep(folder: Path, result: Mapping[str, Any], seconds: float) -> None:
    """Leave a result in its folder, whole or not at all."""
    partial = folder / f"{_RESULT}.partial"
    text = json.dumps({"result": result, "seconds": seconds}, allow_nan=False)
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / _RESULT)


def kept(folder: Path) -> Probing | None:
    """The result in a folder; None when there is none (yet)."""
    try:
        found = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return Probing(FINISHED, 1.0, result=found["result"], folder=folder, seconds=found["seconds"])


def _make_room(folder: Path) -> None:
    """Forget the oldest results of the same probe beside `folder`, and what an earlier try left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.parent.is_dir():
        return
    name = folder.name.rpartition("-")[0]
    beside = sorted(folder.parent.glob(f"{name}-*/{_RESULT}"), key=lambda f: f.stat().st_mtime)
    for old in beside[: max(0, len(beside) - KEPT + 1)]:
        shutil.rmtree(old.parent, ignore_errors=True)


# --- the process ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The process: measure what the folder's request says, telling in JSON lines on standard output how far it is."""
    (given,) = sys.argv[1:] if argv is None else argv
    folder = Path(given)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be taken for a line of ours

    def write(**record: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the server is gone; the result will be there for the next one
            os.write(out, (json.dumps(record) + "\n").encode())

    request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    began = time.monotonic()
    try:
        result = measure(request, folder, lambda share, text: write(share=share, text=text))
    except DeltalabError as error:
        write(error={"kind": error.kind, "sentence": error.sentence, "advice": error.advice})
        return 1
    except MemoryError:
        write(error={
            "kind": OutOfMemory.kind, "sentence": "There is not enough memory for this measurement.",
            "advice": "Wait until no run is active, or measure a smaller model.",
        })  # fmt: skip
        return 1
    except Exception as error:
        import traceback

        traceback.print_exc()
        write(error={
            "kind": DeltalabError.kind, "sentence": f"The measurement broke off with {type(error).__name__}.",
            "advice": f"The details are in {_LOG} of the run's folder.",
        })  # fmt: skip
        return 1
    keep(folder, result, time.monotonic() - began)
    return 0


def measure(request: Mapping[str, Any], folder: Path, tell: Any) -> dict[str, Any]:
    """Carry a request out in this process.

    Raises:
        DeltalabError: as the probe does.
    """
    import torch

    from core.hardware import best_threads

    if not torch.cuda.is_available():
        torch.set_num_threads(best_threads())
    what = probe(request["probe"])
    runs = tuple(Source(**{**run, "adapter": Path(run["adapter"])}) for run in request["runs"])
    return what.measure(Subject(runs, folder), settings_of(what.Config, request["settings"]), tell)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # tearing torch down takes seconds, and nothing is left to be saved
