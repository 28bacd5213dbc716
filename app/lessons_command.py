"""`deltalab lessons`: what is done to lessons from a terminal.

    deltalab lessons list
    deltalab lessons check                           everything that is wrong, with file and line
    deltalab lessons check drafts/12_mine            the same of a lesson that lies elsewhere
    deltalab lessons export 03_lora_rank --to out/   as notebooks; without a name all of them
    deltalab lessons record 03_lora_rank             what is missing or was made with other settings
    deltalab lessons record 03_lora_rank sweep/r8    these cells or runs, whatever there is
    deltalab lessons record 03_lora_rank --all       everything anew

Exit codes as of `deltalab`: 0 done, 1 a run failed or a lesson has mistakes, 2 bad input. (app/command.py puts these
beside the engine's commands.)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import index
from core.cli.arguments import DONE, FAILED, command, json_argument
from core.errors import BadInput, DeltalabError


def add(commands: Any) -> None:
    """The command, its actions and their flags."""
    lessons = commands.add_parser(
        "lessons", help="check, list, export and record the lessons", description="What is done to lessons.",
    )  # fmt: skip
    actions = lessons.add_subparsers(metavar="ACTION", required=True)

    json_argument(command(actions, "list", list_, "list the lessons, and what is in them"))

    one = command(actions, "check", check, "find what is wrong in lessons, with file and line")
    one.add_argument("lessons", metavar="NN_slug", nargs="*", help="lessons' folders, or paths; without any: all")
    json_argument(one)

    one = command(actions, "export", export, "write lessons as Jupyter notebooks that run from top to bottom")
    one.add_argument("lessons", metavar="NN_slug", nargs="*", help="lessons' folders; without any: all of them")
    one.add_argument("--to", type=Path, default=Path("."), metavar="FOLDER", help="where to (default: here)")
    json_argument(one)

    one = command(actions, "record", record, "make the recorded results of a lesson")
    one.add_argument("lesson", metavar="NN_slug", help="the lesson's folder")
    one.add_argument("names", metavar="ID", nargs="*", help="cells, or comparison/run; without any: what is missing")
    one.add_argument("--all", action="store_true", help="make everything anew")


def folders(names: Sequence[str]) -> list[Path]:
    """The lesson files of those names (or folders, wherever they lie), or all.

    Raises:
        BadInput: there is none of a name, or none at all.
    """
    every = {path.parent.name: path for path in sorted(index.ROOT.glob("*/lesson.md"))}
    if not every and not names:
        raise BadInput(f"There is no lesson in {index.ROOT}.", "A lesson is a folder NN_slug with a lesson.md in it.")
    found = []
    for name in names:
        given = Path(name).resolve()
        written = given / "lesson.md" if given.is_dir() else given
        if name in every:
            found.append(every[name])
        elif written.name == "lesson.md" and written.is_file():
            found.append(written)
        else:
            raise BadInput(
                f"There is no lesson {name!r}.",
                f"There are: {', '.join(every)}." if every else "Name a folder with a lesson.md in it.",
            )
    return sorted(set(found)) if names else list(every.values())


def readable(names: Sequence[str]) -> list[index.Lesson]:
    """The lessons of those names, or all.

    Raises:
        BadInput: there is none of a name; LessonMistakes: one of them cannot be read.
    """
    found, wrong = [], []
    for path in folders(names):
        lesson, mistakes = index.read(path)
        wrong += mistakes
        found += [lesson] if lesson is not None else []
    if wrong:
        raise index.LessonMistakes(wrong)
    return found


def list_(asked: argparse.Namespace) -> int:
    """One line a lesson."""
    rows: list[dict[str, Any]] = []
    for lesson in readable(()):
        kinds = Counter(cell.kind for cell in lesson.cells if cell.number)
        rows.append(
            {
                "slug": lesson.slug, "number": lesson.order, "title": lesson.title, "minutes": lesson.minutes,
                "address": f"/{lesson.url_path}", "cells": dict(sorted(kinds.items())),
            }
        )  # fmt: skip
    if asked.json:
        print(json.dumps({"lessons": rows}, ensure_ascii=False))
        return DONE
    for row in rows:
        parts = ", ".join(f"{count} {kind}" for kind, count in row["cells"].items())
        print(f"{row['slug']:<26} {row['title']} ({row['minutes']} min; {parts})")
    return DONE


def check(asked: argparse.Namespace) -> int:
    """Say everything that is wrong."""
    found = mistakes_in(folders(asked.lessons))
    if asked.json:
        rows = [{"lesson": m.path.parent.name, "line": m.line, "sentence": m.sentence} for m in found]
        print(json.dumps({"lessons": len(folders(asked.lessons)), "mistakes": rows}, ensure_ascii=False))
    else:
        for mistake in found:
            print(mistake, file=sys.stderr)
        if not found:
            print(f"{len(folders(asked.lessons))} lessons, nothing wrong.")
    return FAILED if found else DONE


def mistakes_in(paths: Sequence[Path]) -> list[index.Mistake]:
    """What the format forbids, the numbers that the engine refuses to compute, and what the linter finds; and lessons
    that get into each other's way, though each of them is right."""
    from app.lint import lint

    out: list[index.Mistake] = []
    for path in paths:
        lesson, mistakes = index.read(path)
        out += [*mistakes, *index.clashes(path)]
        if lesson is not None:
            out += [*index.check(lesson), *lint(lesson)]
    return out


def export(asked: argparse.Namespace) -> int:
    """Write notebooks."""
    from app import notebook

    written = []
    try:
        asked.to.mkdir(parents=True, exist_ok=True)
        for lesson in readable(asked.lessons):
            path = asked.to / notebook.file_name(lesson)
            path.write_text(notebook.notebook(lesson), encoding="utf-8")
            written.append(str(path))
    except OSError as why:
        raise BadInput(f"{asked.to} cannot be written into: {why.strerror}.", "Name another folder with --to.") from why
    if asked.json:
        print(json.dumps({"notebooks": written}))
    else:
        print("\n".join(written))
    return DONE


def read(name: str) -> index.Lesson:
    """A lesson by its folder's name, with its recorded results or without.

    Raises:
        BadInput: there is none; LessonMistakes: it cannot be read.
    """
    (path,) = folders([name])
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
    """`deltalab lessons` alone: `python -m app.lessons_command ACTION …`."""
    from core import cli

    given = sys.argv[1:] if arguments is None else list(arguments)
    return cli.main(["lessons", *given], more=(sys.modules[__name__],))


if __name__ == "__main__":
    raise SystemExit(main())
