"""Matrices to be quantized, read without torch: a base's own, or those in a file that somebody brings.

Of a safetensors file only the numbers that are asked for are read. What is refused, each with its own sentence: pickles
(a .npy file may hold one), files that are damaged or too large, matrices without two sides, values that are not finite
numbers.
"""

from __future__ import annotations

import csv
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.base import INDEX, WEIGHTS, describe_base, locate
from core.errors import BadInput, BaseUnavailable, Incompatible, NotFound
from core.units import bytes_text, count_text

ENDINGS = ("safetensors", "npy", "csv")
MOST_FILE_BYTES = 20_000_000
MOST_VALUES = 2**24
"""Of one matrix in a file: more would neither fit a CSV of that size nor answer at once."""
LEAST_VALUES = 64
_FLOATS = {"F64": ("<f8", 8), "F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}
_EMBEDDING = re.compile(r"(embed|wte|wpe|word_emb|lm_head|embed_out)", re.I)
# GPT-2's layers store their weight as (in, out); a layer stored in four bits is (out, in).
_CONV1D_FAMILIES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer|decoder_layers)\.(\d+)\.")


@dataclass(frozen=True)
class Matrix:
    """A matrix that can be read.

    name: of the tensor. rows, columns: as a layer has them, (out, in). place: the file. dtype: as safetensors names it,
    or "npy", "csv". offset: where its numbers begin, in bytes. transposed: it is stored as (in, out). embedding: a
    table of tokens or the head, which QLoRA leaves as it is.
    """

    name: str
    rows: int
    columns: int
    place: Path
    dtype: str
    offset: int = 0
    transposed: bool = False
    embedding: bool = False

    @property
    def title(self) -> str:
        """'layer 3 q_proj', or its name."""
        return title_of(self.name)

    @property
    def size(self) -> int:
        return self.rows * self.columns


def kind_of(name: str) -> str:
    """The last word of a module's or its weight's name: 'model.layers.3.self_attn.q_proj.weight' -> 'q_proj'."""
    return name.removesuffix(".weight").rpartition(".")[2]


def layer_of(name: str) -> int | None:
    """The number of the layer that a module or weight stands in, from 0; None if its name does not tell."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def title_of(name: str) -> str:
    """For people: 'layer 3 q_proj'."""
    layer = layer_of(name)
    return kind_of(name) if layer is None else f"layer {layer} {kind_of(name)}"


def of_base(source: str) -> tuple[Matrix, ...]:
    """The weight matrices of a base, in the order of its layers, embeddings last.

    Raises:
        BaseUnavailable, BadInput: as core.base.describe_base; its weights are still on the hub.
    """
    facts = describe_base(source)
    if facts["few_bits"]:
        raise few_bits_only(facts)
    located = locate(source, facts["revision"] if facts["kind"] == "hub" else None, weights=False)
    if located.remote_sizes:
        size = bytes_text(sum(located.remote_sizes.values()))
        raise BaseUnavailable(
            f"The weights of {located.name} ({size}) are not on this machine.",
            "Fetch them first: a run on this base does, and so does a measurement below.",
        )
    folder = located.folder
    files = [WEIGHTS]
    if not (folder / WEIGHTS).exists():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    found = [m for name in files for m in _of_safetensors(folder / name, facts["model_type"] or "")]
    return tuple(sorted(found, key=lambda m: (m.embedding, layer_of(m.name) is None, layer_of(m.name) or 0)))


def few_bits_only(facts: Mapping[str, Any]) -> Incompatible:
    """What to raise for a base that is stored in few bits: there is no other weight to compare with."""
    return Incompatible(
        f"The weights of {facts['name']} are stored in {facts['few_bits']['title']} already: what they were before is "
        "not in the checkpoint, so there is nothing to compare with.",
        "Name the unquantized checkpoint of the same model.",
    )


def of_file(path: Path) -> tuple[Matrix, ...]:
    """The matrices in a file: every 2-D tensor of a safetensors file, or the one of a .npy or .csv file.

    Raises:
        NotFound: there is no such file.
        BadInput: another kind of file, too large, damaged, or without a matrix.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path.name}.", "Give it again.")
    ending = path.suffix.lower().lstrip(".")
    if ending not in ENDINGS:
        raise BadInput(
            f"{path.name} is none of the files that can be read here.",
            "Give a matrix as .safetensors, .npy or .csv; pickles (.pt, .bin, .pkl) are never opened.",
        )
    size = path.stat().st_size
    if size > MOST_FILE_BYTES:
        raise BadInput(
            f"{path.name} has {bytes_text(size)}; at most {bytes_text(MOST_FILE_BYTES)} are read.",
            "Save fewer or smaller matrices.",
        )
    if ending == "safetensors":
        found = _of_safetensors(path, "")
        if not found:
            raise BadInput(f"{path.name} holds no matrix of floating-point numbers.", "Save a tensor with two sides.")
    else:
        rows, columns = (_npy if ending == "npy" else _csv)(path).shape
        found = [Matrix(path.stem, rows, columns, path, ending)]
    for matrix in found:
        _check_size(matrix)
    return tuple(found)


