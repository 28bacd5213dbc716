"""Surrogates from traces: which tensors live at each moment of a step, and how their sizes depend on the step's.

How it works. The step is traced on a model of a few layers at as many sizes as there are monomials; that each trace
makes and frees the same tensors in the same order is checked, and each tensor's bytes are solved for exactly, in
fractions. Traces with one period of layers less say how the numbers of tensors grow with depth. The moments at which
nothing is at its most (something is made next, or another moment has all of it and more) are left out. At last the
surrogate is compared with traces of other depth and sizes: term by term, to the byte. What fails there is refused.

    python -m core.memory.fit              # makes the shipped surrogates anew (about an hour); --models llama: some;
                                           # --seconds 170: so long, and the next time it goes on
"""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from core.errors import DeltalabError
from core.memory.estimate import (
    FOLDER,
    MONOMIALS,
    SHORT,
    Group,
    Regime,
    Sizes,
    Surrogate,
    Unstable,
    file_name,
    key_of,
)
from core.memory.setup import Device, Setup
from core.memory.trace import Trace, any_layer, attention_of, trace
from core.methods import METHODS

Tell = Callable[[float, str], None]


# --- the model at another depth ---------------------------------------------------------------------------------------


def depth_of(config: Any) -> int:
    """Number of blocks."""
    return int(config.get_text_config().num_hidden_layers)


def with_layers(config: Any, layers: int) -> Any:
    """The same model with another number of blocks, in the same pattern."""
    made = copy.deepcopy(config)
    text = made.get_text_config()
    kinds = getattr(text, "layer_types", None)
    text.num_hidden_layers = layers
    if kinds:
        period = period_of(config)
        text.layer_types = [kinds[i] if i < len(kinds) else kinds[i % period] for i in range(layers)]
    return made


def period_of(config: Any) -> int:
    """After how many blocks their kinds repeat: 6 for five local blocks and a global one."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["all"]
    return next(p for p in range(1, len(kinds) + 1) if all(a == b for a, b in zip(kinds, kinds[p:], strict=False)))


def regime_of(config: Any, setup: Setup) -> Regime:
    """Between which sizes the step does what it does at the setup's: rows of one are their own case, as are ranks of
    one; a window shorter than the text needs a mask; and on a CPU short rows take another attention."""
    ends = [2]
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if window and ("sliding_attention" in (getattr(text, "layer_types", None) or ["sliding_attention"])):
        ends.append(int(window))
    if not setup.device.is_cuda and setup.attention == "auto":
        ends.append(SHORT + 1)
    low = max(e for e in ends if e <= setup.length)
    high = min((e - 1 for e in ends if e > setup.length), default=getattr(text, "max_position_embeddings", None))
    rank = setup.rank
    ranks: tuple[int, int | None] = (0, 0) if rank is None else (1, 1) if rank == 1 else (2, None)
    return Regime((1, 1) if setup.batch == 1 else (2, None), (low, high), ranks)


# --- sizes to trace at ------------------------------------------------------------------------------------------------


def monomials_of(regime: Regime, kernels: Sequence[str], masked: bool) -> list[str]:
    """What the sizes of tensors can be made of there."""
    names = ["1", "s", "n"]
    if regime.batch != (1, 1):
        names += ["b", "bs"]
    if "efficient" in kernels:
        names += ["u"] if regime.batch == (1, 1) else ["u", "bu"]
    if masked or "math" in kernels:
        names += ["ss"] if regime.batch == (1, 1) else ["ss", "bss"]
    if regime.rank[1] is None:
        names += ["r", "rn", "rbs"]
    return names


LEAST = 24  # tokens of the rows that surrogates are made from


def points_of(names: Sequence[str], regime: Regime) -> list[Sizes]:
    """As many sizes as there are monomials, independent of each other, and one more to check with."""
    shuffled = random.Random(1)
    low, high = regime.length
    least = max(low, LEAST)
    most = min(high or least + 400, least + 400)
    found: list[Sizes] = []
    rows: list[list[Fraction]] = []
    while len(found) <= len(names):
        batch = 1 if regime.batch == (1, 1) else shuffled.randint(2, 5)
        length = shuffled.randint(least, most)
        rank = regime.rank[0] if regime.rank[1] is not None else shuffled.randint(2, 9)
        sizes = Sizes(batch, length, shuffled.randint(2, batch * (length - 1)), rank)
        row = [Fraction(MONOMIALS[n][0](sizes)) for n in names]
        if len(found) == len(names) or _independent(rows, row):
            found.append(sizes)
    return found


def _independent(rows: list[list[Fraction]], row: list[Fraction]) -> bool:
    """Whether a row adds to those before, which are in echelon form; if so it is added."""
    row = list(row)
    for other in rows:
        lead = next(i for i, v in enumerate(other) if v)
        if row[lead]:
            factor = row[lead] / other[lead]
            row = [a - factor * b for a, b in zip(row, other, strict=True)]
    if not any(row):
        return False
    rows.append(row)
    return True


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Of a square matrix, exactly."""
    n = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(n))] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = next(r for r in range(column, n) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column][column]
        rows[column] = [v / lead for v in rows[column]]
        for r in range(n):
            if r != column and rows[r][column]:
                factor = rows[r][column]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[column], strict=True)]
    return [row[n:] for row in rows]


