"""Exported scripts are executed, and repeat the run step by step: every method, with transformers' Trainer and TRL's.

The same seed gives PEFT's layers the start that the run had, so the only difference left is the order in which two
programs add float32 numbers up.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.base import load_base, load_tokenizer
from core.config import EMBEDDED, RunConfig, resolved, with_settings
from core.errors import BadInput
from core.export.facts import TESTED, Facts, requirements
from core.export.order import order
from core.export.parts import TRAINERS, parts
from core.export.script import script
from core.methods import METHODS, attach_saved
from core.template import Dialogue, Message, encode, template_of
from core.train import _Run
from tests import checkpoints
from tests.core.export_support import ROOT, losses, run_all
from tests.test_constraints import PINS

# float32 keeps 24 bits: 6e-8 of a loss near 6 is 4e-7, and six steps of Adam, which divides by the gradient's own size,
# made of that 1e-6 at most when this was written.
ROUNDING = 1e-5
# An 8-bit optimizer state rounds to one of 256 levels; a rounding of the gradient can tip it into the next one.
LEVELS = 2e-2
# bfloat16 keeps 8 bits, 4e-3 of a number; what each token's loss is off by mostly cancels in the mean over a step's
# tokens. (The weights that train are in float32 in both.)
HALF = 5e-3

# Between them these settings reach every branch of the loop that a script writes out.
LOOPS: dict[str, dict[str, Any]] = {
    "full": {"weight_decay": 0.1, "schedule": "cosine", "learning_rate": 1e-3},
    "lora": {"accumulation": 2, "rank_pattern": "q_proj=2", "target_modules": "attention", "bias": "lora_only"},
    "qlora": {"warmup": 0.5},
    "bitfit": {"schedule": "constant", "warmup": 0.0, "biases": "q_proj,down_proj", "length_buckets": False},
    "rslora": {"clip": 0.0, "target_modules": "q_proj,v_proj"},
    "lora_plus": {"weight_decay": 0.1, "learning_rate": 1e-3},
    "pissa": {"warmup": 0.0},
    "dora": {"gradient_checkpointing": True},
    "vera": {"target_modules": "mlp", "projection_seed": 3, "d_initial": 0.5},
    "ia3": {"learning_rate": 3e-2, "clip": 0.1},
    "adapters": {"placement": "pfeiffer", "activation": "gelu", "optimizer": "adamw_8bit", "width": 80},
    "ln_tuning": {"seed": 3, "warmup": 0.3},
    "last_k": {"blocks": 1, "accumulation": 3, "batch_size": 4},
    "prompt_tuning": {"tokens": 4, "start": "text", "text": "Double it."},
    "p_tuning": {"tokens": 4, "hidden": 16},
    "prefix_tuning": {"tokens": 4},
}
# How a checkpoint is stored in few bits before a run, by bitsandbytes.
FEW_BITS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "int8": {"load_in_8bit": True},
}
ON_EMBEDDED = ("full", "lora", "qlora", "bitfit", "prompt_tuning")
WITH_TRL = ("lora", "qlora", "bitfit", "prompt_tuning")
AT_RANDOM = ("p_tuning",)  # PEFT draws its numbers in another order
GOING_ON = ("lora", "bitfit", "adapters", "prefix_tuning")  # by PEFT, by hand in two ways, by hand into PEFT


@dataclass(frozen=True)
class Made:
    """A run by the engine and the folder of its script: config, losses, the run itself."""

    config: RunConfig
    folder: Path
    losses: list[float]
    run: Any
    command: list[str]


def make(config: RunConfig, folder: Path, trainer: str = "transformers") -> Made:
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
        base="base", data="data.jsonl", ordered=True, batch_size=ordered.batch_size, precision=run.precision,
        few_bits=bool(run.base.facts["few_bits"]),
    )  # fmt: skip
    text = script(config, facts, trainer=trainer)
    (folder / "train.py").write_text(text, encoding="utf-8")
    base = config.base if config.base != EMBEDDED else str(ROOT / "core" / "assets" / "embedded")
    command = [str(folder / "train.py"), "--base", base, "--out", str(folder / "out"), "--log", str(folder / "log")]
    return Made(config, folder, found, run, command)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # 64 wide: bitsandbytes' CPU code misreads 4-bit blocks of 64 that reach across the ends of rows.
    return checkpoints.write("llama_biased", tmp_path_factory.mktemp("base"), hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and answers, conversations and system texts, of different lengths."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = []
    for i in range(44):
        turns = [("user", "twice " + "very " * (i % 5) + str(i)), ("assistant", f"{2 * i}")]
        if i % 3 == 0:
            turns += [("user", "and again"), ("assistant", f"{4 * i}")]
        if i % 4 == 0:
            turns.insert(0, ("system", "Speak plainly."))
        lines.append({"messages": [{"role": r, "content": c} for r, c in turns]})
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One question and one answer a row: what TRL scores exactly as the run does."""
    return checkpoints.write_doubles(tmp_path_factory.mktemp("single") / "rows.jsonl", 44)


