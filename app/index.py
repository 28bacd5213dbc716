"""Finds the lessons on disk and reads them. Pure: no streamlit, nothing drawn, nothing run.

A lesson is a folder `lessons/NN_slug` with a `lesson.md`: YAML front matter between two `---` lines, then Markdown with
fenced directives. A directive is a top-level fence whose info string is `{kind} id`; its body is YAML:

    ```{quiz} first-question
    question: Which of these train?
    ```

A longer fence shows a directive instead of being one. {calc}`name(argument=value)` in the text prints a number from the
engine (app/calc.py); {term}`NF4` or {term}`shown text|NF4` is a word of the glossary (core/glossary.py);
{n}`72|points to an inch` is a number by definition, with the reason why nobody computes it (app/lint.py).
A picture is a line of its own, `![what it shows](file.svg)`, and its file lies in the folder.
A directive's id is what a learner's saved state hangs on, so it is explicit and never made from the position.

Everything that is wrong is collected and reported at once, each with file and line.
"""

from __future__ import annotations

import ast
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from app import calc, schema
from core import glossary, syntax
from core.errors import BadInput

OWN = Path(__file__).resolve().parent.parent / "lessons"
"""Those that come with Deltalab."""
ROOT = Path(os.environ.get("DELTALAB_LESSONS") or OWN)
"""Where the lessons lie; whoever writes some elsewhere names their folder in $DELTALAB_LESSONS."""
FOLDER = re.compile(r"(\d\d)_([a-z0-9]+(?:_[a-z0-9]+)*)")
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*(.*)$")
DIRECTIVE = re.compile(r"^\{([^}]*)\}\s*(.*)$")
CELL_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
IMAGE = re.compile(r"^!\[(?P<alt>[^\]]*)\]\((?P<file>[^)\s]+)\)[ \t]*$", re.MULTILINE)
# A calc, term, number with a reason or code span, whichever begins first: a calc in a code span is text about one.
INLINE = re.compile(
    r"\{calc\}`(?P<calc>[^`\n]*)`|\{term\}`(?P<term>[^`]*)`|\{n\}`(?P<n>[^`]*)`"
    r"|(?P<ticks>(?<!`)`+(?!`)).*?(?<!`)(?P=ticks)(?!`)",
    re.DOTALL,
)
PICTURES = (".svg", ".png")


@dataclass(frozen=True)
class Mistake:
    """Something wrong in a lesson: the file, the line (from 1) and a sentence."""

    path: Path
    line: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}:{self.line}: {self.sentence}"


class LessonMistakes(BadInput):
    """Lessons that cannot be shown as they are; `mistakes` lists everything that is wrong with them."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)), "")
        self.mistakes = mistakes


@dataclass(frozen=True)
class Cell:
    """One piece of a lesson, in order.

    kind: prose, image or a directive's. id: the directive's id ("" for prose). number: counts the directives of the
    lesson from 1 (0 for prose, and for a `reveal`, which is read as prose). body: the checked YAML of a directive;
    {"text"} of prose; {"file", "alt"} of an image.
    """

    kind: str
    id: str
    number: int
    line: int
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """A lesson as read from its folder. `slug` is the folder's name, `url_path` its page's address."""

    slug: str
    folder: Path
    order: int
    url_path: str
    title: str
    navigation: str
    summary: str
    minutes: int
    objectives: tuple[str, ...]
    prerequisites: tuple[str, ...]
    references: tuple[dict[str, Any], ...]
    cells: tuple[Cell, ...]
    summary_points: tuple[str, ...] = ()

    def cell(self, cell_id: str) -> Cell:
        """The directive with that id. Raises: BadInput, when there is none."""
        for cell in self.cells:
            if cell.id == cell_id:
                return cell
        raise BadInput(f"The lesson {self.slug} has no cell {cell_id!r}.")

    def state_name(self, cell_id: str) -> str:
        """The name under which the learner's state of a cell is kept."""
        return f"{self.slug}/{cell_id}"

    def predictions_of(self, experiment_id: str) -> list[Cell]:
        """The predict cells whose answer that experiment gives."""
        return [c for c in self.cells if c.kind == "predict" and c.body["experiment"] == experiment_id]


def scan(root: Path = ROOT) -> tuple[list[Lesson], list[Mistake]]:
    """All lessons under `root` in order, and everything that is wrong; a lesson with a mistake is left out."""
    lessons: list[Lesson] = []
    mistakes: list[Mistake] = []
    for path in sorted(root.glob("*/lesson.md")):
        found, wrong = read(path)
        mistakes += wrong
        if found is not None:
            lessons.append(found)
        mistakes += clashes(path)
    return sorted(lessons, key=lambda lesson: lesson.order), mistakes


