"""People's own files: what is read, what is refused and with which line, the report, and the split."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core import dataset as module
from core.dataset import Dataset, question_key, read_bytes, read_file, report, split, split_rows, token_view
from core.errors import BadInput
from core.template import Message
from tests.checkpoints import make_tokenizer


def lines(*rows: object) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def pair(n: int, answer: str | None = None) -> dict[str, str]:
    return {"prompt": f"Question {n}?", "completion": answer or f"Answer {n}."}


def talk(*roles: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]}


def only(data: bytes, name: str = "data.jsonl") -> tuple[Message, ...]:
    (one,) = read_bytes(data, name=name).dialogues
    return one.messages


# --- what is read -----------------------------------------------------------------------------------------------------


def test_question_and_answer_in_every_format(tmp_path):
    rows = [pair(1), pair(2, 'With "quotes", a comma,\nand a line break – ünïcode ✓')]
    csv = "prompt,completion\nQuestion 1?,Answer 1.\n"
    csv += 'Question 2?,"With ""quotes"", a comma,\nand a line break – ünïcode ✓"\n'
    files = {
        "a.jsonl": lines(*rows),
        "b.json": json.dumps(rows, indent=2).encode(),
        "c.csv": csv.encode(),
        "d.csv": b"\xef\xbb\xbf" + csv.replace("\n", "\r\n").encode(),
        "e.jsonl": b"\xef\xbb\xbf\r\n" + lines(*rows).replace(b"\n", b"\r\n\r\n") + b"\r\n",
        "f.txt": lines(*rows),
        "g.json": lines(*rows),
        "h.jsonl": json.dumps(rows).encode(),
        "i.tsv": csv.replace("prompt,completion", "prompt\tcompletion").replace("?,", "?\t").encode(),
        "j.csv": csv.replace("prompt,completion", "prompt;completion").replace("?,", "?;").encode(),
        "k": csv.encode(),
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        got = read_file(path)
        assert [[m.content for m in d.messages] for d in got.dialogues] == [[*row.values()] for row in rows], name
        assert got.rows == 2
        assert got.columns == ("prompt", "completion")
        assert got.taken == "'prompt' is read as the question and 'completion' as the answer."
    assert read_file(tmp_path / "a.jsonl").lines == (1, 2)
    assert read_file(tmp_path / "b.json").lines == (2, 6)
    assert read_file(tmp_path / "c.csv").lines == (2, 3)
    assert read_file(tmp_path / "e.jsonl").lines == (2, 4)
    assert {read_file(tmp_path / n).format for n in ("a.jsonl", "f.txt", "g.json")} == {"jsonl"}
    assert {read_file(tmp_path / n).format for n in ("b.json", "h.jsonl")} == {"json"}
    assert read_file(tmp_path / "a.jsonl", name="mine").name == "mine"


@pytest.mark.parametrize(
    ("row", "prompt", "answer", "words"),
    [
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2", "3", "with 'input' behind it"),
        ({"instruction": "Add.", "input": "", "output": "3"}, "Add.", "3", "'output' as the answer"),
        ({"instruction": "Add.", "input": None, "output": "3"}, "Add.", "3", "'instruction' is read"),
        ({"question": "Who?", "answer": "Ana"}, "Who?", "Ana", "'question' is read as the question"),
        ({"question": "Who?", "context": "Ana.", "answer": "Ana"}, "Who?\n\nAna.", "Ana", "with 'context' behind"),
        ({"input": "a", "target": "b"}, "a", "b", "'input' is read as the question"),
        ({"source": "a", "target": "b"}, "a", "b", "'source'"),
        ({"query": "a", "response": "b", "id": 7}, "a", "b", "ignored: 'id'"),
        ({"Prompt": "a", " Completion ": "b"}, "a", "b", "'Prompt' is read"),
    ],
)
def test_other_names_are_understood_and_said(row, prompt, answer, words):
    got = read_bytes(lines(row), name="x.jsonl")
    assert got.dialogues[0].messages == (Message("user", prompt), Message("assistant", answer))
    assert words in got.taken


def test_a_system_column():
    row = {"system": "Be brief.", "prompt": "a", "completion": "b"}
    assert only(lines(row))[0] == Message("system", "Be brief.")
    assert only(lines({**row, "system": ""}))[0] == Message("user", "a")
    assert [m.role for m in only(lines({"system": "Be brief.", **talk("user", "assistant")}))] == [
        "system", "user", "assistant",
    ]  # fmt: skip


def test_a_system_text_in_a_column_and_in_the_conversation():
    """The same text twice is one text; two that differ are refused, so that none is dropped."""

    def both(column: str, own: str) -> bytes:
        turns = [{"role": "system", "content": own}, *talk("user", "assistant")["messages"]]
        return lines({"system": "Be brief.", **talk("user", "assistant")}, {"system": column, "messages": turns})

    for column, own in (("Be kind.", "Be kind."), ("Be kind.", " Be kind.\n"), ("", "Be kind."), ("Be kind.", "")):
        got = read_bytes(both(column, own), name="x.jsonl").dialogues[1].messages
        assert [m.role for m in got] == ["system", "user", "assistant"]
        assert got[0].content.strip() == "Be kind."
    check(both("Be kind.", "Be rude."), "Line 2 .* two system texts that differ: the field 'system' and the first "
          "message of 'messages'", "data.jsonl")  # fmt: skip


def test_conversations():
    assert [m.role for m in only(lines(talk("system", "user", "assistant", "user", "assistant")))] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    sharegpt = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": "x"}
    assert only(lines(sharegpt)) == (Message("user", "a"), Message("assistant", "b"))
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                          {"role": "assistant", "content": "c"}]}  # fmt: skip
    assert only(lines(parts))[0].content == "ab"
    assert (
        read_bytes(lines(sharegpt), name="x.jsonl").taken == "'conversations' is read as a conversation; ignored: 'id'."
    )
    # Question and answer win over a leftover list of messages; what is ignored is said.
    both = read_bytes(lines({**pair(1), **talk("user")}), name="x.jsonl")
    assert "ignored: 'messages'" in both.taken


# --- what is refused --------------------------------------------------------------------------------------------------

GOOD = lines(pair(1), pair(2))
REFUSED = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\n \t\n", "is empty"),
    "bom only": (b"\xef\xbb\xbf", "is empty"),
    "utf16": ('{"prompt": "a"}'.encode("utf-16"), "encoded in UTF-16"),
    "latin1": (GOOD + b'\n{"prompt": "caf\xe9", "completion": "b"}', r"Line 3 .* not valid UTF-8 \(byte 0xe9\)"),
    "nul": (GOOD + b'\n{"prompt": "a\0", "completion": "b"}', "Line 3 .* NUL byte"),
    "escaped nul": (GOOD + b'\n{"prompt": "a\\u0000", "completion": "b"}', "Line 3 .* NUL character"),
    "half a pair": (GOOD + b'\n{"prompt": "a\\ud83d", "completion": "b"}', r"Line 3 .* half a character \(.ud83d\)"),
    "zip": (b"PK\x03\x04 and more", "compressed or binary"),
    "gzip": (b"\x1f\x8b and more", "compressed or binary"),
    "bad json": (GOOD + b'\n{"prompt": "a", "completion" "b"}', "Line 3 .* not valid JSON: Expecting ':'"),
    "single quotes": (GOOD + b"\n{'prompt': 'a', 'completion': 'b'}", "Line 3 .* not valid JSON.*double quotes"),
    "cut off": (GOOD + b'\n{"prompt": "a", "completion": "b', "Line 3 .* Unterminated string"),
    "raw line break": (b'{"prompt": "a\nb", "completion": "c"}', r"Line 1 .*(Invalid control|Unterminated)"),
    "raw tab": (b'{"prompt": "a\tb", "completion": "c"}', r"Line 1 .*Invalid control.*"),
    "two on a line": (GOOD + b'\n{"prompt": "a", "completion": "b"} {"prompt": "a", "completion": "b"}',
                      "Line 3 .* goes on behind"),
    "comma behind": (b'{"prompt": "a", "completion": "b"},\n{"prompt": "a", "completion": "b"}',
                     "Line 1 .* part of a larger JSON value"),
    "pretty": (b'{\n  "prompt": "a",\n  "completion": "b"\n}', "Line 1 .* part of a larger"),
    "not an object": (GOOD + b'\n"hello"', "Line 3 .* holds a text, not an object"),
    "a number": (GOOD + b"\n\n42", "Line 4 .* holds a number"),
    "null": (GOOD + b"\nnull", "Line 3 .* holds null"),
    "key twice": (GOOD + b'\n{"prompt": "a", "prompt": "b", "completion": "c"}', "Line 3 .* 'prompt' stands twice"),
    "long number": (b'{"prompt": "a", "completion": ' + b"9" * 5000 + b"}", "Line 1 .* not valid JSON"),
    "deep": (b'{"prompt": ' + b"[" * 100_000, "Line 1 .* (nested too deeply|not valid JSON)"),
    "missing key": (GOOD + b'\n{"prompt": "a"}', "Line 3 .* has no 'completion'; its fields are 'prompt'"),
    "mixed": (GOOD + b"\n" + lines(talk("user", "assistant")), "Line 3 .* is a conversation, and the rows before"),
    "mixed back": (lines(talk("user", "assistant"), pair(1)), "Line 2 .* is a question and answer, and the rows"),
    "number": (GOOD + b'\n{"prompt": "a", "completion": 42}', r"Line 3 .* 'completion' is a number \(42\), not a text"),
    "null answer": (GOOD + b'\n{"prompt": "a", "completion": null}', "Line 3 .* 'completion' is null, not a text"),
    "list prompt": (GOOD + b'\n{"prompt": ["a"], "completion": "b"}', "Line 3 .* 'prompt' is a list"),
    "no answer column": (b'{"prompt": "a", "note": "b"}', r"Line 1 .* a question \('prompt'\) but no answer"),
    "no question column": (b'{"answer": "a"}', r"Line 1 .* an answer \('answer'\) but no question"),
    "unknown columns": (b'{"a": "x", "b": "y"}', "Line 1 .* neither .*; its fields are 'a', 'b'"),
    "no columns": (b"{}", "Line 1 .* neither .* its fields are none"),
    "plain text": (b'{"text": "Once upon a time"}', "Line 1 .* plain text"),
    "preferences": (b'{"prompt": "a", "chosen": "b", "rejected": "c"}', "Line 1 .* preference pair"),
    "no answer turn": (lines(talk("user")), "Line 1 .* has no answer"),
    "no turns": (b'{"messages": []}', "Line 1 .* has no answer"),
    "ends with question": (lines(talk("user", "assistant", "user")), "Line 1 .* ends with a question"),
    "two users": (lines(talk("user", "user", "assistant")), "Line 1 .* message 2 is by the user, and the assistant"),
    "assistant first": (lines(talk("assistant", "user", "assistant")), "Line 1 .* message 1 is by the assistant"),
    "late system": (lines(talk("user", "system", "assistant")), "Line 1 .* message 2 is by the system"),
    "after system": (lines(talk("system", "assistant")), "Line 1 .* message 2 is by the assistant, and the user"),
    "tool": (lines(talk("user", "tool", "assistant")), "Line 1 .* message 2 has the role 'tool'"),
    "role is a number": (b'{"messages": [{"role": 1, "content": "a"}]}', "message 1 has the role 1"),
    "no role": (b'{"messages": [{"content": "a"}]}', "message 1 has no role"),
    "no content": (b'{"messages": [{"role": "user"}]}', "message 1 has no content"),
    "null content": (b'{"messages": [{"role": "user", "content": null}]}', "message 1: its content is null"),
    "image": (b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "its content is a list, not a text"),
    "turn is a text": (b'{"messages": ["hello"]}', "message 1 is a text, not an object"),
    "messages is a text": (b'{"messages": "hello"}', "'messages' is a text, not a list"),
    "messages is an object": (b'{"messages": {}}', "'messages' is an object, not a list"),
    "long line": (GOOD + b'\n{"prompt": "' + b"a" * 1_000_001 + b'", "completion": "b"}',
                  "Line 3 .* 1,000,0.. characters; a row may have 1,000,000"),
}  # fmt: skip
REFUSED_JSON = {
    "empty list": (b"[]", "has no rows"),
    "list of texts": (b'["a"]', "Line 1 .* holds a text"),
    "open list": (b'[\n{"prompt": "a", "completion": "b"}\n', r"Line 3 .* comma or \] is missing .the file ends"),
    "no comma": (b'[\n{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "b"}\n]',
                 "Line 3 .* comma or . is missing .'{' stands there"),
    "more behind": (b'[{"prompt": "a", "completion": "b"}]\n\nhello', "Line 3 .* more behind the end"),
    "bad element": (b'[\n{"prompt": "a", "completion": "b"},\n\n{"prompt": "a" "b"}]', "Line 4 .* not valid JSON"),
    "comma at the end": (b'[{"prompt": "a", "completion": "b"},\n]', "has no rows|has 1|"),
    "wrapped": (b'{"data": [{"prompt": "a", "completion": "b"}]}', "one object whose rows stand under 'data'"),
    "missing in third": (json.dumps([pair(1), pair(2), {"prompt": "a"}], indent=1).encode(),
                         "Line 10 .* no 'completion'"),
    "long element": (b'[{"prompt": "a", "completion": "' + b"b" * 1_000_001 + b'"}]', "a row may have 1,000,000"),
}  # fmt: skip
HEADER = b"prompt,completion\n"
REFUSED_CSV = {
    "header only": (HEADER, "has no rows"),
    "no header": (b"What is it?,A stone.\nWho?,Ana.\n", "Line 1 .* must name the columns, and none of these is known"),
    "open quote": (HEADER + b'a,b\n"c,d\ne,f\n', "Line 3 .* not closed"),
    "quote goes on": (HEADER + b'a,b\n"c,d\n"e","f"\n', "Line 3 .* not closed, or text behind"),
    "text behind a quote": (HEADER + b'"a"b,c\n', "Line 2 .* text behind"),
    "too many cells": (HEADER + b"a,b\na, b and c, d\n", "Line 3 .* has 3 cells, but the header has 2 columns"),
    "too few cells": (HEADER + b"a,b\na\n", "Line 3 .* has 1 cells, but"),
    "column twice": (b"prompt,Prompt,completion\na,b,c\n", "Line 1 .* 'prompt' stands twice"),
    "no answer": (b"prompt,note\na,b\n", r"Line 2 .* a question \('prompt'\) but no answer"),
    "messages": (b"messages\nhello\n", "Line 2 .* is a text, not a list of messages.*CSV file has a prompt"),
    "latin1": (HEADER + b"caf\xe9,b\n", "Line 2 .* not valid UTF-8.*CSV UTF-8"),
    "long cell": (HEADER + b"a,b\na," + b"b" * 1_000_001 + b"\n", "Line 3 .* more than 1,000,000 characters in one"),
    "after a break in a text": (HEADER + b'"a\nb\nc",d\ne\n', "Line 5 .* has 1 cells"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_jsonl(case):
    check(*REFUSED[case], "data.jsonl")


@pytest.mark.parametrize("case", [c for c in REFUSED_JSON if c != "comma at the end"])
def test_malformed_json(case):
    check(*REFUSED_JSON[case], "data.json")


@pytest.mark.parametrize("case", REFUSED_CSV)
def test_malformed_csv(case):
    check(*REFUSED_CSV[case], "data.csv")


def check(data: bytes, words: str, name: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        read_bytes(data, name=name)
    error = caught.value
    assert name in error.sentence
    assert error.sentence.endswith(".")
    assert error.advice.endswith(".")
    assert len(str(error)) < 400, "a sentence, not the file"
    assert "\n" not in error.sentence


def test_a_comma_behind_the_last_element_is_forgiven():
    """Strict JSON forbids it, but it loses nothing and nothing is ambiguous."""
    assert read_bytes(REFUSED_JSON["comma at the end"][0], name="x.json").rows == 1


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(BadInput, match="There is no file"):
        read_file(tmp_path / "nothing.jsonl")
    with pytest.raises(BadInput, match="is a folder"):
        read_file(tmp_path)


def test_files_that_are_too_large(tmp_path, monkeypatch):
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(module.MOST_BYTES + 1)  # sparse
    with pytest.raises(BadInput, match="100 MiB are read"):
        read_file(path)
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    rows = [*map(pair, range(4))]
    files = {"x.jsonl": lines(*rows), "x.json": json.dumps(rows).encode(), "x.csv": HEADER + b"a,b\n" * 4}
    for name, data in files.items():
        with pytest.raises(BadInput, match="more than 3 rows"):
            read_bytes(data, name=name)


def test_no_bytes_make_it_stumble():
    """Random damage to good files: either it is read, or a BadInput says why; nothing else."""
    rng = random.Random(0)
    files = {
        "x.jsonl": lines(*map(pair, range(3)), *([talk("user", "assistant")] * 0)),
        "y.jsonl": lines(*[talk("system", "user", "assistant")] * 3),
        "z.json": json.dumps([*map(pair, range(3))], indent=1).encode(),
        "w.csv": b'prompt,completion\n"a, b","c ""d"""\ne,f\n',
    }
    said = set()
    for _ in range(3000):
        name = rng.choice(list(files))
        data = bytearray(files[name])
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            action = rng.random()
            if action < 0.4:
                data[place] = rng.choice(b'"{}[],:\\\n\r\t\0 a\xff\xc3')
            elif action < 0.7:
                del data[place : place + rng.randint(1, 12)]
            else:
                data[place:place] = bytes(rng.choice(b'"{}[],:\\\nu0') for _ in range(rng.randint(1, 4)))
            if not data:
                break
        try:
            assert read_bytes(bytes(data), name=name).rows > 0
        except BadInput as error:
            said.add(re.sub(r"\d+|'.*'", "…", error.sentence))
    assert len(said) > 20


