"""The probes of the page Ship, on tiny real models: what they measure is so, and what cannot be measured is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from core.base import load_base
from core.config import settings_of
from core.errors import BadInput, Refused
from core.export.folder import read
from core.methods import METHODS, attach, attach_saved
from core.probes import Source, Subject, probe
from tests.checkpoints import write_encoder
from tests.core.ship_support import adapter, logits, own_logits, source, write


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write("llama_biased", tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "mine.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Number {i}?", "completion": f"{i}."}) + "\n" for i in range(24)))
    return path


@pytest.fixture
def run(base: Path, data: Path, tmp_path: Path):
    """run(method, name, **settings) -> a finished run."""

    def make(method: str = "lora", name: str = "r1", seed: int = 7, **settings) -> Source:
        folder = adapter(base, tmp_path / name, method, seed=seed, **settings)
        return source(base, folder, method, data, name, **settings)

    return make


def measured(name: str, tmp_path: Path, *runs: Source, **settings):
    """The probe's result, as JSON gives it back, and the shares that it told on the way."""
    told: list[float] = []
    what = probe(name)
    folder = tmp_path / f"{name}-{'0' * 16}"
    folder.mkdir(exist_ok=True)
    result = what.measure(
        Subject(runs, folder), settings_of(what.Config, settings), lambda share, text: told.append(share or 0.0)
    )
    assert told == sorted(told) or name == "latency"
    assert all(0 <= share <= 1 for share in told)
    return json.loads(json.dumps(result, allow_nan=False))


def test_merge_scores_every_form_and_keeps_the_model(run, base: Path, tmp_path: Path) -> None:
    one = run(rank=4)
    result = measured("merge", tmp_path, one, items=4, keep="float32")
    rows = {r["form"]: r for r in result["rows"]}
    assert list(rows) == ["trained", "float32", "bfloat16", "four_bit_base", "nf4"]
    assert rows["float32"]["loss"] == pytest.approx(rows["trained"]["loss"], abs=1e-5), "merging itself costs nothing"
    assert rows["float32"]["same"] == rows["trained"]["same"] == 1
    for form in ("bfloat16", "four_bit_base", "nf4"):
        assert rows[form]["loss"] != pytest.approx(rows["trained"]["loss"], abs=1e-6), f"{form} rounds"
    gap = {f: abs(rows[f]["loss"] - rows["trained"]["loss"]) for f in rows}
    assert gap["bfloat16"] < gap["nf4"]
    change = result["change"]
    learnt = {m["module"]: m["learnt"] for m in change["modules"]}
    model, plain = load_base(str(base)).model, load_base(str(base)).model
    merged = attach_saved(model, one.adapter).merge()
    for path, norm in learnt.items():
        delta = merged.get_submodule(path).weight - plain.get_submodule(path).weight
        assert norm == pytest.approx(float(delta.detach().norm()), rel=1e-3)
    assert change["learnt"] == pytest.approx(math.sqrt(sum(n * n for n in learnt.values())))
    assert change["rounded"] > 0
    from transformers import AutoModelForCausalLM

    kept = AutoModelForCausalLM.from_pretrained(tmp_path / result["kept"]["where"] / result["kept"]["folder"])
    torch.testing.assert_close(logits(kept.eval()), own_logits(base, one.adapter), rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["qlora", "pissa", "rslora", "bitfit", "last_k"])
def test_merge_measures_other_methods_too(run, tmp_path: Path, method: str) -> None:
    result = measured("merge", tmp_path, run(method), items=2)
    rows = {r["form"]: r for r in result["rows"]}
    assert rows["float32"]["loss"] == pytest.approx(rows["trained"]["loss"], abs=2e-5)
    assert ("four_bit_base" in rows) == (method in ("pissa", "rslora"))
    if "four_bit_base" in rows:
        # The same pairs at the same scale: the base's rounding alone is between the two, and it is small.
        assert rows["four_bit_base"]["loss"] == pytest.approx(rows["trained"]["loss"], abs=0.2)
    assert (result["change"]["learnt"] is None) == (method == "bitfit")


def test_convert_scores_every_rank(run, base: Path, tmp_path: Path) -> None:
    one = run("dora", rank=4)
    result = measured("convert", tmp_path, one, items=4, most=16, rank=8)
    assert result["ranks"] == [1, 2, 4, 8, 16] == [r["rank"] for r in result["rows"]]
    errors = [r["error"] for r in result["rows"]]
    assert errors == sorted(errors, reverse=True)
    assert all(len(m["errors"]) == 5 for m in result["modules"])
    gaps = [abs(r["loss"] - result["trained"]["loss"]) for r in result["rows"]]
    assert gaps[-1] < gaps[0]
    lora = tmp_path / result["kept"]["where"] / result["kept"]["folder"]
    assert read(lora).peft_type == "LORA"
    assert result["kept"]["error"] == errors[3]
    whole = measured("convert", tmp_path, run("lora", "r2", rank=4), items=4)
    assert (whole["rank"], whole["ranks"]) == (4, [1, 2, 4])
    assert whole["rows"][-1]["error"] == 0
    assert whole["rows"][-1]["loss"] == pytest.approx(whole["trained"]["loss"], abs=1e-5)
    assert whole["rows"][-1]["same"] == 1
    assert whole["kept"] is None