def clashes(path: Path) -> list[Mistake]:
    """What of a lesson's folder name another one beside it (earlier in the order of names) or a page has already."""
    from app.lint import view_addresses  # which reads lessons, too

    name = FOLDER.fullmatch(path.parent.name)
    if name is None:  # which `read` tells
        return []
    said, address = [], _address(name)
    if address in view_addresses():
        said.append(f"There is a page at /{address} already; call it otherwise.")
    beside = sorted(other.parent.name for other in path.parents[1].glob("*/lesson.md"))
    for other in beside[: beside.index(path.parent.name)]:
        taken = FOLDER.fullmatch(other)
        if taken is not None and taken[1] == name[1]:
            said.append(f"{other} has the number {int(name[1])} already.")
        if taken is not None and taken[2] == name[2]:
            said.append(f"{other} has the address {address!r} already.")
    return [Mistake(path, 1, words) for words in said]


def _address(name: re.Match[str]) -> str:
    """The address of the page of a lesson, by its folder's name."""
    return name[2].replace("_", "-")


_SCANNING = threading.RLock()


@lru_cache(maxsize=1)
def _scanned() -> tuple[tuple[Lesson, ...], tuple[Mistake, ...]]:
    found, mistakes = scan()
    return tuple(found), tuple(mistakes)


def lessons() -> tuple[Lesson, ...]:
    """The lessons that come with Deltalab, read once; one with a mistake is left out, and hides no other."""
    with _SCANNING:  # where many ask a server that has just started, one reads and the others wait for it
        return _scanned()[0]


def mistakes() -> tuple[Mistake, ...]:
    """What is wrong with those that were left out: nothing, in a release (tests/app/test_lessons.py)."""
    with _SCANNING:
        return _scanned()[1]


def read(path: Path, *, recorded: bool = True) -> tuple[Lesson | None, list[Mistake]]:
    """One lesson file and its mistakes; the lesson is None when there are any.

    Args:
        recorded: whether the recorded results are looked at; not while they are about to be made.
    """
    mistakes: list[Mistake] = []

    def report(line: int, sentence: str) -> None:
        mistakes.append(Mistake(path, line, sentence))

    name = FOLDER.fullmatch(path.parent.name)
    if name is None:
        report(1, f"A lesson's folder is called NN_slug, such as 03_rank_arithmetic, not {path.parent.name!r}.")
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        report(1, "The file is not UTF-8 text.")
        return None, mistakes
    front, body, first_line = _front_matter(source, report)
    cells = list(_cells(body, first_line, path.parent, report))
    _check_references(cells, path.parent, report, recorded)
    if mistakes or front is None or name is None:
        return None, sorted(mistakes, key=lambda m: m.line)
    lesson = Lesson(
        slug=path.parent.name,
        folder=path.parent,
        order=int(name[1]),
        url_path=_address(name),
        title=front["title"],
        navigation=front.get("navigation", front["title"]),
        summary=front["summary"].strip(),
        minutes=front["minutes"],
        objectives=tuple(front["objectives"]),
        prerequisites=tuple(front["prerequisites"]),
        references=tuple(dict(r) for r in front["references"]),
        cells=tuple(cells),
        summary_points=tuple(front.get("summary_points", ())),
    )
    return lesson, []


def _front_matter(source: str, report: schema.Report) -> tuple[schema.Lined | None, list[str], int]:
    """The checked front matter, the lines after it, and the number of the first of those lines."""
    lines = source.splitlines()
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if not lines or lines[0].rstrip() != "---" or end is None:
        report(1, "A lesson begins with front matter between two lines of ---.")
        return None, lines, 1
    front = schema.load_yaml("\n".join(lines[1:end]), 2, report)
    if front is not None:
        schema.check(front, schema.FRONT, "The front matter", 1, report)
        _check_texts(front, 1, report)
        points, (least, most) = front.get("summary_points"), schema.SUMMARY_POINTS
        if isinstance(points, list) and not least <= len(points) <= most:
            report(front.lines["summary_points"], f"The summary has {least} to {most} points, not {len(points)}.")
    return front, lines[end + 1 :], end + 2


