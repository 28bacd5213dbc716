"""A frozen linear layer with LoRA's pair beside it, in one node of autograd, its gradients by hand.

    y = xWᵀ + b + s·(xAᵀ)Bᵀ                                      (Hu et al. 2021, arXiv:2106.09685, section 4.1)
    with G = ∂y, H = xAᵀ and P = s·GB:      ∂x = G·W + P·A        ∂A = Pᵀ·x        ∂B = s·Gᵀ·H

FLOPs for M tokens, W of N × K and rank r: 4·M·N·K for the two products with W, 6·M·r·(N + K) for the six thin ones.
Bytes in 16 bits beside those products: PEFT scales the pair's output and adds it to the layer's, and autograd adds the
two gradients of x: 14 bytes per output and 6 per input (18 with bitsandbytes, which copies the output first; beside a
base in 16 bits it also casts x into the pair's 32 and back, 24 more per input, which the reference here does not). Here
both sums are taken by `addmm_`, which reads what is there and writes the sum in the product's place: 2 and 2. Kept for
the backward pass: x and H; PEFT and autograd keep x in the layer's and in the pair's number format, H, and the scaled
product.

In 16 bits the order matters. An output is about as large as the layer's own part, and of that 16 bits keep a step of
2⁻⁸: what LoRA's first small updates add to a rounded xWᵀ is mostly rounded away again. So the pair's part is written
first, where its own rounding is small, and the large product is summed onto it, in 32 bits as products are, and rounded
once: as many launches and as many bytes. (A bias is there from the start too, so that B = 0 gives the base's output to
the bit; an update is then kept as far as 16 bits keep it beside the bias.) Backward the same.

What Triton adds, where a card's record says that it pays: P and ∂B in one pass over G (kernels/lora_grads.py), and for
few tokens over a weight in NF4 the whole layer in one launch (kernels/nf4_lora_linear.py). The rest is cuBLAS or oneDNN
by way of PyTorch: nothing is won by writing a plain product anew.

The adapters are in 32 bits and are rounded to the compute dtype for each product: small steps would be lost otherwise.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kernels import lora_grads
from kernels.base import Cost, available, compiled


def reference(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """x (…, K), W (N, K), A (r, K), B (N, r), b (N) -> (…, N), operation by operation as PEFT does it."""
    linear = torch.nn.functional.linear
    return linear(x, weight, bias) + linear(linear(x, a.to(x.dtype)), b.to(x.dtype)) * scale


def sums_last(dtype: torch.dtype) -> bool:
    """Whether the large product is summed onto the pair's part, and not the other way round: in 16 bits."""
    return dtype.itemsize == 2


