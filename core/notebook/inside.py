"""What the learner's kernel process knows of Deltalab: tables and errors as plain data, and checks of exercises.

Runs in the kernel only (process.py starts it); importing it is light.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import core
from core import exercise
from core.notebook.outputs import TABLE, VERDICT

ROOT = Path(core.__file__).resolve().parents[1]
MOST_ROWS, MOST_COLUMNS = 50, 30
MOST_LETTERS = 200

_defined: dict[str, dict[str, int]] = {}
"""What the last try of each exercise has left in the namespace: name -> id of the object."""
_before: dict[str, int] = {}


def table_of(frame: Any) -> dict[str, Any]:
    """A pandas DataFrame (or a Series) as columns and rows of plain values, an index that says something included."""
    if not hasattr(frame, "columns"):
        frame = frame.to_frame()
    total, wide = len(frame), len(frame.columns)
    shown = frame.iloc[:MOST_ROWS, :MOST_COLUMNS]
    if type(shown.index).__name__ != "RangeIndex" or shown.index.name:
        shown = shown.reset_index()
    columns = [str(name) for name in shown.columns]
    rows = [[_plain(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    if wide > MOST_COLUMNS:
        columns.append("…")
        rows = [[*row, f"{wide - MOST_COLUMNS} more columns"] for row in rows]
    return {"columns": columns, "rows": rows, "total": total}


def _plain(value: Any) -> Any:
    """A cell of a table as JSON has it; what JSON has not is its text."""
    if hasattr(value, "item") and getattr(value, "size", 2) == 1:
        value = value.item()
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value)[:MOST_LETTERS]


def own(filename: str) -> bool:
    """Whether code of that file name was typed into a cell."""
    return "ipykernel_" in filename or filename.startswith("<ipython")


def error_of(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> dict[str, Any]:
    """An error as its learner needs it.

    Returns:
        name, message: of the error. line: where it left the cell that was run, from 1 (0 when it never was there).
        frames: the lines of the learner's own code on the way, outermost first: {"line", "name", "text", "here"}; here:
        it is of the cell that was run and not of an earlier one. where: the file and line of somebody else's code in
        which it was raised; empty when it was the learner's own.
    """
    frames: list[dict[str, Any]] = []
    where, here = "", ""
    for frame in traceback.extract_tb(trace):
        if own(frame.filename):
            here = here or frame.filename
            name = "" if frame.name == "<module>" else frame.name
            mine = frame.filename == here
            frames.append({"line": frame.lineno or 0, "name": name, "text": frame.line or "", "here": mine})
            where = ""
        elif frames:
            where = f"{_short(frame.filename)}, line {frame.lineno}"
    message = str(error)
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
        frames = [{"line": line, "name": "", "text": (error.text or "").rstrip(), "here": True}]
        message, where = error.msg or message, ""
    elif isinstance(error, MemoryError):
        message = message or "there is not enough memory for this; a cell may use no more than its share"
    elif isinstance(error, SystemExit):
        message = "the code asked to end here; what was defined before is still there"
    elif kind.__name__ == "StdinNotImplementedError":
        message = "input() cannot ask here; write the value into the code"
    line = next((f["line"] for f in reversed(frames) if f["here"]), 0)
    if len(frames) > 12:  # a recursion without an end
        frames = [*frames[:6], *frames[-6:]]
    return {
        "name": kind.__name__, "message": message[:2000], "line": line, "frames": frames[:12], "where": where,
    }  # fmt: skip


def _short(filename: str) -> str:
    """A file of somebody else: from the repository's root if it is ours, else its package and name."""
    path = Path(filename)
    if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
        return path.relative_to(ROOT).as_posix()
    parts = path.parts
    for mark in ("site-packages", "dist-packages"):
        if mark in parts:
            return "/".join(parts[parts.index(mark) + 1 :])
    return os.path.basename(filename)


def begin(name: str, space: dict[str, Any]) -> None:
    """Before a try of an exercise: forget what its last try has defined, so that an old answer cannot pass for a new
    one. What other cells have defined stays."""
    for key, was in _defined.pop(name, {}).items():
        if key in space and id(space[key]) == was:
            del space[key]
    _before.clear()
    _before.update({key: id(value) for key, value in space.items()})


def check(name: str, checks: str, function: str, space: dict[str, Any]) -> None:
    """After it: remember what was defined, check it, and show the verdict."""
    from IPython.display import publish_display_data

    _defined[name] = {
        key: id(value) for key, value in space.items() if not key.startswith("_") and _before.get(key) != id(value)
    }
    verdict = exercise.run(Path(checks), function, space)
    publish_display_data({VERDICT: {"right": verdict.right, "text": verdict.words}})


def install(shell: Any) -> None:
    """Teach a shell to show data frames as plain tables, and plotly's figures as data."""
    from IPython.core.formatters import BaseFormatter
    from traitlets import ObjectName, Unicode

    class TableFormatter(BaseFormatter):
        format_type = Unicode(TABLE)
        print_method = ObjectName("_repr_deltalab_table_")
        _return_type = dict

    formatter = TableFormatter(parent=shell.display_formatter)
    for kind in ("DataFrame", "Series"):
        formatter.for_type_by_name("pandas", kind, table_of)
        formatter.for_type_by_name("pandas.core.frame", kind, table_of)
        formatter.for_type_by_name("pandas.core.series", kind, table_of)
    shell.display_formatter.formatters[TABLE] = formatter
    shell.display_formatter.active_types = [*shell.display_formatter.active_types, TABLE]
