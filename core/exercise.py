"""Checks of exercises: a lesson's checks.py looks at what the learner's code left behind, and says what it means.

A check is a function `def count(space: dict[str, Any]) -> str` where `space` is the namespace after the code ran. It
returns a sentence of praise (which may name a score), or raises `Wrong` with a message that teaches. Whoever shows it
says "Right." or "Not yet." before it. It runs where the code ran, in the learner's own process; it may import core and
torch.

    verdict = run(folder / "checks.py", "count", space)
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from core.errors import BadInput


class Wrong(Exception):
    """What is wrong with an answer, in a sentence that teaches."""


@dataclass(frozen=True)
class Verdict:
    """right: whether the answer was accepted. words: the praise, or what is wrong."""

    right: bool
    words: str


def load(path: Path) -> ModuleType:
    """The module in a lesson's checks.py, read anew. (The folder's name, 03_lora_rank, cannot be imported by name.)

    Raises:
        BadInput: there is no such file.
    """
    if not path.is_file():
        raise BadInput(f"The lesson {path.parent.name} has no {path.name}.")
    spec = importlib.util.spec_from_file_location(f"checks_of_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(checks: Path, name: str, space: dict[str, Any]) -> Verdict:
    """Check a namespace with the function `name` of the file `checks`.

    What the learner's own functions raise while they are tried is a wrong answer, told with the kind of the error and
    the line of the learner's code, not a failure of the check.

    Raises:
        BadInput: there is no such file or function.
    """
    check: Callable[[dict[str, Any]], Any] | None = getattr(load(checks), name, None)
    if not callable(check):
        raise BadInput(f"{checks.name} of {checks.parent.name} has no check {name!r}.")
    try:
        praise = check(space)
    except Wrong as wrong:
        return Verdict(False, str(wrong))
    except Exception as error:
        return Verdict(False, _raised(error, checks))
    return Verdict(True, str(praise or ""))


def _raised(error: Exception, checks: Path) -> str:
    """An error that came out of the learner's code in words."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != str(checks)]
    own = [f for f in frames if f.filename.startswith("<") or "ipykernel" in f.filename]
    line = f" in line {own[-1].lineno} of your code" if own else ""
    said = str(error).strip()
    return f"When your code was tried, it raised {type(error).__name__}{line}{': ' + said if said else ''}."
