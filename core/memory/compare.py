"""One question to the calculator, answered side by side: all methods, all cards, and the largest model per card.

A `Lookup` gives the surrogate of a setup, or None where nobody has traced it yet; then a row says so instead of showing
a figure. So a table never waits: what is missing is worked out elsewhere (`core.memory.fitter`) and comes later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from core.architecture import Architecture
from core.catalog import GpuRow, gpus, models
from core.errors import BadInput, DeltalabError
from core.memory import card as cards
from core.memory.card import FITS, TIGHT, TOO_LARGE, Totals, totals
from core.memory.estimate import CUDNN_FIRST, FOLDER, SHORT, Sizes, Surrogate, file_name, find
from core.memory.ledger import Ledger
from core.memory.setup import Device, Setup
from core.memory.sharded import ALONE, Sharding
from core.memory.speed import step_speed
from core.memory.stack import OWN
from core.methods import LORAS, METHODS
from core.units import GB, bytes_text

Lookup = Callable[[Setup], Surrogate | None]

CPU = "cpu"
ASSUMED = "8.0"  # the compute capability of a card that has none of NVIDIA's: bfloat16 and fused attention are assumed
MAIN = ("full", "lora", "qlora", "bitfit")
UNKNOWN = "not worked out"


def cpu_row(memory_bytes: int, name: str = "") -> GpuRow:
    """A computer's own memory, as a row beside the cards."""
    return GpuRow(CPU, name, memory_bytes / GB, (), usable_share=1.0, shared=True)


def device_of(card: GpuRow) -> Device:
    """The kind of device that a step is traced for."""
    return Device() if card.name == CPU else Device.of(card.capability or ASSUMED)


def on(setup: Setup, card: GpuRow) -> Setup:
    """The same step on another card, in the number format that training takes there by itself."""
    device = device_of(card)
    return dataclasses.replace(setup, device=device, precision=device.precision)


def with_method(setup: Setup, method: str) -> Setup:
    """The same step with another method: its own defaults, and rank, targets and dropout where both are kinds of LoRA.

    A method that cannot recompute activations goes without.
    """
    module = METHODS[method]
    settings = module.Config()
    if method == setup.method:
        settings = setup.settings
    elif method in LORAS and setup.method in LORAS:
        shared = {name: getattr(setup.settings, name) for name in ("rank", "target_modules", "dropout")}
        settings = dataclasses.replace(settings, **shared)
    return dataclasses.replace(
        setup, method=method, settings=settings, checkpointing=setup.checkpointing and module.CHECKPOINTS
    )


@dataclass(frozen=True)
class Answer:
    """One step on one card. ledger: its terms. found: the totals. batch, length: the largest that fit; None where the
    step was traced as it is, and nothing is known of other sizes. tight: the same two, of what fits or is tight."""

    ledger: Ledger
    found: Totals
    verdict: str
    batch: int | None
    length: int | None
    tight: tuple[int | None, int | None] = (None, None)


def check(table: Architecture, context: int | None, setup: Setup, name: str, sharding: Sharding = ALONE) -> None:
    """Say what cannot be: rows longer than the model reads, a format that the card lacks, nothing that would train,
    what is known for cards only.

    Args:
        context: tokens that the model reads; None where nothing says.

    Raises:
        BadInput, Incompatible: one sentence, and what to do.
    """
    ahead = ahead_of(setup)
    if context is not None and setup.length + ahead > context:
        more = f", with {ahead:,} of the method's own before each" if ahead else ""
        raise BadInput(
            f"{name} reads at most {context:,} tokens; rows of {setup.length:,}{more} are asked for.",
            f"Choose {context - ahead:,} or fewer." if context > ahead + 1 else "Choose fewer tokens of the method's.",
        )
    if setup.precision == "bfloat16" and setup.device.is_cuda and setup.device.precision != "bfloat16":
        raise BadInput("This card does not compute in bfloat16.", "Leave the number format to the card.")
    sharding.checked()
    if not setup.device.is_cuda and (sharding != ALONE or setup.stack != OWN):
        raise BadInput("Sharding, offloading and other programs are known for GPUs only.", "Choose a card.")
    METHODS[setup.method].count(table, setup.settings)