# --- moments ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Section:
    """A stretch of events with the same name in models of different depth."""

    name: str
    start: int
    stop: int


def _sections(found: Trace, layers: int, head: int, tail: int) -> list[_Section]:
    """The step's sections, in order; those of a layer are named by its place from the first and from the last."""
    cuts = [*found.cuts, (len(found.events), "")]
    seen: dict[str, int] = {}
    sections = []
    for (start, name), (stop, _) in itertools.pairwise(cuts):
        if start < found.resident or start == stop:
            continue
        seen[name] = seen.get(name, 0) + 1
        again = f"#{seen[name]}" if seen[name] > 1 else ""  # the second pass of a step with accumulation
        if not name.startswith("layer "):
            sections.append(_Section(name + again, start, stop))
            continue
        _, number, direction = name.split()
        index = int(number)
        if index < head:
            sections.append(_Section(f"layer {{{index}}} {direction}{again}", start, stop))
        if layers - index <= tail:
            sections.append(_Section(f"layer {{{index - layers}}} {direction}{again}", start, stop))
    return sections


def _heights(found: Trace, section: _Section) -> list[int]:
    """The events of a section after which something is freed, or the section ends: where it can be at its most."""
    events = found.events
    last = len(events) - 1
    return [
        e for e in range(section.start, section.stop)
        if events[e][1] > 0 and (e == section.stop - 1 or e == last or events[e + 1][1] < 0)
    ]  # fmt: skip


def _histograms(found: Trace, groups: Sequence[int], many: int, wanted: Sequence[int]) -> np.ndarray:
    """(wanted events, groups) numbers of tensors alive after each of these events."""
    now = np.zeros(many, dtype=np.int64)
    rows = np.zeros((len(wanted), many), dtype=np.int64)
    places: dict[int, list[int]] = {}
    for place, event in enumerate(wanted):
        places.setdefault(event, []).append(place)
    for event, (number, sign) in enumerate(found.events):
        now[groups[number]] += sign
        for place in places.get(event, ()):
            rows[place] = now
    return rows


# --- fitting ----------------------------------------------------------------------------------------------------------


