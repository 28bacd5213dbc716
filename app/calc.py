"""The numbers that a lesson may print: a whitelist of named, typed functions over the engine.

A lesson writes {calc}`lora_parameters(d=192, k=192, r=8)` and gets `3,072`. The expression is parsed, not evaluated:
one call of a function of this module, with keyword arguments that are plain numbers or texts. Nothing else is
understood, so a lesson can neither run code nor show a number that nobody computed.

A topic that needs more functions is a file calc_<topic>.py here with FUNCTIONS of its own: name -> (function, how its
result is printed).
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from app import words
from app.numbers import grouped, percent, plain
from core import syntax
from core.errors import BadInput
from core.units import KIB, MIB, bytes_text, count_text, seconds_text

TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


@dataclass(frozen=True)
class Call:
    """A parsed expression: the function's name and its arguments, already checked against its signature."""

    name: str
    arguments: dict[str, int | float | str]


def example(task: str, part: str, item: int = 0) -> str:
    """A held-out item of a task or skill of the small world: its prompt or its answer."""
    from core.world import examples

    if part not in ("prompt", "answer"):
        raise BadInput(f"An example has the parts prompt and answer, not {part!r}.")
    try:
        found = examples(task, "heldout", item + 1, seed=0)[item]
    except ValueError as error:
        raise BadInput(str(error)) from None
    return found.prompt if part == "prompt" else found.completion


def matrix_parameters(d: int, k: int) -> float:
    """Weights in one matrix with d rows and k columns."""
    return float(d * k)


def lora_parameters(d: int, k: int, r: int) -> float:
    """Weights that LoRA of rank r trains beside one d × k matrix: those of B (d × r) and A (r × k)."""
    from core.methods.lora import pair_parameters

    return float(pair_parameters(k, d, r))


def lora_percent(d: int, k: int, r: int) -> float:
    """The same as a share of the matrix, in per cent."""
    return 100 * lora_parameters(d, k, r) / matrix_parameters(d, k)


def default(method: str, knob: str) -> float:
    """The default of a numeric knob of a method or of the training loop, on the json task of the embedded base."""
    from core.config import RunConfig, resolved

    config = resolved(RunConfig(method=method))
    part = config.settings if hasattr(config.settings, knob) else config.train
    value = getattr(part, knob, None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"{method} has no numeric knob called {knob}.")
    return float(value)


@lru_cache
def _embedded() -> dict[str, Any]:
    from core.base import describe_base
    from core.config import EMBEDDED

    return describe_base(EMBEDDED)


def base_parameters() -> float:
    """Parameters of the embedded base."""
    return float(_embedded()["parameters"])


def base_bytes() -> float:
    """Size of the embedded base's weights on disk, in bytes."""
    from core.base import EMBEDDED_FOLDER

    return float(sum(f.stat().st_size for f in EMBEDDED_FOLDER.glob("*.safetensors")))


def recorded(folder: Path, run: str, what: str) -> float:
    """A figure of the lesson's recorded run `run` (see `core.runs.recorded`); `what` is a key of `quantities`."""
    figures = quantities(recorded_events(folder / "runs" / f"{run}.jsonl"))
    if what not in figures:
        raise BadInput(f"The recorded run {run} has no figure {what!r}.", f"It has {', '.join(sorted(figures))}.")
    return figures[what]


def probed(folder: Path, probe: str, what: str) -> float:
    """A figure of the lesson's recorded measurement `probe`; `what` is a key of `probe_quantities`."""
    figures = probe_quantities(probed_result(folder / "runs" / f"{probe}.json")["result"])
    if what not in figures:
        raise BadInput(f"The recorded measurement {probe} has no figure {what!r}.", f"It has {_some(figures)}.")
    return figures[what]


def probed_percent(folder: Path, probe: str, what: str) -> float:
    """The same for a figure that is a share, in per cent."""
    return 100 * probed(folder, probe, what)


def _some(figures: dict[str, float]) -> str:
    return ", ".join(list(figures)[:40]) + (" …" if len(figures) > 40 else "")


def probed_result(path: Path) -> dict[str, Any]:
    """A recorded measurement: {"provenance", "probe", "of", "settings", "seconds", "result"}.

    Raises:
        BadInput: there is no such file.
    """
    try:
        return _read_json(path, path.stat().st_mtime_ns)
    except OSError:
        raise BadInput(f"There is no recorded measurement {path.name}.", "Make it: deltalab lessons record.") from None


