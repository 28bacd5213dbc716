"""The command `deltalab`: the engine without a browser.

    deltalab train --base embedded --task json --method lora --seed 0
    deltalab runs                what was run; also: show RUN, resume RUN, cancel RUN…, delete RUN…
    deltalab chat RUN            talk to a run's model, before and after
    deltalab params --model PATH --method lora --set rank=16
    deltalab doctor              what this machine has, and what will be slow
    deltalab serve               the app in the browser

Answers go to standard output (one JSON object with --json), progress and mistakes to standard error. Exit codes:
0 done, 1 a run failed or was interrupted, 2 bad input (one sentence says what is wrong). Nothing heavy is imported
before it is needed, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from core.errors import BadInput, DeltalabError, NotFound, Refused

if TYPE_CHECKING:
    from rich.console import Console

    from core.config import RunConfig
    from core.dataset import Report
    from core.events import Event
    from core.methods.base import Attached
    from core.runs.store import Run, Store

OWNER = "cli"
DONE, FAILED, BAD_INPUT = 0, 1, 2
# How a run can fail through what it was asked to do, rather than through what happened to it.
BAD_INPUT_KINDS = ("bad_input", "base_unavailable", "incompatible", "not_found", "refused")
HOST, PORT = "127.0.0.1", 8501


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage lines before it."""

    def error(self, message: str) -> NoReturn:
        text = message[:1].upper() + message[1:].rstrip(".")
        print(f"{text}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="deltalab", description="Learn efficient fine-tuning of language models by running it.",
        epilog="`deltalab serve` opens the app; `deltalab COMMAND --help` tells more about a command.",
    )  # fmt: skip
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(metavar="COMMAND", dest="command")

    def command(name: str, do: Callable[[argparse.Namespace], int], text: str, **more: Any) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".", **more)
        one.set_defaults(do=do)
        return one

    train = command("train", _train, "fine-tune a base on a task or on your own data")
    train.add_argument("--base", default="embedded", help="embedded, a folder, or a hub id (default: embedded)")
    train.add_argument("--revision", help="branch, tag or commit of a hub id")
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", help="a built-in task: json, persona, jargon or facts")
    what.add_argument("--data", metavar="FILE", help="your own JSONL, JSON or CSV file")
    _method_arguments(train)
    train.add_argument("--seed", type=int, default=0, help="the same seed gives the same run (default: 0)")
    train.add_argument("--title", help="a name for the run")
    _json_argument(train)

    runs = command("runs", _runs_list, "list, show, resume, cancel or delete runs; without an action, list them")
    inner = runs.add_subparsers(metavar="ACTION", dest="action")

    def action(name: str, do: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        one = inner.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        one.set_defaults(do=do)
        _json_argument(one, default=argparse.SUPPRESS)  # else it would undo the flag of `runs --json show RUN`
        return one

    listing = action("list", _runs_list, "list runs, the newest first")
    _json_argument(runs)
    for one, default in ((runs, 20), (listing, argparse.SUPPRESS)):
        one.add_argument("--limit", type=int, default=default, help="list at most so many (default: 20)")
    show = action("show", _runs_show, "show one run: settings, scores, samples")
    resume = action("resume", _runs_resume, "go on with a run that was interrupted, cancelled or failed")
    for one in (show, resume):
        one.add_argument("run", metavar="RUN", help="the run's id or its beginning, or last")
    for name, do, text in (
        ("cancel", _runs_cancel, "stop runs after their current step"),
        ("delete", _runs_delete, "forget runs and remove their files"),
    ):
        action(name, do, text).add_argument("run", metavar="RUN", nargs="+", help="ids or their beginnings, or last")

    chat = command("chat", _chat, "talk to a model, before and after its fine-tuning")
    chat.add_argument("run", metavar="RUN", nargs="?", help="a run's id, or last, or a folder with an adapter")
    chat.add_argument("--base", help="talk to this base alone, or put the folder's adapter on it (default: embedded)")
    chat.add_argument("--prompt", help="ask this and exit; without it a conversation begins")
    chat.add_argument("--only", choices=("before", "after"), help="one side alone")
    chat.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default: 0)")
    _json_argument(chat)

    params = command("params", _params, "count what a method would train in a model, without loading it")
    params.add_argument("--model", "--base", default="embedded", help="embedded, a folder, or a hub id")
    params.add_argument("--revision", help="branch, tag or commit of a hub id")
    _method_arguments(params)
    _json_argument(params)

    _json_argument(command("doctor", _doctor, "tell what this machine has, and what will be slow"))

    serve = command("serve", _serve, "open the app in the browser")
    serve.add_argument("--host", default=HOST, help=f"address to listen on (default: {HOST}, this machine only)")
    serve.add_argument("--port", type=int, default=PORT, help=f"port; 0 takes a free one (default: {PORT})")
    serve.add_argument("--no-browser", action="store_true", help="do not open a browser")
    serve.add_argument("--json", action="store_true", help="say where the app is with one JSON object, once it answers")
    return top


