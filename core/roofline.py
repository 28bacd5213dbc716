"""The operations of one training step by what they cost: arithmetic, bytes moved, kernels launched. A closed form.

    time of an operation ≥ max( FLOPs / peak FLOP/s , bytes / bandwidth )          (the roofline)
    intensity = FLOPs / bytes;  left of the ridge, peak FLOP/s / bandwidth, an operation waits for memory

(Williams, Waterman and Patterson 2009, "Roofline", Communications of the ACM 52(4).) Each operation is given as PyTorch
does it one by one, with PEFT and bitsandbytes, and as one fused kernel would do it (`fused=True`; the kernels are in
kernels/). The difference is what fusion saves: bytes, because the values between the operations never leave the
processor; and launches, which is what small models wait for. The arithmetic is the same.

What is counted: each operation reads its inputs and writes its outputs once; what a cache spares within an operation is
not. The values between the operations are counted in 16 bits, which is so beside a base in 16 bits; under full
fine-tuning and BitFit, whose base is in 32, autocast keeps the sums and norms between the layers in 32 as well. The
numbers of the operations that PyTorch does one by one are those of transformers' Llama modules and of PEFT's layer,
forward and backward, counted tensor by tensor (tests/core/test_roofline.py counts them again). What it is not: a
prediction of a step's seconds (`core.memory.speed` has a band for that); it is the least that a step can take.

The shapes come from a model's table of modules (`core.catalog.architecture_of`); torch is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import Incompatible
from core.methods.modules import ATTENTION_OUTPUTS, KEYS, QUERIES, ends_with, linears
from core.methods.qlora import quantized

if TYPE_CHECKING:
    from core.architecture import Architecture, Module
    from core.catalog import GpuRow

METHODS = ("full", "lora", "qlora", "bitfit")
FLOAT = 4
NF4_BYTES = 0.5  # a weight
NF4_SCALE_BYTES = 1 / 64 + 4 / (64 * 256)  # its part of the nested scales: a byte per block of 64, four per 256 blocks
# Bytes per weight that bitsandbytes moves to bring the nested scales into 32 bits before it decodes (a lookup, an
# addition of the offset, then the reading of the result), and its launches for a matrix.
NF4_SCALE_PASSES_BYTES = (1 + 4 + 4 + 4 + 4) / 64
NF4_LAUNCHES = 3
ADAMW_BYTES = 28  # weight, gradient and two means read; weight and two means written; 32 bits each
CLIP_BYTES = 4 + 8  # the gradient read for its norm; read and written to be scaled
# What a launch costs the processor that issues it, at least: an 8-layer Llama with PEFT took 24 ms (LoRA) to 40 ms
# (QLoRA) of a server CPU to issue the about 2,286 launches of a step. A graph of a whole step has one launch.
HOST_SECONDS_PER_LAUNCH = 24e-3 / 2286
LOSS_CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Limit:
    """The two ceilings of a card: what it computes and what it moves, per second."""

    name: str
    flops_per_second: float
    bytes_per_second: float

    @property
    def ridge(self) -> float:
        """The intensity from which on arithmetic is the limit, in FLOPs per byte."""
        return self.flops_per_second / self.bytes_per_second

    def reachable(self, intensity: float) -> float:
        """FLOP/s at most for an operation of this intensity."""
        return min(self.flops_per_second, intensity * self.bytes_per_second)


def limit_of(gpu: GpuRow) -> Limit | None:
    """The printed ceilings of one device in 16 bits; None when either is not known."""
    rate = gpu.bf16_tflops or gpu.fp16_tflops
    if rate is None or gpu.bandwidth_gb_s is None:
        return None
    return Limit(gpu.name, rate * 1e12 / gpu.devices, gpu.bandwidth_gb_s * 1e9 / gpu.devices)


@dataclass(frozen=True)
class Op:
    """One kind of operation over a whole step, all layers together.

    name: for people. flops: multiplications and additions. bytes: read and written. launches: of kernels.
    kernel: the file in kernels/ that fuses it; '' where PyTorch's own is taken either way.
    """

    name: str
    flops: float
    bytes: float
    launches: int
    kernel: str = ""

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    def seconds(self, limit: Limit) -> float:
        """The least that it can take on a card."""
        return max(self.flops / limit.flops_per_second, self.bytes / limit.bytes_per_second)

    def bound(self, limit: Limit) -> str:
        """'memory' or 'arithmetic': which ceiling it meets."""
        return "memory" if self.bytes / limit.bytes_per_second > self.flops / limit.flops_per_second else "arithmetic"


@dataclass(frozen=True)
class Elementwise:
    """What an operation on every number of a tensor costs there, in 16 bits: bytes forward and backward, FLOPs of both
    together, launches of both together."""

    forward_bytes: int
    backward_bytes: int
    flops: int
    launches: int

    @property
    def bytes(self) -> int:
        """Forward and backward together."""
        return self.forward_bytes + self.backward_bytes


# (as PyTorch does it, as one kernel does it). Per number of: the normed tensor; q and k; the gate; the hidden state.
RMS_NORM = Elementwise(36, 84, 12, 22), Elementwise(4, 6, 12, 2)
ROPE = Elementwise(20, 28, 6, 24), Elementwise(4, 4, 6, 2)
SWIGLU = Elementwise(10, 18, 20, 5), Elementwise(6, 10, 20, 2)
RESIDUAL = Elementwise(6, 6, 2, 2), Elementwise(4, 2, 2, 0)  # fused: into the norm that follows, which it also reads
# Per logit: to 32 bits, log-softmax, the labels' places, and all that backward, against reading what was just written
# and leaving the gradient in its place.
CROSS_ENTROPY = Elementwise(14, 26, 10, 6), Elementwise(2, 4, 10, 1)
# LoRA beside its products, by PEFT. Per output: (a copy, over a base in four bits), times the scale, plus the base's
# output; backward times the scale. Per input: the sum of two gradients; and beside a base in 16 bits a cast into the
# pair's 32 and back, forward and backward. By `addmm_`: what is there is read, and the thin product writes the sum.
PEFT_OUTPUT_BYTES, PEFT_CLONE_BYTES, PEFT_INPUT_BYTES, PEFT_CAST_BYTES = 4 + 6 + 4, 4, 6, 4 * 6
ADDMM_BYTES = 2
CAST_BYTES = 6  # a number from 32 bits to 16 or back
# A pair's matrices are cast for each use: by autocast once forward, their gradients once backward; in our own layer
# (kernels/lora_linear.py) forward and backward, and their gradients. It scales P and ∂B in place, and turns ∂B round.
PEFT_PAIR_CASTS, OWN_PAIR_CASTS = 2, 3


def _check(table: Architecture, method: str) -> None:
    if method not in METHODS:
        raise Incompatible(f"There is no roofline of the method {method!r}.", f"There is one of {', '.join(METHODS)}.")
    if not any(ends_with(m.name, "gate_proj") for m in table.modules) or not linears(table, QUERIES):
        raise Incompatible(
            f"{table.name} is not of Llama's kind (separate q, k, v; RMSNorm; a gated MLP), whose operations are "
            "counted here.",
            "Choose a Llama, Mistral or Qwen.",
        )


def loss_chunks(rows: int, vocabulary: int, e: int = 2) -> int:
    """In how many parts the fused loss takes its rows (kernels/linear_cross_entropy.py; without torch, so said again
    here, and a test compares)."""
    return -(-rows // max(1, LOSS_CHUNK_BYTES // (e * vocabulary)))


def operations(
    table: Architecture,
    *,
    batch: int,
    length: int,
    answers: int | None = None,
    method: str = "lora",
    rank: int = 16,
    fused: bool = False,
    graph: bool = False,
) -> tuple[Op, ...]:
    """The operations of one step in 16 bits, in the order in which a layer meets them.

    Args:
        table: of a decoder of Llama's kind.
        batch, length: rows and tokens of a row. answers: tokens with a loss (default: all).
        method: full, lora, qlora or bitfit; LoRA's pairs of that rank stand beside every linear layer but the head.
        fused: as the kernels of this project do it, else as PyTorch, PEFT and bitsandbytes do, one by one.
        graph: the whole step is one launch.

    Raises:
        Incompatible: another kind of model, or an unknown method.
    """
    _check(table, method)
    e, tokens = 2, batch * length
    answered = tokens if answers is None else answers
    body = [m for m in table.linears() if m.name != table.head]
    head = next(m for m in table.modules if m.name == table.head)
    vocabulary = head.out_features
    weights_train, pairs, four_bit = method == "full", method in ("lora", "qlora"), method == "qlora"
    casts = {"full": 2, "bitfit": 1}.get(method, 0)
    passes = 3 if weights_train else 2
    which = 1 if fused else 0

    def products(layers: Iterable[Module], rows: int, name: str) -> Op:
        """Y = XWᵀ, ∂X = GW and, where the weights train, ∂W = GᵀX."""
        layers = list(layers)
        flops = sum(2 * rows * m.in_features * m.out_features for m in layers) * passes
        moved = sum(e * (rows * (m.in_features + m.out_features) + m.in_features * m.out_features) for m in layers)
        return Op(name, flops, moved * passes, passes * len(layers))

    def elementwise(name: str, numbers: float, cost: tuple[Elementwise, Elementwise], times: int, kernel: str) -> Op:
        one = cost[which]
        return Op(name, numbers * one.flops, numbers * one.bytes, one.launches * times, kernel if fused else "")

    found = [products(body, tokens, "products with the base's weights")]
    if casts:  # weights that train, and those beside biases that do, are in 32 bits: autocast casts them, and ∂W back
        matrices = [*body, head]
        size = sum(m.in_features * m.out_features for m in matrices)
        found.append(Op("casting weights", 0, casts * CAST_BYTES * size, casts * len(matrices)))
    if four_bit:
        found.append(_decoding([m for m in quantized(table) if m.name != table.head], e, fused))
    if pairs:
        found += _pairs(body, tokens, rank, e, fused, four_bit)
    norms = [m for m in table.modules if m.kind == "norm"]
    wide = {m.name: m.out_features for m in body}
    normed = sum(tokens * _normed_width(m, wide) for m in norms)
    found.append(elementwise("RMSNorm", normed, RMS_NORM, len(norms), "rms_norm"))
    rotated = [m for m in body if any(ends_with(m.name, n) for n in (*QUERIES, *KEYS))]
    layers = len(linears(table, QUERIES))
    found.append(elementwise("rotary positions", tokens * sum(m.out_features for m in rotated), ROPE, layers, "rope"))
    found.append(_attention(table, batch, length, layers, e))
    gates = [m for m in body if ends_with(m.name, "gate_proj")]
    found.append(
        elementwise("gated activation", tokens * sum(m.out_features for m in gates), SWIGLU, len(gates), "swiglu")
    )
    found.append(elementwise("residual sums", 2 * layers * tokens * table.width, RESIDUAL, 2 * layers, "rms_norm"))
    last = products([head], answered, "product with the output layer")
    chunks = loss_chunks(answered, vocabulary, e) if fused else 1
    if fused:
        last = _in_chunks(last, chunks, answered, head, weights_train, e)
    found.append(last)
    found.append(elementwise("cross-entropy", answered * vocabulary, CROSS_ENTROPY, chunks, "linear_cross_entropy"))
    found.append(_optimizer(table, method, body, rank))
    if graph:
        return tuple(Op(o.name, o.flops, o.bytes, int(n == 0), o.kernel) for n, o in enumerate(found))
    return tuple(found)


def _in_chunks(last: Op, chunks: int, rows: int, head: Module, trains: bool, e: int) -> Op:
    """The output layer's products a few rows at a time (kernels/linear_cross_entropy.py): the weight is read anew for
    each chunk, and the gradients are multiplied by what comes from above. ∂W is written for each chunk, and the chunks'
    sum is taken in 32 bits, then cast."""
    weight, again = head.in_features * head.out_features, chunks - 1
    moved, launches = 2 * e * weight * again + 2 * e * rows * head.in_features, last.launches * chunks + 1
    if trains:
        moved += e * weight * again + 2 * e * weight
        launches += 1
        if again:
            moved += weight * (2 * CAST_BYTES + again * (e + 2 * FLOAT))
            launches += chunks + 1
    return replace(last, bytes=last.bytes + moved, launches=launches)


def _normed_width(m: Module, wide: dict[str, int]) -> int:
    """Numbers per token that a norm works on: its own width, or all heads' where it norms queries or keys."""
    for end, projection in (("q_norm", "q_proj"), ("k_norm", "k_proj")):
        if m.name.endswith(f".{end}"):
            return wide.get(m.name.removesuffix(end) + projection, m.weight)
    return m.weight


