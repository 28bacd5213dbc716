"""The lesson format: what is read, and that every kind of mistake is reported with its line, all at once."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from app import calc, index, schema
from core import glossary
from core.errors import BadInput

FRONT = """---
title: A lesson
summary: What it is about.
minutes: 5
objectives: [Do something]
prerequisites: [Python]
references:
  - {title: A paper, authors: A. Author, year: 2021, url: "https://example.org/a"}
---
"""
FRONT_LINES = FRONT.count("\n")

QUIZ = """```{quiz} one
title: A question
question: Which?
choices:
  - {text: This, right: true, why: Because.}
  - {text: That, why: Because not.}
```
"""


NUMERIC = "```{quiz} a\ntitle: t\nquestion: x\nkind: numeric\n"


def write(root: Path, body: str, *, folder: str = "03_a_lesson", front: str = FRONT) -> Path:
    path = root / folder / "lesson.md"
    path.parent.mkdir(parents=True)
    path.write_text(front + body, encoding="utf-8")
    return path


def mistakes_of(tmp_path: Path, body: str, **how: str) -> list[tuple[int, str]]:
    """The mistakes in a lesson with that body; lines count from the body's first."""
    lesson, mistakes = index.read(write(tmp_path, body, **how))
    assert (lesson is None) == bool(mistakes)
    return [(m.line - FRONT_LINES, m.sentence) for m in mistakes]


def the_mistake(tmp_path: Path, body: str, **how: str) -> tuple[int, str]:
    found = mistakes_of(tmp_path, body, **how)
    assert len(found) == 1, found
    return found[0]


def test_a_lesson_is_read(tmp_path: Path) -> None:
    write(tmp_path, f"# Heading\n\nSome *text*.\n\n{QUIZ}\nMore.\n")
    lessons, mistakes = index.scan(tmp_path)
    assert mistakes == []
    (lesson,) = lessons
    assert (lesson.slug, lesson.order, lesson.url_path) == ("03_a_lesson", 3, "a-lesson")
    assert lesson.navigation == lesson.title == "A lesson"
    assert lesson.objectives == ("Do something",)
    assert [c.kind for c in lesson.cells] == ["prose", "quiz", "prose"]
    quiz = lesson.cells[1]
    assert (quiz.id, quiz.number, quiz.line) == ("one", 1, FRONT_LINES + 5)
    assert lesson.cell("one") is quiz
    assert lesson.state_name("one") == "03_a_lesson/one"
    with pytest.raises(BadInput, match="no cell 'two'"):
        lesson.cell("two")


def test_lessons_come_in_order_and_do_not_clash(tmp_path: Path) -> None:
    write(tmp_path, "Text.\n", folder="02_b")
    write(tmp_path, "Text.\n", folder="01_c")
    assert [lesson.order for lesson in index.scan(tmp_path)[0]] == [1, 2]
    write(tmp_path, "Text.\n", folder="01_b")
    sentences = [m.sentence for m in index.scan(tmp_path)[1]]
    assert len(sentences) == 2
    assert "number 1 already" in sentences[0]
    assert "address 'b' already" in sentences[1]


def test_a_longer_fence_shows_a_directive(tmp_path: Path) -> None:
    lesson, mistakes = index.read(write(tmp_path, f"````markdown\n{QUIZ}````\n\n~~~\n```{{nonsense}} x\n```\n~~~\n"))
    assert mistakes == []
    assert lesson is not None
    assert [c.kind for c in lesson.cells] == ["prose", "prose"]
    assert "```{quiz} one" in lesson.cells[0].body["text"]


def test_prose_pictures_and_code_are_parts_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "Before.\n\n![A square](square.svg)\n\nAfter.\n\n```python\nx = 1  # {calc}`nothing`\n```\n")
    (path.parent / "square.svg").write_text("<svg/>")
    lesson, mistakes = index.read(path)
    assert mistakes == []
    assert lesson is not None
    assert [(c.kind, c.line - FRONT_LINES) for c in lesson.cells] == [
        ("prose", 1), ("image", 3), ("prose", 5), ("prose", 7),
    ]  # fmt: skip
    assert lesson.cells[1].body == {"file": "square.svg", "alt": "A square"}


