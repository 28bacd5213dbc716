"""The identity cookie and the guard: forged cookies are none, headers are set, strangers are refused."""

import tomllib
from pathlib import Path

import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from app import identity

PAGE = {"accept": "text/html"}
CONFIG = Path(__file__).resolve().parents[2] / ".streamlit" / "config.toml"


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a server on this machine; `inner.seen` lists what got past the guard."""
    monkeypatch.delenv("DELTALAB_SECRET", raising=False)
    monkeypatch.setattr(identity, "names", lambda: identity.LOOPBACK)

    def answer(request):
        seen.append("http")
        return PlainTextResponse("ok")

    async def stream(websocket):
        seen.append("websocket")
        await websocket.accept()
        await websocket.send_text("ok")
        await websocket.close()

    seen: list[str] = []
    inner = Starlette(routes=[WebSocketRoute("/stream", stream), Route("/{rest:path}", answer)])
    made = TestClient(identity.Guard(inner, tmp_path), base_url="http://localhost:8501")
    made.seen = seen
    return made


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path, monkeypatch):
    monkeypatch.delenv("DELTALAB_SECRET", raising=False)
    first = identity.secret(tmp_path)
    assert len(first) == 32
    assert identity.secret(tmp_path) == first
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_servers_that_share_a_secret_share_their_owners(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTALAB_SECRET", "from the environment")
    cookie = identity.sign("alice", identity.secret(tmp_path / "a"))
    assert identity.read(cookie, identity.secret(tmp_path / "b")) == "alice"


def test_a_cookie_names_its_owner():
    assert identity.read(identity.sign("alice", b"k" * 32), b"k" * 32) == "alice"
    name = identity.cookie_name(b"k")
    assert identity.owner_of(f"a=b; {name}={identity.sign('alice', b'k')}; c=d", b"k") == "alice"


def test_another_installations_cookie_has_another_name():
    """Cookies ignore ports: two servers on one machine see, and would overwrite, each other's of the same name."""
    one, two = identity.cookie_name(b"one"), identity.cookie_name(b"two")
    assert one != two
    assert one.startswith("deltalab-")
    assert len(one) == len("deltalab-") + 8
    both = f"{one}={identity.sign('alice', b'one')}; {two}={identity.sign('bob', b'two')}"
    assert identity.owner_of(both, b"one") == "alice"
    assert identity.owner_of(both, b"two") == "bob"


def test_a_cookie_of_the_old_name_is_still_understood():
    old = f"deltalab={identity.sign('alice', b'k')}"
    assert identity.owner_of(old, b"k") == "alice"
    assert identity.owner_of(old, b"another") is None
    assert identity.owner_of(f"{old}; {identity.cookie_name(b'k')}={identity.sign('bob', b'k')}", b"k") == "bob"


def test_what_other_servers_put_into_their_cookies_does_no_harm():
    mine = f"{identity.cookie_name(b'k')}={identity.sign('alice', b'k')}"
    assert identity.owner_of(f'state={{"a": [1, 2]}}; a[b]=c; {mine}', b"k") == "alice"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "alice",
        identity.sign("alice", b"another secret"),
        identity.sign("alice", b"k")[:-1] + "A",
        "ImJvYiI" + identity.sign("alice", b"k")[7:],
        identity._serializer(b"k").dumps(["alice"]),
        identity._serializer(b"k").dumps(""),
    ],
)
def test_a_forged_cookie_is_none(value):
    assert identity.read(value, b"k") is None


def test_a_broken_cookie_header_is_none():
    assert identity.owner_of("deltalab=; =;;\x00=x", b"k") is None


def test_a_first_visit_gets_a_cookie_that_scripts_cannot_read(client, tmp_path):
    answer = client.get("/", headers=PAGE)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{identity.cookie_name(identity.secret(tmp_path))}=")
    for part in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert part in cookie
    assert "Secure" not in cookie


def test_over_https_the_cookie_stays_there(client):
    client.base_url = "https://localhost:8501"
    assert "Secure" in client.get("/", headers=PAGE).headers["set-cookie"]


def test_a_known_visitor_keeps_their_name(client, tmp_path):
    first = client.get("/", headers=PAGE)
    name = identity.owner_of(first.headers["set-cookie"], identity.secret(tmp_path))
    again = client.get("/start-here", headers=PAGE)
    assert identity.owner_of(again.headers["set-cookie"], identity.secret(tmp_path)) == name