# --- split ------------------------------------------------------------------------------------------------------------


def make(*rows: tuple[str, str]) -> Dataset:
    return read_bytes(lines(*({"prompt": a, "completion": b} for a, b in rows)), name="made.jsonl")


def test_the_split_holds_out_what_was_asked_and_repeats_itself():
    data = make(*((f"q{i}", f"a{i}") for i in range(200)))
    train, held = split(data, 0.1, 0)
    assert (len(train), len(held)) == (180, 20)
    assert {*train} | {*held} == {*data.dialogues}
    assert split(data, 0.1, 0) == (train, held)
    assert split(data, 0.1, 1) != (train, held)
    assert [data.dialogues.index(d) for d in train] == sorted(data.dialogues.index(d) for d in train)


def test_the_same_question_is_never_on_both_sides():
    rng = random.Random(3)
    for case in range(60):
        kinds = rng.randint(1, 30)
        rows = [(rng.choice([f"Who is {k}?", f"  who IS\t{k}? "]), f"a{i}") for i in range(rng.randint(1, 60))
                for k in [rng.randrange(kinds)]]  # fmt: skip
        data = make(*rows)
        share = rng.choice([0.0, 0.01, 0.1, 0.3, 0.5])
        train, held = split_rows(data, share, case)
        assert sorted(train + held) == list(range(data.rows)), "every row is on one side"
        keys = [question_key(d) for d in data.dialogues]
        assert not {keys[i] for i in train} & {keys[i] for i in held}
        assert train
        if share > 0 and len(set(keys)) > 1:
            assert held
        else:
            assert not held


