"""The memory of a training step, traced: the real model, method, loss and optimizer run on tensors without data.

    trace(config, setup).ledger()        # peak, where in the step it is, and every byte of it

The model is built from its transformers configuration on the meta device, the method is attached as for training, and
one step runs as `core.train` runs it: forward, the loss over the answers' tokens, backward, clipping, the optimizer.
`Recorder` writes down every tensor's birth and death; the peak, its place, the course of the step and all that lives at
any moment of it follow from that record. A model of any size needs seconds and no memory.

What it is not: what a card reports. Its allocator rounds and keeps segments, libraries keep workspaces, kernels keep
scratch of their own: `core.memory.card` adds those. Nor is it measured: `core.memory.measure` is.

Import it only where torch may be imported, and run it in a process of its own (`core.memory.tracer`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from core.architecture import Architecture
from core.errors import BadInput
from core.evaluate import answer_loss_sum
from core.memory import compiled
from core.memory.estimate import share_text
from core.memory.ledger import Ledger, Term
from core.memory.meta import autocast, standing_in
from core.memory.recorder import Record, Recorder
from core.memory.setup import Pass, Setup
from core.memory.sharded import COPIES, WEIGHTS, Sharding, parts_of, shared, used_in_half
from core.memory.variants import InBackward, as_told, loss_of, offloading
from core.methods import METHODS, loading
from core.optimizers import make_optimizer
from core.units import bytes_text

# Terms in the order in which a ledger names them. The first four outlive a step.
CATEGORIES = (
    "frozen weights", "quantization constants", "trained weights", "optimizer state", "gradients", "batch",
    COPIES, "activations", "recomputed activations", "logits and loss", "temporaries",
)  # fmt: skip
# On rows this short training on a CPU takes plain attention (core.train.EAGER_TOKENS).
EAGER_TOKENS = 256
HEAD = "head"
LOSS = f"{HEAD} backward"  # where the backward pass begins: the loss and the output layer
SOURCE = "traced: the step run on tensors without data"


@dataclass(frozen=True)
class Trace:
    """What a step took.

    records: all tensors' storages. events: (record, +1 or −1), in order. cuts: (event, section that begins there).
    resident: number of events before the step begins. block: sizes are rounded up to multiples of so many bytes.
    trained, total: numbers of parameters. kernels: the attention kernels that ran.
    """

    records: list[Record]
    events: list[tuple[int, int]]
    cuts: list[tuple[int, str]]
    resident: int
    block: int
    trained: int
    total: int
    kernels: tuple[str, ...]

    def size(self, record: Record) -> int:
        """Bytes of a storage as the allocator gives them out."""
        return -(-record.bytes // self.block) * self.block

    @cached_property
    def levels(self) -> list[int]:
        """Bytes alive after each event."""
        level, found = 0, []
        for number, sign in self.events:
            level += sign * self.size(self.records[number])
            found.append(level)
        return found

    @property
    def peak_event(self) -> int:
        """Number of the first event of the step at which most is alive."""
        inside = self.levels[self.resident - 1 :]
        return self.resident - 1 + max(range(len(inside)), key=inside.__getitem__)

    @property
    def peak_bytes(self) -> int:
        """Most that is alive during the step."""
        return self.levels[self.peak_event]

    def section(self, event: int) -> str:
        """The section of the step in which an event lies, such as 'layer 3 forward', 'head backward', 'optimizer'."""
        return next((name for at, name in reversed(self.cuts) if at <= event), "resident")

    def part(self, event: int) -> str:
        """forward, backward or optimizer."""
        return part_of(self.section(event))

    def alive(self, event: int) -> Iterator[Record]:
        """What lives after an event."""
        return (r for r in self.records if r.born <= event and (r.died is None or r.died > event))

    def category(self, record: Record) -> str:
        """The term that a storage belongs to."""
        return category_of(record, self._forward_ends)

    @cached_property
    def _forward_ends(self) -> list[int]:
        return [at for at, name in self.cuts if name == LOSS]

    def shared(self, sharding: Sharding, table: Architecture, batch: int, length: int) -> Ledger:
        """The ledger of one GPU among several, each with a pass like this one: at the moment at which its share is at
        its most."""
        shares = sharding.factors()
        share = [shares.get(self.category(r), 1.0) * self.size(r) for r in self.records]
        copied = any(self.category(r) == COPIES for r in self.records)
        level = most = 0.0
        at = self.resident
        for event, (number, sign) in enumerate(self.events):
            level += sign * share[number]
            if event >= self.resident and level > most:
                most, at = level, event
        whole: dict[str, int] = {}
        gradient = 4
        for record in self.records:
            name = self.category(record)
            if name in WEIGHTS:
                whole[name] = whole.get(name, 0) + self.size(record)
            gradient = record.item if name == "gradients" else gradient
        by_term: dict[str, float] = {}
        for record, own_bytes in zip(self.records, share, strict=True):
            if record.born <= at and (record.died is None or record.died > at):
                by_term[self.category(record)] = by_term.get(self.category(record), 0.0) + own_bytes
        terms = tuple(
            replace(t, bytes=round(by_term[t.name]), formula=t.formula + share_text(shares.get(t.name, 1.0)))
            for t in self.ledger(at).terms
        )
        own = Ledger(tuple(t for t in terms if t.bytes), self.section(at), sum(t.bytes for t in terms), 0, 0)
        halved = used_in_half(table, whole, copied=copied)
        parts = parts_of(table, whole, self.trained, gradient, halved=halved)
        return shared(own, sharding.extra(parts, batch, length, table.width))

    def ledger(self, event: int | None = None) -> Ledger:
        """The terms at an event; by default at the peak."""
        at = self.peak_event if event is None else event
        groups: dict[str, list[Record]] = {}
        for record in self.alive(at):
            groups.setdefault(self.category(record), []).append(record)
        terms = tuple(
            Term(name, sum(map(self.size, groups[name])), _told(groups[name], self.size), SOURCE)
            for name in CATEGORIES
            if name in groups and any(r.bytes for r in groups[name])
        )
        return Ledger(terms, self.section(at), sum(t.bytes for t in terms), 0, 0)

    def timeline(self, points: int = 400) -> list[dict[str, Any]]:
        """The course of the step, thinned: the most that is alive in each of `points` equal stretches of events.

        Returns:
            rows with `event`, `bytes`, and `section`.
        """
        first, last = self.resident, len(self.events)
        step = max(1, math.ceil((last - first) / points))
        rows = []
        for start in range(first, last, step):
            stop = min(start + step, last)
            at = max(range(start, stop), key=self.levels.__getitem__)
            rows.append({"event": at, "bytes": self.levels[at], "section": self.section(at)})
        return rows

    def tensors(self, event: int | None = None, most: int = 200) -> list[dict[str, Any]]:
        """What lives at an event (by default at the peak), those of all layers together, largest first.

        Returns:
            rows with `category`, `op`, `where` (module, a * for the layer's number), `count`, and `bytes` of all.
        """
        at = self.peak_event if event is None else event
        groups: dict[tuple[str, str, str], list[int]] = {}
        for record in self.alive(at):
            key = (self.category(record), record.op, any_layer(record.where))
            groups.setdefault(key, []).append(self.size(record))
        order = sorted(groups.items(), key=lambda item: -sum(item[1]))
        return [
            {"category": c, "op": o, "where": w, "count": len(sizes), "bytes": sum(sizes)}
            for (c, o, w), sizes in order[:most]
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the ledger, the course of the step, and what lives at the peak."""
        return {
            "ledger": self.ledger().to_dict(), "timeline": self.timeline(), "tensors": self.tensors(),
            "trainable": self.trained, "total": self.total, "kernels": list(self.kernels),
        }  # fmt: skip


def any_layer(where: str) -> str:
    """'model.layers.3.mlp' -> 'model.layers.*.mlp', 'layer 3' -> 'layer *'."""
    return re.sub(r"(?<=[. ])\d+(?=\.|$)", "*", where)


def part_of(section: str) -> str:
    """'layer 3 backward' -> 'backward'."""
    last = section.rpartition(" ")[2]
    return {"batch": "forward", "clipping": "optimizer", "end": "optimizer"}.get(last, last)


def category_of(record: Record, forward_ends: list[int]) -> str:
    """The term that a storage belongs to, by when and where it was made and how long it lives.

    forward_ends: the events at which the backward passes begin.
    """
    if record.category:
        return record.category
    if record.where == HEAD:
        return "logits and loss"
    if record.recomputed:
        return "recomputed activations"
    if record.part == "forward":
        end = next((at for at in forward_ends if at > record.born), None)
        if end is not None and (record.died is None or record.died > end):
            return "activations"
    return "temporaries"


def _told(records: list[Record], size: Any) -> str:
    """A term in words: how many tensors, and what most of it is."""
    by_op: dict[str, int] = {}
    for record in records:
        by_op[record.op or "as loaded"] = by_op.get(record.op or "as loaded", 0) + size(record)
    most = max(by_op, key=by_op.__getitem__)
    text = f"{len(records):,} tensor{'s' if len(records) > 1 else ''}"
    return (
        text if most == "as loaded" else f"{text}; most from {most.removeprefix('aten::')}, {bytes_text(by_op[most])}"
    )


# --- the step ---------------------------------------------------------------------------------------------------------


def trace(config: Any, setup: Setup, passes: Sequence[Pass] = ()) -> Trace:
    """Run one training step of the model that a transformers configuration describes, without data.

    Args:
        passes: the sizes of each, where they differ; else all have the setup's.

    Raises:
        BadInput: the model is no causal language model, reads fewer tokens, or cannot be run on tensors without data.
        Incompatible: the method has nothing to train in it.
    """
    _check(config, setup)
    with standing_in(setup) as state, ExitStack() as stack:
        model, attached = _built(config, setup)
        recorder = Recorder(setup.answers)  # after bitsandbytes was imported, if the model has layers of its
        names = attached.trainable_names()
        trained = [p for p in model.parameters() if p.requires_grad]
        total = sum(_elements(p) for p in model.parameters()) - _added(model)
        factors = attached.rate_factors()
        optimizer = _optimizer(setup, trained, [factors.get(name, 1.0) for name in names], stack)
        _note_resident(recorder, model, optimizer, setup)
        resident = len(recorder.events)
        for handle in _hooks(recorder, model, attached.model):
            stack.callback(handle.remove)
        if isinstance(optimizer, InBackward):
            for handle in optimizer.hook():
                stack.callback(handle.remove)
        if not setup.device.is_cuda:
            _note_random_states(recorder, stack)
        with recorder:
            alike = Pass(setup.batch, setup.length, setup.answers)
            _step(recorder, attached.model, optimizer, trained, setup, passes or [alike] * setup.accumulation)
        return Trace(
            recorder.records, recorder.events, recorder.cuts, resident, setup.device.block_bytes,
            sum(p.numel() for p in trained), total, tuple(sorted(state.kernels)),
        )  # fmt: skip


def _check(config: Any, setup: Setup) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from core.base import is_encoder
    from core.few_bits import check_traced

    name = getattr(config, "_name_or_path", "") or config.model_type
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or is_encoder(config):
        raise BadInput(
            f"{name} is no causal language model, and only the training of those can be traced.",
            "Choose a model that continues a text.",
        )
    check_traced(config, setup.method, setup.settings)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context and setup.length > context:
        raise BadInput(f"{name} reads {context:,} tokens at most, not {setup.length:,}.", "Choose a shorter length.")


def attention_of(config: Any, setup: Setup) -> str:
    """The attention that training takes: transformers' default for the family, plain on a CPU for short rows."""
    if setup.attention != "auto":
        return setup.attention
    if not setup.device.is_cuda and setup.length <= EAGER_TOKENS:
        return "eager"
    from transformers import AutoModelForCausalLM

    # What the family offers: some have no implementation but their own.
    mapped: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if getattr(mapped, "_supports_sdpa", False) else "eager"


def _built(config: Any, setup: Setup) -> tuple[Any, Any]:
    """The model with the method attached, as training has it, on the meta device."""
    from transformers import AutoModelForCausalLM

    if setup.stack.model == "litgpt":
        return _litgpt(config, setup)
    # As a card's run loads it, wherever this process is.
    dtype = loading(setup.method, setup.precision, "cuda" if setup.device.is_cuda else "cpu")["dtype"]
    dtype = dtype if setup.stack.autocast else setup.precision
    with torch.device("meta"):
        maker: Any = AutoModelForCausalLM
        model = maker.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention_of(config, setup))
        attached = METHODS[setup.method].apply(model, setup.settings, keep_base=False)
    _quantize(model)
    as_told(model, setup.stack, set(_brought(model)))
    if setup.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    return model, attached


