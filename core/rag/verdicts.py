"""The usual table of retrieval against fine-tuning, cell by cell, beside what was measured here.

The table that circulates says of each of five concerns what RAG and what fine-tuning does about it. Each cell is a
claim, a test on the experiment's figures, and why a small model may come out otherwise. A claim that was measured is
confirmed here or not confirmed here; where the questions are too few to tell, it is not decided; and one whose arm was
not run is not measured.

What decides: a share is the interval in which it lies with 95 % confidence, or that of the seeds where they are further
apart (`Band.interval`). It is above another when
the intervals do not overlap, and at least a limit when all of its interval is. Times have no such interval; they
differ when one is more than a tenth above the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.guide.evidence import share_text, value_text
from core.rag.experiment import ARMS, SHARES, Band
from core.rag.needs import NEEDS

Bands = Mapping[tuple[str, str, str], Band]
CONFIRMED, NOT_CONFIRMED, UNDECIDED = "confirmed here", "not confirmed here", "not decided here"
UNKNOWN = "not measured here"
GOOD = 0.85  # a share from which on a thing is said to work
LONGER = 1.1  # times a time, which then counts as longer


@dataclass(frozen=True)
class Claim:
    """A cell of the usual table. side: RAG or fine-tuning. keys: the figures, as (arm, need, measure). test: the
    figures' bands -> whether the claim holds; None where they leave it open. small: why a small model may differ. but:
    likewise, what should be said beside the verdict."""

    concern: str
    side: str
    says: str
    keys: tuple[tuple[str, str, str], ...]
    test: Callable[..., bool | None]
    small: str
    but: Callable[..., str] = lambda *_: ""


@dataclass(frozen=True)
class Verdict:
    """A claim with what was measured. figures: in words. but: what the verdict does not say; mostly empty."""

    claim: Claim
    verdict: str
    figures: str
    but: str = ""


def at_least(share: Band, limit: float) -> bool | None:
    """Whether a share reaches a limit; None where it lies inside the interval."""
    low, high = share.interval
    return True if low >= limit else False if high < limit else None


def above(one: Band, other: Band) -> bool | None:
    """Whether a share is above another; None where their intervals overlap."""
    (low, high), (other_low, other_high) = one.interval, other.interval
    return True if low > other_high else False if high < other_low else None


def every(*parts: bool | None) -> bool | None:
    """Whether all hold; None where none fails and some are open."""
    return False if False in parts else None if None in parts else True


def contrary(part: bool | None) -> bool | None:
    """The opposite; of what is open nothing."""
    return None if part is None else not part


def _longer(one: float, other: float) -> bool:
    return one > LONGER * other


def _least(*bands: Band) -> Band:
    return min(bands, key=lambda band: band.mean)


def _most(*bands: Band) -> Band:
    return max(bands, key=lambda band: band.mean)


def _better_than_either(both: Band, rag: Band, lora: Band) -> str:
    if above(both, _most(rag, lora)) and not at_least(both, GOOD):
        return "Better than either alone, and not good."
    return ""


RAG, TUNING = "RAG", "Fine-tuning"
CLAIMS = (
    Claim(
        "New knowledge", RAG, "Good: looks it up", (("rag", "facts", "right"), ("base", "facts", "right")),
        lambda rag, base: every(at_least(rag, GOOD), above(rag, base)),
        "The embedded base was trained to read passages. A model that reads badly gains less from being given them. "
        "And it reads one passage here: with three, namesakes confuse it.",
    ),
    Claim(
        "New knowledge", TUNING, "Poor: hard to teach by fine-tuning", (("lora", "facts", "right"),),
        lambda lora: contrary(at_least(lora, GOOD)),
        "Eighty facts, most told sixty times as question and answer, are little for four million weights. Large "
        "models are taught thousands of facts, told once or twice, as running text.",
    ),
    Claim(
        "New knowledge", TUNING, "Rare facts are not learnt", (("lora", "rare", "right"), ("lora", "facts", "right")),
        lambda rare, often: above(often, rare),
        "Here a rare fact is told once among thousands of examples, as in a large corpus.",
    ),
    Claim(
        "New format", RAG, "Poor: shows it, does not ensure it", (("rag", "json", "right"),),
        lambda rag: contrary(at_least(rag, GOOD)),
        "Nothing can be looked up, so what is retrieved are the nearest solved examples. The embedded base never "
        "learnt to follow examples in its prompt; large instruction-tuned models do, and keep an easy format often.",
    ),
    Claim(
        "New format", TUNING, "Good: becomes a habit", (("lora", "json", "right"), ("prompt", "json", "right")),
        lambda lora, prompt: every(at_least(lora, GOOD), above(lora, prompt)),
        "One format with four keys is an easy one.",
    ),
    Claim(
        "New format", "Both", "A new fact in a new manner needs both",
        (("both", "both", "right"), ("rag", "both", "right"), ("lora", "both", "right")),
        lambda both, rag, lora: every(above(both, _most(rag, lora)), at_least(both, GOOD)),
        "Half of what taught the manner had a passage about other people in view. The adapter never saw the new facts, "
        "so alone it cannot know them; and how well the two went together differed much from seed to seed.",
        _better_than_either,
    ),
    Claim(
        "Hallucination", RAG, "Lowered: answers from the passage, or says that it cannot",
        (("rag", "nowhere", "invented"), ("base", "nowhere", "invented"), ("prompt", "nowhere", "invented"),
         ("prompt", "facts", "refused")),
        lambda rag, base, prompt, *_: above(_least(base, prompt), rag),
        "The test is against the better of the base and of prompting. This base was taught to say that a passage does "
        "not tell; one about a namesake deceives it.",
        lambda rag, base, prompt, declined: (
            "Prompting invents less than the base because it declines: also "
            f"{100 * declined.mean:.0f} % of the new facts."
            if declined.interval[0] > 0.1 and prompt.mean < base.mean else ""
        ),
    ),
    Claim(
        "Hallucination", TUNING, "Not lowered",
        (("lora", "nowhere", "invented"), ("base", "nowhere", "invented"), ("prompt", "nowhere", "invented")),
        lambda lora, base, prompt: above(lora, _least(base, prompt)),
        "Without a passage the small base always names something, so fine-tuning can hardly make it worse.",
    ),
    Claim(
        "Cost of an update", RAG, "Low: one row is indexed again",
        (("rag", "changed", "right"), ("lora", "changed", "right"), ("rag", "changed", "update_seconds"),
         ("lora", "changed", "update_seconds")),
        lambda rag, lora, indexing, training: every(above(rag, lora), _longer(training.mean, 10 * indexing.mean)),
        "Indexing a row takes as long for a large model; training takes over a thousand times longer.",
    ),
    Claim(
        "Cost of an update", TUNING, "High: stale until it is trained anew",
        (("lora", "changed", "stale"), ("lora", "changed", "right"), ("lora", "changed", "right_after_update")),
        lambda stale, before, after: every(at_least(stale, 0.5), above(after, before)),
        "Training anew takes seconds here, so the cost is easily paid; with a large model it is not.",
    ),
    Claim(
        "Latency", RAG, "Higher: searches, and reads a longer prompt",
        (("rag", "facts", "context_tokens"), ("base", "facts", "context_tokens"), ("rag", "", "retrieve_ms"),
         ("rag", "", "first_ms"), ("base", "", "first_ms")),
        lambda rag_tokens, base_tokens, search, rag, base: (
            rag_tokens.mean > base_tokens.mean and _longer(search.mean + rag.mean, base.mean)
        ),
        "On a model this small a call costs more than its tokens; with a large one the longer prompt weighs more.",
    ),
    Claim(
        "Latency", TUNING, "As before",
        (("lora", "", "first_ms"), ("base", "", "first_ms"), ("lora", "", "token_ms"), ("base", "", "token_ms"),
         ("full", "", "first_ms"), ("full", "", "token_ms")),
        lambda lora, base, lora_token, base_token, *_: (
            not _longer(lora.mean, base.mean) and not _longer(lora_token.mean, base_token.mean)
        ),
        "A LoRA that is not merged adds small products of its own to every layer, which weigh more beside small "
        "matrices.",
        lambda lora, base, lora_token, base_token, full, full_token: (
            "This is LoRA as it is trained, unmerged. Full fine-tuning, and so a LoRA that is merged, changes no shape."
            if not _longer(full.mean, base.mean) and not _longer(full_token.mean, base_token.mean) else ""
        ),
    ),
)  # fmt: skip


def threshold(rows: Sequence[Mapping[str, Any]], told: str) -> int | None:
    """In how many wordings a fact has to be told until it can be asked about: from how many on the share of right
    answers is at least GOOD for certain. None if in none of those that were tried.

    Args:
        rows: the experiment's `wordings`. told: statements or questions.
    """
    counts = sorted({row["wordings"] for row in rows if row["told"] == told})
    found = None
    for count in reversed(counts):
        mine = [row for row in rows if (row["told"], row["wordings"]) == (told, count)]
        asked = sum(row["count"] for row in mine)
        right = sum(row["right"] * row["count"] for row in mine) / asked
        if not at_least(Band(right, right, right, len(mine), mine[0]["count"], asked), GOOD):
            break
        found = count
    return found


def verdicts(found: Bands) -> list[Verdict]:
    """Every claim with its verdict on these figures."""
    out = []
    for claim in CLAIMS:
        got = [band for key in claim.keys if (band := found.get(key)) is not None]
        if len(got) < len(claim.keys):
            out.append(Verdict(claim, UNKNOWN, ""))
            continue
        figures = "; ".join(_figure(*key, band) for key, band in zip(claim.keys, got, strict=True))
        verdict = {True: CONFIRMED, False: NOT_CONFIRMED, None: UNDECIDED}[claim.test(*got)]
        out.append(Verdict(claim, verdict, figures, claim.but(*got)))
    return out


def _figure(arm: str, need: str, measure: str, band: Band) -> str:
    about = f", {NEEDS[need].title.lower()}" if need else ""
    value = share_text(band) if measure in SHARES else value_text(measure, band.mean)
    return f"{ARMS[arm]}{about}: {value} {_WORDS[measure]}"


_WORDS = {
    "right": "right",
    "invented": "invented",
    "refused": "declined",
    "stale": "stale",
    "right_after_update": "right after the update",
    "update_seconds": "an update",
    "context_tokens": "tokens a question",
    "retrieve_ms": "to search",
    "first_ms": "to the first token",
    "token_ms": "a further token",
}
