"""The linter: each fault is found with its line, and what is no fault is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app import index, lint
from app.views import VIEWS
from tests.app.test_cells_compare import record
from tests.app.test_index import COMPARE, EXERCISE, EXPERIMENT, FRONT, PREDICT, QUIZ, SOURCE, write

WHOLE = FRONT.replace("references:", "summary_points: [a, b, c, d, e]\nreferences:").replace(
    '"https://example.org/a"}', '"https://example.org/a", note: For this.}'
)
LINES = WHOLE.count("\n")
PARTS = (
    PREDICT + EXPERIMENT + QUIZ + QUIZ.replace("} one", "} two") + QUIZ.replace("} one", "} three")
    + EXERCISE.replace("Write it.", "Write `count`.")
)  # fmt: skip


def lesson_of(tmp_path: Path, body: str, front: str = WHOLE, folder: str = "03_a_lesson") -> index.Lesson:
    """A lesson with that body and everything that every lesson has."""
    path = write(tmp_path, body + "\n" + PARTS, front=front, folder=folder)
    (path.parent / "checks.py").write_text("def count_them(space):\n    return 'Right.'\n")
    record(path)
    lesson, mistakes = index.read(path)
    assert lesson is not None, mistakes
    return lesson


def found(tmp_path: Path, body: str, front: str = WHOLE) -> list[tuple[int, str]]:
    """What the linter says; lines count from the body's first."""
    return [(m.line - LINES, m.sentence) for m in lint.lint(lesson_of(tmp_path, body, front))]


def test_a_whole_lesson_has_no_faults(tmp_path: Path) -> None:
    assert found(tmp_path, "Some text.\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "It reached 93 %.", "It takes 3 GB.", "It is 12 times as fast.", "A rate of 0.003 is best.",
        "There are 3,882,240 of them.", "It took 45 seconds.", "Out of 17 runs.", "That is 4 × more.",
        "About 70 billion.", "It cost $3 and 5 dollars.", "| a | 37 |", "**93 %** of them",
        "It is 3x as fast.", "A rate of 1e-4 is best.",
    ],
)  # fmt: skip
def test_typed_numbers_are_found(tmp_path: Path, text: str) -> None:
    ((line, sentence),) = found(tmp_path, f"First.\n\n{text}\n")
    assert line == 3
    assert "is typed in" in sentence


@pytest.mark.parametrize(
    "text",
    [
        "It has {calc}`lora_parameters(d=8, k=8, r=1)` numbers.", "A matrix of $1000 \\times 1000$.", "`x = 93`",
        "$$\nx = 93.5\n$$", "See [93 of them](https://example.org/a).", "NF4, FP4, bf16, W0 and A100.",
        "GPT-2 and Llama 2.", "An RTX 4090 will do.", "Llama-3.1-8B and Qwen2.5-7B-Instruct.", "Python 3.11.",
        "See section 4.2 and table 12.", "Lesson 11 has it.", "Since 2021.", "A 32-bit number, 4 bits a weight.",
        "In blocks of 64, in rows of 4,096 tokens.", "There are 3 of them, and 10 of those.",
        "1. First\n2. Second\n12. Last", "It is {n}`72 points|points to an inch`.",
        "It has {calc}`lora_percent(d=1200, k=77, r=5)`; 1,200 by 77.",
    ],
)  # fmt: skip
def test_what_is_no_typed_number_is_left_alone(text: str) -> None:
    assert list(lint.typed_numbers(text)) == []


def test_a_number_in_the_front_matter_is_found_in_its_line(tmp_path: Path) -> None:
    front = WHOLE.replace("[a, b, c, d, e]", '\n  - a\n  - "It takes 3 GB, \\"they\\" say"\n  - c\n  - d\n  - e')
    ((line, sentence),) = found(tmp_path, "Text.\n", front)
    assert "It takes 3 GB" in front.splitlines()[line + LINES - 1]
    assert "is typed in" in sentence


def test_code_is_not_read(tmp_path: Path) -> None:
    assert found(tmp_path, "````markdown\n93 % of the RAG\n````\n") == []


def test_a_number_that_is_handed_to_a_calc_is_a_premise_in_its_paragraph_only(tmp_path: Path) -> None:
    body = "For 77 wide: {calc}`lora_parameters(d=77, k=8, r=1)`.\n\nElsewhere 77.\n"
    assert [line for line, _ in found(tmp_path, body)] == [3]


