"""Python text as a tree, one thread at a time.

CPython 3.11 counts the depth of a tree in a place that all threads share. When the collector of garbage runs in the
middle and lets another thread parse, the first one fails: "SystemError: AST constructor recursion depth mismatch"
(https://github.com/python/cpython/issues/106905). A server has many threads, so everything that Deltalab parses in one
goes through here.

    tree("x = 1").body
    tree("1 + 2", mode="eval").body
"""

from __future__ import annotations

import ast
import threading
from typing import Literal, overload

_ONE = threading.RLock()


@overload
def tree(text: str, mode: Literal["exec"] = "exec") -> ast.Module: ...
@overload
def tree(text: str, mode: Literal["eval"]) -> ast.Expression: ...
def tree(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.Module | ast.Expression:
    """What `ast.parse` gives.

    Raises:
        SyntaxError, ValueError: as `ast.parse` does.
    """
    with _ONE:
        parsed = ast.parse(text, mode=mode)
    assert isinstance(parsed, (ast.Module, ast.Expression))
    return parsed
