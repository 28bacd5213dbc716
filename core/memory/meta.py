"""Tensors without data that take the way a real device's would: what a trace needs of PyTorch's meta device.

On the meta device a tensor has a shape and no numbers, so any model runs on any machine. But the libraries look at the
device and choose: attention would take the slow kernel, autocast would do nothing, the optimizer would loop. Inside
`standing_in(setup)` meta tensors are treated as those of the setup's device:

- attention takes the kernel that PyTorch would choose there (`cuda_kernel`, from the rules of its sdp_utils.cpp; on a
  CPU, PyTorch itself is asked);
- autocast converts as its lists for that device say (ATen/autocast_mode.h), with its cache of converted weights;
- dropout keeps a byte per number as CUDA's does; fused and foreach optimizers and bitsandbytes' kernels are used;
- what would read a value off a tensor gets the answer of an ordinary batch.

All this is of the process, not of one call: a trace belongs into a process of its own (`core.memory.tracer`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from core.memory.setup import Setup

Kernel = str  # cudnn, flash, efficient or math
# Cards that take cuDNN's attention first, and the largest heads it has there.
CUDNN_HEADS = {(9, 0): 256, (10, 0): 128}


def cuda_kernel(
    capability: tuple[int, int], dtype: torch.dtype, *, masked: bool, head_dim: int, grouped: bool, square: bool,
    dropout: bool = False, value_dim: int | None = None,
) -> Kernel:  # fmt: skip
    """The attention kernel that PyTorch takes on a CUDA card: the first in its order whose conditions hold.

    From aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (select_sdp_backend and the checks it calls), for dense
    tensors that need gradients, and cuDNN 9.10 or later.

    Args:
        masked: a mask is given. grouped: fewer key heads than query heads. square: as many keys as queries. value_dim:
            size of the values' heads, where it is another than that of queries and keys (latent attention).
    """
    values = head_dim if value_dim is None else value_dim
    half = dtype == torch.float16 or (dtype == torch.bfloat16 and capability >= (8, 0))
    modern = (8, 0) <= capability <= (12, 1)
    if half and not (head_dim % 8 or values % 8) and max(head_dim, values) <= CUDNN_HEADS.get(capability, 0):
        return "cudnn"
    awkward = 192 < head_dim <= 224 or (head_dim > 224 and dropout)
    narrow = (8, 6) <= capability <= (8, 9) or capability >= (12, 0)
    if half and modern and not masked and square and head_dim == values <= 256 and not (awkward and narrow):
        return "flash"
    # Tensor cores want rows of 16 bytes; without them, any length goes.
    sixteen = dtype in (torch.float16, torch.bfloat16)
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and sixteen)
    alignment = (8 if sixteen else 4) if tensor_cores else 1
    fits = dtype in (torch.float16, torch.float32) or (dtype == torch.bfloat16 and capability >= (8, 0))
    if fits and capability >= (5, 0) and not grouped and not (head_dim % alignment or values % alignment):
        return "efficient"
    return "math"


@functools.lru_cache(maxsize=256)
def _cpu_kernel(
    heads: int, key_heads: int, head_dim: int, value_dim: int, dtype: torch.dtype, masked: bool, dropout: float,
    causal: bool,
) -> Kernel:  # fmt: skip
    """What PyTorch would take on this CPU, asked with small tensors."""
    q, k = (torch.ones(1, h, 2, head_dim, dtype=dtype, requires_grad=True) for h in (heads, key_heads))
    v = torch.ones(1, key_heads, 2, value_dim, dtype=dtype, requires_grad=True)
    mask = torch.ones(1, 1, 2, 2, dtype=dtype) if masked else None
    chosen = torch._fused_sdp_choice(q, k, v, mask, dropout, causal, enable_gqa=heads != key_heads)
    return "flash" if chosen == torch.nn.attention.SDPBackend.FLASH_ATTENTION.value else "math"


def _math_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, dropout: float, causal: bool,
    scale: float | None,
) -> torch.Tensor:  # fmt: skip
    """_scaled_dot_product_attention_math, step by step: in one piece, tensors that are added in place outside of a
    trace would not be inside it."""
    dtype = q.dtype
    if dtype in (torch.float16, torch.bfloat16):
        q, k, v = q.float(), k.float(), v.float()
    root = math.sqrt(scale if scale is not None else 1 / math.sqrt(q.shape[-1]))
    q = q * root
    if causal:
        allowed = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        mask = _float_mask(allowed, q.dtype)
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    weights = q @ (k.transpose(-2, -1) * root)
    if mask is not None:
        weights.add_(mask)
    weights = torch._safe_softmax(weights, -1)
    if dropout:
        weights = functional.dropout(weights, dropout)
    return (weights @ v).to(dtype)


def _float_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """convert_boolean_attn_mask: 0 where allowed, −∞ elsewhere."""
    made = torch.zeros_like(allowed, dtype=dtype)
    return made.masked_fill_(allowed.logical_not(), -math.inf)


class _State:
    """What stands in for what, while a trace is on."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.kernels: set[Kernel] = set()
        self.autocast: torch.dtype | None = None
        self.depth = 0
        self.converted: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._padding: torch.Tensor | None = None

    def padding(self, query: torch.Tensor) -> torch.Tensor:
        """The mask of a padded batch, one for all layers: (B, 1, T, T) Boolean."""
        shape = (query.shape[0], 1, query.shape[2], query.shape[2])
        if self._padding is None or self._padding.shape != shape:
            self._padding = torch.ones(shape, dtype=torch.bool, device=query.device)
        return self._padding

    # --- attention --------------------------------------------------------------------------------------------------

    def attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """scaled_dot_product_attention."""
        if not query.is_meta:
            return _SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if self.autocast is not None:
            query, key, value = (self.convert(t, self.autocast) for t in (query, key, value))
        stack = self.setup.stack
        if stack.repeated_keys and query.shape[1] != key.shape[1]:
            key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], 1) for t in (key, value))
        if stack.padded and attn_mask is None:
            attn_mask, is_causal = self.padding(query), False
        capability = self.setup.device.capability
        grouped = query.shape[1] != key.shape[1]
        if capability is None:
            kernel = _cpu_kernel(
                query.shape[1], key.shape[1], query.shape[-1], value.shape[-1], query.dtype, attn_mask is not None,
                dropout_p, is_causal,
            )  # fmt: skip
        else:
            kernel = cuda_kernel(
                capability, query.dtype, masked=attn_mask is not None, head_dim=query.shape[-1], grouped=grouped,
                square=query.shape[2] == key.shape[2], dropout=dropout_p > 0, value_dim=value.shape[-1],
            )  # fmt: skip
        self.kernels.add(kernel)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = _float_mask(attn_mask, query.dtype)
        if kernel == "math":
            return _math_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)
        aten: Any = torch.ops.aten
        if capability is None:
            return aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
            )[0]
        needed = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
        if kernel == "flash":
            size = query.shape[-1]
            if size % 8:  # padded to whole groups of eight, and cut again
                query, key, value = (functional.pad(t, (0, 8 - size % 8)) for t in (query, key, value))
                scale = scale if scale is not None else 1 / math.sqrt(size)
            out = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
            return out[..., :size]
        if kernel == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(
                query, key, value, attn_mask, needed, dropout_p, is_causal, False, scale=scale
            )[0]
        if attn_mask is not None:
            attn_mask = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, needed, dropout_p, is_causal, scale=scale
        )[0]

    # --- autocast ---------------------------------------------------------------------------------------------------

    def convert(self, value: Any, dtype: torch.dtype) -> Any:
        """Autocast's cached_cast."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.convert(v, dtype) for v in value)
        if not isinstance(value, torch.Tensor) or not value.is_meta or not value.is_floating_point():
            return value
        if value.dtype in (dtype, torch.float64):
            return value
        kept = dtype != torch.float32 and value.dtype == torch.float32 and value.requires_grad and value.is_leaf
        if kept and value._base is None:
            if id(value) not in self.converted:
                self.converted[id(value)] = (value, value.to(dtype))
            return self.converted[id(value)][1]
        return value.to(dtype)

    def widest(self, values: Any) -> torch.dtype | None:
        """The widest of the tensors' formats, where they differ."""
        found = {t.dtype for t in values if isinstance(t, torch.Tensor) and t.is_floating_point()}
        return torch.float32 if len(found) > 1 and torch.float32 in found else None


