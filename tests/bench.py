"""Step speed and peak memory of the engine against the stock stack, `transformers.Trainer` with PEFT, on this machine.

    make bench                                  # all of it; writes tests/records/bench_cpu.json
    .venv/bin/python -m tests.bench --add --method lora --kind identical   # one comparison, into that record
    .venv/bin/python -m tests.bench --rounds 2  # quicker

Two comparisons on the embedded base and one on a larger model, all on the json task:
- *defaults*: each as it comes. Trainer: batches of 8, padded to the longest, float32, logits everywhere. The engine:
  its own default batch size, length buckets, precision and threads. Figure: training examples per second.
- *identical*: the same ready-made batches, the same precision (float32) and threads for both.
- *135M*: the same, on a model of SmolLM2-135M's shape with random weights (and biases, so that BitFit has something to
  train), batches of 4.

The two train in turn, one step of the engine between every step (or few) of Trainer's, so a machine whose speed drifts
slows both alike; a round's ratio is that of the examples per second over all its steps, and the median of the rounds is
quoted with their range. Set-up, saving and scoring are not timed, and the first steps of each round are left out. No
absolute time is recorded: it would hold on this machine only.

Peak memory is that of a process of its own for each side, which does nothing but load the base, set the method up and
train as many steps: everything that it holds at its highest, libraries included (on a GPU: what torch holds there). As
each comes by default, the engine's batches are the larger ones; on identical batches the two can be compared.

Rows can be measured on different days (`--add`): each keeps its own date, versions, device and threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from core.batches import IGNORED, Batch, collate
from core.config import EMBEDDED, RunConfig, TrainConfig, resolved
from core.methods import METHODS
from core.sweep import base_hash
from core.template import dialogue, encode_all, pad_id
from core.train import _Run, pick_device, versions
from core.units import bytes_text
from core.world import examples
from tests.stock import peft_config

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "records" / "bench_cpu.json"
SKIPPED = 3  # first steps of every run: buffers are allocated, caches filled
ROUNDS, STEPS = 3, 12  # the whole table in about half an hour on two cores
# PEFT has no bottleneck adapters, and LoRA-FA only as an optimizer of its own.
BENCHED = tuple(m for m in METHODS if m not in ("adapters", "lora_fa"))
KINDS = ("defaults", "identical")
LARGER = "135M"
LARGER_METHODS = ("full", "lora", "qlora", "bitfit")
LARGER_STEPS, LARGER_BATCH = 4, 4
SIDES = ("engine", "stock")
STOCK_BATCH = 8  # Trainer's default


class Engine:
    """The engine's own run, stepped by hand: what `core.train.train` does between two scores."""

    def __init__(self, method: str, batch_size: int | None, precision: str, base: str, fast: bool = True) -> None:
        loop: dict[str, Any] = {
            "fast_step": fast, "eval_items": 4, "skill_items": 0, "steps": 10_000, "learning_rate": 1e-3,
            "precision": precision,
        }  # fmt: skip
        if batch_size is not None:
            loop["batch_size"] = batch_size
        config = resolved(RunConfig(base=base, method=method, train=TrainConfig(**loop)))
        self.folder = tempfile.TemporaryDirectory()
        self.run = _Run(config, Path(self.folder.name), lambda: False)
        self.run._prepare()
        self.run.measured_step = 0  # the profiler of the measured step would be timed too

    def batches(self, count: int) -> list[Batch]:
        """The first `count` batches that the engine will train on."""
        material = self.run.objective.train
        return [collate([material[i] for i in self.run.plan.rows(n)], pad_id(self.run.tokenizer)) for n in range(count)]

    def step(self) -> tuple[int, float]:
        """Train one step; returns its examples and seconds."""
        start = time.perf_counter()
        self.run._train_step()
        seconds = time.perf_counter() - start
        return len(self.run.plan.rows(self.run.step - 1)), seconds


