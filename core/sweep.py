"""Which learning rate and how many steps each method wants, per task, on the embedded base.

Runs the real engine over a grid and keeps every row in `core/catalog/sweep_embedded.csv`; the best row of each
method and task becomes the default in `core/defaults.toml`. Rows that the table already holds (same base weights, same
grid point) are not run again, so an interrupted sweep goes on where it was.

    python -m core.sweep                 # everything that is missing, then write the defaults
    python -m core.sweep --method bitfit --task json
    python -m core.sweep --short         # the same for runs of a race's length (core.race), in a table of their own
    python -m core.sweep --only-defaults # choose again from the tables

How the best is chosen: the highest exact match on held-out items; among rows within two percentage points of it, the
one that kept most of the old skills; among equals, the one with fewer steps, then the one of the lower held-out loss:
where several rates get everything right, that one learnt quickest; where none learns anything, the lowest held-out loss
alone. "any" (for a person's own data) takes, of the rates tried on most tasks, the one with the best mean exact match
over them; among equals likewise. "other" (another base) is not swept: its rates are published ones. A race has fewer
steps, for which a higher rate does better: `rates` has, by the number of steps, the best of the short runs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from core.config import RunConfig, TrainConfig
from core.methods import METHODS
from core.world import TASKS

TABLE = Path(__file__).parent / "catalog" / "sweep_embedded.csv"
SHORT_TABLE = TABLE.with_name("sweep_short.csv")
DEFAULTS = Path(__file__).parent / "defaults.toml"
COLUMNS = (
    "base", "method", "task", "learning_rate", "steps", "seed", "before", "exact_match", "held_out_loss",
    "skills_before", "skills_after", "train_seconds", "total_seconds", "trainable", "device", "date",
)  # fmt: skip

# Form is recombined within a few dozen steps; knowledge has to be written into the weights, fact by fact.
STEPS = {"json": 60, "persona": 60, "jargon": 100, "facts": 120}
CLOSE = 0.02

SHORT_STEPS = {"json": 30}
"""Of the short runs, whatever a method's PATIENCE: in a race everybody has as many."""


def base_hash() -> str:
    """First characters of the SHA-256 of the embedded base's weights: rows of another base do not count."""
    from core.base import EMBEDDED_FOLDER

    return hashlib.sha256((EMBEDDED_FOLDER / "model.safetensors").read_bytes()).hexdigest()[:12]


