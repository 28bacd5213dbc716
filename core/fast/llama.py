"""Llama's decoder, forward and backward written out by hand, for a processor, in float32 or bfloat16.

A block:    h = x + O·attention(n₁(x));    y = h + D·(silu(G·n₂(h)) ⊙ U·n₂(h))        n: RMSNorm

What it computes is what transformers' LlamaForCausalLM computes; how it is faster:
- layers that read the same input are one product, and a LoRA pair is folded into it (core/fast/linear.py);
- sums are taken inside products (`addmm`) or in place; the normed inputs and the activation are computed again in the
  backward pass rather than kept, so it takes less memory too;
- keys and values that several heads share are not copied for each;
- in the last block everything behind attention is computed for the tokens with a loss only, as the logits are.

In bfloat16 it rounds where autocast does: the stream, the norms, the turning of q and k, attention's softmax, the loss,
and the gradients of all of these are in 32 bits; the inputs and results of products and the activation are in 16. The
parameters stay in 32 bits, and each is cast in each pass, as autocast does it. What differs is LoRA's pair, which is
added to the weight in 32 bits and not to a rounded output (core/fast/linear.py says what that does to the losses).
There rows are also padded to a few lengths (`padded`): oneDNN, which PyTorch multiplies by in 16 bits, writes a program
of half a megabyte for every shape of a product that it meets, and keeps a thousand of them.

It is taken (`written_out`) for the models and the methods that it knows, on a processor; everything else goes through
transformers, and `why_not` says why. Equations with gradients: kernels/rms_norm.py, kernels/rope.py,
kernels/swiglu.py have the same in their heads.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from core.batches import IGNORED, Batch
from core.fast.linear import Group
from core.layers.low_rank import LowRank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rows up to this length keep their attention probabilities; longer ones use PyTorch's fused kernel, which does not.
PLAIN_TOKENS = 256
# In bfloat16: lengths of rows, and numbers of tokens with a loss, are multiples of these (see `padded`). Coarser ones
# compute more than they spare.
LENGTHS, KEPT = 4, 64
aten = torch.ops.aten


@dataclass(frozen=True)
class Angles:
    """cos and sin (1, T, 1, d) of the positions in 32 bits, plain (for k) and times 1/√d (for q, so that scores need no
    scaling), and the causal mask (T, T): 0 and −∞."""

    cos: torch.Tensor
    sin: torch.Tensor
    q_cos: torch.Tensor
    q_sin: torch.Tensor
    mask: torch.Tensor


class Block:
    """One decoder layer: its groups of linear layers, its norms, its shape; dtype: that the products compute in."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = Group(attention.q_proj, attention.k_proj, attention.v_proj, dtype=dtype)
        self.out = Group(attention.o_proj, dtype=dtype)
        # (Not one group: of each other's columns, activation and products would read every second piece of memory.)
        self.gate, self.up = Group(mlp.gate_proj, dtype=dtype), Group(mlp.up_proj, dtype=dtype)
        self.down = Group(mlp.down_proj, dtype=dtype)
        self.norm1, self.norm2 = layer.input_layernorm, layer.post_attention_layernorm
        self.size = int(attention.head_dim)
        self.heads = self.qkv.rows[0] // self.size
        self.keys = self.qkv.rows[1] // self.size
        self.norms = [n.weight for n in (self.norm1, self.norm2) if n.weight.requires_grad]
        self.parameters = [
            *self.norms, *self.qkv.parameters, *self.out.parameters, *self.gate.parameters, *self.up.parameters,
            *self.down.parameters,
        ]  # fmt: skip


# --- the pieces -------------------------------------------------------------------------------------------------------


def inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """ρ = 1/√(mean(x²) + ε) of each row, (M, 1)."""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).square_().div_(x.shape[1]).add_(eps).rsqrt_()


