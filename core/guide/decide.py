"""From answers to a recommendation: points, what is ruled out, and what would change it.

Each rule that holds adds its points; a pull is strong from `strong` points on (core/catalog/guide_rules.toml). What
prompting does better is left to it: retrieval and fine-tuning count only if prompting is not strong with more points
than they have. Then, of what is not ruled out:

    deep strong                      → continued pre-training (and retrieval beside it, if that is strong too)
    rag and tune strong              → both
    rag strong                       → RAG
    tune strong                      → fine-tuning
    none                             → prompting

A pull that was strong and is ruled out is said to be lacking, with what to do instead: the recommendation is then the
best of what is possible and not what the answers call for.

Whether open questions could change it is searched for among all ways to answer them, not only one by one: points add
up. Questions are answered one after the other, and a branch is left as soon as the points that are still to be had
cannot change the recommendation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
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
    most strongly first. points: of each pull. lacking: pulls that are called for and ruled out, each with its rule.
    conflicts: sentences. open: questions without an answer. change: answers to some of them that together would lead
    elsewhere, none of which could be left out; empty if no answers could. instead: the title of where they lead.
    """

    approach: str
    retrieves: bool
    reasons: tuple[Reason, ...]
    points: dict[str, int]
    lacking: tuple[tuple[str, Rule], ...]
    conflicts: tuple[str, ...]
    open: tuple[str, ...]
    change: Mapping[str, str]
    instead: str

    @property
    def certain(self) -> bool:
        """Nothing that is open could change the approach, however it is answered."""
        return not self.change

    @property
    def title(self) -> str:
        return _title((self.approach, self.retrieves))

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
    (approach, retrieves), points, lacking = _verdict(answers, book)
    missed = {rule.id for _, rule in lacking}
    held = [r for r in book.rules if r.when.holds(answers) and (not r.rules_out or r.id in missed)]
    held.sort(key=lambda rule: -(100 if rule.rules_out else max(abs(p) for p in rule.points.values())))
    change = _change(answers, book)
    return Decision(
        approach, retrieves, tuple(Reason(rule) for rule in held), points, lacking,
        tuple(c.says for c in book.conflicts if c.when.holds(answers)),
        tuple(key for key in book.questions if key not in answers),
        change, _title(_verdict({**answers, **change}, book)[0]),
    )  # fmt: skip


def sensitivity(answers: Answers, book: RuleBook | None = None) -> list[Sensitivity]:
    """Every single other answer that would lead to another recommendation, given answers first."""
    book = book or rule_book()
    known = [key for key in book.questions if key in answers]
    unanswered = [key for key in book.questions if key not in answers]
    return [*_others(answers, book, known), *_others(answers, book, unanswered)]


def _others(answers: Answers, book: RuleBook, questions: Sequence[str]) -> Iterator[Sensitivity]:
    now = _verdict(answers, book)[0]
    for key in questions:
        for option in book.questions[key].options:
            if option == answers.get(key):
                continue
            then = _verdict({**answers, key: option}, book)[0]
            if then != now:
                yield Sensitivity(key, option, then[0], _title(then), key in answers)


_End = tuple[str, bool]  # an approach, and whether it retrieves


def _title(end: _End) -> str:
    return APPROACHES[end[0]] + (" and retrieval" if end[0] == DEEP and end[1] else "")


def _verdict(answers: Answers, book: RuleBook) -> tuple[_End, dict[str, int], tuple[tuple[str, Rule], ...]]:
    """Where the answers lead, the points of each pull, and what is called for and ruled out."""
    points = dict.fromkeys(PULLS, 0)
    out: dict[str, Rule] = {}
    for rule in book.rules:
        if rule.when.holds(answers):
            for pull, count in rule.points.items():
                points[pull] += count
            for pull in rule.rules_out:
                out.setdefault(pull, rule)
    wanted = {
        pull
        for pull in _ACTIVE
        if points[pull] >= book.strong and not (pull in _BY_PROMPT and book.strong <= points["prompt"] > points[pull])
    }
    lacking = tuple((pull, out[pull]) for pull in PULLS if pull in wanted and pull in out)
    return _end(*(pull in wanted and pull not in out for pull in _ACTIVE)), points, lacking


