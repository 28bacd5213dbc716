"""The memory part of `make gpu`: predicted and measured peaks of real steps on the attached card.

    python -m tests.gpu_memory                # all cases; writes tests/records/gpu_memory_<card>.json
    python -m tests.gpu_memory --dry-run      # the same path on a CPU, with small models: writes nothing

Models have random weights and the shapes of GPT-2, OPT-1.3B, Llama-3.2-1B and Llama-3.1-8B; each case is a process of
its own, so that what one leaves behind is not the next one's. Measured: what the caching allocator held and reserved at
most in the third step, term by term, and what the driver says the process has. Predicted: the trace, the allocator's
rules replayed on it, and the totals of core.memory.card. A case that does not fit is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
GIB = 2**30
METHODS_OF = {
    "GPT-2": ("full", "lora", "qlora", "bitfit", "ia3", "prefix_tuning"),
    "OPT-1.3B": ("full", "lora", "qlora", "bitfit"),
    "Llama-3.2-1B": ("full", "lora", "qlora", "dora", "ln_tuning"),
    "Llama-3.1-8B": ("lora", "qlora"),
}
SHARE = 0.9  # of the card's memory that a case may be predicted to take


def slug(name: str) -> str:
    """A card's name as part of a file's."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def cases(dry: bool) -> list[dict[str, Any]]:
    """Method × recomputing × batch and length, and the optimizers once for each model."""
    found: list[dict[str, Any]] = []
    if dry:
        small = {"model": "llama_biased", "batch": 2, "length": 24, "checkpointing": False}
        return [
            *({**small, "method": m} for m in ("full", "lora", "qlora")),
            {**small, "model": "gpt2", "method": "lora", "checkpointing": True},
            {**small, "method": "full", "length": 120, "optimizer": "adamw_8bit"},
        ]
    for model, methods in METHODS_OF.items():
        for method in methods:
            for checkpointing in (False, True):
                if method == "prefix_tuning" and checkpointing:
                    continue
                for batch, length in ((1, 512), (4, 1024)):
                    found.append({"model": model, "method": method, "batch": batch, "length": length,
                                  "checkpointing": checkpointing})  # fmt: skip
        first = {"model": model, "method": methods[0], "batch": 2, "length": 512, "checkpointing": True}
        found += [{**first, "optimizer": name} for name in ("adamw_8bit", "paged_adamw_8bit")]
    return found


def setup_of(case: dict[str, Any], capability: tuple[int, int] | None) -> Any:
    """The case as a question to the trace."""
    from core.memory.setup import Device, Setup
    from core.methods import METHODS

    device = Device(capability)
    return Setup(
        case["method"], METHODS[case["method"]].Config(), case["batch"], case["length"], device=device,
        precision=device.precision, checkpointing=case["checkpointing"], optimizer=case.get("optimizer", "adamw"),
    )  # fmt: skip


def config_of(case: dict[str, Any], dry: bool) -> Any:
    """The model's configuration."""
    from core.catalog import config_of, model
    from tests.core import memory_support

    return memory_support.config_of(case["model"], layers=2) if dry else config_of(model(case["model"]))


def predicted(case: dict[str, Any], capability: tuple[int, int] | None, dry: bool) -> dict[str, Any]:
    """Ledger, reserved and process totals as they are told to a user."""
    from core.memory.allocator import replay
    from core.memory.card import totals
    from core.memory.trace import trace

    setup = setup_of(case, capability)
    traced = trace(config_of(case, dry), setup)
    ledger = traced.ledger()
    reserved = replay(traced).most_reserved if setup.device.is_cuda else None
    found = totals(ledger.allocated_bytes, setup.device, reserved)
    return {"ledger": ledger.to_dict(), "reserved": found.reserved[1], "process": list(found.process)}


def process_bytes() -> int:
    """Of the GPU's memory all that is in use, if there is a GPU (nobody else should use it meanwhile: take the
    difference to before); else what is resident of this process."""
    import torch

    if torch.cuda.is_available():
        tool = shutil.which("nvidia-smi")
        if tool is not None:  # asked without making a context, which would be counted itself
            asked = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip().isdigit():
                return int(done.stdout) * 2**20
        free, total = torch.cuda.mem_get_info()
        return total - free
    return int(psutil.Process().memory_info().rss)


