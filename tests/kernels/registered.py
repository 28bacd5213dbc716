"""Every operation that the kernels register, with arguments to check it on."""

from __future__ import annotations

from typing import Any

import torch

from kernels import linear_cross_entropy, lora_grads, nf4, nf4_lora_linear, rms_norm, rope, swiglu


def registered(device: Any = "cpu") -> list[tuple[Any, tuple[Any, ...]]]:
    """(operation, arguments)."""
    kind = torch.float32
    (w,) = nf4.make(nf4.CASES[1], kind, device)
    x, weight, eps, residual = rms_norm.make(rms_norm.CASES[1], kind, device)
    flat = x.detach()
    rho = torch.rsqrt(flat.pow(2).mean(-1) + eps)
    g, u = (t.detach().contiguous().requires_grad_(True) for t in swiglu.make(swiglu.CASES[1], kind, device))
    q, k, cos, sin = rope.make(rope.CASES[1], kind, device)
    h, head, labels, _ = linear_cross_entropy.make(linear_cross_entropy.CASES[0], kind, device)
    rows, packed, a, b, scale, bias = nf4_lora_linear.make(nf4_lora_linear.CASES[1], kind, device)
    four = packed.packed, packed.absmax, packed.code2, packed.absmax2, packed.offset
    plain = [t.detach() for t in (rows, a, b)]
    return [
        (nf4._op, (w.packed, w.absmax, w.code2, w.absmax2, w.offset, list(w.shape), kind)),
        (rms_norm._op, (x, weight, eps, residual)),
        (rms_norm._op, (x, weight, eps, None)),
        (rms_norm._backward_op, (flat, flat, flat, weight.detach(), rho, True)),
        (rope._op, (q, k, cos, sin, False)),
        (swiglu._op, (g, u)),
        (swiglu._backward_op, (g.detach(), g.detach(), u.detach())),
        (linear_cross_entropy.loss_of_logits_, ((h @ head.t()).detach(), labels)),
        (lora_grads._op, lora_grads.make(lora_grads.CASES[1], kind, device)),
        (nf4_lora_linear._op, (plain[0], *four, plain[1], plain[2], scale, bias)),
        (nf4_lora_linear._backward_op, (plain[0] @ plain[1].t() @ plain[2].t(), *four, plain[1], plain[2], scale)),
    ]
