"""`make bench-memory`: how right the calculators are, in one command of some minutes on a CPU.

    counts       every model of the catalogue, built on the meta device; every published count of trained parameters
    steps        traces against real training steps on this CPU: methods, families, settings, recomputed or not
    runs         whole runs of the embedded base, each with what it stores: predicted and measured memory
    surrogates   instant estimates against full traces, on 200 random configurations
    instant      how long an instant estimate takes, and a model that was never seen
    published    predictions against what others measured on GPUs; writes core/catalog/validation.json

Writes tests/records/bench_memory.json, and prints a report. `--only published` does one part, and keeps the others'
results; a part that was not run with its full size says so.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "records" / "bench_memory.json"
RANDOM = 200
TOLERANCE = 1e-3
GIB = 2**30


def counts(size: int) -> dict[str, Any]:
    """Totals of all models, and published trainable counts."""
    from core.catalog import FOLDER, architecture_of, models
    from core.catalog.tables import fresh
    from core.methods import METHODS

    wrong = [
        row.name for row in models()
        if fresh(row.name).total != row.parameters or architecture_of(row.name).total != row.parameters
    ]  # fmt: skip
    published = []
    with (FOLDER / "trainable_counts.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            table = architecture_of(row["model"])
            method = METHODS[row["method"]]
            count = method.count(table, method.Config(**json.loads(row["settings"])))
            if row["embedding_rank"]:
                embedding = next(m for m in table.modules if m.kind == "embedding")
                count += int(row["embedding_rank"]) * (embedding.in_features + embedding.out_features)
            explained = 2 * int(row["embedding_rank"] or 0) * int(row["added_tokens"] or 0)
            published.append({
                "row": f"{row['model']}: {row['published_as']}", "published": int(row["trainable"]), "counted": count,
                "difference": int(row["trainable"]) - count, "explained": explained, "note": row["note"],
                "total": table.total + int(row["trainable"]) == int(row["all"]),
            })  # fmt: skip
    return {
        "models": len(models()), "models_wrong": wrong, "published": published,
        "exact": sum(r["difference"] == 0 for r in published),
        "explained": sum(r["difference"] == r["explained"] != 0 for r in published),
    }  # fmt: skip


STEP_FAMILIES = ("llama", "gpt2", "opt", "qwen2", "mistral", "gemma")
STEP_SETTINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama", "lora", {"length": 300}),
    ("gpt2", "full", {"length": 300, "checkpointing": True}),
    ("llama", "full", {"accumulation": 3}),
    ("llama", "lora", {"answers": 5}),
    ("llama", "full", {"optimizer": "adamw_8bit", "length": 120}),
    ("llama", "full", {"precision": "bfloat16", "checkpointing": True}),
    ("gpt2", "lora", {"precision": "bfloat16"}),
)


def steps(size: int) -> dict[str, Any]:
    """Every method with and without recomputing; full, LoRA and (where there are biases) BitFit in every family."""
    from core.errors import Incompatible
    from core.memory.setup import Setup
    from core.memory.trace import trace
    from core.methods import METHODS
    from tests.core.memory_support import config_of, measured

    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("llama_biased", m, {"checkpointing": c})
        for m in METHODS
        for c in (False, True)
        if not c or METHODS[m].CHECKPOINTS
    ]
    cases += [
        (f, m, {"checkpointing": c}) for f in STEP_FAMILIES for m in ("full", "lora", "bitfit") for c in (False, True)
    ]
    rows = []
    for family, method, changes in [*cases, *STEP_SETTINGS][: size or None]:
        config = config_of(family, layers=2)
        setup = Setup(method, METHODS[method].Config(), **{"batch": 3, "length": 40, **changes})
        try:
            traced = trace(config, setup).peak_bytes
        except Incompatible:
            continue
        real = measured(config, setup).allocated_bytes
        rows.append({"family": family, "method": method, **changes, "traced": traced, "measured": real,
                     "error": traced / real - 1})  # fmt: skip
    worst = max(abs(r["error"]) for r in rows)
    return {"cases": len(rows), "worst": worst, "within": sum(abs(r["error"]) <= TOLERANCE for r in rows), "rows": rows}


def runs(size: int) -> dict[str, Any]:
    """Every method in both formats, with its default settings and others: what a run stores of its memory."""
    from tests.core.memory_support import grid

    return runs_summed([run_row(case) for case in grid()[: size or None]])


def run_row(case: Any) -> dict[str, Any]:
    """A run of two steps: the totals of its two ledgers."""
    import tempfile

    from core.memory.predicted import residuals, why_not
    from tests.core.memory_support import run_of

    method, precision, settings = case
    with tempfile.TemporaryDirectory() as folder:
        end = run_of(case, Path(folder))
    row = {"method": method, "precision": precision, "settings": settings}
    both = residuals(end.predicted, end.ledger)
    if not both:
        return {**row, "reason": why_not(end.predicted, end.ledger)}
    whole = both[-1]
    traced = end.predicted["terms"][0]["source"].startswith("traced")
    return {**row, "predicted": whole["predicted"], "measured": whole["measured"],
            "error": whole["predicted"] / whole["measured"] - 1, "traced": traced, "others": end.others}  # fmt: skip


def runs_summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many stored both, and the largest error in each format."""
    both = [r for r in rows if "error" in r]
    worst = {f: max((abs(r["error"]) for r in both if r["precision"] == f), default=None)
             for f in ("float32", "bfloat16")}  # fmt: skip
    return {"cases": len(rows), "both": len(both), "traced": sum(r["traced"] for r in both), "worst": worst,
            "rows": rows}  # fmt: skip


