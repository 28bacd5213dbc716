"""Checks of the exercises of lesson 10."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong

SHAPES = ((4096, 4096, 4096), (4096, 4096, 8), (1, 4096, 4096), (33, 96, 192))


def _number(found: Any, name: str) -> float:
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise Wrong(f"`{name}` gave {found!r}. Let it return a number.")
    return float(found)


def intensity(space: dict[str, Any]) -> str:
    """Operations a byte of a matrix product."""
    mine = space.get("intensity")
    if not callable(mine):
        raise Wrong("There is no function called intensity any more. Define `def intensity(m, k, n, size=2):`.")
    for m, k, n in SHAPES:
        found = _number(mine(m, k, n), "intensity")
        operations, numbers = 2.0 * m * k * n, m * k + k * n + m * n
        wanted = operations / (2 * numbers)
        if abs(found - wanted) <= 1e-9 * wanted:
            continue
        if abs(found - wanted / 2) <= 1e-9 * wanted:
            raise Wrong("Half of it. Each of the m·k·n terms is a multiplication and an addition: two operations.")
        if abs(found - operations / numbers) <= 1e-9 * wanted:
            raise Wrong("That is operations a number. A number in 16 bits has 2 bytes: `size`.")
        if abs(found - operations / (2 * (m * k + k * n))) <= 1e-9 * wanted:
            raise Wrong("The result has to be written, too: m·n numbers more.")
        raise Wrong(f"For ({m} × {k}) times ({k} × {n}) it is {wanted:.4g} operations a byte, not {found:.4g}.")
    if abs(_number(mine(64, 64, 64, size=4), "intensity") - 2 * 64**3 / (4 * 3 * 64**2)) > 1e-9:
        raise Wrong("`size` is an argument: with 4 bytes a number the intensity is half as large.")
    square, thin = mine(4096, 4096, 4096), mine(4096, 4096, 8)
    return (
        f"A square product of 4,096 has {square:,.0f} operations a byte; LoRA's with A, at rank 8, has "
        f"{thin:.1f}, so it waits for memory on every card there is."
    )


def step_time(space: dict[str, Any]) -> str:
    """The least time of a list of operations, asked for one by one."""
    mine = space.get("step_time")
    if not callable(mine):
        raise Wrong("There is no function called step_time any more.")
    rate, bandwidth, ask = 100.0, 10.0, 1.0
    cases: tuple[tuple[list[tuple[int, int]], float, str], ...] = (
        (
            [(1000, 1)] * 5,
            50.0,
            "Five operations of 10 seconds each: the host's 5 seconds of asking pass meanwhile. They are not added.",
        ),
        ([(1000, 1)], 10.0, "One operation of 1,000 operations at 100 a second takes 10 seconds."),
        ([(1, 1000)], 100.0, "One operation that moves 1,000 bytes at 10 a second takes 100 seconds."),
        (
            [(1000, 1), (1, 1000)],
            110.0,
            "One waits for arithmetic, the other for memory: each has its own limit. Take the larger for each "
            "operation, then add.",
        ),
        (
            [(1, 1)] * 50,
            50.0,
            "Fifty tiny operations: the card needs 5 seconds, the host 50 to ask for them. The host works while the "
            "card does, so the step takes the longer of the two.",
        ),
    )
    for ops, wanted, words in cases:
        found = _number(mine(ops, rate, bandwidth, ask), "step_time")
        if abs(found - wanted) > 1e-9:
            raise Wrong(f"{words} Your function says {found:g}.")
    return "The same rule stands in core/roofline.py, as `Total.seconds`."