class LoRALinear(torch.autograd.Function):
    """y = xWᵀ + b + s·(xAᵀ)Bᵀ with the gradients of the module's head; W itself and b get none.

    Args (of apply):
        x: (…, K). a: (r, K). b: (N, r). scale: s.
        base: computes the frozen layer's own output, fresh memory of shape (…, N), which is added into; None: `weight`
            and `bias` do, summed onto the pair's part (see the module's head).
        weight: gives W of shape (N, K) in a dtype, when a pass needs it; a weight in four bits is decoded anew each
            time, and kept in neither pass.
        dtype: that the products are computed in. bias: (N), of the layer, where `base` is None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float,
        base: Callable[[torch.Tensor], torch.Tensor] | None, weight: Callable[[torch.dtype], torch.Tensor],
        dtype: torch.dtype, bias: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        cast = x.detach().to(dtype)  # once, for the base and for A
        y = None if base is None else base(cast)  # (…, N)
        rows = cast.reshape(-1, x.shape[-1])  # (M, K)
        h = rows @ a.t().to(dtype)  # (M, r)
        if y is None:
            thin = b.t().to(dtype)
            if bias is None:
                y = (h @ thin).addmm_(rows, weight(dtype).t(), beta=scale)  # (M, N)
            else:
                y = torch.addmm(bias.to(dtype), h, thin, alpha=scale).addmm_(rows, weight(dtype).t())
            y = y.view(*x.shape[:-1], len(b))
        else:
            y.view(-1, y.shape[-1]).addmm_(h, b.t().to(dtype), alpha=scale)
        # Only ∂A needs x: where A is frozen, (M, r) is kept of a layer's input instead of (M, K).
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, h, a, b)
        ctx.weight, ctx.scale, ctx.shape, ctx.dtype, ctx.compute = weight, scale, x.shape, x.dtype, dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        rows, h, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1]).to(ctx.compute)  # (M, N)
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[2] and lora_grads.takes(g, h):
            p, grad_b = lora_grads.fused(g, b.to(ctx.compute), h, ctx.scale)  # (M, r), (N, r)
            grad_b = grad_b.to(b.dtype)
        else:
            p = (g @ b.to(ctx.compute)).mul_(ctx.scale)  # (M, r)
            if ctx.needs_input_grad[2]:
                # Transposed: on a CPU the product is several times faster with r in front and the long side inside.
                grad_b = (h.t() @ g).mul_(ctx.scale).to(b.dtype).t().contiguous()  # (N, r)
        if ctx.needs_input_grad[0]:
            if sums_last(ctx.compute):
                grad_x = (p @ a.to(ctx.compute)).addmm_(g, ctx.weight(ctx.compute))  # (M, K)
            else:
                grad_x = (g @ ctx.weight(ctx.compute)).addmm_(p, a.to(ctx.compute))
            grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            grad_a = (p.t() @ rows).to(a.dtype)  # (r, K)
        return grad_x, grad_a, grad_b, None, None, None, None, None


def fused(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """As `reference` with a plain frozen weight; the bias is frozen too."""

    def base(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))

    y: torch.Tensor = LoRALinear.apply(
        x, a, b, scale, None if sums_last(x.dtype) else base, lambda dtype: weight.detach().to(dtype), x.dtype, bias
    )
    return y


CASES: tuple[dict[str, int], ...] = (
    {"rows": 1, "inputs": 64, "outputs": 64, "rank": 1, "bias": 0, "wide": 1},
    {"rows": 17, "inputs": 128, "outputs": 96, "rank": 8, "bias": 1, "wide": 0},
    {"rows": 33, "inputs": 192, "outputs": 80, "rank": 16, "bias": 1, "wide": 1},
)  # fmt: skip
SIZES: tuple[dict[str, int], ...] = tuple(
    {"rows": 4096, "inputs": n, "outputs": n, "rank": 16, "bias": 0, "wide": 1} for n in (512, 2048, 4096)
)  # fmt: skip


def make(case: dict[str, int], dtype: torch.dtype, device: Any = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Arguments of `reference` and `fused`; wide: the pair in 32 bits."""
    generator = torch.Generator().manual_seed(seed)
    m, k, n, r = case["rows"], case["inputs"], case["outputs"], case["rank"]
    own = torch.float32 if case["wide"] and dtype != torch.float64 else dtype

    def random(*shape: int, by: float = 1.0, kind: torch.dtype = dtype, grad: bool = True) -> torch.Tensor:
        made = (torch.randn(*shape, generator=generator) * by).to(dtype).to(device, kind)
        return made.requires_grad_(grad)

    return (
        random(m, k), random(n, k, by=k**-0.5, grad=False), random(r, k, by=k**-0.5, kind=own),
        random(n, r, by=0.3, kind=own), 1.7, random(n, grad=False) if case["bias"] else None,
    )  # fmt: skip


def cost(case: dict[str, int], e: int = 2) -> Cost:
    """Forward and backward."""
    m, k, n, r = case["rows"], case["inputs"], case["outputs"], case["rank"]
    base = 2 * e * (m * k + n * k + m * n)
    thin = 3 * e * (m * (k + n) + r * (k + n) + 2 * m * r)
    return Cost(
        4 * m * n * k + 6 * m * r * (n + k),
        base + thin + e * m * (n + k),
        base + thin + m * (7 * e * n + 3 * e * k),
    )


def size(case: dict[str, int]) -> int:
    """What `pays` is asked with: numbers of the output."""
    return case["rows"] * case["outputs"]


def rivals() -> dict[str, Any]:
    """torch.compile on what PEFT does."""
    return available({"torch.compile": compiled(reference)})


LAUNCHES = ()
