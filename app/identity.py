"""Who is asking: one signed HttpOnly cookie per browser, and the guard that every HTTP request passes through.

An owner is a random name in a cookie signed with a secret of this installation; there are no accounts. Whoever holds
the cookie sees that owner's runs and progress, and nobody else does: every query of the store is by owner, and what is
foreign is answered exactly like what does not exist. A forged or altered cookie counts as none.

The guard also sets the security headers, hides Streamlit's metrics endpoint, which counts everybody's sessions, and
refuses what another site's page sends here: pages as well as websockets, before Streamlit sees them. (Streamlit would
ask a service on the internet for this machine's address before it says no.)
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import secrets
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeSerializer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("deltalab.app")

COOKIE = "deltalab"
"""What the cookie's name begins with; alone, it is the name that all cookies had once, and is still understood."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The names of a server that listens on its own machine only; .streamlit/config.toml tells Streamlit the same."""
MAX_AGE_SECONDS = 400 * 24 * 3600  # browsers keep no cookie longer than 400 days; every visit renews it
HIDDEN = ("/_stcore/metrics",)

# 'unsafe-eval' and 'unsafe-inline' are what Streamlit's own bundle needs; nothing may come from another host.
CSP = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-eval' 'unsafe-inline' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",  # the page's own websocket included
        "worker-src 'self' blob:",
        "frame-src 'self' blob: data:",
        "frame-ancestors 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "object-src 'none'",
    )
)
HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


def secret(home: Path) -> bytes:
    """The installation's signing secret: $DELTALAB_SECRET (several servers, one class), else `home`/secret.

    The file is made once, readable by its owner only. It appears whole or not at all, so that two servers that start
    together agree on one.
    """
    given = os.environ.get("DELTALAB_SECRET")
    if given:
        return given.encode()
    path = home / "secret"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=home, prefix=".secret-")
        with os.fdopen(handle, "wb") as f:
            f.write(secrets.token_bytes(32))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another server was first: its secret is the one
        finally:
            os.unlink(draft)
    return path.read_bytes()


@lru_cache(maxsize=8)
def _serializer(key: bytes) -> URLSafeSerializer:
    return URLSafeSerializer(key, salt="deltalab-owner")


def new_owner() -> str:
    """A fresh random owner (96 bits)."""
    return secrets.token_urlsafe(12)


def sign(owner: str, key: bytes) -> str:
    """The cookie's value for an owner."""
    return str(_serializer(key).dumps(owner))


def read(value: str | None, key: bytes) -> str | None:
    """The owner in a cookie's value; None when it is missing, altered or signed with another secret."""
    if not value:
        return None
    try:
        owner = _serializer(key).loads(value)
    except BadSignature:
        return None
    return owner if isinstance(owner, str) and owner else None


def cookie_name(key: bytes) -> str:
    """The cookie's name: the installation's own, since cookies ignore ports.

    With one name for all, a second server on the machine would overwrite the first one's cookie.
    """
    return f"{COOKIE}-{hashlib.sha256(key).hexdigest()[:8]}"


def owner_in(cookies: Mapping[str, str], key: bytes) -> str | None:
    """The owner named by a request's cookies, or None."""
    return read(cookies.get(cookie_name(key)), key) or read(cookies.get(COOKIE), key)


def owner_of(cookie_header: str, key: bytes) -> str | None:
    """The owner named by a request's Cookie header, or None."""
    # Read as browsers write it: http.cookies would stop at the first cookie of another server that it does not like.
    from starlette.requests import cookie_parser

    return owner_in(cookie_parser(cookie_header), key)


def header(scope: Any, name: bytes) -> str:
    """A request header of an ASGI scope as text; empty when absent. Several of one name are joined with '; '."""
    return "; ".join(v.decode("latin-1") for k, v in scope.get("headers", ()) if k == name)


def loopback(address: str | None) -> bool:
    """Whether a server that listens on `address` can be reached from its own machine only."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False  # a name, or nothing (every address): others may come


def names() -> tuple[str, ...]:
    """The host names by which this server may be called, as Streamlit writes them (`*` is any)."""
    import streamlit as st

    address = st.get_option("server.address")
    if not loopback(address):
        return ("*",)  # nobody here knows how others call this machine
    return (*LOOPBACK, address, *st.get_option("server.allowedHosts"))


def reachable() -> bool:
    """Whether others than this machine may come: it listens elsewhere, or a proxy's name is allowed."""
    return not all(loopback(name) for name in names())


def hostname(host: str) -> str:
    """The name in a Host header: '[::1]:8501' -> '::1'. Empty when it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # checked only when asked for
    except ValueError:
        return ""
    return (parts.hostname or "").rstrip(".") if parts.netloc == host and "@" not in host else ""


def refusal(scope: Any) -> str:
    """Why a request is not answered, in a sentence; empty when it is.

    A page of another site names itself in Origin. One whose name was bent to this machine's address (DNS rebinding)
    seems to be ours, but it calls us by its own name.
    """
    host, origin = header(scope, b"host"), header(scope, b"origin")
    try:
        ours = not origin or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        ours = False
    if not ours:
        return "This request was sent by a page of another address."
    name = hostname(host)
    if not name or not any(fnmatchcase(name, wanted.strip().lower().rstrip(".")) for wanted in names()):
        return (
            "This server listens on its own machine only, and not under the name that was asked for. "
            "Names of a proxy in front of it belong into server.allowedHosts."
        )
    return ""


class Guard:
    """ASGI middleware: hands out and renews the cookie, sets the headers, refuses strangers, hides the metrics.

    Plain ASGI: Starlette's BaseHTTPMiddleware would buffer streams and stand in the way of the websocket.
    """

    def __init__(self, app: ASGIApp, home: Path | None = None) -> None:
        self.app = app
        self.home = home

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let one websocket in."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        why = refusal(scope)
        if scope["type"] == "websocket":
            if why:
                from starlette.websockets import WebSocketClose

                # Who runs the server behind a proxy finds the reason here; the browser is told nothing but no.
                logger.warning("%s Host %r, Origin %r.", why, header(scope, b"host"), header(scope, b"origin"))
                await WebSocketClose(1008)(scope, receive, send)
                return
            await self.app(scope, receive, send)
            return
        hidden = scope["path"].startswith(HIDDEN)
        # Only pages hand out the cookie: an asset may be cached, and a reply with a cookie must not be.
        page = scope["method"] == "GET" and "text/html" in header(scope, b"accept") and not why and not hidden
        cookie = self._cookie(scope) if page else None

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *HEADERS]
                if cookie is not None:
                    headers.append((b"set-cookie", cookie))
                message = {**message, "headers": headers}
            await send(message)

        if why or hidden:
            from starlette.responses import JSONResponse

            detail, status = (why, 403) if why else ("not found", 404)
            answer = JSONResponse({"detail": detail}, status, headers={"cache-control": "no-store"})
            await answer(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)

    def _cookie(self, scope: Scope) -> bytes:
        if self.home is None:
            from app.state import home

            self.home = home()
        key = secret(self.home)
        owner = owner_of(header(scope, b"cookie"), key) or new_owner()
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        value = f"{cookie_name(key)}={sign(owner, key)}"
        return f"{value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={MAX_AGE_SECONDS}{secure}".encode()
