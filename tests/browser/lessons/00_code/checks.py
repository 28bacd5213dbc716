"""Checks of the lesson's exercise."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong


def count_them(space: dict[str, Any]) -> str:
    """count(d, k, r) = r (d + k)."""
    count = space.get("count")
    if not callable(count):
        raise Wrong("Define a function called count.")
    found = count(3, 5, 2)
    if found is Ellipsis or found is None:
        raise Wrong("It returns nothing yet. Put a number where the dots are.")
    if found == 3 * 5:
        raise Wrong("That is the size of W_0, which is frozen.")
    if found != 2 * (3 + 5):
        raise Wrong("There are two thin matrices; count the numbers in both.")
    return "B has d times r numbers and A has r times k."
