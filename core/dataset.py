"""People's own data: reading JSONL, JSON and CSV, a report before training, and the held-out split.

A row is a question and its answer (`prompt` and `completion`, or one of many usual pairs of names) or a conversation
(`messages`, each with role and content). A text and its label make a question and an answer too; what an encoder learns
from them is in core/labelled.py. Which columns were taken is always said. A file that cannot be used is refused with
one sentence that names the line; nothing is guessed, dropped or repaired in silence.

Reading and reporting need tokenizers at most, never torch. Limits: `MOST_BYTES`, `MOST_ROWS`, `LONGEST_ROW`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from core.errors import BadInput
from core.template import Dialogue, Message, encode, encode_all, template_of, token_view
from core.units import MIB, bytes_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_BYTES = 100 * MIB
MOST_ROWS = 100_000
LONGEST_ROW = 1_000_000  # characters
FEW_ROWS = 20  # below this a person is told that little can be learnt
FEW_HELD_OUT = 10  # below this a person is told that the score is coarse
# A quick report counts the tokens of so many rows at most, of so many characters together: a second or two.
QUICK_ROWS, QUICK_CHARACTERS = 5_000, 2_000_000

# Names of the columns that are understood, best known first; letters' case does not matter.
PROMPTS = ("prompt", "instruction", "question", "input", "query", "source", "problem")
COMPLETIONS = ("completion", "response", "answer", "output", "target", "reply", "solution")
# Texts to be labelled, and what stands beside one in a pair (as in GLUE); together they are question and answer.
TEXTS = ("text", "sentence", "sentence1", "premise", "question1", "review")
PAIRS = ("text_pair", "sentence2", "hypothesis", "question2")
LABELS = ("label", "labels", "class", "category")
EXTRAS = ("input", "context")  # put behind the instruction or question, as in Alpaca and SQuAD
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
# Names of roles and of their fields in other people's formats (ShareGPT and its relatives).
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatbot": "assistant",
}  # fmt: skip
ROLE_FIELDS, CONTENT_FIELDS = ("role", "from", "speaker"), ("content", "value", "text")

EXAMPLE = 'A row looks like {"prompt": "…", "completion": "…"} or {"messages": [{"role": "user", "content": "…"}, …]}.'


@dataclass(frozen=True)
class Dataset:
    """A file that was read.

    name: of the file. format: 'jsonl', 'json' or 'csv'. dialogues: one per row, in the file's order.
    lines: the line each row starts at, counted from 1. columns: names found in the file.
    taken: which columns became what, as a sentence.
    """

    name: str
    format: str
    dialogues: tuple[Dialogue, ...]
    lines: tuple[int, ...]
    columns: tuple[str, ...]
    taken: str

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.dialogues)


@dataclass(frozen=True)
class Lengths:
    """Tokens a row: extremes, middle, 95th percentile, sum, and a histogram as (from, below, rows)."""

    shortest: int
    median: float
    mean: float
    p95: int
    longest: int
    total: int
    histogram: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Leak:
    """A held-out row whose question also stands, but for punctuation, in a training row. Both are line numbers."""

    held_out: int
    train: int
    why: str


@dataclass(frozen=True)
class Report:
    """What a person should know about their data before training. Rows are named by their line in the file.

    lengths, answer_lengths: in tokens, of whole rows and of what the loss counts. too_long: rows over `max_length`,
    which training leaves out. These three are of the first `counted` rows: all of them, unless the report was to be
    quick. duplicates: (first, other) rows with the same question and answer. contradictions:
    (first, other) rows with the same question and another answer. empty_prompts, empty_answers: rows without text.
    special: rows whose text spells a special token of the tokenizer. together: rows that share their question with
    another one but for case and spaces; the split keeps them on one side. leakage: see `Leak`.
    train, held_out: rows on each side. warnings: sentences. template: which chat template is used.
    """

    # What is odd about some rows, as fields.
    ODD: ClassVar[tuple[str, ...]] = (
        "too_long", "duplicates", "contradictions", "empty_prompts", "empty_answers", "special", "leakage",
    )  # fmt: skip

    name: str
    format: str
    rows: int
    columns: tuple[str, ...]
    taken: str
    template: str
    max_length: int
    lengths: Lengths
    answer_lengths: Lengths
    too_long: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]
    contradictions: tuple[tuple[int, int], ...]
    empty_prompts: tuple[int, ...]
    empty_answers: tuple[int, ...]
    special: tuple[int, ...]
    together: int
    leakage: tuple[Leak, ...]
    train: int
    held_out: int
    conversations: int
    turns: int
    counted: int
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_file(path: str | Path, *, name: str | None = None) -> Dataset:
    """Read a data file.

    Args:
        path: a .jsonl, .json or .csv file in UTF-8; the content decides where the ending does not.
        name: how to call it in sentences; the file's own name if None.

    Raises:
        BadInput: it is missing, too large, not text, malformed, or its rows cannot be understood; with the line number.
    """
    name = name or Path(path).name
    return read_bytes(content_of(path, name), name=name)


def content_of(path: str | Path, name: str) -> bytes:
    """What is in a file, called `name` in sentences.

    Raises:
        BadInput: it is missing, a folder, too large, or not readable.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise BadInput(f"{name} is a folder, not a file.", "Name a JSONL, JSON or CSV file.")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BadInput(
                f"{name} has {bytes_text(size)}; at most {bytes_text(MOST_BYTES)} are read.", "Take a part of it."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}.", "Check the path.") from None
    except OSError as why:
        raise BadInput(f"{name} cannot be read: {why.strerror or why}.", "Check the path and its permissions.") from why


