"""RMSNorm, with the residual sum before it, each way in one launch.

    h = x + r            y = w ⊙ h / √(mean(h²) + ε)               (Zhang and Sennrich 2019, arXiv:1910.07467)
    ρ = 1/√(mean(h²) + ε), ĥ = ρ·h, g = w ⊙ ∂y:       ∂h += ρ·(g − ĥ·mean(g ⊙ ĥ))        ∂w = Σ_rows ∂y ⊙ ĥ

The sum h is needed by two: this norm, and the residual stream that goes on; so both are returned, and both gradients
come back. Without a residual, h = x.

Bytes per number in 16 bits. PyTorch, operation by operation: 36 forward and 84 backward (to 32 bits, square, mean,
times ρ, to 16 bits, times w, and all of that backward), 6 + 6 more for the sum. Here 4 + 6; with the sum 8 + 8. About
12 FLOPs: the operation waits for memory, so its time is its bytes. What is kept for the backward pass: h and one
32-bit number a row, where PyTorch keeps h in 32 bits and its normed form too.

How the kernels work: a row fits a program's registers. Backward, each program walks through every P-th row and keeps
its part of ∂w; the P parts are added up by PyTorch, always in the same order.
"""

from typing import Any

import torch

from kernels.base import Cost, Launch, available, compiled, device_of, pays, power_of_two, runs_on, tl, triton

PROGRAMS = 256  # that share the rows backward: enough to fill a card, few enough that their parts of ∂w stay small
MOST_COLUMNS = 8192  # a row that one program holds; of twice as many the backward pass would spill registers


def reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """y and h, of the shape and dtype of x. As transformers' LlamaRMSNorm: in 32 bits (or 64), rounded before w."""
    h = x if residual is None else x + residual
    wide = h if h.dtype == torch.float64 else h.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(h.dtype), h


