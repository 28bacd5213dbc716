"""The memory part of `make gpu`: predicted and measured peaks of real steps on the attached card.

    python -m tests.gpu_memory                # all cases; writes tests/records/gpu_memory_<card>.json
    python -m tests.gpu_memory --dry-run      # the same path on a CPU, with small models: writes nothing

Models have random weights and the shapes of Llama-3.1-8B, Llama-3.2-1B, OPT-1.3B and GPT-2, and are made on the card;
the cases of one share a process (tests/gpu_process.py), which is emptied in between: a case that leaves something
behind is its process's last. First come all methods of all models once, then the other cases, as long as there is time.
Measured: what the caching allocator held and reserved at most in the third step, term by term, and what the driver says
the process has. Predicted, in another process meanwhile: the trace, the allocator's rules replayed on it, and the
totals of core.memory.card. A case that does not fit is left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.gpu_process import NO_TIME, PATIENCE, SPOILT, Ahead, Processes, attached, quiet, why_left_out
from tests.gpu_steps import SHARE, emptied, spoilt

ROOT = Path(__file__).parents[1]
GIB = 2**30
METHODS_OF = {
    "Llama-3.1-8B": ("qlora", "lora"),
    "Llama-3.2-1B": ("full", "lora", "qlora", "dora", "ln_tuning"),
    "OPT-1.3B": ("full", "lora", "qlora", "bitfit"),
    "GPT-2": ("full", "lora", "qlora", "bitfit", "ia3", "prefix_tuning"),
}
CASE_SECONDS = 60.0  # for one case, at most


def slug(name: str) -> str:
    """A card's name as part of a file's."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def cases(dry: bool) -> list[dict[str, Any]]:
    """Method × recomputing × batch and length, and the optimizers once for each model; each method of each model once
    before all others."""
    if dry:
        small = {"model": "llama_biased", "batch": 2, "length": 24, "checkpointing": False}
        return [
            *({**small, "method": m} for m in ("full", "lora", "qlora")),
            {**small, "model": "gpt2", "method": "lora", "checkpointing": True},
            {**small, "method": "full", "length": 120, "optimizer": "adamw_8bit"},
        ]
    first: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for model, methods in METHODS_OF.items():
        for method in methods:
            sizes = [(batch, length, again) for again in (False, True) for batch, length in ((1, 512), (4, 1024))]
            for number, (batch, length, checkpointing) in enumerate(sizes):
                if method == "prefix_tuning" and checkpointing:
                    continue
                case = {"model": model, "method": method, "batch": batch, "length": length,
                        "checkpointing": checkpointing}  # fmt: skip
                (others if number else first).append(case)
        # (bitsandbytes keeps what it pages for as long as the process lives.)
        once = {"model": model, "method": methods[0], "batch": 2, "length": 512, "checkpointing": True}
        others += [{**once, "optimizer": name} for name in ("adamw_8bit", "paged_adamw_8bit")]
    return first + others


def missing(case: dict[str, Any]) -> list[str]:
    """Packages that a case needs and that are not installed."""
    four_bits = case["method"] == "qlora" or "8bit" in case.get("optimizer", "")
    return ["bitsandbytes"] if four_bits and importlib.util.find_spec("bitsandbytes") is None else []


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


def predicted(case: dict[str, Any]) -> dict[str, Any]:
    """Ledger, reserved and process totals as they are told to a user. case: with capability and dry."""
    from core.memory.allocator import replay
    from core.memory.card import totals
    from core.memory.trace import trace

    setup = setup_of(case, tuple(case["capability"]) if case["capability"] else None)
    traced = trace(config_of(case, case["dry"]), setup)
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
            card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
            asked = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={card}"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode == 0 and done.stdout.strip().isdigit():
                return int(done.stdout) * 2**20
        free, total = torch.cuda.mem_get_info()
        return total - free
    return int(psutil.Process().memory_info().rss)


_before: list[int] = []  # what was in use before this process had a context on the card


def prepare() -> None:
    """What every case needs, imported before the first; nothing that makes a context on the card."""
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import core.memory.trace  # noqa: F401
    import tests.core.memory_support  # noqa: F401

    quiet()


def card(case: object = None) -> dict[str, Any]:
    """What is attached, and the bytes that are free there (0 without a card)."""
    import torch

    from kernels.bench import about

    return {**about(), "free_bytes": torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0}


