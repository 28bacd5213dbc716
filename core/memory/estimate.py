"""The memory of a training step at once: the trace of one model and method, as formulas of its sizes.

A trace's peak is no simple function of batch and length: it is a maximum over moments. But at each moment the tensors
that are alive are always the same ones, so many of them per layer, each of a size that is a sum of few products
(`MONOMIALS`) of batch, length, answer tokens and rank. A `Surrogate` holds those sizes and the moments that can be the
peak. Evaluating it takes well under a millisecond, imports no torch, and gives the trace's own bytes, term by term.
`core.memory.fit` makes surrogates from small traces and checks each on sizes it was not made from; those of popular
models come with the program:

    find("Llama-3.1-8B", setup).ledger(Sizes(batch=4, length=2048))

    python -m core.memory.estimate --check 200     # surrogates against full traces, on random sizes
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import DeltalabError
from core.memory.ledger import Ledger, Term
from core.memory.setup import Setup
from core.memory.sharded import COPIES, Sharding, parts_of, shared, used_in_half

if TYPE_CHECKING:
    from core.architecture import Architecture


class Unstable(DeltalabError):
    """The step does not do the same things at all sizes, so only full traces can tell its memory."""

    kind = "unstable"


Shares = Mapping[str, float]
NOTHING: Shares = MappingProxyType({})
FOLDER = Path(__file__).parent / "surrogates"
SOURCE = "the trace's own tensors, sized by formula"


@dataclass(frozen=True)
class Sizes:
    """What a surrogate is a function of.

    batch, length: rows and tokens of a pass. answers: tokens with a loss (None: batch × (length − 1)). rank: the
    method's, 0 where it has none. layers: blocks of the model (None: as many as it has).
    """

    batch: int
    length: int
    answers: int | None = None
    rank: int = 0
    layers: int | None = None

    @classmethod
    def of(cls, setup: Setup) -> Sizes:
        """Those of a setup."""
        return cls(setup.batch, setup.length, setup.answers, setup.rank or 0)

    @property
    def answer_tokens(self) -> int:
        """Tokens with a loss."""
        return self.batch * (self.length - 1) if self.answers is None else self.answers


FEW_TOKENS = 4  # per rank


def short(sizes: Sizes) -> bool:
    """Whether a pass has so few tokens for the rank that gradients of pairs weigh more than the blocks' activations."""
    return sizes.batch * sizes.length < FEW_TOKENS * sizes.rank


