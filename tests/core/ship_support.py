"""Adapters on tiny real architectures, saved as runs save them: for the tests of what becomes of a run outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch

from core.base import load_base
from core.config import RunConfig
from core.methods import METHODS, attach, loading
from core.probes import Source
from core.runs.schema import runs_table
from core.runs.store import Run, Store
from tests.checkpoints import write
from tests.core.method_support import ids, logits, train


def adapter(base: Path, out: Path, method: str = "lora", seed: int = 7, rate: float = 1e-2, **settings: Any) -> Path:
    """A folder as a run leaves it: `method` trained a little on the checkpoint in `base`."""
    model = load_base(str(base), **loading(method, "float32", "cpu")).model
    torch.manual_seed(seed)
    attached = attach(model, method, METHODS[method].Config(**settings))
    train(attached, steps=6, rate=rate)
    attached.save(out)
    return out


def own_logits(base: Path, folder: Path) -> torch.Tensor:
    """What the model with that adapter computes, unmerged."""
    from core.methods import attach_saved, saved_as

    loaded = load_base(str(base), **loading(saved_as(folder)[0], "float32", "cpu"))
    attach_saved(loaded.model, folder)
    return logits(loaded.model.eval())


def source(base: Path, folder: Path, method: str, data: Path, run: str = "r1", **settings: Any) -> Source:
    """A run as a probe sees it: one on a file of questions and answers, of which a third is held out."""
    config = RunConfig.from_dict(
        {
            "base": str(base), "task": None, "data": str(data), "method": method, "settings": settings,
            "train": {"steps": 4, "held_out": 0.5, "eval_items": 8, "precision": "float32", "max_length": 200},
        }
    ).to_dict()  # fmt: skip
    return Source(run, f"run {run}", config, folder, "float32")


def with_adapter(store: Store, run: Run, folder: Path, method: str, settings: dict[str, Any]) -> Run:
    """A run whose record says that `method` was trained, with `folder` as what it learnt."""
    full = RunConfig.from_dict({"method": method, "settings": settings}).to_dict()["settings"]
    record = json.dumps({**run.config, "method": method, "settings": full})
    with store._write() as c:
        c.execute(sa.update(runs_table).where(runs_table.c.id == run.id).values(config=record))
    shutil.rmtree(run.folder / "adapter")
    shutil.copytree(folder, run.folder / "adapter")
    return store.get(run.id, run.owner)


__all__ = ["adapter", "ids", "logits", "own_logits", "source", "train", "with_adapter", "write"]
