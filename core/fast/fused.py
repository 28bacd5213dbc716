"""Llama's decoder with our kernels between its own layers, for CUDA devices.

    h = x + r,  y = n(h)     r: what the block before has added; the sum is taken by the norm that reads it
    attention on rotated q and k;  silu(G·y) ⊙ U·y;  the loss by a few rows of logits at a time

The linear layers are called as they stand, with whatever a method has put in their places, and attention is PyTorch's.
What lies between them is kernels/rms_norm.py, rope.py, swiglu.py and linear_cross_entropy.py: one launch each way where
transformers has up to twenty. Each decides by size whether it is launched (`kernels.base.pays`), and computes in plain
PyTorch where not; so what this form gives is what transformers gives, up to the rounding of sums.

It is taken (`with_kernels`) where a record of `make gpu` says that at least one of the four is faster on this kind of
card. No record, no such form: steps go through transformers' own model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from core.batches import IGNORED, Batch
from core.fast.llama import unfamiliar
from core.layers.low_rank import compute_dtype
from kernels import linear_cross_entropy, rms_norm, rope, swiglu
from kernels.base import sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KERNELS = ("rms_norm", "rope", "swiglu", "linear_cross_entropy")


def causal_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """PyTorch's fused attention of whole rows, each token looking at those before it: no mask is read."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, None, **{**kwargs, "is_causal": True})


class WithKernels:
    """A model's training loss: what `core.evaluate.answer_loss_sum` gives, up to rounding."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model

    def __call__(self, batch: Batch) -> torch.Tensor:
        """As an objective's `loss_sum`, of a batch."""
        counts = torch.zeros(batch.ids.shape, dtype=torch.bool, device=batch.ids.device)
        counts[:, :-1] = batch.labels[:, 1:] != IGNORED
        places = counts.view(-1).nonzero()[:, 0]
        return self.loss_sum(batch.ids, places, batch.labels.roll(-1, 1).reshape(-1)[places])

    def loss_sum(self, ids: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropy, in nats.

        Args:
            ids: (B, T) token ids, padded on the right. places (n): numbers of the tokens, of B·T, that predict a label.
            targets (n): the labels, IGNORED where none is.
        """
        decoder = self.model.model
        stream = decoder.embed_tokens(ids)  # (B, T, d)
        cos, sin = decoder.rotary_emb(stream, torch.arange(ids.shape[1], device=ids.device)[None])
        branch = None
        for layer in decoder.layers:
            y, stream = _normed(layer.input_layernorm, stream, branch)
            branch = _attended(layer.self_attn, y, cos, sin)
            y, stream = _normed(layer.post_attention_layernorm, stream, branch)
            branch = layer.mlp.down_proj(swiglu.fused(layer.mlp.gate_proj(y), layer.mlp.up_proj(y)))
        y, _ = _normed(decoder.norm, stream, branch)
        return self._loss(y.reshape(-1, y.shape[-1]).index_select(0, places), targets)

    def _loss(self, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """rows (n, d): final hidden states."""
        head = self.model.lm_head
        if type(head) is not nn.Linear:  # a method stands there
            logits = head(rows).float()
            return nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
        dtype = compute_dtype(rows)
        bias = None if head.bias is None else head.bias.to(dtype)
        with torch.autocast(rows.device.type, enabled=False):
            return linear_cross_entropy.fused(rows.to(dtype), head.weight.to(dtype), targets, bias)


def _normed(norm: Any, x: torch.Tensor, branch: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x + branch, and that sum."""
    return rms_norm.fused(x, norm.weight, norm.variance_epsilon, branch)


def _attended(attention: Any, y: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """y (B, T, d) -> (B, T, d)."""
    batch, length, _ = y.shape
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (p(y).view(batch, length, -1, attention.head_dim).transpose(1, 2) for p in projections)
    q, k = rope.fused(q, k, cos, sin)
    seen, _ = causal_attention(attention, q, k, v, None, scaling=attention.scaling)
    out: torch.Tensor = attention.o_proj(seen.reshape(batch, length, -1))
    return out


def with_kernels(model: Any) -> tuple[WithKernels | None, str]:
    """That form of a model as it stands (base and method), or None and the reason why it is not taken, as a phrase."""
    where = next(model.parameters())
    if all(sizes(name, where) is None for name in KERNELS):
        return None, "no record says that a kernel is faster here"
    reason = unfamiliar(model)
    return (None, reason) if reason else (WithKernels(model), "")
