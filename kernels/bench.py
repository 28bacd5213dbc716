"""Every kernel against its reference and its rivals, forward and backward, on the attached card.

    python -m kernels.bench                    # all; prints a table and the record as JSON to --out, if given
    python -m kernels.bench --kernel swiglu    # one
    python -m kernels.bench --dry-run          # a rehearsal: small shapes, on the CPU if need be, nothing is timed

How it is timed: each call is captured as a CUDA graph, so that it is the card that is timed and not Python, which needs
longer for a call than the card for a small one (what cannot be captured waits behind a pause on the card until it has
been issued). CUDA events around it, the second-level cache emptied before it, the versions in turn so that a card whose
clock drifts slows all alike; medians of REPEATS with their range. Gradients from above are made beforehand. Before
anything is timed the kernel's results are compared with the reference's in 64 bits: a wrong kernel has no time. The
card's own ceilings (a copy, a large product) are measured too, so that a share of them can be told.

`thresholds` turns the rows into what `kernels.base.pays` reads: from which size on each kernel was the faster one. A
kernel that was wrong, or crashed, at one size is not used at any.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
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
NOT_A_NUMBER = 1e300  # the error of a result that is not finite
TOO_SMALL = "The card's memory is too small for it."
COMPILER = "torch.compile"  # the rival that needs seconds for each shape


def leaves(args: tuple[Any, ...], dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    """The arguments with gradients of their own; in that format, if one is given."""
    return tuple(
        a.detach().to(dtype or a.dtype).requires_grad_(a.requires_grad)
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else a
        for a in args
    )


def both_ways(
    function: Callable[..., Any], args: tuple[Any, ...], above: list[torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Outputs and, where there are any, gradients; the call that is timed.

    Args:
        above: gradients of the outputs that have one (default: ones, made here, which takes time).
    """
    found = function(*args)
    outputs = [t for t in (found if isinstance(found, tuple) else (found,)) if isinstance(t, torch.Tensor)]
    live = [o for o in outputs if o.requires_grad]
    wanted = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    if not live or not wanted:
        return outputs
    above = [torch.ones_like(o) for o in live] if above is None else above
    return [*outputs, *torch.autograd.grad(live, wanted, above)]


def prepared(function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], Any]:
    """The call that is timed, with what it is given from above made already. (It is called once, for the shapes.)"""
    above = [torch.ones_like(o) for o in both_ways(function, args) if o.requires_grad]
    return partial(both_ways, function, args, above)


def off_by(file: Any, args: tuple[Any, ...], dtype: torch.dtype) -> float:
    """Largest relative error of the kernel's results, against the reference's in 64 bits (in 32 where a card has no
    room for that: a hundredth of what a result in 16 bits may be off by)."""

    try:
        right = both_ways(file.reference, leaves(args, torch.float64))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        right = both_ways(file.reference, leaves(args, torch.float32))
    found = both_ways(file.fused, leaves(args))
    errors = [_distance(a.detach(), b.detach()) for a, b in zip(found, right, strict=True)]
    return max(e if math.isfinite(e) else NOT_A_NUMBER for e in errors)


def _distance(found: torch.Tensor, right: torch.Tensor) -> float:
    """‖found − right‖ / ‖right‖."""
    return float((found.to(right.dtype) - right).norm().double() / right.norm().double().clamp_min(1e-300))


def captured(call: Callable[[], Any], pool: Any) -> Callable[[], Any] | None:
    """The call as a CUDA graph; None if it cannot be one (it looks at a number, or copies from the processor)."""
    before = torch.cuda.current_stream()
    beside = torch.cuda.Stream()
    beside.wait_stream(before)
    with torch.cuda.stream(beside):  # capturing asks for a warm-up on another stream than the usual one
        for _ in range(WARM):
            call()
    before.wait_stream(beside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool):
            call()
    except Exception:  # each library has errors of its own for it
        torch.cuda.set_stream(before)  # torch.cuda.graph leaves its own behind when it fails
        torch.cuda.synchronize()
        return None
    return graph.replay