@lru_cache(maxsize=32)
def _read_json(path: Path, _stamp: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def probe_quantities(result: Any, name: str = "") -> dict[str, float]:
    """Every number in a measurement's result by its path: 'mean', 'change.learnt', 'rows.0.exact_match' (lists are
    counted from 0)."""
    if isinstance(result, bool) or result is None:
        return {}
    if isinstance(result, (int, float)):
        return {name: float(result)}
    parts: list[tuple[Any, Any]] = []
    if isinstance(result, dict):
        parts = list(result.items())
    elif isinstance(result, list):
        parts = list(enumerate(result))
    out: dict[str, float] = {}
    for key, part in parts:
        out |= probe_quantities(part, f"{name}.{key}" if name else str(key))
    return out


def recorded_events(path: Path) -> list[dict[str, Any]]:
    """The lines of a recorded run: its provenance first, then its events.

    Raises:
        BadInput: there is no such file.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        raise BadInput(
            f"There is no recorded run {path.name}.", "Record it with the engine (core.runs.recorded)."
        ) from None


@lru_cache(maxsize=32)
def _read(path: Path, _stamp: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def quantities(events: list[dict[str, Any]]) -> dict[str, float]:
    """Named figures of a run, from its events: what predictions are measured against and lessons print.

    Shares are in per cent, losses in nats a token, sizes in bytes (peak_mib in MiB), times in seconds. A figure that
    the run has not reached yet is absent, and so are the scores of items when none were held out; the `_after` figures
    and the totals appear only when the run has finished.
    """
    out: dict[str, float] = {}
    started = next((e for e in events if e["kind"] == "started"), None)
    finished = next((e for e in events if e["kind"] == "finished"), None)
    scores = [e for e in events if e["kind"] == "evaluated"]
    steps = [e for e in events if e["kind"] == "step"]
    if started:
        out |= {"trainable": started["trainable"], "total": started["total"], "steps": started["steps"]}
        out["trainable_percent"] = 100 * started["trainable"] / max(started["total"], 1)
        out |= {"examples": started["examples"], "held_out": started["held_out"]}
    if steps:
        out["first_loss"] = steps[0]["loss"]
    ends = [("before", scores[0])] if scores and scores[0]["step"] == 0 else []
    if finished and scores:
        ends.append(("after", scores[-1]))
    for name, score in ends:
        if score["loss"] is not None:
            out[f"loss_{name}"] = score["loss"]
        if score.get("exact_match") is not None:
            out[f"exact_match_{name}"] = 100 * score["exact_match"]
        skills = score.get("skills") or {}
        if skills:
            out[f"skills_{name}"] = 100 * sum(skills.values()) / len(skills)
            out |= {f"{skill}_{name}": 100 * share for skill, share in skills.items()}
    if finished:
        out["seconds"] = finished["seconds"]
        out["first_loss_seconds"] = finished["first_loss_seconds"]
        out["adapter_bytes"] = finished["adapter_bytes"]
        out["peak_bytes"] = finished["peak_bytes"]
        out["peak_mib"] = finished["peak_bytes"] / MIB
        if steps:
            out["last_loss"] = steps[-1]["loss"]
        if len(steps) > 1 and started and "config" in started and "seconds" in steps[0]:
            # (The first step pays for what is done once, so it is left out.)
            out["step_seconds"] = (steps[-1]["seconds"] - steps[0]["seconds"]) / (len(steps) - 1)
            out["batch_size"] = started["config"]["train"]["batch_size"]
            out["examples_per_second"] = out["batch_size"] / out["step_seconds"] if out["step_seconds"] else 0.0
    return out


def unit_of(what: str) -> str:
    """The unit of a loss or a share of `quantities`: "nats" or "percent"; "" for all other figures."""
    if what.startswith(("loss_", "first_loss", "last_loss")) and not what.endswith("_seconds"):
        return "nats"
    return "percent" if what.endswith(("_before", "_after", "_percent")) else ""


def quantity_text(what: str, value: float) -> str:
    """A figure of `quantities` for a person, with its unit."""
    if what.endswith("_bytes"):
        return bytes_text(value)
    if what == "peak_mib":
        return f"{value:.0f} MiB"
    if what == "step_seconds":
        return f"{1000 * value:.0f} ms" if value < 1 else seconds_text(value)
    if what == "seconds" or what.endswith("_seconds"):
        return seconds_text(value)
    unit = unit_of(what)
    if unit == "nats":
        return f"{value:.2f}" if value >= 0.1 else plain(float(f"{value:.2g}"))
    if what in ("trainable", "total", "steps", "examples", "held_out", "batch_size"):
        return grouped(value)
    return percent(value) if unit == "percent" else plain(value)


def probe_text(what: str, value: float) -> str:
    """A figure of `probe_quantities` for a person; the last part of its path says what it is."""
    last = what.rsplit(".", 1)[-1]
    if last.endswith("bytes"):
        return bytes_text(value)
    if last.endswith("seconds"):
        return seconds_text(value)
    if last in ("exact_match", "share"):
        return percent(100 * value)
    return grouped(value) if float(value).is_integer() else plain(value)


def knob_figures(events: list[dict[str, Any]]) -> dict[str, float]:
    """The numeric settings that a run was made with, by name: rank, learning_rate, steps …"""
    config: dict[str, Any] = next((e["config"] for e in events if e["kind"] == "started" and "config" in e), {})
    settings = {**config.get("train", {}), **(config.get("settings") or {}), "seed": config.get("seed")}
    return {k: float(v) for k, v in settings.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def run_figures(events: list[dict[str, Any]]) -> dict[str, float]:
    """What a comparison may show of a run: its settings, and what came out (`quantities`)."""
    return knob_figures(events) | quantities(events)


def quantity_title(what: str) -> str:
    """What a figure is called: 'exact_match_after' -> 'Task after', 'learning_rate' -> 'Learning rate'."""
    if words.has(key := f"quantity.{what}"):
        return words.t(key)
    spelt = what.replace("_", " ")
    return spelt[:1].upper() + spelt[1:]


def quantity_axis(what: str) -> tuple[str, float]:
    """The unit of an axis that shows a figure, and what a value is divided by for it."""
    if what.endswith("_bytes"):
        return ("MiB", MIB) if what == "peak_bytes" else ("KiB", KIB)
    if what == "seconds" or what.endswith("_seconds"):
        return "s", 1.0
    shown = {"nats": words.t("charts.nats"), "percent": "%", "": ""}
    return shown[unit_of(what)], 1.0


def less_is_better(what: str) -> bool:
    """Whether the smaller of two such figures is the better one."""
    return not what.endswith(("_before", "_after", "_per_second")) or what.startswith("loss_")


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {
    "matrix_parameters": (matrix_parameters, grouped),
    "lora_parameters": (lora_parameters, grouped),
    "lora_percent": (lora_percent, percent),
    "default": (default, plain),
    "base_parameters": (base_parameters, count_text),
    "base_bytes": (base_bytes, bytes_text),
    "recorded": (recorded, plain),
    "probed": (probed, plain),
    "probed_percent": (probed_percent, percent),
    "example": (example, str),
}


def _of_topics() -> dict[str, tuple[Callable[..., Any], Callable[[Any], str]]]:
    """The FUNCTIONS of app/calc_<topic>.py, which know nothing of this module."""
    found: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {}
    for path in sorted(Path(__file__).parent.glob("calc_*.py")):
        more = import_module(f"app.{path.stem}").FUNCTIONS
        twice = sorted(set(more) & (set(found) | set(FUNCTIONS)))
        if twice:
            raise RuntimeError(f"{path.name} has calc functions that are there already: {', '.join(twice)}")
        found |= more
    return found


FUNCTIONS |= _of_topics()


def parse(expression: str) -> Call:
    """Read one expression and check it against the function's signature.

    Raises:
        BadInput: not a single call of a known function with plain keyword arguments of the right types.
    """
    try:
        node = syntax.tree(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise BadInput(f"{expression!r} is not a function call.") from None
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise BadInput(f"{expression!r} is not a function call.", "Write name(argument=value).")
    name = node.func.id
    if name not in FUNCTIONS:
        close = difflib.get_close_matches(name, FUNCTIONS, 3, cutoff=0.5)
        advice = f"Perhaps {' or '.join(close)}. " if close else ""
        raise BadInput(f"There is no calc function {name!r}.", f"{advice}All are in FUNCTIONS of app/calc*.py.")
    if node.args:
        raise BadInput(f"{name} takes named arguments only.", "Write name(argument=value).")
    wanted = {k: p for k, p in inspect.signature(FUNCTIONS[name][0]).parameters.items() if k != "folder"}
    given: dict[str, int | float | str] = {}
    wrong: list[str] = []
    for keyword in node.keywords:
        if not isinstance(keyword.value, ast.Constant):
            wrong.append(f"{keyword.arg} is not a plain number or text")
            continue
        value = keyword.value.value
        if keyword.arg is None or keyword.arg not in wanted:
            wrong.append(f"it takes no argument {keyword.arg!r}")
        elif (
            isinstance(value, (int, float, str))
            and not isinstance(value, bool)
            and isinstance(value, TYPES[wanted[keyword.arg].annotation])
        ):
            given[keyword.arg] = value
        else:
            wrong.append(f"{keyword.arg} must be {wanted[keyword.arg].annotation}, not {value!r}")
    refused = {k.arg for k in node.keywords}
    wrong += [f"it needs {k}" for k, p in wanted.items() if p.default is p.empty and k not in refused]
    if wrong:
        raise BadInput(f"{name}: {'; '.join(wrong)}.")
    return Call(name, given)


def value(call: Call, folder: Path) -> float:
    """The number of `call`; `folder` is the lesson's own, where its recorded runs lie.

    Raises:
        BadInput: the engine refuses the arguments.
    """
    found = _run(call, folder)
    if isinstance(found, str):
        raise BadInput(f"{call.name} gives a text, not a number.")
    return float(found)


def _run(call: Call, folder: Path) -> Any:
    function = FUNCTIONS[call.name][0]
    own = {"folder": folder} if "folder" in inspect.signature(function).parameters else {}
    return function(**own, **call.arguments)


def text(call: Call, folder: Path) -> str:
    """The number of `call` as it is printed in a sentence, with its unit."""
    found = _run(call, folder)
    if call.name == "recorded":
        return quantity_text(str(call.arguments["what"]), found)
    if call.name == "probed":
        return probe_text(str(call.arguments["what"]), found)
    return FUNCTIONS[call.name][1](found)