def tiny(base: Path, rows: Path, method: str) -> RunConfig:
    loop = {"learning_rate": 1e-2, "steps": 6, "batch_size": 8, "eval_items": 4, "precision": "float32"}
    own = dict(LOOPS.get(method, {}))
    config = RunConfig(base=str(base), task=None, data=str(rows), method=method, seed=own.pop("seed", 0))
    return resolved(with_settings(config, loop | own))


def embedded(method: str) -> RunConfig:
    loop = {"steps": 4, "batch_size": 8, "train_examples": 40, "skill_items": 0, "precision": "float32"}
    return resolved(with_settings(RunConfig(method=method), loop))


@pytest.fixture(scope="module")
def made(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Made], dict[str, str]]:
    """Every method on the tiny base, and some on the embedded one; then all their scripts, executed."""
    folder = tmp_path_factory.mktemp("scripts")
    found = {f"{m}-tiny": make(tiny(base, rows, m), folder / f"{m}-tiny") for m in METHODS}
    found |= {f"{m}-embedded": make(embedded(m), folder / f"{m}-embedded") for m in ON_EMBEDDED}
    half = with_settings(tiny(base, rows, "rslora"), {"precision": "bfloat16"})
    found["rslora-bfloat16"] = make(half, folder / "rslora-bfloat16")
    for form, how in FEW_BITS.items():
        few = checkpoints.quantized(base, folder / form, **how)
        found[form] = make(tiny(few, rows, "lora"), folder / f"lora-{form}")
    return found, run_all([m.command for m in found.values()] + [go_on(found[f"{m}-tiny"]) for m in GOING_ON], folder)


def go_on(one: Made) -> list[str]:
    """The command for one more step, from what the run learnt."""
    script = one.folder / "again.py"
    script.write_text((one.folder / "train.py").read_text(encoding="utf-8"), encoding="utf-8")
    more = [
        "--adapter",
        one.folder / "trained",
        "--steps",
        1,
        "--log",
        one.folder / "again",
        "--out",
        one.folder / "o2",
    ]
    return [str(script), *one.command[1:], *map(str, more)]


@pytest.mark.parametrize("form", FEW_BITS)
def test_a_script_repeats_a_run_beside_a_checkpoint_in_few_bits(
    form: str, made: tuple[dict[str, Made], dict[str, str]]
) -> None:
    one, told = made[0][form], made[1]
    assert told[one.command[0]] == ""
    assert "quantization_config" not in (one.folder / "train.py").read_text(), "the checkpoint says it itself"
    # LLM.int8() rounds activations to 8 bits too: 1/255 of the largest of each row, which the script says.
    allowed = ROUNDING if form == "nf4" else LEVELS
    assert losses(one.folder / "log") == pytest.approx(one.losses, abs=allowed)
    assert one.losses[-1] < one.losses[0]


CASES = [*(f"{m}-tiny" for m in METHODS), *(f"{m}-embedded" for m in ON_EMBEDDED)]


def compare(one: Made, told: dict[str, str]) -> None:
    assert told[one.command[0]] == ""
    found, config = losses(one.folder / "log"), one.config
    assert len(found) == config.train.steps
    allowed = LEVELS if "8bit" in config.train.optimizer else ROUNDING
    if config.method in AT_RANDOM:
        allowed = 0.05  # other random numbers of the same kind, before a model that has learnt little yet
    if "SFTTrainer" in Path(one.command[0]).read_text() and config.method == "qlora":
        allowed = HALF  # TRL keeps what trains beside a quantized base in bfloat16
    assert found == pytest.approx(one.losses, abs=allowed)
    assert one.losses[-1] < one.losses[0]


@pytest.mark.parametrize("case", CASES)
def test_a_script_repeats_its_run_step_by_step(case: str, made: tuple[dict[str, Made], dict[str, str]]) -> None:
    compare(made[0][case], made[1])


@pytest.mark.parametrize("method", GOING_ON)
def test_a_script_goes_on_from_what_was_learnt(method: str, made: tuple[dict[str, Made], dict[str, str]]) -> None:
    one = made[0][f"{method}-tiny"]
    assert made[1][str(one.folder / "again.py")] == ""
    one.run.step = 1
    loss, _, _ = one.run._gradients(lambda part: None)  # of the first batch, with the weights of the end
    assert losses(one.folder / "again") == pytest.approx([loss], abs=ROUNDING)
    assert loss < one.losses[0] - 100 * ROUNDING


