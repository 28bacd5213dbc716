"""A lesson as a Jupyter notebook that runs from top to bottom wherever Deltalab is installed. Pure.

    text = notebook(lesson)          # nbformat 4.5, as JSON

Prose stands as it is, with its numbers filled in and its pictures inside the file. What one clicks in the app is code
here, on the engine's own functions (app/lab.py): experiments, comparisons and measurements run, a prediction is a
variable to be changed, an exercise is a stub, its check, and one solution, folded. A quiz has its answers folded below,
and what tells the result of a run is folded too.
With DELTALAB_SHORT=1 in the environment everything is made as small as it goes; otherwise it is the real thing.

Nothing is executed here; cells have fixed ids, so the same lesson gives the same bytes.
"""

from __future__ import annotations

import base64
import html
import json
import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app import answers, calc
from app.index import Cell, Lesson, filled

INK = "#6b7280"
"""What `currentColor` is in a picture: grey enough for a light ground and for a dark one."""
ICON = re.compile(r":material/[a-z0-9_]+:\s*")
PAGE = re.compile(r"\]\(/([\w-]*)\)")
APP = "http://127.0.0.1:8501"
NAMES = {
    "predict": "Prediction", "experiment": "Experiment", "quiz": "Question", "widget": "Try it",
    "compare": "Comparison", "probe": "Measurement", "source": "Source", "code": "Code", "exercise": "Exercise",
}  # fmt: skip


def notebook(lesson: Lesson) -> str:
    """The notebook, as JSON."""
    cells = [*_numbered(lesson)]
    record = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "title": lesson.title,
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def file_name(lesson: Lesson) -> str:
    """What the notebook is called."""
    return f"{lesson.slug}.ipynb"


def _numbered(lesson: Lesson) -> Iterator[dict[str, Any]]:
    """All cells; each gets an id made from its place among those of the same name."""
    seen: dict[str, int] = {}
    for name, cell in _cells(lesson):
        seen[name] = seen.get(name, 0) + 1
        yield {**cell, "id": name if seen[name] == 1 else f"{name}-{seen[name]}"}


Made = Iterator[tuple[str, dict[str, Any]]]


def _cells(lesson: Lesson) -> Made:
    yield "head", prose(_head(lesson))
    yield "setup", code(SETUP)
    number = 0
    for cell in lesson.cells:
        if cell.kind in ("prose", "image", "reveal"):
            number += 1
            yield f"text-{number}", _prose(cell, lesson)
            continue
        yield from MAKERS[cell.kind](cell, lesson)
        if cell.kind in ("experiment", "compare", "probe"):
            yield from _revealed(cell, lesson)
    yield "references", prose(_references(lesson))


def _head(lesson: Lesson) -> str:
    lines = [f"# {text(lesson.title, lesson)}", "", text(lesson.summary, lesson), "", "You will be able to:", ""]
    lines += [f"- {text(line, lesson)}" for line in lesson.objectives]
    lines += ["", "You need: " + "; ".join(text(line, lesson) for line in lesson.prerequisites) + "."]
    lines += [
        "",
        f"*Lesson {lesson.order} of Deltalab as a notebook, about {lesson.minutes} minutes. It needs a Python "
        "environment in which Deltalab is installed (`pip install -e .` in its repository), and no GPU. Run the cells "
        "from the top.*",
    ]
    return "\n".join(lines)


SETUP = "from app import lab  # the lesson's cells as functions, a few lines around Deltalab's engine"


def _references(lesson: Lesson) -> str:
    lines = ["## References", ""]
    for r in lesson.references:
        note = f" {text(r['note'], lesson)}" if r.get("note") else ""
        lines.append(f"- {r['authors']} ({r['year']}). [{r['title']}]({r['url']}).{note}")
    return "\n".join(lines)


def text(source: str, lesson: Lesson) -> str:
    """A text of the lesson as a notebook shows it: numbers filled in, the app's icons left out, its pages linked."""
    made = ICON.sub("", filled(source, lesson.folder))
    return PAGE.sub(lambda m: f"]({APP}/{m[1]})", made)


def _prose(cell: Cell, lesson: Lesson) -> dict[str, Any]:
    if cell.kind == "image":
        return _picture(cell, lesson.folder)
    if cell.kind == "reveal":
        return prose(folded("What came out", text(cell.body["text"], lesson)))
    return prose(cell.body["text"] if cell.body.get("code") else text(cell.body["text"], lesson))


def _picture(cell: Cell, folder: Path) -> dict[str, Any]:
    """A picture, inside the notebook."""
    path = folder / cell.body["file"]
    alt = cell.body["alt"].replace("[", "(").replace("]", ")")
    if path.suffix == ".svg":
        content, kind = path.read_text(encoding="utf-8").replace("currentColor", INK).encode(), "image/svg+xml"
    else:
        content, kind = path.read_bytes(), "image/png"
    made = prose(f"![{alt}](attachment:{path.name})")
    return {**made, "attachments": {path.name: {kind: base64.b64encode(content).decode()}}}


