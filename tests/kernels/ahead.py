"""Kernels compiled ahead of time for cards that are not here, and what came out: registers, spills, instructions.

    python -m tests.kernels.ahead                    # every launch for every generation (some minutes); prints a table
    python -m tests.kernels.ahead --short            # one launch of each kernel file, for Hopper

Triton's own assembler makes the machine code; no card is needed. Spilled registers (local memory) would mean a kernel
that waits for memory where it should compute. A kernel that multiplies matrices must use its generation's instruction:
mma.sync up to Ada (and on consumer Blackwell), wgmma on Hopper, tcgen05 on data-centre Blackwell where the tile is
large enough for it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
SHORT = (90,)
# Shared memory that one program may have, in KiB (CUDA C++ Programming Guide, table of compute capabilities).
SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


@dataclass(frozen=True)
class Built:
    """What the compiler made. registers, stack_bytes, local_bytes: a thread's; shared_bytes: a program's."""

    name: str
    architecture: int
    seconds: float
    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int
    instruction: str

    @property
    def line(self) -> str:
        """For a person."""
        spilled = self.local_bytes + self.stack_bytes
        return (
            f"sm_{self.architecture:<4} {self.name:44} {self.registers:4} registers, {spilled} spilled bytes, "
            f"{self.shared_bytes:6} shared, {self.instruction:9} {self.seconds:4.1f} s"
        )


def build(launch: Any, architecture: int) -> Built:
    """Compile one launch for one generation."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature = {n: "constexpr" if n in launch.constants else launch.types[n] for n in names}
    whole = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if signature[n].startswith("*") or n in launch.whole
    }
    constants = {(names.index(n),): value for n, value in launch.constants.items()}
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=whole)
    began = time.perf_counter()
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=dict(launch.options))
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(made.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        told = subprocess.run(
            [str(tool), "--dump-resource-usage", str(file)], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", told)
    assert found is not None, told[:300]
    registers, stack, _, local = map(int, found.groups())
    return Built(
        launch.name, architecture, seconds, registers, stack, local, made.metadata.shared, _instruction(made.asm["ptx"])
    )


def _instruction(ptx: str) -> str:
    for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync"):
        if name in ptx:
            return name.split(".")[0] if name != "mma.sync" else name
    return "none"


def wrong(built: Built, launch: Any) -> list[str]:
    """What should not be, as sentences."""
    found = []
    if built.stack_bytes or built.local_bytes:
        found.append(f"{built.stack_bytes + built.local_bytes} bytes of registers are spilled")
    if built.shared_bytes > 1024 * SHARED[built.architecture]:
        found.append(f"it wants {built.shared_bytes:,} bytes of shared memory, more than the card has")
    # Before sm_80 this Triton makes no matrix instruction at all: such launches name 80 as their least.
    fitting = {90: ("wgmma", "mma.sync"), 100: ("tcgen05", "mma.sync")}.get(built.architecture, ("mma.sync",))
    if launch.matrix and built.instruction not in fitting:
        found.append(f"it multiplies by {built.instruction}, not {' or '.join(fitting)}")
    if launch.matrix and built.architecture == 90 and built.instruction != "wgmma" and "tokens" in launch.name:
        found.append("the decoded tile does not go to wgmma")
    return found


def launches(short: bool) -> list[Any]:
    """All, or the first of each file."""
    from kernels import KERNELS
    from tests.kernels.comparing import kernel

    files = [kernel(name).LAUNCHES for name in KERNELS]
    return [launch for found in files for launch in (found[:1] if short else found)]


def main(given: list[str] | None = None) -> int:
    """Compile, print, and end with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.ahead", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="", help="launches whose name has this in it")
    asked = parser.parse_args(given)
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["DELTALAB_KERNELS"] = "compile"  # kernels.base loads Triton without a card for this
    bad = count = 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        for launch in launches(asked.short):
            if asked.only not in launch.name:
                continue
            for architecture in SHORT if asked.short else ARCHITECTURES:
                if architecture < launch.least:
                    continue
                count += 1
                try:
                    built = build(launch, architecture)
                except Exception as error:  # whatever the compiler raises: the table shall be whole
                    bad += 1
                    print(f"sm_{architecture:<4} {launch.name:44} FAILED {type(error).__name__}: {str(error)[:200]}")
                    continue
                faults = wrong(built, launch)
                bad += bool(faults)
                print(built.line, *(f"WRONG: {f}" for f in faults), flush=True)
    print(f"{count} compiled, {bad} wrong")
    return 1 if bad or not count else 0


if __name__ == "__main__":
    sys.exit(main())
