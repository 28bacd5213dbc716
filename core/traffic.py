"""What PyTorch really does in a step: every operation that it runs, with the bytes it reads and writes, counted.

    with counting() as found:
        loss = model(ids).logits.float().logsumexp(-1).sum()
        loss.backward()
    len(found), sum(c.bytes for c in found)

How it works: a dispatch mode sees each aten operation below autograd, forward and backward. Operations that only look
at memory in another way (views) run no kernel and are left out. Of the others the bytes of the tensors that go in and
come out are added up, and the arithmetic is counted by PyTorch's own rules (torch.utils.flop_counter). On the meta
device tensors have shapes and no memory, so a model of any size can be counted on any machine.

What it is not: a measurement of time, nor of what a cache spares. One operation is taken for one kernel; a few start
two or three.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# They make room or a name for a tensor and move no data.
SILENT = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "_unsafe_view"}
OVERWRITES = {"zero_", "fill_", "copy_", "normal_", "uniform_"}  # what stood there is not read


@dataclass(frozen=True)
class Counted:
    """One operation. name: aten's. operations: additions and multiplications. read, written: bytes."""

    name: str
    operations: float
    read: int
    written: int

    @property
    def bytes(self) -> int:
        """Read and written together."""
        return self.read + self.written


def size_bytes(tensor: torch.Tensor) -> int:
    """Bytes of memory behind a tensor: what is merely repeated (stride 0) lies there once."""
    held = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or n == 0)
    return math.prod(held) * tensor.element_size()


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _looks_only(func: Any) -> bool:
    """Whether an operation returns a view: its result shares memory that it does not write to."""
    returns = [r.alias_info for r in func._schema.returns]
    return bool(returns) and all(alias is not None and not alias.is_write for alias in returns)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Counted] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        made = {id(t): t for t in _tensors(out)}
        if name in SILENT or not made or _looks_only(func):
            return out
        into = {id(t): t for t in _tensors([args, kwargs])}
        rule = flop_registry.get(func._overloadpacket)
        operations = rule(*args, **kwargs, out_val=out) if rule else sum(t.numel() for t in made.values())
        written = sum(size_bytes(t) for t in made.values())
        read = sum(size_bytes(t) for t in into.values()) - (written if name in OVERWRITES else 0)
        self.found.append(Counted(name, float(operations), max(read, 0), written))
        return out


@contextmanager
def counting() -> Iterator[list[Counted]]:
    """Counts what is run inside the block; the list is filled as it goes."""
    with _Counter() as mode:
        yield mode.found


def by_name(found: Iterable[Counted]) -> list[tuple[str, int, int]]:
    """(name, how often, bytes) of each kind of operation, the one that moves most first."""
    often: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for one in found:
        often[one.name] += 1
        moved[one.name] += one.bytes
    return [(name, often[name], size) for name, size in moved.most_common()]


def step(model: Any, rows: int, length: int) -> list[Counted]:
    """One forward and backward pass of a causal language model as it stands, with a loss on every token, counted."""
    device = next(model.parameters()).device
    ids = torch.zeros((rows, length), dtype=torch.int64, device=device)
    with counting() as found:
        logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
    return found


__all__ = ["Counted", "by_name", "counting", "size_bytes", "step"]
