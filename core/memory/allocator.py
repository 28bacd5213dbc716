"""What CUDA's caching allocator would reserve for a traced step: its rules, replayed on the record of the tensors.

The allocator takes segments from the card and cuts blocks from them: small requests from segments of 2 MiB, middling
ones from 20 MiB, large ones from segments of their own in steps of 2 MiB. A freed block is joined with free neighbours
and used again for the next request that it is the best fit for; a rest of a large block that is 1 MiB or less stays
with it. (c10/cuda/CUDACachingAllocator.cpp, default settings, one stream.) So more is reserved than is alive, and how
much more depends on the order of things.

A simulation, not a measurement: kernels' own scratch is not in the record.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.memory.setup import CUDA_BLOCK_BYTES
from core.units import MIB

if TYPE_CHECKING:
    from core.memory.trace import Trace

SMALL, SMALL_SEGMENT, MIDDLE, MIDDLE_SEGMENT, LARGE_STEP = MIB, 2 * MIB, 10 * MIB, 20 * MIB, 2 * MIB


@dataclass(eq=False, slots=True)
class _Block:
    bytes: int
    small: bool
    before: _Block | None = None
    behind: _Block | None = None
    free: bool = False
    number: int = 0


class CachingAllocator:
    """Counts what would be allocated and reserved.

    Attributes:
        allocated, reserved: now, in bytes. most_allocated, most_reserved: the most so far.
    """

    def __init__(self) -> None:
        self.allocated = self.reserved = self.most_allocated = self.most_reserved = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # (bytes, number), by size
        self._blocks: dict[int, _Block] = {}
        self._made = 0

    def _number(self, block: _Block) -> _Block:
        self._made += 1
        block.number = self._made
        self._blocks[block.number] = block
        return block

    def _offer(self, block: _Block) -> None:
        block.free = True
        bisect.insort(self._free[block.small], (block.bytes, block.number))

    def _take_back(self, block: _Block) -> None:
        free = self._free[block.small]
        del free[bisect.bisect_left(free, (block.bytes, block.number))]
        block.free = False

    def allocate(self, wanted: int) -> _Block:
        """A block of at least so many bytes."""
        size = max(CUDA_BLOCK_BYTES, -(-wanted // CUDA_BLOCK_BYTES) * CUDA_BLOCK_BYTES)
        small = size <= SMALL
        free = self._free[small]
        place = bisect.bisect_left(free, (size, 0))
        if place < len(free):
            block = self._blocks[free[place][1]]
            self._take_back(block)
        else:
            segment = (
                SMALL_SEGMENT if small else MIDDLE_SEGMENT if size < MIDDLE else -(-size // LARGE_STEP) * LARGE_STEP
            )
            block = self._number(_Block(segment, small))
            self.reserved += segment
            self.most_reserved = max(self.most_reserved, self.reserved)
        rest = block.bytes - size
        if rest >= CUDA_BLOCK_BYTES if small else rest > SMALL:
            other = self._number(_Block(rest, small, block, block.behind))
            if block.behind is not None:
                block.behind.before = other
            block.behind, block.bytes = other, size
            self._offer(other)
        self.allocated += block.bytes
        self.most_allocated = max(self.most_allocated, self.allocated)
        return block

    def release(self, block: _Block) -> None:
        """Give a block back; it is joined with free neighbours of its segment."""
        self.allocated -= block.bytes
        behind, before = block.behind, block.before
        if behind is not None and behind.free:
            self._take_back(behind)
            self._join(block, behind)
        if before is not None and before.free:
            self._take_back(before)
            self._join(before, block)
            block = before
        self._offer(block)

    def _join(self, first: _Block, second: _Block) -> None:
        first.bytes += second.bytes
        first.behind = second.behind
        if second.behind is not None:
            second.behind.before = first
        del self._blocks[second.number]


def replay(found: Trace) -> CachingAllocator:
    """The allocator after a traced step."""
    allocator = CachingAllocator()
    blocks: dict[int, _Block] = {}
    for number, sign in found.events:
        size = found.records[number].bytes
        if not size:
            continue
        if sign > 0:
            blocks[number] = allocator.allocate(size)
        else:
            allocator.release(blocks.pop(number))
    return allocator
