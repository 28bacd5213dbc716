"""Published figures: carried over as they were printed, expressed as steps, and not far from what is predicted."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.catalog import FOLDER, configuration
from core.errors import BadInput, DeltalabError, NotFound
from core.memory.allocator import replay
from core.memory.card import totals
from core.memory.predicted import ONE_TERM, residuals
from core.memory.published import SOURCES, Case, Refused, case_of, rows
from core.memory.resident import adamss_buffers, psoft_buffers, resident_rows, unexpressed
from core.memory.setup import Device
from core.memory.trace import trace
from core.memory.validation import CAUSED, UNKNOWN, band, band_of, quantile, record, reserved_scored, summarised
from core.units import GIB

COVERED = [c for c in map(case_of, rows()) if isinstance(c, Case)]


def test_every_row_is_a_question_or_has_a_reason() -> None:
    assert len(rows()) == 145
    assert len({row.id for row in rows()}) == 145
    assert {row.source for row in rows()} == set(SOURCES)
    for row in rows():
        assert row.unit in ("GB", "GiB")
        found = case_of(row)
        if isinstance(found, Refused):
            assert found.reason.endswith(".")
    assert len(COVERED) >= 75
    first = next(row for row in rows() if row.id == "litgpt-tables-11")
    assert first.measured_bytes == 21_300_000_000, "GB, not GiB"
    assert next(row for row in rows() if row.id == "torchtune-flags-02").measured_bytes == 60 * GIB


def test_a_row_says_what_it_says() -> None:
    """The steps of torchtune's list add up; a LoRA row has its rank, targets and passes."""
    by_id = {c.row.id: c for c in COVERED}
    last = by_id["torchtune-flags-08"].setup
    assert last.stack.compile
    assert last.stack.in_backward
    assert last.stack.offload_activations
    assert last.checkpointing
    assert (last.stack.loss, last.optimizer, last.length) == ("chunked", "adamw_8bit", 4096)
    assert not by_id["torchtune-flags-02"].setup.stack.compile
    lit = by_id["litgpt-configs-10"].setup
    assert (lit.method, lit.settings.rank, lit.batch, lit.length, lit.accumulation) == ("qlora", 32, 2, 512, 2)
    assert by_id["peft-bench-16"].setup.method == "dora"
    assert by_id["peft-bench-16"].metric == "reserved"


@pytest.mark.parametrize(
    ("like", "change", "says"),
    [
        ("litgpt-tables-11", {"source": "a-blog"}, "How a-blog runs its steps is not written down"),
        ("litgpt-tables-11", {"detail": "all linear"}, "The rank is not stated in 'all linear'"),
        ("litgpt-tables-11", {"batch": "?"}, "The column batch says '\\?'"),
        ("litgpt-tables-11", {"gpu": "T4"}, "Its card, T4, does not compute in bfloat16"),
        ("litgpt-tables-11", {"gpu": "Tesla V100-SXM2-16GB"}, "does not compute in bfloat16"),
        ("litgpt-tables-11", {"gpu": "A100-ish"}, "no CUDA card of the catalogue"),
        ("torchtune-flags-02", {"detail": "+something"}, "The switch '\\+something'"),
        ("torchtune-speed-01", {"gpus": "?"}, "The column gpus"),
        ("torchtune-speed-01", {"method": "DoRA"}, "The method DoRA"),
        ("peft-bench-28", {"detail": "{'r': oops}; overrides={}"}, "num_virtual_tokens is not stated"),
        ("peft-readme-06", {}, "What was run is not known well enough"),
    ],
)
def test_a_row_of_another_kind_has_a_reason(like: str, change: dict[str, str], says: str) -> None:
    found = case_of(dataclasses.replace(next(r for r in rows() if r.id == like), **change))
    assert isinstance(found, Refused)
    assert re.search(says, found.reason)


def test_a_card_of_the_catalogue_is_its_own() -> None:
    like = next(r for r in rows() if r.id == "litgpt-tables-11")
    for name, capability in (("H100 SXM", "9.0"), ("RTX 4090", "8.9"), ("A10G-24GB", "8.6"), ("?", "8.0")):
        found = case_of(dataclasses.replace(like, gpu=name))
        assert isinstance(found, Case)
        assert str(found.setup.device) == capability


