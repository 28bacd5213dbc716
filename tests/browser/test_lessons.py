"""Every lesson in the browser: soon there after a click, nothing that axe minds, no sideways scrolling on a phone."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from app import index
from app.cells import parts
from tests.browser.conftest import Server, Visitors, idle
from tests.browser.test_accessibility import check
from tests.browser.test_journeys import key
from tests.time_pages import ANSWER_MS, ANSWERS, OPEN_SECONDS, Answering, follow_link, load_start, verdict

if TYPE_CHECKING:
    from playwright.sync_api import Page

LESSONS = index.lessons()
QUIZZES = [(lesson, cell) for lesson in LESSONS for cell in lesson.cells if cell.kind == "quiz"]
KINDS = ("single", "multiple", "numeric", "ordering")
# The aims, on an idle machine of two cores, for a lesson that was drawn before. On a slower or busy one everything
# takes longer, and so does loading the start page, a moment before in the same browser. There, and for the first time
# that a lesson is drawn, it may take a share of that for each of its cells: 0.11 and 0.13 were measured on a machine
# with a load of six (lessons 11 and 6), and 0.4 times the start page for an answer.
OPEN_SHARE, ANSWER_TIMES = 0.2, 1.0


def kind_of(quiz: tuple[index.Lesson, index.Cell]) -> str:
    return str(quiz[1].body.get("kind", "single"))


@pytest.fixture(scope="module")
def home(server: Server, browser: object) -> Iterator[Page]:
    """One visitor for all lessons."""
    visitors = Visitors(browser)  # type: ignore[arg-type]
    visitor = visitors.new(server)
    yield visitor.tab()
    visitor.context.close()
    assert visitor.troubles == []


def opened(page: Page, lesson: index.Lesson, server: Server) -> bool:
    """Go to a lesson by its link on the start page; whether it was there soon enough."""
    loaded = load_start(page, server)
    seconds = follow_link(page, lesson)
    print(f"{lesson.slug}: {seconds:.2f} s from click to the whole page; the start page was loaded in {loaded:.2f} s")
    return seconds <= max(OPEN_SECONDS, OPEN_SHARE * len(lesson.cells) * loaded)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_a_lesson_opens_is_accessible_and_fits_a_phone(lesson: index.Lesson, home: Page, server: Server) -> None:
    page = home
    # Other work of the machine only ever adds to the time: the quickest of three counts.
    assert any(opened(page, lesson, server) for _ in range(3))

    page.set_viewport_size({"width": 390, "height": 844})
    idle(page)
    page.wait_for_timeout(300)
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= seen
    main = page.locator("[data-testid=stMain]")
    assert main.evaluate("node => node.scrollWidth - node.clientWidth") <= 0
    page.set_viewport_size({"width": 1280, "height": 900})
    check(page)


@pytest.mark.alone
@pytest.mark.parametrize("quiz", [next(one for one in QUIZZES if kind_of(one) == kind) for kind in KINDS], ids=KINDS)
def test_the_answer_to_a_quiz_comes_at_once(
    quiz: tuple[index.Lesson, index.Cell], server: Server, visitors: Visitors
) -> None:
    """From the click on Check to the verdict, right and wrong in turn."""
    lesson, cell = quiz
    page = visitors.new(server).tab()
    loaded = load_start(page, server)
    page.goto(f"{server.url}/{lesson.url_path}")
    idle(page)
    answering = Answering(page, lesson, cell)
    took = []
    for number in range(ANSWERS):
        right = number % 2 == 0
        answering.give(right=right)
        took.append(verdict(page, answering.key))
        expect(key(page, f"{answering.key}-cell").get_by_text("Right." if right else "Not quite").first).to_be_visible()
    median = statistics.median(took)
    print(f"from Check to the verdict: median {median:.0f} ms of {ANSWERS}; the start page in {loaded:.2f} s")
    assert median <= max(ANSWER_MS, 1000 * ANSWER_TIMES * loaded)


def test_a_long_lesson_comes_in_parts_and_a_link_finds_its_cell(server: Server, visitors: Visitors) -> None:
    lesson = max(LESSONS, key=lambda one: len(parts.split(one.cells)))
    late = parts.split(lesson.cells)[-3].ids[-1]
    page = visitors.new(server).tab(f"/{lesson.url_path}#{late}", wait=False)
    page.locator("h1", has_text=lesson.title).wait_for()
    page.wait_for_function(f"document.activeElement.id === '{late}'")  # before the parts above it were asked for
    assert page.locator("[class*=-waiting]").count() > 0
    idle(page)  # all parts have come by themselves
    ids = [cell.id for cell in lesson.cells if cell.number]
    assert page.evaluate("ids => ids.filter(id => !document.getElementById(id))", ids) == []
    page.wait_for_timeout(500)
    top = page.evaluate(f"document.getElementById('{late}').getBoundingClientRect().top")
    assert -200 < top < 900, "what came above has pushed the cell out of sight"


def test_the_summary_has_an_address_and_fits_on_one_page(server: Server, visitors: Visitors) -> None:
    lesson = next(one for one in LESSONS if one.order == 3)  # the one with most to print
    page = visitors.new(server).tab(f"/{lesson.url_path}")
    page.locator(".st-key-take-along").get_by_role("link").click()
    page.locator(".st-key-summary-sheet").wait_for()
    page.wait_for_url("**?view=summary", wait_until="commit")
    idle(page)
    page.locator(".st-key-summary-sheet .stTable").wait_for()
    for paper in ("A4", "Letter"):
        pages = re.findall(rb"/Type\s*/Page[^s]", page.pdf(format=paper))
        assert len(pages) == 1, paper
    page.locator(".st-key-summary-bar").get_by_role("link").click()
    page.locator(".st-key-take-along").wait_for()
    page.wait_for_url(f"**/{lesson.url_path}", wait_until="commit")
    page.go_back()
    page.locator(".st-key-summary-sheet").wait_for()
