"""The guide's questions, rules, conflicts and references, read from core/catalog/guide_rules.toml and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.errors import BadInput

FILE = Path(__file__).parents[1] / "catalog" / "guide_rules.toml"
PULLS = ("prompt", "rag", "tune", "deep")

Answers = Mapping[str, str]
"""Question -> answer; questions that were not answered are absent."""


@dataclass(frozen=True)
class Question:
    """key: its name in a link. options: answer -> how it is worded."""

    key: str
    ask: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Condition:
    """Question -> answers; it holds when every question named has been given one of them."""

    wanted: Mapping[str, tuple[str, ...]]

    def holds(self, answers: Answers) -> bool:
        return all(answers.get(question) in options for question, options in self.wanted.items())


@dataclass(frozen=True)
class Rule:
    """points: pull -> points. rules_out: pulls that the rule takes away, and what to do instead. because: the reason.
    measured: "arm.need.measure" of the experiment. literature: keys of the references."""

    id: str
    when: Condition
    because: str
    points: Mapping[str, int]
    rules_out: tuple[str, ...]
    instead: str
    measured: tuple[str, ...]
    literature: tuple[str, ...]


@dataclass(frozen=True)
class Conflict:
    """Answers that do not go together, and why."""

    when: Condition
    says: str


@dataclass(frozen=True)
class Reference:
    """A paper, and what it found in a sentence. where: which part of it says so."""

    key: str
    title: str
    authors: str
    year: int
    where: str
    url: str
    found: str


@dataclass(frozen=True)
class RuleBook:
    """All of it. strong: from how many points on a pull counts."""

    strong: int
    questions: Mapping[str, Question]
    rules: tuple[Rule, ...]
    conflicts: tuple[Conflict, ...]
    references: Mapping[str, Reference]


@lru_cache(maxsize=1)
def rule_book() -> RuleBook:
    """The rules that are shipped.

    Raises:
        ValueError: a mistake in the file: a name that is unknown, a rule without effect.
    """
    return read(FILE.read_text(encoding="utf-8"))


def read(text: str) -> RuleBook:
    """Rules from TOML; see `rule_book`."""
    found = tomllib.loads(text)
    questions = {q["key"]: Question(q["key"], q["ask"], dict(q["options"])) for q in found["questions"]}
    references = {key: Reference(key, **value) for key, value in found.get("references", {}).items()}

    def condition(when: Mapping[str, list[str]], where: str) -> Condition:
        for name, options in when.items():
            unknown = [o for o in options if name not in questions or o not in questions[name].options]
            if unknown or not options:
                raise ValueError(f"{where}: there is no answer {unknown} to a question {name!r}")
        return Condition({name: tuple(options) for name, options in when.items()})

    rules: list[Rule] = []
    for row in found["rules"]:
        known = {"id", "when", "because", "points", "rules_out", "instead", "measured", "literature"}
        points, out = row.get("points", {}), tuple(row.get("rules_out", ()))
        if set(row) - known or (set(points) | set(out)) - set(PULLS) or not (points or out):
            raise ValueError(f"rule {row.get('id')!r}: it has an unknown field or pull, or no effect")
        if missing := set(row.get("literature", ())) - set(references):
            raise ValueError(f"rule {row['id']!r}: there is no reference {missing}")
        if any(row["id"] == rule.id for rule in rules):
            raise ValueError(f"two rules are called {row['id']!r}")
        rules.append(
            Rule(
                row["id"], condition(row["when"], row["id"]), row["because"], dict(points), out, row.get("instead", ""),
                tuple(row.get("measured", ())), tuple(row.get("literature", ())),
            )
        )  # fmt: skip
    conflicts = tuple(Conflict(condition(c["when"], "a conflict"), c["says"]) for c in found.get("conflicts", ()))
    return RuleBook(int(found["strong"]), questions, tuple(rules), conflicts, references)


def answers_of(given: Mapping[str, Any], book: RuleBook | None = None) -> dict[str, str]:
    """Answers from a link or a command line: empty ones are left out.

    Raises:
        BadInput: an unknown question or answer; all of them in one sentence.
    """
    book = book or rule_book()
    wrong = []
    out = {}
    for name, value in given.items():
        if value is None or value == "":
            continue
        if name not in book.questions:
            wrong.append(f"there is no question {name!r} (there are {', '.join(book.questions)})")
        elif value not in book.questions[name].options:
            wrong.append(f"{name} is one of {', '.join(book.questions[name].options)}, not {value!r}")
        else:
            out[name] = str(value)
    if wrong:
        raise BadInput(f"These answers cannot be used: {'; '.join(wrong)}.")
    return out
