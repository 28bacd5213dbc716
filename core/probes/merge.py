"""What merging costs: a run's scores as it was trained, merged in full precision, and with merged weights rounded.

Rounding happens in two places, and they are told apart. A base in 4 bits answers a little differently from the base
(that is there before any adapter), and a merged weight that is stored in 4 bits is rounded once more, this time
together with what was learnt: Q(W + ΔW) − (W + ΔW) may be larger than ΔW itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from core.base import load_base, stored_base
from core.config import knob
from core.export.merged import FORMATS, quantize, write
from core.export.subject import (
    check_merges,
    config_of,
    device,
    folder_bytes,
    load_plain,
    load_run,
    precision_of,
    questions,
    scores,
)
from core.methods import LORAS, attach_saved, lora, qlora, rslora, saved
from core.probes import Source, Subject, Tell
from core.probes.delta import changes

TITLE = "Merging"
RUNS = (1, 1)
FOLDER = "merged"


@dataclass(frozen=True)
class Config:
    """items: how many. keep: the format of the model that stays."""

    items: int = knob(
        100, "How many held-out items of the task, and of each old skill, are asked.", unit="items", low=1, high=1000,
        why="As many as the run itself was scored on, by default.",
    )  # fmt: skip
    keep: str = knob(
        "none", "Keep the merged model in this format, to be downloaded.", choices=("none", *FORMATS),
        why="A merged model is as large as its base.",
    )  # fmt: skip


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Scores of each form, and what its rounding changed.

    Returns:
        rows: form ('trained', 'float32', 'bfloat16', 'four_bit_base', 'nf4'), its scores, and same: the share of
        answers to the task that are the trained model's to the letter. change: ‖ΔW‖ (learnt) and
        ‖Q(W + ΔW) − (W + ΔW)‖ (rounded) over the matrices that both are known for, and module by module. kept: name,
        format and size of the folder that stayed, or None.

    Raises:
        Refused: a method that cannot be merged.
    """
    (run,) = subject.runs
    method = config_of(run).method
    check_merges(method)
    # Where the folder is an ordinary LoRA, it can also be put beside a base in 4 bits as it is.
    few = stored_base(run.config["base"], run.config.get("revision")) is not None
    beside = ["four_bit_base"] if method in LORAS and method not in ("qlora", "dora") and not few else []
    steps = ["trained", "float32", "bfloat16", *beside, "nf4"]
    rows: list[dict[str, Any]] = []
    reference: tuple[str, ...] = ()
    rounding: dict[str, float] = {}
    change: dict[str, float] = {}
    kept = None
    for number, form in enumerate(steps):
        tell(number / len(steps), f"Scoring it {LABELS[form]}")
        base, model, found = _form(run, form)
        if form == "trained":
            change = found
        elif form == "nf4":
            rounding = found
        asked = questions(run, base, config.items)
        got = scores(model, base, asked, precision_of(run))
        reference = got.answers if form == "trained" else reference
        same = sum(a == b for a, b in zip(got.answers, reference, strict=True))
        rows.append(
            {
                "form": form, "label": LABELS[form], **got.to_dict(),
                "same": same / len(reference) if reference else None, "items": asked.held_out,
            }
        )  # fmt: skip
        del base, model
    if config.keep != "none":
        tell(0.95, "Writing the merged model")
        base, model, _ = _form(run, "float32")
        written = write(model, base.tokenizer, subject.folder / FOLDER, method=method, stored=config.keep)
        kept = {"where": subject.folder.name, "folder": FOLDER, "format": config.keep, "bytes": written.size_bytes}
    both = [m for m in change if m in rounding]
    return {
        "method": method,
        "rows": rows,
        "adapter_bytes": folder_bytes(run.adapter),
        "kept": kept,
        "change": {
            "learnt": math.sqrt(sum(change[m] ** 2 for m in both)) if both else None,
            "rounded": math.sqrt(sum(rounding[m] ** 2 for m in both)) if both else None,
            "modules": [{"module": m, "learnt": change[m], "rounded": rounding[m]} for m in both],
        },
    }


LABELS = {
    "trained": "as it was trained",
    "float32": "merged, in float32",
    "bfloat16": "merged, in bfloat16",
    "four_bit_base": "unmerged, beside the base in NF4",
    "nf4": "merged, then stored in NF4",
}


def _form(run: Source, form: str) -> tuple[Any, Any, dict[str, float]]:
    """The base it came from, the model in that form, and norms by module: of ΔW for 'trained', of the rounding for
    'nf4'."""
    import torch

    if form == "four_bit_base":
        return _on_four_bits(run)
    if form == "trained":
        base, attached = load_run(run)
        return base, base.model, _norms(attached)
    config = config_of(run)
    # In float32 whatever the run computed in: a sum that is rounded at once would be the next form.
    head = saved.head_in(run.adapter)
    base = load_base(config.base, revision=config.revision, dtype="float32", device=device(), **head)
    # The same object as base.model, with plain layers in the places of those that were wrapped.
    model: Any = attach_saved(base.model, run.adapter, keep_base=False).merge()
    model.eval()
    if form == "bfloat16":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))
    return base, model, quantize(model) if form == "nf4" else {}


def _on_four_bits(run: Source) -> tuple[Any, Any, dict[str, float]]:
    """A LoRA run's pairs beside the base in NF4: what somebody gets who serves the adapter on a quantized base."""
    import torch

    module: Any = rslora if config_of(run).method == "rslora" else lora
    settings = module.read_config(run.adapter)
    base = load_plain(run, "qlora")
    attached = qlora.apply(
        base.model,
        qlora.Config(
            settings.rank, settings.alpha, settings.target_modules, settings.dropout, settings.rank_pattern,
            settings.bias,
        ),
        device=torch.device(device()),
    )  # fmt: skip
    if module is rslora:
        for layer in attached.layers.values():
            layer.scale = settings.alpha / math.sqrt(layer.rank)
    attached.place(saved.read_tensors(run.adapter / saved.ADAPTER_WEIGHTS), f"The adapter of {run.title}")
    base.model.eval()
    return base, base.model, {}


def _norms(attached: Any) -> dict[str, float]:
    """‖ΔW‖ of every matrix that changed."""
    return {c.path: float(c.delta().norm()) for c in changes(attached) if c.matrix}