def pause_cycles(call: Callable[[], Any]) -> int:
    """Cycles of the card's clock for which it should wait so that the call has been issued meanwhile."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    issued = time.perf_counter() - start
    torch.cuda.synchronize()
    return int(2e9 * min(2 * issued, 0.05))  # (no card's clock is much faster than 2 GHz)


def clock(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each call (median, least, most), all in turn; captured: whether it was timed as a graph."""
    flush = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    taken: dict[str, list[float]] = {name: [] for name in calls}
    pool = torch.cuda.graph_pool_handle()  # one for all: nothing that a replay writes is read
    graphs: dict[str, Callable[[], Any] | None] = {}
    for name, call in calls.items():
        graphs[name] = captured(call, pool)
        if graphs[name] is None:  # a pool that a capture has failed in may count as being captured into still
            pool = torch.cuda.graph_pool_handle()
    pauses = {name: 0 if graphs[name] else pause_cycles(call) for name, call in calls.items()}
    for number in range(WARM + repeats):
        for name, call in calls.items():
            flush.zero_()
            if pauses[name]:
                torch.cuda._sleep(pauses[name])
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            (graphs[name] or call)()
            end.record()
            end.synchronize()
            if number >= WARM:
                taken[name].append(start.elapsed_time(end) / 1e3)
    return {
        name: {
            "median": statistics.median(times), "least": min(times), "most": max(times),
            "captured": graphs[name] is not None,
        }
        for name, times in taken.items()
    }  # fmt: skip


def ceilings(case: object = None) -> dict[str, float]:
    """What this card reaches: bytes per second of a copy (read and written), FLOP/s of a large product in bfloat16.

    Args:
        case: nothing is asked (a process hands something over with every question).
    """
    x = torch.empty(2**28, dtype=torch.bfloat16, device="cuda")
    y = torch.empty_like(x)
    n = 8192
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    times = clock({"copy": lambda: y.copy_(x), "product": lambda: a @ b}, 10)
    return {
        "bytes_per_second": 2 * x.numel() * x.element_size() / times["copy"]["median"],
        "flops_per_second": 2 * n**3 / times["product"]["median"],
    }


def row_of(
    name: str, case: dict[str, int], dtype: torch.dtype, device: str, rehearse: bool, compiler: bool,
    alone: bool = False,
) -> Any:  # fmt: skip
    """One kernel at one size: whether it is right, its costs, and (not in a rehearsal, nor of a wrong one) everybody's
    seconds.

    Args:
        compiler: whether torch.compile is among the rivals. alone: there are none, but for the reference.
    """
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
    if not alone:
        versions |= {n: f for n, f in file.rivals().items() if compiler or n != COMPILER}
    row["versions"] = list(versions)
    if rehearse or not row["passed"]:
        return row
    calls: dict[str, Callable[[], Any]] = {}
    for called, function in versions.items():
        mine = leaves(args)
        try:
            calls[called] = prepared(function, mine)
        except Exception as error:  # somebody else's version may not take this shape or card; ours must
            if called == "kernel":
                raise
            row.setdefault("failed", {})[called] = f"{type(error).__name__}: {error}"[:200]
    row["seconds"] = clock(calls, REPEATS)
    return row


