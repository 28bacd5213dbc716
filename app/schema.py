"""What may stand in a lesson: the front matter and the body of every kind of cell, as rules that are checked.

A rule says the type of a field, whether it must be there, and what its parts look like. `check` walks a value read from
YAML beside its rule and reports every departure with its line; what one rule cannot say (a quiz needs a right choice)
stands in the function of that kind below. A new kind of cell is one entry in `CELLS` and one file in app/cells.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core import syntax

Report = Callable[[int, str], None]


@dataclass(frozen=True)
class Rule:
    """One field. `type`: text (prose; may hold calcs), word, number, int, bool, list, map, any.

    item: the rule of each list element. fields: the rules of a map's keys; None allows any keys.
    """

    type: str = "text"
    required: bool = False
    choices: tuple[str, ...] = ()
    item: Rule | None = None
    fields: dict[str, Rule] | None = None
    least: int = 0


class Lined(dict):
    """A YAML mapping that remembers the line of each key (and its own, under the key None in `lines`)."""

    lines: dict[Any, int]


class _Loader(yaml.SafeLoader):
    """SafeLoader whose mappings are `Lined` and whose duplicate keys are errors (YAML itself keeps the last)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Any:
    out = Lined()
    out.lines = {None: node.start_mark.line + 1}
    yield out
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not a text", key_node.start_mark)
        if key in out:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands there twice", key_node.start_mark)
        out[key] = loader.construct_object(value_node, deep=True)
        out.lines[key] = key_node.start_mark.line + 1


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_yaml(text: str, first_line: int, report: Report) -> Lined | None:
    """The mapping written in `text`, whose first line is line `first_line` of the file; None after a report."""
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = first_line + mark.line if mark else first_line
        report(line, f"The YAML cannot be read: {getattr(error, 'problem', None) or error}.")
        return None
    if found is None:
        found = Lined()
        found.lines = {None: 1}
    if not isinstance(found, Lined):
        report(first_line, "The body must be `name: value` lines.")
        return None
    _shift(found, first_line - 1)
    return found


def _shift(value: Any, by: int) -> None:
    if isinstance(value, Lined):
        value.lines = {k: line + by for k, line in value.lines.items()}
        for part in value.values():
            _shift(part, by)
    elif isinstance(value, list):
        for part in value:
            _shift(part, by)


def check(value: Any, rule: Rule, name: str, line: int, report: Report) -> None:
    """Report every place where `value` departs from `rule`; `name` is how the field is called in messages."""
    if rule.type in ("text", "word"):
        if not isinstance(value, str) or not value.strip():
            report(line, f"{name} must be a text.")
        elif rule.type == "word" and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
            report(line, f"{name} must be one word of letters, digits, '-', '_' and '.', not {value!r}.")
        elif rule.choices and value not in rule.choices:
            report(line, f"{name} must be one of {', '.join(rule.choices)}, not {value!r}.")
    elif rule.type == "number":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            report(line, f"{name} must be a number.")
    elif rule.type == "int":
        if isinstance(value, bool) or not isinstance(value, int):
            report(line, f"{name} must be a whole number.")
    elif rule.type == "bool":
        if not isinstance(value, bool):
            report(line, f"{name} must be true or false.")
    elif rule.type == "list":
        if not isinstance(value, list):
            report(line, f"{name} must be a list.")
            return
        if len(value) < rule.least:
            report(line, f"{name} needs at least {rule.least} entries, not {len(value)}.")
        for i, part in enumerate(value, 1):
            at = part.lines[None] if isinstance(part, Lined) else line
            if rule.item is not None:
                check(part, rule.item, f"{name}, entry {i},", at, report)
    elif rule.type == "map":
        if not isinstance(value, Lined):
            report(line, f"{name} must be `name: value` lines.")
            return
        if rule.fields is not None:
            _check_fields(value, rule.fields, name, report)


