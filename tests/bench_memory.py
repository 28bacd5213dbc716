"""`make bench-memory`: how right the calculators are, in one command of some minutes on a CPU.

    counts       every model of the catalogue, built on the meta device; every published count of trained parameters
    steps        traces against real training steps on this CPU: methods, families, settings, recomputed or not
    runs         whole runs of the embedded base, each with what it stores: predicted and measured memory
    surrogates   instant estimates against full traces, on 200 random configurations
    instant      how long an instant estimate takes, and a model that was never seen
    published    predictions against what others measured on GPUs; writes core/catalog/validation.json
    resident     what stays allocated between two steps, against PEFT's benchmark; into the same file
    speed        the model of a step's time against published speeds; into the same file
    page         how long a change on the calculator's page takes in a browser (needs a Chromium)

Writes tests/records/bench_memory.json, and prints a report. `--only published` does one part, and keeps the others'
results. The two longest, runs and surrogates, can be done in pieces: `--only surrogates --piece 1/4`, then 2/4, …
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.time_calculators import TIMED, instant, page

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


PIECE = (1, 1)  # which of how many, of the parts that can be done so
PIECEWISE = ("runs", "surrogates")


def of_piece(cases: list[Any]) -> list[Any]:
    """Those of the piece that is asked for."""
    number, many = PIECE
    return cases[(number - 1) * len(cases) // many : number * len(cases) // many]


def joined(before: dict[str, Any], piece: dict[str, Any]) -> dict[str, Any]:
    """What the pieces before have found, and this one."""
    rows = [*before["rows"], *piece["rows"]]
    if "both" in piece:
        return runs_summed(rows)
    return {**piece, "rows": rows, **{k: before[k] + piece[k] for k in ("configurations", "differ")}}


def runs(size: int) -> dict[str, Any]:
    """Every method in both formats, with its default settings and others: what a run stores of its memory."""
    from tests.core.memory_support import grid

    return runs_summed([run_row(case) for case in of_piece(grid()[: size or None])])


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
    asked = []
    for _ in range(size or RANDOM):
        name, made = drawn.choice(current)
        asked.append((name, made, random_sizes(made, drawn)))
    for name, made, sizes in of_piece(asked):
        off = difference(name, made, sizes)
        if off:
            apart.append({"model": name, "key": made.key, "sizes": str(sizes), "bytes": off})
    return {
        "configurations": len(of_piece(asked)), "differ": len(apart), "rows": apart, "shipped": len(pool),
        "models": len({name for name, _ in pool}), "of_these_versions": len(current),
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
    from core.memory.throughput import scored
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
    residents = resident_scored()
    speeds = scored()
    steps_of = [
        {"step": r["detail"], "measured_bytes": r["measured_bytes"], "predicted_bytes": r["predicted_bytes"],
         "error": r["error"]} for r in found if r["source"] == "torchtune-flags" and r["method"] == "full"
    ]  # fmt: skip
    made = {
        "what": "Predicted peaks beside published ones", "command": "make bench-memory",
        "date": time.strftime("%Y-%m-%d"), "versions": versions(), "fitted": constants(residents, speeds),
        "summary": {"rows": len(found) + len(uncovered), "covered": len(found), "uncovered": len(uncovered),
                    "groups": summarised(found)},
        "rows": found, "uncovered": uncovered, "waterfall": steps_of, "resident": residents, "speed": speeds,
        "reserved": reserved_scored(found),
        "sources": {k: {"title": s.title, "where": s.says, "address": s.address} for k, s in SOURCES.items()},
    }  # fmt: skip
    if not size:
        FILE.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    band = band_of(found)
    return {
        "summary": made["summary"], "waterfall": steps_of, "text": band.text,
        "band": [band.low, band.likely, band.high], "reserved": reserved_scored(found),
        "beyond": [r["id"] for r in found if abs(r["error"]) > CAUSED],
        "beyond_without_cause": [r["id"] for r in found if abs(r["error"]) > CAUSED and not r["cause"]],
    }  # fmt: skip


def constants(residents: dict[str, Any], speeds: dict[str, Any]) -> list[dict[str, Any]]:
    """What was fitted, on which sources."""
    return [
        {"name": "mean", "value": residents["mean_tokens"], "unit": "tokens a row", "on": ["peft-bench"],
         "what": "Tokens a row, padding included, of the batch whose output is still there after an average step of "
         "PEFT's benchmark. Fitted on its rows without a low-rank method, used for its resident state alone."},
        {"name": "share", "value": round(speeds["share"], 3), "unit": "of a card's printed rate",
         "on": [speeds["fitted_on"]],
         "what": "What arithmetic reaches of it in a training step: the median of that source. Used for time alone."},
    ]  # fmt: skip


def resident_scored() -> dict[str, Any]:
    """What is allocated after a step, in PEFT's benchmark: what the method keeps, and the output of the last batch,
    its logits, and the keys and values that came with them."""
    from core.catalog import architecture_of
    from core.memory.resident import resident_rows, unexpressed
    from core.memory.validation import TOLERANCE_BYTES

    table = architecture_of("Llama-3.2-3B")
    vocabulary = next(m.in_features for m in table.modules if m.kind == "embedding")
    token = 2 * vocabulary + 2 * table.cache_numbers
    entries: list[dict[str, Any]] = [
        {"id": row.id, "method": row.method, "name": row.name, "how": row.how, "kind": row.kind,
         "measured_bytes": row.measured_bytes, "states": row.whole_bytes(table.total),
         "tokens": row.extra_tokens, "cause": row.cause}
        for row in resident_rows()
    ]  # fmt: skip
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
        "printed and what PEFT's source says that they keep besides.",
        "tolerance_bytes": TOLERANCE_BYTES, "mean_tokens": mean, "entries": entries,
        "unexpressed": [{"id": i, "method": m, "reason": why} for i, m, why in unexpressed()],
    }  # fmt: skip


def into_file(size: int, **parts: Any) -> None:
    """Put parts into the record that the page shows, and leave the others."""
    from core.memory.throughput import scored
    from core.memory.validation import FILE

    if size:
        return
    made = {**json.loads(FILE.read_text(encoding="utf-8")), **parts}
    made["fitted"] = constants(made["resident"], made.get("speed") or scored())
    FILE.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def resident(size: int) -> dict[str, Any]:
    """What stays allocated between two steps."""
    made = resident_scored()
    into_file(size, resident=made)
    return {k: made[k] for k in ("rows", "within", "others", "others_within", "mean_tokens")} | {
        "unexpressed": [row["method"] for row in made["unexpressed"]]
    }


def speed(size: int) -> dict[str, Any]:
    """The model of time against published speeds."""
    from core.memory.throughput import scored

    made = scored()
    into_file(size, speed=made)
    return {k: made[k] for k in ("share", "fitted_on", "band", "held_out", "groups")}


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "counts": counts, "instant": instant, "page": page, "published": published, "resident": resident, "runs": runs,
    "speed": speed, "steps": steps, "surrogates": surrogates,
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
        for what in ("estimate_ms", "slider_ms"):
            ms = i[what]
            lines.append(f"{TIMED[what]} takes {ms['median']:.2f} ms (median), {ms['worst']:.2f} at worst; the first, "
                         f"which reads the model's file, {ms['first']:.0f}.")  # fmt: skip
        lines += [
            f"  {what}: {seconds} s, {i['processor_seconds'][what]} s of a processor (load {i['load']:.1f})"
            for what, seconds in i["seconds"].items()
        ]
        lines.append(f"  Progress was told {i['told']} times before the first answer.")
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
        lines.append(f"  beyond 15 %: {', '.join(p['beyond']) or 'none'}")
    if "resident" in parts:
        r = parts["resident"]
        lines.append(
            f"Resident state: {r['within']} of {r['rows']} within 0.05 GiB, of methods that are not here "
            f"{r['others_within']} of {r['others']}; not expressed: {', '.join(r['unexpressed'])}"
        )
    if "speed" in parts:
        s = parts["speed"]
        off = s["held_out"]
        lines.append(
            f"Speed: off by {off['mean_abs']:.0%} on average over {off['rows']} rows that took no part, "
            f"{off['worst']:+.0%} at worst; {s['share']:.3f} of the rate is reached in {s['fitted_on']}"
        )
        lines += [f"  {name:16} {g['rows']:3} rows, mean {g['mean_abs']:.1%}, bias {g['bias']:+.1%}, worst "
                  f"{g['worst']:+.1%}" for name, g in s["groups"].items()]  # fmt: skip
    if "page" in parts:
        p = parts["page"]
        lines.append(f"A change on the page is answered in {p['median_ms']:.0f} ms (median of {p['updates']}; "
                     f"{p['worst_ms']:.0f} at worst, load {p['load']:.1f})")  # fmt: skip
    return "\n".join(lines)


def main(given: list[str] | None = None) -> int:
    """Run the parts, write the record, print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_memory", description=main.__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given more than once")
    parser.add_argument("--size", type=int, default=0, help="fewer cases, for a quick look: nothing is written")
    parser.add_argument("--piece", metavar="K/N", help=f"one of N pieces, from the first on: of {', '.join(PIECEWISE)}")
    asked = parser.parse_args(given)
    if asked.piece:
        global PIECE
        PIECE = tuple(map(int, asked.piece.split("/")))  # type: ignore[assignment]
        if not asked.only or set(asked.only) - set(PIECEWISE) or not 1 <= PIECE[0] <= PIECE[1]:
            parser.error(f"--piece goes with --only {' or '.join(PIECEWISE)}, and reads like 2/4")
    warnings.simplefilter("ignore")
    from core.memory.fit import versions

    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    parts: dict[str, Any] = dict(known.get("parts", {}))
    for name in asked.only or PARTS:
        print(f"{name} …", flush=True)
        began, before = time.perf_counter(), parts.get(name, {})
        parts[name] = PARTS[name](asked.size)
        took = time.perf_counter() - began
        if PIECE[0] > 1:
            parts[name], took = joined(before, parts[name]), took + before["took_seconds"]
        parts[name]["took_seconds"] = round(took, 1)
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
