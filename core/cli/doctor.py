"""`deltalab doctor`: what this machine has, and what will be slow on it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from core.cli.arguments import DONE, FAILED, command, json_argument, quiet_libraries
from core.cli.stored import OWNER, open_store
from core.errors import DeltalabError


def add(commands: Any) -> None:
    """The command's flags."""
    json_argument(command(commands, "doctor", _doctor, "tell what this machine has, and what will be slow"))


def _doctor(asked: argparse.Namespace) -> int:
    """Look at the machine, the libraries, the data folder and the store; 1 when something is broken."""
    quiet_libraries()
    from core.hardware import attached, attached_light, precision_choice, threads_choice
    from core.notebook.sandbox import sandbox
    from core.units import bytes_text

    broken: list[str] = []
    try:
        machine = attached()
        device = "cuda" if machine.kind == "cuda" else "cpu"
        precision = precision_choice(device)
        chosen = {"precision": precision.value, "precision_why": precision.why, "ratio": precision.ratio}
    except (ImportError, OSError, RuntimeError) as why:
        machine, chosen = attached_light(), {"precision": None, "precision_why": "torch does not load", "ratio": None}
        broken.append(f"torch or bitsandbytes does not load: {str(why).splitlines()[0] if str(why) else why!r}.")
    threads = threads_choice()
    embedded = _embedded_facts(broken)
    place, runs = _data_facts(broken)
    code = sandbox()
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if asked.json:
        print(
            json.dumps(
                machine.to_dict()
                | chosen
                | {
                    "threads": int(threads.value), "threads_why": threads.why, "data_folder": place, "runs": runs,
                    "embedded": embedded, "offline": offline, "broken": broken,
                    "code": {"sandbox": code.on, "why": code.why},
                }
            )
        )  # fmt: skip
        return FAILED if broken else DONE
    rows: list[tuple[str, str]] = [
        ("device", f"{machine.chip()} ({machine.kind})"),
        ("processor", f"{machine.cpu}; {machine.cores} usable, {machine.physical_cores or 'unknown'} physical"),
        ("memory", f"{bytes_text(machine.free_bytes)} free of {bytes_text(machine.ram_bytes)}"),
        *((f"GPU {i}", _card_text(card)) for i, card in enumerate(machine.cards)),
        ("number formats", ", ".join(machine.dtypes)),
        ("precision", f"{chosen['precision'] or 'unknown'} ({chosen['precision_why']})"),
        ("threads", f"{threads.value}: {threads.why}"),
        ("bitsandbytes", machine.bitsandbytes),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("system", machine.system),
        ("data folder", place or "unknown"),
        ("runs", "unknown" if runs is None else str(runs)),
        ("embedded base", embedded or "missing"),
        ("code cells", f"run {code.words}"),
        (
            "hub",
            "switched off (HF_HUB_OFFLINE)" if offline else os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
        ),
    ]
    for name, text in rows:
        print(f"{name:<15} {text}")
    for note in machine.notes:
        print(f"note: {note}")
    for sentence in broken:
        print(f"broken: {sentence}", file=sys.stderr)
    return FAILED if broken else DONE


def _card_text(card: Any) -> str:
    from core.units import bytes_text

    memory = bytes_text(card.memory_bytes) if card.memory_bytes else "unknown memory"
    return f"{card.name}, {memory}, capability {card.capability or 'unknown'}, driver {card.driver or 'unknown'}"


def _embedded_facts(broken: list[str]) -> str | None:
    from core.base import describe_base
    from core.units import bytes_text, count_text

    try:
        facts = describe_base("embedded")
    except DeltalabError as why:
        broken.append(why.sentence)
        return None
    return f"{count_text(facts['parameters'])} parameters, {bytes_text(facts['stored_bytes'])}"


def _data_facts(broken: list[str]) -> tuple[str | None, int | None]:
    from core.runs.home import data_home

    try:
        place = str(data_home())
    except OSError as why:
        broken.append(f"The data folder cannot be made: {why}.")
        return None, None
    try:
        return place, len(open_store().runs(OWNER, limit=100_000))
    except DeltalabError as why:
        broken.append(why.sentence)
        return place, None