def _decoding(layers: list[Module], e: int, fused: bool) -> Op:
    """NF4 into 16 bits, once forward and once backward."""
    weights = sum(m.weight for m in layers)
    scales = NF4_SCALE_BYTES if fused else NF4_SCALE_PASSES_BYTES
    return Op(
        "decoding NF4 weights", 2 * 2 * weights, 2 * weights * (NF4_BYTES + e + scales),
        2 * len(layers) * (1 if fused else NF4_LAUNCHES), "nf4" if fused else "",
    )  # fmt: skip


def _pairs(body: list[Module], tokens: int, rank: int, e: int, fused: bool, four_bit: bool) -> list[Op]:
    """LoRA's six thin products, and what moves its result into the layer's output."""
    fan_in, fan_out = sum(m.in_features for m in body), sum(m.out_features for m in body)
    count = len(body)
    flops = 6 * tokens * rank * (fan_in + fan_out)
    # xAᵀ, ∂A read x, P·A writes ∂x; hBᵀ writes y, GB and ∂B read G; (N, r) and the pair itself beside that.
    moved = 3 * e * (tokens * (fan_in + fan_out) + rank * (fan_in + fan_out) + 2 * tokens * rank * count)
    pair = rank * (fan_in + fan_out)
    if fused:
        moving = tokens * ADDMM_BYTES * (fan_in + fan_out) + OWN_PAIR_CASTS * CAST_BYTES * pair
        moving += 2 * e * tokens * rank * count + (2 * e + 2 * FLOAT) * rank * fan_out
        launches = count * (2 * OWN_PAIR_CASTS + 3)
    else:
        outputs, inputs = PEFT_OUTPUT_BYTES, PEFT_INPUT_BYTES
        if four_bit:
            outputs += PEFT_CLONE_BYTES
        else:
            inputs += PEFT_CAST_BYTES
        moving = tokens * (outputs * fan_out + inputs * fan_in) + PEFT_PAIR_CASTS * CAST_BYTES * pair
        launches = count * (4 + (1 if four_bit else 4) + 2 * PEFT_PAIR_CASTS)
    return [
        Op("LoRA's thin products", flops, moved, 6 * count, "lora_linear" if fused else ""),
        Op("adding LoRA's part", tokens * (fan_in + 2 * fan_out), moving, launches, "lora_linear" if fused else ""),
    ]


