"""Weights in eight bits: stored as bitsandbytes stores them, computed with exactly, and trained beside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.layers.eight_bit import EightBitLinear, quantize
from core.layers.quiet_bitsandbytes import bnb
from core.memory.measure import resident_terms
from core.methods import METHODS, qlora
from tests.checkpoints import make_model
from tests.core.method_support import attach, logits, train
from tests.oracles.test_bitsandbytes import linear, weights

SHAPES = [(64, 64), (48, 32), (7, 64), (33, 96), (5, 26)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_codes_are_bitsandbytes_own(shape: tuple[int, int]) -> None:
    """It rounds the weight to 16 bits first, so that is what both are given."""
    weight = weights(*shape, torch.float16)
    codes, absmax = quantize(weight)
    theirs, scale, _ = bnb.functional.int8_vectorwise_quant(weight)
    assert torch.equal(absmax, scale)
    assert torch.equal(codes, theirs)
    layer = EightBitLinear(linear(weight))
    read = bnb.functional.int8_vectorwise_dequant(theirs, scale)
    torch.testing.assert_close(layer.dense_weight(torch.float32), read, rtol=1e-6, atol=0)


@pytest.mark.parametrize("conv", [False, True])
def test_the_layer_computes_with_the_decoded_weight_exactly(conv: bool) -> None:
    layer = EightBitLinear(linear(weights(48, 32), conv=conv))
    x = torch.randn(2, 5, 32, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, nn.functional.linear(x, layer.dense_weight(), layer.bias))
    upstream = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(grad, upstream @ layer.dense_weight())
    dense = layer.to_dense()
    assert type(dense).__name__ == ("Conv1D" if conv else "Linear")
    assert torch.equal(dense(x), y)


def test_each_weight_is_off_by_half_a_level_at_most() -> None:
    weight = weights(48, 32)
    layer = EightBitLinear(linear(weight))
    assert ((layer.dense_weight() - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 * 1.0001).all()
    nothing = EightBitLinear(linear(torch.zeros(4, 8)))
    assert torch.equal(nothing.dense_weight(), torch.zeros(4, 8))


def test_a_bitsandbytes_layer_is_taken_as_it_is() -> None:
    plain = linear(weights(48, 32))
    stock = bnb.nn.Linear8bitLt(32, 48, bias=plain.bias is not None, has_fp16_weights=False)
    stock.load_state_dict({k: v.half() for k, v in plain.state_dict().items()})
    stock = stock.to("cpu")
    stock.weight = stock.weight.to("cpu")
    if stock.weight.dtype != torch.int8:
        pytest.skip("this bitsandbytes quantizes only on its way to a GPU")
    adopted = EightBitLinear(stock)
    assert torch.equal(adopted.weight.data, stock.weight.data)
    assert torch.equal(adopted.absmax, stock.weight.SCB)


@pytest.mark.parametrize("family", ["llama_biased", "gpt2"])
def test_qlora_on_eight_bits_is_lora_on_the_decoded_weights(family: str) -> None:
    eight = attach("qlora", family, quant_type="int8")
    layers = {n: m for n, m in eight.model.named_modules() if isinstance(m, EightBitLinear)}
    assert layers
    plain = make_model(family)
    with torch.no_grad():
        for name, layer in layers.items():
            own = plain.get_submodule(name.replace(".base_layer", ""))
            own.weight.copy_(layer.dense_weight().t() if layer.was_conv1d else layer.dense_weight())
    torch.manual_seed(7)
    lora = METHODS["lora"].apply(plain, METHODS["lora"].Config())
    assert torch.equal(logits(eight.model), logits(lora.model))
    train(eight)
    train(lora)
    torch.testing.assert_close(logits(eight.model), logits(lora.model), rtol=1e-4, atol=1e-5)
    before = {n: layer.weight.data.clone() for n, layer in layers.items()}
    assert all(torch.equal(before[n], layer.weight.data) for n, layer in layers.items())
    merged = logits(eight.merge())
    torch.testing.assert_close(merged, logits(lora.model), rtol=1e-4, atol=1e-5)


def test_what_was_trained_beside_eight_bits_comes_back(tmp_path) -> None:
    eight = attach("qlora", "llama_biased", quant_type="int8")
    train(eight)
    eight.save(tmp_path)
    again = attach("qlora", "llama_biased", seed=9, quant_type="int8")
    again.load(tmp_path)
    assert torch.equal(logits(again.model), logits(eight.model))
    assert qlora.read_config(tmp_path).quant_type == "int8"


def test_the_ledger_knows_the_scales_from_the_weights() -> None:
    model = make_model("llama_biased")
    attached = qlora.apply(model, qlora.Config(quant_type="int8"))
    optimizer = torch.optim.AdamW([p for p in attached.model.parameters() if p.requires_grad])
    terms = {t.name: t.bytes for t in resident_terms(attached.model, optimizer)}
    rows = sum(m.out_features for m in attached.model.modules() if isinstance(m, EightBitLinear))
    assert terms["quantization constants"] == 4 * rows
