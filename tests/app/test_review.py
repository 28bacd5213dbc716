"""The redo queue: what was missed comes back spaced, and leaves after three right answers."""

from __future__ import annotations

import datetime
from typing import Any

from app import drill, review

TODAY = datetime.date(2026, 11, 26)
LESSON = drill.as_lesson()
QUIZZES = [c for c in LESSON.cells if c.kind == "quiz"]


def wrong(**more: Any) -> dict[str, Any]:
    return {"answer": 1, "right": False, "first_right": False, "tries": 1, **more}


def test_what_was_missed_enters_once_even_when_it_was_put_right_afterwards() -> None:
    a, b, c = QUIZZES[:3]
    progress: dict[str, Any] = {
        LESSON.state_name(a.id): wrong(right=True, tries=2),
        LESSON.state_name(b.id): {"answer": 0, "right": True, "first_right": True, "tries": 1},
        LESSON.state_name(c.id): wrong(),
    }
    new = review.fresh(progress, [LESSON], TODAY)
    assert set(new) == {review.name_of(LESSON, a), review.name_of(LESSON, c)}
    assert review.fresh({**progress, **new}, [LESSON], TODAY) == {}


def test_an_open_question_with_too_few_points_enters_too() -> None:
    cell = next(c for c in LESSON.cells if c.kind == "open")
    assert review.fresh({LESSON.state_name(cell.id): {"points": [0], "tries": 1}}, [LESSON], TODAY)
    every = list(range(len(cell.body["rubric"])))
    assert review.fresh({LESSON.state_name(cell.id): {"points": every, "tries": 1}}, [LESSON], TODAY) == {}


def test_it_is_asked_after_three_other_answers_or_on_the_next_day() -> None:
    progress: dict[str, Any] = {LESSON.state_name(QUIZZES[0].id): wrong()}
    progress |= review.fresh(progress, [LESSON], TODAY)
    [due] = review.queue(progress, [LESSON], TODAY)
    assert not due.ready
    assert review.queue(progress, [LESSON], TODAY + datetime.timedelta(days=1))[0].ready
    for cell in QUIZZES[1:4]:
        assert not review.queue(progress, [LESSON], TODAY)[0].ready
        progress[LESSON.state_name(cell.id)] = {"answer": 0, "right": True, "first_right": True, "tries": 1}
    assert review.queue(progress, [LESSON], TODAY)[0].ready


def test_right_answers_space_it_out_until_it_is_done_and_a_wrong_one_sends_it_back() -> None:
    entry = {"box": 0, "day": TODAY.isoformat(), "clock": 5, "asked": 0}
    day = TODAY
    for wait in (1, 1, 3):
        assert not review.ready(entry, 5, day + datetime.timedelta(days=wait - 1)) or wait == 0
        day += datetime.timedelta(days=wait)
        assert review.ready(entry, 5, day)
        entry = review.after(entry, True, 5, day)
    assert entry["box"] == 3
    assert not review.ready(entry, 99, day + datetime.timedelta(days=99))
    name = review.name_of(LESSON, QUIZZES[0])
    assert review.queue({name: entry}, [LESSON], day) == []
    again = review.after({**entry, "box": 2}, False, 7, day)
    assert (again["box"], again["clock"], again["asked"]) == (0, 8, 4)
    assert not review.ready(again, 8, day)
