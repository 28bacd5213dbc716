"""What one trained number costs between two steps, byte by byte: the rule of 16 to 20 bytes a parameter, taken apart.

    mixed precision   weight 2 + gradient 2 + 32-bit copy 4 + Adam's m 4 + Adam's v 4 = 16
    and summed in 32  + 4 for a 32-bit gradient that several passes are added into       = 20
    no 32-bit copy    weight 2 + gradient 2 + m 4 + v 4                                  = 12
    all in 32 bits    weight 4 + gradient 4 + m 4 + v 4                                  = 16

(Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 3.1: 2 + 2 + 12; Micikevicius et al. 2018, section 3.1, for
the copy.) A number that does not train costs its weight and nothing else. Activations are not in the rule: they depend
on the batch and the length, not on the parameters. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.errors import BadInput

OPTIMIZER_BYTES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"adamw": (4, 4), "adamw_8bit": (1 + 4 / 256, 1 + 4 / 256), "momentum": (4,), "sgd": ()}
)
"""Bytes of each state an optimizer keeps beside a weight. 8 bits: blocks of 256 share a 32-bit scale (Dettmers et al.
2022, arXiv:2110.02861, section 2)."""
STATE_NAMES = ("m, the mean of the gradient", "v, the mean of its square")


@dataclass(frozen=True)
class Recipe:
    """How training keeps a number. weight, gradient: bytes, 2 or 4. copy: a 32-bit copy beside a 16-bit weight.
    summed: gradients of several passes are added up in 32 bits. optimizer: a key of OPTIMIZER_BYTES."""

    weight: int = 2
    gradient: int = 2
    copy: bool = True
    summed: bool = False
    optimizer: str = "adamw"

    def problems(self) -> list[str]:
        """What is wrong with it, as sentences."""
        found = []
        if self.weight not in (2, 4) or self.gradient not in (2, 4):
            found.append("Weights and gradients take 2 or 4 bytes here.")
        if self.optimizer not in OPTIMIZER_BYTES:
            found.append(f"There is no optimizer {self.optimizer!r}; there are {', '.join(OPTIMIZER_BYTES)}.")
        return found


@dataclass(frozen=True)
class Part:
    """One thing that is kept. bytes: of it, for one number. frozen: whether a number that does not train has it too."""

    name: str
    bytes: float
    why: str
    frozen: bool = False


RECIPES: Mapping[str, tuple[str, Recipe]] = MappingProxyType(
    {
        "mixed": ("Mixed precision, with a 32-bit copy", Recipe()),
        "summed": ("The same, gradients summed in 32 bits", Recipe(summed=True)),
        "bare": ("16 bits, no copy", Recipe(copy=False)),
        "single": ("Everything in 32 bits", Recipe(weight=4, gradient=4, copy=False)),
        "eight": ("16 bits, no copy, 8-bit Adam", Recipe(copy=False, optimizer="adamw_8bit")),
    }
)
"""Recipes that people mean when they name a number of bytes: key -> (title, recipe)."""


def recipe(name: str) -> Recipe:
    """A recipe by its key.

    Raises:
        BadInput: there is none.
    """
    if name not in RECIPES:
        raise BadInput(f"There is no recipe {name!r}.", f"There are {', '.join(RECIPES)}.")
    return RECIPES[name][1]


def parts(of: Recipe) -> list[Part]:
    """What is kept of one number that trains, in the order in which a step makes it.

    Raises:
        BadInput: the recipe is none.
    """
    wrong = of.problems()
    if wrong:
        raise BadInput(" ".join(wrong))
    bits = 8 * of.weight
    out = [Part(f"weight, {bits} bits", of.weight, "What the model computes with.", frozen=True)]
    if of.copy and of.weight == 2:
        out.append(
            Part(
                "32-bit copy", 4,
                "Steps are tiny: added to a 16-bit number they are rounded away, so they are added to this one.",
            )
        )  # fmt: skip
    out.append(Part(f"gradient, {8 * of.gradient} bits", of.gradient, "Where downhill is, for this number."))
    if of.summed and of.gradient == 2:
        out.append(Part("summed gradient, 32 bits", 4, "What several passes are added up in before a step is taken."))
    names = STATE_NAMES if len(OPTIMIZER_BYTES[of.optimizer]) == 2 else ("momentum",)
    whys = ("Which way the gradient has pointed lately.", "How large it has been lately: the step is divided by this.")
    out += [
        Part(name, size, why)
        for name, size, why in zip(names, OPTIMIZER_BYTES[of.optimizer], whys, strict=False)
    ]  # fmt: skip
    return out


def each(of: Recipe) -> float:
    """Bytes of one number that trains."""
    return sum(part.bytes for part in parts(of))


def frozen(of: Recipe) -> float:
    """Bytes of one number that does not."""
    return sum(part.bytes for part in parts(of) if part.frozen)


def needed(of: Recipe, parameters: float) -> float:
    """Bytes of a model whose every number trains, activations not counted."""
    return each(of) * parameters


__all__ = ["OPTIMIZER_BYTES", "RECIPES", "Part", "Recipe", "each", "frozen", "needed", "parts", "recipe"]