def test_a_question_sets_its_case_and_the_answers_may_repeat_it(tmp_path: Path) -> None:
    quiz = QUIZ.replace("one", "four").replace("Which?", "Of 2,000 examples, 95 % are right. How many?")
    assert found(tmp_path, quiz.replace("Because.", "It is 95 % of 2000.")) == []
    ((_, sentence),) = found(tmp_path / "b", quiz.replace("Because.", "It is 1843 then."))
    assert "1843 is typed in" in sentence
    # A wrong choice may be any number; the right one is a claim.
    assert found(tmp_path / "c", quiz.replace("text: That", "text: About 1234")) == []
    assert len(found(tmp_path / "d", quiz.replace("text: This", "text: About 1234"))) == 1
    guess = PREDICT.replace("} guess", "} other").replace("How much?", "Before, it got 98 %. How much after 60 steps?")
    ((_, sentence),) = found(tmp_path / "e", guess)
    assert "98 %" in sentence


def test_a_number_by_definition_needs_its_reason(tmp_path: Path) -> None:
    path = write(tmp_path, "It is {n}`72`.\n\nAnd {n}`72|points to an inch`.\n")
    (mistake,) = index.read(path)[1]
    assert "has its reason behind a bar" in mistake.sentence
    assert index.filled("It is {n}`72|points to an inch`.", tmp_path) == "It is 72."


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("See [this](#nowhere).", "nothing called #nowhere"),
        ("See [this](/no-such-page).", "no page '/no-such-page'"),
        ("See [this](lesson.md).", "begins with neither"),
        ("See [this](https://example.org/b).", "not among the lesson's references"),
        ("See [this](/start-here#no-such-cell).", "nothing called #no-such-cell in the lesson /start-here"),
        ("As lesson 99 says.", "There is no lesson 99; they go from 0 to 11"),
        ("As Claim 26 has it.", "There is no claim 26; they go from 1 to 25"),
    ],
)
def test_dead_links_are_found(tmp_path: Path, text: str, part: str) -> None:
    ((line, sentence),) = found(tmp_path, f"First.\n\n{text}\n")
    assert line == 3
    assert part in sentence


def test_links_that_lead_somewhere_are_left_alone(tmp_path: Path) -> None:
    text = (
        "## What it is, and why\n\n[a](#one) [b](#what-it-is-and-why) [c](/playground?task=json)"
        " [d](/start-here#json-lora) [e](/a-lesson#two) [f](https://example.org/a#part) [g](/) `[h](#nowhere)`\n\n"
        "As lesson 11 and claim 25 say.\n"
    )
    assert found(tmp_path, text) == []


def test_the_pages_are_those_of_the_app() -> None:
    assert lint.view_addresses() == {view.url_path for view in VIEWS}


def test_a_reference_is_used_or_says_what_it_is_for(tmp_path: Path) -> None:
    bare = WHOLE.replace(", note: For this.", "")
    ((line, sentence),) = found(tmp_path, "Text.\n", bare)
    assert "A paper" in bare.splitlines()[line + LINES - 1]
    assert "'A paper' is used nowhere" in sentence
    assert found(tmp_path / "b", "See [it](https://example.org/a).\n", bare) == []
    arxiv = bare.replace("https://example.org/a", "https://arxiv.org/abs/2106.09685")
    assert found(tmp_path / "c", "See [it](https://arxiv.org/pdf/2106.09685v2).\n", arxiv) == []
    assert found(tmp_path / "d", SOURCE, arxiv) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("We use LoRA and LoRA again.", ["LoRA"]),
        ("Low-rank adaptation (LoRA) is used. LoRA again.", []),
        ("LoRA (low-rank adaptation) is used.", []),
        ("**RAG** (retrieval-augmented generation), then RAGs.", []),
        ("A {term}`LoRA` here, LoRA there.", []),
        ("LoRA first, then {term}`LoRA`.", ["LoRA"]),
        ("LoRA (see below).", []),
        ("LoRA (2021).", ["LoRA"]),
        ("QLoRA, NF4 and SVDs.", ["QLoRA", "NF4", "SVD"]),
        ("BitFit, AdamW, JSON, a GPU, 3 GiB of an A100, W0, `RAG` and $BA$.", []),
        ("## On RAG\n\nText.", []),
    ],
)
def test_acronyms_out_of_the_blue_are_found(tmp_path: Path, text: str, names: list[str]) -> None:
    said = [s for _, s in found(tmp_path, f"{text}\n") if "first time" in s]
    assert [s.split(" ")[0] for s in said] == names


LOSS = "{calc}`recorded(run='run', what='loss_after')`"


