"""The chat in a real browser: three sides at once, stopped and asked again, legible on a phone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from core.config import RunConfig
from core.runs.store import Store
from tests.app.filling import fill
from tests.browser.conftest import SCREENSHOTS, SECONDS, SHOOTING, Server, Visitors, idle, still
from tests.browser.test_accessibility import check

if TYPE_CHECKING:
    from playwright.sync_api import Page

ANSWER_SECONDS = 120  # the first answer waits for the process and the model


def adapter(folder: Path) -> None:
    """A small change of the embedded base that nobody trained: it answers nearly as the base does."""
    import torch

    from core.base import load_base
    from core.methods import METHODS, attach

    attached = attach(load_base("embedded").model, "lora", METHODS["lora"].Config())
    torch.manual_seed(0)
    for layer in attached.layers.values():  # type: ignore[attr-defined]
        layer.lora_B.weight.data.normal_(std=0.05)
    shutil.rmtree(folder)
    attached.save(folder)


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


def test_three_sides(server: Server, visitors: Visitors) -> None:
    ann = visitors.new(server)
    ann.tab("/").close()
    store = Store(None, server.home)
    run = fill(store, ann.owner, RunConfig(), title="Chatty")
    store.close()
    adapter(run.folder / "adapter")

    page = ann.tab(f"/runs?run={run.id}&chat-longest=192")
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
    expect(page.get_by_text("Word for word the adapter's answer.")).to_be_visible()
    for heading in ("Before: the base", "After: with what it learnt", "Merged: the change inside the weights"):
        expect(page.get_by_text(heading)).to_be_visible()

    # A link reproduces the knobs; drawn answers name their seed.
    page.goto(f"{page.url}&chat-temperature=1.5&chat-seed=3")
    idle(page)
    expect(ask).to_have_attribute("placeholder", "Ask all three")
    ask.fill("Who lives in Lyon?")
    ask.press("Enter")
    answers = page.locator("[data-testid=stCode]")
    expect(facts).to_have_count(3, timeout=ANSWER_SECONDS * SECONDS)
    idle(page)
    assert answers.count() == 3
    ask.fill("Who is the baker?")
    ask.press("Enter")
    expect(facts).to_have_count(6, timeout=ANSWER_SECONDS * SECONDS)
    idle(page)
    assert answers.count() == 6
    assert page.get_by_text("Temperature 1.5, seed 3").count() == 2

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
