"""Where Deltalab keeps its data on this machine: `$DELTALAB_HOME`, or the platform's place for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data_home(path: str | Path | None = None) -> Path:
    """The data folder, made if it was not there, readable by its owner alone (0700).

    Args:
        path: takes the place of `$DELTALAB_HOME`.
    """
    chosen = path or os.environ.get("DELTALAB_HOME")
    home = Path(chosen).expanduser().resolve() if chosen else _platform_folder() / "deltalab"
    if not home.is_dir():
        # An existing folder keeps its mode: somebody may share it on purpose. The store's own files are 0600 anyway.
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
    return home


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