def read_bytes(data: bytes, *, name: str) -> Dataset:
    """As `read_file`, from content that is in memory already; `name` helps to tell the format by its ending."""
    kind, rows, columns = read_rows(data, name=name)
    taken, dialogues = _dialogues(rows, columns, name)
    return Dataset(name, kind, tuple(dialogues), tuple(line for line, _ in rows), tuple(columns), taken)


def read_rows(data: bytes, *, name: str) -> tuple[str, Rows, list[str]]:
    """The rows of a file, whatever they hold: its format, (line, fields) of each row, and the columns' names.

    Raises:
        BadInput: too large, not text, malformed, or without rows; with the line number.
    """
    if len(data) > MOST_BYTES:
        raise BadInput(
            f"{name} has {bytes_text(len(data))}; at most {bytes_text(MOST_BYTES)} are read.", "Take a part of it."
        )
    text = _decode(data, name)
    if not text.strip():
        raise BadInput(f"{name} is empty.", EXAMPLE)
    first = text.lstrip()[0]
    ending = Path(name).suffix.lower()
    if ending in (".csv", ".tsv") or (first not in "[{" and ending not in (".json", ".jsonl", ".ndjson")):
        kind, rows, columns = "csv", *_csv_rows(text, name, tabs=ending == ".tsv")
    elif first == "[":
        kind, rows, columns = "json", *_json_rows(text, name)
    elif ending == ".json" and _wraps_a_list(text) is not None:
        raise BadInput(
            f"{name} holds one object whose rows stand under {_wraps_a_list(text)!r}.",
            "Save the list alone, or one row a line.",
        )
    else:
        kind, rows, columns = "jsonl", *_jsonl_rows(text, name)
    if not rows:
        raise BadInput(f"{name} has no rows.", EXAMPLE)
    return kind, rows, columns


