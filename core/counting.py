"""What trains, counted: every method on one model side by side, and LoRA's arithmetic on each kind of its matrices.

    lora.pair_parameters(fan_in, fan_out, rank) = r·(in + out)        instead of in·out

All counts are the methods' own closed forms (`count` and `sites` of core.methods), which the conformance suite holds
against real attached models; nothing is counted here a second time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import DeltalabError
from core.few_bits import Stored, why_not
from core.memory.storage import storage
from core.methods import LORAS, METHODS
from core.methods.lora import pair_parameters
from core.methods.modules import ATTENTION, MLP, is_one_of
from core.methods.virtual import AS_TOKENS

if TYPE_CHECKING:
    from core.architecture import Architecture, Module


@dataclass(frozen=True)
class Count:
    """A method on a model. trainable: None where the model has no place for it; then `why` and `advice` say so.

    adapter_bytes: saved for one task. modules: in so many of them it trains something.
    """

    method: str
    settings: Any
    trainable: int | None
    total: int
    adapter_bytes: int
    modules: int
    why: str = ""
    advice: str = ""

    @property
    def share(self) -> float | None:
        """Trained of all the model's parameters, 0..1 (a method that adds none can reach 1)."""
        return None if self.trainable is None or not self.total else self.trainable / self.total


def count(table: Architecture, method: str, settings: Any = None, stored: Stored | None = None) -> Count:
    """What one method trains.

    Args:
        stored: how the checkpoint's weights are stored, where that is in few bits: not every method trains beside them.
    """
    own = settings if settings is not None else METHODS[method].Config()
    refused = why_not(method, own, stored, table.name) if stored is not None else None
    if refused is not None:
        return Count(method, own, None, table.total, 0, 0, *refused)
    try:
        sites = METHODS[method].sites(table, own)
        trainable = METHODS[method].count(table, own)
        return Count(method, own, trainable, table.total, storage(table, method, own).adapter, len(sites))
    except DeltalabError as error:
        return Count(method, own, None, table.total, 0, 0, error.sentence, error.advice)


def counts(table: Architecture, chosen: str = "", settings: Any = None, stored: Stored | None = None) -> list[Count]:
    """Every method with its defaults (QLoRA's storage that of the checkpoint), the chosen one with its settings; in the
    order of METHODS."""
    out = []
    for name, module in METHODS.items():
        own = settings if name == chosen else None
        if own is None and stored is not None and module.BASE == "quantized":
            own = module.Config(**stored.settings)
        out.append(count(table, name, own, stored))
    return out


@dataclass(frozen=True)
class Shape:
    """Matrices of the same end of the name and the same shape. count: of them. kind: attention, mlp or other.

    name: the end of the path. out, into: rows and columns. tied: it shares the embedding's matrix.
    """

    name: str
    out: int
    into: int
    count: int
    kind: str
    bias: bool
    head: bool
    tied: bool

    @property
    def numbers(self) -> int:
        """in·out of one matrix."""
        return self.out * self.into

    def pair(self, rank: int) -> int:
        """r·(in + out)"""
        return pair_parameters(self.into, self.out, rank)

    @property
    def even_rank(self) -> int:
        """The rank from which a pair has as many numbers as the matrix: in·out / (in + out)."""
        return self.numbers // (self.into + self.out)

    @property
    def most_rank(self) -> int:
        """No change of the matrix has a higher rank."""
        return min(self.into, self.out)


def shapes(table: Architecture) -> list[Shape]:
    """The kinds of matrices in a model, in its order; the output layer last."""
    found: dict[tuple[str, int, int], list[Module]] = {}
    for m in table.linears():
        found.setdefault((m.name.rpartition(".")[2], m.out_features, m.in_features), []).append(m)
    rows = []
    for (name, out, into), modules in found.items():
        first = modules[0]
        kind = "attention" if is_one_of(first.name, ATTENTION) else "mlp" if is_one_of(first.name, MLP) else "other"
        rows.append(
            Shape(
                name, out, into, len(modules), kind, any(m.bias for m in modules), first.name in table.heads,
                first.tied_to is not None,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda r: r.head)


@dataclass(frozen=True)
class Part:
    """What a method trains in modules of the same name and shape."""

    name: str
    shape: tuple[int, ...]
    modules: int
    each: int
    trained: int


def parts(table: Architecture, method: str, settings: Any) -> list[Part]:
    """Where a method's parameters are, alike modules together; they add up to its count.

    Raises:
        Incompatible: as the method's `sites`.
    """
    found: dict[tuple[str, tuple[int, ...], int], int] = {}
    for site in METHODS[method].sites(table, settings):
        key = (site.module.rpartition(".")[2], tuple(site.shape), site.trained)
        found[key] = found.get(key, 0) + 1
    return [Part(name, shape, n, each, n * each) for (name, shape, each), n in found.items()]


@dataclass(frozen=True)
class RankRow:
    """LoRA at a rank: what trains, of how many, and the file."""

    rank: int
    trainable: int
    share: float
    adapter_bytes: int


def ranks(table: Architecture, method: str, settings: Any, of: Sequence[int]) -> list[RankRow]:
    """A method with a rank, at several ranks; those that no matrix has room for are left out."""

    rows = []
    for rank in of:
        own = dataclasses.replace(settings, rank=rank)
        found = count(table, method, own)
        if found.trainable is not None and found.share is not None:
            rows.append(RankRow(rank, found.trainable, found.share, found.adapter_bytes))
    return rows


def experts_note(table: Architecture, method: str) -> str:
    """What becomes of a model's experts with a kind of LoRA, as a sentence; "" where there are none."""
    if not table.experts or method not in LORAS:
        return ""
    beside = "here no pairs are put beside them"
    if METHODS[method].BASE == "quantized":
        beside = "here no pairs are put beside them, and they stay in 16 bits"
    return (
        f"{table.experts:,} of its weights are experts, each block's in one stack: {beside}. PEFT's all-linear puts "
        "pairs beside the experts and routers of some families, and then prints more."
    )


def texts_note(table: Architecture, method: str) -> str:
    """What becomes of trained tokens in a model that reads two texts, as a sentence; "" for all others."""
    if table.texts < 2 or getattr(METHODS[method], "PROMPT", None) != AS_TOKENS:
        return ""
    return f"{table.name} reads two texts: so many tokens stand before each of them, which is also how PEFT counts."


__all__ = [
    "Count", "Part", "RankRow", "Shape", "count", "counts", "experts_note", "parts", "ranks", "shapes", "texts_note",
]  # fmt: skip