def _method_arguments(one: argparse.ArgumentParser) -> None:
    from core.methods import METHODS

    one.add_argument("--method", default="lora", help=f"{', '.join(METHODS)} (default: lora)")
    one.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="set a knob of the method or of the training loop; --set help lists them",
    )  # fmt: skip


def _json_argument(one: argparse.ArgumentParser, default: Any = False) -> None:
    text = "answer with one JSON object, and show no progress"
    one.add_argument("--json", action="store_true", default=default, help=text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing but defects of this program raise."""
    top = parser()
    try:
        asked = top.parse_args(arguments)
        if asked.version:
            from core.hardware import versions

            print(versions()["deltalab"])
            return DONE
        if asked.command is None:
            top.print_help()
            return DONE
        code: int = asked.do(asked)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # argparse: --help, or a mistake it has told already
        return int(end.code or 0)
    except DeltalabError as error:
        _complain(error)
        return BAD_INPUT if error.kind in BAD_INPUT_KINDS else FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader of our output has gone (`deltalab runs list | head -1`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _complain(error: DeltalabError) -> None:
    print(" ".join(part for part in (error.sentence, error.advice) if part), file=sys.stderr)


def _store() -> Store:
    """The store of runs.

    Raises:
        Refused: it cannot be opened.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from core.runs.store import Store

    try:
        return Store()
    except (SQLAlchemyError, OSError) as why:
        first = str(why).strip().splitlines()[0].rstrip(".")
        raise Refused(
            f"The store of runs cannot be opened: {first}.", "Check DELTALAB_HOME and DELTALAB_STORE."
        ) from why


def _find(store: Store, name: str) -> str:
    """The id of the run that `name` means: an id, the beginning of one, or 'last'.

    Raises:
        NotFound: none, or more than one.
    """
    runs = store.runs(OWNER, limit=10_000)
    if name == "last":
        if not runs:
            raise NotFound("There are no runs yet.", "Start one with `deltalab train`.")
        return runs[0].id
    found = [run.id for run in runs if run.id.startswith(name)] if name else []
    if name in found:
        return name
    if len(found) != 1:
        how = f"{len(found)} runs begin with" if found else "There is no run"
        raise NotFound(f"{how} {name!r}.", "See `deltalab runs list`; runs of the browser are in the app.")
    return found[0]


# --- train ------------------------------------------------------------------------------------------------------------


def _config(asked: argparse.Namespace) -> RunConfig:
    """The run that the flags describe.

    Raises:
        BadInput: all mistakes in one sentence.
    """
    from core.config import RunConfig, with_settings

    config = RunConfig.from_dict(
        {
            "base": asked.base if "base" in asked else asked.model,
            "revision": asked.revision,
            "task": getattr(asked, "task", None),
            "data": getattr(asked, "data", None),
            "method": asked.method,
            "seed": getattr(asked, "seed", 0),
        }
    )
    pairs: dict[str, str] = {}
    for text in asked.settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"--set takes KEY=VALUE, not {text!r}.", "For example: --set rank=4 steps=60.")
        pairs[key.strip().replace("-", "_")] = value.strip()
    return with_settings(config, pairs)


def _asks_for_help(asked: argparse.Namespace) -> bool:
    return bool(asked.settings) and asked.settings[0] == "help"


