"""Merged models are plain folders that transformers loads, whole or rounded; and many adapters share one base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.base import load_base
from core.errors import BadInput, NotFound, Refused
from core.export.merged import merge, quantize
from core.export.rack import Rack
from core.export.subject import held_bytes
from core.layers.quiet_bitsandbytes import bnb
from core.methods import METHODS, attach_saved
from tests.core.ship_support import adapter, logits, own_logits, write

ROUNDING = 2e-5  # as in test_export_convert
MERGING = [m for m, module in METHODS.items() if module.MERGES]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write("llama_biased", tmp_path_factory.mktemp("bases"))


def loaded(folder: Path):
    """What transformers makes of a folder, alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()


@pytest.mark.parametrize("method", MERGING)
def test_transformers_loads_the_merged_folder_and_computes_the_same(base: Path, tmp_path: Path, method: str) -> None:
    from transformers import AutoTokenizer

    folder = adapter(base, tmp_path / "a", method)
    done = merge(str(base), folder, tmp_path / "m", card="---\nlicense: unknown\n---\n# Card\n")
    model = loaded(tmp_path / "m")
    assert not any(hasattr(m, "base_layer") for m in model.modules())
    torch.testing.assert_close(logits(model), own_logits(base, folder), rtol=0, atol=ROUNDING)
    assert AutoTokenizer.from_pretrained(tmp_path / "m")("a b c")["input_ids"]
    assert (tmp_path / "m" / "README.md").read_text().startswith("---")
    assert done.size_bytes == sum(f.stat().st_size for f in (tmp_path / "m").rglob("*") if f.is_file())
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "float32"


def test_in_bfloat16_every_weight_is_rounded_once(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a")
    merge(str(base), folder, tmp_path / "m")
    merge(str(base), folder, tmp_path / "h", stored="bfloat16")
    full, half = dict(loaded(tmp_path / "m").named_parameters()), dict(loaded(tmp_path / "h").named_parameters())
    assert full.keys() == half.keys()
    for name, parameter in half.items():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, full[name].to(torch.bfloat16))


def test_nf4_is_the_merged_weight_quantized_and_loads_as_such(tmp_path: Path) -> None:
    # Rows of 64: on a CPU bitsandbytes itself misreads blocks that cross the ends of rows.
    base = write("llama", tmp_path, hidden_size=64, intermediate_size=128)
    folder = adapter(base, tmp_path / "a")
    merge(str(base), folder, tmp_path / "q", stored="nf4")
    there = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert (there["quant_method"], there["bnb_4bit_quant_type"]) == ("bitsandbytes", "nf4")
    model = load_base(str(base)).model
    merged = attach_saved(model, folder).merge()
    before = {n: p.detach().clone() for n, p in merged.named_parameters() if n.endswith("_proj.weight")}
    lost = quantize(merged)
    theirs = loaded(tmp_path / "q")
    for path, norm in lost.items():
        own = merged.get_submodule(path).dense_weight(torch.float32)  # type: ignore[operator]
        stored = theirs.get_submodule(path).weight
        assert torch.equal(bnb.functional.dequantize_4bit(stored.data, stored.quant_state), own)
        assert norm == pytest.approx(float((own - before[f"{path}.weight"]).norm()), rel=1e-5)
        # 16 levels: about a tenth of the weights' size.
        assert 0.02 < norm / float(before[f"{path}.weight"].norm()) < 0.2
    # On some CPUs bitsandbytes computes in bfloat16 (8 bits) whatever was asked for.
    torch.testing.assert_close(logits(theirs), logits(merged), rtol=0, atol=1e-2)
    assert not torch.allclose(logits(merged), own_logits(base, folder), atol=2e-2), "and the rounding is there to see"


@pytest.mark.parametrize("method", [m for m in METHODS if m not in MERGING])
def test_what_cannot_be_merged_is_refused(base: Path, tmp_path: Path, method: str) -> None:
    with pytest.raises(Refused, match="cannot be merged"):
        merge(str(base), adapter(base, tmp_path / "a", method), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_an_unknown_format_leaves_what_was_there(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="no format 'int3'"):
        merge(str(base), folder, tmp_path / "m", stored="int3")
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["mine.txt"]


# --- the rack ---------------------------------------------------------------------------------------------------------


def test_adapters_of_many_methods_share_one_base(base: Path, tmp_path: Path) -> None:
    """Each, switched to in any order, computes to the bit what it computes alone; and the base is the base."""
    mixed = {m: adapter(base, tmp_path / m, m) for m in METHODS if m not in ("qlora", "full")}
    mixed["lora 2"] = adapter(base, tmp_path / "lora2", "lora", seed=8, rank=2, target_modules="attention", bias="all")
    alone = {name: own_logits(base, folder) for name, folder in mixed.items()}
    model = load_base(str(base)).model
    plain = logits(model)
    rack = Rack(model)
    for name, folder in mixed.items():
        rack.add(name, folder)
        assert rack.current is None
    order = [*mixed, *reversed(mixed), "lora", "bitfit", "pissa", "prompt_tuning", "lora 2"]
    for name in order:
        rack.use(name)
        # PiSSA's is held as the LoRA that its folder is: the same sum in another order.
        if name == "pissa":
            torch.testing.assert_close(logits(model), alone[name], rtol=0, atol=ROUNDING)
        else:
            assert torch.equal(logits(model), alone[name]), name
    rack.use(None)
    assert torch.equal(logits(model), plain)
    with pytest.raises(NotFound, match="no adapter called 'x'"):
        rack.use("x")
    with pytest.raises(BadInput, match="already"):
        rack.add("lora", mixed["lora"])


def test_one_base_is_held_once(base: Path, tmp_path: Path) -> None:
    model = load_base(str(base)).model
    alone = held_bytes(model)
    rack = Rack(model)
    for name in ("a", "b", "c"):
        rack.add(name, adapter(base, tmp_path / name, "lora", seed=ord(name), rank=2))
    rack.use(None)
    assert held_bytes(model) == alone
    together = held_bytes(model, *(rack.tensors(n) for n in ("a", "b", "c")))
    one = held_bytes(rack.tensors("a"))
    assert together == alone + 3 * one
    assert one == 4 * sum(t.numel() for t in rack.tensors("a").values())


def test_adapters_in_four_bits_share_a_base_in_four_bits(base: Path, tmp_path: Path) -> None:
    folders = {n: adapter(base, tmp_path / n, "qlora", seed=s, rank=2) for n, s in (("a", 1), ("b", 2))}
    model = load_base(str(base)).model
    rack = Rack(model)
    for name, folder in folders.items():
        rack.add(name, folder)
    for name in ("a", "b", "a"):
        rack.use(name)
        assert torch.equal(logits(model), own_logits(base, folders[name])), name
    with pytest.raises(Refused, match="two bases"):
        rack.add("plain", adapter(base, tmp_path / "p"))


def test_another_base_s_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    other = write("llama_biased", tmp_path, seed=9)
    rack = Rack(load_base(str(base)).model)
    with pytest.raises(BadInput, match="other weights"):
        rack.add("a", adapter(other, tmp_path / "a"))
