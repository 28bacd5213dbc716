"""What every kernel's file offers, and what all of them need: Triton where it is installed, and when to launch.

A file of KERNELS has
    reference(*args)    the formula in plain PyTorch, differentiable
    fused(*args)        the same result by the kernels where they can run, by plain PyTorch where they cannot
    CASES, make(case, dtype, device, seed)   small, odd shapes, and arguments for both functions
    SIZES               shapes as they occur in training, for kernels.bench
    cost(case, e)       arithmetic and bytes of a call, forward and backward, with numbers of e bytes
    size(case)          the one number that decides whether the kernel is taken
    rivals()            other people's versions of the same, by name, as far as they are installed
    LAUNCHES            each kernel with the types and constants to compile it with, without a GPU

When is a kernel launched? `runs_on` says where it can be: on a CUDA device, with Triton; or anywhere in Triton's
interpreter (TRITON_INTERPRET=1, for tests). Where it *should* be is a matter of measurement: `pays` reads what `make
gpu` has found on this kind of card (kernels/measured.json). No record, no kernel: PyTorch's own operations are taken.
DELTALAB_KERNELS=0 switches all of them off in this process, with what is written by hand in PyTorch (`lora_linear`),
and 1 switches all on, whatever was measured. Within `switched_off` they are off, whatever was set.
"""

import functools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SETTING = "DELTALAB_KERNELS"
COMPILE = "compile"  # a value of that setting: Triton is wanted although there is no card, to compile for others

try:
    # Loading Triton takes seconds, and a machine without a card has no use for it.
    if not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") or os.environ.get(SETTING) == COMPILE):
        raise ImportError("there is no card")
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:  # the files of the kernels are importable all the same, and fall back

    class _Absent:
        """Stands in for triton and triton.language: enough for the decorators and annotations of a kernel."""

        constexpr = Any

        def jit(self, function: Any) -> Any:
            return function

    triton = tl = _Absent()
    HAS_TRITON = False

MEASURED = Path(__file__).with_name("measured.json")
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
# For each dtype: relative error that a result may have against the same formula in 64 bits. Eight bits of a bfloat16
# are 2⁻⁸ = 4e-3 in one rounding, eleven of a float16 5e-4, twenty-four of a float32 6e-8; sums of a few hundred terms
# in 32 bits add an order of magnitude to the last.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


@dataclass(frozen=True)
class Cost:
    """Of one call, forward and backward. flops; bytes that the kernels move; plain_bytes: that PyTorch moves doing it
    operation by operation."""

    flops: float
    bytes: float
    plain_bytes: float


@dataclass(frozen=True)
class Launch:
    """How one kernel is compiled. types: of its arguments, in Triton's spelling; constants: of its constexpr arguments.
    whole: integer arguments that are multiples of 16. options: num_warps and the like. matrix: it multiplies matrices,
    so on each generation of cards the fitting instruction must appear. least: the oldest capability it is meant for."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    whole: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    matrix: bool = False
    least: int = 75


def runs_on(x: torch.Tensor) -> bool:
    """Whether a kernel can be launched on this tensor."""
    # (By its device, not by `is_cuda`: a traced tensor without data may claim to be on a card.)
    return INTERPRETED or (HAS_TRITON and x.device.type == "cuda")


@functools.cache
def measured() -> dict[str, Any]:
    """What `make gpu` has found, by compute capability and kernel; {} before it ever ran, and where its file is
    damaged: training goes on without the kernels."""
    try:
        found = json.loads(MEASURED.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        logging.getLogger(__name__).warning("%s is damaged, so no kernel is used: %s", MEASURED, error)
        return {}
    return found if isinstance(found, dict) else {}


_off = 0  # how many `switched_off` are entered; of the process, because autograd goes backward in threads of its own


@contextmanager
def switched_off() -> Iterator[None]:
    """Within this nothing of ours is taken: PyTorch's own operations compute everything."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def off() -> bool:
    """Whether everything of ours is switched off."""
    return bool(_off) or os.environ.get(SETTING, "") in ("0", "off")


def sizes(kernel: str, x: torch.Tensor) -> tuple[float, float] | None:
    """From which size on, and up to which, `kernel` is launched on tensors like `x`; None: it is not.

    It is only if it can run there, and a record says that it passed its tests on this kind of card and at which sizes
    it was faster than PyTorch's own operations.
    """
    if not runs_on(x) or off():
        return None
    if INTERPRETED or os.environ.get(SETTING, "") in ("1", "on"):
        return 0, math.inf
    capability = ".".join(map(str, torch.cuda.get_device_capability(x.device)))
    row = measured().get(capability, {}).get(kernel)
    if row is None or row.get("from") is None:
        return None
    return row["from"], math.inf if row.get("to") is None else row["to"]


def pays(kernel: str, x: torch.Tensor, size: int) -> bool:
    """Whether to launch `kernel` on `x`, for a problem of this size (its own measure: rows, or numbers)."""
    found = sizes(kernel, x)
    return found is not None and found[0] <= size <= found[1]


def multiplies(dtype: torch.dtype) -> bool:
    """Whether a kernel here can win by the instruction for products of matrices of this dtype: of 16 bits. (In the
    interpreter nothing is won, and 32 bits show more.)"""
    return dtype.itemsize == 2 or (INTERPRETED and dtype == torch.float32)


@contextmanager
def device_of(x: torch.Tensor) -> Iterator[None]:
    """Launches go to the device of `x`."""
    if x.device.type == "cuda":
        with torch.cuda.device(x.device):
            yield
    else:
        yield


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def available(makers: dict[str, Callable[[], Callable[..., Any]]]) -> dict[str, Callable[..., Any]]:
    """Those rivals that can be had here: a maker raises ImportError where its package is missing."""
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError:
            continue
    return found


def compiled(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """A rival that every kernel has: PyTorch's own compiler on the reference."""
    return lambda: torch.compile(function, dynamic=False)


__all__ = [
    "HAS_TRITON", "INTERPRETED", "MEASURED", "SETTING", "TOLERANCE", "Cost", "Launch", "available", "compiled",
    "device_of", "measured", "multiplies", "off", "pays", "power_of_two", "runs_on", "sizes", "switched_off", "tl",
    "triton",
]  # fmt: skip
