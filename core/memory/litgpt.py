"""LitGPT's layers, as far as memory can tell: what a trace runs when a model is trained by that program.

LitGPT (Lightning-AI/litgpt) has model code of its own. It differs from transformers' in what stays alive:

- queries, keys and values come from one fused matrix, and the values are a view of its output, which therefore stays
  whole; with fewer key heads than query heads, keys and values are copied for each of these (litgpt/model.py);
- LoRA on some of the three is a grouped convolution whose result is copied into zeros, and that copy's backward pass
  keeps what was copied (litgpt/lora.py, LoRAQKVLinear);
- input and output embeddings are never tied; RMSNorm computes in 32 bits;
- a 4-bit layer keeps its input (bitsandbytes before 0.44, MatMul4Bit).

This is no implementation of it: the layers compute nothing that anybody could use, they make tensors of the shapes that
LitGPT's make, in its order. Only for LoRA, LoRA on 4-bit weights, and full fine-tuning, on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from core.errors import BadInput

BLOCK = 64  # weights of a 4-bit matrix that share a scale
NESTED = 256  # scales that share a scale of their own


@dataclass(frozen=True)
class Shape:
    """What LitGPT's configuration says of a model. norm: rms, rms+1 (Gemma) or layer. mlp: llama, gemma or neox.
    post_norms: Gemma 2's norms behind attention and feed-forward part."""

    width: int
    layers: int
    heads: int
    groups: int
    head: int
    inner: int
    vocabulary: int
    norm: str
    mlp: str
    bias: bool
    head_bias: bool = False
    parallel: bool = False
    shared_norm: bool = False
    rotary: float = 1.0
    post_norms: bool = False
    capped: bool = False


def shape_of(config: Any) -> Shape:
    """LitGPT's configuration of a model that transformers describes so.

    Raises:
        BadInput: a family that is not written down here.
    """
    kind = config.model_type

    def get(name: str) -> Any:
        return getattr(config, name, None)

    width, heads = get("hidden_size"), get("num_attention_heads")
    plain = {
        "width": width, "layers": get("num_hidden_layers"), "heads": heads, "vocabulary": config.vocab_size,
        "groups": get("num_key_value_heads") or heads, "head": get("head_dim") or width // heads,
        "inner": get("intermediate_size") or 4 * width,
    }  # fmt: skip
    if kind in ("llama", "mistral", "phi3", "qwen2"):
        return Shape(**plain, norm="rms", mlp="llama", bias=False)
    if kind in ("gemma", "gemma2"):
        return Shape(
            **plain, norm="rms+1", mlp="gemma", bias=False, post_norms=kind == "gemma2", capped=kind == "gemma2"
        )
    if kind == "gpt_neox":
        rotary = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 0.25)
        return Shape(
            **plain, norm="layer", mlp="neox", bias=True, rotary=rotary, parallel=bool(config.use_parallel_residual)
        )
    if kind == "phi":
        return Shape(
            **plain, norm="layer", mlp="neox", bias=True, head_bias=True, parallel=True, shared_norm=True, rotary=0.5
        )
    if kind == "falcon":
        newer = bool(
            config.new_decoder_architecture
        )  # (of 40B on: groups of heads, and a norm of its own for each part)
        groups = config.num_kv_heads if newer else 1 if config.multi_query else heads
        more = plain | {"groups": groups, "inner": 4 * width}
        return Shape(**more, norm="layer", mlp="neox", bias=False, parallel=True, shared_norm=not newer)
    raise BadInput(f"How LitGPT builds models of the family {kind!r} is not known here.", "Choose another --as.")


@dataclass(frozen=True)
class Recipe:
    """rank: LoRA's (0: full fine-tuning). dropout: on its input. parts: of query, key, value, proj, mlp and head, those
    with LoRA. bits: 16 or 4. double: scales of scales. keeps: a 4-bit layer keeps its input."""

    rank: int = 0
    dropout: float = 0.0
    parts: frozenset[str] = frozenset()
    bits: int = 16
    double: bool = False
    keeps: bool = True


