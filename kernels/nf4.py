"""Decoding NF4 weights, as bitsandbytes stores them, in one launch.

    W[i] = code[q[i]] · absmax[i // 64]            absmax[b] = code₂[c[b]] · absmax₂[b // 256] + offset   (nested)

(Dettmers et al. 2023, arXiv:2305.14314, section 3.) `code` are the 16 values of NormalFloat; two indices q stand in a
byte, the first in its high half; a block of 64 weights runs on over the ends of rows. With double quantization the
scale of a block is itself an index c into a table of 256 values, with a 32-bit scale for every 256 of them.

Bytes per weight, into 16 bits: 0.5 (q) + 1/64 (c) + 2 (written) = 2.52. bitsandbytes 0.50 takes three launches for the
nested form (look up, add the offset, decode) and moves 2.77. FLOPs: two multiplications and an addition, nothing beside
the bytes: the operation waits for memory. What it gains is small for large matrices (1.1 times, by the bytes) and more
where a launch counts.

How the kernel works: a program decodes NB blocks. The 16 values are one register tensor, and `tl.gather` picks from
it by shuffles within a warp; each block's scale is read once. Floating-point contraction is switched off: with it the
nested scale becomes one fused multiply-add, and the result is no longer bit for bit that of bitsandbytes.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch

from kernels.base import Cost, Launch, available, compiled, device_of, pays, runs_on, tl, triton

BLOCK, NESTED_BLOCK = 64, 256
# The sixteen values (QLoRA, appendix E), as bitsandbytes has them.
CODE = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """A weight in NF4.

    packed: uint8, ⌈n/2⌉ bytes. absmax: per block of 64, float32, or uint8 indices where nested. code2 (256), absmax2
    (per 256 blocks) and offset (one number): the second level, float32; None if there is none. shape: of the weight.
    dtype: what it is decoded into for a product.
    """

    packed: torch.Tensor
    absmax: torch.Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    code2: torch.Tensor | None = None
    absmax2: torch.Tensor | None = None
    offset: torch.Tensor | None = None

    @property
    def nested(self) -> bool:
        """Whether the scales are in 8 bits too."""
        return self.code2 is not None

    def second(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """code2, absmax2, offset; where there are none something of the right kind, which nobody reads."""
        if self.code2 is None or self.absmax2 is None or self.offset is None:
            return self.absmax, self.absmax, self.absmax
        return self.code2, self.absmax2, self.offset

    @classmethod
    def of_bitsandbytes(cls, weight: Any, dtype: torch.dtype | None = None) -> "Packed":
        """A view of a bitsandbytes `Params4bit` (or its packed tensor with a `quant_state`); nothing is copied."""
        state = weight.quant_state
        if state.quant_type != "nf4" or state.blocksize != BLOCK:
            raise ValueError(f"stored as {state.quant_type} in blocks of {state.blocksize}, not as nf4 in blocks of 64")
        second: dict[str, Any] = {}
        if state.nested:
            second = {"code2": state.state2.code, "absmax2": state.state2.absmax, "offset": state.offset.reshape(1)}
        packed = weight.data.reshape(-1)
        return cls(packed, state.absmax, tuple(state.shape), dtype or state.dtype, **second)


# --- reference --------------------------------------------------------------------------------------------------------


def codebook(device: Any = None) -> torch.Tensor:
    """The sixteen values, float32."""
    return torch.tensor(CODE, dtype=torch.float32, device=device)


@functools.cache
def kept_codebook(device: torch.device) -> torch.Tensor:
    """`codebook`, made once: a launch that is being captured may copy nothing from the processor's memory."""
    return codebook(device)


