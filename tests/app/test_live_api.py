"""The routes beside the pages: a run is for its owner only, and everybody else gets the same 404."""

import http.client
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import components, identity, state, uploads
from app.api import ROUTES, file_name
from core.config import RunConfig
from tests.app.filling import Hand, events, fill

ROOT = Path(__file__).resolve().parents[2]


def cookie(owner: str) -> dict[str, str]:
    key = identity.secret(state.home())
    return {"cookie": f"{identity.cookie_name(key)}={identity.sign(owner, key)}"}


@pytest.fixture
def client(store):
    return TestClient(identity.Guard(Starlette(routes=ROUTES)), base_url="http://localhost")


def test_the_owner_sees_the_events(client, store):
    run = fill(store, "alice")
    answer = client.get(f"/api/runs/{run.id}/events", headers=cookie("alice"))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert told["run"]["status"] == "finished"
    assert told["run"]["steps"] == run.steps > 0
    assert sum(e["kind"] == "step" for e in told["events"]) == run.steps
    assert told["next"] == max(seq for seq, _ in store.events(run.id, "alice", kinds=("finished",)))


def test_the_cursor_goes_on_where_it_was(client, store):
    run = store.create("alice", RunConfig(), key="k")
    told = client.get(f"/api/runs/{run.id}/events", headers=cookie("alice")).json()
    assert told["run"] == {**told["run"], "status": "queued", "queue_position": 1}
    assert (told["events"], told["next"]) == ([], 0)
    hand = Hand(store, run)
    stream = list(events(RunConfig()))
    hand.say(*stream[:10])
    first = client.get(f"/api/runs/{run.id}/events?after=0", headers=cookie("alice")).json()
    hand.say(*stream[10:])
    hand.leave()
    second = client.get(f"/api/runs/{run.id}/events?after={first['next']}", headers=cookie("alice")).json()
    seen = [e["step"] for e in first["events"] + second["events"] if e["kind"] == "step"]
    assert seen == list(range(1, run.steps + 1))
    third = client.get(f"/api/runs/{run.id}/events?after={second['next']}", headers=cookie("alice")).json()
    assert (third["events"], third["next"]) == ([], second["next"])


@pytest.mark.parametrize("path", ["events", "adapter.zip"])
def test_foreign_unknown_forged_and_nameless_are_the_same(client, store, path):
    run = fill(store, "alice")
    name = identity.cookie_name(identity.secret(state.home()))
    forged = {"cookie": f"{name}={identity.sign('alice', b'another secret')}"}
    answers = [
        client.get(f"/api/runs/{run.id}/{path}", headers=cookie("mallory")),
        client.get(f"/api/runs/0123456789abcdef/{path}", headers=cookie("mallory")),
        client.get(f"/api/runs/{run.id}/{path}", headers=forged),
        client.get(f"/api/runs/{run.id}/{path}"),
        client.get(f"/api/runs/..%2f..%2fsecret/{path}", headers=cookie("alice")),
    ]
    assert {a.status_code for a in answers} == {404}
    assert len({a.content for a in answers[:4]}) == 1
    assert run.id.encode() not in answers[0].content


def test_a_deleted_run_is_gone(client, store):
    run = fill(store, "alice")
    store.delete(run.id, "alice")
    assert client.get(f"/api/runs/{run.id}/events", headers=cookie("alice")).status_code == 404


def test_a_cursor_must_be_a_number(client, store):
    run = fill(store, "alice")
    assert client.get(f"/api/runs/{run.id}/events?after=x", headers=cookie("alice")).status_code == 400


def test_nobody_writes_through_these_routes(client, store):
    run = fill(store, "alice")
    for method in ("post", "put", "delete"):
        answer = getattr(client, method)(f"/api/runs/{run.id}/events", headers=cookie("alice"))
        assert answer.status_code == 405