@dataclass(frozen=True)
class _Ready:
    """A model that came with its method in place."""

    model: Any

    def trainable_names(self) -> list[str]:
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def rate_factors(self) -> dict[str, float]:
        return {}


def _litgpt(config: Any, setup: Setup) -> tuple[Any, Any]:
    from core.memory import litgpt

    if setup.checkpointing:
        raise BadInput("LitGPT recomputes activations on several GPUs only.", "Leave gradient_checkpointing off.")
    model = litgpt.build(config, setup.method, setup.settings, setup.stack.packed_inputs)
    model.train()
    return model, _Ready(model)


def _quantize(model: torch.nn.Module) -> None:
    """Pack what stands for 4-bit weights: on a real device moving them there does it.

    bitsandbytes keeps the code book of 8-bit scales for the whole process: it is made with its numbers before a trace
    could make it without.
    """
    import sys

    theirs = sys.modules.get("bitsandbytes.functional")
    if theirs is not None and "dynamic" not in theirs.name2qmap:
        with torch.device("cpu"):
            theirs.name2qmap["dynamic"] = theirs.create_dynamic_map()
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if hasattr(weight, "bnb_quantized") and not weight.bnb_quantized:
            weight._quantize("meta")


def _elements(parameter: torch.Tensor) -> int:
    from core.architecture import elements

    return elements(parameter)


