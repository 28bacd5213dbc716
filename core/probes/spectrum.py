"""The spectrum of ΔW: in how many directions a fine-tuning went, how far, and where.

For each changed matrix, with the singular values σ₁ ≥ σ₂ ≥ … of ΔW = UΣVᵀ:

    share(k) = Σ_{i≤k} σᵢ² / ‖ΔW‖_F²                   energy in the first k directions
    erank    = exp(−Σ pᵢ ln pᵢ),  pᵢ = σᵢ / Σσ         effective rank (Roy and Vetterli 2007, The effective rank: a
                                                       measure of effective dimensionality, section 2)
    srank    = ‖ΔW‖_F² / σ₁²                           stable rank (Rudelson and Vershynin 2007, Sampling from large
                                                       matrices, J. ACM 54(4), section 1)
    amplify  = ‖ΔW_r‖_F / ‖U_rᵀ·W₀·V_r‖_F              amplification (Hu et al. 2021, LoRA, section 7.3, table 7): how
                                                       much of its own length W₀ has in the r directions of ΔW

A layer's matrices stand side by side in it, as blocks of one block-diagonal matrix whose singular values are all of
theirs together: that is what "half of the change of a layer sits in n directions" counts. Directions that are nothing
but rounding are not counted as directions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.probes.delta import Change, changes, place, tensors, without

if TYPE_CHECKING:
    import torch

    from core.probes import Subject, Tell

TITLE = "Spectrum of ΔW"
RUNS = (1, 1)
VALUES = 256  # singular values that are kept of a matrix; sums are taken over all
HALF, MOST = 0.5, 0.9
WIDE = 1024  # a full decomposition up to here takes under a second


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    directions: int = knob(
        8, "r: how many of the first directions of ΔW the amplification is taken in.", low=1, high=256,
        why="LoRA's default rank; the paper shows 4 and 64.",
    )  # fmt: skip


def effective_rank(values: Sequence[float]) -> float:
    """exp of the entropy of the singular values' shares (Roy and Vetterli 2007); 0 when all are 0."""
    total = math.fsum(values)
    if total <= 0:
        return 0.0
    return math.exp(-math.fsum(v / total * math.log(v / total) for v in values if v > 0))


def stable_rank(values: Sequence[float]) -> float:
    """‖·‖_F²/‖·‖₂² of a matrix with these singular values, the largest first; 0 when all are 0."""
    return math.fsum(v * v for v in values) / values[0] ** 2 if values and values[0] > 0 else 0.0


def directions_for(share: float, energies: Iterable[float]) -> int:
    """The fewest directions that together have that share of the energy."""
    ordered = sorted(energies, reverse=True)
    wanted = share * math.fsum(ordered)
    if wanted <= 0:
        return 0
    sums = itertools.accumulate(ordered)
    # (The last sum may miss the whole by rounding.)
    return next((n for n, so_far in enumerate(sums, 1) if so_far >= wanted * (1 - 1e-12)), len(ordered))


def strongest(matrix: torch.Tensor, count: int) -> torch.Tensor:
    """The largest singular values of a matrix. Where it is wider than WIDE both ways, found by a randomised method with
    four power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4): a full decomposition would take minutes."""
    import torch

    if min(matrix.shape) <= WIDE:
        return torch.linalg.svdvals(matrix)[:count]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, values, _ = torch.svd_lowrank(matrix.float(), q=min(2 * count + 8, *matrix.shape), niter=4)
    return values[:count].double()


def amplification(change: Change, directions: int) -> dict[str, Any]:
    """How much longer ΔW is than W₀ in the first r directions of ΔW (r: at most its rank).

    Returns:
        {"directions": r, "change": ‖ΔW_r‖_F, "base": ‖U_rᵀ·W₀·V_r‖_F, "factor": their ratio (None where W₀ has nothing
        there), "chance": √(r²/(out·in))·‖W₀‖_F, what W₀ would have in random directions (root of the mean square),
        "own": √(Σ_{i≤r} σᵢ(W₀)²), what it has in its own first r}
    """
    import torch

    u, s, vt = change.svd
    r = min(directions, change.rank)
    base = change.base.cpu().double()
    inside = float(torch.linalg.norm(u[:, :r].t() @ base @ vt[:r].t()))
    length = float(torch.linalg.norm(s[:r]))
    return {
        "directions": r,
        "change": length,
        "base": inside,
        "factor": length / inside if inside > 0 else None,
        "chance": r / math.sqrt(base.numel()) * float(torch.linalg.norm(base)),
        "own": float(torch.linalg.norm(strongest(base, r))),
    }


