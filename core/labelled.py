"""Texts with labels, for encoders: reading JSONL, JSON and CSV, a report before training, and the held-out split.

A row is a text and its label (`text,label`, or one of the usual other names), or two texts and the label of the pair.
A label is a word or a whole number; 1 and "1" are the same label. As in core/dataset.py, whose parsing this shares, a
file that cannot be used is refused with one sentence that names the line; nothing is guessed, dropped or repaired in
silence. The same file on a causal language model is read there, as questions and answers.

Reading and reporting need tokenizers at most, never torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from core.base import CLASSIFICATION, kind_of_base, load_tokenizer
from core.dataset import (
    COMPLETIONS,
    CONVERSATIONS,
    LABELS,
    PAIRS,
    PROMPTS,
    TEXTS,
    Leak,
    Lengths,
    Report,
    Rows,
    content_of,
    kind_of,
    label_text,
    lengths_of,
    listed,
    normal,
    quick_rows,
    read_file,
    read_rows,
    report,
    size_warnings,
    split_by,
    told,
    valid_text,
)
from core.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_LABELS = 1_000
RARE = 5  # a label with fewer rows is told
LOPSIDED = 0.75  # a label with a larger share of the rows is told

EXAMPLE = 'A row looks like {"text": "…", "label": "…"}; a CSV begins with the line text,label.'


@dataclass(frozen=True)
class LabelledText:
    """One row: a text, the second text of a pair (or None), and the label."""

    text: str
    pair: str | None
    label: str

    @property
    def shown(self) -> str:
        """Both texts, for people."""
        return self.text if self.pair is None else f"{self.text}\n\n{self.pair}"


@dataclass(frozen=True)
class Labelled:
    """A file of labelled texts that was read.

    name: of the file. format: 'jsonl', 'json' or 'csv'. examples: one per row, in the file's order. lines: the line
    each row starts at, counted from 1. columns: names found in the file. taken: which became what, as a sentence.
    """

    name: str
    format: str
    examples: tuple[LabelledText, ...]
    lines: tuple[int, ...]
    columns: tuple[str, ...]
    taken: str

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.examples)

    @property
    def labels(self) -> tuple[str, ...]:
        """The different labels, by the alphabet."""
        return tuple(sorted({e.label for e in self.examples}))


@dataclass(frozen=True)
class LabelReport:
    """What a person should know about labelled texts before training. Rows are named by their line in the file.

    labels: (label, rows), the most frequent first. lengths: in tokens, with the encoder's own special ones; too_long:
    rows over `max_length`, which training leaves out; both of the first `counted` rows. duplicates: (first, other) rows
    with the same text and label; contradictions: with the same text and another label. empty_texts: rows without text.
    special: rows whose text spells a special token of the tokenizer. similar: labels that differ in case or spaces
    only. held_out_only, train_only: labels that stand on one side alone. leakage: see `core.dataset.Leak`. train,
    held_out: rows on each side. warnings: sentences.
    """

    ODD: ClassVar[tuple[str, ...]] = (
        "too_long", "duplicates", "contradictions", "empty_texts", "special", "leakage",
    )  # fmt: skip

    name: str
    format: str
    rows: int
    columns: tuple[str, ...]
    taken: str
    max_length: int
    labels: tuple[tuple[str, int], ...]
    lengths: Lengths
    too_long: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]
    contradictions: tuple[tuple[int, int], ...]
    empty_texts: tuple[int, ...]
    special: tuple[int, ...]
    similar: tuple[tuple[str, ...], ...]
    held_out_only: tuple[str, ...]
    train_only: tuple[str, ...]
    leakage: tuple[Leak, ...]
    train: int
    held_out: int
    counted: int
    warnings: tuple[str, ...] = ()

    @property
    def majority(self) -> float:
        """Share of the most frequent label: what always giving it would get right."""
        return self.labels[0][1] / self.rows

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_labelled(path: str | Path, *, name: str | None = None) -> Labelled:
    """Read a file of labelled texts.

    Args:
        path: a .jsonl, .json or .csv file in UTF-8; the content decides where the ending does not.
        name: how to call it in sentences; the file's own name if None.

    Raises:
        BadInput: it is missing, too large, not text, malformed, without text and label, or has one label alone (or
            more than MOST_LABELS); with the line number.
    """
    name = name or Path(path).name
    return labelled_of(content_of(path, name), name=name)


def labelled_of(data: bytes, *, name: str) -> Labelled:
    """As `read_labelled`, from content that is in memory already."""
    kind, rows, columns = read_rows(data, name=name)
    examples, taken = _examples(rows, columns, name)
    found = Labelled(name, kind, tuple(examples), tuple(line for line, _ in rows), tuple(columns), taken)
    if len(found.labels) == 1:
        raise BadInput(
            f"Every row of {name} has the label {found.labels[0]!r}: there is nothing to tell apart.",
            "Add rows with other labels.",
        )
    if len(found.labels) > MOST_LABELS:
        raise BadInput(
            f"{name} has {len(found.labels):,} different labels; at most {MOST_LABELS:,} are told apart.",
            "Check that the column of labels is the right one: texts to be written out are for a language model.",
        )
    return found


def _examples(rows: Rows, columns: Sequence[str], name: str) -> tuple[list[LabelledText], str]:
    first_line, first = rows[0]
    by_name = {key.strip().lower(): key for key in first}

    def find(names: Sequence[str]) -> str | None:
        return next((by_name[n] for n in names if n in by_name), None)

    text, label, pair = find(TEXTS), find(LABELS), find(PAIRS)
    if text is None or label is None:
        raise BadInput(_no_label(by_name, text, label, f"Line {first_line} of {name}"), EXAMPLE)
    taken = f"{text!r} is read as the text" + (f" (with {pair!r} as the second one)" if pair else "")
    taken += f" and {label!r} as its label"
    ignored = [c for c in columns if c not in (text, label, pair)]
    examples = []
    for line, row in rows:
        where = f"Line {line} of {name}"
        missing = [key for key in (text, pair, label) if key is not None and key not in row]
        if missing:
            raise BadInput(
                f"{where} has no {missing[0]!r}; its fields are {listed([*row])}.",
                f"The first row has it (line {first_line}), so every row needs it.",
            )
        second = _text(row, pair, where) if pair is not None else None
        examples.append(LabelledText(_text(row, text, where), second, _label(row, label, where)))
    return examples, taken + (f"; ignored: {listed(ignored)}." if ignored else ".")


def _no_label(by_name: dict[str, str], text: str | None, label: str | None, start: str) -> str:
    if text is not None:
        return f"{start} has a text ({text!r}) but no label; its fields are {listed(list(by_name.values()))}."
    if label is not None:
        return f"{start} has a label ({label!r}) but no text; its fields are {listed(list(by_name.values()))}."
    if set(by_name) & {*PROMPTS, *COMPLETIONS, *CONVERSATIONS}:
        return (
            f"{start} holds questions and answers ({listed(list(by_name.values()))}), but the base is an encoder: it "
            "gives a label to a text."
        )
    return f"{start} has neither a text nor a label; its fields are {listed(list(by_name.values()))}."


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise BadInput(
            f"{where}: {key!r} is {kind_of(value)}, not a text.",
            "Write it in quotes." if isinstance(value, (int, float)) else "Give it a text.",
        )
    return valid_text(value, where, key)


def _label(row: dict[str, Any], key: str, where: str) -> str:
    value = row[key]
    if isinstance(value, float):
        raise BadInput(
            f"{where}: {key!r} is {value:g}, and a label is a word or a whole number.",
            "Numbers on a scale are not labels; round them to classes if that is what they mean.",
        )
    if isinstance(value, list):
        raise BadInput(f"{where}: {key!r} is a list, and every text has one label here.", "Keep one of them.")
    if not isinstance(value, (str, int)):
        raise BadInput(f"{where}: {key!r} is {kind_of(value)}, not a label.", "Give the row a label, or remove it.")
    if isinstance(value, str):
        valid_text(value, where, key)
    label = label_text(value)
    if not label:
        raise BadInput(f"{where} has an empty {key!r}.", "Give the row a label, or remove it.")
    return label


# --- split ------------------------------------------------------------------------------------------------------------


def text_key(example: LabelledText) -> str:
    """What makes two texts the same: letters and signs, but for case and white space."""
    return f"{normal(example.text)}\n{normal(example.pair or '')}"


def _loose_key(example: LabelledText) -> str:
    """As `text_key`, but for punctuation too."""
    return re.sub(r"[\W_]+", " ", text_key(example)).strip()


def split_labelled(data: Labelled, held_out: float, seed: int) -> tuple[list[LabelledText], list[LabelledText]]:
    """Training and held-out rows, in the file's order; as `core.dataset.split`: the same texts stay on one side."""
    train, held = split_by([text_key(e) for e in data.examples], held_out, seed)
    return [data.examples[i] for i in train], [data.examples[i] for i in held]


