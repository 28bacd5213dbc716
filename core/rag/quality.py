"""How good retrieval is: recall@k and the mean reciprocal rank, on the small world and on a person's own documents.

    recall@k = share of the questions with a right chunk among the first k
    MRR = mean over the questions of 1 / rank of the first right chunk (0 beyond DEEPEST)

What is right: of the small world, the row of the person who is asked about. Of own documents, any chunk that holds the
answer's words in a row, from a file of questions and answers; a short answer, such as "no" or "5", stands in many
chunks, so that finding one of them says little, and `common` counts such answers. Without a file of questions it is the
chunk that a sentence was taken from, asked for by that sentence with half of its words left out. That is easier than
people's questions, and its score says how an embedder compares with another rather than how content people will be.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadInput, Refused
from core.rag.answer import words_in
from core.rag.raft import Solved
from core.rag.read import Document
from core.rag.retrieve import MODES, Retriever
from core.rag.store import Chunk, Store

if TYPE_CHECKING:
    from core.world import Person

KS = (1, 3, 5, 10)
DEEPEST = 10
LEAST_WORDS = 8  # of a sentence that is asked for
MOST_QUESTIONS = 500
COMMON_SHARE, COMMON_SAMPLE = 0.1, 2_000  # of the chunks, of which so many are looked at
RULE = (
    "A passage counts as right when the words of the answer stand in it in a row; it need not be the one that the "
    "question is about."
)


@dataclass(frozen=True)
class Query:
    """A question, and which chunks would answer it."""

    question: str
    right: Callable[[Chunk], bool]
    wanted: str = ""


@dataclass(frozen=True)
class Quality:
    """Shares are 0..1. misses: some of the questions whose right chunk was not among the first KS[-1]."""

    mode: str
    embedder: str
    questions: int
    recall: dict[int, float]
    mrr: float
    median_ms: float
    misses: tuple[str, ...] = field(default=(), compare=False)


def measure(store: Store, queries: Sequence[Query], mode: str) -> Quality:
    """Ask every question once.

    Raises:
        BadInput: there are none, or the mode is unknown. Refused: the index is empty.
    """
    if not queries:
        raise BadInput("There is no question to measure retrieval with.", "Give a file of questions and answers.")
    retriever = Retriever(store, mode)
    ranks: list[int | None] = []
    times = []
    for query in queries:
        found = retriever.find(query.question, DEEPEST)
        times.append(found.seconds)
        ranks.append(next((n for n, hit in enumerate(found.hits, 1) if query.right(hit.chunk)), None))
    return Quality(
        mode=mode,
        embedder=store.embedder.name,
        questions=len(queries),
        recall={k: sum(r is not None and r <= k for r in ranks) / len(ranks) for k in KS},
        mrr=sum(1 / r for r in ranks if r) / len(ranks),
        median_ms=1000 * sorted(times)[len(times) // 2],
        misses=tuple(q.question for q, r in zip(queries, ranks, strict=True) if r is None)[:5],
    )


def common(store: Store, queries: Sequence[Query]) -> int:
    """How many of the answers stand in more than a tenth of all chunks, and in more than one: there a hit says little.

    Of a large index some chunks, drawn by lot, stand for all.
    """
    chunks = store.chunks()
    if len(chunks) > COMMON_SAMPLE:
        chunks = random.Random("rag common").sample(chunks, COMMON_SAMPLE)
    least = max(1, COMMON_SHARE * len(chunks))
    return sum(sum(map(query.right, chunks)) > least for query in queries)


def all_modes(store: Store, queries: Sequence[Query]) -> list[Quality]:
    """Every way to retrieve, on the same questions."""
    return [measure(store, queries, mode) for mode in MODES]


def _names(name: str, chunk: Chunk) -> bool:
    return name in chunk.text


def _holds(words: str, chunk: Chunk) -> bool:
    return f" {words} " in f" {words_in(chunk.text)} "


# --- the small world --------------------------------------------------------------------------------------------------


def world_people(count: int, seed: int) -> list[Person]:
    """The newcomers, and people around them until there are `count`; no two of the same name."""
    from core.world import NEWCOMERS
    from core.world.people import TRAIN_NAMES, invent

    rng = random.Random(f"rag people/{seed}")
    others = rng.sample(TRAIN_NAMES, min(len(TRAIN_NAMES), max(0, count - len(NEWCOMERS))))
    people = [*NEWCOMERS, *(invent(rng, name) for name in others)]
    rng.shuffle(people)
    return people


def row_of(person: Person, number: int, seed: int = 0) -> Document:
    """A person's row as a document: a sentence a fact, in wordings drawn by lot."""
    from core.world.people import ATTRIBUTES, STATEMENTS, say

    rng = random.Random(f"rag row/{seed}/{person.name}")
    told = " ".join(say(rng.choice(STATEMENTS[a]), person.name, person.value(a)) for a in ATTRIBUTES)
    return Document("people.csv", told, f"row {number}", "csv")


def world_documents(count: int = 220, seed: int = 0) -> list[Document]:
    """A table of so many people, the newcomers among them."""
    return [row_of(person, n, seed) for n, person in enumerate(world_people(count, seed), 1)]


def world_queries(seed: int = 0, count: int = 80) -> list[Query]:
    """Questions about the newcomers, in wordings drawn by lot."""
    from core.world import NEWCOMERS, question
    from core.world.people import ATTRIBUTES, QUESTIONS

    rng = random.Random(f"rag queries/{seed}")
    facts = [(p, a) for p in NEWCOMERS for a in ATTRIBUTES]
    chosen = rng.sample(facts, min(count, len(facts)))
    return [
        Query(
            question(p.name, a, rng.randrange(len(QUESTIONS[a]))),
            partial(_names, p.name),
            p.value(a),
        )
        for p, a in chosen
    ]


# --- own documents ----------------------------------------------------------------------------------------------------


def from_file(path: str | Path) -> list[Query]:
    """Questions with answers (any file that can be trained on); right is a chunk that holds the answer.

    Raises:
        BadInput: as `core.dataset.read_file`.
    """
    return [
        Query(one.question, partial(_holds, words_in(one.answer)), one.answer) for one in pairs(path)[:MOST_QUESTIONS]
    ]


def pairs(path: str | Path) -> list[Solved]:
    """Questions and answers of a file.

    Raises:
        BadInput: as `core.dataset.read_file`.
    """
    from core.dataset import read_file

    return [Solved(row.question[-1].content, row.answer) for row in read_file(path).dialogues]


def from_chunks(store: Store, count: int = 100, seed: int = 0) -> list[Query]:
    """Sentences of the index's own chunks, each with every other word left out.

    Raises:
        BadInput: no chunk has a sentence of enough words. Refused: there is no chunk.
    """
    if store.empty:
        raise Refused("The index is empty.", "Index some documents first.")
    rng = random.Random(f"rag own/{seed}")
    chunks = store.chunks()
    rng.shuffle(chunks)
    out: list[Query] = []
    for chunk in chunks:
        sentences = [s.split() for s in re.split(r"(?<=[.!?])\s+", chunk.text)]
        long = [s for s in sentences if len(s) >= LEAST_WORDS]
        if not long:
            continue
        words = rng.choice(long)
        kept = sorted(rng.sample(range(len(words)), len(words) // 2))
        asked = " ".join(words[i] for i in kept)
        whole = words_in(" ".join(words))
        out.append(Query(asked, partial(_holds, whole)))
        if len(out) == count:
            break
    if not out:
        raise BadInput(
            f"No chunk has a sentence of {LEAST_WORDS} words or more to ask for.", "Give a file of questions."
        )
    return out
