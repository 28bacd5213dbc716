"""What a person does, in a real browser: the first lesson from end to end, the playground, and what may go wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from core.config import RunConfig
from core.runs.store import Store
from tests.app.filling import Hand, events
from tests.browser.conftest import SECONDS, Server, Shoot, Visitors, idle
from tests.browser.test_accessibility import check

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LESSON = "/start-here"
CELL = "start-here-json-lora"
FIRST_POINT_SECONDS = 180  # 2 s on an idle machine; a machine that runs tests may be anything but idle
RUN_SECONDS = 300


def key(page: Page, name: str) -> Locator:
    """The widget or container with that Streamlit key."""
    return page.locator(f".st-key-{name}")


def press(page: Page, name: str) -> None:
    """Press the button with that key. (Streamlit makes a second, hidden one of a button with a tooltip.)"""
    key(page, name).locator("button:visible").click()


def choose(page: Page, name: str, option: str | re.Pattern[str]) -> None:
    """Choose the option of a select box that is called so."""
    key(page, name).get_by_role("combobox").click()
    page.get_by_role("option", name=option).click()
    idle(page)


def body(page: Page) -> str:
    """All the text in sight."""
    return page.locator("[data-testid=stMain]").inner_text()


def wait_for_text(page: Page, text: str | re.Pattern[str], seconds: float = 30) -> None:
    page.get_by_text(text).first.wait_for(timeout=seconds * SECONDS)


def wait_for_step(page: Page, at_least: int = 1, seconds: float = FIRST_POINT_SECONDS) -> int:
    """Wait until the live view tells of a step; returns it."""
    for _ in range(int(seconds * 5)):
        found = re.search(r"Step (\d+) of", page.locator(".status").first.text_content() or "")
        if found and int(found[1]) >= at_least:
            return int(found[1])
        page.wait_for_timeout(200)
    raise AssertionError(f"no step {at_least} within {seconds} s; the page says: {body(page)[-2000:]}")


def start_run(page: Page) -> str:
    """Press Run in the first lesson and wait for the first point; returns the run's id."""
    with page.expect_request(lambda r: "/api/runs/" in r.url, timeout=FIRST_POINT_SECONDS * SECONDS) as asked:
        press(page, f"{CELL}-run")
    found = re.search(r"/api/runs/([^/]+)/events", asked.value.url)
    assert found is not None
    wait_for_step(page)
    return found[1]


def numbers(page: Page, series: str) -> list[float]:
    """First and last value of a series, from the live view's legend: 'training 5.10 → 0.12' -> [5.1, 0.12]."""
    text = page.locator(".legend li", has_text=series).first.locator("b").text_content() or ""
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]


