"""Checks of the exercises of lesson 9."""

from __future__ import annotations

import random
from typing import Any

from core.exercise import Wrong


def _rows(count: int, seed: int) -> list[dict[str, str]]:
    """Rows of which every third question occurs two or three times, with other spaces and letters."""
    rng = random.Random(seed)
    out = []
    for n in range(count):
        question = f"What about order {n}?"
        out.append({"prompt": question, "completion": f"answer {n}"})
        if n % 3 == 0:
            out.append({"prompt": f"  what about   ORDER {n}? ", "completion": f"answer {n}, again"})
    rng.shuffle(out)
    return out


def _key(row: dict[str, str]) -> str:
    return " ".join(row["prompt"].casefold().split())


def split(space: dict[str, Any]) -> str:
    """Held-out rows share no question with training rows."""
    mine = space.get("split")
    if not callable(mine):
        raise Wrong("There is no function called split any more. Define `def split(rows, share, seed):`.")
    rows = _rows(60, 1)
    given = [dict(row) for row in rows]
    found = mine(rows, 0.2, 0)
    if not isinstance(found, tuple) or len(found) != 2:
        raise Wrong("`split` should return two lists: the training rows, then the held-out ones.")
    train, held = found
    if rows != given:
        raise Wrong("Your function changed the rows that it was given. Copy the list before you shuffle it.")
    together = sorted(_key(r) + r["completion"] for r in [*train, *held])
    if together != sorted(_key(r) + r["completion"] for r in given):
        raise Wrong(
            f"Of {len(given)} rows, {len(train)} + {len(held)} came back. Every row belongs to exactly one side."
        )
    shared = {_key(r) for r in train} & {_key(r) for r in held}
    if shared:
        exact = {r["prompt"] for r in train} & {r["prompt"] for r in held}
        if exact or len(shared) > 5:
            raise Wrong(
                f"{len(shared)} questions stand on both sides, such as {sorted(shared)[0]!r}. Deal out questions, "
                "not rows."
            )
        raise Wrong(f"{sorted(shared)[0]!r} stands on both sides, with other spaces or capitals. Compare the keys.")
    if not held or not train:
        raise Wrong("One side is empty. About `share` of the rows should be held out.")
    if not 0.1 <= len(held) / len(given) <= 0.3:
        raise Wrong(f"{len(held)} of {len(given)} rows are held out; a share of 0.2 was asked for.")
    if mine([dict(r) for r in given], 0.2, 0) != found:
        raise Wrong("The same seed gave another split. Shuffle with `random.Random(seed)`.")
    others = [mine([dict(r) for r in given], 0.2, seed)[1] for seed in (1, 2, 3)]
    if all(sorted(map(_key, o)) == sorted(map(_key, held)) for o in others):
        raise Wrong("Every seed gives the same split. Shuffle the questions before you deal them out.")
    return f"{len(train)} rows to train on, {len(held)} held out, and no question on both sides."
