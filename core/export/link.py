"""A run is a link: its settings as query parameters, and back.

The parameters are the ones that the Playground's widgets bind to, so a link is also a page of the app:

    base=hub&hub=owner/name & revision=…     (base=folder&folder=…; nothing: the embedded base)
    task=facts                               (task=own: a person's own file; nothing: the first task)
    method=qlora                             (nothing: LoRA)
    knob-qlora-rank=12                       a setting of the method
    knob-qlora-facts-steps=77                a setting whose default depends on method and task
    knob-warmup=0.25, knob-seed=3            any other

Only what differs from the defaults is said. A link that is kept (`encode`) also says the version of this form, and the
swept defaults of the day, which another version may have found anew. A person's own file is named in it, without its
folder, and has to be chosen again.

Reading one runs nothing: values are parsed as their field's type, and checked like any other settings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from core.config import EMBEDDED, RunConfig, TrainConfig, default_row, problems, resolved
from core.errors import BadInput
from core.methods import METHODS
from core.world import TASKS

VERSION = 1
KEY = "knob"  # what the names of the Playground's knobs begin with
METHOD, TASK, OWN = "lora", next(iter(TASKS)), "own"
LONGEST = 8_000  # characters: what browsers and servers pass on
_FILE = re.compile(r"[^/\\\0-\x1f]{1,200}")
# Parameters of a page that say nothing about the settings: a run that it shows, a file that it made, runs beside it.
_OTHERS = ("run", "kept", "beside", "compare", "embed", "embed_options")


def name_of(key: str, method: str, task: str | None, part: str, field: str) -> str:
    """The parameter (and the widget) of one knob.

    What a method or the sweep sets has a name of its own per method (and task): a rate chosen for LoRA must not
    silently become the rate of full fine-tuning.

    Args:
        part: "settings" (the method's own) or "train".
    """
    if part == "settings":
        return f"{key}-{method}-{field}"
    if getattr(TrainConfig(), field) is None:
        return f"{key}-{method}-{task or OWN}-{field}"
    return f"{key}-{field}"


def text_of(value: Any) -> str:
    """A setting's value as text that reads back to the same value: 0.0025, 3e-5, true, q_proj,v_proj."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0").replace("e-0", "e-").replace("e+0", "e+")
    if isinstance(value, (tuple, list)):
        return ",".join(value)
    return str(value)


def _knobs(config: RunConfig) -> Iterator[tuple[str, str, Any, Any]]:
    """(part, field, value, default) of every knob of a config, the method's own first; a default that the sweep sets is
    filled in."""
    own = config.settings if config.settings is not None else METHODS[config.method].Config()
    row = default_row(config)
    for part, values in (("settings", own), ("train", config.train)):
        plain = type(values)()
        for f in dataclasses.fields(values):
            default = getattr(plain, f.name)
            yield part, f.name, getattr(values, f.name), row.get(f.name) if default is None else default


def settings(config: RunConfig, key: str = KEY, *, swept: bool = False) -> dict[str, str]:
    """The parameters of the knobs of `config`: those that differ from the defaults.

    Args:
        key: what their names begin with.
        swept: also the settings whose defaults come from the sweep's table.
    """
    plain = TrainConfig()
    out = {}
    for part, field, value, default in _knobs(config):
        kept = swept and part == "train" and getattr(plain, field) is None
        value = default if value is None and kept else value
        if value is not None and (kept or value != default):
            out[name_of(key, config.method, config.task, part, field)] = text_of(value)
    if config.seed != RunConfig().seed:
        out[f"{key}-seed"] = str(config.seed)
    return out


def parameters(config: RunConfig) -> dict[str, str]:
    """Query parameters with which the Playground shows `config`; an own file has to be chosen there."""
    out: dict[str, str] = {}
    if config.base != EMBEDDED:
        kind = "folder" if Path(config.base).is_absolute() or config.base.startswith((".", "~")) else "hub"
        out |= {"base": kind, kind: config.base}
    if config.revision is not None:
        out["revision"] = config.revision
    if config.task is None:
        out["task"] = OWN
    elif config.task != TASK:
        out["task"] = config.task
    if config.method != METHOD:
        out["method"] = config.method
    return out | settings(config)


def encode(config: RunConfig) -> str:
    """The link of a run, without the address of an app in front: `v=1&method=…`.

    Raises:
        BadInput: the config cannot be run; or a text in it is too long for a link.
    """
    wrong = problems(config)
    if wrong:
        raise BadInput(" ".join(wrong))
    out = {"v": str(VERSION)} | parameters(config) | settings(config, swept=True)
    if config.data is not None:
        out["file"] = PureWindowsPath(PurePosixPath(config.data).name).name
    text = urlencode(out)
    if len(text) > LONGEST:
        raise BadInput(f"These settings take {len(text):,} characters, too long for a link.", "Shorten their texts.")
    return text


def decode(text: str) -> RunConfig:
    """The config that a link stands for, every default filled in.

    Args:
        text: what `encode` gave, or a whole address with it behind a question mark; a link without a version, such as
            the Playground's own, is of version 1.

    Returns:
        RunConfig: a person's own file is in it by its name alone (`data="mine.jsonl"`): not a path, to be chosen again.

    Raises:
        BadInput: it is not a link of ours, of a newer version, or holds settings that cannot be used.
    """
    text = text.strip()
    if len(text) > LONGEST + 2_000:  # with an address in front
        raise BadInput("This is too long for a link to a run.", "Copy the link again.")
    query = urlsplit(text).query if "?" in text else text
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as why:  # (of which a wrong UTF-8 sequence is one)
        raise BadInput("This is not a link to a run.", "Copy the whole of it, from the first letter on.") from why
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadInput("This link says the same setting twice.", "Copy the link again.")
    return from_parameters(found)


def from_parameters(found: Mapping[str, str]) -> RunConfig:
    """The inverse of `parameters` and of what `encode` adds to them; see `decode`."""
    left = {name: value for name, value in found.items() if name not in _OTHERS}

    def take(name: str, default: str | None = None) -> str | None:
        return left.pop(name, default)

    version = take("v", str(VERSION))
    if version != str(VERSION):
        raise BadInput(
            f"This link is of version {version!r}; this Deltalab reads version {VERSION}.", "Update Deltalab."
        )
    kind = take("base", EMBEDDED)
    if kind not in (EMBEDDED, "folder", "hub"):
        raise BadInput(f"This link names a base of the kind {kind!r}.", "There are folder, hub and embedded.")
    base = EMBEDDED if kind == EMBEDDED else take(kind, "")
    method, task = take("method", METHOD), take("task", TASK)
    if method not in METHODS:
        raise BadInput(f"This link names a method {method!r}.", f"The methods are {', '.join(METHODS)}.")
    if task != OWN and task not in TASKS:
        raise BadInput(f"This link names a task {task!r}.", f"The tasks are {', '.join(TASKS)}.")
    file = take("file")
    if task == OWN:
        file = file or "your file"
        if not _FILE.fullmatch(file) or file in (".", ".."):
            raise BadInput(f"This link names a file {file[:60]!r}, which is no file's name.", "Choose the file again.")
    elif file is not None:
        raise BadInput("This link names a built-in task and a file.", "Copy the link again.")
    record: dict[str, Any] = {
        "base": base, "revision": take("revision"), "method": method, "task": None if task == OWN else task,
        "data": file, "settings": {}, "train": {},
    }  # fmt: skip
    bare = RunConfig(base=str(base), task=record["task"], data=file, method=method)
    for part, field, _, _ in _knobs(bare):
        value = take(name_of(KEY, method, bare.task, part, field))
        if value is not None:
            record[part][field] = value
    seed = take(f"{KEY}-seed", "0")
    if not re.fullmatch(r"\d{1,10}", seed or ""):
        raise BadInput(f"This link names a seed {seed!r}.", "A seed is a whole number.")
    record["seed"] = int(seed or 0)
    # What a page keeps of choices that were made before, for other methods and tasks, says nothing about this run.
    odd = left.keys() - _every_name() - {"folder", "hub"}
    if odd:
        raise BadInput(
            f"This link says {', '.join(sorted(odd)[:3])}, which is no setting here.",
            "It may come from another version of Deltalab; choose the settings by hand.",
        )
    return resolved(RunConfig.from_dict(record))


@lru_cache
def _every_name() -> frozenset[str]:
    """The parameters of all knobs of all methods and tasks."""
    return frozenset(
        name_of(KEY, method, task, part, field)
        for method in METHODS
        for task in (*TASKS, None)
        for part, field, _, _ in _knobs(RunConfig(method=method, task=task))
    )
