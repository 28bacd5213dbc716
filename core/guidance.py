"""Guided attention: while the base is young, show it where in a passage to look.

Why: to read "whose is what" takes two steps of attention that are of no use without each other. The name and the value
of a sentence have to come together in one place, and the question has to find the place that holds the asked name.
Trained on answers alone, a model of this size learns to find the kind of fact that is asked for and stays there,
guessing between the people. Pointing both steps out for the first part of the training takes it over that: the
generators of the corpus know where the answer stands (`core.world.item.Reading`).

How: three attention heads are given a target for some of their queries, and − log(attention paid to the target) is
added to the loss, with a weight that falls to zero (`core.pretrain.Recipe`):

    NAME    gathering layer, head 0: a value → the name that its sentence began with; the prompt's end → the asked name
    VALUE   gathering layer, head 1: a name → the value that its sentence began with; the prompt's end → the asked value
    MATCH   matching layer, head 0:  the prompt's end → the name or value, whichever is later, of the answering sentence

Nothing of this is in the shipped model: it is a plain Llama, and what the heads are used for is its own affair later.

Source: attention supervised by known alignments, as in Liu et al., "Neural Machine Translation with Supervised
Attention" (2016, arXiv:1609.04186), section 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from core.world.item import Reading

if TYPE_CHECKING:
    import torch
    from torch import nn

# Keeps the gradient of a target that gets no attention at all finite: at most 1/FLOOR.
FLOOR = 1e-4


class Step(IntEnum):
    """What a link is for."""

    NAME = 0
    VALUE = 1
    MATCH = 2


Link = tuple[Step, int, int]  # the step, the token that looks, the token to look at


def _last(word: str, text: str) -> int:
    """Where the word stands last in the text."""
    return [found.start() for found in re.finditer(rf"\b{re.escape(word)}\b", text)][-1]


def links(reading: Reading, text: str, spans: list[tuple[int, int]]) -> list[Link]:
    """The links of a prompt.

    Args:
        reading: what the prompt's passage says.
        text: the prompt in the chat template, up to where the answer begins.
        spans: for each token of the text, where it begins and ends.
    """
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
        found.append((Step.MATCH, last, met[reading.evidence]))
    return found


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
    """The mean of − log(attention) over the links of each step, summed over the steps.

    Args:
        attention: what the heads of the gathering and of the matching layer pay to what, each (batch, heads, tokens,
            tokens).
        links: int64 (links, 4): the step, the row of the batch, the token that looks, the token to look at.
    """
    gathering, matching = attention
    heads = {Step.NAME: gathering[:, 0], Step.VALUE: gathering[:, 1], Step.MATCH: matching[:, 0]}
    losses = []
    for step, paid in heads.items():
        _, row, query, key = links[links[:, 0] == step].T
        if len(row):
            losses.append(-(paid[row, query, key].float() + FLOOR).log().mean())
    return sum(losses, gathering.new_zeros(()))
