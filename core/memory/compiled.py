"""What torch.compile spares: tensors that a fused kernel makes and uses up, so that they never stand in memory.

Without it each operation keeps what its own gradient needs. AOTAutograd cuts the joint graph of a layer's passes where
least has to be kept, and recomputes what pointwise operations can make again from that; but what a matrix product or
attention reads in the backward pass has to stand in memory, so that it is kept and not made again
(torch/_functorch/partitioners.py, min_cut_rematerialization_partition, its ban_recompute_materialized_backward).

So, of what a traced step keeps for its backward pass: a tensor that pointwise operations or reductions made, and that
only such operations read again, is taken out; in its place the tensors that it was made from are kept, unless they are
kept anyway. Its fused kernels' temporaries in the backward pass stay counted: the result is a little too high.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from core.memory.recorder import Recorder

# Operations that are fused with their neighbours (pointwise ones and reductions), as gradient nodes and by name.
_NODES = (
    "Mul Add Sub Rsub Div Neg Pow Mean Sum Rsqrt Sqrt Silu Gelu Relu Tanh Sigmoid Exp ToCopy Cat NativeLayerNorm "
    "NativeDropout Softmax Where MaskedFill Clamp Slice Copy"
).split()
FUSED_NODES = frozenset(f"{name}Backward{number}" for name in _NODES for number in range(3))
FUSED_OPS = frozenset(
    f"aten::{name}"
    for name in (
        "mul add sub rsub div neg pow mean sum rsqrt sqrt silu gelu relu tanh sigmoid exp _to_copy cat "
        "native_layer_norm native_dropout _softmax where masked_fill clamp"
    ).split()
)


def fuse(recorder: Recorder, loss: torch.Tensor) -> dict[int, set[int]]:
    """What would not be kept, from the graph of a forward pass that has just ended.

    Returns:
        number of a record that goes -> numbers of the records that stay for it.
    """
    by_fused, by_others = _saved(recorder, loss)
    plan: dict[int, set[int]] = {}
    for number in by_fused - by_others:
        record = recorder.records[number]
        if record.category or record.op not in FUSED_OPS or record.where == "head":
            continue
        sources = _sources(recorder, number, by_others)
        if number not in sources:
            plan[number] = sources
    # What stays for another's sake is not taken out.
    needed = {s for sources in plan.values() for s in sources}
    return {number: sources for number, sources in plan.items() if number not in needed}


def _saved(recorder: Recorder, loss: torch.Tensor) -> tuple[set[int], set[int]]:
    """Records that nodes of fused operations keep, and those that others keep."""
    fused: set[int] = set()
    others: set[int] = set()
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [n for n, _ in node.next_functions]
        into = fused if node.name() in FUSED_NODES else others
        into.update(n for tensor in _tensors_of(node) if (n := recorder.number(tensor)) is not None)
    return fused, others


def _tensors_of(node: Any) -> Iterator[torch.Tensor]:
    own = getattr(node, "saved_tensors", None)
    values = list(own) if own is not None else [getattr(node, a) for a in dir(node) if a.startswith("_saved_")]
    for value in values:
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, torch.Tensor):
                yield one


def _sources(recorder: Recorder, number: int, kept: set[int], depth: int = 12) -> set[int]:
    """What a record can be made from again: tensors that are kept anyway, and else the nearest that were not made by a
    fused operation, or are sums of two (the stream of hidden states: either of the summands would have to be kept)."""
    made_from = recorder.inputs or {}
    inputs = made_from.get(number, ())
    if depth == 0 or not inputs:
        return {number}
    found: set[int] = set()
    for one in inputs:
        record = recorder.records[one]
        if record.category or record.bytes < 4096:
            continue  # a weight, which is there anyway; or nothing much
        summed = record.op == "aten::add" and len(made_from.get(one, ())) > 1
        if one in kept or record.op not in FUSED_OPS or summed:
            found.add(one)
        else:
            found |= _sources(recorder, one, kept, depth - 1)
    return found


def apply(recorder: Recorder, plan: dict[int, set[int]]) -> None:
    """Change the record of a step that has ended: what goes takes no bytes, what stays for it lives as long."""
    if not plan:
        return
    until: dict[int, int] = {}
    for number, sources in plan.items():
        gone = recorder.records[number]
        gone.bytes = 0
        end = gone.died if gone.died is not None else len(recorder.events)
        for source in sources:
            record = recorder.records[source]
            if record.died is not None:
                until[source] = max(until.get(source, record.died), end)
    # Deaths that come later: taken out of the order of events and put in again behind the event that they wait for.
    late: dict[int, list[int]] = {}
    dropped: set[int] = set()
    for source, end in until.items():
        died = recorder.records[source].died
        if died is not None and end > died:
            dropped.add(died)
            late.setdefault(end, []).append(source)
    events: list[tuple[int, int]] = []
    moved: list[int] = []  # old number of an event -> new one
    for old, event in enumerate(recorder.events):
        moved.append(len(events))
        if old not in dropped:
            events.append(event)
        events += [(source, -1) for source in late.get(old, ())]
    moved.append(len(events))
    recorder.events = events
    recorder.cuts = [(moved[at], name) for at, name in recorder.cuts]
    for record in recorder.records:
        record.born = moved[record.born]
        record.died = None
    for place, (number, sign) in enumerate(events):
        if sign < 0:
            recorder.records[number].died = place
        else:
            recorder.records[number].born = place


__all__ = ["apply", "fuse"]
