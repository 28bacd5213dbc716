"""Fetching a base from the hub: progress, resumed at the byte, stopped, damaged, two at once; against a local server
that plays the hub, through its real client, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import write
from tests.core.hub_support import Hub, serving

REPO = "tiny/llama"

# Progress as lines of JSON; STOP: stop after the first. In small pieces, since these files are small.
FOLLOW = """
import json, os, sys
from core import fetch
fetch.PIECE_BYTES = 4096
fetch.LOOK_SECONDS = fetch.NEWS_SECONDS = 0.02
from core.errors import DeltalabError
stop = [False]
try:
    for p in fetch.fetching(sys.argv[1], None, lambda: stop[0]):
        print(json.dumps({"done": p.done_bytes, "total": p.total_bytes}), flush=True)
        stop[0] = "STOP" in os.environ
    print(json.dumps({"end": True}))
except DeltalabError as error:
    print(json.dumps({"kind": error.kind, "sentence": error.sentence, "advice": error.advice}))
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write("llama", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def hub(checkpoint, monkeypatch) -> Iterator[str]:
    for name, value in {
        "repos": {REPO: checkpoint}, "claimed": {}, "torn": set(), "slow": {REPO}, "failures": {}, "file_failures": {},
        "etags": {}, "requests": [], "ranges": [],
    }.items():  # fmt: skip
        monkeypatch.setattr(Hub, name, value)
    with serving(Hub) as address:
        yield address


def env_for(hub: str, home: Path, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_", "DELTALAB_"))}
    return clean | {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        **more,
    }


def follow(hub: str, home: Path, repo: str = REPO, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOW, repo], stdout=subprocess.PIPE, text=True, env=env_for(hub, home, **env)
    )


def lines(process: subprocess.Popen[str]) -> list[dict]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def partials(home: Path) -> list[Path]:
    return list(home.rglob("*.deltalab-partial"))


def test_a_killed_fetch_goes_on_where_it_broke_off(hub, tmp_path, checkpoint):
    size = (checkpoint / "model.safetensors").stat().st_size
    first = follow(hub, tmp_path)
    assert first.stdout is not None
    for line in first.stdout:
        if json.loads(line)["done"] >= size // 3:
            break
    first.send_signal(signal.SIGKILL)
    first.wait()
    (partial,) = partials(tmp_path)
    had = partial.stat().st_size
    assert size // 3 <= had < size
    Hub.slow.clear()
    *progress, end = lines(follow(hub, tmp_path))
    assert end == {"end": True}
    assert progress[0]["done"] >= had
    assert progress[-1] == {"done": size, "total": size}
    assert Hub.ranges == [(REPO, ""), (REPO, f"bytes={had}-")]
    (weights,) = tmp_path.rglob("snapshots/*/model.safetensors")
    assert weights.read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert not partials(tmp_path)
    # Once it is here there is nothing to tell, and the hub is not asked for it again.
    assert lines(follow(hub, tmp_path)) == [{"end": True}]
    assert len(Hub.ranges) == 2


def test_a_stopped_fetch_ends_soon_and_keeps_what_has_arrived(hub, tmp_path):
    began = time.monotonic()
    *progress, end = lines(follow(hub, tmp_path, STOP="1"))
    assert end == {"end": True}
    assert len(progress) == 1
    assert time.monotonic() - began < 10
    assert partials(tmp_path)[0].stat().st_size >= progress[0]["done"]
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))


def test_what_is_not_the_hub_s_file_does_not_stay(hub, tmp_path):
    Hub.slow.clear()
    Hub.etags[REPO] = "0" * 64  # large files have their SHA-256 as etag
    answer = lines(follow(hub, tmp_path))[-1]
    assert answer["kind"] == "base_unavailable"
    assert "arrived damaged" in answer["sentence"]
    assert not partials(tmp_path)
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))


def test_two_who_want_it_fetch_it_once(hub, tmp_path):
    both = [follow(hub, tmp_path), follow(hub, tmp_path)]
    told = [lines(process) for process in both]
    assert all(one[-1] == {"end": True} for one in told)
    assert all(len(one) > 2 for one in told), "who waits sees it grow"
    assert Hub.ranges == [(REPO, "")]


def test_offline_says_what_it_would_take_and_what_to_do(hub, tmp_path):
    for env, words in (
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids fetching it"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ):
        repo = "HuggingFaceTB/SmolLM2-135M-Instruct"
        (answer,) = lines(follow(hub, tmp_path, repo, **env))
        assert words in answer["sentence"]
        assert "(about 257 MiB in 16 bits)" in answer["sentence"]
        assert f"hf download {repo} --local-dir FOLDER" in answer["advice"]


def test_a_run_tells_how_its_base_comes_and_uses_its_own_template(hub, tmp_path):
    """`deltalab train` on a model of the hub whose checkpoint carries a chat template, with a terminal and without."""
    Hub.slow.clear()
    command = [
        sys.executable, "-m", "core.cli", "train", "--base", REPO, "--task", "json", "--method", "lora", "--set",
        "steps=2", "train_examples=16", "batch_size=2", "eval_items=4", "skill_items=0", "learning_rate=1e-3",
    ]  # fmt: skip
    env = env_for(hub, tmp_path / "hub", DELTALAB_HOME=str(tmp_path / "home"), OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stderr.index(f"Fetching {REPO}: "), done.stderr.index("parameters train")
    assert said == tuple(sorted(said)), "the fetch is told before the run begins"
    from core.runs.store import Store

    store = Store(home=tmp_path / "home")
    (run,) = store.runs("cli")
    events = [event for _, event in store.events(run.id, "cli")]
    fetched = [e for e in events if e["kind"] == "preparing"]
    begun = next(e for e in events if e["kind"] == "started")
    assert begun["base"]["template"] == "own"
    assert begun["base"]["kind"] == "hub"
    assert fetched[-1]["done_bytes"] == fetched[-1]["total_bytes"] > 0
    assert run.adapter is not None
    said = json.loads((run.adapter / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == REPO, "PEFT and the engines fetch the base by this name"
    assert "revision" not in said, "none was asked for"
    assert json.loads((run.adapter / "deltalab.json").read_text())["base"] == REPO
