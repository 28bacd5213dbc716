"""Guided attention: while the base is young, show it where to look.

Why: copying a word, and reading whose is what, take two steps of attention that are of no use without each other. To
copy on, each token has to know the one before it, and then the place to go on from can be found. To read, the name and
the value of a sentence have to come together in one place, and then the question can find the place that holds the
asked name. Trained on answers alone, a model of this size takes long to find the first and never found the second: it
looked for the kind of fact that is asked for and guessed between the people. Pointing the steps out for the first part
of the training takes it over that: the generators of the corpus know where the answer stands (`core.world.item`).

How: four attention heads are given a target for some of their queries, and −log(attention paid to the target) is added
to the loss, with a weight that falls to zero (`core.pretrain.Recipe`):

    NAME      gathering layer: a value → the name that its sentence began with; the prompt's end → the asked name
    VALUE     gathering layer: a name → the value that its sentence began with; the prompt's end → the asked value
    PREVIOUS  gathering layer: every token → the one before it
    COPY      matching layer:  where the answer begins → the name or value, whichever is later, of the sentence that
                               answers; before every later token of a copied answer → where it stands in the prompt

Nothing of this is in the shipped model: it is a plain Llama, and what the heads are used for is its own affair later.

Source: attention supervised by known alignments, as in Liu et al., "Neural Machine Translation with Supervised
Attention" (2016, arXiv:1609.04186), section 3.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from core.world.item import Example

if TYPE_CHECKING:
    import torch
    from torch import nn

# Keeps the gradient of a target that gets no attention at all finite: at most 1/FLOOR.
FLOOR = 1e-4


class Step(IntEnum):
    """What a link is for."""

    NAME = 0
    VALUE = 1
    PREVIOUS = 2
    COPY = 3


HEADS = {Step.NAME: 0, Step.VALUE: 1, Step.PREVIOUS: 2, Step.COPY: 0}  # COPY's is in the matching layer
Link = tuple[Step, int, int]  # the step, the token that looks, the token to look at
Pieces = list[tuple[int, int]]  # for each token of a text, where it begins and ends


def _last(word: str, text: str) -> int:
    """Where the word stands last in the text."""
    return [found.start() for found in re.finditer(rf"\b{re.escape(word)}\b", text)][-1]


def links(example: Example, given: tuple[str, Pieces], written: tuple[str, Pieces]) -> list[Link]:
    """The links of a dialogue.

    Args:
        given, written: its two halves in the chat template, as text and as tokens.
    """
    found = _reading_links(example, *given) if example.reading is not None else []
    led = {query for step, query, _ in found if step is Step.COPY}
    if example.copied:
        found += [link for link in _copy_links(given, written) if link[1] not in led]
    if found:
        found += [(Step.PREVIOUS, i, i - 1) for i in range(1, len(given[1]) + len(written[1]))]
    return found


def _reading_links(example: Example, text: str, spans: Pieces) -> list[Link]:
    """What there is to find in the passage and in the question."""
    reading = example.reading
    assert reading is not None
    token_at = {char: token for token, (begin, end) in enumerate(spans) for char in range(begin, end)}
    found: list[Link] = []
    met = []  # where name and value of a sentence have come together
    at = text.index("Passage: ")
    for told in reading.statements:
        begin = text.index(told.sentence, at)
        at = begin + len(told.sentence)
        name, value = (token_at[begin + _last(word, told.sentence)] for word in (told.name, told.value))
        met.append(max(name, value))
        found.append((Step.NAME, value, name) if value > name else (Step.VALUE, name, value))
    last = len(spans) - 1
    if reading.name is not None:
        found.append((Step.NAME, last, token_at[_last(reading.name, text)]))
    if reading.value is not None:
        found.append((Step.VALUE, last, token_at[_last(reading.value, text)]))
    if reading.evidence is not None:
        found.append((Step.COPY, last, met[reading.evidence]))
    return found


def _copy_links(given: tuple[str, Pieces], written: tuple[str, Pieces]) -> list[Link]:
    """From before each token of the answer to where the same stands in the prompt, if it stands there once."""
    there = [given[0][begin:end].strip() for begin, end in given[1]]
    here = [written[0][begin:end].strip() for begin, end in written[1]]
    times = Counter(there)
    return [
        (Step.COPY, len(there) + i - 1, there.index(token))
        for i, token in enumerate(here)
        if token and times[token] == 1
    ]


@contextmanager
def attention_of(layers: list[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collects what the layers' self-attention pays to what: one (batch, heads, tokens, tokens) tensor for each, in
    their order. The model must compute attention plainly (`eager`): no other implementation ever has these."""
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, given: Any, out: tuple[torch.Tensor, torch.Tensor]) -> None:
        kept.append(out[1])

    handles = [layer.self_attn.register_forward_hook(keep) for layer in layers]  # type: ignore[union-attr]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def guidance_loss(attention: list[torch.Tensor], links: torch.Tensor) -> torch.Tensor:
    """The mean of −log(attention) over the links of each step, summed over the steps.

    Args:
        attention: what the heads of the gathering and of the matching layer pay to what, each (batch, heads, tokens,
            tokens).
        links: int64 (links, 4): the step, the row of the batch, the token that looks, the token to look at.
    """
    gathering, matching = attention
    losses = []
    for step, head in HEADS.items():
        paid = (matching if step is Step.COPY else gathering)[:, head]
        _, row, query, key = links[links[:, 0] == step].T
        if len(row):
            losses.append(-(paid[row, query, key].float() + FLOOR).log().mean())
    return sum(losses, gathering.new_zeros(()))
