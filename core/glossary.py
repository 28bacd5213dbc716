"""The glossary: catalog/glossary.toml, one [[term]] a word, read once.

    find("NF4").text

A term has a key, other names (aka), a definition of one to three sentences, terms to see as well (see), the address of
the lesson that explains it (lesson), and a reference.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PATH = Path(__file__).parent / "catalog" / "glossary.toml"


@dataclass(frozen=True)
class Term:
    """One entry; `aka`: other names that find it. lesson: an address such as "lora-rank", "" when there is none."""

    key: str
    text: str
    aka: tuple[str, ...] = ()
    see: tuple[str, ...] = ()
    lesson: str = ""
    reference: str = ""


@lru_cache(maxsize=1)
def terms() -> tuple[Term, ...]:
    """All terms in the order of the file; none while there is no file."""
    if not PATH.is_file():
        return ()
    rows = tomllib.loads(PATH.read_text(encoding="utf-8")).get("term", [])
    return tuple(
        Term(
            row["key"], row["text"].strip(), tuple(row.get("aka", ())), tuple(row.get("see", ())),
            row.get("lesson", ""), row.get("reference", ""),
        )
        for row in rows
    )  # fmt: skip


@lru_cache(maxsize=1)
def _by_name() -> dict[str, Term]:
    named = {name.casefold(): term for term in terms() for name in term.aka}
    return named | {term.key.casefold(): term for term in terms()}


def find(name: str) -> Term | None:
    """The term of that key or other name, in capitals or not; None when there is none."""
    return _by_name().get(name.strip().casefold())