def surrogates(size: int) -> dict[str, Any]:
    """Shipped surrogates at random models, methods, depths and sizes against full traces, term by term."""
    from core.catalog import models
    from core.memory.estimate import shipped
    from core.memory.fit import difference, random_sizes, versions

    drawn = random.Random(20)
    pool = [(row.name, s) for row in models() for s in shipped(row.name)]
    current = [pair for pair in pool if dict(pair[1].versions) == versions()]
    apart = []
    for _ in range(size or RANDOM):
        name, made = drawn.choice(current)
        sizes = random_sizes(made, drawn)
        off = difference(name, made, sizes)
        if off:
            apart.append({"model": name, "key": made.key, "sizes": str(sizes), "bytes": off})
    return {
        "configurations": size or RANDOM, "differ": len(apart), "rows": apart, "shipped": len(pool),
        "models": len({name for name, _ in pool}), "of_these_versions": len(current),
    }  # fmt: skip


def _worked(tracer: Any) -> float:
    """Processor seconds of its process so far (one thread: what an idle machine would take)."""
    process = tracer._process
    return sum(psutil.Process(process.pid).cpu_times()[:2]) if process is not None else 0.0


def instant(size: int) -> dict[str, Any]:
    """Milliseconds of an estimate; seconds of a trace, cold and warm, and of a fit: as they passed, and of the
    processor, because other programs may have run beside it."""
    from core.memory.estimate import Sizes, find
    from core.memory.setup import Device, Setup
    from core.memory.tracer import Tracer
    from core.methods import METHODS

    def setup(batch: int, length: int, method: str = "lora") -> Setup:
        settings = METHODS[method].Config()
        return Setup(method, settings, batch, length, device=Device((8, 9)), precision="bfloat16")

    took = []
    for length in range(256, 456):
        began = time.perf_counter()
        made = find("Llama-3.1-8B", setup(4, length))
        assert made is not None
        made.ledger(Sizes.of(setup(4, length)))
        took.append(time.perf_counter() - began)
    tracer = Tracer()
    try:
        seconds, processor = {}, {}
        for what, question in (
            ("first trace of a new process, 8B", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048))),
            ("trace, 8B, LoRA", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048))),
            ("trace, 8B, full", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048, "full"))),
            ("first QLoRA, which loads bitsandbytes", lambda: tracer.trace("Llama-3.2-1B", setup(2, 512, "qlora"))),
            ("trace, 8B, QLoRA", lambda: tracer.trace("Llama-3.1-8B", setup(2, 2048, "qlora"))),
            ("fit of a model without a surrogate", lambda: tracer.fit("Mistral-Nemo-12B", setup(2, 1024))),
        ):
            worked, began = _worked(tracer), time.perf_counter()
            question()
            seconds[what] = round(time.perf_counter() - began, 2)
            processor[what] = round(_worked(tracer) - worked, 2)
    finally:
        tracer.close()
    # (The first one reads the file of the model's estimates.)
    after = took[1:]
    return {
        "estimate_ms": {"median": 1e3 * statistics.median(after), "worst": 1e3 * max(after), "first": 1e3 * took[0]},
        "seconds": seconds, "processor_seconds": processor, "load": os.getloadavg()[0], "processors": os.cpu_count(),
    }  # fmt: skip


