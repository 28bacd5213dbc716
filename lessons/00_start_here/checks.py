"""Checks of the exercises in lesson 0."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong
from core.methods.lora import pair_parameters

SIZES = ((64, 16, 2), (16, 64, 2), (8, 8, 2), (1024, 4096, 8), (4096, 1024, 16))


def trained_numbers(space: dict[str, Any]) -> str:
    """trained(d, k, r): the numbers in B (d × r) and A (r × k)."""
    trained = space.get("trained")
    if not callable(trained):
        raise Wrong("There is no function trained(d, k, r).")
    for d, k, r in SIZES:
        found, wanted = trained(d, k, r), pair_parameters(k, d, r)
        if found is None:
            raise Wrong("trained returns nothing. Give the number back with return.")
        if found == wanted:
            continue
        where = f"For d = {d}, k = {k}, r = {r}"
        if found == d * k:
            raise Wrong(f"{where} that is {found:,}, all of the matrix. But the matrix is frozen; B and A train.")
        if found in (d * r, r * k):
            raise Wrong(f"{where} that is {found:,}, only one of the two thin matrices. There are two, B and A.")
        if found == d * r * r * k:
            raise Wrong(f"{where} that is {found:,}: B times A. Add their numbers; nothing is multiplied out.")
        raise Wrong(f"{where} it should be {wanted:,}, and yours is {found}.")
    d, k, r = SIZES[-1]
    share = 100 * pair_parameters(k, d, r) / (d * k)
    return f"Beside a matrix of {d:,} by {k:,}, rank {r} trains {share:.1f} % as many numbers as it has."
