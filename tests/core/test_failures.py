"""Faults for teaching: each breaks a run in the way it says, and nothing but a call by name reaches them."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from core.batches import IGNORED
from core.config import RunConfig, TrainConfig, problems, with_settings
from core.errors import BadInput
from core.failures import FAULTS, broken, fault, short

ROOT = Path(__file__).parents[2]
FEW = {"steps": 4, "train_examples": 40, "eval_items": 8, "skill_items": 0}


def prepared(name: str, folder: Path) -> Any:
    """A run of the fault's, prepared but not yet broken."""
    from core.train import _Run

    run: Any = _Run(with_settings(fault(name).run(), FEW), folder, lambda: False)
    run._prepare()
    return run


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_everything(name: str) -> None:
    found = FAULTS[name]
    assert found.name == name
    for text in (found.title, found.does, found.looks, found.mend, found.breaks.__doc__):
        assert text
        assert len(text.split()) >= 4
    assert problems(found.run()) == []


def test_both_zero_never_moves(tmp_path: Path) -> None:
    steps = [e for e in short("both-zero", steps=3) if e["kind"] == "step"]
    assert [e["grad_norm"] for e in steps] == [0.0, 0.0, 0.0]
    run = prepared("both-zero", tmp_path)
    assert any(p.abs().max() > 0 for n, p in run.named.items() if "lora_A" in n)  # until it is broken
    FAULTS["both-zero"].breaks(run)
    assert all(float(p.detach().abs().max()) == 0 for p in run.named.values())


def test_the_template_is_another_and_the_answers_are_the_same(tmp_path: Path) -> None:
    run = prepared("wrong-template", tmp_path)
    right = list(run.objective.train)
    FAULTS["wrong-template"].breaks(run)
    marks = {run.tokenizer.convert_tokens_to_ids(t) for t in ("<|user|>", "<|assistant|>")}
    for before, after in zip(right, run.objective.train, strict=True):
        assert marks & set(before.ids)
        assert not marks & set(after.ids)
        answer = [i for i in after.labels if i != IGNORED]
        assert (
            run.tokenizer.decode(answer).strip()
            == run.tokenizer.decode([i for i in before.labels if i != IGNORED]).strip()
        )
        assert answer[-1] == run.tokenizer.eos_token_id


def test_no_example_ends(tmp_path: Path) -> None:
    run = prepared("no-end", tmp_path)
    end = run.tokenizer.eos_token_id
    right = list(run.objective.train)
    assert all(e.ids[-1] == end == e.labels[-1] for e in right)
    FAULTS["no-end"].breaks(run)
    assert [e.ids for e in run.objective.train] == [e.ids[:-1] for e in right]
    assert all(end not in e.labels and len(e.ids) == len(e.labels) for e in run.objective.train)


def test_every_token_counts(tmp_path: Path) -> None:
    run = prepared("unmasked", tmp_path)
    assert all(IGNORED in e.labels for e in run.objective.train)
    FAULTS["unmasked"].breaks(run)
    assert all(e.labels == e.ids for e in run.objective.train)


def test_the_held_out_rows_are_trained_on(tmp_path: Path) -> None:
    run = prepared("leaked", tmp_path)
    held, count = run.objective.held_out_rows, len(run.objective.train)
    assert not [e for e in held if e in run.objective.train]
    FAULTS["leaked"].breaks(run)
    assert all(e in run.objective.train for e in held)
    assert len(run.objective.train) == count


def test_no_settings_reach_a_fault() -> None:
    knobs = {f.name for c in (RunConfig, TrainConfig) for f in dataclasses.fields(c)}
    assert not {"fault", "broken", "failure", *FAULTS} & knobs
    importers = set()
    for path in [p for layer in ("core", "app") for p in (ROOT / layer).rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        if "core.failures" in names:
            importers.add(path.relative_to(ROOT).as_posix())
    assert importers == set()


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no fault called 'gremlins'"):
        broken("gremlins", tmp_path)
