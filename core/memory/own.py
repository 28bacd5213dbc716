"""The size of this process, as long as it says something of the run that is carried out in it.

A process that has carried out a run keeps something of it: libraries that it needed, memory that the C library cannot
give back. Of a later run in the same process the size is therefore not known; what live tensors take (the allocator's
events, core/memory/measure.py) is, to the byte.
"""

from __future__ import annotations

import psutil

_shared = False


def share() -> None:
    """From now on the size of this process is not one run's own."""
    global _shared
    _shared = True


def process_bytes() -> int:
    """Resident set of this process; 0: unknown, since runs before this one have a part in it."""
    return 0 if _shared else int(psutil.Process().memory_info().rss)
