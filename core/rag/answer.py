"""An answer from retrieved passages, with the passages that it comes from.

How: the passages go into the question's turn, in the form that the base knows: the embedded base reads "Passage: …
Question: …" (core/world), every other model gets numbered passages and the request to answer from them, to cite their
numbers, and to say so when they hold no answer. What does not fit into the base's context is left out, the worst
passage first, and the answer says so. The base may carry an adapter: retrieval and fine-tuning together.

Citations are not believed: a passage is cited when the model names its number or when the answer's own words stand in
it. An answer that no passage supports is said to be unsupported; it may still be right, but nobody can look it up.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import EMBEDDED
from core.errors import BadInput
from core.rag.retrieve import Hit, Retriever, check_question
from core.rag.store import EVERYTHING, Where
from core.template import Message, conversation, prompt_ids
from core.world import passage_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_SAID = "It is not said."
"""What the embedded base answers when a passage does not tell, and what other models are asked to answer."""

INSTRUCTION = (
    "Answer the question from the numbered passages below and from nothing else. Name the passages that you used by "
    f"their numbers in brackets, such as [1]. If the passages do not hold the answer, say: {NOT_SAID}"
)
MOST_TOKENS = 128


@dataclass(frozen=True)
class Answer:
    """What was answered, and from what.

    hits: the passages in the prompt, best first. cited: numbers (from 1) of those that the answer comes from.
    supported: whether any is; None for an answer that says that it is not said. left_out: passages for which there was
    no room. prompt_tokens: of the whole prompt. seconds: name of a part -> its time: retrieve, first (until the first
    token), rest.
    """

    text: str
    hits: tuple[Hit, ...]
    cited: tuple[int, ...]
    left_out: int = 0
    prompt_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def refused(self) -> bool:
        """It says that the passages do not hold the answer."""
        return declines(self.text)

    @property
    def supported(self) -> bool | None:
        return None if self.refused else bool(self.cited)


def declines(text: str) -> bool:
    """Whether an answer says that there is none."""
    return NOT_SAID.rstrip(".").casefold() in text.casefold()


def prompt(question: str, passages: Sequence[str], base: str = EMBEDDED) -> str:
    """The user's turn. Without a passage: the question alone."""
    if not passages:
        return question
    if base == EMBEDDED:
        return passage_prompt(list(passages), question)
    numbered = "\n\n".join(f"[{n}] {text}" for n, text in enumerate(passages, 1))
    return f"{INSTRUCTION}\n\n{numbered}\n\nQuestion: {question}"


def citations(text: str, passages: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the passages that an answer names, or whose text holds all of the answer's words in a row."""
    if declines(text):
        return ()
    named = {int(n) for n in re.findall(r"\[(\d{1,3})\]", text)}
    words = words_in(re.sub(r"\[\d{1,3}\]", " ", text))
    held = {n for n, passage in enumerate(passages, 1) if words and f" {words} " in f" {words_in(passage)} "}
    return tuple(n for n in range(1, len(passages) + 1) if n in named or n in held)


def words_in(text: str) -> str:
    """The words of a text, in small letters, a space between two."""
    return " ".join(re.findall(r"\w+", text.casefold()))


@dataclass(frozen=True)
class Fitted:
    """A prompt that a model can read: its messages and tokens, the passages in it, and how many were left out."""

    messages: tuple[Message, ...]
    tokens: int
    hits: tuple[Hit, ...]
    left_out: int


def fit(
    question: str,
    hits: Sequence[Hit],
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    *,
    base: str = EMBEDDED,
    reserve: int = 32,
) -> Fitted:
    """The prompt with as many of the passages as leave room for an answer.

    Args:
        context: the longest text that the model reads, in tokens; None: no limit.
        reserve: tokens kept free for the answer.

    Raises:
        BadInput: the question alone is too long.
    """
    for kept in range(len(hits), -1, -1):
        messages = conversation(prompt(question, [h.chunk.text for h in hits[:kept]], base))
        tokens = len(prompt_ids(tokenizer, messages))
        if context is None or tokens + reserve <= context:
            return Fitted(messages, tokens, tuple(hits[:kept]), len(hits) - kept)
    raise BadInput(
        f"The question has {tokens} tokens, and this model reads {context} at most, its answer included.",
        "Ask a shorter question, or choose a base with a longer context.",
    )


class Reader:
    """A base, with an adapter if one is named, that answers from an index.

    Args:
        base: embedded, a folder, or a hub id. adapter: a run's adapter folder.

    Raises:
        DeltalabError: as `core.base.load_base` and `core.methods.attach_saved`; BadInput: an encoder.
    """

    def __init__(self, base: str = EMBEDDED, adapter: Path | None = None, *, revision: str | None = None) -> None:
        from core.base import context_tokens, is_classifier
        from core.hardware import pick_precision
        from core.methods import load_saved
        from core.train import pick_device

        device = pick_device()
        loaded, attached = load_saved(
            base, adapter, revision=revision, precision=pick_precision(device), device=str(device)
        )
        if is_classifier(loaded.model):
            raise BadInput(f"{loaded.name} gives labels and writes no answers.", "Choose a language model.")
        self.base = base
        self.tokenizer = loaded.tokenizer
        self.context = context_tokens(loaded.model)
        self.model: Any = attached.model if attached is not None else loaded.model
        self.model.eval()

    def ask(
        self,
        question: str,
        retriever: Retriever | None = None,
        count: int = 4,
        *,
        where: Where = EVERYTHING,
        most_tokens: int = MOST_TOKENS,
    ) -> Answer:
        """Answer one question; without a retriever from memory alone.

        Raises:
            BadInput: no question, one that is no text, or one longer than the context. Refused: the index is empty.
        """
        from core.evaluate import stream

        check_question(question)
        began = time.perf_counter()
        hits = retriever.find(question, count, where).hits if retriever is not None else ()
        found = time.perf_counter()
        fitted = fit(question, hits, self.tokenizer, self.context, base=self.base)
        pieces = []
        first = None
        for piece in stream(self.model, self.tokenizer, fitted.messages, most_tokens):
            first = first or time.perf_counter()
            pieces.append(piece)
        ended = time.perf_counter()
        text = "".join(pieces).strip()
        first = first or ended
        return Answer(
            text, fitted.hits, citations(text, [h.chunk.text for h in fitted.hits]), fitted.left_out, fitted.tokens,
            {"retrieve": found - began, "first": first - found, "rest": ended - first},
        )  # fmt: skip