def described(change: Change, directions: int) -> dict[str, Any]:
    """Everything the module docstring names, of one changed parameter, as JSON can hold it."""
    import torch

    layer, part = place(change.name)
    base_norm = float(torch.linalg.norm(change.base.double()))
    if not change.matrix:
        assert change.whole is not None
        norm = float(torch.linalg.norm(change.whole.double()))
        values: list[float] = []
    else:
        values = _values(change)
        norm = math.sqrt(math.fsum(v * v for v in values))
    out: dict[str, Any] = {
        "name": change.name,
        "layer": layer,
        "part": part,
        "shape": list(change.base.shape),
        "norm": norm,
        "base_norm": base_norm,
        "relative": norm / base_norm if base_norm > 0 else None,
    }
    if not change.matrix:
        return out
    energies = [v * v for v in values]
    rank = change.rank
    return out | {
        "rank": rank,
        "full": min(change.base.shape),
        "effective_rank": effective_rank(values),
        "stable_rank": stable_rank(values),
        "half": directions_for(HALF, energies),
        "most": directions_for(MOST, energies),
        "values": [float(f"{v:.6g}") for v in values[:VALUES]],
        "shares": _shares(energies),
        "amplification": amplification(change, directions) if rank else None,
    }


def _values(change: Change) -> list[float]:
    s: torch.Tensor = change.svd[1]
    return [float(v) for v in s]


def _shares(energies: Sequence[float]) -> list[list[float]]:
    """[k, share(k)] for k = 1, 2, 4, … and all."""
    whole = math.fsum(energies)
    if whole <= 0:
        return []
    ks = sorted({*(2**n for n in range(len(energies).bit_length()) if 2**n <= len(energies)), len(energies)})
    return [[k, math.fsum(energies[:k]) / whole] for k in ks]


def layers_of(rows: Sequence[dict[str, Any]], energies: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The parameters of each block together: norms (of what changed in it), and its matrices' directions.

    Args:
        rows: as `described` makes them. energies: σ² of each matrix, by name.
    """
    out = []
    for layer in sorted({row["layer"] for row in rows if row["layer"] is not None}):
        mine = [row for row in rows if row["layer"] == layer]
        norm, base = (math.sqrt(math.fsum(r[key] ** 2 for r in mine)) for key in ("norm", "base_norm"))
        inside = [e for row in mine for e in energies.get(row["name"], ())]
        out.append(
            {
                "layer": layer,
                "norm": norm,
                "base_norm": base,
                "relative": norm / base if base > 0 else None,
                "half": directions_for(HALF, inside),
                "most": directions_for(MOST, inside),
                "trained": sum(row.get("rank", 0) for row in mine),
                "full": sum(row.get("full", 0) for row in mine),
            }
        )
    return out


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """The spectrum of each matrix that a run changed.

    Returns:
        {"method", "sentence": None, or why there is no ΔW; "modules": see `described`, "layers": see `layers_of`,
        "tensors": without a ΔW, what was trained instead (core.probes.delta.tensors)}

    Raises:
        DeltalabError: the run cannot be loaded.
    """
    from core.probes.trained import load

    trained = load(subject.runs[0], tell)
    method = trained.config.method
    sentence = without(method)
    out: dict[str, Any] = {"method": method, "sentence": sentence, "modules": [], "layers": [], "tensors": []}
    if sentence is not None:
        return out | {"tensors": tensors(trained.attached)}
    expected = len(trained.attached.trainable_names())
    rows: list[dict[str, Any]] = []
    energies: dict[str, list[float]] = {}
    for change in changes(trained.attached):
        tell(min(len(rows) / expected, 1.0), f"Taking {change.name} apart")
        rows.append(described(change, config.directions))
        if change.matrix:
            energies[change.name] = [v * v for v in _values(change)][: change.rank]
    return out | {"modules": rows, "layers": layers_of(rows, energies)}
