"""A local server that plays the hub: the few routes of its protocol that huggingface_hub's client uses."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


PIECE, PAUSE_SECONDS = 4096, 0.05


class Hub(BaseHTTPRequestHandler):
    """The few routes of the hub's protocol that its client uses to list and fetch a repository."""

    repos: ClassVar[dict[str, Path]] = {}
    claimed: ClassVar[dict[str, dict[str, int]]] = {}  # repo -> file sizes to claim instead of the real ones
    failures: ClassVar[dict[str, tuple[int, str]]] = {}  # repo -> (status, error code) for everything
    file_failures: ClassVar[dict[str, tuple[int, str]]] = {}  # the same, for files only: listings are public
    torn: ClassVar[set[str]] = set()  # repos whose weights break off in the middle
    slow: ClassVar[set[str]] = set()  # repos whose weights come in small pieces, with pauses
    etags: ClassVar[dict[str, str]] = {}  # repo -> etag of its weights, instead of one by name and size
    requests: ClassVar[list[str]] = []
    ranges: ClassVar[list[tuple[str, str]]] = []  # (repo, Range header) of every request for the body of weights

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reply(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.requests.append(path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        if not found:
            return self.fail(404, "RepoNotFound")
        repo = found.group(1)
        if repo in self.failures:
            return self.fail(*self.failures[repo])
        if repo not in self.repos:
            return self.fail(404, "RepoNotFound")
        folder = self.repos[repo]
        revision = file.group(2) if file else (api.group(3) if api else None)
        if revision not in (None, "main", COMMIT):
            return self.fail(404, "RevisionNotFound")
        sizes = {p.name: p.stat().st_size for p in folder.iterdir()} | self.claimed.get(repo, {})
        if api and api.group(2) == "tree":
            return self.reply([{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()])
        if api:
            return self.reply({"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [],
                               "siblings": [{"rfilename": n, "size": s} for n, s in sizes.items()]})  # fmt: skip
        assert file is not None
        if repo in self.file_failures:
            return self.fail(*self.file_failures[repo])
        path_here = folder / file.group(3)
        if not path_here.is_file():
            return self.fail(404, "EntryNotFound")
        data = path_here.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and body:
            data = data[int(wanted.group(1)) : int(wanted.group(2) or len(data)) + 1]
        self.send_response(206 if wanted and body else 200)
        weights = file.group(3) == "model.safetensors"
        if weights and body:
            self.ranges.append((repo, self.headers.get("Range", "")))
        etag = f"{path_here.name}-{path_here.stat().st_size}"
        self.send_header("ETag", f'"{self.etags.get(repo, etag) if weights else etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            if repo in self.torn and weights:
                data = data[: len(data) // 2]
            size = PIECE if repo in self.slow and weights else max(1, len(data))
            for start in range(0, len(data), size):
                try:
                    self.wfile.write(data[start : start + size])
                except (BrokenPipeError, ConnectionResetError):
                    return None  # the client has gone
                if size == PIECE:
                    time.sleep(PAUSE_SECONDS)
        return None


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The server's address (for HF_ENDPOINT) while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
