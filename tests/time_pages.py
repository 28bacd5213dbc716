"""How soon the page of a lesson is there after a click, and the verdict on a quiz's answer, in a real Chromium.

    python -m tests.time_pages                      # every lesson, every quiz
    python -m tests.time_pages 03_lora_rank         # some lessons
    python -m tests.time_pages --record             # every one, into tests/records/pages_cpu.json

The server is warm: it has drawn the lesson before. A page is usable when its title is there, its script has run to its
end and no widget's code is still being loaded; of a lesson that comes in parts, what it begins with. The verdict is
timed from the click on Check to its words. Each quiz is answered rightly and wrongly in turn, by somebody who has
answered none before. Seconds are of one machine, and the record names it, with its load.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import answers, index
from tests.browser.conftest import FLAGS, IDLE, MISSING, SECONDS, Server, free_port, idle, system_chromium
from tests.browser.test_journeys import key, press
from tests.time_calculators import machine

if TYPE_CHECKING:
    from playwright.sync_api import Page

RECORD = Path(__file__).with_name("records") / "pages_cpu.json"
COMMAND = "python -m tests.time_pages --record"
OPEN_SECONDS, ANSWER_MS = 2.0, 300
VISITS, ANSWERS = 5, 5
USABLE = f"{IDLE}:not(:has([data-testid=stSkeleton]))"
# The cell's own words, and nothing else on the page, must have changed.
WATCH = """(cell) => {
  const node = document.querySelector(`.st-key-${cell}`), was = node.innerText;
  window.took = null;
  window.began = null;
  document.addEventListener('click', () => { window.began = performance.now(); }, {capture: true, once: true});
  const look = new MutationObserver(() => {
    const now = document.querySelector(`.st-key-${cell}`);
    if (window.began && now && now.innerText !== was && /Right\\.|Not quite/.test(now.innerText)) {
      window.took = performance.now() - window.began; look.disconnect();
    }
  });
  look.observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def load_start(page: Page, server: Server) -> float:
    """Load the start page; returns the seconds that it took."""
    began = time.perf_counter()
    page.goto(server.url)
    page.locator("h1", has_text="Learn which delta").wait_for()
    page.wait_for_selector(IDLE)
    seconds = time.perf_counter() - began
    idle(page)
    return seconds


def follow_link(page: Page, lesson: index.Lesson) -> float:
    """Go to a lesson by its link on the start page; returns the seconds from the click until it was usable."""
    link = key(page, f"lesson-{lesson.url_path}").locator("a").first
    link.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    began = time.perf_counter()
    link.click()
    page.wait_for_url(re.compile(re.escape(lesson.url_path)))
    page.locator("h1", has_text=lesson.title).wait_for()
    page.wait_for_selector(USABLE)
    seconds = time.perf_counter() - began
    idle(page)
    return seconds


def verdict(page: Page, cell: str) -> float:
    """Press Check in a quiz that has its answer; returns the milliseconds from the click to the new verdict."""
    page.evaluate(WATCH, f"{cell}-cell")
    press(page, f"{cell}-check")
    page.wait_for_function("window.took !== null", timeout=20 * SECONDS)
    took = float(page.evaluate("window.took"))
    idle(page)
    return took


class Answering:
    """Gives a quiz an answer, as a person would: right, and wrong."""

    def __init__(self, page: Page, lesson: index.Lesson, cell: index.Cell) -> None:
        self.page, self.lesson, self.body = page, lesson, cell.body
        self.kind: str = cell.body.get("kind", "single")
        self.key = f"{lesson.url_path}-{cell.id}"
        self.answer = f".st-key-{self.key}-answer"
        count = len(cell.body.get("items", ()))
        self.order = answers.shuffled(count, cell.id) if self.kind == "ordering" else []
        self.dealt = answers.dealt(len(cell.body.get("choices", ())), cell.id)
        self.ticked: set[int] = set()

    def give(self, right: bool) -> None:
        """Choose, tick, type or sort."""
        if self.kind == "ordering":
            self._sort(list(range(len(self.order))) if right else [1, 0, *range(2, len(self.order))])
        elif self.kind == "numeric":
            wanted = answers.answer_value(self.body["answer"], self.lesson.folder)
            field = self.page.locator(f"{self.answer} input")
            field.fill(f"{wanted:.12g}" if right else f"{7 * wanted + 3:.12g}")
            field.press("Tab")
        else:
            rights = {i for i, choice in enumerate(self.body["choices"]) if choice.get("right")}
            wrong = next(i for i in self.dealt if i not in rights)
            self._choose(rights if right else {wrong})
        idle(self.page)

    def _choose(self, wanted: set[int]) -> None:
        if self.kind == "single":
            self.page.locator(f"{self.answer} label:has(input[type=radio])").nth(self.dealt.index(*wanted)).click()
            return
        for choice in wanted ^ self.ticked:
            self.page.locator(f"{self.answer}-{choice} label").first.click()
        self.ticked = set(wanted)

    def _sort(self, wanted: list[int]) -> None:
        """By the buttons that move an item up."""
        for place, item in enumerate(wanted):
            for at in range(self.order.index(item), place, -1):
                press(self.page, f"{self.key}-order-up-{at}")
                self.order[at - 1], self.order[at] = self.order[at], self.order[at - 1]
                idle(self.page)


def times(took: list[float], after: int = 0) -> dict[str, float]:
    """first, and median and worst of all from number `after` on."""
    return {"first": took[0], "median": statistics.median(took[after:]), "worst": max(took[after:])}


def timed(lesson: index.Lesson, page: Page, server: Server, visits: int) -> dict[str, Any]:
    """A lesson's record: seconds of its visits (the first drew it for the first time, and does not count), milliseconds
    of its quizzes (of each, the first makes the cell done)."""
    opened = []
    for _ in range(1 + visits):
        load_start(page, server)
        opened.append(follow_link(page, lesson))
    quizzes = {}
    for cell in lesson.cells:
        if cell.kind == "quiz":
            answering = Answering(page, lesson, cell)
            took = []
            for number in range(ANSWERS):
                answering.give(right=number % 2 == 0)
                took.append(verdict(page, answering.key))
            quizzes[cell.id] = {"kind": answering.kind, "ms": times(took)}
    return {"seconds": times(opened, after=1), "quizzes": quizzes}


def lines(name: str, row: dict[str, Any]) -> str:
    """One lesson, in words."""
    told = [f"{name:<40} {{median:6.2f}} s (worst {{worst:.2f}}, first {{first:.2f}})".format(**row["seconds"])]
    for cell, quiz in row["quizzes"].items():
        what = f"    {cell}, {quiz['kind']}"
        told.append(f"{what:<40} {{median:5.0f}} ms (worst {{worst:.0f}}, first {{first:.0f}})".format(**quiz["ms"]))
    return "\n".join(told)


def main(given: list[str] | None = None) -> int:
    """Open the lessons, answer their quizzes, print what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.time_pages", description=main.__doc__)
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="the folder's name; none: all of them")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(Path(__file__).parents[1])}")
    parser.add_argument("--visits", type=int, default=VISITS, help="of each lesson, after the first")
    asked = parser.parse_args(given)
    known = {lesson.slug: lesson for lesson in index.lessons()}
    if unknown := sorted(set(asked.lessons) - set(known)):
        parser.error(f"there is no lesson {', '.join(unknown)}")
    if asked.record and (asked.lessons or asked.visits != VISITS):
        parser.error("--record takes every lesson, with the usual number of visits")
    chromium = system_chromium()
    if chromium is None:
        parser.error(MISSING)
    from playwright.sync_api import sync_playwright

    before, rows = machine(), {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder) / "home", free_port(), Path(folder) / "log.txt")
        server.start()
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
            page.set_default_timeout(60 * SECONDS)
            for name in asked.lessons or known:
                rows[name] = timed(known[name], page, server, asked.visits)
                print(lines(name, rows[name]), flush=True)
        finally:
            browser.close()
            server.stop()
    if asked.record:
        content = {
            "what": "the pages of the lessons in a Chromium", "command": COMMAND, "date": time.strftime("%Y-%m-%d"),
            "visits": VISITS, "answers": ANSWERS, **before, "lessons": rows,
        }  # fmt: skip
        RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
