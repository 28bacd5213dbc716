"""`make gpu`: everything that needs a GPU, in one command of under ten minutes.

    python -m tests.gpu               # tests, kernels, steps, runs, memory; writes records; prints a table
    python -m tests.gpu --dry-run     # a rehearsal on any machine: all of it but the timing; keeps nothing

Parts: the GPU tests; every kernel against its reference and rivals (kernels/bench.py), which also decides which kernels
are used on this kind of card (kernels/measured.json) and feeds the Kernels page (kernels/records); the engine's step,
captured and as it comes, against Trainer + PEFT + bitsandbytes (tests/gpu_steps.py), with the share of the roofline;
default runs of the main methods; predicted beside measured memory (tests/gpu_memory.py).

Runs unattended and without a network, with the packages that are there; what is missing is skipped and said. Each part
has its share of the time, and each record is written when its part is done, so that a run that is cut off leaves what
it has. Without a CUDA device it says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from core.config import RunConfig, TrainConfig
from core.events import Evaluated, Failed, Finished
from core.train import train, versions
from kernels import KERNELS
from kernels import bench as kernel_bench
from tests import gpu_memory, gpu_steps
from tests.gpu_memory import slug

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "tests" / "records"
COMPARED = ("full", "lora", "qlora", "bitfit")
SECONDS = 570.0  # in all
MEMORY_SECONDS = 150.0  # that are left to the memory cases, at least
TESTS = ["-m", "gpu", "tests/core", "tests/oracles", "tests/kernels"]


def run_default(method: str, **loop: Any) -> dict[str, Any]:
    """The default json run of a method on this GPU: quality, seconds, measured memory by term.

    Args:
        loop: settings other than the default ones, for a rehearsal.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        events = list(train(RunConfig(method=method, train=TrainConfig(**loop)), Path(folder)))
        seconds = time.perf_counter() - start
    last = events[-1]
    if isinstance(last, Failed):
        return {"method": method, "failed": last.sentence}
    assert isinstance(last, Finished)
    scores = [e for e in events if isinstance(e, Evaluated)]
    return {
        "method": method,
        "exact_match_before": scores[0].exact_match,
        "exact_match_after": scores[-1].exact_match,
        "seconds": round(seconds, 2),
        "training_seconds": round(last.seconds, 2),
        "ledger": last.ledger,
    }


def written(path: Path, record: dict[str, Any]) -> None:
    """Write a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}", flush=True)


MADE_UP = {"kernel": 1.0, "reference": 2.0}
"""Seconds that a rehearsal pretends, so that what follows from timings can be carried out; they go into no record."""


def decisions(rows: list[dict[str, Any]], folder: Path) -> int:
    """What follows from the timings, with made-up ones and in a temporary folder: which kernels are used from which
    size on, that kept and read again, the record and its points, the steps' shares of the roofline."""
    from core import kernel_records

    timed = [{**row, "seconds": {name: {"median": MADE_UP.get(name, 3.0)} for name in row["versions"]}} for row in rows]
    found = kernel_bench.thresholds(timed)
    kept = folder / "measured.json"
    for capability in ("0.0", "0.1", "0.0"):  # a card that is new, another one, the first one again
        kernel_bench.keep(capability, found, kept)
    if json.loads(kept.read_text(encoding="utf-8")) != {"0.0": found, "0.1": found} or set(found) != set(KERNELS):
        print(f"The thresholds are not what the made-up seconds say: {found}")
        return 1
    ceilings = {"bytes_per_second": 1e12, "flops_per_second": 1e14}
    record = {"device": "none", "date": "2000-01-01", "ceilings": ceilings, "rows": timed}
    written(folder / "record.json", record)
    points = kernel_records.points(json.loads((folder / "record.json").read_text(encoding="utf-8")))
    steps = [
        {"shape": "tiny", "method": "lora", "way": way, "seconds": [MADE_UP["reference"]], "peak_bytes": 0}
        for way in gpu_steps.WAYS
    ]
    shares = gpu_steps.with_shares(steps, ceilings)
    print(f"{len(found)} kernels would be used, {len(points)} points; {gpu_steps.line(shares[0])}")
    return 0 if len(points) == sum(len(r["versions"]) for r in rows) else 1


