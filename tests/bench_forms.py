"""What the forms of a training step take on this machine's CPU: in 16 and 32 bits, written out by hand, compiled.

    python -m tests.bench_forms                    # LoRA on the embedded base
    python -m tests.bench_forms --method full
    python -m tests.bench_forms --record           # also writes tests/records/forms_cpu.json

All forms train the same batches in turn, one step each, so a machine whose speed drifts slows all alike. *plain*:
through transformers' own layers; *written out*: core/fast/llama.py, as a run does by default; *compiled*: the option
`compile` (core/fast/compiled.py). Compiling costs what the first steps took longer than as many later ones, and gains
what a step is faster than the written-out one in the same precision. Ratios are quoted, with the quartiles of single
steps.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from core.config import RunConfig, TrainConfig, resolved
from core.train import _Run
from tests.bench import write_record

WHAT = "time of a training step by its form, over that of a plain one in bfloat16; embedded base, json task"
RECORD = Path(__file__).parent / "records" / "forms_cpu.json"
FIRST, STEPS = 6, 16
FORMS = (
    ("bfloat16", "plain"), ("bfloat16", "written out"), ("bfloat16", "compiled"), ("float32", "plain"),
    ("float32", "written out"), ("float32", "compiled"),
)  # fmt: skip
Form = tuple[str, str]


def prepared(form: Form, method: str, folder: Path) -> _Run:
    """A run that is set up and will be stepped by hand."""
    precision, name = form
    loop = TrainConfig(
        compile=name == "compiled", precision=precision, eval_items=4, skill_items=0, steps=1000, learning_rate=1e-3
    )
    run = _Run(resolved(RunConfig(method=method, train=loop)), folder, lambda: False)
    run._prepare()
    run.measured_step = 0
    if name == "plain":
        run.loss_sum = run.plain_loss_sum
    return run


def timed(forms: tuple[Form, ...], method: str) -> dict[Form, list[float]]:
    """Seconds of every step of every form."""
    with tempfile.TemporaryDirectory() as folder:
        # What was compiled another day would cost nothing.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        runs = {form: prepared(form, method, Path(folder)) for form in forms}
        seconds: dict[Form, list[float]] = {form: [] for form in forms}
        for _ in range(FIRST + STEPS):
            for form, run in runs.items():
                before = run.seconds
                run._train_step()
                seconds[form].append(run.seconds - before)
    return seconds


def main(given: list[str] | None = None) -> int:
    """Compare, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_forms", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="lora")
    parser.add_argument("--without-compiler", action="store_true")
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args(given)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    forms = tuple(f for f in FORMS if not (asked.without_compiler and f[1] == "compiled"))
    rows = compared(timed(forms, asked.method))
    print(f"{asked.method}: time of a step over that of a plain one in bfloat16, median (quartiles)")
    for row in rows:
        told = f"{row['precision']:9} {row['form']:12} {row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        print(told + (f"   {costs(row)}" if row["form"] == "compiled" else ""), flush=True)
    if asked.record:
        write_record(RECORD, WHAT, "python -m tests.bench_forms --record", method=asked.method, rows=rows)
    return 0


def compared(found: dict[Form, list[float]]) -> list[dict[str, Any]]:
    """Of every form: the time of a step over that of a plain one in bfloat16 (median, quartiles); of a compiled one
    also the seconds of its compiling, and from how many steps on it pays (None: never), against the form that a run
    takes by itself in that precision."""
    step = {form: statistics.median(taken[FIRST:]) for form, taken in found.items()}
    unit = step["bfloat16", "plain"]
    rows = []
    for form, taken in found.items():
        low, _, high = statistics.quantiles([t / unit for t in taken[FIRST:]], n=4)
        row: dict[str, Any] = {
            "precision": form[0], "form": form[1],
            "ratio": round(step[form] / unit, 3), "low": round(low, 3), "high": round(high, 3),
        }  # fmt: skip
        if form[1] == "compiled":
            own = step.get((form[0], "written out"), step[form[0], "plain"])
            cost = sum(taken[:FIRST]) - FIRST * step[form]
            gain = own - step[form]
            row |= {"compiling_seconds": round(cost, 1), "pays_after": round(cost / gain) if gain > 0 else None}
        rows.append(row)
    return rows


def costs(row: dict[str, Any]) -> str:
    """What compiling cost, in words."""
    after = row["pays_after"]
    pays = f"pays from {after:,} steps on" if after is not None else "never pays: a run's own form is as fast"
    return f"compiling took {row['compiling_seconds']:.0f} s: it {pays}"


if __name__ == "__main__":
    sys.exit(main())
