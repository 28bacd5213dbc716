"""The sides of a run that can be talked to.

before: the base. after: the base with the change beside its weights, switched on. merged: a plain model with the change
inside its weights, which is what gets shipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import DeltalabError

BEFORE, AFTER, MERGED = SIDES = ("before", "after", "merged")


@dataclass(frozen=True)
class Ended:
    """How a side's answer came to its end.

    tokens: generated, with the one that ends an answer. complete: whether that one came; False: the answer was cut at
    its longest. first_seconds: until its first token, from when the process took the question up; with the loading of
    a model and the other sides' turns. tokens_per_second: of the tokens behind the first, in the time that this side
    itself computed; None without any. error: why there is no answer, or only half of one.
    """

    tokens: int = 0
    complete: bool = False
    first_seconds: float | None = None
    tokens_per_second: float | None = None
    error: DeltalabError | None = None


def why_not_merged(method: str) -> str | None:
    """Why runs of a method have no merged side; None when they have one."""
    from core.methods import METHODS

    return None if METHODS[method].MERGES else METHODS[method].INFERENCE
