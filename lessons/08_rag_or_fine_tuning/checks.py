"""Checks of the exercises of lesson 8."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong
from core.rag.retrieve import fuse as reference


def _scores(found: Any) -> list[tuple[Any, float]]:
    if isinstance(found, dict):
        raise Wrong("`fuse` gave a dictionary. It should give a list of (id, score), the best first.")
    try:
        return [(item, float(score)) for item, score in found]
    except (TypeError, ValueError):
        raise Wrong("`fuse` should give a list of pairs (id, score), the best first.") from None


def fuse(space: dict[str, Any]) -> str:
    """Reciprocal rank fusion, against core.rag.retrieve.fuse."""
    mine = space.get("fuse")
    if not callable(mine):
        raise Wrong("There is no function called fuse any more. Define `def fuse(lists, k=60):`.")
    found = mine([["a", "b"], ["b", "c"]])
    if found is None:
        raise Wrong("`fuse` gave None. Collect the scores and return them, the best first.")
    scores = dict(_scores(found))
    wanted: dict[Any, float] = dict(reference([["a", "b"], ["b", "c"]]))  # type: ignore[list-item]
    if set(scores) != set(wanted):
        missing = ", ".join(sorted(set(wanted) - set(scores))) or "none"
        raise Wrong(f"Every id of either list needs a score; missing: {missing}.")
    if abs(scores["a"] - 1 / 60) < 1e-9:
        raise Wrong("Ranks are counted from 1, not from 0: the best of a list adds 1 / (60 + 1).")
    if abs(scores["b"] - wanted["b"]) > 1e-9 and abs(scores["a"] - wanted["a"]) < 1e-9:
        raise Wrong("b stands in both lists, so it gets two terms. Add them up; do not overwrite the first.")
    if any(abs(scores[i] - wanted[i]) > 1e-9 for i in wanted):
        raise Wrong("The scores differ from 1 / (k + rank), summed over the lists.")
    if [i for i, _ in _scores(found)] != [i for i, _ in reference([["a", "b"], ["b", "c"]])]:  # type: ignore[list-item]
        raise Wrong("The scores are right, but the best has to come first.")
    if dict(_scores(mine([["a"], ["a"]], k=1)))["a"] != 1.0:
        raise Wrong("`k` is an argument: with k=1, two first places make 1/2 + 1/2 = 1.")
    long = [[f"p{n}" for n in range(50)], [f"p{n}" for n in range(49, -1, -1)]]
    if _scores(mine(long))[0][0] != reference(long)[0][0]:  # type: ignore[arg-type]
        raise Wrong("On two long lists your best passage is not the one that this rule gives.")
    return "This is the fusion that the search of this page uses, with the constant of the paper."
