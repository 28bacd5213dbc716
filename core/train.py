"""The one training loop, for every method: a generator of events.

`train(config, folder)` loads the base, attaches the method, and yields `core.events` as it goes: started, the first
loss (at once: the base is scored between that step's gradient and its update), a step at a time, scores, samples, what
was saved, and how it ended. It prints nothing and knows nobody; the terminal, the worker and the tests consume the same
stream.

How a step works: the run's objective (core/objective.py) makes the batches and sums the loss over what counts, the
answers' tokens or the labels; gradients of all accumulated passes are divided by their number in the whole step,
clipped, and handed to the optimizer.

In several processes (`core.distributed`) every one walks through this loop in step with the others, each with its rows
of every batch; what rank 0 yields is the run.

What it promises: the same config and seed on the same machine give the same losses, bit for bit; a run that was stopped
or killed and resumed from its checkpoint continues as if nothing had happened; files appear whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from core.architecture import elements
from core.base import load_base
from core.batches import Batch, Plan
from core.before import key_of, scored_before
from core.config import RunConfig, resolved
from core.distributed import ALONE, World, joined, part_like, whole_tensor
from core.errors import BadInput, DeltalabError, Diverged, OutOfMemory
from core.events import Evaluated, Event, Failed, Finished, Preparing, Sampled, Saved, Started, Step, Stopped
from core.fast import compiled
from core.fast.fused import WithKernels, with_kernels
from core.fast.graphed import GraphedStep, make_capturable, set_rate
from core.fast.graphed import why_not as why_not_captured
from core.fast.llama import written_out
from core.fetch import fetching
from core.memory.measure import Mark, measure_step
from core.memory.own import process_bytes
from core.memory.predicted import Measured, predicted
from core.memory.setup import Device, Pass
from core.methods import METHODS, attach, loading
from core.objective import CausalLM, objective_for
from core.optimizers import load_optimizer_state, make_optimizer, optimizer_state
from core.template import pad_id
from kernels.base import switched_off

CHECKPOINT = "checkpoint.safetensors"
ADAPTER = "adapter"
CHECKPOINT_SECONDS = 10.0
# On a CPU, on rows this short, plain attention is a good fifth faster than the fused kernel's backward pass (`make
# bench`); on longer ones its square of probabilities takes the memory that the fused kernel spares.
EAGER_TOKENS = 256
logger = logging.getLogger("deltalab.train")
FORMAT = 2  # of the checkpoint file; raised when its content changes meaning


def learning_rate_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Share of the peak learning rate in step `step` (from 1): a linear rise over warmup·steps, then the schedule."""
    rise = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step <= rise:
        return step / rise
    done = (step - rise - 1) / max(1, steps - rise)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def pick_device(number: int = 0) -> torch.device:
    """The first CUDA device, or the one of that number, else the CPU."""
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")


