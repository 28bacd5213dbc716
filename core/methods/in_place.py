"""What full fine-tuning, BitFit, LN tuning and last-k have in common: they train the base's own parameters in place.

Switching such a change off needs the base's values, so a copy of them is made before training. It costs as much memory
as the trained parameters do (all weights again, for full fine-tuning), in the CPU's memory even when the model is on a
GPU; `keep_base=False` spares it, and then the change cannot be switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import Refused
from core.methods import saved
from core.methods.modules import head_parameters

if TYPE_CHECKING:
    import torch


def train_only(model: torch.nn.Module, parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    """Freeze `model` but for these of its parameters and its classification head, if it has one; returns all of them,
    in the model's order."""
    chosen = parameters | head_parameters(model)
    model.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return {name: chosen[name] for name, _ in model.named_parameters() if name in chosen}


class InPlace:
    """A model of which some parameters train in place; `save` and `load` are the method's own.

    Args:
        parameters: the trained parameters by their name in the model.
        keep_base: copy their values now, so that `disable` works later.
    """

    def __init__(
        self, model: torch.nn.Module, parameters: dict[str, torch.nn.Parameter], *, keep_base: bool = True
    ) -> None:
        self.model = model
        self.names = list(parameters)
        self.enabled = True
        # The values that are not in the model now: the base's while enabled, the trained ones while disabled.
        self._aside: dict[str, torch.Tensor] | None = None
        if keep_base:
            self._aside = {n: p.detach().to("cpu", copy=True) for n, p in parameters.items() if not p.is_meta}

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters by their name, asked of the model anew: who shards it puts others in their place."""
        return {name: self.model.get_parameter(name) for name in self.names}

    def trainable_names(self) -> list[str]:
        """The trained parameters' names, in the model's order."""
        return list(self.names)

    def rate_factors(self) -> dict[str, float]:
        """All parameters move at the run's rate."""
        return {}

    def disable(self) -> None:
        """Put the base's values in place and keep the trained ones aside. On a CPU nothing is copied.

        Raises:
            Refused: no copy of the base was kept, or the change was merged.
        """
        if self.enabled:
            self._swap()
            self.enabled = False

    def enable(self) -> None:
        """Put the trained values back."""
        if not self.enabled:
            self._swap()
            self.enabled = True

    def _swap(self) -> None:
        if self._aside is None:
            raise self._gone()
        for name, parameter in self.parameters.items():
            current = parameter.data
            parameter.data = self._aside[name].to(current.device)
            self._aside[name] = current.cpu()

    @staticmethod
    def _gone() -> Refused:
        return Refused(
            "The base's own weights are gone: they were trained in place and no copy was kept.",
            "Load the base again to see it as it was.",
        )

    def values(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """(name, the base's values, the trained ones) of each parameter, wherever they are now; not to be written to.

        Raises:
            Refused: as `disable`.
        """
        if self._aside is None:
            raise self._gone()
        for name, parameter in self.parameters.items():
            here, aside = parameter.detach(), self._aside[name]
            yield (name, aside, here) if self.enabled else (name, here, aside)

    def merge(self) -> torch.nn.Module:
        """Nothing needs folding: the trained values are the model's own. The copy of the base is let go.

        Raises:
            Refused: it has been merged already.
        """
        if not self.names:
            raise Refused("This change is already part of the weights.")
        self.enable()
        self._aside, self.names = None, []
        self.model.requires_grad_(False)
        return self.model

    @contextmanager
    def in_place(self) -> Iterator[dict[str, torch.nn.Parameter]]:
        """The parameters with their trained values in place, whether the change is switched on or off.

        Raises:
            Refused: it has been merged.
        """
        if not self.names:
            raise Refused("This change has been merged; save the model itself.")
        was_enabled = self.enabled
        self.enable()
        try:
            yield self.parameters
        finally:
            if not was_enabled:
                self.disable()


class SavedInPlace(InPlace):
    """As InPlace, with a saved form: the trained parameters' values (not differences, so that loading is exact), in one
    file.

    Args:
        method: the method's name, for the record.
        config: its settings.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        parameters: dict[str, torch.nn.Parameter],
        method: str,
        config: Any,
        *,
        keep_base: bool,
    ) -> None:
        super().__init__(model, parameters, keep_base=keep_base)
        self.method = method
        self.config = config

    def file_name(self) -> str:
        """The weights' file. PEFT's name is for what PEFT can read."""
        return f"{self.method}.safetensors"

    def stored_name(self, name: str) -> str:
        """What a parameter is called in the file."""
        return name

    def adapter_config(self) -> dict[str, Any] | None:
        """PEFT's `adapter_config.json`; None where PEFT does not have the method."""
        return None

    def save(self, folder: Path) -> None:
        """Write the weights' file and `deltalab.json` (and PEFT's file, if it has the method); `folder` is replaced
        whole."""
        from safetensors.torch import save_file

        with self.in_place() as parameters, saved.replacing(folder) as fresh:
            tensors = {self.stored_name(name): p.detach().cpu().contiguous() for name, p in parameters.items()}
            save_file(tensors, fresh / self.file_name(), metadata={"format": "pt"})
            config = self.adapter_config()
            if config is not None:
                saved.write_json(fresh / saved.ADAPTER_CONFIG, config)
            total = sum(p.numel() for p in parameters.values())
            saved.write_record(fresh, self.method, self.config, self.model, total)

    def check(self, folder: Path) -> None:
        """Raise BadInput when `folder` holds nothing of this method."""
        saved.read_settings(folder, self.method)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote for the same parameters.

        Raises:
            BadInput: files are missing or damaged, or it has other parameters than this model trains.
        """
        folder = Path(folder)
        self.check(folder)
        tensors = saved.read_tensors(folder / self.file_name())
        with self.in_place() as parameters:
            targets = {self.stored_name(name): p for name, p in parameters.items()}
            saved.copy_into(targets, tensors, f"The adapter in {folder.name}")
