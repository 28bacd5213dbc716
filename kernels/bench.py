"""Every kernel against its reference and its rivals, forward and backward, on the attached card.

    python -m kernels.bench                    # all; prints a table and the record as JSON to --out, if given
    python -m kernels.bench --kernel swiglu    # one
    python -m kernels.bench --dry-run          # a rehearsal: small shapes, on the CPU if need be, nothing is timed

How it is timed: CUDA events around each call, the second-level cache emptied before it, the versions in turn so that a
card whose clock drifts slows all alike; medians of REPEATS with their range. Before anything is timed the kernel's
results are compared with the reference's in 64 bits: a wrong kernel has no time. The card's own ceilings (a copy, a
large product) are measured too, so that a share of them can be told.

`thresholds` turns the rows into what `kernels.base.pays` reads: from which size on each kernel was the faster one.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from kernels import KERNELS
from kernels.base import MEASURED, SETTING, TOLERANCE

REPEATS, WARM = 15, 3
CACHE_BYTES = 256 * 2**20  # more than any card's second-level cache
OVER = 1.02  # a kernel that is not so much faster than PyTorch is not worth its launch


def leaves(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with gradients of their own."""
    return tuple(
        a.detach().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in args
    )


def both_ways(function: Callable[..., Any], args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Outputs and, where there are any, gradients; the call that is timed."""
    found = function(*args)
    outputs = [t for t in (found if isinstance(found, tuple) else (found,)) if isinstance(t, torch.Tensor)]
    live = [o for o in outputs if o.requires_grad]
    wanted = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    if not live or not wanted:
        return outputs
    return [*outputs, *torch.autograd.grad(live, wanted, [torch.ones_like(o) for o in live])]


def off_by(file: Any, args: tuple[Any, ...], dtype: torch.dtype) -> float:
    """Largest relative error of the kernel's results, against the reference's in 64 bits."""
    wide = tuple(
        a.detach().double().requires_grad_(a.requires_grad)
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else a
        for a in args
    )
    right, found = both_ways(file.reference, wide), both_ways(file.fused, leaves(args))
    errors = [
        float(((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-300)).detach())
        for a, b in zip(found, right, strict=True)
    ]
    return max(errors)


def clock(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each call (median, least, most), all in turn."""
    flush = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARM + repeats):
        for name, call in calls.items():
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            if number >= WARM:
                taken[name].append(start.elapsed_time(end) / 1e3)
    return {
        name: {"median": statistics.median(times), "least": min(times), "most": max(times)}
        for name, times in taken.items()
    }


def ceilings() -> dict[str, float]:
    """What this card reaches: bytes per second of a copy (read and written), FLOP/s of a large product in bfloat16."""
    x = torch.empty(2**28, dtype=torch.bfloat16, device="cuda")
    y = torch.empty_like(x)
    n = 8192
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    times = clock({"copy": lambda: y.copy_(x), "product": lambda: a @ b}, 10)
    return {
        "bytes_per_second": 2 * x.numel() * x.element_size() / times["copy"]["median"],
        "flops_per_second": 2 * n**3 / times["product"]["median"],
    }


