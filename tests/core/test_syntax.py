"""Python text as a tree: what `ast.parse` gives, whatever other threads parse at the same time."""

from __future__ import annotations

import ast
import gc
import sys
import threading
import time
from pathlib import Path

import pytest

from core import syntax

FOLDERS = ("app", "core")
ROOT = Path(__file__).resolve().parents[2]


def test_it_is_what_python_makes_of_it() -> None:
    assert ast.dump(syntax.tree("x = 1")) == ast.dump(ast.parse("x = 1"))
    assert ast.dump(syntax.tree("f(a=2)", mode="eval")) == ast.dump(ast.parse("f(a=2)", mode="eval"))
    with pytest.raises(SyntaxError):
        syntax.tree("def")


def test_threads_do_not_disturb_each_other() -> None:
    """Of CPython 3.11 `ast.parse` fails here within a second: its collector of garbage lets another thread in."""
    text = "\n".join(
        f"def f{i}(a, b=[1, {{2: (3, a)}}]):\n    return [x + (a * -b) for x in a if x]" for i in range(60)
    )
    failed: list[Exception] = []
    until = time.monotonic() + 1.5

    class Gone:
        """Garbage whose end takes a moment, in which another thread may go on."""

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            time.sleep(0)

    def parse() -> None:
        while time.monotonic() < until and not failed:
            garbage = [Gone() for _ in range(20)]
            del garbage
            try:
                syntax.tree(text)
            except Exception as error:
                failed.append(error)

    before, pause = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=parse) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(pause)
    assert failed == []


def test_everything_that_is_parsed_goes_through_it() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "ast.parse(" in path.read_text(encoding="utf-8") and path.name != "syntax.py"
    ]
    assert found == []
