"""Numbers for the lessons on choosing and planning: the recorded experiment, the guide, the calculators."""

from __future__ import annotations

from typing import Any

from app.numbers import grouped
from core.errors import BadInput
from core.units import seconds_text

# --- retrieval against fine-tuning: the recorded experiment -----------------------------------------------------------


def rag_number(arm: str, need: str, measure: str) -> float:
    """A measured mean: shares in per cent, everything else as it was measured. need: '' for what an arm costs."""
    from core.guide.evidence import recorded_bands
    from core.rag.experiment import SHARES

    band = recorded_bands().get((arm, need, measure))
    if band is None:
        raise BadInput(f"The experiment measured no {measure} of {arm} for {need or 'its costs'}.")
    return 100 * band.mean if measure in SHARES else band.mean


def rag(arm: str, need: str, measure: str) -> str:
    """The same for a sentence, with its unit."""
    from core.guide.evidence import value_text
    from core.rag.experiment import SHARES

    number = rag_number(arm, need, measure)
    return value_text(measure, number / 100 if measure in SHARES else number)


def rag_settings(what: str) -> float:
    """seeds, or items: how often the experiment was drawn, and how many questions a need has at most."""
    from core.rag.experiment import recorded

    found = recorded()["settings"]
    if what not in ("seeds", "items"):
        raise BadInput(f"The experiment's settings are seeds and items, not {what!r}.")
    return float(found[what])


def rag_seconds() -> float:
    """How long the recorded experiment took, for one seed."""
    from core.rag.experiment import recorded

    found = recorded()
    return float(found["seconds"]) / float(found["settings"]["seeds"])


def rag_verdicts(verdict: str) -> float:
    """How many claims of the usual table are 'confirmed', 'not confirmed', or, 'all', how many there are."""
    from core.guide.evidence import recorded_bands
    from core.rag.verdicts import CONFIRMED, NOT_CONFIRMED, verdicts

    rows = verdicts(recorded_bands())
    wanted = {"confirmed": CONFIRMED, "not confirmed": NOT_CONFIRMED}.get(verdict)
    if wanted is None and verdict != "all":
        raise BadInput(f"Verdicts are confirmed, not confirmed and all, not {verdict!r}.")
    return float(sum(1 for row in rows if wanted is None or row.verdict == wanted))


def rag_told(how: str, wordings: int) -> float:
    """Share of the questions answered after facts were told so, in so many wordings, in per cent."""
    from core.rag.experiment import recorded

    rows = [r for r in recorded()["wordings"] if (r["told"], r["wordings"]) == (how, wordings)]
    if not rows:
        raise BadInput(f"Nothing was told as {how} in {wordings} wordings.")
    return 100 * sum(r["right"] for r in rows) / len(rows)


def update_ratio() -> float:
    """How many times longer an update takes by LoRA than by retrieval, as measured."""
    return rag_number("lora", "changed", "update_seconds") / rag_number("rag", "changed", "update_seconds")


def break_even_questions(tokens_saved: float, training_tokens: float) -> float:
    """Questions after which training on so many tokens, three times as dear as reading them, has paid for prompts that
    are so many tokens shorter."""
    if tokens_saved <= 0:
        raise BadInput("The prompts must get shorter for training to pay.")
    return 3 * training_tokens / tokens_saved


def rrf(first: int, second: int) -> float:
    """The fused score of a passage that is at these ranks in two lists."""
    from core.rag.retrieve import fuse

    lists = [[-n for n in range(1, first)] + [0], [-n - 1000 for n in range(1, second)] + [0]]
    return dict(fuse(lists))[0]


def guide(answers: str) -> str:
    """What the decision guide recommends for answers such as 'knowledge=many, changes=daily'."""
    from core.guide import answers_of, decide

    pairs = dict(part.strip().split("=", 1) for part in answers.split(",") if "=" in part)
    return decide(answers_of(pairs)).title


def guide_rules() -> float:
    """How many rules the guide has."""
    from core.guide import rule_book

    return float(len(rule_book().rules))


def percent(value: float) -> str:
    """A share in per cent: 98.37 -> '98 %', 1.536 -> '1.5 %'."""
    return f"{value:.0f} %" if value == 0 or value >= 10 else f"{value:.1f} %"


FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "rag": (rag, str),
    "rag_number": (rag_number, grouped),
    "rag_settings": (rag_settings, grouped),
    "rag_seconds": (rag_seconds, seconds_text),
    "rag_verdicts": (rag_verdicts, grouped),
    "rag_told": (rag_told, percent),
    "update_ratio": (update_ratio, lambda v: f"{float(f'{v:.2g}'):,.0f}"),
    "break_even_questions": (break_even_questions, grouped),
    "rrf": (rrf, lambda v: f"{v:.4f}"),
    "guide": (guide, str),
    "guide_rules": (guide_rules, grouped),
}