@pytest.mark.parametrize(
    ("body", "line", "part"),
    [
        ("Text.\n\n```{quizz} a\nquestion: x\n```\n", 3, "no directive {quizz}"),
        ("```{quiz}\nquestion: x\n```\n", 1, "needs an id"),
        ("```{quiz} Not An Id\nquestion: x\n```\n", 1, "needs an id"),
        ("```{quiz} a\nquestion: [x\n```\n", 2, "YAML cannot be read"),
        ("```{quiz} a\n- x\n```\n", 2, "`name: value` lines"),
        ("```{quiz} a\nquestion: x\nquestion: y\n```\n", 3, "stands there twice"),
        (QUIZ.replace("question: Which?", "question: Which?\ncolour: red"), 4, "no field 'colour'"),
        (QUIZ.replace("question: Which?\n", ""), 1, "lacks 'question'"),
        (QUIZ.replace("question: Which?", "question: 3"), 3, "must be a text"),
        (QUIZ.replace("question: Which?", "question: Which?\nkind: guess"), 4, "one of single, multiple, numeric"),
        (QUIZ.replace(", why: Because not.", ""), 6, "Choice 2 of the quiz has no explanation"),
        (QUIZ.replace(", why: Because.", ""), 5, "Choice 1 of the quiz has no explanation"),
        (QUIZ.replace("right: true, ", ""), 1, "exactly one right choice, not 0"),
        (QUIZ.replace("  - {text: That, why: Because not.}\n", ""), 1, "at least two choices"),
        (QUIZ.replace("why: Because.", "why: '{calc}`matrix_parameters(d=1)`'"), 5, "it needs k"),
        (NUMERIC + "why: y\notherwise: z\n```\n", 1, "needs its answer"),
        (NUMERIC + "answer: 3\nwhy: y\n```\n", 1, "explanation (otherwise)"),
        (NUMERIC + "answer: three()\nwhy: y\notherwise: z\n```\n", 5, "no calc function"),
        (NUMERIC + "answer: [1]\nwhy: y\notherwise: z\n```\n", 5, "must be a number or"),
        ("```{widget} w\ntitle: t\nwidget: knitting\n```\n", 3, "must be one of "),
        ("```{widget} w\ntitle: t\nwidget: lora-parameters\noptions: {q: 3}\n```\n", 4, "no field 'q'"),
        ("```python\nx = 1\n", 1, "never closed"),
        ("One.\n\n![](a.svg)\n", 3, "no alt text"),
        ("![A thing](missing.svg)\n", 1, "no file 'missing.svg'"),
        ("![A thing](https://example.org/a.svg)\n", 1, "nothing is fetched"),
        ("![A thing](a.gif)\n", 1, "one of .svg, .png"),
        ("Look: ![A thing](a.svg) there.\n", 1, "line of its own"),
        ("One.\nTwo {calc}`no_such()`.\n", 2, "no calc function 'no_such'"),
        ("{calc}`1 + 1`\n", 1, "not a function call"),
        ("{calc}`matrix_parameters(2, 3)`\n", 1, "named arguments only"),
        ("{calc}`matrix_parameters(d=2, k='3')`\n", 1, "k must be int, not '3'"),
        ("{calc}`matrix_parameters(d=2, k=abs(3))`\n", 1, "not a plain number or text"),
        ("{calc}`matrix_parameters(d=2, k=3, q=1)`\n", 1, "no argument 'q'"),
    ],
)  # fmt: skip
def test_each_mistake_is_said_with_its_line(tmp_path: Path, body: str, line: int, part: str) -> None:
    found = mistakes_of(tmp_path, body)
    assert any(at == line and part in sentence for at, sentence in found), found
    missing_alt = "no alt text" in part  # its file is missing as well
    assert len(found) == (2 if missing_alt else 1), found


