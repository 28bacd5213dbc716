"""QLoRA and the paged optimizer on a CUDA device, where bitsandbytes runs other code than on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

bnb = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")

from core.layers.four_bit import FourBitLinear  # noqa: E402
from core.methods import lora, qlora  # noqa: E402
from core.optimizers import load_optimizer_state, make_optimizer, optimizer_state  # noqa: E402
from tests.checkpoints import make_model  # noqa: E402
from tests.core.method_support import ids, logits  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Rows of 64 and 128 go through bitsandbytes' own product, rows of 32 (no multiple of its block) through ours.
WIDE = {"hidden_size": 64, "intermediate_size": 128}
# float32 sums in another order (a kernel of bitsandbytes against cuBLAS): some units in the last place of the largest.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
    """One AdamW step on random tokens; the gradients are left in place."""
    optimizer.zero_grad()
    tokens = ids(number).cuda()
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize(("family", "shape"), [("llama_biased", {}), ("llama_biased", WIDE), ("gpt2", {"n_embd": 64})])
@pytest.mark.parametrize("double", [False, True])
def test_qlora_equals_lora_on_the_dequantized_weight(family: str, shape: dict[str, int], double: bool) -> None:
    """Same seed, same pairs: logits, gradients and the losses of three steps agree to rounding."""
    torch.manual_seed(7)
    four = qlora.apply(make_model(family, **shape).cuda(), qlora.Config(double_quantization=double))
    base = make_model(family, **shape).cuda()
    quantized = [(n, m) for n, m in four.model.named_modules() if isinstance(m, FourBitLinear)]
    assert len(quantized) == len(four.layers) > 0
    with torch.no_grad():
        for name, layer in quantized:
            assert layer.weight.is_cuda
            weight = layer.dense_weight()
            plain = base.get_submodule(name.removesuffix(".base_layer"))
            before = plain.weight.t() if isinstance(plain, Conv1D) else plain.weight
            # A weight is off by half the widest gap of NF4 at most (0.15), times the largest of its block.
            assert 0 < (weight - before).abs().max() <= 0.16 * before.abs().max()
            before.copy_(weight)
    torch.manual_seed(7)
    dense = lora.apply(base, lora.Config())
    tokens = ids().cuda()
    torch.testing.assert_close(logits(four.model, tokens), logits(dense.model, tokens), **ROUNDING)
    losses: list[list[float]] = []
    for attached in (four, dense):
        trained = [p for p in attached.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3)
        losses.append([step(attached.model, optimizer, 0)])
        attached.gradients = {n: attached.model.get_parameter(n).grad.clone() for n in attached.trainable_names()}
        losses[-1] += [step(attached.model, optimizer, number) for number in (1, 2)]
    for name, gradient in dense.gradients.items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(four.gradients[name], gradient, rtol=1e-3, atol=1e-4 * max(largest, 1e-6))
    assert any(g.abs().sum() > 0 for g in four.gradients.values())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(64, 128), (48, 32)], ids=str)
def test_the_layer_computes_with_the_weight_it_decodes(shape: tuple[int, int], double: bool, rows: int) -> None:
    """For one row, as in generation, bitsandbytes has a kernel that never writes the decoded weight."""
    torch.manual_seed(0)
    plain = nn.Linear(shape[1], shape[0]).cuda().requires_grad_(False)
    layer = FourBitLinear(plain, "nf4", double)
    packed, state = layer.weight.data, layer.weight.quant_state
    weight = layer.dense_weight()
    assert torch.equal(weight, bnb.functional.dequantize_4bit(packed, state))
    x = torch.randn(rows, shape[1], device="cuda", requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.linear(x, weight, plain.bias), **ROUNDING)
    upstream = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, x, upstream)
    torch.testing.assert_close(grad, upstream @ weight, **ROUNDING)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y, **ROUNDING)


# States of tensors from 100,000 numbers on are paged; from 4,096 on they are in 8 bits; smaller ones are in 32.
SHAPES = ((400, 300), (64, 128), (5,))
RATE, DECAY = 1e-2, 0.1


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).cuda()) for shape in SHAPES]


def gradient(index: int, number: int) -> torch.Tensor:
    return torch.randn(SHAPES[index], generator=torch.Generator().manual_seed(100 * number + index))


def test_the_paged_optimizer_computes_adamw_and_goes_on_bit_for_bit() -> None:
    """θ ← θ(1 - lr·wd) - lr·m̂/(√v̂ + ε) in float64; and after three steps, the same from its saved state."""
    params = parameters()
    optimizer, notes = make_optimizer("paged_adamw_8bit", params, RATE, DECAY)
    assert isinstance(optimizer, bnb.optim.PagedAdamW8bit)
    assert not any("not paged" in note for note in notes)
    theta = [p.detach().cpu().double() for p in params]
    m, v = ([torch.zeros_like(t) for t in theta] for _ in range(2))
    kept = {}
    for number in range(1, 6):
        for index, parameter in enumerate(params):
            parameter.grad = gradient(index, number).cuda()
            g = gradient(index, number).double()
            m[index] = 0.9 * m[index] + 0.1 * g
            v[index] = 0.999 * v[index] + 0.001 * g * g
            update = (m[index] / (1 - 0.9**number)) / ((v[index] / (1 - 0.999**number)).sqrt() + 1e-8)
            theta[index] = theta[index] * (1 - RATE * DECAY) - RATE * update
        optimizer.step()
        if number == 3:
            tensors, described = optimizer_state(optimizer)
            kept = {k: t.clone() for k, t in tensors.items()}
            weights = [p.detach().clone() for p in params]
    assert getattr(optimizer.state[params[0]]["state1"], "is_paged", False), "the large one's state is paged"
    assert optimizer.state[params[1]]["state1"].dtype == torch.uint8
    for index, (parameter, expected) in enumerate(zip(params, theta, strict=True)):
        error = (parameter.detach().cpu().double() - expected).abs()
        if expected.numel() >= 4096:  # states in 8 bits: about 1 % of a step on average, and steps are of size RATE
            assert error.mean() < 5 * RATE * 0.02, index
        else:
            assert error.max() < 1e-6, index

    resumed = [nn.Parameter(w) for w in weights]
    second, _ = make_optimizer("paged_adamw_8bit", resumed, RATE, DECAY)
    load_optimizer_state(second, kept, described)
    assert getattr(second.state[resumed[0]]["state1"], "is_paged", False)
    for number in (4, 5):
        for index, parameter in enumerate(resumed):
            parameter.grad = gradient(index, number).cuda()
        second.step()
    assert all(torch.equal(one, other) for one, other in zip(params, resumed, strict=True))
