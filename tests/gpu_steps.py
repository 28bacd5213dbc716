"""The step part of `make gpu`: one training step of a model with random weights, three ways, on the attached card.

    python -m tests.gpu_steps                 # all cases; prints them (tests/gpu.py writes the record)
    python -m tests.gpu_steps --dry-run       # the same path on a CPU, with two small layers: one step each, not timed

Ways: *graphed* (the engine's captured step), *eager* (the engine's step as it comes), *stock* (`transformers.Trainer`
with PEFT and bitsandbytes, bfloat16). Each is a process of its own that builds the model, trains the same ready-made
batches, and says what a step took and what the allocator held at most. Models are built on the card: an 8B base is
never on the disk. What is predicted to take more than nine tenths of the card is left out, and said so.

The share of the roofline is the least time that the step's operations need at the card's own measured ceilings
(core/roofline.py, fused), over the time that was taken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WAYS = ("graphed", "eager", "stock")
METHODS = ("full", "lora", "qlora", "bitfit")
STEPS, WARM = 12, 4
# shape: (batch, length, methods). Full fine-tuning of 8B does not fit one card; BitFit says nothing new there.
CASES = {
    "tiny": (8, 64, METHODS),
    "Llama-3.2-1B": (1, 512, METHODS),
    "Llama-3.1-8B": (1, 4096, ("lora", "qlora")),
}
SHARE = 0.9


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

    rows, length, _ = CASES[shape]
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
    """With random weights, on the card; what trains whole is in 32 bits, the rest in 16."""
    import torch
    from transformers import AutoModelForCausalLM

    trains = method in ("full", "bitfit")
    torch.manual_seed(0)
    device = "cpu" if dry else "cuda"
    dtype = torch.float32 if trains or dry else torch.bfloat16
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config_of(shape, dry), dtype=dtype).train()


def timed(step: Any, given: list[Any], dry: bool) -> list[float]:
    """Seconds of each step."""
    import torch

    taken = []
    for batch in given:
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
        return {"seconds": seconds[WARM:], "graph_bytes": graphs.bytes, **told}

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
        quantize_in_place(model)
        from peft import get_peft_model

        from tests.stock import peft_config

        model = get_peft_model(model, peft_config("qlora", "llama"))
    else:
        model = bench.peft_model(model, method)
    given = batches(shape, dry, 2 if dry else STEPS + WARM)
    side = bench.Stock.of(model)
    return {"seconds": [s for _, s in side.steps(len(given), given, bf16=not dry)][WARM:]}


def quantize_in_place(model: Any) -> None:
    """Every linear layer but the head as bitsandbytes' Linear4bit, as transformers sets a 4-bit base up."""
    import bitsandbytes as bnb
    import torch

    dtype = next(model.parameters()).dtype
    for path, layer in list(model.named_modules()):
        if type(layer) is not torch.nn.Linear or path == "lm_head":
            continue
        four = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=dtype,
            compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        device = layer.weight.device
        four.weight = bnb.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=four
        ).to(device)
        four.bias = layer.bias
        four.support_avx512bf16_for_cpu = False
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, four)
    model.requires_grad_(False)


def one(case: dict[str, Any], dry: bool) -> dict[str, Any]:
    """One way of one case, in this process."""
    import logging
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    found = (
        stock(case["shape"], case["method"], dry)
        if case["way"] == "stock"
        else engine(case["shape"], case["method"], case["way"], dry)
    )
    if not dry:
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
        found["reserved_bytes"] = torch.cuda.max_memory_reserved()
    return found


def cases(dry: bool) -> list[dict[str, Any]]:
    """Shape × method × way; in a rehearsal one small shape stands for all."""
    shapes = ["tiny"] if dry else list(CASES)
    return [{"shape": s, "method": m, "way": w} for s in shapes for m in CASES[s][2] for w in WAYS]


def fits(case: dict[str, Any]) -> bool:
    """Whether the trace predicts that it takes less than nine tenths of the card."""
    import torch

    from core.memory.setup import Device, Setup
    from core.memory.trace import trace
    from core.methods import METHODS as ALL

    rows, length, _ = CASES[case["shape"]]
    setup = Setup(
        case["method"], ALL[case["method"]].Config(), rows, length, answers=rows * length // 2,
        device=Device(torch.cuda.get_device_capability()), precision="bfloat16",
    )  # fmt: skip
    needed = trace(config_of(case["shape"], False), setup).ledger().allocated_bytes
    return needed < SHARE * torch.cuda.get_device_properties(0).total_memory


def run(case: dict[str, Any], dry: bool, known: dict[tuple[str, str], bool], seconds: float = 120.0) -> dict[str, Any]:
    """A case in a process of its own."""
    key = case["shape"], case["method"]
    if not dry and key not in known:
        known[key] = fits(case)
    if not dry and not known[key]:
        return {**case, "left_out": "It is predicted to take more than nine tenths of the card."}
    command = [sys.executable, "-m", "tests.gpu_steps", "--one", json.dumps(case), *(["--dry-run"] if dry else [])]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {**case, "failed": f"It took more than {seconds:.0f} s."}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {**case, "failed": lines[-1][:300] if lines else f"exit code {done.returncode}"}
    return {**case, **json.loads(done.stdout.strip().splitlines()[-1])}


def with_shares(rows: list[dict[str, Any]], ceilings: dict[str, float]) -> list[dict[str, Any]]:
    """The rows with their median, the ratio to the stock stack, and the share of the roofline."""
    from core.architecture import architecture_of_config
    from core.roofline import Limit, operations, total

    limit = Limit("measured", ceilings["flops_per_second"], ceilings["bytes_per_second"])
    median = {
        (r["shape"], r["method"], r["way"]): statistics.median(r["seconds"]) for r in rows if r.get("seconds")
    }  # fmt: skip
    found = []
    for row in rows:
        key = row["shape"], row["method"], row["way"]
        if key not in median:
            found.append(row)
            continue
        batch, length, _ = CASES[row["shape"]]
        table = architecture_of_config(config_of(row["shape"], False))
        ops = operations(
            table, batch=batch, length=length, answers=batch * length // 2, method=row["method"], rank=8, fused=True
        )
        other = median.get((row["shape"], row["method"], "stock"))
        found.append(
            {
                **row, "median_seconds": median[key], "least_seconds": total(ops, limit).device_seconds,
                "roofline_share": total(ops, limit).device_seconds / median[key],
                "times_stock": other / median[key] if other else None,
            }
        )  # fmt: skip
    return found


def line(row: dict[str, Any]) -> str:
    """A row for a person."""
    name = f"{row['shape']:13} {row['method']:7} {row['way']:8}"
    if "left_out" in row or "failed" in row:
        return f"{name} {row.get('left_out') or row['failed']}"
    if not row.get("median_seconds"):
        return f"{name} ran"
    ratio = f"{row['times_stock']:.2f}× the stock stack's speed" if row["times_stock"] else ""
    return (
        f"{name} {1e3 * row['median_seconds']:9.2f} ms  {row['peak_bytes'] / 2**30:6.2f} GiB  "
        f"{row['roofline_share']:.0%} of the roofline  {ratio}"
    )


def main(given: list[str] | None = None) -> int:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_steps", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    if asked.one:
        print(json.dumps(one(json.loads(asked.one), asked.dry_run)))
        return 0
    rows = []
    known: dict[tuple[str, str], bool] = {}
    for case in cases(asked.dry_run):
        rows.append(run(case, asked.dry_run, known))
        print(line(rows[-1]), flush=True)
    return 1 if any("failed" in r for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