def test_the_first_lesson_from_end_to_end(server: Server, visitors: Visitors, shoot: Shoot) -> None:
    ann = visitors.new(server)
    page = ann.tab(LESSON)

    # The recorded run is there before anything was pressed, and is called so.
    wait_for_text(page, re.compile("Recorded"))
    assert "Your run," not in body(page)

    for guess in ("task-after", "skills-after"):
        press(page, f"start-here-{guess}-commit")
        idle(page)
    assert body(page).count("You committed to") == 2

    run = start_run(page)
    assert key(page, f"{CELL}-run").locator("button").is_disabled()

    # The curve moves in place: the node that was there at the first point is there many points later.
    page.locator(".charts svg").first.evaluate("node => { node.deltalabMark = true }")
    seen = wait_for_step(page)
    wait_for_step(page, seen + 5)
    assert page.locator(".charts svg").first.evaluate("node => node.deltalabMark === true")

    # Reload in the middle: the same run, further on.
    page.reload()
    idle(page)
    after_reload = wait_for_step(page, seen + 5)

    # A second tab of the same person sees it; another person neither reads it nor finds it listed.
    second = ann.tab(LESSON)
    assert wait_for_step(second) >= after_reload
    second.close()
    ben = visitors.new(server)
    other = ben.tab("/runs")
    assert "Nothing here yet" in body(other)
    address = f"{server.url}/api/runs/{run}/events"
    assert ben.context.request.get(address).status == 404
    assert ben.context.request.get(f"{server.url}/api/runs/{run}/adapter.zip").status == 404
    assert ann.context.request.get(address).status == 200

    # To its end: the loss fell, the skill rose, the predictions are answered, and it is said in words.
    wait_for_text(page, "What happened", RUN_SECONDS)
    idle(page)
    first, last = numbers(page, "training")
    assert last < first / 5
    before, after = numbers(page, "JSON")
    assert before <= 5
    assert after >= 90
    text = body(page)
    assert text.count("your run measured") == 2
    assert "The task." in text
    assert "Old skills." in text

    # The same words to both: the base does not know the format, the tuned model does.
    asked = key(page, f"{CELL}-chat-suggestions").locator("button").first
    asked.scroll_into_view_if_needed()
    asked.click()
    answers = key(page, f"{CELL}-cell").locator("[data-testid=stCode]")
    wanted = page.get_by_text(re.compile("^Wanted: ")).last
    wanted.wait_for(timeout=60 * SECONDS)
    page.get_by_text("Answering").wait_for(state="detached", timeout=120 * SECONDS)
    idle(page, 120)
    told = [answers.nth(i).inner_text().strip() for i in range(answers.count())][-2:]
    assert json.loads(told[1]).keys() == {"name", "city", "job", "pet"}
    assert told[0] != told[1]
    check(page)
    shoot(ann, LESSON, "lesson0-finished")
    shoot(ann, "/", "home")
    shoot(ann, "/runs", "runs")

    # The result is listed, and the adapter can be taken away.
    listed = ann.tab("/runs")
    assert "Teach it JSON" in body(listed)
    press(listed, f"open-{run}")
    wait_for_text(listed, "What happened")
    check(listed)
    adapter = ann.context.request.get(f"{server.url}/api/runs/{run}/adapter.zip")
    assert adapter.status == 200
    assert adapter.body()[:2] == b"PK"


def test_cancel(server: Server, visitors: Visitors) -> None:
    page = visitors.new(server).tab(f"{LESSON}?{CELL}-lora-json-steps=500")
    start_run(page)
    press(page, f"{CELL}-own-cancel")
    wait_for_text(page, re.compile("Cancelled after step"), 30)
    idle(page)
    assert key(page, f"{CELL}-own-resume").is_visible()
    assert key(page, f"{CELL}-run").locator("button").is_enabled()


def test_quiz_and_prediction_survive_a_reload(server: Server, visitors: Visitors) -> None:
    page = visitors.new(server).tab(LESSON)
    press(page, "start-here-task-after-commit")
    idle(page)

    quiz = key(page, "start-here-what-trains-cell")
    quiz.get_by_text("The words of the request").click()
    press(page, "start-here-what-trains-check")
    wait_for_text(page, re.compile("Not quite"))
    assert "prompt tuning" in quiz.inner_text()

    number = key(page, "start-here-count-them-cell")
    number.locator("input").fill("16000")
    press(page, "start-here-count-them-check")
    number.get_by_text("Right.").wait_for()
    idle(page)

    page.reload()
    idle(page)
    expect(key(page, "start-here-task-after-cell")).to_contain_text("You committed to")
    expect(key(page, "start-here-what-trains-cell")).to_contain_text("prompt tuning")
    expect(key(page, "start-here-count-them-cell").locator("input")).to_have_value("16000")
    wait_for_text(page, re.compile("2 of 7 steps done"))


def own_file(folder: Path, *, broken_line: int | None = None) -> Path:
    """Fifty questions and answers of somebody's own; one line may be cut off."""
    animals = ("cat", "dog", "hen", "cow", "pig", "owl", "fox", "bee", "ant", "elk")
    rows = [
        json.dumps({"prompt": f"What does the {animal} number {i} say?", "completion": f"{animal} says {i}."})
        for i in range(5)
        for animal in animals
    ]
    if broken_line is not None:
        rows[broken_line - 1] = rows[broken_line - 1][:20]
    path = folder / "animals.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def upload(page: Page, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


