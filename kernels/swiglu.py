"""The gated activation of Llama's MLP, each way in one launch.

    y = silu(g) ⊙ u,   silu(g) = g·σ(g)                     (Shazeer 2020, arXiv:2002.05202)
    ∂u = ∂y ⊙ silu(g)        ∂g = ∂y ⊙ u ⊙ σ(g)·(1 + g·(1 − σ(g)))

Bytes per number in 16 bits: PyTorch moves 10 forward and 18 backward, and keeps three tensors (g, u and silu(g)); here
6 + 10, and two are kept: σ is computed again. About 20 FLOPs: it waits for memory. The result is rounded once where
PyTorch rounds silu(g) and then the product.
"""

from typing import Any

import torch

from kernels.base import Cost, Launch, available, compiled, device_of, pays, runs_on, tl, triton

BLOCK = 1024


def reference(g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Of the shape and dtype of g and u."""
    return torch.nn.functional.silu(g) * u


@triton.jit
def _forward_kernel(g_ptr, u_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    u = tl.load(u_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (g * tl.sigmoid(g) * u).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _backward_kernel(dy_ptr, g_ptr, u_ptr, dg_ptr, du_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dy = tl.load(dy_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    u = tl.load(u_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    sigma = tl.sigmoid(g)
    tl.store(du_ptr + at, (dy * g * sigma).to(du_ptr.dtype.element_ty), mask=at < n)
    dg = dy * u * sigma * (1.0 + g * (1.0 - sigma))
    tl.store(dg_ptr + at, dg.to(dg_ptr.dtype.element_ty), mask=at < n)


@torch.library.custom_op("deltalab::swiglu", mutates_args=())
def _op(g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    if not runs_on(g):
        return reference(g, u).contiguous()
    y = torch.empty(g.shape, dtype=g.dtype, device=g.device)
    g, u = g.contiguous(), u.contiguous()
    with device_of(g):
        _forward_kernel[(-(-g.numel() // BLOCK),)](g, u, y, g.numel(), BLOCK=BLOCK, num_warps=4)
    return y


@_op.register_fake
def _(g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return g.new_empty(g.shape)


@torch.library.custom_op("deltalab::swiglu_backward", mutates_args=())
def _backward_op(dy: torch.Tensor, g: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dg = torch.empty(g.shape, dtype=g.dtype, device=g.device)
    du = torch.empty(g.shape, dtype=g.dtype, device=g.device)
    if not runs_on(g):
        wide, sigma = g.float(), torch.sigmoid(g.float())
        du.copy_(dy.float() * wide * sigma)
        return dg.copy_(dy.float() * u.float() * sigma * (1 + wide * (1 - sigma))), du
    dy, g, u = dy.contiguous(), g.contiguous(), u.contiguous()
    with device_of(g):
        _backward_kernel[(-(-g.numel() // BLOCK),)](dy, g, u, dg, du, g.numel(), BLOCK=BLOCK, num_warps=4)
    return dg, du


@_backward_op.register_fake
def _(dy: torch.Tensor, g: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return g.new_empty(g.shape), g.new_empty(g.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gradients: tuple[torch.Tensor, torch.Tensor] = _backward_op(dy, *ctx.saved_tensors)
    return gradients


_op.register_autograd(_backward, setup_context=_setup)


def fused(g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """As `reference`, one launch each way where that pays."""
    if g.dtype == torch.float64 or not pays("swiglu", g, g.numel()):
        return reference(g, u)
    return _op(g, u)


CASES: tuple[dict[str, int], ...] = (
    {"rows": 1, "columns": 1}, {"rows": 33, "columns": 96}, {"rows": 7, "columns": 1409},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = tuple({"rows": 4096, "columns": n} for n in (1408, 8192, 14_336))


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`; u is not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    g = (3 * torch.randn(case["rows"], case["columns"], generator=generator)).to(device, dtype)
    u = torch.randn(case["columns"], case["rows"], generator=generator).to(device, dtype).t()
    return g.requires_grad_(True), u.requires_grad_(True)


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Forward and backward."""
    n = case["rows"] * case["columns"]
    return Cost(20 * n, 8 * e * n, 14 * e * n)


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: numbers of g."""
    return case["rows"] * case["columns"]


def rivals() -> dict[str, Any]:
    """torch.compile; Liger-Kernel's."""

    def of_liger() -> Any:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        return lambda g, u: LigerSiLUMulFunction.apply(g, u.contiguous())

    return available({"torch.compile": compiled(reference), "liger": of_liger})


LAUNCHES = tuple(
    launch for t in ("bf16", "fp16", "fp32") for launch in (
        Launch(
            f"swiglu forward {t}", _forward_kernel, {"g_ptr": f"*{t}", "u_ptr": f"*{t}", "y_ptr": f"*{t}", "n": "i64"},
            {"BLOCK": BLOCK}, options={"num_warps": 4}, least=80 if t == "bf16" else 75,
        ),
        Launch(
            f"swiglu backward {t}", _backward_kernel,
            {**{f"{p}_ptr": f"*{t}" for p in ("dy", "g", "u", "dg", "du")}, "n": "i64"}, {"BLOCK": BLOCK},
            options={"num_warps": 4}, least=80 if t == "bf16" else 75,
        ),
    )
)  # fmt: skip
