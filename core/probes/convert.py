"""A run's change as a LoRA of rising rank: what the truncation leaves out of the weights, and what of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.config import knob
from core.export.convert import as_lora, decompose, keep, report
from core.export.subject import (
    check_merges,
    config_of,
    device,
    folder_bytes,
    load_run,
    precision_of,
    questions,
    scores,
)
from core.probes import Subject, Tell

TITLE = "Conversion to LoRA"
RUNS = (1, 1)
FOLDER = "lora"


@dataclass(frozen=True)
class Config:
    """items: how many. most: the highest rank. rank: of the folder that stays."""

    items: int = knob(
        100, "How many held-out items of the task, and of each old skill, are asked.", unit="items", low=1, high=1000,
        why="As many as the run itself was scored on, by default.",
    )  # fmt: skip
    most: int = knob(
        64, "The highest rank that is tried; below it every power of two.", low=1, high=1024,
        why="Where engines' limits lie; a change of lower rank is tried up to its own.",
    )  # fmt: skip
    rank: int = knob(
        0, "Keep the LoRA of this rank, to be downloaded; 0: none.", low=0, high=1024,
        why="Look at the curve first.",
    )  # fmt: skip


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Convert, cut and score.

    Returns:
        rank: at which nothing is lost; uniform: the highest that all matrices can have. trained: the run's own scores.
        rows: rank, error (‖ΔW − BA‖ / ‖ΔW‖, 0..1), scores, and same: the share of answers to the task that are the
        run's to the letter. modules: module, shape, rank, norm, and its errors at each of ranks. left_out: parameter ->
        norm of its change. kept: folder, rank, error and bytes, or None.

    Raises:
        Refused: a method that cannot be merged, or that changes no matrix.
        BadInput: `rank` is above what any matrix can have.
    """
    from core.base import load_base
    from core.methods import saved

    (run,) = subject.runs
    settings = config_of(run)
    check_merges(settings.method)
    tell(None, "The run's own scores")
    base, _ = load_run(run, keep_base=False)
    asked = questions(run, base, config.items)
    precision = precision_of(run)
    trained = scores(base.model, base, asked, precision)

    def plain() -> Any:
        return load_base(settings.base, revision=settings.revision, device=device(), **saved.head_in(run.adapter))

    tell(None, "Decomposing what it changed")
    change = decompose(plain().model, run.adapter)
    top = min(change.rank, config.most)
    ranks = sorted({r for r in (2**i for i in range(11)) if r < top} | {top})
    fresh = plain()
    attached = as_lora(fresh.model, change, top)
    fresh.model.eval()
    rows = []
    for number, rank in enumerate(reversed(ranks)):
        tell(number / len(ranks), f"Scoring rank {rank}")
        keep(attached, rank)
        got = scores(fresh.model, fresh, asked, precision)
        same = sum(a == b for a, b in zip(got.answers, trained.answers, strict=True))
        rows.append(
            {
                "rank": rank, "error": change.error(rank), **got.to_dict(),
                "same": same / len(got.answers) if got.answers else None,
            }
        )  # fmt: skip
    rows.reverse()
    kept = None
    if config.rank:
        as_lora(plain().model, change, config.rank).save(subject.folder / FOLDER)
        size = folder_bytes(subject.folder / FOLDER)
        kept = {
            "where": subject.folder.name,
            "folder": FOLDER,
            "rank": config.rank,
            "error": change.error(config.rank),
            "bytes": size,
        }
    modules = [
        {**{k: m[k] for k in ("module", "shape", "rank", "norm")}, "errors": [], "rank_limit": min(m["shape"])}
        for m in report(change, ranks[0], run.adapter).modules
    ]
    for rank in ranks:
        for row, told in zip(modules, report(change, rank, run.adapter).modules, strict=True):
            row["errors"].append(told["error"])
    return {
        "method": settings.method,
        "rank": change.rank,
        "uniform": change.uniform,
        "ranks": ranks,
        "trained": trained.to_dict(),
        "items": asked.held_out,
        "rows": rows,
        "modules": modules,
        "left_out": change.left_out,
        "adapter_bytes": folder_bytes(run.adapter),
        "kept": kept,
    }
