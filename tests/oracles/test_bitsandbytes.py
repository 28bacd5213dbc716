"""QLoRA's storage against bitsandbytes' own functions and against the format written out in plain PyTorch.

Also what is held here: the trap on CPUs with AVX512-BF16, and that our folder called `kernels` harms nobody.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

bnb = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")

from core.layers.four_bit import BLOCK_SIZE, FourBitLinear  # noqa: E402
from core.layers.low_rank import LowRank  # noqa: E402
from core.methods import lora, qlora  # noqa: E402
from tests.checkpoints import make_model  # noqa: E402
from tests.core.method_support import attach, logits, reference_base, train  # noqa: E402

ROOT = Path(__file__).parents[2]

# The 16 values of NF4 (Dettmers et al. 2023, appendix E).
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip


def weights(fan_out: int, fan_in: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random weights whose blocks differ in scale, with a block of zeros: scales that are off by one block show."""
    generator = torch.Generator().manual_seed(fan_out * 1000 + fan_in)
    flat = torch.randn(fan_out * fan_in, generator=generator)
    for start in range(0, flat.numel(), BLOCK_SIZE):
        flat[start : start + BLOCK_SIZE] *= torch.randn(1, generator=generator).exp()
    flat[BLOCK_SIZE : 2 * BLOCK_SIZE] = 0
    return flat.view(fan_out, fan_in).to(dtype)


def linear(weight: torch.Tensor, *, conv: bool = False, bias: bool = True) -> nn.Module:
    fan_out, fan_in = weight.shape
    layer = Conv1D(fan_out, fan_in) if conv else nn.Linear(fan_in, fan_out, bias=bias)
    layer.weight = nn.Parameter(weight.t().contiguous() if conv else weight.clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.linspace(-1, 1, fan_out).to(weight.dtype))
    return layer.requires_grad_(False)


