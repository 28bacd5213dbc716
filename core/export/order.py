"""The rows of a run in the order in which it saw them, so that a plain script sees the same batches.

A trainer that reads the file from the top, `batch_size` rows at a time, repeats the run batch for batch: its own
shuffles and length buckets are written out in the order of the lines. A row that the run saw in two epochs is there
twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.base import CLASSIFICATION, describe_base, kind_of_base, load_tokenizer
from core.batches import Plan
from core.config import RunConfig, resolved
from core.errors import BadInput
from core.labelled import LabelledText, read_labelled, split_labelled, tokens_of
from core.material import dialogues
from core.template import Message, encode_all, folded, template_of

MOST_ROWS = 200_000  # a longer run's file stops there, and begins again from the top


@dataclass(frozen=True)
class Order:
    """Rows as a script reads them.

    rows: {"prompt", "completion"}, or {"messages"} for longer conversations; {"text", "label"} for a classifier.
    examples: how many different ones there are. batch_size: rows of a batch, fewer than asked for when there are fewer
    at all. whole: the run is in it to its end.
    """

    rows: tuple[dict[str, Any], ...]
    examples: int
    batch_size: int
    whole: bool

    def text(self) -> str:
        """The rows as JSONL."""
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)


def row_of(messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation as a row of a data file, which `core.dataset` reads back to it."""
    if [m.role for m in messages] == ["user", "assistant"]:
        return {"prompt": messages[0].content, "completion": messages[1].content}
    return {"messages": [{"role": m.role, "content": m.content} for m in messages]}


def order(config: RunConfig) -> Order:
    """The rows of a run, batch after batch.

    Args:
        config: `data`, if set, is the path of the person's file.

    Raises:
        BadInput, BaseUnavailable: the file or the base's tokenizer cannot be read, or no row fits.
    """
    config = resolved(config)
    loop = config.train
    assert loop.steps is not None
    tokenizer = load_tokenizer(config.base, config.revision)
    sizes, row = _read(config, tokenizer)
    limit = _limit(config)
    fitting = [i for i, size in enumerate(sizes) if size <= limit]
    if not fitting:
        raise BadInput(f"Every example is longer than the limit of {limit} tokens.", "Raise max_length.")
    lengths = [sizes[i] for i in fitting]
    plan = Plan(lengths, loop.batch_size, config.seed, buckets=loop.length_buckets)
    batches = loop.steps * loop.accumulation
    kept = min(batches, max(1, MOST_ROWS // plan.size))
    numbers = [fitting[i] for n in range(kept) for i in plan.rows(n)]
    made = {i: row(i) for i in set(numbers)}
    return Order(tuple(made[i] for i in numbers), len(made), plan.size, kept == batches)


def _read(config: RunConfig, tokenizer: Any) -> tuple[list[int], Callable[[int], dict[str, Any]]]:
    """The tokens of each training example, and what makes one by its number a row of a file."""
    if kind_of_base(config.base, config.revision) == CLASSIFICATION:
        assert config.data is not None
        texts, _ = split_labelled(read_labelled(Path(config.data)), config.train.held_out, config.seed)
        return [len(ids) for ids, _ in tokens_of(tokenizer, texts)], lambda i: labelled_row(texts[i])
    every, _ = dialogues(config)
    # A system text is written where the template can have it, so that the script need not know about that.
    template = template_of(tokenizer)
    return [len(e.ids) for e in encode_all(tokenizer, every)], lambda i: row_of(folded(template, every[i].messages))


def labelled_row(example: LabelledText) -> dict[str, Any]:
    """A text with its label as a row of a data file, which `core.labelled` reads back to it."""
    pair = {"text_pair": example.pair} if example.pair is not None else {}
    return {"text": example.text, **pair, "label": example.label}


def _limit(config: RunConfig) -> int:
    """Tokens that a row may have: the setting's, or what the base reads less a trained prompt."""
    context = describe_base(config.base, config.revision).get("context")
    taken = getattr(config.settings, "tokens", 0)
    return min(config.train.max_length, context - taken) if context else config.train.max_length
