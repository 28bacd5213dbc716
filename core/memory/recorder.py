"""Writes down the birth and death of every storage that a program makes: what a trace is made of.

A `TorchDispatchMode` sees each operation's results. A storage that was not known before is born; a weak reference to it
tells when it dies. Only tensors without data (the meta device) are looked at, so it costs no memory.

While such a mode is on, PyTorch's autograd avoids writing into tensors that it would otherwise write into, because it
cannot know what the mode makes of it. That would count tensors that do not exist outside a trace; the cases are put
right below (`_as_outside`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core.memory.sharded import COPIES, WEIGHTS

ENGINE = "autograd"  # what made a tensor, where no operation of a module did


@dataclass(eq=False, slots=True)
class Record:
    """One storage. bytes: as asked for, before rounding. item: bytes of one number in it. born, died: numbers of events
    (None: lives on). op: the operation that made it; where: the module, or the part of the step. part: the part in
    which it was born. category: known at birth, or "" until `Trace` decides. recomputed: made by a forward pass inside
    the backward pass."""

    bytes: int
    item: int
    born: int
    op: str
    where: str
    part: str
    category: str = ""
    died: int | None = None
    recomputed: bool = False


class Recorder(TorchDispatchMode):
    """Records while it is on. `part`, `where` (the module at work) and `behind` (how far the backward pass is) say what
    is going on and are set from outside.

    Attributes:
        records: all storages, in the order of their birth. events: (number of a record, +1 or −1), in order. cuts:
        (number of an event, name): where a section of the step begins. inputs: if it is set to a mapping, number of a
        record -> those of the tensors that it was made from.
    """

    def __init__(self, answers: int | None = None) -> None:
        super().__init__()
        self.answers = answers
        self.records: list[Record] = []
        self.events: list[tuple[int, int]] = []
        self.cuts: list[tuple[int, str]] = []
        self.part = "resident"
        self.where = ""
        self.behind = ""
        self.inputs: dict[int, tuple[int, ...]] | None = None
        self._living: dict[int, tuple[int, Any]] = {}
        self._made: dict[Hashable, _Recipe | None] = {}
        self._special: dict[Any, Callable[..., Any]] = _as_outside(self)

    def cut(self, name: str) -> None:
        """A section begins."""
        self.cuts.append((len(self.events), name))

    def enter(self, part: str, section: str | None = None) -> None:
        """A part of the step begins, and in it a section (of the same name, if no other is given)."""
        self.part = part
        self.where = self.behind = ""
        self.cut(section or part)

    def add(self, tensor: torch.Tensor, op: str = "", category: str = "", *, real: bool = False) -> None:
        """Note the tensor's storage, if it is new; a category given here stands. real: it has data all the same."""
        if not (tensor.is_meta or real):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._living.get(key)
        if known is None:
            number = len(self.records)
            recomputed = self.part == "backward" and torch.is_grad_enabled()
            where = self.behind if self.part == "backward" and not recomputed else self.where
            size, born = storage.nbytes(), len(self.events)
            record = Record(size, tensor.element_size(), born, op, where, self.part, "", None, recomputed)
            self._living[key] = (number, weakref.ref(storage, self._dies(key, number)))
            self.records.append(record)
            self.events.append((number, 1))
        else:
            record = self.records[known[0]]
        if category:
            record.category = category

    def forget(self, tensor: torch.Tensor) -> None:
        """Count this storage as taking no bytes (it is somewhere else)."""
        known = self._living.get(tensor.untyped_storage()._cdata)
        if known is not None:
            self.records[known[0]].bytes = 0

    def _dies(self, key: int, number: int) -> Callable[[Any], None]:
        def died(_: Any) -> None:
            if self._living.get(key, (None,))[0] == number:
                del self._living[key]
            self.records[number].died = len(self.events)
            self.events.append((number, -1))

        return died

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        special = self._special.get(func)
        out = special(*args, **kwargs) if special is not None else NotImplemented
        if out is NotImplemented:
            out = self._result(func, args, kwargs)
        before = len(self.records)
        for tensor in _tensors(out):
            self.add(tensor, func._schema.name)
        if func is _TO_COPY and len(self.records) > before and self._shortens_weight(args[0]):
            self.records[before].category = COPIES
        if self.inputs is not None and len(self.records) > before:
            known = {self.number(t) for t in _tensors((*args, *kwargs.values()))}
            made_from = tuple(n for n in known if n is not None and n < before)
            self.inputs.update(dict.fromkeys(range(before, len(self.records)), made_from))
        return out

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives. Without data that depends on the kinds of its arguments alone; and since the layers
        of a model are alike, most of it was worked out before (in Python, for many operations, which takes long)."""
        kind = _kind((args, tuple(kwargs.items()))) if _makes_new(func) else None
        key = (func, kind) if kind is not None else None
        recipe = self._made.get(key) if key is not None else None
        if recipe is not None:
            return recipe.again()
        out = func(*args, **kwargs)
        if key is not None and key not in self._made:
            self._made[key] = _Recipe.of(out, (*args, *kwargs.values()))
        return out

    def _shortens_weight(self, source: torch.Tensor) -> bool:
        """Whether the newest record is a weight in 16 bits instead of 32, as autocast makes it."""
        number = self.number(source)
        if number is None or self.part not in ("forward", "backward"):
            return False
        made = self.records[-1]
        return self.records[number].category in WEIGHTS and (self.records[number].item, made.item) == (4, 2)

    def number(self, tensor: torch.Tensor) -> int | None:
        """That of the record of a tensor's storage; None: not recorded."""
        known = self._living.get(tensor.untyped_storage()._cdata)
        return known[0] if known is not None else None


