"""One person's indexes, in the data folder: the small world's table to change facts in, and their own documents.

    desk = Desk(home, owner)
    desk.world()                 the table of people; made at the first call
    desk.change("Ada Moss", "city", "Oslo")
    desk.own()                   their documents

The folder's name tells nothing about the owner, and a name from a page never becomes a path.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core.errors import BadInput, NotFound
from core.rag.quality import world_documents, world_people
from core.rag.read import Document
from core.rag.store import Change, Store
from core.world import NEWCOMERS
from core.world.people import ATTRIBUTES, STATEMENTS, VALUES, say

MOST_CHUNKS = 20_000  # of own documents
TABLE = 220  # people


@dataclass(frozen=True)
class Changed:
    """A row that was changed: its text before and after, what that did to the index, and the seconds it took."""

    before: str
    after: str
    change: Change
    seconds: float


class Desk:
    """See the module. Several may be open on the same folder."""

    def __init__(self, home: Path, owner: str) -> None:
        self.folder = home / "rag" / hashlib.sha256(owner.encode()).hexdigest()[:24]

    def world(self) -> Store:
        """The table of 220 people; to be closed."""
        store = Store(self.folder / "world", create=True)
        if not len(store):
            store.put(world_documents(TABLE))
        return store

    def own(self) -> Store:
        """Their documents; to be closed."""
        return Store(self.folder / "own", create=True)

    def add(self, documents: list[Document]) -> Change:
        """Index own documents.

        Raises:
            BadInput: they would be too many.
        """
        with self.own() as store:
            words = sum(len(d.text.split()) for d in documents)
            if len(store) + words / max(1, store.cutting.words - store.cutting.overlap) > MOST_CHUNKS:
                raise BadInput(
                    f"That would be more than {MOST_CHUNKS:,} passages.",
                    "Index them in the terminal (deltalab rag index), which has no limit.",
                )
            return store.put(documents)

    def forget(self, what: str) -> None:
        """Remove an index: 'world' goes back to how it began, 'own' is emptied."""
        if what not in ("world", "own"):
            raise BadInput(f"There is no index called {what!r}.", "There are world and own.")
        shutil.rmtree(self.folder / what, ignore_errors=True)

    def row(self, name: str) -> Document:
        """A person's row, as it is now.

        Raises:
            NotFound: nobody has that name.
        """
        with self.world() as store:
            for chunk in store.chunks([i for i, _ in store.matching(name, 20)]):
                if name in chunk.text:
                    return Document(chunk.source, chunk.text, chunk.place, chunk.kind)
        raise NotFound(f"The table has no row of {name!r}.", "Choose one of its people.")

    def change(self, name: str, attribute: str, value: str) -> Changed:
        """Change one fact of a person and index the row again.

        Raises:
            NotFound: nobody has that name. BadInput: no such attribute or value.
        """
        if attribute not in ATTRIBUTES or value not in VALUES[attribute]:
            raise BadInput(f"{value!r} is no {attribute} of the small world.", "Choose one of its words.")
        row = self.row(name)
        sentences = [s if s.endswith(".") else f"{s}." for s in row.text.split(". ")]
        # Each kind of fact has a sentence of its own, in one of its wordings.
        told = [say(w, name, v) for w in STATEMENTS[attribute] for v in VALUES[attribute]]
        place = next(i for i, s in enumerate(sentences) if s in told)
        wording = next(
            w for w in STATEMENTS[attribute] for v in VALUES[attribute] if say(w, name, v) == sentences[place]
        )
        sentences[place] = say(wording, name, value)
        after = Document(row.source, " ".join(sentences), row.place, row.kind)
        began = time.perf_counter()
        with self.world() as store:
            change = store.put([after])
        return Changed(row.text, after.text, change, time.perf_counter() - began)


def value_in(text: str, name: str, attribute: str) -> str:
    """The value that a row tells of a person under an attribute; "" if it tells none."""
    for wording in STATEMENTS[attribute]:
        for value in VALUES[attribute]:
            if say(wording, name, value) in text:
                return value
    return ""


def subject(text: str) -> str:
    """Whom a row of the table is about; "" of any other text."""
    return next((name for name in _everybody() if name in text), "")


@lru_cache(maxsize=1)
def _everybody() -> tuple[str, ...]:
    """All names of the table, the longest first."""
    return tuple(sorted((p.name for p in world_people(TABLE, 0)), key=len, reverse=True))


PEOPLE = tuple(person.name for person in NEWCOMERS)
"""Whose facts a page lets people change: those whom the base has never met."""
