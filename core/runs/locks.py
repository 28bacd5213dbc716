"""A file lock as a sign of life: the kernel drops it the moment its holder dies, however it dies.

Process numbers lie (they are reused, and a zombie still answers); a lock does not. The lock belongs to the open file,
so it ends with the process that opened it and with nothing else.

POSIX `flock`; on Windows the first byte of the file is locked instead, with the same meaning.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class FileLock:
    """An exclusive lock on `path`, held from `acquire` to `release` or to the end of this process.

    As a context manager it only releases; ask `held` whether it was got.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def acquire(self, wait_seconds: float = 0.0) -> bool:
        """Try to get the lock, again and again for `wait_seconds`; False if somebody else has it.

        Raises:
            FileNotFoundError: the folder of the lock file is gone.
        """
        end = time.monotonic() + wait_seconds
        # Not inherited by children, so that none of them can keep a dead holder's lock.
        fd = os.open(self.path, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600)
        while not _try(fd):
            if time.monotonic() >= end:
                os.close(fd)
                return False
            time.sleep(0.02)
        self._fd = fd
        return True

    def write(self, text: str) -> None:
        """Note something in the lock file, for people who look; nothing reads it back as truth."""
        assert self._fd is not None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0) if hasattr(os, "pwrite") else os.write(self._fd, text.encode())

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether some process holds the lock on `path`. No file, no holder."""
    if not path.exists():
        return False
    with FileLock(path) as lock:
        try:
            return not lock.acquire()
        except FileNotFoundError:
            return False
