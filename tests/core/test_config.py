"""RunConfig: JSON there and back, text values, every problem named at once, defaults from the sweep's table."""

from __future__ import annotations

import dataclasses
import json

import pytest

from core.config import RunConfig, TrainConfig, default_table, problems, resolved, warnings, with_settings
from core.errors import BadInput
from core.methods import METHODS
from core.world import TASKS


def test_every_knob_has_a_doc_line_and_every_range_contains_its_default() -> None:
    for cls in (TrainConfig, *(m.Config for m in METHODS.values())):
        for field in dataclasses.fields(cls):
            meta = field.metadata
            assert meta["doc"].endswith("."), f"{cls.__name__}.{field.name}"
            assert meta["why"], f"{cls.__name__}.{field.name} gives no reason for its default"
            if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
                assert meta["low"] is None or field.default >= meta["low"]
                assert meta["high"] is None or field.default <= meta["high"]
            if meta["choices"]:
                assert field.default in meta["choices"]


@pytest.mark.parametrize("method", METHODS)
def test_a_config_survives_json(method: str) -> None:
    config = resolved(RunConfig(method=method, seed=7))
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", [*TASKS, None])
def test_resolving_leaves_nothing_open(method: str, task: str | None) -> None:
    config = resolved(RunConfig(method=method, task=task, data=None if task else "rows.jsonl"))
    assert config.train.learning_rate
    assert config.train.steps
    assert default_table()[method]["any"]


def test_a_given_value_is_never_replaced() -> None:
    config = resolved(RunConfig(train=TrainConfig(learning_rate=1e-5, steps=3)))
    assert (config.train.learning_rate, config.train.steps) == (1e-5, 3)


def test_text_values_are_read_as_the_fields_types() -> None:
    config = with_settings(
        RunConfig(),
        {"rank": "4", "learning_rate": "1e-3", "length_buckets": "no", "steps": "none", "schedule": "cosine"},
    )
    assert config.settings.rank == 4
    assert config.train.learning_rate == 1e-3
    assert config.train.length_buckets is False
    assert config.train.steps is None
    assert config.train.schedule == "cosine"


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"rnak": "4"}, "rnak"),
        ({"rank": "four"}, "rank must be a whole number"),
        ({"rank": "4.5"}, "rank must be a whole number"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"learning_rate": "nan"}, "learning_rate must be a finite number"),
        ({"length_buckets": "perhaps"}, "length_buckets must be true or false"),
        ({"batch_size": ""}, "batch_size must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
    ],
)
def test_a_wrong_value_is_named(pairs: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        with_settings(RunConfig(), pairs)


def test_all_problems_are_said_at_once() -> None:
    config = RunConfig(
        base=" ", task="jsno", data="x.jsonl", seed=-1, train=TrainConfig(batch_size=0, schedule="up", warmup=2.0)
    )
    said = " ".join(problems(config))
    for part in ("not both", "jsno", "Name a base", "seed", "batch_size", "schedule", "warmup"):
        assert part in said
    with pytest.raises(BadInput, match=r"batch_size.*schedule|schedule.*batch_size|warmup"):
        resolved(config)


def test_unknown_methods_and_fields_are_refused() -> None:
    with pytest.raises(BadInput, match="no method 'lroa'"):
        RunConfig.from_dict({"method": "lroa"})
    with pytest.raises(BadInput, match=r"unknown setting 'colour'"):
        RunConfig.from_dict({"colour": "red"})
    with pytest.raises(BadInput, match="unknown setting 'momentum'"):
        RunConfig.from_dict({"train": {"momentum": 0.9}, "seed": "x"})


def test_unusual_values_are_allowed_and_said() -> None:
    config = resolved(RunConfig(train=TrainConfig(learning_rate=0.5)))
    assert any("learning_rate" in w for w in warnings(config))
    assert not warnings(resolved(RunConfig()))
