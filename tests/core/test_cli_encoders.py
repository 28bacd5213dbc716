"""Encoders from the command line and in the chat: train, look, count, ask; and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.classify import labels_text
from core.methods import load_saved
from core.runs.talker import Shelf, _answer
from tests.checkpoints import write_encoder

QUICK = ["--set", "steps=3", "batch_size=4", "learning_rate=0.01", "max_length=64", "precision=float32"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DELTALAB_STORE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(write_encoder("bert", tmp_path_factory.mktemp("bases")))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"Number {i}?,{'even' if i % 2 == 0 else 'odd'}\n" for i in range(24)))
    return str(path)


def ask(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_train_look_and_ask(capsys, base, data) -> None:
    code, out, err = ask(
        capsys, "train", "--base", base, "--data", data, "--method", "bitfit", "--seed", "3", "--json", *QUICK
    )
    assert (code, err) == (0, "")
    got = json.loads(out.splitlines()[-1])
    assert got["status"] == "finished"
    for side in ("before", "after"):
        assert 0 <= got[side]["task"] <= 1
        assert 0 <= got[side]["macro_f1"] <= 1
    assert got["data"]["labels"] == {"even": 12, "odd": 12}
    assert got["data"]["empty_texts"] == got["data"]["duplicates"] == 0

    code, out, _ = ask(capsys, "runs", "show", "last")
    assert code == 0
    assert re.search(r"right, loss \d\.\d+, macro F1 \d+ %", out)

    code, out, _ = ask(capsys, "chat", "last", "--prompt", "Number 7?", "--json")
    said = json.loads(out)
    assert re.fullmatch(r"(even|odd) \(\d+ %\), (even|odd) \(\d+ %\)", said["after"])
    loaded, attached = load_saved(base, Path(got["adapter"]), precision="float32", device="cpu")
    assert attached is not None
    assert said["after"] == labels_text(loaded.model, loaded.tokenizer, "Number 7?")
    attached.disable()
    assert said["before"] == labels_text(loaded.model, loaded.tokenizer, "Number 7?")
    code, out, _ = ask(capsys, "chat", got["adapter"], "--base", base, "--prompt", "Number 7?", "--only", "after")
    assert out.strip() == f"after: {said['after']}"


def test_people_see_accuracy_macro_f1_and_what_the_head_is(capsys, base, data) -> None:
    code, out, err = ask(capsys, "train", "--base", base, "--data", data, "--method", "ia3", *QUICK)
    assert code == 0
    assert "24 rows of reviews.csv: 'text' is read as the text and 'label' as its label." in err
    assert "The classification head for even, odd is new" in err
    assert "macro F1" in out
    assert re.search(r"reviews.csv +\d+ % +\d+ %", out)


def test_params_count_the_head_and_say_so(capsys, base) -> None:
    code, out, _ = ask(capsys, "params", "--model", base, "--method", "bitfit", "--json")
    got = json.loads(out)
    assert got["head"] == 2 * 32 + 2 + 32 * 32 + 32, "and the pooler, which this checkpoint lacks"
    assert got["trainable"] == sum(row["trainable"] for row in got["modules"])
    code, out, _ = ask(capsys, "params", "--model", base, "--method", "bitfit")
    assert code == 0
    assert "1,122 of them are the classification head, for 2 labels" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--base", "BASE", "--task", "json"], "is an encoder, which gives labels to texts"),
        (["train", "--base", "BASE", "--data", "TALK"], "Line 1 of talk.jsonl holds questions and answers"),
        (["train", "--base", "BASE", "--data", "ONE"], "Every row of one.csv has the label 'x'"),
        (["train", "--base", "BASE", "--data", "DATA", "--method", "prefix_tuning"], "read off its first token"),
        (["params", "--base", "BASE", "--method", "p_tuning"], "read off its first token"),
        (["chat", "--base", "BASE", "--prompt", "Hi"], "an encoder without a classification head"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(capsys, base, data, tmp_path, arguments, words) -> None:
    (tmp_path / "talk.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\n")
    places = {"BASE": base, "DATA": data, "TALK": str(tmp_path / "talk.jsonl"), "ONE": str(tmp_path / "one.csv")}
    code, out, err = ask(capsys, *(places.get(a, a) for a in arguments))
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_the_chat_keeps_runs_with_other_labels_apart(capsys, base, data, tmp_path) -> None:
    """Two runs on one encoder, of one method: their heads differ in labels, or in the seed that drew them."""
    other = tmp_path / "grades.csv"
    other.write_text("text,label\n" + "".join(f"Number {i}?,{'abc'[i % 3]}\n" for i in range(24)))
    folders = {}
    for name, rows, seed in (("one", data, "1"), ("two", data, "2"), ("three", str(other), "1")):
        code, out, _ = ask(
            capsys, "train", "--base", base, "--data", rows, "--method", "lora", "--seed", seed, "--json", *QUICK
        )
        assert code == 0
        folders[name] = json.loads(out.splitlines()[-1])["adapter"]
    wanted = {}
    for name, folder in folders.items():
        loaded, attached = load_saved(base, Path(folder), precision="float32", device="cpu")
        assert attached is not None
        wanted[name, "after"] = labels_text(loaded.model, loaded.tokenizer, "Number 7?")
        attached.disable()
        wanted[name, "before"] = labels_text(loaded.model, loaded.tokenizer, "Number 7?")
    shelf = Shelf(4, 2**40, "cpu")
    for name in ("one", "three", "two", "one"):
        said: list[dict[str, Any]] = []
        message = [{"role": "user", "content": "Number 7?"}]
        question = {"base": base, "revision": None, "adapter": folders[name], "dtype": "float32", "max_new_tokens": 8,
                    "temperature": 0.0, "seed": 0, "busy": False,
                    "sides": {"before": message, "after": message}}  # fmt: skip
        _answer(shelf, question, lambda **record: said.append(record), lambda: False)  # noqa: B023 (called at once)
        for side in ("before", "after"):
            text = "".join(r["piece"] for r in said if r["side"] == side and "piece" in r)
            assert text == wanted[name, side]


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_a_pooler_that_a_run_draws_is_counted_as_the_run_trains_it(capsys, base, tmp_path, method: str) -> None:
    """A masked language model's checkpoint has no pooler: a run draws one and trains it whole, as part of the head."""
    from core.base import load_base
    from core.methods import METHODS, attach

    whole = str(write_encoder("bert", tmp_path, names=("no", "yes")))
    heads = []
    for folder in (base, whole):
        loaded = load_base(folder, labels=("no", "yes"))
        attached = attach(loaded.model, method, METHODS[method].Config())
        named = dict(loaded.model.named_parameters())
        trained = sum(named[name].numel() for name in attached.trainable_names())
        code, out, _ = ask(capsys, "params", "--model", folder, "--method", method, "--json")
        told = json.loads(out)
        assert code == 0
        assert told["trainable"] == trained, folder
        heads.append(told["head"])
    assert heads == [2 * 32 + 2 + 32 * 32 + 32, 2 * 32 + 2]
