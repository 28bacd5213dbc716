"""Two of LoRA's gradients in one pass over ∂y.

    P = s·∂y·B   (M × r)          ∂B = s·∂yᵀ·H   (N × r),   H = xAᵀ

Both read ∂y, of M × N numbers, and little else: r is 8 or 16. Done one by one they read it twice. Bytes in 16 bits:
2·2·M·N one by one, 2·M·N here and the parts (below); FLOPs 4·M·N·r. At r = 16 that is at most 32 FLOPs per byte, a
tenth of what a card could do in the time, so the time is the bytes. The gain is a few per cent of a step, and none at
all for narrow layers, where the parts weigh as much as ∂y.

How the kernel works: a program takes BLOCK_M rows of some columns of ∂y and walks along them; P of its rows grows in
registers, and its part of ∂B is written out for each block of columns. The parts of all programs are added up by
PyTorch in a fixed order: no atomic additions, so the same step gives the same bits. The parts of ∂B take 4·N·r bytes
for every BLOCK_M rows (r/32 of ∂y's bytes, written and read), those of P 4·M·r for each slice of the columns.
"""

from typing import Any

import torch

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

BLOCK_M, BLOCK_N = 128, 32
PROGRAMS = 256  # about as many as fill a card


def reference(dy: torch.Tensor, b: torch.Tensor, h: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """∂y (M, N), B (N, r), H (M, r) -> P (M, r) and ∂B (N, r)."""
    return scale * (dy @ b), scale * (dy.t() @ h)


@triton.jit
def _grads_kernel(
    dy_ptr, b_ptr, h_ptr, p_ptr, db_ptr, rows, columns, r, stride, slice_columns,
    R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, piece = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    at_r = tl.arange(0, R)[None, :]
    at_m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    in_m = (at_m < rows)[:, None]
    thin_m = at_m[:, None] * r + at_r
    h = tl.load(h_ptr + thin_m, mask=in_m & (at_r < r), other=0.0)
    p = tl.zeros((BLOCK_M, R), tl.float32)
    db_ptr += block * columns * r
    for start in range(0, slice_columns, BLOCK_N):
        at_n = piece * slice_columns + start + tl.arange(0, BLOCK_N)
        in_n = (at_n < columns) & (at_n < (piece + 1) * slice_columns)
        dy = tl.load(dy_ptr + at_m[:, None] * stride + at_n[None, :], mask=in_m & in_n[None, :], other=0.0)
        thin_n = at_n[:, None] * r + at_r
        in_thin = in_n[:, None] & (at_r < r)
        b = tl.load(b_ptr + thin_n, mask=in_thin, other=0.0)
        p = tl.dot(dy, b, p, input_precision=PRECISION)
        tl.store(db_ptr + thin_n, tl.dot(tl.trans(dy), h, input_precision=PRECISION), mask=in_thin)
    tl.store(p_ptr + piece * rows * r + thin_m, p, mask=in_m & (at_r < r))


def _slices(rows: int, columns: int) -> tuple[int, int]:
    """How many slices the columns are cut into, and how wide one is."""
    wanted = max(1, PROGRAMS // -(-rows // BLOCK_M))
    blocks = -(-columns // BLOCK_N)
    width = -(-blocks // min(wanted, blocks)) * BLOCK_N
    return -(-columns // width), width


@torch.library.custom_op("deltalab::lora_grads", mutates_args=())
def _op(dy: torch.Tensor, b: torch.Tensor, h: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    if not runs_on(dy):
        return reference(dy, b, h, scale)
    rows, columns = dy.shape
    r = b.shape[1]
    dy = dy if dy.stride(1) == 1 else dy.contiguous()
    b, h = b.contiguous(), h.contiguous()
    blocks = -(-rows // BLOCK_M)
    slices, width = _slices(rows, columns)
    p = torch.empty(slices, rows, r, dtype=torch.float32, device=dy.device)
    db = torch.empty(blocks, columns, r, dtype=torch.float32, device=dy.device)
    with device_of(dy):
        _grads_kernel[(blocks, slices)](
            dy, b, h, p, db, rows, columns, r, dy.stride(0), width, R=max(16, power_of_two(r)), BLOCK_M=BLOCK_M,
            BLOCK_N=BLOCK_N, PRECISION="ieee", num_warps=8,
        )  # fmt: skip
    return (p.sum(0) * scale).to(dy.dtype), (db.sum(0) * scale).to(b.dtype)


@_op.register_fake
def _(dy: torch.Tensor, b: torch.Tensor, h: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    return dy.new_empty(dy.shape[0], b.shape[1]), b.new_empty(b.shape)


MOST_RANK = 64  # wider pairs do not fit a block's shared memory on every generation of cards (kernels/base.py)


def takes(dy: torch.Tensor, h: torch.Tensor) -> bool:
    """Whether the kernel is launched for these: (M, N) and (M, r)."""
    return multiplies(dy.dtype) and h.shape[-1] <= MOST_RANK and pays("lora_grads", dy, dy.numel())


def fused(dy: torch.Tensor, b: torch.Tensor, h: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference`, in one pass where that pays."""
    if not takes(dy, h):
        return reference(dy, b, h, scale)
    return _op(dy, b, h, scale)


CASES: tuple[dict[str, int], ...] = (
    {"rows": 1, "columns": 16, "rank": 1}, {"rows": 33, "columns": 80, "rank": 8},
    {"rows": 300, "columns": 200, "rank": 16},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = tuple(
    {"rows": 4096, "columns": n, "rank": 16} for n in (2048, 4096, 14_336)
)  # fmt: skip


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`; they are gradients themselves and have none."""
    generator = torch.Generator().manual_seed(seed)
    m, n, r = case["rows"], case["columns"], case["rank"]
    return (*(torch.randn(*s, generator=generator).to(device, dtype) for s in ((m, n), (n, r), (m, r))), 1.7)


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Of one call."""
    m, n, r = case["rows"], case["columns"], case["rank"]
    thin = 2 * e * r * (m + n)
    parts = 8 * r * (n * -(-m // BLOCK_M) + m * _slices(m, n)[0])
    return Cost(4 * m * n * r, e * m * n + thin + parts, 2 * e * m * n + thin)


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: numbers of ∂y."""
    return case["rows"] * case["columns"]


def rivals() -> dict[str, Any]:
    """torch.compile."""
    return available({"torch.compile": compiled(reference)})


LAUNCHES = tuple(
    Launch(
        f"lora_grads {t} rank {rank}", _grads_kernel,
        {**{f"{p}_ptr": f"*{t}" for p in ("dy", "b", "h")}, "p_ptr": "*fp32", "db_ptr": "*fp32", "rows": "i32",
         "columns": "i32", "r": "i32", "stride": "i32", "slice_columns": "i32"},
        {"R": rank, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "PRECISION": "ieee"},
        whole=("columns", "r", "stride", "slice_columns"), options={"num_warps": 8}, matrix=True, least=80,
    )
    for t, rank in (("bf16", 16), ("fp16", 16), ("bf16", 32), ("bf16", 64))
)  # fmt: skip