def test_the_adapter_comes_as_a_zip(client, store):
    run = fill(store, "alice", title="LoRA · JSON (structure)")
    answer = client.get(f"/api/runs/{run.id}/adapter.zip", headers=cookie("alice"))
    assert answer.headers["content-type"] == "application/zip"
    assert f"lora-json-structure-{run.id}.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
        assert json.loads(archive.read("adapter/adapter_config.json")) == {"peft_type": "LORA"}


def test_a_run_without_an_adapter_says_so(client, store):
    run = store.create("alice", RunConfig(), key="k")
    answer = client.get(f"/api/runs/{run.id}/adapter.zip", headers=cookie("alice"))
    assert answer.status_code == 404
    assert "no adapter" in answer.json()["detail"]


def test_a_download_has_a_harmless_name(store):
    run = fill(store, "alice", title='../"<b>\n…')
    assert file_name(run) == f"b-{run.id}.zip"


def test_the_components_modules_are_served_and_nothing_else(client):
    good = client.get(f"/assets/live/{components.version('live')}/live.js")
    assert good.headers["content-type"].startswith("text/javascript")
    assert "immutable" in good.headers["cache-control"]
    assert client.get("/assets/live/old/live.css").headers["cache-control"] == "no-store"
    for path in ("/assets/live/x/__init__.py", "/assets/other/x/live.js", "/assets/live/x/..%2f..%2fmain.py"):
        assert client.get(path).status_code == 404


def test_the_served_module_fetches_nothing_from_elsewhere():
    for name in components.FILES["live"]:
        text = (components.FOLDER / "live" / name).read_text(encoding="utf-8")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


# --- the real server ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The app as a user starts it, on a free port; (address, home, pid). Old and new uploads lie there already."""
    import socket

    home = tmp_path_factory.mktemp("served")
    for name, age in (("old", uploads.KEPT_SECONDS + 60), ("new", 60)):
        kept = home / "uploads" / "somebody" / name
        kept.mkdir(parents=True)
        (kept / "data.jsonl").write_text("{}", encoding="utf-8")
        os.utime(kept, (time.time() - age, time.time() - age))
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {**os.environ, "DELTALAB_HOME": str(home), "DELTALAB_WARM": "0", "PYTHONPATH": str(ROOT)}
    for name in ("DELTALAB_STORE", "DELTALAB_SECRET"):
        variables.pop(name, None)
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), "--server.port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                    break
            except (urllib.error.URLError, TimeoutError):
                assert process.poll() is None, process.stdout and process.stdout.read().decode()
                time.sleep(0.1)
        yield address, home, process.pid
    finally:
        process.terminate()
        process.wait(30)


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_the_real_server_keeps_runs_apart(server):
    from core.runs.store import Store

    address, home, _ = server
    store = Store(f"sqlite:///{home / 'deltalab.db'}", home)
    status, headers, _ = fetch(f"{address}/", accept="text/html")
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    given = headers["set-cookie"].split(";")[0]
    owner = identity.owner_of(given, identity.secret(home))
    assert owner is not None
    run = fill(store, owner)
    status, _, body = fetch(f"{address}/api/runs/{run.id}/events", cookie=given)
    assert (status, json.loads(body)["run"]["id"]) == (200, run.id)
    assert fetch(f"{address}/api/runs/{run.id}/adapter.zip", cookie=given)[0] == 200
    other = fetch(f"{address}/", accept="text/html")[1]["set-cookie"].split(";")[0]
    for stranger in (other, given[:-2] + "xx", ""):
        assert fetch(f"{address}/api/runs/{run.id}/events", cookie=stranger)[0] == 404
        assert fetch(f"{address}/api/runs/{run.id}/adapter.zip", cookie=stranger)[0] == 404
    assert fetch(f"{address}/_stcore/metrics")[0] == 404
    store.close()


