"""What methods have in common that put a wrapper around some of the base's modules: LoRA's family, IA3, adapters, VeRA.

A wrapper is a module with
    base_layer      what it wraps, untouched
    enabled         whether it does more than call base_layer
    trained()       its trained parameters by the end of their names, in the order in which they are registered
    merged()        the plain module that computes the same (or none, where the change cannot be folded in)
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import Refused
from core.methods import saved
from core.methods.in_place import InPlace
from core.methods.modules import ends_with, head_parameters, replace_module

if TYPE_CHECKING:
    import torch


def wrap(model: torch.nn.Module, wrappers: dict[str, Any]) -> None:
    """Freeze `model` and put each wrapper at its path."""
    model.requires_grad_(False)
    for path, wrapper in wrappers.items():
        wrapper.train(model.training)
        replace_module(model, path, wrapper)
        for parameter in wrapper.trained().values():
            parameter.requires_grad_(True)


class Wrapped:
    """A model with wrappers around some of its modules; see `core.methods.base.Attached`.

    Args:
        method: the method's name, for the record.
        layers: path -> the wrapper there, in the model's order.
        own: the model's own parameters that train beside the wrappers, by name. A classification head is added.
        keep_base: copy their values, so that `disable` works; without such parameters there is nothing to copy.

    A method's own class says in `adapter_config` what PEFT's file says of it (None: PEFT does not have the method), and
    in `check` what else must agree before an adapter is loaded.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: Any,
        method: str,
        layers: dict[str, Any],
        own: Iterable[str] = (),
        *,
        keep_base: bool = True,
    ) -> None:
        self.model = model
        self.config = config
        self.method = method
        self.layers: dict[str, Any] = layers
        self.own: InPlace | None = None
        chosen = {name: model.get_parameter(name) for name in own} | head_parameters(model)
        if chosen:
            for parameter in chosen.values():
                parameter.requires_grad_(True)
            self.own = InPlace(model, chosen, keep_base=keep_base)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters by their name in the model, in the model's order."""
        found = {
            f"{path}.{name}": parameter
            for path, layer in self.layers.items()
            for name, parameter in layer.trained().items()
        }
        if self.own is None:
            return found
        found |= self.own.parameters
        return {name: found[name] for name, _ in self.model.named_parameters() if name in found}

    def trainable_names(self) -> list[str]:
        """Names of the wrappers' own parameters, and of the model's own that train with them."""
        return list(self.parameters())

    def rate_factors(self) -> dict[str, float]:
        """All parameters move at the run's rate."""
        return {}

    def disable(self) -> None:
        """Compute what the base computes: the wrappers pass everything on. Costs no memory.

        Raises:
            Refused: parameters of the model's own train too, and no copy was kept.
        """
        self._switch(False)

    def enable(self) -> None:
        """Switch the wrappers on again."""
        self._switch(True)

    def _switch(self, enabled: bool) -> None:
        if self.own is not None:
            self.own.enable() if enabled else self.own.disable()
        for layer in self.layers.values():
            layer.enabled = enabled

    def merge(self) -> torch.nn.Module:
        """Fold every wrapper into what it wraps; the wrappers are taken away.

        Raises:
            Refused: it has been merged already.
        """
        import torch

        if not self.layers:
            raise Refused("This adapter is already part of the weights.")
        with torch.no_grad():
            for path, layer in self.layers.items():
                replace_module(self.model, path, layer.merged())
        self.layers = {}
        if self.own is not None:
            self.own.merge()
            self.own = None
        return self.model

    # --- the saved form -------------------------------------------------------------------------------------------

    def adapter_config(self) -> dict[str, Any] | None:
        """PEFT's `adapter_config.json` for this adapter; None where PEFT does not have the method."""
        return None

    def stored(self) -> dict[str, torch.Tensor]:
        """What is written, by the names in the file: the parameters, under the names that PEFT gives them."""
        return {saved.PEFT_PREFIX + name: parameter for name, parameter in self.parameters().items()}

    def place(self, tensors: dict[str, torch.Tensor], what: str) -> None:
        """Put in place what was read from a file that `stored` describes.

        Raises:
            BadInput: names or shapes that differ.
        """
        saved.copy_into(self.stored(), tensors, what)

    def check(self, folder: Path) -> None:
        """Raise BadInput when what was saved in `folder` cannot go with the settings here."""

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors`, our `deltalab.json` and, where PEFT has the method, its
        `adapter_config.json`. `folder` is the adapter's own: it is replaced whole.

        Raises:
            Refused: it has been merged.
        """
        from safetensors.torch import save_file

        if not self.layers:
            raise Refused("This adapter has been folded into the weights; there is nothing of its own left to save.")
        with self.own.in_place() if self.own is not None else nullcontext():
            tensors = {n: t.detach().cpu().contiguous() for n, t in self.stored().items()}
        config = self.adapter_config()
        own = self.parameters()
        trained = sum(own[name].numel() for name in self.trainable_names())
        with saved.replacing(folder) as fresh:
            save_file(tensors, fresh / saved.ADAPTER_WEIGHTS, metadata={"format": "pt"})
            if config is not None:
                saved.write_json(fresh / saved.ADAPTER_CONFIG, config)
            saved.write_record(fresh, self.method, self.config, self.model, trained)

    def load(self, folder: Path) -> None:
        """Read a saved adapter of the same settings.

        Raises:
            BadInput: files are missing or damaged; other layers, shapes or settings.
        """
        folder = Path(folder)
        self.check(folder)
        tensors = saved.read_tensors(folder / saved.ADAPTER_WEIGHTS)
        with self.own.in_place() if self.own is not None else nullcontext():
            self.place(tensors, f"The adapter in {folder.name}")


def shortest_names(paths: list[str], all_paths: Iterable[str]) -> list[str]:
    """The last parts of `paths`, if those pick out exactly these modules in PEFT's rule; else the paths themselves."""
    short = sorted({path.rpartition(".")[2] for path in paths})
    # Inside a wrapper there are modules of ours (….q_proj.lora_A): PEFT will see the base's names only.
    inside = tuple(f"{path}." for path in paths)
    hit = {p for p in all_paths if not p.startswith(inside) and any(ends_with(p, name) for name in short)}
    return short if hit == set(paths) else paths
