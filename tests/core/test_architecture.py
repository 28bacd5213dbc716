"""The module table and the closed forms over it, against published sizes and counts of real models."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from core.architecture import Architecture, architecture_of_config, is_bias, meta_model
from core.errors import Incompatible
from core.methods import METHODS, bitfit, full, lora, qlora
from tests.checkpoints import make_model
from tests.core.real_configs import REAL, config_of

DATA = Path(__file__).parent / "data"


@lru_cache
def real(name: str) -> Architecture:
    return architecture_of_config(config_of(name), name)


def published() -> list[dict[str, str]]:
    with (DATA / "published_lora_counts.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", REAL)
def test_the_table_of_a_real_model_adds_up_to_its_published_size(name: str) -> None:
    table = real(name)
    assert table.total == sum(m.parameters for m in table.modules) == REAL[name][2]
    assert full.count(table, full.Config()) == REAL[name][2]
    assert table.name == name
    assert table.model_type == REAL[name][0]
    assert table.head is not None


@pytest.mark.parametrize("row", published(), ids=lambda r: f"{r['model']}-{r['published as']}")
def test_published_lora_counts(row: dict[str, str]) -> None:
    """Lines that PEFT and trainers printed for real runs: trained parameters, and those plus the model's."""
    table = real(row["model"])
    config = lora.Config(rank=int(row["rank"]), target_modules=row["target_modules"])
    assert lora.count(table, config) == int(row["trainable"])
    assert table.total + lora.count(table, config) == int(row["all"])
    assert qlora.count(table, qlora.Config(rank=config.rank, target_modules=config.target_modules)) == int(
        row["trainable"]
    )


# Deep models with rank 1, so that the pairs (which are made for real) stay small.
@pytest.mark.parametrize(
    "name", ["Llama-2-7B", "Mistral-7B-v0.1", "Qwen2.5-0.5B", "Gemma-2B", "Phi-2", "GPT-2", "OPT-350M"]
)
@pytest.mark.parametrize("method", METHODS)
def test_the_closed_form_equals_what_is_attached_to_the_real_shapes(method: str, name: str) -> None:
    module = METHODS[method]
    settings = module.Config(**({"rank": 1} if hasattr(module.Config(), "rank") else {}))
    table = real(name)
    if method == "bitfit" and not any(m.bias for m in table.modules):
        with pytest.raises(Incompatible, match=f"{name} has no bias vectors"):
            module.count(table, settings)
        with pytest.raises(Incompatible, match="has no bias vectors"):
            module.apply(meta_model(config_of(name)), settings)
        return
    model = meta_model(config_of(name))
    attached = module.apply(model, settings)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert sorted(trained) == sorted(attached.trainable_names())
    assert module.count(table, settings) == sum(trained.values())
    sites = module.sites(table, settings)
    assert sum(s.trained for s in sites) == sum(trained.values())
    by_module = {s.module: s.trained for s in sites}
    for name_, size in trained.items():
        owner = max((module for module in by_module if name_.startswith(f"{module}.")), key=len)
        by_module[owner] -= size
    assert set(by_module.values()) == {0}, "each site has exactly its own parameters"


def test_bias_counts_by_hand() -> None:
    """GPT-2: per layer 3d + d + 4d + d in the Conv1Ds and 2d in the norms, and d in the last norm."""
    d = 768
    assert bitfit.count(real("GPT-2"), bitfit.Config()) == 12 * 11 * d + d
    # Qwen2 has biases in q, k and v only: 14, 2 and 2 heads of 64.
    assert bitfit.count(real("Qwen2.5-0.5B"), bitfit.Config()) == 24 * (14 + 2 + 2) * 64
    # The smaller variant of the BitFit paper, on OPT: query biases and the second layer of the MLP.
    assert bitfit.count(real("OPT-125M"), bitfit.Config(biases="q_proj,fc2")) == 12 * (d + d)


def test_what_a_row_says() -> None:
    table = real("Llama-3.2-1B")
    rows = {m.name: m for m in table.modules}
    embedding, head = rows["model.embed_tokens"], rows["lm_head"]
    assert (embedding.kind, embedding.in_features, embedding.out_features) == ("embedding", 128256, 2048)
    assert (head.kind, head.tied_to, head.parameters) == ("linear", "model.embed_tokens", 0)
    assert head.weight == embedding.weight == embedding.parameters
    k = rows["model.layers.3.self_attn.k_proj"]
    assert (k.kind, k.in_features, k.out_features, k.weight, k.bias) == ("linear", 2048, 512, 2048 * 512, 0)
    assert rows["model.norm"].kind == "norm"
    attention = {m.name: m for m in real("GPT-2").modules}["transformer.h.0.attn.c_attn"]
    assert (attention.kind, attention.in_features, attention.out_features, attention.bias) == (
        "conv1d",
        768,
        2304,
        2304,
    )


def test_a_table_survives_json() -> None:
    for name in ("GPT-2", "Llama-3.2-1B"):
        assert Architecture.from_dict(json.loads(json.dumps(real(name).to_dict()))) == real(name)


def test_a_table_of_real_weights_equals_that_of_the_configuration() -> None:
    model = make_model("llama_biased")
    assert Architecture.of(model).modules == architecture_of_config(model.config).modules
    assert Architecture.of(model).total == model.num_parameters()


def test_an_encoder_is_read_too() -> None:
    """BERT's output bias is one tensor under two names; it counts once. Sizes as published."""
    from transformers import BertConfig, T5Config

    bert = architecture_of_config(BertConfig(is_decoder=True), "BERT-base")
    assert bert.total == 109_514_298
    own = sum(p.numel() for n, p in meta_model(BertConfig(is_decoder=True)).named_parameters() if is_bias(n))
    assert bitfit.count(bert, bitfit.Config()) == own
    # No causal language model in this family: its plain model is read.
    assert architecture_of_config(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)).total == 222_903_552


def test_counting_needs_no_torch(tmp_path: Path) -> None:
    """A page that only counts must open at once: torch alone takes seconds to import."""
    table = tmp_path / "table.json"
    table.write_text(json.dumps(real("GPT-2").to_dict()), encoding="utf-8")
    program = f"""
import json, sys
from core.architecture import Architecture
from core.methods import METHODS
import core.optimizers
table = Architecture.from_dict(json.loads(open({str(table)!r}).read()))
print(json.dumps([m.count(table, m.Config()) for m in METHODS.values()]))
print([m.problems(m.Config()) for m in METHODS.values() if hasattr(m, "problems")])
heavy = [m for m in ("torch", "transformers", "bitsandbytes", "safetensors", "numpy") if m in sys.modules]
assert not heavy, heavy
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    counts = json.loads(out.stdout.splitlines()[0])
    assert counts == [m.count(real("GPT-2"), m.Config()) for m in METHODS.values()]


def test_names_are_biases_by_their_last_part() -> None:
    assert is_bias("model.layers.0.mlp.fc1.bias")
    assert is_bias("experts.gate_up_proj_bias")
    assert not is_bias("relative_attention_bias.weight")
    assert not is_bias("bias_gain")


def test_a_plain_torch_module_has_a_table() -> None:
    table = Architecture.of(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5)), "toy")
    assert [(m.name, m.kind, m.parameters) for m in table.modules] == [("0", "linear", 20), ("1", "norm", 10)]
    assert (table.name, table.head, table.total) == ("toy", None, 30)
