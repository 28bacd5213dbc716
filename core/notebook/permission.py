"""Whether learners may run code on this server, and why not.

Code in a cell can do what the account of the server can do (less, in a sandbox: sandbox.py). On one's own machine that
is nothing new. A server that others reach is another matter: there it is off until its operator turns it on, with
`deltalab serve --code on` or DELTALAB_CODE=on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import BadInput

VARIABLE = "DELTALAB_CODE"
CHOICES = ("auto", "on", "off")


@dataclass(frozen=True)
class Permission:
    """on: code may run. reason: why not, and what an operator can do; empty when it may."""

    on: bool
    reason: str = ""


def permission(*, reachable: bool, environment: Mapping[str, str] = os.environ) -> Permission:
    """Whether code may run.

    Args:
        reachable: other machines can reach the server.

    Raises:
        BadInput: the variable has a value that means nothing.
    """
    asked = environment.get(VARIABLE, "").strip().lower() or "auto"
    if asked not in CHOICES:
        raise BadInput(f"{VARIABLE} must be one of {', '.join(CHOICES)}, not {asked!r}.", "Set it, and start again.")
    if asked == "off":
        return Permission(False, "Running code is switched off on this server.")
    if asked == "auto" and reachable:
        return Permission(
            False,
            "This server can be reached by other machines, so running code is switched off here: code can do whatever "
            "the server's account can. Run Deltalab on your own machine to run it, or ask whoever runs this server "
            "(`deltalab serve --code on`).",
        )
    return Permission(True)