def plain_nf4(weight: torch.Tensor) -> torch.Tensor:
    """Stored in NF4 with 32-bit scales and read again, by the format's description alone."""
    flat = weight.reshape(-1).float()
    blocks = nn.functional.pad(flat, (0, -flat.numel() % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    absmax = blocks.abs().amax(1, keepdim=True)
    scaled = blocks * torch.where(absmax > 0, 1 / absmax, torch.zeros_like(absmax))
    nearest = torch.bucketize(scaled, (NF4[1:] + NF4[:-1]) / 2)
    return (NF4[nearest] * absmax).view(-1)[: flat.numel()].view(weight.shape).to(weight.dtype)


SHAPES = [(64, 64), (48, 32), (7, 64), (33, 96), (5, 26), (256, 192)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_nf4_is_what_the_paper_describes_exactly(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = weights(*shape, dtype)
    layer = FourBitLinear(linear(weight), "nf4", double_quantization=False)
    assert layer.dense_weight().dtype == dtype
    assert torch.equal(layer.dense_weight(), plain_nf4(weight))


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_stored_weight_is_bitsandbytes_own(
    shape: tuple[int, int], quant_type: str, double: bool, conv: bool
) -> None:
    weight = weights(*shape)
    layer = FourBitLinear(linear(weight, conv=conv), quant_type, double)
    packed, state = bnb.functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=double, quant_type=quant_type
    )
    assert torch.equal(layer.weight.data, packed)
    assert layer.weight.quant_state.nested == double
    read = bnb.functional.dequantize_4bit(packed, state)
    if shape[1] % 64:  # misread on CPUs, see below; the stored bytes are right, and one long row is read rightly
        state.shape = torch.Size((1, weight.numel()))
        read = bnb.functional.dequantize_4bit(packed, state).view(shape)
    assert torch.equal(layer.dense_weight(), read)
    for dtype in (torch.bfloat16, torch.float16):  # read in another dtype: rounded once, from float32
        assert torch.equal(layer.dense_weight(dtype), read.to(dtype))


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_the_layer_computes_with_the_decoded_weight_exactly(double: bool, conv: bool) -> None:
    layer = FourBitLinear(linear(weights(48, 32), conv=conv), "nf4", double)
    x = torch.randn(2, 5, 32, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, nn.functional.linear(x, layer.dense_weight(), layer.bias))
    upstream = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(grad, upstream @ layer.dense_weight())


def test_bits_per_weight() -> None:
    """4 bits, and per 64 weights 32 bits more, or 8 bits and per 256 blocks 32 more (QLoRA, section 3)."""
    for double, bits in ((False, 4.5), (True, 4 + 8 / 64 + 32 / (64 * 256))):
        layer = FourBitLinear(linear(torch.randn(1024, 1024)), "nf4", double)
        state = layer.weight.quant_state
        held = [layer.weight.data, state.absmax] + ([state.state2.absmax] if double else [])
        assert 8 * sum(t.numel() * t.element_size() for t in held) / 1024**2 == bits


def test_the_base_is_quantized_but_for_head_embedding_norms_and_biases() -> None:
    model = make_model("llama_biased")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    qlora.apply(model, qlora.Config(target_modules="q_proj"))
    four = [n for n, m in model.named_modules() if isinstance(m, FourBitLinear)]
    assert len(four) == 2 * 7, "all linear layers, wrapped or not"
    for name, parameter in model.named_parameters():
        plain = name.replace(".base_layer", "")
        if parameter.dtype == torch.uint8:
            assert not parameter.requires_grad
        elif "lora_" not in name:
            assert torch.equal(parameter, before[plain]), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(m.support_avx512bf16_for_cpu is False for m in model.modules() if isinstance(m, bnb.nn.Linear4bit))


@pytest.mark.parametrize("family", ["llama_biased", "gpt2", "opt"])
@pytest.mark.parametrize("double", [False, True])
def test_qlora_equals_lora_on_the_dequantized_weight(family: str, double: bool) -> None:
    """Same seed, same pairs: logits, loss and every gradient agree to the last bit on a CPU, and so do three steps."""
    four = attach("qlora", family, double_quantization=double)
    dense_base = reference_base("qlora", family, double=double)
    torch.manual_seed(7)
    dense = lora.apply(dense_base, lora.Config())
    assert torch.equal(logits(four.model), logits(dense.model))
    for attached in (four, dense):
        train(attached)
    a, b = (dict(x.model.named_parameters()) for x in (four, dense))
    for name in four.trainable_names():
        assert torch.equal(a[name].grad, b[name].grad), name
        assert torch.equal(a[name], b[name]), name
    assert torch.equal(logits(four.model), logits(dense.model))


def test_evaluation_does_not_end_training() -> None:
    """The trap: on CPUs with AVX512-BF16, bitsandbytes' layer re-packs its weight at the first evaluation."""
    attached = attach("qlora", "llama_biased")
    model = attached.model
    packed = {n: p.detach().clone() for n, p in model.named_parameters() if p.dtype == torch.uint8}
    for _ in range(2):
        model.eval()
        logits(model)
        model.train()
        train(attached, steps=2)
        for name in attached.trainable_names():
            grad = model.get_parameter(name).grad
            assert grad is not None, name
            assert grad.abs().sum() > 0, name
    assert all(torch.equal(p, packed[n]) for n, p in model.named_parameters() if n in packed)


@pytest.mark.skipif(not bnb.functional.has_avx512bf16(), reason="the trap needs a CPU with AVX512-BF16")
def test_the_trap_is_real_in_the_stock_layer() -> None:
    """When this fails, bitsandbytes has mended it, and FourBitLinear may be simplified."""
    weight = weights(64, 64)
    stock = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    stock.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=stock).to("cpu")
    kept = stock.weight.data.clone()
    stock.eval()
    with torch.no_grad():
        stock(torch.randn(3, 64))
    assert not torch.equal(stock.weight.data.view(-1), kept.view(-1)), "re-packed in place"
    ours = FourBitLinear(linear(weight, bias=False)).eval()
    with torch.no_grad():
        ours(torch.randn(3, 64))
    assert torch.equal(ours.weight.data, kept)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="seen in the AVX512 code")
def test_the_misread_rows_are_real_in_the_stock_function() -> None:
    """When this fails, bitsandbytes has mended it, and `dense_weight` may decode in the weight's own shape."""
    weight = weights(48, 32)
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4")
    wrong = (bnb.functional.dequantize_4bit(packed, state) - weight).abs().max()
    right = (FourBitLinear(linear(weight), "nf4", False).dense_weight() - weight).abs().max()
    assert wrong > 3 * right


def test_the_compute_dtype_follows_the_region_not_the_first_call() -> None:
    layer = FourBitLinear(linear(weights(48, 32)))
    bias = layer.bias.clone()
    x = torch.randn(4, 32)
    full = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(half, nn.functional.linear(x.bfloat16(), layer.dense_weight(torch.bfloat16), bias.bfloat16()))
    assert torch.equal(layer(x), full), "and float32 again after it"
    assert torch.equal(layer.bias, bias), "the bias is not rewritten in another dtype"
    assert layer.bias.dtype == torch.float32


def test_a_checkpoint_in_4_bits_is_taken_as_it_is() -> None:
    weight = weights(64, 64)
    stock = bnb.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="fp4", compress_statistics=False)
    stock.weight = bnb.nn.Params4bit(
        weight, requires_grad=False, quant_type="fp4", compress_statistics=False, module=stock
    ).to("cpu")
    adopted = FourBitLinear(stock, "nf4", True)
    assert torch.equal(adopted.weight.data, stock.weight.data)
    assert adopted.weight.quant_state.quant_type == "fp4", "its own type, not the one asked for"
    x = torch.randn(3, 64)
    assert torch.equal(adopted(x), stock(x))

    model = nn.Sequential(nn.Linear(8, 64), nn.Sequential(stock))
    with pytest.raises(lora.Incompatible, match="stored as uint8"):
        lora.apply(model, lora.Config(target_modules="1.0"))
    with pytest.raises(lora.Incompatible, match="stored in FP4 already, and quant_type nf4 and double"):
        qlora.apply(model, qlora.Config(target_modules="1.0"))
    config = qlora.Config(target_modules="1.0", quant_type="fp4", double_quantization=False)
    attached = qlora.apply(model, config)
    assert type(model.get_submodule("0")) is nn.Linear, "what is plain beside it stays plain"
    assert isinstance(attached.layers["1.0"], LowRank)
    attached.model(torch.randn(3, 8)).sum().backward()
    assert attached.layers["1.0"].lora_B.weight.grad is not None


