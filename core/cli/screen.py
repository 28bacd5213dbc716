"""A run on a terminal: carried out here, with a progress bar, a line for what is worth one, and its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.cli.arguments import BAD_INPUT, BAD_INPUT_KINDS, DONE, FAILED, quiet_libraries
from core.cli.stored import OWNER, print_result, score_line, summary

if TYPE_CHECKING:
    from rich.console import Console

    from core.dataset import Report
    from core.events import Event
    from core.labelled import LabelReport
    from core.runs.store import Store


def carry_out(
    store: Store,
    run_id: str,
    *,
    as_json: bool,
    processes: int = 1,
    data: Report | LabelReport | None = None,
    forget_bad_input: bool = False,
) -> int:
    """Execute a queued run in this process, with `processes` - 1 more beside it, and tell how it went; `data` is the
    report on the person's own file."""
    from core.processes import trainer
    from core.runs.worker import execute

    quiet_libraries()
    notes = (f"{data.rows} rows of {data.name}: {data.taken}", *data.warnings) if data is not None else ()
    show: Silent = Silent() if as_json else Screen(run_id, notes)
    with show:
        try:
            status = execute(store, run_id, show.event, train=trainer(processes))
        except KeyboardInterrupt:
            status = store.get(run_id, OWNER).status
            if status == "queued":  # before it began; nobody else would ever take it
                store.cancel(run_id, OWNER)
        if status is None:
            show.say("Another process carries out this run; following it.")
            _follow(store, run_id, show.event)
    run = store.get(run_id, OWNER)
    if run.status != "finished":
        failures = [e for _, e in store.events(run_id, OWNER, kinds=("failed",))]
        bad_input = bool(failures) and failures[-1]["failure"] in BAD_INPUT_KINDS
        said = run.sentence or f"The run is {run.status}."
        if run.status in ("interrupted", "cancelled") and run.resumable:
            advice = f"Go on with: deltalab runs resume {run_id}"
        else:
            advice = run.advice
        print(" ".join(part for part in (said, advice) if part), file=sys.stderr)
        if bad_input:
            if forget_bad_input and run.step == 0:
                store.delete(run_id, OWNER)
            return BAD_INPUT
    if as_json:
        print(json.dumps(summary(store, run) | ({"data": data_summary(data)} if data is not None else {})))
    elif run.status == "finished":
        print_result(store, run)
    return DONE if run.status == "finished" else FAILED


def data_summary(found: Report | LabelReport) -> dict[str, Any]:
    """`data` in the last line of `deltalab train --data FILE --json`: what the file holds and what is odd about it.

    Keys: name, format, rows, train and held_out (rows on each side), taken (which columns became what), counted (how
    many rows the tokens were counted of, from the first), max_length, tokens (shortest, median and longest row); so
    many too_long, duplicates, contradictions, empty_prompts, empty_answers, special, leakage; warnings (sentences,
    which name the lines). For labelled texts empty_texts instead of the two, and labels (rows of each).
    """
    facts = ("name", "format", "rows", "train", "held_out", "taken", "counted", "max_length")
    labels = getattr(found, "labels", None)
    lengths = found.lengths
    return {
        **{key: getattr(found, key) for key in facts},
        "tokens": {"shortest": lengths.shortest, "median": lengths.median, "longest": lengths.longest},
        **{key: len(getattr(found, key)) for key in found.ODD},
        **({"labels": dict(labels)} if labels is not None else {}),
        "warnings": list(found.warnings),
    }


def _follow(store: Store, run_id: str, on_event: Callable[[Event], None]) -> None:
    """Hand on the events of a run that another process carries out, until it ends."""
    import time

    from core.events import from_dict

    cursor = 0
    while True:
        run, events = store.poll(run_id, OWNER, after=cursor)
        for _, event in events:
            on_event(from_dict(event))
        cursor = events[-1][0] if events else cursor
        if not run.active:
            return
        time.sleep(0.25)


class Silent:
    """Shows nothing; the base of what shows something."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def event(self, event: Event) -> None:
        pass


class Screen(Silent):
    """A run on a terminal: a progress bar, and a line for everything that is worth one, on standard error."""

    def __init__(self, run_id: str, notes: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console: Console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(), console=self.console, transient=True,
        )  # fmt: skip
        self.bar = self.progress.add_task("preparing", total=None, loss="")
        self.fetching = ""
        self.console.print(f"Run {run_id}. Ctrl-C stops it after the current step, with a checkpoint.", markup=False)
        for note in notes:
            self.say(note)

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        # One line a sentence, so that a file it is sent to can be searched; a terminal wraps it by itself.
        self.console.print(text, markup=False, soft_wrap=True)

    def event(self, event: Event) -> None:
        from core import events
        from core.units import MIB, bytes_text, count_text

        if isinstance(event, events.Preparing):
            if self.fetching != event.base:
                self.fetching = event.base
                had = f", of which {bytes_text(event.done_bytes)} are here" if event.done_bytes else ""
                self.say(f"Fetching {event.base}: {bytes_text(event.total_bytes)}{had}.")
            done, total = event.done_bytes // MIB, max(1, event.total_bytes // MIB)
            self.progress.update(self.bar, description="fetching", total=total, completed=done, loss="MiB")
        elif isinstance(event, events.Started):
            percent = 100 * event.trainable / max(event.total, 1)
            self.say(
                f"{event.config['method']} on {event.base.get('name', event.config['base'])}: "
                f"{count_text(event.trainable)} of {count_text(event.total)} parameters train ({percent:.2g} %), "
                f"on {event.device} in {event.dtype}; {event.examples} examples, {event.held_out} held out."
            )
            for note in event.notes:
                self.say(note)
            if event.resumed_at:
                self.say(f"Going on from step {event.resumed_at}.")
            self.progress.reset(self.bar, description="scoring", total=event.steps, completed=event.resumed_at, loss="")
        elif isinstance(event, events.Step):
            self.progress.update(self.bar, description="training", completed=event.step, loss=f"loss {event.loss:.3f}")
        elif isinstance(event, events.Evaluated):
            self.say(score_line(event.step, event.task, event.exact_match, event.loss, event.skills, event.macro_f1))
        elif isinstance(event, events.Saved) and event.what == "adapter":
            self.say(f"Saved what was learnt: {bytes_text(event.size_bytes)}.")