def _check_fields(value: Lined, fields: dict[str, Rule], name: str, report: Report) -> None:
    for key in value:
        if key not in fields:
            report(value.lines[key], f"{name} has no field {key!r}; it has {', '.join(fields)}.")
    for key, rule in fields.items():
        if key not in value:
            if rule.required:
                report(value.lines[None], f"{name} lacks {key!r}.")
        else:
            check(value[key], rule, f"{name}: {key}", value.lines[key], report)


TEXT = Rule("text", required=True)
LINES = Rule("list", item=Rule("text"), required=True, least=1)
REFERENCE = Rule(
    "map",
    fields={"title": TEXT, "authors": TEXT, "year": Rule("int", required=True), "url": TEXT, "note": Rule("text")},
)
FRONT = Rule(
    "map",
    fields={
        "title": TEXT,
        "navigation": Rule("text"),
        "summary": TEXT,
        "minutes": Rule("int", required=True),
        "objectives": LINES,
        "prerequisites": LINES,
        "references": Rule("list", item=REFERENCE, required=True, least=1),
        "summary_points": Rule("list", item=Rule("text")),
    },
)
SUMMARY_POINTS = (5, 8)
"""How many lines the printed summary of a lesson has."""
CODE_FIELDS = ("code", "stub", "solution", "equation", "expect")
"""Fields whose text is not prose: calcs and terms in them are left alone."""

# A choice may leave out `why` only in the eyes of this table; `quiz` below asks for it with a message of its own.
CHOICE = Rule("map", fields={"text": TEXT, "right": Rule("bool"), "why": Rule("text")})
MISTAKE = Rule("map", fields={"answer": Rule("any"), "order": Rule("list", item=Rule("int")), "why": TEXT})

WIDGET_FILES = Path(__file__).parent / "widgets"


def _widgets() -> dict[str, dict[str, Rule]]:
    """NAME and OPTIONS of every file in app/widgets, read from its text: importing one would bring streamlit in."""
    found: dict[str, dict[str, Rule]] = {}
    for path in sorted(WIDGET_FILES.glob("*.py")):
        if path.stem == "__init__":
            continue
        given = {}
        for node in syntax.tree(path.read_text(encoding="utf-8")).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(target, ast.Name):
                given[target.id] = node.value
        if "NAME" not in given or "OPTIONS" not in given:
            raise ValueError(f"app/widgets/{path.name} lacks NAME or OPTIONS.")
        name, options = _written(given["NAME"], path), _written(given["OPTIONS"], path)
        if name.replace("-", "_") != path.stem:
            raise ValueError(f"The widget {name} belongs into {name.replace('-', '_')}.py, not {path.name}.")
        found[name] = options
    return found


