"""Search over everything that is written here: lessons, glossary, drill, claims, the guide's rules, pages.

    find("double quantization")[0].title

An index of SQLite's FTS5 in memory (BM25, with words reduced to their stems), made at the first search in a few tens of
milliseconds: the texts are those of this installation and do not change while it runs. Titles count more than texts.
Answers, explanations and solutions are left out: who looks something up should not be told what was going to be asked.

A result leads to its place: `page` is a page's address, `query` what to hand it, `anchor` the element to scroll to.
"""

from __future__ import annotations

import re
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from app import drill, index
from core import glossary
from core.catalog import FOLDER

if TYPE_CHECKING:
    import apsw

LESSON, TERM, QUESTION, CLAIM, RULE, PAGE = KINDS = ("lesson", "term", "question", "claim", "rule", "page")
TITLE_WEIGHT, TEXT_WEIGHT = 6.0, 1.0
OPENED, CLOSED = "\x02", "\x03"  # around what was found, until the page makes it bold
SHOWN = ("title", "text", "question", "object")
"""Fields of a cell that are searched; what explains or answers is not among them."""
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
FORMULA = re.compile(r"\$\$.*?\$\$|(?<![\\$])\$[^$\n]*\\[a-zA-Z][^$\n]*\$", re.DOTALL)
"""A formula with commands in it, which as a text is none that anybody reads."""
MARKUP = re.compile(r"[*_`$#>|]+|\{calc\}|\{term\}|\]\([^)]*\)|[\[\]]")


@dataclass(frozen=True)
class Entry:
    """Something that can be found. where: the heading that it stands under, for a person. also: other names of it."""

    kind: str
    title: str
    text: str
    where: str
    page: str
    query: dict[str, str] = field(default_factory=dict)
    also: str = ""

    @property
    def short(self) -> str:
        """Its title without a bracket that spells it out."""
        return self.title.partition(" (")[0]


@dataclass(frozen=True)
class Result:
    """A find. snippet: the place in the text, with OPENED and CLOSED around the words that were looked for."""

    entry: Entry
    snippet: str


def plain(text: str) -> str:
    """Markdown as the words that one reads, on one line."""
    return " ".join(MARKUP.sub(" ", text).split())


def anchor(heading: str) -> str:
    """The id that Streamlit gives to a Markdown heading: small letters, with hyphens for everything else."""
    return re.sub(r"[^a-z0-9]+", "-", plain(heading).lower()).strip("-")


def entries() -> Iterator[Entry]:
    """Everything that can be found."""
    from app import words
    from app.views import VIEWS

    yield from _lessons()
    for term in glossary.terms():
        yield Entry(TERM, term.name, term.text, "", "glossary", {"term": term.key}, ", ".join(term.aka))
    for question in drill.questions():
        body = question.cell.body
        yield Entry(QUESTION, body["title"], plain(body["question"]), "", "drill", {"question": question.id})
    for row in tomllib.loads((FOLDER / "claims.toml").read_text(encoding="utf-8"))["claim"]:
        text = " ".join(row["assumptions"])
        yield Entry(CLAIM, row["text"], text, "", "claims", {"at": f"claim-{row['number']}"})
    for rule in tomllib.loads((FOLDER / "guide_rules.toml").read_text(encoding="utf-8"))["rules"]:
        yield Entry(RULE, rule["id"].replace("-", " ").capitalize(), rule["because"], "", "guide")
    for view in VIEWS:
        name = view.url_path or "course"
        yield Entry(PAGE, words.t(f"page.{name}.title"), words.t(f"page.{name}.summary"), "", view.url_path)


def text_of(source: str) -> str:
    """A text of a lesson as it is read, without computed numbers: nobody looks for them, and some take a second."""
    return plain(FORMULA.sub(" … ", index.filled(source, index.ROOT, compute=lambda call, folder: "…")))