CAUSES = {
    "torchtune-flags-08": "Which 8-bit AdamW ran is not stated; one that decodes the embedding's states beside "
    "them takes as much more.",
}


def published(size: int) -> dict[str, Any]:
    """Every published figure that this program can be asked for, allocated or reserved as it was measured. Writes the
    record that the page shows."""
    from core.catalog import architecture_of, configuration
    from core.memory.allocator import replay
    from core.memory.card import totals
    from core.memory.fit import versions
    from core.memory.published import SOURCES, Refused, case_of, rows
    from core.memory.trace import trace
    from core.memory.validation import CAUSED, FILE, band_of, reserved_scored, summarised

    found: list[dict[str, Any]] = []
    uncovered = []
    for row in list(rows())[: size or None]:
        case = case_of(row)
        plain = {"id": row.id, "source": row.source, "source_title": SOURCES[row.source].title, "method": row.method,
                 "detail": row.file or row.detail, "metric": SOURCES[row.source].metric, "unit": row.unit,
                 "published": float(row.value)}  # fmt: skip
        gpus = int(row.gpus) if row.gpus.isdigit() else 0
        if isinstance(case, Refused):
            uncovered.append({**plain, "model": row.model, "gpus": gpus, "reason": case.reason})
            continue
        traced = trace(configuration(case.model), case.setup)
        if case.sharding is not None:
            table = architecture_of(case.model)
            ledger = traced.shared(case.sharding, table, case.setup.batch, case.setup.length)
        else:
            ledger = traced.ledger()
        reserved = case.metric == "reserved"
        told = replay(traced).most_reserved if reserved else ledger.allocated_bytes
        error = told / row.measured_bytes - 1
        found.append({
            **plain, "model": case.model, "gpu": row.gpu, "gpus": gpus, "batch": case.setup.batch,
            "length": case.setup.length, "measured_bytes": row.measured_bytes,
            "predicted_bytes": told, "allocated_bytes": ledger.allocated_bytes,
            **({"reserved_bytes": totals(ledger.allocated_bytes, case.setup.device).reserved} if reserved else {}),
            "error": error, "trust": row.trust, "role": "held out",
            "stack": case.setup.stack.name, "peak_at": ledger.peak_at,
            "terms": [{"name": t.name, "bytes": t.bytes} for t in ledger.terms], "assumed": list(case.assumed),
            "cause": CAUSES.get(row.id, "") if abs(error) > CAUSED or row.id in CAUSES else "",
        })  # fmt: skip
        print(f"  {row.id:20} {case.model:18} {row.method:16} {error:+7.1%}", flush=True)
    residents = resident()
    fitted = [{
        "name": "mean", "value": residents["mean_tokens"], "unit": "tokens a row", "on": ["peft-bench"],
        "what": "Tokens a row, padding included, of the batch whose output is still there after an average step of "
        "PEFT's benchmark. Fitted on its rows without a low-rank method, used for its resident state alone.",
    }]  # fmt: skip
    steps_of = [
        {"step": r["detail"], "measured_bytes": r["measured_bytes"], "predicted_bytes": r["predicted_bytes"],
         "error": r["error"]} for r in found if r["source"] == "torchtune-flags" and r["method"] == "full"
    ]  # fmt: skip
    made = {
        "what": "Predicted peaks beside published ones", "command": "make bench-memory",
        "date": time.strftime("%Y-%m-%d"), "versions": versions(), "fitted": fitted,
        "summary": {"rows": len(found) + len(uncovered), "covered": len(found), "uncovered": len(uncovered),
                    "groups": summarised(found)},
        "rows": found, "uncovered": uncovered, "waterfall": steps_of, "resident": residents,
        "reserved": reserved_scored(found),
        "sources": {k: {"title": s.title, "where": s.says, "address": s.address} for k, s in SOURCES.items()},
    }  # fmt: skip
    if not size:
        FILE.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    band = band_of(found)
    return {
        "summary": made["summary"], "waterfall": steps_of, "text": band.text,
        "band": [band.low, band.likely, band.high], "reserved": reserved_scored(found),
        "resident": {k: residents[k] for k in ("rows", "within", "others", "others_within")},
        "beyond": [r["id"] for r in found if abs(r["error"]) > CAUSED],
        "beyond_without_cause": [r["id"] for r in found if abs(r["error"]) > CAUSED and not r["cause"]],
    }  # fmt: skip


