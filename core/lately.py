"""What was worked out lately, kept for the next who asks in the same process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def lately(known: OrderedDict[Any, T], key: Any, make: Callable[[], T], most: int) -> T:
    """What `known` has under `key`, else what `make` gives. At most so many are kept: the last that were asked for."""
    if key not in known:
        known[key] = make()
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)
    return known[key]
