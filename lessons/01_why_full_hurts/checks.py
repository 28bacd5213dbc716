"""Checks of the exercises of lesson 1."""

from __future__ import annotations

from numbers import Real
from typing import Any

from core.exercise import Wrong
from core.memory import per_parameter

CASES = ((1000, 1000), (1000, 0), (1000, 10))


def ledger(space: dict[str, Any]) -> str:
    """`training_bytes(total, trained)` in mixed precision with a copy."""
    answer = space.get("training_bytes")
    if not callable(answer):
        raise Wrong("There is no function called training_bytes.")
    recipe = per_parameter.recipe("mixed")
    each, frozen = per_parameter.each(recipe), per_parameter.frozen(recipe)
    said = {case: answer(*case) for case in CASES}
    if any(isinstance(v, bool) or not isinstance(v, Real) for v in said.values()):
        raise Wrong("It should return a number of bytes.")
    if not any(said.values()):
        raise Wrong("It returns 0 for everything. Start with what every parameter costs, trained or not.")
    if said[1000, 0] == 0:
        raise Wrong("With nothing trained it returns 0, but a frozen parameter still has its weight: two bytes.")
    if said[1000, 0] > 1000 * frozen:
        raise Wrong(
            f"With nothing trained it returns {said[1000, 0] / 1000:g} bytes a parameter. A frozen parameter has a "
            f"weight and nothing else: {frozen:g} bytes."
        )
    if said[1000, 1000] != 1000 * each:
        raise Wrong(
            f"With everything trained it returns {said[1000, 1000] / 1000:g} bytes a parameter, and the rule gives "
            f"{each:g}: weight 2, gradient 2, copy 4, and 4 for each of Adam's two states."
        )
    for total, trained in CASES:
        wanted = total * frozen + trained * (each - frozen)
        if said[total, trained] != wanted:
            raise Wrong(f"For {trained} trained of {total} it returns {said[total, trained]:g}, not {wanted:g}.")
    from core.catalog import architecture_of
    from core.claims import decimal_text
    from core.methods import METHODS

    table = architecture_of("Llama-3.1-8B")
    lora = METHODS["lora"].count(table, METHODS["lora"].Config())
    return (
        f"By your function Llama-3.1-8B takes {decimal_text(answer(table.total, table.total))} in full, and "
        f"{decimal_text(answer(table.total, lora))} with LoRA."
    )
