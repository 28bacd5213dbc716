"""A linear layer in NF4 with LoRA's pair, decoded inside the product: for few tokens.

    y = x·decode(q)ᵀ + b + s·(xAᵀ)Bᵀ          ∂x = G·decode(q) + s·(GB)·A

For M tokens and W of N × K the decoded weight never exists in memory: 0.52·N·K bytes are read where decoding first
moves 0.52 + 2 + 2. FLOPs 2·M·N·K, and every program that needs a piece of W decodes it for itself, M/BLOCK_M times
over. So it pays while a product waits for memory, up to M* tokens (M* about 64 to 256: evaluation, generation, steps on
a few short rows), and costs at training's usual token counts: torchtune measured 2.1 % and IBM 4.7 % for *all* that
QLoRA loses to LoRA, which is what there would be to win. core/layers/low_rank.py takes it up to the M* of a card's
record.

How the kernels work: W is the left operand, yᵀ = W·xᵀ, so that on Hopper the decoded tile goes from registers straight
into wgmma. A program takes BLOCK_N outputs of BLOCK_M tokens and walks along K; H = xAᵀ of its tokens grows beside, and
B·H is added at the end. Backward the same with the roles of N and K exchanged and the tile transposed. ∂A and ∂B are
thin products (kernels/lora_linear.py).
"""

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kernels import nf4
from kernels.base import (
    Cost,
    Launch,
    available,
    compiled,
    device_of,
    multiplies,
    pays,
    power_of_two,
    runs_on,
    tl,
    triton,
)
from kernels.nf4 import BLOCK, Packed, block_scale, pick