def normed(x: torch.Tensor, rho: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """w ⊙ ρx, rounded once to `dtype`."""
    return (x * rho).mul_(weight.detach()).to(dtype)


def norm_gradient(
    g: torch.Tensor, x: torch.Tensor, rho: torch.Tensor, weight: torch.Tensor, onto: torch.Tensor
) -> torch.Tensor:
    """ρ(g' − x̂·mean(g'x̂)) with g' = w ⊙ g, plus `onto`. g is written to."""
    g.mul_(weight.detach())
    along = (g * x).sum(1, keepdim=True).mul_(rho.pow(3)).div_(-x.shape[1])
    return onto.addcmul(g, rho).addcmul_(x, along)


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rotary positions: x (B, T, heads, d), any strides, turned in 32 bits -> (B, heads, T, d) in `dtype`."""
    x, half = x.float().transpose(1, 2), x.shape[-1] // 2
    cos, sin = cos.transpose(1, 2), sin.transpose(1, 2)
    out = torch.mul(x, cos, out=torch.empty(x.shape))
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out.to(dtype)


def turn_back(g: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
    """The gradient of `turned`: g (B, heads, T, d) into out (B, T, heads, d), any strides."""
    g, half = g.float().transpose(1, 2), g.shape[-1] // 2
    whole = out if out.dtype == g.dtype else torch.empty(out.shape)
    torch.mul(g, cos, out=whole)
    whole[..., :half].addcmul_(g[..., half:], sin[..., half:])
    whole[..., half:].addcmul_(g[..., :half], sin[..., :half], value=-1)
    if whole is not out:
        out.copy_(whole)


class WrittenBlock(torch.autograd.Function):
    """y (M, d) of x (B, T, d); with `keep` (numbers of tokens), of those tokens only.

    The trained parameters are arguments only so that autograd hands out their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, block: Block, angles: Angles, keep: torch.Tensor | None, *_: torch.Tensor
    ) -> torch.Tensor:
        batch, length, width = x.shape
        rows = x.detach().reshape(-1, width)
        rho1 = inverse_rms(rows, block.norm1.variance_epsilon)
        dtype = block.dtype
        kept: dict[Group, torch.Tensor] = {}
        inner = normed(rows, rho1, block.norm1.weight, dtype)
        qkv = block.qkv.forward(inner, kept).view(batch, length, -1, block.size)
        q_in, k_in, v_in = qkv.split([block.heads, block.keys, block.keys], 2)
        q = turned(q_in, angles.q_cos, angles.q_sin, dtype)
        k = turned(k_in, angles.cos, angles.sin, dtype)
        v = v_in.transpose(1, 2).contiguous()
        del inner, qkv, q_in, k_in, v_in
        together = block.heads // block.keys
        flat_k, flat_v = k.view(-1, length, block.size), v.view(-1, length, block.size)
        scores = torch.bmm(q.view(len(flat_k), together * length, block.size), flat_k.transpose(1, 2)).float()
        scores.view(-1, together, length, length).add_(angles.mask)
        # (B·keys, together·T, T), in 32 bits: in 16 a row would not sum to 1, nor its gradient to 0.
        shares = torch.softmax(scores, -1)
        del scores
        seen = torch.bmm(shares.to(dtype), flat_v).view(batch, block.heads, length, block.size)
        o = seen.transpose(1, 2).reshape(-1, block.heads * block.size)  # (M, heads·d)
        stream = rows
        if keep is not None:
            o, stream = o[keep], rows[keep]
        h = block.out.added(o, stream, kept)
        rho2 = inverse_rms(h, block.norm2.variance_epsilon)
        inner = normed(h, rho2, block.norm2.weight, dtype)
        gate, up = block.gate.forward(inner, kept), block.up.forward(inner, kept)
        del inner
        y = block.down.added(nn.functional.silu(gate).mul_(up), h, kept)
        ctx.save_for_backward(rows, rho1, q, k, v, shares, o, h, rho2, gate, up, keep)
        ctx.block, ctx.angles, ctx.shape, ctx.weights = block, angles, x.shape, kept
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        rows, rho1, q, k, v, shares, o, h, rho2, gate, up, keep = ctx.saved_tensors
        block, angles, kept, dtype = ctx.block, ctx.angles, ctx.weights, ctx.block.dtype
        batch, length, _ = ctx.shape
        grad = grad.contiguous()
        # The MLP. (The stream's gradient stays in 32 bits; a product is given it in its own.)
        g = grad.to(dtype)
        silu = nn.functional.silu(gate)
        active = silu * up if block.down.needs_input else None
        down = block.down.gradients(g, active)
        del active
        d_active = g @ block.down.weight(kept)
        d_up = silu.mul_(d_active)
        d_gate = aten.silu_backward(d_active.mul_(up), gate)
        del d_active, g
        inner = normed(h, rho2, block.norm2.weight, dtype) if block.gate.needs_input or block.up.needs_input else None
        gates = [*block.gate.gradients(d_gate, inner), *block.up.gradients(d_up, inner)]
        del inner
        d_normed = (d_gate @ block.gate.weight(kept)).addmm_(d_up, block.up.weight(kept)).float()
        del d_gate, d_up, silu
        norms = [(d_normed * h).mul_(rho2).sum(0)] if block.norm2.weight.requires_grad else []
        dh = norm_gradient(d_normed, h, rho2, block.norm2.weight, grad)
        del d_normed
        # Attention.
        g = dh.to(dtype)
        outs = block.out.gradients(g, o)
        d_seen = g @ block.out.weight(kept)
        if keep is not None:
            d_seen = d_seen.new_zeros(len(rows), d_seen.shape[1]).index_copy_(0, keep, d_seen)
            dh = torch.zeros_like(rows).index_copy_(0, keep, dh)
        together = block.heads // block.keys
        flat_k, flat_v = k.view(-1, length, block.size), v.view(-1, length, block.size)
        flat_q = q.view(len(flat_k), together * length, block.size)
        d_seen = d_seen.view(batch, length, block.heads, block.size).transpose(1, 2).reshape(flat_q.shape)
        d_shares = torch.bmm(d_seen, flat_v.transpose(1, 2)).float()
        dv = torch.bmm(shares.to(dtype).transpose(1, 2), d_seen)
        d_scores = aten._softmax_backward_data(d_shares, shares, -1, shares.dtype).to(dtype)
        del d_seen, d_shares
        dq = torch.bmm(d_scores, flat_k).view(q.shape)
        dk = torch.bmm(d_scores.transpose(1, 2), flat_q).view(k.shape)
        del d_scores
        d_qkv = torch.empty(batch, length, block.heads + 2 * block.keys, block.size, dtype=dtype)
        dq_out, dk_out, dv_out = d_qkv.split([block.heads, block.keys, block.keys], 2)
        turn_back(dq, angles.q_cos, angles.q_sin, dq_out)
        turn_back(dk, angles.cos, angles.sin, dk_out)
        dv_out.copy_(dv.view(v.shape).transpose(1, 2))
        del dq, dk, dv, dq_out, dk_out, dv_out
        g = d_qkv.view(len(rows), -1)
        inner = normed(rows, rho1, block.norm1.weight, dtype) if block.qkv.needs_input else None
        qkvs = block.qkv.gradients(g, inner)
        del inner
        dx = None
        if ctx.needs_input_grad[0] or block.norm1.weight.requires_grad:
            d_normed = (g @ block.qkv.weight(kept)).float()
            if block.norm1.weight.requires_grad:
                norms.insert(0, (d_normed * rows).mul_(rho1).sum(0))
            dx = norm_gradient(d_normed, rows, rho1, block.norm1.weight, dh).view(ctx.shape)
        return dx, None, None, None, *norms, *qkvs, *outs, *gates, *down


