"""The calculators as a visitor walks them: an answer that moves with the slider, on a desk and on a phone."""

from __future__ import annotations

import re
import statistics

import pytest

from tests.browser.conftest import Server, Visitors, idle
from tests.browser.test_accessibility import check
from tests.browser.test_journeys import key, wait_for_text
from tests.time_calculators import PATH, SLIDER, WATCH

UPDATES = 7
# The aim is 300 ms on an idle machine of two cores (measured there: 194 to 306); the bound leaves room for slower ones.
MEDIAN_MS = 500


@pytest.mark.alone
def test_the_vram_calculator(server: Server, visitors: Visitors) -> None:
    page = visitors.new(server).tab(PATH)
    wait_for_text(page, re.compile("This step does not fit on RTX 4090"))
    milliseconds = []
    for number in range(UPDATES):
        page.evaluate(WATCH)
        page.locator(SLIDER).first.press("ArrowRight" if number % 2 == 0 else "ArrowLeft")
        page.wait_for_function("window.took !== null")
        milliseconds.append(page.evaluate("window.took"))
        idle(page)
    median = statistics.median(milliseconds)
    print(f"from key to the new verdict: median {median:.0f} ms of {UPDATES}")
    assert median <= MEDIAN_MS
    check(page)
    before = page.url
    assert "batch=6" in before
    key(page, "vram-use-0").locator("button").click()
    wait_for_text(page, re.compile("This step fits on RTX 4090"))
    assert page.url != before


def test_the_calculators_fit_a_phone(server: Server, visitors: Visitors) -> None:
    someone = visitors.new(server, viewport={"width": 390, "height": 844})
    for path, says in ((PATH, "This step does not fit"), ("/parameters", "LoRA trains 20,971,520")):
        page = someone.tab(path)
        wait_for_text(page, re.compile(says))
        wide, seen = page.evaluate("[document.scrollingElement.scrollWidth, window.innerWidth]")
        assert wide <= seen
        page.close()


def test_a_link_to_a_model_that_must_be_traced_first_keeps_its_choices(server: Server, visitors: Visitors) -> None:
    """The page is drawn again at once, and again and again, before the browser has answered: nothing may be lost."""
    page = visitors.new(server).tab("/vram?model=embedded&method=bitfit&card=cpu&batch=32&length=128", wait=False)
    wait_for_text(page, re.compile("The embedded base, BitFit: "))
    for part in ("model=embedded", "method=bitfit", "card=cpu", "batch=32", "length=128"):
        assert part in page.url
