"""A worker that carries out several runs gives each what a fresh process gives it; and what a base scores before."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core import before
from core.before import key_of, scored_before
from core.config import RunConfig, TrainConfig
from core.objective import Scores
from core.runs.store import Store
from core.train import _Run
from tests.core.runs_support import OWNER, store_in

LOOP: dict[str, Any] = {"steps": 3, "train_examples": 96, "eval_items": 6, "skill_items": 2, "eval_every": 3}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = store_in(tmp_path, monkeypatch, CUDA_VISIBLE_DEVICES="")
    yield store
    store.close()


def carry_out(*runs: str) -> None:
    """In one process, one after the other."""
    first, *others = runs
    process = subprocess.Popen(
        [sys.executable, "-m", "core.runs.worker", "--run", first, "--stay"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    out, _ = process.communicate("".join(f"{run}\n" for run in others), timeout=170)
    said = [json.loads(line) for line in out.splitlines()]
    assert said == [m for run in runs for m in ({"taken": run}, {"done": run})]
    assert process.returncode == 0


@pytest.mark.slow
def test_a_run_in_a_kept_worker_equals_one_in_a_fresh_process(store: Store) -> None:
    """One that trains the base itself has gone before one that draws random numbers, and that reads the score of the
    base which the first has found. Losses, scores, answers and measured memory are the same to the last bit and byte;
    the size of the process is told where it is the run's own."""
    loop = TrainConfig(**LOOP, checkpoint_every=100)  # none by the clock
    names = ("full", "prompt_tuning", "prompt_tuning")
    *kept, fresh = (
        store.create(OWNER, RunConfig(method=name, train=loop, seed=3), key=f"k{n}", counts=False).id
        for n, name in enumerate(names)
    )
    carry_out(*kept)
    carry_out(fresh)
    sides = [[e for _, e in store.events(run, OWNER)] for run in (kept[-1], fresh)]
    assert [without_clock(e) for e in sides[0]] == [without_clock(e) for e in sides[1]]
    sizes = [events[-1]["ledger"]["process_bytes"] for events in sides]
    assert sizes[0] == 0, "the runs before have a part in it"
    assert sizes[1] > 2**27


def without_clock(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what depends on when it was and on the process's size."""
    out = {k: v for k, v in event.items() if k not in ("seconds", "first_loss_seconds", "time", "memory_bytes")}
    if out.get("ledger"):
        out["ledger"] = {k: v for k, v in out["ledger"].items() if k != "process_bytes"}
    return out


# --- the score before -------------------------------------------------------------------------------------------------


def prepared(method: str, folder: Path, **changed: Any) -> _Run:
    """A run before its first step."""
    loop = {**LOOP, "train_examples": 32, "learning_rate": 1e-3, **{k: v for k, v in changed.items() if k in LOOP}}
    loop["precision"] = changed.get("precision", "bfloat16")
    rest = {k: v for k, v in changed.items() if k in ("seed", "task", "data", "settings")}
    run = _Run(RunConfig(method=method, train=TrainConfig(**loop), **rest), folder, lambda: False)
    run._prepare()
    return run


# One of each kind of layer that methods put into a base.
KINDS = ("full", "lora", "dora", "vera", "ia3", "adapters", "prompt_tuning", "prefix_tuning", "qlora", "pissa")


def key(run: _Run) -> str | None:
    return key_of(run.config, run.base, run.model, run.objective, run.precision, 32)


def test_who_shares_a_key_scores_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """Each method scores for itself here; those that would have read the score of another have the same one. In
    bfloat16; in 32 bits the conformance tests hold all methods to it."""
    found: dict[str, dict[str, Scores]] = {}
    for method in KINDS:
        before._known.clear()
        run = prepared(method, tmp_path, eval_items=4, skill_items=0)
        name = key(run)
        assert name is not None
        list(run._evaluate_base())
        found.setdefault(name, {})[method] = next(iter(before._known.values()))
    shared = max(found.values(), key=len)
    assert set(KINDS) - set(shared) == {"qlora", "pissa"}
    assert len({repr(scores) for scores in shared.values()}) == 1, shared
    assert next(iter(shared.values())).loss


def test_a_run_reads_what_one_before_it_has_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before._known.clear()
    asked: list[str] = []
    for method in ("lora", "ia3", "prompt_tuning"):
        run = prepared(method, tmp_path, eval_items=4, skill_items=0)
        real = run.objective.score

        def counting(*args: Any, method: str = method, real: Any = real) -> Scores:
            asked.append(method)
            return real(*args)

        monkeypatch.setattr(run.objective, "score", counting)
        (told, _) = run._evaluate_base()
        (after, _) = run._evaluate()
        assert told.step == 0
        if method != "prompt_tuning":
            assert (told.exact_match, told.loss) == (after.exact_match, after.loss), "nothing is trained yet"
    assert asked == ["lora", "lora", "ia3", "prompt_tuning"], "the first one scored the base, each its own end"


def test_a_key_holds_everything_that_a_score_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"What is {n}?", "completion": str(n)} for n in range(40)]
    mine.write_text("\n".join(map(json.dumps, rows)))
    plain = prepared("lora", tmp_path)
    assert key(plain) == key(prepared("lora", tmp_path, seed=7)), (
        "held-out questions of a task have a seed of their own"
    )
    others = [
        {"task": "persona"}, {"eval_items": 9}, {"skill_items": 3}, {"precision": "float32"},
        {"task": None, "data": str(mine)}, {"task": None, "data": str(mine), "seed": 7},
    ]  # fmt: skip
    keys = [key(plain), *(key(prepared("lora", tmp_path, **other)) for other in others)]
    quantized = [{"method": "qlora"}, {"method": "qlora", "seed": 7}, {"method": "pissa"}]
    keys += [key(prepared(folder=tmp_path, **other)) for other in quantized]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    keys.append(key(plain))
    torch.set_num_threads(threads)
    keys.append(key_of(plain.config, plain.base, plain.model, plain.objective, plain.precision, 16))
    slow = dataclasses.replace(plain.config, train=dataclasses.replace(plain.config.train, fast_step=False))
    keys.append(key_of(slow, plain.base, plain.model, plain.objective, plain.precision, 32))
    name, size, changed = plain.base.files[0]
    plain.base.files = ((name, size, changed + 1), *plain.base.files[1:])
    keys.append(key(plain))
    assert None not in keys
    assert len(set(keys)) == len(keys), [k for k in keys if keys.count(k) > 1]
    monkeypatch.setattr(plain, "objective", object())
    assert key(plain) is None, "not of a language model"


def test_only_so_many_scores_are_kept() -> None:
    before._known.clear()
    made = []

    def score() -> Scores:
        made.append(1)
        return Scores(float(len(made)), None, 1)

    first = scored_before("a", score)
    assert scored_before("a", score) is first
    assert scored_before(None, score) is not first
    for number in range(before.MOST):
        scored_before(f"k{number}", score)
    assert len(before._known) == before.MOST
    assert scored_before("a", score) is not first
