"""Where in a block a method puts what it trains: each of its sites, at a place of a drawing of one transformer block.

    lit(table, "lora", METHODS["lora"].Config())      # [Lit(place="q", kind="pair", each=4096, blocks=6, …), …]

The numbers are the methods' own (`sites`), added up by place; nothing is counted here a second time. A drawing shows
one block, since all are alike: `each` is what one block has there, `blocks` in how many of them. Imports no torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from core.architecture import Architecture, Module
from core.config import EMBEDDED
from core.methods import LORAS, METHODS, virtual
from core.methods.modules import (
    ATTENTION_OUTPUTS,
    FUSED,
    KEYS,
    MLP_INPUTS,
    MLP_OUTPUTS,
    QUERIES,
    VALUES,
    is_one_of,
)

if TYPE_CHECKING:
    from core.methods.base import Site

BLOCK = re.compile(r"\.(\d+)\.")
# From the words up to the answer. "behind" a place stands what a method adds there.
OUTSIDE = ("prompt", "maker", "embedding", "norm_end", "head", "elsewhere")
PLACES = (
    "maker", "prompt", "embedding", "norm_1", "q", "k", "v", "qkv", "prefix", "o", "adapter_1", "norm_2", "gate", "up",
    "down", "adapter_2", "norm_end", "head", "elsewhere",
)  # fmt: skip
NAMES = {
    "prompt": "before the text", "maker": "what makes the prompt", "embedding": "token embedding",
    "norm_1": "norm before attention", "q": "query matrix", "k": "key matrix", "v": "value matrix",
    "qkv": "query, key and value matrix", "prefix": "before keys and values", "o": "attention's output matrix",
    "adapter_1": "behind attention", "norm_2": "norm before the MLP", "gate": "MLP gate matrix", "up": "MLP up matrix",
    "down": "MLP down matrix", "adapter_2": "behind the MLP", "norm_end": "last norm", "head": "output layer",
    "elsewhere": "elsewhere",
}  # fmt: skip
KINDS = {
    "whole": "the weights themselves", "bias": "its bias", "pair": "a pair B·A beside it",
    "half": "the B of a pair; A stays as drawn", "lengths": "a pair B·A, and the length of each row",
    "scale": "a vector that rescales", "scales": "two vectors around a random pair", "network": "a small network",
    "vectors": "trained vectors",
}  # fmt: skip


@dataclass(frozen=True)
class Lit:
    """What trains at one place. kind: a key of KINDS. each: numbers in one block. blocks: in so many (1 outside of the
    blocks). total: in all."""

    place: str
    kind: str
    each: int
    blocks: int
    total: int


@lru_cache
def embedded() -> Architecture:
    """The table of the embedded base, read off the names and shapes in its file."""
    from safetensors import safe_open

    from core.base import EMBEDDED_FOLDER

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(EMBEDDED_FOLDER.glob("*.safetensors")):
        with safe_open(file, framework="np") as content:
            shapes |= {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    config = json.loads((EMBEDDED_FOLDER / "config.json").read_text(encoding="utf-8"))
    paths = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))

    def order(path: str) -> tuple[Any, ...]:
        block = BLOCK.search(path)
        outside = 0 if "embed" in path else 2
        parts = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "gate", "up", "down", "input", "post")
        return (1, int(block[1]), next(i for i, p in enumerate(parts) if p in path)) if block else (outside, 0, 0)

    rows: list[Module] = []
    for path in sorted(paths, key=order):
        shape = shapes[f"{path}.weight"]
        bias = shapes.get(f"{path}.bias", (0,))[0]
        if len(shape) == 1:
            rows.append(Module(path, "norm", shape[0], shape[0], bias, shape[0]))
        elif "embed" in path:
            rows.append(Module(path, "embedding", shape[0], shape[1], bias, shape[0] * shape[1]))
        else:
            rows.append(Module(path, "linear", shape[1], shape[0], bias, shape[0] * shape[1]))
    words = rows[0]
    if config["tie_word_embeddings"]:
        rows.append(Module("lm_head", "linear", words.out_features, words.in_features, 0, words.weight, words.name))
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    cache = 2 * config["num_hidden_layers"] * heads * size
    return Architecture(EMBEDDED, config["model_type"], tuple(rows), sum(r.parameters for r in rows), "lm_head", cache)


def table_of(name: str) -> Architecture:
    """The table of a model of the catalogue, or of the embedded base.

    Raises:
        NotFound: there is no such model.
    """
    from core.catalog import architecture_of

    return embedded() if name == EMBEDDED else architecture_of(name)


def place_of(table: Architecture, module: Module) -> str:
    """Where in the drawing a module of the base is."""
    inside = BLOCK.search(module.name) is not None
    if module.name in table.heads:
        return "head"
    if module.kind == "embedding":
        return "embedding"
    if module.kind == "norm":
        if not inside:
            return "norm_end"
        stem = module.name.rpartition(".")[0]
        first = next(m.name for m in table.modules if m.kind == "norm" and m.name.startswith(f"{stem}."))
        return "norm_1" if module.name == first else "norm_2"
    places = (
        ("q", QUERIES), ("k", KEYS), ("v", VALUES), ("qkv", FUSED), ("o", ATTENTION_OUTPUTS), ("down", MLP_OUTPUTS),
    )  # fmt: skip
    for place, names in places:
        if is_one_of(module.name, names):
            return place
    if is_one_of(module.name, MLP_INPUTS):
        return "gate" if module.name.endswith("gate_proj") else "up"
    return "elsewhere"


def kind_of(method: str, module: Module | None, site: Site) -> str:
    """What it is that trains at a site: a key of KINDS."""
    if module is None:
        return "vectors" if site.module == virtual.TOKENS else "network"
    if site.trained == module.parameters and METHODS[method].BASE == "trained":
        return "whole"
    if len(site.shape) == 1 and site.trained == module.bias:
        return "bias"
    own = {"adapters": "network", "ia3": "scale", "vera": "scales", "dora": "lengths", "lora_fa": "half"}
    return own.get(method, "pair" if method in LORAS else "vectors")


def lit(table: Architecture, method: str, settings: Any = None) -> list[Lit]:
    """What a method trains, place by place, in the order of PLACES; `total`s add up to the method's count.

    Raises:
        Incompatible: as the method's `sites`.
    """
    own = settings if settings is not None else METHODS[method].Config()
    modules = {m.name: m for m in table.modules}
    found: dict[tuple[str, str], list[int]] = {}
    for site in METHODS[method].sites(table, own):
        module = modules.get(site.module)
        kind = kind_of(method, module, site)
        if module is None:
            place = "maker" if kind == "network" else "prefix" if method == "prefix_tuning" else "prompt"
        else:
            place = place_of(table, module)
            if kind == "network":
                place = "adapter_1" if place == "o" else "adapter_2"
        found.setdefault((place, kind), []).append(site.trained)
    out = []
    for (place, kind), sizes in sorted(found.items(), key=lambda row: PLACES.index(row[0][0])):
        # (Prefixes stand in every layer, though they are one tensor.)
        blocks = 1 if place in OUTSIDE else depth(table) if place == "prefix" else len(sizes)
        out.append(Lit(place, kind, sum(sizes) // blocks, blocks, sum(sizes)))
    return out


def depth(table: Architecture) -> int:
    """Number of blocks."""
    numbers = [int(found[1]) for m in table.modules if (found := BLOCK.search(m.name))]
    return max(numbers, default=-1) + 1


def drawn(table: Architecture) -> tuple[str, ...]:
    """The places that a drawing of this model has, besides those where a method adds something."""
    found = {place_of(table, m) for m in table.modules}
    return tuple(place for place in PLACES if place in found)


__all__ = ["KINDS", "NAMES", "PLACES", "Lit", "depth", "drawn", "embedded", "kind_of", "lit", "place_of", "table_of"]
