"""The fine-tuning methods: METHODS is the one list, everything else (forms, flags, tests, races) is read from it.

To add a method, write one module of this package with the names of `core.methods.base.Method` and add it here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.base import READS_PAIRS, Base, load_base
from core.errors import BadInput
from core.methods import (
    adapters,
    bitfit,
    dora,
    full,
    ia3,
    last_k,
    ln_tuning,
    lora,
    lora_fa,
    lora_plus,
    p_tuning,
    pissa,
    prefix_tuning,
    prompt_tuning,
    qlora,
    rslora,
    saved,
    vera,
)
from core.methods.base import Attached, Method, Site

if TYPE_CHECKING:
    import torch

METHODS: dict[str, Method] = {
    module.NAME: module
    for module in (
        full, lora, qlora, bitfit,
        rslora, lora_plus, lora_fa, pissa, dora, vera,
        ia3, adapters, ln_tuning, last_k,
        prompt_tuning, p_tuning, prefix_tuning,
    )
}  # fmt: skip
# Those that are LoRA with something changed: their settings are LoRA's, and more.
LORAS = tuple(name for name, module in METHODS.items() if issubclass(module.Config, lora.Config))


def saved_as(folder: Path) -> tuple[str, Any]:
    """Name and settings of the method whose change was saved in `folder`.

    A folder that PEFT wrote, without our record, is known by PEFT's own file.

    Raises:
        BadInput: nothing there that a method could read.
    """
    folder = Path(folder)
    record = saved.read_record(folder)
    if not record:
        there = saved.read_json(folder / saved.ADAPTER_CONFIG)
        name = next((name for name, module in METHODS.items() if module.reads(there)), None)
        if name is None:
            raise BadInput(
                f"The adapter in {folder.name} is of type {there.get('peft_type')!r}, which Deltalab does not have.",
                f"It has {', '.join(module.TITLE for module in METHODS.values())}.",
            )
        return name, METHODS[name].read_config(folder)
    method = record.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise BadInput(
            f"The folder {folder.name} was saved by a method called {method!r}.", f"Known are {', '.join(METHODS)}."
        )
    return method, saved.read_settings(folder, method)


def loading(method: str | None, precision: str, device: str) -> dict[str, Any]:
    """How the base is to be loaded for a method (None: to be used as it is), as arguments of `core.base.load_base`.

    Weights that train stay in float32: small steps would be lost in 16 bits. On a GPU that computes in bfloat16,
    weights that do not train take 16 bits; and a base that is going to be quantized is loaded beside the GPU, because
    `attach` moves it there layer by layer. On a CPU everything is float32, which is what it casts from fastest.

    Args:
        precision: what the passes compute in, 'float32' or 'bfloat16'.
    """
    kind = METHODS[method].BASE if method is not None else "frozen"
    if kind == "trained" or precision != "bfloat16" or not device.startswith("cuda"):
        return {"dtype": "float32", "device": device}
    return {"dtype": "bfloat16", "device": "cpu" if kind == "quantized" else device}


def attach(
    model: torch.nn.Module,
    method: str,
    config: Any,
    *,
    keep_base: bool = True,
    device: torch.device | str | None = None,
) -> Attached:
    """Apply a method to a model that was loaded as `loading` says, and see to it that it ends up on `device`.

    Raises:
        Incompatible: as the method's `apply`.
    """
    import torch

    module: Any = METHODS[method]
    where = torch.device(device) if device is not None else None
    if module.BASE == "quantized":
        attached: Attached = module.apply(model, config, keep_base=keep_base, device=where)
        return attached
    return METHODS[method].apply(model.to(where), config, keep_base=keep_base)


def attach_saved(
    model: torch.nn.Module, folder: Path, *, keep_base: bool = True, device: torch.device | str | None = None
) -> Attached:
    """Attach to the plain `model` the method that was saved in `folder`, and load it.

    Args:
        keep_base: as in the method's `apply`: whether the change can be switched off afterwards.
        device: where the model is to run, when it is not there yet.

    Raises:
        BadInput: as the method's `load`; or the change was trained on other weights than these.
        Incompatible: as the method's `apply`.
    """
    method, config = saved_as(folder)
    saved.check_base(model, folder)
    attached = attach(model, method, config, keep_base=keep_base, device=device)
    attached.load(folder)
    setattr(model, READS_PAIRS, bool(saved.read_record(folder).get("text_pairs")))
    return attached


def load_saved(
    source: str,
    folder: Path | None,
    *,
    revision: str | None = None,
    precision: str,
    device: str,
    keep_base: bool = True,
) -> tuple[Base, Attached | None]:
    """A base with what was saved in `folder` attached to it and switched on, or (None) the plain base.

    Args:
        precision: what it is to compute in, 'float32' or 'bfloat16'.
        keep_base: as in `attach_saved`.

    Raises:
        BaseUnavailable, BadInput, OutOfMemory: as `core.base.load_base` and `attach_saved`.
    """
    if folder is None:
        return load_base(source, revision=revision, **loading(None, precision, device)), None
    how = loading(saved_as(folder)[0], precision, device) | saved.head_in(folder)
    base = load_base(source, revision=revision, **how)
    attached = attach_saved(base.model, folder, keep_base=keep_base, device=device)
    base.model.eval()
    return base, attached


__all__ = ["METHODS", "Attached", "Method", "Site", "attach", "attach_saved", "load_saved", "loading", "saved_as"]
