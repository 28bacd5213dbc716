"""Take away: what the page offers of a run, and its zip; and models that fit, to choose a base from."""

import dataclasses
import hashlib
import io
import zipfile
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import identity, proposals
from app.api import ROUTES
from core.base import EMBEDDED_FOLDER
from core.config import RunConfig
from core.export.link import decode
from core.hardware import Card, attached_light
from core.units import GIB
from tests.app.filling import Hand, events, fill
from tests.app.test_live_api import cookie
from tests.app.test_views import words
from tests.core.ship_support import adapter, with_adapter


def ship_page():
    from app.views import ship

    ship.render()


def playground_page():
    from app.views import playground

    playground.render()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return adapter(EMBEDDED_FOLDER, tmp_path_factory.mktemp("adapters") / "adapter", "lora", seed=7)


@pytest.fixture
def run(store, folder):
    return with_adapter(store, fill(store, "alice", RunConfig(), title="Mine", key="Mine"), folder, "lora", {})


@pytest.fixture
def client(store):
    return TestClient(identity.Guard(Starlette(routes=ROUTES)), base_url="http://localhost")


def zipped(answer) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("part", ["bundle", "script", "notebook", "tensorboard", "adapter"])
def test_each_part_comes_whole_and_is_told_beforehand(part, visit, run, client):
    page = visit(ship_page, run=run.id, do="take", take=part)
    link = next(e.proto for e in page.get("link_button"))
    assert link.url == f"/api/runs/{run.id}/export/{part}.zip"
    answer = client.get(link.url, headers=cookie("alice"))
    assert answer.status_code == 200
    name = f"deltalab-{run.id[:8]}-{part}.zip"
    assert name in answer.headers["content-disposition"]
    files = zipped(answer)
    listed = page.expander[0].code[0].value if page.expander else ""
    assert sorted(files) == sorted(line.split()[0] for line in listed.splitlines())
    commands = next(c.value for c in page.code if c.value.startswith("unzip"))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        (root,) = {inside.partition("/")[0] for inside in archive.namelist()}
    assert commands.splitlines()[:2] == [f"unzip {name}", f"cd {root}"]
    for line in files["SHA256SUMS"].decode().splitlines():
        digest, _, path = line.partition("  ")
        assert hashlib.sha256(files[path]).hexdigest() == digest
    wanted = {"bundle": "adapter/adapter_model.safetensors", "script": "train.py", "notebook": "train.ipynb",
              "tensorboard": "tensorboard/", "adapter": "adapter/README.md"}[part]  # fmt: skip
    assert any(path.startswith(wanted) for path in files)
    told = {"script": ".venv/bin/python train.py", "notebook": "jupyter lab train.ipynb",
            "tensorboard": "tensorboard --logdir tensorboard"}  # fmt: skip
    assert told.get(part, "sha256sum -c SHA256SUMS") in commands


def test_the_script_of_trl(visit, run, client):
    page = visit(ship_page, run=run.id, do="take", take="script")
    page.segmented_control(key="take-trainer").set_value("sft").run()
    (url,) = (e.proto.url for e in page.get("link_button"))
    assert url.endswith("/export/script.zip?trainer=sft")
    files = zipped(client.get(url, headers=cookie("alice")))
    assert "train_trl.py" in files
    assert "train.py" not in files
    assert ".venv/bin/python train_trl.py" in words(page)


def test_the_link_is_the_run_s_settings(visit, run):
    page = visit(ship_page, run=run.id, do="take")
    address = next(c.value for c in page.code if "/playground?" in c.value)
    query = urlsplit(address).query
    assert "v" in parse_qs(query)
    from app import live

    assert decode(query) == live.config_of(run)


