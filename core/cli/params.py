"""`deltalab params`: what a method would train in a model, counted without loading it."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from core.cli.arguments import (
    DONE,
    asks_for_help,
    command,
    config_of,
    json_argument,
    method_arguments,
    print_knobs,
    quiet_libraries,
)
from core.errors import BadInput


def add(commands: Any) -> None:
    """The command's flags."""
    params = command(commands, "params", _params, "count what a method would train in a model, without loading it")
    params.add_argument(
        "--model",
        "--base",
        default="embedded",
        help="embedded, a name of the catalogue, a folder, a hub id, a config.json, or its content",
    )
    params.add_argument("--revision", help="branch, tag or commit of a hub id")
    method_arguments(params)
    json_argument(params)


def _alike(modules: list[dict[str, Any]]) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Modules that differ in the number of their block alone, together: name with * for that number, shape, what each
    trains, and how many there are; in the model's order."""
    found: dict[tuple[str, tuple[int, ...], int], int] = {}
    for one in modules:
        key = (re.sub(r"(?<=\.)\d+(?=\.)", "*", one["name"]), tuple(one["shape"]), one["trainable"])
        found[key] = found.get(key, 0) + 1
    return [(*key, many) for key, many in found.items()]


def _params(asked: argparse.Namespace) -> int:
    if asks_for_help(asked):
        return print_knobs(asked.method)
    from core.config import problems

    config = config_of(argparse.Namespace(**{**vars(asked), "model": "embedded"}))
    wrong = [p for p in problems(config) if "task or a data file" not in p]
    if wrong:
        raise BadInput(" ".join(wrong))
    from core.architecture import architecture_of_config
    from core.base import load_config
    from core.counting import experts_note, texts_note
    from core.few_bits import check_counted
    from core.memory.storage import adapter_numbers
    from core.methods import METHODS
    from core.units import DTYPE_BYTES, bytes_text

    quiet_libraries()
    from core.catalog import architecture_of, configuration, known, pasted

    source = asked.model
    row = None if pasted(source) or asked.revision else known(source)
    if row is not None and (row.is_decoder or "/" not in source):
        # (By its name an encoder is the catalogue's own, as on the page: without a classification head.)
        name, labels, architecture = row.name, 0, architecture_of(row.name)
    else:
        # (An encoder by its hub id may be here, and its weights say whether it has a pooler.)
        by_id = asked.revision or (row is not None and "/" in source)
        base = load_config(source, asked.revision) if by_id else configuration(source)
        check_counted(base, config.method, config.settings)
        name = "the pasted model" if pasted(source) else source
        labels, architecture = getattr(base, "num_labels", 0), architecture_of_config(base, name)
    method = METHODS[config.method]
    trainable = method.count(architecture, config.settings)
    modules: list[dict[str, Any]] = [
        {"name": site.module, "shape": list(site.shape), "trainable": site.trained}
        for site in method.sites(architecture, config.settings)
    ]
    head = sum(row["trainable"] for row in modules if row["name"] in architecture.classifier)
    percent = 100 * trainable / architecture.total
    # What is saved is more than what trains where random numbers or what was taken out of the weights go with it.
    numbers = trainable if config.method == "full" else adapter_numbers(architecture, config.method, config.settings)
    size = round(numbers * DTYPE_BYTES["float32"])  # adapters are saved in float32
    if asked.json:
        print(
            json.dumps(
                {
                    "total": architecture.total, "trainable": trainable, "percent": percent, "adapter_bytes": size,
                    "modules": modules, **({"head": head} if head else {}),
                }
            )
        )  # fmt: skip
        return DONE
    share = f"{trainable:,} of {architecture.total:,} parameters"
    print(f"{config.method} trains {share} of {name} ({percent:.3g} %): {bytes_text(size)} to save.")
    for name, shape, each, many in _alike(modules):
        times = f"{many:>5,} × {each:,} = {many * each:,}" if many > 1 else f"{each:,}"
        print(f"  {name:<50} {' × '.join(map(str, shape)):>15}  {times}")
    for note in (experts_note(architecture, config.method), texts_note(architecture, config.method)):
        if note:
            print(note)
    if head:
        print(
            f"{head:,} of them are the classification head, for {labels} labels; a file with more or fewer "
            "makes it larger or smaller."
        )
    return DONE
