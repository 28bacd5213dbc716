"""The course around the lessons, in a real browser: a word's meaning, search, drill, language, the clock, a class."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.conftest import SECONDS, Server, Visitors, idle
from tests.browser.test_accessibility import check
from tests.browser.test_journeys import key


def test_search_leads_to_the_place_by_keyboard_alone(server: Server, visitors: Visitors) -> None:
    page = visitors.new(server).tab("/runs")
    page.keyboard.press("/")
    page.wait_for_url("**/search*")
    idle(page)
    field = page.get_by_label("What are you looking for?")
    field.fill("how many numbers does LoRA train")
    field.press("Enter")
    page.get_by_role("link", name="How many numbers does LoRA train?").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/start-here?at=count*")
    idle(page)
    page.wait_for_function("document.activeElement.id === 'count'")
    top = page.evaluate("document.getElementById('count').getBoundingClientRect().top")
    assert 0 <= top < 300
    check(page, "dark")


def test_a_choice_outlives_a_change_of_language(server: Server, visitors: Visitors) -> None:
    """A widget remembers its choice by words that are no option in another language."""
    page = visitors.new(server).tab("/parameters")
    key(page, "parameters-matrix").locator("input").click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**matrix=1**")
    idle(page)
    page.get_by_text("Deutsch", exact=True).click()
    page.wait_for_url("**lang=de**")
    page.locator("h1", has_text="Parameterrechner").wait_for()
    idle(page)
    assert "matrix=1" in page.url
    chosen = key(page, "parameters-matrix").locator("input").input_value()
    assert chosen.startswith("k_proj"), chosen


def test_a_missed_question_comes_back_in_german_on_a_phone(server: Server, visitors: Visitors) -> None:
    phone = visitors.new(server, viewport={"width": 412, "height": 839}, has_touch=True)
    page = phone.tab("/drill?topic=lora&lang=de")
    expect(page.locator("html")).to_have_attribute("lang", "de", timeout=20 * SECONDS)
    page.get_by_label("Deine Antwort").fill("8000")
    page.get_by_role("button", name="Prüfen").click()
    page.get_by_text("one of the two matrices").wait_for()
    page.get_by_role("link", name="Verfehltes wiederholen").click()
    page.wait_for_url("**/review*lang=de*")
    page.get_by_text("Frage wartet").wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 412
    page.get_by_text("English", exact=True).click()
    page.get_by_text("1 question waits").wait_for()
    assert "lang" not in page.url
    page.reload()
    idle(page)
    page.get_by_text("1 question waits").wait_for()


def test_cells_are_folded_and_unfolded_each_by_itself(server: Server, visitors: Visitors) -> None:
    page = visitors.new(server).tab("/start-here")
    bodies = [key(page, f"start-here-{cell}-body") for cell in ("count", "count-them")]
    folds = [key(page, f"start-here-{cell}-fold").locator("button") for cell in ("count", "count-them")]
    for fold, body in zip(folds, bodies, strict=True):
        fold.click()
        body.wait_for(state="hidden")
    assert bodies[0].is_hidden(), "folding the second has opened the first"
    folds[0].click()
    bodies[0].wait_for(state="visible")
    assert bodies[1].is_hidden()