def _blocks(lines: list[str], first_line: int, report: schema.Report) -> Iterator[tuple[str, list[str], int]]:
    """Runs of lines and fences: ("text", lines, line), ("code", lines, line), or (info string, body lines, line)."""
    text: list[str] = []
    at = first_line
    i = 0
    while i < len(lines):
        opened = FENCE.match(lines[i])
        if not opened:
            if not text:
                at = first_line + i
            text.append(lines[i])
            i += 1
            continue
        fence, info = opened.groups()
        close = re.compile(rf"^ {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}\s*$")
        end = next((j for j in range(i + 1, len(lines)) if close.match(lines[j])), None)
        if end is None:
            report(first_line + i, "This fence is never closed.")
            end = len(lines)
        if text:
            yield "text", text, at
            text = []
        if DIRECTIVE.match(info):
            yield info, lines[i + 1 : end], first_line + i
        else:
            yield "code", lines[i : end + 1], first_line + i
        i = end + 1
    if text:
        yield "text", text, at


def _cells(lines: list[str], first_line: int, folder: Path, report: schema.Report) -> Iterator[Cell]:
    number = 0
    seen: dict[str, int] = {}
    for info, block, line in _blocks(lines, first_line, report):
        if info == "code":
            yield Cell("prose", "", 0, line, {"text": "\n".join(block), "code": True})
        elif info == "text":
            yield from _prose(block, line, folder, report)
        else:
            cell = _directive(info, block, line, number + 1, report)
            number += not info.startswith(tuple(f"{{{kind}}}" for kind in schema.UNNUMBERED))
            if cell is None:
                continue
            if cell.id in seen:
                report(line, f"The id {cell.id!r} is taken by the cell in line {seen[cell.id]}.")
            seen.setdefault(cell.id, line)
            yield cell


def _prose(block: list[str], line: int, folder: Path, report: schema.Report) -> Iterator[Cell]:
    """Prose and the pictures on lines of their own between it."""
    source = "\n".join(block)
    start = 0
    for image in IMAGE.finditer(source):
        yield from _text(source[start : image.start()], line + source.count("\n", 0, start), report)
        at = line + source.count("\n", 0, image.start())
        alt, file = image["alt"].strip(), image["file"]
        if not alt:
            report(at, f"The picture {file} has no alt text; say in the brackets what it shows.")
        if "://" in file:
            report(at, "A picture lies in the lesson's folder; nothing is fetched from elsewhere.")
        elif not file.endswith(PICTURES):
            report(at, f"A picture is one of {', '.join(PICTURES)}, not {file!r}.")
        elif not (folder / file).is_file():
            report(at, f"There is no file {file!r} in the lesson's folder.")
        yield Cell("image", "", 0, at, {"file": file, "alt": alt})
        start = image.end()
    yield from _text(source[start:], line + source.count("\n", 0, start), report)


def _text(source: str, line: int, report: schema.Report) -> Iterator[Cell]:
    if not source.strip():
        return
    line += len(source) - len(source.lstrip("\n"))
    source = source.strip("\n")
    calls(source, line, report)
    for stray in re.finditer(r"!\[", source):
        report(line + source.count("\n", 0, stray.start()), "A picture stands on a line of its own.")
    yield Cell("prose", "", 0, line, {"text": source})


def _directive(info: str, block: list[str], line: int, number: int, report: schema.Report) -> Cell | None:
    match = DIRECTIVE.match(info)
    assert match is not None
    kind, cell_id = match[1].strip(), match[2].strip()
    if kind not in schema.CELLS:
        report(line, f"There is no directive {{{kind}}}; there are {', '.join(schema.CELLS)}.")
        return None
    if not CELL_ID.fullmatch(cell_id):
        report(line, f"{{{kind}}} needs an id of small letters, digits and hyphens behind it, not {cell_id!r}.")
        return None
    body = schema.load_yaml("\n".join(block), line + 1, report)
    if body is None:
        return None
    body.lines[None] = line
    wrong_before = 0

    def counted(at: int, sentence: str) -> None:
        nonlocal wrong_before
        wrong_before += 1
        report(at, sentence)

    schema.check(body, schema.Rule("map", fields=schema.CELLS[kind].fields), f"{{{kind}}} {cell_id}", line, counted)
    _check_texts(body, line, counted)
    if kind == "quiz":
        _check_answers(body, line, counted)
    # The kind's own check may rely on the types that the rules have established.
    if kind == "quiz" or not wrong_before:
        schema.CELLS[kind].check(body, line, report)
    return Cell(kind, cell_id, 0 if kind in schema.UNNUMBERED else number, line, body)


def _check_texts(value: Any, line: int, report: schema.Report) -> None:
    """Check the calcs and terms in every text of a directive's body."""
    if isinstance(value, schema.Lined):
        for key, part in value.items():
            if key not in schema.CODE_FIELDS:
                _check_texts(part, value.lines[key], report)
    elif isinstance(value, list):
        for part in value:
            _check_texts(part, line, report)
    elif isinstance(value, str):
        calls(value, line, report)


