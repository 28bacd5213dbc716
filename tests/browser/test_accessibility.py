"""axe-core in a real browser: no serious or critical violation on any page, in light and in dark.

Here the pages are those of somebody new; what they hold later is checked on the way, in test_journeys.py.

axe/axe.min.js is axe-core 4.14.1 by Deque Systems, from npm, under the licence beside it: a tool of the tests, and no
part of the app.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.charts import DARK_BACKGROUND, LIGHT_BACKGROUND
from app.views import VIEWS
from tests.browser.conftest import Server, Visitor, Visitors, idle, still

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = Path(__file__).with_name("axe") / "axe.min.js"
BACKGROUND_IS = "colour => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor === colour"
BACKGROUNDS = {"light": LIGHT_BACKGROUND, "dark": DARK_BACKGROUND}
# What Streamlit's own widgets do, and no theme or markup of ours can change: (rule, part of the node's HTML or target).
STREAMLITS_OWN: tuple[tuple[str, str], ...] = ()


def violations(found: list[dict[str, Any]]) -> list[str]:
    """The serious ones that are ours, as lines that say where."""
    out = []
    for rule in found:
        if rule["impact"] not in ("serious", "critical"):
            continue
        for node in rule["nodes"]:
            where = f"{node['target']} {node['html'][:160]}"
            if not any(rule["id"] == name and part in where for name, part in STREAMLITS_OWN):
                out.append(f"{rule['id']}: {where} {node['failureSummary'][:200]}")
    return out


def unfold(page: Page) -> None:
    """Open what is folded away, so that it is looked at too."""
    page.evaluate(
        "document.querySelectorAll('[data-testid=stMain] details:not([open]) > summary').forEach(s => s.click())"
    )
    still(page)


def check(page: Page, *schemes: str) -> None:
    """Run axe on a page as it stands, unfolded, in each of the colour schemes (in both, when none is named: first the
    one that it is in, for drawing everything anew is what takes long). Of a second scheme only the contrast is looked
    at: nothing else depends on it. The page stays in the last one."""
    unfold(page)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    whole: dict[str, Any] = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for number, scheme in enumerate(schemes or (("dark", "light") if dark else ("light", "dark"))):
        page.emulate_media(color_scheme=scheme)
        wanted = f"rgb({', '.join(map(str, bytes.fromhex(BACKGROUNDS[scheme][1:])))})"
        page.wait_for_function(BACKGROUND_IS, arg=wanted)
        still(page)
        only = {"runOnly": {"type": "rule", "values": ["color-contrast"]}} if number else whole
        result = page.evaluate("only => axe.run(document, only)", only)
        assert violations(result["violations"]) == [], scheme


@pytest.fixture(scope="module")
def newcomer(server: Server, browser: Browser) -> Iterator[Visitor]:
    """Somebody who only looks: one browser for all pages, which has what they share at hand."""
    visitor = Visitors(browser).new(server)
    visitor.tab()
    yield visitor
    visitor.context.close()


@pytest.mark.parametrize("path", [*(f"/{view.url_path}" for view in VIEWS), "/start-here"])
def test_axe(server: Server, newcomer: Visitor, path: str) -> None:
    (page,) = newcomer.context.pages
    page.goto(server.url + path)
    idle(page)
    check(page)
    heard, newcomer.troubles = newcomer.troubles, []
    assert heard == []
