"""A run's settings as a link: random configs come back whole, nonsense is refused, nothing private is in it."""

from __future__ import annotations

import dataclasses
import random
import typing
from typing import Any

import pytest

from core.config import RunConfig, TrainConfig, problems, resolved, with_settings
from core.errors import BadInput
from core.export import link
from core.methods import METHODS
from core.world import TASKS

TEXTS = {
    "target_modules": "q_proj,v_proj", "feedforward_modules": "q_proj", "rank_pattern": "q_proj=4,down_proj=16",
    "biases": "q_proj,fc2", "norms": "input_layernorm", "text": "Answer in ‘JSON’ & nothing else: {\"a\": 1}?",
}  # fmt: skip


def drawn(cls: type, rng: random.Random) -> dict[str, Any]:
    """A value for about half of the fields of a config, from the whole allowed range."""
    hints = typing.get_type_hints(cls)
    out: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if rng.random() < 0.5:
            continue
        kind = next((a for a in typing.get_args(hints[f.name]) if a is not type(None)), hints[f.name])
        low, high = f.metadata["low"], f.metadata["high"]
        if kind is bool:
            out[f.name] = rng.random() < 0.5
        elif f.metadata["choices"]:
            out[f.name] = rng.choice(f.metadata["choices"])
        elif kind is int:
            out[f.name] = rng.randint(int(low), int(high))
        elif kind is float:
            out[f.name] = rng.choice([low, high, rng.uniform(low, high), 10 ** rng.uniform(-7, 0)])
        else:
            out[f.name] = TEXTS[f.name]
    return out


def random_config(rng: random.Random, method: str) -> RunConfig:
    """A config of the method that can be run."""
    while True:
        base = rng.choice(["embedded", "owner/name-1.5B", "/models/my model"])
        task, seed = rng.choice([*TASKS, None]), rng.choice([0, rng.randrange(2**31)])
        config = RunConfig(
            base=base, revision=rng.choice([None, "v1/β"]) if "/name" in base else None, task=task,
            data=None if task else "mein Tagebuch & mehr.jsonl", method=method, seed=seed,
            settings=METHODS[method].Config(**drawn(METHODS[method].Config, rng)),
            train=TrainConfig(**drawn(TrainConfig, rng)),
        )  # fmt: skip
        if not problems(config):
            return config


@pytest.mark.parametrize("method", METHODS)
def test_any_config_comes_back_whole(method: str) -> None:
    rng = random.Random(method)
    for _ in range(10):
        config = random_config(rng, method)
        text = link.encode(config)
        assert link.decode(text) == resolved(config)
        assert link.decode(f"https://lab.example/playground?{text}#top") == resolved(config)
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%=&+")


@pytest.mark.parametrize("method", METHODS)
def test_the_default_run_is_a_short_link(method: str) -> None:
    config = RunConfig(method=method)
    assert link.parameters(config) == ({} if method == "lora" else {"method": method})
    # The swept defaults are said, so that another sweep does not change what the link means.
    assert link.encode(config).count("=") == 3 + (method != "lora")
    assert len(link.encode(config)) < 120


def test_a_link_does_not_follow_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    text = link.encode(RunConfig())
    then = resolved(RunConfig())
    table = {"lora": {"json": {"learning_rate": 0.5, "steps": 3}}}
    monkeypatch.setattr("core.config.default_table", lambda: table)
    assert resolved(RunConfig()).train.steps == 3
    assert link.decode(text) == then


def test_where_an_own_file_lies_is_not_in_the_link() -> None:
    for path in ("/home/ada/secret/mine.jsonl", r"C:\Users\ada\secret\mine.jsonl", "data/mine.jsonl"):
        text = link.encode(RunConfig(task=None, data=path))
        assert "ada" not in text
        assert "secret" not in text
        assert link.decode(text).data == "mine.jsonl"
    assert link.decode("task=own").data == "your file"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("v=2", "version '2'"),
        ("v=1&method=nonsense", "a method 'nonsense'"),
        ("task=poetry", "a task 'poetry'"),
        ("task=own&file=../../etc/passwd", "no file's name"),
        ("task=own&file=..", "no file's name"),
        ("task=json&file=mine.jsonl", "a built-in task and a file"),
        ("base=cloud&cloud=x", "of the kind 'cloud'"),
        ("base=hub", "Name a base"),
        ("base=folder&folder=m&revision=a&knob-replay=0.5", "Replay"),
        ("knob-seed=-1", "a seed '-1'"),
        ("knob-seed=99999999999", "a seed"),
        ("knob-seed=4294967296", "The seed must be"),
        ("knob-lora-rank=many", "rank must be a whole number"),
        ("knob-lora-rank=0", "rank must be at least 1"),
        ("knob-lora-rank=__import__('os').system('true')", "rank must be a whole number"),
        ("knob-lora-json-learning_rate=nan", "finite"),
        ("knob-length_buckets=perhaps", "true or false"),
        ("knob-warmpu=0.3", "no setting here"),
        ("knob-lora-rnk=3", "no setting here"),
        ("rank=3", "no setting here"),
        ("knob-lora-rank=3&knob-lora-rank=4", "twice"),
        ("hello world", "not a link"),
        ("a=%ff%fe", "not a link"),
        ("x" * 20_000, "too long"),
    ],
)
def test_a_bad_link_is_refused_with_a_sentence(text: str, part: str) -> None:
    with pytest.raises(BadInput) as caught:
        link.decode(text)
    assert part in str(caught.value)
    assert caught.value.sentence.endswith(".")


def test_what_a_page_keeps_of_other_choices_is_ignored() -> None:
    found = link.decode("run=abc&method=bitfit&knob-lora-rank=3&knob-bitfit-facts-steps=9&knob-bitfit-json-steps=7")
    assert found == resolved(with_settings(RunConfig(method="bitfit"), {"steps": 7}))


def test_what_cannot_be_run_has_no_link() -> None:
    with pytest.raises(BadInput, match="learning rate of 0"):
        link.encode(with_settings(RunConfig(), {"learning_rate": 0}))
    with pytest.raises(BadInput, match="too long for a link"):
        link.encode(with_settings(RunConfig(method="prompt_tuning"), {"start": "text", "text": "long " * 3000}))