PREDICT = """```{predict} guess
title: A guess
experiment: run
what: loss_after
question: How much?
low: 0
high: 10
tolerance: 1
why: Because.
```
"""
EXPERIMENT = """```{experiment} run
title: A run
method: lora
task: json
knobs: [rank, steps]
```
"""


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (EXPERIMENT, "no recorded run"),
        (PREDICT, "no experiment 'run'"),
        (EXPERIMENT.replace("lora", "magic"), "There is no method 'magic'"),
        (EXPERIMENT.replace("json", "poetry"), "There is no task 'poetry'"),
        (EXPERIMENT.replace("[rank, steps]", "[wheels]"), "There is no knob 'wheels'"),
        (EXPERIMENT.replace("[rank, steps]", "[rank, steps, seed, alpha, warmup]"), "At most four knobs"),
        (EXPERIMENT.replace("knobs", "settings: {rank: many}\nknobs"), "ank must be a whole number"),
        (EXPERIMENT.replace("knobs", "settings: {rnk: 2}\nknobs"), "no setting called 'rnk'"),
        (PREDICT.replace("high: 10", "high: -1") + EXPERIMENT, "low end must be below"),
        (PREDICT.replace("high: 10", "high: 10\nscale: log") + EXPERIMENT, "starts above 0"),
    ],
)
def test_mistakes_in_experiments_and_predictions(tmp_path: Path, body: str, part: str) -> None:
    assert any(part in sentence for _, sentence in mistakes_of(tmp_path, body))


REVEAL = "```{reveal} told\nafter: [guess]\ntext: It was a lot.\n```\n"


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (REVEAL + PREDICT, "no prediction 'guess' above this"),
        (PREDICT + REVEAL.replace("[guess]", "[run]"), "no prediction 'run' above this"),
        (PREDICT + REVEAL.replace("[guess]", "[]"), "at least 1"),
        (PREDICT + REVEAL.replace("after: [guess]\n", ""), "lacks 'after'"),
        (PREDICT + REVEAL.replace("[guess]", "guess"), "must be a list"),
        (PREDICT + REVEAL.replace("} told", "}"), "needs an id"),
    ],
)
def test_mistakes_in_what_is_told_after_a_prediction(tmp_path: Path, body: str, part: str) -> None:
    assert any(part in sentence for _, sentence in mistakes_of(tmp_path, body + EXPERIMENT))


def test_what_is_told_after_a_prediction_is_read_as_prose(tmp_path: Path) -> None:
    path = write(tmp_path, PREDICT + EXPERIMENT + REVEAL + QUIZ)
    lesson, mistakes = index.read(path, recorded=False)
    assert mistakes == []
    assert lesson is not None
    assert [(c.kind, c.id, c.number) for c in lesson.cells] == [
        ("predict", "guess", 1), ("experiment", "run", 2), ("reveal", "told", 0), ("quiz", "one", 3),
    ]  # fmt: skip


def test_a_prediction_asks_for_a_figure_that_the_run_has(tmp_path: Path) -> None:
    path = write(tmp_path, PREDICT.replace("loss_after", "beauty_after") + EXPERIMENT)
    (path.parent / "runs").mkdir()
    (path.parent / "runs" / "run.jsonl").write_text('{"kind": "provenance"}\n')
    (mistake,) = index.read(path)[1]
    assert mistake.line == FRONT_LINES + 1
    assert "no figure 'beauty_after'" in mistake.sentence


ORDERING = """```{quiz} order
title: In order
kind: ordering
question: What comes first?
items: [One, Two, Three]
why: It counts.
otherwise: Count again.
mistakes:
  - {order: [3, 2, 1], why: That is backwards.}
```
"""
COMPARE = """```{compare} ranks
title: Ranks
task: json
settings: {steps: 20}
runs:
  - {name: r1, label: "r = 1", method: lora, settings: {rank: 1}}
  - {name: r8, label: "r = 8", method: lora, settings: {rank: 8}}
knobs: [steps, seed]
columns: [trainable, exact_match_after]
figure: {x: trainable, y: exact_match_after, scale: log}
```
"""
PROBE = """```{probe} directions
title: Directions
probe: spectrum
of: [ranks/r8]
settings: {directions: 4}
knobs: [directions]
```
"""
SOURCE = """```{source} pair
title: The count
object: core.methods.lora:pair_parameters
equation: "r (d + k)"
paper: {title: LoRA, section: section 4, url: "https://arxiv.org/abs/2106.09685"}
```
"""
CODE = """```{code} try
title: Try it
code: |
  from core.methods.lora import pair_parameters
  print(pair_parameters(8, 8, 1))
expect: "16"
```
"""
EXERCISE = """```{exercise} count-them
title: Count them
text: Write it.
stub: |
  def count(d, k, r): ...
solution: |
  def count(d, k, r): return r * (d + k)
hints: [Look, Look again]
wrong:
  - {code: "def count(d, k, r): return d * k", says: rank}
  - {code: "def count(d, k, r): return r * d", says: two}
```
"""