def fit(config: Any, setup: Setup, name: str, tell: Tell = lambda share, text: None) -> Surrogate:
    """The surrogate of a model and a setup, for all sizes that go the same way as the setup's.

    Args:
        config: the model's transformers configuration. name: what to call it.
        tell: hears the share that is done and what is being done.

    Raises:
        Unstable: no surrogate gives the traces' bytes, or this one does not at the setup's own sizes.
        BadInput, Incompatible: as `trace`.
    """
    layers, period = depth_of(config), period_of(config)
    blocks = getattr(setup.settings, "blocks", 0)  # (of the last ones that train, for the method last_k)
    head, tail = period + 1, max(period + 1, blocks + 1)
    least = head + tail - 1
    first = least + (layers - least) % period
    second = first + period
    if second > layers:
        first = second = layers
    if setup.device.is_cuda:
        setup = replace(setup, accumulation=min(setup.accumulation, 2))
    regime = regime_of(config, setup)
    small = with_layers(config, second)
    kernels = trace(with_layers(config, first), setup.with_sizes(*_least(regime))).kernels
    quadratic = attention_of(config, setup) == "eager"
    try:
        found, points, groups, of_record = _sized(small, setup, name, tell, monomials_of(regime, kernels, quadratic))
    except Unstable:
        if quadratic:
            raise
        found, points, groups, of_record = _sized(small, setup, name, tell, monomials_of(regime, kernels, True))
    sections = _sections(found[0], second, head, tail)
    heights = [_heights(found[0], section) for section in sections]
    if first == second:
        counts = _histograms(found[0], of_record, len(groups), [e for rows in heights for e in rows])
        growth = np.zeros_like(counts)
    else:
        tell(0.8, f"Tracing {name} with fewer layers")
        less = with_layers(config, first)
        pair = [_traced(less, setup, sizes) for sizes in points[:2]]
        of_less = _matched(found, pair, groups, of_record, points)
        fewer = {s.name: s for s in _sections(pair[0], first, head, tail)}
        if [s.name for s in sections if s.name not in fewer]:
            raise Unstable(f"{name} goes through other sections with fewer layers.", "Trace the step instead.")
        matched = []
        for place, section in enumerate(sections):
            there = _heights(pair[0], fewer[section.name])
            here = heights[place]
            if len(there) != len(here):
                # As many moments as there are layers: the highest of each stands for all.
                here, there = (
                    [max(rows, key=lambda e: t.levels[e])] for t, rows in ((found[0], here), (pair[0], there))
                )
                heights[place] = here
            matched.append(there)
        counts = _histograms(pair[0], of_less, len(groups), [e for rows in matched for e in rows])
        deeper = _histograms(found[0], of_record, len(groups), [e for rows in heights for e in rows])
        growth = deeper - counts
    labels = [s.name for s, rows in zip(sections, heights, strict=True) for _ in rows]
    order = np.argsort([e for rows in heights for e in rows], kind="stable")
    kept = _undominated(counts[order], growth[order])
    rows = order[kept]
    used = np.flatnonzero((counts[rows] != 0).any(axis=0) | (growth[rows] != 0).any(axis=0))
    made = Surrogate(
        model=name, key=key_of(setup), layers=layers, first=first, period=period,
        groups=tuple(groups[i] for i in used), sections=tuple(labels[i].partition("#")[0] for i in rows),
        counts=counts[rows][:, used].astype(float), growth=growth[rows][:, used].astype(float),
        block=setup.device.block_bytes, regime=regime, kernels=kernels, versions=versions(),
    )  # fmt: skip
    tell(0.9, f"Checking {name} at sizes it was not made from")
    made = _checked(made, config, setup, points[-1], first == second)
    if made.covers(Sizes.of(setup)) and not made.holds(Sizes.of(setup)):
        raise Unstable(f"The surrogate of {name} does not give the bytes of a trace on short rows.", "Trace the step.")
    return made


def _sized(
    config: Any, setup: Setup, name: str, tell: Tell, names: Sequence[str]
) -> tuple[list[Trace], list[Sizes], list[Group], list[int]]:
    """Traces at as many sizes as there are monomials and one more, with the kinds of tensors that they are made of."""
    points = points_of(names, regime_of(config, setup))
    found = []
    for number, sizes in enumerate(points):
        tell(number / (len(points) + 5), f"Tracing {name} at size {number + 1} of {len(points)}")
        found.append(_traced(config, setup, sizes))
    return found, points, *_groups(found, points, names)