def with_half(setup: Setup) -> Setup | None:
    """The same step in 16 bits on a card that has bfloat16: about what it takes in float16 on one that has not; None
    for any other step. Cards without bfloat16 are reckoned in 32 bits, as this program trains there."""
    if not setup.device.is_cuda or setup.device.precision == "bfloat16":
        return None
    return dataclasses.replace(setup, device=Device.of(ASSUMED), precision="bfloat16")


def half_note(lookup: Lookup, setup: Setup) -> str:
    """What is to be known of a card without bfloat16, as a sentence; "" for any other."""
    asked = with_half(setup)
    if asked is None:
        return ""
    made = lookup(asked)
    takes = "" if made is None else f": {bytes_text(totals(made.peak_bytes(Sizes.of(asked)), asked.device).process[1])}"
    return (
        "This card has no bfloat16, and steps on it are reckoned in 32 bits, as this program trains there. Programs "
        "that train in float16 with scaled gradients (fp16=True) take about what bfloat16 takes on a later card"
        f"{takes}; the attention kernels of this one may need more."
    )


def ahead_of(setup: Setup) -> int:
    """Tokens that the method puts before each row: of prompt tuning and its kind."""
    return int(getattr(setup.settings, "tokens", 0))


def answer_of_trace(result: Mapping[str, Any], setup: Setup, card: GpuRow) -> Answer:
    """The same from a whole trace (`core.memory.tracer.Tracer.trace`), whose reserved memory was simulated."""
    ledger = Ledger.from_dict(result["ledger"])
    found = totals(ledger.allocated_bytes, setup.device, result["reserved_bytes"] or None)
    return Answer(ledger, found, found.verdict(card.usable_bytes), None, None)


def answer(
    lookup: Lookup, setup: Setup, card: GpuRow, sharding: Sharding = ALONE, table: Architecture | None = None
) -> Answer | None:
    """What a page shows at once; None where nobody has traced the step yet.

    Args:
        sharding: how several GPUs share it; then the answer is of one of them. table: the model's, needed for that.

    Raises:
        BadInput: a sharding that makes no sense.
    """
    family = Family.of(lookup, setup, sharding.checked(), table)
    if family is None:
        return None
    sizes = Sizes.of(setup)
    ledger = family.ledger(sizes)
    found = totals(ledger.allocated_bytes, setup.device)
    batch, length = family.largest(setup, card)
    verdict = found.verdict(card.usable_bytes)
    return Answer(ledger, found, verdict, batch, length, family.largest(setup, card, TIGHT))