def _decode(data: bytes, name: str) -> str:
    """The text of a UTF-8 file, without a byte order mark and with plain line breaks.

    Raises:
        BadInput: another encoding, or NUL bytes.
    """
    advice = "Save it as UTF-8 (in a spreadsheet: 'CSV UTF-8'), and try again."
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(f"{name} is encoded in UTF-16.", advice)
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"%PDF", b"\x28\xb5\x2f\xfd")):
        raise BadInput(f"{name} is a compressed or binary file, not text.", "Unpack it, or export it as JSONL or CSV.")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise BadInput(f"Line {line} of {name} has a NUL byte: the file is damaged, or not text in UTF-8.", advice)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as why:
        line = data.count(b"\n", 0, why.start) + 1
        raise BadInput(f"Line {line} of {name} is not valid UTF-8 (byte 0x{data[why.start]:02x}).", advice) from why
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _wraps_a_list(text: str) -> str | None:
    """The key of the list, if the text is one JSON object that holds a list of objects; else None."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or any(c in content for c in CONVERSATIONS):
        return None
    return next((k for k, v in content.items() if isinstance(v, list) and v and isinstance(v[0], dict)), None)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise BadInput(f"the key {twice!r} stands twice in one object")
    return out


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_SPACE = re.compile(r"[ \t\n]*")


def _parse(text: str, start: int, line: int, name: str) -> tuple[Any, int]:
    """One JSON value of `text` from `start` on, and where it ends; `line` is that of `start`.

    Raises:
        BadInput: with the line of the mistake.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as why:
        at = line + text.count("\n", start, why.pos)
        hint = "Strings need double quotes, and every row its own closing brace."
        if why.msg.startswith("Invalid control character"):
            hint = "A line break inside a text must be written as \\n."
        elif "property name" in why.msg and text[why.pos : why.pos + 1] == "'":
            hint = "JSON wants double quotes, not single ones."
        raise BadInput(f"Line {at} of {name} is not valid JSON: {why.msg}.", hint) from why
    except BadInput as why:
        raise BadInput(f"Line {line} of {name}: {why.sentence}.", "Keep one of the two.") from why
    except RecursionError:
        raise BadInput(f"Line {line} of {name} is nested too deeply.", EXAMPLE) from None
    except ValueError as why:  # a number with thousands of digits
        raise BadInput(f"Line {line} of {name} is not valid JSON: {why}.", EXAMPLE) from why
    if end - start > LONGEST_ROW:
        raise BadInput(
            f"Line {line} of {name} has {end - start:,} characters; a row may have {LONGEST_ROW:,}.", "Shorten it."
        )
    return value, end


Rows = list[tuple[int, dict[str, Any]]]  # (line, row)


def _checked(value: Any, line: int, name: str, rows: Rows) -> None:
    if not isinstance(value, dict):
        raise BadInput(f"Line {line} of {name} holds {kind_of(value)}, not an object with named fields.", EXAMPLE)
    rows.append((line, value))
    if len(rows) > MOST_ROWS:
        raise BadInput(f"{name} has more than {MOST_ROWS:,} rows.", "Take a part of it.")


def _jsonl_rows(text: str, name: str) -> tuple[Rows, list[str]]:
    rows: Rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > LONGEST_ROW:
            raise BadInput(
                f"Line {number} of {name} has {len(line):,} characters; a row may have {LONGEST_ROW:,}.", "Shorten it."
            )
        if line.strip() in ("{", "[") or (line.rstrip().endswith(",") and _is_json(line.rstrip()[:-1])):
            raise BadInput(
                f"Line {number} of {name} is a part of a larger JSON value.",
                "In JSONL each line is one whole object with no comma behind it; or save the rows as one JSON list.",
            )
        start = len(line) - len(line.lstrip())
        value, end = _parse(line, start, number, name)
        if line[end:].strip():
            raise BadInput(
                f"Line {number} of {name} goes on behind its JSON value: {line[end:].strip()[:20]!r}.",
                "Put every row on a line of its own.",
            )
        _checked(value, number, name, rows)
    return rows, _columns(rows)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_rows(text: str, name: str) -> tuple[Rows, list[str]]:
    """The elements of a JSON list, each with its line."""
    rows: Rows = []
    place = text.index("[") + 1
    line = text.count("\n", 0, place) + 1
    counted = place

    def skip(place: int) -> int:
        nonlocal line, counted
        match = _SPACE.match(text, place)
        assert match is not None
        line += text.count("\n", counted, match.end())
        counted = match.end()
        return counted

    place = skip(place)
    while text[place : place + 1] != "]":
        value, place = _parse(text, place, line, name)
        _checked(value, line, name, rows)
        place = skip(place)
        mark = text[place : place + 1]
        if mark == ",":
            place = skip(place + 1)
        elif mark != "]":
            what = f"{mark!r} stands there" if mark else "the file ends there"
            raise BadInput(f"Line {line} of {name}: a comma or ] is missing ({what}).", "Close the list of rows.")
    place = skip(place + 1)
    if place < len(text):
        raise BadInput(f"Line {line} of {name}: there is more behind the end of the list.", "Put all rows into it.")
    return rows, _columns(rows)


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for _, row in rows for key in row))


