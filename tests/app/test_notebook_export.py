"""Lessons as Jupyter notebooks: valid, whole, and executed from top to bottom in a plain kernel (in the short form)."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from app import index, notebook
from app.index import Lesson
from tests.app.test_index import EXPERIMENT, PREDICT, write

ROOT = Path(__file__).parents[2]
LESSONS = index.lessons()
# A run of two steps says no more what its memory was expected to be, which would take a third of it
# (tests/core/test_memory_predicted.py has that, for every method).
UNTRACED = """from core.memory import predicted as _predicted
def _none(*_):
    raise _predicted.BadInput("Left out.")
_predicted._ledger = _none"""
CODE_LESSON = ROOT / "tests" / "browser" / "lessons" / "00_code" / "lesson.md"


def of(lesson: Lesson) -> Any:
    made = nbformat.reads(notebook.notebook(lesson), as_version=4)
    nbformat.validate(made)
    return made


def sources(made: Any, kind: str) -> str:
    return "\n\n".join(cell.source for cell in made.cells if cell.cell_type == kind)


def read(path: Path) -> Lesson:
    lesson, mistakes = index.read(path)
    assert lesson is not None, mistakes
    return lesson


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """One kernel for all notebooks (each begins with an empty namespace): torch is imported once."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(
        env={
            **os.environ, "DELTALAB_SHORT": "1", "PYTHONPATH": str(ROOT), "PLOTLY_RENDERER": "plotly_mimetype",
            "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
        }
    )  # fmt: skip
    yield manager
    manager.shutdown_kernel(now=True)


def execute(made: Any, kernel: Any, folder: Path) -> Any:
    """Run it as Jupyter would; an error in any cell that is not meant to have one fails here."""
    from nbclient import NotebookClient

    made.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n{UNTRACED}"))
    client = NotebookClient(made, km=kernel, timeout=240, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def printed(made: Any) -> str:
    return "".join(o.get("text", "") for cell in made.cells if cell.cell_type == "code" for o in cell.outputs)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_a_lessons_notebook_runs_from_top_to_bottom(lesson: Lesson, kernel: Any, tmp_path: Path) -> None:
    made = execute(of(lesson), kernel, tmp_path)
    ran = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in ran)
    said = printed(made)
    assert "Not yet. " not in "".join(o.get("text", "") for c in ran if c.id.endswith("-right") for o in c.outputs)
    for cell in lesson.cells:
        if cell.kind == "code" and cell.body.get("expect"):
            assert cell.body["expect"] in said, cell.id


def test_code_and_exercises_run_and_the_solution_is_right(kernel: Any, tmp_path: Path) -> None:
    made = of(read(CODE_LESSON))
    elsewhere = f"from pathlib import Path\nfrom app import index\nindex.ROOT = Path({str(CODE_LESSON.parents[1])!r})"
    made.cells.insert(0, nbformat.v4.new_code_cell(elsewhere))
    made = execute(made, kernel, tmp_path)
    by_id = {cell.id: cell for cell in made.cells}
    assert "rank  8: 16,000" in by_id["thin-code"].outputs[0].text
    assert by_id["count-them-check"].outputs[0].text.startswith("Not yet. It returns nothing yet.")
    assert by_id["count-them-right"].outputs[0].text.startswith("Right. ")
    assert by_id["count-them-solution"].metadata.jupyter.source_hidden
    assert "solution" in by_id["count-them-solution"].metadata.tags


def test_numbers_are_filled_in_and_mathematics_is_left_alone(tmp_path: Path) -> None:
    text = "There are {calc}`matrix_parameters(d=10, k=10)` in $W_0$.\n\n$$\nW = W_0\n$$\n\nSee [Runs](/runs).\n"
    made = of(read(write(tmp_path, text)))
    prose = sources(made, "markdown")
    assert "There are 100 in $W_0$." in prose
    assert "$$\nW = W_0\n$$" in prose
    assert "[Runs](http://127.0.0.1:8501/runs)" in prose
    assert "{calc}" not in prose


def test_pictures_are_inside(tmp_path: Path) -> None:
    path = write(tmp_path, "![A square](square.svg)\n")
    (path.parent / "square.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" fill="currentColor"></svg>')
    (cell,) = [c for c in of(read(path)).cells if "attachments" in c]
    assert cell.source == "![A square](attachment:square.svg)"
    content = base64.b64decode(cell.attachments["square.svg"]["image/svg+xml"]).decode()
    assert content.startswith("<svg")
    assert "currentColor" not in content


def test_quizzes_fold_their_answers_away(tmp_path: Path) -> None:
    quiz = (
        "```{quiz} one\ntitle: Which?\nquestion: Which?\nchoices:\n  - {text: This, why: Not this.}\n"
        "  - {text: That, right: true, why: Yes that.}\n```\n"
        "```{quiz} two\ntitle: How many?\nkind: numeric\nquestion: How many?\nanswer: lora_parameters(d=2, k=2, r=1)\n"
        "why: Four.\notherwise: Count.\n```\n"
    )
    made = of(read(write(tmp_path, quiz)))
    asked = next(c.source for c in made.cells if c.id == "one")
    told = next(c.source for c in made.cells if c.id == "one-answer")
    assert "Yes that." not in asked
    assert told.startswith("<details><summary>Answer</summary>")
    (letter,) = re.findall(r"\(([ab])\) That", asked)
    assert f"({letter}) **Right.** Yes that." in told
    assert "**4 **" in next(c.source for c in made.cells if c.id == "two-answer")


def test_what_came_out_is_folded(tmp_path: Path) -> None:
    told = "```{reveal} told\nafter: [guess]\ntext: There were {calc}`matrix_parameters(d=2, k=3)`.\n```\n"
    lesson, _ = index.read(write(tmp_path, PREDICT + EXPERIMENT + told), recorded=False)
    assert lesson is not None
    last = of(lesson).cells[-2].source
    assert last == "<details><summary>What came out</summary>\n\nThere were 6.\n\n</details>"


def test_the_same_lesson_gives_the_same_bytes() -> None:
    lesson = read(CODE_LESSON)
    assert notebook.notebook(lesson) == notebook.notebook(lesson)
    ids = [cell["id"] for cell in json.loads(notebook.notebook(lesson))["cells"]]
    assert len(ids) == len(set(ids))
