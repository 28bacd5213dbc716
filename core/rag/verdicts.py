"""The usual table of retrieval against fine-tuning, cell by cell, beside what was measured here.

The table that circulates says of each of five concerns what RAG and what fine-tuning does about it. Each cell is a
claim, a test on the experiment's figures, and why a small model may come out otherwise. A claim that was measured is
confirmed here or not confirmed here; one whose arm was not run is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.guide.evidence import value_text
from core.rag.experiment import Band

Bands = Mapping[tuple[str, str, str], Band]
CONFIRMED, NOT_CONFIRMED, UNKNOWN = "confirmed here", "not confirmed here", "not measured here"
GOOD = 0.85  # a share from which on a thing is said to work
CLEAR = 0.1  # a difference that forty questions resolve


@dataclass(frozen=True)
class Claim:
    """A cell of the usual table. side: RAG or fine-tuning. test: the figures -> whether the claim holds. keys: the
    figures, as (arm, need, measure). small: why a small model may differ."""

    concern: str
    side: str
    says: str
    keys: tuple[tuple[str, str, str], ...]
    test: Callable[..., bool]
    small: str


@dataclass(frozen=True)
class Verdict:
    """A claim with what was measured. figures: in words."""

    claim: Claim
    verdict: str
    figures: str


RAG, TUNING = "RAG", "Fine-tuning"
CLAIMS = (
    Claim(
        "New knowledge", RAG, "Good: looks it up", (("rag", "facts", "right"), ("base", "facts", "right")),
        lambda rag, base: rag >= GOOD and rag - base >= CLEAR,
        "The embedded base was trained to read passages. A model that reads badly gains less from being given them.",
    ),
    Claim(
        "New knowledge", TUNING, "Poor: hard to teach by fine-tuning", (("lora", "facts", "right"),),
        lambda lora: lora < GOOD,
        "Eighty facts, each told sixty times as question and answer, are little for four million weights. Large models "
        "are taught thousands of facts, told once or twice, as running text.",
    ),
    Claim(
        "New knowledge", TUNING, "Rare facts are not learnt", (("lora", "rare", "right"), ("lora", "facts", "right")),
        lambda rare, often: often - rare >= CLEAR,
        "Here a rare fact is told once among thousands of examples, as in a large corpus.",
    ),
    Claim(
        "New format", RAG, "Poor: shows it, does not ensure it", (("rag", "json", "right"),),
        lambda rag: rag < GOOD,
        "The embedded base never learnt to follow examples in its prompt; large instruction-tuned models do, and keep "
        "an easy format often.",
    ),
    Claim(
        "New format", TUNING, "Good: becomes a habit", (("lora", "json", "right"), ("prompt", "json", "right")),
        lambda lora, prompt: lora >= GOOD and lora - prompt >= CLEAR,
        "One format with four keys is an easy one.",
    ),
    Claim(
        "New format", "Both", "A new fact in a new manner needs both",
        (("both", "both", "right"), ("rag", "both", "right"), ("lora", "both", "right")),
        lambda both, rag, lora: both - max(rag, lora) >= CLEAR,
        "The manner was trained on passages about other people, so reading was part of it.",
    ),
    Claim(
        "Hallucination", RAG, "Lowered: answers from the passage, or says that it cannot",
        (("rag", "nowhere", "invented"), ("base", "nowhere", "invented")),
        lambda rag, base: base - rag >= CLEAR,
        "The base was taught to say that a passage does not tell; a model that was not will answer from whatever it "
        "is given.",
    ),
    Claim(
        "Hallucination", TUNING, "Not lowered", (("lora", "nowhere", "invented"), ("base", "nowhere", "invented")),
        lambda lora, base: lora >= base - CLEAR,
        "Without a passage the small base always names something, so fine-tuning can hardly make it worse.",
    ),
    Claim(
        "Cost of an update", RAG, "Low: one row is indexed again",
        (("rag", "changed", "right"), ("rag", "changed", "update_seconds"), ("lora", "changed", "update_seconds")),
        lambda right, rag, lora: right >= GOOD and rag * 10 <= lora,
        "Indexing a row takes as long for a large model; training takes thousands of times longer.",
    ),
    Claim(
        "Cost of an update", TUNING, "High: stale until it is trained anew",
        (("lora", "changed", "stale"), ("lora", "changed", "right_after_update")),
        lambda stale, after: stale >= 0.5 and after >= GOOD,
        "Training anew takes seconds here, so the cost is easily paid; with a large model it is not.",
    ),
    Claim(
        "Latency", RAG, "Higher: searches, and reads a longer prompt",
        (("rag", "facts", "context_tokens"), ("base", "facts", "context_tokens"), ("rag", "", "retrieve_ms"),
         ("rag", "", "first_ms"), ("base", "", "first_ms")),
        lambda rag_tokens, base_tokens, retrieve, rag_first, base_first: (
            rag_tokens > base_tokens and retrieve + rag_first > 1.1 * base_first
        ),
        "On a model this small a call costs more than its tokens; with a large one the longer prompt weighs more.",
    ),
    Claim(
        "Latency", TUNING, "As before", (("full", "", "first_ms"), ("base", "", "first_ms")),
        lambda full, base: full <= 1.15 * base,
        "Full fine-tuning changes no shape. A LoRA that is not merged adds its own small products.",
    ),
)  # fmt: skip


def verdicts(found: Bands) -> list[Verdict]:
    """Every claim with its verdict on these figures."""
    from core.rag.experiment import ARMS
    from core.rag.needs import NEEDS

    out = []
    for claim in CLAIMS:
        got = [found.get(key) for key in claim.keys]
        if any(band is None for band in got):
            out.append(Verdict(claim, UNKNOWN, ""))
            continue
        values = [band.mean for band in got if band is not None]
        words = []
        for (arm, need, measure), value in zip(claim.keys, values, strict=True):
            what = _WORDS[measure]
            about = f", {NEEDS[need].title.lower()}" if need else ""
            words.append(f"{ARMS[arm]}{about}: {value_text(measure, value)} {what}")
        out.append(Verdict(claim, CONFIRMED if claim.test(*values) else NOT_CONFIRMED, "; ".join(words)))
    return out


_WORDS = {
    "right": "right",
    "invented": "invented",
    "stale": "stale",
    "right_after_update": "right after the update",
    "update_seconds": "an update",
    "context_tokens": "tokens a question",
    "retrieve_ms": "to search",
    "first_ms": "to the first token",
}