def handshake(port: int, **headers: str) -> int:
    """The status that answers a browser's wish for Streamlit's websocket; 101 lets it in."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    asked = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
             "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-protocol": "streamlit"}  # fmt: skip
    with closing(line):
        line.putrequest("GET", "/_stcore/stream", skip_host=True)
        for name, value in (asked | headers).items():
            line.putheader(name, value)
        line.endheaders()
        return line.getresponse().status


def test_the_real_server_lets_only_its_own_pages_into_the_websocket(server):
    address, _, _ = server
    port = int(address.rsplit(":", 1)[1])
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        assert handshake(port, host=name, origin=f"http://{name}") == 101
        assert handshake(port, host=name) == 101
        assert handshake(port, host=name, origin="http://evil.example") == 403
    assert handshake(port, host="evil.example", origin="http://evil.example") == 403
    assert fetch(f"{address}/", host="evil.example")[0] == 403


def test_the_real_server_removes_old_uploads_when_it_starts(server):
    _, home, _ = server
    assert [p.name for p in (home / "uploads" / "somebody").iterdir()] == ["new"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_real_server_has_no_torch_in_it(server):
    _, _, pid = server
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


EVERY_PAGE = """
import gc
import json
import sys

from streamlit.testing.v1 import AppTest

import app.takeaway
from app import data, index, proposals, state
from app.views import VIEWS
from core.config import EMBEDDED, RunConfig
from core.memory.published import case_of, rows
from tests.app import once
from tests.app.filling import fill

VIEW = "from app.views import VIEWS; next(v for v in VIEWS if v.url_path == {!r}).render()"
LESSON = '''
from app import index
from app.cells import page
page.render(next(lesson for lesson in index.lessons() if lesson.slug == {!r}))
'''


CHECKS_A_FILE = "09_plan_your_own"  # it counts what is wrong in example files, with the base's tokenizer


def heavies():
    return [m for m in ("torch", "transformers", "bitsandbytes", "peft") if m in sys.modules]


def draw(script, owner, **query):
    page = AppTest.from_string(script, default_timeout=120)
    page.session_state["_owner"] = owner
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception, page.exception
    drawn.append((owner, page.title[0].value))


drawn = []
gc.collect()
gc.freeze()  # Streamlit looks through everything after each page
shell = AppTest.from_file("app/shell.py", default_timeout=120).run()
assert not shell.exception, shell.exception
for lesson in index.lessons():
    for cell in lesson.cells:
        if cell.kind == "experiment":
            fill(state.store(), "alice", cell=lesson.state_name(cell.id))
run = fill(state.store(), "alice", RunConfig(), title="Hers")
for owner in ("alice", "somebody new"):
    for view in VIEWS:
        draw(VIEW.format(view.url_path), owner)
    for lesson in index.lessons():
        if lesson.slug != CHECKS_A_FILE:
            draw(LESSON.format(lesson.slug), owner)
draw(VIEW.format("runs"), "alice", run=run.id)
assert [case_of(row) for row in rows()]
heavy = heavies()
for owner in ("alice", "somebody new"):
    draw(LESSON.format(CHECKS_A_FILE), owner)
data.tokenizer(EMBEDDED)
proposals._offer(json.dumps(RunConfig(base="a/b").to_dict()))
proposals._here(("openai-community/gpt2",))
print(json.dumps({"drawn": drawn, "heavy": heavy, "heavy_with_an_own_file": heavies()}))
"""


def test_no_page_brings_torch_into_the_server(tmp_path):
    """Every page, of somebody with runs and of somebody new, is drawn in a fresh process, which loads nothing heavy."""
    from app import index
    from app.views import VIEWS

    variables = {**os.environ, "DELTALAB_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    variables.pop("DELTALAB_STORE", None)
    done = subprocess.run(
        [sys.executable, "-c", EVERY_PAGE], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    pages = len(VIEWS) + len(index.lessons())
    assert len({title for owner, title in told["drawn"] if owner == "somebody new"}) == pages  # each by its own title
    assert len({title for owner, title in told["drawn"] if owner == "alice"}) == pages + 1
    assert ["alice", "Hers"] in told["drawn"]
    assert told["heavy"] == []
    # The report on an own file needs the base's tokenizer, which comes without torch.
    assert told["heavy_with_an_own_file"] == ["transformers"]
