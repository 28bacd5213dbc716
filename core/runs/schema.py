"""The store's tables and the database they live in.

SQLite in WAL mode by default; any other database that SQLAlchemy speaks. Whatever only SQLite understands stands in
the two hooks of `make_engine`; everything else is portable.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from core.errors import DeltalabError, Refused
from core.runs.home import data_home

SCHEMA_VERSION = 1
OPENING_TRIES = 8

metadata = sa.MetaData()
_seconds = sa.Double  # since the epoch

meta_table = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
owners_table = sa.Table("owners", metadata, sa.Column("owner", sa.String(255), primary_key=True))
runs_table = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("title", sa.String(255)),
    sa.Column("cell", sa.String(255)),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("created", _seconds, nullable=False),
    sa.Column("queued", _seconds, nullable=False),
    sa.Column("started", _seconds),
    sa.Column("ended", _seconds),
    sa.Column("sentence", sa.Text, nullable=False, default=""),
    sa.Column("advice", sa.Text, nullable=False, default=""),
    sa.Column("step", sa.Integer, nullable=False, default=0),
    sa.Column("steps", sa.Integer, nullable=False, default=0),
    sa.Column("cancel", sa.Boolean, nullable=False, default=False),
    sa.Column("again", sa.Boolean, nullable=False, default=False),  # resumed: go on from the checkpoint
    sa.Column("attempt", sa.Integer, nullable=False, default=0),  # raised by every claim; fences off older workers
    sa.Column("attempt_seq", sa.Integer, nullable=False, default=0),  # last_seq when the attempt began
    sa.Column("last_seq", sa.Integer, nullable=False, default=0),  # never goes back, so that a cursor never lies
    sa.Column("host", sa.String(255)),
    # "host/slot" while the run is handed out or running, else null: unique, so a slot cannot be given twice.
    sa.Column("slot", sa.String(255), unique=True),
    sa.Column("dispatched", _seconds),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("beat", _seconds),
    sa.Column("bytes", sa.BigInteger, nullable=False, default=0),
    sa.Index("runs_by_owner", "owner", "created"),
)
requests_table = sa.Table(
    "requests",
    metadata,
    sa.Column("owner", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("run", sa.String(32), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
)
events_table = sa.Table(
    "events",
    metadata,
    sa.Column("run", sa.String(32), sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("step", sa.Integer),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("time", _seconds, nullable=False),
)
progress_table = sa.Table(
    "progress",
    metadata,
    sa.Column("owner", sa.String(255), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("updated", _seconds, nullable=False),
)

# version -> what brings a store of the version before up to it. Version 1 is `metadata.create_all`.
MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {}


class Database:
    """An opened store: made, or brought up to date, on opening.

    Args:
        url: of the database; `$DELTALAB_STORE`, else SQLite in the data folder.
        home: the data folder; `$DELTALAB_HOME`, else the platform's.
    """

    def __init__(self, url: str | None = None, home: str | Path | None = None) -> None:
        self.home = data_home(home)
        self.runs_folder = self.home / "runs"
        self.runs_folder.mkdir(mode=0o700, exist_ok=True)
        self.url = url or os.environ.get("DELTALAB_STORE") or f"sqlite:///{self.home / 'deltalab.db'}"
        self.host = platform.node() or "localhost"
        self.engine = make_engine(self.url)
        self._writing = self.engine.execution_options(deltalab_writes=True)
        self._listeners: list[Callable[[], None]] = []
        self._prepare()

    def close(self) -> None:
        """Let go of the database connections; the store may be used again and will open new ones."""
        self.engine.dispose()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` (quickly, from any thread) whenever this object queued a run or freed a slot."""
        self._listeners.append(listener)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """One short transaction; a SQLite one takes the writer's lock at its start, so it cannot fail half-way."""
        with self._writing.connect() as connection, connection.begin():
            yield connection

    def _prepare(self) -> None:
        # Several processes may open a new store at once; who comes second finds the tables made.
        for attempt in range(1, OPENING_TRIES + 1):
            try:
                self._bring_up_to_date()
                return
            except DatabaseError as error:
                if attempt == OPENING_TRIES:
                    where = self.engine.url.render_as_string(hide_password=True)
                    raise DeltalabError(
                        f"The store {where} cannot be opened ({error.orig}).",
                        "See that the folder is writable and its disk not full, or that the database server runs.",
                    ) from error
                time.sleep(0.05 * attempt)

    def _bring_up_to_date(self) -> None:
        with self._read() as c:
            if sa.inspect(c).has_table("meta") and _version(c) == SCHEMA_VERSION:
                return
        with self._write() as c:
            metadata.create_all(c)
            found = _version(c)
            if found is None:
                c.execute(sa.insert(meta_table).values(name="schema", value=str(SCHEMA_VERSION)))
                return
            if found > SCHEMA_VERSION:
                raise Refused(
                    f"The store was written by a newer version of Deltalab (its format is {found}, "
                    f"this program knows {SCHEMA_VERSION}).",
                    "Update Deltalab, or set DELTALAB_HOME to another folder.",
                )
            for version in range(found + 1, SCHEMA_VERSION + 1):
                MIGRATIONS[version](c)
            c.execute(sa.update(meta_table).where(meta_table.c.name == "schema").values(value=str(SCHEMA_VERSION)))


def _version(c: sa.Connection) -> int | None:
    value = c.execute(sa.select(meta_table.c.value).where(meta_table.c.name == "schema")).scalar_one_or_none()
    return None if value is None else int(value)


def make_engine(url: str) -> sa.Engine:
    """An engine for the URL; for SQLite with what makes it safe between processes."""
    made = sa.make_url(url)
    if made.get_backend_name() != "sqlite":
        return sa.create_engine(made, pool_pre_ping=True)
    if made.database and made.database != ":memory:":
        # Made here and not by SQLite, which would let the group and others read it; its WAL gets the same mode.
        # Only if it is new: closing a descriptor of the file drops the POSIX locks that SQLite holds on it anywhere in
        # this process, and the next process to close the database would then remove a WAL that is still in use.
        with suppress(FileExistsError):
            os.close(os.open(made.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = sa.create_engine(made, connect_args={"timeout": 30.0})

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own; `begun` below does
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")  # with WAL: kills lose nothing, a power cut the last commits
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        # A writer that begins as a reader can fail when it turns into one (SQLITE_BUSY without waiting).
        writes = connection.get_execution_options().get("deltalab_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
