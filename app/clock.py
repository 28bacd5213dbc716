"""How long a learner has worked in each lesson: counted from signs of life, not from open tabs. Pure.

A lesson's page reports every `BEAT_SECONDS` while it is in sight and something was done in it during the last minute
(a key, a click, a scroll, a touch): see app/components/beat. Between two reports at most `CAP_SECONDS` are counted, so
that a closed lid or a lost connection adds nothing. Two tabs are one person: the reports share one clock.

Kept as `time/spent`: {"last": when the last report came, "lessons": {page: seconds}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT = "time/spent"
BEAT_SECONDS = 15
CAP_SECONDS = 30
MOST_LESSONS = 100


def beat(kept: Any, page: str, now: float) -> dict[str, Any]:
    """What is kept after a report from a page at that moment (seconds since the epoch)."""
    spent = dict(kept.get("lessons", {})) if isinstance(kept, Mapping) else {}
    last = kept.get("last") if isinstance(kept, Mapping) else None
    gap = now - float(last) if isinstance(last, (int, float)) else float("inf")
    # The first report, and the first after a break, stands for the stretch before it.
    counted = min(gap, CAP_SECONDS) if 0 <= gap <= 2 * CAP_SECONDS else BEAT_SECONDS
    if page in spent or len(spent) < MOST_LESSONS:
        spent[page] = round(float(spent.get(page, 0)) + counted, 1)
    return {"last": now, "lessons": spent}


def seconds(progress: Mapping[str, Any], page: str | None = None) -> float:
    """Seconds in one lesson, by its address; in all of them for None."""
    kept = progress.get(KEPT)
    spent = kept.get("lessons", {}) if isinstance(kept, Mapping) else {}
    return float(sum(spent.values()) if page is None else spent.get(page, 0))


def longer(here: Any, there: Any) -> dict[str, Any]:
    """Of two records of time, the longer for each lesson."""
    mine = dict(here.get("lessons", {})) if isinstance(here, Mapping) else {}
    for page, value in (there.get("lessons", {}) if isinstance(there, Mapping) else {}).items():
        mine[page] = max(float(value), float(mine.get(page, 0)))
    return {**(dict(here) if isinstance(here, Mapping) else {}), "lessons": mine}


def minutes(spent: float) -> int:
    """Whole minutes, at least one once there is anything."""
    return max(1, round(spent / 60)) if spent > 0 else 0
