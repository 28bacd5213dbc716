"""The quantization page as a visitor walks it: sliders, a measurement of the embedded base, a matrix of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from playwright.sync_api import expect

from tests.browser.conftest import Server, Shoot, Visitors, idle
from tests.browser.test_accessibility import check
from tests.browser.test_journeys import body, key, press, wait_for_text

PATH = "/quantization"
MEASURE_SECONDS = 300


def test_the_quantization_lab(server: Server, visitors: Visitors, tmp_path: Path, shoot: Shoot) -> None:
    quin = visitors.new(server)
    page = quin.tab(PATH)
    wait_for_text(page, re.compile("NF4: 16 levels"))

    # A slider answers at once, and the link brings it back.
    key(page, "bits").get_by_text("3", exact=True).click()
    wait_for_text(page, re.compile("NF3: 8 levels"))
    page.locator(".st-key-block input").press("ArrowRight")
    wait_for_text(page, "4.25")
    assert "block=128" in page.url
    again = quin.tab(page.url.removeprefix(server.url))
    wait_for_text(again, re.compile("NF3: 8 levels"))
    assert "4.25" in body(again)
    again.close()

    # Both measurements, with the block size that is chosen; moving it marks what was measured as old.
    press(page, "all-quantization-start")
    wait_for_text(page, re.compile(r"errs most, \d+\.\d"), MEASURE_SECONDS)
    key(page, "items").locator("input").fill("2")
    key(page, "items").locator("input").press("Enter")
    idle(page)
    press(page, "layers-quantized_layers-start")
    wait_for_text(page, re.compile(r"Four bits \(NF4\) add"), MEASURE_SECONDS)
    key(page, "group").get_by_text("Each layer").click()
    wait_for_text(page, re.compile(r"Layer \d suffers most"))
    check(page)
    shoot(quin, page.url.removeprefix(server.url), "quantization-measured")
    page.locator(".st-key-block input").press("ArrowRight")
    wait_for_text(page, re.compile("measured with other settings"))

    # A matrix of one's own; then something that is none.
    key(page, "source").get_by_text("My matrix").click()
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((64, 64)))
    page.locator(".st-key-matrix-file input[type=file]").set_input_files(str(tmp_path / "mine.npy"))
    expect(key(page, "matrix").locator("input")).to_have_value("mine, 64 × 64")
    (tmp_path / "words.csv").write_text("one,two\n1,2\n", encoding="utf-8")
    page.locator(".st-key-matrix-file input[type=file]").set_input_files(str(tmp_path / "words.csv"))
    wait_for_text(page, re.compile("Line 1 of words.csv holds something that is not a number"))
    expect(page.locator("[data-testid=stException]")).to_have_count(0)


def test_the_page_fits_a_phone(server: Server, visitors: Visitors) -> None:
    page = visitors.new(server, viewport={"width": 390, "height": 844}).tab(PATH)
    wait_for_text(page, re.compile("NF4: 16 levels"))
    wide, seen = page.evaluate("[document.scrollingElement.scrollWidth, window.innerWidth]")
    assert wide <= seen