def test_tiny_files():
    one = make(("a", "b"))
    assert split(one, 0.1, 0) == ([one.dialogues[0]], [])
    two = make(("a", "b"), ("c", "d"))
    train, held = split(two, 0.1, 0)
    assert (len(train), len(held)) == (1, 1)
    same = make(("a", "b"), ("A ", "c"))
    assert [len(part) for part in split(same, 0.5, 0)] == [2, 0]


# --- report -----------------------------------------------------------------------------------------------------------


def test_the_report_of_a_good_file():
    tokenizer = make_tokenizer("qwen2")
    data = make(*((f"What is the number {i}?", f"It is {i}.") for i in range(100, 300)))
    got = report(data, tokenizer, max_length=256, held_out=0.1, seed=0)
    assert (got.rows, got.train, got.held_out) == (200, 180, 20)
    assert got.warnings == ()
    assert got.conversations == 0
    assert got.turns == 200
    assert "own chat template" in got.template
    counted = [sum(c for _, c in token_view(tokenizer, d)) for d in data.dialogues]
    assert got.answer_lengths.total == sum(counted)
    assert got.lengths.total == sum(len(token_view(tokenizer, d)) for d in data.dialogues)
    assert got.lengths.shortest <= got.lengths.median <= got.lengths.p95 <= got.lengths.longest
    assert sum(n for _, _, n in got.lengths.histogram) == 200
    assert json.loads(json.dumps(got.to_dict()))["rows"] == 200