class Family:
    """The surrogates of one step in all its regimes, as one: a single row is a case of its own, and so is text longer
    than the window of the attention. It remembers its peaks, because the same sizes are tried for many cards.

    Attributes:
        first: the surrogate of the setup's own sizes. whole: whether rows of one and more rows are both there.
    """

    def __init__(
        self, first: Surrogate, others: Sequence[Surrogate], whole: bool, sharding: Sharding = ALONE,
        table: Architecture | None = None,
    ) -> None:  # fmt: skip
        self.first, self.whole = first, whole
        self._sharding, self._table = sharding, table
        self._all = (first, *others)
        self._peaks: dict[Sizes, int] = {}
        self._tensors: dict[int, np.ndarray] = {}  # numbers of tensors at each moment, at the model's own depth
        longest = [one.regime.length[1] for one in self._all]
        most = None if None in longest else max(n for n in longest if n is not None)
        self.regime = dataclasses.replace(first.regime, batch=(1, None), length=(2, most))

    @classmethod
    def of(
        cls, lookup: Lookup, setup: Setup, sharding: Sharding = ALONE, table: Architecture | None = None
    ) -> Family | None:
        """Look the regimes up; None where the setup's own is not there."""
        first = lookup(setup)
        if first is None:
            return None
        # Mostly one row and several are the same case.
        other = at(setup, 2 if setup.batch == 1 else 1, setup.length)
        other_rows = first if first.covers(Sizes.of(other)) else lookup(other)
        end = first.regime.length[1]
        longer = lookup(at(setup, setup.batch, end + 1)) if end is not None else None
        start = first.regime.length[0]
        shorter = lookup(at(setup, setup.batch, start - 1)) if start > 2 else None
        found = [one for one in (other_rows, longer, shorter) if one is not None]
        return cls(first, found, other_rows is not None, sharding, table)

    def _holding(self, sizes: Sizes) -> Surrogate | None:
        return next((one for one in self._all if one.regime.holds(sizes)), None)

    def covers(self, sizes: Sizes) -> bool:
        """Whether one of them says anything about these sizes."""
        return self._holding(sizes) is not None

    def peak_bytes(self, sizes: Sizes) -> int:
        """Most that is alive during the step.

        Raises:
            ValueError: none holds there.
        """
        if sizes not in self._peaks:
            one = self._holding(sizes)
            if one is None:
                raise ValueError(f"nothing holds at {sizes}")
            if not self._sharding.alone:
                self._peaks[sizes] = self.ledger(sizes).allocated_bytes
                return self._peaks[sizes]
            if id(one) not in self._tensors:
                self._tensors[id(one)] = one.counts + one.periods(sizes) * one.growth
            self._peaks[sizes] = int((self._tensors[id(one)] @ one.group_bytes(sizes)).max())
        return self._peaks[sizes]

    def ledger(self, sizes: Sizes) -> Ledger:
        """The terms at the peak, of one GPU.

        Raises:
            ValueError: none holds there.
        """
        one = self._holding(sizes)
        if one is None:
            raise ValueError(f"nothing holds at {sizes}")
        if self._sharding.alone or self._table is None:
            return one.ledger(sizes)
        return one.shared(sizes, self._sharding, self._table)

    def largest(self, setup: Setup, card: GpuRow, verdict: str = FITS) -> tuple[int | None, int | None]:
        """The largest batch at the setup's length, and the longest rows at its batch, that have this verdict or a
        better one; None where more of them are not traced."""
        made: Any = self  # (a surrogate, as far as these two are concerned)
        sizes = Sizes.of(setup)
        asked = sizes, setup.device, card.usable_bytes, verdict
        batch = cards.largest_batch(made, *asked) if self.whole else None
        length = cards.largest_length(made, *asked)
        # A CPU takes another attention for rows above SHORT; where those are not traced, nothing is said of them.
        open_end = not setup.device.is_cuda and self.regime.length[1] == SHORT == length
        return batch, None if open_end else length


def at(setup: Setup, batch: int, length: int) -> Setup:
    """The same step at other sizes, with as large a share of answer tokens."""
    answers = setup.answers
    if answers is not None:
        answers = max(1, round(answers / (setup.batch * (setup.length - 1)) * batch * (length - 1)))
    return setup.with_sizes(batch, length, answers)


@dataclass(frozen=True)
class MethodRow:
    """A method on the model. trainable, found: None where it cannot be used or is not traced; then `why` says which.

    parts: bytes at the peak by term. section: where in the step the peak is. setup: what was asked.
    """

    method: str
    setup: Setup
    trainable: int | None
    found: Totals | None
    verdict: str
    parts: Mapping[str, int]
    section: str
    why: str = ""


def methods(
    table: Architecture, lookup: Lookup, setup: Setup, card: GpuRow, sharding: Sharding = ALONE
) -> list[MethodRow]:
    """Every method on one model and card, in the order of METHODS; of one GPU, where several share the step."""
    rows = []
    for name in METHODS:
        asked = with_method(setup, name)
        try:
            trainable = METHODS[name].count(table, asked.settings)
        except DeltalabError as error:
            rows.append(MethodRow(name, asked, None, None, "", {}, "", error.sentence))
            continue
        made = lookup(asked)
        if made is None:
            rows.append(MethodRow(name, asked, trainable, None, "", {}, "", UNKNOWN))
            continue
        sizes = Sizes.of(asked)
        ledger = made.ledger(sizes) if sharding.alone else made.shared(sizes, sharding, table)
        found = totals(ledger.allocated_bytes, asked.device)
        parts = {term.name: term.bytes for term in ledger.terms}
        rows.append(MethodRow(name, asked, trainable, found, found.verdict(card.usable_bytes), parts, ledger.peak_at))
    return rows


@dataclass(frozen=True)
class CardRow:
    """The step on a card. found: None where it is not traced for such a card. batch, length: the largest that fit, None
    where that is not known. seconds: of a step, (least, likely, most), None where the card's rate is not known."""

    card: GpuRow
    setup: Setup
    found: Totals | None
    verdict: str
    batch: int | None
    length: int | None
    seconds: tuple[float, float, float] | None


