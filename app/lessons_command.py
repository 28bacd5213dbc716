"""`deltalab lessons`: what is done to lessons from a terminal.

    python -m app.lessons_command record 03_lora_rank             what is missing or was made with other settings
    python -m app.lessons_command record 03_lora_rank sweep/r8    these cells or runs, whatever there is
    python -m app.lessons_command record 03_lora_rank --all       everything anew

Exit codes as of `deltalab`: 0 done, 1 a run failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from app import index
from core.cli.arguments import BAD_INPUT, DONE, FAILED, Parser, command
from core.errors import DeltalabError


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The actions and their flags."""
    one = command(commands, "record", record, "make the recorded results of a lesson")
    one.add_argument("lesson", metavar="NN_slug", help="the lesson's folder")
    one.add_argument("names", metavar="ID", nargs="*", help="cells, or comparison/run; without any: what is missing")
    one.add_argument("--all", action="store_true", help="make everything anew")


def read(name: str) -> index.Lesson:
    """A lesson by its folder's name, with its recorded results or without.

    Raises:
        BadInput: there is none; LessonMistakes: it cannot be read.
    """
    path = index.ROOT / name / "lesson.md"
    if not path.is_file():
        known = ", ".join(p.parent.name for p in sorted(index.ROOT.glob("*/lesson.md")))
        raise index.BadInput(f"There is no lesson {name!r}.", f"There are: {known}.")
    lesson, mistakes = index.read(path, recorded=False)
    if lesson is None:
        raise index.LessonMistakes(mistakes)
    return lesson


def record(asked: argparse.Namespace) -> int:
    """Make what is asked for, one after the other; a run that fails stops it."""
    from app import recording

    lesson = read(asked.lesson)
    todo = recording.chosen(lesson, asked.names, again=asked.all)
    if not todo:
        print("Everything is recorded as the lesson asks for it.")
        return DONE
    began = time.monotonic()
    for number, job in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {job.cell.kind} {job.name}: {recording.stale(lesson, job) or 'made anew'}")
        try:
            recording.make(lesson, job, lambda line: print(f"  {line}", flush=True))
        except DeltalabError as error:
            print(error, file=sys.stderr)
            return FAILED
    print(f"{len(todo)} results in {time.monotonic() - began:.0f} s. They lie in lessons/{lesson.slug}/runs.")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = Parser(prog="deltalab lessons", description="What is done to lessons from a terminal.")
    add(parser.add_subparsers(metavar="ACTION", required=True))
    try:
        asked = parser.parse_args(arguments)
        done: int = asked.do(asked)
        return done
    except SystemExit as end:
        return int(end.code or 0)
    except DeltalabError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    raise SystemExit(main())