class _FourBit(torch.autograd.Function):
    """y = x·Wᵀ with W decoded for the product, forward and backward (bitsandbytes/autograd/_functions.py, MatMul4Bit).

    Its input was kept as an attribute of the node, not as a saved tensor: so it is not freed when the backward pass has
    gone through, but when nobody holds the loss any more, which is after the next one has been computed. And weights
    were decoded into float16 first, whatever they came from (nn/modules.py, Params4bit.cuda).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int], keeps: bool) -> torch.Tensor:
        ctx.shape, ctx.old = shape, keeps
        ctx.tensors = (x.detach(), packed) if keeps else (packed,)
        return functional.linear(x, _FourBit.decoded(x, shape, keeps))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        return grad @ _FourBit.decoded(grad, ctx.shape, ctx.old), None, None, None

    @staticmethod
    def decoded(beside: torch.Tensor, shape: tuple[int, int], old: bool) -> torch.Tensor:
        """The weight for a product with `beside`."""
        weight = torch.empty(shape, dtype=torch.float16 if old else beside.dtype, device=beside.device)
        return weight.to(beside.dtype)


class _Dense(nn.Module):
    """A linear layer, plain or in 4 bits."""

    def __init__(self, fan_in: int, fan_out: int, bias: bool, recipe: Recipe) -> None:
        super().__init__()
        self.shape, self.keeps, self.bits = (fan_out, fan_in), recipe.keeps, recipe.bits
        if recipe.bits == 16:
            self.weight = nn.Parameter(torch.empty(fan_out, fan_in, dtype=torch.bfloat16))
        else:
            numbers = fan_in * fan_out
            scales = -(-numbers // BLOCK)
            self.weight = nn.Parameter(torch.empty(numbers // 2, dtype=torch.uint8), requires_grad=False)
            self.register_buffer("absmax", torch.empty(scales, dtype=torch.uint8 if recipe.double else torch.float32))
            if recipe.double:
                self.register_buffer("nested_absmax", torch.empty(-(-scales // NESTED), dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(fan_out, dtype=torch.bfloat16)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.bits == 16:
            return functional.linear(x, self.weight, self.bias)
        y: torch.Tensor = _FourBit.apply(x, self.weight, self.shape, self.keeps)
        return y if self.bias is None else y + self.bias


def _matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=torch.bfloat16))


class _Linear(nn.Module):
    """A linear layer with LoRA beside it, if its part has it."""

    def __init__(self, fan_in: int, fan_out: int, bias: bool, recipe: Recipe, part: str) -> None:
        super().__init__()
        self.linear = _Dense(fan_in, fan_out, bias, recipe)
        self.has = recipe.rank > 0 and part in recipe.parts
        self.dropout = recipe.dropout
        if self.has:
            self.lora_A, self.lora_B = _matrix(recipe.rank, fan_in), _matrix(fan_out, recipe.rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if not self.has:
            return y
        z = functional.dropout(x, self.dropout, self.training)
        return y + (z @ self.lora_A.t() @ self.lora_B.t()) * 2.0


class _Qkv(nn.Module):
    """The fused projection, with LoRA on some of its three parts."""

    def __init__(self, s: Shape, recipe: Recipe) -> None:
        super().__init__()
        self.out = (s.heads + 2 * s.groups) * s.head
        self.linear = _Dense(s.width, self.out, s.bias, recipe)
        widths = {"query": s.heads * s.head, "key": s.groups * s.head, "value": s.groups * s.head}
        self.widths = [w for part, w in widths.items() if part in recipe.parts] if recipe.rank else []
        self.rank, self.dropout = recipe.rank, recipe.dropout
        if self.widths:
            self.lora_A = _matrix(self.rank * len(self.widths), s.width)
            self.lora_B = _matrix(sum(self.widths), self.rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if not self.widths:
            return y
        after_a = functional.linear(functional.dropout(x, self.dropout, self.training), self.lora_A)
        # A grouped convolution: each part of B sees its own rank's share of the channels.
        rows = zip(after_a.split(self.rank, -1), self.lora_B.split(self.widths, 0), strict=True)
        after_b = torch.cat([functional.linear(a, b) for a, b in rows], -1)
        if len(self.widths) < 3:
            places = torch.arange(after_b.shape[-1], device=x.device)
            flat = after_b.reshape(-1, after_b.shape[-1])
            zeros = torch.zeros(flat.shape[0], self.out, dtype=x.dtype, device=x.device)
            after_b = zeros.index_copy(1, places, flat).view(*x.shape[:-1], self.out)
        return y + after_b * 2.0


class _Rms(nn.Module):
    def __init__(self, width: int, plus_one: bool) -> None:
        super().__init__()
        self.weight, self.plus_one = _matrix(width), plus_one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-6)
        weight = self.weight.float()
        return (normed * (1 + weight if self.plus_one else weight)).to(x.dtype)


def _norm(s: Shape) -> nn.Module:
    return nn.LayerNorm(s.width, dtype=torch.bfloat16) if s.norm == "layer" else _Rms(s.width, s.norm == "rms+1")


def _roped(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return (x * cos + turned * sin).to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, s: Shape, recipe: Recipe) -> None:
        super().__init__()
        self.s = s
        self.attn = _Qkv(s, recipe)
        self.proj = _Linear(s.heads * s.head, s.width, s.bias, recipe, "proj")

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        s = self.s
        b, t, _ = x.shape
        per = s.heads // s.groups
        qkv = self.attn(x).view(b, t, s.groups, per + 2, s.head).permute(0, 2, 3, 1, 4)
        q, k, v = qkv.split((per, 1, 1), dim=2)
        if per > 1:
            k, v = (one.expand(b, s.groups, per, t, s.head) for one in (k, v))
        q, k, v = (one.reshape(b, -1, t, s.head) for one in (q, k, v))
        turned = cos.shape[-1]
        q, k = (torch.cat((_roped(one[..., :turned], cos, sin), one[..., turned:]), -1) for one in (q, k))
        if s.capped:
            scores = torch.tanh(q @ k.mT * 0.1 / 50) * 50
            scores = scores + torch.ones(t, t, dtype=q.dtype, device=q.device).triu(1)
            y = functional.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ v
        else:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.proj(y.transpose(1, 2).reshape(b, t, s.heads * s.head))
        return out


class _Mlp(nn.Module):
    def __init__(self, s: Shape, recipe: Recipe) -> None:
        super().__init__()
        self.kind = s.mlp
        self.fc_1 = _Linear(s.width, s.inner, s.bias, recipe, "mlp")
        if s.mlp != "neox":
            self.fc_2 = _Linear(s.width, s.inner, s.bias, recipe, "mlp")
        self.proj = _Linear(s.inner, s.width, s.bias, recipe, "mlp")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc_1(x)
        y = functional.silu(y) if self.kind == "llama" else functional.gelu(y)
        out: torch.Tensor = self.proj(y if self.kind == "neox" else y * self.fc_2(x))
        return out


class _Block(nn.Module):
    def __init__(self, s: Shape, recipe: Recipe) -> None:
        super().__init__()
        self.s = s
        self.norm_1, self.attn = _norm(s), _Attention(s, recipe)
        self.norm_2 = None if s.shared_norm else _norm(s)
        self.post_1, self.post_2 = (_norm(s) if s.post_norms else None for _ in range(2))
        self.mlp = _Mlp(s, recipe)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        normed = self.norm_1(x)
        h = self.attn(normed, cos, sin)
        if self.post_1 is not None:
            h = self.post_1(h)
        if self.s.parallel:
            out: torch.Tensor = self.mlp(normed if self.norm_2 is None else self.norm_2(x)) + h + x
            return out
        x = h + x
        assert self.norm_2 is not None
        y = self.mlp(self.norm_2(x))
        return (self.post_2(y) if self.post_2 is not None else y) + x


class LitGpt(nn.Module):
    """The model. Its forward gives hidden states; the output layer is called by the loss."""

    def __init__(self, s: Shape, recipe: Recipe) -> None:
        super().__init__()
        self.s = s
        self.wte = nn.Embedding(s.vocabulary, s.width, dtype=torch.bfloat16)
        self.h = nn.ModuleList(_Block(s, recipe) for _ in range(s.layers))
        self.ln_f = _norm(s)
        self.lm_head = _Linear(s.width, s.vocabulary, s.head_bias, recipe, "head")
        self.turned = int(s.head * s.rotary)
        if recipe.rank:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_("lora_" in name)

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        return self.lm_head

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids -> (B, T, width)."""
        x = self.wte(ids)
        turned = torch.empty(ids.shape[1], self.turned, dtype=x.dtype, device=x.device)
        for block in self.h:
            x = block(x, turned, turned)
        out: torch.Tensor = self.ln_f(x)
        return out


