"""One run in several processes is the run that one process would make: real processes, gloo, CPU.

The same rows, rates and seeds; what differs is the order in which float32 numbers are added (a batch's rows in two
sums instead of one). Importing torch costs a process seconds, so the runs of many tests share one start of two.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from core import events
from core.batches import IGNORED, Batch
from core.config import RunConfig, problems, resolved, with_settings
from core.distributed import World
from core.errors import BadInput
from core.methods import METHODS
from core.processes import started, trainer
from core.train import CHECKPOINT, train
from tests import checkpoints

ROOT = Path(__file__).parents[2]
STEPS = 4
# Sums of some dozen float32 numbers in another order differ by a few 2⁻²³ ≈ 1e-7 of their size; a loss and a norm are
# made of such sums, one behind the other through two layers.
SUMS = 2e-6
# Adam divides by the size of a gradient: where that is near zero, rounding decides the sign of a whole step. So single
# weights may differ by a step or two (the rate is 1e-2 there), and what is compared closely is their mean difference.
MEAN = 1e-4
SHARDED = [name for name in METHODS if METHODS[name].BASE != "quantized"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base (biases, tied embeddings), one with dropout, and rows to learn."""
    folder = tmp_path_factory.mktemp("together")
    checkpoints.write("llama_biased", folder)
    checkpoints.write("gpt2", folder)
    lines = [{"prompt": "twice " + "very " * (i % 5) + str(i), "completion": f"{2 * i}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def config(place: Path, method: str = "lora", family: str = "llama_biased", **loop: Any) -> RunConfig:
    """Batches of five: two processes get three rows and two."""
    settings = {
        "learning_rate": 1e-2, "steps": STEPS, "batch_size": 5, "eval_items": 4, "eval_every": 2,
        "precision": "float32",
    } | loop  # fmt: skip
    run = RunConfig(base=str(place / family), task=None, data=str(place / "rows.jsonl"), method=method)
    return resolved(with_settings(run, settings))


def embedded(**loop: Any) -> RunConfig:
    settings = {"steps": 2, "batch_size": 8, "eval_items": 9, "skill_items": 3, "precision": "float32"} | loop
    return resolved(with_settings(RunConfig(task="json", method="lora"), settings))


def runs(place: Path) -> dict[str, dict[str, Any]]:
    """Every run of the two processes, by name."""
    every: dict[str, dict[str, Any]] = {}

    def add(name: str, cfg: RunConfig, folder: str = "", **more: Any) -> None:
        every[name] = {"name": name, "config": cfg.to_dict(), "folder": str(place / (folder or name)), **more}

    for method in METHODS:
        add(f"ddp-{method}", config(place, method))
    for method in SHARDED:
        add(f"fsdp-{method}", config(place, method, parallel="fsdp"))
    for how in ("ddp", "fsdp"):
        # Passes of one row: for the second process none is left. A base with dropout: the random state takes part.
        add(f"{how}-few", config(place, "full", batch_size=1, accumulation=3, parallel=how))
        add(f"{how}-whole", config(place, "full", "gpt2", steps=5, parallel=how))
        add(f"{how}-stopped", config(place, "full", "gpt2", steps=5, parallel=how), f"{how}-parts", stop_after=3)
        add(f"{how}-resumed", config(place, "full", "gpt2", steps=5, parallel=how), f"{how}-parts", resume=True)
        add(f"{how}-half", config(place, "full", parallel=how), stop_after=3)
        add(f"{how}-taken-over", config(place, "full", parallel=how), resume=True)
    add("embedded", embedded())
    add("bad", config(place, data="/nowhere.jsonl") if False else bad(place))
    return every


def bad(place: Path) -> RunConfig:
    """What no process can do: every example is longer than the limit."""
    return config(place, max_length=8)


def alone(cfg: RunConfig, folder: Path, **more: Any) -> list[events.Event]:
    return list(train(cfg, folder, **more))


def stop_after(steps: int) -> Any:
    asked = iter([False] * steps + [True] * 99)
    return lambda: next(asked)


@pytest.fixture(scope="module")
def two(place: Path) -> dict[str, list[events.Event]]:
    """What rank 0 said in each of `runs`, carried out under torchrun by two processes."""
    plan = runs(place)
    for how in ("ddp", "fsdp"):
        # One process begins this run; two take it over.
        alone(config(place, "full", parallel=how), place / f"{how}-taken-over", should_stop=stop_after(3))
    (place / "plan.json").write_text(json.dumps(list(plan.values())), encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
            "tests.core.distributed_runs", str(place / "plan.json"),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, list[events.Event]] = {}
    for one in plan.values():
        told.setdefault(one["folder"], read(Path(one["folder"]) / "events-0.jsonl"))
    return {name: told[one["folder"]] for name, one in plan.items()}


def read(path: Path) -> list[events.Event]:
    return [events.from_dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def steps(stream: list[events.Event]) -> list[events.Step]:
    return [e for e in stream if isinstance(e, events.Step)]


def scores(stream: list[events.Event]) -> list[events.Evaluated]:
    return [e for e in stream if isinstance(e, events.Evaluated)]


def tensors(folder: Path) -> dict[str, Any]:
    out = {}
    for path in sorted((folder / "adapter").rglob("*.safetensors")):
        out |= {f"{path.name}:{name}": tensor for name, tensor in load_file(path).items()}
    return out


def check_equal(stream: list[events.Event], reference: list[events.Event]) -> None:
    """The same run up to rounding: losses, norms, tokens, rates and scores."""
    assert stream[-1].kind == reference[-1].kind == "finished", stream[-1]
    mine, other = steps(stream), steps(reference)
    assert [s.step for s in mine] == [s.step for s in other]
    assert [s.tokens for s in mine] == [s.tokens for s in other]
    assert [s.learning_rate for s in mine] == [s.learning_rate for s in other]
    # The first step comes before any update. Later ones see weights that Adam's division has driven apart a little.
    assert mine[0].loss == pytest.approx(other[0].loss, rel=SUMS)
    assert mine[0].grad_norm == pytest.approx(other[0].grad_norm, rel=10 * SUMS)
    assert [s.loss for s in mine] == pytest.approx([s.loss for s in other], rel=1e-4)
    assert [s.grad_norm for s in mine] == pytest.approx([s.grad_norm for s in other], rel=1e-2)
    assert [(e.step, e.exact_match, e.items, e.skills) for e in scores(stream)] == [
        (e.step, e.exact_match, e.items, e.skills) for e in scores(reference)
    ]
    assert [e.loss for e in scores(stream)] == pytest.approx([e.loss for e in scores(reference)], rel=1e-4)


def check_same_adapter(folder: Path, other: Path) -> None:
    mine, theirs = tensors(folder), tensors(other)
    assert mine.keys() == theirs.keys() != set()
    count = sum(t.numel() for t in mine.values())
    assert sum(float((mine[n] - theirs[n]).abs().sum()) for n in mine) / count < MEAN
    names = [sorted(p.name for p in (f / "adapter").iterdir()) for f in (folder, other)]
    assert names[0] == names[1]
