"""A model card says what the run's record says: every figure, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config import RunConfig, with_settings
from core.errors import NotFound, Refused
from core.export.card import IN_PEFT, Record, card, record_of
from core.methods import METHODS
from core.runs.store import Store
from core.units import bytes_text, seconds_text
from tests.app.filling import fill


@pytest.fixture
def store(tmp_path: Path):
    store = Store(home=tmp_path / "home")
    yield store
    store.close()


def front(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def row(text: str, name: str) -> list[str]:
    """The cells behind the first one of a table's row."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_its_figures_are_the_record_s(store: Store) -> None:
    run = fill(store, "ann", with_settings(RunConfig(seed=3), {"rank": 4}), title="Mine")
    events = [e for _, e in store.events(run.id, "ann", limit=10_000)]
    started, finished = events[0], events[-1]
    looks = [e for e in events if e["kind"] == "evaluated"]
    text = card(record_of(store, run.id, "ann"))
    assert row(text, "Trained parameters") == [f"{started['trainable']:,} of {started['total']:,}"]
    assert row(text, "Seed") == ["3"]
    assert row(text, "rank") == ["4"]
    assert row(text, "steps") == [str(run.steps)]
    assert row(text, "Training time") == [seconds_text(finished["seconds"])]
    assert row(text, "Peak memory") == [bytes_text(finished["peak_bytes"])]
    assert row(text, "Size on the disk") == [bytes_text(finished["adapter_bytes"])]
    shares = [f"{100 * looks[i]['exact_match']:.1f} %" for i in (0, -1)]
    assert row(text, "json, exact match") == shares
    assert row(text, "json, held-out loss (nats a token)") == [f"{looks[i]['loss']:.3f}" for i in (0, -1)]
    for name in looks[0]["skills"]:
        told = [f"{100 * looks[i]['skills'][name]:.1f} %" for i in (0, -1)]
        assert row(text, f"old skill: {name.replace('_', ' ')}") == told
    worst = max(looks[0]["skills"], key=lambda n: looks[0]["skills"][n] - looks[-1]["skills"][n])
    assert f"{worst.replace('_', ' ')} most" in text, "what it forgot is among the limits"
    assert "torch 2.13.0" in text
    results = {r["dataset"]["name"]: r["metrics"][0]["value"] for r in front(text)["model-index"][0]["results"]}
    assert results == {"json": looks[-1]["exact_match"], **looks[-1]["skills"]}


def test_the_hub_s_own_reader_takes_it(store: Store) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(card(record_of(store, fill(store, "ann").id, "ann"))).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("peft", "unknown", "text-generation")
    assert data.eval_results[0].metric_value == 0.93
    assert "&id" not in card(record_of(store, fill(store, "ann").id, "ann")), "no aliases: other readers lack them"


def record(**changes: Any) -> Record:
    method = changes.pop("method", "lora")
    config = RunConfig.from_dict({"method": method, **changes.pop("config", {})}).to_dict()
    started = {
        "config": config, "base": changes.pop("base", {}), "device": "cpu", "dtype": "float32", "trainable": 10,
        "total": 100, "examples": 5, "held_out": 2, "steps": 3, "versions": {"torch": "2"},
    }  # fmt: skip
    finished = {"seconds": 2.0, "peak_bytes": 0, "adapter_bytes": 2048, "tokens": 0}
    return Record(
        changes.pop("title", ""), started, finished, changes.pop("before", None), changes.pop("after", None), None
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_s_card_tells_how_it_is_loaded(method: str) -> None:
    text = card(record(method=method))
    how = text.partition("## How to load it")[2]
    code = re.search(r"```python\n(.*?)```", how, re.S)
    if code is not None:
        compile(code[1], "card", "exec")
    assert ("PeftModel.from_pretrained" in how) == (method in IN_PEFT)
    assert front(text)["library_name"] == ("peft" if method in IN_PEFT else "transformers")
    assert ("BitsAndBytesConfig" in how) == (method == "qlora")
    if method in ("bitfit", "last_k"):
        assert "deltalab merge" in how
    assert "| Peak memory |" not in text, "what was not measured is not said"
    assert "It was not scored" in text


def test_the_base_is_named_where_it_can_be_found(tmp_path: Path) -> None:
    hub = card(record(config={"base": "owner/name"}, base={"revision": "abc", "fingerprint": "f00"}))
    assert front(hub)["base_model"] == "owner/name"
    assert front(hub)["base_model_relation"] == "adapter"
    assert "revision abc" in hub
    assert 'AutoModelForCausalLM.from_pretrained("owner/name")' in hub
    local = card(record(config={"base": str(tmp_path)}))
    assert "base_model" not in front(local)
    assert str(tmp_path.parent) not in local, "no paths of this machine"
    assert front(card(record(config={"base": "owner/name"}), merged="nf4"))["base_model_relation"] == "quantized"
    assert "rounded to four bits" in card(record(), merged="nf4")


def test_what_was_typed_stays_text(store: Store) -> None:
    text = card(record(title="**x** [a](http://b) <img>"))
    assert r"# \*\*x\*\* \[a\](http://b) \<img\>" in text
    assert front(card(record(title="a: b\n- c")))["license"] == "unknown"


def test_only_a_finished_run_of_one_s_own_has_a_card(store: Store) -> None:
    with pytest.raises(Refused, match="that is finished"):
        record_of(store, fill(store, "ann", status="running").id, "ann")
    with pytest.raises(NotFound):
        record_of(store, fill(store, "ann").id, "bob")