def resident() -> dict[str, Any]:
    """What is allocated after a step, in PEFT's benchmark: two bytes a number of the base, sixteen a trained one in 32
    bits (eight in 16), and the output of the last batch: its logits, and the keys and values that came with them."""
    from core.catalog import architecture_of
    from core.memory.published import resident_rows
    from core.memory.validation import TOLERANCE_BYTES

    table = architecture_of("Llama-3.2-3B")
    vocabulary = next(m.in_features for m in table.modules if m.kind == "embedding")
    token = 2 * vocabulary + 2 * table.cache_numbers
    entries: list[dict[str, Any]] = []
    for row in resident_rows():
        weights = row.whole_bytes(table.total)
        entries.append({"id": row.id, "method": row.method, "name": row.name, "how": row.how, "kind": row.kind,
                        "measured_bytes": row.measured_bytes, "states": weights,
                        "tokens": row.extra_tokens})  # fmt: skip
    basis = [e for e in entries if e["kind"] != "low rank"]
    batch = 4
    rests = [(e["measured_bytes"] - e["states"]) / (batch * token) - e["tokens"] for e in basis]
    mean = round(statistics.median(rests))
    for entry in entries:
        entry["predicted_bytes"] = entry.pop("states") + batch * (mean + entry.pop("tokens")) * token
        entry["role"] = "fitted" if entry["kind"] != "low rank" else "held out"

    def within(how: str) -> tuple[int, int]:
        chosen = [e for e in entries if e["how"] == how]
        return len(chosen), sum(abs(e["measured_bytes"] - e["predicted_bytes"]) <= TOLERANCE_BYTES for e in chosen)

    rows, inside = within("counted")
    others, others_inside = within("printed")
    return {
        "rows": rows, "within": inside, "others": others, "others_within": others_inside,
        "others_what": "Methods that Deltalab does not have, by the number of trained parameters that the benchmark "
        "printed: some of them keep more than that.",
        "tolerance_bytes": TOLERANCE_BYTES, "mean_tokens": mean, "entries": entries,
    }  # fmt: skip


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "counts": counts, "instant": instant, "published": published, "runs": runs, "steps": steps,
    "surrogates": surrogates,
}  # fmt: skip