class Stock:
    """`transformers.Trainer` on a PEFT model (or the plain model with some parameters frozen)."""

    def __init__(self, method: str, source: str) -> None:
        from core.base import load_base

        base = load_base(source, dtype="float32", device=str(pick_device()))
        self.tokenizer, self.model = base.tokenizer, peft_model(base.model, method)

    @classmethod
    def of(cls, model: Any) -> Stock:
        """Around a model that is set up already; it can be trained on ready-made batches."""
        made = cls.__new__(cls)
        made.tokenizer, made.model = None, model
        return made

    def steps(
        self,
        steps: int,
        batches: list[Batch] | None,
        between: Callable[[], None] = lambda: None,
        *,
        bf16: bool = False,
    ) -> list[tuple[int, float]]:
        """Train `steps` steps, on the given batches or on Trainer's own default ones; returns each one's examples and
        seconds. A step is what Trainer does from one to the next, its data loading included.

        Args:
            between: called after every step; the time it takes is not Trainer's.
            bf16: compute in bfloat16.
        """
        from transformers import (
            DataCollatorForSeq2Seq,
            PrinterCallback,
            Trainer,
            TrainerCallback,
            TrainingArguments,
        )

        seconds: list[float] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.resumed = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                seconds.append(time.perf_counter() - self.resumed)
                between()
                self.resumed = time.perf_counter()

        with tempfile.TemporaryDirectory() as folder:
            own: dict[str, Any] = {}
            data: list[Any]
            collator: Callable[[list[Any]], Any]
            if batches is None:
                encoded = encode_all(self.tokenizer, [dialogue(e.prompt, e.completion) for e in train_examples()])
                data = [{"input_ids": e.ids, "labels": e.labels} for e in encoded]
                collator = DataCollatorForSeq2Seq(self.tokenizer, label_pad_token_id=IGNORED)
            else:
                data = [{"input_ids": b.ids, "labels": b.labels} for b in batches]
                collator = lambda rows: rows[0]  # noqa: E731
                own = {"per_device_train_batch_size": 1}
            arguments = TrainingArguments(
                folder, max_steps=steps, report_to=[], save_strategy="no", logging_strategy="no",
                disable_tqdm=True, use_cpu=pick_device().type == "cpu", learning_rate=1e-3,
                remove_unused_columns=False, bf16=bf16, **own,
            )  # fmt: skip
            trainer = Trainer(
                model=self.model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[Clock()]
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        sizes = [len(b.ids) for b in batches] if batches is not None else [STOCK_BATCH] * steps
        return list(zip(sizes, seconds, strict=True))


def train_examples() -> list[Any]:
    """The examples that a default run trains on."""
    return examples("json", "train", TrainConfig().train_examples, 0)


def peft_model(model: Any, method: str) -> Any:
    """The stock way to set up each method, with the engine's own default settings."""
    from peft import get_peft_model

    if method == "full":
        return model
    if method == "bitfit":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.endswith("bias")
        return model
    if method == "last_k":
        trained = tuple(f"model.layers.{i}." for i in range(model.config.num_hidden_layers)[-2:])
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith((*trained, "model.norm."))
        return model
    if method == "qlora":
        model = quantized(model)
    return get_peft_model(model, peft_config(method, model.config.model_type))


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


def engine_of(method: str, kind: str, base: str) -> Engine:
    """The engine's side of a comparison."""
    return Engine(method, LARGER_BATCH if kind == LARGER else None, "auto" if kind == "defaults" else "float32", base)


def stock_steps_of(kind: str) -> int:
    """Trainer's steps to one of the engine's: its default batch is smaller, and both shall see as many examples."""
    return TrainConfig().batch_size // STOCK_BATCH if kind == "defaults" else 1


@contextmanager
def base_of(kind: str) -> Iterator[str]:
    """The base of a comparison: the embedded one, or a folder with a model of SmolLM2-135M's shape."""
    if kind != LARGER:
        yield EMBEDDED
        return
    from transformers import AutoModelForCausalLM

    from core.base import EMBEDDED_FOLDER
    from core.catalog import config_of, model

    config = config_of(model("SmolLM2-135M"))
    config.attention_bias = config.mlp_bias = True
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (EMBEDDED_FOLDER / name).exists():
                shutil.copy(EMBEDDED_FOLDER / name, folder)
        own = json.loads((EMBEDDED_FOLDER / "config.json").read_text(encoding="utf-8"))
        config.pad_token_id, config.eos_token_id, config.bos_token_id = own["pad_token_id"], own["eos_token_id"], None
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        yield folder


def examples_per_second(timed: list[tuple[int, float]]) -> float:
    """Of steps given as (examples, seconds)."""
    return sum(examples for examples, _ in timed) / sum(seconds for _, seconds in timed)


def ratio(method: str, kind: str, steps: int, base: str) -> float:
    """Examples per second of the engine over Trainer's, both training `steps` steps (of the engine's) in turn."""
    engine, stock = engine_of(method, kind, base), Stock(method, base)
    total = steps + SKIPPED
    each = stock_steps_of(kind)
    mine: list[tuple[int, float]] = []
    calls = itertools.count(1)

    def between() -> None:
        if next(calls) % each == 0:
            mine.append(engine.step())

    theirs = stock.steps(total * each, None if kind == "defaults" else engine.batches(total), between)
    return examples_per_second(mine[SKIPPED:]) / examples_per_second(theirs[SKIPPED * each :])


def own_peak_bytes() -> int:
    """The most memory that this process has held: what is resident in RAM, or on a GPU what torch's tensors take.

    Not getrusage's ru_maxrss where there is a better one: on Linux a process inherits that from the one that started
    it, so a small process started by a large one would seem large.
    """
    if pick_device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def train_one_side(side: str, method: str, kind: str, steps: int, batches: Path | None, base: str) -> int:
    """Train in this process, with nothing else in it, and return its peak memory in bytes.

    Args:
        batches: file with the ready-made batches, for the stock side of the identical comparison.
    """
    if side == "engine":
        engine = engine_of(method, kind, base)
        for _ in range(steps + SKIPPED):
            engine.step()
    else:
        rows = [Batch(*row) for row in torch.load(batches, weights_only=True)] if batches is not None else None
        Stock(method, base).steps((steps + SKIPPED) * stock_steps_of(kind), rows)
    return own_peak_bytes()


def peak_bytes(side: str, method: str, kind: str, steps: int, base: str) -> int:
    """`train_one_side` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench", "--side", side, "--method", method, "--kind", kind,
                   "--steps", str(steps), "--base", base]  # fmt: skip
        if side == "stock" and kind != "defaults":
            made = engine_of(method, kind, base).batches(steps + SKIPPED)
            torch.save([dataclasses.astuple(b) for b in made], Path(folder) / "batches.pt")
            command += ["--batches", str(Path(folder) / "batches.pt")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def compare(method: str, kind: str, rounds: int, steps: int) -> dict[str, Any]:
    """Engine against Trainer: median and range of the ratio of examples per second over `rounds`, and the peak memory
    of each in bytes."""
    with base_of(kind) as base:
        ratios = [ratio(method, kind, steps, base) for _ in range(rounds)]
        most = {side: peak_bytes(side, method, kind, steps, base) for side in SIDES}
    row = {
        "method": method, "comparison": kind, "rounds": rounds, "engine_steps": steps,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3),
        "engine_peak_bytes": most["engine"], "stock_peak_bytes": most["stock"],
    }  # fmt: skip
    print(
        f"{method:8} {kind:10} {row['ratio_median']:.2f}× ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})   "
        f"{bytes_text(most['engine'])} / {bytes_text(most['stock'])}",
        flush=True,
    )
    return row


def comparisons(methods: list[str]) -> list[tuple[str, str]]:
    """(method, kind) of every comparison, in the record's order."""
    larger = [(m, LARGER) for m in methods if m in LARGER_METHODS]
    return [(m, k) for m in methods for k in KINDS] + larger


WHERE = ("date", "device", "threads", "versions")
"""What a row says of its measurement. (In records from before rows said so, it stands beside the rows, of all.)"""


def provenance() -> dict[str, Any]:
    """What WHERE names, of something just measured in this process."""
    from core.hardware import attached_light

    return {
        "date": time.strftime("%Y-%m-%d"), "device": attached_light().name, "threads": torch.get_num_threads(),
        "versions": versions(),
    }  # fmt: skip


def here() -> dict[str, Any]:
    """The same of a row, beside the stock stack and its versions."""
    import accelerate
    import peft

    found = provenance()
    return {**found, "versions": {**found["versions"], "peft": peft.__version__, "accelerate": accelerate.__version__}}


def write_record(path: Path, what: str, command: str, **content: Any) -> None:
    """A record as one object that says what was measured, by which command, and what WHERE names; and say where it
    lies."""
    record = {"what": what, "command": command, **provenance(), **content}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


def rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a record, each with what WHERE names."""
    return [{**{name: record[name] for name in WHERE if name in record}, **row} for row in record["rows"]]


def command_of(arguments: list[str]) -> str:
    """What to type to get the same record again: `make bench` only if it was all of it."""
    return shlex.join(["python", "-m", "tests.bench", *arguments]) if arguments else "make bench"


def main(arguments: list[str] | None = None) -> int:
    """Run the comparisons, print a table and write the record."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--method", choices=list(METHODS), action="append")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--add", action="store_true", help="put the rows into the record that is there")
    # How this program starts itself: one side alone, whose peak memory it prints.
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--base", default=EMBEDDED, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=(*KINDS, LARGER), action="append", help="one comparison only")
    parser.add_argument("--batches", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if args.side is not None:
        print(train_one_side(args.side, args.method[0], args.kind[0], args.steps, args.batches, args.base))
        return 0
    print("engine ÷ (Trainer + PEFT), examples per second: median (range) over rounds; peak memory: engine / the other")
    methods = args.method or list(BENCHED)
    wanted = [pair for pair in comparisons(methods) if args.kind is None or pair[1] in args.kind]
    rows = []
    for method, kind in wanted:
        steps = min(args.steps, LARGER_STEPS) if kind == LARGER else args.steps
        rows.append({**compare(method, kind, args.rounds, steps), **here()})
    if args.add and args.out.exists():
        older = rows_of(json.loads(args.out.read_text(encoding="utf-8")))
        kept = {(r["method"], r["comparison"]): r for r in [*older, *rows]}
        rows = [kept[pair] for pair in comparisons(list(BENCHED)) if pair in kept]
    record = {
        "what": "engine / (transformers.Trainer + PEFT), training examples per second, json task, embedded base and "
        "(135M) SmolLM2-135M's shape with random weights; peak resident memory of a process that does nothing else, "
        "libraries included",
        "base": base_hash(),
        "command": command_of([] if args.add and len(rows) == len(comparisons(list(BENCHED))) else given),
        "arguments": {"rounds": args.rounds, "steps": args.steps, "methods": list(BENCHED) if args.add else methods},
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