def _written(node: ast.AST | None, path: Path) -> Any:
    """The value of a literal that may hold calls of Rule."""
    if isinstance(node, ast.Dict):
        return {_written(k, path): _written(v, path) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Rule", "schema.Rule"):
        named = {k.arg: _written(k.value, path) for k in node.keywords if k.arg}
        return Rule(*(_written(a, path) for a in node.args), **named)
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise ValueError(f"app/widgets/{path.name}: NAME and OPTIONS must be written out.") from None


WIDGETS: dict[str, dict[str, Rule]] = _widgets()


def quiz(body: Lined, line: int, report: Report) -> None:
    """A quiz has a right answer, and an explanation for every wrong one."""
    kind = body.get("kind", "single")
    own = QUIZ_FIELDS.get(kind, QUIZ_FIELDS["single"])
    for field in sorted(set().union(*QUIZ_FIELDS.values()) - own):
        if field in body:
            kinds = " or ".join(k for k, fields in QUIZ_FIELDS.items() if field in fields)
            report(body.lines[field], f"{field} belongs to a quiz of kind {kinds}.")
    if kind in ("numeric", "ordering"):
        if not body.get("why"):
            report(line, "The quiz has no explanation (why) of its answer.")
        if not body.get("otherwise"):
            wrong = "numbers" if kind == "numeric" else "orders"
            report(line, f"The quiz has no explanation (otherwise) for wrong {wrong}.")
        (_numeric if kind == "numeric" else _ordering)(body, line, report)
        return
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        report(line, "The quiz needs at least two choices.")
        return
    rows = [c for c in choices if isinstance(c, Lined)]
    for number, choice in enumerate(rows, 1):
        if not choice.get("why"):
            report(choice.lines[None], f"Choice {number} of the quiz has no explanation (why).")
    right = sum(c.get("right") is True for c in rows)
    if kind == "single" and right != 1:
        report(line, f"A single-choice quiz has exactly one right choice, not {right}.")
    if kind == "multiple" and right == 0:
        report(line, "A multiple-choice quiz needs at least one right choice.")


QUIZ_FIELDS = {
    "single": {"choices"},
    "multiple": {"choices"},
    "numeric": {"answer", "tolerance", "unit", "mistakes", "otherwise"},
    "ordering": {"items", "mistakes", "otherwise"},
}
"""The fields that a kind of quiz has beside title, question, kind and why."""


def _mistakes(body: Lined) -> list[Lined]:
    found = body.get("mistakes")
    return [m for m in found if isinstance(m, Lined)] if isinstance(found, list) else []


def _numeric(body: Lined, line: int, report: Report) -> None:
    if "answer" not in body:
        report(line, "A numeric quiz needs its answer: a number or a calc function.")
    for mistake in _mistakes(body):
        if "answer" not in mistake:
            report(mistake.lines[None], "A mistake of a numeric quiz needs the answer that it is about.")
        if "order" in mistake:
            report(mistake.lines["order"], "order belongs to a quiz of kind ordering.")


def _ordering(body: Lined, line: int, report: Report) -> None:
    items = body.get("items")
    if not isinstance(items, list) or len(items) < 3:
        report(line, "An ordering quiz needs at least three items, in the right order.")
        return
    if len({str(i).strip() for i in items}) < len(items):
        report(body.lines["items"], "Two items of the quiz are the same.")
    places = list(range(1, len(items) + 1))
    for mistake in _mistakes(body):
        order = mistake.get("order")
        if "answer" in mistake:
            report(mistake.lines["answer"], "answer belongs to a quiz of kind numeric.")
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, places)):
            report(mistake.lines[None], f"A mistake's order names each of the places 1 to {len(items)} once.")
        elif order == places:
            report(mistake.lines[None], "That is the right order, not a mistake.")


def predict(body: Lined, line: int, report: Report) -> None:
    """The scale has two ends in order; a logarithmic one starts above zero."""
    low, high = body.get("low"), body.get("high")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        if low >= high:
            report(line, "The scale's low end must be below its high end.")
        if body.get("scale") == "log" and low <= 0:
            report(line, "A logarithmic scale starts above 0.")


def reveal(body: Lined, line: int, report: Report) -> None:
    """Nothing that its rules do not say; that the predictions stand above it is `index`'s."""


def widget(body: Lined, line: int, report: Report) -> None:
    """The widget exists, and takes the options that it is given."""
    name = body.get("widget")
    if isinstance(name, str) and name in WIDGETS and isinstance(body.get("options"), Lined):
        check(body["options"], Rule("map", fields=WIDGETS[name]), name, body.lines["options"], report)


def experiment(body: Lined, line: int, report: Report) -> None:
    """The run can be configured as it is written, and its knobs exist and are at most four."""
    config = _config(body, body.get("settings") or {}, body.lines.get("settings", line), report)
    if config is not None:
        _check_knobs(body, {*vars(config.settings), *vars(config.train), "seed"}, report)
    goal = body.get("goal")
    if isinstance(goal, Lined) and not {"least", "most"} & set(goal):
        report(body.lines["goal"], "A goal says how much there must be at least or at most.")


def _config(body: Mapping[str, Any], settings: Mapping[str, Any], line: int, report: Report) -> Any:
    """The run that a body and settings describe; None after a report."""
    from core.config import RunConfig, problems, with_settings
    from core.errors import DeltalabError

    try:
        config = with_settings(RunConfig.from_dict({k: body[k] for k in ("method", "task", "seed") if k in body}), {})
        config = with_settings(config, settings)
    except DeltalabError as error:
        report(line, str(error))
        return None
    wrong = problems(config)
    for sentence in wrong:
        report(line, sentence)
    return None if wrong else config


