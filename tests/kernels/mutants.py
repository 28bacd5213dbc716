"""Do the kernel tests bite? Each mutant is one wrong line in a kernel; the tests must fail on every one of them.

    python -m tests.kernels.mutants                    # all (some minutes)
    python -m tests.kernels.mutants --first 2          # the first two
    python -m tests.kernels.mutants --kernel swiglu    # those of one kernel

The kernels and their tests are copied into a temporary folder and changed there. First the unchanged copy must pass, or
nothing that follows means anything.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """file: of kernels/. right: the line's part that is replaced, once; wrong: by what. what: the mistake."""

    file: str
    right: str
    wrong: str
    what: str


MUTANTS = (
    Mutant("nf4", "pick(code, pair >> 4, NB, 32)", "pick(code, pair & 15, NB, 32)", "the byte's halves exchanged"),
    Mutant("linear_cross_entropy", "total * tl.exp(most - higher)", "total", "the sum is not rescaled"),
    Mutant("nf4", "absmax2_ptr + block // 256", "absmax2_ptr + block // 128", "the second level's block size"),
    Mutant("nf4", " * second + tl.load(offset_ptr)", " * second", "the offset is left out"),
    Mutant("nf4", "0.7229568362236023", "0.7229", "a value of the code book, in its fifth digit"),
    Mutant("nf4", "there = block < n_blocks", "there = block <= n_blocks", "a block too many is read"),
    Mutant("nf4", "mask=place < n)", "mask=place < n + 9)", "written past the end"),
    Mutant("nf4", "mask=byte * 2 < n,", "mask=byte * 2 < n + 99,", "read past the end"),
    Mutant("nf4_lora_linear", "pick(code, pair >> 4, BLOCK_N", "pick(code, pair & 15, BLOCK_N", "halves exchanged"),
    Mutant("nf4_lora_linear", "block = row * (K // 64) + number", "block = row * (K // 64)", "one scale for a row"),
    Mutant("nf4_lora_linear", "y += scale * tl.dot(b", "y += tl.dot(b", "the scale is left out, forward"),
    Mutant("nf4_lora_linear", "rounded = (scale * p)", "rounded = (p)", "the scale is left out, backward"),
    Mutant("nf4_lora_linear", "if tl.program_id(0) == 0:", "if tl.program_id(0) == 1:", "H is not written"),
    Mutant("nf4_lora_linear", "mask=(at_m < M)[None, :] & (at_k < K)[:, None], other=0.0,",
           "mask=(at_k < K)[:, None], other=0.0,", "rows past the end of x are read"),
    Mutant("nf4_lora_linear", "for n0 in range(0, N, BLOCK_N):", "for n0 in range(0, N - BLOCK_N + 1, BLOCK_N):",
           "the last outputs are left out, backward"),
    Mutant("nf4_lora_linear", "ctx.scale * (g.t() @ h)", "(g.t() @ h)", "∂B without the scale"),
    Mutant("linear_cross_entropy", "- tl.where(at == label, 1.0, 0.0)", "", "the label's own gradient is left out"),
    Mutant("linear_cross_entropy", "counts = label != IGNORED\n    wanted", "counts = label != -1\n    wanted",
           "ignored rows count"),
    Mutant("linear_cross_entropy", "mask=at < columns, other=-float", "mask=at <= columns, other=-float",
           "a logit too many"),
    Mutant("linear_cross_entropy", "else dw.add_(mine)", "else mine", "only the last chunk's ∂W"),
    Mutant("rms_norm", "/ columns + eps)", "/ BLOCK + eps)", "the mean over the padded row"),
    Mutant("rms_norm", "- normed * (tl.sum(g * normed, 0) / columns)", "", "the mean's part of the gradient"),
    Mutant("rms_norm", "dx += tl.load(dh_ptr", "dx = tl.load(dh_ptr", "only the stream's gradient"),
    Mutant("rms_norm", "for number in range(first, rows, tl.num_programs(0)):",
           "for number in range(first, rows - 1, tl.num_programs(0)):", "the last row gets no gradient"),
    Mutant("rms_norm", "row * stride_x + at", "row * columns + at", "the stride of x is ignored"),
    Mutant("rms_norm", "dw.copy_(parts.sum(0))", "dw.copy_(parts[0])", "one program's part of ∂w"),
    Mutant("rope", "y2 = x2 * cos2 - x1 * sin1", "y2 = x2 * cos2 + x1 * sin1", "turned forward going back"),
    Mutant("rope", "q_ptr + b * q_batch + t * q_token,", "q_ptr + b * q_batch + t * k_token,", "the other's stride"),
    Mutant("rope", "b * cos_batch + t * cos_token", "t * cos_token", "the first row's positions for all"),
    Mutant("swiglu", "(1.0 + g * (1.0 - sigma))", "(1.0 + g)", "the derivative of silu"),
    Mutant("swiglu", "tl.store(du_ptr + at, (dy * g * sigma)", "tl.store(du_ptr + at, (dy * sigma)", "∂u without g"),
    Mutant("lora_grads", "(db.sum(0) * scale)", "(db[0] * scale)", "one program's part of ∂B"),
    Mutant("lora_grads", "(at_n < columns) & (at_n < (piece + 1) * slice_columns)", "(at_n < columns + 3)",
           "columns past the end"),
    Mutant("lora_grads", "p_ptr + piece * rows * r + thin_m", "p_ptr + thin_m", "slices of P overwrite each other"),
    Mutant("lora_linear", "(p.t() @ rows)", "(h.t() @ rows)", "∂A from H"),
    Mutant("lora_linear", ".addmm_(p, a.to(ctx.compute))", "", "LoRA's part of ∂x is left out"),
    Mutant("lora_linear", ", beta=scale)", ")", "the scale is left out, forward in 16 bits"),
    Mutant("lora_linear", "addmm(bias.to(dtype), h, thin, alpha=scale)", "addmm(bias.to(dtype), h, thin)",
           "the scale is left out beside a bias in 16 bits"),
    Mutant("lora_linear", "(p @ a.to(ctx.compute)).addmm_(g, ctx.weight(ctx.compute))",
           "(g @ ctx.weight(ctx.compute))", "LoRA's part of ∂x is left out in 16 bits"),
)  # fmt: skip