def _csv_rows(text: str, name: str, *, tabs: bool) -> tuple[Rows, list[str]]:
    head = re.sub(r'"[^"]*"', "", text.split("\n", 1)[0])
    delimiter = "\t" if tabs else max(",;\t|", key=head.count)
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows: Rows = []
    header: list[str] | None = None
    started = 1
    while True:
        started = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as why:
            if "larger than field limit" in str(why):
                raise BadInput(
                    f"Line {started} of {name} has more than {LONGEST_ROW:,} characters in one cell.",
                    "Shorten it, or close a quotation mark that is open.",
                ) from why
            raise BadInput(
                f"Line {started} of {name} has a quotation mark that is not closed, or text behind one that is "
                f"({why}).",
                'Put texts with commas, quotes or line breaks into "…", and double the quotes inside.',
            ) from why
        if not any(cell.strip() for cell in cells):
            continue
        if sum(map(len, cells)) > LONGEST_ROW:
            raise BadInput(f"Line {started} of {name} has more than {LONGEST_ROW:,} characters.", "Shorten it.")
        if header is None:
            header = _csv_header(cells, started, name)
            continue
        if len(cells) != len(header):
            raise BadInput(
                f"Line {started} of {name} has {len(cells)} cells, but the header has {len(header)} columns.",
                'Put texts with commas into "…".',
            )
        _checked({key: cell for key, cell in zip(header, cells, strict=True) if key}, started, name, rows)
    return rows, [key for key in header or [] if key]


def _csv_header(cells: list[str], line: int, name: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    known = [h for h in header if h]
    twice = [h for h, n in Counter(h.lower() for h in known).items() if n > 1]
    if twice:
        raise BadInput(f"Line {line} of {name}: the column {twice[0]!r} stands twice.", "Name every column once.")
    if not {h.lower() for h in known} & {*PROMPTS, *COMPLETIONS, *CONVERSATIONS, *TEXTS, *LABELS}:
        raise BadInput(
            f"Line {line} of {name} must name the columns, and none of these is known: {listed(known)}.",
            "The first line of a CSV file is its header, such as prompt,completion or text,label.",
        )
    return header


def listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(n[:30]) for n in names[:6])
    return shown + (", …" if len(names) > 6 else "") if names else "none"


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


# --- from rows to dialogues -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Which keys of a row become what; found on the first row and held to on all others."""

    conversation: str | None = None
    prompt: str = ""
    extra: str | None = None
    completion: str = ""
    system: str | None = None

    def needed(self) -> list[str]:
        return [self.conversation] if self.conversation else [self.prompt, self.completion]


def _plan(row: dict[str, Any], columns: Sequence[str], line: int, name: str) -> tuple[_Plan, str]:
    """The plan for a file, from its first row, and the sentence that tells it.

    Raises:
        BadInput: no known names; preference pairs; plain texts.
    """
    by_name = {key.strip().lower(): key for key in row}
    all_names = {key.strip().lower(): key for key in columns}

    def find(names: Sequence[str]) -> str | None:
        return next((by_name[n] for n in names if n in by_name), None)

    talk = find(CONVERSATIONS)
    prompt, completion = find(PROMPTS), find(COMPLETIONS)
    labelled = find(TEXTS), find(LABELS)
    if (prompt is None or completion is None) and None not in labelled:
        prompt, completion = labelled
    system = all_names.get("system")
    if talk is not None and (prompt is None or completion is None):
        plan = _Plan(conversation=talk, system=system)
        used = [k for k in (talk, system) if k]
        text = f"{talk!r} is read as a conversation" + (f", {system!r} as its system text" if system else "")
    elif prompt is not None and completion is not None:
        extra = None
        if prompt.strip().lower() in ("instruction", "question", "prompt"):
            extra = next((all_names[n] for n in EXTRAS if n in all_names), None)
        if (prompt, completion) == labelled:
            extra = next((all_names[n] for n in PAIRS if n in all_names), None)
        plan = _Plan(prompt=prompt, extra=extra, completion=completion, system=system)
        used = [k for k in (prompt, extra, completion, system) if k]
        text = f"{prompt!r} is read as the question" + (f" (with {extra!r} behind it)" if extra else "")
        text += f" and {completion!r} as the answer" + (f", {system!r} as the system text" if system else "")
    else:
        raise BadInput(_no_plan(by_name, prompt, completion, line, name), EXAMPLE)
    ignored = [c for c in columns if c not in used]
    return plan, text + (f"; ignored: {listed(ignored)}." if ignored else ".")