def named(matrices: Sequence[Matrix], name: str) -> Matrix:
    """The matrix of that name.

    Raises:
        NotFound: there is none.
    """
    for matrix in matrices:
        if matrix.name == name:
            return matrix
    raise NotFound(f"There is no matrix {name!r}.", f"There are {len(matrices)}; the first is {matrices[0].name!r}.")


def read(matrix: Matrix, most_values: int | None = None) -> np.ndarray:
    """(rows, columns) float32, or as many of the first rows as `most_values` holds (one at least).

    Raises:
        BadInput: it holds a value that is not a finite number.
    """
    rows = matrix.rows if most_values is None else max(1, min(matrix.rows, most_values // matrix.columns))
    if matrix.dtype in _FLOATS:
        kind, width = _FLOATS[matrix.dtype]
        # A transposed matrix has its first rows spread over the file, so it is read whole.
        count = matrix.size if matrix.transposed else rows * matrix.columns
        with matrix.place.open("rb") as file:
            file.seek(matrix.offset)
            raw = np.frombuffer(file.read(count * width), dtype=kind)
        if matrix.dtype == "BF16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        whole = raw.reshape(matrix.columns, matrix.rows).T if matrix.transposed else raw.reshape(-1, matrix.columns)
    else:
        whole = (_npy if matrix.dtype == "npy" else _csv)(matrix.place)
    values = np.array(whole[:rows], dtype=np.float32, order="C")  # a copy: the file may go
    if not np.isfinite(values).all():
        raise BadInput(
            f"{matrix.name} holds values that are not finite numbers.", "Look for NaN or infinity in the file."
        )
    return values


# --- the kinds of file ------------------------------------------------------------------------------------------------


def _check_size(matrix: Matrix) -> None:
    if not LEAST_VALUES <= matrix.size <= MOST_VALUES:
        raise BadInput(
            f"{matrix.name} is {matrix.rows} × {matrix.columns}: "
            f"{'fewer' if matrix.size < LEAST_VALUES else 'more'} values than are looked at here.",
            f"Give a matrix of {LEAST_VALUES} to {count_text(MOST_VALUES)} values.",
        )


def _of_safetensors(path: Path, model_type: str) -> list[Matrix]:
    """Every 2-D tensor of floating-point numbers. The header is checked by the safetensors library first.

    Format: 8 bytes little-endian header length, that much JSON, then the tensors
    (https://huggingface.co/docs/safetensors/index#format).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as why:
        raise BadInput(f"{path.name} is damaged: it is not read as a safetensors file.", "Save it again.") from why
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: Mapping[str, dict] = json.loads(file.read(length))
    out = []
    for name, entry in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])[0]):
        if name == "__metadata__" or entry["dtype"] not in _FLOATS or len(entry["shape"]) != 2:
            continue
        if math.prod(entry["shape"]) == 0:
            continue
        turned = model_type in _CONV1D_FAMILIES and not _EMBEDDING.search(name)
        rows, columns = entry["shape"][::-1] if turned else entry["shape"]
        offset = 8 + length + entry["data_offsets"][0]
        embedding = bool(model_type) and bool(_EMBEDDING.search(name))
        out.append(Matrix(name, rows, columns, path, entry["dtype"], offset, turned, embedding))
    return out


def _npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":  # numpy would take it for a pickle
            raise BadInput(f"{path.name} is not a .npy file, whatever its name says.", "Save it with numpy.save.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as why:
        if "object" in str(why).lower():
            raise BadInput(
                f"{path.name} holds Python objects, that is a pickle, which may run code when it is opened.",
                "Save numbers only: numpy.save(file, array.astype('float32')).",
            ) from why
        raise BadInput(f"{path.name} is not read as a .npy file.", "Save it with numpy.save.") from why
    except (OSError, EOFError) as why:
        raise BadInput(f"{path.name} is damaged.", "Save it with numpy.save.") from why
    if array.ndim != 2 or not array.size:
        raise BadInput(f"{path.name} has shape {array.shape}; a matrix has two sides.", "Save a 2-D array.")
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise BadInput(f"{path.name} holds {array.dtype}, not real numbers.", "Save it as float32.")
    return array


def _csv(path: Path) -> np.ndarray:
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(csv.reader(file), 1):
                if not cells:
                    continue
                try:
                    rows.append([float(cell) for cell in cells])
                except ValueError as why:
                    raise BadInput(
                        f"Line {number} of {path.name} holds something that is not a number.",
                        "Give numbers only, separated by commas, without a header line.",
                    ) from why
                if len(rows[-1]) != len(rows[0]):
                    raise BadInput(
                        f"Line {number} of {path.name} has {len(rows[-1])} numbers, the first line has {len(rows[0])}.",
                        "Give every row the same number of columns.",
                    )
    except (UnicodeDecodeError, csv.Error) as why:
        raise BadInput(f"{path.name} is not a text file of numbers.", "Save it as CSV in UTF-8.") from why
    if not rows:
        raise BadInput(f"{path.name} is empty.", "Give numbers, separated by commas.")
    return np.asarray(rows, dtype=np.float64)
