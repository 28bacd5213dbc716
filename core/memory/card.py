"""From live bytes to what a card shows: allocated, reserved and process totals, and whether they fit.

    allocated   live tensors, in blocks of 512 bytes: traced
    reserved    what the caching allocator holds for them: simulated from a trace (`core.memory.allocator`); without
                one, between the least and the most that simulations gave
    process     with the CUDA context and the workspaces of the libraries, as nvidia-smi shows

The second and third are estimated: nobody has measured them on the reader's card. No published figure that can be
predicted is of a whole process, so the third is held against nothing; its range is that of what others say of contexts.
And the first has an error, too: how far published figures are from what is predicted for them
(`core.memory.validation`). That band is in the ranges of the other two, whose low ends can so be below the first. So a
verdict has three values, and "the largest that fits" is the largest whose verdict is that it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from core.errors import BadInput
from core.memory.estimate import Sizes, Surrogate, largest
from core.memory.setup import Device
from core.memory.validation import band
from core.units import GIB, MIB, bytes_text

if TYPE_CHECKING:
    from core.catalog import GpuRow
    from core.memory.setup import Setup

# Reserved over allocated, in simulations of seven steps of 7B and 8B models (the allocator's rules replayed on traces;
# `core.memory.allocator`): least, likely, most.
RESERVED_FACTORS = (1.016, 1.05, 1.146)
# CUDA context with PyTorch's kernels, by card, driver and how many of them the step has called for. Least: kernels are
# loaded as they are needed, and hardly any was (287,047,680 bytes, pytorch/pytorch pull request 86509). Likely: a bare
# context was 426 MiB on an RTX 6000 Ada with CUDA 13 (unslothai/unsloth-zoo pull request 1053). Most: all of PyTorch's
# kernels are there, as before CUDA 11.7 ("more than 1,000 MB", pytorch/pytorch issue 107667).
CONTEXT_BYTES = (287_047_680, round(0.45 * GIB), round(1.0 * GIB))
# cuBLAS's workspace (aten/src/ATen/cuda/CublasHandlePool.cpp): 32 MiB on Hopper and later, else 8 MiB.
HOPPER = (9, 0)
# A CPU process with torch and transformers loaded and no model, as measured on Linux.
INTERPRETER_BYTES = (round(0.4 * GIB), round(0.5 * GIB), round(0.7 * GIB))

FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"
# Which end of a range has to be within what can be used, for a verdict or a better one.
_END = {FITS: 2, TIGHT: 0}


@dataclass(frozen=True)
class Totals:
    """allocated: bytes. reserved, process: (least, likely, most) bytes. simulated: reserved is a simulation of this
    very step. On a card the least and the most carry the band of published figures."""

    allocated: int
    reserved: tuple[int, int, int]
    process: tuple[int, int, int]
    simulated: bool = False

    def verdict(self, usable_bytes: int) -> str:
        """fits: even the most does; tight: the least does, the most does not; does not fit: not even the least."""
        return next((v for v, end in _END.items() if self.process[end] <= usable_bytes), TOO_LARGE)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def workspace_bytes(device: Device) -> int:
    """What cuBLAS keeps for itself on a card."""
    if device.capability is None:
        return 0
    return (32 if device.capability >= HOPPER else 8) * MIB


def totals(allocated: int, device: Device, reserved: int | None = None) -> Totals:
    """The three totals for so many live bytes.

    Args:
        reserved: simulated from a trace of this step, if there is one.
    """
    if not device.is_cuda:
        # The system's allocator gives large tensors straight to and from the system: what is alive is what is held.
        low, likely, high = (allocated + more for more in INTERPRETER_BYTES)
        return Totals(allocated, (allocated,) * 3, (low, likely, high))
    known = band()
    spread = (known.low, 1.0, known.high)
    likely_held = (reserved,) * 3 if reserved is not None else tuple(allocated * f for f in RESERVED_FACTORS)
    held = tuple(round(h * s) for h, s in zip(likely_held, spread, strict=True))
    extra = workspace_bytes(device)
    low, likely, high = (h + c + extra for h, c in zip(held, CONTEXT_BYTES, strict=True))
    return Totals(allocated, (held[0], held[1], held[2]), (low, likely, high), reserved is not None)


def span_text(least: float, most: float) -> str:
    """'35.2 to 41.0 GiB': the unit once where both have the same; '35.2 GiB' where they read the same."""
    low, high = bytes_text(least), bytes_text(most)
    number, _, unit = low.partition(" ")
    return low if low == high else f"{number if high.endswith(f' {unit}') else low} to {high}"


def verdict_text(found: Totals, gpu: GpuRow) -> str:
    """The verdict as a sentence."""
    verdict = found.verdict(gpu.usable_bytes)
    usable = gpu.usable_text
    needed = span_text(found.process[0], found.process[2])
    said = {
        FITS: f"This step fits on {gpu.name}: it needs {needed} of {usable}.",
        TIGHT: f"It is tight on {gpu.name}: the step needs {needed}, and {usable} can be used.",
        TOO_LARGE: f"This step does not fit on {gpu.name}: it needs {needed}, and {usable} can be used.",
    }
    return said[verdict]


def is_other(gpu: GpuRow) -> bool:
    """Whether a card is none of those whose kernels a trace runs: of another maker than NVIDIA, and no CPU."""
    return gpu.vendor in ("AMD", "Apple")


def other_kernels(gpu: GpuRow) -> str:
    """What a figure for such a card rests on, as a sentence; '' for all others."""
    if not is_other(gpu):
        return ""
    return (
        f"Traced with the kernels of a CUDA card of compute capability 8.0; those of {gpu.name} differ, and so does "
        "what they keep."
    )


def check_runs(gpu: GpuRow, setup: Setup) -> None:
    """See that what a step needs exists for a card of another maker.

    Raises:
        BadInput: 8-bit optimizers on Apple's GPUs. (bitsandbytes 0.50 has kernels for 4-bit weights there, and none
            for its optimizers: bitsandbytes/backends/mps/ops.py. For AMD's it is built whole.)
    """
    if gpu.vendor == "Apple" and setup.optimizer != "adamw":
        raise BadInput(
            "The optimizers in 8 bits are those of bitsandbytes, which has none for Apple's GPUs.",
            "Choose adamw, or another card.",
        )


def largest_batch(made: Surrogate, sizes: Sizes, device: Device, usable_bytes: int, verdict: str = FITS) -> int:
    """The largest batch that has this verdict or a better one; 0 when not even one row does.

    Each row has as large a share of answer tokens as in `sizes`.
    """
    return largest(_fitting(made, device, usable_bytes, verdict, lambda n: _sized(sizes, n, sizes.length)))


def largest_length(made: Surrogate, sizes: Sizes, device: Device, usable_bytes: int, verdict: str = FITS) -> int:
    """The longest rows that have this verdict or a better one at this batch; 0 when not even two tokens do. At most
    what the model reads."""
    most = made.regime.length[1] or 1 << 20
    fits = _fitting(made, device, usable_bytes, verdict, lambda n: _sized(sizes, sizes.batch, n + 1))
    return min(most, found + 1) if (found := largest(fits, most)) else 0


def _sized(sizes: Sizes, batch: int, length: int) -> Sizes:
    answers = sizes.answers
    if answers is not None:
        share = answers / (sizes.batch * (sizes.length - 1))
        answers = max(1, round(share * batch * (length - 1)))
    return Sizes(batch, length, answers, sizes.rank, sizes.layers)


def _fitting(
    made: Surrogate, device: Device, usable: int, verdict: str, at: Callable[[int], Sizes]
) -> Callable[[int], bool]:  # fmt: skip
    end = _END[verdict]

    def fits(number: int) -> bool:
        sizes = at(number)
        return made.covers(sizes) and totals(made.peak_bytes(sizes), device).process[end] <= usable

    return fits


__all__ = [
    "CONTEXT_BYTES", "FITS", "RESERVED_FACTORS", "TIGHT", "TOO_LARGE", "Totals", "check_runs", "is_other",
    "largest_batch", "largest_length", "other_kernels", "span_text", "totals", "verdict_text", "workspace_bytes",
]  # fmt: skip
