"""What a training run says while it runs. `core.train.train` yields these; everybody else only consumes them.

The terminal, the worker that fills the store, and the tests all read the same stream. Each event is a frozen dataclass
that becomes a JSON object and back (`to_dict`, `from_dict`), so that a recorded run is the stream, written down.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preparing:
    """The base is fetched from the hub. base: its id; done_bytes: of its weights that are here; total_bytes: in all;
    seconds: since the fetch began."""

    kind = "preparing"
    base: str
    done_bytes: int
    total_bytes: int
    seconds: float


@dataclass(frozen=True)
class Started:
    """The model is loaded and the method attached; nothing has been trained yet.

    config: the resolved RunConfig as a dict (every default filled in). base: name and facts of the base model.
    device, dtype: where and in what precision the step computes. trainable / total: parameters. versions: libraries.
    examples: number of training examples. held_out: number of held-out ones. resumed_at: the step it goes on from.
    """

    kind = "started"
    config: dict[str, Any]
    base: dict[str, Any]
    device: str
    dtype: str
    trainable: int
    total: int
    examples: int
    held_out: int
    steps: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    resumed_at: int = 0
    time: float = 0.0


@dataclass(frozen=True)
class Step:
    """One optimizer step. step counts from 1; loss is the mean over the step's answer tokens, in nats.

    learning_rate: the one used in this step. grad_norm: before clipping. tokens: answer tokens in the step. A
    classifier's loss is the mean over labels, and it counts those.
    seconds: spent in training steps so far (scoring not counted). memory_bytes: allocator peak so far on a GPU,
    resident set of the process on a CPU (0: unknown, as in a process that has carried out other runs).
    """

    kind = "step"
    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    memory_bytes: int = 0


@dataclass(frozen=True)
class Evaluated:
    """Held-out scores at a step (0: before training; the last step: after).

    task: name of what is being learnt. exact_match: share of held-out items answered exactly, 0..1 (None when the data
    has no exact grader run); for a classifier its accuracy, the share of right labels. loss: mean held-out loss in nats
    a token, or a label (None when nothing was held out). skills: the base's old skills, name -> share right, 0..1
    (empty for bases without them). macro_f1: for a classifier the mean of the labels' F1, 0..1, else None.
    """

    kind = "evaluated"
    step: int
    task: str
    exact_match: float | None
    loss: float | None
    items: int
    skills: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    macro_f1: float | None = None


@dataclass(frozen=True)
class Sampled:
    """What the model answered to a few fixed held-out prompts at a step.

    samples: objects with prompt, reference, output and right (bool or None); for a classifier the text, its label, and
    the label that it was given.
    """

    kind = "sampled"
    step: int
    samples: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Saved:
    """Something was written, whole: what is 'checkpoint' or 'adapter'; path is relative to the run's folder."""

    kind = "saved"
    step: int
    what: str
    path: str
    size_bytes: int


@dataclass(frozen=True)
class Finished:
    """The run reached its last step. `ledger` is the measured memory of one step by term
    (core.memory.ledger.Ledger.to_dict), empty when the run was too short to measure one; `predicted` is what the same
    step was expected to take, likewise, or the reason why nothing can be said (core.memory.predicted). `others`: how
    the steps that were not measured were carried out, if in a faster form than that one: 'written out', which takes
    less memory (core.fast.llama), 'with kernels', likewise (core.fast.fused), 'captured' (core.fast.graphed) or
    'compiled' (core.fast.compiled)."""

    kind = "finished"
    step: int
    seconds: float
    first_loss_seconds: float
    peak_bytes: int
    trainable: int
    total: int
    adapter: str
    adapter_bytes: int
    tokens: int
    ledger: dict[str, Any] = field(default_factory=dict)
    predicted: dict[str, Any] = field(default_factory=dict)
    others: str = ""


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop and did so after `step`; its checkpoint allows it to go on from there."""

    kind = "stopped"
    step: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The run cannot go on. failure: the error's kind; sentence: what happened; advice: what to do."""

    kind = "failed"
    step: int
    failure: str
    sentence: str
    advice: str = ""


Event = Preparing | Started | Step | Evaluated | Sampled | Saved | Finished | Stopped | Failed
KINDS: dict[str, type] = {
    c.kind: c for c in (Preparing, Started, Step, Evaluated, Sampled, Saved, Finished, Stopped, Failed)
}


def to_dict(event: Event) -> dict[str, Any]:
    """The event as a JSON-ready dict; its class stands under 'kind'."""
    return {"kind": event.kind, **dataclasses.asdict(event)}


def from_dict(record: dict[str, Any]) -> Event:
    """The inverse of `to_dict`. Unknown fields (from a newer version) are ignored.

    Raises:
        ValueError: the kind is missing or unknown.
    """
    cls = KINDS.get(record.get("kind", ""))
    if cls is None:
        raise ValueError(f"unknown event kind {record.get('kind')!r}")
    known = {f.name for f in dataclasses.fields(cls)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k in known}
    event: Event = cls(**values)
    return event
