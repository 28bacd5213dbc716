"""Weights from the hub: with progress, stoppable, and resumed at the byte where a fetch broke off.

How it works: each file is written into a partial file beside the place that the hub's cache has for it, and takes that
place when it is whole and its hash is the hub's; the library then finds it there. The partial file outlives the
process, and the next fetch asks for the rest of it. (The library itself begins such a file anew: it writes into a
temporary file of the process's own and removes it afterwards, huggingface_hub/file_download.py,
`_download_to_tmp_and_move`.) One process fetches a file at a time; whoever else wants it waits and sees it grow.

`fetching` does this for a base, beside whoever walks through it, and yields how far it is.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import EMBEDDED
from core.errors import BaseUnavailable
from core.runs.locks import FileLock

Tell = Callable[[int, int], None]
"""Called with bytes that are here and bytes in all, after every piece; what it raises ends the fetch."""

PARTIAL = ".deltalab-partial"
PIECE_BYTES = 1 << 20  # the library's 10 MiB are ten seconds of a slow line without a word, and lost when it breaks
LOOK_SECONDS = 0.25
NEWS_SECONDS, NEWS_SHARE, NEWS_LATEST_SECONDS = 1.0, 0.01, 10.0
STOP_SECONDS = 5.0  # a server that says nothing must not hold up a cancelled run


@dataclass(frozen=True)
class Progress:
    """done_bytes: of the weights that are here. total_bytes: in all. seconds: since the fetch began."""

    done_bytes: int
    total_bytes: int
    seconds: float


class _Halt(Exception):
    """Nobody wants the file any more."""


def fetch_weights(repo: str, commit: str, sizes: Mapping[str, int], cache: Path, tell: Tell) -> None:
    """Bring weight files into the hub's cache, as its blobs.

    Args:
        sizes: bytes of each file, by name, as the hub lists them. cache: the hub's (HF_HUB_CACHE).

    Raises:
        what the hub's client raises; BaseUnavailable: a file is not the one that the hub has.
    """
    from urllib.parse import urlsplit

    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    blobs = cache / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    total, before = sum(sizes.values()), 0
    headers = build_hf_headers()
    for name, size in sizes.items():
        found = get_hf_file_metadata(hf_hub_url(repo, name, revision=commit))
        if found.etag is None or not re.fullmatch(r"[\w.-]+", found.etag):
            continue  # no name in the cache: the library knows what to do
        place = blobs / found.etag
        partial = place.with_name(place.name + PARTIAL)
        with FileLock(place.with_name(place.name + ".deltalab-lock")) as lock:
            while not lock.acquire(LOOK_SECONDS):
                tell(before + _size(place, partial), total)
            if not place.exists():
                # The address may lead to another server, which must not see the hub's token.
                own = headers if urlsplit(found.location).netloc == urlsplit(constants.ENDPOINT).netloc else {}
                _fetch(found.location, partial, found.size or size, own, _part_of(tell, before, total))
                _check(partial, found.etag, f"{name} of {repo}")
                partial.replace(place)
            tell(before + place.stat().st_size, total)
        lock.path.unlink(missing_ok=True)
        before += size


def _part_of(tell: Tell, before: int, total: int) -> Callable[[int], None]:
    """`tell` for one file of several: bytes of it that are here, behind those of the files before it."""
    return lambda done: tell(before + done, total)


def partial_bytes(repo: str, cache: Path) -> int:
    """What earlier fetches of a repository left behind that goes on from there."""
    from huggingface_hub.file_download import repo_folder_name

    blobs = cache / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    return sum(p.stat().st_size for p in blobs.glob(f"*{PARTIAL}")) if blobs.is_dir() else 0


def _size(*paths: Path) -> int:
    for path in paths:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            continue
    return 0


def _fetch(address: str, partial: Path, size: int, headers: dict[str, Any], tell: Callable[[int], None]) -> None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES
    partial.touch()
    with partial.open("r+b") as file:
        here = file.seek(0, 2)
        if here > size:  # of no known file
            file.truncate(0)
            here = file.seek(0)
        tell(here)
        http_get(address, _Told(file, tell), resume_size=here, headers=headers, expected_size=size)  # type: ignore[arg-type]


class _Told:
    """A file that says how long it is after every write."""

    def __init__(self, file: Any, tell: Callable[[int], None]) -> None:
        self._file, self._tell = file, tell
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, data: bytes) -> int:
        written: int = self._file.write(data)
        self._file.flush()  # what has arrived is kept, however this ends
        self._tell(self._file.tell())
        return written


def _check(path: Path, etag: str, what: str) -> None:
    """Large files have their SHA-256 as etag; a wrong one must not stay, or every fetch would end here."""
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != etag:
        path.unlink()
        raise BaseUnavailable(f"{what} arrived damaged: its checksum is not the hub's.", "Start again.")


def fetching(
    source: str, revision: str | None = None, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """See to it that a base is on this machine, and yield how far that is; nothing where it is here already.

    Args:
        source, revision: as for `core.base.locate`. should_stop: asked a few times a second while something is
            fetched; True ends it, and what has arrived is kept.

    Raises:
        BaseUnavailable, BadInput: as `core.base.locate`.
    """
    from core.base import HUB_ID, locate

    source = source.strip()
    if source == EMBEDDED or not HUB_ID.fullmatch(source) or Path(source).exists():
        return  # on this machine, or a mistake that whoever loads it tells

    halted = threading.Event()
    news: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def tell(done: int, total: int) -> None:
        if halted.is_set():
            raise _Halt
        news[:] = [(done, total)]

    def work() -> None:
        try:
            locate(source, revision, tell=tell)
        except _Halt:
            pass
        except BaseException as error:  # raised again, where somebody can tell it
            failures.append(error)

    began = time.monotonic()
    thread = threading.Thread(target=work, name="fetch", daemon=True)
    thread.start()
    told, told_at = None, 0.0
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        if news and should_stop():
            halted.set()
            thread.join(STOP_SECONDS)
            return
        now = time.monotonic() - began
        if not news or news[0] == told:
            continue
        done, total = news[0]
        waited = now - told_at
        moved = told is None or done - told[0] >= NEWS_SHARE * total or waited >= NEWS_LATEST_SECONDS
        if told is None or (waited >= NEWS_SECONDS and moved):
            told, told_at = (done, total), now
            yield Progress(done, total, now)
    if failures:
        raise failures[0]
    if news and news[0] != told:
        yield Progress(*news[0], time.monotonic() - began)


__all__ = ["Progress", "Tell", "fetch_weights", "fetching", "partial_bytes"]
