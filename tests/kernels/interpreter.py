"""Triton's interpreter, mended for tests: its bfloat16, and a watch over every address.

Two faults are upstream's and stay (triton-lang/triton, issues 11584 and 11585): a product of bfloat16 matrices takes
their bits for integers, and a cast from 32 bits cuts off where a card rounds to nearest. Here both do what a card does.

What no value ever shows is a read outside a tensor: the interpreter reads whatever lies there. So each address that is
not masked must lie in one of the tensors that were handed to the launch.

Import this before any kernel, in a process of its own: it sets TRITON_INTERPRET, which the decorators read.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as inner


class OutOfBounds(RuntimeError):
    """A launch touched memory outside of its arguments."""


def _widened(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _rounded(values: Any) -> Any:
    """float32 -> bfloat16 bits, to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    out = ((bits + ((bits >> 16) & 1) + np.uint32(0x7FFF)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), out)


def mend_bfloat16() -> None:
    """Products and casts as a card does them."""
    builder = inner.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, most: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a = inner.TensorHandle(_widened(a.data), tl.float32)
        if b.dtype.scalar == tl.bfloat16:
            b = inner.TensorHandle(_widened(b.data), tl.float32)
        return dot(self, a, b, d, precision, most)

    def cast_impl(self: Any, source: Any, kind: Any) -> Any:
        if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            return inner.TensorHandle(_rounded(source.data), tl.bfloat16)
        return cast(self, source, kind)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl


def watch_addresses() -> None:
    """Every load and store is checked against the launch's tensors."""
    builder, grid = inner.InterpreterBuilder, inner.GridExecutor
    allowed: list[tuple[int, int]] = []
    arguments, load, store = grid._init_args_hst, builder.create_masked_load, builder.create_masked_store

    def extent(tensor: Any) -> tuple[int, int]:
        last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else -1
        return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()

    def init(self: Any, args: Any, kwargs: Any) -> Any:
        here, named = arguments(self, args, kwargs)
        allowed.clear()
        tensors = [t for t in [*here, *named.values()] if hasattr(t, "data_ptr")]
        allowed.extend(extent(inner._unwrap_tensor(t)) for t in tensors)
        return here, named

    def check(pointers: Any, mask: Any, size: int, what: str) -> None:
        at = pointers.ravel()[mask.ravel().astype(bool)].astype(np.uint64)
        fine = np.zeros(at.shape, bool)
        for low, high in allowed:
            fine |= (at >= low) & (at + size <= high)
        if not fine.all():
            raise OutOfBounds(f"{what}: {int((~fine).sum())} of {at.size} addresses lie outside every argument")

    def masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        size = np.dtype(inner._get_np_dtype(pointers.get_element_ty())).itemsize
        check(pointers.data, mask.data, size, "load")
        return load(self, pointers, mask, *rest)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers.data, mask.data, value.data.dtype.itemsize, "store")
        return store(self, pointers, value, mask, *rest)

    grid._init_args_hst = init
    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store


mend_bfloat16()
watch_addresses()
