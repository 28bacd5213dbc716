"""Who is next, and where: a fair order between people, and a slot per device.

Pure functions over what the store says; the supervisor acts on them, and the page shows a run its place in the queue
by the same rule. Turns go round between owners; within an owner, first come, first served. One person who queues
twenty runs delays another by one run, not by twenty.
"""

from __future__ import annotations

import heapq
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.errors import BadInput


@dataclass(frozen=True)
class Waiting:
    """A queued run: since is when it was queued, in seconds since the epoch."""

    id: str
    owner: str
    since: float


def fair_order(
    waiting: Iterable[Waiting], served: Mapping[str, float] | None = None, running: Mapping[str, int] | None = None
) -> list[str]:
    """Ids in the order in which they get their turns.

    Args:
        waiting: the queue, in any order.
        served: owner -> when a run of theirs was last started; who waited longer goes first.
        running: owner -> number of their runs that are being carried out now; who has fewer goes first.
    """
    served, running = served or {}, running or {}
    lanes: dict[str, list[Waiting]] = defaultdict(list)
    for run in sorted(waiting, key=lambda w: (w.since, w.id)):
        lanes[run.owner].append(run)
    # (turns taken, last served, waiting since, owner): the smallest is next, and taking a turn puts them a round back.
    turns = [(running.get(owner, 0), served.get(owner, 0.0), lane[0].since, owner, 0) for owner, lane in lanes.items()]
    heapq.heapify(turns)
    order = []
    while turns:
        taken, last, _, owner, at = heapq.heappop(turns)
        lane = lanes[owner]
        order.append(lane[at].id)
        if at + 1 < len(lane):
            heapq.heappush(turns, (taken + 1, last, lane[at + 1].since, owner, at + 1))
    return order


@dataclass(frozen=True)
class Slot:
    """A place where one run at a time is carried out. name is unique on this machine; device is cpu or cuda:N."""

    name: str
    device: str


def slots(setting: str | None = None, cuda_devices: int | None = None) -> list[Slot]:
    """The slots of this machine: one per CUDA device, or one for the CPU where there is none.

    Args:
        setting: `$DELTALAB_SLOTS` when None. A number shares the devices out between that many runs; a list such as
            "cpu,cuda:0" names the device of each slot.
        cuda_devices: how many there are; asked of the driver when None.

    Raises:
        BadInput: the setting is neither.
    """
    text = (os.environ.get("DELTALAB_SLOTS", "") if setting is None else setting).strip()
    if text and not text.isdigit():
        devices = [part.strip() for part in text.split(",") if part.strip()]
        for device in devices:
            kind, _, number = device.partition(":")
            if device != "cpu" and not (kind == "cuda" and number.isdigit()):
                raise BadInput(
                    f"DELTALAB_SLOTS names a device {device!r} that does not exist.",
                    "Give a number of slots, or devices such as cpu or cuda:0, separated by commas.",
                )
    else:
        count = count_cuda_devices() if cuda_devices is None else cuda_devices
        attached = [f"cuda:{n}" for n in range(count)] or ["cpu"]
        if text and int(text) < 1:
            raise BadInput("DELTALAB_SLOTS must be at least 1.", "Leave it out for one slot per device.")
        wanted = int(text) if text else len(attached)
        devices = [attached[n % len(attached)] for n in range(wanted)]
    seen: dict[str, int] = defaultdict(int)
    out = []
    for device in devices:
        seen[device] += 1
        out.append(Slot(device if seen[device] == 1 else f"{device}/{seen[device]}", device))
    return out


def count_cuda_devices() -> int:
    """How many CUDA devices a worker will see, without importing torch here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0  # a driver that does not answer will not train either: the CPU gets the slot
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def environment(slot: Slot, sharing: int = 1) -> dict[str, str]:
    """Environment variables that bind a worker to its slot.

    Args:
        sharing: how many slots share the CPU; each gets its part of the cores, so that they do not fight over them.
    """
    kind, _, number = slot.device.partition(":")
    if kind == "cpu":
        out = {"CUDA_VISIBLE_DEVICES": ""}
        if sharing > 1:
            out["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // sharing))
        return out
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    index = int(number)
    return {"CUDA_VISIBLE_DEVICES": visible[index] if index < len(visible) else number}
