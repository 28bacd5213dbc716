"""The interview drill: every question is sound, its numbers are the engine's, and what is missed can be told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import answers, drill, index


def test_there_are_thirty_classic_questions_of_every_topic_and_kind():
    found = drill.questions()
    assert len(found) >= 30
    assert {q.topic for q in found} == set(drill.TOPICS)
    kinds = {q.cell.body.get("kind", "single") for q in found}
    assert {"single", "multiple", "numeric", "open"} <= kinds
    assert len({q.id for q in found}) == len(found)


def test_the_drill_is_there_where_other_lessons_are_served(tmp_path: Path):
    """The course map counts its questions."""
    code = "from app import drill; print(len(drill.questions()))"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "DELTALAB_LESSONS": str(tmp_path)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert int(told.stdout) == len(drill.questions())


def test_the_right_choice_stands_anywhere_and_always_at_the_same_place():
    places = [
        next(i for i, c in enumerate(q.cell.body["choices"]) if c.get("right"))
        for q in drill.questions()
        if q.cell.body.get("kind", "single") == "single" and q.cell.kind == "quiz"
    ]
    assert max(places.count(i) for i in range(4)) < len(places) / 2
    again, _ = drill.read(drill.FILE)
    assert [q.cell.body for q in again] == [q.cell.body for q in drill.questions()]


def test_every_number_in_it_is_computed():
    assert [str(m) for m in index.check(drill.as_lesson())] == []


@pytest.mark.parametrize("question", [q for q in drill.questions() if q.cell.kind == "quiz"], ids=lambda q: q.id)
def test_the_right_answer_is_right_and_every_wrong_one_is_explained(question: drill.Question):
    body, folder = question.cell.body, drill.FILE.parent
    kind = body.get("kind", "single")
    if kind == "numeric":
        right = answers.answer_value(body["answer"], folder)
        assert answers.grade(body, f"{right:.6f}", folder).right
        assert answers.grade(body, f"{right:.6f}".replace(".", ","), folder).right
        for mistake in body.get("mistakes", ()):
            told = answers.grade(body, f"{answers.answer_value(mistake['answer'], folder):.6f}", folder)
            assert not told.right
            assert told.explanations == (index.filled(mistake["why"], folder),)
        return
    rights = [i for i, c in enumerate(body["choices"]) if c.get("right")]
    assert answers.grade(body, rights[0] if kind == "single" else rights, folder).right
    for i, choice in enumerate(body["choices"]):
        told = answers.grade(body, i if kind == "single" else [i], folder)
        assert index.filled(choice["why"], folder) in told.explanations
        if i not in rights:
            assert not told.right


def test_an_open_question_counts_as_known_from_two_thirds_of_its_points():
    question = next(q for q in drill.questions() if q.cell.kind == "open")
    points = len(question.cell.body["rubric"])
    assert drill.known(question, None) is None
    assert drill.known(question, {"points": list(range(points))}) is True
    assert drill.known(question, {"points": [0]}) is False


def test_the_score_is_of_the_chosen_topic():
    some = list(drill.of_topic("lora"))
    progress = {
        some[0].state_name: {"answer": "16000", "right": True},
        some[2].state_name: {"answer": 1, "right": False},
    }
    assert drill.score(some, progress) == drill.Score(len(some), 2, 1)
    assert drill.score(list(drill.of_topic(None)), {}) == drill.Score(len(drill.questions()), 0, 0)


def test_mistakes_in_the_file_are_told_with_their_line(tmp_path: Path):
    file = tmp_path / "drill" / "questions.yaml"
    file.parent.mkdir()
    file.write_text(
        "questions:\n  - id: one\n    topic: cooking\n    title: T\n    question: Q\n    choices:\n"
        "      - {text: a, right: true, why: yes it is}\n      - {text: b}\n"
        "  - id: one\n    topic: lora\n    kind: open\n    title: T\n    question: Q {calc}`nothing()`\n"
        "    rubric: [a]\n"
    )
    _, mistakes = drill.read(file)
    told = "\n".join(map(str, mistakes))
    for part in ("cooking", ":3:", "no explanation", "taken already", "nothing", "model", "at least 3"):
        assert part in told, part