def told_early(tmp_path: Path, after: str, before: str = "") -> list[tuple[int, str]]:
    """What the linter says of a lesson with this behind its prediction and experiment; lines from the end of these."""
    path = write(tmp_path, before + PARTS + after, front=WHOLE)
    (path.parent / "checks.py").write_text("def count_them(space):\n    return 'Right.'\n")
    record(path)
    lesson, mistakes = index.read(path)
    assert lesson is not None, mistakes
    return [(m.line - LINES - PARTS.count("\n"), m.sentence) for m in lint.lint(lesson)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"One.\n\nIt was {LOSS}.\n", 3),
        ("It was {calc}`times(run='run', other='run', what='loss_after')` times.\n", 1),
        (QUIZ.replace("} one", "} four").replace("Which?", f"It was {LOSS}. Which?"), 3),
        (QUIZ.replace("} one", "} four").replace("text: This", f'text: "It was {LOSS}"'), 4),
        (COMPARE.replace("```\n", f'finding: "Beside {LOSS}."\n```\n'), 11),
    ],
)
def test_an_answer_that_is_told_before_it_is_given_is_found(tmp_path: Path, text: str, line: int) -> None:
    ((at, sentence),) = told_early(tmp_path, text)
    assert at == line
    assert "tells what the prediction 'guess' asks for" in sentence


@pytest.mark.parametrize(
    "text",
    [
        f"```{{reveal}} told\nafter: [guess]\ntext: It was {LOSS}.\n```\n",
        "Before, it was {calc}`recorded(run='run', what='loss_before')`.\n",
        QUIZ.replace("} one", "} four").replace("Because.", f'"It was {LOSS}."'),
        COMPARE.replace("```\n", f'after: [guess]\nfinding: "Beside {LOSS}."\n```\n'),
    ],
)
def test_what_is_told_after_the_answer_is_left_alone(tmp_path: Path, text: str) -> None:
    assert told_early(tmp_path, text) == []
    assert told_early(tmp_path / "b", "", before=f"It was {LOSS}.\n") == []  # a premise


@pytest.mark.parametrize(
    ("without", "part"),
    [
        (PREDICT, "lacks a prediction"),
        (PREDICT + EXPERIMENT, "lacks something that runs"),
        (QUIZ, "lacks three questions"),
        (EXERCISE.replace("Write it.", "Write `count`."), "lacks an exercise"),
    ],
)
def test_what_every_lesson_has_is_missed(tmp_path: Path, without: str, part: str) -> None:
    path = write(tmp_path, PARTS.replace(without, ""), front=WHOLE)
    (path.parent / "checks.py").write_text("def count_them(space):\n    return 'Right.'\n")
    record(path)
    lesson, mistakes = index.read(path)
    assert lesson is not None, mistakes
    assert any(part in m.sentence for m in lint.lint(lesson))


def test_the_printed_summary_is_missed(tmp_path: Path) -> None:
    ((_, sentence),) = found(tmp_path, "Text.\n", WHOLE.replace("summary_points: [a, b, c, d, e]\n", ""))
    assert "summary_points" in sentence


def test_an_alt_text_that_says_nothing_is_found(tmp_path: Path) -> None:
    body = "![A picture](square.svg)\n\n![A square with rounded corners](square.svg)\n"
    folder = tmp_path / "03_a_lesson"
    folder.mkdir(parents=True)
    (folder / "square.svg").write_text("<svg/>")
    (folder / "lesson.md").write_text(WHOLE + body + PARTS)
    (folder / "checks.py").write_text("def count_them(space):\n    return 'Right.'\n")
    lesson, mistakes = index.read(record(folder / "lesson.md"))
    assert lesson is not None, mistakes
    assert [(m.line - LINES, m.sentence) for m in lint.lint(lesson)] == [
        (1, "The alt text of square.svg does not say what the picture shows.")
    ]


def test_a_recording_of_something_else_is_found(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, COMPARE)
    assert lint.lint(lesson) == []
    path = lesson.folder / "lesson.md"
    path.write_text(path.read_text().replace("settings: {rank: 8}", "settings: {rank: 4}"))
    changed, _ = index.read(path)
    assert changed is not None
    (mistake,) = lint.lint(changed)
    assert "recorded result of ranks/r8 is made with other settings" in mistake.sentence
    assert mistake.line == LINES + 1
    (lesson.folder / "runs" / "ranks" / "r1.jsonl").write_text(json.dumps({"kind": "started"}))
    assert any("ranks/r1 is unreadable" in m.sentence for m in lint.lint(changed))


def test_the_linter_needs_neither_streamlit_nor_torch() -> None:
    code = (
        "import sys; from app import index, lint; [lint.lint(x) for x in index.lessons()];"
        "print([m for m in ('streamlit', 'torch', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
