"""The parameter calculator's page: counts that are the methods' own, rank arithmetic, refusals, and the link."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from app import charts_parameters
from core import counting
from core.catalog import architecture_of, models
from core.methods import METHODS
from tests.app.test_views import words as escaped


def words(page: Any) -> str:
    return escaped(page).replace("\\", "")


def page() -> None:
    from app.views import parameters

    parameters.render()


def metrics(seen: Any) -> dict[str, str]:
    return {m.label: m.value for m in seen.metric}


def test_the_count_is_there_at_once_and_without_torch(visit: Any) -> None:
    before = "torch" in sys.modules
    seen = visit(page)
    text = words(seen)
    assert "LoRA trains 20,971,520 of 8,030,261,248: 0.261 %" in text
    assert "8 \\cdot (4,096 + 4,096) = 65,536" in escaped(seen)
    assert metrics(seen)["Saved per task"] == "80.0\u00a0MiB"
    assert "BitFit: Llama-3.1-8B has no bias vectors" in text
    rows = next(d.value for d in seen.dataframe if "Method" in d.value)
    assert list(rows["Trains"])[1] == "20,971,520"
    assert len(rows) == len(METHODS)
    assert ("torch" in sys.modules) == before


def test_the_rank_slider_answers_and_stands_in_the_link(visit: Any) -> None:
    seen = visit(page)
    seen.select_slider(key="parameters-lora.rank").set_value(16).run()
    assert "LoRA trains 41,943,040" in words(seen)
    assert seen.query_params["lora.rank"] in ("16", ["16"])
    again = visit(page, **{"lora.rank": "16", "model": "Mistral-7B-v0.3", "matrix": "4"})
    assert "LoRA trains 41,943,040 of" in words(again)
    assert again.selectbox(key="parameters-model").value == "Mistral-7B-v0.3"
    assert "14,336" in escaped(again)


def test_a_rank_that_no_matrix_has_room_for_is_a_sentence(visit: Any) -> None:
    seen = visit(page, model="SmolLM2-135M", **{"lora.rank": "512"})
    assert "no change of it has a rank above 192" in seen.error[0].value.replace("\\", "")


def test_bitfit_is_refused_where_there_is_no_bias_and_counted_where_there_is(visit: Any) -> None:
    seen = visit(page, method="bitfit")
    assert "has no bias vectors, so BitFit has nothing to train" in seen.error[0].value
    assert "no bias at all, so BitFit has nothing to train" in words(seen)
    assert "BitFit trains 102,144" not in words(seen)
    gpt2 = visit(page, method="bitfit", model="GPT-2")
    assert f"BitFit trains {METHODS['bitfit'].count(architecture_of('GPT-2'), METHODS['bitfit'].Config()):,}" in words(
        gpt2
    )


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_on_a_model_with_everything(visit: Any, method: str) -> None:
    seen = visit(page, method=method, model="GPT-2")
    found = counting.count(architecture_of("GPT-2"), method)
    assert not seen.error
    assert f"trains {found.trainable:,} of" in words(seen)


def test_a_checkpoint_in_few_bits_refuses_what_would_change_its_weights(visit: Any, monkeypatch: Any) -> None:
    """What the tracing process makes of the configuration stands in for it; the refusals are the engine's own."""
    from app import model_choice

    monkeypatch.setattr(model_choice, "_built", lambda name, source, hub, context, page, stored: model_choice.Model(
        name, source, hub, architecture_of("GPT-2"), context, False, stored
    ))  # fmt: skip
    said = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "_name_or_path": "small",
        "quantization_config": {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": False,
        },
    }  # fmt: skip
    link = {"from": "config", "config": model_choice.pack(json.dumps(said))}
    seen = visit(page, method="full", **link)
    assert "trains the weights themselves, and those of GPT-2 are stored in NF4 already" in seen.error[0].value
    assert "small is stored in NF4. What trains beside such weights is counted" in words(seen)
    refused = {m.TITLE for m in METHODS.values() if getattr(m, "CHANGES_WEIGHTS", "")}
    assert {c.value.partition(": ")[2].split(": ")[0] for c in seen.caption if ":material/block:" in c.value} == refused
    assert refused == {"Full fine-tuning", "PiSSA", "Last k layers"}
    for method in ("lora", "qlora", "bitfit"):
        beside = visit(page, method=method, **link, **{"qlora.double_quantization": "off"})
        assert not beside.error, method
        assert "trains" in words(beside)


def test_encoders_are_in_the_list_too(visit: Any) -> None:
    name = next(row.name for row in models() if not row.is_decoder)
    seen = visit(page, model=name)
    assert not seen.error
    assert f"of {architecture_of(name).total:,}" in words(seen)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_what_becomes_of_experts_is_said_as_the_terminal_does(visit: Any, method: str) -> None:
    assert counting.experts_note(architecture_of("Mixtral-8x7B"), method) in words(
        visit(page, model="Mixtral-8x7B", method=method)
    )


def test_the_drawing_is_to_scale() -> None:
    import re

    shape = counting.Shape("up", 14336, 4096, 1, "mlp", False, False, False)
    svg, alt = charts_parameters.to_scale(shape, 512, "#123456")
    boxes = [tuple(map(float, m)) for m in re.findall(r'width="([\d.]+)" height="([\d.]+)"', svg)[1:]]
    (wide, tall), (b_wide, b_tall), (a_wide, a_tall) = boxes[:3]
    assert tall / wide == pytest.approx(14336 / 4096, rel=1e-3)
    assert b_tall == tall
    assert a_wide == wide
    assert b_wide / wide == pytest.approx(512 / 4096, rel=1e-2)
    assert a_tall == pytest.approx(b_wide)
    assert "B of 14,336 × 512" in alt


def test_every_figure_has_what_it_must() -> None:
    table = architecture_of("GPT-2")
    ranks = counting.ranks(table, "lora", METHODS["lora"].Config(), [1, 2, 4, 8])
    for chart in (
        charts_parameters.counted(counting.counts(table), "lora"),
        charts_parameters.rank_curve(ranks, 8, "GPT-2"),
    ):
        assert chart.title
        assert not chart.title.endswith(".")
        assert len(chart.alt) > 30
        assert not chart.table.empty
        assert chart.figure.layout.xaxis.title.text
