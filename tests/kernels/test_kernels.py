"""The kernels without Triton: references against bitsandbytes and finite differences, the operations' registration, and
that a machine without Triton or a card computes the same in plain PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import KERNELS, base, linear_cross_entropy, lora_grads, lora_linear, nf4, nf4_lora_linear
from tests.kernels.comparing import compare, error, kernel, own, results
from tests.kernels.registered import registered

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("name", KERNELS)
def test_a_file_offers_what_the_list_promises(name: str) -> None:
    file = kernel(name)
    assert "bytes" in (file.__doc__ or "").lower(), "a kernel says what it moves"
    assert "FLOPs" in (file.__doc__ or "")
    for what in ("reference", "fused", "make", "cost", "size", "rivals", "CASES", "SIZES", "LAUNCHES"):
        assert hasattr(file, what), what
    for size in file.SIZES:
        cost = file.cost(size)
        assert 0 < cost.bytes < cost.plain_bytes, f"{name} at {size} saves no bytes"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_is_bit_for_bit_that_of_bitsandbytes(dtype: torch.dtype, nested: bool) -> None:
    import bitsandbytes as bnb

    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(96, 128, generator=generator) * torch.exp(torch.randn(96, 1, generator=generator)) * 0.02
    weight[5] = 0
    theirs = bnb.nn.Params4bit(
        weight.to(dtype), requires_grad=False, blocksize=64, compress_statistics=nested, quant_type="nf4"
    ).to("cpu")
    mine = nf4.Packed.of_bitsandbytes(theirs)
    exact = bnb.functional.dequantize_4bit(theirs.data, theirs.quant_state)
    assert torch.equal(nf4.reference(mine), exact)
    assert mine.nested is nested
    if not nested:
        own_packed = nf4.quantize(weight.to(dtype))
        assert torch.equal(own_packed.packed, theirs.data.reshape(-1))
        assert torch.equal(own_packed.absmax, theirs.quant_state.absmax)


def test_the_first_weight_stands_in_the_high_half() -> None:
    one = nf4.quantize(torch.tensor([[1.0, -1.0] + [0.0] * 62]))
    assert int(one.packed[0]) == 0xF0


@pytest.mark.parametrize("name", ["rms_norm", "rope", "swiglu", "linear_cross_entropy", "lora_linear"])
def test_references_agree_with_finite_differences(name: str) -> None:
    file = kernel(name)
    args = own(file.make(file.CASES[0], torch.float64))
    assert torch.autograd.gradcheck(lambda *a: file.reference(*a), args, fast_mode=True)


def test_hand_written_gradients_agree_with_finite_differences() -> None:
    args = own(lora_linear.make(lora_linear.CASES[1], torch.float64))
    assert torch.autograd.gradcheck(lora_linear.fused, args, fast_mode=True)


@pytest.mark.parametrize("number", range(len(lora_linear.CASES)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_linear_on_this_processor(number: int, dtype: torch.dtype) -> None:
    compare("lora_linear", lora_linear.CASES[number], dtype)


@pytest.mark.parametrize("biased", [False, True])
def test_small_updates_reach_an_output_in_16_bits(biased: bool) -> None:
    """An update of a few ten thousandths of the output, which is less than 16 bits keep there: most of it is lost where
    it is added to a rounded output, and none where both are summed before they are rounded. Without one nothing
    changes."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(256, 128, generator=generator), torch.randn(96, 128, generator=generator) / 128**0.5
    a, b = torch.randn(8, 128, generator=generator) / 128**0.5, 1e-4 * torch.randn(96, 8, generator=generator)
    bias = 0.1 * torch.randn(96, generator=generator).bfloat16() if biased else None
    x, w = x.bfloat16(), w.bfloat16()
    update = 1.7 * (x.double() @ a.double().t()) @ b.double().t()

    def carried(y: torch.Tensor, without: torch.Tensor) -> float:
        """The share of the update that is in y."""
        return float(((y.double() - without.double()) * update).sum() / update.square().sum())

    plain = torch.nn.functional.linear(x, w, bias)
    assert torch.equal(lora_linear.fused(x, w, a, torch.zeros_like(b), 1.7, bias), plain)
    assert carried(lora_linear.fused(x, w, a, b, 1.7, bias), plain) == pytest.approx(1, abs=0.15)
    assert carried(lora_linear.reference(x, w, a, b, 1.7, bias), plain) < 0.5


@pytest.mark.parametrize("kept", [False, True])
def test_the_layer_itself_keeps_them(kept: bool) -> None:
    """LoRA's layer as it trains in autocast, around a plain base and one in four bits; off: as PEFT does it."""
    from contextlib import nullcontext

    from core.layers.four_bit import FourBitLinear
    from core.layers.low_rank import LowRank

    torch.manual_seed(0)
    for kind in (lambda base: base, FourBitLinear):
        layer = LowRank(kind(torch.nn.Linear(128, 96, bias=False).requires_grad_(False)), 8, 2.0)
        x = torch.randn(256, 128)
        with torch.autocast("cpu", torch.bfloat16), nullcontext() if kept else base.switched_off():
            plain = layer(x)
            torch.nn.init.normal_(layer.lora_B.weight, std=1e-4)
            moved = layer(x) - plain
        update = x @ layer.delta().t()
        share = float((moved.detach() * update).sum() / update.square().sum())
        assert share == pytest.approx(1, abs=0.15) if kept else share < 0.5


