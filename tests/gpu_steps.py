"""The step part of `make gpu`: one training step of a model with random weights, three ways, on the attached card.

    python -m tests.gpu_steps                 # all cases; prints them (tests/gpu.py writes the record)
    python -m tests.gpu_steps --dry-run       # the same path on a CPU, with two small layers: one step each, not timed

Ways: *graphed* (the engine's captured step), *eager* (the engine's step as it comes), *stock* (`transformers.Trainer`
with PEFT and bitsandbytes, bfloat16). Each builds the model, trains the same ready-made batches, and says what a step
took and what the allocator held at most after the warm-up (a captured step's own memory included, which the allocator
does not count while it is replayed). The cases of a shape share a process, emptied in between (tests/gpu_process.py).
Models are built on the card: an 8B base is never on the disk, nor in the processor's memory. What is predicted to take
more than nine tenths of the card's free memory is left out, and so is what needs a package that is not there.

The share of the roofline is the least time that the step's operations need at the card's own measured ceilings
(core/roofline.py, fused), over the time that was taken.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.gpu_process import PATIENCE, SPOILT, Ahead, Processes, attached, quiet, why_left_out

WAYS = ("graphed", "stock", "eager")
METHODS = ("full", "lora", "qlora", "bitfit")
STEPS, WARM = 12, 4
# shape: (batch, length)
SHAPES = {"tiny": (8, 64), "Llama-3.2-1B": (1, 512), "Llama-3.1-8B": (1, 4096)}
# (shape, methods), what the project has promised figures of first. Full fine-tuning of 8B fits few cards: where it does
# not, its row says what it is predicted to take.
ORDER = (
    ("Llama-3.1-8B", ("qlora", "lora")), ("Llama-3.2-1B", ("qlora",)), ("tiny", ("lora", "qlora", "full", "bitfit")),
    ("Llama-3.2-1B", ("lora", "full", "bitfit")), ("Llama-3.1-8B", ("bitfit", "full")),
)  # fmt: skip
SHARE = 0.9  # of the free memory that a case may be predicted to take
CASE_SECONDS = 90.0  # for one way of one case, at most
LEFT_BEHIND = 64 * 2**20  # bytes that may stay allocated after a case


def config_of(shape: str, dry: bool) -> Any:
    """The model's configuration; with biases, so that BitFit has something to train."""
    from transformers import LlamaConfig

    from core.catalog import config_of, model

    if shape == "tiny" or dry:
        layers, width = (2, 64) if dry else (8, 512)
        return LlamaConfig(
            hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=layers,
            num_attention_heads=width // 64 or 1, num_key_value_heads=width // 64 or 1, vocab_size=256 if dry else 4096,
            attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        )  # fmt: skip
    config = config_of(model(shape))
    config.attention_bias = config.mlp_bias = True
    return config


