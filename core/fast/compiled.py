"""A decoder's layers by PyTorch's own compiler: the option `compile` of a run, off by default.

torch.compile reads a layer once, forward and backward, and writes it anew as fused loops (C++ on a processor, Triton on
a card). The layers of a decoder are alike, so one is compiled and serves all. LoRA's pairs go through it step by step:
it sees through PyTorch's operations, not through those that are written by hand.

What it costs: the first steps wait for the compiler, and each new kind of batch may make it start again. Then steps are
faster. `python -m tests.bench_forms` measures both and says from how many steps on it pays (the README's table of
forms has what one machine gave); a default run on the embedded base is far shorter than that. So it is an option, and
where the written-out decoder or captured steps would be taken (core/fast), those give way to it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


def blocks(model: Any) -> list[nn.Module]:
    """A decoder's layers: the longest list of modules in it."""
    lists = [list(m) for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def why_not(
    model: Any, *, device: torch.device, processes: int, recomputing: bool, in_few_bits: bool
) -> str:  # fmt: skip
    """Why layers cannot be compiled, as a phrase; '' if they can be tried.

    Args:
        recomputing: gradient checkpointing. in_few_bits: weights are decoded layer by layer.
    """
    if processes > 1:
        return "several processes train together"
    if recomputing:
        return "activations are recomputed"
    if in_few_bits:
        return "the base's weights are decoded within its layers, which the compiler cannot look into"
    if not blocks(model):
        return f"{type(model).__name__} has no list of layers"
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "Triton is not installed, which it writes for a card"
    if device.type == "cpu":
        named = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "cl"])):
            return "there is no C++ compiler (g++ or clang++), which it needs on a processor"
    return ""


def compile_layers(model: Any, backend: Any = "inductor") -> None:
    """Have the layers compiled when they are first called."""
    for layer in blocks(model):
        layer.compile(dynamic=True, backend=backend)


def plainly() -> AbstractContextManager[Any]:
    """Within this, layers run as they were before they were compiled: for scores, whose shapes are many, and for the
    step whose memory is measured."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
