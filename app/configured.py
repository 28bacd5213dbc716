"""The runs and measurements that a lesson's cells describe, as the engine takes them. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from app.index import Cell, Lesson
from core.config import RunConfig, resolved, settings_of, with_settings
from core.probes import probe


def experiment(cell: Cell) -> RunConfig:
    """The run of an experiment as the lesson sets it up."""
    body = cell.body
    config = RunConfig.from_dict({k: body[k] for k in ("method", "task", "seed") if k in body})
    return with_settings(config, body.get("settings") or {})


def comparison(cell: Cell, changed: Mapping[str, Any] | None = None) -> dict[str, RunConfig]:
    """The runs of a comparison by name, in order.

    Args:
        changed: common knobs that the learner has turned, name -> value; what a run sets for itself stays.
    """
    body, out = cell.body, {}
    changed = dict(changed or {})
    seed = changed.pop("seed", body.get("seed", 0))
    common = {**(body.get("settings") or {}), **changed}
    for run in body["runs"]:
        record = {"task": body["task"], "method": run["method"], "seed": run.get("seed", seed)}
        out[run["name"]] = with_settings(RunConfig.from_dict(record), {**common, **(run.get("settings") or {})})
    return out


def runs(lesson: Lesson) -> dict[str, RunConfig]:
    """Every run of a lesson, as measurements and recordings name them: an experiment's id, or comparison/run."""
    out: dict[str, RunConfig] = {}
    for cell in lesson.cells:
        if cell.kind == "experiment":
            out[cell.id] = experiment(cell)
        elif cell.kind == "compare":
            out |= {f"{cell.id}/{name}": config for name, config in comparison(cell).items()}
    return out


def measurement(cell: Cell, changed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a measurement, all of them, with those that the learner has changed."""
    what = probe(cell.body["probe"])
    return dataclasses.asdict(settings_of(what.Config, {**(cell.body.get("settings") or {}), **(changed or {})}))


def usual(cell: Cell) -> dict[str, Any]:
    """The defaults of a measurement's settings."""
    return dataclasses.asdict(probe(cell.body["probe"]).Config())


def same(config: RunConfig, recorded: Mapping[str, Any]) -> bool:
    """Whether a run's record is of that config. Knobs that came later are read as their defaults."""
    return resolved(config) == resolved(RunConfig.from_dict(dict(recorded)))