def _title(cell: Cell, lesson: Lesson, *parts: str) -> dict[str, Any]:
    """The head of an interactive cell."""
    head = f"### {cell.number} · {NAMES[cell.kind]}: {text(cell.body['title'], lesson)}"
    return prose("\n\n".join([head, *(p for p in parts if p)]))


def variable(cell_id: str) -> str:
    """A cell's name as Python has it."""
    name = re.sub(r"\W", "_", cell_id)
    if name[:1].isdigit():
        return f"_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name == "lab" else name


def _experiment(cell: Cell, lesson: Lesson) -> Made:
    body = cell.body
    yield cell.id, _title(cell, lesson, text(body.get("text", ""), lesson))
    name = variable(cell.id)
    arguments = [repr(cell.id), f"method={body['method']!r}", f"task={body['task']!r}", f"seed={body.get('seed', 0)}"]
    if body.get("settings"):
        arguments.append(f"settings={plain(body['settings'])!r}")
    yield f"{cell.id}-run", code(f"{name} = lab.train({', '.join(arguments)})\n{name}.show()")


def _compare(cell: Cell, lesson: Lesson) -> Made:
    body = cell.body
    yield cell.id, _title(cell, lesson, text(body.get("text", ""), lesson))
    name = variable(cell.id)
    lines = [f"{name} = lab.compare(", f"    {cell.id!r},", "    {"]
    for run in body["runs"]:
        own = {k: plain(run[k]) for k in ("label", "method", "seed", "settings") if k in run}
        own["label"] = text(own["label"], lesson)
        lines.append(f"        {run['name']!r}: {own!r},")
    settings = f", settings={plain(body['settings'])!r}" if body.get("settings") else ""
    lines += ["    },", f"    task={body['task']!r}, seed={body.get('seed', 0)}{settings},", ")"]
    lines.append(f"{name}.table({list(body['columns'])!r})")
    yield f"{cell.id}-run", code("\n".join(lines))
    axes = plain(body.get("figure") or {})
    drawn = ", ".join(f"{k}={v!r}" for k, v in axes.items() if k != "joined")  # a notebook's points stand by themselves
    yield f"{cell.id}-figure", code(f"{name}.figure({drawn})")
    yield from _finding(cell, lesson)


def _probe(cell: Cell, lesson: Lesson) -> Made:
    body = cell.body
    yield cell.id, _title(cell, lesson, text(body.get("text", ""), lesson))
    name = variable(cell.id)
    runs = ", ".join(_run(of) for of in body["of"])
    settings = f", {plain(body['settings'])!r}" if body.get("settings") else ""
    yield f"{cell.id}-run", code(f"{name} = lab.measure({body['probe']!r}, [{runs}]{settings})\nlab.told({name})")
    yield from _finding(cell, lesson)


def _run(of: str) -> str:
    """A run by its name in a lesson, as Python: 'sweep/r8' -> sweep["r8"]."""
    cell_id, _, name = of.partition("/")
    return f"{variable(cell_id)}[{name!r}]" if name else variable(cell_id)


def _finding(cell: Cell, lesson: Lesson) -> Made:
    if cell.body.get("finding"):
        yield f"{cell.id}-finding", prose(f"*With the lesson's own runs:* {text(cell.body['finding'], lesson)}")


def _predict(cell: Cell, lesson: Lesson) -> Made:
    body = cell.body
    unit = f" {body['unit']}" if body.get("unit") else ""
    low, high = body["low"], body["high"]
    yield cell.id, _title(cell, lesson, text(body["question"], lesson))
    start = body.get("start", (low + high) / 2 if body.get("scale") != "log" else (low * high) ** 0.5)
    start = round(start) if start >= 10 else float(f"{start:.2g}")
    yield (
        f"{cell.id}-value",
        code(f"# Your prediction, between {low:g} and {high:g}{unit}. Change the number before you go on.\n"
             f"my_{variable(cell.id)} = {start}"),
    )  # fmt: skip


def _revealed(cell: Cell, lesson: Lesson) -> Made:
    """After a run or a measurement: what was predicted of it."""
    for guess in lesson.predictions_of(cell.id):
        body = guess.body
        run = variable(cell.id) + (f"[{body['run']!r}]" if body.get("run") else "")
        unit = f", unit={body['unit']!r}" if body.get("unit") else ""
        call = f"lab.reveal(my_{variable(guess.id)}, {run}, {body['what']!r}, tolerance={body['tolerance']:g}{unit})"
        yield f"{guess.id}-reveal", code(call)
        yield f"{guess.id}-why", prose(folded("Why", text(body["why"], lesson)))


