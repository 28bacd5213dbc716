"""The page Ship in a real browser: a verdict leads to its fix, the fix is measured, and what was made is taken away."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

from core.base import EMBEDDED_FOLDER
from core.config import RunConfig
from core.runs.store import Store
from tests.app.filling import fill
from tests.browser.conftest import SECONDS, Server, Shoot, Visitors, idle
from tests.browser.test_accessibility import check
from tests.browser.test_journeys import body, key, press
from tests.core.ship_support import adapter, with_adapter


def test_from_a_verdict_to_a_lora_that_loads(
    server: Server,
    visitors: Visitors,
    tmp_path: Path,
    shoot: Shoot,
) -> None:
    gil = visitors.new(server)
    gil.tab("/").close()
    store = Store(None, server.home)
    run = fill(store, gil.owner, RunConfig(), title="DoRA on JSON")
    run = with_adapter(store, run, adapter(EMBEDDED_FOLDER, tmp_path / "a", "dora", rank=4), "dora", {"rank": 4})
    page = gil.tab(f"/runs?run={run.id}")
    page.get_by_role("link", name="Ship it").click()
    idle(page)
    assert re.search(r"vLLM does not load as it is", body(page))
    check(page)
    shoot(gil, f"/ship?run={run.id}", "ship-load")

    press(page, f"load-{run.id}-vLLM-convert")
    idle(page)
    key(page, "convert-rank").locator("input").fill("8")
    key(page, "convert-most").locator("input").fill("2")
    key(page, "convert-most").locator("input").press("Enter")
    idle(page)
    press(page, f"ship-{run.id}-convert-start")
    page.get_by_text("Measured in").first.wait_for(timeout=300 * SECONDS)
    idle(page)
    check(page)
    link = page.get_by_role("link", name=re.compile("Download the LoRA of rank 8"))
    answer = gil.context.request.get(f"{server.url}{link.get_attribute('href')}")
    assert answer.status == 200
    with zipfile.ZipFile(io.BytesIO(answer.body())) as archive:
        archive.extractall(tmp_path / "out")
    assert (tmp_path / "out" / "lora" / "README.md").read_text().startswith("---")
    from core.base import describe_base
    from core.export.folder import read
    from core.export.loadable import LOADS, VLLM, worst
    from core.export.loadable import check as will_it_load

    assert worst(will_it_load(read(tmp_path / "out" / "lora"), describe_base("embedded")), VLLM) == LOADS
    store.close()


def test_it_fits_a_phone(server: Server, visitors: Visitors, tmp_path: Path) -> None:
    hal = visitors.new(server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    hal.tab("/").close()
    store = Store(None, server.home)
    run = fill(store, hal.owner, RunConfig(), title="A LoRA with a name that is rather long for a telephone")
    run = with_adapter(store, run, adapter(EMBEDDED_FOLDER, tmp_path / "a", rank=4), "lora", {"rank": 4})
    for do in ("load", "merge", "convert", "latency", "swap", "card"):
        page = hal.tab(f"/ship?run={run.id}&do={do}")
        main = page.locator("[data-testid=stMain]")
        assert main.evaluate("node => node.scrollWidth - node.clientWidth") <= 0, do
        page.close()
    store.close()
