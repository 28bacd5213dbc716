"""Models of the catalogue that can be trained on a device: predicted memory and time, largest first.

    fits(attached_place(attached_light()), RunConfig(method="lora"))
    fits(place_of("RTX 4090"), RunConfig(method="qlora"))

Memory comes from the surrogates that are shipped (`core.memory.estimate`), for rows as long as the run's limit and
batches as large as its own; time from arithmetic and the device's rate (`core.memory.speed`): least, likely and most.
A batch that does not fit is cut into passes that do. Only models with a surrogate are proposed: of the others nothing
is known without a trace. A method that was not traced on a model is given the memory of its nearest relative, which
`Proposal.traced` names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.catalog import GpuRow, ModelRow, architecture_of, gpu, models
from core.config import RunConfig, resolved
from core.errors import NotFound
from core.memory.card import TIGHT, TOO_LARGE, largest_batch, totals
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup
from core.memory.speed import operations_per_token, step_speed
from core.methods import METHODS
from core.units import DTYPE_BYTES

if TYPE_CHECKING:
    from core.hardware import Hardware

MINUTES = 60.0
CPU, THIS = "cpu", "this"
# What a checkpoint's numbers take on the hub, where nearly all are published in 16 bits (GPT-2 in 32).
STORED_BYTES = DTYPE_BYTES["bfloat16"]
# On a CPU a 4-bit weight is decoded by plain code, which about doubles a step (core/hardware.py says so too).
CPU_DECODING = 2.0
# Share of the rate that numpy's matrix products reach (torch's may be quicker): most, likely, least. LoRA steps of
# GPT-2's shape reached 0.5 to 1.2 of it on a busy machine of two cores; `tests/core/test_proposals.py` looks again.
CPU_REACHED = (1.2, 0.7, 0.2)


@dataclass(frozen=True)
class Place:
    """Where a run would be.

    name: for people. memory_bytes: that a process can have there. source: where that number comes from. device: its
    kind. card: the catalogue's row, if it is a known card. flops: rate of a CPU in float32, operations a second (None:
    a card, or not measured).
    """

    name: str
    memory_bytes: int
    source: str
    device: Device
    card: GpuRow | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Proposal:
    """A model that fits.

    name, hub, instruct, gated, licence, parameters: see `ModelRow`. download_bytes: of its weights in 16 bits. rows: of
    one pass: the run's batch, or as many of it as fit, and then passes: how many of them make a step. bytes: the likely
    total of the process, process_bytes: (least, likely, most). minutes: of the run, (least, likely, most); None where
    the device's rate is not known. verdict: fits or tight. traced: the method whose memory it is, where this one was
    not traced on the model.
    """

    name: str
    hub: str
    instruct: str
    gated: bool
    licence: str
    parameters: int
    download_bytes: int
    rows: int
    passes: int
    bytes: int
    process_bytes: tuple[int, int, int]
    minutes: tuple[float, float, float] | None
    verdict: str
    traced: str


@dataclass(frozen=True)
class Offer:
    """What fits a place: the largest model first, for a step of `batch` rows of `length` tokens and so many steps."""

    place: Place
    models: tuple[Proposal, ...]
    batch: int
    length: int
    steps: int


def place_of(name: str) -> Place:
    """A card of the catalogue by name.

    Raises:
        NotFound: there is none; with the names that come nearest.
    """
    row = gpu(name)
    if row.vendor.lower() != "nvidia" or row.capability is None:
        raise NotFound(f"Nothing is known of training on {row.name}.", "Name an NVIDIA card, or leave it out.")
    return Place(row.name, row.usable_bytes, row.usable_source, Device.of(row.capability), row)


def attached_place(machine: Hardware) -> Place:
    """The device of this machine that trains."""
    from core.hardware import cpu_flops, free_memory_bytes

    if machine.kind != "cuda":
        return Place(f"{machine.cpu} (CPU)", free_memory_bytes(), "free now", Device(), flops=cpu_flops())
    card = machine.cards[0]
    try:
        row = gpu(card.name)
    except NotFound:
        row = None
    memory = card.memory_bytes or (row.usable_bytes if row is not None else 0)
    if row is not None:
        memory = min(memory, row.usable_bytes)
    capability = card.capability or (row.capability if row is not None else None) or "8.0"
    return Place(card.name, memory, "as the driver gives it", Device.of(capability), row)


def stand_in(method: str) -> str:
    """The method with a surrogate whose memory comes nearest."""
    base = METHODS[method].BASE
    return "qlora" if base == "quantized" else "full" if method == "full" else "lora"


def fits(place: Place, config: RunConfig) -> Offer:
    """What can be trained there with a run's settings; its base is of no interest.

    Raises:
        BadInput: settings that cannot be used.
    """
    config = resolved(config)
    loop = config.train
    assert loop.steps is not None
    asked = Setup.of(config, loop.batch_size, loop.max_length, place.device)
    setup = dataclasses.replace(asked, accumulation=1)  # every pass takes the same
    other = stand_in(config.method)
    nearest = dataclasses.replace(setup, method=other, settings=METHODS[other].Config())
    rows = []
    for row in (row for row in models() if row.is_decoder):
        for one in (setup, nearest):
            proposal = _proposal(row, place, one, loop.steps * asked.accumulation)
            if proposal is not None:
                rows.append(proposal)
            if proposal is not None or find(row.name, one) is not None:
                break  # traced with the method itself: what it says holds
    return Offer(place, tuple(sorted(rows, key=lambda p: -p.parameters)), setup.batch, setup.length, loop.steps)


def _proposal(row: ModelRow, place: Place, setup: Setup, passes: int) -> Proposal | None:
    """None: not known, or too large with a single row."""
    made = find(row.name, setup)
    if made is None:
        return None
    found, rows = totals(made.peak_bytes(Sizes.of(setup)), place.device), setup.batch
    if found.verdict(place.memory_bytes) == TOO_LARGE:
        asked = made, Sizes.of(setup), place.device, place.memory_bytes
        most = largest_batch(*asked) or largest_batch(*asked, TIGHT)
        rows = next((n for n in _halves(setup.batch) if n <= most), 0)
        fewer = dataclasses.replace(setup, batch=rows)
        made = find(row.name, fewer) if rows else None  # a single row is a case of its own
        if made is None:
            return None
        found = totals(made.peak_bytes(Sizes.of(fewer)), place.device)
    seconds = _pass_seconds(row, place, dataclasses.replace(setup, batch=rows))
    more = setup.batch // rows
    minutes = tuple(s * passes * more / MINUTES for s in seconds) if seconds is not None else None
    return Proposal(
        row.name, row.hub, row.instruct, row.gated, row.licence, row.parameters,
        round(row.parameters * STORED_BYTES), rows, more, found.process[1], found.process,
        (minutes[0], minutes[1], minutes[2]) if minutes is not None else None, found.verdict(place.memory_bytes),
        setup.method,
    )  # fmt: skip


def _halves(batch: int) -> Iterator[int]:
    """Rows of a pass that make up the batch in whole passes, most first."""
    return (n for n in range(batch // 2, 0, -1) if batch % n == 0)


def _pass_seconds(row: ModelRow, place: Place, setup: Setup) -> tuple[float, ...] | None:
    """Least, likely and most of one pass with its update."""
    table = architecture_of(row.name)
    if place.card is not None:
        speed = step_speed(table, setup, place.card)
        return speed.step_seconds if speed is not None else None
    if place.flops is None:
        return None
    tokens = setup.batch * setup.length
    operations = tokens * operations_per_token(table, setup, setup.answer_tokens / tokens)
    slower = CPU_DECODING if METHODS[setup.method].BASE == "quantized" else 1.0
    return tuple(slower * operations / (place.flops * share) for share in CPU_REACHED)


__all__ = ["Offer", "Place", "Proposal", "attached_place", "fits", "place_of", "stand_in"]
