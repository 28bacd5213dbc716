"""The command `deltalab`: the engine's commands (core/cli), and those that are about the app's lessons.

The engine does not know the app, so the two are put together here, where both are known: the installed command starts
this module. `python -m core.cli` is the engine alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from app import lessons_command
from core import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return cli.main(arguments, more=(lessons_command,))


if __name__ == "__main__":
    raise SystemExit(main())
