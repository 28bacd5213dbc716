"""Finding chunks for a question: by meaning, by words, or both fused.

    RRF(d) = Σ_lists 1 / (60 + rank of d in the list)

Reciprocal rank fusion: Cormack, Clarke and Büttcher 2009, Reciprocal Rank Fusion outperforms Condorcet and individual
Rank Learning Methods, SIGIR, whose constant 60 is kept. It needs no scores that could be compared, ranks alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from core.errors import BadInput, Refused
from core.rag.store import EVERYTHING, NEAREST, Chunk, Store, Where

DENSE, LEXICAL, HYBRID = MODES = ("dense", "lexical", "hybrid")
K = 60  # of the fusion
DEPTH = 50  # how far down each list is read before fusing


@dataclass(frozen=True)
class Hit:
    """A retrieved chunk. score: cosine, BM25 or the fused one; dense, lexical: its rank in either list, from 1."""

    chunk: Chunk
    score: float
    dense: int | None = None
    lexical: int | None = None


@dataclass(frozen=True)
class Found:
    """What was retrieved for a question, best first, and how long it took in seconds."""

    hits: tuple[Hit, ...]
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict, compare=False)


def fuse(lists: Sequence[Sequence[int]], k: int = K) -> list[tuple[int, float]]:
    """Reciprocal rank fusion of ranked ids: (id, score), best first; equal scores in the order of first appearance."""
    scores: dict[int, float] = {}
    for ranked in lists:
        for rank, item in enumerate(ranked, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])


def check_question(question: str) -> None:
    """Refuse what is no question.

    Raises:
        BadInput: it is empty, or holds what no text can: a byte of the terminal's that is not UTF-8, half a character.
    """
    if not question.strip():
        raise BadInput("There is no question.", "Write one.")
    try:
        question.encode()
    except UnicodeEncodeError as why:
        raise BadInput(
            f"Character {why.start + 1} of the question is not valid UTF-8.", "Write the question anew, as UTF-8."
        ) from None


class Retriever:
    """Asks an index.

    Args:
        mode: one of MODES.

    Raises:
        BadInput: another mode.
    """

    def __init__(self, store: Store, mode: str = HYBRID) -> None:
        if mode not in MODES:
            raise BadInput(f"There is no way to retrieve called {mode!r}.", f"There are {', '.join(MODES)}.")
        self.store = store
        self.mode = mode

    def find(self, question: str, count: int = 4, where: Where = EVERYTHING) -> Found:
        """The `count` best chunks.

        Raises:
            BadInput: no question or one that is no text, no count or one above NEAREST, or a damaged index.
            Refused: the index is empty.
        """
        check_question(question)
        if not 1 <= count <= NEAREST:
            raise BadInput(f"The number of passages must be 1 to {NEAREST:,}.", "Try 4.")
        if self.store.empty:
            raise Refused("The index is empty.", "Index some documents first.")
        began = time.perf_counter()
        parts: dict[str, float] = {}
        near: list[tuple[int, float]] = []
        match: list[tuple[int, float]] = []
        depth = count if self.mode != HYBRID else max(DEPTH, count)
        if self.mode != LEXICAL:
            vector = self.store.embedder.queries([question])[0]
            parts["embed"] = time.perf_counter() - began
            at = time.perf_counter()
            near = self.store.nearest(vector, depth, where)
            parts["dense"] = time.perf_counter() - at
        if self.mode != DENSE:
            at = time.perf_counter()
            match = self.store.matching(question, depth, where)
            parts["lexical"] = time.perf_counter() - at
        ranks = [{i: rank for rank, (i, _) in enumerate(ranked, 1)} for ranked in (near, match)]
        best = fuse([list(r) for r in ranks]) if self.mode == HYBRID else near or match
        chosen = dict(best[:count])
        hits = tuple(
            Hit(chunk, chosen[chunk.id], ranks[0].get(chunk.id), ranks[1].get(chunk.id))
            for chunk in self.store.chunks(list(chosen))
        )
        return Found(hits, time.perf_counter() - began, parts)
