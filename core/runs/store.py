"""The record of every run: a row in a database and a folder on disk.

What is kept: runs with their state, the events they yielded (read by cursor), and each learner's progress. SQLite in
WAL mode by default; any other database that SQLAlchemy speaks, PostgreSQL for a class.

How it stays true: every change of state is one short transaction with a compare-and-set (`update … where status = …`),
so any number of servers and workers may act at once and exactly one of them wins. What a person may see is decided in
the query itself (`where owner = …`): a foreign run and an unknown one are the same NotFound.

A run: queued → running → finished | failed | cancelled | interrupted; the last three can be resumed, which queues the
run again. Its folder `runs/<id>/` holds

    config.json                 the settings, every default filled in
    data/…                      a copy of the person's file, if they brought one
    adapter/                    what was learnt, in the method's own format
    checkpoint.safetensors      to go on from; gone once the run is finished
    log.txt                     everything the worker printed, and tracebacks
    lock                        held by the worker as long as it lives
    events.part                 events on their way to the store (core.runs.journal)

Two groups of methods: those that take an `owner` act for a person and check; those under "for workers and supervisors"
act for the machinery and must never be called with an id that came from outside.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from core.config import EMBEDDED, RunConfig, resolved
from core.errors import BadInput, NotFound, Refused
from core.runs.claims import CHECKPOINT, LOCK, Claims, size_bytes
from core.runs.locks import is_held
from core.runs.schema import events_table, owners_table, progress_table, requests_table, runs_table
from core.units import GIB, bytes_text

ACTIVE = ("queued", "running")
RESUMABLE = ("interrupted", "cancelled", "failed")
RACE = "race/"
"""What the `cell` of the runs of a race begins with (core.race); the race's id follows."""
COMPARED = "compare/"
"""What the `cell` of the runs of a comparison begins with (core.runs.together); the lesson's cell and a name follow."""
STATUSES = (*ACTIVE, "finished", *RESUMABLE)


@dataclass(frozen=True)
class Run:
    """A run as its owner sees it.

    status: queued | running | finished | failed | cancelled | interrupted. config: every default filled in; `data` is
    a path inside the folder. created, started, ended: seconds since the epoch. sentence, advice: how it ended, in
    words. resumable: it ended early and `resume` goes on from a checkpoint (without one it begins again). step, steps:
    how far it is. queue_position: 1 is next; None when it does not wait. cancelling: asked to stop, not yet stopped.
    size_bytes: what its folder holds. recorded: read from a file that was shipped, not run here.
    """

    id: str
    owner: str
    title: str | None
    cell: str | None
    status: str
    config: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    sentence: str
    advice: str
    resumable: bool
    step: int
    steps: int
    queue_position: int | None
    folder: Path
    cancelling: bool = False
    attempt: int = 0
    size_bytes: int = 0
    recorded: bool = False

    @property
    def progress(self) -> tuple[int, int]:
        """(step, steps)"""
        return self.step, self.steps

    @property
    def active(self) -> bool:
        """It waits or runs: its page should keep asking."""
        return self.status in ACTIVE

    @property
    def adapter(self) -> Path | None:
        """The folder with what was learnt, if the run got that far; it appears whole."""
        path = self.folder / "adapter"
        return path if path.is_dir() and not self.recorded else None


class _AlreadyAsked(Exception):
    """The same request came in between; carried out of a transaction, never out of this module."""


