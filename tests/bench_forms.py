"""What the forms of a training step take on this machine's CPU: in 16 and 32 bits, written out by hand, compiled.

    python -m tests.bench_forms                    # LoRA on the embedded base
    python -m tests.bench_forms --method full

All forms train the same batches in turn, one step each, so a machine whose speed drifts slows all alike. *plain*:
through transformers' own layers, as a run does in bfloat16 by default; *written out*: core/fast/llama.py, as a run does
in float32; *compiled*: the option `compile` (core/fast/compiled.py). Compiling costs what the first steps took longer
than as many later ones. Ratios are quoted, with the quartiles of single steps; prints, writes nothing.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

from core.config import RunConfig, TrainConfig, resolved
from core.train import _Run

FIRST, STEPS = 6, 16
FORMS = (
    ("bfloat16", "plain"), ("bfloat16", "compiled"), ("float32", "plain"), ("float32", "written out"),
    ("float32", "compiled"),
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
    asked = parser.parse_args(given)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    forms = tuple(f for f in FORMS if not (asked.without_compiler and f[1] == "compiled"))
    found = timed(forms, asked.method)
    step = {form: statistics.median(taken[FIRST:]) for form, taken in found.items()}
    usual = {"bfloat16": step["bfloat16", "plain"], "float32": step["float32", "written out"]}
    print(f"{asked.method}: time of a step over that of a plain one in bfloat16, median (quartiles)")
    for form, taken in found.items():
        first, _, third = statistics.quantiles([t / step["bfloat16", "plain"] for t in taken[FIRST:]], n=4)
        told = f"{form[0]:9} {form[1]:12} {step[form] / usual['bfloat16']:.2f} ({first:.2f} to {third:.2f})"
        if form[1] == "compiled":
            cost, gain = sum(taken[:FIRST]) - FIRST * step[form], usual[form[0]] - step[form]
            pays = f"pays from {cost / gain:,.0f} steps on" if gain > 0 else "never pays: a run's own form is faster"
            told += f"   compiling took {cost:.0f} s: it {pays}"
        print(told, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
