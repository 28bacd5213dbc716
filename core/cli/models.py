"""`deltalab models`: which models of the catalogue can be trained on this machine, or on a card."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from core.cli.arguments import DONE, asks_for_help, command, config_of, json_argument, method_arguments, print_knobs


def add(commands: Any) -> None:
    """The command's flags."""
    models = command(commands, "models", _models, "list the models that can be trained on this machine, or on a card")
    models.add_argument("--gpu", metavar="NAME", help="a card of the catalogue (default: what this machine has)")
    method_arguments(models)
    json_argument(models)
    models.set_defaults(
        base="owner/name", revision=None, task="json"
    )  # any but the embedded one, which has its own rates


def _models(asked: argparse.Namespace) -> int:
    if asks_for_help(asked):
        return print_knobs(asked.method)
    from core.catalog.proposals import attached_place, fits, place_of
    from core.hardware import attached_light
    from core.methods import METHODS
    from core.units import bytes_text, count_text

    place = place_of(asked.gpu) if asked.gpu else attached_place(attached_light())
    offer = fits(place, config_of(asked))
    if asked.json:
        record = {
            "place": place.name, "memory_bytes": place.memory_bytes, "method": asked.method,
            "batch": offer.batch, "length": offer.length, "steps": offer.steps,
            "models": [dataclasses.asdict(p) for p in offer.models],
        }  # fmt: skip
        print(json.dumps(record))
        return DONE
    title = METHODS[asked.method].TITLE
    print(
        f"{title} on {place.name}, {bytes_text(place.memory_bytes)} ({place.source}): {offer.steps:,} steps of "
        f"{offer.batch} rows of {offer.length} tokens."
    )
    if not offer.models:
        print("No model of the catalogue fits. Lower batch_size or max_length (--set), or take the embedded base.")
        return DONE
    rows = [("model", "parameters", "memory", "verdict", "passes", "time", "download", "licence", "hub id")]
    for p in offer.models:
        licence = p.licence + (" (to be accepted)" if p.gated else "")
        memory = bytes_text(p.bytes) + ("" if p.traced == asked.method else f" ({METHODS[p.traced].TITLE}'s)")
        rows.append(
            (p.name, count_text(p.parameters), memory, p.verdict, f"{p.passes} × {p.rows} rows",
             minutes_text(p.minutes), bytes_text(p.download_bytes), licence, p.hub)
        )  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    print("Train one with: deltalab train --base HUB_ID --task json --set batch_size=ROWS accumulation=PASSES")
    return DONE


def minutes_text(minutes: tuple[float, float, float] | None) -> str:
    """'2 to 9 min'; 'unknown' where the device's rate is."""
    from core.units import range_text

    return "unknown" if minutes is None else range_text(60 * minutes[0], 60 * minutes[2])