def _no_plan(by_name: dict[str, str], prompt: str | None, completion: str | None, line: int, name: str) -> str:
    start = f"Line {line} of {name}"
    if {"chosen", "rejected"} <= set(by_name):
        return f"{start} holds a preference pair (chosen, rejected), which is for another kind of training."
    if set(by_name) & {*TEXTS, "content"} and prompt is None and completion is None:
        return f"{start} holds a plain text: without a question and an answer nothing says what should be learnt."
    if prompt is not None:
        return f"{start} has a question ({prompt!r}) but no answer; its fields are {listed(list(by_name.values()))}."
    if completion is not None:
        return (
            f"{start} has an answer ({completion!r}) but no question; its fields are {listed(list(by_name.values()))}."
        )
    return (
        f"{start} has neither a question and an answer nor messages; its fields are {listed(list(by_name.values()))}."
    )


def _dialogues(rows: Rows, columns: Sequence[str], name: str) -> tuple[str, list[Dialogue]]:
    plan, taken = _plan(rows[0][1], columns, rows[0][0], name)
    out = []
    for line, row in rows:
        where = f"Line {line} of {name}"
        missing = [key for key in plan.needed() if key not in row]
        if missing:
            other = _other_format(row, plan)
            raise BadInput(
                f"{where} has no {missing[0]!r}" + (f": {other}." if other else f"; its fields are {listed([*row])}."),
                f"The first row has it (line {rows[0][0]}), so every row needs it.",
            )
        messages = []
        if plan.system is not None and row.get(plan.system) not in (None, ""):
            messages.append(Message("system", _text(row, plan.system, where)))
        if plan.conversation is not None:
            turns = _conversation(row[plan.conversation], where, plan.conversation)
            if messages and turns and turns[0].role == "system":
                column, own = messages.pop(), turns.pop(0)
                if column.content.strip() not in ("", own.content.strip()) and own.content.strip():
                    raise BadInput(
                        f"{where} has two system texts that differ: the field {plan.system!r} and the first message of "
                        f"{plan.conversation!r}.",
                        "Keep one of them, or join them into one.",
                    )
                messages.append(own if own.content.strip() else column)
            messages += turns
        else:
            prompt = _text(row, plan.prompt, where)
            answer = row[plan.completion]
            if plan.completion.strip().lower() in LABELS and isinstance(answer, int):
                row = row | {plan.completion: label_text(answer)}
            if plan.extra is not None and row.get(plan.extra) not in (None, ""):
                prompt = f"{prompt}\n\n{_text(row, plan.extra, where)}"
            messages += [Message("user", prompt), Message("assistant", _text(row, plan.completion, where))]
        _check_order(messages, where)
        out.append(Dialogue(tuple(messages)))
    return taken, out


def _other_format(row: dict[str, Any], plan: _Plan) -> str:
    names = {key.strip().lower() for key in row}
    if plan.conversation and names & set(PROMPTS) and names & set(COMPLETIONS):
        return "it is a question and answer, and the rows before it are conversations"
    if not plan.conversation and names & set(CONVERSATIONS):
        return "it is a conversation, and the rows before it are questions and answers"
    return ""


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        shown = "" if value is None else f" ({json.dumps(value, ensure_ascii=False)[:40]})"
        advice = "Write it in quotes." if isinstance(value, (int, float)) else "Give it a text."
        raise BadInput(f"{where}: {key!r} is {kind_of(value)}{shown}, not a text.", advice)
    return valid_text(value, where, key)


