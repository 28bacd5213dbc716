"""axe-core in a real browser: no serious or critical violation on any page, in light and in dark.

axe/axe.min.js is axe-core 4.14.1 by Deque Systems, from npm, under the licence beside it: a tool of the tests, and no
part of the app.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Server, Visitors

AXE = Path(__file__).with_name("axe") / "axe.min.js"
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/start-here", "/playground", "/runs"])
def test_axe(server: Server, visitors: Visitors, path: str, scheme: str) -> None:
    page = visitors.new(server, color_scheme=scheme).tab(path)
    page.wait_for_timeout(1000)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
    assert violations(result["violations"]) == []
