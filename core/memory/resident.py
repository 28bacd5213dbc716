"""What stays allocated between two steps of PEFT's benchmark: each row in closed form, whatever the method.

    resident = 2 · base                 the base, in 16 bits
             + 16 · trained             in 32 bits: weight, gradient and AdamW's two means (8 where it stands in 16)
             + 4 · frozen               numbers that a method adds and does not train
             + buffers                  what it keeps besides, that no count of parameters shows
             + output of the last batch

How many numbers train is counted by Deltalab's own closed form where it has the method (`how` is 'counted'); where not,
they are those that the benchmark printed ('printed'). What a method keeps besides was read in PEFT 0.21's source,
peft/tuners/<method>/layer.py, not off the figures. Imports no torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core import syntax
from core.memory.published import Case, case_of, rows
from core.memory.speed import virtual_tokens
from core.methods import METHODS
from core.methods.modules import ends_with

if TYPE_CHECKING:
    from core.architecture import Architecture, Module

# In 16 bits: weights, gradients and both states of a trained number take 8 bytes. Adaption prompts are made in the
# dtype of the attention that they stand in (adaption_prompt/layer.py, target_dtype), which the file's size shows too.
HALF = ("full-finetuning", "adaptionprompt")
IN_PLACE = ("full-finetuning",)
LOW_RANK = ("lora", "adalora")
INDEX = 8  # bytes of a 64-bit index


def psoft_buffers(rank: int, out: int, into: int) -> int:
    """A (rank × in) and B (out × rank), in 32 bits, and the places of the upper triangle of a rank × rank matrix."""
    return 4 * rank * (out + into) + 2 * INDEX * (rank * (rank - 1) // 2)


def adamss_buffers(rank: int, out: int, into: int) -> int:
    """The projection (rank × in), in 32 bits, and two lists of the outputs' places."""
    return 4 * rank * into + 2 * INDEX * out


BUFFERS: Mapping[str, Callable[[int, int, int], int]] = {"psoft": psoft_buffers, "adamss": adamss_buffers}
# AdaLoRA's rank allocator keeps three numbers in 32 bits beside each that trains: its importance, and the means of that
# and of its uncertainty (adalora/layer.py, RankAllocator.update_ipt).
BESIDE = {"adalora": 12}

# Rows that no closed form gives, and why.
UNEXPRESSED = {
    "osf": "OSF keeps each weight's singular vectors beside the weight, split by ranks that it works out from the "
    "weight itself.",
}
CAUSES = {
    "psoft--llama-3.2-3B-default": "It leaves 1.2 GiB more than its fast variant, which has the same parameters and "
    "buffers and differs in the exact solve alone (torch.linalg.solve): what that holds is not known.",
}


@dataclass(frozen=True)
class Resident:
    """What PEFT's benchmark had allocated after an average step.

    how: 'counted' or 'printed', as above. kind: low rank, in place, prompt, or other. trained, frozen: numbers that the
    method added or trains. each: bytes of a trained one. buffers: bytes. cause: why it is off, where that is known.
    """

    id: str
    method: str
    name: str
    how: str
    kind: str
    trained: int
    frozen: int
    each: int
    buffers: int
    extra_tokens: int
    measured_bytes: int
    cause: str = ""

    def whole_bytes(self, base: int) -> int:
        """All but the output of the last batch."""
        if self.kind == "in place":
            return self.each * base
        return 2 * base + self.each * self.trained + 4 * self.frozen + self.buffers


def resident_rows() -> Iterator[Resident]:
    """The rows that can be expressed."""
    from core.catalog import architecture_of

    for row in rows():
        measured = row.resident_bytes
        counts = re.search(r"trainable=(\d+); total=(\d+)", row.detail)
        if measured is None or counts is None or row.method in UNEXPRESSED:
            continue
        trained, total = map(int, counts.groups())
        table = architecture_of(row.model)
        frozen = total - table.total - (0 if row.method in IN_PLACE else trained)
        case = case_of(row)
        counted = isinstance(case, Case)
        if isinstance(case, Case):
            trained = METHODS[case.setup.method].count(table, case.setup.settings)
        each = 8 if row.method in HALF else 16 + BESIDE.get(row.method, 0)
        kind = "in place" if row.method in IN_PLACE else "low rank" if row.method in LOW_RANK else "other"
        tokens = virtual_tokens(case.setup) if isinstance(case, Case) else 0
        yield Resident(
            row.id, row.method, row.file, "counted" if counted else "printed", kind, trained, frozen,
            each, _buffers(row.method, row.detail, table), tokens, measured, CAUSES.get(row.file, ""),
        )  # fmt: skip


def unexpressed() -> Iterator[tuple[str, str, str]]:
    """(id, method, why) of the rows that have a resident figure and no closed form here."""
    for row in rows():
        if row.resident_bytes is not None and row.method in UNEXPRESSED:
            yield row.id, row.method, UNEXPRESSED[row.method]


def _buffers(method: str, detail: str, table: Architecture) -> int:
    kept = BUFFERS.get(method)
    if kept is None:
        return 0
    settings = _settings(detail)
    chosen: list[Module] = [m for m in table.linears() if any(ends_with(m.name, n) for n in settings["target_modules"])]
    return sum(kept(settings["r"], m.out_features, m.in_features) for m in chosen)


def _settings(detail: str) -> dict[str, Any]:
    found: dict[str, Any] = ast.literal_eval(
        syntax.tree(re.search(r"\{.*?\}(?=; overrides)", detail)[0], mode="eval")  # type: ignore[index]
    )
    return found


__all__ = ["CAUSES", "Resident", "adamss_buffers", "psoft_buffers", "resident_rows", "unexpressed"]
