"""Where the time of a training step goes on this machine's CPU, by kind of operation, as shares.

    make profile                        # writes tests/records/profile_cpu.json

The engine's own steps on the embedded base and the json task run under `torch.profiler` (each operation's own time, its
children's taken off). Four ways to carry out the same step are looked at, two in each precision: PyTorch's and
transformers' own operations, and the decoder that is written out by hand (core/fast), which is what a run takes.

Kinds of operation:
- *large products*: of matrices none of whose sides is as short as a rank: with the base's weights, or with W + s·BA;
- *thin products*: with one short side: LoRA's pairs and their gradients;
- *attention*: batched products and the softmax of the scores, or PyTorch's one operation for both;
- *optimizer*: the update, and the norm for clipping;
- *elementwise*: norms, activations, positions, sums, casts and copies;
- *outside*: what is left of the clock's time: Python, autograd's bookkeeping, the making of the batch.

Shares hold on one machine; no absolute time is recorded.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench import Engine, write_record

RECORD = Path(__file__).parent / "records" / "profile_cpu.json"
KINDS = ("large products", "thin products", "attention", "optimizer", "elementwise", "outside")
WAYS: dict[str, tuple[str, bool]] = {
    "plain": ("float32", False), "written out": ("float32", True),
    "plain, bfloat16": ("bfloat16", False), "written out, bfloat16": ("bfloat16", True),
}  # fmt: skip
METHODS = ("full", "lora", "qlora")
SKIPPED, STEPS = 3, 8
THIN = 64  # a side shorter than this is a rank's (or that of a few pairs side by side)

PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::_addmm_activation", "mkldnn::_linear_pointwise"}
ATTENTION = {"aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data"}
OPTIMIZER = ("adamw", "aten::_foreach", "aten::linalg_vector_norm_foreach")


def kind_of(name: str, shapes: list[list[int]], parents: set[str]) -> str:
    """The kind of an operation, by its name, the shapes of its inputs and what it was called from."""
    if any(p.startswith(("Optimizer.", "aten::_fused", "aten::_foreach")) for p in parents) or any(
        part in name for part in OPTIMIZER
    ):
        return "optimizer"
    if name in ATTENTION or "scaled_dot_product" in name:
        return "attention"
    if name in PRODUCTS:
        sides = [side for shape in shapes if len(shape) == 2 for side in shape]
        return "thin products" if sides and min(sides) < THIN else "large products"
    return "elementwise"


def shares(method: str, way: str) -> dict[str, float]:
    """Kind -> share (0..1) of the time of a step, over STEPS steps."""
    from torch.profiler import ProfilerActivity, profile

    precision, fast = WAYS[way]
    engine = Engine(method, None, precision, "embedded", fast)
    assert (engine.run.loss_sum is not engine.run.plain_loss_sum) == fast
    for _ in range(SKIPPED):
        engine.step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        began = time.perf_counter()
        for _ in range(STEPS):
            engine.step()
        whole = time.perf_counter() - began
    found: Counter[str] = Counter()
    for event in profiler.events():
        if not event.name.startswith(("aten::", "bitsandbytes::", "mkldnn::")):
            continue  # Python's and autograd's own frames
        parents, above = set(), event.cpu_parent
        while above is not None:
            parents.add(above.name)
            above = above.cpu_parent
        found[kind_of(event.name, event.input_shapes or [], parents)] += event.self_cpu_time_total / 1e6
    found["outside"] = max(0.0, whole - found.total())
    return {kind: round(found[kind] / found.total(), 4) for kind in KINDS}


def main() -> int:
    """Measure all, print the table and write the record."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows: list[dict[str, Any]] = []
    print(f"{'':32}" + "".join(f"{kind:>16}" for kind in KINDS))
    for method in METHODS:
        for way in WAYS:
            row = shares(method, way)
            rows.append({"method": method, "way": way, "shares": row})
            print(f"{method:8} {way:23}" + "".join(f"{100 * row[kind]:14.0f} %" for kind in KINDS))
    what = "shares of a training step's time by kind of operation, engine, json task, embedded base"
    write_record(RECORD, what, "make profile", rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
