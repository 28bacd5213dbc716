"""From answers to a recommendation: points, what is ruled out, and what would change it.

Each rule that holds adds its points; a pull is strong from `strong` points on (core/catalog/guide_rules.toml). Then, of
what is not ruled out:

    deep strong                      → continued pre-training (and retrieval beside it, if that is strong too)
    rag and tune strong              → both
    rag strong                       → RAG
    tune strong                      → fine-tuning
    none                             → prompting

A pull that was strong and is ruled out is said to be lacking, with what to do instead: the recommendation is then the
best of what is possible and not what the answers call for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.guide.rules import PULLS, Answers, Reference, Rule, RuleBook, rule_book

PROMPTING, RAG, TUNING, BOTH, DEEP = "prompting", "rag", "fine-tuning", "both", "continued"
APPROACHES = {
    PROMPTING: "Prompting",
    RAG: "Retrieval (RAG)",
    TUNING: "Fine-tuning",
    BOTH: "Retrieval and fine-tuning",
    DEEP: "Continued pre-training",
}


@dataclass(frozen=True)
class Reason:
    """A rule that holds for these answers."""

    rule: Rule


@dataclass(frozen=True)
class Decision:
    """The recommendation.

    approach: a key of APPROACHES. retrieves: whether it looks things up, too (continued pre-training may). reasons: the
    rules that hold (of those that rule something out, the ones that took away what was called for), those that speak
    most strongly first. points: of each pull. lacking: pulls that are called for and
    ruled out, each with its rule. conflicts: sentences. open: questions without an answer. certain: nothing that is
    open could change the approach.
    """

    approach: str
    retrieves: bool
    reasons: tuple[Reason, ...]
    points: dict[str, int]
    lacking: tuple[tuple[str, Rule], ...]
    conflicts: tuple[str, ...]
    open: tuple[str, ...]
    certain: bool

    @property
    def title(self) -> str:
        return APPROACHES[self.approach] + (" and retrieval" if self.approach == DEEP and self.retrieves else "")

    @property
    def tunes(self) -> bool:
        """Whether weights are trained."""
        return self.approach in (TUNING, BOTH, DEEP)


@dataclass(frozen=True)
class Sensitivity:
    """What a single other answer would change. known: whether the question has an answer now."""

    question: str
    answer: str
    approach: str
    title: str
    known: bool


def decide(answers: Answers, book: RuleBook | None = None) -> Decision:
    """The recommendation for these answers; none at all give prompting, uncertain."""
    book = book or rule_book()
    approach, retrieves, points, lacking = _verdict(answers, book)
    missed = {rule.id for _, rule in lacking}
    held = [r for r in book.rules if r.when.holds(answers) and (not r.rules_out or r.id in missed)]
    held.sort(key=lambda rule: -(100 if rule.rules_out else max(abs(p) for p in rule.points.values())))
    unanswered = tuple(key for key in book.questions if key not in answers)
    return Decision(
        approach, retrieves, tuple(Reason(rule) for rule in held), points, lacking,
        tuple(c.says for c in book.conflicts if c.when.holds(answers)), unanswered,
        certain=not any(_others(answers, book, unanswered)),
    )  # fmt: skip


def sensitivity(answers: Answers, book: RuleBook | None = None) -> list[Sensitivity]:
    """Every single other answer that would lead to another recommendation, given answers first."""
    book = book or rule_book()
    known = [key for key in book.questions if key in answers]
    unanswered = [key for key in book.questions if key not in answers]
    return [*_others(answers, book, known), *_others(answers, book, unanswered)]


def _others(answers: Answers, book: RuleBook, questions: list[str] | tuple[str, ...]) -> Iterator[Sensitivity]:
    now = _verdict(answers, book)[:2]
    for key in questions:
        for option in book.questions[key].options:
            if option == answers.get(key):
                continue
            then = _verdict({**answers, key: option}, book)[:2]
            if then != now:
                title = APPROACHES[then[0]] + (" and retrieval" if then[0] == DEEP and then[1] else "")
                yield Sensitivity(key, option, then[0], title, key in answers)


def _verdict(answers: Answers, book: RuleBook) -> tuple[str, bool, dict[str, int], tuple[tuple[str, Rule], ...]]:
    points = dict.fromkeys(PULLS, 0)
    out: dict[str, Rule] = {}
    for rule in book.rules:
        if rule.when.holds(answers):
            for pull, count in rule.points.items():
                points[pull] += count
            for pull in rule.rules_out:
                out.setdefault(pull, rule)
    wanted = {pull for pull in ("rag", "tune", "deep") if points[pull] >= book.strong}
    lacking = tuple((pull, out[pull]) for pull in PULLS if pull in wanted and pull in out)
    strong = {pull for pull in wanted if pull not in out}
    if "deep" in strong:
        return DEEP, "rag" in strong, points, lacking
    if {"rag", "tune"} <= strong:
        return BOTH, True, points, lacking
    if "rag" in strong:
        return RAG, True, points, lacking
    if "tune" in strong:
        return TUNING, False, points, lacking
    return PROMPTING, False, points, lacking


def references(decision: Decision, book: RuleBook | None = None) -> list[Reference]:
    """The papers behind the rules that hold, each once."""
    book = book or rule_book()
    keys = dict.fromkeys(key for reason in decision.reasons for key in reason.rule.literature)
    return [book.references[key] for key in keys]