def _check_knobs(body: Lined, known: set[str], report: Report) -> None:
    knobs = body.get("knobs") or []
    if len(knobs) > 4:
        report(body.lines["knobs"], f"At most four knobs stand in sight, not {len(knobs)}.")
    for knob in knobs:
        if knob not in known:
            report(body.lines["knobs"], f"There is no knob {knob!r}; there are {', '.join(sorted(known))}.")


def compare(body: Lined, line: int, report: Report) -> None:
    """Every run can be configured, their names differ, and all of them have the common knobs."""
    common = body.get("settings") or {}
    runs = body["runs"]
    names = [run["name"] for run in runs]
    for run in runs:
        if names.count(run["name"]) > 1:
            report(run.lines["name"], f"Another run of the comparison is called {run['name']!r} as well.")
    shared: set[str] | None = None
    for run in runs:
        whole = {**{k: body[k] for k in ("task", "seed") if k in body}, **run}
        config = _config(whole, {**common, **(run.get("settings") or {})}, run.lines[None], report)
        if config is None:
            return
        known = {*vars(config.settings), *vars(config.train), "seed"} - set(run.get("settings") or {}) - set(run)
        shared = known if shared is None else shared & known
    _check_knobs(body, shared or set(), report)


def probe(body: Lined, line: int, report: Report) -> None:
    """The measurement exists, takes so many runs, and has these settings and knobs."""
    from core.config import settings_of
    from core.errors import DeltalabError
    from core.probes import probe as find

    try:
        what = find(body["probe"])
    except DeltalabError as error:
        report(body.lines["probe"], str(error))
        return
    least, most = what.RUNS
    if not least <= len(body["of"]) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        report(body.lines["of"], f"{body['probe']} measures {wanted} runs, not {len(body['of'])}.")
    try:
        settings = settings_of(what.Config, dict(body.get("settings") or {}))
    except DeltalabError as error:
        report(body.lines["settings"], str(error))
        return
    _check_knobs(body, set(vars(settings)), report)


def source(body: Lined, line: int, report: Report) -> None:
    """The code that is shown exists."""
    from app.sources import source as find
    from core.errors import BadInput

    try:
        find(body["object"])
    except BadInput as error:
        report(body.lines["object"], str(error))


def _compiles(text: str, line: int, report: Report) -> None:
    try:
        syntax.tree(text)
    except SyntaxError as error:
        within = (error.lineno or 1) if "\n" in text else 0  # a block begins in the line after its name
        report(line + within, f"This is no Python: {error.msg}.")


def code(body: Lined, line: int, report: Report) -> None:
    """The code is Python."""
    _compiles(body["code"], body.lines["code"], report)


def exercise(body: Lined, line: int, report: Report) -> None:
    """Stub, solution and wrong answers are Python; the solution is none of the others."""
    for field in ("stub", "solution"):
        _compiles(body[field], body.lines[field], report)
    if body["stub"].strip() == body["solution"].strip():
        report(body.lines["solution"], "The stub is the solution already.")
    for wrong in body["wrong"]:
        _compiles(wrong["code"], wrong.lines["code"], report)
        if wrong["code"].strip() == body["solution"].strip():
            report(wrong.lines["code"], "That wrong answer is the solution.")


@dataclass(frozen=True)
class Kind:
    """A kind of cell: the rules of its body and what one rule cannot say."""

    fields: dict[str, Rule]
    check: Callable[[Lined, int, Report], None]


UNNUMBERED = ("reveal",)
"""Kinds that are read as prose, and so have no number on the page."""