def batches(shape: str, dry: bool, count: int) -> list[Any]:
    """The same for every way: random tokens, the second half of each row with labels."""
    import torch

    from core.batches import IGNORED, Batch

    rows, length = SHAPES[shape]
    if dry:
        rows, length = 2, 24
    generator = torch.Generator().manual_seed(0)
    vocabulary = config_of(shape, dry).vocab_size
    found = []
    for _ in range(count):
        ids = torch.randint(4, vocabulary, (rows, length), generator=generator)
        labels = ids.clone()
        labels[:, : length // 2] = IGNORED
        found.append(Batch(ids, labels, int((labels[:, 1:] != IGNORED).sum())))
    return found


def model_of(shape: str, method: str, dry: bool) -> Any:
    """With random weights, on the card; what trains whole is in 32 bits, the rest in 16 or, for QLoRA, 4."""
    import torch

    from tests.gpu_models import four_bit_model, random_model

    device = torch.device("cpu" if dry else "cuda")
    dtype = torch.float32 if method in ("full", "bitfit") or dry else torch.bfloat16
    return (four_bit_model if method == "qlora" else random_model)(config_of(shape, dry), dtype, device)


def emptied() -> int:
    """Bytes that are still allocated on the card when what nobody holds any more is given back."""
    import torch

    gc.collect()
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def spoilt() -> bool:
    """Whether a case has left so much behind that its process should not be used again."""
    return emptied() > LEFT_BEHIND


def kept_by_graphs() -> int:
    """Bytes of the card that captured graphs keep for themselves, as far as no tensor is alive in them: while a graph
    is replayed they are in use, and the allocator does not know."""
    import torch

    segments = torch.cuda.memory_snapshot()
    return sum(s["total_size"] - s["allocated_size"] for s in segments if tuple(s["segment_pool_id"]) != (0, 0))


def peak_from_here() -> None:
    """The most that is held is counted from here on: the warm-up is over, and what setting up took does not count."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def timed(step: Any, given: list[Any], dry: bool) -> list[float]:
    """Seconds of each step."""
    import torch

    taken = []
    for number, batch in enumerate(given):
        if number == WARM:
            peak_from_here()
        if not dry:
            torch.cuda.synchronize()
        start = time.perf_counter()
        step(batch)
        if not dry:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken


def engine(shape: str, method: str, way: str, dry: bool) -> dict[str, Any]:
    """The engine's own step, captured or as it comes."""
    import torch

    from core.evaluate import answer_loss_sum
    from core.fast.fused import with_kernels
    from core.fast.graphed import GraphedStep, Replayed, make_capturable
    from core.methods import METHODS as METHODS_OF
    from core.methods import attach
    from core.optimizers import make_optimizer

    device = torch.device("cpu" if dry else "cuda")
    model = attach(
        model_of(shape, method, dry), method, METHODS_OF[method].Config(), keep_base=False, device=device
    ).model
    emptied()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, _ = make_optimizer("adamw", parameters, 1e-4, 0.0)

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16)

    given = batches(shape, dry, 2 if dry else STEPS + WARM)
    form, because = with_kernels(model)  # as training takes it: where kernels/measured.json says that it pays
    told = {"kernels": because or "taken"}
    if way == "graphed":
        if not dry:
            make_capturable(optimizer, device)
        graphs = GraphedStep(model, parameters, optimizer, 1.0, autocast, 0, device, Replayed if dry else None, form)
        seconds = timed(graphs.step, given, dry)
        if graphs.reason:
            return {"failed": graphs.reason}
        return {"seconds": seconds[WARM:], "graph_bytes": 0 if dry else kept_by_graphs(), **told}

    def step(batch: Any) -> None:
        here = batch.to(device)
        with autocast():
            summed = answer_loss_sum(model, here.ids, here.labels) if form is None else form(here)
            loss = summed / batch.answer_tokens
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"seconds": timed(step, given, dry)[WARM:], **told}


def stock(shape: str, method: str, dry: bool) -> dict[str, Any]:
    """Trainer's step."""
    from tests import bench

    model = model_of(shape, method, dry)
    if method == "qlora":
        from peft import get_peft_model

        from tests.stock import peft_config

        model.is_loaded_in_4bit = True  # what transformers says of such a base, and PEFT asks for
        model = get_peft_model(model, peft_config("qlora", "llama"))
    else:
        model = bench.peft_model(model, method)
    emptied()
    given = batches(shape, dry, 2 if dry else STEPS + WARM)
    side = bench.Stock.of(model)
    done = 0

    def between() -> None:
        nonlocal done
        done += 1
        if done == WARM:
            peak_from_here()

    return {"seconds": [s for _, s in side.steps(len(given), given, between, bf16=not dry)][WARM:]}


def prepare() -> None:
    """What every case needs, imported before the first."""
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import core.methods  # noqa: F401
    import tests.gpu_models  # noqa: F401

    quiet()


def one(case: dict[str, Any]) -> dict[str, Any]:
    """One way of one case, in this process. case: shape, method, way; dry; bytes: that it is predicted to take."""
    import torch

    dry, way = case["dry"], case["way"]
    emptied()
    if not dry:
        free = torch.cuda.mem_get_info()[0]
        if case.get("bytes") and case["bytes"] > SHARE * free:
            told = f"It is predicted to take {case['bytes'] / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free."
            return {"left_out": told}
        peak_from_here()
    found = (
        stock(case["shape"], case["method"], dry) if way == "stock" else engine(case["shape"], case["method"], way, dry)
    )
    if not dry:
        # (A replay allocates nothing: what its graph keeps is not in the allocator's peak.)
        found["peak_bytes"] = torch.cuda.max_memory_allocated() + found.get("graph_bytes", 0)
        found["reserved_bytes"] = torch.cuda.max_memory_reserved()
    found[SPOILT] = spoilt()
    return found


def cases(dry: bool) -> list[dict[str, Any]]:
    """Shape × method × way, in the order in which they are wanted; in a rehearsal one small shape stands for all."""
    order = (("tiny", METHODS),) if dry else ORDER
    return [
        {"shape": shape, "method": m, "way": way, "dry": dry, "process": f"{shape} {number}"}
        for number, (shape, methods) in enumerate(order) for m in methods for way in WAYS
    ]  # fmt: skip


def missing(case: dict[str, Any]) -> list[str]:
    """Packages that a case needs and that are not installed."""
    needed = ["bitsandbytes"] if case["method"] == "qlora" else []
    needed += ["accelerate", "peft"] if case["way"] == "stock" else []
    return [name for name in needed if importlib.util.find_spec(name) is None]


