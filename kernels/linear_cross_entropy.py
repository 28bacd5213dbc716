"""The output layer and the loss together, a few rows at a time: the logits never exist all at once.

    z = hWᵀ (+ b)        L = Σ_i ( log Σ_j exp z_ij − z_i,y(i) )          over the rows with a label
    ∂z = softmax(z) − onehot(y)        ∂h = ∂z·W        ∂W = ∂zᵀ·h        ∂b = Σ_rows ∂z

Forward already computes the gradients, because the logits are there then; backward multiplies them by what comes from
above. Rows are taken in chunks of as many as have logits of BUDGET bytes: at 4,096 tokens and a vocabulary of 128,256
the logits would be 1 GB in 16 bits, and PyTorch's loss takes about 20 bytes a logit at its peak (a copy in 32 bits, its
log-softmax, both gradients): 10 GB. In chunks it is the budget, whatever the batch.

Bytes per logit in 16 bits, beside the products: PyTorch 40; here 6, read and written in place by one launch for each
chunk. The price: every chunk reads the whole of W for each of its products. The loss is taken in 32 bits, whatever the
logits are in, and so is the sum of the chunks' ∂W, which in 16 bits would be rounded at each of them. FLOPs: 6·N·d·V
with ∂W, 4·N·d·V without, as before.

How the kernel works: a program takes a row, finds maximum and sum in one pass over its blocks (rescaling the sum when
the maximum rises), and writes the gradient over the logits in a second.
"""

from typing import Any

import torch

from kernels.base import Cost, Launch, available, compiled, device_of, pays, power_of_two, runs_on, tl, triton

BUDGET = 256 * 2**20
PIECE = 2**24  # numbers that are scaled at a time
IGNORED = -100


def reference(
    h: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """h (N, d), W (V, d), labels (N) with IGNORED where none, b (V) -> the sum of the losses, in 32 bits."""
    z = torch.nn.functional.linear(h, weight, bias)
    z = z if z.dtype == torch.float64 else z.float()
    return torch.nn.functional.cross_entropy(z, labels, reduction="sum", ignore_index=IGNORED)


@triton.jit
def _loss_kernel(z_ptr, label_ptr, loss_ptr, stride, columns, IGNORED: tl.constexpr, BLOCK: tl.constexpr):
    """Loss of each row, and its gradient in the place of its logits."""
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * stride
    label = tl.load(label_ptr + row)
    counts = label != IGNORED
    # Before the first pass: its sums make the threads wait for each other, and in the second some may already have
    # written a gradient where another still had to read the label's logit.
    wanted = tl.load(z_ptr + tl.where(counts, label, 0)).to(tl.float32)
    most = -float("inf")
    total = 0.0
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + at, mask=at < columns, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(z, 0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(z - higher), 0)
        most = higher
    tl.store(loss_ptr + row, tl.where(counts, tl.log(total) - (wanted - most), 0.0))
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + at, mask=at < columns, other=0.0).to(tl.float32)
        gradient = tl.exp(z - most) / total - tl.where(at == label, 1.0, 0.0)
        gradient = tl.where(counts, gradient, 0.0)
        tl.store(z_ptr + at, gradient.to(z_ptr.dtype.element_ty), mask=at < columns)


@torch.library.custom_op("deltalab::loss_of_logits_", mutates_args={"z"})
def loss_of_logits_(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of each row of z (N, V), 32 bits; z becomes its gradient."""
    if not runs_on(z):
        wide = z.float()
        logs = torch.log_softmax(wide, 1)
        counts = labels != IGNORED
        safe = labels.clamp_min(0)[:, None]
        losses = torch.where(counts, -logs.gather(1, safe)[:, 0], 0.0)
        gradient = logs.exp_()
        gradient.scatter_add_(1, safe, torch.full_like(safe, -1, dtype=gradient.dtype))
        z.copy_(gradient.mul_(counts[:, None]))
        return losses
    losses = torch.empty(len(z), dtype=torch.float32, device=z.device)
    block = min(8192, power_of_two(z.shape[1]))
    with device_of(z):
        _loss_kernel[(len(z),)](
            z, labels, losses, z.stride(0), z.shape[1], IGNORED=IGNORED, BLOCK=block,
            num_warps=min(16, max(1, block // 512)),
        )  # fmt: skip
    return losses


@loss_of_logits_.register_fake
def _(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return z.new_empty(z.shape[0], dtype=torch.float32)


class LinearCrossEntropy(torch.autograd.Function):
    """The sum of the losses; the gradients are there when it returns. See the module for the formulas."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, bias: torch.Tensor | None, budget: int
    ) -> torch.Tensor:
        needs_h, needs_w = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        needs_b = bias is not None and ctx.needs_input_grad[3]
        dh = torch.empty_like(h) if needs_h else None
        dw: torch.Tensor | None = None
        db = torch.zeros_like(bias, dtype=torch.float32) if needs_b and bias is not None else None
        losses = []
        rows = chunk_rows(weight.shape[0], h.element_size(), budget)
        for start in range(0, len(h), rows):
            part = slice(start, start + rows)
            z = torch.nn.functional.linear(h[part], weight, bias)  # (rows, V)
            losses.append(loss_of_logits_(z, labels[part]))
            if dh is not None:
                torch.mm(z, weight, out=dh[part])
            if needs_w:
                mine = z.t() @ h[part]
                dw = (mine.float() if len(h) > rows else mine) if dw is None else dw.add_(mine)
            if db is not None:
                db += z.sum(0, dtype=torch.float32)
        if needs_w:
            dw = torch.zeros_like(weight) if dw is None else dw.to(weight.dtype)
        ctx.gradients = dh, dw, None if db is None or bias is None else db.to(bias.dtype)
        return torch.cat(losses).sum() if losses else h.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        if ctx.gradients is None:
            raise RuntimeError("The gradients came with the forward pass and are handed out: no second backward.")
        dh, dw, db = (None if g is None else _scaled_(g, grad) for g in ctx.gradients)
        ctx.gradients = None
        return dh, dw, None, db, None


