"""The app as a user starts it, and a real Chromium that can reach nothing but it.

Without a Chromium these tests are skipped with a reason; with CI=true that is a failure. With DELTALAB_SCREENSHOTS=1
they leave screenshots in tests/browser/screenshots, where a person can look at them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

REPOSITORY = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(__file__).with_name("screenshots")
SHOOTING = os.environ.get("DELTALAB_SCREENSHOTS", "") not in ("", "0")  # they prove nothing, and take a minute in all
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
    # Every name but this machine's address is unknown: whatever tries to leave fails, and shows in the console.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]
IDLE = "[data-testid=stApp][data-test-script-state='notRunning']"
SECONDS = 1000  # Playwright counts milliseconds
PATIENCE = 60  # seconds for anything that takes one or two on an idle machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


MISSING = "There is no Chromium on this machine; install one (Debian: apt install chromium)."


def system_chromium() -> str | None:
    """The path of the system's Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium."""
    found = system_chromium()
    if found is None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


@dataclass
class Server:
    """A running `deltalab serve` with a data folder of its own; it can be killed and started again.

    warm: keep a worker ready for the next run, as it does by default; its imports take a processor for seconds.
    """

    home: Path
    port: int
    log: Path
    warm: bool = True
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(Path(sys.executable).with_name("deltalab")), "serve", "--port", str(self.port), "--no-browser"]
        environment = {**os.environ, "DELTALAB_HOME": str(self.home), "DELTALAB_WARM": str(int(self.warm))}
        environment.pop("DELTALAB_STORE", None)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended:\n{self.text()}"
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=2):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise AssertionError(f"the server does not answer:\n{self.text()}")

    def kill(self) -> None:
        """End it at once, as a power cut would; runs live in processes of their own."""
        import psutil

        assert self.process is not None
        # `deltalab serve`, and the server that it started: that one has a session of its own and would stay. Their
        # processes are asked for first, since a child whose parent is gone can no longer be found.
        both = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children()]
        for process in both:
            process.kill()
        self.process.wait(10)
        _, alive = psutil.wait_procs(both[1:], 10)
        assert alive == []
        self.process = None

    def stop(self) -> None:
        """End it as Ctrl-C does, and cancel what still runs."""
        from core.runs.store import Store

        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        store = Store(None, self.home)
        for run_id, owner in self.active():
            store.cancel(run_id, owner)
        deadline = time.monotonic() + 20
        while self.active() and time.monotonic() < deadline:
            time.sleep(0.2)

    def active(self) -> list[tuple[str, str]]:
        """Id and owner of every run that is queued or running, whoever owns it."""
        with contextlib.closing(sqlite3.connect(self.home / "deltalab.db")) as c:
            return c.execute("select id, owner from runs where status in ('queued', 'running')").fetchall()

    def text(self) -> str:
        """The server's log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="session")
def server(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all journeys; every visitor has a cookie of their own."""
    folder = tmp_path_factory.mktemp("server")
    running = Server(folder / "home", free_port(), folder / "log.txt")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def own_server(chromium: str, tmp_path: Path) -> Iterator[Server]:
    """A server that a test may kill."""
    running = Server(tmp_path / "home", free_port(), tmp_path / "log.txt", warm=False)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """The system's Chromium, driven by Playwright."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE * SECONDS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@dataclass
class Visitor:
    """A person with a browser of their own: cookies shared by their tabs, and by nobody else's.

    troubles: console errors, script errors, violations of the content security policy and requests to other hosts.
    """

    server: Server
    context: BrowserContext
    troubles: list[str] = field(default_factory=list)
    forgiven: tuple[str, ...] = ()

    def tab(self, path: str = "/", *, wait: bool = True) -> Page:
        """A new tab on a page of the app."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE * SECONDS)
        page.on("console", self._heard)
        page.on("pageerror", lambda e: self.note(f"script: {e}"))
        page.on("request", lambda r: self._check(r.url))
        page.goto(self.server.url + path)
        if wait:
            idle(page)
        return page

    @property
    def owner(self) -> str:
        """Who the cookie says that they are; known after the first page."""
        from app import identity

        secret = identity.secret(self.server.home)
        cookies = {c["name"]: c["value"] for c in self.context.cookies()}
        found = identity.owner_in(cookies, secret)
        assert found is not None, cookies
        return found

    def _heard(self, message: ConsoleMessage) -> None:
        # On a page with an address Streamlit first looks for its server below that address: two 404s of its own.
        if message.type == "error" and not re.search(r"/[\w-]+/_stcore/(health|host-config)$", message.location["url"]):
            self.note(f"console: {message.text} {message.location['url']}")

    def note(self, trouble: str) -> None:
        if not any(part in trouble for part in self.forgiven):
            self.troubles.append(trouble)

    def _check(self, url: str) -> None:
        here = (self.server.url, self.server.url.replace("http", "ws"), "data:", "blob:", "about:")
        if not url.startswith(here):
            self.note(f"request: {url}")


