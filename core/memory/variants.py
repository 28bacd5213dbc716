"""What a `Stack` changes of a traced step: the low-rank layers, the loss, the optimizer, and what waits on the CPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from core.layers.low_rank import LowRank
from core.memory.recorder import Recorder
from core.memory.setup import Setup
from core.memory.stack import Stack

TORCHTUNE_CHUNKS = 8  # CEWithChunkedOutputLoss, num_output_chunks
LITGPT_CHUNK = 128  # tokens: lm_head_chunk_size in litgpt/finetune/lora.py
OFFLOADED = 1024  # bytes from which torchtune moves an activation (training/_activation_offloading.py)


class _LowRankInSteps(LowRank):
    """base(x) + s·B·A·dropout(x), one operation after the other, in the pair's own dtype (peft/tuners/lora/layer.py,
    Linear.forward; torchtune/modules/peft/lora.py)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base_layer(x)
        a, b = self.lora_A.weight, self.lora_B.weight
        z = functional.dropout(x.to(a.dtype), self.dropout, self.training)
        return (y + functional.linear(functional.linear(z, a), b) * self.scale).to(y.dtype)


def as_told(model: torch.nn.Module, stack: Stack, added: set[str]) -> None:
    """Change a model with its method attached into the stack's own form.

    Args:
        added: names of the parameters that the method brought with it.
    """
    if stack.low_rank == "steps":
        for module in model.modules():
            if type(module) is LowRank:
                module.__class__ = _LowRankInSteps
    if stack.kbit and any(hasattr(p, "quant_state") for p in model.parameters()):
        for parameter in model.parameters():
            if parameter.dtype in (torch.bfloat16, torch.float16) and not hasattr(parameter, "quant_state"):
                parameter.data = parameter.data.to(torch.float32)
    if stack.adapters == "bfloat16":
        for name, parameter in model.named_parameters():
            if name in added:
                parameter.data = parameter.data.to(torch.bfloat16)


# --- losses -----------------------------------------------------------------------------------------------------------


class _CompiledLoss(torch.autograd.Function):
    """Cross-entropy in one kernel each way: the logits are kept as they are, and their gradient has their dtype."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits)
        return logits.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (logits,) = ctx.saved_tensors
        return torch.empty_like(logits)


class _FusedLoss(torch.autograd.Function):
    """Output layer and loss in one (Liger Kernel, ops/fused_linear_cross_entropy.py): the logits exist for some rows at
    a time, and are turned into their gradient in place; what is kept are the gradients of the hidden states and, if it
    trains, of the output layer.

    Rows at a time: as many as make the logits as large as the hidden states, up to a power of two.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows, width = hidden.shape
        parts = -(-weight.shape[0] // width)
        size = 1 << math.ceil(math.log2(-(-rows // parts)))
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.empty_like(weight) if weight.requires_grad else None
        for start in range(0, rows, size):
            logits = hidden[start : start + size] @ weight.t().to(hidden.dtype)
            del logits
        ctx.save_for_backward(*(t for t in (grad_hidden, grad_weight) if t is not None))
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad_hidden, *grad_weight = ctx.saved_tensors
        return grad_hidden, (grad_weight[0] if grad_weight else None)


def loss_of(
    setup: Setup, model: Any, ids: torch.Tensor, recorder: Recorder, head_name: str, output: list[Any]
) -> torch.Tensor:
    """The loss over all tokens of a batch, as the stack takes it.

    Args:
        output: what the program holds of the model's output, while it goes backward and until the next is there. It is
            replaced.
    """
    stack = setup.stack
    targets = torch.empty(ids.numel(), dtype=torch.long, device=ids.device)
    if stack.loss == "all":
        out = model(input_ids=ids, use_cache=stack.cache and not setup.checkpointing)
        logits = out.logits
        recorder.where = head_name
        held = logits.float() if stack.keeps_logits == 4 else logits
        output[:] = [held if stack.keeps_logits else None, getattr(out, "past_key_values", None)]
        return functional.cross_entropy(held.float().view(-1, held.shape[-1]), targets)
    hidden, head = _hidden(model, ids)
    recorder.where = head_name
    if stack.loss == "fused":
        weight = head.weight if hasattr(head, "weight") else head.linear.weight
        fused: torch.Tensor = _FusedLoss.apply(hidden.reshape(-1, hidden.shape[-1]), weight)
        return fused
    lit = stack.model == "litgpt"
    chunks = hidden.split(LITGPT_CHUNK, 1) if lit else hidden.tensor_split(TORCHTUNE_CHUNKS, 1)
    # Lightning Fabric hands outputs over in 32 bits (fabric/plugins/precision/half.py, convert_output).
    parts = [head(chunk).float() if lit else head(chunk) for chunk in chunks]
    recorder.where = head_name
    output[:] = parts if lit else []
    total: Any = 0.0
    for part in parts:
        rows = part.reshape(-1, part.shape[-1])
        if stack.compile:
            total = total + _CompiledLoss.apply(rows)
        else:
            total = total + functional.cross_entropy(rows.float(), targets[: len(rows)], reduction="sum")
    return total


def _hidden(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """What goes into the output layer, and that layer."""
    head = model.get_output_embeddings()
    if hasattr(model, "hidden"):
        return model.hidden(ids), head
    seen: list[torch.Tensor] = []

    def instead(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(args[0])
        return (args[0][:, :1], *args[1:])

    handle = head.register_forward_pre_hook(instead)
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0], head


# --- the optimizer ----------------------------------------------------------------------------------------------------


class InBackward:
    """As many optimizers as parameters, each called by its parameter's gradient, which is gone afterwards (torchtune,
    training/memory.py, OptimizerInBackwardWrapper)."""

    def __init__(self, ones: dict[Any, torch.optim.Optimizer]) -> None:
        self.ones = ones

    @property
    def state(self) -> dict[Any, Any]:
        """Of all parameters."""
        return {p: s for one in self.ones.values() for p, s in one.state.items()}

    def hook(self) -> Iterator[Any]:
        """Register each at its parameter."""

        def moved(parameter: Any) -> None:
            self.ones[parameter].step()
            parameter.grad = None

        for parameter in self.ones:
            yield parameter.register_post_accumulate_grad_hook(moved)

    def step(self) -> None:
        """Nothing is left to do."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is left."""


# --- activations on the CPU -------------------------------------------------------------------------------------------


def offloading(recorder: Recorder, on: bool) -> Any:
    """What a layer keeps for its backward pass is copied to the CPU and comes back when it is needed (torchtune,
    training/_activation_offloading.py): all but parameters, small tensors and what belongs to the output layer."""
    if not on:
        return contextlib.nullcontext()

    def pack(tensor: torch.Tensor) -> Any:
        section = recorder.cuts[-1][1] if recorder.cuts else ""
        small = tensor.numel() * tensor.element_size() < OFFLOADED
        kept = isinstance(tensor, torch.nn.Parameter) or tensor.is_leaf
        if small or kept or not section.startswith("layer "):
            return tensor
        return tensor.shape, tensor.stride(), tensor.dtype

    def unpack(kept: Any) -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            return kept
        shape, stride, dtype = kept
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


__all__ = ["InBackward", "as_told", "loss_of", "offloading"]
