"""What a reader learns from, RAFT-style: questions with the passage that answers them among others that do not.

    P of the examples:      question + golden passage + distractors  →  answer
    1 − P of the examples:  question + distractors alone             →  answer

Zhang et al. 2024, RAFT: Adapting Language Model to Domain Specific RAG, arXiv:2403.10131, section 3. Distractors teach
to find the right passage among wrong ones; the examples without a golden passage teach the domain's answers by heart.
(The paper's answers also reason and quote; here an answer may cite the number of its passage.)

The distractors are what retrieval itself brings up for the question, so the reader practises on its own errors.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.config import EMBEDDED, knob
from core.errors import BadInput
from core.rag.answer import citations, prompt
from core.rag.retrieve import Retriever


@dataclass(frozen=True)
class Raft:
    """How the examples are made."""

    distractors: int = knob(
        2, "Passages beside the one that answers.", unit="passages", low=0, high=20,
        why="With the golden one as many as are retrieved to answer; the paper tries one to five.",
    )  # fmt: skip
    golden: float = knob(
        0.8, "Share of the examples that hold the passage with the answer (the paper's P).", low=0.0, high=1.0,
        why="The paper finds the best share between 0.4 and 1, by data set.",
    )  # fmt: skip
    seed: int = knob(0, "Draws which examples lack it, and the order of the passages.", low=0, high=2**31 - 1)


@dataclass(frozen=True)
class Solved:
    """A question and its answer."""

    question: str
    answer: str


def newcomers() -> list[Solved]:
    """What can be asked about the small world's newcomers, in the wordings that training may use."""
    from core.world import NEWCOMERS, question
    from core.world.people import ATTRIBUTES, question_wordings

    return [
        Solved(question(person.name, a, wording), person.value(a))
        for person in NEWCOMERS
        for a in ATTRIBUTES
        for wording in question_wordings(person.name, a, "train")
    ]


def rows(
    solved: Iterable[Solved], retriever: Retriever, raft: Raft | None = None, *, base: str = EMBEDDED
) -> list[dict[str, str]]:
    """Training rows (`prompt`, `completion`), one a question that the index can answer, in their order.

    A question whose answer stands in none of the passages that are retrieved for it is left out.

    Raises:
        BadInput: none of the questions can be answered from the index. Refused: the index is empty.
    """
    raft = raft or Raft()
    rng = random.Random(f"raft/{raft.seed}")
    out = []
    for one in solved:
        hits = retriever.find(one.question, raft.distractors + 4).hits
        texts = [h.chunk.text for h in hits]
        right = set(citations(one.answer, texts))
        if not right:
            continue
        best = min(right)
        wrong = [t for n, t in enumerate(texts, 1) if n not in right][: raft.distractors]
        keep = rng.random() < raft.golden or not wrong
        passages = [*wrong, texts[best - 1]] if keep else wrong
        rng.shuffle(passages)
        completion = one.answer
        if base != EMBEDDED and keep:
            completion += f" [{passages.index(texts[best - 1]) + 1}]"
        out.append({"prompt": prompt(one.question, passages, base), "completion": completion})
    if not out:
        raise BadInput(
            "None of the answers stands word for word in a passage that is retrieved for its question.",
            "Index the documents that hold the answers, or write shorter answers.",
        )
    return out


def write(path: Path, made: Sequence[dict[str, str]]) -> None:
    """Rows as JSONL, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
    """
    draft = path.with_suffix(path.suffix + ".partial")
    try:
        draft.write_text(jsonl(made), encoding="utf-8")
        draft.replace(path)
    except OSError as why:
        raise BadInput(f"{path} cannot be written: {why.strerror or why}.", "Name another file.") from why


def jsonl(made: Sequence[dict[str, str]]) -> str:
    """Rows as text, a JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
