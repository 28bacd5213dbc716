"""`deltalab guide`: which approach fits, from answers on the command line; without any, the interview.

deltalab guide                                   asks, one question after the other (a blank line skips one)
deltalab guide knowledge=many changes=daily      answers at once
deltalab guide knowledge=many --plan plan.md     and the plan as Markdown
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from core.cli.arguments import DONE, command, json_argument
from core.errors import BadInput


def add(commands: Any) -> None:
    """The command's flags."""
    one = command(commands, "guide", _guide, "recommend prompting, retrieval, fine-tuning or both, with reasons")
    one.add_argument("answers", nargs="*", metavar="QUESTION=ANSWER", help="your answers; none: you are asked")
    one.add_argument("--questions", action="store_true", help="list the questions with their answers")
    one.add_argument("--plan", type=Path, metavar="FILE", help="also write the plan as Markdown ('-': to the terminal)")
    json_argument(one)


def _guide(asked: argparse.Namespace) -> int:
    from core.guide import answers_of, decide, rule_book, sensitivity
    from core.guide.decide import references
    from core.guide.evidence import UNMEASURED, measured
    from core.guide.method import choose
    from core.guide.plan import markdown, playground_link, vram_link

    book = rule_book()
    if asked.questions:
        if asked.json:
            print(json.dumps({q.key: {"ask": q.ask, "options": dict(q.options)} for q in book.questions.values()}))
        else:
            for q in book.questions.values():
                print(f"{q.key}: {q.ask}")
                for key, text in q.options.items():
                    print(f"    {key:<10} {text}")
        return DONE
    given = _pairs(asked.answers)
    if not given and not asked.json and sys.stdin.isatty():
        given = _interview()
    answers = answers_of(given)
    found = decide(answers)
    choice = choose(found, answers)
    others = sensitivity(answers)
    if asked.plan is not None:
        text = markdown(answers, found)
        if str(asked.plan) == "-":
            print(text)
        else:
            try:
                asked.plan.write_text(text, encoding="utf-8")
            except OSError as why:
                raise BadInput(f"{asked.plan} cannot be written: {why.strerror}.", "Name another file.") from why
    if asked.json:
        print(
            json.dumps(
                {
                    "answers": answers, "approach": found.approach, "title": found.title, "points": found.points,
                    "reasons": [
                        {"rule": r.rule.id, "because": r.rule.because, "measured": measured(r.rule)}
                        for r in found.reasons
                    ],
                    "lacking": [
                        {"pull": pull, "because": r.because, "instead": r.instead} for pull, r in found.lacking
                    ],
                    "conflicts": list(found.conflicts), "open": list(found.open), "certain": found.certain,
                    "together": dict(found.change), "instead": found.instead if found.change else None,
                    "method": choice and choice.method, "model": choice and choice.model, "gpu": choice and choice.gpu,
                    "gpus": choice and choice.gpus, "method_because": choice and choice.because,
                    "playground": playground_link(found, answers, choice), "vram": vram_link(choice),
                    "sensitivity": [
                        {"question": s.question, "answer": s.answer, "approach": s.approach} for s in others
                    ],
                    "references": [r.url for r in references(found)],
                },
                ensure_ascii=False,
            )
        )  # fmt: skip
        return DONE
    if str(asked.plan or "") == "-":
        return DONE
    print(f"{found.title}{'' if found.certain else ' (what is not answered yet could change that)'}")
    for text in found.conflicts:
        print(f"  ! {text}")
    for _, rule in found.lacking:
        print(f"  ! {rule.because} {rule.instead}")
    for reason in found.reasons:
        print(f"  - {reason.rule.because}")
        told = measured(reason.rule)
        for text in told:
            print(f"      measured here: {text}")
        if not told:
            print(f"      {UNMEASURED}")
    if choice is not None:
        print(choice.because)
    if others or found.change:
        print("What would change it:")
        for other in others:
            print(f"  {other.question}={other.answer}: {other.title}")
        if len(found.change) > 1:
            print(f"  {' '.join(f'{q}={a}' for q, a in found.change.items())}: {found.instead}")
    return DONE


def _pairs(texts: list[str]) -> dict[str, str]:
    out = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"An answer is QUESTION=ANSWER, not {text!r}.", "See deltalab guide --questions.")
        out[key.strip()] = value.strip()
    return out


def _interview() -> dict[str, str]:
    """Ask in the terminal; what is not an answer is asked again."""
    from core.guide import rule_book

    out: dict[str, str] = {}
    for question in rule_book().questions.values():
        print(question.ask)
        keys = list(question.options)
        for number, key in enumerate(keys, 1):
            print(f"  {number}  {question.options[key]}")
        while True:
            try:
                said = input("> ").strip()
            except EOFError:
                return out
            if not said:
                break
            if said.isdigit() and 1 <= int(said) <= len(keys):
                out[question.key] = keys[int(said) - 1]
                break
            print(f"A number from 1 to {len(keys)}, or nothing.")
    return out
