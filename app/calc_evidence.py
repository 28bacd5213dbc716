"""Numbers about methods, for lessons: what they train, what others published, what the sweep found, what is shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.numbers import grouped, percent
from core.errors import BadInput


def _settings(method: str, rank: int, targets: str, tokens: int) -> Any:
    from core.methods import METHODS

    if method not in METHODS:
        raise BadInput(f"There is no method {method!r}.")
    given = {"rank": rank, "target_modules": targets, "tokens": tokens}
    return METHODS[method].Config(**{k: v for k, v in given.items() if v})


def trains_on(model: str, method: str, rank: int = 0, targets: str = "", tokens: int = 0) -> float:
    """Parameters that a method trains on a catalogue model; 0 where the model has no place for it."""
    from core.catalog import architecture_of
    from core.counting import count

    return float(count(architecture_of(model), method, _settings(method, rank, targets, tokens)).trainable or 0)


def trains_share(model: str, method: str, rank: int = 0, targets: str = "", tokens: int = 0) -> float:
    """The same in per cent of the model's parameters."""
    from core.catalog import architecture_of

    return 100 * trains_on(model, method, rank, targets, tokens) / architecture_of(model).total


def adapter_size(model: str, method: str, rank: int = 0, targets: str = "", tokens: int = 0) -> float:
    """Bytes saved for one task."""
    from core.catalog import architecture_of
    from core.memory.storage import storage

    return float(storage(architecture_of(model), method, _settings(method, rank, targets, tokens)).adapter)


def pair_bytes(d: int, k: int, r: int) -> float:
    """Bytes of LoRA's pair beside one d × k matrix, saved in 32 bits."""
    from core.memory.storage import TRAINED
    from core.methods.lora import pair_parameters

    return pair_parameters(k, d, r) * TRAINED


def base_width() -> float:
    """Width of the embedded base: numbers that stand for a token."""
    import json

    from core.base import EMBEDDED_FOLDER

    return float(json.loads((EMBEDDED_FOLDER / "config.json").read_text(encoding="utf-8"))["hidden_size"])


def published_score(method: str, experiment: str, what: str) -> float:
    """A figure of PEFT's method comparison (core.literature): accuracy (per cent) or trainable."""
    from core.literature import method_comparison

    row = next((r for r in method_comparison() if (r.method, r.experiment) == (method, experiment)), None)
    if row is None:
        raise BadInput(f"The published comparison has no {method} ({experiment}).")
    known = {"accuracy": 100 * row.test_accuracy, "trainable": float(row.trainable)}
    if what not in known:
        raise BadInput(f"Known of a published run are {', '.join(known)}, not {what!r}.")
    return known[what]


def swept(method: str, task: str, learning_rate: float, what: str) -> float:
    """A run of the sweep on the embedded base, in per cent: learnt (the task), kept or lost (the old skills)."""
    from core.forgetting import swept_point

    row = swept_point(method, task, learning_rate)
    known = {"learnt": row.learnt, "kept": row.kept, "lost": row.lost}
    if what not in known:
        raise BadInput(f"Known of a run of the sweep are {', '.join(known)}, not {what!r}.")
    return 100 * known[what]


def usual(method: str, task: str, knob: str) -> float:
    """The default of a numeric knob of the training loop for a method on a task of the embedded base."""
    from core.config import RunConfig, resolved

    value = getattr(resolved(RunConfig(method=method, task=task)).train, knob, None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"The training loop has no numeric knob called {knob}.")
    return float(value)


def replayed(new: int, share: float) -> float:
    """How many old examples make that share beside `new` ones."""
    from core.material import replayed_count

    return float(replayed_count(new, share))


def shelf(model: str, tasks: int, adapter_mb: float, what: str) -> float:
    """Disk for many tasks: `base` (16 bits), `whole` models, base and adapters (`total`), all in bytes; or what is
    `saved`, in per cent."""
    from core.catalog import architecture_of
    from core.memory.storage import Storage
    from core.units import DTYPE_BYTES, MB

    base = round(architecture_of(model).total * DTYPE_BYTES["bfloat16"])
    found = Storage(base, round(adapter_mb * MB), 0, tasks)
    known = {"base": found.base, "whole": found.whole, "total": found.total, "saved": 100 * found.saved_share}
    if what not in known:
        raise BadInput(f"Known of a shelf are {', '.join(known)}, not {what!r}.")
    return float(known[what])


