"""Any change of weights as a plain LoRA adapter: the truncated singular value decomposition of ΔW, matrix by matrix.

    ΔW = U·S·Vᵀ ≈ B·A        B = U_r·√S_r (out × r),  A = √S_r·V_rᵀ (r × in),  alpha = r, so the scale is 1

No matrix of rank r comes closer to ΔW (Eckart and Young 1936): what is left out is the tail of the singular values,

    ‖ΔW − BA‖ / ‖ΔW‖ = √(Σ_{i>r} σᵢ² / Σ σᵢ²).

That is an error of weights. What it costs in answers is measured by the probe `convert`. Biases, norms and embeddings
that the method changed have no place in a LoRA of linear layers: they are left out, and listed. A classification head
goes along whole, as PEFT keeps it beside a LoRA.

ΔW is what `core.probes.delta` says it is; singular values below its rounding count as zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput, Refused
from core.export.subject import check_merges
from core.methods import METHODS, attach_saved, lora, saved, saved_as
from core.methods.wrapped import shortest_names

if TYPE_CHECKING:
    import torch

    from core.probes.delta import Change


@dataclass(frozen=True)
class Factors:
    """ΔW of one matrix, decomposed. shape: (out, in). u: (out, k), s: (k), vt: (k, in), with k the rank that is not
    rounding; float32, on the CPU."""

    module: str
    shape: tuple[int, int]
    u: torch.Tensor
    s: torch.Tensor
    vt: torch.Tensor

    @property
    def rank(self) -> int:
        """The rank of ΔW, as far as rounding lets it be told."""
        return len(self.s)

    def lost(self, rank: int) -> float:
        """Σ_{i>r} σᵢ²: what a LoRA of that rank leaves out, squared."""
        return float(self.s[rank:].double().square().sum())

    @property
    def energy(self) -> float:
        """Σ σᵢ² = ‖ΔW‖²."""
        return self.lost(0)


@dataclass(frozen=True)
class Decomposed:
    """A whole change. factors: of the matrices that changed. left_out: parameters that changed and are in no linear
    layer's matrix -> the norm of their change. head: a classification head's parameters as they are now, by name."""

    method: str
    factors: tuple[Factors, ...]
    left_out: dict[str, float] = field(default_factory=dict)
    head: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def rank(self) -> int:
        """The rank at which nothing is lost."""
        return max(f.rank for f in self.factors)

    @property
    def most(self) -> int:
        """The highest rank that any matrix can have."""
        return max(min(f.shape) for f in self.factors)

    @property
    def uniform(self) -> int:
        """The highest rank that all of them can have; above it the narrower ones keep their own, which not every
        program reads (`core.export.loadable`)."""
        return min(min(f.shape) for f in self.factors)

    def rank_for(self, share: float) -> int:
        """The lowest rank that keeps that share of Σσ² in every matrix."""
        return max(
            next(r for r in range(1, f.rank + 1) if f.lost(r) <= (1 - share) * f.energy + 1e-12 * f.energy)
            for f in self.factors
        )

    def error(self, rank: int) -> float:
        """‖ΔW − BA‖ / ‖ΔW‖ over all matrices together, 0..1."""
        whole = sum(f.energy for f in self.factors)
        return math.sqrt(sum(f.lost(rank) for f in self.factors) / whole)


@dataclass(frozen=True)
class Conversion:
    """What was written. modules: rows of module, shape, rank (of its ΔW) and error (0..1)."""

    folder: Path
    method: str
    rank: int
    error: float
    modules: list[dict[str, Any]]
    left_out: dict[str, float]


def decompose(model: Any, folder: Path) -> Decomposed:
    """The change that was saved in `folder`, as singular values and vectors.

    Args:
        model: its plain base, in float32; used up: the adapter is on it afterwards.

    Raises:
        Refused: it cannot be merged, or it changes no matrix of a linear layer.
        BadInput: as `core.methods.attach_saved`.
    """
    method, _ = saved_as(folder)
    check_merges(method)
    from core.methods.modules import head_parameters
    from core.probes.delta import changes

    matrices, whole = _matrices(model), list(head_parameters(model))
    found, left_out = [], {}
    for change in changes(attach_saved(model, folder)):
        if change.name in whole:
            continue
        if change.matrix and change.path in matrices:
            factors = _factors(change)
            if factors is not None:
                found.append(factors)
        else:
            norm = float(change.delta().norm())
            if norm:
                left_out[change.name] = norm
    if not found:
        raise Refused(
            f"{METHODS[method].TITLE} changed no matrix of a linear layer, so there is nothing that a LoRA could hold.",
            "Merge it instead.",
        )
    head = {name: model.get_parameter(name).detach().cpu().clone() for name in whole}
    return Decomposed(method, tuple(found), left_out, head)


def _matrices(model: Any) -> set[str]:
    """The linear layers whose matrix is their own: a LoRA of one that is shared would change one end only."""
    from core.architecture import Architecture

    architecture = Architecture.of(model)
    shared = {m.tied_to for m in architecture.modules if m.tied_to}
    return {m.name for m in architecture.linears() if not m.tied_to and m.name not in shared}


def _factors(change: Change) -> Factors | None:
    """None where nothing changed but by rounding."""
    kept = change.rank
    if not kept:
        return None
    u, s, vt = change.svd
    shape = (int(change.base.shape[0]), int(change.base.shape[1]))
    return Factors(change.path, shape, u[:, :kept].float(), s[:kept].float(), vt[:kept].float())


def as_lora(model: Any, change: Decomposed, rank: int) -> Any:
    """The change on a fresh plain base as a LoRA of that rank; ranks that a matrix does not need are zeros.

    Returns:
        core.methods.lora.Attached

    Raises:
        BadInput: a rank that no matrix can have.
    """
    import torch

    if not 1 <= rank <= change.most:
        raise BadInput(
            f"A rank of {rank} is not possible: no changed matrix has more than {change.most}.",
            f"Choose a rank from 1 to {change.most}; at {change.rank} nothing is lost.",
        )
    names = [n for n, _ in model.named_modules()]
    targets = ",".join(shortest_names([f.module for f in change.factors], names))
    narrow = ",".join(f"{f.module}={min(f.shape)}" for f in change.factors if min(f.shape) < rank)
    attached = lora.apply(model, lora.Config(rank=rank, alpha=rank, target_modules=targets, rank_pattern=narrow))
    with torch.no_grad():
        for f in change.factors:
            layer = attached.layers[f.module]
            k = min(rank, f.rank)
            root = (f.s[:k] / layer.scale).sqrt()  # the scale is 1, but for a matrix with a rank of its own
            for half, value in (
                (layer.lora_A.weight, root[:, None] * f.vt[:k]),
                (layer.lora_B.weight, f.u[:, :k] * root),
            ):
                half.zero_()
                half[tuple(slice(n) for n in value.shape)].copy_(value)
        for name, value in change.head.items():
            model.get_parameter(name).copy_(value)
    return attached


def keep(attached: Any, rank: int) -> None:
    """Cut what `as_lora` made down to a lower rank in place: the rest of each pair becomes zero."""
    import torch

    with torch.no_grad():
        for layer in attached.layers.values():
            layer.lora_A.weight[rank:].zero_()
            layer.lora_B.weight[:, rank:].zero_()


def convert(
    source: str,
    adapter: Path,
    out: Path,
    *,
    revision: str | None = None,
    rank: int | None = None,
    energy: float | None = None,
) -> Conversion:
    """Write a change as a LoRA adapter in PEFT's format.

    Args:
        source, revision: its base, as `core.base.load_base` takes it.
        adapter: its folder. out: the new folder; replaced whole.
        rank: of the LoRA. energy: instead, the share of Σσ² that each matrix keeps. Neither: nothing is lost.

    Raises:
        BadInput: both given, or a rank that is not possible.
        Refused: as `decompose`.
    """
    from core.base import load_base

    if rank is not None and energy is not None:
        raise BadInput("Give a rank or a share of energy, not both.")
    if energy is not None and not 0 < energy <= 1:
        raise BadInput(f"The share of energy must be above 0 and at most 1, not {energy:g}.")
    head = saved.head_in(adapter)
    change = decompose(load_base(source, revision=revision, **head).model, adapter)
    if rank is None:
        rank = change.rank if energy is None else change.rank_for(energy)
    attached = as_lora(load_base(source, revision=revision, **head).model, change, rank)
    attached.save(out)
    return report(change, rank, out)


def report(change: Decomposed, rank: int, folder: Path) -> Conversion:
    """What a conversion at that rank keeps, module by module."""
    modules = [
        {
            "module": f.module,
            "shape": list(f.shape),
            "rank": f.rank,
            "error": math.sqrt(f.lost(rank) / f.energy),
            "norm": math.sqrt(f.energy),
        }
        for f in change.factors
    ]
    return Conversion(Path(folder), change.method, rank, change.error(rank), modules, change.left_out)


__all__ = ["Conversion", "Decomposed", "Factors", "as_lora", "convert", "decompose", "keep", "report"]