def _matched(
    found: Sequence[Trace], pair: Sequence[Trace], groups: list[Group], of_record: list[int], points: Sequence[Sizes]
) -> list[int]:
    """Of which kind each record of the traces with fewer layers is.

    A tensor can also be larger with more layers (the norms of all gradients, in one tensor). Those are paired in order,
    and get a kind of their own, which `groups` and `of_record` are given as well.

    Raises:
        Unstable: some are of no kind.
    """
    _same_events(pair)
    known = dict(zip(_marks(found), of_record, strict=True))
    of_less = [known.get(mark, -1) for mark in _marks(pair)]
    taken = set(of_less)
    waiting: dict[tuple[str, str, str, int], list[int]] = {}
    for number, group in enumerate(of_record):
        if group not in taken:
            waiting.setdefault(_kind(found[0], found[0].records[number]), []).append(number)
    added: dict[tuple[Any, ...], int] = {}
    for number, record in enumerate(pair[0].records):
        if of_less[number] >= 0:
            continue
        beside = waiting.get(_kind(pair[0], record), [])
        whole = groups[of_record[beside[0]]] if beside else None
        if whole is None or len(whole.size) != 1:
            raise Unstable("The step makes other tensors with fewer layers.", "Trace the step instead.")
        ((name, factor),) = whole.size.items()
        less = [Fraction(t.records[number].bytes, MONOMIALS[name][0](s)) for t, s in zip(pair, points, strict=False)]
        if less[0] != less[1]:
            raise Unstable("The size of a tensor grows with layers and more.", "Trace the step instead.")
        mark = (whole.category, whole.op, whole.where, whole.item, name, factor, less[0])
        if mark not in added:
            added[mark] = len(groups)
            groups.append(replace(whole, size={name: float(less[0])}, growth={name: factor - float(less[0])}))
        of_less[number] = of_record[beside.pop(0)] = added[mark]
    for beside in waiting.values():
        # There are more of them with more layers, too: each is of the kind of those that are of its size.
        for number in beside:
            whole = groups[of_record[number]]
            alike = [g for mark, g in added.items() if mark[:4] == _kind(found[0], found[0].records[number])]
            alike = [g for g in alike if _sum(groups[g].size, groups[g].growth) == dict(whole.size)]
            if len(alike) != 1:
                raise Unstable("The step makes fewer kinds of tensors with fewer layers.", "Trace the step instead.")
            of_record[number] = alike[0]
    return of_less


def _sum(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a[name] + b.get(name, 0.0) for name in a}


def _marks(pair: Sequence[Trace]) -> list[tuple[Any, ...]]:
    """What tells the kinds of tensors apart: category, operation, module, and the bytes in the first two traces."""
    return [(*_kind(pair[0], a), a.bytes, b.bytes) for a, b in zip(pair[0].records, pair[1].records, strict=True)]


def _least(regime: Regime) -> tuple[int, int, None, int | None]:
    rank = regime.rank[0] if regime.rank != (0, 0) else None
    return regime.batch[0], max(regime.length[0], LEAST), None, rank


def _traced(config: Any, setup: Setup, sizes: Sizes) -> Trace:
    rank = sizes.rank or None
    return trace(config, setup.with_sizes(sizes.batch, sizes.length, sizes.answers, rank))


def _kind(found: Trace, record: Any) -> tuple[str, str, str, int]:
    return found.category(record), record.op, any_layer(record.where), record.item


def _same_events(found: Sequence[Trace]) -> None:
    first = found[0]
    for other in found[1:]:
        if other.events != first.events or [_kind(other, r) for r in other.records] != [
            _kind(first, r) for r in first.records
        ]:
            raise Unstable("The step does other things at other sizes.", "Trace the step instead.")


