"""The decision guide: an interview, rules that a person can read, a recommendation with its reasons, and a plan.

    from core.guide import decide, answers_of
    found = decide(answers_of({"knowledge": "many", "changes": "daily"}))
    found.approach, [reason.rule.because for reason in found.reasons]

The questions and rules are data (core/catalog/guide_rules.toml). Nothing here imports torch.
"""

from core.guide.decide import APPROACHES, Decision, Sensitivity, decide, sensitivity
from core.guide.rules import Answers, Conflict, Question, Reference, Rule, RuleBook, answers_of, rule_book

__all__ = [
    "APPROACHES",
    "Answers",
    "Conflict",
    "Decision",
    "Question",
    "Reference",
    "Rule",
    "RuleBook",
    "Sensitivity",
    "answers_of",
    "decide",
    "rule_book",
    "sensitivity",
]
