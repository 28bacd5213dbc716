"""How long a training step takes on a card: a model with a published error, not a measurement.

    time = max(arithmetic / (rate × share of it that is reached), weights read / bandwidth, issuing the kernels)
           + optimizer + decoding

Arithmetic per token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1): 2 operations per weight that is multiplied
with, forward; as many for the gradients of the activations; as many again for the gradients of weights that train.
Recomputing blocks (checkpointing) adds a forward pass. Attention adds 4·L·d per token and token seen (half of the
length, on average), forward, and twice that backward. Tokens that a method puts before each row are computed as well.
The optimizer reads and writes its states, the weights and the gradients once; 4-bit weights are decoded in each pass.
Short passes wait for the processor that issues their kernels: a Llama of eight blocks with PEFT took 24 ms (in four
bits, 40 ms) of a server's CPU to issue those of one pass forward and backward (as in `core.roofline`); what
torch.compile spares of that is not known, and a compiled step is not made to wait at all.

Where its numbers are from: the share of the rate is the median of one source alone, torchtune's table of optimization
flags (A100; rows of 4,096 tokens). All other published speeds are compared with what comes out
(`core.memory.throughput`, shown on the validation page), and the band is wide enough for all of them. So every answer
is three numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.methods import METHODS
from core.methods.modules import ATTENTION_OUTPUTS, linears
from core.methods.qlora import quantized
from core.methods.virtual import AS_TOKENS

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.catalog import GpuRow
    from core.memory.setup import Setup

# Share of the card's rate that arithmetic reaches (fitted; see above), and published speeds over predicted ones: the
# least and the most of all that are compared. tests/core/test_throughput.py holds both against the record.
SHARE = 0.64
BAND = (0.4, 1.4)
BANDWIDTH_REACHED = 0.7  # of the printed bandwidth, by plain copying kernels
# Bytes moved per trained parameter by AdamW in 32 bits (weight, gradient and two states read; weight and two states
# written) and in 8 bits (states of one byte each).
OPTIMIZER_BYTES = {"adamw": 28, "adamw_8bit": 16, "paged_adamw_8bit": 16}
DECODING_BYTES = 0.5 + 2 + 2  # per 4-bit weight: read, written in 16 bits, read again
ISSUING_SECONDS = {"quantized": 40e-3 / 8, "plain": 24e-3 / 8}  # of a block, forward and backward


@dataclass(frozen=True)
class Work:
    """What a step has to do. tokens: that it trains on. operations: arithmetic. arithmetic: its seconds at the card's
    printed rate. reading: seconds to read the weights. issuing: seconds of the processor to issue the kernels. moving:
    seconds of the optimizer and of decoding."""

    tokens: int
    operations: float
    arithmetic: float
    reading: float
    issuing: float
    moving: float

    def seconds(self, share: float) -> float:
        """Of the step, when so much of the rate is reached."""
        return max(self.arithmetic / share, self.reading, self.issuing) + self.moving


@dataclass(frozen=True)
class Speed:
    """step_seconds: (least, likely, most) of one optimizer step. tokens: that it trains on. operations: arithmetic."""

    step_seconds: tuple[float, float, float]
    tokens: int
    operations: float

    @property
    def tokens_per_second(self) -> tuple[float, float, float]:
        """Least, likely, most."""
        least, likely, most = self.step_seconds
        return self.tokens / most, self.tokens / likely, self.tokens / least


def operations_per_token(table: Architecture, setup: Setup, answer_share: float = 1.0) -> float:
    """Arithmetic of one token, forward and backward.

    answer_share: share of the tokens that the output layer works on.
    """
    head = next((m for m in table.modules if m.name == table.head), None)
    head_weights = (head.weight if head else 0) * answer_share
    # (Of the experts a token goes to few; a router is no linear layer, and next to nothing.)
    body = sum(m.weight for m in table.linears() if m.name != table.head) + table.experts * table.active
    trains = METHODS[setup.method].BASE == "trained" and setup.method == "full"
    passes = 2 + trains + setup.checkpointing
    # Each token is compared with half of the length on average, and as much again goes into its mean.
    width = sum(m.in_features for m in linears(table, ATTENTION_OUTPUTS))
    attention = 4 * width * (setup.length + virtual_tokens(setup)) / 2
    return 2 * (body * passes + head_weights * (2 + trains)) + attention * (3 + setup.checkpointing)


def virtual_tokens(setup: Setup) -> int:
    """How many the method puts before each row, to be computed like those of the text."""
    before = getattr(METHODS[setup.method], "PROMPT", None) == AS_TOKENS
    return int(setup.settings.tokens) if before else 0


def work(table: Architecture, setup: Setup, gpu: GpuRow) -> Work | None:
    """What a step has to do on a card; None when the card's rate in the format that is trained in, or its bandwidth, is
    not known."""
    if setup.precision != "bfloat16" or gpu.bf16_tflops is None or gpu.bandwidth_gb_s is None:
        return None
    from core.memory.rules import depth

    tokens = setup.batch * setup.length * setup.accumulation
    computed = setup.batch * (setup.length + virtual_tokens(setup)) * setup.accumulation
    operations = computed * operations_per_token(table, setup, setup.answer_tokens / (setup.batch * setup.length))
    bandwidth = gpu.bandwidth_gb_s * 1e9 / gpu.devices * BANDWIDTH_REACHED
    method = METHODS[setup.method]
    passes = (2 + setup.checkpointing) * setup.accumulation
    packed = method.BASE == "quantized"
    four_bit = sum(m.weight for m in quantized(table)) if packed else 0
    # Without autocast what trains of the base stands in 16 bits, and so do its gradients and states.
    moved = OPTIMIZER_BYTES[setup.optimizer] / (1 if setup.stack.autocast or method.BASE != "trained" else 2)
    moving = moved * method.count(table, setup.settings) + passes * DECODING_BYTES * four_bit
    issuing = ISSUING_SECONDS["quantized" if packed else "plain"] * depth(table) * passes / 2
    return Work(
        tokens, operations, operations / (gpu.bf16_tflops * 1e12 / gpu.devices), passes * 2 * table.total / bandwidth,
        0.0 if setup.stack.compile else issuing, moving / bandwidth,
    )  # fmt: skip


def step_speed(table: Architecture, setup: Setup, gpu: GpuRow) -> Speed | None:
    """How long a step takes on a card; None when the card's rate in the format that is trained in, or its bandwidth, is
    not known."""
    found = work(table, setup, gpu)
    if found is None:
        return None
    likely = found.seconds(SHARE)
    slowest, quickest = BAND
    return Speed((likely / quickest, likely, likely / slowest), found.tokens, found.operations)


__all__ = ["BAND", "SHARE", "Speed", "Work", "operations_per_token", "step_speed", "virtual_tokens", "work"]