@triton.jit
def _forward_kernel(
    x_ptr, r_ptr, w_ptr, y_ptr, h_ptr, rho_ptr, stride_x, stride_r, columns, eps,
    RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    there = at < columns
    h = tl.load(x_ptr + row * stride_x + at, mask=there, other=0.0).to(tl.float32)
    if RESIDUAL:
        h += tl.load(r_ptr + row * stride_r + at, mask=there, other=0.0).to(tl.float32)
        rounded = h.to(h_ptr.dtype.element_ty)
        tl.store(h_ptr + row * columns + at, rounded, mask=there)
        h = rounded.to(tl.float32)
    rho = 1.0 / tl.sqrt(tl.sum(h * h, 0) / columns + eps)
    tl.store(rho_ptr + row, rho)
    normed = (h * rho).to(y_ptr.dtype.element_ty).to(tl.float32)
    w = tl.load(w_ptr + at, mask=there, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * columns + at, (normed * w).to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def _backward_kernel(
    dy_ptr, dh_ptr, h_ptr, w_ptr, rho_ptr, dx_ptr, dw_ptr, stride_dy, stride_dh, stride_h, rows, columns,
    STREAM: tl.constexpr, WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    there = at < columns
    w = tl.load(w_ptr + at, mask=there, other=0.0).to(tl.float32)
    dw = tl.zeros((BLOCK,), tl.float32)
    for number in range(first, rows, tl.num_programs(0)):
        row = tl.cast(number, tl.int64)
        rho = tl.load(rho_ptr + row)
        normed = tl.load(h_ptr + row * stride_h + at, mask=there, other=0.0).to(tl.float32) * rho
        dy = tl.load(dy_ptr + row * stride_dy + at, mask=there, other=0.0).to(tl.float32)
        g = dy * w
        dx = rho * (g - normed * (tl.sum(g * normed, 0) / columns))
        if STREAM:
            dx += tl.load(dh_ptr + row * stride_dh + at, mask=there, other=0.0).to(tl.float32)
        tl.store(dx_ptr + row * columns + at, dx.to(dx_ptr.dtype.element_ty), mask=there)
        if WEIGHT:
            dw += dy * normed.to(dy_ptr.dtype.element_ty).to(tl.float32)
    if WEIGHT:
        tl.store(dw_ptr + first.to(tl.int64) * columns + at, dw, mask=there)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """(…, n) as rows; a view wherever the rows lie at equal distances with their numbers side by side."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _warps(columns: int) -> int:
    return min(16, max(1, power_of_two(columns) // 512))


@torch.library.custom_op("deltalab::rms_norm", mutates_args=())
def _op(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, h (empty without a residual) and ρ of each row."""
    columns = x.shape[-1]
    flat = _rows(x)
    rho = torch.empty(len(flat), dtype=torch.float32, device=x.device)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    h = y.new_empty(x.shape if residual is not None else 0)
    if not runs_on(x):
        made, total = reference(x, weight, eps, residual)
        if residual is not None:
            h.copy_(total)
        rho.copy_(torch.rsqrt(total.float().pow(2).mean(-1) + eps).reshape(-1))
        return y.copy_(made), h, rho
    other = flat if residual is None else _rows(residual)
    with device_of(x):
        _forward_kernel[(len(flat),)](
            flat, other, weight, y, h, rho, flat.stride(0), other.stride(0), columns, eps,
            RESIDUAL=residual is not None, BLOCK=power_of_two(columns), num_warps=_warps(columns),
        )  # fmt: skip
    return y, h, rho


@_op.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y = x.new_empty(x.shape)
    return (
        y,
        x.new_empty(x.shape if residual is not None else 0),
        x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32),
    )


@torch.library.custom_op("deltalab::rms_norm_backward", mutates_args=())
def _backward_op(
    dy: torch.Tensor, dh: torch.Tensor | None, h: torch.Tensor, weight: torch.Tensor, rho: torch.Tensor, needs: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """∂x (of the residual too), and ∂w (empty if nobody needs it)."""
    columns = h.shape[-1]
    dx = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    dw = weight.new_empty(weight.shape if needs else 0)
    if not runs_on(h):
        normed = h.float() * rho.view(*h.shape[:-1], 1)
        g = (dy * weight).float()
        made = rho.view(*h.shape[:-1], 1) * (g - normed * (g * normed).mean(-1, keepdim=True))
        dx.copy_(made if dh is None else made + dh)
        if needs:
            dw.copy_((dy.float() * normed.to(h.dtype).float()).reshape(-1, columns).sum(0))
        return dx, dw
    flat, out, stream = _rows(h), _rows(dy), _rows(dy if dh is None else dh)
    programs = min(PROGRAMS, len(flat))
    parts = torch.empty(programs if needs else 1, columns, dtype=torch.float32, device=h.device)
    with device_of(h):
        _backward_kernel[(programs,)](
            out, stream, flat, weight, rho, dx, parts, out.stride(0), stream.stride(0), flat.stride(0), len(flat),
            columns, STREAM=dh is not None, WEIGHT=needs, BLOCK=power_of_two(columns), num_warps=_warps(columns),
        )  # fmt: skip
    if needs:
        dw.copy_(parts.sum(0))
    return dx, dw


@_backward_op.register_fake
def _(
    dy: torch.Tensor, dh: torch.Tensor | None, h: torch.Tensor, weight: torch.Tensor, rho: torch.Tensor, needs: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return h.new_empty(h.shape), weight.new_empty(weight.shape if needs else 0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, _, residual = inputs
    _, h, rho = output
    ctx.summed = residual is not None
    ctx.save_for_backward(h if ctx.summed else x, weight, rho)
    ctx.mark_non_differentiable(rho) if ctx.summed else ctx.mark_non_differentiable(h, rho)


def _backward(ctx: Any, dy: torch.Tensor, dh: torch.Tensor | None, _: Any) -> tuple[Any, ...]:
    h, weight, rho = ctx.saved_tensors
    dx, dw = _backward_op(dy, dh if ctx.summed else None, h, weight, rho, ctx.needs_input_grad[1])
    return dx, dw if ctx.needs_input_grad[1] else None, None, dx if ctx.summed else None


_op.register_autograd(_backward, setup_context=_setup)


def fused(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference`, one launch each way where that pays. (Where PyTorch would widen x, for a weight or a residual
    with more bits, it is left to PyTorch.)"""
    kinds = {weight.dtype, *(() if residual is None else (residual.dtype,))}
    widened = any(torch.promote_types(x.dtype, kind) != x.dtype for kind in kinds)
    fits = x.shape[-1] <= MOST_COLUMNS and x.dtype != torch.float64 and not widened
    if not fits or not pays("rms_norm", x, x.numel()):
        return reference(x, weight, eps, residual)
    y, h, _ = _op(x, weight, eps, residual)
    return y, h if residual is not None else x


CASES: tuple[dict[str, int], ...] = (
    {"rows": 1, "columns": 8, "residual": 0, "strided": 0}, {"rows": 33, "columns": 96, "residual": 1, "strided": 0},
    {"rows": 17, "columns": 192, "residual": 1, "strided": 1},
    {"rows": 300, "columns": 33, "residual": 0, "strided": 1},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = tuple(
    {"rows": 4096, "columns": n, "residual": 1, "strided": 0, "frozen": 1} for n in (512, 2048, 4096, 8192)
)  # fmt: skip


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`; strided: every other row of a larger tensor; frozen: no ∂w."""
    generator = torch.Generator().manual_seed(seed)
    step = 2 if case["strided"] else 1

    def rows() -> torch.Tensor:
        made = torch.randn(case["rows"] * step, case["columns"], generator=generator).to(device, dtype)[::step]
        return made.requires_grad_(True)

    weight = (1 + 0.2 * torch.randn(case["columns"], generator=generator)).to(device, dtype)
    weight.requires_grad_(not case.get("frozen"))
    return rows(), weight, 1e-5, rows() if case["residual"] else None


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Forward and backward, the weight frozen."""
    n, summed = case["rows"] * case["columns"], case["residual"]
    return Cost(12 * n, n * (8 * e if summed else 5 * e), n * (120 + 12 * summed))


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: numbers of x."""
    return case["rows"] * case["columns"]


def rivals() -> dict[str, Any]:
    """torch.compile; Liger-Kernel's; PyTorch's own rms_norm (without the sum)."""

    def of_liger() -> Any:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        def norm(x: torch.Tensor, w: torch.Tensor, eps: float, r: torch.Tensor | None = None) -> Any:
            h = x if r is None else x + r
            return LigerRMSNormFunction.apply(h, w, eps, 0.0, "llama", False), h

        return norm

    def of_torch() -> Any:
        def norm(x: torch.Tensor, w: torch.Tensor, eps: float, r: torch.Tensor | None = None) -> Any:
            h = x if r is None else x + r
            return torch.nn.functional.rms_norm(h, (h.shape[-1],), w, eps), h

        return norm

    return available({"torch.compile": compiled(reference), "torch.rms_norm": of_torch, "liger": of_liger})


LAUNCHES = tuple(
    launch for t, block in (("bf16", 4096), ("fp16", 4096), ("fp32", 4096), ("bf16", MOST_COLUMNS)) for launch in (
        Launch(
            f"rms_norm forward {t} {block}", _forward_kernel,
            {"x_ptr": f"*{t}", "r_ptr": f"*{t}", "w_ptr": f"*{t}", "y_ptr": f"*{t}", "h_ptr": f"*{t}",
             "rho_ptr": "*fp32", "stride_x": "i32", "stride_r": "i32", "columns": "i32", "eps": "fp32"},
            {"RESIDUAL": True, "BLOCK": block}, whole=("stride_x", "stride_r", "columns"),
            options={"num_warps": _warps(block)}, least=80 if t == "bf16" else 75,
        ),
        Launch(
            f"rms_norm backward {t} {block}", _backward_kernel,
            {"dy_ptr": f"*{t}", "dh_ptr": f"*{t}", "h_ptr": f"*{t}", "w_ptr": f"*{t}", "rho_ptr": "*fp32",
             "dx_ptr": f"*{t}", "dw_ptr": "*fp32", "stride_dy": "i32", "stride_dh": "i32", "stride_h": "i32",
             "rows": "i32", "columns": "i32"},
            {"STREAM": True, "WEIGHT": True, "BLOCK": block}, whole=("stride_dy", "stride_dh", "stride_h", "columns"),
            options={"num_warps": _warps(block)}, least=80 if t == "bf16" else 75,
        ),
    )
)  # fmt: skip
