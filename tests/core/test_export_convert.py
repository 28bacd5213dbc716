"""Any change as a LoRA: exact at the change's own rank, the best possible below it, and read by PEFT."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from core.base import load_base
from core.errors import BadInput, Incompatible, Refused
from core.export.convert import as_lora, convert, decompose, keep
from core.methods import METHODS, attach_saved
from tests.core.ship_support import adapter, ids, logits, own_logits, write

# float32 logits of size 1 after two layers; ΔW goes through a decomposition and is added in another order.
ROUNDING = 2e-5
# What changes matrices alone: with these, a LoRA of full rank computes the same.
WHOLE = {
    "lora": {"rank": 4, "alpha": 8},
    "rslora": {"rank": 4},
    "lora_plus": {"rank": 4},
    "pissa": {"rank": 4},
    "dora": {"rank": 4},
    "vera": {"rank": 16},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write("llama", tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def biased(tmp_path_factory) -> Path:
    return write("llama_biased", tmp_path_factory.mktemp("bases"))


def peft_logits(base: Path, folder: Path) -> torch.Tensor:
    """What PEFT makes of a folder on the plain base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    return logits(model.eval())


@pytest.mark.parametrize("method", WHOLE)
def test_at_its_own_rank_nothing_is_lost_and_peft_computes_the_same(base: Path, tmp_path: Path, method: str) -> None:
    folder = adapter(base, tmp_path / "a", method, **WHOLE[method])
    done = convert(str(base), folder, tmp_path / "b")
    want = own_logits(base, folder)
    plain = logits(load_base(str(base)).model)
    assert (want - plain).abs().max() > 50 * ROUNDING, "it learnt something that could be lost"
    torch.testing.assert_close(own_logits(base, tmp_path / "b"), want, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(peft_logits(base, tmp_path / "b"), want, rtol=0, atol=ROUNDING)
    there = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert (there["peft_type"], there["use_dora"], there["use_rslora"]) == ("LORA", False, False)
    assert there["r"] == there["lora_alpha"] == done.rank
    assert (done.error, done.left_out) == (0, {})
    if method in ("lora", "rslora", "lora_plus"):
        assert done.rank == 4, "ranks that are rounding alone do not count"
    if method == "pissa":
        assert done.rank == 8, "what moved into the pair at the start counts too"


def test_full_fine_tuning_keeps_what_a_lora_can_hold(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a", "full", rate=1e-3)
    done = convert(str(base), folder, tmp_path / "b")
    assert done.error == 0
    assert {m.split(".")[-1] for m in done.left_out} == {"weight"}
    assert any("embed_tokens" in n for n in done.left_out)
    assert any("norm" in n for n in done.left_out)
    # With the embedding and the norms put back as well, it is the trained model.
    whole, lora = (load_base(str(base)).model for _ in range(2))
    attach_saved(whole, folder)
    attach_saved(lora, tmp_path / "b").merge()
    trained = dict(whole.named_parameters())
    with torch.no_grad():
        for name in done.left_out:
            lora.get_parameter(name).copy_(trained[name])
    torch.testing.assert_close(logits(lora), logits(whole), rtol=0, atol=ROUNDING)


def test_the_error_is_the_tail_of_the_singular_values(base: Path, tmp_path: Path) -> None:
    """Against ΔW formed anew and numpy's norms: Eckart and Young's number, module by module."""
    folder = adapter(base, tmp_path / "a", "full", rate=1e-3)
    done = convert(str(base), folder, tmp_path / "b", rank=3)
    plain, full, lora = (load_base(str(base)).model for _ in range(3))
    attach_saved(full, folder)
    attach_saved(lora, tmp_path / "b").merge()
    lost = whole = 0.0
    for row in done.modules:
        w0, w1, w2 = (m.get_submodule(row["module"]).weight.detach().double() for m in (plain, full, lora))
        error = float((w1 - w2).norm() / (w1 - w0).norm())
        assert row["error"] == pytest.approx(error, rel=1e-3)
        tail = torch.linalg.svdvals(w1 - w0)[3:].norm() / (w1 - w0).norm()
        assert error == pytest.approx(float(tail), rel=1e-3), "no LoRA of rank 3 comes closer"
        lost, whole = lost + float((w1 - w2).norm()) ** 2, whole + float((w1 - w0).norm()) ** 2
    assert done.error == pytest.approx(math.sqrt(lost / whole), rel=1e-3)
    assert 0.05 < done.error < 1


def test_cutting_down_is_converting_to_the_lower_rank(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a", "dora", rank=4)
    change = decompose(load_base(str(base)).model, folder)
    high, low = (load_base(str(base)).model for _ in range(2))
    cut = as_lora(high, change, change.most)
    keep(cut, 2)
    as_lora(low, change, 2)
    torch.testing.assert_close(logits(high), logits(low), rtol=0, atol=ROUNDING)
    errors = [change.error(r) for r in range(1, change.most + 1)]
    assert errors == sorted(errors, reverse=True)


def test_a_share_of_energy_is_a_rank(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a", "full", rate=1e-3)
    change = decompose(load_base(str(base)).model, folder)
    rank = change.rank_for(0.9)
    kept = [1 - f.lost(rank) / f.energy for f in change.factors]
    assert min(kept) >= 0.9
    assert min(1 - f.lost(rank - 1) / f.energy for f in change.factors) < 0.9
    assert convert(str(base), folder, tmp_path / "b", energy=0.9).rank == rank
    assert change.rank_for(1.0) == change.rank


def test_trained_biases_are_left_out_and_named(biased: Path, tmp_path: Path) -> None:
    folder = adapter(biased, tmp_path / "a", "lora", rank=2, bias="all")
    done = convert(str(biased), folder, tmp_path / "b")
    assert done.rank == 2
    assert done.left_out
    assert all(n.endswith(".bias") for n in done.left_out)
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["bias"] == "none"
    model = load_base(str(biased)).model
    attached = attach_saved(model, folder)
    own = {n: p.detach().clone() for n, p in load_base(str(biased)).model.named_parameters()}
    merged = attached.merge()
    with torch.no_grad():
        for name in done.left_out:
            merged.get_parameter(name).copy_(own[name])
    torch.testing.assert_close(own_logits(biased, tmp_path / "b"), logits(merged), rtol=0, atol=ROUNDING)


def test_scaled_activations_leave_out_the_bias_that_they_scale(biased: Path, tmp_path: Path) -> None:
    done = convert(str(biased), adapter(biased, tmp_path / "a", "ia3"), tmp_path / "b")
    assert done.left_out
    assert {n.split(".")[-2] for n in done.left_out} == {"k_proj", "v_proj"}, "inputs of down_proj have no bias before"


def test_qlora_becomes_the_same_pairs(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a", "qlora", rank=4)
    done = convert(str(base), folder, tmp_path / "b")
    assert done.rank == 4
    from core.methods import lora

    four, plain = load_base(str(base)).model, load_base(str(base)).model
    mine = attach_saved(four, folder).layers  # type: ignore[attr-defined]
    theirs = attach_saved(plain, tmp_path / "b").layers  # type: ignore[attr-defined]
    assert isinstance(next(iter(theirs.values())), type(next(iter(mine.values()))))
    for path, layer in mine.items():
        torch.testing.assert_close(theirs[path].delta(), layer.delta(), rtol=0, atol=2e-6)
    assert lora.read_config(tmp_path / "b").rank == 4


@pytest.mark.parametrize("family", ["gpt2"])
def test_matrices_stored_the_other_way_round(tmp_path: Path, family: str) -> None:
    base = write(family, tmp_path)
    folder = adapter(base, tmp_path / "a", "dora", rank=4)
    convert(str(base), folder, tmp_path / "b")
    torch.testing.assert_close(own_logits(base, tmp_path / "b"), own_logits(base, folder), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(peft_logits(base, tmp_path / "b"), own_logits(base, folder), rtol=0, atol=ROUNDING)
    full = adapter(base, tmp_path / "f", "last_k", blocks=1, final_norm=False, rate=1e-3)
    done = convert(str(base), full, tmp_path / "c")
    assert {m["module"].split(".")[-1] for m in done.modules} == {"c_attn", "c_proj", "c_fc"}
    assert all(m["shape"] != [32, 96] for m in done.modules), "(out, in)"


def test_a_head_that_is_the_embedding_is_left_out(biased: Path, tmp_path: Path) -> None:
    done = convert(str(biased), adapter(biased, tmp_path / "a", "full", rate=1e-3), tmp_path / "b")
    assert "model.embed_tokens.weight" in done.left_out
    assert all(m["module"] != "lm_head" for m in done.modules)


@pytest.mark.parametrize("method", ["bitfit", "ln_tuning"])
def test_where_no_matrix_changed_there_is_nothing_to_convert(biased: Path, tmp_path: Path, method: str) -> None:
    with pytest.raises(Refused, match="changed no matrix"):
        convert(str(biased), adapter(biased, tmp_path / "a", method), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("method", [m for m, module in METHODS.items() if not module.MERGES])
def test_what_cannot_be_merged_cannot_be_converted(base: Path, tmp_path: Path, method: str) -> None:
    with pytest.raises(Refused, match="cannot be merged"):
        convert(str(base), adapter(base, tmp_path / "a", method), tmp_path / "b")


def test_mistakes_are_said(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a", rank=2)
    with pytest.raises(BadInput, match="not both"):
        convert(str(base), folder, tmp_path / "b", rank=2, energy=0.5)
    with pytest.raises(BadInput, match="above 0"):
        convert(str(base), folder, tmp_path / "b", energy=0)
    with pytest.raises((BadInput, Incompatible), match="rank of 33 is not possible"):
        convert(str(base), folder, tmp_path / "b", rank=33)
    other = write("llama", tmp_path / "other", seed=5)
    with pytest.raises(BadInput, match="other weights"):
        convert(str(other), folder, tmp_path / "b")
    assert ids().shape == (3, 11)
