"""Our readable quantization against bitsandbytes: the same levels, codes, scales and weights, bit for bit.

Where bitsandbytes' CPU code is not what the format says, that is held here too, so that a change is noticed:

- 8-bit codes are looked up in a table of limited width: a value near the border between two levels may get a level that
  is up to 2⁻¹⁵ further away than the nearest. (4-bit codes are exact.)
- `dequantize_4bit` takes the wrong block's scale when a row ends inside a block; as one long row all is well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

bnb = pytest.importorskip("bitsandbytes", reason="the oracle")
from bitsandbytes import functional as oracle  # noqa: E402

from core.quantization import blockwise  # noqa: E402
from core.quantization.blockwise import BLOCK_SIZES, NestedScales  # noqa: E402
from core.quantization.formats import FORMATS, normal_float  # noqa: E402

TABLE_WIDTH = 2.0**-15


def weights(kind: str = "normal") -> torch.Tensor:
    """(256, 512): normal, with rows of very different scale; a row of zeros; a row with many exact zeros."""
    generator = torch.Generator().manual_seed(len(kind))
    w = torch.randn(256, 512, generator=generator)
    if kind == "scaled":
        w *= torch.randn(256, 1, generator=generator).exp()
    w[0] = 0
    w[1, ::3] = 0
    return w


def packed(stored: blockwise.Quantized) -> np.ndarray:
    """Codes as bitsandbytes lays them out: two to a byte, the first in the high half."""
    patterns = np.asarray(stored.format.patterns, dtype=np.uint8)[stored.codes]
    return (patterns[::2] << 4) | patterns[1::2]


def read(bits: torch.Tensor, state: Any) -> np.ndarray:
    """bitsandbytes' reading, as one long row."""
    shape, state.shape = state.shape, torch.Size((1, state.shape.numel()))
    out: np.ndarray = oracle.dequantize_4bit(bits, state).view(shape).numpy()
    return out


def test_the_levels() -> None:
    for name in ("nf4", "fp4"):
        table = oracle.get_4bit_type(name, device="cpu").numpy()
        form = FORMATS[name]
        np.testing.assert_array_equal(form.array, table[list(form.patterns)])
    table = oracle.get_4bit_type("nf4", device="cpu").numpy()
    assert np.abs(np.float32(normal_float(4).levels) - table).max() < 2.0**-22, "derived in 64 bits; theirs in 32"
    np.testing.assert_array_equal(FORMATS["dynamic8"].array, oracle.create_dynamic_map().numpy())
    linear = np.unique(oracle.create_linear_map(signed=True).numpy().round(6))
    np.testing.assert_allclose(FORMATS["int8"].array, linear, atol=1e-6)


def test_fp4_is_a_float_of_two_and_one_bits() -> None:
    """Exponent and fraction by the general rule: the subnormal is where bitsandbytes' table departs from it."""
    rule = oracle.create_fp8_map(signed=True, exponent_bits=2, precision_bits=1, total_bits=4).unique().numpy()
    mine = np.unique(FORMATS["fp4"].array)
    assert np.abs(mine - rule).argsort()[-2:].tolist() in ([6, 8], [8, 6])
    np.testing.assert_allclose(np.delete(mine, [6, 8]), np.delete(rule, [6, 8]), atol=1e-7)
    assert mine[8] == pytest.approx(0.0625 / 12)


@pytest.mark.parametrize("kind", ["normal", "scaled"])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_four_bits(name: str, block_size: int, kind: str) -> None:
    w = weights(kind)
    bits, state = oracle.quantize_4bit(w, blocksize=block_size, quant_type=name)
    mine = blockwise.quantize(w.numpy(), FORMATS[name], block_size)
    np.testing.assert_array_equal(packed(mine), bits.numpy().ravel())
    np.testing.assert_array_equal(mine.scales, state.absmax.numpy())
    np.testing.assert_array_equal(mine.dense(), read(bits, state))


@pytest.mark.parametrize("shape", [(7, 64), (33, 96), (5, 26), (3, 100)], ids=str)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_a_short_last_block(name: str, shape: tuple[int, int]) -> None:
    w = weights()[: shape[0], : shape[1]].contiguous() + 0.1
    bits, state = oracle.quantize_4bit(w, blocksize=64, quant_type=name)
    mine = blockwise.quantize(w.numpy(), FORMATS[name], 64)
    np.testing.assert_array_equal(packed(mine), bits.numpy().ravel())
    np.testing.assert_array_equal(mine.dense(), read(bits, state))