def test_the_report_names_the_lines():
    rows = [(f"What is the number {i}?", f"It is {i}.") for i in range(100)]
    rows[3] = rows[1]  # line 4 repeats line 2
    rows[5] = ("what is   the NUMBER 2?", "Another thing.")  # line 6 contradicts line 3
    rows[7] = ("Long", "word " * 200)
    rows[9] = ("Silence", " ")
    rows[11] = ("", "An answer to nothing.")
    rows[13] = ("Say <|im_end|> please", "No.")
    got = report(make(*rows), make_tokenizer("qwen2"), max_length=128, held_out=0.1, seed=0)
    assert got.duplicates == ((2, 4),)
    assert got.contradictions == ((3, 6),)
    assert got.too_long == (8,)
    assert got.empty_answers == (10,)
    assert got.empty_prompts == (12,)
    assert got.special == (14,)
    assert got.together == 4
    text = " ".join(got.warnings)
    for part in (
        "1 row is longer than 128 tokens and will be left out: line 8.",
        "1 row repeats an earlier one: line 4.",
        "1 row gives another answer to a question asked before: line 6.",
        "1 row has an empty answer, which teaches the model to say nothing: line 10.",
        "1 row has an empty question: line 12.",
        "1 row spells a special token of the tokenizer, which is read as that token: line 14.",
    ):
        assert part in text


