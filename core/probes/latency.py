"""How fast a model answers: the base, each chosen run as it is served beside its base, and merged where that can be.

All models are in one process and take turns, round by round, each round beginning with another one, so that what the
machine does meanwhile strikes all alike. What counts are the ratios to the base within a round: their median, and their
range over the rounds. Milliseconds are given for the named device and hold for nothing else.

    prefill: from the call to the first token        decode: from one further token to the next

A classifier generates nothing: its prefill is the whole pass that gives a text its label, and decode is None.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from core.config import knob
from core.export.subject import (
    check_one_base,
    computing,
    config_of,
    device,
    held_bytes,
    load_plain,
    load_run,
    precision_of,
)
from core.methods import METHODS
from core.probes import Subject, Tell

TITLE = "Latency"
RUNS = (1, 6)


@dataclass(frozen=True)
class Config:
    """How it is timed."""

    rounds: int = knob(
        7, "How often every model is timed.", unit="rounds", low=3, high=50,
        why="The median of seven is steady, and their range shows how noisy this machine is.",
    )  # fmt: skip
    prompt_tokens: int = knob(
        64, "Length of the prompt.", unit="tokens", low=4, high=4096, why="About what the tasks here have."
    )
    new_tokens: int = knob(
        24, "Tokens generated after the prompt; a classifier generates none.", unit="tokens", low=2, high=1024,
        why="Enough that one token's time can be told from the prompt's.",
    )  # fmt: skip
    batch: int = knob(
        1, "Prompts at once.", unit="prompts", low=1, high=64, why="One is what a single person waits for."
    )


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Time them.

    Returns:
        rows: label, method, form ('base', 'unmerged', 'merged'), run; prefill_ms and decode_ms (medians),
        tokens_per_second; prefill_ratio and decode_ratio to the base as [lowest, median, highest] over the rounds
        (None for the base itself; of classifiers everything about decoding is None); bytes that the model's tensors
        hold. device, precision, rounds, batch.

    Raises:
        BadInput: runs of several bases, or longer texts than the base can read.
    """
    import torch

    from core.base import context_tokens, is_classifier
    from core.errors import BadInput
    from core.hardware import attached

    check_one_base(subject.runs)
    first = subject.runs[0]
    precision = precision_of(first)
    tell(None, "Loading the base")
    base = load_plain(first)
    models: list[tuple[dict[str, Any], Any]] = [({"label": "base", "method": None, "form": "base", "run": None}, base)]
    for number, run in enumerate(subject.runs):
        method = config_of(run).method
        before = sum(config_of(other).method == method for other in subject.runs[:number])
        title = METHODS[method].TITLE + (f" ({before + 1})" if before else "")
        tell(None, f"Loading {title}")
        about = {"method": method, "run": run.id, "title": run.title}
        loaded, _ = load_run(run, keep_base=False)
        # Methods that train in place add nothing beside the base: there is no unmerged form of them.
        in_place = METHODS[method].BASE == "trained"
        form = "merged" if in_place else "unmerged"
        models.append(({**about, "label": f"{title}, {form}", "form": form}, loaded))
        if METHODS[method].MERGES and not in_place:
            second, handle = load_run(run, keep_base=False)
            handle.merge()
            second.model.eval()
            models.append(({**about, "label": f"{title}, merged", "form": "merged"}, second))
    new_tokens = 0 if is_classifier(base.model) else config.new_tokens
    longest = config.prompt_tokens + new_tokens
    for about, loaded in models:
        room = context_tokens(loaded.model)
        if room is not None and longest > room:
            raise BadInput(
                f"{about['label']} reads {room} tokens at most, and {longest} are asked for.",
                "Choose a shorter prompt or fewer new tokens.",
            )
    for _, loaded in models:
        # Under autocast, weights that want gradients are cast once, others in each pass: all models are to be alike.
        loaded.model.requires_grad_(False)
    vocabulary = int(base.model.config.get_text_config().vocab_size)
    ids = torch.randint(
        0, vocabulary, (config.batch, config.prompt_tokens), generator=torch.Generator().manual_seed(0)
    ).to(device())
    times: list[list[tuple[float, float | None]]] = [[] for _ in models]
    with computing(precision):
        for _, loaded in models:  # what the first call of each costs belongs to none of them
            _timed(loaded.model, ids, new_tokens)
        for round_ in range(config.rounds):
            for turn in range(len(models)):
                number = (round_ + turn) % len(models)
                tell((round_ + turn / len(models)) / config.rounds, f"Round {round_ + 1} of {config.rounds}")
                model = models[number][1].model
                times[number].append(_timed(model, ids, new_tokens))
    rows = []
    for (about, loaded), taken in zip(models, times, strict=True):
        prefill, decode = (_seconds(taken, part) for part in (0, 1))
        of_base = about["form"] == "base"
        rows.append({
            **about,
            "prefill_ms": 1000 * statistics.median(prefill),
            "decode_ms": 1000 * statistics.median(decode) if decode else None,
            "tokens_per_second": config.batch / statistics.median(decode) if decode else None,
            "bytes": held_bytes(loaded.model),
            "prefill_ratio": None if of_base else _spread(prefill, _seconds(times[0], 0)),
            "decode_ratio": None if of_base or not decode else _spread(decode, _seconds(times[0], 1)),
        })  # fmt: skip
    return {
        "rows": rows, "device": attached().chip(), "precision": precision, "rounds": config.rounds,
        "batch": config.batch,
    }  # fmt: skip


def _seconds(taken: list[tuple[float, float | None]], part: int) -> list[float]:
    """Round by round, of the prompt (0) or of a further token (1; none for a classifier)."""
    return [seconds for pair in taken if (seconds := pair[part]) is not None]


def _spread(seconds: list[float], base: list[float]) -> list[float]:
    """Of the ratios within each round: [lowest, median, highest]"""
    ratios = [mine / theirs for mine, theirs in zip(seconds, base, strict=True)]
    return [min(ratios), statistics.median(ratios), max(ratios)]


def _timed(model: Any, ids: Any, count: int) -> tuple[float, float | None]:
    """Seconds to the first token and from one to the next; with a `count` of 0 (a classifier), of a pass."""
    return _generate(model, ids, count) if count else (_pass(model, ids), None)


def _pass(model: Any, ids: Any) -> float:
    """Give the texts their labels: seconds."""
    import torch

    from core.classify import TextBatch, label_logits

    zeros = torch.zeros_like(ids)
    batch = TextBatch(ids, zeros, torch.ones_like(ids), zeros[:, 0])
    if ids.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    label_logits(model, batch)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _generate(model: Any, ids: Any, count: int) -> tuple[float, float]:
    """Generate exactly `count` tokens after the prompt: seconds to the first, and (median) from one to the next."""
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList

    pad = model.config.get_text_config().pad_token_id
    settings = GenerationConfig(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=pad or 0,
        bos_token_id=0,
    )  # fmt: skip
    moments = []

    def note(generated: torch.Tensor, _scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Called after every token."""
        if generated.is_cuda:
            torch.cuda.synchronize()
        moments.append(time.perf_counter())
        return torch.zeros(len(generated), dtype=torch.bool, device=generated.device)

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        if ids.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings,
            stopping_criteria=StoppingCriteriaList([note]),
        )  # fmt: skip
    finally:
        model.generation_config = own
    return moments[0] - began, statistics.median(b - a for a, b in pairwise(moments))
