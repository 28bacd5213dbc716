"""Rotary positions for queries and keys at once, each way in one launch.

    (x₁, x₂) → (x₁·cos θ − x₂·sin θ,  x₂·cos θ + x₁·sin θ)         θ = position · base^(−2i/d)
    backward: the same turn by −θ

(Su et al. 2021, arXiv:2104.09864; the halves of a head are paired, as transformers' Llama does.) Bytes per number in
16 bits: PyTorch moves 20 forward and 28 backward (a negation, a concatenation, two products and a sum for each of q and
k); here 4 + 4, and the cosines and sines, which all heads share. 3 FLOPs a number each way: it waits for memory.

How the kernel works: a program takes one token and all its heads, of q and of k, so the token's cosines and sines are
read once. Strides are free: the transposed views in which attention holds q and k are read as they are.
"""

from typing import Any

import torch

from kernels.base import Cost, Launch, available, compiled, device_of, pays, power_of_two, runs_on, tl, triton


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def reference(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """q (B, H, T, d), k (B, H', T, d), cos and sin (1 or B, T, d) -> turned q and k."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + _half_turned(q) * sin, k * cos + _half_turned(k) * sin


@triton.jit
def _turn(
    in_ptr, out_ptr, heads, stride_head, out_stride_head, cos1, cos2, sin1, sin2, half, HEADS: tl.constexpr,
    HALF: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None, :]
    there = (head < heads) & (at < half)
    x1 = tl.load(in_ptr + head * stride_head + at, mask=there, other=0.0).to(tl.float32)
    x2 = tl.load(in_ptr + head * stride_head + half + at, mask=there, other=0.0).to(tl.float32)
    if BACK:
        y1 = x1 * cos1 + x2 * sin2
        y2 = x2 * cos2 - x1 * sin1
    else:
        y1 = x1 * cos1 - x2 * sin1
        y2 = x2 * cos2 + x1 * sin2
    tl.store(out_ptr + head * out_stride_head + at, y1.to(out_ptr.dtype.element_ty), mask=there)
    tl.store(out_ptr + head * out_stride_head + half + at, y2.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def _rope_kernel(
    q_ptr, k_ptr, cos_ptr, sin_ptr, q_out_ptr, k_out_ptr, length, half, q_heads, k_heads,
    q_batch, q_head, q_token, k_batch, k_head, k_token, cos_batch, cos_token,
    q_out_batch, q_out_head, q_out_token, k_out_batch, k_out_head, k_out_token,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HALF: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    b, t = number // length, number % length
    at = tl.arange(0, HALF)[None, :]
    angle = b * cos_batch + t * cos_token + at
    cos1 = tl.load(cos_ptr + angle, mask=at < half, other=0.0).to(tl.float32)
    cos2 = tl.load(cos_ptr + angle + half, mask=at < half, other=0.0).to(tl.float32)
    sin1 = tl.load(sin_ptr + angle, mask=at < half, other=0.0).to(tl.float32)
    sin2 = tl.load(sin_ptr + angle + half, mask=at < half, other=0.0).to(tl.float32)
    _turn(
        q_ptr + b * q_batch + t * q_token, q_out_ptr + b * q_out_batch + t * q_out_token, q_heads, q_head, q_out_head,
        cos1, cos2, sin1, sin2, half, Q_HEADS, HALF, BACK,
    )  # fmt: skip
    _turn(
        k_ptr + b * k_batch + t * k_token, k_out_ptr + b * k_out_batch + t * k_out_token, k_heads, k_head, k_out_head,
        cos1, cos2, sin1, sin2, half, K_HEADS, HALF, BACK,
    )  # fmt: skip


def _like(x: torch.Tensor) -> torch.Tensor:
    """Fresh memory for (B, H, T, d) in which a token's heads lie side by side, as attention's views have them."""
    b, h, t, d = x.shape
    return x.new_empty(b, t, h, d).transpose(1, 2)


@torch.library.custom_op("deltalab::rope", mutates_args=())
def _op(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    q_out, k_out = _like(q), _like(k)
    if not runs_on(q):
        if back:
            for x, out in ((q, q_out), (k, k_out)):
                turned = x * sin.unsqueeze(1)
                first, second = turned.chunk(2, -1)
                out.copy_(x * cos.unsqueeze(1) + torch.cat((second, -first), -1))
            return q_out, k_out
        made = reference(q, k, cos, sin)
        return q_out.copy_(made[0]), k_out.copy_(made[1])
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    cos, sin = (x.contiguous() for x in (cos, sin))
    b, heads, length, d = q.shape
    half = d // 2
    batched = cos.stride(0) if cos.shape[0] > 1 else 0
    with device_of(q):
        _rope_kernel[(b * length,)](
            q, k, cos, sin, q_out, k_out, length, half, heads, k.shape[1],
            *q.stride()[:3], *k.stride()[:3], batched, cos.stride(1), *q_out.stride()[:3], *k_out.stride()[:3],
            Q_HEADS=power_of_two(heads), K_HEADS=power_of_two(k.shape[1]), HALF=power_of_two(half), BACK=back,
            num_warps=4,
        )  # fmt: skip
    return q_out, k_out


@_op.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return _like(q), _like(k)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, _, cos, sin, back = inputs
    ctx.save_for_backward(cos, sin)
    ctx.back = back


def _backward(ctx: Any, dq: torch.Tensor, dk: torch.Tensor) -> tuple[Any, ...]:
    cos, sin = ctx.saved_tensors
    return *_op(dq, dk, cos, sin, not ctx.back), None, None, None


_op.register_autograd(_backward, setup_context=_setup)


def fused(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference`, one launch each way where that pays. cos and sin get no gradient."""
    if q.dtype == torch.float64 or q.shape[-1] % 2 or not pays("rope", q, q.numel() + k.numel()):
        return reference(q, k, cos, sin)
    return _op(q, k, cos.detach(), sin.detach(), False)


CASES: tuple[dict[str, int], ...] = (
    {"batch": 1, "length": 1, "heads": 1, "keys": 1, "size": 8, "positions": 1},
    {"batch": 2, "length": 17, "heads": 6, "keys": 2, "size": 24, "positions": 1},
    {"batch": 3, "length": 5, "heads": 4, "keys": 4, "size": 64, "positions": 3},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = (
    {"batch": 8, "length": 512, "heads": 8, "keys": 8, "size": 64, "positions": 1},
    {"batch": 4, "length": 1024, "heads": 32, "keys": 8, "size": 64, "positions": 1},
    {"batch": 4, "length": 1024, "heads": 32, "keys": 8, "size": 128, "positions": 1},
)  # fmt: skip


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`, q and k as transposed views."""
    generator = torch.Generator().manual_seed(seed)
    b, t, d = case["batch"], case["length"], case["size"]

    def heads(n: int) -> torch.Tensor:
        made = torch.randn(b, t, n, d, generator=generator).to(device, dtype).transpose(1, 2)
        return made.detach().requires_grad_(True)

    angle = torch.rand(case["positions"], t, d // 2, generator=generator) * 100
    angle = torch.cat((angle, angle), -1)
    return heads(case["heads"]), heads(case["keys"]), angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Forward and backward."""
    tokens = case["batch"] * case["length"]
    n = tokens * case["size"] * (case["heads"] + case["keys"])
    angles = 2 * 2 * e * tokens * case["size"]
    return Cost(6 * n, 4 * e * n + angles, 48 * n)


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: numbers of q and k."""
    return case["batch"] * case["length"] * case["size"] * (case["heads"] + case["keys"])


def rivals() -> dict[str, Any]:
    """torch.compile; Liger-Kernel's (which turns q and k in place)."""

    def of_liger() -> Any:
        from liger_kernel.ops.rope import LigerRopeFunction

        return lambda q, k, cos, sin: LigerRopeFunction.apply(q, k, cos, sin)

    return available({"torch.compile": compiled(reference), "liger": of_liger})


_POINTERS = ("q_ptr", "k_ptr", "cos_ptr", "sin_ptr", "q_out_ptr", "k_out_ptr")
_INTEGERS = (
    "length", "half", "q_heads", "k_heads", "q_batch", "q_head", "q_token", "k_batch", "k_head", "k_token", "cos_batch",
    "cos_token", "q_out_batch", "q_out_head", "q_out_token", "k_out_batch", "k_out_head", "k_out_token",
)  # fmt: skip
LAUNCHES = tuple(
    Launch(
        f"rope {'back' if back else 'forward'} {t}", _rope_kernel,
        {**dict.fromkeys(_POINTERS, f"*{t}"), **dict.fromkeys(_INTEGERS, "i32")},
        {"Q_HEADS": 32, "K_HEADS": 8, "HALF": 64, "BACK": back},
        whole=tuple(n for n in _INTEGERS if n not in ("length", "q_heads", "k_heads")), options={"num_warps": 4},
        least=80 if t == "bf16" else 75,
    )
    for back in (False, True) for t in ("bf16", "fp16", "fp32")
)  # fmt: skip
