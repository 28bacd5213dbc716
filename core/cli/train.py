"""`deltalab train`: fine-tune a base on a task or on your own data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.arguments import (
    asks_for_help,
    command,
    config_of,
    json_argument,
    method_arguments,
    print_knobs,
    processes_argument,
    quiet_libraries,
)
from core.cli.screen import carry_out
from core.cli.stored import OWNER, open_store

if TYPE_CHECKING:
    from core.config import RunConfig
    from core.dataset import Report
    from core.labelled import LabelReport


def add(commands: Any) -> None:
    """The command's flags."""
    train = command(commands, "train", _train, "fine-tune a base on a task or on your own data")
    train.add_argument("--base", default="embedded", help="embedded, a folder, or a hub id (default: embedded)")
    train.add_argument("--revision", help="branch, tag or commit of a hub id")
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", help="a built-in task: json, persona, jargon or facts")
    what.add_argument("--data", metavar="FILE", help="your own JSONL, JSON or CSV file; text,label for an encoder")
    method_arguments(train)
    train.add_argument("--seed", type=int, default=0, help="the same seed gives the same run (default: 0)")
    train.add_argument("--title", help="a name for the run")
    processes_argument(train)
    json_argument(train)


def _train(asked: argparse.Namespace) -> int:
    if asks_for_help(asked):
        return print_knobs(asked.method)
    from core.config import resolved
    from core.processes import follow, is_follower

    if is_follower():
        return follow()
    config = config_of(asked)
    resolved(config)  # a mistake in the settings is told before anything is fetched
    _check_base(config)
    quiet_libraries()
    data = _data_report(config) if config.data is not None else None
    config = resolved(config)  # now that the base's kind is known: encoders have rates of their own
    import secrets

    store = open_store()
    run = store.create(OWNER, config, key=secrets.token_hex(16), title=asked.title, direct=True)
    return carry_out(store, run.id, as_json=asked.json, processes=asked.processes, data=data, forget_bad_input=True)


def _data_report(config: RunConfig) -> Report | LabelReport:
    """What is in the file that `config` names, before anything is trained on it.

    Raises:
        BadInput: it cannot be read or used; BaseUnavailable: the base has no tokenizer that could read it.
    """
    from core.labelled import report_for

    assert config.data is not None
    loop = config.train
    return report_for(
        config.data, config.base, config.revision, max_length=loop.max_length, held_out=loop.held_out,
        seed=config.seed, quick=True,
    )  # fmt: skip


def _check_base(config: RunConfig) -> None:
    """Say at once, before torch is imported, what is wrong with a base on this machine. A hub id is seen to by the run:
    asking the hub twice would only cost time.

    Raises:
        BaseUnavailable, BadInput: as `core.base.describe_base`.
    """
    from core.base import HUB_ID, describe_base

    if Path(config.base).expanduser().exists() or config.base == "embedded" or not HUB_ID.fullmatch(config.base):
        describe_base(config.base, config.revision)