def label_text(value: str | int) -> str:
    """A label as text: 1 and "1" are the same label, true is 'true'."""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def valid_text(text: str, where: str, key: str) -> str:
    """`text`, unless it cannot be written as UTF-8 (half of a surrogate pair, from a broken escape)."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as why:
            broken = f"\\u{ord(text[why.start]):04x}"
            raise BadInput(
                f"{where}: {key!r} holds half a character ({broken}).", "Write the character itself."
            ) from why
    if "\0" in text:
        raise BadInput(f"{where}: {key!r} holds a NUL character.", "Remove it.")
    return text


def _conversation(value: Any, where: str, key: str) -> list[Message]:
    if isinstance(value, str):
        raise BadInput(
            f"{where}: {key!r} is a text, not a list of messages.",
            "Conversations need JSONL; a CSV file has a prompt and a completion.",
        )
    if not isinstance(value, list):
        raise BadInput(f"{where}: {key!r} is {kind_of(value)}, not a list of messages.", EXAMPLE)
    out = []
    for number, turn in enumerate(value, 1):
        at = f"{where}, message {number}"
        if not isinstance(turn, dict):
            raise BadInput(f"{at} is {kind_of(turn)}, not an object with role and content.", EXAMPLE)
        role_key = next((k for k in ROLE_FIELDS if k in turn), None)
        content_key = next((k for k in CONTENT_FIELDS if k in turn), None)
        if role_key is None or content_key is None:
            raise BadInput(f"{at} has no {'role' if role_key is None else 'content'}.", EXAMPLE)
        role = turn[role_key]
        if not isinstance(role, str) or role.strip().lower() not in ROLES:
            raise BadInput(
                f"{at} has the role {role!r}, which is none of system, user and assistant.",
                "Leave out rows that use tools or other roles.",
            )
        content = turn[content_key]
        if isinstance(content, list) and content and all(_is_text_part(p) for p in content):
            content = "".join(p["text"] for p in content)
        if not isinstance(content, str):
            raise BadInput(f"{at}: its content is {kind_of(content)}, not a text.", "Only text can be trained on.")
        out.append(Message(ROLES[role.strip().lower()], valid_text(content, at, content_key)))
    return out


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _check_order(messages: list[Message], where: str) -> None:
    """A system turn at most first, then user and assistant in turn, ending with the assistant.

    Raises:
        BadInput: with what stands where it should not.
    """
    roles = [m.role for m in messages]
    if "assistant" not in roles:
        raise BadInput(f"{where} has no answer: no message of the assistant.", "End each conversation with an answer.")
    turns = roles[1:] if roles[0] == "system" else roles
    for place, role in enumerate(turns):
        expected = "user" if place % 2 == 0 else "assistant"
        if role != expected:
            number = place + 1 + len(roles) - len(turns)
            raise BadInput(
                f"{where}: its roles are out of order: message {number} is by the {role}, and the {expected} is next.",
                "After an optional system message, user and assistant take turns.",
            )
    if turns[-1] != "assistant":
        raise BadInput(f"{where} ends with a question.", "End each conversation with an answer of the assistant.")


# --- split ------------------------------------------------------------------------------------------------------------


def normal(text: str) -> str:
    """A text without what a person would not call a difference: letter case, kinds and amounts of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def question_key(dialogue: Dialogue) -> str:
    """What makes two questions the same: everything before the last answer, but for case and white space."""
    return "\n".join(f"{m.role}:{normal(m.content)}" for m in dialogue.question)


def _loose_key(dialogue: Dialogue) -> str:
    """As `question_key`, but for punctuation too."""
    return "\n".join(re.sub(r"[\W_]+", " ", normal(m.content)).strip() for m in dialogue.question)


