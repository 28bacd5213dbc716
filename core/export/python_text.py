"""Python as text: values and calls as a person would write and break them, for the exported scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

WIDTH = 110


class Code(str):
    """Python that stands where it is, not a text in quotes: a name, a call."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def value_text(value: Any) -> str:
    """A value as a literal, texts in double quotes; whatever stands in a text, it stays a text."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON's escapes are Python's
    if isinstance(value, dict):
        return "{" + ", ".join(f"{value_text(k)}: {value_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(value_text, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return repr(value)


def call(name: str, function: str, arguments: dict[str, Any]) -> str:
    """`name = function(…)`, in one line if it fits, else one argument a line."""
    short = f"{name} = {function}({', '.join(f'{k}={value_text(v)}' for k, v in arguments.items())})"
    if len(short) <= WIDTH:
        return short
    return "\n".join([f"{name} = {function}(", *(literal(f"    {k}=", v) + "," for k, v in arguments.items()), ")"])


def literal(head: str, value: Any) -> str:
    """`head` and the value behind it, broken into lines where it is a long list."""
    if not isinstance(value, (list, tuple)):
        return head + value_text(value)
    line = head + value_text(value)
    if len(line) < WIDTH:
        return line
    space = " " * (len(head) - len(head.lstrip()))
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    lines, room = [""], WIDTH - len(space) - 4
    for one in value:
        item = f"{value_text(one)},"
        if lines[-1] and len(lines[-1]) + 1 + len(item) > room:
            lines.append("")
        lines[-1] += f" {item}" if lines[-1] else item
    return "\n".join([head + opening, *(f"{space}    {line}" for line in lines), space + closing])


def ends(names: Sequence[str]) -> str:
    """A tuple of name endings, each behind a dot."""
    return value_text(tuple(f".{n}" for n in names))
