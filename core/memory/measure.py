"""What one real training step took, by term, as the allocator saw it.

On a CPU the allocator keeps no peak, so its events are read from `torch.profiler` (profile_memory=True) around one
step and replayed: a gradient counts from the event that allocates it to the one that frees it. On a GPU the caching
allocator's own peak counter is read as the step goes on, so its gradients are known to within the one that is being
computed at the peak. The tensors that outlive a step (weights, adapters, optimizer state) are counted from their
storages; what is left of the peak is activations and temporaries.

Not the memory of a process: libraries and the interpreter come on top and are given as `process_bytes`
(core/memory/own.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch

from core.memory.ledger import Ledger, Term
from core.memory.own import process_bytes
from core.units import bytes_text

MARK = "a mark of deltalab "  # (operations of ours are called deltalab::…)
Mark = Callable[[str], None]


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Address -> bytes of each distinct storage: tied weights and views count once."""
    found = {}
    for tensor in tensors:
        if hasattr(tensor, "to_local"):  # of a tensor that is cut into parts, this process's
            tensor = tensor.to_local()
        if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def _quantization_constants(model: torch.nn.Module) -> list[torch.Tensor]:
    """The scales of weights that are stored in few bits (and, with double quantization, the scales of the scales)."""
    found = [t for module in model.modules() if (t := getattr(module, "absmax", None)) is not None]
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
    seen: set[int] = set()

    def new(tensors: Iterable[Any]) -> dict[int, int]:
        """Those storages that no term before this one holds."""
        found = {k: v for k, v in _storages(tensors).items() if k not in seen}
        seen.update(found)
        return found

    trained = new(p for p in parameters if p.requires_grad)
    constants = new(_quantization_constants(model))
    frozen = new([*parameters, *model.buffers()])
    states = new(t for state in optimizer.state.values() for t in state.values())
    count = sum(p.numel() for p in parameters if p.requires_grad)
    terms = [
        ("frozen weights", frozen, f"{len(frozen)} tensors of the base"),
        ("quantization constants", constants, "block scales and their code book"),
        ("trained weights", trained, f"{count:,} parameters"),
        ("optimizer state", states, f"{len(states)} tensors for {count:,} trained parameters"),
    ]
    return [Term(name, sum(s.values()), text, "storages of the live tensors") for name, s, text in terms if s]


def _gradients(model: torch.nn.Module) -> dict[int, int]:
    """Address -> bytes of the storages of all gradients that exist now."""
    return _storages(p.grad for p in model.parameters())