def needed(case: dict[str, Any]) -> dict[str, Any]:
    """What the trace predicts that a case takes. case: shape, method, capability."""
    from core.memory.setup import Device, Setup
    from core.memory.trace import trace
    from core.methods import METHODS as ALL

    rows, length = SHAPES[case["shape"]]
    setup = Setup(
        case["method"], ALL[case["method"]].Config(), rows, length, answers=rows * length // 2,
        device=Device(tuple(case["capability"])), precision="bfloat16",
    )  # fmt: skip
    return {"bytes": trace(config_of(case["shape"], False), setup).ledger().allocated_bytes}


def wanted(dry: bool, capability: tuple[int, int] | None) -> list[tuple[Any, str, Any]]:
    """What is to be predicted, for `Ahead`."""
    if dry or capability is None:
        return []
    pairs = dict.fromkeys((c["shape"], c["method"]) for c in cases(dry) if c["shape"] != "tiny" and not missing(c))
    return [
        (pair, "tests.gpu_steps:needed", {"shape": pair[0], "method": pair[1], "capability": capability})
        for pair in pairs
    ]


def rows(dry: bool, processes: Processes, ahead: Ahead, left: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """The rows of all cases, one by one. left: seconds that there are still."""
    for case in cases(dry):
        row = {name: case[name] for name in ("shape", "method", "way")}
        why = why_left_out(missing(case), left)
        if why:
            yield {**row, "left_out": why}
            continue
        if not dry and case["shape"] != "tiny":  # (without a prediction it is tried)
            case["bytes"] = ahead.get((case["shape"], case["method"]), min(30.0, left())).get("bytes")
        most = CASE_SECONDS * (PATIENCE if dry else 1)
        yield {**row, **processes.ask_within("tests.gpu_steps:one", case, most, left, case["process"])}


def with_shares(rows: list[dict[str, Any]], ceilings: dict[str, float] | None) -> list[dict[str, Any]]:
    """The rows with their median, the ratio to the stock stack, and the share of the roofline (None without the card's
    ceilings)."""
    from core.architecture import architecture_of_config
    from core.roofline import Limit, operations, total

    limit = Limit("measured", ceilings["flops_per_second"], ceilings["bytes_per_second"]) if ceilings else None
    median = {
        (r["shape"], r["method"], r["way"]): statistics.median(r["seconds"]) for r in rows if r.get("seconds")
    }  # fmt: skip
    found = []
    for row in rows:
        key = row["shape"], row["method"], row["way"]
        if key not in median:
            found.append(row)
            continue
        other = median.get((row["shape"], row["method"], "stock"))
        row = {**row, "median_seconds": median[key], "times_stock": other / median[key] if other else None}
        row |= {"least_seconds": None, "roofline_share": None}
        if limit is not None:
            batch, length = SHAPES[row["shape"]]
            table = architecture_of_config(config_of(row["shape"], False))
            ops = operations(
                table, batch=batch, length=length, answers=batch * length // 2, method=row["method"], rank=8, fused=True
            )
            least = total(ops, limit).device_seconds
            row |= {"least_seconds": least, "roofline_share": least / median[key]}
        found.append(row)
    return found


def line(row: dict[str, Any]) -> str:
    """A row for a person."""
    name = f"{row['shape']:13} {row['method']:7} {row['way']:8}"
    if "left_out" in row or "failed" in row:
        return f"{name} {row.get('left_out') or row['failed']}"
    if not row.get("median_seconds"):
        return f"{name} ran"
    ratio = f"{row['times_stock']:.2f}× the stock stack's speed" if row["times_stock"] else ""
    share = f"{row['roofline_share']:.0%} of the roofline" if row["roofline_share"] is not None else ""
    return f"{name} {1e3 * row['median_seconds']:9.2f} ms  {row['peak_bytes'] / 2**30:6.2f} GiB  {share}  {ratio}"


def main(given: list[str] | None = None) -> int:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_steps", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true")
    asked = parser.parse_args(given)
    capability = None
    if not asked.dry_run:
        from core.memory.setup import Device

        capability = Device.of(attached(120).get("capability")).capability
        if capability is None:
            print("There is no CUDA device; --dry-run rehearses on the CPU. Nothing was measured.", file=sys.stderr)
            return 2
    found = []
    asks = wanted(asked.dry_run, capability)
    with Processes("tests.gpu_steps") as processes, Ahead(asks, "tests.gpu_steps") as ahead:
        for row in rows(asked.dry_run, processes, ahead, lambda: float("inf")):
            found.append(row)
            print(line(row), flush=True)
    if not asked.dry_run:
        for row in with_shares(found, None):
            print(line(row))
    return 1 if any("failed" in r for r in found) else 0


if __name__ == "__main__":
    sys.exit(main())