@pytest.mark.parametrize(
    ("body", "line", "part"),
    [
        (ORDERING.replace("[One, Two, Three]", "[One, Two]"), 1, "at least three items"),
        (ORDERING.replace("Three]", "Two]"), 5, "Two items of the quiz are the same"),
        (ORDERING.replace("why: It counts.\n", ""), 1, "no explanation (why)"),
        (ORDERING.replace("otherwise: Count again.\n", ""), 1, "no explanation (otherwise) for wrong orders"),
        (ORDERING.replace("[3, 2, 1]", "[3, 2, 2]"), 9, "each of the places 1 to 3 once"),
        (ORDERING.replace("[3, 2, 1]", "[1, 2, 3]"), 9, "the right order"),
        (ORDERING.replace("order: [3, 2, 1]", "order: [3, 2, 1], answer: 3"), 9, "belongs to a quiz of kind numeric"),
        (ORDERING.replace("items:", "choices: [{text: a, why: b}]\nitems:"), 5, "choices belongs to a quiz"),
        (QUIZ.replace("choices:", "items: [a, b, c]\nchoices:"), 4, "items belongs to a quiz of kind ordering"),
        (SOURCE.replace("pair_parameters", "no_such"), 3, "core/methods/lora.py has no 'no_such'"),
        (SOURCE.replace("core.methods.lora", "core.methods.magic"), 3, "no module 'core.methods.magic'"),
        (SOURCE.replace("core.methods.lora", "os.path"), 3, "names no code of ours"),
        (CODE.replace("print(", "print(("), 5, "no Python"),
        (CODE.replace("title: Try it", "title: Try it\nseconds: soon"), 3, "seconds must be a whole number"),
        ("{term}`|NF4`\n", 1, "A term is written"),
    ],
)  # fmt: skip
def test_each_mistake_in_the_later_kinds_is_said_with_its_line(tmp_path: Path, body: str, line: int, part: str) -> None:
    assert [(at, part in sentence) for at, sentence in mistakes_of(tmp_path, body)] == [(line, True)]


