"""How long a query takes on a large index on disk: `deltalab rag bench`.

The chunks are sentences of the small world's kind, of made-up people, each with a place of its own, so that the index
has the words and the sizes of a table of that many rows; the questions ask for some of them. What is timed is what a
user waits for: embedding the question, both searches, the fusion, and reading the passages.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from core.errors import BadInput
from core.rag.read import Document
from core.rag.retrieve import MODES, Retriever
from core.rag.store import Store


def made_up(count: int, seed: int = 0) -> Iterator[Document]:
    """So many rows of a table, a chunk each."""
    from core.world.people import FIRST_NAMES, LAST_NAMES, QUESTIONS, STATEMENTS, invent, say

    rng = random.Random(seed)
    for number in range(count):
        name = f"{rng.choice(FIRST_NAMES)} {rng.choice('ABCDEFGHIJKLMNOPRSTUVW')}. {rng.choice(LAST_NAMES)}"
        person = invent(rng, name)
        told = [say(rng.choice(STATEMENTS[a]), name, person.value(a)) for a in QUESTIONS]
        yield Document("table.csv", f"{' '.join(told)} Entry {number}.", f"row {number + 1}", "csv")


RECORD = Path(__file__).parents[1] / "catalog" / "rag_bench.json"
"""Written by `deltalab rag bench --record core/catalog/rag_bench.json`."""


def recorded() -> dict[str, Any]:
    """What is shipped: as `bench` returns, with the date, the commit and the versions."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def bench(chunks: int = 100_000, queries: int = 50, folder: Path | None = None) -> dict[str, Any]:
    """Index so many chunks (unless the folder holds them already) and time questions in every mode.

    Returns:
        {"chunks", "bytes", "index_seconds", "device", "modes": {mode: {"median_ms", "p95_ms", "cpu_median_ms",
        "cpu_least_ms"}}}; cpu_… is the processor's time, which is about what a query takes where nothing else runs.

    Raises:
        BadInput: no chunk, or no question.
    """
    if chunks < 1 or queries < 1:
        raise BadInput("There must be at least one chunk and one question.", "Try 100000 chunks and 50 questions.")
    from core.hardware import attached_light
    from core.world.people import QUESTIONS

    rng = random.Random("questions")
    place: Any = nullcontext(str(folder)) if folder is not None else tempfile.TemporaryDirectory()
    with place as where, Store(where, create=True) as store:
        began = time.perf_counter()
        if len(store) < chunks:
            store.put(made_up(chunks))
        took = time.perf_counter() - began
        rows = store.chunks(rng.sample(range(1, chunks + 1), min(queries, chunks)))
        asked = []
        for row in rows:
            words = row.text.split()
            name = next(" ".join(words[i - 1 : i + 2]) for i, w in enumerate(words) if len(w) == 2 and w[1] == ".")
            asked.append(rng.choice(QUESTIONS["city"]).format(n=name))
        modes = {}
        for mode in MODES:
            retriever = Retriever(store, mode)
            retriever.find(asked[0])
            times, busy = [], []
            for question in asked:
                began = time.thread_time()
                times.append(1000 * retriever.find(question).seconds)
                busy.append(1000 * (time.thread_time() - began))
            modes[mode] = {
                "median_ms": statistics.median(times),
                "p95_ms": sorted(times)[int(0.95 * (len(times) - 1))],
                "cpu_median_ms": statistics.median(busy),
                "cpu_least_ms": min(busy),
            }
        return {
            "chunks": len(store), "bytes": store.size_bytes(), "index_seconds": took, "device": attached_light().name,
            "modes": modes,
        }  # fmt: skip
