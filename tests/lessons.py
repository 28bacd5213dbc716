"""`make lessons`: the whole course, run. Every lesson is exported as a notebook and executed from top to bottom, its
experiments, comparisons and measurements at full size, in one plain Jupyter kernel.

    make lessons                                        # all twelve, on two cores
    .venv/bin/python -m tests.lessons 03_lora_rank      # some of them

Prints how long each took; ends with exit code 1 when a cell fails. (`make test` runs the same in a short form.)
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from app import index, notebook

LONGEST = 1200
"""Seconds that one cell may take: a comparison of several runs is one cell."""


def main(names: Sequence[str] | None = None) -> int:
    """Run the lessons of those names, or all; one line each."""
    wanted = sys.argv[1:] if names is None else list(names)
    unknown = sorted(set(wanted) - {lesson.slug for lesson in index.lessons()})
    if unknown:
        print(f"There is no lesson {', '.join(unknown)}.", file=sys.stderr)
        return 2
    for mistake in index.mistakes():
        print(mistake, file=sys.stderr)
    failed = bool(index.mistakes())
    manager = KernelManager(kernel_name="python3")
    with tempfile.TemporaryDirectory() as folder:
        manager.start_kernel(
            cwd=folder, env={**os.environ, "DELTALAB_HOME": folder, "PLOTLY_RENDERER": "plotly_mimetype"}
        )
        began = time.monotonic()
        for lesson in index.lessons():
            if wanted and lesson.slug not in wanted:
                continue
            made = nbformat.reads(notebook.notebook(lesson), as_version=4)
            made.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
            start = time.monotonic()
            told = "ran"
            try:
                NotebookClient(
                    made, km=manager, timeout=LONGEST, resources={"metadata": {"path": folder}}
                ).execute()  # fmt: skip
            except (CellExecutionError, CellTimeoutError) as error:
                failed, told = True, f"failed: {str(error).strip().splitlines()[-1]}"
            print(f"{lesson.slug:<28} {time.monotonic() - start:6.0f} s  {told}", flush=True)
        print(f"{'all':<28} {time.monotonic() - began:6.0f} s")
        manager.shutdown_kernel(now=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