def test_an_old_cookie_is_renewed_under_the_new_name(client, tmp_path):
    key = identity.secret(tmp_path)
    answer = client.get("/", headers={**PAGE, "cookie": f"deltalab={identity.sign('alice', key)}"})
    assert answer.headers["set-cookie"].startswith(f"{identity.cookie_name(key)}=")
    assert identity.owner_of(answer.headers["set-cookie"], key) == "alice"


@pytest.mark.parametrize("old", [True, False])
def test_a_forged_cookie_is_replaced_by_a_fresh_name(client, tmp_path, old):
    name = identity.COOKIE if old else identity.cookie_name(identity.secret(tmp_path))
    client.cookies.set(name, identity.sign("alice", b"forged"))
    answer = client.get("/", headers=PAGE)
    name = identity.owner_of(answer.headers["set-cookie"], identity.secret(tmp_path))
    assert name is not None
    assert name != "alice"


@pytest.mark.parametrize("path", ["/api/runs/x/events", "/assets/live/1/live.js", "/playground/_stcore/health"])
def test_only_pages_hand_out_cookies(client, path):
    assert "set-cookie" not in client.get(path, headers={"accept": "*/*"}).headers


def test_every_answer_has_the_security_headers(client):
    headers = client.get("/anything").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "http:" not in headers["content-security-policy"]
    assert "ws" not in headers["content-security-policy"].split("connect-src")[1].split(";")[0]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/_stcore/metrics/", "/_stcore/metrics?families=x"])
def test_metrics_are_nobodys_business(client, path):
    assert client.get(path).status_code == 404


# --- strangers ------------------------------------------------------------------------------------------------------


def websocket(client, **headers):
    """Whether a websocket with these headers is let in."""
    try:
        with client.websocket_connect("/stream", headers=headers) as opened:
            return opened.receive_text() == "ok"
    except WebSocketDisconnect:
        return False


OWN = [
    {"host": "localhost:8501"},
    {"host": "localhost:8501", "origin": "http://localhost:8501"},
    {"host": "127.0.0.1:8501", "origin": "http://127.0.0.1:8501"},
    {"host": "[::1]:8501", "origin": "http://[::1]:8501"},
    {"host": "LocalHost", "origin": "https://localhost"},
    {"host": "localhost.:8501"},
]
FOREIGN = [
    {"host": "localhost:8501", "origin": "http://evil.example"},
    {"host": "localhost:8501", "origin": "http://localhost:9000"},  # another server of this machine
    {"host": "localhost:8501", "origin": "null"},
    {"host": "localhost:8501", "origin": "http://[bent"},
    {"host": "evil.example", "origin": "http://evil.example"},  # its name was bent to this address
    {"host": "evil.example:8501"},
    {"host": "localhost.evil.example"},
    {"host": "evil.example@localhost"},
    {"host": "localhost:port"},
    {"host": "[::1"},
    {"host": ""},
]


@pytest.mark.parametrize("headers", OWN)
def test_its_own_pages_are_let_in(client, headers):
    assert client.get("/", headers=headers).status_code == 200
    assert websocket(client, **headers)
    assert client.seen == ["http", "websocket"]


@pytest.mark.parametrize("headers", FOREIGN)
def test_strangers_are_refused_before_streamlit_sees_them(client, headers):
    answer = client.get("/", headers={**PAGE, **headers})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert not websocket(client, **headers)
    assert client.seen == []


def test_elsewhere_any_name_will_do_but_no_other_sites_page(client, monkeypatch):
    monkeypatch.setattr(identity, "names", lambda: ("*",))
    own = {"host": "class.example:8501", "origin": "http://class.example:8501"}
    assert client.get("/", headers=own).status_code == 200
    assert websocket(client, **own)
    assert not websocket(client, **own | {"origin": "http://evil.example"})


@pytest.mark.parametrize(
    ("address", "only_here"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.0.0.2", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.7", False), ("class.example", False), (None, False), ("", False)],
)  # fmt: skip
def test_the_names_follow_from_where_the_server_listens(monkeypatch, address, only_here):
    options = {"server.address": address, "server.allowedHosts": ["proxy.example", "*.class.example"]}
    monkeypatch.setattr(st, "get_option", options.__getitem__)

    def known(host):
        return identity.refusal({"headers": [(b"host", host.encode())]}) == ""

    assert identity.loopback(address) is only_here
    assert all(map(known, ("localhost:8501", "[::1]:8501", "proxy.example", "a.class.example")))
    assert known("evil.example") is not only_here
    assert known("127.0.0.2") is (not only_here or address == "127.0.0.2")


def test_streamlit_is_told_the_same_names():
    server = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["server"]
    assert server["allowedHosts"] == list(identity.LOOPBACK)
    assert identity.loopback(server["address"])
