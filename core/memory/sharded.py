"""The memory of one GPU among several: ZeRO and tensor parallelism, and what waits in the CPU's memory instead.

With N GPUs, each with its own batch (Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 5 and figure 1):

    none      everything, and a copy of all gradients, in buckets, to be sent (Li et al. 2020, PyTorch Distributed,
              arXiv:2006.15704, section 4.2)
    ZeRO-1    optimizer state / N; the same buckets
    ZeRO-2    and gradients / N        + the gradients of one block, whole, before they are cut and sent
    ZeRO-3    and weights / N          + the weights of the blocks that are at work, gathered: this one and the next,
                                         and those outside of all blocks for as long as the step goes on

FSDP2 is ZeRO-3 (Zhao et al. 2023, arXiv:2304.11277; torch/distributed/fsdp/_fully_shard). With tensor parallelism of
degree T (Shoeybi et al. 2019, arXiv:1909.08053, section 3; Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2:
with sequence parallelism every activation is cut) each GPU has a T-th of the matrices and of what they make, and the
input of one block, gathered. ZeRO then cuts among the N / T groups.

Offloading: the optimizer's states, and the gradients that go to them, are in the CPU's memory (ZeRO-Offload,
arXiv:2101.06840); or the weights too, so that only those at work are on the GPU (FSDP2's CPUOffloadPolicy).

How it is used: `factors` says what share of each term one GPU has, so that the moment of the peak can be found anew,
and `extra` what comes on top. These are closed forms over a traced step: no such run was measured here. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import BadInput
from core.memory.ledger import Ledger, Term
from core.units import bytes_text

if TYPE_CHECKING:
    from core.architecture import Architecture

WEIGHTS = ("frozen weights", "quantization constants", "trained weights")
# 16-bit copies that autocast makes of 32-bit weights, and keeps until the forward pass is over, or for as long as the
# backward pass needs them. Where weights are gathered for their use, they are gathered in 16 bits (FSDP2's
# MixedPrecisionPolicy), so that the gathered ones take their place.
COPIES = "weight copies"
CUT_BY_TENSOR = (COPIES, "activations", "recomputed activations", "logits and loss", "temporaries")
OFFLOADS = ("none", "optimizer", "all")
GATHERED = 2  # blocks whose weights are whole at a time: the one at work, and the next, fetched ahead
ZERO = "ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054, section 5"
BUCKETS = "Li et al. 2020, arXiv:2006.15704, section 4.2"
TENSOR = "Korthikanti et al. 2022, arXiv:2205.05198, section 4.2"
OFFLOAD = "Ren et al. 2021, ZeRO-Offload, arXiv:2101.06840, section 4"


@dataclass(frozen=True)
class Sharding:
    """How a step is shared out.

    gpus: in all. zero: stage, 0 to 3 (0: every GPU holds everything). tensor: degree of tensor parallelism. offload:
    what waits in the CPU's memory: none, optimizer, or all.
    """

    gpus: int = 1
    zero: int = 0
    tensor: int = 1
    offload: str = "none"

    def problems(self) -> list[str]:
        """What is wrong with it, as sentences."""
        found = []
        if self.gpus < 1:
            found.append("There must be at least one GPU.")
        if self.zero not in (0, 1, 2, 3):
            found.append(f"ZeRO has the stages 0 to 3, not {self.zero}.")
        if self.tensor < 1 or self.gpus % max(1, self.tensor):
            found.append(f"{self.gpus} GPUs cannot be split into groups of {self.tensor}.")
        if self.offload not in OFFLOADS:
            found.append(f"There is no offloading called {self.offload!r}; there are {', '.join(OFFLOADS)}.")
        return found

    def checked(self) -> Sharding:
        """Itself.

        Raises:
            BadInput: it makes no sense.
        """
        wrong = self.problems()
        if wrong:
            raise BadInput(" ".join(wrong))
        return self

    def note(self) -> str:
        """What of it changes nothing, as a sentence; "" where everything does."""
        if self.zero and self.groups == 1:
            return "ZeRO cuts a step among several GPUs; here there is only one to cut among, so it changes nothing."
        return ""

    @property
    def alone(self) -> bool:
        """Whether nothing is shared and nothing offloaded."""
        return self.gpus == 1 and self.offload == "none"

    @property
    def groups(self) -> int:
        """Among how many ZeRO cuts."""
        return self.gpus // self.tensor

    def factors(self) -> dict[str, float]:
        """Term -> the share of it that one GPU has (1 for those not named)."""
        n, t = self.groups, self.tensor
        found = dict.fromkeys((*WEIGHTS, "optimizer state", "gradients"), 1 / t) | dict.fromkeys(CUT_BY_TENSOR, 1 / t)
        if self.zero >= 1:
            found["optimizer state"] /= n
        if self.zero >= 2:
            found["gradients"] /= n
        if self.zero >= 3:
            found |= {name: found[name] / n for name in WEIGHTS}
        if (self.zero >= 3 and n > 1) or self.offload == "all":
            found[COPIES] = 0.0
        if self.offload in ("optimizer", "all"):
            found["optimizer state"] = 0.0
            found["gradients"] = 0.0
        if self.offload == "all":
            found |= dict.fromkeys(WEIGHTS, 0.0)
        return {name: share for name, share in found.items() if share != 1}

    def extra(self, whole: Parts, batch: int, length: int, width: int) -> list[Term]:
        """What one GPU has besides its share.

        Args:
            whole: bytes of the model's parts. batch, length: of one GPU's pass. width: of the hidden states.
        """
        found = []
        t = self.tensor
        gathers = self.zero >= 3 and self.groups > 1
        if gathers or self.offload == "all":
            size = round((whole.outside + GATHERED * whole.block) / t)
            told = f"{bytes_text(round(whole.outside / t))} outside of the blocks + {GATHERED} × "
            found.append(Term("gathered weights", size, f"{told}{bytes_text(round(whole.block / t))} of a block", ZERO))
        if self.zero < 2 and self.groups > 1 and whole.gradients and self.offload == "none":
            size = round(whole.gradients / t)
            found.append(Term("gradient buckets", size, "a copy of all gradients, to be sent", BUCKETS))
        sends = self.zero >= 2 and self.groups > 1
        if (sends or self.offload != "none") and whole.block_gradients:
            size = round((whole.block_gradients + whole.outside_gradients) / t)
            found.append(
                Term("gradients on their way", size, "those of one block, and outside of the blocks, whole",
                     ZERO if sends else OFFLOAD)
            )  # fmt: skip
        if t > 1:
            size = 2 * 2 * batch * length * width
            found.append(
                Term("gathered hidden states", size,
                     f"2 × batch {batch:,} × length {length:,} × {width:,} × 2 bytes", TENSOR)
            )  # fmt: skip
        return found


ALONE = Sharding()


@dataclass(frozen=True)
class Parts:
    """Bytes of the largest block's weights, of the weights outside of all blocks, of their gradients, and of all
    gradients."""

    block: int
    outside: int
    block_gradients: int
    outside_gradients: int
    gradients: int = 0


def parts_of(
    table: Architecture, terms: Mapping[str, int], trained: int, gradient_bytes: int = 4, *, halved: bool = False
) -> Parts:
    """The model's parts, from its table of modules and the bytes of a step's terms.

    Weights take what they take on average: in four bits inside the blocks, 16 outside, so both are told apart by the
    whole.

    Args:
        trained: number of parameters that train; spread over the blocks as the weights are, or, if they are not all,
            over the blocks alone. gradient_bytes: of one number's gradient. halved: weights are stored in 32 bits and
            used in 16, and so are gradients.
    """
    from core.catalog.tables import BLOCK

    blocks: dict[str, int] = {}
    outside = 0
    for module in table.modules:
        found = BLOCK.match(module.name)
        if found:
            key = found[1] + found[2]
            blocks[key] = blocks.get(key, 0) + module.parameters
        else:
            outside += module.parameters
    inside = sum(blocks.values())
    all_bytes = sum(terms.get(name, 0) for name in WEIGHTS) // (2 if halved else 1)
    gradients = trained * gradient_bytes // (2 if halved else 1)
    quantized = terms.get("quantization constants", 0) > 0
    # What is not quantized stands in two bytes, as it is loaded beside a base in four bits.
    outside_bytes = min(2 * outside, all_bytes) if quantized else round(all_bytes * outside / max(1, table.total))
    largest = max(blocks.values(), default=0) / max(1, inside)
    whole = trained >= table.total
    return Parts(
        round((all_bytes - outside_bytes) * largest), outside_bytes,
        round((gradients * inside / table.total if whole else gradients) * largest),
        round(gradients * outside / table.total) if whole else 0,
        trained * gradient_bytes,
    )  # fmt: skip


def used_in_half(table: Architecture, terms: Mapping[str, int], *, copied: bool) -> bool:
    """Whether the base's weights are stored in 32 bits and used in 16: so they are if copies are made of what takes, by
    and large, four bytes a number."""
    return copied and sum(terms.get(name, 0) for name in WEIGHTS) > 3 * table.total


def shared(ledger: Ledger, extra: list[Term]) -> Ledger:
    """A ledger whose terms are one GPU's share already, with what comes on top."""
    terms = (*ledger.terms, *extra)
    return replace(ledger, terms=terms, allocated_bytes=sum(t.bytes for t in terms))


__all__ = ["ALONE", "COPIES", "OFFLOADS", "WEIGHTS", "Parts", "Sharding", "parts_of", "shared", "used_in_half"]