def _attention(table: Architecture, batch: int, length: int, layers: int, e: int) -> Op:
    """Fused attention (PyTorch's own either way), causal: half of the pairs of tokens; backward computes 2.5 times what
    forward does (Dao 2023, arXiv:2307.08691, section 4.1)."""
    width = sum(m.in_features for m in linears(table, ATTENTION_OUTPUTS))
    both = sum(m.out_features for m in linears(table, QUERIES) + linears(table, KEYS))  # queries and keys
    keys = both - sum(m.out_features for m in linears(table, QUERIES))
    tokens = batch * length
    forward = 4 * tokens * width * length / 2
    moved = tokens * e * ((width + 2 * keys + width) + (2 * width + 2 * (width + 2 * keys) + width))
    return Op("attention", forward * 3.5, moved, 3 * layers)


def _optimizer(table: Architecture, method: str, body: list[Module], rank: int) -> Op:
    """Clipping and AdamW in 32 bits, one pass over all that trains."""
    trained = {
        "full": table.total,
        "bitfit": sum(m.bias for m in table.modules),
    }.get(method, sum(rank * (m.in_features + m.out_features) for m in body))
    return Op("clipping and AdamW", 16 * trained, trained * (ADAMW_BYTES + CLIP_BYTES), 6)


@dataclass(frozen=True)
class Total:
    """Of a step. device_seconds: the sum of what each operation takes at least. host_seconds: what issuing its launches
    takes; the longer of the two is what one waits for. share: of arithmetic at the card's full rate in that time."""

    flops: float
    bytes: float
    launches: int
    device_seconds: float
    host_seconds: float
    share: float

    @property
    def seconds(self) -> float:
        """The least that the step takes."""
        return max(self.device_seconds, self.host_seconds)