def _check_answers(body: schema.Lined, line: int, report: schema.Report) -> None:
    """A numeric answer is a number, or the text of a calc call."""
    mistakes = body.get("mistakes")
    rows = [body, *(m for m in mistakes if isinstance(m, schema.Lined))] if isinstance(mistakes, list) else [body]
    for row in rows:
        answer = row.get("answer")
        if isinstance(answer, str):
            try:
                calc.parse(answer)
            except BadInput as error:
                report(row.lines.get("answer", line), str(error))
        elif answer is not None and (isinstance(answer, bool) or not isinstance(answer, (int, float))):
            report(row.lines.get("answer", line), "The answer must be a number or a calc function.")


def _check_references(cells: list[Cell], folder: Path, report: schema.Report, recorded: bool) -> None:
    """What one cell says of another, and what the folder must hold: recorded results, and checks of exercises."""
    by_id = {cell.id: cell for cell in cells if cell.id}
    for cell in cells:
        if cell.kind == "exercise":
            _check_exercise(cell, folder, report)
        if cell.kind == "probe":
            measured = cell.body.get("of")
            for name in measured if isinstance(measured, list) else ():
                if name not in run_names(cells):
                    report(cell.line, f"There is no run {name!r} in this lesson to measure.")
        missing = [p for p in recordings(cell, folder) if not p.is_file()]
        if recorded and missing:
            what = "The experiment has no recorded run" if cell.kind == "experiment" else "There is no recorded result"
            names = ", ".join(f"runs/{p.relative_to(folder / 'runs').as_posix()}" for p in missing)
            report(cell.line, f"{what}; record it into {names}.")
        elif recorded and cell.kind == "compare":
            _check_columns(cell, folder, report)
        after = cell.body.get("after")
        for name in after if isinstance(after, list) else ():
            guess = by_id.get(str(name))
            if guess is None or guess.kind != "predict" or guess.line > cell.line:
                report(cell.line, f"There is no prediction {name!r} above this, after which it could be shown.")
        if cell.kind == "predict":
            _check_prediction(cell, by_id.get(str(cell.body.get("experiment"))), folder, report, recorded)


def run_names(cells: Sequence[Cell]) -> list[str]:
    """The runs of a lesson, as probes and calcs name them: an experiment's id, or comparison/run."""
    found = []
    for cell in cells:
        if cell.kind == "experiment":
            found.append(cell.id)
        elif cell.kind == "compare":
            found += [f"{cell.id}/{run['name']}" for run in _runs_of(cell)]
    return found


def _runs_of(cell: Cell) -> list[dict[str, Any]]:
    runs = cell.body.get("runs")
    return [r for r in runs if isinstance(r, dict) and isinstance(r.get("name"), str)] if isinstance(runs, list) else []


def recordings(cell: Cell, folder: Path) -> list[Path]:
    """The files that hold a cell's recorded results; none for kinds that have no result."""
    if cell.kind == "experiment":
        return [recorded_path(folder, cell.id)]
    if cell.kind == "compare":
        return [recorded_path(folder, f"{cell.id}/{run['name']}") for run in _runs_of(cell)]
    if cell.kind == "probe":
        return [probed_path(folder, cell.id)]
    return []


def _check_columns(cell: Cell, folder: Path, report: schema.Report) -> None:
    """The columns and axes of a comparison are figures that its runs have."""
    body = cell.body
    wanted = [*(body.get("columns") or ()), *(v for k, v in (body.get("figure") or {}).items() if k in ("x", "y"))]
    known: set[str] = set()
    for path in recordings(cell, folder):
        known |= calc.run_figures(calc.recorded_events(path)).keys()
    for what in dict.fromkeys(map(str, wanted)):
        if what not in known:
            report(cell.line, f"The runs have no figure {what!r}; they have {', '.join(sorted(known))}.")


def _check_prediction(cell: Cell, about: Cell | None, folder: Path, report: schema.Report, recorded: bool) -> None:
    """A prediction is about a figure that an experiment, a run of a comparison or a measurement has."""
    named, run, what = cell.body.get("experiment"), cell.body.get("run"), str(cell.body.get("what"))
    if about is None or about.kind not in ("experiment", "compare", "probe"):
        report(cell.line, f"There is no experiment {named!r} in this lesson.")
        return
    runs = [r["name"] for r in _runs_of(about)] if about.kind == "compare" else []
    if about.kind == "compare" and run not in runs:
        report(cell.line, f"Say which run of {named} is meant (run): {', '.join(runs)}.")
        return
    if about.kind != "compare" and run is not None:
        report(cell.line, f"{named} is one {'run' if about.kind == 'experiment' else 'measurement'}; leave out `run`.")
        return
    if about.kind == "probe":
        compute, path = partial(calc.probed, folder, about.id, what), probed_path(folder, about.id)
    else:
        name = f"{about.id}/{run}" if run else about.id
        compute, path = partial(calc.recorded, folder, name, what), recorded_path(folder, name)
    if recorded and path.is_file():
        try:
            compute()
        except BadInput as error:
            report(cell.line, str(error))


