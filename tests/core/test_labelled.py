"""Labelled texts: what is read, what is refused and with which line, the report, the split, and a language model's view
of the same file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.dataset import read_bytes
from core.errors import BadInput
from core.labelled import (
    MOST_LABELS,
    LabelledText,
    labelled_of,
    read_labelled,
    report_for,
    report_labelled,
    split_labelled,
    tokens_of,
)
from tests.checkpoints import make_encoder_tokenizer, write, write_encoder

HEADER = b"text,label\n"


def lines(*rows: object) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def rows(count: int, labels: tuple[str, ...] = ("good", "bad")) -> bytes:
    return HEADER + "".join(f"Text number {i},{labels[i % len(labels)]}\n" for i in range(count)).encode()


def report(data: bytes, **changes):
    how = {"max_length": 64, "held_out": 0.2, "seed": 0} | changes
    return report_labelled(labelled_of(data, name="a.csv"), make_encoder_tokenizer("bert"), **how)


def test_text_and_label_in_every_format(tmp_path: Path) -> None:
    csv = 'text,label\n"A film, long",good\nDull.,bad\n'
    made = [{"text": "A film, long", "label": "good"}, {"text": "Dull.", "label": "bad"}]
    files = {
        "a.csv": csv, "b.jsonl": lines(*made).decode(), "c.json": json.dumps(made, indent=1),
        "d.tsv": "text\tlabel\nA film, long\tgood\nDull.\tbad\n",
        "e.csv": "id;Sentence;CLASS\n1;A film, long;good\n2;Dull.;bad\n",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        found = read_labelled(tmp_path / name)
        assert found.examples == (LabelledText("A film, long", None, "good"), LabelledText("Dull.", None, "bad")), name
        assert found.labels == ("bad", "good")
    assert read_labelled(tmp_path / "e.csv").taken == (
        "'Sentence' is read as the text and 'CLASS' as its label; ignored: 'id'."
    )
    assert read_labelled(tmp_path / "c.json").lines == (2, 6)


def test_labels_may_be_numbers_and_truths_and_texts_may_be_pairs() -> None:
    found = labelled_of(
        lines({"text": "a", "label": 1}, {"text": "b", "label": "1 "}, {"text": "c", "label": 0}), name="x"
    )
    assert [e.label for e in found.examples] == ["1", "1", "0"]
    found = labelled_of(lines({"text": "a", "label": True}, {"text": "b", "label": False}), name="x")
    assert found.labels == ("false", "true")
    found = labelled_of(b"sentence1,sentence2,label\nA cat,An animal,entailment\nA cat,A dog,neutral\n", name="x.csv")
    assert found.examples[0] == LabelledText("A cat", "An animal", "entailment")
    assert found.examples[0].shown == "A cat\n\nAn animal"
    assert "(with 'sentence2' as the second one)" in found.taken


BAD = {
    "one label": (HEADER + b"a,x\nb,x\n", "Every row of .* has the label 'x': there is nothing to tell apart"),
    "empty label": (HEADER + b"a,x\nb,\n", "Line 3 of .* has an empty 'label'"),
    "null label": (lines({"text": "a", "label": None}), "Line 1 of .* is null, not a label"),
    "scale": (lines({"text": "a", "label": 0.5}), "Line 1 of .* is 0.5, and a label is a word or a whole number"),
    "several": (lines({"text": "a", "label": ["x"]}), "Line 1 of .* is a list, and every text has one label"),
    "no label": (b'{"text": "a"}', r"Line 1 of .* has a text \('text'\) but no label"),
    "no label in csv": (b"text,stars\na,1\n", r"Line 2 of .* has a text \('text'\) but no label"),
    "no text": (b'{"label": "a"}', r"Line 1 of .* has a label \('label'\) but no text"),
    "other fields": (b'{"a": 1}', "Line 1 of .* neither a text nor a label; its fields are 'a'"),
    "questions": (b'{"prompt": "a", "completion": "b"}', "questions and answers .* but the base is an encoder"),
    "conversation": (b'{"messages": []}', "questions and answers .* but the base is an encoder"),
    "lost later": (lines({"text": "a", "label": "x"}, {"text": "b"}), "Line 2 of .* has no 'label'"),
    "number as text": (lines({"text": 3, "label": "x"}), "Line 1 of .* 'text' is a number, not a text"),
    "short row": (HEADER + b"a,x\nb\n", "Line 3 of .* has 1 cells, but the header has 2"),
    "open quote": (HEADER + b'"a,x\n', "Line 2 of .* not closed"),
    "not json": (b'{"text": "a", "label": "x"}\n{"text": ', "Line 2 of .* is not valid JSON"),
    "not utf-8": (HEADER + b"\xff,x\n", "Line 2 of .* is not valid UTF-8"),
    "half a character": (b'{"text": "\\ud800", "label": "x"}', "Line 1 of .* half a character"),
    "empty": (b"", "is empty"),
    "header alone": (HEADER, "has no rows"),
    "unknown header": (b"a,b\n1,2\n", "Line 1 of .* must name the columns"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_with_its_line(case: str) -> None:
    data, words = BAD[case]
    name = "mine.csv" if data[:1] not in b"{" or not data else "mine.jsonl"
    with pytest.raises(BadInput, match=words) as caught:
        labelled_of(data, name=name)
    assert caught.value.advice


def test_a_column_of_free_texts_is_no_column_of_labels() -> None:
    with pytest.raises(BadInput, match=r"1,001 different labels; at most 1,000"):
        labelled_of(rows(MOST_LABELS + 1, tuple(f"label {i}" for i in range(MOST_LABELS + 1))), name="a.csv")


def test_the_report_counts_labels_and_tokens() -> None:
    found = report(rows(60, ("good", "bad", "bad")))
    assert (found.rows, found.train, found.held_out, found.counted) == (60, 48, 12, 60)
    assert found.labels == (("bad", 40), ("good", 20))
    assert found.majority == pytest.approx(2 / 3)
    ids, types = tokens_of(make_encoder_tokenizer("bert"), [LabelledText("Text number 7", None, "")])[0]
    assert found.lengths.shortest == len(ids)
    assert set(types) == {0}
    assert found.warnings == ()
    json.dumps(found.to_dict())


def test_the_report_names_what_is_odd() -> None:
    odd = rows(40) + b"Text number 0,good\nTEXT  number 1,good\n,good\n[CLS] here,bad\n" + b"x " * 90 + b",bad\n"
    found = report(odd)
    assert found.duplicates == ((2, 42),)
    assert found.contradictions == ((3, 43),)
    assert (found.empty_texts, found.special, found.too_long) == ((44,), (45,), (46,))
    said = " ".join(found.warnings)
    for part in ("1 row is longer than 64 tokens and will be left out: line 46",
                 "1 row repeats an earlier one: line 42",
                 "1 row gives another label to a text that stood before: line 43", "empty text: line 44",
                 "special token"):  # fmt: skip
        assert part in said


def test_the_report_tells_of_lopsided_rare_and_stray_labels() -> None:
    found = report(rows(50, ("spam",) * 9 + ("ham",)) + b"one,Ham\n", held_out=0.1)
    said = " ".join(found.warnings)
    assert "88 % of the rows have the label 'spam': always saying it would be right as often" in said
    assert "'Ham': fewer than 5 rows each" in said
    assert "'Ham', 'ham' differ in case or spaces only" in said
    only = next(report(rows(40) + b"alone,rare\n", seed=s) for s in range(200)
                if report(rows(40) + b"alone,rare\n", seed=s).held_out_only)  # fmt: skip
    assert only.held_out_only == ("rare",)
    assert "'rare': held out only, so it cannot be learnt" in " ".join(only.warnings)
    assert "'rare': in no held-out row" in " ".join(report(rows(40) + b"alone,rare\n", seed=0).warnings)
    assert "Nothing is held out" in report(rows(40), held_out=0.0).warnings[0]
    assert "There are 4 rows only" in report(rows(4)).warnings[0]


def test_the_same_text_stays_on_one_side() -> None:
    data = labelled_of(rows(30) + rows(30).removeprefix(HEADER).upper().replace(b"GOOD", b"good"), name="a.csv")
    train, held = split_labelled(data, 0.25, 3)
    assert len(train) + len(held) == 60
    assert not {e.text.lower() for e in train} & {e.text.lower() for e in held}
    assert split_labelled(data, 0.25, 3) == (train, held) != split_labelled(data, 0.25, 4)
    leaky = report(rows(30) + b"Text number 3!,bad\nText number 4.,good\nText number 5?,bad\nText number 6!!,good\n",
                   held_out=0.5)  # fmt: skip
    assert leaky.leakage
    assert leaky.leakage[0].why == "the same but for punctuation"


def test_a_language_model_reads_the_same_file_as_questions_and_answers() -> None:
    """Whoever fine-tunes a language model on text,label wants it to answer with the label."""
    found = read_bytes(HEADER + b"A joy.,good\nDull.,bad\n", name="a.csv")
    assert [(d.question[0].content, d.answer) for d in found.dialogues] == [("A joy.", "good"), ("Dull.", "bad")]
    assert found.taken == "'text' is read as the question and 'label' as the answer."
    found = read_bytes(lines({"premise": "a", "hypothesis": "b", "label": 2}), name="a.jsonl")
    assert (found.dialogues[0].question[0].content, found.dialogues[0].answer) == ("a\n\nb", "2")
    # A file that has both is what it was before there were labels.
    found = read_bytes(lines({"prompt": "a", "completion": "b", "text": "c", "label": "d"}), name="a.jsonl")
    assert found.dialogues[0].answer == "b"


def test_the_base_decides_how_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(rows(40))
    how = {"max_length": 64, "held_out": 0.1, "seed": 0}
    as_labels = report_for(tmp_path / "a.csv", str(write_encoder("bert", tmp_path)), **how)
    as_answers = report_for(tmp_path / "a.csv", str(write("gpt2", tmp_path)), **how)
    assert type(as_labels).__name__ == "LabelReport"
    assert type(as_answers).__name__ == "Report"
    assert as_labels.rows == as_answers.rows == 40


def test_a_quick_report_counts_the_first_rows_only(monkeypatch) -> None:
    monkeypatch.setattr("core.dataset.QUICK_ROWS", 10)
    found = report(rows(40), quick=True)
    assert (found.counted, found.rows, len(found.labels)) == (10, 40, 2)
    monkeypatch.setattr("core.dataset.QUICK_CHARACTERS", 30)
    assert report(rows(40), quick=True).counted == 2


def test_reading_and_reporting_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(rows(40))
    folder = write_encoder("roberta", tmp_path)
    code = f"""
import sys
from core.base import describe_base
from core.labelled import report_for
assert describe_base({str(folder)!r})["task"] == "classification"
print(report_for({str(tmp_path / "a.csv")!r}, {str(folder)!r}, max_length=64, held_out=0.1, seed=0).rows)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "40"