def one(case: dict[str, Any], dry: bool) -> dict[str, Any]:
    """Carry a case out in this process: three steps, the third one measured."""
    import torch

    from tests.core import memory_support

    before = 0 if dry else process_bytes()
    device = torch.device("cpu" if dry else "cuda")
    capability = None if dry else torch.cuda.get_device_capability()
    setup = setup_of(case, capability)
    ledger = memory_support.measured(config_of(case, dry), setup, device, steps=2)
    return {"ledger": ledger.to_dict(), "reserved": ledger.reserved_bytes, "process": process_bytes() - before}


def run(case: dict[str, Any], dry: bool) -> dict[str, Any]:
    """A case in a process of its own, beside its prediction."""
    import torch

    capability = None if dry else torch.cuda.get_device_capability()
    told = predicted(case, capability, dry)
    row: dict[str, Any] = {**case, "predicted": told}
    if not dry:
        there = torch.cuda.get_device_properties(0).total_memory
        if told["process"][1] > SHARE * there:
            return {**row, "left_out": "It is predicted to take more than nine tenths of the card."}
    command = [sys.executable, "-m", "tests.gpu_memory", "--one", json.dumps(case), *(["--dry-run"] if dry else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {**row, "failed": lines[-1][:300] if lines else f"exit code {done.returncode}"}
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    row["measured"] = measured
    for what, mine, real in (
        ("allocated", told["ledger"]["allocated_bytes"], measured["ledger"]["allocated_bytes"]),
        ("reserved", told["reserved"], measured["reserved"]),
        ("process", told["process"][1], measured["process"]),
    ):
        if real:
            row[f"{what}_error"] = mine / real - 1
    return row


def line(row: dict[str, Any]) -> str:
    """A case for a person."""
    name = f"{row['model']:14} {row['method']:14} {row['batch']} × {row['length']:<5}"
    name += f"{' recomputed' if row['checkpointing'] else '           '} {row.get('optimizer', ''):18}"
    if "measured" not in row:
        return f"{name} {row.get('left_out') or row.get('failed')}"
    parts = [f"{w} {row[f'{w}_error']:+.1%}" for w in ("allocated", "reserved", "process") if f"{w}_error" in row]
    return f"{name} measured {row['measured']['ledger']['allocated_bytes'] / GIB:7.3f} GiB; {', '.join(parts)}"


def main(given: list[str] | None = None) -> int:
    """Measure every case, write the record, print the residuals."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_memory", description=main.__doc__)
    parser.add_argument("--dry-run", action="store_true", help="rehearse on a CPU with small models; writes nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="cases that begin later are left out")
    asked = parser.parse_args(given)
    if asked.one:
        print(json.dumps(one(json.loads(asked.one), asked.dry_run)))
        return 0
    import torch

    if not asked.dry_run and not torch.cuda.is_available():
        print("There is no CUDA device; --dry-run rehearses on the CPU. Nothing was measured.", file=sys.stderr)
        return 2
    rows = []
    began = time.monotonic()
    for case in cases(asked.dry_run):
        if time.monotonic() - began > asked.seconds:
            rows.append({**case, "left_out": "There was no time left for it."})
        else:
            rows.append(run(case, asked.dry_run))
        print(line(rows[-1]), flush=True)
    broken = [r for r in rows if "failed" in r]
    if asked.dry_run:
        print(f"Rehearsed {len(rows)} cases on the CPU, {len(broken)} failed; nothing was written.")
        return 1 if broken else 0
    from core.memory.fit import versions

    name = torch.cuda.get_device_name()
    content = {
        "what": "predicted and measured memory of real steps", "command": "make gpu", "date": time.strftime("%Y-%m-%d"),
        "device": name, "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda": torch.version.cuda, "versions": versions(), "rows": rows,
    }  # fmt: skip
    file = f"gpu_memory_{slug(name)}.json"
    (ROOT / "tests" / "records" / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to tests/records/{file}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
