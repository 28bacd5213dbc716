"""Finding modules by the ends of their names, and putting others in their place: what several methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import Incompatible

if TYPE_CHECKING:
    import torch


def names_of(text: str) -> list[str]:
    """'q_proj, v_proj' -> ['q_proj', 'v_proj']."""
    return [name.strip() for name in text.split(",") if name.strip()]


def ends_with(path: str, name: str) -> bool:
    """PEFT's rule for a name that is asked for: the whole path, or its end at a dot. 'proj' does not match 'q_proj'."""
    return path == name or path.endswith(f".{name}")


def replace_module(model: torch.nn.Module, path: str, module: torch.nn.Module) -> None:
    """Put `module` where `path` is."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def check_plain(model: torch.nn.Module) -> None:
    """Raise Incompatible when a method has wrapped the model already."""
    from core.layers.low_rank import LowRank

    if any(isinstance(m, LowRank) for m in model.modules()):
        raise Incompatible("This model carries an adapter already.", "Merge it, or load the base again.")


def dtype_name(parameter: torch.Tensor) -> str:
    """'float32' rather than 'torch.float32'."""
    return str(parameter.dtype).removeprefix("torch.")
