"""The catalogue's tables of modules: what the counting needs to know of a model, packed, so that no torch is needed.

    python -m core.catalog.tables        # writes architectures.json anew, from models.toml

Blocks of a stack that are alike are written once, with the numbers of the first and the last of them. Every table is
read off the real transformers class on the meta device; nothing in it is typed by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from core.architecture import Architecture, Module

BLOCK = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def pack(table: Architecture) -> dict[str, Any]:
    """JSON-ready; `unpack` is its inverse.

    Returns:
        model_type, total, head, cache_numbers and `parts`: a part is [prefix, first, last, rows], its rows repeated for
        each number from first to last behind the prefix (or once, if there is no prefix). A row is [name or its end,
        kind, in, out, bias, weight, tied_to].
    """
    parts: list[list[Any]] = []
    for m in table.modules:
        found = BLOCK.match(m.name)
        prefix, number, end = (found[1], int(found[2]), found[3]) if found else ("", 0, m.name)
        row = [end, m.kind, m.in_features, m.out_features, m.bias, m.weight, m.tied_to]
        if parts and parts[-1][:2] == [prefix, number]:
            parts[-1][3].append(row)
        else:
            parts.append([prefix, number, number, [row]])
    joined: list[list[Any]] = []
    for part in parts:
        before = joined[-1] if joined else None
        if before and part[0] and before[0] == part[0] and before[2] == part[1] - 1 and before[3] == part[3]:
            before[2] = part[2]
        else:
            joined.append(part)
    return {
        "model_type": table.model_type, "total": table.total, "head": table.head,
        "cache_numbers": table.cache_numbers, "parts": joined,
    }  # fmt: skip


def unpack(packed: Mapping[str, Any], name: str) -> Architecture:
    """The table that `pack` was given, under a name."""
    rows = [
        Module(f"{prefix}{number}{end}" if prefix else end, *values)
        for prefix, first, last, part in packed["parts"]
        for number in range(first, last + 1)
        for end, *values in part
    ]
    return Architecture(
        name, packed["model_type"], tuple(rows), packed["total"], packed["head"], packed["cache_numbers"]
    )


def computed(names: Sequence[str] = ()) -> dict[str, Any]:
    """The packed tables of these models (all of them, if none is named), read off the real classes: seconds each."""
    from core.catalog import models

    return {row.name: pack(fresh(row.name)) for row in models() if not names or row.name in names}


def fresh(name: str) -> Architecture:
    """The table of a model, built now on the meta device."""
    import torch
    import transformers

    from core.catalog import config_of, model

    row = model(name)
    config = config_of(row)
    if row.class_name is None:
        cls: Any = transformers.AutoModelForCausalLM
        with torch.device("meta"):
            built = cls.from_config(config)
    else:
        with torch.device("meta"):
            built = getattr(transformers, row.class_name)(config)
    return Architecture.of(built, row.name)


def main() -> None:
    """Write architectures.json."""
    import transformers

    from core.catalog import FOLDER

    made = {"transformers": transformers.__version__, "models": computed()}
    text = json.dumps(made, separators=(",", ":")).replace('},"', '},\n"').replace('"models":{', '"models":{\n')
    (FOLDER / "architectures.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