def _groups(found: Sequence[Trace], points: Sequence[Sizes], names: Sequence[str]) -> tuple[list[Group], list[int]]:
    """The kinds of tensors, and of which kind each record is; every size solved for, and checked at the last point."""
    _same_events(found)
    inverse = _inverse([[Fraction(MONOMIALS[n][0](s)) for n in names] for s in points[:-1]])
    last = [Fraction(MONOMIALS[n][0](points[-1])) for n in names]
    solved: dict[tuple[int, ...], dict[str, float]] = {}
    numbers: dict[tuple[Any, ...], int] = {}
    groups: list[Group] = []
    of_record = []
    for record in zip(*(t.records for t in found), strict=True):
        sizes = tuple(r.bytes for r in record)
        kind = _kind(found[0], record[0])
        if sizes not in solved:
            factors = [sum((a * b for a, b in zip(row, sizes, strict=False)), Fraction(0)) for row in inverse]
            if sum((a * b for a, b in zip(factors, last, strict=True)), Fraction(0)) != sizes[-1]:
                raise Unstable(
                    f"The size of a tensor of {record[0].op} is none of the known products of the step's sizes.",
                    "Trace the step instead.",
                )
            solved[sizes] = {n: float(f) for n, f in zip(names, factors, strict=True) if f}
        key = (*kind, sizes)
        if key not in numbers:
            numbers[key] = len(groups)
            groups.append(Group(*kind, solved[sizes]))
        of_record.append(numbers[key])
    return groups, of_record


def _undominated(counts: np.ndarray, growth: np.ndarray) -> list[int]:
    """The rows that no other row is at least as high as, in every group and at every depth; of equals the first."""
    both = np.hstack([counts, growth])
    kept: list[int] = []
    for row in range(len(both)):
        here = both[row]
        if kept and (both[kept] >= here).all(axis=1).any():
            continue
        kept = [k for k in kept if not (here >= both[k]).all() or (here == both[k]).all()]
        kept.append(row)
    return sorted(kept)


def _checked(made: Surrogate, config: Any, setup: Setup, point: Sizes, fixed: bool) -> Surrogate:
    """The surrogate, if it gives the bytes of traces that it was not made from: at another depth and at other sizes;
    and for batches of one, if it does so there."""
    deeper = made.first if fixed else made.first + 2 * made.period
    tested = [replace(point, layers=deeper), *(
        Sizes(b, s, None, point.rank, made.first) for b, s in ((max(2, made.regime.batch[0]), point.length + 3),)
        if made.regime.holds(Sizes(b, s, None, point.rank))
    )]  # fmt: skip
    for sizes in tested:
        if not agrees(made, config, setup, sizes):
            raise Unstable(f"The surrogate of {made.model} does not give the bytes of a trace.", "Trace the step.")
    if made.regime.batch == (2, None):
        alone = replace(point, batch=1, answers=None, layers=made.first)
        wider = replace(made, regime=replace(made.regime, batch=(1, None)))
        if agrees(wider, config, setup, alone):
            made, tested = wider, [*tested, alone]
    low = made.regime.length[0]
    few = replace(point, batch=made.regime.batch[0], length=low, answers=None, layers=made.first)
    few = replace(few, rank=2 * few.batch * few.length)
    tried = replace(made, checked=((made.first, few.batch, few.length, few.rank),))
    if made.regime.rank[1] is None and low < LEAST and agrees(tried, config, setup, few):
        tested = [*tested, few]
    return replace(made, checked=tuple((s.layers or 0, s.batch, s.length, s.rank) for s in tested))


def agrees(made: Surrogate, config: Any, setup: Setup, sizes: Sizes) -> bool:
    """Whether surrogate and trace give the same bytes, term by term, and the same section, at these sizes."""
    layers = made.layers if sizes.layers is None else sizes.layers
    traced = _traced(with_layers(config, layers), setup, sizes).ledger()
    told = made.ledger(sizes)
    return {t.name: t.bytes for t in told.terms} == {
        t.name: t.bytes for t in traced.terms if t.bytes
    } and told.peak_at == traced.peak_at