def rehearse() -> int:
    """Every part's path, on small shapes and on the CPU if there is no GPU; nothing is timed, and what is written goes
    into a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        return _rehearse(Path(place))


def _rehearse(folder: Path) -> int:
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", *TESTS],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print("GPU tests found:", (collected.stdout.strip().splitlines() or ["none"])[-1], flush=True)
    kernels = folder / "kernels.json"
    parts: list[tuple[str, Callable[[], int]]] = [
        ("GPU tests", lambda: collected.returncode),
        ("kernels", lambda: kernel_bench.main(["--dry-run", "--out", str(kernels)])),
        ("decisions", lambda: decisions(json.loads(kernels.read_text(encoding="utf-8"))["rows"], folder)),
        ("steps", lambda: gpu_steps.main(["--dry-run"])),
        ("runs", lambda: int("failed" in run_default("lora", steps=2, eval_items=4, skill_items=0, batch_size=8))),
        ("memory", lambda: gpu_memory.main(["--dry-run"])),
    ]
    failed = []
    for name, part in parts:
        print(f"--- {name}", flush=True)
        if part():
            failed.append(name)
    print(f"Rehearsed {len(parts)} parts; {'failed: ' + ', '.join(failed) if failed else 'all went through'}.")
    return 1 if failed else 0


def main(given: list[str] | None = None) -> int:
    """Test, measure, write the records, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="rehearse without timing; keeps nothing")
    asked = parser.parse_args(given)
    if asked.dry_run:
        return rehearse()
    if not torch.cuda.is_available():
        print("make gpu needs a CUDA device, and torch sees none here. Nothing was measured.", file=sys.stderr)
        return 2
    began = time.monotonic()

    def left() -> float:
        return SECONDS - (time.monotonic() - began)

    name = torch.cuda.get_device_name()
    about = {**kernel_bench.about(), "command": "make gpu"}
    about["versions"] = {**versions(), **about["versions"]}
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--timeout", "120", *TESTS],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(tests.stdout[-4000:], flush=True)

    print("--- kernels", flush=True)
    kernel_rows = kernel_bench.measure(
        list(kernel_bench.KERNELS), False, lambda row: print(kernel_bench.line(row), flush=True)
    )
    ceilings = kernel_bench.ceilings()
    thresholds = kernel_bench.thresholds(kernel_rows) if tests.returncode == 0 else {}
    kernel_bench.keep(str(about["capability"]), thresholds)
    kernel_record = {
        "what": "kernels, forward and backward, against their references and rivals", **about, "ceilings": ceilings,
        "thresholds": thresholds, "rows": kernel_rows,
    }  # fmt: skip
    written(ROOT / "kernels" / "records" / f"{slug(name)}.json", kernel_record)

    print("--- steps", flush=True)
    steps: list[dict[str, Any]] = []
    known: dict[tuple[str, str], bool] = {}
    for case in gpu_steps.cases(False):
        if left() < MEMORY_SECONDS:
            steps.append({**case, "left_out": "There was no time left for it."})
            continue
        steps.append(gpu_steps.run(case, False, known, min(120.0, left())))
    steps = gpu_steps.with_shares(steps, ceilings)
    for row in steps:
        print(gpu_steps.line(row), flush=True)
    runs = [run_default(method) if left() > MEMORY_SECONDS else {"method": method, "failed": "no time left"}
            for method in COMPARED]  # fmt: skip
    record = {
        "what": "GPU tests; a training step three ways, with the share of the roofline; default json runs on the "
        "embedded base",
        **about,
        "tests": tests.stdout.strip().splitlines()[-1] if tests.stdout.strip() else "no output",
        "ceilings": ceilings, "steps": steps, "runs": runs,
    }  # fmt: skip
    written(RECORDS / f"gpu_{slug(name)}.json", record)

    print("--- memory", flush=True)
    memory = gpu_memory.main(["--seconds", f"{max(30.0, left()):.0f}"])
    print("--- all of it")
    print(record["tests"])
    for row in kernel_rows:
        print(kernel_bench.line(row))
    for row in steps:
        print(gpu_steps.line(row))
    for run in runs:
        print({k: v for k, v in run.items() if k != "ledger"})
    print(f"{time.monotonic() - began:.0f} s")
    wrong = not all(r["passed"] for r in kernel_rows)
    return tests.returncode or memory or int(wrong)


if __name__ == "__main__":
    sys.exit(main())
