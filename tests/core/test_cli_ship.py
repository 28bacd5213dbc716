"""`deltalab check`, `convert`, `merge`, `card` as people use them: answers, files, mistakes, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core import cli
from core.base import load_base
from core.methods import attach_saved
from tests.core.ship_support import adapter, logits, write
from tests.core.test_cli import QUICK, ask, home  # noqa: F401 (a fixture that every test here uses)

pytestmark = pytest.mark.usefixtures("untraced")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write("llama_biased", tmp_path_factory.mktemp("bases"))


@pytest.fixture
def trained(base: Path, tmp_path: Path, capsys) -> dict:
    """A finished run of the terminal."""
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Number {i}?", "completion": f"{i}."}) + "\n" for i in range(24)))
    arguments = ["train", "--base", str(base), "--data", str(data), "--method", "dora", *QUICK, "rank=4", "--json"]
    code, out, err = ask(capsys, *arguments)
    assert code == 0, err
    found: dict = json.loads(out.splitlines()[-1])
    return found


def test_from_a_run_to_what_others_load(trained: dict, base: Path, tmp_path: Path, capsys) -> None:
    run = trained["run"]
    code, out, _ = ask(capsys, "check", run, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["engines"] == {"PEFT": "care", "vLLM": "fails", "llama.cpp": "fails", "Ollama": "fails"}
    assert all(v["source"].startswith("https://") for v in told["verdicts"])

    code, out, _ = ask(capsys, "convert", run, "--rank", "8", "--out", str(tmp_path / "lora"), "--json")
    done = json.loads(out)
    assert (code, done["rank"], done["method"]) == (0, 8, "dora")
    assert 0 < done["error"] < 1
    code, out, _ = ask(capsys, "check", str(tmp_path / "lora"), "--base", str(base), "--json")
    assert json.loads(out)["engines"]["vLLM"] == "loads", "the offered fix mends it"

    code, out, _ = ask(capsys, "merge", run, "--out", str(tmp_path / "merged"), "--json")
    assert (code, json.loads(out)["stored"]) == (0, "float32")
    from transformers import AutoModelForCausalLM

    model = load_base(str(base)).model
    attach_saved(model, Path(trained["adapter"]))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(plain.eval()), logits(model), rtol=0, atol=2e-5)
    assert "merged into float32" in (tmp_path / "merged" / "README.md").read_text()

    code, out, _ = ask(capsys, "card", "last")
    assert code == 0
    assert out.startswith("---\n")
    assert "DoRA" in out


def test_in_words(trained: dict, tmp_path: Path, capsys) -> None:
    _, out, _ = ask(capsys, "check", "last")
    assert "vLLM: fails" in out
    assert "→ Convert it to plain LoRA" in out
    _, out, _ = ask(capsys, "convert", "last", "--energy", "0.9", "--out", str(tmp_path / "a"))
    assert "A LoRA of rank" in out
    _, out, _ = ask(capsys, "merge", "last", "--quantize", "nf4", "--out", str(tmp_path / "b"))
    assert "in nf4" in out
    assert json.loads((tmp_path / "b" / "config.json").read_text())["quantization_config"]["load_in_4bit"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "nonsense"], "'nonsense' is neither a folder nor a run of the terminal."),
        (["convert", "nonsense", "--out", "x"], "'nonsense' is neither a folder nor a run of the terminal."),
        (["convert", "last"], "required: --out"),
        (["merge", "last", "--quantize", "int3", "--out", "x"], "invalid choice: 'int3'"),
        (["card", "last"], "There are no runs yet."),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(capsys, arguments: list[str], sentence: str) -> None:
    code, out, err = ask(capsys, *arguments)
    assert (code, out) == (cli.BAD_INPUT, "")
    assert sentence in err
    assert "Traceback" not in err


def test_nothing_is_overwritten_and_what_does_not_merge_is_said(trained: dict, base: Path, tmp_path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    code, _, err = ask(capsys, "merge", "last", "--out", str(tmp_path / "mine"))
    assert code == cli.BAD_INPUT
    assert "exists already" in err
    code, out, _ = ask(capsys, "check", str(adapter(base, tmp_path / "a", "adapters")), "--json")
    assert json.loads(out)["engines"]["PEFT"] == "fails"
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"nothing")
    code, _, err = ask(capsys, "check", str(tmp_path / "a"))
    assert code == cli.BAD_INPUT
    assert "damaged or incomplete" in err


def test_an_adapter_that_peft_wrote_is_checked_converted_and_merged(base: Path, tmp_path: Path, capsys) -> None:
    """The fix that a verdict offers is for a folder from elsewhere too."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, use_dora=True, target_modules="all-linear", init_lora_weights=False)
    theirs = peft.get_peft_model(plain, config)
    theirs.save_pretrained(tmp_path / "theirs")
    said = tmp_path / "theirs" / "adapter_config.json"
    assert json.loads(said.read_text())["base_model_name_or_path"] == str(base)

    _, out, _ = ask(capsys, "check", str(tmp_path / "theirs"), "--json")
    assert json.loads(out)["engines"]["vLLM"] == "fails"
    by_rule = {(v["engine"], v["rule"]): v for v in json.loads(out)["verdicts"]}
    assert by_rule["vLLM", "architecture of the base"]["level"] == "loads", "its own file names the base"
    code, out, err = ask(capsys, "convert", str(tmp_path / "theirs"), "--out", str(tmp_path / "lora"), "--json")
    assert code == 0, err
    assert json.loads(out)["error"] < 1e-5
    code, out, err = ask(capsys, "merge", str(tmp_path / "lora"), "--base", str(base), "--out", str(tmp_path / "whole"))
    assert code == 0, err
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(whole.eval()), logits(theirs.eval()), rtol=0, atol=2e-4)

    said.write_text(json.dumps(json.loads(said.read_text()) | {"base_model_name_or_path": None}))
    code, _, err = ask(capsys, "merge", str(tmp_path / "theirs"), "--out", str(tmp_path / "again"))
    assert code == cli.BAD_INPUT
    assert "do not say which base" in err
