"""As a new user: answer the guide, follow its link into the experiment, change a fact, ask again, see the source."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import SECONDS, Server, Shoot, Visitors, idle
from tests.browser.test_journeys import body, choose, key, press


def test_from_the_guide_to_a_changed_fact_and_its_source(
    server: Server,
    visitors: Visitors,
    shoot: Shoot,
) -> None:
    ivy = visitors.new(server)
    page = ivy.tab("/guide")
    choose(page, "knowledge", "More than fits into a prompt")
    choose(page, "changes", "Daily, or at any moment")
    expect(page.get_by_role("heading", name="Retrieval (RAG)")).to_be_visible()
    assert "knowledge=many" in page.url
    assert "A changed row is served at once" in body(page)
    shoot(ivy, "/guide?knowledge=many&changes=daily", "guide")

    page.get_by_role("link", name=re.compile("The experiment behind these figures")).click()
    expect(page.get_by_role("heading", name="Change a fact, and ask again")).to_be_visible()
    idle(page)
    before = key(page, "change-row").locator("xpath=ancestor::*[@data-testid='stHorizontalBlock'][1]").inner_text()
    press(page, "change-row")
    expect(page.get_by_text("Indexed again in")).to_be_visible()
    row = page.locator("[data-testid=stCode]").first.inner_text()
    assert row.strip()
    assert row.strip() not in before
    press(page, "ask")
    page.get_by_text("Retrieved in").wait_for(timeout=120 * SECONDS)
    idle(page)
    answers = page.locator("[data-testid=stCode]").all_inner_texts()
    assert answers[1].strip() in row, "what the base read is the row as it is now"
    assert re.search(r"The words stand in passage 1 \(about [A-Z]\w+ \w+\)\.", body(page))
    assert re.search(r"\[1\] people\.csv, row \d+", body(page))
    shoot(ivy, "/rag", "rag")


def test_the_guides_links_open_the_tools_with_its_choices(server: Server, visitors: Visitors) -> None:
    """None of which is a default there: the card and the method of the calculator, the task of the Playground."""
    kim = visitors.new(server)
    guide = "/guide?tone=strong&data=hundreds&hardware=gpu48&model=large"
    page = kim.tab(guide)
    page.get_by_role("link", name="Its memory, term by term").click()
    expect(page.get_by_role("heading", name="VRAM calculator")).to_be_visible()
    idle(page)
    for name, shown in (("vram-card", "RTX A6000"), ("vram-model", "Qwen3-14B"), ("vram-method", "LoRA")):
        expect(key(page, name).locator("input")).to_have_value(re.compile(shown))
    page.close()
    page = kim.tab(guide)
    page.get_by_role("link", name="Try the recipe in the Playground").click()
    expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    idle(page)
    assert "task=persona" in page.url
    expect(key(page, "task").get_by_role("radio", checked=True)).to_have_count(1)


def test_it_fits_a_phone(server: Server, visitors: Visitors) -> None:
    jo = visitors.new(server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for path in ("/guide?knowledge=none&sources=must&format=strict&data=hundreds", "/rag?passages=3"):
        page = jo.tab(path)
        main = page.locator("[data-testid=stMain]")
        assert main.evaluate("node => node.scrollWidth - node.clientWidth") <= 0, path
        page.close()
