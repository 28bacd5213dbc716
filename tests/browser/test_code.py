"""Code cells and exercises in a real browser: type, run, break, stop, check, solve; and what a reload brings back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import SECONDS, Server, Shoot, Visitors, free_port, idle
from tests.browser.test_accessibility import check

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LESSONS = Path(__file__).with_name("lessons")
START_SECONDS = 60  # a kernel starts in two on an idle machine


@pytest.fixture(scope="module")
def code_server(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose only lesson has a code cell and an exercise."""
    folder = tmp_path_factory.mktemp("code")
    running = Server(folder / "home", free_port(), folder / "log.txt", warm=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELTALAB_LESSONS", str(LESSONS))
        patch.delenv("DELTALAB_CODE", raising=False)
        running.start()
    yield running
    running.stop()


class Box:
    """A cell with an editor, as its learner sees it."""

    def __init__(self, page: Page, cell: str) -> None:
        self.page = page
        self.frame: Locator = page.locator(f".st-key-code-{cell}-cell")
        self.text = self.frame.locator(".cm-content")
        self.status = self.frame.locator(".status")
        self.spoken = self.frame.locator("[role=status]")

    def write(self, code: str) -> None:
        """Replace everything, as somebody would: select all, type."""
        self.text.click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(code)

    def run(self) -> None:
        self.page.keyboard.press("Control+Enter")

    def press(self, name: str) -> None:
        self.frame.get_by_role("button", name=name).click()

    def says(self, text: str, seconds: float = START_SECONDS) -> None:
        expect(self.frame).to_contain_text(text, timeout=seconds * SECONDS)


def test_code_is_edited_run_broken_stopped_and_solved(code_server: Server, visitors: Visitors, shoot: Shoot) -> None:
    visitor = visitors.new(code_server)
    page = visitor.tab("/code")
    cell = Box(page, "thin")
    expect(cell.text).to_contain_text("pair_parameters")
    cell.text.click()
    cell.run()
    cell.says("rank 64: 128,000")
    expect(cell.spoken).to_contain_text("Output: rank")

    # An error is told with its line, there and in the editor.
    cell.write("x = 1\ny = x / 0\n")
    expect(cell.frame).to_contain_text("The code has been changed since", timeout=10 * SECONDS)
    cell.run()
    cell.says("ZeroDivisionError in line 2")
    expect(cell.frame.locator(".cm-wrong")).to_have_text("y = x / 0")
    expect(cell.spoken).to_contain_text("ZeroDivisionError in line 2")
    expect(cell.frame).not_to_contain_text("128,000")

    # The kernel is the learner's own, and keeps what cells define.
    cell.write("while True:\n    x += 1\n")
    cell.run()
    expect(cell.status).to_contain_text("Running")
    cell.press("Stop")
    cell.says("Stopped. What was defined before is still there.")

    # Tab indents, and Esc and Tab leave.
    cell.text.click()
    page.keyboard.press("Control+End")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.shadowRoot?.activeElement?.className || ''").startswith("cm-content")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    focused = page.evaluate("(document.activeElement.shadowRoot?.activeElement || document.activeElement).textContent")
    assert focused == "Run"

    exercise = Box(page, "count-them")
    expect(exercise.frame).to_contain_text("once you have checked something of your own")
    exercise.press("Check")
    exercise.says("It returns nothing yet.")
    expect(exercise.frame.get_by_role("button", name="Show the solution")).to_have_count(0)
    exercise.press("Hint 1 of 2")
    exercise.says("How many numbers has")
    exercise.write("def count(d, k, r):\n    return d * k\n")
    exercise.run()
    exercise.says("That is the size of W_0")
    expect(exercise.frame.get_by_role("button", name="Show the solution")).to_have_count(1)
    exercise.write("def count(d, k, r):\n    return r * (d + k)\n")
    exercise.run()
    exercise.says("Right.")
    exercise.says("One multiplication is enough.")
    expect(page.get_by_text("Lesson complete")).to_have_count(1)

    # Everything is there again after a reload.
    page.reload()
    idle(page)
    expect(exercise.text).to_contain_text("return r * (d + k)")
    exercise.says("B has d times r numbers and A has r times k.")
    expect(cell.frame).to_contain_text("Stopped. What was defined before is still there.")
    # "/" leads to the search from everywhere, but not out of a text.
    cell.text.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("x / 2")
    expect(cell.text).to_contain_text("x / 2")
    assert page.url.endswith("/code")
    cell.press("Back to the original")
    expect(cell.text).to_contain_text("pair_parameters")
    check(page)
    shoot(visitor, "/code", "code")
    shoot(visitor, "/code?view=summary", "code-summary")


def test_where_others_can_come_code_is_to_be_read(
    chromium: str, visitors: Visitors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTALAB_LESSONS", str(LESSONS))
    monkeypatch.setenv("DELTALAB_CODE", "off")
    server = Server(tmp_path / "home", free_port(), tmp_path / "log.txt", warm=False)
    server.start()
    try:
        page = visitors.new(server).tab("/code")
        expect(page.locator(".cm-content")).to_have_count(0)
        expect(page.get_by_text("Running code is switched off on this server")).to_have_count(2)
        page.get_by_role("button", name="show the solution").click()
        page.get_by_text("return r * (d + k)").wait_for()
        expect(page.get_by_text("Lesson complete")).to_have_count(1)
    finally:
        server.stop()
