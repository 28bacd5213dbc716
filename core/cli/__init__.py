"""The command `deltalab`: the engine without a browser.

    deltalab train --base embedded --task json --method lora --seed 0
    deltalab runs                what was run; also: show RUN, resume RUN, cancel RUN…, delete RUN…
    deltalab race --task json    several methods on the same data, and what each gave for what it cost
    deltalab chat RUN            talk to a run's model, before and after
    deltalab probe RUN spectrum  measure what a run changed; also: truncation, tokens, overlap …
    deltalab check RUN|FOLDER    whether other programs would load it; also: convert, merge, card RUN
    deltalab export RUN --out FILE.zip   adapter, scripts, notebook, curves, data
    deltalab guide               prompting, retrieval, fine-tuning or both: a recommendation with its reasons
    deltalab rag index PATH --to INDEX   documents to look up; also: ask, evaluate, raft, experiment, bench
    deltalab params --model PATH --method lora --set rank=16
    deltalab memory --model NAME --method qlora --batch 4 --seq 2048 --gpu "RTX 4090"
    deltalab models              what can be trained on this machine, or on --gpu NAME
    deltalab doctor              what this machine has, and what will be slow
    deltalab serve               the app in the browser
    deltalab lessons             the app's (app/command.py): check, list, export, record

Answers go to standard output (one JSON object with --json), progress and mistakes to standard error. Exit codes:
0 done, 1 a run failed or was interrupted, 2 bad input (one sentence says what is wrong). Nothing heavy is imported
before it is needed, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from core.cli import chat, doctor, export, guide, memory, models, params, probe, race, rag, runs, serve, ship, train
from core.cli.arguments import BAD_INPUT, BAD_INPUT_KINDS, DONE, FAILED, Parser
from core.errors import DeltalabError

COMMANDS: tuple[Any, ...] = (
    train, race, runs, chat, probe, ship, export, guide, rag, params, memory, models, doctor, serve,
)  # fmt: skip


def parser(more: Sequence[Any] = ()) -> Parser:
    """The whole command line; `more`: modules of another layer that have commands, too."""
    top = Parser(
        prog="deltalab", description="Learn efficient fine-tuning of language models by running it.",
        epilog="`deltalab serve` opens the app; `deltalab COMMAND --help` tells more about a command.",
    )  # fmt: skip
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(metavar="COMMAND", dest="command")
    for one in (*COMMANDS, *more):
        one.add(commands)
    return top


def main(arguments: Sequence[str] | None = None, *, more: Sequence[Any] = ()) -> int:
    """Run the command line and return its exit code; nothing but defects of this program raise."""
    top = parser(more)
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
        complain(error)
        return BAD_INPUT if error.kind in BAD_INPUT_KINDS else FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader of our output has gone (`deltalab runs list | head -1`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def complain(error: DeltalabError) -> None:
    print(" ".join(part for part in (error.sentence, error.advice) if part), file=sys.stderr)
