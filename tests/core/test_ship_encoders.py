"""What becomes of a classifier outside: merged, converted and by its card, others load it and compute the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from core.base import load_base
from core.config import RunConfig
from core.export.card import Record, card
from core.export.convert import convert
from core.export.merged import merge
from core.methods import attach_saved, saved
from tests import checkpoints
from tests.core.test_export_encoders import WIDE

IDS = torch.tensor([[5, 20, 31, 7], [9, 11, 13, 2]])
LABELS = ("bad", "fair", "good")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_encoder("bert", tmp_path_factory.mktemp("base"), **WIDE)


def trained(base: Path, folder: Path, method: str) -> torch.Tensor:
    """Train a little and save; the logits then."""
    from core.methods import METHODS
    from core.methods import attach as put

    torch.manual_seed(3)
    attached = put(load_base(str(base), labels=LABELS, head_seed=5).model, method, METHODS[method].Config())
    optimizer = torch.optim.AdamW([p for p in attached.model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        attached.model(input_ids=IDS, labels=torch.tensor([2, 0])).loss.backward()
        optimizer.step()
    attached.save(folder)
    return logits(attached.model)


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "bitfit"])
def test_transformers_loads_the_merged_classifier(base: Path, tmp_path: Path, method: str) -> None:
    from transformers import AutoModelForSequenceClassification

    own = trained(base, tmp_path / "a", method)
    merge(str(base), tmp_path / "a", tmp_path / "merged")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert list(loaded.config.id2label.values()) == list(LABELS)
    torch.testing.assert_close(logits(loaded), own, rtol=0, atol=5e-6)


def test_in_four_bits_its_head_stays_as_it_is(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    trained(base, tmp_path / "a", "lora")
    plain = attach_saved(load_base(str(base), **saved.head_in(tmp_path / "a")).model, tmp_path / "a").merge()
    merge(str(base), tmp_path / "a", tmp_path / "merged", stored="nf4")
    four = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", device_map={"": "cpu"})
    kinds = {name: type(m).__name__ for name, m in four.named_modules() if isinstance(m, torch.nn.Linear)}
    head = [name for name, kind in kinds.items() if kind == "Linear"]
    assert head == ["bert.pooler.dense", "classifier"]
    for name in head:
        assert torch.equal(four.get_parameter(f"{name}.weight"), plain.get_parameter(f"{name}.weight")), name


@pytest.mark.parametrize("method", ["dora", "ia3"])
def test_converted_its_head_goes_along(base: Path, tmp_path: Path, method: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    own = trained(base, tmp_path / "a", method)
    done = convert(str(base), tmp_path / "a", tmp_path / "lora")
    assert not any(name.startswith(("classifier", "bert.pooler")) for name in done.left_out)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "lora")
    if done.left_out:  # IA3 scales the biases too, which a LoRA cannot hold
        assert all(name.endswith(".bias") for name in done.left_out)
        return
    torch.testing.assert_close(logits(theirs), own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_the_card_s_own_lines_load_it(base: Path, tmp_path: Path, method: str) -> None:
    own = trained(base, tmp_path / "a", method)
    config = RunConfig.from_dict({"base": str(base), "task": None, "data": "rows.csv", "method": method}).to_dict()
    started = {
        "config": config, "base": {"labels": list(LABELS)}, "trainable": 1, "total": 2, "examples": 3, "held_out": 1,
        "device": "a processor", "dtype": "float32",
    }  # fmt: skip
    look = {"task": "rows.csv", "exact_match": 0.75, "macro_f1": 0.7, "loss": 0.5, "items": 4, "skills": {}}
    text = card(Record("", started, {"seconds": 1.0, "adapter_bytes": 10}, {**look, "macro_f1": 0.2}, look, None))
    assert "pipeline_tag: text-classification" in text
    assert "- accuracy\n- f1\n" in text
    assert "| rows.csv, macro F1 | 20.0 % | 70.0 % |" in text
    assert "nats a label" in text
    assert "exact" not in text
    assert "It tells apart: bad, fair, good." in text
    found = re.search(r"```python\n(.*?)```", text, re.S)
    assert found is not None
    code = found[1].replace("path/to/the/base", str(base)).replace("path/to/this/folder", str(tmp_path / "a"))
    names: dict[str, Any] = {}
    # (Where the card names the base's tokenizer, the base's folder has it.)
    exec(code, names)
    atol = 5e-6 if method != "qlora" else 0.05  # bitsandbytes' layers compute in another order, some CPUs in 16 bits
    torch.testing.assert_close(logits(names["model"]), own, rtol=0, atol=atol)
