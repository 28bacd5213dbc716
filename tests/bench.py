"""Step speed of the engine against the stock stack, `transformers.Trainer` with PEFT, side by side on this machine.

    make bench                                  # all of it; writes tests/records/bench_cpu.json
    .venv/bin/python -m tests.bench --rounds 2  # quicker

Two comparisons, both on the embedded base and the json task:
- *defaults*: each as it comes. Trainer: batches of 8, padded to the longest, float32, logits everywhere. The engine:
  its own default batch size, length buckets, precision and threads. Figure: training examples per second.
- *identical*: the same ready-made batches, the same precision (float32) and threads for both.

The two run in turn (engine, Trainer, engine, Trainer …) and the ratio is taken within each pair, so a machine whose
speed drifts does not tilt it; the median of the pairs is quoted with their range. Set-up, saving and scoring are not
timed, and the first steps of each run are left out. No absolute time is recorded: it would hold on this machine only.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from core.batches import IGNORED, Batch, collate
from core.config import RunConfig, TrainConfig, resolved
from core.methods import METHODS
from core.template import dialogue, encode_all, pad_id
from core.train import _Run, pick_device, versions
from core.world import examples

RECORD = Path(__file__).parent / "records" / "bench_cpu.json"
SKIPPED = 3  # first steps of every run: buffers are allocated, caches filled


class Engine:
    """The engine's own run, stepped by hand: what `core.train.train` does between two scores."""

    def __init__(self, method: str, batch_size: int | None, precision: str) -> None:
        loop = {"eval_items": 4, "skill_items": 0, "steps": 10_000, "learning_rate": 1e-3, "precision": precision}
        if batch_size is not None:
            loop["batch_size"] = batch_size
        config = resolved(RunConfig(method=method, train=TrainConfig(**loop)))  # type: ignore[arg-type]
        self.folder = tempfile.TemporaryDirectory()
        self.run = _Run(config, Path(self.folder.name), lambda: False)
        self.run._prepare()
        self.run.measured_step = 0  # the profiler of the measured step would be timed too

    def batches(self, count: int) -> list[Batch]:
        """The first `count` batches that the engine will train on."""
        material = self.run.material.train
        return [collate([material[i] for i in self.run.plan.rows(n)], pad_id(self.run.tokenizer)) for n in range(count)]

    def examples_per_second(self, steps: int) -> float:
        """Train `steps` timed steps from the start of the data."""
        self.run.step = 0
        for _ in range(SKIPPED):
            self.run._train_step()
        start, seen = time.perf_counter(), 0
        for _ in range(steps):
            self.run._train_step()
            seen += len(self.run.plan.rows(self.run.step - 1))
        return seen / (time.perf_counter() - start)


class Stock:
    """`transformers.Trainer` on a PEFT model (or the plain model with some parameters frozen)."""

    def __init__(self, method: str) -> None:
        from core.base import load_base

        base = load_base("embedded", dtype="float32", device=str(pick_device()))
        self.tokenizer, self.model = base.tokenizer, peft_model(base.model, method)

    def examples_per_second(self, steps: int, batches: list[Batch] | None) -> float:
        """Train `steps` timed steps: on the given batches, or on Trainer's own default ones."""
        from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

        marks: list[float] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                marks.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            own: dict[str, Any] = {}
            data: list[Any]
            collator: Callable[[list[Any]], Any]
            if batches is None:
                encoded = encode_all(self.tokenizer, [dialogue(e.prompt, e.completion) for e in train_examples()])
                data = [{"input_ids": e.ids, "labels": e.labels} for e in encoded]
                collator = DataCollatorForSeq2Seq(self.tokenizer, label_pad_token_id=IGNORED)
                size = 8
            else:
                data = [{"input_ids": b.ids, "labels": b.labels} for b in batches]
                collator, size = (lambda rows: rows[0]), 1
                own = {"per_device_train_batch_size": 1}
            arguments = TrainingArguments(
                folder, max_steps=steps + SKIPPED, report_to=[], save_strategy="no", logging_strategy="no",
                disable_tqdm=True, use_cpu=pick_device().type == "cpu", learning_rate=1e-3,
                remove_unused_columns=False, **own,
            )  # fmt: skip
            Trainer(
                model=self.model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[Clock()]
            ).train()
        rows = sum(len(b.ids) for b in batches[SKIPPED:]) if batches is not None else size * steps
        return rows / (marks[-1] - marks[SKIPPED - 1])


def train_examples() -> list[Any]:
    """The examples that a default run trains on."""
    return examples("json", "train", TrainConfig().train_examples, 0)


def peft_model(model: Any, method: str) -> Any:
    """The stock way to set up each method, with the engine's own default settings."""
    from peft import LoraConfig, get_peft_model

    if method == "full":
        return model
    if method == "bitfit":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.endswith("bias")
        return model
    settings = METHODS[method].Config()
    if method == "qlora":
        model = quantized(model)
    return get_peft_model(model, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear"))


def quantized(model: Any) -> Any:
    """The base with its linear layers in NF4 by bitsandbytes, as `BitsAndBytesConfig` sets it up."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map={"": str(pick_device())}
        )
    for module in loaded.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # else an eval() forward re-packs the weight and training stops
    return loaded


def compare(method: str, kind: str, rounds: int, steps: int) -> dict[str, Any]:
    """Median and range of engine / Trainer, in examples per second, over `rounds` pairs."""
    identical = kind == "identical"
    ratios = []
    batch = TrainConfig().batch_size
    for number in range(rounds):
        engine, stock = Engine(method, None, "float32" if identical else "auto"), Stock(method)
        batches = engine.batches(steps + SKIPPED) if identical else None
        # Trainer's default batch is smaller: it gets more steps, so that both see about as many examples.
        stock_steps = steps if identical else steps * batch // 8
        first, second = (0, 1) if number % 2 == 0 else (1, 0)  # who begins changes from round to round
        speed = [0.0, 0.0]
        for side in (first, second):
            speed[side] = (
                engine.examples_per_second(steps) if side == 0 else stock.examples_per_second(stock_steps, batches)
            )
        ratios.append(speed[0] / speed[1])
    row = {
        "method": method, "comparison": kind, "rounds": rounds, "engine_steps": steps,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3),
    }  # fmt: skip
    print(
        f"{method:8} {kind:10} {row['ratio_median']:.2f}× ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})", flush=True
    )
    return row


def main(arguments: list[str] | None = None) -> int:
    """Run the comparisons, print a table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--method", choices=list(METHODS), action="append")
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from core.hardware import attached_light

    print("engine ÷ (Trainer + PEFT), examples per second: median (range) over pairs")
    rows = [
        compare(method, kind, args.rounds, args.steps)
        for method in args.method or METHODS
        for kind in ("defaults", "identical")
    ]
    import accelerate
    import peft

    record = {
        "what": "engine / (transformers.Trainer + PEFT), training examples per second, embedded base, json task",
        "command": "make bench",
        "date": time.strftime("%Y-%m-%d"),
        "device": attached_light().name,
        "threads": torch.get_num_threads(),
        "versions": {**versions(), "peft": peft.__version__, "accelerate": accelerate.__version__},
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