def shelf_text(model: str, tasks: int, adapter_mb: float, what: str) -> str:
    """`shelf` for a person."""
    from core.claims import decimal_text

    value = shelf(model, tasks, adapter_mb, what)
    return f"{value:.1f} %" if what == "saved" else decimal_text(value)


def ledger_figure(claim: int, figure: str) -> str:
    """A figure of the claims ledger as it is told there."""
    return _figure(claim, figure).text


def ledger_value(claim: int, figure: str) -> float:
    """Its value, in the ledger's own unit."""
    return float(_figure(claim, figure).value)


def _figure(number: int, name: str) -> Any:
    from core.claims import claim as computed

    figures = computed(number).figures
    found = next((f for f in figures if f.name == name), None)
    if found is None:
        raise BadInput(f"Claim {number} has no figure {name!r}.", f"It has {', '.join(f.name for f in figures)}.")
    return found


def scored_at(folder: Path, run: str, step: int, what: str) -> float:
    """Scores of a recorded run in between, in per cent: what is task, skills (their mean) or the name of a skill."""
    from app.calc import recorded_events

    events = recorded_events(folder / "runs" / f"{run}.jsonl")
    looks = {e["step"]: e for e in events if e["kind"] == "evaluated"}
    if step not in looks:
        raise BadInput(f"The run {run} was not scored at step {step}.", f"It was at {', '.join(map(str, looks))}.")
    skills = looks[step]["skills"]
    known = {"task": looks[step]["exact_match"], "skills": sum(skills.values()) / max(1, len(skills)), **skills}
    if what not in known:
        raise BadInput(f"The run {run} has no score called {what!r}.", f"It has {', '.join(known)}.")
    return 100 * float(known[what])


def merged(folder: Path, probe: str, form: str, what: str) -> str:
    """Of a recorded merge: exact_match, skills (mean) or same (answers equal to the trained model's), in per cent."""
    row = _row(folder, probe, "form", form)
    value = sum(row["skills"].values()) / len(row["skills"]) if what == "skills" else row.get(what)
    if value is None:
        raise BadInput(f"The merged model {form!r} has no {what!r}.")
    return f"{100 * value:.0f} %"


def delayed(folder: Path, probe: str, label: str, what: str) -> str:
    """Of a recorded latency measurement: what a label takes: `times` (the base's time for a further token, median) or
    decode_ms."""
    row = _row(folder, probe, "label", label)
    return f"{row['decode_ratio'][1]:.2f}" if what == "times" else f"{row['decode_ms']:.1f} ms"


def _row(folder: Path, probe: str, key: str, value: str) -> Any:
    from app.calc import probed_result

    rows = probed_result(folder / "runs" / f"{probe}.json")["result"]["rows"]
    found = next((r for r in rows if r[key] == value), None)
    if found is None:
        raise BadInput(f"The measurement {probe} has no row {value!r}.", f"It has {', '.join(r[key] for r in rows)}.")
    return found


def _bytes(value: float) -> str:
    from core.claims import decimal_text

    return decimal_text(value)


def _published_text(value: float) -> str:
    return f"{value:,.0f}" if value > 100 else f"{value:.1f} %"


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {
    "trains_on": (trains_on, grouped),
    "trains_share": (trains_share, percent),
    "adapter_size": (adapter_size, _bytes),
    "pair_bytes": (pair_bytes, grouped),
    "base_width": (base_width, grouped),
    "published_score": (published_score, _published_text),
    "swept": (swept, percent),
    "usual": (usual, lambda v: f"{v:g}"),
    "replayed": (replayed, grouped),
    "shelf": (shelf, grouped),
    "shelf_text": (shelf_text, str),
    "ledger_figure": (ledger_figure, str),
    "ledger_value": (ledger_value, lambda v: f"{v:.4g}"),
    "scored_at": (scored_at, percent),
    "merged": (merged, str),
    "delayed": (delayed, str),
}