def idle(page: Page, seconds: float = PATIENCE) -> None:
    """Wait until the page's script has run to its end, every widget's code has been loaded, and all parts of a long
    lesson are drawn."""
    for _ in range(2):  # a rerun that the last one asked for begins after the state was set
        page.wait_for_selector(IDLE, timeout=seconds * SECONDS)
        page.wait_for_timeout(150)
    page.wait_for_function(
        "!document.querySelector('[data-testid=stSkeleton], [class*=-waiting]')", timeout=seconds * SECONDS
    )
    page.wait_for_selector(IDLE, timeout=seconds * SECONDS)  # what the last part is made of has come, too


# Resolves when nothing on the page has changed for a while and nothing moves any more.
STILL = """milliseconds => new Promise(resolve => {
  const began = performance.now()
  let since = began
  const look = new MutationObserver(() => { since = performance.now() })
  look.observe(document, {subtree: true, childList: true, attributes: true, characterData: true})
  const ask = () => {
    const moves = document.getAnimations().some(a => a.playState === "running" && a.effect?.getTiming().iterations < 99)
    if (moves) since = performance.now()
    const now = performance.now()
    if (now - since < milliseconds && now - began < 15000) return setTimeout(ask, 50)
    look.disconnect()
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(true)))
  }
  ask()
})"""


def still(page: Page, milliseconds: int = 300) -> None:
    """Wait until the page has been drawn to the end: `idle`, and no change of its elements for so long."""
    idle(page)
    page.evaluate(STILL, milliseconds)


class Visitors:
    """Makes visitors, and closes their browsers afterwards."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.made: list[Visitor] = []

    def new(self, server: Server, **how: Any) -> Visitor:
        """Somebody new; `how` goes to Playwright's new_context (viewport, color_scheme, storage_state …)."""
        how.setdefault("viewport", {"width": 1280, "height": 900})
        how.setdefault("reduced_motion", "reduce")
        context = self.browser.new_context(**how)
        visitor = Visitor(server, context)
        context.expose_function("deltalabViolation", visitor.note)
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " e => window.deltalabViolation(`policy: ${e.violatedDirective} ${e.blockedURI}`))"
        )
        self.made.append(visitor)
        return visitor


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Visitors]:
    """Visitors whose pages must have shown no error when the test is over."""
    made = Visitors(browser)
    yield made
    troubles = [t for v in made.made for t in v.troubles]
    for visitor in made.made:
        visitor.context.close()
    assert troubles == []


class Shoot:
    """Stores screenshots of a page at both widths and in both themes, as its visitor sees it."""

    def __init__(self, visitors: Visitors) -> None:
        self.visitors = visitors

    def __call__(self, visitor: Visitor, path: str, name: str) -> None:
        """Four files, NAME-WIDTH-SCHEME.png, of the page at that path; none unless they are asked for."""
        if not SHOOTING:
            return
        SCREENSHOTS.mkdir(exist_ok=True)
        twin = self.visitors.new(visitor.server, storage_state=visitor.context.storage_state())
        page = twin.tab(path)
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 900})
                idle(page)
                # The whole page, without Streamlit's own scrolling.
                tall = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
                page.set_viewport_size({"width": width, "height": min(int(tall) + 80, 14_000)})
                idle(page)
                page.wait_for_timeout(700)  # the figures take their new width and colours
                page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{scheme}.png")
        twin.context.close()


@pytest.fixture
def shoot(visitors: Visitors) -> Shoot:
    """shoot(visitor, path, name) stores four screenshots of a page, with DELTALAB_SCREENSHOTS=1."""
    return Shoot(visitors)