FORM = 1  # raised when traces or surrogates are made in another way, so that those made before are made anew


def versions() -> dict[str, str]:
    """Of what a surrogate depends on."""
    from importlib.metadata import version

    return {"form": str(FORM)} | {p: version(p) for p in ("torch", "transformers", "bitsandbytes")}


# --- the shipped ones -------------------------------------------------------------------------------------------------

# Most wanted first: the program can be stopped at any time, and what is done is kept.
MAIN_METHODS = ("lora", "qlora", "full", "bitfit")
POPULAR = (
    "Llama-3.1-8B", "Llama-3.2-1B", "Llama-3.2-3B", "Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B",
    "Mistral-7B-v0.3", "SmolLM2-135M", "SmolLM2-360M", "SmolLM2-1.7B", "TinyLlama-1.1B", "Qwen3-0.6B", "Qwen3-1.7B",
    "Qwen3-4B", "Qwen3-8B", "Llama-2-7B", "Gemma-2B", "Gemma-7B", "GPT-2", "GPT-2-medium", "OPT-125M", "OPT-1.3B",
    "Phi-2", "Phi-3-mini-4k", "Pythia-160M", "Llama-3.1-70B", "Llama-2-13B", "Qwen2.5-14B", "Qwen2.5-32B",
    "Qwen2.5-72B", "Gemma-2-2B", "Gemma-3-1B (text)", "Mistral-7B-v0.1", "OPT-6.7B", "Phi-4", "GPT-2-large",
    "GPT-2-XL", "Qwen3-14B", "Qwen3-32B", "Llama-2-70B", "Llama-3.3-70B", "Pythia-6.9B", "Phi-1.5", "OPT-350M",
)  # fmt: skip
OLD_CARD, CARD = "7.5", "8.0"  # a T4, which has no bfloat16, and the cards before it; and all later ones
# Models that come for one claim alone (core/claims.py).
ONE_SETUP = {"LLaMA-1-65B": ("qlora", CARD)}
SMALL = 2_000_000_000  # parameters above which nobody trains in 32 bits on an old card or a CPU
OLD_QLORA = 37  # so many of the most popular models come with QLoRA on an old card, which free notebooks have
ALL_METHODS = 8  # so many of the most popular models come with every method


def table_of(name: str) -> Any:
    """The table of modules of a model of the catalogue, or of the embedded base."""
    from core.architecture import architecture_of_config
    from core.catalog import architecture_of
    from core.config import EMBEDDED

    return architecture_of_config(described(name)) if name == EMBEDDED else architecture_of(name)


def described(name: str) -> Any:
    """The configuration of a model of the catalogue, or of the embedded base."""
    from core.base import load_config
    from core.catalog import config_of, model
    from core.config import EMBEDDED

    return load_config(EMBEDDED) if name == EMBEDDED else config_of(model(name))


def embedded() -> list[Setup]:
    """What runs of the embedded base are predicted for: every method on a CPU, in both formats, and the main ones
    recomputed, too; those on a card as well."""
    from core.config import EMBEDDED
    from core.errors import Incompatible

    table, found = table_of(EMBEDDED), []
    for device, precision in ((Device(), "float32"), (Device(), "bfloat16"), (Device.of(CARD), "bfloat16")):
        for method in METHODS if not device.is_cuda else MAIN_METHODS:
            settings = METHODS[method].Config()
            try:
                METHODS[method].count(table, settings)
            except Incompatible:
                continue
            plain = Setup(method, settings, 4, 64, device=device, precision=precision)
            found += [plain, replace(plain, checkpointing=True)] if method in MAIN_METHODS else [plain]
    return sorted(found, key=lambda s: (s.device.is_cuda, s.checkpointing, s.method not in MAIN_METHODS))


