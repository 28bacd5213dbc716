"""Models of the catalogue that can be trained on a device: predicted memory and time, largest first.

    fits(gpu("RTX 4090").usable_bytes, "qlora", batch=4, length=1024, card=gpu("RTX 4090"))

Only models with a shipped surrogate are proposed: of the others nothing is known without a trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.catalog import GpuRow, architecture_of, models
from core.memory.card import TOO_LARGE, largest_batch, totals
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup
from core.memory.speed import step_speed
from core.methods import METHODS
from core.units import bytes_text

MINUTES = 60.0


@dataclass(frozen=True)
class Proposal:
    """A model that fits.

    name, hub: of the model. gated: a licence must be accepted on the hub first. parameters: of the model. bytes: the
    likely total of the process. minutes: of `steps` steps, (least, likely, most); None where the card's rate is not
    known. batch: the largest that fits. verdict: fits or tight. why: in words.
    """

    name: str
    hub: str
    gated: bool
    parameters: int
    bytes: int
    minutes: tuple[float, float, float] | None
    batch: int
    verdict: str
    why: str


def fits(
    memory_bytes: int, method: str, batch: int, length: int, *, settings: Any = None, checkpointing: bool = False,
    optimizer: str = "adamw", answers: int | None = None, steps: int = 1000, card: GpuRow | None = None,
    on_cpu: bool = False,
) -> list[Proposal]:  # fmt: skip
    """What can be trained in so much memory.

    Args:
        memory_bytes: usable on the device. card: which it is, for time and number format (without one: a card with
            bfloat16 and unknown speed). on_cpu: the memory is a CPU's.
        answers: tokens with a loss in a batch; None for all. steps: that the time is told for.

    Returns:
        rows, the largest model first.
    """
    device = Device() if on_cpu else Device.of(card.capability if card is not None and card.capability else "8.0")
    own = settings if settings is not None else METHODS[method].Config()
    setup = Setup(
        method, own, batch, length, answers, optimizer=optimizer, checkpointing=checkpointing,
        precision=device.precision, device=device,
    )  # fmt: skip
    rows = []
    for row in models():
        made = find(row.name, setup) if row.is_decoder else None
        if made is None:
            continue
        sizes = Sizes.of(setup)
        found = totals(made.peak_bytes(sizes), device)
        verdict = found.verdict(memory_bytes)
        if verdict == TOO_LARGE:
            continue
        speed = step_speed(architecture_of(row.name), setup, card) if card is not None and not on_cpu else None
        minutes = None
        if speed is not None:
            least, likely, most = (seconds * steps / MINUTES for seconds in speed.step_seconds)
            minutes = (least, likely, most)
        most_rows = largest_batch(made, sizes, device, memory_bytes)
        why = f"It takes {bytes_text(found.process[1])} of {bytes_text(memory_bytes)} at batch {batch}"
        why += (
            f"; batch {most_rows:,} is the largest that fits."
            if most_rows > batch
            else ", which is the largest that fits."
        )
        rows.append(
            Proposal(row.name, row.hub, row.gated, row.parameters, found.process[1], minutes, most_rows, verdict, why)
        )
    return sorted(rows, key=lambda p: -p.parameters)


__all__ = ["Proposal", "fits"]
