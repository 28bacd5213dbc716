"""What the commands share: the parser, the exit codes, and flags that more than one of them takes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from core.errors import BadInput

if TYPE_CHECKING:
    from core.config import RunConfig

DONE, FAILED, BAD_INPUT = 0, 1, 2
# How a run can fail through what it was asked to do, rather than through what happened to it.
BAD_INPUT_KINDS = ("bad_input", "base_unavailable", "incompatible", "not_found", "refused")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage lines before it."""

    def error(self, message: str) -> NoReturn:
        text = message[:1].upper() + message[1:].rstrip(".")
        print(f"{text}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def command(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], text: str, **more: Any
) -> argparse.ArgumentParser:
    """Add a command (or an action of one): its parser, with `do` to carry it out and return the exit code."""
    one: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[:1].upper() + text[1:] + ".", **more
    )
    one.set_defaults(do=do)
    return one


def method_arguments(one: argparse.ArgumentParser) -> None:
    from core.methods import METHODS

    one.add_argument("--method", default="lora", help=f"{', '.join(METHODS)} (default: lora)")
    one.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="set a knob of the method or of the training loop; --set help lists them",
    )  # fmt: skip


def json_argument(one: argparse.ArgumentParser, default: Any = False) -> None:
    text = "answer with one JSON object, and show no progress"
    one.add_argument("--json", action="store_true", default=default, help=text)


def config_of(asked: argparse.Namespace) -> RunConfig:
    """The run that the flags describe.

    Raises:
        BadInput: all mistakes in one sentence.
    """
    from core.config import RunConfig, with_settings

    config = RunConfig.from_dict(
        {
            "base": asked.base if "base" in asked else asked.model,
            "revision": asked.revision,
            "task": getattr(asked, "task", None),
            "data": getattr(asked, "data", None),
            "method": asked.method,
            "seed": getattr(asked, "seed", 0),
        }
    )
    return with_settings(config, pairs_of(asked.settings))


def pairs_of(texts: Sequence[str]) -> dict[str, str]:
    """What --set was given, as name -> value.

    Raises:
        BadInput: one of them is not KEY=VALUE.
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"--set takes KEY=VALUE, not {text!r}.", "For example: --set rank=4 steps=60.")
        pairs[key.strip().replace("-", "_")] = value.strip()
    return pairs


def output_file(path: Path) -> Path:
    """`path`, if a file can be written there; asked before the work whose result it is to hold.

    Raises:
        BadInput: its folder is missing or not to be written to, it is a folder itself, or no file can be called so.
    """
    folder = path.parent
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # what these mean is told below
    except OSError as why:
        raise BadInput(f"{path} cannot be written: {why.strerror or why}.", "Name another file.") from why
    if path.is_dir():
        raise BadInput(f"{path} is a folder.", "Name a file in it.")
    if not folder.is_dir():
        raise BadInput(f"{path} cannot be written: there is no folder {folder}.", "Make it, or name another file.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise BadInput(f"{path} cannot be written: permission is denied.", "Name another file.")
    return path


def processes_argument(one: argparse.ArgumentParser) -> None:
    """How many processes carry a run out."""
    text = "share each batch among so many processes, one per GPU if there are any (default: 1)"
    one.add_argument("--processes", type=int, default=1, metavar="N", help=text)


def asks_for_help(asked: argparse.Namespace) -> bool:
    return bool(asked.settings) and asked.settings[0] == "help"


def print_knobs(method: str) -> int:
    """List every knob of a method and of the loop, with its default and range, from the fields themselves."""
    from core.config import RunConfig, TrainConfig

    print_fields(f"Settings of {method}", type(RunConfig.from_dict({"method": method}).settings))
    print_fields("Settings of the training loop", TrainConfig)
    return DONE


def print_fields(title: str, cls: Any) -> None:
    """List the knobs of a dataclass, if it has any, each with its default, range and doc line."""
    import dataclasses

    if dataclasses.fields(cls):
        print(f"{title}:")
    for f in dataclasses.fields(cls):
        meta = f.metadata
        default = "by method and task" if f.default is None else f.default
        bounds = ", ".join(meta["choices"]) or f"{meta['low']:g} to {meta['high']:g}" if _bounded(meta) else ""
        print(f"  {f.name} = {default}{f'  ({bounds})' if bounds else ''}\n      {meta['doc']}")


def _bounded(meta: Any) -> bool:
    return bool(meta["choices"]) or (meta["low"] is not None and meta["high"] is not None)


def quiet_libraries() -> None:
    """Keep progress bars and chatter of the libraries off the terminal; what matters comes as events."""
    import logging

    # (Where a kernel from the hub is not there, bitsandbytes computes by its own code, and advises an installation.)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