def test_playground_with_a_file_of_ones_own(server: Server, visitors: Visitors, tmp_path: Path, shoot: Shoot) -> None:
    cleo = visitors.new(server)
    page = cleo.tab("/playground?task=own&knob-lora-own-steps=12")
    upload(page, own_file(tmp_path))
    wait_for_text(page, "Your data")
    idle(page)
    assert "50" in body(page)
    check(page)
    press(page, "knob-run")
    wait_for_text(page, "What happened", RUN_SECONDS)
    idle(page)
    first, last = numbers(page, "held-out answers")
    assert last < first
    shoot(cleo, page.url.removeprefix(server.url), "playground-own-data")


def test_where_nothing_was_held_out_no_curve_is_drawn(server: Server, visitors: Visitors) -> None:
    """A run whose events are made up here: while it is on, and when it is over."""
    fay = visitors.new(server)
    fay.tab("/").close()
    store = Store(None, server.home)
    run = store.create(fay.owner, RunConfig(), key="made up", cell="playground", direct=True)
    hand = Hand(store, run)
    *on, saved, finished = events(RunConfig(), held_out=False)
    hand.say(*on)
    page = fay.tab(f"/runs?run={run.id}")
    wait_for_step(page)
    expect(page.locator(".legend li:visible").first).to_contain_text("training")
    for over in (False, True):
        if over:
            hand.say(saved, finished)
            hand.leave()
            wait_for_text(page, "Nothing was held out")
            idle(page)
        assert page.locator(".legend li:visible", has_text="held-out answers").count() == 0
        label = page.locator(".charts svg[role=img]").first.get_attribute("aria-label") or ""
        assert "training: " in label
        assert "held-out answers" not in label
        assert not page.locator(".samples").is_visible()
    assert "0.00" not in body(page)
    store.close()


def test_a_malformed_file_is_told_its_line(server: Server, visitors: Visitors, tmp_path: Path) -> None:
    page = visitors.new(server).tab("/playground?task=own")
    upload(page, own_file(tmp_path, broken_line=7))
    alert = page.get_by_role("alert").first
    alert.wait_for()
    assert re.search(r"\b[Ll]ine 7\b", alert.inner_text())
    assert key(page, "knob-run").locator("button").is_disabled()


def test_the_run_outlives_the_server(own_server: Server, visitors: Visitors) -> None:
    dora = visitors.new(own_server)
    page = dora.tab(f"{LESSON}?{CELL}-lora-json-steps=500")
    start_run(page)
    # While the server is away the browser cannot help complaining of it.
    dora.forgiven = (
        "ERR_CONNECTION", "WebSocket", "ERR_EMPTY_RESPONSE", "Failed to fetch", "502", "503",
        "reaching server endpoint - No response received", "Streamlit server is not responding",
    )  # fmt: skip
    own_server.kill()
    wait_for_text(page, re.compile("The server does not answer"), 20)
    ((_, owner),) = own_server.active()
    page.wait_for_timeout(2 * SECONDS)
    own_server.start()
    page.reload()
    idle(page)
    dora.forgiven = ()
    step = wait_for_step(page)
    assert wait_for_step(page, step + 3) > step
    assert [o for _, o in own_server.active()] == [owner]
    press(page, f"{CELL}-own-cancel")
    wait_for_text(page, re.compile("Cancelled after step"), 30)


@pytest.mark.parametrize("path", ["/", LESSON, "/playground", "/runs", "/ship"])
def test_no_page_scrolls_sideways_on_a_phone(server: Server, visitors: Visitors, path: str, shoot: Shoot) -> None:
    visitor = visitors.new(server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visitor.tab(path)
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= seen
    main = page.locator("[data-testid=stMain]")
    assert main.evaluate("node => node.scrollWidth - node.clientWidth") <= 0
    if path == "/playground":
        shoot(visitor, path, "playground")