@pytest.mark.parametrize("name", KERNELS)
def test_without_a_card_the_result_is_pytorchs_own(name: str) -> None:
    file = kernel(name)
    args = file.make(file.CASES[1], torch.float32)
    mine, plain = results(file.fused, own(args)), results(file.reference, own(args))
    for a, b in zip(mine, plain, strict=True):
        assert error(a, b) < 1e-6 if name == "lora_linear" else torch.equal(a, b)


def test_every_operation_is_registered_as_pytorch_asks() -> None:
    """Schema, fake (for torch.compile and the memory trace) and gradient of each custom operation."""
    for op, args in registered():
        torch.library.opcheck(op, args)


def test_the_fallback_of_an_operation_is_right_too() -> None:
    """What an operation computes where it was traced for a card and is run on a CPU."""
    from kernels import rms_norm, rope, swiglu

    for file, call in (
        (rms_norm, lambda x, w, eps, r: rms_norm._op(x, w, eps, r)[:2]),
        (rope, lambda q, k, cos, sin: rope._op(q, k, cos, sin, False)),
        (swiglu, swiglu._op),
    ):
        args = file.make(file.CASES[1], torch.float32)
        for a, b in zip(results(call, own(args)), results(file.reference, own(args)), strict=True):
            assert error(a, b) < 1e-6
    args = linear_cross_entropy.make(linear_cross_entropy.CASES[1], torch.float32)
    loss = results(lambda *a: linear_cross_entropy.LinearCrossEntropy.apply(*a, 9_000), own(args))
    for a, b in zip(loss, results(linear_cross_entropy.reference, own(args)), strict=True):
        assert error(a, b) < 2e-6


def test_a_weight_whose_rows_cut_through_blocks_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 96 numbers: a block of 64 runs on into the next row, which the fused layer cannot read."""
    monkeypatch.setattr(nf4_lora_linear, "pays", lambda *a: True)
    case = {"rows": 3, "inputs": 96, "outputs": 32, "rank": 2, "nested": 0, "bias": 0}
    args = nf4_lora_linear.make(case, torch.float32)
    assert torch.equal(nf4_lora_linear.fused(*args), nf4_lora_linear.reference(*args))


def test_no_record_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was measured nothing is launched; where it was, from the measured size on; 0 and 1 overrule it."""
    x = torch.zeros(1)
    monkeypatch.setattr(base, "runs_on", lambda x: True)
    monkeypatch.setattr(base, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a: (9, 0))
    monkeypatch.delenv(base.SETTING, raising=False)
    monkeypatch.setattr(base, "measured", dict)
    assert not base.pays("swiglu", x, 1)
    record = {"9.0": {"swiglu": {"from": 100, "to": None}, "nf4_lora_linear": {"from": 1, "to": 128}}}
    monkeypatch.setattr(base, "measured", lambda: record)
    assert [base.pays("swiglu", x, n) for n in (99, 100)] == [False, True]
    assert [base.pays("nf4_lora_linear", x, n) for n in (128, 129)] == [True, False]
    monkeypatch.setenv(base.SETTING, "0")
    assert not base.pays("swiglu", x, 1000)
    monkeypatch.setenv(base.SETTING, "1")
    assert base.pays("rope", x, 1)


def test_the_list_is_light() -> None:
    """The package may be imported by others only to ask its version: no torch, no triton."""
    code = "import sys, kernels; print(sorted({'torch', 'triton', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_slices_cover_every_column_once() -> None:
    for rows, columns in ((1, 1), (300, 200), (4096, 14_336), (100_000, 64)):
        count, width = lora_grads._slices(rows, columns)
        assert (count - 1) * width < columns <= count * width
        assert width % lora_grads.BLOCK_N == 0


def timed(name: str, size: int, passed: bool = True, **microseconds: float) -> dict[str, object]:
    """A row of the kernels' benchmark."""
    return {"kernel": name, "size": size, "passed": passed,
            "seconds": {n: {"median": 1e-6 * t} for n, t in microseconds.items()}}  # fmt: skip


def test_a_kernel_is_used_from_where_it_beats_what_training_would_do_without_it() -> None:
    from kernels.bench import thresholds

    assert thresholds([
        timed("nf4", 10, kernel=50, reference=900, bitsandbytes=30),
        timed("nf4", 20, kernel=50, reference=90, bitsandbytes=80),
        timed("lora_grads", 10, kernel=50, reference=90), timed("lora_grads", 20, kernel=50, reference=40),
        timed("rope", 10, kernel=1, reference=9), timed("rope", 20, passed=False, kernel=1, reference=9),
    ]) == {"nf4": {"from": 20, "to": None}}  # fmt: skip


def test_a_pair_too_wide_for_the_kernel_goes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_grads, "pays", lambda *_: True)
    dy = torch.zeros(4, 8, dtype=torch.bfloat16)
    assert lora_grads.takes(dy, torch.zeros(4, lora_grads.MOST_RANK))
    assert not lora_grads.takes(dy, torch.zeros(4, lora_grads.MOST_RANK + 1))
