"""`make gpu`: the GPU tests, then step speed and memory on the attached GPU, in one command of a few minutes.

Writes `tests/records/gpu_<device>.json` with the device, the versions, the date and every figure, and prints a table;
predicted beside measured memory comes from `tests/gpu_memory.py`, with a record of its own.
Runs unattended and without a network. Without a CUDA device it says so and ends with exit code 2.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from core.config import RunConfig, TrainConfig
from core.events import Evaluated, Failed, Finished
from core.methods import METHODS
from core.train import train, versions
from tests import bench, gpu_memory

ROOT = Path(__file__).parents[1]
COMPARED = ("full", "lora", "qlora", "bitfit")
"""Against Trainer: not every method, so that the whole takes less than ten minutes."""


def run_default(method: str) -> dict[str, Any]:
    """The default json run of a method on this GPU: quality, seconds, measured memory by term."""
    events = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        events = list(train(RunConfig(method=method, train=TrainConfig()), Path(folder)))
        seconds = time.perf_counter() - start
    last = events[-1]
    if isinstance(last, Failed):
        return {"method": method, "failed": last.sentence}
    assert isinstance(last, Finished)
    scores = [e for e in events if isinstance(e, Evaluated)]
    return {
        "method": method,
        "exact_match_before": scores[0].exact_match,
        "exact_match_after": scores[-1].exact_match,
        "seconds": round(seconds, 2),
        "training_seconds": round(last.seconds, 2),
        "ledger": last.ledger,
    }


def main(given: list[str] | None = None) -> int:
    """Test, measure, write the record, print the table. `--dry-run` rehearses the memory part on a CPU."""
    if "--dry-run" in (sys.argv[1:] if given is None else given):
        return gpu_memory.main(["--dry-run"])
    if not torch.cuda.is_available():
        print("make gpu needs a CUDA device, and torch sees none here. Nothing was measured.", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name()
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/core", "tests/oracles"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(tests.stdout[-3000:])
    runs = [run_default(method) for method in METHODS]
    rows = [bench.compare(m, kind, 3, 30) for m in COMPARED for kind in bench.KINDS]
    record = {
        "what": "GPU tests; default json runs on the embedded base; engine / (Trainer + PEFT), examples a second, and "
        "the most GPU memory that each took",
        "command": "make gpu",
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda": torch.version.cuda,
        "versions": versions(),
        "tests": tests.stdout.strip().splitlines()[-1] if tests.stdout.strip() else "no output",
        "runs": runs,
        "speed": rows,
    }
    path = ROOT / "tests" / "records" / f"gpu_{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    memory = gpu_memory.main([])
    for run in runs:
        print({k: v for k, v in run.items() if k != "ledger"})
    print(f"written to {path}")
    return tests.returncode or memory


if __name__ == "__main__":
    sys.exit(main())