def _scaled_(g: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """g times a number, in place. A piece at a time in 32 bits: one over the number of answers, rounded to 16 bits
    first, would err by as much as a quarter of a per cent, and in all gradients alike."""
    for piece in g.view(-1).split(PIECE):
        piece.copy_(piece.float().mul_(factor))
    return g


def fused(
    h: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, bias: torch.Tensor | None = None, *,
    budget: int = BUDGET,
) -> torch.Tensor:  # fmt: skip
    """As `reference`, in chunks of logits of `budget` bytes, where that pays."""
    if h.dtype == torch.float64 or not pays("linear_cross_entropy", h, len(h) * len(weight)):
        return reference(h, weight, labels, bias)
    loss: torch.Tensor = LinearCrossEntropy.apply(h, weight, labels, bias, budget)
    return loss


CASES: tuple[dict[str, int], ...] = (
    {"rows": 4, "width": 8, "vocabulary": 5, "bias": 0}, {"rows": 33, "width": 24, "vocabulary": 1000, "bias": 1},
    {"rows": 6, "width": 16, "vocabulary": 16_001, "bias": 0},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = (
    {"rows": 4096, "width": 512, "vocabulary": 4096, "bias": 0, "frozen": 1},
    {"rows": 1024, "width": 2048, "vocabulary": 128_256, "bias": 0, "frozen": 1},
    {"rows": 4096, "width": 4096, "vocabulary": 128_256, "bias": 0, "frozen": 1},
)  # fmt: skip


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`; every fifth row has no label. frozen: W gets no gradient, as under LoRA."""
    generator = torch.Generator().manual_seed(seed)
    n, d, v = case["rows"], case["width"], case["vocabulary"]
    h = torch.randn(n, d, generator=generator).to(device, dtype).requires_grad_(True)
    w = (torch.randn(v, d, generator=generator) * 1.5 / d**0.5).to(device, dtype).requires_grad_(not case.get("frozen"))
    labels = torch.randint(0, v, (n,), generator=generator)
    labels[2::5] = IGNORED
    bias = torch.randn(v, generator=generator).to(device, dtype).requires_grad_(True) if case["bias"] else None
    return h, w, labels.to(device), bias


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Forward and backward; ∂W, summed over the chunks in 32 bits, where the weight trains."""
    n, d, v = case["rows"], case["width"], case["vocabulary"]
    trains = not case.get("frozen")
    products = (2 + trains) * e * (n * d + v * d + n * v)
    again = (2 * e + 8 * trains) * (chunks(n, v, e) - 1) * v * d
    return Cost((4 + 2 * trains) * n * d * v + 10 * n * v, products + again + 3 * e * n * v, products + 40 * n * v)


def chunk_rows(vocabulary: int, e: int, budget: int = BUDGET) -> int:
    """Rows of a chunk: as many as have their logits in the budget."""
    return max(1, budget // (e * vocabulary))


def chunks(rows: int, vocabulary: int, e: int = 2) -> int:
    """How many chunks the rows are taken in; each reads the whole weight for each of its products."""
    return -(-rows // chunk_rows(vocabulary, e))


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: logits."""
    return case["rows"] * case["vocabulary"]


def rivals() -> dict[str, Any]:
    """torch.compile; Liger-Kernel's."""

    def of_liger() -> Any:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as loss

        return lambda h, w, labels, bias=None: loss(h, w, labels, bias=bias, reduction="sum")

    return available({"torch.compile": compiled(reference), "liger": of_liger})


LAUNCHES = tuple(
    Launch(
        f"loss of logits {t}", _loss_kernel,
        {"z_ptr": f"*{t}", "label_ptr": "*i64", "loss_ptr": "*fp32", "stride": "i32", "columns": "i32"},
        {"IGNORED": IGNORED, "BLOCK": 8192}, whole=("stride", "columns"), options={"num_warps": 16},
        least=80 if t == "bf16" else 75,
    )
    for t in ("bf16", "fp16", "fp32")
)  # fmt: skip
