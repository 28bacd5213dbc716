"""The words of the subject: core/catalog/glossary.toml, read, checked and found by any of their names.

    find("NormalFloat").text        # 'Sixteen levels placed by the quantiles …'

A term is found by its key, its name, the short form in front of a bracket in its name, or one of its other names,
whatever the case. Which lessons exist is not known here: a term names the address of its lesson, and a test compares.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from core.catalog import FOLDER
from core.errors import BadInput

PATH = FOLDER / "glossary.toml"
KEY = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
MOST_SENTENCES = 3
FIELDS = ("key", "name", "aka", "text", "see", "lesson", "reference")


@dataclass(frozen=True)
class Reference:
    """The paper behind a term."""

    title: str
    authors: str
    year: int
    address: str


@dataclass(frozen=True)
class Term:
    """A word and what it means. aka: its other names. see: keys of terms close by. lesson: the address of the lesson
    that works with it ('' where none does)."""

    key: str
    name: str
    text: str
    aka: tuple[str, ...] = ()
    see: tuple[str, ...] = ()
    lesson: str = ""
    reference: Reference | None = None

    @property
    def short(self) -> str:
        """The name without the bracket that spells it out: 'RAG (retrieval-augmented generation)' -> 'RAG'."""
        return self.name.partition(" (")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that it may be called, without repetition."""
        return tuple(dict.fromkeys((self.name, self.short, self.key, *self.aka)))

    @property
    def letter(self) -> str:
        """The letter under which it stands in the list; '#' for what begins with none."""
        first = self.name[0].upper()
        return first if "A" <= first <= "Z" else "#"


def normal(name: str) -> str:
    """How names are compared: case and repeated spaces do not count."""
    return " ".join(name.casefold().split())


def problems(rows: Iterable[Mapping[str, Any]], references: Iterable[str]) -> list[str]:
    """Everything that is wrong with the glossary's rows, a sentence each. references: the keys that may be named."""
    rows, known = list(rows), set(references)
    wrong: list[str] = []
    keys = [str(row.get("key", "")) for row in rows]
    taken: dict[str, str] = {}
    for row, key in zip(rows, keys, strict=True):
        if not KEY.fullmatch(key):
            wrong.append(f"A term's key is small letters, digits and hyphens, not {key!r}.")
        wrong += [f"{key} has no field {f!r}." for f in row if f not in FIELDS]
        wrong += [f"{key} lacks its {f}." for f in ("name", "text") if not str(row.get(f, "")).strip()]
        if keys.count(key) > 1:
            wrong.append(f"The key {key} stands there twice.")
        text = str(row.get("text", ""))
        if text and not text.rstrip().endswith((".", "?")):
            wrong.append(f"{key}: the text does not end with a full stop.")
        if len(re.findall(r"[.?!](?:\s|$)", text)) > MOST_SENTENCES:
            wrong.append(f"{key}: at most {MOST_SENTENCES} sentences.")
        for other in row.get("see", ()):
            if other not in keys or other == key:
                wrong.append(f"{key}: see names {other!r}, which is no other term.")
        if row.get("reference") is not None and row["reference"] not in known:
            wrong.append(f"{key}: there is no reference {row['reference']!r}.")
        if row.get("name"):
            for name in _term(row, {}).names:
                holder = taken.setdefault(normal(name), key)
                if holder != key:
                    wrong.append(f"{name!r} names both {holder} and {key}.")
    return list(dict.fromkeys(wrong))


def _term(row: Mapping[str, Any], references: Mapping[str, Mapping[str, Any]]) -> Term:
    found = references.get(str(row.get("reference")))
    return Term(
        str(row["key"]), str(row["name"]), str(row.get("text", "")), tuple(row.get("aka", ())),
        tuple(row.get("see", ())), str(row.get("lesson", "")), Reference(**found) if found else None,
    )  # fmt: skip


@lru_cache(maxsize=1)
def terms() -> tuple[Term, ...]:
    """All terms, by name.

    Raises:
        BadInput: the file has mistakes; the sentence lists them all.
    """
    rows = tomllib.loads(PATH.read_text(encoding="utf-8"))["term"]
    references = tomllib.loads((FOLDER / "references.toml").read_text(encoding="utf-8"))
    wrong = problems(rows, references)
    if wrong:
        raise BadInput("The glossary has mistakes.", "\n".join(wrong))
    return tuple(sorted((_term(row, references) for row in rows), key=lambda t: normal(t.name)))


@lru_cache(maxsize=1)
def _by_name() -> dict[str, Term]:
    return {normal(name): term for term in terms() for name in term.names}


def find(name: str) -> Term | None:
    """The term that is called so, or None."""
    return _by_name().get(normal(name))


def matching(query: str) -> tuple[Term, ...]:
    """The terms that have every word of `query` in a name or the text; those whose name begins with it come first."""
    words = normal(query).split()
    wanted = normal(query)

    def place(term: Term) -> int:
        names = [normal(n) for n in term.names]
        return 0 if wanted in names else 1 if any(n.startswith(wanted) for n in names) else 2

    found = [t for t in terms() if all(w in normal(" ".join((*t.names, t.text))) for w in words)]
    return tuple(sorted(found, key=place))