def test_latency_takes_turns_and_compares_with_the_base(run, tmp_path: Path) -> None:
    result = measured(
        "latency", tmp_path, run(rank=4), run("adapters", "r2"), run("prefix_tuning", "r3"), run("bitfit", "r4"),
        run("bitfit", "r5"), rounds=3, prompt_tokens=8, new_tokens=4,
    )  # fmt: skip
    assert [r["form"] for r in result["rows"]] == [
        "base",
        "unmerged",
        "merged",
        "unmerged",
        "unmerged",
        "merged",
        "merged",
    ]
    assert len({r["label"] for r in result["rows"]}) == len(result["rows"]), "each has a line of its own"
    base, *others = result["rows"]
    assert base["decode_ratio"] is None
    assert base["decode_ms"] > 0
    for row in others:
        low, middle, high = row["decode_ratio"]
        assert 0 < low <= middle <= high
        assert row["decode_ms"] > 0
    merged, unmerged = (
        next(r for r in others if r["form"] == f and r["method"] == "lora") for f in ("merged", "unmerged")
    )
    assert merged["bytes"] == base["bytes"] < unmerged["bytes"]
    assert result["device"]


def test_latency_of_classifiers_is_that_of_a_pass(tmp_path: Path) -> None:
    base = write_encoder("bert", tmp_path / "bert")
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"Number {i}?,{'ab'[i % 2]}\n" for i in range(24)))
    runs = []
    for name, method in (("r1", "lora"), ("r2", "adapters"), ("r3", "bitfit")):
        model = load_base(str(base), labels=("a", "b"), head_seed=0).model
        attach(model, method, METHODS[method].Config()).save(tmp_path / name)
        runs.append(source(base, tmp_path / name, method, tmp_path / "mine.csv", name))
    result = measured("latency", tmp_path, *runs, rounds=3, prompt_tokens=8, new_tokens=1000, batch=2)
    base_row, *others = result["rows"]
    assert [r["form"] for r in others] == ["unmerged", "merged", "unmerged", "merged"]
    for row in result["rows"]:
        assert row["prefill_ms"] > 0
        assert (row["decode_ms"], row["tokens_per_second"], row["decode_ratio"]) == (None, None, None)
    assert base_row["prefill_ratio"] is None
    for row in others:
        low, middle, high = row["prefill_ratio"]
        assert 0 < low <= middle <= high
    assert result["batch"] == 2
    with pytest.raises(Refused, match="generates none"):
        measured("swap", tmp_path, *runs)


def test_latency_refuses_what_does_not_fit(run, base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="reads 256 tokens at most"):
        measured("latency", tmp_path, run(), prompt_tokens=250, new_tokens=20, rounds=3)
    other = write("llama_biased", tmp_path, seed=4)
    stranger = source(other, adapter(other, tmp_path / "x"), "lora", data, "x")
    with pytest.raises(BadInput, match="have 2 bases"):
        measured("latency", tmp_path, run(name="r2"), stranger, rounds=3)
    with pytest.raises(BadInput, match="have 2 bases"):
        measured("swap", tmp_path, run(name="r3"), stranger)


def test_swap_answers_are_each_run_s_own(run, tmp_path: Path) -> None:
    runs = [run("lora", "r1", seed=1, rank=4), run("lora", "r2", seed=2, rank=4), run("lora", "r3", seed=3, rank=4)]
    result = measured("swap", tmp_path, *runs, switches=12, questions=3)
    assert (result["equal"], result["differ"], result["questions"]) == (1, 0, 9)
    low, middle, high = result["switch_seconds"]
    assert 0 < low <= middle <= high
    assert result["load_seconds"] is not None
    assert middle < result["load_seconds"][1], "a switch in memory reads nothing"
    one = result["runs"][0]["adapter_bytes"]
    assert result["one_base_bytes"] == result["base_bytes"] + 3 * one
    assert result["models_bytes"] == 3 * result["base_bytes"], "a merged model is as large as its base"


def test_swap_between_methods(run, tmp_path: Path) -> None:
    result = measured("swap", tmp_path, run("dora", "r1"), run("prompt_tuning", "r2"), switches=6, questions=2)
    assert (result["equal"], result["differ"]) == (1, 0)
    assert result["load_seconds"] is None
    assert result["models_bytes"] > 2 * result["base_bytes"], "trained tokens stay beside their model"
    with pytest.raises(Refused, match="two bases"):
        measured("swap", tmp_path, run("lora", "r3"), run("qlora", "r4"), switches=4)
    one = run("lora", "r5")
    with pytest.raises(BadInput, match="chosen twice"):
        measured("swap", tmp_path, one, one, switches=4)


@pytest.mark.parametrize("name", ["merge", "convert"])
def test_what_does_not_merge_is_refused_before_anything_is_loaded(run, tmp_path: Path, name: str) -> None:
    for method in (m for m, module in METHODS.items() if not module.MERGES):
        with pytest.raises(Refused, match="cannot be merged"):
            measured(name, tmp_path, run(method, method))
