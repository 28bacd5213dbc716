"""What fine-tuning took from a model: old skills before and after, and what the sweep knows about learning against it.

    lost({"addition": 1.0, "reversal": 1.0}, {"addition": 0.5, "reversal": 1.0})    # 0.25

The sweep's table (core/catalog/sweep_embedded.csv) holds, for every method at several learning rates, how much of the
task was learnt and how much of the old skills was kept; `swept` reads the rows of the base that is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from core.errors import BadInput, NotFound


def lost(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The mean fall of the old skills, as a share: before minus after, over the skills that both name. Negative when
    they got better.

    Raises:
        BadInput: they have no skill in common.
    """
    common = [name for name in before if name in after]
    if not common:
        raise BadInput("There is no skill that was scored both before and after.")
    return sum(before[name] - after[name] for name in common) / len(common)


@dataclass(frozen=True)
class Outcome:
    """A run of the sweep. learnt: share of held-out items of the task that are right; kept: of the old skills'. before:
    of the old skills' before the run. Shares are 0..1."""

    method: str
    task: str
    learning_rate: float
    steps: int
    seed: int
    learnt: float
    before: float
    kept: float
    trainable: int
    seconds: float
    device: str
    date: str

    @property
    def lost(self) -> float:
        """Mean fall of the old skills."""
        return self.before - self.kept


@lru_cache(maxsize=1)
def swept() -> tuple[Outcome, ...]:
    """Every run of the sweep on the base that is shipped, in the order of the table."""
    from core.sweep import base_hash, read_table

    mine = base_hash()
    return tuple(
        Outcome(
            r["method"], r["task"], float(r["learning_rate"]), int(r["steps"]), int(r["seed"]),
            float(r["exact_match"]), float(r["skills_before"]), float(r["skills_after"]), int(r["trainable"]),
            float(r["train_seconds"]), r["device"], r["date"],
        )
        for r in read_table()
        if r["base"] == mine
    )  # fmt: skip


def swept_point(method: str, task: str, learning_rate: float) -> Outcome:
    """The sweep's run of a method at a rate.

    Raises:
        NotFound: it has none.
    """
    found = [r for r in swept() if r.method == method and r.task == task]
    for row in found:
        if row.learning_rate == learning_rate:
            return row
    rates = ", ".join(f"{r.learning_rate:g}" for r in found) or "none"
    raise NotFound(f"The sweep has no {method} on {task} at {learning_rate:g}.", f"It has the rates {rates}.")


__all__ = ["Outcome", "lost", "swept", "swept_point"]
