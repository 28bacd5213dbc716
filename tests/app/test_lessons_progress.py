"""Grading and progress: what counts as right, as done, and as a good prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from app import answers, progress
from app.index import Cell, Lesson

HERE = Path()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.5", 1.5), ("1,5", 1.5), (" 98.4 % ", 98.4), ("1 536", 1536), ("1,536", 1536), ("1.536", 1536),
        ("1.234.567,8", 1234567.8), ("1,234,567.8", 1234567.8), ("-3", -3), ("−3", -3), ("1e-3", 1e-3), (".5", 0.5),
        ("5 nats", 5), ("12'000", 12000),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text: str, wanted: float) -> None:
    assert wanted in answers.readings(text)


@pytest.mark.parametrize("text", ["", "many", "1,2,3", "1.5,3", "--", "1e999", "nan", "inf"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert answers.readings(text) == []


SINGLE: dict[str, Any] = {
    "choices": [{"text": "a", "why": "not a"}, {"text": "b", "right": True, "why": "yes, b"}, {"text": "c", "why": "x"}]
}
MULTIPLE: dict[str, Any] = {
    "kind": "multiple",
    "choices": [
        {"text": "a", "right": True, "why": "a!"},
        {"text": "b", "why": "no b"},
        {"text": "c", "right": True, "why": "c!"},
    ],
}
NUMERIC: dict[str, Any] = {
    "kind": "numeric", "answer": "lora_parameters(d=1000, k=1000, r=8)", "why": "yes", "otherwise": "no",
    "mistakes": [{"answer": "matrix_parameters(d=1000, k=1000)", "why": "that is W"}],
}  # fmt: skip


def test_single_choice() -> None:
    assert answers.grade(SINGLE, 1, HERE) == answers.Verdict(True, ("yes, b",))
    assert answers.grade(SINGLE, 0, HERE) == answers.Verdict(False, ("not a",))


def test_multiple_choice_tells_each_choice_and_what_is_missing() -> None:
    assert answers.grade(MULTIPLE, [0, 2], HERE) == answers.Verdict(True, ("a!", "c!"))
    assert answers.grade(MULTIPLE, [0, 1, 2], HERE) == answers.Verdict(False, ("a!", "no b", "c!"))
    half = answers.grade(MULTIPLE, [0], HERE)
    assert not half.right
    assert "1 more is right" in half.explanations[-1]


def test_numeric() -> None:
    assert answers.grade(NUMERIC, "16,000", HERE).right
    assert answers.grade(NUMERIC, "16000", HERE).right
    assert answers.grade(NUMERIC, "1e6", HERE).explanations == ("that is W",)
    assert answers.grade(NUMERIC, "7", HERE).explanations == ("no",)
    assert "type a number" in answers.grade(NUMERIC, "lots", HERE).explanations[0]
    loose = {**NUMERIC, "answer": 1.5, "tolerance": 0.1}
    assert answers.grade(loose, "1,6", HERE).right
    assert not answers.grade(loose, "1,61", HERE).right


def test_what_is_near_the_answer_is_not_what_is_near_a_small_mistake() -> None:
    wide = {**NUMERIC, "answer": 18_900_000, "tolerance": 100_000, "mistakes": [{"answer": 98_304, "why": "one pair"}]}
    assert answers.grade(wide, "18.95e6", HERE).right
    assert answers.grade(wide, "98000", HERE).explanations == ("one pair",)
    assert answers.grade(wide, "4", HERE).explanations == ("no",)


def test_log_ratio() -> None:
    assert answers.log_ratio(50, 50, 100) == 0
    assert answers.log_ratio(100, 50, 100) == pytest.approx(math.log(2))
    assert answers.log_ratio(0, 0.5, 100) == 0  # both are "nothing" on this scale
    assert math.isfinite(answers.log_ratio(100, 0, 100))
    assert answers.closeness(40, 50, 10) == "close"
    assert answers.closeness(39, 50, 10) == "too low"
    assert answers.closeness(61, 50, 10) == "too high"


def lesson(slug: str, *kinds: str) -> Lesson:
    cells = tuple(Cell(kind, f"{kind}-{i}", i, i, {}) for i, kind in enumerate(kinds, 1))
    return Lesson(slug, HERE, int(slug[:2]), slug[3:], slug, slug, "", 1, (), (), (), cells)


def test_completion() -> None:
    one = lesson("00_one", "prose", "predict", "experiment", "widget", "quiz")
    empty = progress.completion(one, {})
    assert (empty.done, empty.total, empty.status) == (0, 3, "not started")
    kept: dict[str, Any] = {"00_one/predict-2": {"value": 0.0}}
    half = progress.completion(one, kept)
    assert (half.done, half.status) == (1, "in progress")
    assert half.next is not None
    assert half.next.id == "experiment-3"
    kept |= {"00_one/experiment-3": {"shown": True}, "00_one/quiz-5": {"right": False, "tries": 2}}
    assert progress.completion(one, kept).done == 1
    kept |= {"00_one/experiment-3": {"run": "r1"}, "00_one/quiz-5": {"right": True}}
    whole = progress.completion(one, kept)
    assert (whole.status, whole.next) == ("done", None)


def test_the_next_lesson() -> None:
    one, two = lesson("00_one", "quiz"), lesson("01_two", "quiz")
    assert progress.next_lesson([one, two], {}) is one
    assert progress.next_lesson([one, two], {"01_two/quiz-1": {"right": False}}) is two
    assert progress.next_lesson([one, two], {"00_one/quiz-1": {"right": True}}) is two
    done = {"00_one/quiz-1": {"right": True}, "01_two/quiz-1": {"right": True}}
    assert progress.next_lesson([one, two], done) is None


def test_calibration_counts_fair_predictions_only() -> None:
    assert progress.calibration({}) is None
    kept = {
        "a": {"fair": True, "log_ratio": math.log(2)},
        "b": {"fair": True, "log_ratio": -math.log(2)},
        "c": {"fair": False, "log_ratio": 5.0},
        "d": {"value": 3, "fair": True},
        "e": "something else",
    }
    found = progress.calibration(kept)
    assert found is not None
    assert found.count == 2
    assert found.factor == pytest.approx(2)


ORDERING: dict[str, Any] = {
    "kind": "ordering", "items": ["a", "b", "c", "d"], "why": "yes", "otherwise": "think",
    "mistakes": [{"order": [4, 3, 2, 1], "why": "backwards"}],
}  # fmt: skip


def test_ordering_tells_the_first_place_that_is_wrong() -> None:
    assert answers.grade(ORDERING, [0, 1, 2, 3], HERE) == answers.Verdict(True, ("yes",))
    assert answers.grade(ORDERING, [3, 2, 1, 0], HERE) == answers.Verdict(False, ("backwards",))
    assert answers.grade(ORDERING, [0, 1, 3, 2], HERE).explanations == ("It is right up to place 2.", "think")
    assert answers.grade(ORDERING, [1, 0, 2, 3], HERE).explanations[0] == "The first place is wrong already."
    assert "two places" in answers.grade(ORDERING, [0, 0, 2, 3], HERE).explanations[0]


def test_a_shuffle_is_always_the_same_and_never_right() -> None:
    for count in (3, 4, 6):
        for seed in map(str, range(40)):
            order = answers.shuffled(count, seed)
            assert sorted(order) == list(range(count)) != order
            assert order == answers.shuffled(count, seed)
