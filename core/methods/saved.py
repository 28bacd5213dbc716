"""How a method's change is kept in a folder: whole or not at all, safetensors and JSON only.

Every folder has, beside the method's own files, a small `deltalab.json`:

    {"format": 1, "method": "qlora", "settings": {…}, "base": "…", "base_fingerprint": "…", "base_type": "llama", …}

so that `read_record` can say what it is without opening the weights. For a classifier it says the labels too, the seed
that drew the head it began with (null: the base brought one), and whether it reads pairs of texts; for a base that was
loaded in few bits, `base_stored` says in which. Other programs
ignore the file. A folder that PEFT wrote has none, and is understood by its `adapter_config.json`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.base import FINGERPRINT, HEAD_SEED, READS_PAIRS, REVISION, is_classifier, labels_of
from core.errors import BadInput
from core.few_bits import STORED

if TYPE_CHECKING:
    import torch

RECORD = "deltalab.json"
FORMAT = 1
# PEFT's names of its two files, and what the names of its tensors begin with: it wraps the model twice
# (PeftModel.base_model = LoraModel, LoraModel.model = the model).
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new empty folder to write into, which takes the place of `folder` when the block ends well.

    A kill leaves either nothing, or what was there before, or the new content: never half of it. (Between the two
    renames that replace an existing folder, the old content lies beside it as `.name.old-…`.)
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.new-*"):  # of a process that was killed while writing
        shutil.rmtree(left)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        yield fresh
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
        # mkdtemp makes folders for the owner alone; what is saved gets the rights any new folder gets.
        fresh.chmod(0o777 & ~_umask())
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
            folder.replace(old)
            fresh.replace(folder)
            shutil.rmtree(old)
        else:
            fresh.replace(folder)
        _sync(folder.parent)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Ask the system to put a file or folder on disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(folder: Path, method: str, config: Any, model: torch.nn.Module, trainable: int) -> None:
    """Write `deltalab.json` into a folder that is being made."""
    record = {
        "format": FORMAT,
        "method": method,
        "settings": dataclasses.asdict(config),
        "base": base_name(model),
        "base_fingerprint": getattr(model, FINGERPRINT, ""),
        "base_type": base_type(model),
        "trainable": trainable,
    }
    stored = getattr(model, STORED, None)
    if stored is not None:
        record["base_stored"] = stored.settings
    if is_classifier(model):
        record |= {
            "labels": list(labels_of(model)),
            "head_seed": getattr(model, HEAD_SEED, None),
            "text_pairs": bool(getattr(model, READS_PAIRS, False)),
        }
    write_json(folder / RECORD, record)


def check_base(model: torch.nn.Module, folder: Path) -> None:
    """See that what was saved in `folder` was trained on the very weights of `model`, as far as both are known.

    Raises:
        BadInput: it was trained on others. A change added to them would answer, but not as the trained model did.
    """
    record = read_record(folder)
    check_type(model, folder)
    labels = record.get("labels")
    if labels and is_classifier(model) and list(labels_of(model)) != labels:
        raise BadInput(
            f"The classifier in {Path(folder).name} tells {', '.join(labels[:8])} apart; this model's labels are "
            f"{', '.join(labels_of(model)[:8])}.",
            "Load the base with the labels that it was trained with.",
        )
    trained_on, here = record.get("base_fingerprint"), getattr(model, FINGERPRINT, "")
    if trained_on and here and trained_on != here:
        raise BadInput(
            f"This was trained on other weights of {record.get('base') or 'its base'} than those loaded now: the base "
            "has changed since, or it is another one.",
            "Load the base that it was trained on, or train again on this one.",
        )


def check_type(model: torch.nn.Module, folder: Path) -> None:
    """See that what was saved in `folder` was trained on a base of this family: shapes alone may not tell.

    Raises:
        BadInput: it was trained on another.
    """
    there, here = read_record(folder).get("base_type"), base_type(model)
    if there and here and there != here:
        raise BadInput(
            f"The adapter in {Path(folder).name} was trained on a {there} model; this one is of type {here}.",
            "Load it onto the base that it was trained on.",
        )


def head_in(folder: Path) -> dict[str, Any]:
    """What `core.base.load_base` needs to know of the classification head that was trained in `folder`, as arguments;
    {} where none was.

    A folder that PEFT wrote tells only how many labels there are, by the size of the last layer.

    Raises:
        BadInput: as `read_record`.
    """
    folder = Path(folder)
    record = read_record(folder)
    if record:
        if not record.get("labels"):
            return {}
        return {"labels": tuple(record["labels"]), "head_seed": record.get("head_seed") or 0}
    if not (folder / ADAPTER_CONFIG).exists() or read_json(folder / ADAPTER_CONFIG).get("task_type") != "SEQ_CLS":
        return {}
    last = ("classifier.bias", "classifier.out_proj.bias")
    found = [t for n, t in read_tensors(folder / ADAPTER_WEIGHTS).items() if n.removeprefix(PEFT_PREFIX) in last]
    return {"labels": tuple(f"LABEL_{i}" for i in range(len(found[0])))} if found else {}


def task_fields(model: torch.nn.Module) -> dict[str, Any]:
    """What PEFT's file says of the task: a classification head is saved whole, beside the adapter."""
    from core.architecture import classifier_of

    paths = classifier_of(model)
    if not paths:
        return {"task_type": "CAUSAL_LM", "modules_to_save": None}
    inside = f"{model.base_model_prefix}."
    # The top of what stands outside the encoder, and the last name of what stands inside.
    names = [p.removeprefix(inside) if p.startswith(inside) else p.partition(".")[0] for p in paths]
    return {"task_type": "SEQ_CLS", "modules_to_save": list(dict.fromkeys(n.partition(".")[0] for n in names))}