# --- tokens -----------------------------------------------------------------------------------------------------------


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[LabelledText]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each text (or pair) with the special tokens that the encoder expects, and which text of a pair each
    token belongs to (0 or 1)."""
    if not examples:
        return []
    pairs = [e.pair or "" for e in examples] if any(e.pair is not None for e in examples) else None
    # verbose=False: what is longer than the model's context is counted and reported by the caller.
    found = tokenizer([e.text for e in examples], pairs, return_token_type_ids=True, verbose=False)
    ids = found["input_ids"]
    types = found.get("token_type_ids") or [[0] * len(row) for row in ids]
    return list(zip(ids, types, strict=True))


# --- report -----------------------------------------------------------------------------------------------------------


def report_labelled(
    data: Labelled,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    held_out: float,
    seed: int,
    quick: bool = False,
) -> LabelReport:
    """Look at every row before training on it.

    Args:
        tokenizer: of the encoder to be trained.
        max_length: the limit in tokens, as in TrainConfig.
        held_out, seed: as training will split.
        quick: count the tokens of the first rows only when there are many.
    """
    lines, examples = data.lines, data.examples
    counted = quick_rows([len(e.shown) for e in examples]) if quick else data.rows
    sizes = [len(ids) for ids, _ in tokens_of(tokenizer, examples[:counted])]
    seen: dict[str, tuple[int, str]] = {}
    duplicates: list[tuple[int, int]] = []
    contradictions: list[tuple[int, int]] = []
    for line, e in zip(lines, examples, strict=True):
        first = seen.setdefault(text_key(e), (line, e.label))
        if first[0] != line:
            (duplicates if first[1] == e.label else contradictions).append((first[0], line))
    train, held = split_by([text_key(e) for e in examples], held_out, seed)
    sides = {examples[i].label for i in train}, {examples[i].label for i in held}
    counts = Counter(e.label for e in examples)
    alike: dict[str, list[str]] = {}
    for label in sorted(counts):
        alike.setdefault(normal(label), []).append(label)
    special = [t for t in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()) if len(t.strip()) > 1]
    spelled = re.compile("|".join(map(re.escape, special)) or "(?!)")
    loose: dict[str, int] = {}
    for row in train:
        loose.setdefault(_loose_key(examples[row]), row)
    found = LabelReport(
        name=data.name,
        format=data.format,
        rows=data.rows,
        columns=data.columns,
        taken=data.taken,
        max_length=max_length,
        labels=tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))),
        lengths=lengths_of(sizes),
        too_long=tuple(line for line, n in zip(lines, sizes, strict=False) if n > max_length),
        duplicates=tuple(duplicates),
        contradictions=tuple(contradictions),
        empty_texts=tuple(line for line, e in zip(lines, examples, strict=True) if not e.shown.strip()),
        special=tuple(line for line, e in zip(lines, examples, strict=True) if spelled.search(e.shown)),
        similar=tuple(tuple(names) for names in alike.values() if len(names) > 1),
        held_out_only=tuple(sorted(sides[1] - sides[0])),
        train_only=tuple(sorted(sides[0] - sides[1])) if held else (),
        leakage=tuple(
            Leak(lines[row], lines[loose[key]], "the same but for punctuation")
            for row in held
            if (key := _loose_key(examples[row])) and key in loose
        ),
        train=len(train),
        held_out=len(held),
        counted=counted,
    )
    return dataclasses.replace(found, warnings=tuple(_warnings(found, held_out)))


def _warnings(r: LabelReport, held_out: float) -> Iterator[str]:
    yield from size_warnings(r, held_out, "texts")
    if r.majority >= LOPSIDED:
        yield (
            f"{100 * r.majority:.0f} % of the rows have the label {r.labels[0][0]!r}: always saying it would be right "
            "as often, so look at the macro F1 too."
        )
    rare = [label for label, rows in r.labels if rows < RARE]
    if rare:
        yield f"{listed(rare)}: fewer than {RARE} rows each, which is hardly enough to learn a label from."
    if r.held_out_only:
        yield f"{listed(r.held_out_only)}: held out only, so it cannot be learnt. Another seed splits otherwise."
    if r.train_only:
        yield f"{listed(r.train_only)}: in no held-out row, so nothing will say how well it was learnt."
    for names in r.similar:
        yield f"{listed(names)} differ in case or spaces only, and are learnt as different labels."
    if r.duplicates:
        yield told([b for _, b in r.duplicates], "row repeats an earlier one", "rows repeat earlier ones")
    if r.contradictions:
        rest = "another label to a text that stood before"
        yield told([b for _, b in r.contradictions], f"row gives {rest}", f"rows give {rest}")
    if r.empty_texts:
        yield told(r.empty_texts, "row has an empty text", "rows have an empty text")
    if r.special:
        rest = "a special token of the tokenizer, which is read as that token"
        yield told(r.special, f"row spells {rest}", f"rows spell {rest}")
    if r.leakage:
        rest = "in the training rows too, so the score will flatter"
        lines = [leak.held_out for leak in r.leakage]
        yield told(lines, f"held-out text stands {rest}", f"held-out texts stand {rest}")


def report_for(
    path: str | Path,
    base: str,
    revision: str | None = None,
    *,
    max_length: int,
    held_out: float,
    seed: int,
    quick: bool = False,
) -> Report | LabelReport:
    """The report on a file as the given base would read it: labelled texts for an encoder, else questions and answers.

    Raises:
        BadInput: it cannot be read or used; BaseUnavailable: the base has no tokenizer that could read it.
    """
    tokenizer = load_tokenizer(base, revision)  # fetches what tells the kind of a hub id
    how: dict[str, Any] = {"max_length": max_length, "held_out": held_out, "seed": seed, "quick": quick}
    if kind_of_base(base, revision) == CLASSIFICATION:
        return report_labelled(read_labelled(path), tokenizer, **how)
    return report(read_file(path), tokenizer, **how)