def read_table(path: Path = TABLE) -> list[dict[str, str]]:
    """All rows of a table, as text."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def points(methods: list[str], tasks: list[str], short: bool = False) -> Iterator[tuple[str, str, float, int]]:
    """Every (method, task, learning rate, steps) of the grid: each method's own rates (RATES), and the task's steps
    times the method's PATIENCE; of the short runs, a race's steps."""
    for method in methods:
        for task in tasks:
            for rate in METHODS[method].RATES:
                if not short:
                    yield method, task, rate, STEPS[task] * METHODS[method].PATIENCE
                elif task in SHORT_STEPS:
                    yield method, task, rate, SHORT_STEPS[task]


def run_point(method: str, task: str, rate: float, steps: int, seed: int, settings: Any = None) -> dict[str, object]:
    """Train one point with the engine and return its row.

    Args:
        settings: of the method; its defaults when None.
    """
    from core.events import Evaluated, Failed, Finished, Started
    from core.train import train

    config = RunConfig(
        task=task, method=method, settings=settings or METHODS[method].Config(), seed=seed,
        train=TrainConfig(learning_rate=rate, steps=steps, eval_every=steps),
    )  # fmt: skip
    start = time.perf_counter()
    scores, device, finished = [], "", None
    with tempfile.TemporaryDirectory() as folder:
        for event in train(config, Path(folder)):
            if isinstance(event, Evaluated):
                scores.append(event)
            elif isinstance(event, Started):
                device = event.device
            elif isinstance(event, Finished):
                finished = event
            elif isinstance(event, Failed):
                raise SystemExit(f"{method} {task} {rate}: {event.sentence}")
    assert finished is not None
    assert scores[-1].loss is not None  # every task has held-out items
    return {
        "base": base_hash(), "method": method, "task": task, "learning_rate": rate, "steps": steps, "seed": seed,
        "before": scores[0].exact_match, "exact_match": scores[-1].exact_match,
        "held_out_loss": round(scores[-1].loss, 4),
        "skills_before": round(mean(scores[0].skills.values()), 4),
        "skills_after": round(mean(scores[-1].skills.values()), 4),
        "train_seconds": round(finished.seconds, 1), "total_seconds": round(time.perf_counter() - start, 1),
        "trainable": finished.trainable, "device": device, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def best(rows: list[dict[str, str]]) -> dict[str, str]:
    """The row that becomes the default (rule in the module's docstring)."""
    top = max(float(r["exact_match"]) for r in rows)
    if top <= CLOSE:  # a method's number of right answers by chance says nothing; its loss still falls
        return min(rows, key=lambda r: float(r["held_out_loss"]))
    close = [r for r in rows if float(r["exact_match"]) >= top - CLOSE]
    return max(close, key=lambda r: (float(r["skills_after"]), -int(r["steps"]), -float(r["held_out_loss"])))


def _over_tasks(rows: list[dict[str, str]]) -> tuple[float, float, float]:
    """What a rate is judged by over its tasks: the mean score; among equals the old skills, then the loss."""
    told = (("exact_match", 1), ("skills_after", 1), ("held_out_loss", -1))
    score, skills, loss = (sign * mean(float(r[name]) for r in rows) for name, sign in told)
    return score, skills, loss


def defaults_text(rows: list[dict[str, str]], short: list[dict[str, str]]) -> str:
    """The content of core/defaults.toml that follows from the rows of both tables."""
    lines = [
        "# Default learning rate and steps per method and task, on the embedded base.",
        "# Written by `python -m core.sweep` from sweep_embedded.csv and sweep_short.csv in core/catalog; not by hand.",
    ]
    for method in METHODS:
        mine = [r for r in rows if r["method"] == method]
        for task in TASKS:
            part = [r for r in mine if r["task"] == task]
            if part:
                row = best(part)
                lines += [f"[{method}.{task}]", f"learning_rate = {row['learning_rate']}", f"steps = {row['steps']}"]
                quick = [r for r in short if (r["method"], r["task"]) == (method, task)]
                by_steps = {
                    n: [r for r in quick if int(r["steps"]) == n] for n in sorted({int(r["steps"]) for r in quick})
                }
                if by_steps:
                    told = ", ".join(f"{n} = {best(those)['learning_rate']}" for n, those in by_steps.items())
                    lines.append(f"rates = {{ {told} }}")
        if mine:
            tried = {
                r["learning_rate"]: {q["task"] for q in mine if q["learning_rate"] == r["learning_rate"]} for r in mine
            }
            # A rate that was tried on one easy task only must not win on it: only those tried on most tasks compete.
            rates = {x for x, tasks in tried.items() if len(tasks) == max(map(len, tried.values()))}
            rate = max(sorted(rates), key=lambda x: _over_tasks([r for r in mine if r["learning_rate"] == x]))
            steps = max(int(best([r for r in mine if r["task"] == t])["steps"]) for t in {r["task"] for r in mine})
            lines += [f"[{method}.any]", f"learning_rate = {rate}", f"steps = {steps}"]
            # Another base gets a published rate: what suits four million parameters would wreck a billion.
            published, source = METHODS[method].PUBLISHED
            lines += [f"# {source}", f"[{method}.other]", f"learning_rate = {published}", f"steps = {steps}"]
            for_encoders = getattr(METHODS[method], "PUBLISHED_ENCODER", None)
            if for_encoders is not None:
                published, source = for_encoders
                lines += [f"# {source}", f"[{method}.encoder]", f"learning_rate = {published}", f"steps = {steps}"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then write the defaults."""
    parser = argparse.ArgumentParser(prog="python -m core.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=[*METHODS], action="append")
    parser.add_argument("--task", choices=[*TASKS], action="append")
    parser.add_argument("--learning-rate", type=float, action="append", help="instead of the grid's")
    parser.add_argument("--steps", type=int, action="append", help="instead of the grid's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="runs of a race's length")
    parser.add_argument("--only-defaults", action="store_true")
    args = parser.parse_args(arguments)
    table = SHORT_TABLE if args.short else TABLE
    rows, mine = read_table(table), base_hash()
    done = {
        (r["base"], r["method"], r["task"], float(r["learning_rate"]), int(r["steps"]), int(r["seed"])) for r in rows
    }
    todo = (
        [] if args.only_defaults else list(points(args.method or list(METHODS), args.task or list(TASKS), args.short))
    )
    if args.learning_rate or args.steps:
        todo = sorted(
            {
                (m, t, rate, steps)
                for m, t, grid_rate, grid_steps in todo
                for rate in args.learning_rate or [grid_rate]
                for steps in args.steps or [grid_steps]
            }
        )
    todo = [p for p in todo if (mine, *p, args.seed) not in done]
    for number, point in enumerate(todo, 1):
        row = run_point(*point, args.seed)
        new = not table.exists()
        with table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        shown = " ".join(f"{k}={row[k]}" for k in COLUMNS[1:13])
        print(f"[{number}/{len(todo)}] {shown}", file=sys.stderr, flush=True)
    current, short = ([r for r in read_table(one) if r["base"] == mine] for one in (TABLE, SHORT_TABLE))
    if current:
        DEFAULTS.write_text(defaults_text(current, short), encoding="utf-8")
        print(DEFAULTS.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