def test_rows_as_long_as_their_texts_follow_one_rule() -> None:
    """As long as the longest text where that is known in the model's tokens; not predicted where it is not."""
    lengths = {c.row.id: c.setup.length for c in COVERED if re.search("variable|Alpaca .longest", c.row.length)}
    assert len(lengths) >= 9
    assert set(lengths.values()) == {1304}
    assert all("Llama-2" in c.model for c in COVERED if c.row.id in lengths)
    (other,) = (f for f in map(case_of, rows()) if isinstance(f, Refused) and "unpacked" in f.row.length)
    assert "is known in Llama-2's tokens alone" in other.reason


@pytest.mark.parametrize("name", ["litgpt-tables-06", "litgpt-tables-08", "torchtune-flags-03"])
def test_a_prediction_comes_out_as_the_record_says(name: str) -> None:
    case = next(c for c in COVERED if c.row.id == name)
    kept = next(r for r in record()["rows"] if r["id"] == name)
    peak = trace(configuration(case.model), case.setup).peak_bytes
    assert peak == pytest.approx(kept["predicted_bytes"], rel=1e-3), "run make bench-memory"
    assert abs(peak / case.row.measured_bytes - 1) < 0.02


def test_the_record_is_of_these_rows_and_holds_what_is_promised() -> None:
    kept = record()
    assert [r["id"] for r in kept["rows"]] == [c.row.id for c in COVERED]
    assert kept["summary"]["rows"] == 145 == len(kept["rows"]) + len(kept["uncovered"])
    for row in kept["rows"]:
        assert row["error"] == pytest.approx(row["predicted_bytes"] / row["measured_bytes"] - 1)
        assert sum(t["bytes"] for t in row["terms"]) == row["allocated_bytes"]
        if row["metric"] == "reserved":
            assert row["allocated_bytes"] < row["predicted_bytes"] < 1.1 * row["allocated_bytes"]
        else:
            assert row["predicted_bytes"] == row["allocated_bytes"]
        assert abs(row["error"]) <= CAUSED or row["cause"]
    target = next(g for g in kept["summary"]["groups"] if g["by"] == "target")
    assert target["rows"] >= 60
    assert target["mean_abs"] <= 0.05
    assert all(abs(step["error"]) <= 0.1 for step in kept["waterfall"])
    assert len(kept["waterfall"]) == 7
    assert kept["resident"]["within"] / kept["resident"]["rows"] >= 0.9
    assert kept["summary"]["groups"] == summarised(kept["rows"])
    assert kept["reserved"] == reserved_scored(kept["rows"])
    assert kept["reserved"]["rows"] == 12
    assert kept["reserved"]["simulated"]["mean_abs"] <= 0.05


def test_reserved_totals_by_hand() -> None:
    def row(measured: int, simulated: int, low: int, likely: int, high: int) -> dict[str, Any]:
        return {"metric": "reserved", "measured_bytes": measured, "predicted_bytes": simulated,
                "reserved_bytes": [low, likely, high]}  # fmt: skip

    told = reserved_scored([row(100, 104, 90, 110, 120), row(100, 98, 101, 105, 120), {"metric": "allocated"}])
    assert (told["rows"], told["within"]) == (2, 1)
    assert told["simulated"] == pytest.approx({"mean_abs": 0.03, "bias": 0.01, "worst": 0.04})
    assert told["instant"] == pytest.approx({"mean_abs": 0.075, "bias": 0.075, "worst": 0.1})
    assert reserved_scored([{"metric": "allocated"}]) == {}


def test_a_reserved_total_comes_out_as_the_record_says() -> None:
    name = "peft-bench-28"
    case = next(c for c in COVERED if c.row.id == name)
    kept = next(r for r in record()["rows"] if r["id"] == name)
    traced = trace(configuration(case.model), case.setup)
    assert replay(traced).most_reserved == pytest.approx(kept["predicted_bytes"], rel=1e-3), "run make bench-memory"
    low, likely, high = kept["reserved_bytes"]
    assert [low, likely, high] == list(totals(traced.peak_bytes, case.setup.device).reserved)


def test_what_is_left_after_a_step_is_counted() -> None:
    """PEFT's LoRA of rank 32: two bytes of the base, sixteen of 9,175,040 numbers."""
    one = next(r for r in resident_rows() if r.name == "lora--llama-3.2-3B-rank32")
    assert (one.how, one.trained, one.frozen, one.buffers) == ("counted", 9_175_040, 0, 0)
    assert one.whole_bytes(3_212_749_824) == 2 * 3_212_749_824 + 16 * 9_175_040
    assert 0.30 * GIB < one.measured_bytes - one.whole_bytes(3_212_749_824) < 0.36 * GIB


