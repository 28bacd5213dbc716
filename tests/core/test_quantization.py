"""Blockwise quantization: the derivation of NF4, storing and reading, what it takes and loses, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.errors import BadInput, BaseUnavailable, DeltalabError, Incompatible, NotFound
from core.probes import Subject, probe
from core.quantization import blockwise, matrices, measures, pairs, summaries
from core.quantization.formats import FORMATS, NF4_PUBLISHED, SHOWN, format_of, gaps, normal_float
from core.world import TASKS

BLOCKED = [n for n in FORMATS if FORMATS[n].scope == "block"]
NESTING = [n for n in FORMATS if FORMATS[n].nests]


def weights(rows: int = 96, columns: int = 128, seed: int = 0) -> np.ndarray:
    """Normal weights whose rows differ in scale, with a row of zeros: a scale that is off by one block shows."""
    random = np.random.default_rng(seed)
    out = random.standard_normal((rows, columns)) * np.exp(random.standard_normal((rows, 1)))
    out[1] = 0
    return out.astype(np.float32)


# --- formats ----------------------------------------------------------------------------------------------------------


def test_the_derivation_gives_nf4() -> None:
    """QLoRA, appendix E, has seven digits and was computed in 32 bits."""
    found = normal_float(4)
    assert found.offset == pytest.approx(0.9677083, abs=5e-8)
    assert len(found.levels) == 16
    np.testing.assert_allclose(found.levels, NF4_PUBLISHED, rtol=0, atol=2.5e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_every_step_of_the_derivation(bits: int) -> None:
    found = normal_float(bits)
    half = 2 ** (bits - 1)
    assert (len(found.positive), len(found.negative), len(found.levels)) == (half + 1, half, 2**bits)
    assert list(found.levels) == sorted(set(found.levels))
    assert (found.levels[0], found.levels[half - 1], found.levels[-1]) == (-1.0, 0.0, 1.0)
    for side in (found.positive, found.negative):
        spaces = np.diff([p for p, _, _ in side])
        np.testing.assert_allclose(spaces, spaces[0], rtol=1e-12)
        for p, z, level in side:
            assert 0.5 * (1 + math.erf(z / math.sqrt(2))) == pytest.approx(p, abs=1e-12)
            assert level == pytest.approx(z / found.positive[-1][1], abs=1e-15)


def test_another_offset_is_another_type() -> None:
    wide = normal_float(4, 0.995)
    assert gaps(wide.levels)[0] < gaps(normal_float(4).levels)[0], "a longer tail leaves less for the middle"
    for bad in (0.5, 1.0, 1.5):
        with pytest.raises(BadInput, match=r"between 0\.5 and 1,"):
            normal_float(4, bad)
    with pytest.raises(BadInput, match="2 to 8 bits"):
        normal_float(1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_code_book_is_sorted_and_fits_its_bits(name: str) -> None:
    form = format_of(name)
    assert list(form.levels) == sorted(form.levels)
    assert len(form.levels) <= 2**form.bits
    assert 0.0 in form.levels
    assert max(form.levels) == 1.0
    assert form.source
    if form.patterns:
        assert sorted(form.patterns) == list(range(2**form.bits))


def test_whole_numbers_waste_one_pattern_and_fp4_a_zero() -> None:
    assert [len(set(FORMATS[n].levels)) for n in ("nf4", "fp4", "int4", "int4_affine", "int8")] == [16, 15, 15, 16, 255]


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(NotFound, match="no format 'nf5'"):
        format_of("nf5")


# --- storing and reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("block_size", [32, 64, 100, 4096])
def test_every_weight_gets_the_nearest_level(name: str, block_size: int) -> None:
    """By brute force in 64 bits, for a matrix whose last block is short."""
    form, w = FORMATS[name], weights(33, 47)
    stored = blockwise.quantize(w, form, block_size)
    size = 47 if form.scope == "row" else block_size
    flat, read = w.reshape(-1).astype(np.float64), stored.dense().reshape(-1)
    for number, start in enumerate(range(0, flat.size, size)):
        part = flat[start : start + size]
        low, scale = (part.min(), np.ptp(part)) if form.affine else (0.0, np.abs(part).max())
        assert stored.scale_values()[number] == pytest.approx(scale, rel=1e-6)
        options = low + scale * np.asarray(form.levels)
        best = np.abs(part[:, None] - options[None]).min(axis=1)
        got = np.abs(part - read[start : start + size])
        np.testing.assert_allclose(got, best, atol=3e-7 * max(1.0, np.abs(part).max()))


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_read_is_stored_as_it_is(name: str) -> None:
    """Idempotent: the levels of a block are stored exactly."""
    form = FORMATS[name]
    if name == "dynamic8":
        pytest.skip("it has no -1, so a block whose largest weight is negative has another absmax when it is read")
    once = blockwise.quantize(weights(), form, 64)
    twice = blockwise.quantize(once.dense(), form, 64)
    np.testing.assert_array_equal(form.array[twice.codes], form.array[once.codes])
    np.testing.assert_allclose(twice.dense(), once.dense(), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", SHOWN)
def test_zeros_stay_zeros(name: str) -> None:
    read = blockwise.quantize(weights(), FORMATS[name], 128, FORMATS[name].nests).dense()
    if FORMATS[name].nests:
        assert np.abs(read[1]).max() < 0.02, "the scale of an empty block is no longer exactly zero, but nearly"
    else:
        assert not read[1].any()
    assert not blockwise.quantize(np.zeros((4, 64), np.float32), FORMATS[name], 64).dense().any()


@pytest.mark.parametrize("name", NESTING)
@pytest.mark.parametrize("double", [False, True])
def test_the_closed_form_counts_what_is_stored(name: str, double: bool) -> None:
    """To the bit, but for the one 32-bit mean of a matrix."""
    form, w = FORMATS[name], weights(1024, 1024)
    stored = blockwise.quantize(w, form, 64, double)
    arrays = [(stored.codes, form.bits)]
    if isinstance(stored.scales, blockwise.NestedScales):
        arrays += [(stored.scales.codes, 8), (stored.scales.outer, 32)]
    else:
        arrays += [(stored.scales, 32)]
    counted = sum(a.size * bits for a, bits in arrays)
    assert counted / w.size == blockwise.bits_per_weight(form, 64, double)
    assert stored.stored_bits == counted + (32 if double else 0)


def test_the_paper_s_bits() -> None:
    """QLoRA, section 3: 0.5 bits a parameter for the constants, with double quantization 0.127."""
    nf4 = FORMATS["nf4"]
    assert blockwise.bits_per_weight(nf4, 64) == 4.5
    assert blockwise.bits_per_weight(nf4, 64, double=True) == 4 + 8 / 64 + 32 / (64 * 256)
    assert blockwise.bits_per_weight(FORMATS["int4_affine"], 64) == 5.0
    assert blockwise.bits_per_weight(FORMATS["int8_row"], 64, columns=256) == 8.125
    with pytest.raises(BadInput, match="one scale per row"):
        blockwise.bits_per_weight(FORMATS["int8_row"], 64)


def test_double_quantization_changes_scales_and_no_code() -> None:
    plain, double = (blockwise.quantize(weights(512, 512), FORMATS["nf4"], 64, d) for d in (False, True))
    np.testing.assert_array_equal(plain.codes, double.codes)
    assert isinstance(double.scales, blockwise.NestedScales)
    gap = np.abs(plain.scale_values() - double.scale_values())
    outer = np.repeat(double.scales.outer, blockwise.OUTER_BLOCK)[: gap.size]
    assert 0 < gap.max() <= (0.01 * outer).max(), "half of the widest step of the dynamic type is 0.7 % of its scale"
    for name in ("int4_affine", "int8_row"):
        with pytest.raises(BadInput, match="Double quantization stores one scale per block"):
            blockwise.quantize(weights(), FORMATS[name], 64, double=True)


@pytest.mark.parametrize(
    ("weight", "size", "sentence"),
    [
        (np.zeros((0, 4)), 64, "empty"),
        (np.array([[1.0, np.nan]]), 64, "not finite"),
        (np.array([[1.0, np.inf]]), 64, "not finite"),
        (np.ones((2, 2)), 0, "at least one weight"),
    ],
)
def test_what_cannot_be_stored(weight: np.ndarray, size: int, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        blockwise.quantize(weight, FORMATS["nf4"], size)


# --- what it loses ----------------------------------------------------------------------------------------------------


def test_errors_by_hand() -> None:
    found = measures.errors(np.array([[3.0, -3.0]]), np.array([[3.0, -1.0]]))
    assert found.rmse == pytest.approx(math.sqrt(4 / 2) / 3)
    assert found.largest == pytest.approx(2 / 3)
    assert found.sqnr_db == pytest.approx(10 * math.log10(18 / 4))
    assert found.cosine == pytest.approx(12 / math.sqrt(18 * 10))
    same = measures.errors(np.eye(3), np.eye(3))
    assert (same.rmse, same.sqnr_db, same.to_dict()["sqnr_db"]) == (0.0, math.inf, None)
    empty = measures.errors(np.zeros((2, 2)), np.zeros((2, 2)))
    assert (empty.rmse, empty.sqnr_db, empty.cosine) == (None, None, None)
    x = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert measures.output_error(x, np.eye(2), np.diag([1.0, 0.5])) == pytest.approx(1 / math.sqrt(5))
    assert measures.output_error(np.zeros((1, 2)), np.eye(2), np.eye(2)) is None


def test_normal_weights_are_told_from_others() -> None:
    random = np.random.default_rng(0)
    assert abs(measures.excess_kurtosis(random.standard_normal(200_000)) or 1) < 0.05
    assert measures.excess_kurtosis(random.laplace(size=200_000)) == pytest.approx(3, abs=0.3)
    assert measures.excess_kurtosis(random.uniform(size=200_000)) == pytest.approx(-1.2, abs=0.05)
    assert measures.excess_kurtosis(np.ones(8)) is None


def test_on_normal_weights_the_order_is_the_papers() -> None:
    """NF4 before INT4 before FP4 (QLoRA, section 4 and figure 3), and smaller blocks before larger ones."""
    w = np.random.default_rng(1).standard_normal((512, 512)).astype(np.float32)
    rmse: dict[tuple[str, int], float] = {}
    for c in summaries.costs(w, ("nf4", "int4", "fp4", "int8")):
        if not c.double:
            assert c.errors.rmse is not None
            rmse[c.format, c.block_size] = c.errors.rmse
    assert rmse["int8", 64] < rmse["nf4", 64] < rmse["int4", 64] < rmse["fp4", 64]
    for name in ("nf4", "int4", "fp4", "int8"):
        curve = [rmse[name, size] for size in blockwise.BLOCK_SIZES]
        assert curve == sorted(curve)


def test_savings_are_the_difference_of_costs() -> None:
    w = weights(512, 512)
    found = summaries.costs(w, ("nf4", "int8_row"), (64, 128))
    assert [(c.format, c.block_size, c.double) for c in found] == [
        ("nf4", 64, False), ("nf4", 64, True), ("nf4", 128, False), ("nf4", 128, True), ("int8_row", 512, False)
    ]  # fmt: skip
    first, second = summaries.savings(found)
    assert first.saved_bytes == found[0].stored_bytes - found[1].stored_bytes
    assert first.saved_bits == pytest.approx(0.373, abs=1e-3)
    assert second.saved_bits == pytest.approx(first.saved_bits / 2, rel=0.01)
    assert first.added is not None
    assert abs(first.added) < 0.02
    assert found[0].scale_bytes == 4 * w.size / 64


def test_the_spread_over_the_levels() -> None:
    w = weights(256, 256)
    for name in SHOWN:
        seen = summaries.spread(w, FORMATS[name], 64)
        assert sum(seen.share) == pytest.approx(1)
        assert sum(seen.used) == pytest.approx(1)
        assert len(seen.levels) == len(set(FORMATS[name].levels))
        assert 0 < seen.entropy_bits <= FORMATS[name].bits
    one = summaries.spread(np.tile(np.float32([1, -1]), (2, 64)), FORMATS["nf4"], 64)
    assert one.entropy_bits == 1, "two levels, equally often: one bit"


def test_one_block_in_full() -> None:
    w = weights()
    seen = summaries.block(w, FORMATS["nf4"], 64, number=3)
    np.testing.assert_array_equal(np.float32(seen.before), w.reshape(-1)[192:256])
    np.testing.assert_array_equal(
        np.float32(seen.after), np.float32(NF4_PUBLISHED)[list(seen.codes)] * np.float32(seen.absmax)
    )


# --- matrices ---------------------------------------------------------------------------------------------------------


def test_the_embedded_base_s_matrices_are_those_that_qlora_stores() -> None:
    import torch
    from safetensors.torch import load_file

    from core.base import EMBEDDED_FOLDER, load_base
    from core.quantization.in_model import stored_layers

    found = matrices.of_base("embedded")
    own = [m for m in found if not m.embedding]
    model = load_base("embedded").model
    assert sorted(m.name for m in own) == sorted(f"{n}.weight" for n in stored_layers(model))
    assert [m.title for m in found[-1:]] == ["embed_tokens"]
    assert all(a.title.startswith("layer 0 ") for a in own[:7])
    stored = load_file(EMBEDDED_FOLDER / "model.safetensors")
    for m in (own[0], own[-1]):
        assert torch.equal(torch.from_numpy(matrices.read(m)), stored[m.name])
        assert torch.equal(torch.from_numpy(matrices.read(m, 3 * m.columns)), stored[m.name][:3])
        assert matrices.read(m, 1).shape == (1, m.columns)


def test_gpt2_s_matrices_are_turned_as_the_layers_are(tmp_path: Path) -> None:
    from core.base import load_base
    from core.quantization.in_model import weight_of
    from tests.checkpoints import write

    folder = write("gpt2", tmp_path)
    model = load_base(str(folder)).model
    seen = {m.name.removesuffix(".weight").removeprefix("transformer."): m for m in matrices.of_base(str(folder))}
    name = "h.0.attn.c_attn"
    np.testing.assert_array_equal(matrices.read(seen[name]), weight_of(model, f"transformer.{name}"))
    assert seen["wte"].embedding


def test_number_formats_of_files(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    w = weights(16, 8)
    path = tmp_path / "many.safetensors"
    save_torch(
        {
            "a": torch.from_numpy(w).bfloat16(), "b": torch.from_numpy(w).half(), "c": torch.from_numpy(w).double(),
            "bias": torch.ones(8), "ids": torch.ones(8, 8, dtype=torch.int64),
        },
        path,
    )  # fmt: skip
    found = matrices.of_file(path)
    assert sorted(m.name for m in found) == ["a", "b", "c"]
    by_name = {m.name: matrices.read(m) for m in found}
    np.testing.assert_array_equal(by_name["a"], torch.from_numpy(w).bfloat16().float().numpy())
    np.testing.assert_array_equal(by_name["b"], w.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(by_name["c"], w)
    np.save(tmp_path / "one.npy", w.astype(np.float64))
    (tmp_path / "two.csv").write_text("\n".join(",".join(map(repr, row)) for row in w.tolist()), encoding="utf-8")
    for name in ("one.npy", "two.csv"):
        (one,) = matrices.of_file(tmp_path / name)
        np.testing.assert_array_equal(matrices.read(one), w)
    assert matrices.named(found, "b").name == "b"
    with pytest.raises(NotFound, match="no matrix 'z'"):
        matrices.named(found, "z")


def bad_files(folder: Path) -> dict[str, tuple[str, str]]:
    """Files that must be refused: name -> (name, part of the sentence)."""
    pickled = folder / "pickled.npy"
    np.save(pickled, np.array([[{}, 1], [2, 3]], dtype=object), allow_pickle=True)
    np.save(folder / "flat.npy", np.ones(100))
    np.save(folder / "complex.npy", np.ones((10, 10), dtype=complex))
    np.save(folder / "tiny.npy", np.ones((2, 2)))
    (folder / "cut.npy").write_bytes((folder / "flat.npy").read_bytes()[:90])
    (folder / "noise.npy").write_bytes(b"not numpy at all")
    (folder / "words.csv").write_text("1,2\n3,four\n")
    (folder / "ragged.csv").write_text("1,2\n3\n")
    (folder / "empty.csv").write_text("")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    save_file({"bias": np.ones(100, np.float32)}, folder / "vectors.safetensors")
    (folder / "model.pt").write_bytes(b"\x80\x04")
    return {
        "pickled.npy": ("pickle", "may run code"), "flat.npy": ("two sides", ""), "complex.npy": ("not real", ""),
        "tiny.npy": ("fewer values", ""), "cut.npy": ("not read as|damaged", ""), "noise.npy": ("not a .npy file", ""),
        "words.csv": ("Line 2", "not a number"), "ragged.csv": ("Line 2", "has 1 numbers"),
        "empty.csv": ("is empty", ""), "binary.csv": ("not a text file", ""),
        "cut.safetensors": ("damaged", ""), "vectors.safetensors": ("no matrix", ""), "model.pt": ("none of the", ""),
    }  # fmt: skip


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (one, two) in bad_files(tmp_path).items():
        with pytest.raises(BadInput, match=one) as why:
            matrices.of_file(tmp_path / name)
        assert two in str(why.value), name
        assert why.value.advice, name
    with pytest.raises(NotFound):
        matrices.of_file(tmp_path / "nothing.npy")
    np.save(tmp_path / "holes.npy", np.full((10, 10), np.nan))
    (holes,) = matrices.of_file(tmp_path / "holes.npy")
    with pytest.raises(BadInput, match="not finite"):
        matrices.read(holes)
    monkeypatch.setattr(matrices, "MOST_FILE_BYTES", 100)
    with pytest.raises(BadInput, match="at most 100 B"):
        matrices.of_file(tmp_path / "holes.npy")


def test_a_base_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseUnavailable):
        matrices.of_base(str(tmp_path))


def test_no_torch_is_needed() -> None:
    """A page does this in the server's process."""
    code = (
        "import sys\n"
        "from core.quantization import matrices, summaries, formats, pairs\n"
        "from core.probes import probe\n"
        "probe('quantization'), probe('quantized_layers')\n"
        "w = matrices.read(matrices.of_base('embedded')[0], 2**14)\n"
        "summaries.costs(w), summaries.spread(w, formats.FORMATS['nf4'], 64), pairs.recorded()\n"
        "print([m for m in ('torch', 'transformers', 'bitsandbytes') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"


# --- in a model -------------------------------------------------------------------------------------------------------


def test_a_model_is_as_it_was_afterwards() -> None:
    import torch

    from core.quantization.in_model import stored, stored_layers, weight_of
    from tests.checkpoints import make_model

    for family in ("llama_biased", "gpt2"):
        model = make_model(family)
        names = stored_layers(model)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        one = weight_of(model, names[0])
        with stored(model, names[:1], FORMATS["nf4"], 64, double=True):
            inside = weight_of(model, names[0])
            changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
        assert changed == [f"{names[0]}.weight"]
        np.testing.assert_array_equal(inside, blockwise.quantize(one, FORMATS["nf4"], 64, True).dense())
        with pytest.raises(BadInput), stored(model, names, FORMATS["int8_row"], 64, double=True):
            pass
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_losses_are_those_of_the_evaluation() -> None:
    from core.base import load_base
    from core.evaluate import answer_loss
    from core.quantization.in_model import held_out, inputs, losses, stored_layers

    base = load_base("embedded")
    asked = held_out(base, 3)
    found = losses(base.model, base.tokenizer, asked.encoded)
    assert found.mean == pytest.approx(answer_loss(base.model, base.tokenizer, asked.encoded) or 0, rel=1e-5)
    assert found.tokens.sum() == asked.tokens
    assert found.above(found) == (0.0, 0.0)
    names = stored_layers(base.model)[:2]
    seen = inputs(base.model, names, asked.encoded, 50)
    assert {n: x.shape for n, x in seen.items()} == dict.fromkeys(names, (50, 256))


def measured(name: str, tmp_path: Path, **settings: Any) -> tuple[dict[str, Any], list[float]]:
    """A probe's result and the shares that it told, as JSON would keep them."""
    told: list[float] = []
    what = probe(name)
    result = what.measure(Subject((), tmp_path), what.Config(**settings), lambda share, _: told.append(share or 0.0))
    out: dict[str, Any] = json.loads(json.dumps(result, allow_nan=False))
    return out, told


def test_the_matrices_of_a_folder_are_measured(tmp_path: Path) -> None:
    from tests.checkpoints import write

    folder = write("llama_biased", tmp_path)
    found, told = measured("quantization", tmp_path, base=str(folder), block_size=32)
    assert len(found["matrices"]) == 14
    assert found["tokens"] > 0
    assert told == sorted(told)
    for row in found["matrices"]:
        assert set(row["errors"]) == set(SHOWN)
        assert 0 < row["errors"]["int8"]["rmse"] < row["errors"]["nf4"]["rmse"] < 0.2
        assert 0 < row["errors"]["int8"]["output"] < row["errors"]["nf4"]["output"] < 0.5
    curve = {(c["format"], c["block_size"], c["double"]): c for c in found["curve"]}
    assert curve["nf4", 64, True]["bits"] < curve["nf4", 64, False]["bits"]
    assert ("int8_row", 0, False) in curve


def test_an_encoder_s_matrices_can_be_read_but_it_is_not_asked(tmp_path: Path) -> None:
    from tests.checkpoints import write_encoder

    folder = str(write_encoder("bert", tmp_path))
    found = matrices.of_base(folder)
    assert {m.title for m in found} >= {"layer 0 query", "layer 1 value"}
    for name in ("quantization", "quantized_layers"):
        with pytest.raises(Incompatible, match="tells labels apart"):
            measured(name, tmp_path, base=folder)


def test_the_matrices_of_a_file_are_measured(tmp_path: Path) -> None:
    save_file({"a": weights(), "b": weights(seed=1), "zeros": np.zeros((8, 8), np.float32)}, tmp_path / "m.safetensors")
    found, _ = measured("quantization", tmp_path, file=str(tmp_path / "m.safetensors"))
    assert found["source"] == "m.safetensors"
    assert [r["name"] for r in found["matrices"]] == ["a", "b", "zeros"]
    assert found["matrices"][2]["errors"]["nf4"]["rmse"] is None
    assert all(r["errors"]["nf4"]["output"] is None for r in found["matrices"])
    with pytest.raises(DeltalabError):
        measured("quantization", tmp_path, file=str(tmp_path / "gone.npy"))


def test_which_layers_suffer(tmp_path: Path) -> None:
    """On the embedded base: two bits for one part, then everything in every format."""
    found, told = measured("quantized_layers", tmp_path, items=2)
    assert told == sorted(told)
    groups = {g: [p for p in found["parts"] if p["group"] == g] for g in ("kind", "layer", "matrix")}
    assert {g: len(p) for g, p in groups.items()} == {"kind": 7, "layer": 6, "matrix": 42}
    for part in groups.values():
        assert sum(p["weights"] for p in part) == 6 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256)
        assert len({p["name"] for p in part}) == len(part)
    whole = {(f["format"], f["double"]): f for f in found["formats"]}
    assert whole["nf2", False]["added"] > 0.5 > abs(whole["nf4", False]["added"]) > 0
    assert abs(whole["int8", False]["added"]) < 0.01
    assert set(whole["nf4", True]["skills"]) == {"closed_book", "passage", "sentiment", "reversal", "addition"}
    assert max(p["added"] for p in found["parts"]) < whole["nf2", False]["added"]
    assert all(p["error"] > 0 for p in found["parts"])


