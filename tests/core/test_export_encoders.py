"""Exported scripts of encoder runs are executed, and repeat the run: see tests/core/test_export_script.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig, resolved, with_settings
from core.errors import BadInput
from core.export.facts import Facts
from core.export.notebook import notebook
from core.export.order import order
from core.export.script import script
from core.methods import METHODS, attach_saved
from core.methods.saved import read_record
from core.train import _Run
from tests import checkpoints
from tests.core.export_support import losses, run_all
from tests.core.test_export_script import ROUNDING, Made

# What the encoder drops out by itself is drawn anew in the script; without it the steps are the run's.
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# method -> family, and settings that reach every branch.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("bert", {"learning_rate": 1e-3, "weight_decay": 0.1}),
    "lora": ("bert", {"accumulation": 2}),
    "rslora": ("roberta", {}),
    "lora_plus": ("bert", {"target_modules": "query,value", "learning_rate": 1e-3}),
    "lora_fa": ("roberta", {"learning_rate": 3e-3}),
    "pissa": ("bert", {"target_modules": "attention", "warmup": 0.0}),
    "dora": ("roberta", {"target_modules": "mlp", "learning_rate": 1e-3}),
    "vera": ("bert", {"d_initial": 0.5}),
    "ia3": ("roberta", {}),
    "bitfit": ("bert", {}),
    "adapters": ("roberta", {"placement": "pfeiffer", "learning_rate": 3e-4}),
    "ln_tuning": ("bert", {"seed": 3}),
    "last_k": ("roberta", {"blocks": 1}),
    "qlora": ("wide", {"learning_rate": 3e-3}),
}
FAMILIES = ("bert", "roberta", "wide")
# bitsandbytes' CPU code misreads 4-bit blocks of 64 that reach across the ends of rows.
WIDE = {"hidden_size": 64, "intermediate_size": 128}
LARGE = {"initializer_range": 0.2}  # weights so large that their rounding shows in the loss


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    plain = {family: checkpoints.write_encoder(family, place, **PLAIN) for family in ("bert", "roberta")}
    return plain | {"wide": checkpoints.write_encoder("bert", place / "wide", **PLAIN, **WIDE, **LARGE)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Texts with one of three labels, and for one family pairs of texts; of different lengths."""
    place = tmp_path_factory.mktemp("rows")
    made = {family: place / f"{family}.jsonl" for family in FAMILIES}
    for family, path in made.items():
        lines = []
        for i in range(44):
            line = {"text": "stone " * (i % 7 + 1) + str(i), "label": ("low", "middle", "high")[i % 3]}
            lines.append(line | ({"text_pair": f"and {i % 5}"} if family == "bert" else {}))
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return made


def make(config: RunConfig, folder: Path) -> Made:
    """Train with the engine, keep what it learnt, and write the script with its data beside it."""
    folder.mkdir()
    run = _Run(config, folder, lambda: False)
    run._prepare()
    run.measured_step = 0
    found = [run._train_step().loss for _ in range(run.steps)]
    run.attached.save(folder / "trained")
    ordered = order(config)
    (folder / "data.jsonl").write_text(ordered.text(), encoding="utf-8")
    facts = Facts(
        base=config.base, data="data.jsonl", ordered=True, batch_size=ordered.batch_size, precision=run.precision,
        labels=run.base.labels,
    )  # fmt: skip
    (folder / "train.py").write_text(script(config, facts), encoding="utf-8")
    (folder / "train.ipynb").write_text(notebook(config, facts), encoding="utf-8")
    command = [str(folder / "train.py"), "--out", str(folder / "out"), "--log", str(folder / "log")]
    return Made(config, folder, found, run, command)


@pytest.fixture(scope="module")
def made(
    bases: dict[str, Path], rows: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Made], dict[str, str]]:
    folder = tmp_path_factory.mktemp("scripts")
    found = {}
    for method, (family, own) in CASES.items():
        loop = {"learning_rate": 1e-2, "steps": 5, "batch_size": 8, "eval_items": 4, "precision": "float32"}
        own = dict(own)
        config = RunConfig(
            base=str(bases[family]), task=None, data=str(rows[family]), method=method, seed=own.pop("seed", 1)
        )
        found[method] = make(resolved(with_settings(config, loop | own)), folder / method)
    return found, run_all([*(m.command for m in found.values()), [str(folder / "lora" / "train.ipynb")]], folder)


@pytest.mark.parametrize("method", CASES)
def test_a_script_repeats_its_run_step_by_step(method: str, made: tuple[dict[str, Made], dict[str, str]]) -> None:
    one = made[0][method]
    assert made[1][one.command[0]] == ""
    # PEFT gives the head's biases the rate of B there, and the script says so.
    allowed = 0.02 if method == "lora_plus" else ROUNDING
    assert losses(one.folder / "log") == pytest.approx(one.losses, abs=allowed)
    assert max(one.losses) - min(one.losses) > 100 * ROUNDING, "the steps moved something"


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_what_a_script_saves_is_what_the_run_learnt(method: str, made: tuple[dict[str, Made], dict[str, str]]) -> None:
    """PEFT's folder, loaded by Deltalab onto the same base, has the run's own logits."""
    import torch

    from core.base import load_base

    one = made[0][method]
    record = read_record(one.folder / "trained")
    base = load_base(one.config.base, labels=tuple(record["labels"]), head_seed=one.config.seed)
    theirs = attach_saved(base.model, one.folder / "out").model
    ids = torch.tensor([[5, 20, 31, 7]])
    with torch.no_grad():
        got, wanted = (m.eval()(input_ids=ids).logits for m in (theirs, one.run.model))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_the_notebook_runs_and_gives_labels(made: tuple[dict[str, Made], dict[str, str]]) -> None:
    folder = made[0]["lora"].folder
    assert made[1][str(folder / "train.ipynb")] == ""
    before, after = json.loads((folder / "asked.json").read_text())
    assert {*before, *after} <= {"low", "middle", "high"}
    assert len(after) == 3


def test_every_method_of_an_encoder_is_tried() -> None:
    assert {m for m in METHODS if METHODS[m].START != "other"} == {*CASES}


def test_trl_trains_language_models(made: tuple[dict[str, Made], dict[str, str]]) -> None:
    with pytest.raises(BadInput, match="SFTTrainer trains language models"):
        script(made[0]["lora"].config, Facts(labels=("a", "b")), trainer="sft")