def row(case: dict[str, Any]) -> dict[str, Any]:
    """A row as a process is asked for it: {"kernel", "number" of the case, "rehearse", "compiler", "alone"}. What goes
    wrong is in the row: {"passed": False, "broken": how}; or "left_out" (nothing wrong was found), where the card is
    small."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = cases(case["kernel"], case["rehearse"])[case["number"]]
    before = os.environ.get(SETTING)
    os.environ[SETTING] = "1"
    try:
        found: dict[str, Any] = row_of(
            case["kernel"], size, torch.bfloat16, device, case["rehearse"], case.get("compiler", False),
            case.get("alone", False),
        )  # fmt: skip
    except torch.OutOfMemoryError:
        found = {"kernel": case["kernel"], "case": size, "passed": True, "left_out": TOO_SMALL}
    except Exception as error:
        broken = f"{type(error).__name__}: {error}"[:500]
        return {"kernel": case["kernel"], "case": size, "passed": False, "broken": broken}
    finally:
        os.environ.pop(SETTING) if before is None else os.environ.__setitem__(SETTING, before)
    if device == "cuda":
        torch.cuda.empty_cache()
    return found


def cases(name: str, rehearse: bool) -> Sequence[dict[str, int]]:
    """A kernel's cases, the smallest first: as in training, or small ones."""
    file = import_module(f"kernels.{name}")
    found: Sequence[dict[str, int]] = file.CASES if rehearse else file.SIZES
    return found


def numbers(name: str, rehearse: bool) -> range:
    """Of a kernel's cases."""
    return range(len(cases(name, rehearse)))


def thresholds(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """From which size on (and up to which, for the layer that pays for few tokens) each kernel beat what training would
    do without it: its reference, or bitsandbytes where that decodes.

    A kernel with one row that is wrong, broken or left out has no entry, and is never launched.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in KERNELS:
        mine = [r for r in rows if r["kernel"] == name]
        if not mine or not all(r.get("passed") and "seconds" in r for r in mine):
            continue
        faster: dict[int, bool] = {}
        for r in sorted(mine, key=lambda r: r["size"]):
            others = [r["seconds"][n]["median"] for n in ("reference", "bitsandbytes") if n in r["seconds"]]
            # (Without others: they could not be run there at all.)
            won = all(theirs > OVER * r["seconds"]["kernel"]["median"] for theirs in others)
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


def decided(rows: list[dict[str, Any]]) -> set[str]:
    """The kernels about which the rows say something: one is wrong or broken, or all were timed."""
    found = set()
    for name in KERNELS:
        mine = [r for r in rows if r["kernel"] == name]
        if any(r.get("passed") is False for r in mine) or (mine and all("seconds" in r for r in mine)):
            found.add(name)
    return found


def keep(capability: str, found: dict[str, Any], path: Path = MEASURED, of: Iterable[str] | None = None) -> None:
    """Put a card's thresholds into kernels/measured.json, beside those of other cards and of other kernels.

    Args:
        of: the kernels that were looked at (default: those in `found`); one that is not in `found` is not used any
            more. What is known of the others stays.
    """
    looked_at = set(found if of is None else of)
    if not looked_at:
        return
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before = {name: row for name, row in known.get(capability, {}).items() if name not in looked_at}
    known[capability] = before | found
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def measure(names: list[str], rehearse: bool, tell: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """The rows of these kernels, in this process. rehearse: their small cases, nothing timed.

    Compiling takes seconds for each shape: only the largest is compared with the compiler.
    """
    rows = []
    for name in names:
        for number in numbers(name, rehearse):
            last = number == numbers(name, rehearse)[-1]
            rows.append(row({"kernel": name, "number": number, "rehearse": rehearse, "compiler": last}))
            tell(rows[-1])
    return rows


def line(row: dict[str, Any]) -> str:
    """A row for a person."""
    at = ", ".join(f"{k} {v}" for k, v in row["case"].items())
    begin = f"{row['kernel']:21} {at:60}"
    if "left_out" in row:
        return f"{begin} {row['left_out']}"
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
    if asked.out is not None and not asked.out.resolve().parent.is_dir():
        print(f"There is no folder {asked.out.resolve().parent} for the record. Nothing was measured.", file=sys.stderr)
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
            keep(str(record["capability"]), record["thresholds"], of=decided(rows))
    if asked.out is not None:
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(r.get("passed") for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