def test_leakage_but_for_punctuation_is_reported():
    rows = [(f"What is the number {i}", f"It is {i}.") for i in range(50)]
    rows += [(f"What is the number {i}?!", f"It is {i}.") for i in range(50)]
    got = report(make(*rows), make_tokenizer("gpt2"), max_length=256, held_out=0.1, seed=0)
    assert got.leakage
    for leak in got.leakage:
        assert leak.held_out != leak.train
        assert abs(leak.held_out - leak.train) == 50, "the twin is fifty lines away"
        assert "punctuation" in leak.why
    assert any("the score will flatter" in w for w in got.warnings)


def test_leakage_of_an_earlier_turn_is_reported():
    rows: list[object] = []
    for i in range(30):
        ask, say = {"role": "user", "content": f"Number {i}?"}, {"role": "assistant", "content": f"{i}."}
        rows.append({"messages": [ask, say]})
        rows.append({"messages": [ask, say, {"role": "user", "content": "More?"}, say]})
    data = read_bytes(lines(*rows), name="chat.jsonl")
    got = report(data, make_tokenizer("llama"), max_length=256, held_out=0.2, seed=0)
    assert got.conversations == 30
    assert got.turns == 90
    assert {leak.why for leak in got.leakage} == {"an earlier turn there"}
    for leak in got.leakage:
        assert leak.train == leak.held_out + 1


