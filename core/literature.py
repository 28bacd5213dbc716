"""What others measured: Hugging Face PEFT's comparison of methods on MetaMathQA, one row an experiment.

Caveats that a page must show beside it: one seed, one task and one model (Llama-3.2-3B, tested on GSM8K), and each
method with the settings that its contributor chose, so ranks and target modules differ. Memory is what torch had
reserved at most, less what it held before the model was loaded, evaluation included, on one L40S with batches of 4.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).parent / "catalog" / "method_comparison.csv"
SOURCE = "https://github.com/huggingface/peft/tree/5d602fdb/method_comparison/MetaMathQA"
CAVEATS = (
    "One seed, one task, one model: Llama-3.2-3B, trained on MetaMathQA, tested on GSM8K.",
    "Ranks, target modules and learning rates are each contributor's choice; no sweep stands behind them.",
    "Memory is what torch reserved at most, the model and evaluation included (L40S, batches of 4).",
)
# What the experiments' folders call a method that has another name here; "lora" holds several, told by the experiment.
_OURS = {"full-finetuning": "full", "ia3": "ia3", "ln_tuning": "ln_tuning", "prompt_tuning": "prompt_tuning"}
_LORA = {"dora": "dora", "rslora": "rslora"}


@dataclass(frozen=True)
class Experiment:
    """A published run. method: its folder's name; experiment: the rest of it; ours: the name in METHODS, if it is one
    of ours. test_accuracy: 0..1. memory_gib: see above. source: address of the result file."""

    method: str
    experiment: str
    ours: str | None
    trainable: int
    total: int
    test_accuracy: float
    memory_gib: float
    train_seconds: int
    file_bytes: int
    source: str

    @property
    def label(self) -> str:
        """As the result file is called: method and settings."""
        return f"{self.method} ({self.experiment})"


@lru_cache(maxsize=1)
def method_comparison() -> tuple[Experiment, ...]:
    """Every experiment, in the order of the file."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Experiment(
                method=r["method"], experiment=r["experiment"], ours=_ours(r["method"], r["experiment"]),
                trainable=int(r["trainable"]), total=int(r["total"]), test_accuracy=float(r["test_accuracy"]),
                memory_gib=float(r["memory_gib"]), train_seconds=int(r["train_seconds"]),
                file_bytes=int(r["file_bytes"]), source=r["source"],
            )
            for r in csv.DictReader(file)
        )  # fmt: skip


def _ours(method: str, experiment: str) -> str | None:
    if method != "lora":
        return _OURS.get(method)
    *_, last = experiment.split("-")
    return _LORA.get(last, "lora" if last in ("rank32", "rank64", "mlp") else None)
