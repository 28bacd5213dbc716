"""From encoded examples to batches: length buckets, padding, and an order that depends on the seed alone.

The order is a pure function of (lengths, batch size, seed, position), so a resumed run continues with exactly the
batches that an uninterrupted one would have seen. Batches are padded on the right and need no attention mask: under
causal attention nothing looks at what comes after it, and the loss does not count padding.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from core.template import Encoded

IGNORED = -100  # the label that cross-entropy skips, as everywhere in PyTorch
BUCKET = 8  # batches sorted together: large enough to save padding, small enough to keep the order random


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, both (examples, tokens); labels are IGNORED outside the answers.

    answer_tokens: how many labels count. Row i of `labels` is aligned with `ids`: the loss shifts by one itself.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    answer_tokens: int

    @property
    def count(self) -> int:
        """What the loss is summed over: the answers' tokens."""
        return self.answer_tokens

    def part(self, rank: int, size: int) -> Batch:
        """The rows of one of `size` processes: from row `rank` on, every size-th. If none is left, a row without
        labels, because a process without rows must take part in the pass all the same, and add nothing to it."""
        import torch

        ids, labels = self.ids[rank::size], self.labels[rank::size]
        if not len(ids):
            ids, labels = self.ids[:1], torch.full_like(self.labels[:1], IGNORED)
        return Batch(ids, labels, int((labels[:, 1:] != IGNORED).sum()))

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(self.ids.to(device), self.labels.to(device), self.answer_tokens)


class Plan:
    """Which examples make up batch number 0, 1, 2 …, epoch after epoch.

    Args:
        lengths: tokens of each example.
        batch_size: examples in a batch; fewer when there are fewer examples at all.
        seed: fixes the order.
        buckets: sort groups of BUCKET batches by length first (the examples of a batch then pad to similar lengths).
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, *, buckets: bool) -> None:
        if not lengths:
            raise ValueError("a plan needs at least one example")
        self.lengths = list(lengths)
        self.size = min(batch_size, len(self.lengths))
        self.seed = seed
        self.buckets = buckets
        self.per_epoch = len(self.lengths) // self.size
        self._cached: tuple[int, list[list[int]]] | None = None

    def _epoch(self, epoch: int) -> list[list[int]]:
        if self._cached is not None and self._cached[0] == epoch:
            return self._cached[1]
        rng = random.Random(f"order {self.seed} {epoch}")
        rows = list(range(len(self.lengths)))
        rng.shuffle(rows)
        # What does not fill a last batch is left for another epoch, whose shuffle leaves out others.
        rows = rows[: self.per_epoch * self.size]
        if self.buckets:
            group = self.size * BUCKET
            rows = [
                row
                for start in range(0, len(rows), group)
                for row in sorted(rows[start : start + group], key=lambda i: self.lengths[i])
            ]
        batches = [rows[i : i + self.size] for i in range(0, len(rows), self.size)]
        rng.shuffle(batches)
        self._cached = (epoch, batches)
        return batches

    def rows(self, number: int) -> list[int]:
        """Indices of the examples in batch `number` (from 0, without end)."""
        epoch, place = divmod(number, self.per_epoch)
        return self._epoch(epoch)[place]

    def padded_tokens(self, number: int) -> int:
        """Examples × longest example of batch `number`: what its step computes on."""
        rows = self.rows(number)
        return len(rows) * max(self.lengths[i] for i in rows)


def collate(examples: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad `examples` on the right to the longest and stack them."""
    import torch

    longest = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), longest), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    return Batch(ids, labels, int((labels[:, 1:] != IGNORED).sum()))
