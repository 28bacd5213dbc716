"""The catalogue: every count exact, every row sound, and names found as people type them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.catalog import GpuRow, ModelRow, architecture_of, config_of, gpu, gpus, model, models, search
from core.catalog.tables import fresh, pack, unpack
from core.errors import Incompatible, NotFound
from core.methods import METHODS

DECODERS = [row.name for row in models() if row.is_decoder]


@pytest.mark.parametrize("row", models(), ids=lambda row: row.name)
def test_every_count_is_the_published_one(row: ModelRow) -> None:
    table = architecture_of(row.name)
    assert table.total == row.parameters
    assert sum(m.parameters for m in table.modules) == row.parameters
    assert table.name == row.name
    assert table.model_type == row.model_type


# Tied and not, grouped queries, Conv1D, projected embeddings, experts, an encoder whose bias has two names, two stacks.
@pytest.mark.parametrize(
    "name",
    ["Llama-3.2-1B", "Qwen2.5-0.5B", "GPT-2", "OPT-350M", "Qwen3-30B-A3B", "Gemma-3-270M (text)", "Falcon-7B",
     "BERT-base-uncased with its output layer", "T5-base", "DeepSeek-V3"],
)  # fmt: skip
def test_a_table_is_that_of_the_real_class(name: str) -> None:
    assert fresh(name) == architecture_of(name)


def test_a_table_survives_packing() -> None:
    table = architecture_of("T5-base")
    assert unpack(pack(table), table.name) == table
    assert len(pack(table)["parts"]) < len(table.modules) / 5, "blocks that are alike are written once"


def test_structure_by_hand() -> None:
    rows = {m.name: m for m in architecture_of("Llama-3.1-70B").modules}
    assert rows["model.layers.79.self_attn.k_proj"].weight == 8192 * 8 * 128
    assert rows["lm_head"].tied_to is None
    assert architecture_of("Llama-3.2-3B").modules[-1].tied_to == "model.embed_tokens"
    experts = [m for m in architecture_of("Mixtral-8x7B").modules if ".experts" in m.name]
    assert sum(m.weight for m in experts) == 32 * 8 * 3 * 4096 * 14336
    assert architecture_of("Llama-3.1-8B").cache_numbers == 2 * 32 * 8 * 128


@pytest.mark.parametrize("name", DECODERS)
def test_every_method_counts_in_every_model(name: str) -> None:
    """But for BitFit where there is no bias."""
    table = architecture_of(name)
    for method in METHODS.values():
        if method.NAME == "bitfit" and not any(m.bias for m in table.modules):
            with pytest.raises(Incompatible, match="no bias vectors"):
                method.count(table, method.Config())
        else:
            assert 0 < method.count(table, method.Config()) <= model(name).parameters


def test_configurations_carry_what_the_rows_say() -> None:
    assert config_of(model("Mistral-7B-v0.1")).sliding_window == 4096
    assert config_of(model("Mistral-7B-v0.3")).sliding_window is None
    assert config_of(model("Gemma-2B")).head_dim == 256


@pytest.mark.parametrize("row", gpus(), ids=lambda row: row.name)
def test_a_card_is_sound(row: GpuRow) -> None:
    assert 8 <= row.memory_gb <= 300
    assert row.sources
    assert row.usable_bytes <= row.memory_gb * 2**30 / row.devices
    if row.usable_gib is not None:
        assert row.usable_gib[0] <= row.usable_gib[1] <= row.memory_gb
    assert all(getattr(row, name) for name in row.unverified), "only what is said can be unverified"
    assert (row.capability is not None) == (row.vendor == "NVIDIA")
    for rate in (row.bf16_tflops, row.fp16_tflops):
        assert rate is None or 10 <= rate <= 2500


def test_other_peoples_mistakes_are_not_here() -> None:
    assert gpu("RTX A4000").bandwidth_gb_s == 448
    assert gpu("H100 PCIe").bf16_tflops == 756
    assert gpu("RTX 5090").bf16_tflops == 209.5
    assert gpu("B200").bf16_tflops == 2250
    assert gpu("RTX 6000 Ada").bf16_tflops == 364
    assert gpu("A10G").bf16_tflops is None, "unknown stays unknown"
    assert gpu("P100").unverified


def test_names_are_unique_and_exact() -> None:
    for rows in (models(), gpus()):
        names = [row.name.lower() for row in rows]
        assert len(names) == len(set(names)) >= 56
    assert len(models()) >= 72
    assert gpu("l4").bandwidth_gb_s == 300, "an L40 is no L4"
    assert gpu("NVIDIA L40S").name == "L40S"
    assert gpu("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert model("meta-llama/llama-3.1-8b").name == "Llama-3.1-8B"
    with pytest.raises(NotFound, match=r"no card called 'L41'.*Near are .*L4"):
        gpu("L41")
    with pytest.raises(NotFound, match=r"no model called 'llama 8b'.*Llama-3.1-8B"):
        model("llama 8b")


def test_search_finds_words_in_any_order_and_the_exact_name_first() -> None:
    assert search("l4", gpus())[0].name == "L4"
    assert {row.name for row in search("7b qwen", models())} == {"Qwen2.5-7B", "Qwen3-1.7B"}
    assert [row.name for row in search("gpt-2", models())] == ["GPT-2", "GPT-2-medium", "GPT-2-large", "GPT-2-XL"]
    assert search("no such thing", models()) == []


def test_the_catalogue_needs_no_torch() -> None:
    program = """
import sys
from core.catalog import architecture_of, gpus, models
assert architecture_of("Llama-3.1-405B").total == 405_853_388_800 and gpus() and models()
heavy = [m for m in ("torch", "transformers", "numpy") if m in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