# --- QLoRA against LoRA -----------------------------------------------------------------------------------------------


def outcome(storage: str = "float32", *, seed: int = 0, match: float | None = 0.9, **other: Any) -> pairs.Outcome:
    known = {
        "base": "b", "task": "json", "learning_rate": 3e-3, "steps": 60, "held_out_loss": 0.1, "skills_after": 1.0,
        "device": "cpu", "date": "2026-11-25",
    }  # fmt: skip
    return pairs.Outcome(**{**known, "storage": storage, "seed": seed, "exact_match": match, **other})


def test_only_equal_settings_make_a_pair() -> None:
    plain = [outcome(), outcome(seed=1, match=0.8)]
    stored = [
        outcome("nf4", match=0.85), outcome("nf4", seed=1, match=0.9), outcome("nf4", seed=2),
        outcome("fp4", steps=61), outcome("fp4", learning_rate=1e-3), outcome("fp4", base="c"),
        outcome("fp4", task="facts"),
    ]  # fmt: skip
    found = pairs.pairs([*stored, *plain])
    assert [(p.stored.storage, p.stored.seed) for p in found] == [("nf4", 0), ("nf4", 1)]
    assert [p.points for p in found] == [pytest.approx(-5), pytest.approx(10)]
    (mean,) = pairs.means(found)
    assert (mean.pairs, mean.points, mean.low, mean.high) == (
        2,
        pytest.approx(2.5),
        pytest.approx(-5),
        pytest.approx(10),
    )
    assert mean.loss == 0
    assert pairs.luck([*plain, *stored]) == ("json", pytest.approx(10))
    assert pairs.luck([plain[0], outcome(task="facts"), *stored]) is None
    unscored = pairs.pairs([outcome(match=None), outcome("nf4", match=None)])
    assert unscored[0].points is None
    assert pairs.means(unscored) == ()


@pytest.mark.parametrize("task", ["json", "jargon"])
def test_a_pair_s_runs_differ_in_storage_alone(task: str) -> None:
    lora, nf4, fp4 = (pairs.config(task, storage, 3) for storage in pairs.RECORDED)
    assert (lora.method, nf4.method, fp4.method) == ("lora", "qlora", "qlora")
    assert lora.train == nf4.train == fp4.train
    assert (nf4.settings.quant_type, fp4.settings.quant_type, nf4.seed) == ("nf4", "fp4", 3)
    assert nf4.settings.double_quantization
    assert lora.settings.rank == nf4.settings.rank


def test_the_record_holds_pairs_of_every_task() -> None:
    from core.sweep import base_hash

    found = pairs.recorded()
    assert {r.base for r in found} == {base_hash()}
    assert len({(r.setting, r.storage) for r in found}) == len(found)
    means = pairs.means(pairs.pairs(found))
    assert {m.task for m in means if m.storage == "nf4"} == set(TASKS)
    assert "fp4" in {m.storage for m in means}
    for m in means:
        assert m.low <= m.points <= m.high
        assert m.points == pytest.approx(100 * (m.stored - m.plain))
