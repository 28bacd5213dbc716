"""The side of the store that workers and supervisors use: who carries out which run, and what it said.

Every change of state is one short transaction with a compare-and-set, so any number of supervisors and workers may act
at once and exactly one of them wins. Nothing here asks who owns a run: never pass an id that came from outside.

How a run changes hands: a supervisor *dispatches* it (a reservation of the run and a slot for each other, which
lapses), a worker takes the run's file lock and *claims* it, *records* events, and with the last of them says how the
run ended. Whoever finds a running run whose lock is free *reaps* it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from core.config import RunConfig
from core.runs import journal
from core.runs.locks import FileLock, is_held
from core.runs.queue import Waiting, fair_order
from core.runs.schema import Database, events_table, runs_table

CHECKPOINT = "checkpoint.safetensors"  # core.train's name for it; importing that would import torch
LOCK = "lock"

# A run handed to a worker that has not taken it (and its lock) after this long may be handed to another.
LEASE_SECONDS = 5.0
# A running run on another machine, whose lock this one may not see, counts as dead after this long without a beat.
REMOTE_SILENCE_SECONDS = 60.0
# A run whose workers died this often before they even took it is given up.
MAX_TRIES = 3
# Folders without a row that are younger than this may belong to a run that is just being created.
ORPHAN_SECONDS = 600.0


@dataclass(frozen=True)
class Claim:
    """The right to carry out a run, held by the one worker that has its lock. attempt fences off all others."""

    id: str
    attempt: int
    settings: dict[str, Any]
    folder: Path
    resume: bool
    next_seq: int

    def config(self) -> RunConfig:
        """The run's config, with the data's path as this process finds it.

        Raises:
            BadInput: it was written by a version that knew other settings.
        """
        record = dict(self.settings)
        if record.get("data"):
            record["data"] = str(self.folder / record["data"])
        return RunConfig.from_dict(record)


@dataclass(frozen=True)
class Orders:
    """What a worker learns when it writes: the run is gone (or taken away), or it is to stop."""

    gone: bool
    cancel: bool


class Claims(Database):
    """What workers and supervisors do with the store."""

    def claim(self, run_id: str, *, resume: bool | None = None) -> Claim | None:
        """Take a queued run. The caller holds its lock. None: it is gone, cancelled, or not queued any more.

        Args:
            resume: whether to go on from the checkpoint; as the run was queued when None.
        """
        self.absorb(run_id)
        now = time.time()
        with self._write() as c:
            changed = c.execute(
                sa.update(runs_table)
                .where(runs_table.c.id == run_id, runs_table.c.status == "queued")
                .values(
                    status="running", started=now, ended=None, beat=now, host=self.host, tries=0,
                    attempt=runs_table.c.attempt + 1, attempt_seq=runs_table.c.last_seq,
                    sentence="", advice="", cancel=False,
                )
            )  # fmt: skip
            if changed.rowcount == 0:
                return None
            row = c.execute(sa.select(runs_table).where(runs_table.c.id == run_id)).one()
        folder = self.runs_folder / run_id
        wanted = row.again if resume is None else resume
        return Claim(
            id=run_id,
            attempt=row.attempt,
            settings=json.loads(row.config),
            folder=folder,
            resume=wanted and (folder / CHECKPOINT).exists(),
            next_seq=row.last_seq + 1,
        )

    def record(
        self,
        claim: Claim,
        events: Sequence[tuple[int, dict[str, Any]]],
        *,
        final: tuple[str, str, str] | None = None,
    ) -> Orders:
        """Write a worker's events, its sign of life and (with them, in one transaction) how the run ended.

        Args:
            events: (seq, event), seq rising, none written before.
            final: (status, sentence, advice).
        """
        with self._write() as c:
            row = c.execute(
                sa.select(runs_table.c.attempt, runs_table.c.status, runs_table.c.cancel)
                .where(runs_table.c.id == claim.id)
                .with_for_update()
            ).one_or_none()
            if row is None or row.attempt != claim.attempt or row.status != "running":
                return Orders(gone=True, cancel=True)
            values: dict[str, Any] = {"beat": time.time()}
            if events:
                values |= self._insert_events(c, claim.id, events)
            if any(event["kind"] == "saved" for _, event in events) or final:
                values["bytes"] = size_bytes(claim.folder)
            if final:
                values |= _ended(*final)
            c.execute(sa.update(runs_table).where(runs_table.c.id == claim.id).values(**values))
            return Orders(gone=False, cancel=bool(row.cancel))

    def absorb(self, run_id: str) -> None:
        """Move what a dead worker left in its journal into the store. The caller holds the run's lock.

        If the worker got as far as saying how the run ended, the run has ended that way.
        """
        folder = self.runs_folder / run_id
        left = journal.leftover(folder)
        if not left:
            return
        with self._write() as c:
            row = c.execute(
                sa.select(runs_table.c.last_seq, runs_table.c.status, runs_table.c.cancel).where(
                    runs_table.c.id == run_id
                )
            ).one_or_none()
            new = [(seq, event) for seq, event in left if row is not None and seq > row.last_seq]
            if row is not None and new:
                values = self._insert_events(c, run_id, new)
                final = ending(new[-1][1], cancelled=bool(row.cancel))
                if row.status == "running" and final:
                    values |= _ended(*final)
                c.execute(sa.update(runs_table).where(runs_table.c.id == run_id).values(**values))
        journal.discard(folder)

    def waiting(self) -> list[str]:
        """Ids of the queued runs that nobody has been given yet, in the order of their turns."""
        with self._read() as c:
            order = self._order(c)
            free = set(
                c.execute(
                    sa.select(runs_table.c.id).where(runs_table.c.status == "queued", runs_table.c.slot.is_(None))
                ).scalars()
            )
        return [run_id for run_id in order if run_id in free]

    def owner_of(self, run_id: str) -> str | None:
        """Whose run it is; None if it is gone."""
        with self._read() as c:
            found = c.execute(sa.select(runs_table.c.owner).where(runs_table.c.id == run_id)).scalar_one_or_none()
        return None if found is None else str(found)

    def occupied(self) -> dict[str, str]:
        """slot name -> run id, for the slots of this machine that are handed out or running."""
        prefix = f"{self.host}/"
        with self._read() as c:
            rows = c.execute(
                sa.select(runs_table.c.slot, runs_table.c.id).where(
                    runs_table.c.slot.startswith(prefix, autoescape=True)
                )
            ).all()
        return {row.slot.removeprefix(prefix): row.id for row in rows}

    def dispatch(self, run_id: str, slot: str) -> bool:
        """Reserve a queued run and a slot of this machine for each other; False if either was taken meanwhile."""
        try:
            with self._write() as c:
                changed = c.execute(
                    sa.update(runs_table)
                    .where(
                        runs_table.c.id == run_id, runs_table.c.status == "queued", runs_table.c.slot.is_(None)
                    )
                    .values(
                        slot=f"{self.host}/{slot}", host=self.host, dispatched=time.time(),
                        tries=runs_table.c.tries + 1,
                    )
                )  # fmt: skip
        except IntegrityError:
            return False
        return changed.rowcount == 1

    def renew(self, run_id: str, slot: str) -> bool:
        """Keep a reservation while the worker is still getting ready; False if it is no longer ours."""
        with self._write() as c:
            changed = c.execute(
                sa.update(runs_table)
                .where(
                    runs_table.c.id == run_id,
                    runs_table.c.status == "queued",
                    runs_table.c.slot == f"{self.host}/{slot}",
                )
                .values(dispatched=time.time())
            )
        return changed.rowcount == 1

    def release(self, run_id: str, slot: str, *, failure: tuple[str, str] | None = None) -> None:
        """Take back a reservation: the run is queued as before.

        Args:
            failure: (sentence, advice): the worker died before it took the run. After MAX_TRIES such deaths the run
                has failed, with this in its record.
        """
        mine = (
            (runs_table.c.id == run_id)
            & (runs_table.c.status == "queued")
            & (runs_table.c.slot == f"{self.host}/{slot}")
        )
        with self._write() as c:
            tries = c.execute(sa.select(runs_table.c.tries).where(mine)).scalar_one_or_none()
            if tries is None:
                return
            values: dict[str, Any] = {"slot": None, "dispatched": None}
            if failure is not None and tries >= MAX_TRIES:
                sentence, advice = failure
                event = {"kind": "failed", "step": 0, "failure": "worker", "sentence": sentence, "advice": advice}
                last = c.execute(sa.select(runs_table.c.last_seq).where(mine)).scalar_one()
                values |= self._insert_events(c, run_id, [(last + 1, event)])
                values |= _ended("failed", sentence, advice)
            c.execute(sa.update(runs_table).where(mine).values(**values))

    def reap(self, causes: Mapping[str, str] | None = None, *, sparing: Collection[str] = ()) -> list[str]:
        """Find the dead: runs whose worker is gone become interrupted, and stale reservations are taken back.

        Any process may call this at any time. Returns the ids of runs that were found dead.

        Args:
            causes: run id -> sentence, where the caller knows how the worker died.
            sparing: running runs to leave alone: their workers are the caller's children and have not ended yet.
        """
        now = time.time()
        with self._read() as c:
            running = c.execute(
                sa.select(runs_table.c.id, runs_table.c.attempt, runs_table.c.host, runs_table.c.beat).where(
                    runs_table.c.status == "running"
                )
            ).all()
            stale = c.execute(
                sa.select(runs_table.c.id, runs_table.c.slot).where(
                    runs_table.c.status == "queued",
                    runs_table.c.slot.is_not(None),
                    runs_table.c.dispatched < now - LEASE_SECONDS,
                )
            ).all()
        dead = []
        for row in running:
            if row.id in sparing:
                continue
            silent = now - (row.beat or 0)
            if row.host != self.host and silent < REMOTE_SILENCE_SECONDS:
                continue
            if self._bury(row.id, row.attempt, (causes or {}).get(row.id, "The worker process died.")):
                dead.append(row.id)
        for lapsed in stale:
            if is_held(self.runs_folder / lapsed.id / LOCK):
                continue  # a worker has just taken it
            still = (
                (runs_table.c.id == lapsed.id)
                & (runs_table.c.status == "queued")
                & (runs_table.c.slot == lapsed.slot)
                & (runs_table.c.dispatched < now - LEASE_SECONDS)
            )
            with self._write() as c:
                c.execute(sa.update(runs_table).where(still).values(slot=None, dispatched=None))
        return dead

    def _bury(self, run_id: str, attempt: int, sentence: str) -> bool:
        """Mark a running run interrupted if nobody holds its lock. We hold it meanwhile, so no worker can be alive."""
        folder = self.runs_folder / run_id
        folder.mkdir(mode=0o700, exist_ok=True)  # somebody removed it by hand: the run is dead all the same
        with FileLock(folder / LOCK) as lock:
            if not lock.acquire():
                return False
            self.absorb(run_id)
            advice = (
                "Resume it to go on from its last checkpoint."
                if (folder / CHECKPOINT).exists()
                else "Resume it to start again from the first step."
            )
            with self._write() as c:
                changed = c.execute(
                    sa.update(runs_table)
                    .where(
                        runs_table.c.id == run_id,
                        runs_table.c.attempt == attempt,
                        runs_table.c.status == "running",
                    )
                    .values(**_ended("interrupted", sentence, advice), bytes=size_bytes(folder))
                )
        if changed.rowcount:
            self._changed()
        return changed.rowcount == 1

    def sweep(self) -> list[str]:
        """Remove folders that belong to no run (deleted while a worker wrote there, or a start that was killed), and
        checkpoints of finished runs whose worker was killed between its last word and its removal of them.

        Returns:
            The names of the removed folders.
        """
        with self._read() as c:
            known = {row.id: row.status for row in c.execute(sa.select(runs_table.c.id, runs_table.c.status))}
        for run_id, status in known.items():
            left = self.runs_folder / run_id / CHECKPOINT
            if status == "finished" and left.exists() and not is_held(left.with_name(LOCK)):
                left.unlink(missing_ok=True)
        removed = []
        for folder in self.runs_folder.iterdir():
            if folder.name in known or not re.fullmatch(r"[0-9a-f]{16}", folder.name):
                continue
            try:
                young = time.time() - folder.stat().st_mtime < ORPHAN_SECONDS
                if young or is_held(folder / LOCK):
                    continue
            except FileNotFoundError:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
        return removed

    def _order(self, c: sa.Connection) -> list[str]:
        """Ids of all queued runs in the order of their turns."""
        r = runs_table.c
        queued = c.execute(sa.select(r.id, r.owner, r.queued).where(r.status == "queued")).all()
        if not queued:
            return []
        running = c.execute(sa.select(r.owner, sa.func.count()).where(r.status == "running").group_by(r.owner)).all()
        owners = {row.owner for row in queued}
        served = c.execute(
            sa.select(r.owner, sa.func.max(r.started)).where(r.owner.in_(owners)).group_by(r.owner)
        ).all()
        return fair_order(
            [Waiting(row.id, row.owner, row.queued) for row in queued],
            {owner: last or 0.0 for owner, last in served},
            {owner: int(count) for owner, count in running},
        )

    def _places(self, c: sa.Connection) -> dict[str, int]:
        return {run_id: place for place, run_id in enumerate(self._order(c), start=1)}

    def _insert_events(
        self, c: sa.Connection, run_id: str, events: Sequence[tuple[int, dict[str, Any]]]
    ) -> dict[str, Any]:
        """Insert events, removing what they supersede; returns what changes in the run's row."""
        e = events_table.c
        first_of_attempt = c.execute(sa.select(runs_table.c.attempt_seq).where(runs_table.c.id == run_id)).scalar_one()
        values: dict[str, Any] = {"last_seq": events[-1][0]}
        now = time.time()
        rows: list[dict[str, Any]] = []
        for seq, event in events:
            kind, step = event["kind"], event.get("step")
            if kind == "started":
                at = int(event.get("resumed_at") or 0)
                values |= {"step": at, "steps": int(event.get("steps") or 0)}
                old = (e.run == run_id) & (e.seq <= first_of_attempt)
                # What an earlier attempt said of steps that will be done again is void; from 0, everything it said.
                c.execute(sa.delete(events_table).where(old, e.step > at) if at else sa.delete(events_table).where(old))
            elif step is not None:
                values["step"] = int(step)
                # Steps need no look: those after the checkpoint are gone since `started`, and there are many.
                if first_of_attempt and kind != "step":
                    c.execute(
                        sa.delete(events_table).where(
                            e.run == run_id, e.seq <= first_of_attempt, e.kind == kind, e.step == int(step)
                        )
                    )
            rows.append(
                {
                    "run": run_id, "seq": seq, "kind": kind, "step": None if step is None else int(step),
                    "payload": json.dumps(journal.clean(event), allow_nan=False), "time": now,
                }
            )  # fmt: skip
        c.execute(sa.insert(events_table), rows)
        return values


def ending(event: Mapping[str, Any], *, cancelled: bool) -> tuple[str, str, str] | None:
    """(status, sentence, advice) of a run whose last event is this one; None if the event does not end a run.

    Args:
        cancelled: the owner asked for the stop; otherwise a stop came from the machine.
    """
    kind = event["kind"]
    if kind == "finished":
        return "finished", "", ""
    if kind == "failed":
        return "failed", event["sentence"], event.get("advice", "")
    if kind == "stopped":
        at = f"step {event['step']}"
        if cancelled:
            return "cancelled", f"Cancelled after {at}.", "Resume it to go on from there."
        return "interrupted", f"Stopped after {at}, because the machine asked for it.", "Resume it to go on from there."
    return None


def _ended(status: str, sentence: str, advice: str) -> dict[str, Any]:
    return {
        "status": status, "sentence": sentence, "advice": advice, "ended": time.time(), "cancel": False,
        "slot": None, "dispatched": None,
    }  # fmt: skip


def size_bytes(folder: Path) -> int:
    """Bytes of the files under a folder that another process may be writing to."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue  # renamed or removed between the listing and the question
    return total
