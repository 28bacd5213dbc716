"""How long a training step takes on a card: a model, not a measurement.

    time = max(arithmetic / (rate × share of it that is reached), weights read / bandwidth) + optimizer + decoding

Arithmetic per token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1): 2 operations per weight that is multiplied
with, forward; as many for the gradients of the activations; as many again for the gradients of weights that train.
Recomputing blocks (checkpointing) adds a forward pass. Attention adds 4·L·d per token and token seen (half of the
length, on average), forward, and twice that backward. The optimizer reads and writes its states, the weights and the
gradients once; 4-bit weights are decoded in each pass.

The share of the rate that is reached is assumed: between a tenth and a half. Runs of long rows on large models reach
0.3 to 0.5; short rows, padding and small models, a tenth. (The PEFT project's benchmark, LoRA on Llama-3.2-3B on an
L40S: 5,000 steps of 4 rows of about 210 tokens in 1,169 s are 3,600 tokens per second, or 0.13 of that card's rate,
padding not counted.) So every answer is three numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.methods import METHODS
from core.methods.modules import ATTENTION_OUTPUTS, linears
from core.methods.qlora import quantized

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.catalog import GpuRow
    from core.memory.setup import Setup

REACHED = (0.5, 0.3, 0.1)  # share of the card's rate: most, likely, least
BANDWIDTH_REACHED = 0.7  # of the printed bandwidth, by plain copying kernels
# Bytes moved per trained parameter by AdamW in 32 bits (weight, gradient and two states read; weight and two states
# written) and in 8 bits (states of one byte each).
OPTIMIZER_BYTES = {"adamw": 28, "adamw_8bit": 16, "paged_adamw_8bit": 16}
DECODING_BYTES = 0.5 + 2 + 2  # per 4-bit weight: read, written in 16 bits, read again


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
    body = sum(m.weight for m in table.linears() if m.name != table.head)
    trains = METHODS[setup.method].BASE == "trained" and setup.method == "full"
    passes = 2 + trains + setup.checkpointing
    # Each token is compared with half of the length on average, and as much again goes into its mean.
    width = sum(m.in_features for m in linears(table, ATTENTION_OUTPUTS))
    attention = 4 * width * setup.length / 2
    return 2 * (body * passes + head_weights * (2 + trains)) + attention * (3 + setup.checkpointing)


def step_speed(table: Architecture, setup: Setup, gpu: GpuRow) -> Speed | None:
    """How long a step takes on a card; None when the card's rate in the format that is trained in, or its bandwidth, is
    not known."""
    if setup.precision != "bfloat16" or gpu.bf16_tflops is None or gpu.bandwidth_gb_s is None:
        return None
    tokens = setup.batch * setup.length * setup.accumulation
    operations = tokens * operations_per_token(table, setup, setup.answer_tokens / (setup.batch * setup.length))
    bandwidth = gpu.bandwidth_gb_s * 1e9 / gpu.devices * BANDWIDTH_REACHED
    rate = gpu.bf16_tflops * 1e12 / gpu.devices
    method = METHODS[setup.method]
    passes = (2 + setup.checkpointing) * setup.accumulation
    four_bit = sum(m.weight for m in quantized(table)) if method.BASE == "quantized" else 0
    reading = passes * 2 * table.total / bandwidth
    moving = OPTIMIZER_BYTES[setup.optimizer] * method.count(table, setup.settings) / bandwidth
    decoding = passes * DECODING_BYTES * four_bit / bandwidth
    least, likely, most = (max(operations / (rate * r), reading) + moving + decoding for r in REACHED)
    return Speed((least, likely, most), tokens, operations)


__all__ = ["REACHED", "Speed", "operations_per_token", "step_speed"]
