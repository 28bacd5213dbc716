"""What to change so that a step fits: one change at a time, each with its new total, the cheapest in memory last.

    for change in changes(table, lookup, setup, card): change.says, change.found.process[1], change.verdict

Of one of several GPUs, the same changes, and to cut more among them.

Every figure is the answer to the changed question; nothing is scaled by rule of thumb. A change that nobody has traced
yet is listed without a figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from core.architecture import Architecture
from core.catalog import GpuRow
from core.errors import DeltalabError
from core.memory.card import TOO_LARGE, Totals, totals
from core.memory.compare import Lookup, at, with_method
from core.memory.estimate import Sizes
from core.memory.setup import Setup
from core.memory.sharded import ALONE, Sharding
from core.methods import METHODS

LEAST_LENGTH = 128  # tokens: shorter rows are seldom worth proposing


@dataclass(frozen=True)
class Change:
    """A changed step. name: what is changed, for a button. says: the change and what it costs, as a sentence.

    found: its totals, None where it is not traced yet. saved: bytes of the likely total that it saves. sharding: how
    several GPUs share the changed step.
    """

    name: str
    says: str
    setup: Setup
    found: Totals | None
    verdict: str
    saved: int
    sharding: Sharding = ALONE


def _single(setup: Setup) -> Iterator[tuple[str, str, Setup]]:
    module = METHODS[setup.method]
    if not setup.checkpointing and module.CHECKPOINTS:
        yield (
            "Recompute activations",
            "Gradient checkpointing keeps one tensor per layer and computes the rest again: about a third more time.",
            dataclasses.replace(setup, checkpointing=True),
        )
    if setup.batch > 1:
        yield (
            "Batch 1",
            f"One row at a time. {setup.batch * setup.accumulation} passes a step see as many examples: that adds the "
            "gradients, which then live through the next pass.",
            at(setup, 1, setup.length),
        )
    half = setup.length // 2
    if half >= LEAST_LENGTH:
        yield (
            f"Rows of {half:,} tokens",
            "Half the length: longer examples are cut or left out.",
            at(setup, setup.batch, half),
        )
    if setup.method == "full":
        yield (
            "LoRA instead", "The weights stay as they are; a pair of thin matrices beside each is trained.",
            with_method(setup, "lora"),
        )  # fmt: skip
    if module.BASE != "quantized":
        yield (
            "QLoRA instead",
            "The frozen weights are stored in four bits, decoded when they are needed: slower, and a little rounded.",
            with_method(setup, "qlora"),
        )
    if setup.optimizer == "adamw":
        yield (
            "AdamW in 8 bits",
            "The optimizer's two running means in one byte each; it matters where many parameters train.",
            dataclasses.replace(setup, optimizer="adamw_8bit"),
        )
    rank = setup.rank
    if rank is not None and rank > 1:
        yield (
            f"Rank {rank // 2}",
            "Half the rank: the pairs, their gradients and states halve, and little else does.",
            setup.with_sizes(setup.batch, setup.length, setup.answers, rank // 2),
        )


def _together(setup: Setup) -> Iterator[tuple[str, str, Setup]]:
    """What is left when no single change is enough."""
    small = setup
    words = []
    if setup.batch > 1:
        small = at(small, 1, setup.length)
        words.append("batch 1")
    if not small.checkpointing and METHODS[small.method].CHECKPOINTS:
        small = dataclasses.replace(small, checkpointing=True)
        words.append("recomputed activations")
    if len(words) == 2:
        yield _sentence(words), "Both, with the same method.", small
    if METHODS[setup.method].BASE != "quantized" and words:
        both = [*words, "QLoRA"]
        yield (
            _sentence(both),
            "Everything that leaves the data as it is.",
            with_method(dataclasses.replace(small, checkpointing=True), "qlora"),
        )


def _sentence(words: list[str]) -> str:
    text = ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
    return text[:1].upper() + text[1:]


def _cut(sharding: Sharding) -> Iterator[tuple[str, str, Sharding]]:
    """More of the step cut among GPUs, or kept out of them."""
    if sharding.gpus == 1:
        return
    says = {
        1: "The optimizer's state is cut among the GPUs.",
        2: "The optimizer's state and the gradients are cut among the GPUs.",
        3: "The weights are cut too, and gathered block by block: more traffic between the GPUs.",
    }
    for stage in range(sharding.zero + 1, 4):
        yield f"ZeRO-{stage}", says[stage], dataclasses.replace(sharding, zero=stage)
    if sharding.offload == "none":
        yield (
            "The optimizer in the CPU's memory",
            "Its state and the gradients wait there: slower, by the way between the two.",
            dataclasses.replace(sharding, offload="optimizer"),
        )


def changes(
    table: Architecture, lookup: Lookup, setup: Setup, card: GpuRow, sharding: Sharding = ALONE
) -> list[Change]:
    """Single changes, and combinations where no single one fits; the largest saving first, untraced ones last.

    Args:
        sharding: how several GPUs share the step; then the figures are of one of them.

    Raises:
        ValueError: the step itself is not traced.
    """
    now = _found(table, lookup, setup, sharding)
    if now is None:
        raise ValueError("the step itself has no surrogate yet")
    before = now.process[1]
    single = [(*one, sharding) for one in _single(setup)]
    single += [(name, says, setup, cut) for name, says, cut in _cut(sharding) if not cut.problems()]
    found = list(_told(table, lookup, single, card, before))
    if all(c.verdict in ("", TOO_LARGE) for c in found):
        found += _told(table, lookup, [(*one, sharding) for one in _together(setup)], card, before)
    return sorted(found, key=lambda c: (c.found is None, -c.saved))


def _found(table: Architecture, lookup: Lookup, setup: Setup, sharding: Sharding) -> Totals | None:
    """The totals of a step on one GPU; None where it is not traced yet."""
    made = lookup(setup)
    if made is None:
        return None
    sizes = Sizes.of(setup)
    peak = made.peak_bytes(sizes) if sharding.alone else made.shared(sizes, sharding, table).allocated_bytes
    return totals(peak, setup.device)


def _told(
    table: Architecture, lookup: Lookup, asked: Iterable[tuple[str, str, Setup, Sharding]], card: GpuRow, before: int
) -> Iterator[Change]:
    for name, says, setup, sharding in asked:
        try:
            METHODS[setup.method].count(table, setup.settings)
        except DeltalabError:
            continue  # the model has no place for that method
        found = _found(table, lookup, setup, sharding)
        if found is None:
            yield Change(name, says, setup, None, "", 0, sharding)
            continue
        yield Change(name, says, setup, found, found.verdict(card.usable_bytes), before - found.process[1], sharding)


__all__ = ["Change", "changes"]