_ACTIVE = ("rag", "tune", "deep")
_BY_PROMPT = ("rag", "tune")  # what a prompt may do in their place; it teaches no language


def _end(rag: bool, tune: bool, deep: bool) -> _End:
    """Where these pulls lead, of those that count."""
    if deep:
        return DEEP, rag
    if rag and tune:
        return BOTH, True
    if rag:
        return RAG, True
    return (TUNING, False) if tune else (PROMPTING, False)


# --- whether open questions matter ------------------------------------------------------------------------------------


def _change(answers: Answers, book: RuleBook) -> dict[str, str]:
    """As few answers to open questions as lead elsewhere; empty if none do."""
    now = _verdict(answers, book)[0]
    found = _elsewhere(dict(answers), _kinds(answers, book), book, now)
    if found is None:
        return {}
    change = {key: value for key, value in found.items() if key not in answers and value}
    for key in list(change):
        fewer = {k: v for k, v in change.items() if k != key}
        if _verdict({**answers, **fewer}, book)[0] != now:
            change = fewer
    return change


def _kinds(answers: Answers, book: RuleBook) -> list[tuple[str, tuple[str, ...]]]:
    """Open questions that a rule asks about, each with one answer of every kind that the rules tell apart, and "" for
    none."""
    out = []
    for key, question in book.questions.items():
        asking = [rule.when.wanted[key] for rule in book.rules if key in rule.when.wanted]
        if key in answers or not asking:
            continue
        kinds = {(False,) * len(asking): ""}
        for option in question.options:
            kinds.setdefault(tuple(option in wanted for wanted in asking), option)
        out.append((key, tuple(kinds.values())))
    return out


def _elsewhere(
    answers: dict[str, str], still: list[tuple[str, tuple[str, ...]]], book: RuleBook, now: _End
) -> dict[str, str] | None:
    """Answers to the questions in `still`, behind those given, that lead elsewhere than `now`; None if none do."""
    if _ends(answers, {key for key, _ in still}, book) == {now}:
        return None
    if not still:
        return answers
    (key, options), *rest = still
    for option in options:
        found = _elsewhere({**answers, key: option}, rest, book, now)
        if found is not None:
            return found
    return None


def _ends(answers: Mapping[str, str], still: set[str], book: RuleBook) -> set[_End]:
    """Where answers could lead when the questions in `still` are answered, too; perhaps more than really can be."""
    low, high = dict.fromkeys(PULLS, 0), dict.fromkeys(PULLS, 0)
    out: set[str] = set()
    perhaps_out: set[str] = set()
    for rule in book.rules:
        asked = rule.when.wanted.items()
        if not all(key in still or answers.get(key) in wanted for key, wanted in asked):
            continue
        sure = not any(key in still for key, _ in asked)
        for pull, count in rule.points.items():
            low[pull] += count if sure else min(count, 0)
            high[pull] += count if sure else max(count, 0)
        (out if sure else perhaps_out).update(rule.rules_out)
    cases = []
    for pull in _ACTIVE:
        never = pull in _BY_PROMPT and book.strong <= low["prompt"] > high[pull]
        perhaps_not = pull in _BY_PROMPT and book.strong <= high["prompt"] > low[pull]
        can = high[pull] >= book.strong and pull not in out and not never
        must = low[pull] >= book.strong and pull not in out | perhaps_out and not perhaps_not
        cases.append((True,) if must else (False, True) if can else (False,))
    return {_end(*case) for case in itertools.product(*cases)}


def references(decision: Decision, book: RuleBook | None = None) -> list[Reference]:
    """The papers behind the rules that hold, each once."""
    book = book or rule_book()
    keys = dict.fromkeys(key for reason in decision.reasons for key in reason.rule.literature)
    return [book.references[key] for key in keys]