def row_of(name: str, case: dict[str, int], dtype: torch.dtype, device: str, rehearse: bool, last: bool) -> Any:
    """One kernel at one size: whether it is right, its costs, and (not in a rehearsal) everybody's seconds."""
    file = import_module(f"kernels.{name}")
    args = file.make(case, dtype, device)
    cost = file.cost(case, torch.finfo(dtype).bits // 8)
    row: dict[str, Any] = {
        "kernel": name, "case": case, "dtype": str(dtype).removeprefix("torch."), "size": file.size(case),
        "flops": cost.flops, "bytes": cost.bytes, "plain_bytes": cost.plain_bytes,
    }  # fmt: skip
    row["error"] = off_by(file, args, dtype) if name != "nf4" else 0.0
    if name == "nf4":
        row["exact"] = bool(torch.equal(file.fused(*args), file.reference(*args)))
    row["passed"] = row.get("exact", True) and row["error"] <= TOLERANCE[dtype]
    versions = {"kernel": file.fused, "reference": file.reference}
    # Compiling takes seconds for each shape: only the largest is compared with the compiler.
    versions |= {n: f for n, f in file.rivals().items() if last or n != "torch.compile"}
    row["versions"] = list(versions)
    if rehearse:
        return row
    calls: dict[str, Callable[[], Any]] = {}
    for called, function in versions.items():
        mine = leaves(args)
        try:
            both_ways(function, mine)
        except Exception as error:  # somebody else's version may not take this shape or card; ours must
            if called == "kernel":
                raise
            row.setdefault("failed", {})[called] = f"{type(error).__name__}: {error}"[:200]
            continue
        calls[called] = partial(both_ways, function, mine)
    row["seconds"] = clock(calls, REPEATS)
    return row


def thresholds(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """From which size on (and up to which, for the layer that pays for few tokens) each kernel beat what training would
    do without it: its reference, or bitsandbytes where that decodes.

    A kernel with one wrong result has no entry, and is never launched.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in KERNELS:
        mine = sorted((r for r in rows if r["kernel"] == name and "seconds" in r), key=lambda r: r["size"])
        if not mine or not all(r["passed"] for r in mine):
            continue
        faster: dict[int, bool] = {}
        for r in mine:
            others = [r["seconds"][n]["median"] for n in ("reference", "bitsandbytes") if n in r["seconds"]]
            won = min(others) > OVER * r["seconds"]["kernel"]["median"]
            faster[r["size"]] = faster.get(r["size"], True) and won
        sizes = list(faster)
        if name == "nf4_lora_linear":
            good = [s for i, s in enumerate(sizes) if all(faster[t] for t in sizes[: i + 1])]
            if good:
                found[name] = {"from": 1, "to": good[-1]}
            continue
        good = [s for i, s in enumerate(sizes) if all(faster[t] for t in sizes[i:])]
        if good:
            found[name] = {"from": good[0], "to": None}
    return found


def keep(capability: str, found: dict[str, Any], path: Path = MEASURED) -> None:
    """Put a card's thresholds into kernels/measured.json, beside those of other cards."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[capability] = found
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def measure(names: list[str], rehearse: bool, tell: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """The rows of these kernels. rehearse: their small cases, nothing timed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = os.environ.get(SETTING)
    os.environ[SETTING] = "1"
    rows = []
    try:
        for name in names:
            file = import_module(f"kernels.{name}")
            sizes = file.CASES if rehearse else file.SIZES
            for number, case in enumerate(sizes):
                dtype = torch.bfloat16
                try:
                    row = row_of(name, case, dtype, device, rehearse, number == len(sizes) - 1)
                except Exception as error:
                    row = {"kernel": name, "case": case, "passed": False, "broken": f"{type(error).__name__}: {error}"}
                rows.append(row)
                tell(row)
    finally:
        os.environ.pop(SETTING) if before is None else os.environ.__setitem__(SETTING, before)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row for a person."""
    at = ", ".join(f"{k} {v}" for k, v in row["case"].items())
    begin = f"{row['kernel']:21} {at:60}"
    if "broken" in row:
        return f"{begin} BROKEN {row['broken'][:120]}"
    begin += f" error {row['error']:.1e}{'' if row['passed'] else ' WRONG'}"
    if "seconds" not in row:
        return begin
    mine = row["seconds"]["kernel"]["median"]
    others = "  ".join(f"{n} {t['median'] / mine:.2f}×" for n, t in row["seconds"].items() if n != "kernel")
    return f"{begin}  {mine * 1e6:8.0f} µs  {others}"


def about() -> dict[str, Any]:
    """Device, versions and date, as every record has them."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("torch", "triton", "bitsandbytes", "liger-kernel"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    card = torch.cuda.is_available()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if card else "cpu",
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if card else None,
        "cuda": torch.version.cuda,
        "versions": packages,
    }


def main(given: list[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", choices=KERNELS, action="append")
    parser.add_argument("--dry-run", action="store_true", help="small shapes, nothing timed, on a CPU too")
    parser.add_argument("--out", type=Path, help="file for the record (JSON)")
    parser.add_argument("--json", action="store_true", help="one row to a line, for programs")
    parser.add_argument("--keep", action="store_true", help="write kernels/measured.json, which turns kernels on")
    asked = parser.parse_args(given)
    if not asked.dry_run and not torch.cuda.is_available():
        print("There is no CUDA device; --dry-run rehearses on the CPU. Nothing was measured.", file=sys.stderr)
        return 2
    show = (
        (lambda row: print(json.dumps(row), flush=True)) if asked.json else (lambda row: print(line(row), flush=True))
    )
    rows = measure(list(asked.kernel or KERNELS), asked.dry_run, show)
    record = {"what": "kernels, forward and backward, against their references and rivals", **about(), "rows": rows}
    if not asked.dry_run:
        record["ceilings"] = ceilings()
        record["thresholds"] = thresholds(rows)
        if asked.keep:
            keep(str(record["capability"]), record["thresholds"])
    if asked.out is not None:
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(r["passed"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
