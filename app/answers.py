"""Grading of quizzes and predictions: answers in, verdicts out, in the visitor's language."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import calc, index
from app.words import n, t

# Predictions are compared as ratios; below this share of the scale's high end two values count as the same "nothing".
FLOOR_SHARE = 0.01

# How far from a known mistake an answer still counts as that mistake, at most, as a share of it: rounding, no more.
MISTAKE_SHARE = 0.05


@dataclass(frozen=True)
class Verdict:
    """What a learner is told: whether the answer is right, and an explanation per choice (or one, for a number)."""

    right: bool
    explanations: tuple[str, ...]


def readings(text: str) -> list[float]:
    """The numbers that `text` may mean, most likely first; empty when it is none.

    A decimal point and a decimal comma are both understood: '1,5' and '1.5' are 1.5. '1,536' may be 1536 or 1.536, so
    both are offered. Spaces between digits, a percent sign and a unit behind the number are ignored.
    """
    match = re.match(r"\s*([-+−]?)\s*([\d.,'\u2009\u202f\u00a0 ]*\d[.,]?)((?:[eE][-+]?\d+)?)", text)
    if not match:
        return []
    sign = -1.0 if match[1] in ("-", "−") else 1.0
    digits = re.sub(r"['\u2009\u202f\u00a0 ]", "", match[2]).rstrip(".,")
    options: list[str] = []
    for decimal, thousands in ((".", ","), (",", ".")):
        groups, _, fraction = digits.partition(decimal)
        if thousands in fraction or decimal in fraction:
            continue
        if thousands in groups and not re.fullmatch(rf"\d{{1,3}}(?:\{thousands}\d{{3}})+", groups):
            continue
        options.append(groups.replace(thousands, "") + ("." + fraction if fraction else ""))
    if not options and re.fullmatch(r"\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*", digits):
        options.append(re.sub(r"[.,]", "", digits))
    found: list[float] = []
    for option in options:
        try:
            number = sign * float((option or "0") + match[3])
        except ValueError:
            continue
        if math.isfinite(number) and number not in found:
            found.append(number)
    return found


def answer_value(answer: float | str, folder: Path) -> float:
    """The right answer of a numeric quiz: itself, or computed when it is written as a calc call."""
    return calc.value(calc.parse(answer), folder) if isinstance(answer, str) else float(answer)


def near(value: float, wanted: float, tolerance: float) -> bool:
    """Whether `value` lies within `tolerance` of `wanted` (with a little room for rounding in the last digit)."""
    return abs(value - wanted) <= tolerance + 1e-9 * max(abs(value), abs(wanted))


def grade(body: dict[str, Any], answer: Any, folder: Path) -> Verdict:
    """Grade a quiz.

    Args:
        body: the quiz cell's body.
        answer: the chosen position (single), the list of chosen positions (multiple), the typed text (numeric), or the
            items in the chosen order, each by its place in the right one, counted from 0 (ordering).
        folder: the lesson's, for computed answers.
    """
    kind = body.get("kind", "single")
    if kind == "numeric":
        return _grade_number(body, str(answer), folder)
    if kind == "ordering":
        return _grade_order(body, list(answer), folder)
    choices = body["choices"]
    chosen = {answer} if kind == "single" else set(answer)
    right = {i for i, c in enumerate(choices) if c.get("right")}
    missed = len(right - chosen)
    told = [index.filled(choices[i]["why"], folder) for i in sorted(chosen)]
    if missed and chosen <= right:
        told.append(n("answers.missed", missed))
    return Verdict(chosen == right, tuple(told))


def _grade_number(body: dict[str, Any], text: str, folder: Path) -> Verdict:
    values = readings(text)
    if not values:
        return Verdict(False, (t("answers.no_number"),))
    wanted = answer_value(body["answer"], folder)
    tolerance = float(body.get("tolerance", 0))
    if any(near(v, wanted, tolerance) for v in values):
        return Verdict(True, (index.filled(body["why"], folder),))
    for mistake in body.get("mistakes", ()):
        known = answer_value(mistake["answer"], folder)
        # A mistake is often a fraction of the answer: what is near for the answer would take in all small numbers.
        room = min(tolerance, MISTAKE_SHARE * abs(known))
        if any(near(v, known, room) for v in values):
            return Verdict(False, (index.filled(mistake["why"], folder),))
    return Verdict(False, (index.filled(body["otherwise"], folder),))


def shuffled(count: int, seed: str) -> list[int]:
    """The numbers 0 … count-1 in an order that is always the same for a seed, and never the right one."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order if order != sorted(order) else order[1:] + order[:1]


def dealt(count: int, seed: str) -> list[int]:
    """The numbers 0 … count-1 in an order that is always the same for a seed: where a quiz shows its choices, so that
    a right one stands in no favourite place, whatever its author did."""
    order = list(range(count))
    random.Random(f"choices {seed}").shuffle(order)
    return order


def _grade_order(body: dict[str, Any], order: list[int], folder: Path) -> Verdict:
    if order == list(range(len(body["items"]))):
        return Verdict(True, (index.filled(body["why"], folder),))
    if len(set(order)) < len(order):
        return Verdict(False, (t("answers.twice"),))
    for mistake in body.get("mistakes", ()):
        if order == [place - 1 for place in mistake["order"]]:
            return Verdict(False, (index.filled(mistake["why"], folder),))
    first = next(place for place, item in enumerate(order) if place != item) + 1
    where = t("answers.first_wrong") if first == 1 else t("answers.right_up_to", place=first - 1)
    return Verdict(False, (where, index.filled(body["otherwise"], folder)))


def log_ratio(predicted: float, measured: float, high: float) -> float:
    """How far a prediction was off, as a natural logarithm: 0 is exact, 0.69 twice too much, -0.69 half.

    Values below one per cent of the scale's high end are lifted to it, since a ratio to zero says nothing.
    """
    floor = abs(high) * FLOOR_SHARE
    return math.log(max(predicted, floor) / max(measured, floor))


def closeness(predicted: float, measured: float, tolerance: float) -> str:
    """The verdict on a prediction in words: within its tolerance, too high or too low."""
    if near(predicted, measured, tolerance):
        return "close"
    return "too high" if predicted > measured else "too low"