# --- the model --------------------------------------------------------------------------------------------------------


def padded(ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch (B, T) with a few tokens more behind each row, without labels, so that T is a multiple of LENGTHS.

    Tokens behind a row change nothing before them. Without this, and with as many tokens with a loss as a batch happens
    to have, nearly every step meets shapes that are new: a LoRA run of the embedded base held 1,063 MB after forty
    steps, and 775 with it, and its steps took a sixth longer.
    """
    more = -ids.shape[1] % LENGTHS
    if not more:
        return ids, labels
    return nn.functional.pad(ids, (0, more)), nn.functional.pad(labels, (0, more), value=IGNORED)


class WrittenOut:
    """A model's training loss by written-out blocks: what `core.evaluate.answer_loss_sum` gives, up to rounding.

    Args:
        dtype: that the products compute in: torch.float32, or torch.bfloat16 for what autocast in it gives.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> None:
        self.model: Any = model
        self.dtype = dtype
        self.blocks = [Block(layer, dtype) for layer in self.model.model.layers]
        self._angles: dict[int, Angles] = {}

    def angles(self, length: int) -> Angles:
        """For rows of that length; kept, because batches of the same length come again."""
        if length not in self._angles:
            self._angles.clear() if len(self._angles) > 64 else None
            position = torch.arange(length)[None]
            cos, sin = (t.unsqueeze(2) for t in self.model.model.rotary_emb(torch.zeros(1), position))
            scale = self.model.model.layers[0].self_attn.scaling
            mask = torch.full((length, length), -torch.inf).triu_(1)
            self._angles[length] = Angles(cos, sin, cos * scale, sin * scale, mask)
        return self._angles[length]

    def __call__(self, batch: Batch) -> torch.Tensor:
        """As an objective's `loss_sum`, of a batch."""
        return self.loss_sum(batch.ids, batch.labels)

    def loss_sum(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropy over the answers' tokens, in nats.

        Args:
            ids: (B, T) token ids, padded on the right. labels: (B, T), IGNORED where no loss is taken.
        """
        sixteen = self.dtype != torch.float32
        if sixteen:
            ids, labels = padded(ids, labels)
        batch, length = ids.shape
        counts = torch.zeros(batch, length, dtype=torch.bool)
        counts[:, :-1] = labels[:, 1:] != IGNORED
        keep = counts.view(-1).nonzero()[:, 0]
        targets = labels.roll(-1, 1).reshape(-1)[keep]
        if sixteen:  # a few tokens more, none of them twice, whose losses do not count
            others = (~counts).view(-1).nonzero()[: -len(keep) % KEPT, 0]
            keep, targets = torch.cat([keep, others]), torch.cat([targets, torch.full_like(others, IGNORED)])
        with torch.autocast("cpu", enabled=False):  # (which number is in which format is said here)
            angles = self.angles(length)
            hidden = self.model.model.embed_tokens(ids)
            for block in self.blocks[:-1]:
                hidden = WrittenBlock.apply(hidden, block, angles, None, *block.parameters).view(hidden.shape)
            last = self.blocks[-1]
            hidden = WrittenBlock.apply(hidden, last, angles, keep, *last.parameters)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self.model.lm_head(self.model.model.norm(hidden))
        return nn.functional.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=IGNORED)


def unfamiliar(model: Any) -> str:
    """Why a model is not a Llama decoder as transformers has it, layer for layer, as a phrase; '' if it is one. Of its
    linear layers nothing is asked: methods stand in their places."""
    from transformers.models.llama import modeling_llama as llama
    from transformers.models.qwen2 import modeling_qwen2 as qwen2

    kinds = {
        llama.LlamaForCausalLM: (llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP, llama.LlamaRMSNorm),
        qwen2.Qwen2ForCausalLM: (qwen2.Qwen2DecoderLayer, qwen2.Qwen2Attention, qwen2.Qwen2MLP, qwen2.Qwen2RMSNorm),
    }  # fmt: skip
    if type(model) not in kinds:
        return f"{type(model).__name__} is not a decoder that is written out"
    recomputing = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    config, (layer_kind, attention_kind, mlp_kind, norm_kind) = model.config, kinds[type(model)]
    if config.hidden_act != "silu" or getattr(config, "attention_dropout", 0.0) or recomputing:
        return "its settings (activation, dropout, recomputing) are not the ones that are written out"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "some of its layers look at a window only"
    for layer in model.model.layers:
        parts = (layer, layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)
        if tuple(map(type, parts)) != (layer_kind, attention_kind, mlp_kind, norm_kind, norm_kind):
            return "its layers have been changed"
    names = {"model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"}
    if {n for n, _ in model.named_children()} | {f"model.{n}" for n, _ in model.model.named_children()} != names | {
        "model"
    }:
        return "it has parts of its own"
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return "somebody listens to its modules"
    return ""


def why_not(model: Any) -> str:
    """Why a model is not written out here, as a phrase; '' if it can be."""
    reason = unfamiliar(model)
    if reason:
        return reason
    known = (nn.Linear, LowRank, *_in_few_bits())
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        linears = [*(getattr(attention, f"{n}_proj") for n in "qkvo"), mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        for linear in linears:
            inner = linear.base_layer if type(linear) is LowRank else linear
            if type(linear) not in known or type(inner) not in known or type(inner) is LowRank:
                return f"it has a {type(linear).__name__} around a {type(inner).__name__}"
            if type(linear) is LowRank and (linear.dropout or not linear.enabled):
                return "its pairs drop inputs at random, or are switched off"
    if any(p.dtype != torch.float32 for p in model.parameters() if p.is_floating_point()):
        return "its weights are not in 32 bits"
    return ""


def _in_few_bits() -> tuple[type, ...]:
    # Where nobody has imported it nothing can be in four bits, and the import takes seconds (bitsandbytes).
    layers = sys.modules.get("core.layers.four_bit")
    return (layers.FourBitLinear,) if layers is not None else ()


def written_out(model: Any, precision: str, longest: int) -> tuple[WrittenOut | None, str]:
    """The written-out form of a model as it stands (base and method), or None and the reason why there is none.

    Args:
        precision: what the passes compute in. longest: tokens of the longest row.
    """
    reason = why_not(model)
    if next(model.parameters()).device.type != "cpu":
        reason = "it is not on a processor"
    elif longest > PLAIN_TOKENS:
        reason = f"rows have up to {longest} tokens, more than {PLAIN_TOKENS}"
    return (None, reason) if reason else (WrittenOut(model, getattr(torch, precision)), "")