def _quiz(cell: Cell, lesson: Lesson) -> Made:
    body = cell.body
    kind = body.get("kind", "single")
    lines = [text(body["question"], lesson), ""]
    if kind in ("single", "multiple"):
        choices = [body["choices"][i] for i in answers.dealt(len(body["choices"]), cell.id)]
        lettered = list(zip("abcdefghijklmnop", choices, strict=False))
        lines += [f"- ({letter}) {text(c['text'], lesson)}" for letter, c in lettered]
        told = [
            f"({letter}) **{'Right' if c.get('right') else 'Wrong'}.** {text(c['why'], lesson)}"
            for letter, c in lettered
        ]
    elif kind == "ordering":
        order = [body["items"][i] for i in answers.shuffled(len(body["items"]), cell.id)]
        lines += ["Bring these into the right order:", ""]
        lines += [f"- {text(item, lesson)}" for item in order]
        told = ["\n".join(f"{i}. {text(item, lesson)}" for i, item in enumerate(body["items"], 1))]
        told.append(text(body.get("why", ""), lesson))
    else:
        value = answers.answer_value(body["answer"], lesson.folder)
        told = [f"**{calc.grouped(value) if float(value).is_integer() else calc.plain(value)} {body.get('unit', '')}**"]
        told.append(text(body.get("why", ""), lesson))
    yield cell.id, _title(cell, lesson, "\n".join(lines))
    yield f"{cell.id}-answer", prose(folded("Answer", "\n\n".join(t for t in told if t)))


def _widget(cell: Cell, lesson: Lesson) -> Made:
    said = text(cell.body.get("text", ""), lesson)
    yield cell.id, _title(cell, lesson, said, f"*This one is in the app: [{APP}]({APP}/{lesson.url_path}#{cell.id}).*")


def _source(cell: Cell, lesson: Lesson) -> Made:
    body = cell.body
    equation = f"$$\n{body['equation'].strip()}\n$$" if body.get("equation") else ""
    paper = ""
    if body.get("paper"):
        section = f", {body['paper']['section']}" if body["paper"].get("section") else ""
        paper = f"[{body['paper']['title']}]({body['paper']['url']}){section}"
    yield cell.id, _title(cell, lesson, text(body.get("text", ""), lesson), equation, paper)
    yield f"{cell.id}-code", code(f"from app.sources import source\n\nprint(source({body['object']!r}).text)")


def _code(cell: Cell, lesson: Lesson) -> Made:
    yield cell.id, _title(cell, lesson, text(cell.body.get("text", ""), lesson))
    yield f"{cell.id}-code", code(cell.body["code"])


def _exercise(cell: Cell, lesson: Lesson) -> Made:
    body = cell.body
    yield cell.id, _title(cell, lesson, text(body["text"], lesson))
    name = body.get("check", cell.id.replace("-", "_"))
    call = f"lab.check(lab.lesson_folder({lesson.slug!r}) / 'checks.py', {name!r}, globals())"
    # A stub may stop with an error; the rest of the notebook is to run all the same.
    yield f"{cell.id}-stub", code(body["stub"], tags=("raises-exception",))
    yield f"{cell.id}-check", code(f"{call};")
    hints = "\n".join(f"{i}. {text(hint, lesson)}" for i, hint in enumerate(body["hints"], 1))
    yield f"{cell.id}-hints", prose(folded("Hints", hints))
    yield (
        f"{cell.id}-solution",
        code(f"# One solution.\n{body['solution']}", tags=("solution", "hide-input"), folded=True),
    )
    yield f"{cell.id}-right", code(f"{call};", tags=("solution",))
    if body.get("cost"):
        yield f"{cell.id}-cost", prose(text(body["cost"], lesson))


MAKERS: dict[str, Callable[[Cell, Lesson], Made]] = {
    "experiment": _experiment, "compare": _compare, "probe": _probe, "predict": _predict, "quiz": _quiz,
    "widget": _widget, "source": _source, "code": _code, "exercise": _exercise,
}  # fmt: skip


def plain(value: Any) -> Any:
    """A value of a lesson's YAML as Python writes it: plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def folded(title: str, inside: str) -> str:
    """Markdown that is opened with a click. (The empty lines make it Markdown within HTML.)"""
    return f"<details><summary>{html.escape(title)}</summary>\n\n{inside}\n\n</details>"


def prose(source: str) -> dict[str, Any]:
    """A cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(source)}


def code(source: str, *, tags: Sequence[str] = (), folded: bool = False) -> dict[str, Any]:
    """A cell of code. folded: its source is hidden until it is asked for."""
    metadata: dict[str, Any] = {"tags": list(tags)} if tags else {}
    if folded:
        metadata["jupyter"] = {"source_hidden": True}
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": metadata,
        "outputs": [],
        "source": _lines(source.rstrip("\n")),
    }


def _lines(source: str) -> list[str]:
    return source.splitlines(keepends=True)
