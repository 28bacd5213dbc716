"""Checks of exercises: praise, a wrong answer, what the learner's code raises, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core import exercise
from core.errors import BadInput

CHECKS = """
from core.exercise import Wrong

def double(space):
    if space["double"](2) != 4:
        raise Wrong("Twice two is four.")
    return "It doubles."

def silent(space):
    return None
"""


@pytest.fixture
def checks(tmp_path: Path) -> Path:
    path = tmp_path / "03_a_lesson" / "checks.py"
    path.parent.mkdir()
    path.write_text(CHECKS)
    return path


def double(x: int) -> int:
    return 2 * x


def test_an_answer_is_praised_or_told_what_is_wrong(checks: Path) -> None:
    assert exercise.run(checks, "double", {"double": double}) == exercise.Verdict(True, "It doubles.")
    assert exercise.run(checks, "double", {"double": lambda x: x}) == exercise.Verdict(False, "Twice two is four.")
    assert exercise.run(checks, "silent", {}) == exercise.Verdict(True, "")


def test_what_the_learners_code_raises_is_a_wrong_answer(checks: Path) -> None:
    def broken(x: Any) -> Any:
        return x / 0

    verdict = exercise.run(checks, "double", {"double": broken})
    assert not verdict.right
    assert "raised ZeroDivisionError" in verdict.words
    missing = exercise.run(checks, "double", {})
    assert "KeyError: 'double'" in missing.words


def test_a_check_that_is_missing_is_said(checks: Path) -> None:
    with pytest.raises(BadInput, match="no check 'treble'"):
        exercise.run(checks, "treble", {})
    with pytest.raises(BadInput, match=r"has no checks\.py"):
        exercise.run(checks.parent.parent / "04_other" / "checks.py", "double", {})
