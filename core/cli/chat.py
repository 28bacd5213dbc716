"""`deltalab chat`: talk to a model, before and after its fine-tuning, and with the change merged into its weights."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.arguments import DONE, command, json_argument, quiet_libraries
from core.cli.stored import OWNER, find_run, open_store
from core.errors import BadInput, Refused
from core.runs.sides import AFTER, BEFORE, MERGED, SIDES, why_not_merged

if TYPE_CHECKING:
    from core.methods.base import Attached

ANSWER = "answer"  # what a plain base says


def add(commands: Any) -> None:
    """The command's flags."""
    chat = command(commands, "chat", _chat, "talk to a model, before and after its fine-tuning")
    chat.add_argument("run", metavar="RUN", nargs="?", help="a run's id, or last, or a folder with an adapter")
    chat.add_argument("--base", help="talk to this base alone, or put the folder's adapter on it (default: embedded)")
    chat.add_argument("--prompt", help="ask this and exit; without it a conversation begins")
    which = chat.add_mutually_exclusive_group()
    which.add_argument("--only", choices=SIDES, help="one side alone")
    which.add_argument("--sides", metavar="SIDE,…", help=f"of {', '.join(SIDES)}: which answer (default: before,after)")
    chat.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default: 0)")
    chat.add_argument("--seed", type=int, metavar="N", help="of the sampling, the same for every side (default: drawn)")
    json_argument(chat)


def _chat(asked: argparse.Namespace) -> int:
    if not 1 <= asked.max_new_tokens <= 4096:
        raise BadInput("--max-new-tokens must be from 1 to 4096.")
    if not 0 <= asked.temperature <= 10:
        raise BadInput("--temperature must be from 0 to 10.")
    if asked.seed is not None and not 0 <= asked.seed < 2**63:
        raise BadInput("--seed must be a whole number from 0 to 2⁶³ − 1.")
    if asked.prompt is not None and not asked.prompt.strip():
        raise BadInput("The prompt is empty.", "Ask something.")
    base, revision, adapter, dtype = _speaker(asked)
    sides = _sides(asked, adapter)
    if asked.temperature > 0 and asked.seed is None:
        asked.seed = secrets.randbelow(2**31)
    quiet_libraries()
    answer = _answerer(asked, base, revision, adapter, dtype, sides)
    if asked.prompt is not None:
        if asked.json:
            print(_record(asked, asked.prompt, answer))
            return DONE
        _print_answers(answer(asked.prompt))
        return DONE
    return _converse(asked, answer)


def _sides(asked: argparse.Namespace, adapter: Path | None) -> tuple[str, ...]:
    """Which sides answer, in the order of SIDES; without an adapter there is but one.

    Raises:
        BadInput, Refused: no such side, or no run to have sides, or one that does not merge.
    """
    from core.methods import saved_as

    flag = "--only" if asked.only else "--sides"
    names = [asked.only] if asked.only else [s.strip() for s in (asked.sides or "").split(",") if s.strip()]
    if adapter is None:
        if names:
            raise BadInput(f"{flag} chooses a side of a run, and none is named.", f"Name a run, or leave {flag} out.")
        return (ANSWER,)
    unknown = [name for name in names if name not in SIDES]
    if unknown or (asked.sides is not None and not names):
        what = f"{unknown[0]!r} is no side." if unknown else "--sides names no side."
        raise BadInput(what, f"The sides are {', '.join(SIDES)}; several are separated by commas.")
    if MERGED in names:
        why = why_not_merged(saved_as(adapter)[0])
        if why is not None:
            raise Refused(f"This run has no merged side. {why}", "Leave merged out.")
    return tuple(side for side in SIDES if side in names) or (BEFORE, AFTER)


def _record(asked: argparse.Namespace, prompt: str, answer: Answers) -> str:
    """A prompt and its answers as one line of JSON; with the seed, if they were drawn."""
    answers = {side: "".join(text) for side, text in answer(prompt)}
    drawn = {"temperature": asked.temperature, "seed": asked.seed} if asked.temperature > 0 else {}
    return json.dumps({"prompt": prompt, **answers, **drawn})


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
    asked: argparse.Namespace,
    base: str,
    revision: str | None,
    adapter: Path | None,
    dtype: str | None,
    sides: Sequence[str],
) -> Answers:
    """Load the models and return what answers a prompt: (side, pieces of text) for each side.

    Merged is a model loaded for itself, so that the other sides keep theirs as it is.
    """
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
    models: dict[str, Any] = {}
    attached: Attached | None = None
    tokenizer: Any = None
    for merge in {side == MERGED for side in sides}:
        loaded, change = load_saved(
            base, adapter, revision=revision, precision=precision, device=device, keep_base=not merge
        )
        tokenizer = loaded.tokenizer
        if merge and change is not None:
            models[MERGED] = change.merge()
        else:
            attached = change
            models |= dict.fromkeys((ANSWER, BEFORE, AFTER), loaded.model)

    def pieces(side: str, prompt: str) -> Iterator[str]:
        if attached is not None and side != MERGED:
            attached.disable() if side == BEFORE else attached.enable()
        with torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext():
            yield from answer(
                models[side],
                tokenizer,
                conversation(prompt),
                asked.max_new_tokens,
                asked.temperature,
                seed=asked.seed,
            )

    return lambda prompt: ((side, pieces(side, prompt)) for side in sides)


def _print_answers(answers: Iterator[tuple[str, Iterator[str]]]) -> None:
    for side, pieces in answers:
        if side != ANSWER:
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
            print(_record(asked, line, answer), flush=True)
        else:
            _print_answers(answer(line))
