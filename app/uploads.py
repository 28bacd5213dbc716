"""Files that visitors bring: kept in the data folder under their owner, until nobody has looked at them for a day.

A run copies what it needs when it is started, so a file that was swept away is missed by nobody. The page that it was
given to goes on showing its report, and may start a second run from it: each time it is drawn, the file is kept anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from app import state

KEPT_SECONDS = 24 * 3600


def root() -> Path:
    """Where all uploads lie: one folder an owner, and in it one a content."""
    return state.home() / "uploads"


def folder(owner: str) -> Path:
    """Where an owner's uploads lie; its name tells nothing about the owner."""
    return root() / hashlib.sha256(owner.encode()).hexdigest()[:24]


def keep(owner: str, name: str, content: bytes) -> Path:
    """Write an upload and return its path; the same content under the same name is the same file.

    What anybody left behind and has not been kept for KEPT_SECONDS is removed.
    """
    safe = re.sub(r"[^\w.-]", "_", Path(name).name).lstrip(".")[-80:] or "data"
    own = folder(owner) / hashlib.sha256(content).hexdigest()[:16]
    _make(own)
    path = own / safe
    if not path.exists():
        handle, draft = tempfile.mkstemp(dir=own, prefix=".")
        with os.fdopen(handle, "wb") as f:
            f.write(content)
        os.replace(draft, path)
    sweep()
    return path


def token(path: Path) -> str:
    """How a link names a file that `keep` has written; it says nothing about whose it is."""
    return f"{path.parent.name}/{path.name}"


def kept(owner: str, name: str) -> Path | None:
    """The file of this owner that a link names by its `token`; None where there is none, or none any more."""
    if not re.fullmatch(r"[0-9a-f]{16}/[\w-][\w.-]{0,79}", name):
        return None
    path = folder(owner) / name
    return path if path.is_file() else None


def _make(own: Path) -> None:
    """Make an upload's folder, or mark it as used now. A sweep elsewhere may remove it while this looks."""
    while True:
        try:
            own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            own.mkdir(mode=0o700, exist_ok=True)
            os.utime(own)
            return
        except FileNotFoundError:
            continue


def sweep() -> None:
    """Remove the uploads of all owners that have not been kept for KEPT_SECONDS; other servers may do so too."""
    latest = time.time() - KEPT_SECONDS
    for place in _inside(root()):
        for own in _inside(place):
            with contextlib.suppress(OSError):  # it is gone already
                if own.stat().st_mtime < latest:
                    shutil.rmtree(own, ignore_errors=True)
        with contextlib.suppress(OSError):  # something is in it
            place.rmdir()


def _inside(place: Path) -> list[Path]:
    """What is in a folder; nothing when it is gone."""
    try:
        return list(place.iterdir())
    except OSError:
        return []
