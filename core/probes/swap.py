"""Many adapters on one base: how long a switch takes, what memory it saves, and that the answers stay each run's own.

Three ways to serve n runs are measured side by side: all adapters beside one base in memory (`core.export.rack`, a
switch moves pointers); one adapter in memory, the next read from its folder at every switch; and n models apart.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

from core.config import knob
from core.errors import BadInput
from core.export.rack import Rack
from core.export.subject import (
    check_generates,
    check_one_base,
    computing,
    config_of,
    device,
    folder_bytes,
    held_bytes,
    load_plain,
    load_run,
    precision_of,
    questions,
)
from core.methods import METHODS
from core.probes import Subject, Tell

TITLE = "Hot-swap"
RUNS = (2, 8)


@dataclass(frozen=True)
class Config:
    """How often, and what is asked after each switch."""

    switches: int = knob(
        40, "How many switches are timed.", unit="switches", low=4, high=2000,
        why="A switch takes less than a millisecond; its median needs some.",
    )  # fmt: skip
    questions: int = knob(
        6, "Held-out questions of every run that are asked right after a switch.", unit="questions", low=1, high=50,
        why="Whether the right adapter is in place shows in its answers.",
    )  # fmt: skip


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Switch, time, and compare.

    Returns:
        runs: id, title, method, adapter_bytes (tensors in memory), folder_bytes. switch_seconds: [lowest, median,
        highest] with all in memory. load_seconds: the same, with each read from its folder (None: their methods or
        settings differ, so one cannot be read into the other's place). base_bytes; one_base_bytes: the base and all
        adapters; models_bytes: as many models of their own, merged where that can be. equal: share of the answers
        right after a switch that are the run's own to the letter; differ: largest difference of its logits.

    Raises:
        BadInput: runs of several bases, or the same run twice.
        Refused: quantized bases and such in full precision together.
    """
    from core.evaluate import generate

    check_one_base(subject.runs)
    check_generates(subject.runs)
    if len({run.id for run in subject.runs}) < len(subject.runs):
        raise BadInput("A run is chosen twice.", "Choose different runs.")
    precisions = {precision_of(run) for run in subject.runs}
    precision = "bfloat16" if precisions == {"bfloat16"} else "float32"
    methods = {run.id: config_of(run).method for run in subject.runs}

    alone: dict[str, tuple[list[str], Any]] = {}
    asked: dict[str, list[Any]] = {}
    models_bytes = 0
    for number, run in enumerate(subject.runs):
        tell(0.4 * number / len(subject.runs), f"{run.title or run.id}: its answers by itself")
        base, attached = load_run(run)
        held_out: Any = questions(run, base, config.questions)
        asked[run.id] = [item.messages for item in held_out.items]
        with computing(precision):
            answers = generate(base.model, base.tokenizer, asked[run.id], 48)
            alone[run.id] = (answers, _logits(base, asked[run.id]))
        models_bytes += held_bytes(attached.merge() if METHODS[methods[run.id]].MERGES else base.model)
        del base, attached

    tell(0.45, "All of them beside one base")
    base = load_plain(subject.runs[0], methods[subject.runs[0].id])
    rack = Rack(base.model, device())
    for run in subject.runs:
        rack.add(run.id, run.adapter)
    rack.use(None)
    base_bytes = held_bytes(base.model)
    held = [rack.tensors(run.id) for run in subject.runs]
    equal, differ = [], 0.0
    for number, run in enumerate(subject.runs):
        tell(0.5 + 0.3 * number / len(subject.runs), f"Switched to {run.title or run.id}")
        rack.use(run.id)
        with computing(precision):
            answers = generate(base.model, base.tokenizer, asked[run.id], 48)
            logits = _logits(base, asked[run.id])
        equal += [a == b for a, b in zip(answers, alone[run.id][0], strict=True)]
        differ = max(differ, float((logits - alone[run.id][1]).abs().max()))
    tell(0.85, "Timing the switches")
    order = [run.id for run in subject.runs]
    taken = []
    for number in range(config.switches):
        began = time.perf_counter()
        rack.use(order[number % len(order)])
        taken.append(time.perf_counter() - began)
    return {
        "runs": [
            {
                "id": run.id, "title": run.title, "method": methods[run.id], "adapter_bytes": held_bytes(tensors),
                "folder_bytes": folder_bytes(run.adapter),
            }
            for run, tensors in zip(subject.runs, held, strict=True)
        ],
        "switch_seconds": _spread(taken),
        "load_seconds": _from_disk(subject, methods, config.switches),
        "base_bytes": base_bytes,
        "one_base_bytes": base_bytes + held_bytes(*held),
        "models_bytes": models_bytes,
        "equal": sum(equal) / len(equal),
        "differ": differ,
        "questions": len(equal),
    }  # fmt: skip


def _spread(seconds: list[float]) -> list[float]:
    return [min(seconds), statistics.median(seconds), max(seconds)]


def _logits(base: Any, prompts: list[Any]) -> Any:
    """Those of the last position of the first prompt, on the CPU."""
    import torch

    from core.template import prompt_ids

    ids = torch.tensor([prompt_ids(base.tokenizer, prompts[0])], device=device())
    return base.model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu()


def _from_disk(subject: Subject, methods: dict[str, str], switches: int) -> list[float] | None:
    """Reading each adapter from its folder into the place of the one before."""
    settings = {repr(config_of(run).settings) for run in subject.runs}
    if len(set(methods.values())) > 1 or len(settings) > 1:
        return None
    _, attached = load_run(subject.runs[0])
    taken = []
    for number in range(1, min(switches, 20) + 1):
        run = subject.runs[number % len(subject.runs)]
        began = time.perf_counter()
        attached.load(run.adapter)
        taken.append(time.perf_counter() - began)
    return _spread(taken)