def passes(folder: Path, only: str) -> bool:
    """Whether the tests pass on the copy in `folder`; `only`: a choice of tests, '' for all."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "120",
        "tests/kernels/in_interpreter.py", *(["-k", only] if only else []),
    ]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).returncode == 0


def killed(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests fail on a mutant, made in the copy and taken back."""
    file = folder / "kernels" / f"{mutant.file}.py"
    source = file.read_text(encoding="utf-8")
    if mutant.right not in source:
        raise ValueError(f"{mutant.file} has no {mutant.right!r}: the mutant is out of date")
    file.write_text(source.replace(mutant.right, mutant.wrong, 1), encoding="utf-8")
    try:
        return not passes(folder, mutant.file)
    finally:
        file.write_text(source, encoding="utf-8")


def copied(folder: Path) -> Path:
    """The kernels, their tests and the settings of pytest, in `folder`."""
    for part in ("kernels", "tests/kernels"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests" / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def main(given: list[str] | None = None) -> int:
    """Try them all; the exit status is the number of survivors, 2 where the baseline fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels.mutants", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--first", type=int, default=len(MUTANTS))
    parser.add_argument("--kernel", choices=sorted({mutant.file for mutant in MUTANTS}), action="append")
    asked = parser.parse_args(given)
    survivors = 0
    with tempfile.TemporaryDirectory() as place:
        folder = copied(Path(place))
        chosen = [m for m in MUTANTS if asked.kernel is None or m.file in asked.kernel][: asked.first]
        files = sorted({mutant.file for mutant in chosen})
        if not passes(folder, "" if len(chosen) == len(MUTANTS) else " or ".join(files)):
            print("The unchanged kernels fail their tests: no mutant says anything.", file=sys.stderr)
            return 2
        for mutant in chosen:
            dead = killed(mutant, folder)
            survivors += not dead
            print(f"{'killed  ' if dead else 'SURVIVED'} {mutant.file:22} {mutant.what}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return min(1, survivors)


if __name__ == "__main__":
    sys.exit(main())