def train(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Run `config`, writing into `folder`, and yield what happens.

    The last event is Finished, Stopped or Failed. Mistakes of the user, lack of memory and a diverging loss are
    reported as Failed with a sentence and advice; only defects of this program raise.

    In several processes rank 0's arguments hold for all; the events of the others are of no interest.

    Args:
        folder: receives `adapter/` (the method's own saved form) and `checkpoint.safetensors`.
        resume: go on from the checkpoint in `folder`, if there is one.
        should_stop: asked before every step; True ends the run after a checkpoint.
    """
    with joined() as world:
        asked, place, resume = world.told([config.to_dict(), str(Path(folder).absolute()), resume])
        run = _Run(RunConfig.from_dict(asked) if world.size > 1 else config, Path(place), should_stop, world)
        yield from world.relay(_told(run, resume))


def _told(run: _Run, resume: bool) -> Iterator[Event]:
    """A run's events; what goes wrong is the last of them."""
    try:
        yield from run.events(resume)
    except DeltalabError as error:
        yield Failed(run.step, error.kind, error.sentence, error.advice)
    except (torch.OutOfMemoryError, MemoryError) as error:
        yield _out_of_memory(run.step, run.asked, error)
    except (OSError, SafetensorError) as error:
        if "No space left" not in str(error) and "Disk quota" not in str(error):
            raise
        yield Failed(
            run.step,
            "disk_full",
            f"The disk is full: what step {run.step} was to leave behind could not be written.",
            "Free some space and resume the run, which goes on from its last checkpoint.",
        )
    except RuntimeError as error:
        # The CPU allocator has no exception class of its own.
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        yield _out_of_memory(run.step, run.asked, error)


def _out_of_memory(step: int, config: RunConfig, error: BaseException) -> Failed:
    loop = config.train
    ways = [f"batch_size {max(1, loop.batch_size // 2)} with accumulation {loop.accumulation * 2}"]
    if not loop.gradient_checkpointing:
        ways.append("gradient_checkpointing")
    ways.append("the method qlora" if config.method != "qlora" else f"max_length {max(8, loop.max_length // 2)}")
    text = str(error).strip().splitlines()
    asked = f" ({text[0][:160].replace('. ', '; ')})" if text else ""  # (its sentences stand within one of ours)
    return Failed(
        step, OutOfMemory.kind, f"The device ran out of memory in step {step + 1}{asked}.", f"Try {', or '.join(ways)}."
    )


class _Run:
    """The state of one run; `events` walks through it."""

    def __init__(self, config: RunConfig, folder: Path, should_stop: Callable[[], bool], world: World = ALONE) -> None:
        self.asked = config
        self.world = world
        self.folder = folder
        self.should_stop = should_stop
        self.step = 0
        self.seconds = 0.0
        self.tokens = 0
        self.peak_bytes = 0
        self.first_loss_seconds = 0.0
        self.ledger: dict[str, Any] = {}
        self.measured: dict[str, Any] = {}
        self.graphs_then = 0

    # --- set-up -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> Started:
        from core.hardware import best_threads, pick_precision, rule_threads

        self.config = resolved(self.asked)
        loop = self.loop = self.config.train
        assert loop.steps is not None
        assert loop.learning_rate is not None
        self.steps, self.peak_rate = loop.steps, loop.learning_rate
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = pick_device(self.world.local_rank)
        if self.device.type == "cpu":
            # (Several processes that time their threads at once would time each other.)
            threads = best_threads() if self.world.size == 1 else rule_threads()
            torch.set_num_threads(max(1, threads // self.world.local_size))
        self.objective = objective_for(self.config)
        torch.manual_seed(self.config.seed)
        self.precision = self.world.told(pick_precision(self.device) if loop.precision == "auto" else loop.precision)
        how = loading(self.config.method, self.precision, str(self.device))
        # What will be cut into parts is whole in the CPU's memory first; the parts go to the device.
        start = torch.device("cpu") if self.world.size > 1 and loop.parallel == "fsdp" else self.device
        how["device"] = "cpu" if start.type == "cpu" else how["device"]
        self.base = load_base(self.config.base, revision=self.config.revision, **how, **self.objective.loading)
        self.model: Any = self.base.model
        self.tokenizer = self.base.tokenizer
        self.total = sum(elements(p) for p in self.model.parameters())
        self.attached = attach(self.model, self.config.method, self.config.settings, keep_base=False, device=start)
        self.model = self.attached.model
        self.objective.prepare(self.base)  # (a trained prompt leaves less room for the examples)
        fused = self.model.config._attn_implementation != "eager"  # (some families have no other, and say so loudly)
        short = self.device.type == "cpu" and max(self.objective.lengths) <= EAGER_TOKENS
        if fused and short and loop.fast_step:
            self.model.set_attn_implementation("eager")
        if loop.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        lengths = self.objective.lengths
        self.world.check_same(
            [self.base.facts["fingerprint"], zlib.crc32(str(lengths).encode())],
            "The processes do not have the same base or the same data.",
            "Put the same files under the same paths on every machine.",
        )
        self.world.seed(self.config.seed)
        self._compile()
        self.model.train()
        self.loss_sum = self.world.wrap(self.model, self.objective.loss_sum, loop.parallel)
        self._write_out()
        self.named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.trainable = sum(p.numel() for p in self.parameters)
        factors = self.attached.rate_factors()
        self.optimizer, optimizer_notes = make_optimizer(
            loop.optimizer,
            self.parameters,
            self.peak_rate,
            loop.weight_decay,
            [factors.get(name, 1.0) for name in self.named],
            fused=loop.fast_step,
        )
        self._prepare_graphs()
        self.plan = Plan(lengths, loop.batch_size, self.config.seed, buckets=loop.length_buckets)
        # Memory is measured in the step that computes on most tokens, once the optimizer's state exists: of the first
        # epoch, or the first possible step where an epoch is shorter than that. (In several processes the second step
        # arranges their buckets anew.)
        first = 2 if self.world.size == 1 else 3
        later = range(first, min(self.steps, max(first, self.plan.per_epoch // loop.accumulation)) + 1)
        self.measured_step = max(later, key=self._padded_tokens, default=0)
        return Started(
            config=self.config.to_dict(),
            base=self.base.facts,
            device=_device_name(self.device),
            dtype=self.precision,
            trainable=self.trainable,
            total=self.total,
            examples=len(lengths),
            held_out=self.objective.held_out,
            steps=self.steps,
            versions=versions(),
            notes=(*self.objective.notes, *optimizer_notes, *self.world.notes(loop.parallel, self.plan.size)),
            time=time.time(),
        )

    def _compile(self) -> None:
        """Where that is asked for: the layers by PyTorch's compiler.

        Raises:
            BadInput: they cannot be compiled here, and why.
        """
        if not self.loop.compile:
            return
        reason = compiled.why_not(
            self.model, device=self.device, processes=self.world.size, recomputing=self.loop.gradient_checkpointing,
            in_few_bits=METHODS[self.config.method].BASE == "quantized" or self.base.facts["few_bits"] is not None,
        )  # fmt: skip
        if reason:
            raise BadInput(f"The layers cannot be compiled here: {reason}.", "Set compile to false.")
        compiled.compile_layers(self.model)

    def _write_out(self) -> None:
        """Take the decoder that is written out by hand (on a processor), or the one with our kernels (on a card whose
        record says that they pay), where it fits base, method and precision."""
        self.plain_because = self._slow_because
        self.plain_loss_sum = self.loss_sum
        self.with_kernels: WithKernels | None = None
        if not self.plain_because and self.world.size == 1 and isinstance(self.objective, CausalLM):
            form, self.plain_because = written_out(self.model, self.precision, max(self.objective.lengths))
            if form is None:
                self.with_kernels, because = with_kernels(self.model)
                self.plain_because = f"{self.plain_because}, and {because}" if because else ""
            self.loss_sum = form or self.with_kernels or self.loss_sum

    @property
    def _slow_because(self) -> str:
        """Why no faster form is even looked for, as a phrase; '' if one is."""
        if not self.loop.fast_step:
            return "fast_step is off"
        return "its layers are compiled" if self.loop.compile else ""

    def _prepare_graphs(self) -> None:
        """On a CUDA device: capture whole steps and replay them, where that can be done."""
        self.graphs: GraphedStep | None = None
        self.eager_because = self._slow_because
        if not self.eager_because:
            self.eager_because = why_not_captured(
                self.model, self.optimizer, device=self.device, processes=self.world.size,
                passes=self.loop.accumulation, recomputing=self.loop.gradient_checkpointing,
                causal=isinstance(self.objective, CausalLM),
            )  # fmt: skip
        if not self.eager_because:
            make_capturable(self.optimizer, self.device)
            self.graphs = GraphedStep(
                self.model, self.parameters, self.optimizer, self.loop.clip or math.inf, self._autocast,
                pad_id(self.tokenizer), self.device, form=self.with_kernels,
            )  # fmt: skip

    def _micro(self, step: int) -> range:
        """Numbers of the plan's batches that make up step `step` (from 1)."""
        k = self.loop.accumulation
        return range((step - 1) * k, step * k)

    def _padded_tokens(self, step: int) -> int:
        return max(self.plan.padded_tokens(n) for n in self._micro(step))

    # --- the run ----------------------------------------------------------------------------------------------------

    def events(self, resume: bool) -> Iterator[Event]:
        asked = resolved(self.asked)  # a mistake in the settings is told before gigabytes are fetched
        fetched = False
        for news in fetching(asked.base, asked.revision, self.should_stop):
            fetched = True
            yield Preparing(asked.base, news.done_bytes, news.total_bytes, news.seconds)
        if fetched and self.should_stop():
            yield Stopped(0, 0.0)
            return
        began = time.perf_counter()
        started = self._prepare()
        if resume:
            self._load_checkpoint()
        yield dataclasses.replace(started, resumed_at=self.step)
        if self.step == 0 and not self.world.agreed(self.should_stop()):
            # The first loss is shown at once: it is the base's own, because the update waits until the base is scored.
            first = self._gradient_step()
            self.first_loss_seconds = time.perf_counter() - began
            yield first
            yield from self._evaluate_base()
            self._apply()
        evaluate_every = self.loop.eval_every or max(1, math.ceil(self.steps / 4))
        saved_at = time.perf_counter()
        while self.step < self.steps:
            if self.world.agreed(self.should_stop()):
                yield self._save_checkpoint()
                yield Stopped(self.step, self.seconds)
                return
            yield self._train_step()
            last = self.step == self.steps
            if not last and self.step % evaluate_every == 0:
                yield from self._evaluate()
            every = self.loop.checkpoint_every
            late = time.perf_counter() - saved_at >= CHECKPOINT_SECONDS
            due = self.step % every == 0 if every else self.world.agreed(late)
            if due and not last:
                yield self._save_checkpoint()
                saved_at = time.perf_counter()
        yield from self._evaluate()
        yield from self._finish()

    def _train_step(self) -> Step:
        """One whole step: gradients, then the update."""
        if self.step + 1 == self.measured_step:

            def both(mark: Mark) -> Step:
                event = self._gradient_step(mark)
                self._apply(mark)
                return event

            buffers = self.world.buffer_bytes()
            # This one step goes the plain way: it is what the calculators predict, and it takes more than the fast one.
            quick, self.loss_sum = self.loss_sum, self.plain_loss_sum
            with self._uncompiled():
                event, ledger = measure_step(both, self.model, self.optimizer, self.device, buffers)
            self.loss_sum = quick
            self.ledger, self.measured = ledger.to_dict(), self._measured().to_dict()
            self.graphs_then = self.graphs.bytes if self.graphs is not None else 0  # they lie in its reserve already
            self.peak_bytes = max(self.peak_bytes, ledger.allocated_bytes)
            return event
        if self.graphs is not None:
            event = self._graphed_step(self.graphs)
            if event is not None:
                return event
        event = self._gradient_step()
        self._apply()
        return event

    def _graphed_step(self, graphs: GraphedStep) -> Step | None:
        """A whole step in one launch; None: this one has to be carried out as it comes.

        Raises:
            Diverged: as `_gradient_step`; the weights have moved by then, and nothing of them is saved.
        """
        batch = self.objective.batch(self.plan.rows(self.step))
        if not isinstance(batch, Batch) or not graphs.takes(batch):
            return None
        rate = self._next_step()
        start = time.perf_counter()
        loss, norm = graphs.step(batch)
        if graphs.reason and not self.eager_because:
            self.eager_because = graphs.reason
            logger.warning("steps are not captured: %s", graphs.reason)
        self.seconds += time.perf_counter() - start
        return self._stepped(loss, norm, batch.count, rate)

    def _next_step(self) -> float:
        """Count a step and set its learning rate, which is returned."""
        self.step += 1
        rate = self.peak_rate * learning_rate_factor(self.step, self.steps, self.loop.warmup, self.loop.schedule)
        for group in self.optimizer.param_groups:
            set_rate(group, rate * group["rate_factor"])
        return rate

    def _stepped(self, loss: float, norm: float, tokens: int, rate: float) -> Step:
        """The event of a step.

        Raises:
            Diverged: the loss or the gradient is not a finite number.
        """
        self.tokens += tokens
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise Diverged(
                f"The loss was {loss:g} and the gradient norm {norm:g} in step {self.step}: the run has diverged.",
                f"Lower the learning rate (it is {self.peak_rate:g}) or lengthen the warm-up.",
            )
        return Step(self.step, loss, rate, norm, tokens, self.seconds, self._memory())

    def _measured(self) -> Measured:
        """How this step is carried out: what a prediction of its memory has to know."""
        batches = [self.objective.batch(self.plan.rows(n)) for n in self._micro(self.step)]
        on_cuda = self.device.type == "cuda"
        return Measured(
            passes=tuple(Pass(len(b.ids), b.ids.shape[1], b.count) for b in batches if isinstance(b, Batch)),
            precision=self.precision,
            attention=self.model.config._attn_implementation,
            device=str(Device(torch.cuda.get_device_capability(self.device) if on_cuda else None)),
            processes=self.world.size,
        )

    def _gradient_step(self, mark: Mark = lambda part: None) -> Step:
        """The first half of a step: loss and clipped gradients; the weights are not touched yet.

        Raises:
            Diverged: the loss or the gradient is not a finite number.
        """
        rate = self._next_step()
        start = time.perf_counter()
        loss, norm, tokens = self._gradients(mark)
        self.seconds += time.perf_counter() - start
        return self._stepped(loss, norm, tokens, rate)

    def _gradients(self, mark: Mark) -> tuple[float, float, int]:
        """Gradients of one step, clipped; returns mean loss, gradient norm before clipping, and what was counted."""
        batches = [self.objective.batch(self.plan.rows(n)) for n in self._micro(self.step)]
        tokens = sum(b.count for b in batches)
        loss = 0.0
        for batch in batches:
            mark("forward")
            mine = self.world.share(batch).to(self.device)
            with self.world.passing(last=batch is batches[-1]), self._switched():
                with self._autocast():
                    part = self.loss_sum(mine) / max(tokens, 1)
                mark("backward")
                part.backward()
            loss += part.detach().item()
        limit = self.loop.clip or math.inf
        norm = whole_tensor(torch.nn.utils.clip_grad_norm_(self.parameters, limit)).item()
        return self.world.sum(loss), norm, tokens

    def _apply(self, mark: Mark = lambda part: None) -> None:
        """The second half of a step: the optimizer moves the weights, and the gradients are freed."""
        start = time.perf_counter()
        mark("optimizer")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds += time.perf_counter() - start

    def _switched(self) -> Any:
        """Without `fast_step` our kernels are off too, and what is written by hand in the methods' layers."""
        return nullcontext() if self.loop.fast_step else switched_off()

    def _uncompiled(self) -> Any:
        return compiled.plainly() if self.loop.compile else nullcontext()

    def _autocast(self) -> Any:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return process_bytes()

    # --- scores -----------------------------------------------------------------------------------------------------

    def _evaluate_base(self) -> Iterator[Event]:
        """Score what there was before the run. Most methods start as the base; a prompt that nobody has trained yet
        disturbs it, so that is left out."""
        disturbed = METHODS[self.config.method].START == "other"
        if disturbed:
            self.attached.disable()
        yield from self._evaluate(at=0, base=True)
        if disturbed:
            self.attached.enable()

    def _evaluate(self, at: int | None = None, *, base: bool = False) -> Iterator[Event]:
        """Score the model as it is; `at` is the number of updates behind it (default: the current step). `base`: it
        computes what the base does, which a run before this one may have scored already (core/before.py)."""
        step = self.step if at is None else at
        start = time.perf_counter()
        rows = min(32, self.loop.batch_size)  # a batch that fits the step fits here too
        key = None
        if base and self.world.size == 1:
            key = key_of(self.config, self.base, self.model, self.objective, self.precision, rows)
        with self._autocast(), self._switched(), self._uncompiled():
            scores = scored_before(key, lambda: self.objective.score(self.model, rows, self.world))
        yield Evaluated(
            step=step,
            task=self.config.task or "your data",
            exact_match=scores.share,
            loss=scores.loss,
            items=scores.items,
            skills=scores.skills,
            seconds=time.perf_counter() - start,
            macro_f1=scores.macro_f1,
        )
        yield Sampled(step, scores.samples)

    # --- files ------------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> Saved:
        """One safetensors file with the trained weights, the optimizer's state and the random state, put in place
        by one rename: a kill leaves either the old checkpoint or the new one."""
        from safetensors.torch import save_file

        tensors, described = optimizer_state(self.optimizer)
        content = {f"parameter.{n}": p.detach() for n, p in self.named.items()}
        content |= {f"optimizer.{n}": t for n, t in tensors.items()}
        content |= self.world.random_states(self.device)
        here = self.world.collected(content)
        if not self.world.is_main:
            return Saved(self.step, "checkpoint", CHECKPOINT, 0)
        state = {
            "format": FORMAT, "step": self.step, "seconds": self.seconds, "tokens": self.tokens,
            "peak_bytes": self.peak_bytes, "ledger": self.ledger, "measured": self.measured,
            "first_loss_seconds": self.first_loss_seconds,
            "optimizer": described, "config": self.config.to_dict(), "base": self.base.facts["fingerprint"],
        }  # fmt: skip
        path = self.folder / CHECKPOINT
        temporary = path.with_suffix(".partial")
        save_file(here, temporary, metadata={"state": json.dumps(state)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        return Saved(self.step, "checkpoint", CHECKPOINT, path.stat().st_size)

    def _load_checkpoint(self) -> None:
        """Restore the checkpoint, if there is one.

        Raises:
            BadInput: it belongs to a run with other settings.
        """
        from safetensors import safe_open

        path = self.folder / CHECKPOINT
        found = path.stat().st_size if path.exists() else None
        self.world.check_same(
            found,
            "The processes do not see the same checkpoint.",
            "Put DELTALAB_HOME on a disk that all machines share, under the same path.",
        )
        if found is None:
            return
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            content = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 (a safetensors handle is no mapping)
        mine, theirs = (json.loads(json.dumps(c)) for c in (self.config.to_dict(), _as_today(state["config"])))
        changed = [k for k in mine if mine[k] != theirs.get(k)]
        if state["format"] != FORMAT or changed:
            raise BadInput(
                f"The checkpoint belongs to a run with another {', '.join(changed) or 'file format'}.",
                "Resume with the settings it was started with, or start a new run.",
            )
        if state["base"] != self.base.facts["fingerprint"]:
            raise BadInput(
                f"The weights of {self.base.name} are not those that this run began with.",
                "Start a new run; on other weights its checkpoint means something else.",
            )
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(part_like(content[f"parameter.{name}"], parameter))
        prefix = "optimizer."
        load_optimizer_state(
            self.optimizer,
            {n.removeprefix(prefix): t for n, t in content.items() if n.startswith(prefix)},
            state["optimizer"],
        )
        self.world.restore_random(content, self.device, seed=self.config.seed, step=state["step"])
        self.step, self.seconds, self.tokens = state["step"], state["seconds"], state["tokens"]
        self.peak_bytes, self.ledger = state["peak_bytes"], state["ledger"]
        self.measured = state.get("measured", {})
        self.first_loss_seconds = state["first_loss_seconds"]

    def _finish(self) -> Iterator[Event]:
        target = self.folder / ADAPTER
        with self.world.whole(self.model):
            if self.world.is_main:
                self.attached.save(target)
        self.world.wait()
        size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
        self._account_for_graphs()
        yield Saved(self.step, "adapter", ADAPTER, size)
        # Not before: a trace takes the processor for a moment, and no loss should wait for it.
        told = predicted(self.config, Measured.from_dict(self.measured)) if self.measured else {}
        yield Finished(
            step=self.step,
            seconds=self.seconds,
            first_loss_seconds=self.first_loss_seconds,
            peak_bytes=self.peak_bytes,
            trainable=self.trainable,
            total=self.total,
            adapter=ADAPTER,
            adapter_bytes=size,
            tokens=self.tokens,
            ledger=self.ledger,
            predicted=told,
            others=self._others(),
        )
        # Only when the consumer comes back for more has it made the end safe; until then a kill can go on from here.
        if self.world.is_main:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _others(self) -> str:
        """The form of all steps but the measured one, where it is not the plain one."""
        if self.graphs is not None and self.graphs.bytes:
            return "captured"
        if self.loop.compile:
            return "compiled"
        if self.with_kernels is not None:
            return "with kernels"
        return "written out" if self.loss_sum is not self.plain_loss_sum else ""

    def _account_for_graphs(self) -> None:
        """Captured steps keep their activations' memory between steps: a term beside those of the measured step."""
        if self.graphs is None or not self.graphs.bytes or not self.ledger:
            return
        kept, count = self.graphs.bytes, len(self.graphs.graphs)
        term = {"name": "captured steps", "bytes": kept, "formula": f"memory that {count} captured steps keep",
                "source": "growth of the allocator's reserve while capturing"}  # fmt: skip
        self.ledger = {
            **self.ledger, "terms": [*self.ledger["terms"], term],
            "allocated_bytes": self.ledger["allocated_bytes"] + kept,
            "reserved_bytes": self.ledger["reserved_bytes"] + kept - self.graphs_then,
        }  # fmt: skip


def _as_today(config: dict[str, Any]) -> dict[str, Any]:
    """A config as it was written down, with the knobs that have come since at their defaults."""
    try:
        return RunConfig.from_dict(config).to_dict()
    except BadInput:
        return config


def _device_name(device: torch.device) -> str:
    from core.hardware import attached_light

    return torch.cuda.get_device_name(device) if device.type == "cuda" else attached_light().name


def versions() -> dict[str, str]:
    """Versions of what a result depends on; 'missing' where one is not installed (as in a checkout that is run as it
    stands, or where nothing is ever stored in four bits)."""
    from core import hardware

    found = hardware.versions()
    return {name: found[name] for name in ("python", "deltalab", "torch", "transformers", "bitsandbytes")}


__all__ = ["ADAPTER", "CHECKPOINT", "learning_rate_factor", "pick_device", "train", "versions"]