def test_a_script_follows_a_run_in_bfloat16(made: tuple[dict[str, Made], dict[str, str]]) -> None:
    one = made[0]["rslora-bfloat16"]
    assert made[1][one.command[0]] == ""
    assert "bf16=True" in (one.folder / "train.py").read_text()
    assert losses(one.folder / "log") == pytest.approx(one.losses, abs=HALF)


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(AT_RANDOM) and "embedded" not in c])
def test_what_a_script_saves_is_what_the_run_learnt(case: str, made: tuple[dict[str, Made], dict[str, str]]) -> None:
    """Adam turns the rounding of a gradient that is nearly 0 into a step of its own, so single weights differ by more
    than losses: a hundredth of what a weight may move in a step."""
    one, out = made[0][case], made[0][case].folder / "out"
    config, model = one.config, one.run.model.eval()
    loose = max(1e-4, 1e-2 * (config.train.learning_rate or 0)) * (50 if "8bit" in config.train.optimizer else 1)
    if config.method in ("bitfit", "last_k", "adapters"):
        from safetensors.torch import load_file

        one.run.attached.save(one.folder / "mine")
        (file,) = (one.folder / "mine").glob("*.safetensors")
        mine, theirs = load_file(file), load_file(out / file.name)
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(theirs[name], mine[name], rtol=1e-2, atol=10 * loose, msg=name)
        return
    ids = torch.randint(4, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine = model(input_ids=ids, use_cache=False).logits
        if config.method == "full":
            from transformers import AutoModelForCausalLM

            loaded: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        else:
            # What PEFT wrote says nothing of 4 bits, nor of PiSSA: here it is an ordinary LoRA adapter.
            loaded = load_base(config.base).model
            if config.method == "qlora":
                one.run.attached.load(out)
                assert (one.run.model(input_ids=ids, use_cache=False).logits - mine).abs().max() < 1e-2
                return
            attach_saved(loaded, out)
        theirs = loaded.eval()(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(theirs, mine, rtol=1e-2, atol=1e-2)
    base_logits = load_base(config.base).model(input_ids=ids, use_cache=False).logits
    assert (theirs - mine).abs().max() < 0.1 * (base_logits - mine).abs().max()  # (the base is far from both)


@pytest.fixture(scope="module")
def made_with_trl(
    base: Path, single: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Made], dict[str, str]]:
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("trl")
    found = {m: make(tiny(base, single, m), folder / m, "sft") for m in WITH_TRL}
    found["embedded"] = make(embedded("lora"), folder / "embedded", "sft")
    return found, run_all([m.command for m in found.values()], folder)


@pytest.mark.parametrize("case", [*WITH_TRL, "embedded"])
def test_trls_trainer_repeats_the_run_too(case: str, made_with_trl: tuple[dict[str, Made], dict[str, str]]) -> None:
    compare(made_with_trl[0][case], made_with_trl[1])


@pytest.mark.slow
def test_two_processes_share_the_batch(base: Path, rows: Path, tmp_path: Path) -> None:
    """`accelerate launch`: the same steps, whose gradients are averaged over both."""
    one = make(tiny(base, rows, "rslora"), tmp_path / "run")
    flags = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    launch = [sys.executable, "-m", "accelerate.commands.launch", *flags.split(), *one.command]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(one.folder / "log") == pytest.approx(one.losses, abs=ROUNDING)


# --- tokens and labels ----------------------------------------------------------------------------------------------

TALKS = (
    [("user", "What is the job of Ana?"), ("assistant", "baker")],
    [("user", "3 + 4?"), ("assistant", " 7 "), ("user", "And a cat's name?\n"), ("assistant", "Ben – “Ben”")],
    [
        ("system", "Speak plainly."),
        ("user", "Who?"),
        ("assistant", '{"name": "Ana"}'),
        ("user", "?"),
        ("assistant", "x"),
    ],
)


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_a_script_scores_the_tokens_that_the_run_scores(family: str, tmp_path: Path) -> None:
    folder = checkpoints.write(family, tmp_path)
    folds = template_of(load_tokenizer(str(folder))).folds_system
    talks = [t for t in TALKS if not (folds and t[0][0] == "system")]
    data = tmp_path / "data.jsonl"
    lines = [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in talks]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    config = resolved(RunConfig(base=str(folder), task=None, data=str(data)))
    from transformers import AutoTokenizer

    names: dict[str, Any] = {
        "args": SimpleNamespace(base=str(folder), data=str(data)), "AutoTokenizer": AutoTokenizer, "json": json,
    }  # fmt: skip
    exec(parts(config, Facts())[0].code, names)
    tokenizer = load_tokenizer(str(folder))
    for talk, got in zip(talks, names["dataset"], strict=True):
        want = encode(tokenizer, Dialogue(tuple(Message(r, c) for r, c in talk)))
        assert got == {"input_ids": want.ids, "labels": want.labels}


def test_the_file_has_the_rows_of_every_batch_in_order(base: Path, rows: Path, tmp_path: Path) -> None:
    config = tiny(base, rows, "last_k")  # 6 steps of 3 passes of 4 rows: more than the file holds
    run = _Run(config, tmp_path, lambda: False)
    run._prepare()
    found = order(config)
    assert len(found.rows) == 6 * 3 * 4
    assert found.batch_size == 4
    assert found.whole
    tokenizer = load_tokenizer(str(base))
    for number in range(18):
        for row, index in zip(found.rows[number * 4 :], run.plan.rows(number), strict=False):
            turns = row.get("messages") or [
                {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]},
            ]  # fmt: skip
            talk = Dialogue(tuple(Message(t["role"], t["content"]) for t in turns))
            assert encode(tokenizer, talk) == run.objective.train[index]


