"""How many directions of ΔW does the task need? ΔW is cut to rank k and the model scored again.

    ΔW_k = Σ_{i≤k} σᵢ·uᵢ·vᵢᵀ      the nearest matrix of rank k (Eckart and Young 1936)

in every changed matrix at once. Vectors (biases, norms) are kept whole, and so is a classification head, without which
nothing could be told apart: k = 0 leaves them alone. The cut change runs beside the base's own weight, as a LoRA pair
does. Where k is no less than the rank of every matrix nothing is cut: that row is the run's own model, scored as the
run scored it.

Items, grader and loss are the run's own (core.evaluate).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import Refused
from core.probes.delta import changes, without

if TYPE_CHECKING:
    import torch

    from core.methods.base import Attached
    from core.probes import Subject, Tell

TITLE = "Truncation of ΔW"
RUNS = (1, 1)
ENOUGH = 0.99  # of the run's own exact match


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    items: int = knob(
        100, "Held-out items that are scored at each rank, at most.", unit="items", low=4, high=2000,
        why="As many as a run scores by default: then the uncut row is the run's own score.",
    )  # fmt: skip
    skill_items: int = knob(
        40, "Items of each old skill, at most; 0 leaves them out.", unit="items", low=0, high=1000,
        why="As many as a run scores by default.",
    )  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """A changed matrix, ready to be cut. b·a = ΔW with b = UΣ (out, rank) and a = Vᵀ (rank, in), float32."""

    name: str
    path: str
    base: torch.Tensor
    b: torch.Tensor
    a: torch.Tensor
    energies: tuple[float, ...]

    @property
    def rank(self) -> int:
        return len(self.energies)


def ranks_to_try(largest: int) -> list[int]:
    """0, 1, 2, 4, … below the largest rank, and that: where nothing is cut."""
    return [0, *(2**n for n in range(largest.bit_length()) if 2**n < largest), *([largest] if largest else [])]


def kept(cuts: Sequence[Cut], k: int) -> float:
    """Share of the matrices' energy Σσ² that is left at rank k."""
    whole = math.fsum(e for cut in cuts for e in cut.energies)
    return math.fsum(e for cut in cuts for e in cut.energies[:k]) / whole if whole else 1.0


def take_apart(attached: Attached, tell: Tell) -> tuple[list[Cut], dict[str, torch.Tensor]]:
    """Every changed matrix as a Cut, and the new values of what is kept whole, by name."""
    from core.architecture import classifier_of

    head = classifier_of(attached.model)
    cuts, vectors = [], {}
    for change in changes(attached):
        if not change.matrix or change.path in head:
            assert change.whole is not None
            vectors[change.name] = (change.base.double() + change.whole).float()
            continue
        tell(None, f"Taking {change.name} apart")
        u, s, vt = change.svd
        rank = change.rank
        b, a = (u[:, :rank] * s[:rank]).float(), vt[:rank].float()
        cuts.append(Cut(change.name, change.path, change.base, b, a, tuple(float(v) ** 2 for v in s[:rank])))
    return cuts, vectors


def bare(attached: Attached) -> torch.nn.Module:
    """The base itself, without wrappers (of QLoRA: in its 4 bits). The handle is of no use afterwards."""
    from core.methods.modules import replace_module

    attached.disable()
    for path, layer in getattr(attached, "layers", {}).items():
        replace_module(attached.model, path, layer.base_layer)
    return attached.model


def put(model: torch.nn.Module, cuts: Sequence[Cut], vectors: dict[str, torch.Tensor], k: int) -> None:
    """Let the bare base compute with ΔW_k and the changed vectors, whatever it had of them before."""
    import torch

    from core.layers.low_rank import LowRank
    from core.methods.modules import replace_module

    with torch.no_grad():
        for name, value in vectors.items():
            model.get_parameter(name).copy_(value)
        for cut in cuts:
            layer: Any = model.get_submodule(cut.path)
            layer = getattr(layer, "base_layer", layer)
            some = min(k, cut.rank)
            if isinstance(layer, torch.nn.Embedding):  # looked up, not multiplied: there is no beside
                layer.weight.copy_(cut.base + cut.b[:, :some] @ cut.a[:some])
                continue
            if some:
                pair = LowRank(layer, some, 1.0)
                pair.lora_A.weight.copy_(cut.a[:some])
                pair.lora_B.weight.copy_(cut.b[:, :some])
                layer = pair.eval()
            replace_module(model, cut.path, layer)


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Score the run's model with its change cut to rank 0, 1, 2, 4, … and whole.

    Returns:
        {"base": scores of the base (see Trained.scores), "rows": [{"rank": k, "whole": nothing is cut, "kept": share of
        the energy, and scores}], "matrices": how many are cut, "vectors": how many other tensors are kept whole,
        "items", "largest": the largest rank of a matrix, "enough": the smallest k with 99 % of the whole's exact match
        (None: nothing is held out)}

    Raises:
        Refused: the run has no ΔW, or none with directions to cut.
    """
    from core.probes.trained import load

    trained = load(subject.runs[0], tell)
    sentence = without(trained.config.method)
    if sentence is not None:
        raise Refused(sentence, "Truncation is for methods that change weights, such as lora or full.")
    cuts, vectors = take_apart(trained.attached, tell)
    if not cuts:
        raise Refused(
            "This run changed vectors only (or a classification head beside them); there is no rank to cut.",
            "Truncation is for methods that change matrices, such as lora or full.",
        )
    largest = max(cut.rank for cut in cuts)
    ks = ranks_to_try(largest)
    done, all_of_them = 0, len(ks) + 1

    def scored(what: str) -> dict[str, Any]:
        nonlocal done
        tell(done / all_of_them, what)
        done += 1
        return trained.scores(config.items, config.skill_items)

    whole = scored("Scoring the run's own model")
    trained.attached.disable()
    base = scored("Scoring the base")
    model = bare(trained.attached)
    rows = []
    for k in ks[:-1]:
        if k == 0 and not vectors:
            found = base
        else:
            put(model, cuts, vectors, k)
            found = scored(f"Scoring rank {k}")
        rows.append({"rank": k, "whole": False, "kept": kept(cuts, k), **found})
    rows.append({"rank": largest, "whole": True, "kept": 1.0, **whole})
    enough = None
    if whole["exact_match"] is not None:
        enough = next(row["rank"] for row in rows if row["exact_match"] >= ENOUGH * whole["exact_match"])
    return {
        "base": base,
        "rows": rows,
        "matrices": len(cuts),
        "vectors": len(vectors),
        "items": trained.counted(config.items),
        "largest": largest,
        "enough": enough,
    }