def _up(tokens: int) -> int:
    """Whole groups of 32, in which memory-efficient attention counts."""
    return -(-tokens // 32) * 32


# What the size of a tensor can be proportional to, and how it is told.
MONOMIALS: dict[str, tuple[Callable[[Sizes], int], str]] = {
    "1": (lambda s: 1, ""),
    "b": (lambda s: s.batch, "batch {batch:,}"),
    "s": (lambda s: s.length, "length {length:,}"),
    "bs": (lambda s: s.batch * s.length, "batch {batch:,} × length {length:,}"),
    "n": (lambda s: s.answer_tokens, "answer tokens {answer_tokens:,}"),
    "r": (lambda s: s.rank, "rank {rank:,}"),
    "rbs": (lambda s: s.rank * s.batch * s.length, "rank {rank:,} × batch {batch:,} × length {length:,}"),
    "rn": (lambda s: s.rank * s.answer_tokens, "rank {rank:,} × answer tokens {answer_tokens:,}"),
    "ss": (lambda s: s.length**2, "length² {length:,}²"),
    "bss": (lambda s: s.batch * s.length**2, "batch {batch:,} × length² {length:,}²"),
    "u": (lambda s: _up(s.length), "length up to 32s {up:,}"),
    "bu": (lambda s: s.batch * _up(s.length), "batch {batch:,} × length up to 32s {up:,}"),
}


@dataclass(frozen=True)
class Group:
    """Tensors of one kind: the same term, operation and module (in every layer), and the same size.

    item: bytes of one number. size: monomial -> bytes, in the model of `first` layers; growth: by how much it is larger
    with every period of layers more.
    """

    category: str
    op: str
    where: str
    item: int
    size: Mapping[str, float]
    growth: Mapping[str, float] = field(default_factory=dict)

    def formula(self, sizes: Sizes, periods: int = 0) -> str:
        """'batch 4 × length 2,048 × 4,096 × 2 bytes', at so many periods of layers above the first."""
        parts = []
        for name, coefficient in self.size.items():
            numbers = (coefficient + periods * self.growth.get(name, 0.0)) / self.item
            text = MONOMIALS[name][1].format(
                batch=sizes.batch, length=sizes.length, answer_tokens=sizes.answer_tokens, rank=sizes.rank,
                up=_up(sizes.length),
            )  # fmt: skip
            factor = f"{numbers:,.0f}" if numbers == int(numbers) else f"{numbers:,.2f}"
            parts.append(" × ".join(p for p in (text, factor if factor != "1" or not text else "") if p))
        whole = " + ".join(parts).replace("+ -", "− ")
        whole = f"({whole})" if len(parts) > 1 else whole
        return f"{whole} × {self.item} byte{'s' if self.item > 1 else ''}"


@dataclass(frozen=True)
class Regime:
    """Sizes between which a step does the same things, both ends included. None: no upper end."""

    batch: tuple[int, int | None] = (1, None)
    length: tuple[int, int | None] = (2, None)
    rank: tuple[int, int | None] = (0, None)

    def holds(self, sizes: Sizes) -> bool:
        """Whether sizes are inside."""
        return all(
            least <= value and (most is None or value <= most)
            for value, (least, most) in (
                (sizes.batch, self.batch), (sizes.length, self.length), (sizes.rank, self.rank),
            )
        )  # fmt: skip


@dataclass(frozen=True)
class Surrogate:
    """The memory of a step as a function of its sizes.

    model: name. key: what else it belongs to (see `key_of`). layers: of the model. first, period: the moments' counts
    are those at `first` layers, and grow by `growth` with every `period` layers more. groups: kinds of tensors.
    sections: of the step, one per moment; `{i}` and `{-i}` stand for a layer, counted from the first and the last.
    counts, growth: (moments, groups) numbers of tensors. block: sizes are rounded up to multiples of it. regime: where
    it holds. kernels: attention kernels. versions: of the libraries that were traced. checked: the sizes at which it
    was compared with full traces and gave their bytes.
    """

    model: str
    key: str
    layers: int
    first: int
    period: int
    groups: tuple[Group, ...]
    sections: tuple[str, ...]
    counts: np.ndarray
    growth: np.ndarray
    block: int
    regime: Regime
    kernels: tuple[str, ...]
    versions: Mapping[str, str]
    checked: tuple[tuple[int, int, int, int], ...] = ()

    def holds(self, sizes: Sizes) -> bool:
        """Whether it gives the bytes of a trace at these sizes."""
        return self.covers(sizes) and (self.tried_short or not short(sizes))

    def covers(self, sizes: Sizes) -> bool:
        """Whether its regime has these sizes."""
        layers = self.layers if sizes.layers is None else sizes.layers
        fixed = not self.growth.any()  # (the model has no more layers than the first depth)
        deep = layers == self.first if fixed else layers >= self.first and (layers - self.first) % self.period == 0
        return deep and self.regime.holds(sizes)

    @property
    def tried_short(self) -> bool:
        """Whether it was compared with traces of so few tokens that the pairs' gradients decide where the peak is.

        Then what counts is the order in which they are made, and a surrogate that was made when a step took them in
        another order is wrong there, and there alone.
        """
        return any(short(Sizes(batch, length, rank=rank)) for _, batch, length, rank in self.checked)

    @cached_property
    def _factors(self) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """The monomials, and (groups, monomials) bytes: in the model of the first depth, and per period more."""
        names = tuple(dict.fromkeys(name for g in self.groups for name in g.size))
        size, growth = (
            np.array([[of.get(name, 0.0) for name in names] for of in many])
            for many in ([g.size for g in self.groups], [g.growth for g in self.groups])
        )
        return names, size, growth

    def periods(self, sizes: Sizes) -> int:
        """By how many periods of layers the model is deeper than the first."""
        layers = self.layers if sizes.layers is None else sizes.layers
        return (layers - self.first) // self.period

    def group_bytes(self, sizes: Sizes) -> np.ndarray:
        """(groups,) bytes of one tensor of each kind, as the allocator gives them out."""
        names, size, growth = self._factors
        values = np.array([float(MONOMIALS[name][0](sizes)) for name in names])
        exact = (size + self.periods(sizes) * growth) @ values
        return np.ceil(np.round(exact, 3) / self.block) * self.block

    def _tensors(self, sizes: Sizes) -> np.ndarray:
        """(moments, groups) numbers of tensors."""
        return self.counts + self.periods(sizes) * self.growth

    def _shares(self, shares: Shares) -> np.ndarray | float:
        """(groups,) what share of each kind of tensors is counted."""
        if not shares:
            return 1.0
        return np.array([shares.get(g.category, 1.0) for g in self.groups])

    def levels(self, sizes: Sizes, shares: Shares = NOTHING) -> np.ndarray:
        """(moments,) bytes alive at each of the moments that can be the peak.

        Args:
            shares: term -> the share of it that counts, where that is not all (`core.memory.sharded`).
        """
        return self._tensors(sizes) @ (self.group_bytes(sizes) * self._shares(shares))

    def peak_bytes(self, sizes: Sizes, shares: Shares = NOTHING) -> int:
        """Most that is alive during the step."""
        return int(self.levels(sizes, shares).max())

    def parts(self, sizes: Sizes, shares: Shares = NOTHING) -> list[tuple[Group, int, int]]:
        """What is alive at the peak, largest first: kind, number of tensors, and bytes of all of them."""
        size = self.group_bytes(sizes) * self._shares(shares)
        tensors = self._tensors(sizes)
        counts = tensors[int((tensors @ size).argmax())]
        rows = [(g, int(n), int(n * b)) for g, n, b in zip(self.groups, counts, size, strict=True) if n and b]
        return sorted(rows, key=lambda row: -row[2])

    def section(self, sizes: Sizes, shares: Shares = NOTHING) -> str:
        """Where in the step the peak is."""
        layers = self.layers if sizes.layers is None else sizes.layers
        section = self.sections[int(self.levels(sizes, shares).argmax())]
        return section_name(section, layers)

    def shared(self, sizes: Sizes, sharding: Sharding, table: Architecture, gradient_bytes: int = 4) -> Ledger:
        """The ledger of one GPU among several, each with a pass of these sizes."""
        whole = dict.fromkeys(ORDER, 0)
        trained = 0
        for group, _, size in self.parts(sizes):
            whole[group.category] += size
            trained += size // group.item if group.category == "trained weights" else 0
        halved = used_in_half(table, whole, copied=any(g.category == COPIES for g in self.groups))
        parts = parts_of(table, whole, trained, gradient_bytes, halved=halved)
        return shared(
            self.ledger(sizes, sharding.factors()), sharding.extra(parts, sizes.batch, sizes.length, table.width)
        )

    def ledger(self, sizes: Sizes, shares: Shares = NOTHING) -> Ledger:
        """The terms at the peak, each with its formula in these sizes.

        Raises:
            ValueError: its regime does not have the sizes; see `covers`, and `holds` for where it is as the trace.
        """
        if not self.covers(sizes):
            raise ValueError(f"this surrogate does not hold at {sizes}")
        groups: dict[str, list[tuple[Group, int, int]]] = {}
        for row in self.parts(sizes, shares):
            groups.setdefault(row[0].category, []).append(row)
        terms = tuple(
            Term(
                name, sum(row[2] for row in groups[name]),
                formula_of(groups[name], sizes, self.periods(sizes)) + share_text(shares.get(name, 1.0)), SOURCE,
            )
            for name in ORDER
            if name in groups
        )  # fmt: skip
        return Ledger(terms, self.section(sizes, shares), sum(t.bytes for t in terms), 0, 0)

    # --- as JSON ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse. Counts are kept as they differ from the moment before."""
        return {
            "model": self.model, "key": self.key, "layers": self.layers, "first": self.first, "period": self.period,
            "groups": [[g.category, g.op, g.where, g.item, dict(g.size), dict(g.growth)] for g in self.groups],
            "sections": list(self.sections), "counts": _sparse(self.counts), "growth": _sparse(self.growth),
            "block": self.block, "regime": asdict(self.regime), "kernels": list(self.kernels),
            "versions": dict(self.versions), "checked": [list(c) for c in self.checked],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Surrogate:
        """Read what `to_dict` wrote."""
        groups = _with_copies([Group(*row) for row in record["groups"]])
        shape = (len(record["sections"]), len(groups))
        regime = Regime(**{name: tuple(ends) for name, ends in record["regime"].items()})
        return cls(
            **{
                **record, "groups": groups, "sections": tuple(record["sections"]), "regime": regime,
                "counts": _dense(record["counts"], shape), "growth": _dense(record["growth"], shape),
                "kernels": tuple(record["kernels"]), "checked": tuple(tuple(c) for c in record["checked"]),
            }
        )  # fmt: skip


# The terms in the order of `core.memory.trace.CATEGORIES`, which imports torch.
ORDER = (
    "frozen weights", "quantization constants", "trained weights", "optimizer state", "gradients", "batch",
    COPIES, "activations", "recomputed activations", "logits and loss", "temporaries",
)  # fmt: skip
TOLD = 3  # parts of a term that its formula names; the rest is summed up


def share_text(share: float) -> str:
    """' / 8' for an eighth."""
    return "" if share in (0.0, 1.0) else f" / {round(1 / share):,}"


def section_name(section: str, layers: int) -> str:
    """'layer {-1} backward' of a model of 32 layers -> 'layer 31 backward'."""
    before, brace, rest = section.partition("{")
    if not brace:
        return section
    number, _, after = rest.partition("}")
    index = int(number)
    return f"{before}{index if index >= 0 and not number.startswith('-') else layers + index}{after}"


def formula_of(rows: list[tuple[Group, int, int]], sizes: Sizes, periods: int = 0) -> str:
    """The largest parts of a term, in the sizes' own numbers, and what is left."""
    from core.units import bytes_text

    told = []
    for group, count, _ in rows[:TOLD]:
        place, op = group.where.rpartition("*.")[2], group.op.removeprefix("aten::")
        what = "token numbers and labels" if group.category == "batch" else " in ".join(p for p in (op, place) if p)
        told.append(f"{f'{count:,} × ' if count > 1 else ''}{group.formula(sizes, periods)} ({what})")
    rest = sum(row[2] for row in rows[TOLD:])
    return "; ".join(told) + (f"; and {bytes_text(rest)} in {len(rows) - TOLD} smaller parts" if rest else "")


# Places that are no modules: the output layer, and how far the backward pass is.
BETWEEN = ("head", "layer ", "below the head")


def _with_copies(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The kinds of tensors, with 16-bit copies of weights in a term of their own, as traces have them.

    Surrogates that were made before traces did so have them among other terms. They are told by their size: half the
    bytes of a weight in 32 bits of the same module, whatever the step's sizes.
    """
    weights: dict[tuple[Any, ...], list[str]] = {}
    for g in groups:
        if g.category in ("frozen weights", "trained weights") and g.item == 4:
            weights.setdefault(_sized(g, 0.5), []).append(g.where)

    def copies(g: Group) -> bool:
        names = weights.get(_sized(g), []) if (g.op, g.item) == ("aten::_to_copy", 2) else []
        return any(g.where.startswith(BETWEEN) or name.startswith(f"{g.where}.") for name in names)

    return tuple(replace(g, category=COPIES) if copies(g) else g for g in groups)


def _sized(group: Group, share: float = 1.0) -> tuple[Any, ...]:
    """What tells sizes apart."""
    return tuple(tuple(sorted((k, v * share) for k, v in of.items())) for of in (group.size, group.growth))


def _sparse(counts: np.ndarray) -> list[list[int]]:
    """Row by row, the groups whose count differs from the row before, and the new count: [group, count, group, …]."""
    rows, before = [], np.zeros(counts.shape[1], dtype=int)
    for row in counts.astype(int):
        changed = np.flatnonzero(row != before)
        rows.append([int(v) for i in changed for v in (i, row[i])])
        before = row
    return rows


def _dense(rows: list[list[int]], shape: tuple[int, int]) -> np.ndarray:
    counts = np.zeros(shape)
    now = np.zeros(shape[1])
    for number, row in enumerate(rows):
        now[row[::2]] = row[1::2]
        counts[number] = now
    return counts


# --- those that come with the program ---------------------------------------------------------------------------------


# Settings of methods that change what is computed, not how much memory it takes (the rank is one of the sizes).
WEIGHTLESS = ("rank", "alpha", "rate_ratio", "fast", "projection_seed", "d_initial", "start", "text")


def key_of(setup: Setup) -> str:
    """What a surrogate belongs to, beside the model: all of a setup but its sizes, as one line of text."""
    record = setup.to_dict()
    settings = {k: v for k, v in record.pop("settings").items() if k not in WEIGHTLESS}
    if settings.get("quant_type") == "fp4":  # as many bits as nf4
        settings["quant_type"] = "nf4"
    for size in ("batch", "length", "answers"):
        record.pop(size)
    if not setup.device.is_cuda:
        record["short"] = setup.attention == "auto" and setup.length <= SHORT
    else:
        # From the second pass on every pass takes the same; on a card the batches that wait are not in its memory.
        record["accumulation"] = min(setup.accumulation, 2)
    return json.dumps([record, settings], sort_keys=True, separators=(",", ":"))


SHORT = 256  # tokens up to which a CPU takes plain attention: core.memory.trace.EAGER_TOKENS


@lru_cache(maxsize=128)
def _records(model: str) -> tuple[dict[str, Any], ...]:
    path = FOLDER / f"{file_name(model)}.json.gz"
    if not path.is_file():
        return ()
    return tuple(json.loads(gzip.decompress(path.read_bytes())))


@lru_cache(maxsize=1024)
def _made(model: str, number: int) -> Surrogate:
    return Surrogate.from_dict(_records(model)[number])


def shipped(model: str, key: str | None = None) -> list[Surrogate]:
    """The surrogates of a model of the catalogue that come with the program; of one key, if it is given."""
    return [_made(model, i) for i, r in enumerate(_records(model)) if key is None or r["key"] == key]


def file_name(model: str) -> str:
    """'Gemma-3-1B (text)' -> 'gemma-3-1b-text'."""
    return "".join(c if c.isalnum() or c == "." else "-" for c in model.lower()).strip("-").replace("--", "-")


def find(model: str, setup: Setup) -> Surrogate | None:
    """The shipped surrogate that answers a setup, or None: then one must be fitted, or the step traced.

    All cards from compute capability 8.0 on take the same memory in bfloat16: they choose the same attention, but for
    those that prefer cuDNN's, and that keeps the same tensors as the other fused kernel as long as there is no mask.
    Those before it, from 5.0 on, take the same memory in float32: they have one kernel for that.
    """
    for wanted in dict.fromkeys((setup, _alike(setup))):
        for one in shipped(model, key_of(wanted)):
            alike = wanted is setup or setup.device.capability not in CUDNN_FIRST or one.kernels == ("flash",)
            if alike and one.holds(Sizes.of(setup)):
                return one
    return None


CUDNN_FIRST = ((9, 0), (10, 0))  # as in core.memory.meta, which imports torch


def _alike(setup: Setup) -> Setup:
    """The same step on the card that stands for all like its own."""
    capability = setup.device.capability
    if capability is not None and capability >= (8, 0) and setup.precision == "bfloat16":
        return replace(setup, device=replace(setup.device, capability=(8, 0)))
    if capability is not None and (5, 0) <= capability < (8, 0) and setup.precision == "float32":
        return replace(setup, device=replace(setup.device, capability=(7, 5)))
    return setup


def largest(fits: Callable[[int], bool], most: int = 1 << 20) -> int:
    """The largest whole number up to `most` for which `fits` holds, if it holds below it too; 0: for none."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def main() -> None:
    """Compare shipped surrogates with full traces on random sizes, and say how far they are apart."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m core.memory.estimate", description=main.__doc__)
    parser.add_argument("--check", type=int, default=20, metavar="N", help="how many random configurations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", help="only models whose name has this in it")
    asked = parser.parse_args()
    from core.memory.fit import check

    check(asked.check, asked.seed, asked.models)


if __name__ == "__main__":
    main()
