"""How a training program differs from Deltalab's own loop, as far as memory can tell: dtypes, layers, loss, switches.

A `Stack` is part of a `Setup`. The default is this program's own way; `STACKS` has those of others, so that a figure
that was published with one of them can be predicted, and so that a reader who trains with it gets its memory:

    deltalab memory --model Llama-3.1-8B --method qlora --as torchtune --compile --loss chunked

What each setting costs is not written down here: the trace runs a step in that way. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from core.errors import BadInput

LOSSES = {
    "answers": "logits of the answers' tokens alone, in 32 bits (Deltalab's own)",
    "all": "logits of all tokens, in 32 bits (transformers' ForCausalLMLoss)",
    "chunked": "logits of all tokens, turned into losses part by part (torchtune's CEWithChunkedOutputLoss, lit-gpt)",
    "fused": "logits and their gradient part by part inside one kernel, never all at once (Liger Kernel, "
    "arXiv:2410.10989, section 3.2)",
}
MODELS = ("transformers", "litgpt")
ADAPTERS = ("float32", "bfloat16")
OPTIMIZERS = {"fused": "one kernel for all", "foreach": "lists of tensors, with temporaries"}


@dataclass(frozen=True)
class Stack:
    """One way to train.

    name: of the preset that it comes from. model: whose layers, 'transformers' or 'litgpt'. autocast: bfloat16 passes
    over what is stored in more bits; without it all is computed, and what trains of the base is kept, in 16 bits.
    adapters: dtype of what a method adds. low_rank: 'fused' (one node that keeps x and Ax), or
    'steps' (cast, dropout, A, B, sum, as PEFT and torchtune write it). loss: see LOSSES. repeated_keys: keys and values
    are copied for each query head. padded: rows have padding, so attention gets a mask. optimizer: 'fused' or
    'foreach'. compile: torch.compile of each layer, and of a
    chunked loss. in_backward: each parameter is updated as soon as
    its gradient is there. offload_activations: what a layer keeps for its backward pass waits in the CPU's memory.
    keeps_logits: the program still holds the logits while it goes backward, in so many bytes a number (0: not). cache:
    the model fills a cache of keys and values that nobody asked for, and that lives as long as its output
    (transformers' default when it is called without use_cache=False, and blocks are not recomputed).
    packed_inputs: a 4-bit layer keeps its input (bitsandbytes before 0.44). kbit: what is not quantized of a quantized
    base is kept in 32 bits (PEFT's prepare_model_for_kbit_training).
    """

    name: str = "deltalab"
    model: str = "transformers"
    autocast: bool = True
    adapters: str = "float32"
    low_rank: str = "fused"
    loss: str = "answers"
    repeated_keys: bool = False
    padded: bool = False
    optimizer: str = "fused"
    compile: bool = False
    in_backward: bool = False
    offload_activations: bool = False
    keeps_logits: int = 0
    cache: bool = False
    packed_inputs: bool = False
    kbit: bool = False

    def changes(self) -> dict[str, Any]:
        """What differs from Deltalab's own way; empty for that."""
        own = Stack()
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != getattr(own, f.name)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Stack:
        """Read what `to_dict`, or `changes`, wrote."""
        return cls(**record)

    def with_switches(self, **switches: Any) -> Stack:
        """The same with some settings changed; None leaves one as it is.

        Raises:
            BadInput: no such loss, number format of adapters, or way to run an optimizer.
        """
        for name, what, known in (
            ("loss", "loss", LOSSES), ("adapters", "number format of adapters", ADAPTERS),
            ("optimizer", "way to run an optimizer", OPTIMIZERS),
        ):  # fmt: skip
            asked = switches.get(name)
            if asked is not None and asked not in known:
                raise BadInput(f"There is no {what} {asked!r}.", f"There are {', '.join(known)}.")
        return replace(self, **{name: value for name, value in switches.items() if value is not None})


OWN = Stack()


@dataclass(frozen=True)
class Preset:
    """A stack by name, what it stands for, and where its settings were read."""

    stack: Stack
    title: str
    source: str
    notes: tuple[str, ...] = field(default=())


PRESETS: dict[str, Preset] = {
    p.stack.name: p
    for p in (
        Preset(OWN, "Deltalab", "core/train.py"),
        Preset(
            Stack("transformers", low_rank="steps", loss="all", keeps_logits=4, cache=True),
            "transformers' Trainer with PEFT, bf16=True",
            "transformers/trainer.py and loss/loss_utils.py; accelerate/utils/operations.py (convert_to_fp32)",
        ),
        Preset(
            Stack(
                "peft", autocast=False, low_rank="steps", loss="all", repeated_keys=True,
                padded=True, optimizer="foreach", keeps_logits=2, cache=True,
            ),
            "a plain loop with transformers and PEFT, without autocast, on padded batches",
            "huggingface/peft, method_comparison/MetaMathQA/run.py",
        ),
        Preset(
            Stack(
                "torchtune", autocast=False, adapters="bfloat16", low_rank="steps", loss="all",
                repeated_keys=True,
            ),
            "torchtune's single-device recipes",
            "pytorch/torchtune, modules/attention.py, modules/loss, recipes/*_single_device.py",
            ("--loss chunked, --compile, --optimizer-in-backward, --offload-activations are its switches",),
        ),
        Preset(
            Stack(
                "litgpt", model="litgpt", autocast=False, adapters="bfloat16", low_rank="steps",
                loss="chunked", repeated_keys=True, optimizer="foreach", packed_inputs=True,
            ),
            "LitGPT with precision bf16-true",
            "Lightning-AI/litgpt, litgpt/model.py, litgpt/lora.py, litgpt/finetune/lora.py",
        ),
    )
}  # fmt: skip


def stack_named(name: str) -> Stack:
    """A preset's stack.

    Raises:
        BadInput: there is none of that name.
    """
    found = PRESETS.get(name.strip().lower())
    if found is None:
        raise BadInput(f"There is no way of training called {name!r}.", f"There are {', '.join(PRESETS)}.")
    return found.stack


__all__ = ["ADAPTERS", "LOSSES", "OPTIMIZERS", "OWN", "PRESETS", "Preset", "Stack", "stack_named"]
