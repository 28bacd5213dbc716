"""What can go wrong, said so that a person can act on it.

Every error that reaches a page, a terminal or a run's record is a `DeltalabError`: a sentence that says what is wrong
and advice that says what to do. Anything else that escapes is a defect of ours and is reported as one.
"""

from __future__ import annotations


class DeltalabError(Exception):
    """Base of all errors shown to people.

    Args:
        sentence: what happened, as one complete sentence.
        advice: what the reader can do about it; may be empty.
    """

    kind = "error"

    def __init__(self, sentence: str, advice: str = "") -> None:
        super().__init__(sentence if not advice else f"{sentence} {advice}")
        self.sentence = sentence
        self.advice = advice


class BadInput(DeltalabError):
    """A value, file or combination that cannot be used as given."""

    kind = "bad_input"


class BaseUnavailable(DeltalabError):
    """A base model that cannot be found, fetched or loaded safely."""

    kind = "base_unavailable"


class Incompatible(DeltalabError):
    """A method that has nothing to train, or nothing it can wrap, in this base."""

    kind = "incompatible"


class OutOfMemory(DeltalabError):
    """The device ran out of memory."""

    kind = "out_of_memory"


class Diverged(DeltalabError):
    """The loss stopped being a finite number."""

    kind = "diverged"


class NotFound(DeltalabError):
    """No such run (or one that belongs to somebody else: the two are told apart by nobody)."""

    kind = "not_found"


class Refused(DeltalabError):
    """A request that is understood and declined: a quota, a lock, a state that does not allow it."""

    kind = "refused"