def report(parts: dict[str, Any]) -> str:
    """The record as lines for a person."""
    lines = []
    if "counts" in parts:
        c = parts["counts"]
        lines.append(f"Counts: {c['models'] - len(c['models_wrong'])} of {c['models']} models exact; "
                     f"{c['exact']} of {len(c['published'])} published trainable counts exact, "
                     f"{c['explained']} explained.")  # fmt: skip
    if "steps" in parts:
        s = parts["steps"]
        lines.append(f"Traces against real steps: {s['within']} of {s['cases']} within 0.1 %, worst {s['worst']:.4%}.")
    if "runs" in parts:
        s = parts["runs"]
        worst = ", ".join(f"{f} {w:.4%}" for f, w in s["worst"].items() if w is not None)
        lines.append(f"Runs: {s['both']} of {s['cases']} stored predicted and measured memory ({s['traced']} traced at "
                     f"their end); off by at most: {worst}.")  # fmt: skip
    if "surrogates" in parts:
        s = parts["surrogates"]
        equal = s["configurations"] - s["differ"]
        lines.append(f"Surrogates against traces: {equal} of {s['configurations']} equal to the byte; "
                     f"{s['shipped']} shipped, of {s['models']} models.")  # fmt: skip
    if "instant" in parts:
        i = parts["instant"]
        ms = i["estimate_ms"]
        lines.append(f"An estimate takes {ms['median']:.2f} ms (median), {ms['worst']:.2f} at worst; the first, which "
                     f"reads the model's file, {ms['first']:.0f}.")  # fmt: skip
        lines += [
            f"  {what}: {seconds} s, {i['processor_seconds'][what]} s of a processor (load {i['load']:.1f})"
            for what, seconds in i["seconds"].items()
        ]
    if "published" in parts:
        p = parts["published"]
        lines.append(f"Published: {p['summary']['covered']} of {p['summary']['rows']} figures predicted. {p['text']}")
        lines += [
            f"  {g['by']:8} {g['name']:42} {g['rows']:3} rows, mean {g['mean_abs']:.1%}, bias {g['bias']:+.1%}, worst "
            f"{g['worst']:.1%}" for g in p["summary"]["groups"]
        ]  # fmt: skip
        lines += [
            f"  {w['step']:44} measured {w['measured_bytes'] / GIB:5.1f} GiB, predicted "
            f"{w['predicted_bytes'] / GIB:5.1f} ({w['error']:+.1%})" for w in p["waterfall"]
        ]  # fmt: skip
        if p["reserved"]:
            told = p["reserved"]
            lines += [
                f"  reserved, {name:9} {told['rows']} rows, mean {told[name]['mean_abs']:.1%}, bias "
                f"{told[name]['bias']:+.1%}, worst {told[name]['worst']:.1%}" for name in ("simulated", "instant")
            ]  # fmt: skip
            lines.append(f"  reserved: {told['within']} of {told['rows']} within the range given without a trace; "
                         "of the whole process no covered row has a figure")  # fmt: skip
        r = p["resident"]
        lines.append(f"  resident state: {r['within']} of {r['rows']} within 0.05 GiB, of methods that are not here "
                     f"{r['others_within']} of {r['others']}")  # fmt: skip
        lines.append(f"  beyond 15 %: {', '.join(p['beyond']) or 'none'}")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> int:
    """Run the parts, write the record, print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_memory", description=main.__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given more than once")
    parser.add_argument("--size", type=int, default=0, help="fewer cases, for a quick look: nothing is written")
    asked = parser.parse_args(given)
    warnings.simplefilter("ignore")
    from core.memory.fit import versions

    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    parts: dict[str, Any] = dict(known.get("parts", {}))
    for name in asked.only or PARTS:
        print(f"{name} …", flush=True)
        began = time.perf_counter()
        parts[name] = PARTS[name](asked.size)
        parts[name]["took_seconds"] = round(time.perf_counter() - began, 1)
        parts[name]["versions"] = versions()
        parts[name]["date"] = time.strftime("%Y-%m-%d")
        if not asked.size:
            content = {"what": "the calculators against what they stand for", "command": "make bench-memory",
                       "parts": {n: parts[n] for n in PARTS if n in parts}}  # fmt: skip
            RECORD.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(report({name: parts[name] for name in asked.only or PARTS if name in parts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
