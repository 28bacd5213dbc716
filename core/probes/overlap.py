"""Do two fine-tunings of a base move its weights in the same directions?

    φ(i, j) = ‖U₁ⁱᵀ·U₂ʲ‖_F² / min(i, j)      in [0, 1]

U₁ⁱ holds the first i singular directions of one run's ΔW, U₂ʲ the first j of the other's: 1 where the smaller subspace
lies in the larger, 0 where they are orthogonal (Hu et al. 2021, LoRA, section 7.2 and equation 4; there of the inputs'
side, with LoRA's A in the place of ΔW). Two random subspaces of dimensions i and j in n dimensions have

    E φ = (i·j/n) / min(i, j) = max(i, j)/n

because each of the i·j squared cosines is 1/n on average. That stands beside every value: in few dimensions, or with
many directions, much overlap means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import BadInput, Refused
from core.probes.delta import changes, place, without

if TYPE_CHECKING:
    import torch

    from core.probes import Source, Subject, Tell

TITLE = "Overlap of two runs"
RUNS = (2, 2)


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    side: str = knob(
        "input", "Which directions: of what a matrix reads (input) or of what it writes (output).",
        choices=("input", "output"), why="The paper compares what the matrices read.", folded=False,
    )  # fmt: skip
    directions: int = knob(
        8, "How many of the first directions of each run are compared.", low=1, high=64, folded=False,
        why="LoRA's default rank: all that such a run has.",
    )  # fmt: skip


def similarity(one: torch.Tensor, other: torch.Tensor) -> list[list[float]]:
    """φ(i, j) for every i and j.

    Args:
        one, other: (n, p) and (n, q), orthonormal columns, the first direction first.

    Returns:
        p rows of q numbers; [i−1][j−1] is φ(i, j).
    """
    import torch

    squares = (one.t() @ other).square().cumsum(0).cumsum(1)  # (p, q): Σ over the first i and j
    least = torch.minimum(torch.arange(1, one.shape[1] + 1)[:, None], torch.arange(1, other.shape[1] + 1)[None, :])
    # Rounding can lift it above 1 by a few units of 1e-16.
    return [[min(1.0, float(v)) for v in row] for row in squares / least]


def chance(i: int, j: int, n: int) -> float:
    """The mean of φ(i, j) over random subspaces of n dimensions."""
    return max(i, j) / n


def directions_of(source: Source, config: Config, tell: Tell) -> dict[str, torch.Tensor]:
    """The first directions of each matrix that a run changed, by the parameter's name: (n, at most `directions`).

    Raises:
        Refused: the run's method has no ΔW.
    """
    from core.probes.trained import load

    trained = load(source, tell)
    sentence = without(trained.config.method)
    if sentence is not None:
        raise Refused(sentence, "Compare runs of methods that change weights, such as lora or full.")
    out: dict[str, torch.Tensor] = {}
    for seen, change in enumerate(changes(trained.attached)):
        if not change.matrix:
            continue
        tell(min(seen / len(trained.attached.trainable_names()), 1.0), f"Taking {change.name} apart")
        u, _, vt = change.svd
        count = min(config.directions, change.rank)
        if count:
            out[change.name] = (vt[:count].t() if config.side == "input" else u[:, :count]).contiguous()
    if not out:
        raise Refused(
            f"The run {source.title or source.id} changed vectors only, which have no directions to compare.",
            "Compare runs that changed matrices.",
        )
    return out


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """φ of each matrix that both runs changed.

    Returns:
        {"side", "titles": [2], "modules": [{"name", "layer", "part", "dimensions": n, "phi": φ(i, j) as rows,
        "top": φ at all the directions of each, "chance": what random subspaces would have there}], "apart": number of
        matrices that only one of them changed, "mean", "mean_chance": of top and chance over the modules}

    Raises:
        BadInput: runs of different bases, or the same run twice. Refused: nothing that both changed.
    """
    from core.probes.trained import same_base

    first, second = subject.runs
    if first.id == second.id:
        raise BadInput("These are one and the same run.", "Choose another one to compare it with.")
    if not same_base(subject.runs):
        raise BadInput(
            "The two runs began from different bases, so their directions are not in the same space.",
            "Compare runs of one base.",
        )
    one = directions_of(first, config, lambda share, text: tell((share or 0) / 2, text))
    other = directions_of(second, config, lambda share, text: tell((1 + (share or 0)) / 2, text))
    # (Heads of classifiers that tell other labels apart are of other sizes.)
    common = [name for name in one if name in other and len(one[name]) == len(other[name])]
    if not common:
        raise Refused("The two runs changed no matrix in common.", "Compare runs that train the same modules.")
    rows: list[dict[str, Any]] = []
    for name in common:
        a, b = one[name], other[name]
        layer, part = place(name)
        phi = similarity(a, b)
        rows.append(
            {
                "name": name,
                "layer": layer,
                "part": part,
                "dimensions": len(a),
                "phi": phi,
                "top": phi[-1][-1],
                "chance": chance(a.shape[1], b.shape[1], len(a)),
            }
        )
    return {
        "side": config.side,
        "titles": [s.title or s.id for s in subject.runs],
        "modules": rows,
        "apart": len(one.keys() | other.keys()) - len(common),
        "mean": sum(r["top"] for r in rows) / len(rows),
        "mean_chance": sum(r["chance"] for r in rows) / len(rows),
    }
