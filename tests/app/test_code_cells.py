"""Code and exercise cells as their page draws them: what is kept, what is stale, hints, the solution, code that is off.
(Typing and running are in tests/browser/test_code.py, kernels in tests/core/test_notebook.py.)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import identity
from app.cells import coding, exercise, outputs
from core.notebook.kernel import Execution
from core.runs.store import Store
from tests.app.test_cells import OWNER, page, press, texts

LESSON = Path(__file__).parents[1] / "browser" / "lessons" / "00_code" / "lesson.md"
CODE, EXERCISE = "00_code/thin", "00_code/count-them"
STUB = 'def count(d, k, r):\n    """Numbers in B (d x r) and A (r x k)."""\n    return ...'
Open = Callable[[], AppTest]


@pytest.fixture
def opened(visit: Any, monkeypatch: pytest.MonkeyPatch) -> Open:
    """The lesson, drawn anew in a fresh session."""
    monkeypatch.delenv("DELTALAB_CODE", raising=False)
    return lambda: visit(page, owner=OWNER, kwargs={"path": str(LESSON)})


def ran(code: str, *said: dict[str, Any], end: str = "ok", **more: Any) -> dict[str, Any]:
    """What is kept of a cell that was run."""
    return {"run": "r1", "ran": coding.digest(code), "outputs": list(said), "end": end, "seconds": 0.2, **more}


def test_what_was_said_comes_back_and_is_stale_when_the_code_has_changed(opened: Open, store: Store) -> None:
    table = {"kind": "table", "columns": ["r", "r"], "rows": [[1, 2]], "total": 200}
    said = ({"kind": "text", "name": "stdout", "text": "0 %\r100 %\n"}, table)
    store.set_progress(OWNER, CODE, {"code": "print(1)", **ran("print(1)  \n", *said)})
    app = opened()
    assert "100 %" in [c.value for c in app.code]
    assert list(app.table[0].value.columns) == ["r", "r (2)"]
    assert "The first 1 of 200 rows." in texts(app)
    assert "has been changed since" not in texts(app)
    store.set_progress(OWNER, CODE, {"code": "print(2)", **ran("print(1)", *said)})
    assert "The code has been changed since" in texts(opened())


def test_an_error_is_told_with_the_learners_lines(opened: Open, store: Store) -> None:
    error = {
        "kind": "error", "name": "KeyError", "message": "'a*b*'", "line": 2, "where": "core/train.py, line 7",
        "frames": [{"line": 2, "name": "", "text": "f()", "here": True},
                   {"line": 1, "name": "f", "text": "x['a']", "here": False}],
    }  # fmt: skip
    store.set_progress(OWNER, CODE, {"code": "x", **ran("x", error, end="error")})
    (shown,) = [e.value for e in opened().error]
    assert "**KeyError in line 2**" in shown
    assert "line 2:  f()" in shown
    assert "line 1 of an earlier cell, in f:  x['a']" in shown
    assert "core/train.py, line 7" in shown
    assert "a*b*" not in shown  # Markdown in it is shown, not obeyed


def test_a_run_that_the_server_did_not_survive_is_told(opened: Open, store: Store) -> None:
    store.set_progress(OWNER, CODE, ran("x", end=""))
    assert not opened().exception


def test_hints_come_one_at_a_time_and_the_solution_after_a_try(opened: Open, store: Store) -> None:
    app = opened()
    key = "code-count-them"
    assert "How many numbers has" not in texts(app)
    assert "once you have checked something of your own" in texts(app)
    press(app, f"{key}-hint")
    assert "**Hint 1 of 2.** How many numbers has" in texts(app)
    assert "Hint 2 of 2." not in texts(app)
    press(app, f"{key}-hint")
    assert "Hint 2 of 2." in texts(app)
    assert f"{key}-hint" not in [b.key for b in app.button]

    wrong = {"kind": "verdict", "right": False, "text": "That is the size of W_0, which is frozen."}
    kept = exercise.tried(store.progress(OWNER)[EXERCISE], "def count(d, k, r): return d * k", STUB)
    store.set_progress(OWNER, EXERCISE, {**kept, **ran("x", wrong)})
    app = opened()
    assert "**Not yet.** That is the size of W_0" in texts(app)
    assert "return r * (d + k)" not in "".join(c.value for c in app.code)
    press(app, f"{key}-solution")
    assert "return r * (d + k)" in "".join(c.value for c in app.code)
    assert "0 of 1 steps done" in texts(app)

    right = {"kind": "verdict", "right": True, "text": "Yes."}
    store.set_progress(OWNER, EXERCISE, {**kept, **ran("x", right), "right": True})
    app = opened()
    assert "**Right.** Yes." in texts(app)
    assert "One multiplication is enough." in texts(app)
    assert "Lesson complete" in texts(app)


@pytest.mark.parametrize(
    ("code", "tries"),
    [
        (STUB, 0),
        (STUB + "\n\n# a remark, and nothing else", 0),
        ("def count(d, k, r):\n    return d * r", 1),
        ("def count(d, k, r:", 1),
    ],
)
def test_only_code_of_ones_own_is_a_try(code: str, tries: int) -> None:
    assert exercise.tried({}, code, STUB).get("tries", 0) == tries


def test_right_stays_right() -> None:
    def judge(kept: dict[str, Any], right: bool) -> dict[str, Any]:
        execution = Execution("x", 1.0)
        execution.outputs.add({"kind": "verdict", "right": right, "text": ""})
        return exercise.judged(kept, execution)

    first = judge({"tries": 1}, True)
    assert (first["right"], first["first_right"]) == (True, True)
    assert judge({**first, "tries": 2}, False) == {**first, "tries": 2}
    late = judge(judge({"tries": 1}, False) | {"tries": 2}, True)
    assert (late["right"], late["first_right"]) == (True, False)
    assert "first_right" not in judge({}, False)


def test_where_others_can_come_the_reason_is_shown(opened: Open, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "names", lambda: ("*",))
    app = opened()
    assert "This server can be reached by other machines" in texts(app)
    assert "pair_parameters(1000, 1000, rank)" in app.code[0].value
    assert "return r * (d + k)" not in "".join(c.value for c in app.code)
    press(app, "code-count-them-read")
    assert "return r * (d + k)" in "".join(c.value for c in app.code)
    assert "Lesson complete" in texts(opened())

    monkeypatch.setenv("DELTALAB_CODE", "on")
    assert "This server can be reached" not in texts(opened())


@pytest.mark.parametrize(
    ("names", "reachable"),
    [(("localhost", "127.0.0.1", "::1"), False), (("*",), True), (("127.0.0.1", "class.example.org"), True)],
)
def test_who_can_come_follows_from_the_names(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], reachable: bool
) -> None:
    monkeypatch.setattr(identity, "names", lambda: names)
    assert identity.reachable() is reachable


def test_what_a_kernel_sends_cannot_break_the_page(opened: Open, store: Store) -> None:
    odd = (
        {"kind": "figure", "figure": {"data": "nonsense", "layout": 3}},
        {"kind": "image", "png": "not base64!"},
        {"kind": "value", "text": "<script>alert(1)</script>"},
    )
    store.set_progress(OWNER, CODE, ran("x", *odd))
    app = opened()
    assert not app.exception
    assert "<script>alert(1)</script>" in [c.value for c in app.code]


def test_an_error_without_lines_is_told_too() -> None:
    bare = {"name": "KeyError", "message": "", "line": 0, "frames": [], "where": ""}
    assert outputs.error_text(bare) == "**KeyError**"