def test_what_other_methods_keep_is_told_by_their_shapes() -> None:
    """Three methods that Deltalab does not have: what the benchmark printed follows from their shapes, and so does what
    no count of parameters shows. (Llama-3.2-3B: 28 blocks, q_proj 3072 × 3072, v_proj 1024 × 3072.)"""
    by_name = {r.name: r for r in resident_rows()}
    psoft = by_name["psoft--llama-3.2-3B-fast"]
    assert psoft.trained == 28 * 2 * (256 * 255 // 2 + 2 * 256)
    assert psoft.buffers == 28 * (psoft_buffers(256, 3072, 3072) + psoft_buffers(256, 1024, 3072))
    assert psoft_buffers(4, 10, 20) == 4 * (4 * 10 + 4 * 20) + 16 * 6
    adamss = by_name["adamss--llama-3.2-3B-rank32"]
    assert adamss.trained == 28 * (2 * 32 * 100 + 3072 + 1024)
    assert adamss.buffers == 28 * (adamss_buffers(100, 3072, 3072) + adamss_buffers(100, 1024, 3072))
    prompts = by_name["adaptionprompt--llama-3.2-3B-lr_5e-3"]
    assert (prompts.trained, prompts.each) == (28 * (100 * 3072 + 1), 8)
    assert by_name["adalora--llama-3.2-3B-rank32"].each == 16 + 3 * 4
    # Of LoRA's pairs one half trains; the other is there in 32 bits.
    for name, frozen in (("lora--llama-3.2-3B-rank32-lorafa", 28 * 2 * 32 * 3072),
                         ("lora--llama-3.2-3B-rank32-mica", 28 * 32 * (3072 + 1024))):  # fmt: skip
        assert by_name[name].frozen == frozen
        assert by_name[name].trained + frozen == 9_175_040


def test_every_resident_figure_is_expressed_or_named() -> None:
    kept = record()["resident"]
    named = {row["id"] for row in kept["unexpressed"]}
    assert named == {i for i, _, _ in unexpressed()}
    assert {e["id"] for e in kept["entries"]} | named == {r.id for r in rows() if r.resident_bytes is not None}
    assert not {e["id"] for e in kept["entries"]} & named
    off = [e for e in kept["entries"] if abs(e["predicted_bytes"] - e["measured_bytes"]) > kept["tolerance_bytes"]]
    assert all(e["cause"] for e in off), "what is off is named with its cause"
    assert len(off) + len(named) <= 0.1 * (len(kept["entries"]) + len(named))
    assert kept["others_within"] / kept["others"] >= 0.9


def test_the_band_by_hand() -> None:
    def row(ratio: float, **more: Any) -> dict[str, Any]:
        return {"measured_bytes": 100 * ratio, "predicted_bytes": 100, "role": "held out", "metric": "allocated",
                "gpus": 1, **more}  # fmt: skip

    found = band_of([row(1 + n / 100) for n in range(-10, 11)] + [row(9, role="fitted"), row(9, metric="reserved")])
    assert found.rows == 21
    assert (found.low, found.likely, found.high) == pytest.approx((0.91, 1.0, 1.09))
    assert band_of([]) is UNKNOWN
    assert quantile([1.0, 2.0], 0.5) == 1.5
    assert band().rows >= 60
    assert band().low <= 1 <= band().high
    card = totals(10 * GIB, Device((8, 9)))
    assert card.reserved[0] == round(10 * GIB * 1.016 * band().low)
    assert card.reserved[2] == round(10 * GIB * 1.146 * band().high)


# --- a run's own ------------------------------------------------------------------------------------------------------


def test_residuals_term_by_term() -> None:
    def ledger(**terms: int) -> dict[str, Any]:
        rows = [{"name": n.replace("_", " "), "bytes": b, "formula": "", "source": ""} for n, b in terms.items()]
        return {"terms": rows, "allocated_bytes": sum(terms.values())}

    told = ledger(frozen_weights=100, gradients=10, activations=30, logits_and_loss=20, batch=1)
    real = ledger(frozen_weights=100, gradients=12, activations_and_temporaries=60)
    assert residuals(told, real) == [
        {"name": "frozen weights", "predicted": 100, "measured": 100, "difference": 0},
        {"name": "gradients", "predicted": 10, "measured": 12, "difference": 2},
        {"name": ONE_TERM, "predicted": 51, "measured": 60, "difference": 9},
        {"name": "allocated", "predicted": 161, "measured": 172, "difference": 11},
    ]
    assert residuals({}, real) == []
    assert residuals({"reason": "No."}, real) == []


# --- a model that nobody has seen -------------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def test_a_pasted_configuration_is_a_model() -> None:
    from core.architecture import architecture_of_config

    found = configuration(json.dumps(LLAMA))
    assert architecture_of_config(found).total == 2 * 1000 * 64 + 2 * (64 * 64 * 3 + 64 * 128 * 3 + 128) + 64
    assert configuration(json.dumps({"model_type": "gpt2", "vocab_size": 90, "n_embd": 8, "n_layer": 1, "n_head": 1}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (json.dumps(LLAMA)[:-20], "cut off"),
        ('{"model_type": "llama" "hidden_size": 4}', "is not JSON: line 1"),
        (json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"}), "does not say hidden_size"),
        (json.dumps({**LLAMA, "model_type": None}), "does not know the architecture None"),
        (json.dumps({"hidden_size": 8}), "names no model_type"),
        (json.dumps({**LLAMA, "model_type": "lama"}), "does not know the architecture 'lama'"),
        (json.dumps({**LLAMA, "num_attention_heads": 7}), "does not describe a llama model"),
        ("{}", "says nothing"),
        ("{" + " " * 300_000, "longer than any"),
        (json.dumps({**LLAMA, "quantization_config": {"quant_method": "gptq"}}), "quantized already"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said(text: str, sentence: str) -> None:
    from core.errors import BaseUnavailable

    with pytest.raises((BadInput, BaseUnavailable, NotFound), match=sentence):
        configuration(text)


GEMMA = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256,
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                    "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "sliding_window": 1024},
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_attention_heads": 16,
                      "num_hidden_layers": 27, "vision_use_head": False},
}  # fmt: skip
BLOOM = {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "n_layer": 24, "num_attention_heads": 16,
         "n_embed": 1024, "vocab_size": 250880}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "sizes"),
    [(GEMMA, (262_208, 2560, 34, 8)), (BLOOM, (250_880, 1024, 24, 16))],
    ids=["gemma", "bloom"],
)
def test_a_text_a_file_and_a_folder_are_read_alike(values: Any, sizes: tuple[int, ...], tmp_path: Path) -> None:
    """As published, with what transformers leaves out because it is the default, and with a size's older name."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    found = [configuration(s) for s in (json.dumps(values), str(folder / "config.json"), str(folder))]
    for one in found:
        text = one.get_text_config()
        assert (text.vocab_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == sizes
    first, *others = ({k: v for k, v in one.to_dict().items() if k != "_name_or_path"} for one in found)
    assert others == [first, first]
    assert [one._name_or_path for one in found] == ["The pasted configuration", "model", "model"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_act": "nonsense"}, "hidden_act: 'nonsense' is not known"),
        ({"rope_scaling": {"type": "weird", "factor": 2.0}}, "rope_parameters.*weird"),
        ({"pad_token_id": 99_999}, "pad_token_id"),
        ({"hidden_size": 10**12}, "hidden_size of odd.json is 1000000000000; it should be a whole number"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers of odd.json is 1000000"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers of odd.json is 'many'"),
        ({"max_position_embeddings": 1 << 60}, "max_position_embeddings of odd.json is"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        (
            {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 9},
            "num_experts_per_tok of odd.json is 9",
        ),
    ],
)
def test_what_transformers_refuses_is_a_sentence_with_the_field(change: Any, says: str, tmp_path: Path) -> None:
    """Whether it refuses while it reads the file or while it makes the model; from a file and from a folder."""
    from core.architecture import architecture_of_config

    (tmp_path / "odd.json").write_text(json.dumps({**LLAMA, **change}))
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**LLAMA, **change}))
    for source in (tmp_path / "odd.json", folder):
        with pytest.raises(DeltalabError, match=says if source.suffix else says.replace("odd.json", "odd")) as caught:
            architecture_of_config(configuration(str(source)))
        assert len(str(caught.value)) < 500
        assert str(caught.value).endswith(".")


def test_a_configuration_without_end_is_a_sentence(tmp_path: Path) -> None:
    for text in ("[" * 50_000, '{"a":' * 50_000):
        (tmp_path / "config.json").write_text(text)
        for source in (text, str(tmp_path / "config.json"), str(tmp_path)):
            with pytest.raises(DeltalabError):
                configuration(source)


def test_the_record_is_small() -> None:
    """(That the pages read it without torch: tests/app/test_live_api.py.)"""
    assert (FOLDER / "validation.json").stat().st_size < 600_000
