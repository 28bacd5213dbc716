"""What stands around a learner's process: its folders, its environment, and a sandbox where the machine has one.

The environment is made from nothing: no variable of the server's reaches the process but the few of KEPT, so neither
the secret that signs cookies, nor a database's address, nor a token.

Where `bwrap` (bubblewrap) works, with user namespaces, the process also sees no network, no other process, no data
folder, nobody's home, and can write into its own folders only. Whether it works is found out once, by doing it. Where
it does not, the process has the rights of the server's account; that is why code is off on a server that others reach
(permission.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import core

ROOT = Path(core.__file__).resolve().parents[1]
KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT", "WINDIR")
THREADS = 2
TRY_SECONDS = 20


@dataclass(frozen=True)
class Place:
    """The folders of one learner: `folder` holds them all, `work` is where their code runs. line: for the sockets."""

    folder: Path
    line: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @classmethod
    def of(cls, home: Path, owner: str) -> Place:
        """The folders of a learner, made if they were not there; no owner's name stands in a path."""
        folder = home / "code" / hashlib.sha256(owner.encode()).hexdigest()[:16]
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        for part in ("work", "home", "tmp"):
            (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(folder)
        # A socket's path may have a hundred letters only, so it does not lie in the data folder.
        return cls(folder, Path(tempfile.mkdtemp(prefix="deltalab-")))

    @staticmethod
    def sweep(home: Path, *, days: float = 60.0) -> None:
        """Remove the folders of learners who have not run code for so long. (What they learnt is kept elsewhere.)"""
        for folder in (home / "code").glob("*"):
            if folder.is_dir() and folder.stat().st_mtime < time.time() - 24 * 3600 * days:
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove the sockets."""
        shutil.rmtree(self.line, ignore_errors=True)


def environment(place: Place) -> dict[str, str]:
    """The whole environment of a learner's process."""
    home = str(place.folder / "home")
    own = {
        "HOME": home,
        "TMPDIR": str(place.folder / "tmp"),
        "DELTALAB_HOME": str(place.folder / "home" / "deltalab"),
        "IPYTHONDIR": str(place.folder / "home" / "ipython"),
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PLOTLY_RENDERER": "plotly_mimetype",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Exercises are small, and the same everywhere: a GPU belongs to the training runs.
        "CUDA_VISIBLE_DEVICES": "",
        **{f"{name}_NUM_THREADS": str(THREADS) for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
    }
    return {name: os.environ[name] for name in KEPT if name in os.environ} | own


def command(arguments: Sequence[str], place: Place, home: Path, *, sandboxed: bool) -> list[str]:
    """How Python is started with these arguments; `home` is the server's data folder, which is hidden."""
    python = [sys.executable, *arguments]
    if not sandboxed:
        return python
    hidden = {str(Path.home().resolve()), "/tmp", "/var/tmp", "/run", "/dev/shm"}
    # Lessons that lie elsewhere (app/index.py) have their checks there.
    lessons = os.environ.get("DELTALAB_LESSONS")
    elsewhere = [str(Path(lessons).resolve())] if lessons and Path(lessons).is_dir() else []
    seen = [str(ROOT), *elsewhere, sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)]
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/"]
    words += ["--dev", "/dev", "--proc", "/proc"]
    for path in sorted(hidden):
        words += ["--tmpfs", path] if Path(path).is_dir() else []
    for path in dict.fromkeys(seen):
        words += ["--ro-bind", path, path]
    words += ["--tmpfs", str(home.resolve())]
    for own in (place.folder.resolve(), place.line.resolve()):
        words += ["--bind", str(own), str(own)]
    return [*words, "--chdir", str(place.work.resolve()), "--", *python]


@dataclass(frozen=True)
class Sandbox:
    """on: learners' processes are sandboxed. why: what is missing where they are not."""

    on: bool
    why: str = ""

    @property
    def words(self) -> str:
        """For `deltalab doctor`."""
        return "in a sandbox (bubblewrap)" if self.on else f"with the rights of this account: {self.why}"


@lru_cache(maxsize=1)
def sandbox() -> Sandbox:
    """Whether there is a sandbox here, found out once by starting something in it."""
    if shutil.which("bwrap") is None:
        return Sandbox(False, "bubblewrap (bwrap) is not installed")
    with tempfile.TemporaryDirectory(prefix="deltalab-try-") as folder:
        home = Path(folder)
        place = Place.of(home, "try")
        try:
            tried = subprocess.run(
                command(["-c", "import core.notebook.inside, ipykernel; print('here')"], place, home, sandboxed=True),
                env=environment(place), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRY_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return Sandbox(False, f"bwrap does not work here ({type(error).__name__})")
        finally:
            place.clear()
    if tried.stdout.strip() == "here":
        return Sandbox(True)
    said = (tried.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return Sandbox(False, f"bwrap does not work here ({said[:120]})")
