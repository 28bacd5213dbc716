"""Claims on what a method does to a model: quality, forgetting, latency, and what four bits lose.

They are judged by records that this program's commands made on the embedded base (core/catalog), by Hugging Face PEFT's
published comparison, and, for the levels of NF4, by quantizing weights on the spot. What a small model shows may be
otherwise in a large one; every figure says where it comes from. Imports no torch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from core.catalog import FOLDER
from core.claims.figures import Cases, Computed, Figure, number, share, share_text
from core.config import EMBEDDED
from core.literature import SOURCE as PEFT_COMPARISON
from core.literature import method_comparison
from core.methods import METHODS
from core.quantization import criteria, matrices
from core.quantization.formats import FORMATS
from core.race import aggregate
from core.race import recorded as recorded_race

LATENCY = FOLDER / "latency_embedded.json"
"""Written by `deltalab probe RUN RUN latency --record`; tests/test_records.py says of which runs."""
SPARED = 1.0  # points of a hundred that count as nothing forgotten
AS_GOOD = 0.02  # of the answers, within which quality counts as comparable
SAMPLE = (8192, 64)  # normal weights that the levels are tried on, block by block; as many of the base's own
BLOCK = 64


# --- 13: latency ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def recorded_latency() -> dict[str, Any]:
    """The latencies that are shipped: provenance, and `result` as core.probes.latency gave it."""
    found: dict[str, Any] = json.loads(LATENCY.read_text(encoding="utf-8"))
    return found


def latency() -> Computed:
    """13: merged LoRA has zero added latency; an unmerged one and a bottleneck adapter do not."""
    record = recorded_latency()
    cases: Cases = []
    figures = []
    told = []
    for row in record["result"]["rows"]:
        if row["decode_ratio"] is None:
            continue
        low, middle, high = row["decode_ratio"]
        figures.append(
            number(f"{row['label']}, a token against the base's", middle, f"median of rounds, {low:.2f} to {high:.2f}, "
                   f"on {record['device']}", "times", f"{middle:.2f} times")
        )  # fmt: skip
        told.append(f"{row['label']} {middle:.2f} times ({low:.2f} to {high:.2f})")
        # A merged model has the base's own shapes: its range must hold 1. Of the others most rounds must lie above it:
        # a single one may be slow or quick for reasons of the machine's.
        cases.append(low <= 1 <= high if row["form"] == "merged" else middle > 1)
    return cases, f"A token's time against the base's, embedded base: {'; '.join(told)}.", figures


# --- 18: the levels of NF4 --------------------------------------------------------------------------------------------


def normal_levels() -> Computed:
    """18: NF4 is information-theoretically optimal for normal weights."""
    normal = np.random.default_rng(0).standard_normal(SAMPLE).astype(np.float32)
    whole = np.concatenate([matrices.read(m).reshape(-1) for m in matrices.of_base(EMBEDDED) if not m.embedding])
    blocks = whole[: whole.size // BLOCK * BLOCK].reshape(-1, BLOCK)
    real = blocks[:: len(blocks) // SAMPLE[0]]  # from all layers alike
    figures: list[Figure] = []
    used: dict[tuple[str, str], float] = {}
    lost: dict[tuple[str, str], float] = {}
    for where, weight in (("normal weights", normal), ("the embedded base", real)):
        found = {one.name: one for one in criteria.judged(weight, BLOCK)}
        for name in criteria.COMPARED:
            title = FORMATS[name].title
            used[where, name] = found[name].entropy_bits / 4
            lost[where, name] = found[name].rmse
            figures.append(
                share(f"{title}, evenness of its levels, {where}", used[where, name], "entropy of their use / 4 bits")
            )
            figures.append(
                number(f"{title}, error, {where}", lost[where, name], f"root mean square, blocks of {BLOCK}, in "
                       "standard deviations", text=f"{lost[where, name]:.4f}")
            )  # fmt: skip
        lost[where, "least"] = found[criteria.LEAST_ERROR].rmse
        figures.append(
            number(f"16 levels of least squares, error, {where}", lost[where, "least"], "Lloyd's iteration from NF4's "
                   "levels, the same blocks", text=f"{lost[where, 'least']:.4f}")
        )  # fmt: skip
    cases: Cases = []
    for where in ("normal weights", "the embedded base"):
        cases.append(all(used[where, "nf4"] >= used[where, name] for name in criteria.COMPARED))
        cases.append(lost[where, "nf4"] <= lost[where, "least"])
    worse = lost["normal weights", "nf4"] / lost["normal weights", "least"] - 1
    told = (
        f"It depends on what is asked for. Of NF4, FP4 and INT4 it uses its levels most evenly on normal weights "
        f"({share_text(used['normal weights', 'nf4'])} of the greatest entropy), which is the sense meant. In squared "
        f"error, 16 levels made for it do better: NF4's is {share_text(worse)} larger on normal weights."
    )
    return cases, told, figures


# --- 20, 21: forgetting and quality -----------------------------------------------------------------------------------


def forgetting() -> Computed:
    """20: freezing the base prevents catastrophic forgetting."""
    race = recorded_race()
    found = aggregate(race["rows"])
    figures = []
    lost: dict[str, float] = {}
    for method, bands in found.items():
        band = bands.get("forgetting")
        if band is None:
            continue
        if METHODS[method].BASE != "trained":
            lost[method] = band.median
        figures.append(
            number(f"{METHODS[method].TITLE}, old skills lost", band.median, f"median of {band.count} seeds, "
                   f"{band.low:.1f} to {band.high:.1f} points; task {race['task']}, {race['steps']} steps", "points",
                   f"{band.median:.1f} points")
        )  # fmt: skip
    spoilt = [METHODS[m].TITLE for m, points in lost.items() if points > SPARED]
    most = max(lost, key=lambda m: lost[m])
    told = (
        f"Not by itself: of {len(lost)} methods that freeze the base, {len(spoilt)} lost more than {SPARED:.0f} point "
        f"of the old skills, {METHODS[most].TITLE} {lost[most]:.1f}; full fine-tuning "
        f"{found['full']['forgetting'].median:.1f}. Switched off, an adapter gives the base back bit for bit."
    )
    return [points <= SPARED for points in lost.values()], told, figures


def quality() -> Computed:
    """21: PEFT is comparable to full fine-tuning in quality."""
    race = recorded_race()
    found = aggregate(race["rows"])
    full = found["full"]["exact_match"].median
    figures, cases = [], []
    for method, bands in found.items():
        value = bands["exact_match"].median
        figures.append(share(f"{METHODS[method].TITLE}, task {race['task']}, embedded base", value,
                             f"median of {bands['exact_match'].count} seeds, {race['steps']} steps each"))  # fmt: skip
        if METHODS[method].BASE != "trained":
            cases.append(value >= full - AS_GOOD)
    here = sum(cases)
    published = method_comparison()
    whole = max(e.test_accuracy for e in published if e.ours == "full")
    best: dict[str, float] = {}
    for e in published:
        if e.ours != "full":
            best[e.method] = max(best.get(e.method, 0.0), e.test_accuracy)
    there = [value >= whole - AS_GOOD for value in best.values()]
    figures.append(share("full fine-tuning, published", whole, f"Llama-3.2-3B, GSM8K, {PEFT_COMPARISON}"))
    figures += [
        share(f"{name}, published, its best", value, "the same")
        for name, value in sorted(best.items(), key=lambda p: -p[1])
    ]  # fmt: skip
    told = (
        f"Some are: {here} of {len(cases)} methods came within {100 * AS_GOOD:.0f} points of full fine-tuning "
        f"({share_text(full)}) on the embedded base in equal steps, and {sum(there)} of {len(there)} in PEFT's "
        f"published comparison (full {share_text(whole)}, median of the others "
        f"{share_text(statistics.median(best.values()))})."
    )
    return [*cases, *there], told, figures


# --- 22: retrieval ----------------------------------------------------------------------------------------------------


def retrieval() -> Computed:
    """22: RAG for facts, fine-tuning for form: every cell of the usual table."""
    from core.rag.experiment import bands, recorded
    from core.rag.verdicts import CONFIRMED, NOT_CONFIRMED, verdicts

    found = verdicts(bands(recorded()["cells"]))
    known = {CONFIRMED: True, NOT_CONFIRMED: False}
    cases = [known.get(v.verdict) for v in found]
    figures = [
        number(f"{v.claim.concern}, {v.claim.side}: {v.claim.says}", float(case is True), v.figures or "not measured",
               text=v.verdict)
        for v, case in zip(found, cases, strict=True)
    ]  # fmt: skip
    not_held = [f"{v.claim.concern.lower()}, {v.claim.side}" for v in found if v.verdict == NOT_CONFIRMED]
    told = (
        f"Of {len(cases)} cells of the usual table {sum(c is True for c in cases)} were confirmed on the embedded base"
    )
    told += f"; not: {'; '.join(not_held)}." if not_held else "."
    return cases, told, figures


COMPUTE: dict[int, Callable[[], Computed]] = {
    13: latency, 18: normal_levels, 20: forgetting, 21: quality, 22: retrieval,
}  # fmt: skip
