"""One run's whole way in a real browser: raced, looked into, merged, swapped, converted, talked to, taken away, and run
again from the script in its zip, without Deltalab."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from safetensors import safe_open

from core.base import EMBEDDED_FOLDER
from core.config import RunConfig
from core.runs.store import Store
from tests.app.filling import fill
from tests.browser.conftest import SCREENSHOTS, SECONDS, SHOOTING, Server, Shoot, Visitor, Visitors, idle, still
from tests.browser.test_accessibility import check
from tests.browser.test_journeys import RUN_SECONDS, body, choose, key, press, wait_for_text
from tests.core.export_support import losses
from tests.core.ship_support import adapter, with_adapter

if TYPE_CHECKING:
    from playwright.sync_api import Page

ANSWER_SECONDS = 120  # the first answer waits for the process and the model
MEASURE_SECONDS = 300
STEPS = 12


def follow(page: Page, name: str | re.Pattern[str]) -> None:
    """Click a link and wait for the page behind it."""
    page.locator("[data-testid=stMain]").get_by_role("link", name=name).first.click()
    idle(page)


def number(page: Page, widget: str, value: int) -> None:
    """Type a number."""
    box = key(page, widget).locator("input")
    box.fill(str(value))
    box.press("Enter")
    idle(page)


def section(page: Page, name: str) -> None:
    """Open one of the sections of the page Ship."""
    key(page, "do").get_by_text(name, exact=True).click()
    idle(page)


def measured(page: Page, start: str) -> None:
    """Press the button that starts a measurement, and wait for what it finds."""
    press(page, start)
    page.get_by_text("Measured in").first.wait_for(timeout=MEASURE_SECONDS * SECONDS)
    idle(page)


def unpacked(visitor: Visitor, page: Page, link: str, folder: Path) -> Path:
    """What a download link gives, unpacked."""
    address = page.get_by_role("link", name=re.compile(link)).first.get_attribute("href")
    answer = visitor.context.request.get(f"{visitor.server.url}{address}")
    assert answer.status == 200
    with zipfile.ZipFile(io.BytesIO(answer.body())) as archive:
        archive.extractall(folder)
    return folder


def pictures(page: Page, name: str) -> None:
    """The chat at both widths and in both schemes, with what has been said in it, where that is asked for."""
    if not SHOOTING:
        return
    SCREENSHOTS.mkdir(exist_ok=True)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 1600})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            idle(page)
            page.get_by_text("Talk to it").last.scroll_into_view_if_needed()
            page.wait_for_timeout(700)
            page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{scheme}.png")


def talk_to_all_three(page: Page) -> None:
    """The chat: three sides at once, compared, drawn with a seed and drawn again, legible on a phone."""
    sides = page.locator(".st-key-chat-sides")
    sides.get_by_text("Merged").click()
    idle(page)
    assert "chat-sides=Merged" in page.url
    ask = page.locator(".st-key-chat-input textarea")
    expect(ask).to_have_attribute("placeholder", "Ask all three")
    page.locator(".st-key-chat-suggestions button").first.click()
    facts = page.get_by_text("tokens/s")
    expect(facts).to_have_count(3, timeout=ANSWER_SECONDS * SECONDS)
    idle(page)
    said = page.locator("[data-testid=stCode] code")
    before, after, merged = greedy = said.all_text_contents()
    assert before != after
    verdict = page.get_by_text(re.compile("Word for word the adapter's answer|Not word for word the adapter's answer"))
    expect(verdict).to_be_visible()
    assert ("Not word for word" in verdict.inner_text()) == (merged != after)
    question = page.locator("strong", has_text=re.compile("^JSON: ")).inner_text()
    for heading in ("Before: the base", "After: with what it learnt", "Merged: the change inside the weights"):
        expect(page.get_by_text(heading)).to_be_visible()

    # A link reproduces the knobs; drawn answers name their seed, which repeats them.
    page.goto(f"{page.url}&chat-longest=32&chat-temperature=1.5&chat-seed=3")
    idle(page)
    expect(ask).to_have_attribute("placeholder", "Ask all three")
    answers = page.locator("[data-testid=stCode]")
    for asked in (1, 2):
        ask.fill(question)
        ask.press("Enter")
        expect(page.get_by_text(re.compile(r"^\d+ tokens?\b"))).to_have_count(
            3 * asked, timeout=ANSWER_SECONDS * SECONDS
        )
        idle(page)
        assert answers.count() == 3 * asked
    assert page.get_by_text("Temperature 1.5, seed 3").count() == 2
    drawn = said.all_text_contents()
    assert drawn[:3] == drawn[3:]
    assert not all(whole.startswith(start) for whole, start in zip(greedy, drawn[:3], strict=True))

    pictures(page, "chat-three-sides")
    # On a phone the answers stand below each other, as wide as the text.
    page.set_viewport_size({"width": 390, "height": 1600})
    still(page)
    boxes = [answers.nth(i).bounding_box() for i in (3, 4, 5)]
    assert all(box is not None and box["width"] > 300 for box in boxes), boxes
    assert [box["y"] for box in boxes if box] == sorted(box["y"] for box in boxes if box)
    assert page.locator("[data-testid=stMain]").evaluate("node => node.scrollWidth - node.clientWidth") <= 0
    page.set_viewport_size({"width": 1280, "height": 900})
    check(page)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a minute and a half on an idle machine, and machines that run tests are seldom that
def test_from_a_race_to_the_exported_script(server: Server, visitors: Visitors, tmp_path: Path, shoot: Shoot) -> None:
    gil = visitors.new(server)
    page = gil.tab("/race?methods=lora,dora")
    number(page, "steps-json", STEPS)
    press(page, "start-race")
    key(page, "stop-race").wait_for()
    key(page, "stop-race").wait_for(state="detached", timeout=RUN_SECONDS * SECONDS)
    idle(page)
    wait_for_text(page, "Your race")
    follow(page, "Open it")
    found = re.search(r"run=(\w+)", page.url)
    assert found is not None
    run = found[1]

    # Inside: how far each matrix moved.
    follow(page, "Look inside")
    measured(page, f"inside-{run}-spectrum-start")
    wait_for_text(page, "What the columns mean")
    follow(page, "Open the run")

    # Merged: kept in float32, it is a checkpoint that transformers loads.
    follow(page, "Ship it")
    assert "vLLM loads" in body(page)
    section(page, "Merge")
    choose(page, "merge-keep", "in float32")
    number(page, "merge-items", 2)
    measured(page, f"ship-{run}-merge-start")
    merged = unpacked(gil, page, "Download the merged model", tmp_path / "merged") / "merged"
    assert json.loads((merged / "config.json").read_text())["model_type"] == "llama"
    with safe_open(merged / "model.safetensors", framework="numpy") as file:
        assert "lora" not in " ".join(file.keys())

    # Two adapters on one base, switched.
    section(page, "Hot-swap")
    key(page, f"swap-others-{run}").locator("input").click()
    page.get_by_role("option").first.click()
    page.keyboard.press("Escape")
    idle(page)
    measured(page, f"ship-{run}-swap-start")
    check(page)

    # The other run is one that an engine refuses: its verdict leads to the fix.
    choose(page, "run", re.compile("DoRA"))
    section(page, "Will it load?")
    found = re.search(r"run=(\w+)", page.url)
    assert found is not None
    dora = found[1]
    assert dora != run
    assert re.search(r"vLLM does not load as it is", body(page))
    check(page)
    shoot(gil, f"/ship?run={dora}", "ship-load")
    press(page, f"load-{dora}-vLLM-convert")
    idle(page)
    number(page, "convert-rank", 8)
    number(page, "convert-most", 2)
    measured(page, f"ship-{dora}-convert-start")
    check(page)
    lora = unpacked(gil, page, "Download the LoRA of rank 8", tmp_path / "out") / "lora"
    assert (lora / "README.md").read_text().startswith("---")
    from core.base import describe_base
    from core.export.folder import read
    from core.export.loadable import LOADS, VLLM, worst
    from core.export.loadable import check as will_it_load

    assert worst(will_it_load(read(lora), describe_base("embedded")), VLLM) == LOADS

    # Everything of the first one, as its owner unpacks and runs it.
    page.goto(f"{server.url}/runs?run={run}")
    idle(page)
    follow(page, "Take it away")
    said = page.locator("[data-testid=stCode]").first.inner_text()
    (root,) = unpacked(gil, page, "Download the zip", tmp_path / "all").iterdir()
    assert f"cd {root.name}" in said
    assert "train.py" in said
    for line in (root / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest, name
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "train.py", "--log", "log"], cwd=root, env=offline, capture_output=True, text=True,
        timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with (root / "metrics.csv").open() as file:
        own = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    # A run in bfloat16, where the processor has it: 8 bits of each number, which cancel in the mean over the tokens.
    assert losses(root / "log") == pytest.approx(own, rel=0.02, abs=0.02)
    assert own[-1] < own[0]
    assert (root / "out" / "adapter_model.safetensors").is_file()

    # And talked to.
    page.goto(f"{server.url}/runs?run={run}")
    idle(page)
    talk_to_all_three(page)


def test_it_fits_a_phone(server: Server, visitors: Visitors, tmp_path: Path) -> None:
    hal = visitors.new(server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    hal.tab("/").close()
    store = Store(None, server.home)
    run = fill(store, hal.owner, RunConfig(), title="A LoRA with a name that is rather long for a telephone")
    run = with_adapter(store, run, adapter(EMBEDDED_FOLDER, tmp_path / "a", rank=4), "lora", {"rank": 4})
    for do in ("load", "merge", "convert", "latency", "swap", "card"):
        page = hal.tab(f"/ship?run={run.id}&do={do}")
        main = page.locator("[data-testid=stMain]")
        assert main.evaluate("node => node.scrollWidth - node.clientWidth") <= 0, do
        page.close()
    store.close()