def wanted(name: str) -> list[Setup]:
    """The setups of a model that surrogates are shipped for, most wanted first."""
    from core.catalog import architecture_of, model
    from core.config import EMBEDDED
    from core.errors import Incompatible

    if name == EMBEDDED:
        return embedded()
    if name in ONE_SETUP:
        only, place = ONE_SETUP[name]
        kind = Device.of(place)
        return [Setup(only, METHODS[only].Config(), 4, 128, device=kind, precision=kind.precision, checkpointing=True)]

    found = []
    small, old = model(name).parameters <= SMALL, name in POPULAR[:OLD_QLORA]
    for methods, devices in (
        (MAIN_METHODS, (CARD,)),
        (("qlora",), (OLD_CARD,) if old else ()),
        (MAIN_METHODS, (OLD_CARD, "cpu") if small else ()),
        ([m for m in METHODS if m not in MAIN_METHODS], (CARD,) if name in POPULAR[:ALL_METHODS] else ()),
    ):
        for device in map(Device.of, devices):
            for method in methods:
                settings = METHODS[method].Config()
                try:
                    METHODS[method].count(architecture_of(name), settings)
                except Incompatible:
                    continue
                plain = Setup(method, settings, 4, 128, device=device, precision=device.precision)
                both = [plain, replace(plain, checkpointing=True)][: 1 + METHODS[method].CHECKPOINTS]
                # Text that is longer than the window of its attention is a case of its own.
                window = model(name).config.get("sliding_window")
                longer = [replace(s, length=window + 64) for s in both] if window and device.is_cuda else []
                found += [s for s in both + longer if s.length <= (model(name).context_tokens or s.length)]
    return found


def current(record: Mapping[str, Any]) -> bool:
    """Whether a surrogate, as JSON, was made with these libraries, and knows short rows where it has a rank."""
    made = Surrogate.from_dict(record)
    ranked = made.regime.rank[1] is None and made.regime.length[0] < LEAST
    return dict(made.versions) == versions() and (made.tried_short or not ranked)


def _answers(record: Mapping[str, Any], setup: Setup) -> bool:
    """Whether a surrogate, as JSON, is for such a setup."""
    low, high = record["regime"]["length"]
    return record["key"] == key_of(setup) and low <= setup.length and (high is None or setup.length <= high)


def ship(names: Sequence[str], seconds: float, main_only: bool) -> None:
    """Make the shipped surrogates of these models anew, and say how each went; what is current already is left."""
    from core.config import EMBEDDED

    FOLDER.mkdir(exist_ok=True)
    end = time.monotonic() + seconds
    rounds = [[(n, s) for n in names for s in wanted(n) if s.method in MAIN_METHODS and str(s.device) == CARD]]
    if not main_only:
        rounds.append([(n, s) for n in names for s in wanted(n) if s.method == "qlora" and str(s.device) == OLD_CARD])
        rounds.append([(n, s) for n in names for s in wanted(n)])
    for name, setup in (pair for pairs in rounds for pair in pairs):
        path = FOLDER / f"{file_name(name)}.json.gz"
        records = json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else []
        if any(_answers(r, setup) and current(r) for r in records):
            continue
        if time.monotonic() > end:
            print("Out of time; run it again to go on.")
            return
        began = time.perf_counter()
        what = f"{name} {setup.method} on {setup.device}{' with checkpointing' if setup.checkpointing else ''}"
        what += f", {setup.length} tokens"
        try:
            made = [fit(described(name), setup, name)]
            if made[0].regime.batch[0] > 1 and name != EMBEDDED:  # (its runs have batches)
                made.append(fit(described(name), replace(setup, batch=1), name))
        except DeltalabError as why:
            print(f"{what}: none. {why.sentence}", flush=True)
            continue
        records = [r for r in records if not _answers(r, setup)] + [one.to_dict() for one in made]
        text = json.dumps(records, separators=(",", ":"))
        partial = path.with_suffix(".partial")
        partial.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        partial.replace(path)
        print(f"{what}: {time.perf_counter() - began:.1f} s, {len(made[0].sections)} moments", flush=True)


