"""How long the calculators take: the parts `instant` and `page` of `make bench-memory`, and their limits.

    python -m tests.bench_memory --only instant --only page

Seconds are of one machine, and the record names it. Other programs may run beside it, so processor seconds stand beside
those that passed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

# What is promised (seconds, and milliseconds where the name says so).
LIMITS = {"slider_ms": 5.0, "page_ms": 300.0, "never seen": 10.0, "trace, 8B": 3.0}
TIMED = {"estimate_ms": "An estimate", "slider_ms": "The answer to a slider (terms, totals, largest batch and length)"}
TRIES = 3  # of a warm trace; the quickest counts, because other programs only make it slower
MOVES = 200
UPDATES = 21
PATH = "/vram?batch=4"
# Runs in the page: from a key press to a verdict that reads otherwise.
WATCH = """() => {
  const was = document.querySelector('h4').innerText, began = performance.now();
  window.took = null;
  const look = new MutationObserver(() => {
    const now = document.querySelector('h4');
    if (now && now.innerText !== was) { window.took = performance.now() - began; look.disconnect(); }
  });
  look.observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
SLIDER = ".st-key-vram-batch [role=slider], .st-key-vram-batch input"
# No model of the catalogue, and as large as its popular ones.
UNSEEN = {
    "model_type": "llama", "vocab_size": 100_000, "hidden_size": 3584, "intermediate_size": 9728,
    "num_hidden_layers": 30, "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
}  # fmt: skip


def machine() -> dict[str, Any]:
    """Where, and what else it had to do."""
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        lines = (line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if "model name" in line)
        name = next(lines, name)
    return {"machine": name, "processors": os.cpu_count(), "load": os.getloadavg()[0]}


def milliseconds(took: list[float]) -> dict[str, float]:
    """median, worst and first, of seconds; the first one reads the file of the model's estimates."""
    after = took[1:]
    return {"median": 1e3 * statistics.median(after), "worst": 1e3 * max(after), "first": 1e3 * took[0]}


def instant(size: int) -> dict[str, Any]:
    """Milliseconds of an estimate and of a whole answer; seconds of a trace, cold and warm, and of the first answer for
    a model that nobody has seen."""
    from core.catalog import architecture_of, gpu
    from core.memory.compare import answer
    from core.memory.estimate import Sizes, find
    from core.memory.setup import Device, Setup
    from core.memory.tracer import Tracer
    from core.methods import METHODS

    before = machine()

    def setup(batch: int, length: int, method: str = "lora") -> Setup:
        settings = METHODS[method].Config()
        return Setup(method, settings, batch, length, device=Device((8, 9)), precision="bfloat16")

    estimates = []
    for length in range(256, 256 + MOVES):
        began = time.perf_counter()
        made = find("Llama-3.1-8B", setup(4, length))
        assert made is not None
        made.ledger(Sizes.of(setup(4, length)))
        estimates.append(time.perf_counter() - began)
    card, table, sliders = gpu("RTX 4090"), architecture_of("Llama-3.1-8B"), []
    for move in range(MOVES):
        asked = dataclasses.replace(setup(1, 512, "qlora"), batch=1 + move % 6, length=512 + 16 * move)
        began = time.perf_counter()
        assert answer(lambda one: find("Llama-3.1-8B", one), asked, card, table=table) is not None
        sliders.append(time.perf_counter() - began)
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}
    told = first_answers(seconds, processor)
    tracer = Tracer()
    try:
        for what, question in (
            ("first trace of a new process, 8B", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048))),
            ("trace, 8B, LoRA", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048))),
            ("trace, 8B, full", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048, "full"))),
            ("first QLoRA, which loads bitsandbytes", lambda: tracer.trace("Llama-3.2-1B", setup(2, 512, "qlora"))),
            ("trace, 8B, QLoRA", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048, "qlora"))),
            ("fit of a model without a surrogate", lambda: tracer.fit("Mistral-Nemo-12B", setup(2, 1024))),
        ):
            took = []
            for _ in range(TRIES if what.startswith("trace, 8B") else 1):
                worked, began = _worked(tracer), time.perf_counter()
                question()
                took.append((time.perf_counter() - began, _worked(tracer) - worked))
            seconds[what], processor[what] = (round(min(of), 2) for of in zip(*took, strict=True))
    finally:
        tracer.close()
    return {
        "estimate_ms": milliseconds(estimates), "slider_ms": milliseconds(sliders), "seconds": seconds,
        "processor_seconds": processor, "told": told, "limits": LIMITS, **before,
    }  # fmt: skip


