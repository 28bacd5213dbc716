"""What one real training step took, by term, as the allocator saw it.

On a CPU the allocator keeps no peak, so its events are read from `torch.profiler` (profile_memory=True) around one
step; on a GPU the caching allocator's own peak counters are read, part by part. The tensors that outlive a step
(weights, adapters, optimizer state) are counted from their storages; what is left of the peak is activations and
temporaries.

Not the memory of a process: libraries and the interpreter come on top and are given as `process_bytes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import psutil
import torch

from core.memory.ledger import Ledger, Term
from core.units import bytes_text

MARK = "deltalab:"
Mark = Callable[[str], None]


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Address -> bytes of each distinct storage: tied weights and views count once."""
    found = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def _quantization_constants(model: torch.nn.Module) -> list[torch.Tensor]:
    """The block scales of 4-bit weights (and, with double quantization, the scales of the scales)."""
    found = []
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        for level in (state, getattr(state, "state2", None)):
            found += [t for t in (getattr(level, "absmax", None), getattr(level, "code", None)) if t is not None]
        offset = getattr(state, "offset", None)
        if offset is not None:
            found.append(offset)
    return found


def resident_terms(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[Term]:
    """What stays allocated between two steps: weights, quantization constants, adapters, optimizer state."""
    parameters = list(model.parameters())
    trained = _storages(p for p in parameters if p.requires_grad)
    frozen = {k: v for k, v in _storages([*parameters, *model.buffers()]).items() if k not in trained}
    constants = {k: v for k, v in _storages(_quantization_constants(model)).items() if k not in frozen}
    states = {
        k: v
        for k, v in _storages(t for state in optimizer.state.values() for t in state.values()).items()
        if k not in trained
    }
    count = sum(p.numel() for p in parameters if p.requires_grad)
    terms = [
        ("frozen weights", frozen, f"{len(frozen)} tensors of the base"),
        ("quantization constants", constants, "block scales and their code book"),
        ("trained weights", trained, f"{count:,} parameters"),
        ("optimizer state", states, f"{len(states)} tensors for {count:,} trained parameters"),
    ]
    return [Term(name, sum(s.values()), text, "storages of the live tensors") for name, s, text in terms if s]


def measure_step(
    step: Callable[[Mark], Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[Any, Ledger]:
    """Run `step(mark)` once and say what it took.

    Args:
        step: runs one optimizer step; it calls `mark("forward")`, `mark("backward")`, `mark("optimizer")` as each
            part begins. There must be no gradients left from before.
        model, optimizer: whose tensors stay; the optimizer's state must exist already (measure the second step or a
            later one).

    Returns:
        What `step` returned, and the ledger at the step's peak.
    """
    resident = resident_terms(model, optimizer)
    measure = _on_cuda if device.type == "cuda" else _on_cpu
    result, extra_bytes, gradient_bytes, peak_at, reserved = measure(step, model, device)
    gradients = Term("gradients", gradient_bytes, "those that exist at the peak", "summed as each is written")
    rest = extra_bytes - gradient_bytes
    activations = Term(
        "activations and temporaries",
        rest,
        f"peak {bytes_text(sum(t.bytes for t in resident) + extra_bytes)} less all the terms above",
        "allocator events of one step" if device.type != "cuda" else "peak counters of the caching allocator",
    )
    terms = (*resident, gradients, activations)
    process = psutil.Process().memory_info().rss if device.type == "cpu" else 0
    return result, Ledger(terms, peak_at, sum(t.bytes for t in terms), reserved, process)


def _on_cpu(
    step: Callable[[Mark], Any], model: torch.nn.Module, _device: torch.device
) -> tuple[Any, int, int, str, int]:
    # The profiler's library announces its start and end on standard error; nobody who trains wants to read that.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from torch.profiler import ProfilerActivity, profile, record_function

    def mark(part: str) -> None:
        with record_function(f"{MARK}part:{part}"):
            pass

    def written(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        mark_gradient(parameter.grad.untyped_storage().nbytes())

    def mark_gradient(size: int) -> None:
        with record_function(f"{MARK}grad:{size}"):
            pass

    with ExitStack() as stack:
        for parameter in model.parameters():
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(written)
                stack.callback(handle.remove)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            mark("start")
            result = step(mark)
            mark("end")
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns())  # type: ignore[union-attr]
    level = peak = gradients = gradients_at_peak = 0
    part, peak_at, running = "", "forward", False
    for event in events:
        name = event.name()
        if name.startswith(f"{MARK}part:"):
            part = name.removeprefix(f"{MARK}part:")
            running = part != "end"
        elif name.startswith(f"{MARK}grad:"):
            gradients += int(name.removeprefix(f"{MARK}grad:"))
        elif name == "[memory]" and running:
            level += event.nbytes()
            if level > peak:
                peak, peak_at, gradients_at_peak = level, part, gradients
    return result, peak, min(gradients_at_peak, peak), peak_at, 0


def _on_cuda(
    step: Callable[[Mark], Any], model: torch.nn.Module, device: torch.device
) -> tuple[Any, int, int, str, int]:
    peaks: dict[str, int] = {}
    current = ["forward"]
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)

    def close() -> None:
        reached = torch.cuda.max_memory_allocated(device) - before
        peaks[current[0]] = max(peaks.get(current[0], 0), reached)
        torch.cuda.reset_peak_memory_stats(device)

    def mark(part: str) -> None:
        close()
        current[0] = part

    total = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    result = step(mark)
    close()
    peak_at = max(peaks, key=lambda part: peaks[part])
    # The counters do not say how many gradients existed at a peak inside the backward pass; by its end all do.
    gradients = 0 if peak_at == "forward" else min(total, peaks[peak_at])
    return result, peaks[peak_at], gradients, peak_at, torch.cuda.memory_reserved(device)