@pytest.mark.parametrize("family", ["llama_biased", "gpt2"])
def test_merging_gives_the_decoded_weight_plus_the_change(family: str) -> None:
    attached = attach("qlora", family)
    train(attached)
    expected = {
        path: layer.base_layer.dense_weight(torch.float32) + layer.delta() for path, layer in attached.layers.items()
    }
    merged = attached.merge()
    for path, weight in expected.items():
        layer = merged.get_submodule(path)
        assert torch.equal(layer.weight.t() if isinstance(layer, Conv1D) else layer.weight, weight)


# --- the name `kernels` -------------------------------------------------------------------------------------------


def run(program: str, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=where, check=False)


def test_our_kernels_folder_is_not_taken_for_the_package(tmp_path: Path) -> None:
    """Where it is installed: transformers does not see the PyPI package of that name, bitsandbytes falls back to its
    own code without a word, and a 4-bit layer works."""
    program = f"""
import transformers.utils.import_utils as utils
assert utils.is_kernels_available() is False
import kernels, pathlib
assert pathlib.Path(kernels.__file__).is_relative_to({str(ROOT)!r}), kernels
from core.layers.four_bit import FourBitLinear
import torch
layer = FourBitLinear(torch.nn.Linear(64, 64))
y = layer.eval()(torch.randn(2, 64))
assert torch.isfinite(y).all()
import bitsandbytes as bnb
theirs = bnb.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
theirs.support_avx512bf16_for_cpu = False
x = torch.ones(2, 64, requires_grad=True)
theirs(x).sum().backward()
assert x.grad is not None
"""
    out = run(program, tmp_path)
    assert out.returncode == 0, out.stderr
    assert out.stdout == ""
    assert out.stderr == "", "nothing is printed"


def test_our_kernels_folder_is_not_taken_for_the_package_from_the_checkout() -> None:
    """The same in this process, which runs from the checkout (the rest of this file is the 4-bit layer at work)."""
    from transformers.utils import is_kernels_available

    import kernels

    assert Path(kernels.__file__).is_relative_to(ROOT)
    assert is_kernels_available() is False
    assert not hasattr(kernels, "get_kernel")


def test_only_that_one_line_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    caplog.set_level(logging.WARNING, logger.name)  # whatever a command or a rehearsal has asked for before
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "why")
    logger.warning("something else")
    assert [r.getMessage() for r in caplog.records] == ["something else"]
