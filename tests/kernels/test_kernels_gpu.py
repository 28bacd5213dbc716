"""The kernels on a CUDA device: every output and gradient at odd and at real sizes, and their registration."""

from __future__ import annotations

import pytest
import torch

from kernels import KERNELS
from kernels.base import HAS_TRITON, SETTING
from tests.kernels.comparing import compare, kernel
from tests.kernels.registered import registered

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or not HAS_TRITON, reason="needs a CUDA device and Triton"),
]
CASES = [(name, number) for name in KERNELS for number in range(len(kernel(name).CASES))]


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "1")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "number"), CASES)
def test_outputs_and_gradients(name: str, number: int, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this card has no bfloat16")
    # Products in 32 bits are compared with products in 32 bits, not with tensor cores' 19.
    torch.backends.cuda.matmul.allow_tf32 = False
    compare(name, kernel(name).CASES[number], dtype, "cuda")


@pytest.mark.parametrize("name", KERNELS)
def test_a_size_as_in_training(name: str) -> None:
    compare(name, kernel(name).SIZES[0], torch.bfloat16, "cuda")


def test_registration() -> None:
    for op, args in registered("cuda"):
        torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