class _Autocast:
    """torch.autocast for meta tensors; any other device's is the real one."""

    def __new__(cls, device_type: str, *args: Any, **kwargs: Any) -> Any:
        if device_type != "meta":
            return _AUTOCAST(device_type, *args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:  # fmt: skip
        self.dtype = (dtype or torch.bfloat16) if enabled else None
        self.before: torch.dtype | None = None

    def __enter__(self) -> _Autocast:
        state = _current()
        self.before, state.autocast = state.autocast, self.dtype
        state.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        state = _current()
        state.autocast = self.before
        state.depth -= 1
        if not state.depth:
            state.converted.clear()


_SDPA = functional.scaled_dot_product_attention
_AUTOCAST = torch.autocast
_DROPOUT = functional.dropout
_STATES: list[_State] = []


def _current() -> _State:
    return _STATES[-1]


def autocast(setup: Setup) -> Any:
    """The region that the forward pass of training runs in, for a setup's precision."""
    converts = setup.precision == "bfloat16" and setup.stack.autocast
    return _Autocast("meta", torch.bfloat16) if converts else contextlib.nullcontext()


_LOWER = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d prelu addmm addmv addr matmul __matmul__ "
    "__rmatmul__ einsum mm mv vecdot linear addbmm baddbmm bmm chain_matmul multi_dot"
)
_FLOAT = (
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ softplus "
    "layer_norm native_layer_norm rms_norm group_norm cosine_similarity nll_loss kl_div l1_loss smooth_l1_loss "
    "huber_loss mse_loss binary_cross_entropy_with_logits dist cdist renorm logsumexp"
)
_FLOAT_RESULT = "prod softmax log_softmax cumprod cumsum vector_norm matrix_norm norm sum"
_WIDEST = "cat stack"
# What a CPU's autocast does otherwise: it leaves pointwise and normalising operations alone.
_CPU_FLOAT = (
    "binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss huber_loss kl_div cosine_similarity nll_loss "
    "cdist renorm logsumexp"
)