PARTS = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "proj", "lm_head": "head",
    "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp", "dense": "proj", "fc1": "mlp", "fc2": "mlp",
    "query_key_value": "query,key,value", "qkv_proj": "query,key,value", "gate_up_proj": "mlp",
    "dense_h_to_4h": "mlp", "dense_4h_to_h": "mlp", "embed_out": "head",
}  # fmt: skip


def recipe_of(method: str, settings: Any, packed_inputs: bool) -> Recipe:
    """LitGPT's flags for one of our methods.

    Raises:
        BadInput: a method that LitGPT does not have, or a part of the model that it has no flag for.
    """
    if method == "full":
        return Recipe()
    if method not in ("lora", "qlora"):
        raise BadInput(f"How LitGPT trains with {method} is not known here.", "There are full, lora and qlora.")
    wanted = settings.target_modules
    names = [n.strip() for n in wanted.split(",")]
    if wanted == "all-linear":
        parts = {"query", "key", "value", "proj", "mlp"}
    elif wanted == "attention":
        parts = {"query", "key", "value", "proj"}
    else:
        unknown = [n for n in names if n not in PARTS and n not in PARTS.values()]
        if unknown:
            raise BadInput(f"LitGPT has no flag for {unknown[0]!r}.", f"Known are {', '.join(PARTS)}.")
        parts = {part for n in names for part in PARTS.get(n, n).split(",")}
    four = method == "qlora"
    return Recipe(
        settings.rank, settings.dropout, frozenset(parts), 4 if four else 16,
        four and settings.double_quantization, packed_inputs,
    )  # fmt: skip


def build(config: Any, method: str, settings: Any, packed_inputs: bool = True) -> LitGpt:
    """LitGPT's model on the meta device, with LoRA in place."""
    with torch.device("meta"):
        return LitGpt(shape_of(config), recipe_of(method, settings, packed_inputs))


__all__ = ["LitGpt", "Recipe", "Shape", "build", "recipe_of", "shape_of"]
