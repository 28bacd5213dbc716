"""The real source of a function, found without importing it (torch stays out of the server). Pure.

found = source("core.methods.lora:pair_parameters")
found.text, found.path, found.line
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core import syntax
from core.errors import BadInput

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("core", "kernels", "app")


@dataclass(frozen=True)
class Source:
    """A piece of code. path: its file, from the repository's root. line: of its first line, from 1."""

    path: str
    line: int
    text: str


def source(name: str) -> Source:
    """The source of `module:qualified.name`, of a function, a class or a method, its decorators included.

    Raises:
        BadInput: no such module of ours, or nothing of that name in it.
    """
    module, _, qualified = name.partition(":")
    parts = module.split(".")
    if not qualified or parts[0] not in LAYERS or not all(p.isidentifier() for p in (*parts, *qualified.split("."))):
        raise BadInput(f"{name!r} names no code of ours.", "Write module:name, such as core.methods.lora:attach.")
    base = ROOT.joinpath(*parts)
    path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
    if path is None:
        raise BadInput(f"There is no module {module!r}.")
    return _read(path, qualified, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: Path, qualified: str, _stamp: int) -> Source:
    text = path.read_text(encoding="utf-8")
    where: ast.AST = syntax.tree(text)
    for part in qualified.split("."):
        found = next((node for node in getattr(where, "body", ()) if _is_called(node, part)), None)
        if found is None:
            raise BadInput(f"{path.relative_to(ROOT)} has no {qualified!r}.")
        where = found
    assert isinstance(where, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign))
    decorators = getattr(where, "decorator_list", [])
    first = min([where.lineno, *(d.lineno for d in decorators)])
    lines = text.splitlines()[first - 1 : where.end_lineno]
    return Source(str(path.relative_to(ROOT)), first, textwrap.dedent("\n".join(lines)))


def _is_called(node: ast.AST, name: str) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name == name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(t, ast.Name) and t.id == name for t in targets)