def check_name(cell: Cell) -> str:
    """The function of checks.py that checks an exercise."""
    return str(cell.body.get("check") or cell.id.replace("-", "_"))


def _check_exercise(cell: Cell, folder: Path, report: schema.Report) -> None:
    """checks.py has the exercise's check. (It is read, not run.)"""
    path, name = folder / "checks.py", check_name(cell)
    try:
        tree = syntax.tree(path.read_text(encoding="utf-8"))
    except OSError:
        report(cell.line, f"The exercise has no check: the folder has no checks.py with a function {name}(space).")
        return
    except SyntaxError as error:
        report(cell.line, f"checks.py cannot be read: {error.msg} in line {error.lineno}.")
        return
    if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
        report(cell.line, f"checks.py has no function {name}(space) for this exercise.")


def recorded_path(folder: Path, run: str) -> Path:
    """Where a lesson keeps a recorded run: of an experiment (its id), or of a comparison (comparison/run)."""
    return folder / "runs" / f"{run}.jsonl"


def probed_path(folder: Path, probe_id: str) -> Path:
    """Where a lesson keeps the recorded result of a measurement."""
    return folder / "runs" / f"{probe_id}.json"


def check(lesson: Lesson) -> list[Mistake]:
    """Compute every number that `lesson` prints or grades by; what the engine refuses is a mistake."""
    mistakes: list[Mistake] = []

    def walk(value: Any, line: int) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                if key == "answer" and isinstance(part, str):
                    attempt(partial(compute_answer, part), line)
                elif key not in schema.CODE_FIELDS:
                    walk(part, line)
        elif isinstance(value, list | tuple):
            for part in value:
                walk(part, line)
        elif isinstance(value, str):
            attempt(lambda: filled(value, lesson.folder), line)

    def compute_answer(source: str) -> float:
        return calc.value(calc.parse(source), lesson.folder)

    def attempt(compute: Callable[[], Any], line: int) -> None:
        try:
            compute()
        except BadInput as error:
            mistakes.append(Mistake(lesson.folder / "lesson.md", line, str(error)))

    for cell in lesson.cells:
        if not cell.body.get("code"):
            walk(cell.body, cell.line)
    walk([lesson.summary, *lesson.objectives, *lesson.prerequisites, *lesson.summary_points], 1)
    return mistakes


def calls(text: str, line: int, report: schema.Report) -> None:
    """Report the calcs and terms in `text` that cannot be understood; `text` begins in line `line`."""
    for match in INLINE.finditer(text):
        at = line + text.count("\n", 0, match.start())
        if match["calc"] is not None:
            try:
                calc.parse(match["calc"])
            except BadInput as error:
                report(at, str(error))
        elif match["n"] is not None:
            if not all(part.strip() for part in match["n"].partition("|")):
                report(at, "A number by definition has its reason behind a bar: {n}`72|points to an inch`.")
        elif match["term"] is not None:
            shown, key = term_parts(match["term"])
            if not shown or not key:
                report(at, "A term is written {term}`NF4` or {term}`shown text|NF4`.")
            elif glossary.terms() and glossary.find(key) is None:
                report(at, f"The glossary has no term {key!r}; add it to core/catalog/glossary.toml.")


def term_parts(inside: str) -> tuple[str, str]:
    """What stands between the ticks of a term: (what is shown, the glossary's key)."""
    shown, bar, key = inside.partition("|")
    shown = " ".join(shown.split())
    return shown, " ".join(key.split()) if bar else shown


def filled(
    text: str,
    folder: Path,
    compute: Callable[[calc.Call, Path], str] = calc.text,
    define: Callable[[str, str], str] = lambda shown, key: shown,
) -> str:
    """`text` with every calc replaced by its number and every term by what `define` makes of it.

    Args:
        folder: the lesson's.
        define: called with what is shown and the glossary's key.
    """

    def one(match: re.Match[str]) -> str:
        if match["calc"] is not None:
            return compute(calc.parse(match["calc"]), folder)
        if match["n"] is not None:
            return match["n"].partition("|")[0].strip()
        return match[0] if match["term"] is None else define(*term_parts(match["term"]))

    return INLINE.sub(one, text)