def measure_step(
    step: Callable[[Mark], Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    buffer_bytes: int = 0,
) -> tuple[Any, Ledger]:
    """Run `step(mark)` once and say what it took, in this process.

    Args:
        step: runs one optimizer step; it calls `mark("forward")`, `mark("backward")`, `mark("optimizer")` as each
            part begins (the first two again for every accumulated batch). There must be no gradients left from before.
        model, optimizer: whose tensors stay; the optimizer's state must exist already (measure the second step or a
            later one).
        buffer_bytes: allocated beside them for good: copies of the gradients that go to other processes.

    Returns:
        What `step` returned, and the ledger at the step's peak.
    """
    resident = resident_terms(model, optimizer)
    if buffer_bytes:
        resident.append(Term("gradient buckets", buffer_bytes, "a copy of all gradients, to be sent", "their sizes"))
    on_cuda = device.type == "cuda"
    result, extra_bytes, gradient_bytes, peak_at, reserved = (_on_cuda if on_cuda else _on_cpu)(step, model, device)
    source = "peak counter of the caching allocator" if on_cuda else "allocator events of one step"
    gradients = Term("gradients", gradient_bytes, "those that exist at the peak", source)
    activations = Term(
        "activations and temporaries",
        extra_bytes - gradient_bytes,
        f"peak {bytes_text(sum(t.bytes for t in resident) + extra_bytes)} less all the terms above",
        source,
    )
    terms = (*resident, gradients, activations)
    process = process_bytes() if device.type == "cpu" else 0
    return result, Ledger(terms, peak_at, sum(t.bytes for t in terms), reserved, process)


def _on_cpu(
    step: Callable[[Mark], Any], model: torch.nn.Module, _device: torch.device
) -> tuple[Any, int, int, str, int]:
    # The profiler's library announces its start and end on standard error; nobody who trains wants to read that.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from torch.profiler import ProfilerActivity, profile, record_function

    # Part that begins, and where the gradients are that exist then. All that a step makes exist when its optimizer
    # part begins, and none moves before that (later batches are added in place): nothing need be asked in between.
    marks: list[tuple[str, list[int]]] = []

    def mark(part: str) -> None:
        marks.append((part, list(_gradients(model))))
        with record_function(f"{MARK}{len(marks) - 1}"):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        mark("start")
        result = step(mark)
        mark("end")
    events = _allocator_events(profiler)
    of_gradients = _gradient_events(events, marks)
    # What was allocated before the step is not its own: when Python happens to collect an old cycle meanwhile, the
    # release of what hung on it must not count as room that the step made.
    living: set[int] = set()
    level = peak = gradients = gradients_at_peak = 0
    part, peak_at = "", "forward"
    for number, (size, address) in enumerate(events):
        if not size:
            part = marks[address][0]
        elif part not in ("", "end") and (size > 0 or address in living):
            (living.add if size > 0 else living.remove)(address)
            level += size
            gradients += size if number in of_gradients else 0
            if level > peak:
                peak, peak_at, gradients_at_peak = level, part, gradients
    return result, peak, min(gradients_at_peak, peak), peak_at, 0


def _allocator_events(profiler: Any) -> list[tuple[int, int]]:
    """What happened, in order: (bytes, address) of each allocation (> 0) and release (< 0), and (0, n) for mark n."""
    from torch._C._profiler import _EventType

    found: list[tuple[int, int, int]] = []
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            memory = event.extra_fields
            if memory.alloc_size and memory.device.type == "cpu":
                found.append((event.start_time_ns, memory.alloc_size, memory.ptr))
        elif event.name.startswith(MARK):
            found.append((event.start_time_ns, 0, int(event.name.removeprefix(MARK))))
    return [(size, address) for _, size, address in sorted(found, key=lambda e: e[0])]


def _gradient_events(events: list[tuple[int, int]], marks: list[tuple[str, list[int]]]) -> set[int]:
    """Numbers of the events that allocate or release a gradient.

    An address is used again and again within a step; what lives there at a mark at which a gradient has that address is
    the gradient, and it has been one ever since it was allocated: only then, a moment later, does autograd hang it on
    its parameter.
    """
    living: dict[int, int] = {}  # address -> number of the event that allocated it
    allocations: set[int] = set()
    releases: dict[int, int] = {}  # number of a release -> that of its allocation
    for number, (size, address) in enumerate(events):
        if not size:
            allocations.update(living[a] for a in marks[address][1] if a in living)
        elif size > 0:
            living[address] = number
        elif address in living:
            releases[number] = living.pop(address)
    return allocations | {release for release, allocation in releases.items() if allocation in allocations}


def _on_cuda(
    step: Callable[[Mark], Any], model: torch.nn.Module, device: torch.device
) -> tuple[Any, int, int, str, int]:
    part, peak, peak_at, gradients_at_peak = "forward", 0, "forward", 0
    known: dict[int, int] = {}  # the gradients that were there when the counter was read last
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)

    def read() -> None:
        """If the peak has risen since the last reading, it lies between the two."""
        nonlocal peak, peak_at, gradients_at_peak
        reached = torch.cuda.max_memory_allocated(device) - before
        if reached > peak:
            peak, peak_at, gradients_at_peak = reached, part, sum(known.values())

    def mark(name: str) -> None:
        nonlocal part
        read()
        part = name
        known.clear()
        known.update(_gradients(model))

    def written(parameter: torch.Tensor) -> None:
        read()
        known.update(_storages([parameter.grad]))

    with ExitStack() as stack:
        for parameter in model.parameters():
            if parameter.requires_grad:
                stack.callback(parameter.register_post_accumulate_grad_hook(written).remove)
        result = step(mark)
        read()
    return result, peak, min(gradients_at_peak, peak), peak_at, torch.cuda.memory_reserved(device)
