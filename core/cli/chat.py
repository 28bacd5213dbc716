"""`deltalab chat`: talk to a model, before and after its fine-tuning."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.cli.arguments import DONE, command, json_argument, quiet_libraries
from core.cli.stored import OWNER, find_run, open_store
from core.errors import BadInput, Refused


def add(commands: Any) -> None:
    """The command's flags."""
    chat = command(commands, "chat", _chat, "talk to a model, before and after its fine-tuning")
    chat.add_argument("run", metavar="RUN", nargs="?", help="a run's id, or last, or a folder with an adapter")
    chat.add_argument("--base", help="talk to this base alone, or put the folder's adapter on it (default: embedded)")
    chat.add_argument("--prompt", help="ask this and exit; without it a conversation begins")
    chat.add_argument("--only", choices=("before", "after"), help="one side alone")
    chat.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default: 0)")
    json_argument(chat)


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
    quiet_libraries()
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
    store = open_store()
    run = store.get(find_run(store, asked.run), OWNER)
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

    from core.hardware import best_threads, pick_precision
    from core.methods import load_saved
    from core.objective import answer
    from core.template import conversation

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(best_threads())
    precision = dtype or pick_precision(device)
    loaded, attached = load_saved(base, adapter, revision=revision, precision=precision, device=device)
    sides = ["answer"] if attached is None else [asked.only] if asked.only else ["before", "after"]

    def pieces(side: str, prompt: str) -> Iterator[str]:
        if attached is not None:
            attached.disable() if side == "before" else attached.enable()
        with torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext():
            yield from answer(
                loaded.model, loaded.tokenizer, conversation(prompt), asked.max_new_tokens, asked.temperature
            )

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