def test_small_files_are_told_so():
    tokenizer = make_tokenizer("gpt2")
    one = report(make(("a", "b")), tokenizer, max_length=256, held_out=0.1, seed=0).warnings
    assert one[0].startswith("There is 1 row only")
    assert "no score" in one[1]
    twelve = make(*((f"q{i}", "a") for i in range(12)))
    got = report(twelve, tokenizer, max_length=256, held_out=0.25, seed=0).warnings
    assert "Only 3 rows are held out, so the score moves in steps of 33 %." in got
    none = report(twelve, tokenizer, max_length=256, held_out=0.0, seed=0)
    assert none.held_out == 0
    assert any("Nothing is held out" in w for w in none.warnings)
    short = report(twelve, tokenizer, max_length=8, held_out=0.1, seed=0)
    assert any("Every row is longer than 8 tokens" in w for w in short.warnings)


def test_a_quick_report_counts_the_tokens_of_the_first_rows_only(monkeypatch):
    """Everything else is looked at in every row; and what was counted is said."""
    rows = [(f"What is the number {i}?", f"It is {i}.") for i in range(60)]
    rows[5] = rows[50] = ("Long", "word " * 200)
    rows[55] = rows[54]
    data, tokenizer = make(*rows), make_tokenizer("qwen2")
    seen: list[int] = []
    whole = module.encode_all
    monkeypatch.setattr(module, "encode_all", lambda t, dialogues: seen.append(len(dialogues)) or whole(t, dialogues))

    def got(**more):
        return report(data, tokenizer, max_length=128, held_out=0.1, seed=0, **more)

    full = got()
    assert got(quick=True) == full, "a file as small as this is looked at whole"
    assert (full.counted, full.too_long, seen) == (60, (6, 51), [60, 60])
    monkeypatch.setattr(module, "QUICK_ROWS", 20)
    some = got(quick=True)
    assert (some.counted, some.too_long, seen[-1]) == (20, (6,), 20)
    assert some.duplicates == full.duplicates == ((6, 51), (55, 56))
    assert (some.rows, some.train, some.held_out) == (60, full.train, full.held_out)
    assert "1 of the first 20 rows is longer than 128 tokens and will be left out: line 6." in some.warnings
    assert got() == full
    monkeypatch.setattr(module, "QUICK_CHARACTERS", 100)
    assert got(quick=True).counted == seen[-1] == 3, "three questions and answers of some thirty characters"
    short = report(data, tokenizer, max_length=8, held_out=0.1, seed=0, quick=True)
    assert any(w.startswith("Each of the first 3 rows is longer than 8 tokens: raise") for w in short.warnings)
    monkeypatch.setattr(module, "QUICK_CHARACTERS", 1)
    assert got(quick=True).counted == 1


def test_a_row_that_the_template_refuses_is_named():
    """Gemma's template wants the user first; a system text is folded, but this template of ours refuses 'forbidden'."""
    tokenizer = make_tokenizer("gemma")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% for m in messages %}",
        "{% if 'forbidden' in messages[0].content %}{{ raise_exception('Not that word') }}{% endif %}"
        "{% for m in messages %}",
        1,
    )
    data = make(("a", "b"), ("c", "d"), ("the forbidden one", "e"))
    with pytest.raises(BadInput, match=r"Line 3 of made.jsonl: .* Not that word"):
        report(data, tokenizer, max_length=256, held_out=0.1, seed=0)


def test_everything_without_torch(tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(lines(*map(pair, range(30))))
    code = (
        "import sys\n"
        "from core.dataset import read_file, report, split, token_view\n"
        "from tests.checkpoints import make_tokenizer\n"
        f"data = read_file({str(path)!r})\n"
        "assert 'transformers' not in sys.modules\n"
        "r = report(data, make_tokenizer('llama'), max_length=64, held_out=0.1, seed=0)\n"
        "assert r.train == 27 and token_view(make_tokenizer('llama'), data.dialogues[0])\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