def one(case: dict[str, Any]) -> dict[str, Any]:
    """Carry a case out in this process: three steps, the third one measured."""
    import torch

    from core.methods import loading
    from tests.core import memory_support
    from tests.gpu_models import four_bit_model, random_model

    dry = case["dry"]
    if not _before:
        _before.append(0 if dry else process_bytes())
    emptied()
    there = 0 if dry else torch.cuda.memory_reserved()
    device = torch.device("cpu" if dry else "cuda")
    setup = setup_of(case, None if dry else torch.cuda.get_device_capability())
    config = config_of(case, dry)
    dtype = getattr(torch, loading(setup.method, setup.precision, device.type)["dtype"])
    # (GPT-2's layers are none of torch.nn.Linear: the method itself stores them in four bits.)
    make = four_bit_model if case["method"] == "qlora" and config.model_type != "gpt2" else random_model
    ledger = memory_support.measured(config, setup, device, steps=2, model=make(config, dtype, device))
    found = {
        "ledger": ledger.to_dict(), "reserved": ledger.reserved_bytes - there, "process": process_bytes() - _before[0],
    }  # fmt: skip
    found[SPOILT] = spoilt() or "paged" in case.get("optimizer", "")
    return found


def key_of(case: dict[str, Any]) -> str:
    """Of a case among predictions."""
    return json.dumps({name: value for name, value in case.items() if name not in ("dry", "capability")})


def wanted(dry: bool, capability: tuple[int, int] | None, given: list[dict[str, Any]] | None = None) -> list[Any]:
    """What is to be predicted, for `Ahead`."""
    return [
        (key_of(case), "tests.gpu_memory:predicted", {**case, "dry": dry, "capability": capability})
        for case in (cases(dry) if given is None else given) if not missing(case)
    ]  # fmt: skip


def rows(
    dry: bool, processes: Processes, ahead: Ahead, left: Callable[[], float], free_bytes: int = 0,
    given: list[dict[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of all cases, one by one, each beside its prediction.

    Args:
        left: seconds that there are still. free_bytes: on the card. given: these cases only.
    """
    most = CASE_SECONDS * (PATIENCE if dry else 1)
    for case in cases(dry) if given is None else given:
        why = why_left_out(missing(case), left)
        if why:
            yield {**case, "left_out": why}
            continue
        told = ahead.get(key_of(case), min(most, left()))
        if "failed" in told:
            yield {**case, **({"left_out": NO_TIME} if left() < 5 else {"failed": f"Predicting: {told['failed']}"})}
            continue
        row: dict[str, Any] = {**case, "predicted": told}
        if not dry and told["process"][1] > SHARE * free_bytes:
            yield {**row, "left_out": "It is predicted to take more than nine tenths of the card's free memory."}
            continue
        measured = processes.ask_within("tests.gpu_memory:one", {**case, "dry": dry}, most, left, case["model"])
        given_up = "failed" in measured or "left_out" in measured
        yield {**row, **measured} if given_up else compared({**row, "measured": measured})


def compared(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the errors of what was predicted, as shares of what was measured."""
    told, measured = row["predicted"], row["measured"]
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


def record_of(about: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The record. about: device, versions and date."""
    return {"what": "predicted and measured memory of real steps", **about, "rows": rows}


def main(given: list[str] | None = None) -> int:
    """Measure every case, write the record, print the residuals."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_memory", description=main.__doc__)
    parser.add_argument("--dry-run", action="store_true", help="rehearse on a CPU with small models; writes nothing")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="cases that begin later are left out")
    asked = parser.parse_args(given)
    from core.memory.setup import Device

    dry = asked.dry_run
    began = time.monotonic()
    about = attached(120)
    capability = None if dry else Device.of(about.get("capability")).capability
    if "failed" in about or (not dry and capability is None):
        print("There is no CUDA device; --dry-run rehearses on the CPU. Nothing was measured.", file=sys.stderr)
        return 2
    free_bytes = about.pop("free_bytes")
    found = []
    asks = wanted(dry, capability)
    with (
        Processes("tests.gpu_memory") as processes,
        Ahead(asks, "tests.gpu_memory", seconds=600.0 if dry else 60.0) as ahead,
    ):
        for row in rows(dry, processes, ahead, lambda: asked.seconds - (time.monotonic() - began), free_bytes):
            found.append(row)
            print(line(row), flush=True)
    broken = [r for r in found if "failed" in r]
    if dry:
        print(f"Rehearsed {len(found)} cases on the CPU, {len(broken)} failed; nothing was written.")
        return 1 if broken else 0
    from core.train import versions

    about |= {"command": "python -m tests.gpu_memory", "versions": {**versions(), **about["versions"]}}
    file = f"gpu_memory_{slug(about['device'])}.json"
    (ROOT / "tests" / "records" / file).write_text(
        json.dumps(record_of(about, found), indent=1) + "\n", encoding="utf-8"
    )
    print(f"written to tests/records/{file}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