def _print_knobs(method: str) -> int:
    """List every knob of a method and of the loop, with its default and range, from the fields themselves."""
    import dataclasses

    from core.config import RunConfig, TrainConfig

    own = type(RunConfig.from_dict({"method": method}).settings)
    for title, cls in ((f"Settings of {method}", own), ("Settings of the training loop", TrainConfig)):
        if not dataclasses.fields(cls):
            continue
        print(f"{title}:")
        for f in dataclasses.fields(cls):
            meta = f.metadata
            default = "by method and task" if f.default is None else f.default
            bounds = ", ".join(meta["choices"]) or f"{meta['low']:g} to {meta['high']:g}" if _bounded(meta) else ""
            print(f"  {f.name} = {default}{f'  ({bounds})' if bounds else ''}\n      {meta['doc']}")
    return DONE


def _bounded(meta: Any) -> bool:
    return bool(meta["choices"]) or (meta["low"] is not None and meta["high"] is not None)


def _train(asked: argparse.Namespace) -> int:
    if _asks_for_help(asked):
        return _print_knobs(asked.method)
    from core.config import resolved

    config = resolved(_config(asked))
    _check_base(config)
    _quiet_libraries()
    data = _data_report(config) if config.data is not None else None
    import secrets

    store = _store()
    run = store.create(OWNER, config, key=secrets.token_hex(16), title=asked.title, direct=True)
    return _carry_out(store, run.id, as_json=asked.json, data=data, forget_bad_input=True)


def _data_report(config: RunConfig) -> Report:
    """What is in the file that `config` names, before anything is trained on it.

    Raises:
        BadInput: it cannot be read or used; BaseUnavailable: the base has no tokenizer that could read it.
    """
    from core.base import load_tokenizer
    from core.dataset import read_file, report

    assert config.data is not None
    data, loop = read_file(config.data), config.train
    return report(
        data, load_tokenizer(config.base, config.revision), max_length=loop.max_length, held_out=loop.held_out,
        seed=config.seed, quick=True,
    )  # fmt: skip


def data_summary(found: Report) -> dict[str, Any]:
    """`data` in the last line of `deltalab train --data FILE --json`: what the file holds and what is odd about it.

    Keys: name, format, rows, train and held_out (rows on each side), taken (which columns became what), counted (how
    many rows the tokens were counted of, from the first), max_length, tokens (shortest, median and longest row); so
    many too_long, duplicates, contradictions, empty_prompts, empty_answers, special, leakage; warnings (sentences,
    which name the lines).
    """
    facts = ("name", "format", "rows", "train", "held_out", "taken", "counted", "max_length")
    odd = ("too_long", "duplicates", "contradictions", "empty_prompts", "empty_answers", "special", "leakage")
    lengths = found.lengths
    return {
        **{key: getattr(found, key) for key in facts},
        "tokens": {"shortest": lengths.shortest, "median": lengths.median, "longest": lengths.longest},
        **{key: len(getattr(found, key)) for key in odd},
        "warnings": list(found.warnings),
    }


def _check_base(config: RunConfig) -> None:
    """Say at once, before torch is imported, what is wrong with a base on this machine. A hub id is seen to by the run:
    asking the hub twice would only cost time.

    Raises:
        BaseUnavailable, BadInput: as `core.base.describe_base`.
    """
    from core.base import HUB_ID, describe_base

    if Path(config.base).expanduser().exists() or config.base == "embedded" or not HUB_ID.fullmatch(config.base):
        describe_base(config.base, config.revision)


def _carry_out(
    store: Store, run_id: str, *, as_json: bool, data: Report | None = None, forget_bad_input: bool = False
) -> int:
    """Execute a queued run in this process and tell how it went; `data` is the report on the person's own file."""
    from core.runs.worker import execute

    _quiet_libraries()
    notes = (f"{data.rows} rows of {data.name}: {data.taken}", *data.warnings) if data is not None else ()
    show: _Silent = _Silent() if as_json else _Screen(run_id, notes)
    with show:
        try:
            status = execute(store, run_id, show.event)
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
        _print_result(store, run)
    return DONE if run.status == "finished" else FAILED


