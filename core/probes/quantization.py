"""How far each matrix of a base, or of a file, is from itself once it is stored in few bits.

For every matrix that QLoRA stores: the error of every format, on the weights and (for a base) on the layer's output
with the inputs that the layer really gets from held-out text; and over all of them together, the error by block size,
with and without double quantization. Nothing is trained, no run is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config import EMBEDDED, knob
from core.probes import Subject, Tell
from core.quantization import blockwise, matrices, measures, summaries
from core.quantization.formats import FORMATS, SHOWN
from core.quantization.matrices import kind_of, layer_of, title_of

if TYPE_CHECKING:
    from core.quantization.summaries import Cost

TITLE = "Quantization error, matrix by matrix"
RUNS = (0, 0)
TOKENS = 256  # of held-out text whose way through the layers is kept
CURVE_VALUES = 2**20  # of each matrix, for the errors by block size


@dataclass(frozen=True)
class Config:
    """What is measured, and how it is stored."""

    base: str = knob(EMBEDDED, "The base whose matrices are stored: embedded, a folder or a hub id.")
    file: str = knob("", "A file with matrices instead of a base: .safetensors, .npy or .csv.")
    weights: str = knob("", "Fingerprint of the base's weights: with others it is another measurement.")
    block_size: int = knob(
        64, "Weights that share a scale.", unit="weights", low=8, high=65_536, why="QLoRA's choice: 4.5 bits a weight."
    )


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Measure every matrix.

    Returns:
        source: the base's or file's name. block_size. tokens: of text behind the output errors (0: none). matrices: one
        a matrix, with its errors by format. curve: over all matrices, by format, block size and double quantization.
        sampled: whether the curve saw the first CURVE_VALUES of some matrix only.

    Raises:
        DeltalabError: the base or file cannot be used.
    """
    tell(0.0, "Reading the matrices")
    source, tokens, found = _from_file(config) if config.file else _from_base(config)
    rows, curve, sampled = [], [], False
    for done, (name, weight, inputs) in enumerate(found, 1):
        tell(done / (tokens["matrices"] + 1), f"Storing {title_of(name)}")
        rows.append(_row(name, weight, inputs, config.block_size))
        part = weight[: max(1, CURVE_VALUES // weight.shape[1])]
        sampled = sampled or len(part) < len(weight)
        curve.append((weight.size, summaries.costs(part)))
    return {
        "source": source, "block_size": config.block_size, "tokens": tokens["tokens"], "matrices": rows,
        "curve": _pooled(curve), "sampled": sampled,
    }  # fmt: skip


_Found = Iterator[tuple[str, np.ndarray, np.ndarray | None]]


def _from_file(config: Config) -> tuple[str, dict[str, int], _Found]:
    path = Path(config.file)
    found = matrices.of_file(path)
    return path.name, {"tokens": 0, "matrices": len(found)}, ((m.name, matrices.read(m), None) for m in found)


def _from_base(config: Config) -> tuple[str, dict[str, int], _Found]:
    from core.quantization import in_model

    base = in_model.load(config.base)
    names = in_model.stored_layers(base.model)
    encoded = in_model.held_out(base, 8).encoded
    inputs = in_model.inputs(base.model, names, encoded, TOKENS)

    def each() -> _Found:
        for name in names:
            weight = in_model.weight_of(base.model, name)
            yield name, weight, inputs.get(name)

    read = max((len(x) for x in inputs.values()), default=0)
    return base.name, {"tokens": read, "matrices": len(names)}, each()


def _row(name: str, weight: np.ndarray, inputs: np.ndarray | None, block_size: int) -> dict[str, Any]:
    errors, known = {}, measures.Known.of(weight)
    for form in SHOWN:
        copy = blockwise.quantize(weight, FORMATS[form], block_size).dense()
        errors[form] = measures.errors(known, copy).to_dict() | {
            "output": None if inputs is None else measures.output_error(inputs, weight, copy)
        }
    return {
        "name": name, "title": title_of(name), "layer": layer_of(name), "kind": kind_of(name),
        "rows": weight.shape[0], "columns": weight.shape[1], "std": float(weight.std(dtype=np.float64)),
        "largest": float(np.abs(weight).max()), "kurtosis": measures.excess_kurtosis(weight), "errors": errors,
    }  # fmt: skip


def _pooled(found: list[tuple[int, tuple[Cost, ...]]]) -> list[dict[str, Any]]:
    """Costs of all matrices together: bits by their share of the weights, errors as root mean squares."""
    groups: dict[tuple[str, int, bool], list[tuple[int, Cost]]] = {}
    for size, costs in found:
        for c in costs:
            by_row = FORMATS[c.format].scope == "row"  # its block is a row, whose length differs between matrices
            groups.setdefault((c.format, 0 if by_row else c.block_size, c.double), []).append((size, c))
    out = []
    for (name, block_size, double), part in groups.items():
        total = sum(n for n, _ in part)
        known = [(n, c.errors.rmse) for n, c in part if c.errors.rmse is not None]
        squares = sum(n * e * e for n, e in known) / max(1, sum(n for n, _ in known))
        bits = sum(n * c.bits for n, c in part) / total
        out.append({
            "format": name, "block_size": block_size, "double": double, "bits": bits, "stored_bytes": bits * total / 8,
            "rmse": math.sqrt(squares) if known else None,
        })  # fmt: skip
    return out


__all__ = ["RUNS", "TITLE", "Config", "measure"]
