"""Several workers side by side: each gets a processor of its own, and the longest files begin first.

In every process, what has been imported is kept out of Python's garbage collection.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# Files whose tests take long, longest first: taken up early, they leave no worker at work on one of them while the
# others have nothing left to do. (A file that is not named here comes after them.)
LONG = (
    "app/test_notebook_export", "core/test_distributed", "core/test_memory_estimate", "core/test_runs_kill",
    "core/test_train", "core/test_export_script", "core/test_runs_pool", "core/test_memory_predicted",
    "core/test_runs_talker", "kernels/test_triton", "core/test_cli", "core/test_methods_conformance", "core/test_base",
    "core/test_memory_trace", "core/test_fetch", "core/test_notebook", "core/test_memory_card",
    "core/test_embedded_base", "core/test_few_bits", "core/test_export_encoders", "core/test_runs_worker",
    "core/test_runs_prober", "core/test_runs_store", "app/test_live_api", "app/test_vram",
    "browser/test_journeys", "browser/test_lessons", "browser/test_accessibility", "browser/test_quantization",
    "browser/test_ship", "browser/test_guide", "browser/test_code",
)  # fmt: skip
# The parts of `make test`, as the Makefile says them.
SIDE_BY_SIDE, BROWSER, ALONE = "not alone and not browser", "browser and not alone", "alone"


def pytest_configure(config: pytest.Config) -> None:
    """Before torch counts the processors: workers that share them would have twice as many threads, which wait for each
    other; and a thread that waits keeps its processor busy. What a worker starts inherits its processor.

    Not so where all that is asked for needs a browser: its processes, a server's and a run's work in turn, and who does
    not need a processor just then leaves it to the others. There a run is told to have one thread (with two, beside
    other work, a run of a few steps took ten times as much of the processors)."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker.startswith("gw"):
        return
    if config.option.markexpr == BROWSER or all("tests/browser" in str(part) for part in config.args):
        os.environ |= {"OMP_NUM_THREADS": "1", "DELTALAB_THREADS": "1"}
    elif hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[int(worker.removeprefix("gw")) % len(usable)]})


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For the parts of `make test`: leave out, unread, the files that hold nothing of a part; to import all of them
    takes twenty seconds. (A file that is named on the command line is read in any case.)"""
    if not (collection_path.name.startswith("test_") and collection_path.suffix == ".py"):
        return None
    wanted, browser = config.option.markexpr, collection_path.parent.name == "browser"
    if wanted == SIDE_BY_SIDE:
        return browser or None
    if wanted == BROWSER:
        return not browser or None
    if wanted == ALONE:
        return "mark.alone" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. (Within a file, and among the others, the order stays.)"""
    tests = Path(__file__).parent
    place = {tests / f"{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_look_through() -> None:
    """With torch, transformers and all tests in memory a full collection takes longer than a page: and every page that
    is drawn ends with one (Streamlit's). At the beginning of a file what is there is there to stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For files with many runs: a run says no more what its memory was expected to be, which takes a third of a run as
    small as a test's. (That it does, for every method: tests/core/test_memory_predicted.py.)"""
    from core.errors import DeltalabError
    from core.memory import predicted

    def none(*_: object) -> None:
        raise DeltalabError("Tests of other things leave the trace out.")

    monkeypatch.setattr(predicted, "_ledger", none)