def _quiet_libraries() -> None:
    """Keep progress bars and chatter of the libraries off the terminal; what matters comes as events."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


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


def summary(store: Store, run: Run) -> dict[str, Any]:
    """The contract of the last line of `deltalab train --json`: what a run did, in one object.

    Keys: run, status, seconds (wall clock of the last attempt), first_loss_seconds, before and after (task: share of
    held-out items right, skills: the same of the base's old skills, loss: held-out loss), trainable, total, peak_bytes,
    adapter (folder); and base, task, method, seed, steps, sentence. What is not known (yet) is null. A run on a
    person's own file has `data` beside them there: see `data_summary`.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for _, event in store.events(run.id, OWNER, kinds=("started", "evaluated", "finished", "failed"), limit=100_000):
        by_kind.setdefault(event["kind"], []).append(event)
    started = by_kind.get("started", [{}])[-1]
    finished = by_kind.get("finished", [{}])[-1]
    scored = by_kind.get("evaluated", [])

    def scores(event: dict[str, Any] | None) -> dict[str, Any]:
        if event is None:
            return {"task": None, "skills": {}, "loss": None}
        return {"task": event["exact_match"], "skills": event["skills"], "loss": event["loss"]}

    adapter = run.adapter
    return {
        "run": run.id,
        "status": run.status,
        "seconds": round(run.ended - run.started, 3) if run.ended and run.started else None,
        "first_loss_seconds": finished.get("first_loss_seconds"),
        "before": scores(scored[0] if scored and scored[0]["step"] == 0 else None),
        "after": scores(scored[-1] if scored and run.status == "finished" else None),
        "trainable": finished.get("trainable", started.get("trainable")),
        "total": finished.get("total", started.get("total")),
        "peak_bytes": finished.get("peak_bytes"),
        "adapter": str(adapter) if adapter else None,
        "base": run.config["base"],
        "task": run.config["task"] or Path(run.config["data"]).name,
        "method": run.config["method"],
        "seed": run.config["seed"],
        "step": run.step,
        "steps": run.steps,
        "sentence": run.sentence,
    }


class _Silent:
    """Shows nothing; the base of what shows something."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def event(self, event: Event) -> None:
        pass


class _Screen(_Silent):
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
        self.console.print(f"Run {run_id}. Ctrl-C stops it after the current step, with a checkpoint.", markup=False)
        for note in notes:
            self.say(note)

    def __enter__(self) -> _Screen:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        # One line a sentence, so that a file it is sent to can be searched; a terminal wraps it by itself.
        self.console.print(text, markup=False, soft_wrap=True)

    def event(self, event: Event) -> None:
        from core import events
        from core.units import bytes_text, count_text

        if isinstance(event, events.Started):
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
            self.progress.update(self.bar, description="scoring", total=event.steps, completed=event.resumed_at)
        elif isinstance(event, events.Step):
            self.progress.update(self.bar, description="training", completed=event.step, loss=f"loss {event.loss:.3f}")
        elif isinstance(event, events.Evaluated):
            self.say(_score_line(event.step, event.task, event.exact_match, event.loss, event.skills))
        elif isinstance(event, events.Saved) and event.what == "adapter":
            self.say(f"Saved what was learnt: {bytes_text(event.size_bytes)}.")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _score_line(step: int, task: str, share: float | None, loss: float | None, skills: dict[str, float]) -> str:
    text = f"step {step:>4}: "
    if loss is None:
        text += "nothing is held out that could be scored"
    else:
        text += f"{task} {_percent(share)} right, loss {loss:.3f}"
    if skills:
        text += "; old skills: " + ", ".join(f"{name} {_percent(value)}" for name, value in skills.items())
    return text


def _print_result(store: Store, run: Run) -> None:
    from core.units import bytes_text, seconds_text

    got = summary(store, run)
    print(f"\n{run.config['method']} on {got['task']}, in {seconds_text(got['seconds'] or 0)}:")
    rows = [(got["task"], got["before"]["task"], got["after"]["task"])]
    rows += [(name, value, got["after"]["skills"].get(name)) for name, value in got["before"]["skills"].items()]
    width = max(len(str(name)) for name, _, _ in rows)
    print(f"  {'':{width}}  before  after")
    for name, before, after in rows:
        print(f"  {name:{width}}  {_percent(before):>6}  {_percent(after):>5}")
    if got["peak_bytes"]:
        print(f"  peak memory {bytes_text(got['peak_bytes'])}")
    print(f"  adapter     {got['adapter']}\nTalk to it: deltalab chat {run.id}")


# --- runs -------------------------------------------------------------------------------------------------------------


def _what(run: Run) -> str:
    return f"{run.config['method']} · {run.config['task'] or Path(run.config['data']).name}"


def _when(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _runs_list(asked: argparse.Namespace) -> int:
    store = _store()
    if asked.limit < 1:
        raise BadInput("--limit must be at least 1.")
    runs = store.runs(OWNER, limit=asked.limit)
    if asked.json:
        print(json.dumps({"runs": [summary(store, run) | {"created": run.created} for run in runs]}))
        return DONE
    if not runs:
        print("No runs yet. Start one with: deltalab train --task json --method lora")
        return DONE
    for run in runs:
        got = summary(store, run)
        score = (
            f"{_percent(got['before']['task'])} → {_percent(got['after']['task'])}" if run.status == "finished" else ""
        )
        place = f"{run.step:>5}/{run.steps:<5}"
        parts = (run.id, _when(run.created), f"{run.status:<11}", place, f"{_what(run):<18}", f"{score:<13}")
        print("  ".join((*parts, run.title or "")).rstrip())
    return DONE


def _runs_show(asked: argparse.Namespace) -> int:
    store = _store()
    run = store.get(_find(store, asked.run), OWNER)
    events = [e for _, e in store.events(run.id, OWNER, limit=200_000)]
    got = summary(store, run)
    if asked.json:
        print(json.dumps(got | {"config": run.config, "created": run.created, "events": events}))
        return DONE
    print(f"Run {run.id}{f' ({run.title})' if run.title else ''}: {run.status}, step {run.step} of {run.steps}")
    if run.sentence:
        print(f"  {run.sentence} {run.advice}".rstrip())
    print(f"  {_what(run)} on {run.config['base']}, seed {run.config['seed']}, {_when(run.created)}")
    for part in ("settings", "train"):
        print(f"  {part}: " + ", ".join(f"{k}={v}" for k, v in run.config[part].items()))
    for event in events:
        if event["kind"] == "evaluated":
            line = (event["step"], event["task"], event["exact_match"], event["loss"], event["skills"])
            print(f"  {_score_line(*line)}")
    samples = [e for e in events if e["kind"] == "sampled"][-1:]
    for sample in samples[0]["samples"] if samples else ():
        print(f"  {sample['prompt']!r}\n    → {sample['output']!r} (wanted {sample['reference']!r})")
    print(f"  folder: {run.folder}")
    return DONE


def _runs_resume(asked: argparse.Namespace) -> int:
    import secrets

    store = _store()
    run_id = _find(store, asked.run)
    store.resume(run_id, OWNER, key=secrets.token_hex(16), direct=True)
    return _carry_out(store, run_id, as_json=asked.json)


def _runs_cancel(asked: argparse.Namespace) -> int:
    store = _store()
    ids = [_find(store, name) for name in asked.run]
    runs = [store.cancel(run_id, OWNER) for run_id in ids]
    if asked.json:
        print(json.dumps({"runs": [{"run": r.id, "status": r.status, "cancelling": r.cancelling} for r in runs]}))
        return DONE
    for run in runs:
        print(f"{run.id}: " + ("stopping after its current step" if run.cancelling else run.status))
    return DONE


def _runs_delete(asked: argparse.Namespace) -> int:
    store = _store()
    ids = [_find(store, name) for name in asked.run]
    for run_id in dict.fromkeys(ids):
        store.delete(run_id, OWNER)
    print(json.dumps({"deleted": ids}) if asked.json else "\n".join(f"{i}: deleted" for i in ids))
    return DONE


# --- chat -------------------------------------------------------------------------------------------------------------


def _chat(asked: argparse.Namespace) -> int:
    if not 1 <= asked.max_new_tokens <= 4096:
        raise BadInput("--max-new-tokens must be from 1 to 4096.")
    if not 0 <= asked.temperature <= 10:
        raise BadInput("--temperature must be from 0 to 10.")
    if asked.prompt is not None and not asked.prompt.strip():
        raise BadInput("The prompt is empty.", "Ask something.")
    base, revision, adapter, dtype = _speaker(asked)
    if asked.only is not None and adapter is None:
        raise BadInput("--only chooses a side of a run, and none is named.", "Name a run, or leave --only out.")
    _quiet_libraries()
    answer = _answerer(asked, base, revision, adapter, dtype)
    if asked.prompt is not None:
        if asked.json:
            print(json.dumps({"prompt": asked.prompt, **{side: "".join(text) for side, text in answer(asked.prompt)}}))
            return DONE
        _print_answers(answer(asked.prompt))
        return DONE
    return _converse(asked, answer)


Answers = Callable[[str], Iterator[tuple[str, Iterator[str]]]]


def _speaker(asked: argparse.Namespace) -> tuple[str, str | None, Path | None, str | None]:
    """(base, its revision, folder of the adapter, precision) of whom to talk to.

    Raises:
        NotFound, Refused, BadInput: no such run, or it has learnt nothing yet.
    """
    if asked.run is None:
        return asked.base or "embedded", None, None, None
    folder = Path(asked.run).expanduser()
    if (folder / "adapter_config.json").is_file() or folder.is_dir():
        return asked.base or "embedded", None, folder, None
    store = _store()
    run = store.get(_find(store, asked.run), OWNER)
    if run.adapter is None:
        raise Refused(f"Run {run.id} has learnt nothing yet that could answer.", "Wait until it is finished.")
    started = store.events(run.id, OWNER, kinds=("started",))
    dtype = started[-1][1].get("dtype") if started else None
    return asked.base or run.config["base"], run.config.get("revision"), run.adapter, dtype


def _answerer(
    asked: argparse.Namespace, base: str, revision: str | None, adapter: Path | None, dtype: str | None
) -> Answers:
    """Load the model and return what answers a prompt: (side, pieces of text) for each side."""
    from contextlib import nullcontext

    import torch

    from core.base import load_base
    from core.evaluate import stream
    from core.hardware import best_threads, pick_precision
    from core.methods import attach_saved, loading, saved_as
    from core.template import conversation

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(best_threads())
    precision = dtype or pick_precision(device)
    method = saved_as(adapter)[0] if adapter is not None else None
    loaded = load_base(base, revision=revision, **loading(method, precision, device))
    attached: Attached | None = attach_saved(loaded.model, adapter, device=device) if adapter is not None else None
    model: Any = attached.model if attached is not None else loaded.model
    model.eval()
    sides = ["answer"] if attached is None else [asked.only] if asked.only else ["before", "after"]

    def pieces(side: str, prompt: str) -> Iterator[str]:
        if attached is not None:
            attached.disable() if side == "before" else attached.enable()
        with torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext():
            yield from stream(model, loaded.tokenizer, conversation(prompt), asked.max_new_tokens, asked.temperature)

    return lambda prompt: ((side, pieces(side, prompt)) for side in sides)


def _print_answers(answers: Iterator[tuple[str, Iterator[str]]]) -> None:
    for side, pieces in answers:
        if side != "answer":
            print(f"{side}: ", end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()


def _converse(asked: argparse.Namespace, answer: Answers) -> int:
    """Read prompts, one a line, until the end of the input; each is answered by itself."""
    interactive = sys.stdin.isatty()
    if interactive:
        print("One question a line, each answered by itself; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            if interactive:
                print()
            return DONE
        if not line.strip():
            continue
        if asked.json:
            print(json.dumps({"prompt": line, **{side: "".join(text) for side, text in answer(line)}}), flush=True)
        else:
            _print_answers(answer(line))


# --- params -----------------------------------------------------------------------------------------------------------


def _params(asked: argparse.Namespace) -> int:
    if _asks_for_help(asked):
        return _print_knobs(asked.method)
    from core.config import problems

    config = _config(asked)
    wrong = [p for p in problems(config) if "task or a data file" not in p]
    if wrong:
        raise BadInput(" ".join(wrong))
    from core.architecture import architecture_of_config
    from core.base import load_config
    from core.methods import METHODS
    from core.units import DTYPE_BYTES, bytes_text

    _quiet_libraries()
    architecture = architecture_of_config(load_config(config.base, config.revision), config.base)
    method = METHODS[config.method]
    trainable = method.count(architecture, config.settings)
    modules: list[dict[str, Any]] = [
        {"name": site.module, "shape": list(site.shape), "trainable": site.trained}
        for site in method.sites(architecture, config.settings)
    ]
    percent = 100 * trainable / architecture.total
    size = round(trainable * DTYPE_BYTES["float32"])  # adapters are saved in float32
    if asked.json:
        print(
            json.dumps(
                {
                    "total": architecture.total, "trainable": trainable, "percent": percent, "adapter_bytes": size,
                    "modules": modules,
                }
            )
        )  # fmt: skip
        return DONE
    share = f"{trainable:,} of {architecture.total:,} parameters"
    print(f"{config.method} trains {share} of {config.base} ({percent:.3g} %): {bytes_text(size)} to save.")
    for row in modules:
        print(f"  {row['name']:<50} {' × '.join(map(str, row['shape'])):>15} {row['trainable']:>12,}")
    return DONE


# --- doctor -----------------------------------------------------------------------------------------------------------


def _doctor(asked: argparse.Namespace) -> int:
    """Look at the machine, the libraries, the data folder and the store; 1 when something is broken."""
    _quiet_libraries()
    from core.hardware import attached, attached_light, precision_choice, threads_choice
    from core.units import bytes_text

    broken: list[str] = []
    try:
        machine = attached()
        device = "cuda" if machine.kind == "cuda" else "cpu"
        precision = precision_choice(device)
        chosen = {"precision": precision.value, "precision_why": precision.why, "ratio": precision.ratio}
    except (ImportError, OSError, RuntimeError) as why:
        machine, chosen = attached_light(), {"precision": None, "precision_why": "torch does not load", "ratio": None}
        broken.append(f"torch or bitsandbytes does not load: {str(why).splitlines()[0] if str(why) else why!r}.")
    threads = threads_choice()
    embedded = _embedded_facts(broken)
    place, runs = _data_facts(broken)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if asked.json:
        print(
            json.dumps(
                machine.to_dict()
                | chosen
                | {
                    "threads": int(threads.value), "threads_why": threads.why, "data_folder": place, "runs": runs,
                    "embedded": embedded, "offline": offline, "broken": broken,
                }
            )
        )  # fmt: skip
        return FAILED if broken else DONE
    rows: list[tuple[str, str]] = [
        ("device", f"{machine.chip()} ({machine.kind})"),
        ("processor", f"{machine.cpu}; {machine.cores} usable, {machine.physical_cores or 'unknown'} physical"),
        ("memory", f"{bytes_text(machine.free_bytes)} free of {bytes_text(machine.ram_bytes)}"),
        *((f"GPU {i}", _card_text(card)) for i, card in enumerate(machine.cards)),
        ("number formats", ", ".join(machine.dtypes)),
        ("precision", f"{chosen['precision'] or 'unknown'} ({chosen['precision_why']})"),
        ("threads", f"{threads.value}: {threads.why}"),
        ("bitsandbytes", machine.bitsandbytes),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("system", machine.system),
        ("data folder", place or "unknown"),
        ("runs", "unknown" if runs is None else str(runs)),
        ("embedded base", embedded or "missing"),
        (
            "hub",
            "switched off (HF_HUB_OFFLINE)" if offline else os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
        ),
    ]
    for name, text in rows:
        print(f"{name:<15} {text}")
    for note in machine.notes:
        print(f"note: {note}")
    for sentence in broken:
        print(f"broken: {sentence}", file=sys.stderr)
    return FAILED if broken else DONE


def _card_text(card: Any) -> str:
    from core.units import bytes_text

    memory = bytes_text(card.memory_bytes) if card.memory_bytes else "unknown memory"
    return f"{card.name}, {memory}, capability {card.capability or 'unknown'}, driver {card.driver or 'unknown'}"


def _embedded_facts(broken: list[str]) -> str | None:
    from core.base import describe_base
    from core.units import bytes_text, count_text

    try:
        facts = describe_base("embedded")
    except DeltalabError as why:
        broken.append(why.sentence)
        return None
    return f"{count_text(facts['parameters'])} parameters, {bytes_text(facts['stored_bytes'])}"


def _data_facts(broken: list[str]) -> tuple[str | None, int | None]:
    from core.runs.home import data_home

    try:
        place = str(data_home())
    except OSError as why:
        broken.append(f"The data folder cannot be made: {why}.")
        return None, None
    try:
        return place, len(_store().runs(OWNER, limit=100_000))
    except DeltalabError as why:
        broken.append(why.sentence)
        return place, None


# --- serve ------------------------------------------------------------------------------------------------------------


def _serve(asked: argparse.Namespace) -> int:
    import signal
    import socket
    import subprocess
    import time

    if not 0 <= asked.port <= 65535:
        raise BadInput(f"--port must be from 0 to 65535, not {asked.port}.")
    script = _app_script()
    try:
        family, _, _, _, address = socket.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            port = probe.getsockname()[1]
    except socket.gaierror as why:
        raise BadInput(
            f"There is no address {asked.host!r}.", "Use 127.0.0.1, 0.0.0.0 or this machine's name."
        ) from why
    except OSError as why:
        raise BadInput(
            f"Port {asked.port} on {asked.host} cannot be used: {why.strerror}.",
            "Something listens there already (perhaps Deltalab); try --port 0.",
        ) from why
    shown = asked.host if asked.host not in ("0.0.0.0", "::", "") else socket.gethostname()
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    command = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.address={asked.host}",
               f"--server.port={port}", "--server.headless=true", "--browser.gatherUsageStats=false"]  # fmt: skip
    alone = asked.host in ("127.0.0.1", "localhost", "::1")
    if not alone:
        # Nobody here knows by which names others call this machine. And without an address to print, Streamlit would
        # ask a service on the internet for one.
        command += ["--server.allowedHosts=*", f"--browser.serverAddress={shown}"]
    # Streamlit reads .streamlit/config.toml from the working folder. The server is in a session of its own, so that a
    # Ctrl-C reaches it once, through us, and not a second time from the terminal.
    server = subprocess.Popen(command, cwd=script.parents[1], start_new_session=True, stdout=subprocess.DEVNULL)
    stopped = False

    def stop(_number: int, _frame: Any) -> None:
        nonlocal stopped
        stopped = True
        server.terminate()

    before = {number: signal.signal(number, stop) for number in _stop_signals()}
    try:
        local = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(asked.host, asked.host)
        while server.poll() is None and not _is_up(local, port):
            time.sleep(0.1)
        if server.poll() is None:
            if asked.json:
                print(json.dumps({"url": url, "host": asked.host, "port": port, "pid": server.pid}), flush=True)
            else:
                print(f"Deltalab: {url}\nCtrl-C ends the server; runs go on without it.", flush=True)
            if not alone:
                print("Everyone who can reach this address can use this machine for training.", file=sys.stderr)
            if not asked.no_browser and has_display():
                import webbrowser

                webbrowser.open(url)
        code = server.wait()
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 0 or stopped:
        return DONE
    print(f"The server ended with status {code}; what it said is above.", file=sys.stderr)
    return FAILED


def _stop_signals() -> list[Any]:
    import signal

    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _app_script() -> Path:
    from importlib.util import find_spec

    spec = find_spec("app")
    places = list(spec.submodule_search_locations or []) if spec else []
    script = Path(places[0]) / "main.py" if places else None
    if script is None or not script.is_file():
        raise Refused("The app is not part of this installation.", "Install Deltalab from its repository.")
    return script


def _is_up(host: str, port: int) -> bool:
    """Whether the server is up: its health route says so."""
    import http.client

    line = http.client.HTTPConnection(host, port, timeout=2)
    try:
        line.request("GET", "/_stcore/health")
        return line.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


def has_display() -> bool:
    """Whether a browser that is opened here would be seen by somebody."""
    if os.environ.get("CI"):
        return False
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return not os.environ.get("SSH_CONNECTION")


if __name__ == "__main__":
    raise SystemExit(main())
