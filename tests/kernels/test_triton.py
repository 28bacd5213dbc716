"""The kernels themselves: run by Triton's interpreter, compiled ahead of time, and broken on purpose.

Each in a process of its own: the interpreter is switched on before a kernel is defined, and for all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed (pip install 'triton>=3.6', Linux only)")

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}, "OMP_NUM_THREADS": "1"}


def run(*arguments: str) -> str:
    """What a program prints; its failure is the test's."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1500:]
    return done.stdout


def test_in_the_interpreter() -> None:
    """Every kernel, every gradient, odd shapes, three dtypes; no address outside the arguments. And the decoder that is
    made of them: losses and gradients of whole models and a whole run, with kernels and without."""
    files = ("tests/kernels/in_interpreter.py", "tests/core/fused_in_interpreter.py")
    told = run("pytest", "-q", "-p", "no:cacheprovider", *files)
    assert " passed" in told
    assert "failed" not in told


def test_compiled_for_cards_that_are_not_here() -> None:
    """The first kernel of each file for Hopper: nothing spilled, the fitting matrix instruction.
    `make kernels` compiles all of them for every generation."""
    assert " 0 wrong" in run("tests.kernels.ahead", "--short")


def test_wrong_kernels_are_found_out() -> None:
    """One of the mutants; `make mutants` tries all of them."""
    assert "1 of 1 mutants killed" in run("tests.kernels.mutants", "--first", "1")
