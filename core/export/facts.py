"""What an export says of a run beside its settings: precision, versions, how it went; read from the run's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.export.peft_config import WITHOUT_CONFIG
from core.methods import METHODS

# What the exported scripts were tested with, beyond what the run itself used (tests/core/test_export_script.py).
TESTED = {
    "accelerate": "1.15.0", "datasets": "5.2.0", "peft": "0.21.2", "safetensors": "0.8.0", "trl": "1.16.0",
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """About one run.

    title: what it is called. precision: what its passes computed in, 'float32' or 'bfloat16'. versions: of python and
    packages. told: sentences about how it went. base: what a script loads when nobody says otherwise, a hub id or a
    folder beside it ('': it has to be said). data: the file beside the script, likewise. ordered: the file's lines are
    in the order in which the run saw them, `batch_size` rows a batch (None: the setting's). few_bits: the base was
    stored in few bits before the run, and says so itself.
    """

    title: str = ""
    precision: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    base: str = ""
    data: str = ""
    ordered: bool = False
    batch_size: int | None = None
    labels: tuple[str, ...] = ()
    few_bits: bool = False


def started(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last `started` event: what the run is made of; empty when it never began."""
    found: Mapping[str, Any] = {}
    for event in events:
        if event["kind"] == "started":
            found = event
    return found


def told(events: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """How a run went, in sentences: what it trained, its losses, its scores."""
    events = list(events)
    begun = started(events)
    steps = [e for e in events if e["kind"] == "step"]
    scores = [e for e in events if e["kind"] == "evaluated"]
    out = []
    if begun:
        share = 100 * begun["trainable"] / begun["total"]
        out.append(f"It trained {begun['trainable']:,} of {begun['total']:,} parameters ({share:.3g} %).")
    if steps:
        first, last = steps[0], steps[-1]
        out.append(f"Its loss went from {first['loss']:.3g} to {last['loss']:.3g} in {last['step']} steps.")
    if len(scores) > 1 and None not in (scores[0]["exact_match"], scores[-1]["exact_match"]):
        before, after = (f"{100 * e['exact_match']:.0f} %" for e in (scores[0], scores[-1]))
        classifies = (begun.get("base") or {}).get("labels")
        how = f"gave {after} the right label" if classifies else f"answered {after} exactly"
        out.append(f"Of {scores[-1]['items']} held-out items it {how} (before: {before}).")
    elif len(scores) > 1 and None not in (scores[0]["loss"], scores[-1]["loss"]):
        out.append(f"Its held-out loss went from {scores[0]['loss']:.3g} to {scores[-1]['loss']:.3g}.")
    return tuple(out)


def requirements(method: str, optimizer: str, versions: Mapping[str, str], *, few_bits: bool = False) -> str:
    """requirements.txt for the exported scripts: the run's versions, and those that the scripts were tested with.

    Args:
        few_bits: see Facts.
    """
    names = ["accelerate", "safetensors", "torch", "transformers"]
    if method not in WITHOUT_CONFIG:
        names.append("peft")
    if method == "qlora" or few_bits or optimizer.endswith("8bit"):
        names.append("bitsandbytes")
    return _pinned(names, versions)


def trl_requirements(versions: Mapping[str, str]) -> str:
    """What the script with TRL's trainer needs beside requirements.txt."""
    return "-r requirements.txt\n" + _pinned(["datasets", "trl"], versions)


def _pinned(names: Iterable[str], versions: Mapping[str, str]) -> str:
    found = {name: versions.get(name) or TESTED.get(name, "") for name in sorted(names)}
    # A local build's mark (2.13.0+cpu) is no release that an index has.
    return "".join(f"{n}=={v.partition('+')[0]}\n" if v else f"{n}\n" for n, v in found.items())


def method_title(method: str) -> str:
    """The method's name for people."""
    return METHODS[method].TITLE
