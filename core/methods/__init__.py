"""The fine-tuning methods: METHODS is the one list, everything else (forms, flags, tests, races) is read from it.

To add a method, write one module of this package with the names of `core.methods.base.Method` and add it here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput
from core.methods import bitfit, full, lora, qlora, saved
from core.methods.base import Attached, Method, Site

if TYPE_CHECKING:
    import torch

METHODS: dict[str, Method] = {module.NAME: module for module in (full, lora, qlora, bitfit)}


def saved_as(folder: Path) -> tuple[str, Any]:
    """Name and settings of the method whose change was saved in `folder`.

    A folder that PEFT wrote, without our record, is LoRA.

    Raises:
        BadInput: nothing there that a method could read.
    """
    folder = Path(folder)
    record = saved.read_record(folder)
    if not record:
        return lora.NAME, lora.read_config(folder)
    method = record.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise BadInput(
            f"The folder {folder.name} was saved by a method called {method!r}.", f"Known are {', '.join(METHODS)}."
        )
    return method, saved.read_settings(folder, method)


def attach_saved(model: torch.nn.Module, folder: Path, *, keep_base: bool = True) -> Attached:
    """Attach to the plain `model` the method that was saved in `folder`, and load it.

    Args:
        keep_base: as in the method's `apply`: whether the change can be switched off afterwards.

    Raises:
        BadInput, Incompatible: as the method's `apply` and `load`.
    """
    method, config = saved_as(folder)
    attached = METHODS[method].apply(model, config, keep_base=keep_base)
    attached.load(folder)
    return attached


__all__ = ["METHODS", "Attached", "Method", "Site", "attach_saved", "saved_as"]