@pytest.mark.parametrize(
    ("body", "line", "part"),
    [
        (COMPARE, 1, "no recorded result; record it into runs/ranks/r1.jsonl, runs/ranks/r8.jsonl"),
        (COMPARE.replace("name: r8", "name: r1"), 7, "called 'r1' as well"),
        (COMPARE.replace('  - {name: r8, label: "r = 8", method: lora, settings: {rank: 8}}\n', ""), 5, "at least 2"),
        (COMPARE.replace("rank: 8", "rang: 8"), 7, "no setting called 'rang'"),
        (COMPARE.replace("steps: 20", "steps: many"), 6, "teps must be a whole number"),
        (COMPARE.replace("method: lora", "method: magic"), 6, "no method 'magic'"),
        (COMPARE.replace("[steps, seed]", "[rank]"), 8, "no knob 'rank'"),
        (COMPARE.replace("columns: [trainable, exact_match_after]\n", ""), 1, "lacks 'columns'"),
        (PROBE, 1, "no run 'ranks/r8'"),
        (PROBE.replace("spectrum", "horoscope"), 3, "no measurement called 'horoscope'"),
        (PROBE.replace("of: [ranks/r8]", "of: []"), 4, "measures 1 runs, not 0"),
        (PROBE.replace("directions: 4", "directions: many"), 5, "irections must be a whole number"),
        (PROBE.replace("knobs: [directions]", "knobs: [wheels]"), 6, "no knob 'wheels'"),
        (EXERCISE, 1, "no checks.py with a function count_them"),
        (EXERCISE.replace("hints: [Look, Look again]", "hints: [Look]"), 8, "at least 2"),
        (EXERCISE.replace('  - {code: "def count(d, k, r): return r * d", says: two}\n', ""), 9, "at least 2"),
        (EXERCISE.replace("return r * d", "return r *"), 11, "no Python"),
        (EXERCISE.replace("return r * d", "return r * (d + k)"), 11, "is the solution"),
        (EXERCISE.replace("def count(d, k, r): ...", "def count(d, k, r): return r * (d + k)"), 6, "solution already"),
        (PREDICT.replace("run\n", "ranks\n") + COMPARE, 1, "Say which run of ranks is meant (run): r1, r8"),
        (PREDICT.replace("run\n", "ranks\nrun: r2\n") + COMPARE, 1, "which run"),
        (PREDICT.replace("run\n", "run\nrun: r1\n") + EXPERIMENT, 1, "leave out `run`"),
    ],
)  # fmt: skip
def test_mistakes_in_comparisons_measurements_and_exercises(tmp_path: Path, body: str, line: int, part: str) -> None:
    found = mistakes_of(tmp_path, body)
    assert any(at == line and part in sentence for at, sentence in found), found


def recorded_ranks(folder: Path) -> None:
    """The recordings of COMPARE and PROBE."""
    (folder / "runs" / "ranks").mkdir(parents=True)
    for name in ("r1", "r8"):
        lines = [{"kind": "provenance"}, {"kind": "started", "trainable": 8, "total": 80, "steps": 2, "examples": 5,
                 "held_out": 5}, {"kind": "evaluated", "step": 0, "loss": 1.0, "exact_match": 0.5}]  # fmt: skip
        (folder / "runs" / "ranks" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = {"mean": 2.5, "rows": [{"rank": 1, "exact_match": 0.5}], "on": True, "name": "x"}
    (folder / "runs" / "directions.json").write_text(json.dumps({"provenance": {}, "seconds": 1.0, "result": result}))


def test_what_is_recorded_is_held_against_what_is_asked(tmp_path: Path) -> None:
    guess = PREDICT.replace("run\n", "directions\n").replace("loss_after", "rows.0.exact_match")
    text = "It is {calc}`probed(probe='directions', what='rows.0.exact_match')`.\n"
    good = COMPARE.replace("exact_match_after", "exact_match_before")
    path = write(tmp_path, good + PROBE + guess + text)
    assert index.read(path, recorded=False)[1] == []
    recorded_ranks(path.parent)
    lesson, mistakes = index.read(path)
    assert mistakes == []
    assert lesson is not None
    assert index.check(lesson) == []
    assert index.filled(text, path.parent) == "It is 50 %.\n"
    assert index.run_names(lesson.cells) == ["ranks/r1", "ranks/r8"]

    path.write_text(FRONT + COMPARE + PROBE + guess.replace("rows.0", "rows.1"))
    sentences = [m.sentence for m in index.read(path)[1]]
    assert len(sentences) == 2
    assert "The runs have no figure 'exact_match_after'; they have" in sentences[0]
    assert "no figure 'rows.1.exact_match'. It has mean, rows.0.rank, rows.0.exact_match" in sentences[1]


def test_the_later_kinds_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, ORDERING + SOURCE + CODE + EXERCISE, front=FRONT.replace(
        "references:", "summary_points: [a, b, c, d, e]\nreferences:"))  # fmt: skip
    checks = path.parent / "checks.py"
    checks.write_text("def count(space):\n    return 'Right.'\n")
    (mistake,) = index.read(path)[1]
    assert "no function count_them(space)" in mistake.sentence
    checks.write_text("def count_them(space):\n    return 'Right.'\n")
    lesson, mistakes = index.read(path)
    assert mistakes == []
    assert lesson is not None
    assert [c.kind for c in lesson.cells] == ["quiz", "source", "code", "exercise"]
    assert lesson.summary_points == ("a", "b", "c", "d", "e")
    assert lesson.cell("try").body["code"].startswith("from core")


