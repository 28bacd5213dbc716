"""QLoRA against LoRA at equal steps: the same task, learning rate, steps and seed, on a base stored in 32 or in 4 bits.

    python -m core.quantization.pairs              # train what is missing and keep it in core/catalog/
    python -m core.quantization.pairs --seed 0 --task json

What is recorded comes from two tables of core/catalog/, both made by the engine on the embedded base with the defaults
of the two methods: the sweep (sweep_embedded.csv), which tried both at the same rates, and further seeds and FP4
(quantized_pairs.csv), at QLoRA's default rate and steps for the task.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from core.config import EMBEDDED, RunConfig, resolved
from core.world import TASKS

TABLE = Path(__file__).parents[1] / "catalog" / "quantized_pairs.csv"
COLUMNS = (
    "base", "task", "storage", "learning_rate", "steps", "seed", "exact_match", "held_out_loss", "skills_after",
    "device", "date",
)  # fmt: skip
SEEDS = (0, 1, 2)
STORAGES = {"float32": "LoRA", "nf4": "QLoRA, NF4", "fp4": "QLoRA, FP4", "int8": "QLoRA, INT8 per row"}
"""How the base is stored, and what training on it is called. Four bits come with double quantization, as by default."""
RECORDED = ("float32", "nf4", "fp4")


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    base: hash of the embedded base's weights, or the name of a base. storage: one of STORAGES. exact_match,
    skills_after: shares, 0..1 (None: not scored). held_out_loss: nats per token. others: every other setting, as JSON;
    empty in the record, where all are defaults.
    """

    base: str
    task: str
    storage: str
    learning_rate: float
    steps: int
    seed: int
    exact_match: float | None
    held_out_loss: float | None
    skills_after: float | None
    device: str
    date: str
    others: str = ""

    @property
    def setting(self) -> tuple[str, str, float, int, int, str]:
        """What two runs must share to be compared."""
        return self.base, self.task, self.learning_rate, self.steps, self.seed, self.others


@dataclass(frozen=True)
class Pair:
    """Two runs that differ in how the base is stored alone."""

    plain: Outcome
    stored: Outcome

    @property
    def points(self) -> float | None:
        """Exact match of the quantized one minus that of the other, in points of a hundred."""
        if self.plain.exact_match is None or self.stored.exact_match is None:
            return None
        return 100 * (self.stored.exact_match - self.plain.exact_match)

    @property
    def loss(self) -> float | None:
        """Held-out loss of the quantized one minus that of the other, nats per token."""
        if self.plain.held_out_loss is None or self.stored.held_out_loss is None:
            return None
        return self.stored.held_out_loss - self.plain.held_out_loss


def recorded() -> tuple[Outcome, ...]:
    """All that is recorded on the base that is shipped, one row a setting and storage; empty when there is nothing."""
    from core.sweep import base_hash

    mine = base_hash()
    found = {(r.setting, r.storage): r for r in (*_swept(), *_read()) if r.base == mine}
    return tuple(found.values())


def outcome_of(
    run: Mapping[str, Any],
    *,
    exact_match: float | None,
    held_out_loss: float | None,
    skills_after: float | None,
    device: str,
    date: str,
) -> Outcome | None:
    """A finished run of one's own for a comparison; None when it is of another method, not of a built-in task, or has
    four bits without double quantization, which would be a third thing to differ in.

    Args:
        run: its config, as `RunConfig.to_dict` has it, resolved.
    """
    if run.get("method") not in ("lora", "qlora") or not run.get("task"):
        return None
    settings, loop = dict(run.get("settings") or {}), dict(run.get("train") or {})
    kind, double = settings.pop("quant_type", None), settings.pop("double_quantization", None)
    rate, steps = loop.pop("learning_rate", None), loop.pop("steps", None)
    if rate is None or steps is None or (kind in ("nf4", "fp4") and not double):
        return None
    storage = "float32" if run["method"] == "lora" else str(kind)
    return Outcome(
        str(run.get("base")), str(run["task"]), storage, float(rate), int(steps), int(run.get("seed") or 0),
        exact_match, held_out_loss, skills_after, device, date, json.dumps([settings, loop], sort_keys=True),
    )  # fmt: skip


def pairs(outcomes: Iterable[Outcome]) -> tuple[Pair, ...]:
    """Every quantized run beside the unquantized one of the same setting, in the order of tasks, storages and seeds."""
    plain: dict[tuple, Outcome] = {}
    stored = []
    for o in outcomes:
        if o.storage == "float32":
            plain.setdefault(o.setting, o)
        else:
            stored.append(o)
    order = {name: i for i, name in enumerate([*TASKS, *STORAGES])}
    stored.sort(key=lambda o: (order.get(o.task, len(order)), order.get(o.storage, len(order)), o.seed))
    return tuple(Pair(plain[o.setting], o) for o in stored if o.setting in plain)