def check(count: int, seed: int, part_of_name: str | None) -> None:
    """Compare shipped surrogates with full traces at random models, methods, depths and sizes; print what was found."""
    from core.catalog import models
    from core.memory.estimate import shipped

    drawn = random.Random(seed)
    pool = [(row.name, s) for row in models() if (part_of_name or "") in row.name for s in shipped(row.name)]
    if not pool:
        print("There are no shipped surrogates of such a model.")
        return
    worst, apart, slowest = 0, 0, 0.0
    for _ in range(count):
        name, made = drawn.choice(pool)
        record = json.loads(made.key)[0]
        sizes = random_sizes(made, drawn)
        began = time.perf_counter()
        told = made.ledger(sizes)
        slowest = max(slowest, time.perf_counter() - began)
        off = difference(name, made, sizes)
        apart += off > 0
        worst = max(worst, off)
        print(
            f"{name} {record['method']} on {record['device']}{' checkpointing' if record['checkpointing'] else ''}, "
            f"{sizes.layers} layers, {sizes.batch} × {sizes.length}, {sizes.answer_tokens} answers, rank {sizes.rank}: "
            f"{told.allocated_bytes:,} bytes, off by {off:,}",
            flush=True,
        )
    print(
        f"{count} configurations: {apart} differ, the largest term by {worst:,} bytes; slowest {slowest * 1e3:.1f} ms."
    )


def difference(name: str, made: Surrogate, sizes: Sizes) -> int:
    """By how many bytes the term differs most between a model's shipped surrogate and the full trace of these sizes."""
    from core.catalog import config_of, model

    record, settings = json.loads(made.key)
    own = METHODS[record["method"]].Config(**settings)
    setup = Setup.from_dict({**record_of(record), "settings": vars(own), "batch": 4, "length": sizes.length,
                             "answers": None})  # fmt: skip
    layers = sizes.layers if sizes.layers is not None else made.layers
    traced = _traced(with_layers(config_of(model(name)), layers), setup, sizes).ledger()
    theirs = {t.name: t.bytes for t in traced.terms if t.bytes}
    ours = {t.name: t.bytes for t in made.ledger(sizes).terms}
    return max(abs(theirs.get(k, 0) - ours.get(k, 0)) for k in {*theirs, *ours})


def record_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A key's record as `Setup.from_dict` wants it."""
    return {k: v for k, v in record.items() if k != "short"}


def random_sizes(made: Surrogate, drawn: random.Random, most_tokens: int = 8192, most_rank: int = 64) -> Sizes:
    """Sizes at which a surrogate holds. Short rows as often as long ones: each doubling is as likely as the next."""
    low, high = made.regime.length
    most = min(high or most_tokens, most_tokens)
    deeper = (made.layers - made.first) // made.period if made.growth.any() else 0
    while True:
        batch = drawn.randint(made.regime.batch[0], made.regime.batch[1] or 16)
        length = min(most, max(low, round(low * (most / low) ** drawn.random())))
        rank = made.regime.rank[0] if made.regime.rank[1] is not None else drawn.randint(made.regime.rank[0], most_rank)
        answers = drawn.choice((None, drawn.randint(1, batch * (length - 1))))
        found = Sizes(batch, length, answers, rank, made.first + made.period * drawn.randint(0, deeper))
        if made.holds(found):
            return found


def main() -> None:
    """Make the shipped surrogates anew (the most wanted first)."""
    import argparse

    from core.config import EMBEDDED

    parser = argparse.ArgumentParser(prog="python -m core.memory.fit", description=main.__doc__)
    parser.add_argument("--models", default="", help="only models whose name has this in it")
    parser.add_argument("--main", action="store_true", help="only the four main methods, on a card")
    parser.add_argument("--seconds", type=float, default=7200.0, help="stop after so long (what is made is kept)")
    asked = parser.parse_args()
    ship([n for n in (EMBEDDED, *POPULAR, *ONE_SETUP) if asked.models in n], asked.seconds, asked.main)


if __name__ == "__main__":
    main()
