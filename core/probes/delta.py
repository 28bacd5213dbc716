"""ΔW of a trained model, matrix by matrix: what each weight became minus what it was.

    ΔW = W − W₀;   W the weight after merging, W₀ the base's (of QLoRA: the base's as it is read from 4 bits)

Where a method trains a product of two thin matrices, ΔW is taken as that product, (α/r)·BA, without the rounding that
a merged weight has. Where it trains in place, both values are at hand and the difference is exact. For the rest (DoRA,
IA3) the layer is merged and the base subtracted; `Change.error` bounds what that rounds off.

Methods that change no weight (trained tokens, bottleneck adapters) have no ΔW: `without` says so, and `tensors` tells
what they trained instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from core.methods import METHODS

if TYPE_CHECKING:
    import torch

    from core.methods.base import Attached

_NUMBERED = re.compile(r"^(?:.*?\.)?(\d+)\.(.*)$")
_HALF_STEP = 2.0**-24  # rounding to float32 changes a number by this share of it at most


def place(name: str) -> tuple[int | None, str]:
    """Block and part of a parameter: 'model.layers.3.self_attn.q_proj.weight' -> (3, 'self_attn.q_proj'); outside the
    blocks (None, its whole name). A bias keeps its last word."""
    name = name.removesuffix(".weight")
    found = _NUMBERED.match(name)
    return (int(found[1]), found[2]) if found else (None, name)


@dataclass(frozen=True)
class Change:
    """What changed of one parameter.

    name: the parameter's, in the model without wrappers. base: W₀ (out, in), or b₀, or whatever shape it has. pair: two
    thin matrices (out, r) and (r, in) whose product is ΔW; None where `whole` holds ΔW itself. error: a bound of the
    Frobenius norm of what `whole` is off by.
    """

    name: str
    base: torch.Tensor
    pair: tuple[torch.Tensor, torch.Tensor] | None = None
    whole: torch.Tensor | None = None
    error: float = 0.0

    @property
    def matrix(self) -> bool:
        """Whether it is a matrix, which has a spectrum; else a vector, of which there is only a length."""
        return self.base.dim() == 2

    @property
    def path(self) -> str:
        """The module that owns the parameter."""
        return self.name.rpartition(".")[0]

    def delta(self) -> torch.Tensor:
        """ΔW, in float64, on the CPU, of the shape of `base`."""
        if self.pair is not None:
            left, right = self.pair
            return left.cpu().double() @ right.cpu().double()
        assert self.whole is not None
        return self.whole.cpu().double()

    @cached_property
    def svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ΔW = U·diag(S)·Vᵀ as (U, S, Vᵀ), float64: of a pair only the r directions that it can have.

        A product's directions are those of a small matrix between two orthogonal ones: with B = Q_b·R_b and
        Aᵀ = Q_a·R_a, the decomposition of R_b·R_aᵀ (r × r) is all that there is to find.
        """
        import torch

        if self.pair is None:
            return torch.linalg.svd(self.delta(), full_matrices=False)
        left, right = (part.cpu().double() for part in self.pair)
        q_left, r_left = torch.linalg.qr(left)
        q_right, r_right = torch.linalg.qr(right.t())
        u, s, vt = torch.linalg.svd(r_left @ r_right.t(), full_matrices=False)
        return q_left @ u, s, vt @ q_right.t()

    @property
    def rank(self) -> int:
        """How many singular values stand out from rounding: above float64's own, and above `error`."""
        _, s, _ = self.svd
        if not len(s):
            return 0
        floor = max(float(s[0]) * max(self.base.shape) * 2.0**-52, self.error)
        return int((s > floor).sum())


def without(method: str) -> str | None:
    """Why a method's runs have no ΔW, in a sentence or two; None where they have one."""
    about = METHODS[method]
    if about.MERGES:
        return None
    return f"{about.TITLE} changes no weight of the base, so there is no ΔW to take apart. {about.INFERENCE}"


def changes(attached: Attached) -> Iterator[Change]:
    """What a loaded adapter changed, parameter by parameter, in the model's order. What trains in place beside a
    method's own matrices (biases, a classification head) comes last. Nothing for a method without ΔW. The model is left
    as it was, switched on.

    Raises:
        Refused: the base's values were not kept (`keep_base`).
    """
    from core.methods.in_place import InPlace
    from core.methods.wrapped import Wrapped

    attached.enable()
    if isinstance(attached, InPlace):
        yield from _in_place(attached)
    elif isinstance(attached, Wrapped) and METHODS[attached.method].MERGES:
        for path, layer in attached.layers.items():
            yield from _wrapped(path, layer)
        if attached.own is not None:
            yield from _in_place(attached.own)


def _in_place(values: Any) -> Iterator[Change]:
    from transformers.pytorch_utils import Conv1D

    for name, was, became in values.values():
        flip = isinstance(values.model.get_submodule(name.rpartition(".")[0]), Conv1D) and was.dim() == 2
        base, now = ((t.t() if flip else t).cpu() for t in (was, became))
        # A copy: these are the model's own values, and whoever holds the change may write into the model.
        own = base.float().clone()
        yield Change(name.replace(".base_layer", ""), own, whole=now.double() - base.double())


def _wrapped(path: str, layer: Any) -> Iterator[Change]:
    import torch

    from core.layers.low_rank import dense_weight

    layer.enabled = False  # PiSSA's layer has the base's own weight in place only then
    base = dense_weight(layer.base_layer, torch.float32).clone()
    bias = None if layer.bias is None else layer.bias.detach().clone()
    layer.enabled = True
    pair = layer.pair() if hasattr(layer, "pair") else None
    if pair is not None:
        yield Change(f"{path}.weight", base, pair)
        return
    now, new_bias = _merged(layer)
    error = _HALF_STEP * float(torch.linalg.norm(now.double()))
    yield Change(f"{path}.weight", base, whole=now.double() - base.double(), error=error)
    if bias is not None and new_bias is not None and not torch.equal(bias, new_bias):
        yield Change(f"{path}.bias", bias.float(), whole=new_bias.double() - bias.double())


def _merged(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (out, in) and bias that the layer would have once merged. Merging writes into the base's layer: what was
    there is put back."""
    import torch

    from core.layers.low_rank import dense_weight

    own = {name: p.detach().clone() for name, p in layer.base_layer.named_parameters()}
    with torch.no_grad():
        plain = layer.merged()
        weight = dense_weight(plain, torch.float32).clone()
        bias = None if plain.bias is None else plain.bias.detach().clone()
        if plain is layer.base_layer:
            for name, parameter in plain.named_parameters():
                parameter.copy_(own[name])
    return weight, bias


def tensors(attached: Attached) -> list[dict[str, Any]]:
    """Every trained tensor with its block, shape and Frobenius norm: what can be told of a method without ΔW."""
    import torch

    out = []
    for name in attached.trainable_names():
        value = attached.model.get_parameter(name).detach()
        layer, part = place(name)
        norm = float(torch.linalg.norm(value.double()))
        out.append({"name": name, "layer": layer, "part": part, "shape": list(value.shape), "norm": norm})
    return out
