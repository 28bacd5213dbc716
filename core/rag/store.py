"""The index on disk: chunks with their text, their words and their vectors, in one file.

What: SQLite, with FTS5 for the words (BM25: Robertson and Zaragoza 2009) and sqlite-vec for the vectors (exact nearest
neighbours). A document's chunks, words and vectors go in and out in one transaction, so a kill at any moment leaves all
of it or none (write-ahead log, synchronous), and whoever indexes again adds what is missing and nothing twice.

Why these: retrieval here means tens to hundreds of thousands of chunks on a laptop, where exact search takes tens of
milliseconds and forgets no neighbour. LanceDB is ten times the size of both packages and commits text and vectors by
versions of files, whose lexical index follows later; Qdrant's local mode keeps pickles; bm25s has to build its index
anew when a row changes, which is the very thing that retrieval is praised for. apsw brings SQLite along: Python's own
module often cannot load extensions (pyenv's and macOS's builds leave that out).

What it is not: a server. One process writes at a time, others wait.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput, NotFound, Refused
from core.rag.chunks import Cutting, cut
from core.rag.embed import DEFAULT, Embedder, embedder
from core.rag.read import Document

if TYPE_CHECKING:
    import apsw

FORMAT = 1
FILE = "index.db"
WAIT_MS = 10_000  # for another process that writes
AT_ONCE = 2_000  # chunks in a transaction, about: a kill loses at most so many, which the next indexing adds again
NEAREST = 4096  # most neighbours that sqlite-vec looks for
# Query words that stand in more than this share of a large index say next to nothing and cost most of the search.
COMMON_SHARE, COMMON_LEAST = 0.1, 2_000

# A search reads every vector: with large pages that are mapped into memory in half the time of SQLite's small ones.
# (The page's size is settled when the file is made.)
PRAGMAS = (
    "page_size = 32768", "mmap_size = 1073741824", "cache_size = -65536", "journal_mode = WAL", "synchronous = FULL",
    "foreign_keys = ON",
)  # fmt: skip

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, source TEXT NOT NULL, place TEXT NOT NULL, kind TEXT NOT NULL,
  digest TEXT NOT NULL
);
CREATE INDEX documents_source ON documents (source);
CREATE TABLE chunks (
  id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (id), number INTEGER NOT NULL,
  start INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE (document, number)
);
CREATE VIRTUAL TABLE words USING fts5 (text, content='chunks', content_rowid='id', tokenize='porter unicode61');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (words, row);
CREATE TRIGGER chunk_in AFTER INSERT ON chunks BEGIN
  INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER chunk_out AFTER DELETE ON chunks BEGIN
  INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
  DELETE FROM vectors WHERE id = old.id;
END;
"""


@dataclass(frozen=True)
class Chunk:
    """A stored piece. source, place, kind: as of its document. number: which of the document's chunks, from 0.
    start: its first character in the document."""

    id: int
    source: str
    place: str
    kind: str
    number: int
    start: int
    text: str

    @property
    def citation(self) -> str:
        """How it is cited: 'people.csv, row 17'."""
        return ", ".join(part for part in (self.source, self.place) if part)


@dataclass(frozen=True)
class Where:
    """A filter. sources: only chunks of these; kinds: only of files with these endings. Empty: all."""

    sources: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sources or self.kinds)


EVERYTHING = Where()


@dataclass(frozen=True)
class Change:
    """What a call did to the index, in chunks; unchanged: documents that were there already, word for word."""

    added: int = 0
    removed: int = 0
    unchanged: int = 0

    def __add__(self, other: Change) -> Change:
        return Change(self.added + other.added, self.removed + other.removed, self.unchanged + other.unchanged)