NEVER_SEEN = "a model never seen, first answer"


def first_answers(seconds: dict[str, float], processor: dict[str, float]) -> int:
    """Time the way from the pasted configuration of a model that nobody has seen to the calculator's answer, as the
    page goes it: by a server that has just begun, and by one whose process is there, as it is when somebody has chosen
    to paste. Returns how often progress could be seen on the first of them."""
    from core.catalog import gpu
    from core.memory import fitter
    from core.memory.compare import answer, on
    from core.memory.setup import Setup
    from core.methods import METHODS

    card = gpu("RTX 4090")
    asked = on(Setup("qlora", METHODS["qlora"].Config(), 1, 1024), card)
    told = 0
    for what, warm, width in ((NEVER_SEEN, False, 3584), (f"{NEVER_SEEN}, process warm", True, 3072)):
        text = json.dumps({**UNSEEN, "hidden_size": width, "num_attention_heads": width // 128})
        running = fitter.Fitter()
        try:
            if warm:
                running.tracer.warm()
            worked, began, seen = _worked(running.tracer), time.perf_counter(), set()
            table = _done(running, fitter.TABLE, text, None, seen)
            _done(running, fitter.FIT, text, asked, seen)
            found = answer(lambda one: running.surrogate(text, one), asked, card, table=table)  # noqa: B023
            assert found is not None
            seconds[what] = round(time.perf_counter() - began, 2)
            processor[what] = round(_worked(running.tracer) - worked, 2)
            told = told or len(seen)
        finally:
            running.close()
    return told


def _done(running: Any, kind: str, text: str, setup: Any, seen: set[str]) -> Any:
    """A question's answer, waited for as the page does."""
    running.ask(kind, text, setup)
    while (work := running.look(kind, text, setup)) is not None and work.active:
        seen.add(work.text)
        time.sleep(0.02)
    assert work is not None
    assert work.error is None, work.error
    return work.result


def _worked(tracer: Any) -> float:
    """Processor seconds of its process so far (one thread: what an idle machine would take)."""
    process = tracer._process
    return sum(psutil.Process(process.pid).cpu_times()[:2]) if process is not None else 0.0


def page(size: int) -> dict[str, Any]:
    """Milliseconds from a key on the batch's slider to the new verdict, in a browser."""
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import FLAGS, IDLE, MISSING, Server, free_port, system_chromium

    chromium = system_chromium()
    assert chromium is not None, MISSING
    before = machine()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder) / "home", free_port(), Path(folder) / "log.txt")
        server.start()
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(server.url + PATH)
            tab.wait_for_selector("h4", timeout=60_000)
            tab.wait_for_selector(IDLE, state="attached", timeout=60_000)
            took = []
            for number in range(size or UPDATES):
                tab.evaluate(WATCH)
                tab.locator(SLIDER).first.press("ArrowRight" if number % 2 == 0 else "ArrowLeft")
                tab.wait_for_function("window.took !== null", timeout=30_000)
                took.append(float(tab.evaluate("window.took")))
                tab.wait_for_selector(IDLE, state="attached", timeout=30_000)
        finally:
            browser.close()
            server.stop()
    return {
        "median_ms": statistics.median(took), "worst_ms": max(took), "updates": len(took),
        "limit_ms": LIMITS["page_ms"], **before,
    }  # fmt: skip


__all__ = ["LIMITS", "NEVER_SEEN", "SLIDER", "TIMED", "UPDATES", "WATCH", "instant", "machine", "page"]