def all_cards(
    table: Architecture, lookup: Lookup, setup: Setup, rows: Sequence[GpuRow] | None = None, sharding: Sharding = ALONE
) -> list[CardRow]:
    """The step on every card, the smallest memory first; on one of several such cards, where they share it."""
    out = []
    families: dict[tuple[str, str], Family | None] = {}
    for card in sorted(gpus() if rows is None else rows, key=lambda c: c.usable_bytes):
        asked = on(setup, card)
        key = (str(asked.device), asked.precision)
        if key not in families:
            families[key] = Family.of(lookup, asked, sharding, table)
        family = families[key]
        speed = step_speed(table, asked, card)
        seconds = speed.step_seconds if speed is not None else None
        if family is None:
            out.append(CardRow(card, asked, None, "", None, None, seconds))
            continue
        found = totals(family.peak_bytes(Sizes.of(asked)), asked.device)
        batch, length = family.largest(asked, card)
        out.append(CardRow(card, asked, found, found.verdict(card.usable_bytes), batch, length, seconds))
    return out


# --- the frontier -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """The largest model of the catalogue that a method trains on a card; name "" where none does. known: whether any
    model was traced with this step on such a card; without, nothing is known."""

    method: str
    card: GpuRow
    name: str
    parameters: int
    process: int
    known: bool = True

    @property
    def told(self) -> str:
        """The model in words."""
        return self.name or ("none" if self.known else "not worked out")


def traced_models() -> tuple[str, ...]:
    """Names of the decoders that come with surrogates."""
    return tuple(
        row.name for row in models() if row.is_decoder and (FOLDER / f"{file_name(row.name)}.json.gz").is_file()
    )


def _common(setup: Setup) -> Setup:
    """The same step on a card of compute capability 8.0, where that takes the same memory (see `estimate.find`): so the
    models are looked up once for all such cards."""
    capability = setup.device.capability
    if capability is None or capability < (8, 0) or capability in CUDNN_FIRST:
        return setup
    return dataclasses.replace(setup, device=Device.of(ASSUMED))


@lru_cache(maxsize=256)
def _likely(setup: Setup) -> tuple[tuple[str, int, int], ...]:
    """(name, parameters, likely process bytes) of every model that a shipped surrogate answers, largest first."""
    sizes = Sizes.of(setup)
    rows = []
    for row in models():
        if row.name in traced_models():
            made = find(row.name, setup)
            if made is not None:
                rows.append((row.name, row.parameters, totals(made.peak_bytes(sizes), setup.device).process[1]))
    return tuple(sorted(rows, key=lambda r: -r[1]))


def frontier(setup: Setup, rows: Sequence[GpuRow] | None = None, of: Sequence[str] = MAIN) -> list[Reach]:
    """The largest model per method and card at this batch and length, among those that come with surrogates.

    Likely totals decide. Each method with its defaults (as `with_method`).
    """
    out = []
    for method in of:
        asked = with_method(setup, method)
        for card in sorted(gpus() if rows is None else rows, key=lambda c: c.usable_bytes):
            found = _likely(_common(on(asked, card)))
            best = next((r for r in found if r[2] <= card.usable_bytes), ("", 0, 0))
            out.append(Reach(method, card, *best, known=bool(found)))
    return out


def smallest_card(rows: Sequence[CardRow]) -> CardRow | None:
    """The smallest card on which the step fits; failing that, on which it is tight."""
    for verdict in (FITS, TIGHT):
        for row in rows:
            if row.verdict == verdict:
                return row
    return None


__all__ = [
    "ASSUMED",
    "CPU",
    "FITS",
    "MAIN",
    "TIGHT",
    "TOO_LARGE",
    "UNKNOWN",
    "Answer",
    "CardRow",
    "Lookup",
    "MethodRow",
    "Reach",
    "ahead_of",
    "all_cards",
    "answer", "answer_of_trace", "at", "check",
    "cpu_row",
    "device_of",
    "frontier",
    "half_note",
    "methods",
    "on",
    "smallest_card",
    "traced_models",
    "with_half",
    "with_method",
]  # fmt: skip