def test_a_summary_has_five_to_eight_points(tmp_path: Path) -> None:
    front = FRONT.replace("references:", "summary_points: [a, b]\nreferences:")
    (mistake,) = index.read(write(tmp_path, "Text.\n", front=front))[1]
    assert "5 to 8 points, not 2" in mistake.sentence


def test_terms_are_shown_and_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glossary.terms.cache_clear()
    text = "A {term}`NF4` level, a {term}`few\nbits|NF4`; `{term}` is how."
    assert index.filled(text, tmp_path) == "A NF4 level, a few bits; `{term}` is how."
    marked = index.filled(text, tmp_path, define=lambda shown, key: f"[{shown}:{key}]")
    assert marked == "A [NF4:NF4] level, a [few bits:NF4]; `{term}` is how."
    words = tmp_path / "glossary.toml"
    words.write_text('[[term]]\nkey = "nf4"\nname = "NF4"\naka = ["NormalFloat"]\ntext = "Levels."\n')
    monkeypatch.setattr(glossary, "PATH", words)
    for cached in (glossary.terms, glossary._by_name):
        cached.cache_clear()
    try:
        found = mistakes_of(tmp_path, "{term}`nf4` and {term}`it|normalfloat`.\n\nNot {term}`NF5`.\n")
    finally:
        for cached in (glossary.terms, glossary._by_name):
            cached.cache_clear()
    assert [(line, "no term 'NF5'" in sentence) for line, sentence in found] == [(3, True)]


def test_widgets_are_found_by_their_files() -> None:
    for name, options in schema.WIDGETS.items():
        module = import_module(f"app.widgets.{name.replace('-', '_')}")
        assert (name, options) == (module.NAME, module.OPTIONS)
        assert callable(module.render)
    assert "lora-parameters" in schema.WIDGETS


@pytest.mark.parametrize(
    ("front", "part"),
    [
        ("", "begins with front matter"),
        ("---\ntitle: x\n", "begins with front matter"),
        (FRONT.replace("title: A lesson\n", ""), "lacks 'title'"),
        (FRONT.replace("minutes: 5", "minutes: soon"), "minutes must be a whole number"),
        (FRONT.replace("[Do something]", "[]"), "at least 1 entries"),
        (FRONT.replace("minutes: 5", "minutes: 5\nmood: good"), "no field 'mood'"),
        (FRONT.replace(", year: 2021", ""), "lacks 'year'"),
        (FRONT.replace("year: 2021", "pages: 3, year: 2021"), "no field 'pages'"),
    ],
)
def test_front_matter_mistakes(tmp_path: Path, front: str, part: str) -> None:
    lesson, mistakes = index.read(write(tmp_path, "Text.\n", front=front))
    assert lesson is None
    assert part in mistakes[0].sentence


def test_a_folder_with_another_name_is_a_mistake(tmp_path: Path) -> None:
    lesson, (mistake,) = index.read(write(tmp_path, "Text.\n", folder="intro"))
    assert lesson is None
    assert "NN_slug" in mistake.sentence
    assert str(mistake).startswith("intro/lesson.md:1: ")


def test_the_same_id_twice_is_a_mistake(tmp_path: Path) -> None:
    line, sentence = the_mistake(tmp_path, QUIZ + "\n" + QUIZ)
    assert line == QUIZ.count("\n") + 2
    assert f"line {FRONT_LINES + 1}" in sentence


def test_all_mistakes_are_reported_at_once_in_order(tmp_path: Path) -> None:
    body = "{calc}`a()`\n\n```{nope} x\n```\n\n" + QUIZ.replace(", why: Because not.", "") + "\n![](x.svg)\n"
    lines = [line for line, _ in mistakes_of(tmp_path, body)]
    assert lines == sorted(lines)
    assert len(lines) == 5


def test_calcs_are_filled_but_not_in_code(tmp_path: Path) -> None:
    text = "It has {calc}`matrix_parameters(d=1000, k=1000)` weights; write `` {calc}`x()` `` or `{calc}` for it."
    assert index.filled(text, tmp_path) == (
        "It has 1,000,000 weights; write `` {calc}`x()` `` or `{calc}` for it."
    )  # fmt: skip