class Store(Claims):
    """Opens (and makes, or brings up to date) the store.

    Args:
        url: of the database; `$DELTALAB_STORE`, else SQLite in the data folder.
        home: the data folder; `$DELTALAB_HOME`, else the platform's.
        max_active: runs that one owner may have queued or running; `$DELTALAB_MAX_ACTIVE`, else 8.
        max_bytes: what one owner's runs may hold on disk; `$DELTALAB_MAX_BYTES`, else 20 GiB.
    """

    def __init__(
        self,
        url: str | None = None,
        home: str | Path | None = None,
        *,
        max_active: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(url, home)
        self.max_active = max_active or _whole_number("DELTALAB_MAX_ACTIVE", 8)
        self.max_bytes = max_bytes or _whole_number("DELTALAB_MAX_BYTES", 20 * GIB)
        self.reap()  # whoever opens the store sees the truth, also where no server has been watching

    # --- for people: every query asks for the owner -----------------------------------------------------------------

    def create(
        self,
        owner: str,
        config: RunConfig,
        *,
        key: str,
        title: str | None = None,
        cell: str | None = None,
        direct: bool = False,
        counts: bool = True,
    ) -> Run:
        """Queue a run. The same owner and key give the same run, however often and from wherever they are sent.

        Args:
            config: defaults are filled in and kept; a data file is copied into the run's folder.
            key: names this request; a button makes a new one per intended run.
            cell: the lesson cell it belongs to, for `runs(cell=…)`.
            direct: no supervisor takes it; the caller passes it to `core.runs.worker.execute` at once. Such a run does
                not count against the number of active runs.
            counts: whether it counts against the number of active runs; those of a race (core.race) or a
                comparison (core.runs.together) do not.

        Raises:
            BadInput: the config has problems (all of them are listed), or the file cannot be read.
            Refused: the owner has too many active runs, or too much on disk.
        """
        if not owner or not key:
            raise BadInput("A run needs an owner and a request key.")
        existing = self._requested(owner, key)
        if existing is not None:
            return existing
        config = resolved(config)
        run_id = secrets.token_hex(8)
        folder = self.runs_folder / run_id
        try:
            # The folder comes first: a row without its folder would be a run that cannot be carried out. A folder
            # without its row, should this process die in between, is removed by `sweep`.
            record = self._furnish(folder, config)
            size = size_bytes(folder)
            with self._write() as c:
                self._lock_owner(c, owner)
                if self._request(c, owner, key) is not None:
                    raise _AlreadyAsked
                self._check_quota(c, owner, size, count=counts and not direct)
                now = time.time()
                c.execute(
                    sa.insert(runs_table).values(
                        id=run_id,
                        owner=owner,
                        title=title,
                        cell=cell,
                        status="queued",
                        config=json.dumps(record),
                        created=now,
                        queued=now,
                        steps=config.train.steps or 0,
                        bytes=size,
                        **self._reserved(run_id, now if direct else None),
                    )
                )
                c.execute(sa.insert(requests_table).values(owner=owner, key=key, run=run_id))
        except (_AlreadyAsked, IntegrityError):
            shutil.rmtree(folder, ignore_errors=True)
            existing = self._requested(owner, key)
            if existing is None:
                raise
            return existing
        except (BadInput, Refused):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._changed()
        return self.get(run_id, owner)

    def get(self, run_id: str, owner: str) -> Run:
        """The run.

        Raises:
            NotFound: there is none of that id, or it is somebody else's.
        """
        with self._read() as c:
            return self._get(c, run_id, owner)

    def runs(self, owner: str, *, limit: int = 100, cell: str | None = None, active: bool = False) -> list[Run]:
        """The owner's runs, the newest first; of one cell, or only those that wait or run."""
        query = sa.select(runs_table).where(runs_table.c.owner == owner)
        if cell is not None:
            query = query.where(runs_table.c.cell == cell)
        if active:
            query = query.where(runs_table.c.status.in_(ACTIVE))
        query = query.order_by(runs_table.c.created.desc(), runs_table.c.id).limit(limit)
        with self._read() as c:
            rows = c.execute(query).all()
            places = self._places(c) if any(row.status == "queued" for row in rows) else {}
        return [self._run(row, places) for row in rows]

    def training(self) -> bool:
        """Whether a run is on now, anybody's: then the processors are not idle."""
        query = sa.select(runs_table.c.id).where(runs_table.c.status == "running").limit(1)
        with self._read() as c:
            return c.execute(query).first() is not None

    def events(
        self, run_id: str, owner: str, *, after: int = 0, kinds: Sequence[str] | None = None, limit: int = 5000
    ) -> list[tuple[int, dict[str, Any]]]:
        """What the run has said since the cursor: (seq, event as a dict), in order; the last seq is the next cursor.

        A resumed run says its later steps again: a `started` event with resumed_at = n means that whatever a reader
        has seen of steps after n (from 0: of any step) is void; it is no longer in the store either.

        Args:
            after: the cursor; 0 for everything.
            kinds: only these.
            limit: at most so many; ask again with the new cursor for the rest.

        Raises:
            NotFound: as `get`.
        """
        with self._read() as c:
            found = self._events(c, run_id, owner, after, kinds, limit)
            if not found:
                self._get(c, run_id, owner)
            return found

    def poll(
        self, run_id: str, owner: str, *, after: int = 0, kinds: Sequence[str] | None = None, limit: int = 5000
    ) -> tuple[Run, list[tuple[int, dict[str, Any]]]]:
        """`get` and `events` of one moment: when the run says that it ended and fewer than `limit` events come, that
        was all of them.

        Raises:
            NotFound: as `get`.
        """
        with self._read() as c:
            # The row first: whatever was committed with its final status can only be there for the second query too.
            run = self._get(c, run_id, owner)
            return run, self._events(c, run_id, owner, after, kinds, limit)

    def cancel(self, run_id: str, owner: str) -> Run:
        """Stop the run: at once if it waits, after the current step if it runs. Harmless when it has ended.

        Raises:
            NotFound: as `get`.
        """
        mine = (runs_table.c.id == run_id) & (runs_table.c.owner == owner)
        with self._write() as c:
            waiting = c.execute(
                sa.update(runs_table)
                .where(mine, runs_table.c.status == "queued")
                .values(
                    status="cancelled", ended=time.time(), advice="", cancel=False, slot=None, dispatched=None,
                    sentence=sa.case(
                        (runs_table.c.step > 0, "Cancelled before it went on."), else_="Cancelled before it began."
                    ),
                )
            )  # fmt: skip
            if waiting.rowcount == 0:
                c.execute(sa.update(runs_table).where(mine, runs_table.c.status == "running").values(cancel=True))
        self._changed()
        return self.get(run_id, owner)

    def resume(self, run_id: str, owner: str, *, key: str, direct: bool = False) -> Run:
        """Queue an ended run again: it goes on from its checkpoint, or begins again if there is none.

        Harmless when it is queued or running already, or when the same key was sent before.

        Args:
            direct: as in `create`.

        Raises:
            NotFound: as `get`.
            Refused: it is finished, or the owner's quota is used up.
        """
        if not key:
            raise BadInput("A resumption needs a request key.")
        with self._write() as c:
            run = self._get(c, run_id, owner)
            self._lock_owner(c, owner)
            if self._request(c, owner, key) is None:
                if run.status == "finished":
                    raise Refused("This run is finished; there is nothing to go on with.", "Start a new one.")
                if run.status in RESUMABLE:
                    self._check_quota(c, owner, 0, count=not direct)
                    now = time.time()
                    changed = c.execute(
                        sa.update(runs_table)
                        .where(
                            runs_table.c.id == run_id,
                            runs_table.c.owner == owner,
                            runs_table.c.status.in_(RESUMABLE),
                        )
                        .values(
                            status="queued",
                            queued=now,
                            ended=None,
                            sentence="",
                            advice="",
                            cancel=False,
                            again=True,
                            tries=0,
                            **self._reserved(run_id, now if direct else None),
                        )
                    )
                    if changed.rowcount:
                        # How the last attempt ended is no longer how the run ended.
                        c.execute(
                            sa.delete(events_table).where(
                                events_table.c.run == run_id, events_table.c.kind.in_(("failed", "stopped"))
                            )
                        )
                c.execute(sa.insert(requests_table).values(owner=owner, key=key, run=run_id))
        self._changed()
        return self.get(run_id, owner)

    def delete(self, run_id: str, owner: str) -> None:
        """Forget the run and remove its folder; a worker that is at it stops by itself within a second.

        Raises:
            NotFound: as `get`.
        """
        with self._write() as c:
            gone = c.execute(sa.delete(runs_table).where(runs_table.c.id == run_id, runs_table.c.owner == owner))
        if gone.rowcount == 0:
            raise _not_found(run_id)
        folder = self.runs_folder / run_id
        # While a worker writes there, the folder stays; `sweep` removes it later.
        if not is_held(folder / LOCK):
            shutil.rmtree(folder, ignore_errors=True)
        self._changed()

    def rename(self, run_id: str, owner: str, title: str) -> Run:
        """Give the run a title (its first 200 characters).

        Raises:
            NotFound: as `get`.
        """
        with self._write() as c:
            c.execute(
                sa.update(runs_table)
                .where(runs_table.c.id == run_id, runs_table.c.owner == owner)
                .values(title=title.strip()[:200] or None)
            )
        return self.get(run_id, owner)

    def progress(self, owner: str) -> dict[str, Any]:
        """Everything that `set_progress` has kept for this owner, by name."""
        query = sa.select(progress_table.c.name, progress_table.c.value).where(progress_table.c.owner == owner)
        with self._read() as c:
            return {row.name: json.loads(row.value) for row in c.execute(query.order_by(progress_table.c.name))}

    def progress_of(self, owner: str, name: str) -> Any:
        """What is kept for the owner under one name; None when nothing is."""
        mine = (progress_table.c.owner == owner) & (progress_table.c.name == name)
        with self._read() as c:
            text = c.execute(sa.select(progress_table.c.value).where(mine)).scalar()
        return None if text is None else json.loads(text)

    def progress_times(self, owner: str) -> dict[str, float]:
        """When each of these was kept last, in seconds since the epoch, by name."""
        query = sa.select(progress_table.c.name, progress_table.c.updated).where(progress_table.c.owner == owner)
        with self._read() as c:
            return {row.name: float(row.updated) for row in c.execute(query)}

    def everybody(self) -> dict[str, dict[str, tuple[Any, float]]]:
        """Everyone's progress: owner -> name -> (value, when). For the operator's class page, and for nobody else."""
        columns = progress_table.c
        query = sa.select(columns.owner, columns.name, columns.value, columns.updated).order_by(columns.owner)
        out: dict[str, dict[str, tuple[Any, float]]] = {}
        with self._read() as c:
            for row in c.execute(query):
                out.setdefault(row.owner, {})[row.name] = (json.loads(row.value), float(row.updated))
        return out

    def forget(self, owner: str, names: Iterable[str]) -> int:
        """Forget these of the owner's progress at once; how many there were."""
        mine = (progress_table.c.owner == owner) & progress_table.c.name.in_(sorted(set(names)))
        with self._write() as c:
            return int(c.execute(sa.delete(progress_table).where(mine)).rowcount)

    def set_progress(self, owner: str, name: str, value: Any) -> None:
        """Keep a JSON-ready value for the owner under a name such as `00_start_here/quiz-1`; None forgets it.

        Raises:
            BadInput: the value is not JSON, or longer than 64 KiB.
        """
        mine = (progress_table.c.owner == owner) & (progress_table.c.name == name)
        if value is None:
            with self._write() as c:
                c.execute(sa.delete(progress_table).where(mine))
            return
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadInput(f"The progress of {name!r} cannot be kept: {error}.") from error
        if len(text) > 65_536:
            raise BadInput(f"The progress of {name!r} is too long to be kept ({bytes_text(len(text))}).")
        values = {"value": text, "updated": time.time()}
        # An upsert that every database understands: the second round meets the row that came in between.
        for last in (False, True):
            try:
                with self._write() as c:
                    if c.execute(sa.update(progress_table).where(mine).values(**values)).rowcount == 0:
                        c.execute(sa.insert(progress_table).values(owner=owner, name=name, **values))
                return
            except IntegrityError:
                if last:
                    raise

    # --- parts ------------------------------------------------------------------------------------------------------

    def _furnish(self, folder: Path, config: RunConfig) -> dict[str, Any]:
        """Make the run's folder; returns its config as kept, with the data's path relative to the folder."""
        folder.mkdir(mode=0o700)
        record = config.to_dict()
        if config.data is not None:
            source = Path(config.data)
            name = re.sub(r"[^\w.-]", "_", source.name).lstrip(".")[-80:] or "data"
            (folder / "data").mkdir()
            try:
                shutil.copyfile(source, folder / "data" / name)
            except OSError as error:
                raise BadInput(
                    f"The data file {source.name} cannot be read ({error.strerror}).", "Choose the file again."
                ) from error
            record["data"] = f"data/{name}"
        if config.base != EMBEDDED and Path(config.base).expanduser().is_dir():
            # The worker has another working folder: a relative path would mean something else there.
            record["base"] = str(Path(config.base).expanduser().resolve())
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return record

    def _reserved(self, run_id: str, since: float | None) -> dict[str, Any]:
        """Values that keep a queued run for the process that asks for it (or, without a time, for nobody)."""
        slot = None if since is None else f"{self.host}/direct/{run_id}"
        return {"host": self.host, "slot": slot, "dispatched": since}

    def _requested(self, owner: str, key: str) -> Run | None:
        with self._read() as c:
            run_id = self._request(c, owner, key)
            return None if run_id is None else self._get(c, run_id, owner)

    def recount(self, run_id: str) -> None:
        """Look anew at how much a run's folder holds; nothing where it is gone, or a worker is at it, which counts
        itself."""
        size = size_bytes(self.runs_folder / run_id)
        with self._write() as c:
            c.execute(
                sa.update(runs_table)
                .where(runs_table.c.id == run_id, runs_table.c.status.not_in(ACTIVE))
                .values(bytes=size)
            )

    def _request(self, c: sa.Connection, owner: str, key: str) -> str | None:
        query = sa.select(requests_table.c.run).where(requests_table.c.owner == owner, requests_table.c.key == key)
        return c.execute(query).scalar_one_or_none()

    def _lock_owner(self, c: sa.Connection, owner: str) -> None:
        """Make everything else that counts this owner's runs wait for the end of this transaction.

        SQLite has one writer at a time anyway; elsewhere a row per owner is locked.
        """
        query = sa.select(owners_table.c.owner).where(owners_table.c.owner == owner).with_for_update()
        if c.execute(query).scalar_one_or_none() is None:
            try:
                with c.begin_nested():
                    c.execute(sa.insert(owners_table).values(owner=owner))
            except IntegrityError:
                c.execute(query).scalar_one()

    def _check_quota(self, c: sa.Connection, owner: str, size: int, *, count: bool = True) -> None:
        mine = runs_table.c.owner == owner
        cell = sa.func.coalesce(runs_table.c.cell, "")
        together = sa.or_(cell.startswith(RACE), cell.startswith(COMPARED))
        active = c.execute(
            sa.select(sa.func.count())
            .select_from(runs_table)
            .where(mine, runs_table.c.status.in_(ACTIVE), sa.not_(together))
        ).scalar_one()
        if count and active >= self.max_active:
            raise Refused(
                f"You have {active} runs queued or running, and {self.max_active} is the limit.",
                "Wait for one to end, or cancel one.",
            )
        used = c.execute(sa.select(sa.func.coalesce(sa.func.sum(runs_table.c.bytes), 0)).where(mine)).scalar_one()
        if int(used) + size > self.max_bytes:
            raise Refused(
                f"Your runs hold {bytes_text(int(used))} on disk, and {bytes_text(self.max_bytes)} is the limit.",
                "Delete runs that you no longer need.",
            )

    def _get(self, c: sa.Connection, run_id: str, owner: str) -> Run:
        row = c.execute(
            sa.select(runs_table).where(runs_table.c.id == run_id, runs_table.c.owner == owner)
        ).one_or_none()
        if row is None:
            raise _not_found(run_id)
        return self._run(row, self._places(c) if row.status == "queued" else {})

    def _events(
        self, c: sa.Connection, run_id: str, owner: str, after: int, kinds: Sequence[str] | None, limit: int
    ) -> list[tuple[int, dict[str, Any]]]:
        query = (
            sa.select(events_table.c.seq, events_table.c.payload)
            .join(runs_table, runs_table.c.id == events_table.c.run)
            .where(events_table.c.run == run_id, runs_table.c.owner == owner, events_table.c.seq > after)
        )
        if kinds is not None:
            query = query.where(events_table.c.kind.in_(tuple(kinds)))
        rows = c.execute(query.order_by(events_table.c.seq).limit(limit)).all()
        return [(row.seq, json.loads(row.payload)) for row in rows]

    def _run(self, row: sa.Row[Any], places: Mapping[str, int]) -> Run:
        folder = self.runs_folder / row.id
        return Run(
            id=row.id,
            owner=row.owner,
            title=row.title,
            cell=row.cell,
            status=row.status,
            config=json.loads(row.config),
            created=row.created,
            started=row.started,
            ended=row.ended,
            sentence=row.sentence,
            advice=row.advice,
            resumable=row.status in RESUMABLE and (folder / CHECKPOINT).exists(),
            step=row.step,
            steps=row.steps,
            queue_position=places.get(row.id),
            folder=folder,
            cancelling=bool(row.cancel) and row.status == "running",
            attempt=row.attempt,
            size_bytes=row.bytes,
        )


def _not_found(run_id: str) -> NotFound:
    return NotFound(f"There is no run {run_id[:40]!r} here.", "It may have been deleted; see the Runs page.")


def _whole_number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdigit() or int(text) < 1:
        raise BadInput(f"{variable} must be a whole number of at least 1, not {text!r}.")
    return int(text)


def as_public(run: Run) -> dict[str, Any]:
    """The run as JSON for its owner's browser or terminal: everything but the path of its folder."""
    out = dataclasses.asdict(run)
    del out["folder"]
    return out
