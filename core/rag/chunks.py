"""Text into chunks: pieces of whole sentences, of about equal length, each beginning with the end of the one before.

How: a text is split at blank lines and at the ends of sentences; sentences are packed until `words` are reached; the
next chunk begins with the last sentences of this one, as many as fit into `overlap`. So no sentence is cut, unless it
alone is longer than a chunk, and what stands across a border is whole in one of the two.

What it is not: a parser of tables or code. Words are what white space separates; a model's tokens are more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from core.config import knob
from core.errors import BadInput

_PARAGRAPH = re.compile(r"\n\s*\n")
# A sentence ends with its mark and white space behind it; a line that ends without one (a heading, a verse) too.
_SENTENCE = re.compile(r"(?<=[.!?…:;])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9À-ÖØ-Þ])|\n")


@dataclass(frozen=True)
class Cutting:
    """How a text is cut."""

    words: int = knob(
        120, "Longest chunk.", unit="words", low=5, high=2_000,
        why="A paragraph: enough to answer from, short enough that three fit into a small context.",
    )  # fmt: skip
    overlap: int = knob(
        24, "How much of a chunk the next one repeats, at most.", unit="words", low=0, high=1_000,
        why="A sentence or two, so that an answer across a border is whole in one chunk.",
    )  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A chunk before it is stored. text: as in the source, white space apart. start: its first character there."""

    text: str
    start: int = field(default=0, compare=False)


def cut(text: str, cutting: Cutting | None = None) -> list[Piece]:
    """The chunks of a text, in order; none of an empty one.

    Raises:
        BadInput: the overlap is not shorter than a chunk.
    """
    cutting = cutting or Cutting()
    if cutting.overlap >= cutting.words:
        raise BadInput(
            f"An overlap of {cutting.overlap} words leaves nothing new in a chunk of {cutting.words}.",
            "Make the overlap shorter than half a chunk.",
        )
    pieces: list[Piece] = []
    held: list[tuple[int, list[str]]] = []  # sentences of the chunk that is being filled: (start, words)
    fresh = 0  # how many of them are not repeated from the chunk before
    for start, words in _sentences(text, cutting.words):
        if fresh and sum(len(w) for _, w in held) + len(words) > cutting.words:
            pieces.append(_piece(held))
            held, fresh = _tail(held, min(cutting.overlap, cutting.words - len(words))), 0
        held.append((start, words))
        fresh += 1
    if fresh:
        pieces.append(_piece(held))
    return pieces


def _piece(held: list[tuple[int, list[str]]]) -> Piece:
    return Piece(" ".join(word for _, words in held for word in words), held[0][0])


def _tail(held: list[tuple[int, list[str]]], most: int) -> list[tuple[int, list[str]]]:
    """The last sentences with at most so many words together."""
    out: list[tuple[int, list[str]]] = []
    left = most
    for start, words in reversed(held):
        left -= len(words)
        if left < 0:
            break
        out.insert(0, (start, words))
    return out


def _sentences(text: str, longest: int) -> Iterator[tuple[int, list[str]]]:
    """(where it starts, its words) of each sentence; what is longer than a chunk comes in parts."""
    for start, paragraph in _split(_PARAGRAPH, text, 0):
        for at, sentence in _split(_SENTENCE, paragraph, start):
            words = sentence.split()
            for first in range(0, len(words), longest):
                yield at, words[first : first + longest]


def _split(mark: re.Pattern[str], text: str, start: int) -> Iterator[tuple[int, str]]:
    place = 0
    for found in mark.finditer(text):
        if text[place : found.start()].strip():
            yield start + place, text[place : found.end()]
        place = found.end()
    if text[place:].strip():
        yield start + place, text[place:]