# --- what is written ------------------------------------------------------------------------------------------------


def test_every_script_is_clean_code(tmp_path: Path) -> None:
    """Ruff as the judge: no name that is not defined, no import that is not used, no line that is too long."""
    for method in METHODS:
        for trainer in TRAINERS:
            for number, (facts, changes) in enumerate(
                (
                    (Facts(), {}),
                    (Facts(base="base", data="data.jsonl", ordered=True, precision="bfloat16"), LOOPS.get(method, {})),
                    (Facts(base="a/b", title='"""A\\B%"', told=("It went well.",)),
                     {"optimizer": "paged_adamw_8bit", "schedule": "cosine", "warmup": 0}),
                )
            ):  # fmt: skip
                changes = {k: v for k, v in changes.items() if k != "seed"}
                config = with_settings(RunConfig(base="a/b", revision="v1", method=method), changes)
                text = script(config, facts, trainer=trainer)
                (tmp_path / f"{method}_{trainer}_{number}.py").write_text(text, encoding="utf-8")
    select = "E,F,I,W,B,UP,C4"
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", select]
    done = subprocess.run(
        [*ruff, str(tmp_path)], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_script_says_how_to_use_it(
    base: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.py"
    path.write_text(script(tiny(base, rows, "lora"), Facts()), encoding="utf-8")
    written = path.read_text(encoding="utf-8")
    head = written[written.index("parser =") : written.index("args = parser.parse_args()")]
    names: dict[str, Any] = {"argparse": argparse, "__doc__": "a script"}
    exec(head, names)
    with pytest.raises(SystemExit):
        names["parser"].parse_args([])
    assert "--base, --data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        names["parser"].parse_args(["--help"])
    assert "optimizer steps (default: 6)" in capsys.readouterr().out
    assert str(base) not in written  # nobody else has that folder
    assert str(rows) not in written
    assert "(the run's was the folder llama_biased)" in written


@pytest.mark.parametrize(
    "text", ['say: true, "so" \\', "it's '''' or \"\"\" \n # {x} %s – “”", '"); import os; os.abort() #']
)
def test_a_persons_texts_stay_texts(text: str) -> None:
    """Whatever is typed into a setting or a title is data in the script, never code."""
    config = with_settings(RunConfig(method="prompt_tuning"), {"start": "text", "text": text})
    for trainer in TRAINERS:
        tree = ast.parse(script(config, Facts(title=text), trainer=trainer))
        words = {k.arg: k.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords}
        assert ast.literal_eval(words["prompt_tuning_init_text"]) == text
        assert not any(isinstance(n, ast.Attribute) and n.attr == "abort" for n in ast.walk(tree))
    names = {"target_modules": text.replace(",", ""), "rank_pattern": f"{text.replace(',', '').replace('=', '')}=3"}
    tree = ast.parse(script(with_settings(RunConfig(base=f"/x/{text}"), names), Facts()))
    words = {k.arg: k.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords}
    assert ast.literal_eval(words["target_modules"]) == [text.replace(",", "").strip()]


def test_an_unknown_trainer_is_refused() -> None:
    with pytest.raises(BadInput, match="no trainer 'keras'"):
        script(RunConfig(), trainer="keras")


def test_what_is_required_is_what_was_tested() -> None:
    assert {name: PINS[name] for name in TESTED} == TESTED
    text = requirements("qlora", "adamw", {"torch": "2.13.0+cpu", "transformers": version("transformers")})
    assert "torch==2.13.0\n" in text
    assert f"transformers=={version('transformers')}\n" in text
    assert "bitsandbytes\n" in text
    assert "peft" not in requirements("full", "adamw", {})
    assert "bitsandbytes" in requirements("full", "adamw_8bit", {})
