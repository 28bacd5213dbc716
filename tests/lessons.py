"""`make lessons`: the whole course, run. Every lesson is exported as a notebook and executed from top to bottom, its
experiments, comparisons and measurements at full size, in a plain Jupyter kernel.

    make lessons                                        # all twelve, on two cores
    .venv/bin/python -m tests.lessons 03_lora_rank      # some of them
    .venv/bin/python -m tests.lessons --record          # all, with the times into tests/records/lessons_cpu.json

A kernel for each of two processors, and a thread for each kernel: two small trainings beside each other do more than
one with two threads. Prints how long each lesson took, and each of its cells that took more than a few seconds; ends
with exit code 1 when a cell fails. (`make test` runs the same in a short form.)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from app import index, lab, notebook
from tests.time_calculators import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = Path(__file__).with_name("records") / "lessons_cpu.json"
LONGEST = 1200
"""Seconds that one cell may take: a comparison of several runs is one cell."""
TOLD = 10
"""Seconds from which a cell has a line of its own."""
KERNELS = 2
LIMIT = 40 * 60
"""Seconds that the whole may take on two processors."""


@dataclass(frozen=True)
class Ran:
    """A lesson that was executed. cells: seconds and first line of each code cell. mistake: '' when all of them ran."""

    slug: str
    seconds: float
    cells: tuple[tuple[float, str], ...]
    mistake: str

    @property
    def lines(self) -> str:
        told = [f"{self.slug:<28} {self.seconds:6.0f} s  {f'failed: {self.mistake}' if self.mistake else 'ran'}"]
        told += [f"    {seconds:6.0f} s  {cell}" for seconds, cell in self.cells if seconds >= TOLD]
        return "\n".join(told)


@contextmanager
def kernels(count: int) -> Iterator[SimpleQueue[tuple[KernelManager, str]]]:
    """So many kernels with a thread each, and the folder that each works in."""
    free: SimpleQueue[tuple[KernelManager, str]] = SimpleQueue()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "DELTALAB_THREADS"), "1") if count > 1 else {}
    managers = [KernelManager(kernel_name="python3") for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, manager in enumerate(managers):
                place = Path(folder) / str(number)
                place.mkdir()
                how = {"DELTALAB_HOME": str(place), "PLOTLY_RENDERER": "plotly_mimetype", **threads}
                manager.start_kernel(cwd=str(place), env={**os.environ, **how})
                free.put((manager, str(place)))
            yield free
        finally:
            for manager in managers:
                manager.shutdown_kernel(now=True)


def execute(lesson: index.Lesson, manager: KernelManager, folder: str) -> Ran:
    """Run a lesson's notebook in a kernel that other lessons may have used before."""
    made = nbformat.reads(notebook.notebook(lesson), as_version=4)
    made.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    began, mistake = time.monotonic(), ""
    try:
        NotebookClient(made, km=manager, timeout=LONGEST, resources={"metadata": {"path": folder}}).execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        mistake = str(error).strip().splitlines()[-1]
    return Ran(lesson.slug, time.monotonic() - began, tuple(sorted(cells(made), reverse=True)), mistake)


def cells(ran: nbformat.NotebookNode) -> list[tuple[float, str]]:
    """Seconds and first line of every code cell of an executed notebook that was reached."""
    found = []
    for cell in ran.cells:
        times = cell.metadata.get("execution", {})
        if {"iopub.status.busy", "iopub.status.idle"} <= set(times):
            busy, idle = (datetime.fromisoformat(times[f"iopub.status.{what}"]) for what in ("busy", "idle"))
            found.append(((idle - busy).total_seconds(), cell.source.strip().partition("\n")[0]))
    return found


def known_seconds() -> dict[str, float]:
    """How long each lesson took when the record was made; nothing without one."""
    if not RECORD.is_file():
        return {}
    return {slug: row["seconds"] for slug, row in json.loads(RECORD.read_text(encoding="utf-8"))["lessons"].items()}


def main(given: list[str] | None = None) -> int:
    """Run the lessons of those names, or all; some lines for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.lessons", description=main.__doc__)
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="the folder's name; none: all of them")
    parser.add_argument("--kernels", type=int, default=KERNELS, metavar="N", help="lessons beside each other")
    parser.add_argument("--record", action="store_true", help="keep the times in tests/records/lessons_cpu.json")
    asked = parser.parse_args(given)
    lessons = {lesson.slug: lesson for lesson in index.lessons()}
    if unknown := sorted(set(asked.lessons) - set(lessons)):
        parser.error(f"there is no lesson {', '.join(unknown)}")
    if asked.kernels < 1:
        parser.error("--kernels must be 1 or more")
    if asked.record and lab.short():
        parser.error(f"--record is about the full size: leave {lab.SHORT} out")
    if asked.record and (asked.lessons or asked.kernels != KERNELS):
        parser.error("--record takes every lesson, in the usual number of kernels")
    for mistake in index.mistakes():
        print(mistake, file=sys.stderr)
    # The longest first, so that none begins when the others are over.
    took = known_seconds()
    wanted = sorted(asked.lessons or lessons, key=lambda slug: -took.get(slug, 0))
    before, began = machine(), time.monotonic()
    with kernels(min(asked.kernels, len(wanted))) as free, ThreadPoolExecutor(asked.kernels) as pool:

        def one(slug: str) -> Ran:
            manager, folder = free.get()
            try:
                ran = execute(lessons[slug], manager, folder)
            finally:
                if not manager.is_alive():  # a cell has taken it along; the next lesson gets another
                    manager.restart_kernel(now=True)
                free.put((manager, folder))
            print(ran.lines, flush=True)
            return ran

        rows = list(pool.map(one, wanted))
    seconds = time.monotonic() - began
    print(f"{'all':<28} {seconds:6.0f} s")
    failed = bool(index.mistakes()) or any(row.mistake for row in rows)
    if asked.record and not failed:
        _record(rows, seconds, before)
    return 1 if failed else 0


def _record(rows: list[Ran], seconds: float, before: dict[str, Any]) -> None:
    content = {
        "what": "every lesson's notebook, executed at full size", "command": "python -m tests.lessons --record",
        "date": time.strftime("%Y-%m-%d"), "kernels": KERNELS, **before, "seconds": round(seconds, 1),
        "lessons": {
            row.slug: {
                "seconds": round(row.seconds, 1),
                "cells": {cell: round(took, 1) for took, cell in row.cells if took >= TOLD},
            }
            for row in sorted(rows, key=lambda row: row.slug)
        },
    }  # fmt: skip
    RECORD.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
