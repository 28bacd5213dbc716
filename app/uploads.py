"""Files that visitors bring: kept in the data folder under their owner, only until their run has its own copy."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from app import state

KEPT_SECONDS = 24 * 3600


def folder(owner: str) -> Path:
    """Where an owner's uploads lie; its name tells nothing about the owner."""
    return state.home() / "uploads" / hashlib.sha256(owner.encode()).hexdigest()[:24]


def keep(owner: str, name: str, content: bytes) -> Path:
    """Write an upload and return its path; the same content under the same name is the same file.

    Older uploads of the owner are removed: a run copies what it needs when it is started.
    """
    place = folder(owner)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    safe = re.sub(r"[^\w.-]", "_", Path(name).name).lstrip(".")[-80:] or "data"
    own = place / hashlib.sha256(content).hexdigest()[:16]
    path = own / safe
    if not path.exists():
        own.mkdir(mode=0o700, exist_ok=True)
        draft = own / f".{safe}.part"
        draft.write_bytes(content)
        draft.replace(path)
    for other in place.iterdir():
        if other != own and time.time() - other.stat().st_mtime > KEPT_SECONDS:
            for file in other.iterdir():
                file.unlink(missing_ok=True)
            other.rmdir()
    return path