def test_lora_arithmetic_is_the_engines(tmp_path: Path) -> None:
    assert calc.value(calc.parse("lora_parameters(d=1000, k=1000, r=8)"), tmp_path) == 16_000
    assert calc.text(calc.parse("lora_percent(d=4096, k=4096, r=16)"), tmp_path) == "0.78 %"


def test_quantities_of_a_run() -> None:
    events = [
        {"kind": "started", "trainable": 10, "total": 1000, "steps": 2, "examples": 5, "held_out": 5},
        {"kind": "evaluated", "step": 0, "loss": 3.0, "exact_match": 0.0, "skills": {"addition": 1.0, "reversal": 0.5}},
        {"kind": "step", "step": 1, "loss": 2.5},
    ]
    half = calc.quantities(events)
    assert half["trainable_percent"] == 1.0
    assert (half["exact_match_before"], half["skills_before"], half["first_loss"]) == (0.0, 75.0, 2.5)
    assert "exact_match_after" not in half
    events += [
        {"kind": "step", "step": 2, "loss": 1.5},
        {"kind": "evaluated", "step": 2, "loss": 1.0, "exact_match": 0.9, "skills": {"addition": 0.5, "reversal": 0.5}},
        {"kind": "finished", "seconds": 3.0, "first_loss_seconds": 1.0, "adapter_bytes": 2048, "peak_bytes": 1},
    ]
    whole = calc.quantities(events)
    assert whole["exact_match_after"] == 90.0
    assert (whole["skills_after"], whole["addition_after"], whole["last_loss"]) == (50.0, 50.0, 1.5)
    assert calc.quantity_text("exact_match_after", 90.0) == "90 %"
    assert calc.quantity_text("adapter_bytes", 2048) == "2.0 KiB"
    assert calc.quantities([]) == {}


def test_a_figure_has_the_same_unit_in_a_sentence_on_an_axis_and_in_a_file() -> None:
    from app.charts_lesson import _with_unit

    for what, unit, axis, column in (
        ("loss_after", "nats", "nats a token", "loss_after_nats"),
        ("exact_match_after", "percent", "%", "exact_match_after_percent"),
        ("trainable_percent", "percent", "%", "trainable_percent"),
        ("first_loss_seconds", "", "s", "first_loss_seconds"),
        ("rank", "", "", "rank"),
    ):
        assert (calc.unit_of(what), calc.quantity_axis(what)[0], _with_unit(what)) == (unit, axis, column)
    assert calc.quantity_text("trainable_percent", 0.5) == "0.5 %"


def test_scores_of_nothing_are_no_figures() -> None:
    """Where nothing was held out, a lesson can neither print a loss nor be answered by one."""
    events: list[dict[str, Any]] = [
        {"kind": "evaluated", "step": step, "loss": None, "exact_match": None, "items": 0, "skills": {"addition": 1.0}}
        for step in (0, 2)
    ]
    events.append(
        {"kind": "finished", "seconds": 3.0, "first_loss_seconds": 1.0, "adapter_bytes": 2048, "peak_bytes": 1}
    )
    found = calc.quantities(events)
    assert not {"loss_before", "loss_after", "exact_match_before", "exact_match_after"} & found.keys()
    assert (found["skills_before"], found["skills_after"]) == (100.0, 100.0)


def test_a_figure_that_was_not_recorded_is_refused(tmp_path: Path) -> None:
    call = calc.parse("recorded(run='json-lora', what='loss_after')")
    with pytest.raises(BadInput, match="no recorded run"):
        calc.value(call, tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "json-lora.jsonl").write_text('{"kind": "provenance"}\n')
    with pytest.raises(BadInput, match="no figure 'loss_after'"):
        calc.value(call, tmp_path)


def test_the_index_needs_neither_streamlit_nor_torch() -> None:
    code = (
        "import sys; from app import index, progress, answers; index.scan();"
        "print([m for m in ('streamlit', 'torch', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