def _brought(model: torch.nn.Module) -> Iterator[str]:
    """Those parameters that the method brought with it, trained or not: the base would not have them."""
    own = ("lora_", "vera_", "ia3_", "adapter_", "trained_prompt")
    return (name for name, _ in model.named_parameters() if any(part in name for part in own))


def _added(model: torch.nn.Module) -> int:
    """How many numbers the method brought with it."""
    parameters = dict(model.named_parameters())
    return sum(parameters[name].numel() for name in _brought(model))


def _optimizer(setup: Setup, trained: list[Any], factors: list[float], stack: ExitStack) -> Any:
    """The optimizer with its state in place, as from the second step on."""
    if "8bit" in setup.optimizer:
        import bitsandbytes.optim.optimizer as theirs

        stack.callback(setattr, theirs, "sync_gpu", theirs.sync_gpu)
        setattr(theirs, "sync_gpu", lambda _: None)  # noqa: B010 (there is nothing to wait for)

    def ready(parameters: list[Any], rates: list[float]) -> torch.optim.Optimizer:
        if setup.stack.optimizer == "foreach" and setup.optimizer == "adamw":
            one: torch.optim.Optimizer = torch.optim.AdamW(parameters, foreach=True)
        else:
            one, _ = make_optimizer(setup.optimizer, parameters, 1e-4, 0.0, rates)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        one.step()
        one.zero_grad(set_to_none=True)
        return one

    if setup.stack.in_backward:
        return InBackward({p: ready([p], [rate]) for p, rate in zip(trained, factors, strict=True)})
    return ready(trained, factors)


