"""Runs that are broken on purpose, for the museum of failures: real runs of the real engine, with one fault put in.

Most of what goes wrong in a fine-tuning is a setting: a rate, a rank, too few matrices. Such failures need nothing of
this file. But some mistakes the engine does not let happen: it masks prompts, ends answers, uses the template that the
model will be asked with, starts only one of the two thin matrices at zero, and keeps a question on one side of the
split. People who write their own loop make these mistakes every day, so they are made here, once, where they can be
looked at.

A fault acts between the preparation of a run and its first step: on the encoded examples, or on the attached weights.
The loop, the scores and the events are those of every other run (core/train.py). No setting of a run, no flag and no
page reaches a fault: only `broken`, which has to be called by name.

    for event in broken("no-end", folder): ...
    python -m core.failures no-end --out FILE     # records it
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.batches import IGNORED
from core.config import RunConfig, with_settings
from core.errors import BadInput, DeltalabError
from core.template import Encoded

if TYPE_CHECKING:
    from core.events import Event

# --- how it breaks: each takes the prepared run (core.train._Run) -----------------------------------------------------


def both_zero(run: Any) -> None:
    """A starts at zero like B. The gradient of B is a multiple of A, and that of A a multiple of B: both are zero, and
    stay it."""
    import torch

    with torch.no_grad():
        for name, parameter in run.named.items():
            if "lora_A" in name:
                parameter.zero_()


def other_template(run: Any) -> None:
    """The examples are written as `Question: … Answer: …`, without the marks that stand between the turns when the
    model is asked. The end token stays, so only the template is wrong."""
    tokenizer = run.tokenizer
    end = tokenizer.eos_token_id

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def written(dialogue: Any) -> Encoded:
        before = ids(f"Question: {dialogue.question[-1].content} Answer: ")
        answer = [*ids(dialogue.answer), end]
        return Encoded([*before, *answer], [*[IGNORED] * len(before), *answer])

    run.objective.train = [written(d) for d in run.objective._dialogues]


def no_end(run: Any) -> None:
    """The token that ends an answer is left out of the examples."""
    end = run.tokenizer.eos_token_id
    run.objective.train = [
        Encoded(e.ids[:-1], e.labels[:-1]) if e.ids and e.ids[-1] == end else e for e in run.objective.train
    ]


def unmasked(run: Any) -> None:
    """Every token counts in the loss, those of the question too."""
    run.objective.train = [replace(e, labels=list(e.ids)) for e in run.objective.train]


def leaked(run: Any) -> None:
    """The held-out questions stand among the training examples, with their answers: the last examples make room."""
    objective = run.objective
    held = objective.held_out_rows
    objective.train = [*held, *objective.train[len(held) :]]


@dataclass(frozen=True)
class Fault:
    """A mistake that the engine does not make.

    name: of its recording. title: in words. breaks: how it changes the data or the weights of a prepared run. does:
    what that is, in a sentence. looks: what is seen in the curves. mend: what to do. config: the run that it is put
    into, as RunConfig takes it, and `set`, its settings. fresh: its recording says how it does on new questions, too.
    """

    name: str
    title: str
    breaks: Callable[[Any], None]
    does: str
    looks: str
    mend: str
    config: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False

    def run(self) -> RunConfig:
        """The run: an ordinary one, until the fault is put in."""
        settings = dict(self.config)
        pairs = settings.pop("set", {})
        return with_settings(RunConfig.from_dict({"method": "lora", **settings}), pairs)


FEW = {"eval_items": 60, "skill_items": 12}
"""Enough to see that a run is broken."""

FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "both-zero", "A and B both start at zero", both_zero,
            "Each matrix is multiplied by the other in the gradient, so neither ever moves.",
            "The loss wanders with the batches and does not fall; the gradient is exactly zero.",
            "Start one of the two at random: the paper starts A so, and B at zero.",
            {"task": "json", "set": FEW},
        ),
        Fault(
            "wrong-template", "Trained in another chat template", other_template,
            "The model learns to answer after marks that it will never see again.",
            "The training loss falls as it should, and the score, measured with the right template, does not follow.",
            "Render the examples with the template that the model will be asked with.",
            {"task": "json", "set": FEW},
        ),
        Fault(
            "no-end", "No end token behind the answers", no_end,
            "Nothing teaches the model to stop, and it unlearns what it knew about stopping.",
            "The loss falls to nearly nothing, yet no answer is right: each goes on behind its end.",
            "Put the end token behind every answer, and let the loss count it.",
            {"task": "json", "set": FEW},
        ),
        Fault(
            "unmasked", "The question counts in the loss", unmasked,
            "Most of the loss is about guessing questions, which nobody can.",
            "The loss stays high, far above what the same run reaches on its answers.",
            "Set the labels of the question to the number that the loss leaves out.",
            {"task": "json", "set": FEW},
        ),
        Fault(
            "leaked", "Held-out questions among the examples", leaked,
            "The score is taken on questions that were learnt by heart.",
            "Everything looks perfect. New questions tell the truth.",
            "Split before anything else, by question; then look for the same question on both sides.",
            {"task": "jargon", "set": {"train_examples": 120, "steps": 80, "eval_items": 60, "skill_items": 0}},
            fresh=True,
        ),
    )
}  # fmt: skip
"""name -> fault"""


def fault(name: str) -> Fault:
    """The fault of that name.

    Raises:
        BadInput: there is none.
    """
    if name not in FAULTS:
        raise BadInput(f"There is no fault called {name!r}.", f"There are {', '.join(FAULTS)}.")
    return FAULTS[name]


def broken(name: str, folder: Path, **settings: Any) -> Iterator[Event]:
    """Run a fault, and yield what happens, as `core.train.train` does.

    Args:
        name: of the fault.
        folder: receives what the run writes.
        settings: knobs that differ from the fault's own run, such as steps=10.

    Raises:
        BadInput: no such fault, or no such setting.
    """
    found = fault(name)
    return _run(with_settings(found.run(), settings), folder, found.breaks)


def _run(config: RunConfig, folder: Path, breaks: Callable[[Any], None]) -> Iterator[Event]:
    from core.train import _Run, _told

    class Broken(_Run):
        """A run that is broken once it is prepared."""

        def _prepare(self) -> Any:
            started = super()._prepare()
            breaks(self)
            return started

    return _told(Broken(config, Path(folder), lambda: False), False)


FRESH_ITEMS = 100


def fresh_score(name: str, adapter: Path, items: int = FRESH_ITEMS, seed: int = 77_000) -> float:
    """The share of new questions that a run's adapter answers right: questions that neither training nor the run's own
    score has seen.

    Args:
        name: of the task. adapter: the run's folder of that name.
    """
    from core.evaluate import score
    from core.methods import load_saved
    from core.objective import world_items

    base, _ = load_saved("embedded", adapter, precision="float32", device="cpu")
    return score(base.model, base.tokenizer, world_items(name, "heldout", items, seed), whole=0).share


def main(argv: Sequence[str] | None = None) -> int:
    """Record a fault; exit status 0 done, 1 failed run, 2 bad input."""
    from core.runs import recorded

    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m core.failures", description="Record a run with a fault in it.")
    parser.add_argument("name", choices=tuple(FAULTS))
    parser.add_argument("--out", required=True, type=Path, help="the file to write (.jsonl)")
    asked = parser.parse_args(arguments)
    found = fault(asked.name)

    share: list[float] = []

    def faulty(config: RunConfig, folder: Path, **_: Any) -> Iterator[Event]:
        from core.train import ADAPTER

        yield from _run(config, folder, found.breaks)
        if found.fresh and config.task is not None:
            share.append(fresh_score(config.task, folder / ADAPTER))

    try:
        done = recorded.record(
            found.run(), asked.out, title=found.title, train=faulty,
            command=shlex.join(["python", "-m", "core.failures", *arguments]),
        )  # fmt: skip
    except DeltalabError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    if share:
        beside = asked.out.with_name(f"{asked.out.stem}-fresh.json")
        text = json.dumps({"provenance": done.provenance, "exact_match": share[0], "items": FRESH_ITEMS}, indent=1)
        beside.write_text(text + "\n", encoding="utf-8")
    print(f"{asked.out}: {len(done.lines)} events")
    return 0


def short(name: str, steps: int = 10) -> list[dict[str, Any]]:
    """The first steps of a broken run, as its events: to look at, here and now."""
    from core.events import to_dict

    with tempfile.TemporaryDirectory() as folder:
        run = broken(name, Path(folder), steps=steps, eval_items=8, skill_items=0, eval_every=steps)
        return [to_dict(event) for event in run]


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["FAULTS", "Fault", "broken", "fault", "fresh_score", "short"]
