"""Every kernel by Triton's interpreter, on the CPU. Run in a process of its own (test_triton.py does):

python -m pytest tests/kernels/in_interpreter.py
"""

import tests.kernels.interpreter  # noqa: F401, I001 (first of all: it sets what the kernels' decorators read)

import pytest
import torch

from kernels import KERNELS, linear_cross_entropy, lora_linear, nf4, nf4_lora_linear, rms_norm, rope
from kernels.base import INTERPRETED, TOLERANCE
from tests.kernels.comparing import compare, error, kernel, own, results, unwritten_is_nan

torch.set_num_threads(1)
CASES = [(name, number) for name in KERNELS for number in range(len(kernel(name).CASES))]


def test_the_interpreter_runs() -> None:
    assert INTERPRETED


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("name", "number"), CASES)
def test_outputs_and_gradients(name: str, number: int, dtype: torch.dtype) -> None:
    compare(name, kernel(name).CASES[number], dtype)


def test_linear_cross_entropy_in_chunks_is_that_of_all() -> None:
    args = linear_cross_entropy.make(linear_cross_entropy.CASES[1], torch.float32)
    right = results(linear_cross_entropy.reference, own(args, torch.float64))
    small = results(lambda *a: linear_cross_entropy.fused(*a, budget=5 * 1000 * 4), own(args))
    assert all(error(a, b) < 2e-6 for a, b in zip(small, right, strict=True))


def test_linear_cross_entropy_of_no_label_is_nothing() -> None:
    h, w, labels, _ = linear_cross_entropy.make(linear_cross_entropy.CASES[2], torch.float32)
    labels[:] = linear_cross_entropy.IGNORED
    loss, dh, dw = results(linear_cross_entropy.fused, (h, w, labels))
    assert loss == 0
    assert not dh.any()
    assert not dw.any()


def test_a_single_number_stands_out() -> None:
    """Relative errors of whole tensors hide one wrong number; the largest error of any is small too."""
    for name in ("rms_norm", "rope", "swiglu", "nf4_lora_linear"):
        file = kernel(name)
        args = file.make(file.CASES[-1], torch.float32)
        right = results(file.reference, own(args, torch.float64))
        with unwritten_is_nan():
            found = results(file.fused, own(args))
        for mine, exact in zip(found, right, strict=True):
            assert (mine - exact).abs().max() < 2e-5 * exact.abs().max()


def test_rms_norm_gives_a_frozen_weight_no_gradient() -> None:
    x, weight, eps, residual = rms_norm.make(rms_norm.CASES[1], torch.float32)
    y, h = rms_norm.fused(x, weight.detach(), eps, residual)
    (y.sum() + h.sum()).backward()
    assert weight.grad is None
    assert torch.equal(x.grad, residual.grad)


def test_rope_turned_back_is_what_it_was() -> None:
    q, k, cos, sin = rope.make(rope.CASES[1], torch.float32)
    q2, k2 = rope._op(*rope._op(q.detach(), k.detach(), cos, sin, False), cos, sin, True)
    assert error(q2, q) < 1e-6
    assert error(k2, k) < 1e-6


def test_the_code_book_of_nf4_is_that_of_bitsandbytes() -> None:
    """To the last bit: what both the kernel and its reference read."""
    from bitsandbytes.functional import get_4bit_type

    assert torch.equal(torch.tensor(nf4.CODE), get_4bit_type("nf4", device="cpu"))


def test_a_copy_keeps_its_strides() -> None:
    x = torch.arange(12.0).view(6, 2)[::2]
    (copy,) = own((x,))
    assert copy.stride() == x.stride() == (4, 1)
    assert torch.equal(copy, x)


def test_nf4_keeps_a_block_of_zeros() -> None:
    """Zeros stay zeros; with nested scales the mean is added back, and a block of zeros is what the reference says."""
    for case in nf4.CASES:
        (w,) = nf4.make(case, torch.bfloat16)
        block = nf4.fused(w).view(-1)[: nf4.BLOCK]
        assert torch.equal(block, nf4.reference(w).view(-1)[: nf4.BLOCK])
        assert w.nested or not block.any()


@pytest.mark.parametrize("name", ["nf4", "nf4_lora_linear"])
def test_a_launch_that_is_captured_copies_nothing_to_the_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second call makes no tensor of Python's numbers: a CUDA graph could not hold the copy."""
    args = kernel(name).make(kernel(name).CASES[1], torch.float32)
    first = results(kernel(name).fused, own(args))

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a tensor is made of numbers")

    monkeypatch.setattr(torch, "tensor", refused)
    assert all(torch.equal(a, b) for a, b in zip(results(kernel(name).fused, own(args)), first, strict=True))


def test_the_whole_layer_in_one_launch_is_the_layer_in_three() -> None:
    """QLoRA's fused layer equals LoRA on the decoded weight."""
    x, w, a, b, scale, bias = nf4_lora_linear.make(nf4_lora_linear.CASES[1], torch.float32)
    one = results(nf4_lora_linear.fused, own((x, w, a, b, scale, bias)))
    three = results(lora_linear.fused, own((x, nf4.reference(w), a, b, scale, bias)))
    assert all(error(p, q) < 2e-6 for p, q in zip(one, three, strict=True))


def test_every_operation_has_a_fake_and_can_be_compiled() -> None:
    for op, args in operations():
        torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))


def operations() -> list[tuple[object, tuple[object, ...]]]:
    """Each registered operation with arguments."""
    from tests.kernels.registered import registered

    return registered()
