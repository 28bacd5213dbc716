"""What a skill is: a generator of examples and an exact grader.

An `Example` holds the two turns of a dialogue without template tokens, so the same example serves the embedded base
and any hub model.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Statement:
    """One sentence of a passage: the name and the value in it, as they are written there."""

    sentence: str
    name: str
    value: str


@dataclass(frozen=True)
class Reading:
    """How a question about a passage is answered: what it says of whom, what is asked for, and where the answer is.

    Pre-training shows it to the base while that is young (`core.guidance`).
    """

    statements: tuple[Statement, ...]
    name: str | None = None  # in the question, where that names a person
    value: str | None = None  # in the question, where that names a value
    evidence: int | None = None  # which statement answers, if any does


@dataclass(frozen=True)
class Example:
    """One dialogue: the user's turn, the assistant's turn, and the skill that it exercises."""

    prompt: str
    completion: str
    skill: str = ""
    reading: Reading | None = field(default=None, compare=False, repr=False)
    copied: bool = field(default=False, compare=False, repr=False)  # whether the answer is made of pieces of the prompt


def same_text(example: Example, answer: str) -> bool:
    """The default grader: the answer is the completion, letter for letter."""
    return answer.strip() == example.completion


def same_beginning(example: Example, beginning: str) -> bool:
    """Whether `same_text` may still hold for an answer that begins like this."""
    return example.completion.startswith(beginning.strip())


@dataclass(frozen=True)
class Skill:
    """Something that a model can or cannot do, with the means to find out.

    Args:
        name: the key in `SKILLS` or `TASKS`.
        title: what a chart calls it.
        summary: one sentence for the reader.
        generate: draws one example of a split from a seeded generator.
        grade: whether a generated text answers an example.
        hopeful: whether an answer that begins like this may still be right for `grade` when it goes on; None: where
            `same_text` grades, `same_beginning` tells that, and else nobody.
        limit_tokens: how many new tokens a right answer needs at most with the embedded base's tokenizer.
        chance: the score of a guess that has the right kind of answer.
    """

    name: str
    title: str
    summary: str
    generate: Callable[[random.Random, Split], Example]
    grade: Callable[[Example, str], bool] = same_text
    hopeful: Callable[[Example, str], bool] | None = None
    limit_tokens: int = 16
    chance: float = 0.0


def split_of(key: str) -> Split:
    """The split to which a key belongs, for ever: one key in five is held out.

    A checksum is used because Python's own `hash` of a string changes from process to process.
    """
    return "heldout" if zlib.crc32(key.encode()) % 5 == 0 else "train"
