"""Who is asking: one signed HttpOnly cookie per browser, and the guard that every HTTP request passes through.

An owner is a random name in a cookie signed with a secret of this installation; there are no accounts. Whoever holds
the cookie sees that owner's runs and progress, and nobody else does: every query of the store is by owner, and what is
foreign is answered exactly like what does not exist. A forged or altered cookie counts as none.

The guard also sets the security headers and hides Streamlit's metrics endpoint, which counts everybody's sessions.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itsdangerous import BadSignature, URLSafeSerializer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "deltalab"
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
        "connect-src 'self' ws: wss:",
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


def owner_of(cookie_header: str, key: bytes) -> str | None:
    """The owner named by a request's Cookie header, or None."""
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(cookie_header)
    except CookieError:
        return None
    return read(jar[COOKIE].value, key) if COOKIE in jar else None


def header(scope: Any, name: bytes) -> str:
    """A request header of an ASGI scope as text; empty when absent. Several of one name are joined with '; '."""
    return "; ".join(v.decode("latin-1") for k, v in scope.get("headers", ()) if k == name)


class Guard:
    """ASGI middleware: hands out and renews the cookie, sets the headers, hides what is nobody's business.

    Plain ASGI: Starlette's BaseHTTPMiddleware would buffer streams and stand in the way of the websocket.
    """

    def __init__(self, app: ASGIApp, home: Path | None = None) -> None:
        self.app = app
        self.home = home

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith(HIDDEN):
            from starlette.responses import JSONResponse

            await JSONResponse({"detail": "not found"}, 404, headers={"cache-control": "no-store"})(
                scope, receive, send
            )
            return
        # Only pages hand out the cookie: an asset may be cached, and a reply with a cookie must not be.
        page = scope["method"] == "GET" and "text/html" in header(scope, b"accept")
        cookie = self._cookie(scope) if page else None

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *HEADERS]
                if cookie is not None:
                    headers.append((b"set-cookie", cookie))
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, with_headers)

    def _cookie(self, scope: Scope) -> bytes:
        if self.home is None:
            from app.state import home

            self.home = home()
        key = secret(self.home)
        owner = owner_of(header(scope, b"cookie"), key) or new_owner()
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        return (
            f"{COOKIE}={sign(owner, key)}; Path=/; HttpOnly; SameSite=Lax; Max-Age={MAX_AGE_SECONDS}{secure}".encode()
        )