class Store:
    """An index in a folder; made there if there is none and `create` says so.

    Args:
        folder: its own. ":memory:" keeps it in memory.
        embed: the embedder's name; None takes the one that the index was made with (a new one: the default).
        cutting: how documents are cut; None likewise.

    Raises:
        NotFound: there is no index. BadInput: it was made with another embedder, is none of ours or damaged, or its
            folder cannot be made. BaseUnavailable: as `embed.embedder`.

    Whatever reads or writes raises BadInput if the file turns out to be damaged; it is never mended or removed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        embed: str | Embedder | None = None,
        cutting: Cutting | None = None,
        create: bool = False,
    ) -> None:
        import apsw
        import sqlite_vec

        self.folder = Path(folder)
        self._mutex = threading.RLock()
        path = ":memory:" if str(folder) == ":memory:" else str(self.folder / FILE)
        if path != ":memory:":
            _prepare(self.folder, create)
        with _in_words():
            self._db: apsw.Connection = apsw.Connection(path)
        try:
            self._db.set_busy_timeout(WAIT_MS)
            self._db.enable_load_extension(True)
            self._db.load_extension(sqlite_vec.loadable_path())
            self._db.enable_load_extension(False)
            # Under FULL a committed transaction outlives not only a killed process but a lost power supply.
            with _in_words():
                for pragma in PRAGMAS:
                    self._db.execute(f"PRAGMA {pragma}")
                self._open(embed, cutting, create)
        except BaseException:
            self._db.close()
            raise

    def _open(self, embed: str | Embedder | None, cutting: Cutting | None, create: bool) -> None:
        with self._writing() if create else _nothing():
            if not list(self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'")):
                if list(self._db.execute("SELECT 1 FROM sqlite_master")) or not create:
                    raise BadInput(f"{self.folder} holds no index of ours.", "Name another folder.")
                self.embedder = _made(embed, DEFAULT)
                self.cutting = cutting or Cutting()
                self._db.execute(
                    f"CREATE VIRTUAL TABLE vectors USING vec0 (id INTEGER PRIMARY KEY, "
                    f"vector FLOAT[{self.embedder.dimensions}])"
                )
                self._db.execute(_TABLES)
                facts = {
                    "format": FORMAT, "embedder": self.embedder.name, "version": self.embedder.version,
                    "cutting": dataclasses.asdict(self.cutting),
                }  # fmt: skip
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in facts.items()])
                return
        kept, made_with = self._kept()
        wanted = embed if isinstance(embed, str) or embed is None else embed.name
        if wanted is not None and wanted != kept["embedder"]:
            raise BadInput(
                f"This index was made with the embedder {kept['embedder']}, and its vectors cannot be compared with "
                f"those of {wanted}.",
                "Leave the embedder out, or index the documents anew in another folder.",
            )
        self.embedder = _made(embed, kept["embedder"])
        if self.embedder.version != kept["version"]:
            raise BadInput(
                f"The embedder {kept['embedder']} is another version now ({self.embedder.version}) than when this "
                f"index was made ({kept['version']}).",
                "Index the documents again.",
            )
        self.cutting = made_with
        if cutting is not None and cutting != self.cutting:
            raise BadInput(
                f"This index cuts into {self.cutting.words} words with an overlap of {self.cutting.overlap}.",
                "Leave the lengths out, or index the documents anew in another folder.",
            )

    def _kept(self) -> tuple[dict[str, Any], Cutting]:
        """What the index says of how it was made."""
        try:
            kept = {str(k): json.loads(str(v)) for k, v in self._all("SELECT key, value FROM meta")}
            if kept["format"] != FORMAT:
                raise BadInput("This index was made by another version of Deltalab.", "Index the documents again.")
            return {key: str(kept[key]) for key in ("embedder", "version")}, Cutting(**kept["cutting"])
        except (ValueError, KeyError, TypeError) as why:
            raise _damaged("how it was made cannot be read") from why

    def close(self) -> None:
        """Let go of the file."""
        with self._mutex:
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it, or none.

        Raises:
            Refused: another process has been writing for too long, or the disk is full. BadInput: the file is damaged.
        """
        with self._mutex, _in_words():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # --- in and out -------------------------------------------------------------------------------------------------

    def put(self, documents: Iterable[Document]) -> Change:
        """Insert documents, or replace those of the same name; what is there already word for word is left alone.

        Committed every so many chunks, so that a kill loses little; each document whole.
        """
        change = Change()
        waiting: list[tuple[Document, str, list[Any]]] = []
        held = 0
        for document in documents:
            with _in_words():
                digest = hashlib.sha256(f"{document.kind}\n{document.text}".encode()).hexdigest()
            found = self._all("SELECT digest FROM documents WHERE name = ?", (document.name,))
            if found and found[0][0] == digest:
                change += Change(unchanged=1)
                continue
            pieces = cut(document.text, self.cutting)
            waiting.append((document, digest, pieces))
            held += len(pieces)
            if held >= AT_ONCE:
                change += self._commit(waiting)
                waiting, held = [], 0
        return change + self._commit(waiting) if waiting else change

    def _commit(self, waiting: Sequence[tuple[Document, str, list[Any]]]) -> Change:
        vectors = self.embedder.documents([piece.text for _, _, pieces in waiting for piece in pieces])
        added = removed = 0
        with self._writing():
            for document, digest, pieces in waiting:
                removed += self._remove("name = ?", (document.name,))
                self._db.execute(
                    "INSERT INTO documents (name, source, place, kind, digest) VALUES (?, ?, ?, ?, ?)",
                    (document.name, document.source, document.place, document.kind, digest),
                )
                owner = self._db.last_insert_rowid()
                for number, piece in enumerate(pieces):
                    self._db.execute(
                        "INSERT INTO chunks (document, number, start, text) VALUES (?, ?, ?, ?)",
                        (owner, number, piece.start, piece.text),
                    )
                    self._db.execute(
                        "INSERT INTO vectors (id, vector) VALUES (?, ?)",
                        (self._db.last_insert_rowid(), vectors[added].tobytes()),
                    )
                    added += 1
        return Change(added, removed)

    def _remove(self, condition: str, values: tuple[Any, ...]) -> int:
        owners = [int(row[0]) for row in self._all(f"SELECT id FROM documents WHERE {condition}", values)]
        gone = 0
        for owner in owners:
            self._db.execute("DELETE FROM chunks WHERE document = ?", (owner,))
            gone += self._db.changes()
            self._db.execute("DELETE FROM documents WHERE id = ?", (owner,))
        return gone

    def delete(self, source: str) -> Change:
        """Remove everything of a source.

        Raises:
            NotFound: there is nothing of it.
        """
        with self._writing():
            removed = self._remove("source = ?", (source,))
        if not removed:
            raise NotFound(f"The index holds nothing of {source!r}.", "See its sources.")
        return Change(removed=removed)

    # --- looking ----------------------------------------------------------------------------------------------------

    def _all(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; no query here has empty cells, so that one in them tells of damage."""
        with self._mutex, _in_words():
            rows = list(self._db.execute(query, values))
        if any(None in row for row in rows):
            raise _damaged("a value is missing")
        return rows

    def __len__(self) -> int:
        return int(self._all("SELECT count(*) FROM chunks")[0][0])

    def sources(self) -> dict[str, int]:
        """Source -> number of its chunks, by name."""
        rows = self._all(
            "SELECT source, count(chunks.id) FROM documents LEFT JOIN chunks ON document = documents.id "
            "GROUP BY source ORDER BY source"
        )
        return {str(name): int(count) for name, count in rows}

    def chunks(self, ids: Sequence[int] | None = None) -> list[Chunk]:
        """Chunks by their ids, in that order (ids that are gone are left out); all of them, by id, if None."""
        query = (
            "SELECT chunks.id, source, place, kind, number, start, text FROM chunks "
            "JOIN documents ON documents.id = document"
        )
        if ids is None:
            return [_chunk(row) for row in self._all(f"{query} ORDER BY chunks.id")]
        rows = self._all(f"{query} WHERE chunks.id IN (SELECT value FROM json_each(?))", (json.dumps([*ids]),))
        found = {row[0]: _chunk(row) for row in rows}
        return [found[i] for i in ids if i in found]

    def nearest(self, vector: Any, count: int, where: Where = EVERYTHING) -> list[tuple[int, float]]:
        """(chunk id, cosine) of the `count` nearest chunks (NEAREST at most), nearest first.

        Vectors have length 1, so |a − b|² = 2 − 2 cos(a, b), and the order of distances is that of cosines.
        """
        condition, values = _condition(where)
        limit = f"AND id IN (SELECT chunks.id FROM chunks JOIN documents ON documents.id = document WHERE {condition})"
        rows = self._all(
            f"SELECT id, distance FROM vectors WHERE vector MATCH ? AND k = ? {limit if where else ''}",
            (vector.tobytes(), min(count, NEAREST), *values),
        )
        return [(int(i), 1 - float(d) ** 2 / 2) for i, d in rows]

    def matching(self, question: str, count: int, where: Where = EVERYTHING) -> list[tuple[int, float]]:
        """(chunk id, BM25) of the `count` chunks that share the question's words most tellingly, best first.

        Any word will do; words stand for their stems. In a large index the words that a tenth of it holds are left
        out, as long as rarer ones are left.
        """
        # Small letters as the tokenizer of FTS5 makes them: it keeps ß, which casefold() would write as ss.
        words = self._telling(list(dict.fromkeys(re.findall(r"\w+", question.lower()))))
        if not words:
            return []
        condition, values = _condition(where)
        limit = (
            f"AND rowid IN (SELECT chunks.id FROM chunks JOIN documents ON documents.id = document WHERE {condition})"
        )
        rows = self._all(
            f"SELECT rowid, rank FROM words WHERE words MATCH ? {limit if where else ''} ORDER BY rank, rowid LIMIT ?",
            (" OR ".join(f'"{w}"' for w in words), *values, count),
        )
        return [(int(i), -float(rank)) for i, rank in rows]

    def _telling(self, words: list[str]) -> list[str]:
        """The question's words that are not too common, or the rarest."""
        size = self._size()
        if size < COMMON_LEAST:
            return words
        most = int(COMMON_SHARE * size)
        counts = {w: self._count(w, most + 1) for w in words}
        rare = [w for w in words if counts[w] <= most]
        if any(counts[w] for w in rare):
            return rare
        known = [w for w in words if counts[w]]
        return [min(known, key=counts.__getitem__)] if known else []

    def _count(self, word: str, most: int) -> int:
        """How many chunks hold a word (its stem); `most` if there are more."""
        found = self._all("SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)", (f'"{word}"', most))
        return int(found[0][0])

    def _size(self) -> int:
        """About how many chunks there are, without counting them: the last one's id."""
        return int(self._all("SELECT coalesce(max(id), 0) FROM chunks")[0][0])

    @property
    def empty(self) -> bool:
        """Whether there is no chunk."""
        return self._size() == 0

    def check(self) -> list[str]:
        """What is inconsistent, as sentences; empty if every chunk has its words and its vector, once."""
        out: list[str] = []
        try:
            self._check(out)
        except BadInput as why:  # it could not even be looked for
            out.append(why.sentence)
        return out

    def _check(self, out: list[str]) -> None:
        if (verdict := self._all("PRAGMA integrity_check")) != [("ok",)]:
            out.append(f"SQLite finds the file damaged: {verdict[0][0]}.")
        for table, column in (("vectors", "id"), ("words", "rowid")):
            lost = self._all(
                f"SELECT (SELECT count(*) FROM chunks WHERE id NOT IN (SELECT {column} FROM {table})), "
                f"(SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT id FROM chunks))"
            )[0]
            if any(lost):
                out.append(f"{lost[0]} chunks have no {table}, and {lost[1]} {table} have no chunk.")
        empty = self._all("SELECT count(*) FROM documents WHERE id NOT IN (SELECT document FROM chunks)")[0][0]
        if empty:
            out.append(f"{empty} documents have no chunk.")
        with self._mutex, _in_words():
            import apsw

            try:
                self._db.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
            except apsw.CorruptError:
                out.append("The words do not fit the chunks.")

    def size_bytes(self) -> int:
        """Bytes on disk (in memory: of its pages)."""
        pages, size = self._all("PRAGMA page_count")[0][0], self._all("PRAGMA page_size")[0][0]
        return int(pages) * int(size)


def _made(embed: str | Embedder | None, name: str) -> Embedder:
    """The embedder itself, by its own name or by `name`."""
    return embedder(embed or name) if embed is None or isinstance(embed, str) else embed


def _prepare(folder: Path, create: bool) -> None:
    """Make the index's folder, or see that there is an index."""
    with _in_words():
        str(folder).encode()  # SQLite takes no other names
    try:
        if not (folder / FILE).exists() and not create:
            raise NotFound(f"There is no index in {folder}.", "Make one with `deltalab rag index`.")
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BadInput(f"{folder} is a file, and an index is a folder.", "Name another place for it.") from None
    except (OSError, ValueError) as why:
        reason = (why.strerror if isinstance(why, OSError) else "") or why
        raise BadInput(f"{folder} cannot hold an index: {reason}.", "Name a folder that you may write to.") from why


def _damaged(how: str) -> BadInput:
    """What is said of a damaged file. It is left as it is: a part of it may be all that is left of the documents."""
    return BadInput(
        f"This index is damaged ({how}).",
        "It was left as it is. Remove it and index the documents again, or index them elsewhere.",
    )


@contextmanager
def _in_words() -> Iterator[None]:
    """What SQLite finds wrong, said to people. What only a mistake of ours can cause goes through."""
    import apsw

    try:
        yield
    except (apsw.BusyError, apsw.LockedError, apsw.ProtocolError):
        raise Refused("Another process is writing to this index.", "Try again when it is done.") from None
    except apsw.FullError:
        raise Refused("The disk is full; the index is as it was.", "Free some space and try again.") from None
    except apsw.NotADBError:
        raise BadInput(
            f"The file {FILE} in this folder is no index, or a damaged one.",
            "It was left as it is. Name the folder of an index, or another one.",
        ) from None
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as why:
        raise BadInput(f"This index cannot be opened or written ({why}).", "Check its permissions.") from why
    except apsw.IOError as why:
        raise BadInput(f"The disk fails to read or write this index ({why}).", "Check the disk.") from why
    except UnicodeEncodeError as why:
        held = f"{why.object[max(0, why.start - 20) : why.end + 20]!r}"
        raise BadInput(f"{held} holds what is not valid UTF-8.", "Write or name it without that.") from why
    except UnicodeDecodeError as why:
        raise _damaged("a text in it is not valid UTF-8") from why
    except (
        apsw.CorruptError, apsw.SQLError, apsw.FormatError, apsw.MismatchError, apsw.ConstraintError,
        apsw.InternalError, apsw.TooBigError,
    ) as why:  # fmt: skip
        raise _damaged(str(why)) from why


_TYPES = (int, str, str, str, int, int, str)


def _chunk(row: tuple[Any, ...]) -> Chunk:
    if tuple(map(type, row)) != _TYPES:
        raise _damaged("a passage is not what it should be")
    return Chunk(*row)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _condition(where: Where) -> tuple[str, tuple[str, ...]]:
    parts = []
    values = []
    for column, wanted in (("source", where.sources), ("kind", where.kinds)):
        if wanted:
            parts.append(f"{column} IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(list(wanted)))
    return " AND ".join(parts), tuple(values)
