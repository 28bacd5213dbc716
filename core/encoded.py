"""Examples as token ids, kept for the next run of the same process that learns from the same ones.

    rows = encoded(base, dialogues)

A race has every method learn from the same examples, and writing two thousand of them out by the chat template takes
longer than a training step. What the ids depend on is the key: the tokenizer's files (name, size, time of change), its
chat template, the day (some templates write it into the text), and the texts themselves. Nobody changes what comes
back.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.lately import lately
from core.template import Encoded, encode_all

if TYPE_CHECKING:
    from core.base import Base
    from core.template import Dialogue

MOST = 4  # what a run and the one before it train on and are scored on
_known: OrderedDict[Any, list[Encoded]] = OrderedDict()


def encoded(base: Base, dialogues: Sequence[Dialogue]) -> list[Encoded]:
    """As `core.template.encode_all` gives them.

    Raises:
        BadInput, BaseUnavailable: as that.
    """
    if not base.files:
        return encode_all(base.tokenizer, dialogues)
    day = time.strftime("%Y-%m-%d")
    key = (base.source, base.files, str(base.tokenizer.chat_template), day, tuple(dialogues))
    return lately(_known, key, lambda: encode_all(base.tokenizer, dialogues), MOST)


__all__ = ["encoded"]