def _lessons() -> Iterator[Entry]:
    """Each cell on its own; prose by its headings."""
    found = index.lessons()
    for lesson in found:
        yield Entry(LESSON, text_of(lesson.title), text_of(lesson.summary), "", lesson.url_path)
        heading, at = text_of(lesson.title), ""
        for cell in lesson.cells:
            if cell.kind == "prose" and not cell.body.get("code"):
                parts = HEADING.split(cell.body["text"])
                # Text before the first heading, then heading and text in turn.
                for position in range(0, len(parts), 2):
                    if position:
                        heading, at = text_of(parts[position - 1]), anchor(parts[position - 1])
                    if parts[position].strip():
                        yield Entry(
                            LESSON, heading, text_of(parts[position]), lesson.navigation, lesson.url_path,
                            {"at": at} if at else {},
                        )  # fmt: skip
            elif cell.kind == "reveal":
                where = {"at": at} if at else {}
                yield Entry(LESSON, heading, text_of(cell.body["text"]), lesson.navigation, lesson.url_path, where)
            elif cell.id:
                said = " ".join(str(cell.body[f]) for f in SHOWN[1:] if cell.body.get(f))
                choices = [c.get("text", "") for c in cell.body.get("choices", ()) if isinstance(c, dict)]
                yield Entry(
                    LESSON, text_of(str(cell.body.get("title", ""))), text_of(" ".join([said, *choices])),
                    lesson.navigation, lesson.url_path, {"at": cell.id},
                )  # fmt: skip


@dataclass
class Index:
    """The texts, and where to find them by their words."""

    entries: tuple[Entry, ...]
    connection: apsw.Connection
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, found: tuple[Entry, ...]) -> Index:
        """Made in memory."""
        import apsw

        connection = apsw.Connection(":memory:")
        connection.execute(
            "CREATE VIRTUAL TABLE texts USING fts5(title, also, text,"
            " tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        with connection:
            connection.executemany(
                "INSERT INTO texts (rowid, title, also, text) VALUES (?, ?, ?, ?)",
                ((number, e.title, e.also, e.text) for number, e in enumerate(found)),
            )
        return cls(found, connection)

    def find(self, query: str, kind: str | None = None, most: int = 30) -> list[Result]:
        """The best places for all the words of `query`, the last of which may be unfinished; else for any of them."""
        wanted = [w for w in re.findall(r"\w+", query, re.UNICODE) if w]
        if not wanted:
            return []
        quoted = [f'"{w}"' for w in wanted]
        for joint in (" AND ", " OR ") if len(quoted) > 1 else (" AND ",):
            found = self._ask(joint.join([*quoted[:-1], f"({quoted[-1]} OR {quoted[-1]}*)"]), most * len(KINDS))
            kept = [r for r in found if kind in (None, r.entry.kind)]
            if kept:
                # What is called exactly so comes first.
                called = " ".join(wanted).casefold()
                kept.sort(key=lambda r: called not in (r.entry.title.casefold(), r.entry.short.casefold()))
                return kept[:most]
        return []

    def _ask(self, match: str, most: int) -> list[Result]:
        rows = (
            f"SELECT rowid, snippet(texts, 2, '{OPENED}', '{CLOSED}', '…', 24) FROM texts WHERE texts MATCH ?"
            f" ORDER BY bm25(texts, {TITLE_WEIGHT}, {TITLE_WEIGHT}, {TEXT_WEIGHT}) LIMIT ?"
        )
        with self.lock:  # one connection for all sessions
            return [Result(self.entries[row], snippet) for row, snippet in self.connection.execute(rows, (match, most))]


@lru_cache(maxsize=4)
def _index(language: str) -> Index:
    return Index.of(tuple(entries()))


def find(query: str, kind: str | None = None, language: str = "en", most: int = 30) -> list[Result]:
    """The best places for a query; `kind`: one of KINDS, or None for all. language: that of the pages' names."""
    return _index(language).find(query[:200], kind, most)
