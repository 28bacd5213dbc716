"""The identity cookie and the guard: forged cookies are none, headers are set, metrics are hidden."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app import identity

PAGE = {"accept": "text/html"}


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.delenv("DELTALAB_SECRET", raising=False)

    def answer(request):
        return PlainTextResponse("ok")

    inner = Starlette(routes=[Route("/{rest:path}", answer)])
    return TestClient(identity.Guard(inner, tmp_path))


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
    assert identity.owner_of(f"a=b; {identity.COOKIE}={identity.sign('alice', b'k')}; c=d", b"k") == "alice"


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


def test_a_first_visit_gets_a_cookie_that_scripts_cannot_read(client):
    answer = client.get("/", headers=PAGE)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{identity.COOKIE}=")
    for part in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert part in cookie
    assert "Secure" not in cookie


def test_over_https_the_cookie_stays_there(client):
    client.base_url = "https://testserver"
    assert "Secure" in client.get("/", headers=PAGE).headers["set-cookie"]


def test_a_known_visitor_keeps_their_name(client, tmp_path):
    first = client.get("/", headers=PAGE)
    name = identity.owner_of(first.headers["set-cookie"], identity.secret(tmp_path))
    again = client.get("/start-here", headers=PAGE)
    assert identity.owner_of(again.headers["set-cookie"], identity.secret(tmp_path)) == name


def test_a_forged_cookie_is_replaced_by_a_fresh_name(client, tmp_path):
    client.cookies.set(identity.COOKIE, identity.sign("alice", b"forged"))
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
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/_stcore/metrics/", "/_stcore/metrics?families=x"])
def test_metrics_are_nobodys_business(client, path):
    assert client.get(path).status_code == 404
