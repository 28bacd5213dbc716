"""Fills a real store with runs as a worker would, without training: for tests of pages that only show runs."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from core.config import RunConfig, resolved
from core.events import Evaluated, Event, Failed, Finished, Sampled, Saved, Started, Step, Stopped, to_dict
from core.runs.claims import Claim, Claims, ending
from core.runs.locks import FileLock
from core.runs.store import Run, Store
from core.world import SKILLS, examples

TRAINABLE = {"full": 1_924_096, "lora": 61_440, "qlora": 61_440, "bitfit": 9_984, "prompt_tuning": 3_840}
SECONDS_PER_STEP = 0.18


def events(
    config: RunConfig, *, reach: float = 0.93, until: int | None = None, held_out: bool = True
) -> Iterator[Event]:
    """A stream as `core.train.train` would yield it, up to and with step `until` (to the end when None).

    held_out: False as when nothing is kept back for scoring.
    """
    config = resolved(config)
    steps = config.train.steps or 100
    rng = random.Random(config.seed)
    trainable = TRAINABLE[config.method]
    yield Started(
        config=config.to_dict(), base={"name": "embedded"}, device="cpu", dtype="float32", trainable=trainable,
        total=1_924_096, examples=2000, held_out=100 if held_out else 0, steps=steps, versions={"torch": "2.13.0"},
    )  # fmt: skip
    every = max(1, steps // 4)
    yield from _look(config, 0, steps, reach, held_out)
    for step in range(1, (until or steps) + 1):
        done = step / steps
        loss = 5.2 * math.exp(-7 * done) + 0.06 + 0.12 * rng.random() * (1.1 - done)
        yield Step(
            step=step, loss=loss, learning_rate=3e-3 * (1 - done), grad_norm=1 + rng.random(), tokens=900,
            seconds=step * SECONDS_PER_STEP, memory_bytes=412_000_000,
        )  # fmt: skip
        if step % every == 0:
            yield from _look(config, step, steps, reach, held_out)
    if until is None:
        yield Saved(step=steps, what="adapter", path="adapter", size_bytes=251_000)
        yield Finished(
            step=steps, seconds=steps * SECONDS_PER_STEP, first_loss_seconds=1.3, peak_bytes=448_000_000,
            trainable=trainable, total=1_924_096, adapter="adapter", adapter_bytes=251_000, tokens=900 * steps,
        )  # fmt: skip


def _look(config: RunConfig, step: int, steps: int, reach: float, held_out: bool) -> Iterator[Event]:
    share = step / steps
    got = round(reach * (1 - math.exp(-4 * share)) / (1 - math.exp(-4)), 2)
    start = {"closed_book": 0.99, "passage": 0.95, "sentiment": 1.0, "reversal": 0.98, "addition": 0.86}
    lost = {"closed_book": 0.1, "passage": 0.45, "sentiment": 0.0, "reversal": 0.3, "addition": 0.25}
    skills = {name: round(start.get(name, 0.9) - lost.get(name, 0.1) * share, 3) for name in SKILLS}
    task = config.task or "own data"
    match = got if config.task else None
    if not held_out:
        yield Evaluated(step, task, None, None, 0, skills, 1.2)
        yield Sampled(step, ())
        return
    yield Evaluated(step, task, match, 5.3 * math.exp(-5 * share) + 0.1, 100, skills if config.task else {}, 1.2)
    asked = examples(config.task or "json", "heldout", 4, 0)
    samples = []
    for i, example in enumerate(asked):
        right = share > 0.4 and i != 2
        answer = example.completion if right else (example.completion[: 4 + i] if step else "Lena lives in Oslo.")
        samples.append({"prompt": example.prompt, "reference": example.completion, "output": answer, "right": right})
    yield Sampled(step, tuple(samples))


class Hand:
    """A worker's side of one run: it claims the run and records events until it is told to end or to leave."""

    def __init__(self, store: Store, run: Run) -> None:
        self.claims = Claims(store.url, store.home)
        self.lock = FileLock(run.folder / "lock")
        assert self.lock.acquire()
        claim = self.claims.claim(run.id)
        assert claim is not None
        self.claim: Claim = claim
        self.seq = claim.next_seq

    def say(self, *said: Event, cancelled: bool = False) -> None:
        """Record events; one that ends a run ends it."""
        rows = [(self.seq + i, to_dict(e)) for i, e in enumerate(said)]
        self.seq += len(rows)
        self.claims.record(self.claim, rows, final=ending(rows[-1][1], cancelled=cancelled))

    def leave(self) -> None:
        """Let go of the lock, as a process does that ends or dies."""
        self.lock.release()
        self.claims.close()


def fill(
    store: Store,
    owner: str,
    config: RunConfig | None = None,
    *,
    status: str = "finished",
    reach: float = 0.93,
    cell: str | None = "playground",
    title: str | None = "LoRA · JSON (structure)",
    key: str = "",
    held_out: bool = True,
) -> Run:
    """A run of `owner` in the wanted state, told by made-up events."""
    config = config or RunConfig()
    # Where a server watches the store, its supervisor leaves such a run alone.
    direct = status != "queued"
    run = store.create(owner, config, key=key or f"fill-{random.random()}", cell=cell, title=title, direct=direct)
    if status == "queued":
        return run
    hand = Hand(store, run)
    steps = resolved(config).train.steps or 100
    if status == "finished":
        adapter = run.folder / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
        (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 64)
        hand.say(*events(config, reach=reach, held_out=held_out))
    else:
        hand.say(*events(config, reach=reach, until=steps // 3, held_out=held_out))
        end: dict[str, tuple[Event, bool]] = {
            "failed": (
                Failed(
                    steps // 3, "diverged", "The loss stopped being a number at step 40.", "Lower the learning rate."
                ),
                False,
            ),
            "cancelled": (Stopped(steps // 3, 12.0), True),
            "interrupted": (Stopped(steps // 3, 12.0), False),
        }
        if status in end:
            hand.say(end[status][0], cancelled=end[status][1])
        else:
            assert status == "running", status
    hand.leave()
    return store.get(run.id, owner)


__all__: list[Any] = ["Hand", "events", "fill"]
