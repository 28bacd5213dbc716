"""The widgets of lessons, one file each: a file <name with _>.py here is the widget <name>.

It has NAME, OPTIONS (name -> schema.Rule, what a lesson may set) and render(options, key), which draws it; sliders that
only do arithmetic, and the arithmetic is core's. OPTIONS is read without importing the file (app/schema.py), so it is
written out: `OPTIONS = {"d": Rule("int")}`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def renderer(name: str) -> Callable[[dict[str, Any], str], None]:
    """What draws the widget of that name."""
    drawn: Callable[[dict[str, Any], str], None] = import_module(f"app.widgets.{name.replace('-', '_')}").render
    return drawn
