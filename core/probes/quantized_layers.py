"""Which layers of a base suffer from few bits, and what the whole base still knows in each format.

One matrix, one kind of matrix or one layer at a time is stored in the chosen format and read again, while everything
else stays as it is; the held-out loss says what that alone costs. Then all that QLoRA stores, in every format: the
loss, and for the embedded base its five skills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.config import EMBEDDED, knob
from core.probes import Subject, Tell
from core.quantization import blockwise
from core.quantization.formats import FORMATS, SHOWN
from core.quantization.matrices import kind_of, layer_of, title_of

if TYPE_CHECKING:
    from core.base import Base
    from core.quantization.in_model import HeldOut, Losses

TITLE = "Which layers suffer from quantization"
RUNS = (0, 0)
WHOLE = (*(n for n in SHOWN if n != "nf4"), "nf3", "nf2")
MOST_MATRICES = 64
"""A base with more is measured by kind and by layer only: each part takes a pass over the text."""


@dataclass(frozen=True)
class Config:
    """What is stored, and how."""

    base: str = knob(EMBEDDED, "The base whose layers are stored: embedded, a folder or a hub id.")
    format: str = knob(
        "nf2", "How the one part is stored.", choices=tuple(n for n in FORMATS if n != "dynamic8"),
        why="Four bits hardly harm the embedded base, so nothing would be seen; two bits show who is sensitive.",
    )  # fmt: skip
    weights: str = knob("", "Fingerprint of the base's weights: with others it is another measurement.")
    block_size: int = knob(64, "Weights that share a scale.", unit="weights", low=8, high=65_536, why="QLoRA's choice.")
    items: int = knob(
        40, "Held-out items per skill.", unit="items", low=2, high=200,
        why="Enough to tell a thousandth of a nat apart; fewer are faster on a large base.",
    )  # fmt: skip


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Measure the parts, then the whole in each format.

    Returns:
        base, format, block_size. tokens: predicted. loss: of the base as it is, nats a token. skills: its shares, or
        empty. parts: group ('matrix', 'kind', 'layer'), name, weights, added (loss above the base's) and error (the
        standard error of that). matrices: whether there were few enough to take one at a time. formats: the whole base,
        with bits and bytes of what is stored, loss, added, error and skills.

    Raises:
        DeltalabError: the base cannot be used.
    """
    from core.quantization import in_model

    tell(0.0, "Loading the base")
    base = in_model.load(config.base)
    names = in_model.stored_layers(base.model)
    asked = in_model.held_out(base, config.items)
    shapes = {name: in_model.weight_of(base.model, name).shape for name in names}
    parts = _parts(names)
    whole = [("nf4", False), ("nf4", True), *((name, False) for name in WHOLE)]
    total = 1 + len(parts) + 3 * len(whole)  # the whole model is also asked to answer
    tell(0.0, "Reading the text with the base as it is")
    plain = in_model.losses(base.model, base.tokenizer, asked.encoded)
    out: dict[str, Any] = {
        "base": base.name, "format": config.format, "block_size": config.block_size, "tokens": asked.tokens,
        "loss": plain.mean, "skills": _skills(base, asked), "matrices": len(names) <= MOST_MATRICES, "parts": [],
        "formats": [],
    }  # fmt: skip
    for done, (group, name, members) in enumerate(parts, 1):
        tell(done / total, f"Storing {name} alone")
        with in_model.stored(base.model, members, FORMATS[config.format], config.block_size):
            found = in_model.losses(base.model, base.tokenizer, asked.encoded)
        weights = sum(shapes[m][0] * shapes[m][1] for m in members)
        out["parts"].append({"group": group, "name": name, "weights": weights} | _above(found, plain))
    for done, (name, double) in enumerate(whole):
        form = FORMATS[name]
        tell((1 + len(parts) + 3 * done) / total, f"Storing everything as {form.title}")
        with in_model.stored(base.model, names, form, config.block_size, double):
            found = in_model.losses(base.model, base.tokenizer, asked.encoded)
            skills = _skills(base, asked)
        bits = sum(
            r * c * blockwise.bits_per_weight(form, config.block_size, double, columns=c) for r, c in shapes.values()
        )
        out["formats"].append(
            {
                "format": name, "double": double, "bits": bits / sum(r * c for r, c in shapes.values()),
                "stored_bytes": bits / 8, "loss": found.mean, "skills": skills,
            }
            | _above(found, plain)
        )  # fmt: skip
    return out


def _parts(names: list[str]) -> list[tuple[str, str, list[str]]]:
    """(group, name, layers): every kind, every layer, and every matrix if they are not too many."""
    kinds: dict[str, list[str]] = {}
    layers: dict[int, list[str]] = {}
    for name in names:
        kinds.setdefault(kind_of(name), []).append(name)
        layer = layer_of(name)
        if layer is not None:
            layers.setdefault(layer, []).append(name)
    parts = [("kind", kind, part) for kind, part in kinds.items()]
    parts += [("layer", f"layer {number}", part) for number, part in layers.items()]
    if len(names) <= MOST_MATRICES:
        parts += [("matrix", title_of(name), [name]) for name in names]
    return parts


def _above(found: Losses, plain: Losses) -> dict[str, float]:
    added, error = found.above(plain)
    return {"added": added, "error": error}


def _skills(base: Base, asked: HeldOut) -> dict[str, float]:
    from core.evaluate import score

    return {name: score(base.model, base.tokenizer, items, whole=0).share for name, items in asked.items.items()}


__all__ = ["RUNS", "TITLE", "Config", "measure"]