PAGED_NUMBERS = 100_000  # bitsandbytes pages the states of tensors from this size on (optim/optimizer.py)


def _note_resident(recorder: Recorder, model: torch.nn.Module, optimizer: Any, setup: Setup) -> None:
    """What is there before the step: weights, their quantization constants, the optimizer's state."""
    recorder.cut("resident")
    names: dict[Any, str] = {}
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: not pair[1].requires_grad):
        names[parameter] = recorder.where = name
        recorder.add(parameter, category="trained weights" if parameter.requires_grad else "frozen weights")
        state = getattr(parameter, "quant_state", None)
        for level in (state, getattr(state, "state2", None)):
            for part in ("absmax", "code", "offset"):
                tensor = getattr(level, part, None)
                if isinstance(tensor, torch.Tensor):
                    recorder.add(tensor, category="quantization constants")
    for name, buffer in model.named_buffers():
        recorder.where = name
        scales = name.endswith("absmax")  # of weights in 8 bits
        recorder.add(buffer, category="quantization constants" if scales else "frozen weights")
    for owner, states in optimizer.state.items():
        recorder.where = names[owner]
        paged = setup.optimizer.startswith("paged") and setup.device.is_cuda and owner.numel() >= PAGED_NUMBERS
        for name, tensor in states.items():
            if isinstance(tensor, torch.Tensor):
                recorder.add(tensor, name, category="optimizer state")
                if paged and name.startswith("state"):
                    recorder.forget(tensor)
    recorder.where = ""


