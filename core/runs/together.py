"""Several runs that are queued as one: those of a comparison in a lesson.

    enter(store, owner, {"r1": config, "r8": config}, cell="03_lora_rank/sweep", key="…")
    newest(store, owner, "03_lora_rank/sweep", ["r1", "r8"])       # name -> run, or None

They do not count one by one against the owner's number of active runs; instead an owner has one comparison on at a
time, as with a race. Turns go round between people, so that nobody waits for all of somebody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.config import RunConfig
from core.errors import Refused
from core.runs.store import COMPARED, Run, Store


def cell_of(cell: str, name: str) -> str:
    """The `cell` under which the store keeps one run of a comparison."""
    return f"{COMPARED}{cell}/{name}"


def newest(store: Store, owner: str, cell: str, names: Sequence[str]) -> dict[str, Run | None]:
    """The owner's newest run of each name, in that order; None where there is none."""
    found = {name: store.runs(owner, limit=1, cell=cell_of(cell, name)) for name in names}
    return {name: runs[0] if runs else None for name, runs in found.items()}


def enter(
    store: Store,
    owner: str,
    configs: Mapping[str, RunConfig],
    *,
    cell: str,
    key: str,
    titles: Mapping[str, str] | None = None,
) -> dict[str, Run]:
    """Queue the runs, in order. The same key gives the same runs.

    Raises:
        Refused: another comparison of theirs is on, or their disk is full.
    """
    mine = {cell_of(cell, name) for name in configs}
    others = {r.cell for r in store.runs(owner, active=True) if r.cell and r.cell.startswith(COMPARED)} - mine
    if others:
        raise Refused("A comparison of yours is on already.", "Wait until it is over, or stop it.")
    return {
        name: store.create(
            owner, config, key=f"{key}/{name}", title=(titles or {}).get(name), cell=cell_of(cell, name), counts=False
        )
        for name, config in configs.items()
    }  # fmt: skip
