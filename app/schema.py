"""What may stand in a lesson: the front matter and the body of every kind of cell, as rules that are checked.

A rule says the type of a field, whether it must be there, and what its parts look like. `check` walks a value read from
YAML beside its rule and reports every departure with its line; what one rule cannot say (a quiz needs a right choice)
stands in the function of that kind below. A new kind of cell is one entry in `CELLS` and one file in app/cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

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
    },
)

# A choice may leave out `why` only in the eyes of this table; `quiz` below asks for it with a message of its own.
CHOICE = Rule("map", fields={"text": TEXT, "right": Rule("bool"), "why": Rule("text")})
MISTAKE = Rule("map", fields={"answer": Rule("any", required=True), "why": TEXT})

WIDGETS: dict[str, dict[str, Rule]] = {
    "lora-parameters": {"d": Rule("int"), "k": Rule("int"), "r": Rule("int")},
}


def quiz(body: Lined, line: int, report: Report) -> None:
    """A quiz has a right answer, and an explanation for every wrong one."""
    kind = body.get("kind", "single")
    if kind == "numeric":
        if "answer" not in body:
            report(line, "A numeric quiz needs its answer: a number or a calc function.")
        if "choices" in body:
            report(body.lines["choices"], "A numeric quiz has no choices.")
        if not body.get("why"):
            report(line, "The quiz has no explanation (why) of its answer.")
        if not body.get("otherwise"):
            report(line, "The quiz has no explanation (otherwise) for wrong numbers.")
        return
    for field in ("answer", "tolerance", "unit", "mistakes", "otherwise"):
        if field in body:
            report(body.lines[field], f"{field} belongs to a numeric quiz.")
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


def predict(body: Lined, line: int, report: Report) -> None:
    """The scale has two ends in order; a logarithmic one starts above zero."""
    low, high = body.get("low"), body.get("high")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        if low >= high:
            report(line, "The scale's low end must be below its high end.")
        if body.get("scale") == "log" and low <= 0:
            report(line, "A logarithmic scale starts above 0.")


def widget(body: Lined, line: int, report: Report) -> None:
    """The widget exists, and takes the options that it is given."""
    name = body.get("widget")
    if isinstance(name, str) and name in WIDGETS and isinstance(body.get("options"), Lined):
        check(body["options"], Rule("map", fields=WIDGETS[name]), name, body.lines["options"], report)


def experiment(body: Lined, line: int, report: Report) -> None:
    """The run can be configured as it is written, and its knobs exist and are at most four."""
    from core.config import RunConfig, problems, with_settings
    from core.errors import DeltalabError

    settings = body.get("settings")
    knobs = body.get("knobs")
    if isinstance(knobs, list) and len(knobs) > 4:
        report(body.lines["knobs"], f"At most four knobs stand in sight, not {len(knobs)}.")
    try:
        config = with_settings(RunConfig.from_dict({k: body[k] for k in ("method", "task", "seed") if k in body}), {})
        config = with_settings(config, settings or {})
    except DeltalabError as error:
        report(body.lines.get("settings", line), str(error))
        return
    for sentence in problems(config):
        report(line, sentence)
    known = set(vars(config.settings)) | set(vars(config.train)) | {"seed"}
    for knob in knobs if isinstance(knobs, list) else ():
        if knob not in known:
            report(body.lines["knobs"], f"There is no knob {knob!r}; there are {', '.join(sorted(known))}.")


@dataclass(frozen=True)
class Kind:
    """A kind of cell: the rules of its body and what one rule cannot say."""

    fields: dict[str, Rule]
    check: Callable[[Lined, int, Report], None]


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
        },
        experiment,
    ),
    "predict": Kind(
        {
            "title": TEXT,
            "experiment": Rule("word", required=True),
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
    "quiz": Kind(
        {
            "title": TEXT,
            "question": TEXT,
            "kind": Rule("word", choices=("single", "multiple", "numeric")),
            "choices": Rule("list", item=CHOICE),
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
            "text": Rule("text"),
            "options": Rule("map"),
        },
        widget,
    ),
}
