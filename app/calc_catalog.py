"""Numbers about published models that lessons and the drill may print: over the catalogue's tables, without torch.

One part of the whitelist in app/calc.py, which says how they are written. Sizes of whole models are in decimal units
(GB are 1e9 bytes), as disks and checkpoints are sold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app.numbers import grouped
from core.errors import BadInput
from core.units import GB, MB

if TYPE_CHECKING:
    from core.claims import Figure


def model_parameters(model: str) -> float:
    """Parameters of a model of the catalogue."""
    from core.catalog import architecture_of

    return float(architecture_of(model).total)


def model_billions(model: str) -> float:
    """The same, in thousand millions."""
    return model_parameters(model) / 1e9


def weights_gb(model: str, bits: float) -> float:
    """GB of all the weights of a model at so many bits each."""
    return model_parameters(model) * bits / 8 / GB


def gb_at(model: str, bytes: float) -> float:
    """GB of a model at so many bytes a parameter, such as the 16 of mixed precision with Adam."""
    return model_parameters(model) * bytes / GB


def lora_model_parameters(model: str, rank: int, targets: str) -> float:
    """Parameters that LoRA trains in a model of the catalogue; targets: as the knob of that name."""
    from core.catalog import architecture_of
    from core.methods import METHODS

    lora = METHODS["lora"]
    return float(lora.count(architecture_of(model), lora.Config(rank=rank, target_modules=targets)))


def lora_model_percent(model: str, rank: int, targets: str) -> float:
    """The same, of all the model's parameters, in per cent."""
    return 100 * lora_model_parameters(model, rank, targets) / model_parameters(model)


def adapter_mb(model: str, rank: int, targets: str, bytes: float) -> float:
    """MB of that adapter in a file, at so many bytes a number."""
    return lora_model_parameters(model, rank, targets) * bytes / MB


def method_parameters(model: str, method: str) -> float:
    """Parameters that a method trains in a model of the catalogue, at the method's defaults."""
    from core.catalog import architecture_of
    from core.methods import METHODS

    if method not in METHODS:
        raise BadInput(f"There is no method {method!r}.", f"There are {', '.join(METHODS)}.")
    return float(METHODS[method].count(architecture_of(model), METHODS[method].Config()))


def constant_bits(block: int, second: int) -> float:
    """Bits a weight for the scales of blocks of `block` weights: 32-bit ones, or 8-bit ones of which `second` share
    another 32-bit scale (double quantization); second = 0 is without."""
    if block < 1 or second < 0:
        raise BadInput("A block has at least one weight.")
    return 32 / block if not second else 8 / block + 32 / (block * second)


def cache_mb(model: str, tokens: int, bytes: float) -> float:
    """MB of the keys and values of so many tokens: 2 · layers · key-value heads · numbers a head · tokens · bytes."""
    from core.catalog import architecture_of

    return float(architecture_of(model).cache_numbers) * tokens * bytes / MB


def _claim_figure(number: int, figure: str) -> Figure:
    from core.claims import claim

    found = next((f for f in claim(number).figures if f.name == figure), None)
    if found is None:
        raise BadInput(
            f"Claim {number} has no figure {figure!r}.", f"It has {', '.join(f.name for f in claim(number).figures)}."
        )
    return found


def claim_figure(number: int, figure: str) -> float:
    """A figure of a row of the claims ledger, by its name there."""
    return float(_claim_figure(number, figure).value)


def rrf_score(first: int, second: int) -> float:
    """What reciprocal rank fusion gives a text at these two places, in thousandths (k as the project's own)."""
    from app.calc_choose import rrf

    return 1000 * rrf(first, second)


def guess_loss(tokens: int) -> float:
    """The cross-entropy of guessing evenly among so many tokens: its natural logarithm."""
    import math

    return math.log(tokens)


def training_petaflop(billions: float, millions: float) -> float:
    """Operations of full training in units of 10¹⁵: 6 for each parameter and token. billions: of parameters.
    millions: of tokens."""
    return 6 * billions * 1e9 * millions * 1e6 / 1e15


def claim_text(number: int, figure: str) -> str:
    """The same as it is printed, with its unit."""
    return _claim_figure(number, figure).text


def short(value: float) -> str:
    """Three digits that count: 141.1 -> '141', 0.3731 -> '0.373', 1.50 -> '1.5'."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {
    "model_billions": (model_billions, short),
    "weights_gb": (weights_gb, short),
    "gb_at": (gb_at, short),
    "lora_model_parameters": (lora_model_parameters, grouped),
    "lora_model_percent": (lora_model_percent, short),
    "adapter_mb": (adapter_mb, short),
    "method_parameters": (method_parameters, grouped),
    "constant_bits": (constant_bits, short),
    "cache_mb": (cache_mb, short),
    "claim_figure": (claim_figure, short),
    "claim_text": (claim_text, str),
    "rrf_score": (rrf_score, short),
    "guess_loss": (guess_loss, short),
    "training_petaflop": (training_petaflop, short),
}
