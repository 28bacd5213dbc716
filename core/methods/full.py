"""Full fine-tuning: every weight of the base trains.

    W ← W₀ + ΔW        ΔW: as large as W₀

The change is as large as the model. With AdamW, each weight needs its gradient and two running means beside it: four
numbers where the frozen model needs one. What is saved is a whole model in transformers' own format, which
`from_pretrained` loads like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput, Incompatible
from core.methods import saved
from core.methods.base import Site
from core.methods.in_place import InPlace
from core.methods.modules import check_plain, dtype_name, whole

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture

NAME = "full"
TITLE = "Full fine-tuning"
SUMMARY = "Trains every weight of the model: the most freedom, the most memory, and a whole model to store per task."
PAPER = "Howard and Ruder, 2018, Universal Language Model Fine-tuning for Text Classification, arXiv:1801.06146"
FORMULA = "W ← W₀ + ΔW"
INFERENCE = "Nothing; but each task needs a whole model on disk and in memory."
BASE = "trained"
START = "base"
MERGES = True
CHECKPOINTS = True
RATES = (2e-4, 5e-4, 1e-3)
PATIENCE = 1
CHANGES_WEIGHTS = "trains the weights themselves"
PUBLISHED = (1e-5, "the BitFit authors' example of full fine-tuning, BERT-base: github.com/arendu/BitFit, README")
PUBLISHED_ENCODER = (2e-5, "Devlin et al. 2019, BERT, arXiv:1810.04805, appendix A.3 (2e-5 to 5e-5)")


@dataclass(frozen=True)
class Config:
    """Full fine-tuning has no settings of its own."""


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Every module that owns parameters; a tied matrix belongs to the first module that uses it."""
    return [whole(m) for m in architecture.modules if m.parameters]


def count(architecture: Architecture, config: Config) -> int:
    """All of them: Σ (weight + bias), tied weights once.

    Raises:
        Incompatible: the model has no parameters.
    """
    if not architecture.total:
        raise Incompatible(f"{architecture.name} has no parameters to train.", "Choose another base.")
    return architecture.total


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Let every parameter train.

    Args:
        keep_base: copy the base's weights first (as much memory again), so that `disable` works.

    Raises:
        Incompatible: nothing to train, or weights that are stored quantized.
    """
    check_plain(model)
    parameters = dict(model.named_parameters())
    if not parameters:
        raise Incompatible(f"{type(model).__name__} has no parameters to train.", "Choose another base.")
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise Incompatible(
                f"{TITLE} {CHANGES_WEIGHTS}, and {name} is stored as {dtype_name(parameter)}.",
                "Choose a method that trains beside them, such as lora, or load the base unquantized.",
            )
    model.requires_grad_(True)
    return Attached(model, parameters, config, keep_base=keep_base)


class Attached(InPlace):
    """A model whose every parameter trains; see `core.methods.base.Attached`."""

    def __init__(
        self, model: torch.nn.Module, parameters: dict[str, torch.nn.Parameter], config: Config, *, keep_base: bool
    ) -> None:
        super().__init__(model, parameters, keep_base=keep_base)
        self.config = config

    def save(self, folder: Path) -> None:
        """Write the whole model as transformers does (config.json, model.safetensors), and our `deltalab.json`.

        `folder` is replaced whole. It is as large as the model.
        """
        with self.in_place() as parameters, saved.replacing(folder) as fresh:
            with saved.without_progress_bars():
                self.model.save_pretrained(fresh)  # type: ignore[operator]
            total = sum(p.numel() for p in parameters.values())
            saved.write_record(fresh, NAME, self.config, self.model, total)

    def load(self, folder: Path) -> None:
        """Read a whole model of the same architecture: what `save` wrote, or any transformers folder in safetensors.

        Raises:
            BadInput: files are missing or damaged, or it is another architecture.
        """
        from safetensors import SafetensorError

        folder = Path(folder)
        what = f"The model in {folder.name}"
        there = saved.read_json(folder / "config.json")
        here = getattr(self.model, "config", None)
        family = getattr(here, "model_type", None)
        if there.get("model_type") != family:
            raise BadInput(
                f"{what} is a {there.get('model_type')} model; this one is of type {family}.",
                "Load it with the base it was trained from.",
            )
        if not any(folder.glob("*.safetensors")):
            raise BadInput(f"{what} has no weights in safetensors files.", "Pickled weights are never read.")
        try:
            # The model's own configuration, so that weights of another shape are an error instead of another model.
            with saved.without_progress_bars():
                loaded, info = type(self.model).from_pretrained(  # type: ignore[attr-defined]
                    folder, config=here, local_files_only=True, use_safetensors=True, output_loading_info=True
                )
        except (OSError, RuntimeError, ValueError, SafetensorError) as why:
            first = (str(why).strip().splitlines() or [type(why).__name__])[0]
            raise BadInput(f"{what} does not fit this model: {first}", "Load the base it was trained from.") from why
        odd = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
        if odd:
            raise BadInput(
                f"{what} does not belong to this architecture: {', '.join(odd[:3])} differ.",
                "Load the base it was trained from.",
            )
        with self.in_place() as parameters:
            saved.copy_into(parameters, dict(loaded.named_parameters()), what)


def reads(record: Mapping[str, Any]) -> bool:
    """PEFT does not have full fine-tuning."""
    return False


def read_config(folder: Path) -> Config:
    """The settings of a saved model: there are none.

    Raises:
        BadInput: there is no model in `folder`.
    """
    saved.read_json(Path(folder) / "config.json")
    return Config()