def test_it_is_the_owner_s_alone_and_mistakes_are_said(run, client, store):
    url = f"/api/runs/{run.id}/export"
    assert client.get(f"{url}/bundle.zip", headers=cookie("bob")).status_code == 404
    assert client.get(f"{url}/bundle.zip").status_code == 404
    said = client.get(f"{url}/everything.zip", headers=cookie("alice"))
    assert (said.status_code, "The parts are" in said.json()["detail"]) == (409, True)
    waiting = store.create("alice", RunConfig(), key="waits")
    said = client.get(f"/api/runs/{waiting.id}/export/adapter.zip", headers=cookie("alice"))
    assert (said.status_code, "has no adapter" in said.json()["detail"]) == (409, True)


# --- models that fit --------------------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch):
    """A machine with one 24 GB card, and no network."""
    one = Card("NVIDIA GeForce RTX 4090", round(23.6 * GIB), "8.9")
    machine = dataclasses.replace(attached_light(), kind="cuda", name=one.name, cards=(one,))
    monkeypatch.setattr("core.hardware.attached_light", lambda: machine)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    proposals._offer.clear()
    proposals._here.clear()
    yield
    proposals._offer.clear()


def test_choosing_a_model_that_fits_fills_the_base(visit, card, tmp_path, monkeypatch):
    page = visit(playground_page, base="hub")
    (radio,) = (r for r in page.radio if r.label == "Models that fit")
    index = next(i for i, option in enumerate(radio.options) if "SmolLM2-135M" in option)
    caption = radio.proto.captions[index]
    assert "of 23.6 GiB" in caption
    assert "to " in caption
    assert "fetches about 257 MiB" in caption
    assert "licence apache-2.0" in caption
    gated = next(i for i, option in enumerate(radio.options) if "Llama-3.2-1B" in option)
    assert "to be accepted on the hub first" in radio.proto.captions[gated]
    radio.set_value("HuggingFaceTB/SmolLM2-135M-Instruct").run()
    assert page.text_input(key="hub").value == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "about 257 MiB in 16 bits" in page.error[0].value, "offline it says what it would take"
    assert "hf download HuggingFaceTB/SmolLM2-135M-Instruct" in page.error[0].value
    big = next(r for r in page.radio if r.label == "Models that fit")
    big.set_value("Qwen/Qwen2.5-7B-Instruct").run()
    assert page.number_input(key="knob-batch_size").value * page.number_input(key="knob-accumulation").value == 32
    assert page.number_input(key="knob-accumulation").value > 1, "a batch that does not fit is cut into passes"
    page.toggle(key="hub-tuned").set_value(False).run()
    assert any(r.label == "Models that fit" and r.value is None for r in page.radio)


def test_the_list_follows_method_and_batch(visit, card):
    page = visit(playground_page, base="hub", method="qlora", **{"knob-batch_size": "2"})
    (radio,) = (r for r in page.radio if r.label == "Models that fit")
    lora = visit(playground_page, base="hub", method="lora", **{"knob-batch_size": "2"})
    (other,) = (r for r in lora.radio if r.label == "Models that fit")
    assert list(radio.proto.captions) != list(other.proto.captions)
    assert "(as QLoRA)" not in "".join(radio.proto.captions)


def test_the_live_curve_is_told_how_far_a_fetch_is(client, store):
    """Of many events the newest is enough; once the run has started it is of no interest any more."""
    run = store.create("alice", RunConfig(), key="k")
    hand = Hand(store, run)
    fetched = [
        {"kind": "preparing", "base": "owner/name", "done_bytes": n, "total_bytes": 10, "seconds": 1.0 * n}
        for n in (1, 4, 9)
    ]
    from core.events import from_dict

    hand.say(*(from_dict(e) for e in fetched))
    told = client.get(f"/api/runs/{run.id}/events", headers=cookie("alice")).json()
    assert told["events"] == fetched[-1:]
    hand.say(*list(events(RunConfig()))[:3])
    told = client.get(f"/api/runs/{run.id}/events?after={told['next']}", headers=cookie("alice")).json()
    assert next(e["kind"] for e in told["events"]) == "started"