def _table(names: str) -> frozenset[Callable[..., Any]]:
    """The functions of these names, wherever torch offers them."""
    owners = (torch, torch.Tensor, functional, torch.linalg, torch._C._nn)
    return frozenset(f for n in names.split() for o in owners if callable(f := getattr(o, n, None)))


class _StandingIn(TorchFunctionMode):
    """Converts the arguments of what a program calls, as autocast does; and says that meta tensors are on a card."""

    def __init__(self, state: _State) -> None:
        super().__init__()
        self.state = state
        cuda = state.setup.device.is_cuda
        self.lower = _table(_LOWER)
        self.float = _table(_FLOAT if cuda else _CPU_FLOAT)
        self.float_result = _table(_FLOAT_RESULT if cuda else "")
        self.widest = _table(_WIDEST)
        self.is_cuda = torch.Tensor.is_cuda.__get__ if cuda else None  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == self.is_cuda and args[0].is_meta:
            return True
        lower = self.state.autocast
        if lower is None:
            return func(*args, **kwargs)
        convert = self.state.convert
        if func in self.lower:
            dtype = lower
        elif func in self.float:
            dtype = torch.float32
        elif func in self.float_result:
            first = args[0] if args else kwargs.get("input")
            if isinstance(first, torch.Tensor) and first.is_meta and first.is_floating_point():
                kwargs = {**kwargs, "dtype": kwargs.get("dtype") or torch.float32}
            return func(*args, **kwargs)
        elif func in self.widest:
            wide = self.state.widest(args[0] if args else kwargs.get("tensors", ()))
            return func(convert(args[0], wide), *args[1:], **kwargs) if wide and args else func(*args, **kwargs)
        else:
            return func(*args, **kwargs)
        return func(*(convert(a, dtype) for a in args), **{k: convert(v, dtype) for k, v in kwargs.items()})


