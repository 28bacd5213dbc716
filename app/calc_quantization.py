"""Numbers about storing weights in few bits, for lessons: each over core.quantization, core.claims or the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from core.errors import BadInput

MATRIX = "model.layers.0.self_attn.q_proj.weight"
"""The matrix of the embedded base on which lessons show errors."""


def bits_per_weight(format: str, block_size: int, double: str = "no") -> float:
    """Bits a weight takes, its share of the scales included. double: yes or no."""
    from core.quantization import blockwise
    from core.quantization.formats import format_of

    return blockwise.bits_per_weight(format_of(format), block_size, _yes(double))


def scale_bits(block_size: int, double: str = "no") -> float:
    """The part of them that is scales."""
    return bits_per_weight("nf4", block_size, double) - 4


def stored_bytes(model: str, bits: float) -> float:
    """All parameters of a catalogue model at so many bits each, in bytes."""
    return model_size(model) * bits / 8


def model_size(model: str) -> float:
    """Parameters of a catalogue model."""
    from core.catalog import architecture_of

    return float(architecture_of(model).total)


@lru_cache
def _weight(of: str) -> Any:
    from core.config import EMBEDDED
    from core.quantization import criteria, matrices, summaries

    if of == "normal":
        return criteria.normal_weights()
    if of != "real":
        raise BadInput(f"Errors are known of normal numbers and of real weights, not of {of!r}.")
    return matrices.read(matrices.named(matrices.of_base(EMBEDDED), MATRIX), summaries.AT_ONCE)


def level_error(format: str, block_size: int = 64, of: str = "real") -> float:
    """Root mean square error of the stored weights in per cent of their spread. of: real (the base's first query
    matrix) or normal (numbers from N(0, 1))."""
    from core.quantization import summaries
    from core.quantization.formats import format_of

    return 100 * (summaries.cost(_weight(of), format_of(format), block_size).errors.rmse or 0.0)


def double_added(block_size: int = 64) -> float:
    """By how many per cent double quantization raises NF4's error on the base's first query matrix."""
    from core.quantization import summaries
    from core.quantization.formats import FORMATS

    plain = summaries.cost(_weight("real"), FORMATS["nf4"], block_size).errors.rmse or 0.0
    twice = summaries.cost(_weight("real"), FORMATS["nf4"], block_size, double=True).errors.rmse or 0.0
    return 100 * (twice / plain - 1)


@lru_cache
def _judged(of: str, block_size: int) -> dict[str, Any]:
    from core.quantization import criteria

    return {row.name: row for row in criteria.judged(_weight(of), block_size)}


def criterion(levels: str, what: str, of: str = "normal", block_size: int = 64) -> str:
    """A list of levels by a criterion: what is `error` (per cent of the spread) or `bits` (what four bits carry).

    levels: nf4, fp4, int4, or what a list was fitted for: least error, equal use.
    """
    rows = _judged(of, block_size)
    if levels not in rows or what not in ("error", "bits"):
        raise BadInput(f"There is no {what!r} of {levels!r}.", f"Lists are {', '.join(rows)}; what: error, bits.")
    row = rows[levels]
    return f"{100 * row.rmse:.1f} %" if what == "error" else f"{row.entropy_bits:.2f}"


def nf4(part: str) -> float:
    """A number of NF4's derivation: `outermost` probability, its `quantile`, the `smallest` and `largest` gap between
    neighbouring levels, or the largest `difference` to the published values."""
    from core.quantization.formats import NF4_PUBLISHED, gaps, normal_float

    found = normal_float(4)
    known = {
        "outermost": found.offset,
        "quantile": found.positive[-1][1],
        "smallest": gaps(found.levels)[0],
        "largest": gaps(found.levels)[1],
        "difference": max(abs(a - b) for a, b in zip(found.levels, NF4_PUBLISHED, strict=True)),
    }
    if part not in known:
        raise BadInput(f"NF4's derivation has no {part!r}.", f"It has {', '.join(known)}.")
    return known[part]


def paired(task: str, storage: str, what: str) -> str:
    """The recorded pairs of runs that differ in how the base is stored: their mean score on 32 bits (`plain`), on the
    stored base (`stored`), the mean difference in `points`, how many `pairs`, or the `luck` of seeds alone."""
    from core.quantization import pairs

    found = pairs.recorded()
    if what == "luck":
        seen = pairs.luck([o for o in found if o.task == task])
        if seen is None:
            raise BadInput(f"No two seeds of {task} were recorded.")
        return f"{seen[1]:.0f}"
    mean = next((m for m in pairs.means(pairs.pairs(found)) if (m.task, m.storage) == (task, storage)), None)
    known = {} if mean is None else {
        "plain": f"{100 * mean.plain:.0f} %", "stored": f"{100 * mean.stored:.0f} %",
        "points": f"{abs(mean.points):.0f}", "pairs": str(mean.pairs),
    }  # fmt: skip
    if what not in known:
        raise BadInput(f"There is no {what!r} of {task} on {storage}.")
    return known[what]


def _yes(word: str) -> bool:
    if word not in ("yes", "no"):
        raise BadInput(f"double is yes or no, not {word!r}.")
    return word == "yes"


def _short(value: float) -> str:
    """4.127, 0.5, 0.127."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _bytes(value: float) -> str:
    from core.claims import decimal_text

    return decimal_text(value)


def _percent(value: float) -> str:
    return f"{value:.1f} %"


def _parameters(value: float) -> str:
    from core.units import count_text

    return count_text(value)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {
    "bits_per_weight": (bits_per_weight, _short),
    "scale_bits": (scale_bits, _short),
    "stored_bytes": (stored_bytes, _bytes),
    "model_size": (model_size, _parameters),
    "level_error": (level_error, _percent),
    "double_added": (double_added, lambda v: f"{v:.1g} %"),
    "criterion": (criterion, str),
    "nf4": (nf4, lambda v: f"{v:.4g}"),
    "paired": (paired, str),
}