def modules_beside(record: Mapping[str, Any]) -> Any:
    """The modules that PEFT's file says were trained whole beside the adapter, but for a classification head's: whether
    those are the right ones, their names in the weights' file show."""
    return None if record.get("task_type") == "SEQ_CLS" else record.get("modules_to_save")


def base_type(model: torch.nn.Module) -> str:
    """transformers' name of the model's family, '' if it has none."""
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def base_name(model: torch.nn.Module) -> str:
    """What the model's configuration calls its base: a hub id, or the name of a local folder without the path to it."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    return Path(name).name if Path(name).is_absolute() else name


def base_fields(model: torch.nn.Module) -> dict[str, Any]:
    """What PEFT's file says of the base: its name, and the revision where one was asked for."""
    revision = getattr(model, REVISION, None)
    return {"base_model_name_or_path": base_name(model)} | ({} if revision is None else {"revision": revision})


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """JSON for people to read too: indented, keys in the order given."""
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        BadInput: no such file, or it is not an object in JSON.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"The folder {path.parent.name} has no {path.name}.", "Point to a saved adapter.") from None
    except (OSError, ValueError) as why:
        raise BadInput(f"The file {path.name} in {path.parent.name} cannot be read: {why}.") from why
    if not isinstance(record, dict):
        raise BadInput(f"The file {path.name} in {path.parent.name} is not a JSON object.")
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """What `deltalab.json` in `folder` says; {} when there is none.

    Raises:
        BadInput: it is there and unreadable, or of a newer format.
    """
    path = Path(folder) / RECORD
    if not path.exists():
        return {}
    record = read_json(path)
    if record.get("format") != FORMAT:
        raise BadInput(
            f"The record in {path.parent.name} has format {record.get('format')!r}; this version reads {FORMAT}.",
            "Update Deltalab.",
        )
    return record


def read_settings(folder: Path, method: str) -> Any:
    """The settings that `deltalab.json` in `folder` gives, as the Config of `method`.

    Raises:
        BadInput: no such record, one of another method, or settings that this method does not have.
    """
    from core.config import RunConfig

    record = read_record(folder)
    if record.get("method") != method:
        raise BadInput(f"The folder {Path(folder).name} holds nothing that the method {method} saved.")
    return RunConfig.from_dict({"method": method, "settings": record.get("settings")}).settings


def own_settings(folder: Path, method: str) -> Any:
    """The settings in our record, if `method` saved what is in `folder`; else None.

    Raises:
        BadInput: as `read_record` and `read_settings`.
    """
    return read_settings(folder, method) if read_record(folder).get("method") == method else None


def read_peft(folder: Path, *types: str) -> dict[str, Any]:
    """PEFT's file in `folder`.

    Args:
        types: the values of its `peft_type` that will do.

    Raises:
        BadInput: no such file, or of another type.
    """
    record = read_json(Path(folder) / ADAPTER_CONFIG)
    if record.get("peft_type") not in types:
        raise BadInput(f"The adapter in {Path(folder).name} is of type {record.get('peft_type')!r}, not {types[0]}.")
    return record


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        BadInput: no such file, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise BadInput(
            f"The folder {path.parent.name} has no {path.name}.",
            "Only weights in safetensors files are read, never pickled ones.",
        ) from None
    except (SafetensorError, OSError) as why:
        raise BadInput(f"The file {path.name} in {path.parent.name} is damaged or incomplete: {why}.") from why


def copy_into(targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Copy `tensors` into the parameters of the same names; everything is checked before anything is written.

    Args:
        what: names the source in an error.

    Raises:
        BadInput: names that are missing or left over, or shapes that differ.
    """
    import torch

    missing = [n for n in targets if n not in tensors]
    extra = [n for n in tensors if n not in targets]
    if missing or extra:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has {_some(extra)}, which this model does not train"] if extra else []
        raise BadInput(
            f"{what} does not belong to this model with these settings: it {' and '.join(parts)}.",
            "Load it onto the base and with the settings it was trained with.",
        )
    for name, target in targets.items():
        if tensors[name].shape != target.shape:
            raise BadInput(
                f"{what} does not fit this model: {name} has shape {tuple(tensors[name].shape)} there and "
                f"{tuple(target.shape)} here.",
                "Load it onto the base and with the settings it was trained with.",
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Silence transformers' progress bars for a while: the engine prints nothing."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