def total(ops: Iterable[Op], limit: Limit) -> Total:
    """All operations of a step together."""
    rows = list(ops)
    flops, launches = sum(o.flops for o in rows), sum(o.launches for o in rows)
    device, host = sum(o.seconds(limit) for o in rows), launches * HOST_SECONDS_PER_LAUNCH
    return Total(
        flops, sum(o.bytes for o in rows), launches, device, host, flops / limit.flops_per_second / max(device, host)
    )


@dataclass(frozen=True)
class Saving:
    """What fusing one operation spares in a step: bytes and launches, and the time of the bytes on a card."""

    name: str
    kernel: str
    bytes: float
    launches: int
    seconds: float


def savings(plain: Iterable[Op], fused: Iterable[Op], limit: Limit) -> tuple[Saving, ...]:
    """Operation by operation, of the same step; only what a kernel does, the largest saving of time first."""
    rows = [
        Saving(b.name, b.kernel, a.bytes - b.bytes, a.launches - b.launches, a.seconds(limit) - b.seconds(limit))
        for a, b in zip(plain, fused, strict=True)
        if b.kernel
    ]
    return tuple(sorted(rows, key=lambda s: -s.seconds))


__all__ = [
    "HOST_SECONDS_PER_LAUNCH", "METHODS", "Limit", "Op", "Saving", "Total", "limit_of", "operations", "savings",
    "total",
]  # fmt: skip