def quantize(weight: torch.Tensor) -> Packed:
    """Into NF4 with 32-bit scales: the nearest value to w / absmax of its block (ties to the lower one)."""
    flat = weight.detach().reshape(-1).float()
    n = flat.numel()
    blocks = torch.nn.functional.pad(flat, (0, -n % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(1)
    inverse = torch.where(absmax > 0, 1.0 / absmax, torch.zeros_like(absmax))
    code = codebook(weight.device)
    middles = (code[1:] + code[:-1]) / 2
    q = torch.bucketize((blocks * inverse[:, None]).reshape(-1), middles, out_int32=True).to(torch.uint8)
    q = q[: n + n % 2]
    return Packed((q[0::2] << 4) | q[1::2], absmax, tuple(weight.shape), weight.dtype)


def nest(plain: Packed, code2: torch.Tensor) -> Packed:
    """The scales in 8 bits: less their mean, in blocks of 256, the nearest of `code2`'s 256 values."""
    offset = plain.absmax.mean()
    centred = plain.absmax - offset
    blocks = torch.nn.functional.pad(centred, (0, -centred.numel() % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
    absmax2 = blocks.abs().amax(1)
    scaled = blocks / absmax2.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    index = (scaled[..., None] - code2).abs().argmin(-1).to(torch.uint8).reshape(-1)[: centred.numel()]
    return Packed(plain.packed, index, plain.shape, plain.dtype, code2, absmax2, offset.reshape(1))


def scales(w: Packed) -> torch.Tensor:
    """absmax of each block, float32."""
    if not w.nested:
        return w.absmax
    code2, absmax2, offset = w.second()
    number = torch.arange(w.absmax.numel(), device=w.absmax.device)
    return code2[w.absmax.long()] * absmax2[number // NESTED_BLOCK] + offset


def reference(w: Packed, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The weight, of w.shape, in `dtype` (default: w.dtype)."""
    pairs = w.packed.reshape(-1).long()
    q = torch.stack([pairs >> 4, pairs & 15], 1).reshape(-1)[: math.prod(w.shape)]
    absmax = scales(w).repeat_interleave(BLOCK)[: q.numel()]
    return (codebook(w.packed.device)[q] * absmax).reshape(w.shape).to(dtype or w.dtype)


# --- kernel -----------------------------------------------------------------------------------------------------------


@triton.jit
def block_scale(absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, block, mask, NESTED: tl.constexpr):
    """absmax of the blocks with these numbers, float32; 0 outside the mask."""
    if NESTED:
        index = tl.load(absmax_ptr + block, mask=mask, other=0).to(tl.int32)
        second = tl.load(absmax2_ptr + block // 256, mask=mask, other=0.0)
        scale = tl.load(code2_ptr + index, mask=mask, other=0.0) * second + tl.load(offset_ptr)
    else:
        scale = tl.load(absmax_ptr + block, mask=mask, other=0.0)
    return scale


@triton.jit
def pick(code, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """code[index] for a (ROWS, COLUMNS) tensor of indices: shuffles, no memory."""
    return tl.reshape(tl.gather(code, tl.reshape(index, (ROWS * COLUMNS,)), 0), (ROWS, COLUMNS))


@triton.jit
def _dequantize_kernel(
    packed_ptr, absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, code_ptr, out_ptr, n, n_blocks,
    NESTED: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * NB + tl.arange(0, NB)
    there = block < n_blocks
    absmax = block_scale(absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, block, there, NESTED)
    code = tl.load(code_ptr + tl.arange(0, 16))
    byte = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    pair = tl.load(packed_ptr + byte, mask=byte * 2 < n, other=0).to(tl.int32)
    high = pick(code, pair >> 4, NB, 32) * absmax[:, None]
    low = pick(code, pair & 15, NB, 32) * absmax[:, None]
    place = block[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(out_ptr + place, tl.interleave(high, low).to(out_ptr.dtype.element_ty), mask=place < n)


# --- operation --------------------------------------------------------------------------------------------------------


@torch.library.custom_op("deltalab::nf4_dequantize", mutates_args=())
def _op(
    packed: torch.Tensor, absmax: torch.Tensor, code2: torch.Tensor | None, absmax2: torch.Tensor | None,
    offset: torch.Tensor | None, shape: list[int], dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    w = Packed(packed, absmax, tuple(shape), dtype, code2, absmax2, offset)
    if not runs_on(packed):
        return reference(w)
    out = torch.empty(shape, dtype=dtype, device=packed.device)
    blocks = absmax.numel()
    with device_of(packed):
        _dequantize_kernel[(-(-blocks // 16),)](
            packed, absmax, *w.second(), kept_codebook(packed.device), out, out.numel(), blocks, NESTED=w.nested, NB=16,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out


@_op.register_fake
def _(
    packed: torch.Tensor, absmax: torch.Tensor, code2: torch.Tensor | None, absmax2: torch.Tensor | None,
    offset: torch.Tensor | None, shape: list[int], dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    return packed.new_empty(shape, dtype=dtype)


def fused(w: Packed, dtype: torch.dtype | None = None) -> torch.Tensor:
    """As `reference`, in one launch where that pays."""
    if not pays("nf4", w.packed, math.prod(w.shape)):
        return reference(w, dtype)
    return _op(w.packed, w.absmax, w.code2, w.absmax2, w.offset, list(w.shape), dtype or w.dtype)


# --- cases ------------------------------------------------------------------------------------------------------------

CASES: tuple[dict[str, int], ...] = (
    {"rows": 1, "columns": 64, "nested": 0}, {"rows": 3, "columns": 192, "nested": 1},
    {"rows": 48, "columns": 32, "nested": 1}, {"rows": 5, "columns": 7, "nested": 0},
    {"rows": 300, "columns": 64, "nested": 1},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = tuple(
    {"rows": n, "columns": n, "nested": 1} for n in (512, 2048, 4096, 8192)
)  # fmt: skip


def random_weight(
    rows: int, columns: int, nested: bool, dtype: torch.dtype, device: Any, seed: int, zero_block: bool = False
) -> Packed:
    """A packed weight whose blocks have scales that differ by orders of magnitude: with equal ones a wrong block's
    scale would go unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-rows * columns // BLOCK)
    spread = torch.exp(torch.randn(blocks, 1, generator=generator))
    values = torch.randn(blocks, BLOCK, generator=generator) * spread * 0.02
    if zero_block:
        values[0] = 0
    weight = values.reshape(-1)[: rows * columns].view(rows, columns)
    packed = quantize(weight)
    if nested:
        code2 = torch.cat([torch.linspace(-1, 1, 255), torch.zeros(1)]).sort()[0]
        packed = nest(packed, code2)
    moved: dict[str, Any] = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in vars(packed).items()
    }
    return Packed(**{**moved, "dtype": dtype})


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`."""
    return (random_weight(case["rows"], case["columns"], bool(case["nested"]), dtype, device, seed, zero_block=True),)


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Of one decoding (there is no gradient)."""
    n = case["rows"] * case["columns"]
    nested = case["nested"]
    own = 0.5 + e + (1 / 64 + 4 / (64 * 256) if nested else 4 / 64)
    return Cost(2 * n, n * own, n * (0.5 + e + ((1 + 4 + 4 + 4 + 4) / 64 if nested else 4 / 64)))


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: weights."""
    return case["rows"] * case["columns"]


def rivals() -> dict[str, Any]:
    """torch.compile, and bitsandbytes' own kernels on the same bytes."""

    def of_bitsandbytes() -> Any:
        import bitsandbytes.functional as f

        def decode(w: Packed) -> torch.Tensor:
            absmax = w.absmax
            if w.nested:
                assert w.code2 is not None
                assert w.absmax2 is not None
                assert w.offset is not None
                absmax = f.dequantize_blockwise(w.absmax, absmax=w.absmax2, code=w.code2, blocksize=NESTED_BLOCK)
                absmax = absmax + w.offset
            return torch.ops.bitsandbytes.dequantize_4bit(
                w.packed.view(-1, 1), absmax, BLOCK, "nf4", list(w.shape), w.dtype
            )

        return decode

    return available({"torch.compile": compiled(reference), "bitsandbytes": of_bitsandbytes})


_POINTERS = {
    "packed_ptr": "*u8", "code2_ptr": "*fp32", "absmax2_ptr": "*fp32", "offset_ptr": "*fp32", "code_ptr": "*fp32",
}  # fmt: skip
LAUNCHES = tuple(
    Launch(
        f"nf4 {'nested ' if nested else ''}into {out}", _dequantize_kernel,
        {**_POINTERS, "absmax_ptr": "*u8" if nested else "*fp32", "out_ptr": f"*{out}", "n": "i64", "n_blocks": "i64"},
        {"NESTED": nested, "NB": 16}, options={"num_warps": 4, "enable_fp_fusion": False},
        least=80 if out == "bf16" else 75,
    )
    for nested in (True, False) for out in ("bf16", "fp16", "fp32")
)  # fmt: skip