def split_rows(dataset: Dataset, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers (from 0) for training and for scoring; see `split`."""
    return split_by([question_key(d) for d in dataset.dialogues], held_out, seed)


def split_by(keys: Sequence[str], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the rows for training and for scoring; rows of the same key stay on one side. See `split`."""
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    wanted = round(len(keys) * held_out)
    if held_out <= 0 or len(groups) < 2:
        return list(range(len(keys))), []
    wanted = max(1, min(wanted, len(keys) - 1))
    order = list(groups.values())
    random.Random(f"split {seed}").shuffle(order)
    chosen: list[int] = []
    taken = 0
    for group in order:
        if taken < len(order) - 1 and len(chosen) + len(group) <= wanted:
            chosen += group
            taken += 1
    if not chosen:  # every question stands in more rows than were asked for
        chosen = min(order, key=len)
    held = set(chosen)
    return [row for row in range(len(keys)) if row not in held], sorted(held)


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[list[Dialogue], list[Dialogue]]:
    """Training and held-out dialogues, in the file's order.

    Rows with the same question (but for case and white space) stay on one side. With fewer than two different
    questions, or held_out = 0, nothing is held out; otherwise at least one row is, and at least one is left.

    Args:
        held_out: share of the rows to hold out, 0 to 1.
        seed: which ones.
    """
    train, held = split_rows(dataset, held_out, seed)
    return [dataset.dialogues[i] for i in train], [dataset.dialogues[i] for i in held]


# --- report -----------------------------------------------------------------------------------------------------------


def lengths_of(values: Sequence[int]) -> Lengths:
    ordered = sorted(values)
    longest = ordered[-1]
    width = max(1, -(-(longest + 1) // 20))
    counts = Counter(v // width for v in ordered)
    return Lengths(
        shortest=ordered[0],
        median=float(statistics.median(ordered)),
        mean=round(statistics.fmean(ordered), 1),
        p95=ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))],
        longest=longest,
        total=sum(ordered),
        histogram=tuple((i * width, (i + 1) * width, counts.get(i, 0)) for i in range(longest // width + 1)),
    )


def _encoded(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, rows: int) -> Iterator[tuple[int, int]]:
    """(tokens, answer tokens) of each of the first `rows` rows.

    Raises:
        BadInput: the tokenizer's template refuses a row; with its line.
    """
    try:
        encoded = encode_all(tokenizer, dataset.dialogues[:rows])
    except BadInput:
        for line, dialogue in zip(dataset.lines, dataset.dialogues[:rows], strict=False):
            try:
                encode(tokenizer, dialogue)
            except BadInput as why:
                raise BadInput(f"Line {line} of {dataset.name}: {why.sentence}", why.advice) from why
        raise
    for e in encoded:
        yield len(e.ids), sum(label >= 0 for label in e.labels)


def quick_rows(characters: Sequence[int]) -> int:
    """How many rows from the first on a quick report counts the tokens of, by each row's characters; at least one."""
    total = 0
    for number, size in enumerate(characters[:QUICK_ROWS]):
        total += size
        if total > QUICK_CHARACTERS:
            return max(1, number)
    return min(len(characters), QUICK_ROWS)


def report(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    held_out: float,
    seed: int,
    quick: bool = False,
) -> Report:
    """Look at every row before training on it.

    Args:
        tokenizer: of the base to be trained.
        max_length: the limit in tokens, as in TrainConfig.
        held_out, seed: as training will split.
        quick: count the tokens of the first rows only when there are many. Tokenizing is nearly all of the work, and
            training, which does it anyway, says how many rows it leaves out.

    Raises:
        BadInput: the tokenizer's chat template refuses a row (of those whose tokens are counted), with its line.
        BaseUnavailable: the tokenizer cannot be trained with.
    """
    template = template_of(tokenizer)
    characters = [sum(len(m.content) for m in d.messages) for d in dataset.dialogues]
    counted = quick_rows(characters) if quick else dataset.rows
    sizes = list(_encoded(dataset, tokenizer, counted))
    lines, dialogues = dataset.lines, dataset.dialogues
    too_long = tuple(line for line, (n, _) in zip(lines, sizes, strict=False) if n > max_length)
    seen: dict[str, tuple[int, str]] = {}
    shared: Counter[str] = Counter()
    duplicates, contradictions = [], []
    for line, d in zip(lines, dialogues, strict=True):
        key, answer = question_key(d), normal(d.answer)
        shared[key] += 1
        if key not in seen:
            seen[key] = (line, answer)
        elif seen[key][1] == answer:
            duplicates.append((seen[key][0], line))
        else:
            contradictions.append((seen[key][0], line))
    train, held = split_rows(dataset, held_out, seed)
    special = [t for t in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()) if len(t.strip()) > 1]
    spelled = re.compile("|".join(map(re.escape, special)) or "(?!)")
    found = Report(
        name=dataset.name,
        format=dataset.format,
        rows=dataset.rows,
        columns=dataset.columns,
        taken=dataset.taken,
        template=template.sentence,
        max_length=max_length,
        lengths=lengths_of([n for n, _ in sizes]),
        answer_lengths=lengths_of([n for _, n in sizes]),
        too_long=too_long,
        duplicates=tuple(duplicates),
        contradictions=tuple(contradictions),
        empty_prompts=tuple(
            line
            for line, d in zip(lines, dialogues, strict=True)
            if not any(m.content.strip() for m in d.question if m.role == "user")
        ),
        empty_answers=tuple(
            line
            for line, d in zip(lines, dialogues, strict=True)
            if any(not m.content.strip() for m in d.messages if m.role == "assistant")
        ),
        special=tuple(
            line for line, d in zip(lines, dialogues, strict=True) if any(spelled.search(m.content) for m in d.messages)
        ),
        together=sum(n for n in shared.values() if n > 1),
        leakage=_leakage(dataset, train, held),
        train=len(train),
        held_out=len(held),
        conversations=sum(len(d.messages) > 2 for d in dialogues),
        turns=sum(m.role == "assistant" for d in dialogues for m in d.messages),
        counted=counted,
    )
    return dataclasses.replace(found, warnings=tuple(_warnings(found, held_out)))


def _leakage(dataset: Dataset, train: list[int], held: list[int]) -> tuple[Leak, ...]:
    """Held-out questions that training rows hold too: but for punctuation, or as an earlier turn."""
    loose: dict[str, int] = {}
    inner: dict[str, int] = {}
    for row in train:
        d = dataset.dialogues[row]
        loose.setdefault(_loose_key(d), row)
        for place, m in enumerate(d.messages[:-1]):
            if m.role == "assistant":
                inner.setdefault(question_key(Dialogue(d.messages[: place + 1])), row)
    out = []
    for row in held:
        d = dataset.dialogues[row]
        key = _loose_key(d)
        if key.strip() and key in loose:
            out.append(Leak(dataset.lines[row], dataset.lines[loose[key]], "the same but for punctuation"))
        elif question_key(d) in inner:
            out.append(Leak(dataset.lines[row], dataset.lines[inner[question_key(d)]], "an earlier turn there"))
    return tuple(out)


def named_rows(lines: Sequence[int], *, limit: int = 5) -> str:
    """'line 3' or 'lines 3, 7, 9 and 12 more'."""
    shown = ", ".join(str(n) for n in lines[:limit])
    more = len(lines) - limit
    return f"line{'s' if len(lines) > 1 else ''} {shown}" + (f" and {more} more" if more > 0 else "")


def told(lines: Sequence[int], one: str, many: str) -> str:
    """'1 row repeats …: line 3.' or '4 rows repeat …: lines 3, 7, 9, 12.'"""
    return f"{len(lines):,} {one if len(lines) == 1 else many}: {named_rows(lines)}."


def size_warnings(r: Any, held_out: float, what: str) -> Iterator[str]:
    """What there is to say about the number and the lengths of the rows.

    Args:
        r: a report with rows, held_out, too_long, counted, lengths and max_length.
        what: what is held out: 'questions', 'texts'.
    """
    if r.rows < FEW_ROWS:
        number = "is 1 row" if r.rows == 1 else f"are {r.rows} rows"
        yield f"There {number} only: enough to see a run work, hardly enough to learn from."
    if held_out <= 0:
        yield f"Nothing is held out, so nothing will say how good the answers to new {what} are."
    elif r.held_out == 0:
        yield f"Nothing can be held out, because there are fewer than two different {what}: there will be no score."
    elif r.held_out < FEW_HELD_OUT:
        number = "1 row is" if r.held_out == 1 else f"{r.held_out} rows are"
        yield f"Only {number} held out, so the score moves in steps of {100 / r.held_out:.0f} %."
    if len(r.too_long) == r.counted:
        which = "Every row" if r.counted == r.rows else f"Each of the first {r.counted:,} rows"
        yield f"{which} is longer than {r.max_length} tokens: raise max_length (the longest has {r.lengths.longest})."
    elif r.too_long:
        of = "" if r.counted == r.rows else f"of the first {r.counted:,} "
        limit = f"longer than {r.max_length} tokens and will be left out"
        yield told(r.too_long, f"{of}row{'s' if of else ''} is {limit}", f"{of}rows are {limit}")


def _warnings(r: Report, held_out: float) -> Iterator[str]:
    yield from size_warnings(r, held_out, "questions")
    if r.duplicates:
        yield told([b for _, b in r.duplicates], "row repeats an earlier one", "rows repeat earlier ones")
    if r.contradictions:
        rest = "another answer to a question asked before"
        yield told([b for _, b in r.contradictions], f"row gives {rest}", f"rows give {rest}")
    if r.empty_answers:
        rest = "an empty answer, which teaches the model to say nothing"
        yield told(r.empty_answers, f"row has {rest}", f"rows have {rest}")
    if r.empty_prompts:
        yield told(r.empty_prompts, "row has an empty question", "rows have an empty question")
    if r.special:
        rest = "a special token of the tokenizer, which is read as that token"
        yield told(r.special, f"row spells {rest}", f"rows spell {rest}")
    if r.leakage:
        rest = "in the training rows too, so the score will flatter"
        yield told(
            [leak.held_out for leak in r.leakage],
            f"held-out question stands {rest}",
            f"held-out questions stand {rest}",
        )


__all__ = [
    "EXAMPLE",
    "Dataset",
    "Leak",
    "Lengths",
    "Report",
    "question_key",
    "read_bytes",
    "read_file",
    "report",
    "split",
    "split_rows",
    "token_view",
]