def _tensors(out: Any) -> Iterator[torch.Tensor]:
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, (list, tuple)):
        for one in out:
            yield from _tensors(one)


_TO_COPY: Any = torch.ops.aten._to_copy.default


# --- results that were worked out before ------------------------------------------------------------------------------


@cache
def _makes_new(func: Any) -> bool:
    """Whether an operation writes into nothing, and what it gives is said to be no view."""
    schema = func._schema
    return not schema.is_mutable and all(r.alias_info is None for r in schema.returns)


_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def _kind(value: Any) -> Hashable:
    """All that a result without data can depend on; None where that cannot be told (of tensors with data, or of a kind
    of their own)."""
    if isinstance(value, torch.Tensor):
        if not value.is_meta or type(value) not in (torch.Tensor, torch.nn.Parameter):
            return None
        return tuple(value.shape), value.stride(), value.dtype, value.storage_offset()
    if isinstance(value, (list, tuple)):
        kinds = [_kind(one) for one in value]
        return None if None in kinds else (type(value).__name__, *kinds)
    return (type(value).__name__, value) if type(value) in _PLAIN else None


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to make a result once more. container: of several tensors. parts: shape, strides and dtype of each."""

    container: type | None
    parts: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]

    @classmethod
    def of(cls, out: Any, inputs: Any) -> _Recipe | None:
        """None: the result is not made of new tensors without data, each with a storage of its own and no more."""
        tensors = [out] if isinstance(out, torch.Tensor) else out
        if not isinstance(tensors, (list, tuple)):
            return None
        taken = {t.untyped_storage()._cdata for t in _tensors(inputs)}
        parts = []
        for tensor in tensors:
            if type(tensor) is not torch.Tensor or not tensor.is_meta or tensor.storage_offset() or tensor._is_view():
                return None
            storage = tensor.untyped_storage()
            part = (tuple(tensor.shape), tensor.stride(), tensor.dtype)
            if storage._cdata in taken or storage.nbytes() != _new(part).untyped_storage().nbytes():
                return None
            taken.add(storage._cdata)
            parts.append(part)
        return cls(type(out) if tensors is out else None, tuple(parts))

    def again(self) -> Any:
        made = [_new(part) for part in self.parts]
        return made[0] if self.container is None else self.container(made)


def _new(part: tuple[tuple[int, ...], tuple[int, ...], torch.dtype]) -> torch.Tensor:
    shape, strides, dtype = part
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


# --- what is otherwise outside a trace --------------------------------------------------------------------------------


def _as_outside(recorder: Recorder) -> dict[Any, Callable[..., Any]]:
    """Operation -> what to do instead, so that memory is taken as outside a trace. NotImplemented: as it comes."""
    aten: Any = torch.ops.aten

    def in_backward() -> bool:
        """Whether gradients are being computed (and no block is being recomputed)."""
        return recorder.part == "backward" and not torch.is_grad_enabled()

    def add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
        # Two gradients for one tensor: outside, the second is added into the first, unless that is a view, whose base
        # somebody may need (torch/csrc/autograd/input_buffer.cpp, accumulate); with a mode on, a third tensor would be
        # made. No gradient formula of the operations that models are made of adds two tensors of one shape itself.
        if not in_backward() or not isinstance(b, torch.Tensor) or a is b or a._is_view():
            return NotImplemented
        return a if a.shape == b.shape and a.dtype == b.dtype else NotImplemented

    def index_put(into: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
        # The gradient of an index: outside, it is added into the zeros that were made for it (index_backward in
        # torch/csrc/autograd/FunctionsManual.cpp).
        if not in_backward():
            return NotImplemented
        with recorder:
            places = [picked(i) if i is not None and i.dtype == torch.bool else (i,) for i in indices]
        del places
        return into

    def picked(mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The places of a mask's true elements: as many as there are answers."""
        count = mask.numel() if recorder.answers is None else min(recorder.answers, mask.numel())
        # What `nonzero` gives: one row of coordinates per element.
        return torch.empty(count, mask.dim(), dtype=torch.long, device=mask.device).unbind(1)

    def index(source: Any, indices: Any) -> Any:
        if not any(i is not None and i.dtype == torch.bool for i in indices):
            return NotImplemented
        with recorder:
            places: list[Any] = []
            for i in indices:
                places += picked(i) if i is not None and i.dtype == torch.bool else (i,)
            return aten.index.Tensor(source, places)

    def safe_softmax(scores: Any, dim: int, dtype: Any = None) -> Any:
        # One operation that makes several tensors inside (aten/src/ATen/native/transformers/attention.cpp): which
        # scores are −∞, which rows are so throughout, and a zero, which goes into those rows of the result itself.
        with recorder:
            out = torch.softmax(scores, dim, dtype)
            masked = scores.eq(-float("inf"))
            rows = masked.all(dim, keepdim=True)
            zero = torch.zeros((), dtype=out.dtype, device=out.device)
        del masked, rows, zero
        return out

    def gemm_4bit(
        a: Any, packed: Any, shape: Any, absmax: Any, blocksize: int, quant_type: str, bias: Any = None,
        absmax_8bit: Any = None, absmax_code: Any = None, absmax_offset: Any = None,
    ) -> Any:  # fmt: skip
        # For as many rows as training has, the kernel decodes the whole weight first (gemm_4bit in
        # bitsandbytes/backends/cuda/ops.py).
        ops: Any = torch.ops.bitsandbytes
        with recorder:
            if absmax_8bit is not None:
                absmax = ops.dequantize_blockwise.default(absmax_8bit, absmax, absmax_code, 256, torch.float32)
                absmax = absmax + absmax_offset
            weight = ops.dequantize_4bit.default(packed, absmax, blocksize, quant_type, shape, a.dtype)
            return torch.nn.functional.linear(a, weight, bias)

    def grouped_mm(a: Any, b: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
        # Products of experts. What stands in for them on the meta device takes bfloat16 alone; a card computes any
        # format, expert by expert, into one result (aten/src/ATen/native/cuda/GroupedBlas.cpp, the path that is not the
        # fast one). Autocast does not know the operation, so that experts in 32 bits stay so.
        if a.dtype == b.dtype == torch.bfloat16:
            return NotImplemented
        like = aten._grouped_mm.default(a.bfloat16(), b.bfloat16(), offs, bias, None)
        return torch.empty_strided(like.shape, like.stride(), dtype=out_dtype or a.dtype, device=a.device)

    special: dict[Any, Callable[..., Any]] = {
        aten.add.Tensor: add,
        aten._grouped_mm.default: grouped_mm,
        aten.index_put.default: index_put,
        aten.index.Tensor: index,
        aten._safe_softmax.default: safe_softmax,
    }
    known = getattr(torch.ops.bitsandbytes, "gemm_4bit", None)
    if known is not None:
        special[known.default] = gemm_4bit
    return special