@dataclass(frozen=True)
class Mean:
    """Pairs of one task and storage over their seeds and rates. low, high: of the difference in points."""

    task: str
    storage: str
    pairs: int
    plain: float
    stored: float
    points: float
    low: float
    high: float
    loss: float | None


def means(found: Sequence[Pair]) -> tuple[Mean, ...]:
    """One row a task and storage; pairs that were not scored are left out."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in found:
        if pair.points is not None:
            groups.setdefault((pair.stored.task, pair.stored.storage), []).append(pair)
    out = []
    for (task, storage), part in groups.items():
        points = [p.points for p in part if p.points is not None]
        losses = [p.loss for p in part if p.loss is not None]
        out.append(
            Mean(
                task, storage, len(part), mean(p.plain.exact_match or 0 for p in part),
                mean(p.stored.exact_match or 0 for p in part), mean(points), min(points), max(points),
                mean(losses) if losses else None,
            )
        )  # fmt: skip
    return tuple(out)


def luck(outcomes: Iterable[Outcome]) -> tuple[str, float] | None:
    """The task on which LoRA itself differed most between seeds of one setting, and by how many points; None when no
    setting was run with two seeds. A difference between storages that is smaller may be luck as well."""
    groups: dict[tuple, list[tuple[str, float]]] = {}
    for o in outcomes:
        if o.storage == "float32" and o.exact_match is not None:
            key = (o.base, o.task, o.learning_rate, o.steps, o.others)
            groups.setdefault(key, []).append((o.task, 100 * o.exact_match))
    found = [
        (part[0][0], max(v for _, v in part) - min(v for _, v in part)) for part in groups.values() if len(part) > 1
    ]
    return max(found, key=lambda f: f[1]) if found else None


def config(task: str, storage: str, seed: int) -> RunConfig:
    """The run of one storage: QLoRA's default rate and steps for the task, whichever the storage."""
    from core.config import with_settings

    row = resolved(RunConfig(task=task, method="qlora")).train
    knobs: dict[str, Any] = {"learning_rate": row.learning_rate, "steps": row.steps}
    if storage != "float32":
        knobs["quant_type"] = storage
    method = "lora" if storage == "float32" else "qlora"
    return with_settings(RunConfig(base=EMBEDDED, task=task, method=method, seed=seed), knobs)


# --- the record -------------------------------------------------------------------------------------------------------


def _swept() -> list[Outcome]:
    """The sweep's runs of the two methods."""
    from core.sweep import read_table

    kinds = {"lora": "float32", "qlora": "nf4"}
    return [
        Outcome(
            r["base"], r["task"], kinds[r["method"]], float(r["learning_rate"]), int(r["steps"]), int(r["seed"]),
            float(r["exact_match"]), float(r["held_out_loss"]), float(r["skills_after"]), r["device"], r["date"],
        )
        for r in read_table()
        if r["method"] in kinds
    ]  # fmt: skip


def _read() -> list[Outcome]:
    if not TABLE.exists():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return [
            Outcome(
                r["base"], r["task"], r["storage"], float(r["learning_rate"]), int(r["steps"]), int(r["seed"]),
                float(r["exact_match"]), float(r["held_out_loss"]), float(r["skills_after"]),
                r["device"], r["date"],
            )
            for r in csv.DictReader(file)
        ]  # fmt: skip


def train_one(task: str, storage: str, seed: int) -> Outcome:
    """Train one run and return its row."""
    from core.sweep import run_point

    wanted = config(task, storage, seed)
    loop = wanted.train
    row: dict[str, Any] = run_point(
        wanted.method, task, loop.learning_rate or 0.0, loop.steps or 0, seed, wanted.settings
    )
    named: dict[str, Any] = {name: storage if name == "storage" else row[name] for name in COLUMNS}
    return Outcome(**named)


def main(arguments: list[str] | None = None) -> int:
    """Train what the record lacks."""
    parser = argparse.ArgumentParser(
        prog="python -m core.quantization.pairs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--task", choices=[*TASKS], action="append")
    parser.add_argument("--seed", type=int, action="append")
    args = parser.parse_args(arguments)
    done = {(r.task, r.storage, r.learning_rate, r.steps, r.seed) for r in recorded()}
    for seed in args.seed or SEEDS:
        for task in args.task or TASKS:
            for storage in RECORDED:
                loop = config(task, storage, seed).train
                if (task, storage, loop.learning_rate, loop.steps, seed) in done:
                    continue
                row = train_one(task, storage, seed)
                new = not TABLE.exists()
                with TABLE.open("a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    if new:
                        writer.writeheader()
                    writer.writerow({name: getattr(row, name) for name in COLUMNS})
                print(row, file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
