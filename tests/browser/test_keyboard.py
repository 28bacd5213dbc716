"""Lesson 3 without a mouse: everything in it is reached by Tab, can be used, and lets one go on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from app import index
from tests.browser.conftest import Server, Visitors, idle
from tests.browser.test_journeys import body, key

if TYPE_CHECKING:
    from playwright.sync_api import Page

LESSON = next(lesson for lesson in index.lessons() if lesson.slug == "03_lora_rank")
MOST_STOPS = 600
# The element in focus, inside components too: the cell that it is in, what it is, whether one sees it and where it is.
FOCUS = """() => {
  let at = document.activeElement
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
  if (!at || at === document.body) return null
  let node = at, cell = ""
  while (node) {
    const found = /st-key-(\\S+)-cell(?:\\s|$)/.exec(node.className?.baseVal ?? node.className ?? "")
    if (found) { cell = found[1]; break }
    node = node.parentElement ?? node.getRootNode().host
  }
  const box = at.getBoundingClientRect()
  return {
    cell, tag: at.tagName, type: at.type ?? "", editor: at.classList?.contains("cm-content") ?? false,
    words: (at.innerText || at.getAttribute("aria-label") || at.closest("label")?.innerText || "").trim().slice(0, 60),
    seen: box.width > 0 && box.height > 0 || at.type === "radio" || at.type === "checkbox" || at.type === "range",
  }
}"""


def stops(page: Page, to: str = "") -> list[dict[str, object]]:
    """Press Tab until something in the cell `to` has the focus (to the end of the page, without any); what was on the
    way. Out of an editor, where Tab indents, one goes by Escape and Tab."""
    found: list[dict[str, object]] = []
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at is None:
            return found
        found.append(at)
        if to and at["cell"] == to:
            return found
        if at["editor"]:
            page.keyboard.press("Escape")
    raise AssertionError(f"{MOST_STOPS} stops, and no way to {to or 'the end'}: {found[-3:]}")


def until(page: Page, words: str) -> None:
    """Go on by Tab to the control of that name."""
    for _ in range(40):
        at = page.evaluate(FOCUS)
        if at is not None and re.search(words, at["words"]):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{words} is not reached by Tab")


def test_lesson_three_by_keyboard_alone(server: Server, visitors: Visitors) -> None:
    page = visitors.new(server).tab(f"/{LESSON.url_path}")
    name = LESSON.url_path

    # Everything that can be done is reached, in the order of the page, and what has the focus is in sight.
    way = stops(page)
    assert all(at["seen"] for at in way), [at for at in way if not at["seen"]]
    cells = list(dict.fromkeys(str(at["cell"]) for at in way if at["cell"]))
    assert cells == [f"{name}-{cell.id}" for cell in LESSON.cells if f"{name}-{cell.id}" in cells]
    wanted = {f"{name}-{c.id}" for c in LESSON.cells if c.kind in ("quiz", "predict", "experiment", "compare", "code")}
    assert wanted <= set(cells), wanted - set(cells)

    # A question is answered.
    page.reload()
    idle(page)
    quiz = next(c for c in LESSON.cells if c.kind == "quiz" and c.body.get("kind", "single") == "single")
    stops(page, f"{name}-{quiz.id}")
    while page.evaluate(FOCUS)["type"] != "radio":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    idle(page)
    until(page, "Check")
    page.keyboard.press("Enter")
    key(page, f"{name}-{quiz.id}-cell").get_by_text(re.compile(r"Right\.|Not quite")).first.wait_for()
    idle(page)

    # A prediction is made.
    predict = next(c for c in LESSON.cells if c.kind == "predict")
    stops(page, f"{name}-{predict.id}")
    until(page, "Commit")
    page.keyboard.press("Enter")
    key(page, f"{name}-{predict.id}-cell").get_by_text("You committed to").wait_for()
    assert "2 of" in body(page)