CELLS: dict[str, Kind] = {
    "experiment": Kind(
        {
            "title": TEXT,
            "text": Rule("text"),
            "method": Rule("word", required=True),
            "task": Rule("word", required=True),
            "seed": Rule("int"),
            "settings": Rule("map"),
            "knobs": Rule("list", item=Rule("word"), required=True, least=1),
            "chat": Rule("list", item=Rule("text")),
            "chat_knobs": Rule("bool"),
            "goal": Rule(
                "map",
                fields={
                    "what": Rule("word", required=True),
                    "least": Rule("number"),
                    "most": Rule("number"),
                    "met": TEXT,
                    "missed": TEXT,
                },
            ),
        },
        experiment,
    ),
    "predict": Kind(
        {
            "title": TEXT,
            "experiment": Rule("word", required=True),
            "run": Rule("word"),
            "what": Rule("word", required=True),
            "question": TEXT,
            "scale": Rule("word", choices=("linear", "log")),
            "low": Rule("number", required=True),
            "high": Rule("number", required=True),
            "start": Rule("number"),
            "unit": Rule("text"),
            "tolerance": Rule("number", required=True),
            "why": TEXT,
        },
        predict,
    ),
    "reveal": Kind(
        {
            "after": Rule("list", item=Rule("word"), required=True, least=1),
            "text": TEXT,
        },
        reveal,
    ),
    "quiz": Kind(
        {
            "title": TEXT,
            "question": TEXT,
            "kind": Rule("word", choices=tuple(QUIZ_FIELDS)),
            "choices": Rule("list", item=CHOICE),
            "items": Rule("list", item=Rule("text")),
            "answer": Rule("any"),
            "tolerance": Rule("number"),
            "unit": Rule("text"),
            "why": Rule("text"),
            "mistakes": Rule("list", item=MISTAKE),
            "otherwise": Rule("text"),
        },
        quiz,
    ),
    "widget": Kind(
        {
            "title": TEXT,
            "widget": Rule("word", required=True, choices=tuple(WIDGETS)),
            "after": Rule("list", item=Rule("word"), least=1),
            "text": Rule("text"),
            "options": Rule("map"),
        },
        widget,
    ),
    "compare": Kind(
        {
            "title": TEXT,
            "after": Rule("list", item=Rule("word"), least=1),
            "text": Rule("text"),
            "task": Rule("word", required=True),
            "seed": Rule("int"),
            "settings": Rule("map"),
            "runs": Rule(
                "list",
                required=True,
                least=2,
                item=Rule(
                    "map",
                    fields={
                        "name": Rule("word", required=True),
                        "label": TEXT,
                        "method": Rule("word", required=True),
                        "seed": Rule("int"),
                        "settings": Rule("map"),
                    },
                ),
            ),
            "knobs": Rule("list", item=Rule("word")),
            "columns": Rule("list", item=Rule("word"), required=True, least=1),
            "figure": Rule(
                "map",
                fields={
                    "x": Rule("word", required=True),
                    "y": Rule("word", required=True),
                    "scale": Rule("word", choices=("linear", "log")),
                    "joined": Rule("bool"),
                },
            ),
            "finding": Rule("text"),
        },
        compare,
    ),
    "probe": Kind(
        {
            "title": TEXT,
            "text": Rule("text"),
            "probe": Rule("word", required=True),
            "of": Rule("list", item=Rule("text"), required=True),
            "settings": Rule("map"),
            "knobs": Rule("list", item=Rule("word")),
            "finding": Rule("text"),
        },
        probe,
    ),
    "source": Kind(
        {
            "title": TEXT,
            "text": Rule("text"),
            "object": TEXT,
            "equation": Rule("text"),
            "paper": Rule("map", fields={"title": TEXT, "section": Rule("text"), "url": TEXT}),
        },
        source,
    ),
    "code": Kind(
        {
            "title": TEXT,
            "text": Rule("text"),
            "code": TEXT,
            "expect": Rule("text"),
            "seconds": Rule("int"),
        },
        code,
    ),
    "exercise": Kind(
        {
            "title": TEXT,
            "text": TEXT,
            "stub": TEXT,
            "solution": TEXT,
            "hints": Rule("list", item=Rule("text"), required=True, least=2),
            "check": Rule("word"),
            "wrong": Rule("list", item=Rule("map", fields={"code": TEXT, "says": TEXT}), required=True, least=2),
            "cost": Rule("text"),
            "seconds": Rule("int"),
        },
        exercise,
    ),
}