def as_near_as_the_table_sees(scaled: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Our level is the nearest; theirs differs seldom, and is then no further off than the table is coarse."""
    levels = FORMATS["dynamic8"].array.astype(np.float64)
    seen = np.abs(scaled) > 0  # a block of zeros gets code 0, times a scale of 0
    best = np.abs(scaled[seen] - levels[ours[seen]])
    got = np.abs(scaled[seen] - levels[theirs[seen]])
    assert (got >= best - 1e-7).all()
    assert (got - best).max() < TABLE_WIDTH
    assert (ours[seen] != theirs[seen]).mean() < 0.01


@pytest.mark.parametrize("block_size", [64, 256, 4096])
def test_the_dynamic_type(block_size: int) -> None:
    w = weights("scaled")
    codes, state = oracle.quantize_blockwise(w, blocksize=block_size)
    mine = blockwise.quantize(w.numpy(), FORMATS["dynamic8"], block_size)
    np.testing.assert_array_equal(mine.scales, state.absmax.numpy())
    scaled = blockwise.normalised(w.numpy(), FORMATS["dynamic8"], block_size)
    as_near_as_the_table_sees(scaled, mine.codes, codes.numpy().ravel())
    same = mine.codes == codes.numpy().ravel()
    theirs = oracle.dequantize_blockwise(codes, state).numpy().ravel()
    np.testing.assert_array_equal(mine.dense().ravel()[same], theirs[same])


@pytest.mark.parametrize("block_size", [32, 64, 256, 2048])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_double_quantization(name: str, block_size: int) -> None:
    w = weights("scaled")
    bits, state = oracle.quantize_4bit(w, blocksize=block_size, quant_type=name, compress_statistics=True)
    mine = blockwise.quantize(w.numpy(), FORMATS[name], block_size, double=True)
    assert isinstance(mine.scales, NestedScales)
    np.testing.assert_array_equal(packed(mine), bits.numpy().ravel())
    assert float(mine.scales.mean) == pytest.approx(float(state.offset), rel=1e-6), "summed in another order"
    np.testing.assert_allclose(mine.scales.outer, state.state2.absmax.numpy(), rtol=1e-5)
    theirs = state.absmax.numpy()
    absmax = blockwise.quantize(w.numpy(), FORMATS[name], block_size).scales
    assert isinstance(absmax, np.ndarray)
    scaled = blockwise.normalised(absmax - mine.scales.mean, FORMATS["dynamic8"], blockwise.OUTER_BLOCK)
    as_near_as_the_table_sees(scaled, mine.scales.codes, theirs)
    # With bitsandbytes' own constants, every weight is read alike to the last bit.
    nested = NestedScales(theirs, state.state2.absmax.numpy(), np.float32(state.offset))
    again = blockwise.Quantized(mine.format, mine.shape, block_size, mine.codes, nested)
    np.testing.assert_array_equal(again.dense(), read(bits, state))


@pytest.mark.parametrize("block_size", [64, 256, 4096])
def test_eight_bits_in_blocks(block_size: int) -> None:
    """bitsandbytes has no type of evenly spaced levels in use, but takes its map of them: equal up to the border."""
    w = weights()
    codes, state = oracle.quantize_blockwise(w, code=oracle.create_linear_map(signed=True), blocksize=block_size)
    theirs = oracle.dequantize_blockwise(codes, state).numpy()
    mine = blockwise.quantize(w.numpy(), FORMATS["int8"], block_size)
    np.testing.assert_array_equal(mine.scales, state.absmax.numpy())
    step = np.repeat(state.absmax.numpy(), block_size)[: w.numel()].reshape(w.shape) / 127
    gap = np.abs(mine.dense() - theirs)
    moved = gap > 0.01 * step
    assert moved.mean() < 0.005
    np.testing.assert_allclose(gap[moved], step[moved], rtol=1e-3)
    middle = np.abs(np.abs(w.numpy() - theirs)[moved] - 0.5 * step[moved])
    assert (middle <= 2 * TABLE_WIDTH * 127 * step[moved]).all(), "they lie in the middle between two levels"


def test_eight_bits_by_row() -> None:
    """LLM.int8(): bitsandbytes rounds halves to even, we to the lower level."""
    w = weights("scaled").half()
    codes, scales, _ = oracle.int8_vectorwise_quant(w)
    mine = blockwise.quantize(w.float().numpy(), FORMATS["int8_row"])
    np.testing.assert_array_equal(mine.scales, scales.numpy())
    ours = mine.codes.astype(int).reshape(w.shape) - 127
    differ = (ours != codes.numpy()) & (scales.numpy() > 0)[:, None]
    assert differ.mean() < 0.001
    exact = w.double().numpy() * 127 / np.maximum(scales.double().numpy(), 1e-30)[:, None]
    np.testing.assert_allclose(np.abs(exact - np.floor(exact))[differ], 0.5, atol=1e-4)


def test_the_misread_rows_are_real() -> None:
    """When this fails, bitsandbytes reads blocks that run over the ends of rows, and `read` may be simplified."""
    w = weights("scaled")
    bits, state = oracle.quantize_4bit(w, blocksize=1024, quant_type="nf4")
    mine = blockwise.quantize(w.numpy(), FORMATS["nf4"], 1024).dense()
    straight = oracle.dequantize_4bit(bits, state).numpy()
    if torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AVX2", "DEFAULT"):
        pytest.skip("seen on x86 alone")
    assert np.abs(straight - mine).max() > 0.1
    np.testing.assert_array_equal(read(bits, state), mine)