def _cuda_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """CUDA's dropout, which keeps a mask of one byte per number."""
    if training and 0 < p < 1 and input.is_meta:
        out: torch.Tensor = torch.native_dropout(input, p, True)[0]
        return out
    return _DROPOUT(input, p, training, inplace)


def _unpacked(position_ids: torch.Tensor) -> None:
    """transformers' find_packed_sequence_indices for a batch whose rows are one text each."""
    first = position_ids[:, :1] - 1
    (torch.diff(position_ids, prepend=first, dim=-1) != 1).cumsum(-1)


@contextlib.contextmanager
def standing_in(setup: Setup) -> Iterator[_State]:
    """Meta tensors behave as those of the setup's device, in this process, until the end of the block.

    Yields:
        the state, whose `kernels` are the attention kernels that were used.
    """
    import torch.optim.optimizer as optimizers
    import torch.utils._foreach_utils as kinds
    import transformers.masking_utils as masks
    import transformers.utils.generic as generic
    from torch.fx.experimental import _config as symbolic

    state = _State(setup)
    real_maybe = generic.maybe_autocast

    def maybe_autocast(device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> Any:
        if device_type != "meta":
            return real_maybe(device_type, dtype, enabled, cache_enabled)
        return _Autocast("meta", dtype, enabled) if state.autocast is not None or enabled else contextlib.nullcontext()

    def ask(real: Callable[..., Any], answer: Callable[[], Any]) -> Callable[..., Any]:
        return lambda *args: answer() if args[:1] == ("meta",) else real(*args)

    replaced: list[tuple[Any, str, Any]] = [
        (functional, "scaled_dot_product_attention", state.attention),
        (torch, "autocast", _Autocast),
        (torch.amp, "autocast", _Autocast),
        (torch.amp, "is_autocast_available", ask(torch.amp.is_autocast_available, lambda: True)),
        (torch, "is_autocast_enabled", ask(torch.is_autocast_enabled, lambda: state.autocast is not None)),
        (torch, "get_autocast_dtype", ask(torch.get_autocast_dtype, lambda: state.autocast or torch.bfloat16)),
        (masks, "find_packed_sequence_indices", _unpacked),
        # A Boolean index picks as many rows as it has elements; `answers` of them are taken out afterwards.
        (symbolic, "meta_nonzero_assume_all_nonzero", True),
    ]
    replaced += [
        (module, "maybe_autocast", maybe_autocast)
        for name, module in list(sys.modules.items())
        if name.startswith("transformers.") and getattr(module, "maybe_autocast", None) is real_maybe
    ]
    fused = [*optimizers._get_fused_kernels_supported_devices(), "meta"]
    replaced.append((optimizers, "_get_fused_kernels_supported_devices", lambda: fused))
    if setup.device.is_cuda:
        foreach = [*kinds._get_foreach_kernels_supported_devices(), "meta"]
        replaced += [
            (functional, "dropout", _cuda_dropout),
            (kinds, "_get_foreach_kernels_supported_devices", lambda: foreach),
        ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        _STATES.append(state)
        stack.callback(_STATES.pop)
        stack.enter_context(_StandingIn(state))
        yield state
