"""`deltalab check`, `convert`, `merge`, `card`: what becomes of a run outside."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.arguments import DONE, command, json_argument, quiet_libraries
from core.cli.stored import OWNER, find_run, open_store
from core.errors import BadInput, BaseUnavailable, NotFound, Refused

if TYPE_CHECKING:
    from core.runs.store import Run, Store

MARKS = {"loads": "ok", "care": "care", "fails": "no"}


def add(commands: Any) -> None:
    """The commands' flags."""
    check = command(commands, "check", _check, "tell whether PEFT, vLLM, llama.cpp and Ollama would load an adapter")
    check.add_argument(
        "adapter", metavar="RUN|FOLDER", help="a run's id or its beginning, last, or an adapter's folder"
    )
    convert = command(commands, "convert", _convert, "write what a run learnt as a plain LoRA adapter in PEFT's format")
    convert.add_argument("--rank", type=int, help="of the LoRA (default: the lowest at which nothing is lost)")
    convert.add_argument("--energy", type=float, help="instead of a rank: the share of each change's energy to keep")
    merge = command(commands, "merge", _merge, "write a run's model as a plain checkpoint, with the change folded in")
    merge.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="number format (default: float32)"
    )
    merge.add_argument("--quantize", choices=("nf4",), help="store the merged weights in 4 bits instead")
    card = command(commands, "card", _card, "write a run's model card")
    for one in (convert, merge):
        one.add_argument(
            "adapter",
            metavar="RUN|FOLDER",
            help="a run's id or its beginning, last, or an adapter's folder, PEFT's too",
        )
    card.add_argument("run", metavar="RUN", help="the run's id or its beginning, or last")
    for one in (check, convert, merge):
        one.add_argument(
            "--base", help="the base of a folder: embedded, a folder or a hub id (default: as its files name it)"
        )
    for one in (convert, merge):
        one.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write; must not exist yet")
    for one in (check, convert, merge, card):
        json_argument(one)


def _finished(store: Store, name: str) -> Run:
    run = store.get(find_run(store, name), OWNER)
    if run.adapter is None or run.active:
        raise Refused(f"The run {run.id} has learnt nothing yet.", "Wait until it is finished.")
    return run


def _new(folder: Path) -> Path:
    if folder.exists():
        raise Refused(f"{folder} exists already.", "Name a folder that does not.")
    return folder


@dataclass(frozen=True)
class _Asked:
    """What a command is about. folder: the adapter's. base: None where nobody says it. run: None for a folder."""

    folder: Path
    base: str | None
    revision: str | None = None
    run: Run | None = None


def _asked(asked: argparse.Namespace, store: Store | None = None) -> _Asked:
    """A run of the terminal, or a folder from wherever; its base is the one that is named, else the one it was trained
    on, as far as its files tell."""
    from core.export.folder import read

    folder = Path(asked.adapter).expanduser()
    if folder.is_dir():
        return _Asked(folder, asked.base or read(folder).base or None)
    store = store or open_store()
    try:
        run = _finished(store, asked.adapter)
    except NotFound as error:
        raise NotFound(f"{asked.adapter!r} is neither a folder nor a run of the terminal.", error.advice) from error
    assert run.adapter is not None
    own = asked.base is None or asked.base == run.config["base"]
    return _Asked(run.adapter, asked.base or run.config["base"], run.config.get("revision") if own else None, run)


def _base_of(about: _Asked) -> str:
    """Its base.

    Raises:
        BadInput: nobody says which.
    """
    if about.base is None:
        raise BadInput(
            f"The files in {about.folder.name} do not say which base they belong to.",
            "Name it: --base FOLDER or hub id.",
        )
    return about.base


def _check(asked: argparse.Namespace) -> int:
    from core.base import describe_base
    from core.export.folder import read
    from core.export.loadable import ENGINES, check, worst

    quiet_libraries()
    about = _asked(asked)
    folder = about.folder
    adapter = read(folder)
    facts: dict[str, Any] | None = None
    if about.base is not None:
        try:
            facts = describe_base(about.base, about.revision)
        except BaseUnavailable as why:
            print(f"The base is not looked at: {why.sentence}", file=sys.stderr)
    verdicts = check(adapter, facts)
    if asked.json:
        engines = {engine: worst(verdicts, engine) for engine in ENGINES}
        rows = [dataclasses.asdict(v) for v in verdicts]
        print(json.dumps({"folder": str(folder), "engines": engines, "verdicts": rows}))
        return DONE
    for engine in ENGINES:
        print(f"{engine}: {worst(verdicts, engine)}")
        for v in (v for v in verdicts if v.engine == engine):
            print(f"  {MARKS[v.level]:<4} {v.rule}: {v.sentence}")
            if v.fix:
                print(f"       → {v.fix}\n       {v.source}")
    return DONE


def _convert(asked: argparse.Namespace) -> int:
    about = _asked(asked)
    out = _new(asked.out)
    base = _base_of(about)
    from core.export.convert import convert

    quiet_libraries()
    done = convert(base, about.folder, out, revision=about.revision, rank=asked.rank, energy=asked.energy)
    if asked.json:
        print(json.dumps(dataclasses.asdict(done) | {"folder": str(done.folder)}))
        return DONE
    print(f"A LoRA of rank {done.rank} in {done.folder}; it leaves out {100 * done.error:.2g} % of the change's norm.")
    for row in done.modules:
        print(f"  {row['module']:<50} ΔW of rank {row['rank']:>4}  {100 * row['error']:6.2f} % left out")
    if done.left_out:
        print(f"  and {len(done.left_out)} parameters that no LoRA holds: {', '.join(list(done.left_out)[:3])} …")
    return DONE


def _merge(asked: argparse.Namespace) -> int:
    store = open_store()
    about = _asked(asked, store)
    out = _new(asked.out)
    base = _base_of(about)
    from core.export.card import card, record_of
    from core.export.merged import merge
    from core.units import bytes_text

    quiet_libraries()
    stored = asked.quantize or asked.dtype
    # (A card tells what a run did; of a folder from elsewhere that is not known.)
    text = card(record_of(store, about.run.id, OWNER), merged=stored) if about.run is not None else ""
    done = merge(base, about.folder, out, revision=about.revision, stored=stored, card=text)
    if asked.json:
        print(json.dumps(dataclasses.asdict(done) | {"folder": str(done.folder)}))
        return DONE
    print(f"The merged model is in {done.folder}: {bytes_text(done.size_bytes)} in {done.stored}.")
    return DONE


def _card(asked: argparse.Namespace) -> int:
    from core.export.card import card, record_of

    store = open_store()
    text = card(record_of(store, _finished(store, asked.run).id, OWNER))
    print(json.dumps({"card": text}) if asked.json else text, end="\n" if asked.json else "")
    return DONE