def _hooks(recorder: Recorder, base: Any, model: Any) -> Iterator[Any]:
    """Put the recorder where it learns which module is at work, where layers begin, and what a gradient is."""
    layers = _layers(base)
    head = model.get_output_embeddings()
    outside: list[str] = []

    def begins(name: str) -> Any:
        def before(module: Any, args: Any) -> None:
            outside.append(recorder.where)
            recorder.where = name

        return before

    def ends(module: Any, args: Any, out: Any) -> None:
        recorder.where = outside.pop() if outside else ""

    def layer_begins(number: int) -> Any:
        def before(module: Any, args: Any) -> None:
            outside.clear()  # (recomputing a block stops in its middle, as soon as it has what it needs)
            if recorder.part == "forward":
                recorder.cut(f"layer {number} forward")

        return before

    def layer_ends(number: int) -> Any:
        def after(module: Any, args: Any, out: Any) -> None:
            if recorder.part != "forward":
                return
            result = out[0] if isinstance(out, tuple) else out
            if result.requires_grad:
                result.register_hook(lambda _: backward_begins(f"layer {number}"))
            if number == len(layers) - 1:
                recorder.cut(f"{HEAD} forward")

        return after

    def backward_begins(name: str) -> None:
        recorder.cut(f"{name} backward")
        recorder.behind = name

    def head_begins(module: Any, args: Any) -> None:
        recorder.where = HEAD
        if args[0].requires_grad:
            args[0].register_hook(lambda _: backward_begins("below the head"))

    def gradient(parameter: Any) -> None:
        recorder.add(parameter.grad, category="gradients")

    for number, module in enumerate(layers):
        yield module.register_forward_pre_hook(layer_begins(number))
        yield module.register_forward_hook(layer_ends(number))
    inside = {id(m) for m in head.modules()}
    for name, module in base.named_modules():
        if module is head:
            yield module.register_forward_pre_hook(head_begins)
        elif name and id(module) not in inside and not isinstance(module, torch.nn.ModuleList):
            yield module.register_forward_pre_hook(begins(name))
            yield module.register_forward_hook(ends)
    for parameter in base.parameters():
        if parameter.requires_grad:
            yield parameter.register_post_accumulate_grad_hook(gradient)


def _note_random_states(recorder: Recorder, stack: ExitStack) -> None:
    """Checkpointing keeps the random state of every block, so that its dropout can be repeated: on a CPU that is memory
    like any other."""
    real = torch.get_rng_state

    def noted() -> torch.Tensor:
        state = real()
        recorder.add(state, "random state", real=True)
        return state

    stack.callback(setattr, torch, "get_rng_state", real)
    torch.get_rng_state = noted


def _layers(model: Any) -> list[Any]:
    """The model's stack of blocks: the longest list of modules in it."""
    lists = [list(m) for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=len, default=[])


def _step(
    recorder: Recorder, model: Any, optimizer: Any, trained: list[Any], setup: Setup, passes: Sequence[Pass]
) -> None:
    """One step as `core.train` takes it (_gradients and _apply), but for what reads numbers off tensors."""
    on_cpu = not setup.device.is_cuda
    recorder.cut("batch")
    recorder.part = "batch"
    held = [_batch(recorder, one) for one in passes] if on_cpu else []
    plans: dict[int, set[int]] = {}
    part: Any = None  # as in training, the last pass's loss is there until the next one's is
    output: list[Any] = []  # and so is what is held of the model's output
    for number, one in enumerate(passes):
        # On a card each batch is copied there when its turn comes; until then it is in the CPU's memory.
        ids, labels = held[number] if on_cpu else _batch(recorder, one)
        recorder.answers = one.answers
        fuses = setup.stack.compile and not setup.checkpointing and not setup.stack.offload_activations
        recorder.inputs = {} if fuses else None
        recorder.enter("forward")
        with autocast(setup), offloading(recorder, setup.stack.offload_activations):
            if setup.stack.loss == "answers":
                part = answer_loss_sum(model, ids, labels) / max(setup.answer_tokens, 1)
            else:
                part = loss_of(setup, model, ids, recorder, HEAD, output)
        if fuses:
            plans |= compiled.fuse(recorder, part)
            recorder.inputs = None
        recorder.enter("backward", LOSS)
        recorder.behind = HEAD
        _backward(part)
        part.detach()
    recorder.part, recorder.where = "optimizer", "clipping"
    recorder.cut("clipping")
    if not setup.stack.in_backward:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
    recorder.enter("optimizer")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    recorder.cut("end")
    compiled.apply(recorder, plans)


def _backward(loss: torch.Tensor) -> None:
    """loss.backward(), by its own engine: called by that name it would switch off what stands in for the device, and
    checkpointed blocks would be recomputed without it."""
    engine: Any = torch.autograd.Variable._execution_engine
    with torch.no_grad():
        one = torch.ones_like(loss)
    engine.run_backward((loss,), (one,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def _batch(recorder: Recorder, sizes: Pass) -> tuple[torch.Tensor, torch.Tensor]:
    ids, labels = (torch.empty(sizes.rows, sizes.tokens, dtype=torch.long, device="meta") for _ in range(2))
    recorder.add(ids, category="batch")
    recorder.add(labels, category="batch")
    return ids, labels


__all__ = ["CATEGORIES", "SOURCE", "Trace", "any_layer", "attention_of", "category_of", "part_of", "trace"]