def reference(
    x: torch.Tensor, w: Packed, a: torch.Tensor, b: torch.Tensor, scale: float, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x (…, K), w of (N, K), A (r, K), B (N, r), b (N) -> (…, N)."""
    linear = torch.nn.functional.linear
    return linear(x, nf4.reference(w).to(x.dtype), bias) + linear(linear(x, a.to(x.dtype)), b.to(x.dtype)) * scale


@triton.jit
def _tile(
    packed_ptr, absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, code, at_n, k0, N, K,
    NESTED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows at_n, columns k0 … of the weight, float32; zero outside. K is a multiple of 64."""
    row = at_n.to(tl.int64)[:, None]
    half = k0 // 2 + tl.arange(0, BLOCK_K // 2)[None, :]
    there = (at_n < N)[:, None] & (half < K // 2)
    pair = tl.load(packed_ptr + row * (K // 2) + half, mask=there, other=0).to(tl.int32)
    number = k0 // 64 + tl.arange(0, BLOCK_K // 64)[None, :]
    inside = (at_n < N)[:, None] & (number < K // 64)
    block = row * (K // 64) + number
    absmax = block_scale(absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, block, inside, NESTED)
    absmax = tl.where(inside, absmax, 0.0)
    high = pick(code, pair >> 4, BLOCK_N, BLOCK_K // 2)
    low = pick(code, pair & 15, BLOCK_N, BLOCK_K // 2)
    w = tl.reshape(tl.join(high, low), (BLOCK_N, BLOCK_K // 64, 64)) * absmax[:, :, None]
    return tl.reshape(w, (BLOCK_N, BLOCK_K))


@triton.jit
def _forward_kernel(
    x_ptr, packed_ptr, absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, code_ptr, a_ptr, b_ptr, bias_ptr, y_ptr, h_ptr,
    M, N, K, r, stride, scale,
    NESTED: tl.constexpr, BIAS: tl.constexpr, R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    at_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    at_r = tl.arange(0, R)
    code = tl.load(code_ptr + tl.arange(0, 16))
    y = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    h = tl.zeros((R, BLOCK_M), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        at_k = k0 + tl.arange(0, BLOCK_K)
        w = _tile(
            packed_ptr, absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, code, at_n, k0, N, K, NESTED, BLOCK_N, BLOCK_K
        ).to(x_ptr.dtype.element_ty)
        x = tl.load(
            x_ptr + at_m.to(tl.int64)[None, :] * stride + at_k[:, None],
            mask=(at_m < M)[None, :] & (at_k < K)[:, None], other=0.0,
        )  # (BLOCK_K, BLOCK_M)  # fmt: skip
        a = tl.load(
            a_ptr + at_r[:, None] * K + at_k[None, :], mask=(at_r < r)[:, None] & (at_k < K)[None, :], other=0.0
        )
        y = tl.dot(w, x, y, input_precision=PRECISION)
        h = tl.dot(a, x, h, input_precision=PRECISION)
    b = tl.load(b_ptr + at_n[:, None] * r + at_r[None, :], mask=(at_n < N)[:, None] & (at_r < r)[None, :], other=0.0)
    rounded = h.to(h_ptr.dtype.element_ty)
    y += scale * tl.dot(b, rounded, input_precision=PRECISION)
    if BIAS:
        y += tl.load(bias_ptr + at_n, mask=at_n < N, other=0.0).to(tl.float32)[:, None]
    tl.store(
        y_ptr + at_m.to(tl.int64)[None, :] * N + at_n[:, None], y.to(y_ptr.dtype.element_ty),
        mask=(at_m < M)[None, :] & (at_n < N)[:, None],
    )  # fmt: skip
    if tl.program_id(0) == 0:
        tl.store(h_ptr + at_m[None, :] * r + at_r[:, None], rounded, mask=(at_m < M)[None, :] & (at_r < r)[:, None])


@triton.jit
def _backward_kernel(
    g_ptr, packed_ptr, absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, code_ptr, a_ptr, b_ptr, dx_ptr, p_ptr,
    M, N, K, r, stride, scale,
    NESTED: tl.constexpr, R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    k0 = tl.program_id(0) * BLOCK_K
    at_k = k0 + tl.arange(0, BLOCK_K)
    at_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    at_r = tl.arange(0, R)
    code = tl.load(code_ptr + tl.arange(0, 16))
    dx = tl.zeros((BLOCK_K, BLOCK_M), tl.float32)
    p = tl.zeros((R, BLOCK_M), tl.float32)
    for n0 in range(0, N, BLOCK_N):
        at_n = n0 + tl.arange(0, BLOCK_N)
        w = _tile(
            packed_ptr, absmax_ptr, code2_ptr, absmax2_ptr, offset_ptr, code, at_n, k0, N, K, NESTED, BLOCK_N, BLOCK_K
        ).to(g_ptr.dtype.element_ty)
        g = tl.load(
            g_ptr + at_m.to(tl.int64)[None, :] * stride + at_n[:, None],
            mask=(at_m < M)[None, :] & (at_n < N)[:, None], other=0.0,
        )  # (BLOCK_N, BLOCK_M)  # fmt: skip
        b = tl.load(
            b_ptr + at_n[None, :] * r + at_r[:, None], mask=(at_n < N)[None, :] & (at_r < r)[:, None], other=0.0
        )  # (R, BLOCK_N)
        dx = tl.dot(tl.trans(w), g, dx, input_precision=PRECISION)
        p = tl.dot(b, g, p, input_precision=PRECISION)
    a = tl.load(
        a_ptr + at_r[None, :] * K + at_k[:, None], mask=(at_r < r)[None, :] & (at_k < K)[:, None], other=0.0
    )  # (BLOCK_K, R)
    rounded = (scale * p).to(p_ptr.dtype.element_ty)
    dx += tl.dot(a, rounded, input_precision=PRECISION)
    tl.store(
        dx_ptr + at_m.to(tl.int64)[None, :] * K + at_k[:, None], dx.to(dx_ptr.dtype.element_ty),
        mask=(at_m < M)[None, :] & (at_k < K)[:, None],
    )  # fmt: skip
    if tl.program_id(0) == 0:
        tl.store(p_ptr + at_m[None, :] * r + at_r[:, None], rounded, mask=(at_m < M)[None, :] & (at_r < r)[:, None])


def _blocks(rows: int) -> dict[str, int]:
    """Sizes of a tile: as few tokens as there are, at least 16."""
    return {"BLOCK_M": min(64, max(16, power_of_two(rows))), "BLOCK_N": 64, "BLOCK_K": 64}


def _options(rows: int) -> dict[str, int]:
    """A large tile has registers for two stages of loads ahead, not for three (on sm_80 they would spill)."""
    return {"num_warps": 4, "num_stages": 2 if rows > 32 else 3}


Weight = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def _packed(weight: Weight, n: int, k: int, dtype: torch.dtype) -> Packed:
    packed, absmax, code2, absmax2, offset = weight
    return Packed(packed, absmax, (n, k), dtype, code2, absmax2, offset)


@torch.library.custom_op("deltalab::nf4_lora_linear", mutates_args=())
def _op(
    x: torch.Tensor, packed: torch.Tensor, absmax: torch.Tensor, code2: torch.Tensor | None,
    absmax2: torch.Tensor | None, offset: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """y (M, N) and H (M, r) of x (M, K); a, b and bias in the dtype of x."""
    (m, k), n, r = x.shape, b.shape[0], a.shape[0]
    w = _packed((packed, absmax, code2, absmax2, offset), n, k, x.dtype)
    if not runs_on(x):
        h = x @ a.t()
        return reference(x, w, a, b, scale, bias), h
    y, h = x.new_empty(m, n), x.new_empty(m, r)
    x = x if x.stride(1) == 1 else x.contiguous()
    sizes = _blocks(m)
    with device_of(x):
        _forward_kernel[(-(-n // sizes["BLOCK_N"]), -(-m // sizes["BLOCK_M"]))](
            x, packed, absmax, *w.second(), nf4.kept_codebook(x.device), a, b, a if bias is None else bias, y, h,
            m, n, k, r, x.stride(0), scale, NESTED=w.nested, BIAS=bias is not None, R=max(16, power_of_two(r)),
            PRECISION="ieee", **_options(m), **sizes,
        )  # fmt: skip
    return y, h


@_op.register_fake
def _(
    x: torch.Tensor, packed: torch.Tensor, absmax: torch.Tensor, code2: torch.Tensor | None,
    absmax2: torch.Tensor | None, offset: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    return x.new_empty(x.shape[0], b.shape[0]), x.new_empty(x.shape[0], a.shape[0])


@torch.library.custom_op("deltalab::nf4_lora_linear_backward", mutates_args=())
def _backward_op(
    g: torch.Tensor, packed: torch.Tensor, absmax: torch.Tensor, code2: torch.Tensor | None,
    absmax2: torch.Tensor | None, offset: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """∂x (M, K) and P = s·GB (M, r) of G (M, N)."""
    (m, n), k, r = g.shape, a.shape[1], a.shape[0]
    w = _packed((packed, absmax, code2, absmax2, offset), n, k, g.dtype)
    if not runs_on(g):
        p = scale * (g @ b)
        return g @ nf4.reference(w) + p @ a, p
    dx, p = g.new_empty(m, k), g.new_empty(m, r)
    g = g if g.stride(1) == 1 else g.contiguous()
    sizes = _blocks(m)
    with device_of(g):
        _backward_kernel[(-(-k // sizes["BLOCK_K"]), -(-m // sizes["BLOCK_M"]))](
            g, packed, absmax, *w.second(), nf4.kept_codebook(g.device), a, b, dx, p, m, n, k, r, g.stride(0), scale,
            NESTED=w.nested, R=max(16, power_of_two(r)), PRECISION="ieee", **_options(m), **sizes,
        )  # fmt: skip
    return dx, p


@_backward_op.register_fake
def _(
    g: torch.Tensor, packed: torch.Tensor, absmax: torch.Tensor, code2: torch.Tensor | None,
    absmax2: torch.Tensor | None, offset: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    return g.new_empty(g.shape[0], a.shape[1]), g.new_empty(g.shape[0], a.shape[0])


class NF4LoRALinear(torch.autograd.Function):
    """One launch forward, one for ∂x and P, and the two thin products of ∂A and ∂B."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: Packed, a: torch.Tensor, b: torch.Tensor, scale: float, bias: torch.Tensor | None
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weight = (w.packed, w.absmax, w.code2, w.absmax2, w.offset)
        thin = a.to(x.dtype).contiguous(), b.to(x.dtype).contiguous()
        y, h = _op(rows, *weight, *thin, scale, None if bias is None else bias.to(x.dtype))
        ctx.save_for_backward(rows, h, *thin)
        ctx.weight, ctx.scale, ctx.shape, ctx.own = weight, scale, x.shape, (a.dtype, b.dtype)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        rows, h, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)
        dx, p = _backward_op(g, *ctx.weight, a, b, ctx.scale)
        da = (p.t() @ rows).to(ctx.own[0]) if ctx.needs_input_grad[2] else None
        db = (ctx.scale * (g.t() @ h)).to(ctx.own[1]) if ctx.needs_input_grad[3] else None
        return dx.view(ctx.shape), None, da, db, None, None


MOST_RANK = 16  # what is compiled ahead of time and tested; a wider pair takes more registers


def takes(x: torch.Tensor, dtype: torch.dtype, rank: int) -> bool:
    """Whether the kernels are launched for x (…, K) computed with in `dtype`, and a pair of that rank.

    A single row without a gradient, a token that is generated, is left to bitsandbytes: it has a kernel for just that.
    """
    rows = math.prod(x.shape[:-1])
    if rows == 1 and not torch.is_grad_enabled():
        return False
    fits = multiplies(dtype) and x.shape[-1] % BLOCK == 0 and rank <= MOST_RANK
    return fits and pays("nf4_lora_linear", x, rows)


def fused(
    x: torch.Tensor, w: Packed, a: torch.Tensor, b: torch.Tensor, scale: float, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """As `reference`, without ever writing the decoded weight, where that pays: for few tokens."""
    if not takes(x, x.dtype, len(a)):
        return reference(x, w, a, b, scale, bias)
    y: torch.Tensor = NF4LoRALinear.apply(x, w, a, b, scale, bias)
    return y


CASES: tuple[dict[str, int], ...] = (
    {"rows": 1, "inputs": 64, "outputs": 64, "rank": 1, "nested": 0, "bias": 0},
    {"rows": 17, "inputs": 128, "outputs": 96, "rank": 8, "nested": 1, "bias": 1},
    {"rows": 33, "inputs": 192, "outputs": 80, "rank": 16, "nested": 1, "bias": 0},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = tuple(
    {"rows": m, "inputs": n, "outputs": n, "rank": 16, "nested": 1, "bias": 0}
    for n in (2048, 4096) for m in (1, 16, 64, 128, 256, 512)
)  # fmt: skip


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`."""
    generator = torch.Generator().manual_seed(seed)
    m, k, n, r = case["rows"], case["inputs"], case["outputs"], case["rank"]
    w = nf4.random_weight(n, k, bool(case["nested"]), dtype, device, seed)

    def random(*shape: int, by: float = 1.0, grad: bool = True) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * by).to(device, dtype).requires_grad_(grad)

    bias = random(n, grad=False) if case["bias"] else None
    return random(m, k), w, random(r, k, by=k**-0.5), random(n, r, by=0.3), 1.7, bias


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Forward and backward. A weight is decoded anew for each block of tokens (2 FLOPs, as in kernels/nf4.py); its four
    bits come from memory for the first and, as far as the second-level cache reaches, from there for the others."""
    m, k, n, r = case["rows"], case["inputs"], case["outputs"], case["rank"]
    tensors = 2 * e * (m * k + m * n) + 3 * e * r * (n + k)
    packed = n * k * (0.5 + (1 / 64 if case["nested"] else 4 / 64))
    decoded = 2 * n * k * 2 * e
    decodings = 2 * n * k * 2 * -(-m // _blocks(m)["BLOCK_M"])
    return Cost(
        4 * m * n * k + 6 * m * r * (n + k) + decodings, tensors + 2 * packed + e * m * (n + k),
        tensors + 2 * packed + decoded + m * (7 * e * n + 3 * e * k),
    )  # fmt: skip


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: tokens."""
    return case["rows"]


def rivals() -> dict[str, Any]:
    """torch.compile; bitsandbytes' product with PEFT's pair beside it."""

    def of_bitsandbytes() -> Any:
        decode = nf4.rivals().get("bitsandbytes")
        if decode is None:
            raise ImportError("bitsandbytes")
        linear = torch.nn.functional.linear

        def layer(x: Any, w: Packed, a: Any, b: Any, scale: float, bias: Any = None) -> Any:
            return linear(x, decode(w), bias) + linear(linear(x, a), b) * scale

        return layer

    return available({"torch.compile": compiled(reference), "bitsandbytes": of_bitsandbytes})


def _launch(t: str, forward: bool, rows: int) -> Launch:
    pointers = {
        "packed_ptr": "*u8", "absmax_ptr": "*u8", "code2_ptr": "*fp32", "absmax2_ptr": "*fp32", "offset_ptr": "*fp32",
        "code_ptr": "*fp32",
    }  # fmt: skip
    own = ("x", "a", "b", "bias", "y", "h") if forward else ("g", "a", "b", "dx", "p")
    numbers = {"M": "i32", "N": "i32", "K": "i32", "r": "i32", "stride": "i32", "scale": "fp32"}
    constants = {"NESTED": True, "R": 16, "PRECISION": "ieee", **_blocks(rows)}
    return Launch(
        f"nf4_lora_linear {'forward' if forward else 'backward'} {t}, {constants['BLOCK_M']} tokens",
        _forward_kernel if forward else _backward_kernel,
        {**pointers, **{f"{p}_ptr": f"*{t}" for p in own}, **numbers},
        {**constants, "BIAS": True} if forward else constants,
        whole=("N", "K", "r", "stride"), options=_options(rows), matrix=True,
        least=80,
    )  # fmt: skip


LAUNCHES = tuple(_launch(t, forward, rows) for t in ("bf16", "fp16") for forward in (True, False) for rows in (16, 64))
