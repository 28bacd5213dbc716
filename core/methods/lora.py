"""LoRA: the weights stay, and beside each chosen matrix a product of two thin ones is trained.

    h = W₀x + ΔWx = W₀x + (α/r)·BAx       W₀: out × in, frozen;  A: r × in;  B: out × r, zero at the start

(Hu et al. 2021, section 4.1.) A chosen matrix of shape out × in costs r·(in + out) trained parameters instead of
in·out. After training the product can be folded into W₀, so that the model is as fast as before.

The folder that `save` writes is PEFT's own: PEFT loads it, and what PEFT saved (plain LoRA, without its many variants)
loads here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import BadInput, Incompatible, Refused
from core.methods import saved
from core.methods.base import Site
from core.methods.modules import check_plain, dtype_name, ends_with, names_of, replace_module

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module
    from core.layers.low_rank import LowRank

NAME = "lora"
TITLE = "LoRA"
SUMMARY = "Freezes the model and trains a product of two thin matrices beside each chosen weight matrix."
PAPER = "Hu et al., 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685"
BASE = "frozen"

ALL_LINEAR = "all-linear"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# PEFT wraps the model twice (PeftModel.base_model = LoraModel, LoraModel.model = the model): its names begin so.
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Config:
    """Settings of LoRA, in the paper's letters: rank r, scale alpha / r."""

    rank: int = knob(
        8, "Rank r: the inner width of the two thin matrices; parameters grow in proportion to it.",
        low=1, high=1024, warn_high=256, folded=False,
        why="The paper finds ranks from 1 to 8 enough on many tasks; more costs memory and rarely helps small tasks.",
    )  # fmt: skip
    alpha: int = knob(
        16, "Alpha: the learnt change is multiplied by alpha / rank before it is added.", low=1, high=4096,
        warn_high=512, folded=False,
        why="A scale of 2 at rank 8; it acts much like a learning rate, so tune one of the two and leave the other.",
    )  # fmt: skip
    target_modules: str = knob(
        ALL_LINEAR, "Which matrices get a pair: all-linear, or the ends of module names, such as q_proj,v_proj.",
        why="All linear layers match full fine-tuning where attention alone falls short (QLoRA, section 4).",
    )  # fmt: skip
    dropout: float = knob(
        0.0, "Share of the inputs of the thin matrices set to zero while training.", low=0.0, high=0.9, warn_high=0.3,
        why="Short runs on many examples do not overfit.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """What is wrong with the settings whatever the base."""
    if not names_of(config.target_modules):
        return ["target_modules names nothing; give all-linear, or names such as q_proj,v_proj."]
    return []


# --- which matrices -----------------------------------------------------------------------------------------------


def targets(architecture: Architecture, config: Config) -> list[Module]:
    """The linear layers that get a pair, in the model's order.

    all-linear means every linear layer but the head that makes the logits, as in PEFT.

    Raises:
        Incompatible: nothing to wrap, an unknown name, or a matrix that is shared with the embedding.
    """
    linears = list(architecture.linears())
    if config.target_modules.lower() == ALL_LINEAR:
        chosen = [m for m in linears if m.name != architecture.head]
        if not chosen:
            raise Incompatible(
                f"{architecture.name} has no linear layers that {TITLE} could wrap.", "Choose a transformer as base."
            )
        return chosen
    names = names_of(config.target_modules)
    for name in names:
        rows = [m for m in architecture.modules if ends_with(m.name, name)]
        wrong = next((m for m in rows if m not in linears), None)
        if not rows:
            known = ", ".join(sorted({m.name.rpartition(".")[2] for m in linears}))
            raise Incompatible(f"{architecture.name} has no module called {name!r}.", f"Its linear layers are {known}.")
        if wrong is not None:
            raise Incompatible(
                f"{wrong.name} is not a linear layer but of kind {wrong.kind}; {TITLE} wraps linear ones.",
                "Leave it out of target_modules.",
            )
    chosen = [m for m in linears if any(ends_with(m.name, name) for name in names)]
    tied = next((m for m in chosen if m.tied_to), None)
    if tied is not None:
        raise Incompatible(
            f"{tied.name} shares its matrix with {tied.tied_to}, so a change of one could not be folded in without "
            "changing the other.",
            "Leave it out of target_modules.",
        )
    return chosen


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Each wrapped matrix (out × in) and the r·(in + out) parameters beside it."""
    return [
        Site(m.name, (m.out_features, m.in_features), config.rank * (m.in_features + m.out_features))
        for m in targets(architecture, config)
    ]


def count(architecture: Architecture, config: Config) -> int:
    """r·Σ(in + out) over the wrapped matrices."""
    return sum(site.trained for site in sites(architecture, config))


# --- attaching ----------------------------------------------------------------------------------------------------


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` and put a pair of matrices beside every chosen linear layer.

    Args:
        keep_base: of no effect here: the base is never changed, and switching the pairs off costs nothing.

    Raises:
        Incompatible: nothing to wrap, an unknown name, or a base that is quantized already.
    """
    from core.architecture import Architecture

    check_plain(model)
    chosen = targets(Architecture.of(model), config)
    for row in chosen:
        weight = model.get_parameter(f"{row.name}.weight")
        if not weight.is_floating_point():
            raise Incompatible(
                f"The weights of {row.name} are stored as {dtype_name(weight)}, not as numbers "
                f"that {TITLE} can be folded into.",
                "Use the method qlora for a base stored in 4 bits, or load the base unquantized.",
            )
    return attach(model, config, NAME, chosen)


def attach(model: torch.nn.Module, config: Config, method: str, chosen: Iterable[Module]) -> Attached:
    """Freeze `model`, wrap the chosen layers and return the handle; shared with QLoRA."""
    from core.layers.low_rank import LowRank

    model.requires_grad_(False)
    layers = {}
    for row in chosen:
        layer = LowRank(model.get_submodule(row.name), config.rank, config.alpha, config.dropout)
        layer.train(model.training)
        replace_module(model, row.name, layer)
        layers[row.name] = layer
    return Attached(model, config, method, layers)


class Attached:
    """A model with low-rank pairs beside some of its layers; see `core.methods.base.Attached`.

    Args:
        layers: path -> the wrapper there, in the model's order.
    """

    def __init__(self, model: torch.nn.Module, config: Config, method: str, layers: dict[str, LowRank]) -> None:
        self.model = model
        self.config = config
        self.method = method
        self.layers = layers

    def trainable_names(self) -> list[str]:
        """`….lora_A.weight` and `….lora_B.weight` of every wrapped layer."""
        return [f"{path}.{part}.weight" for path in self.layers for part in ("lora_A", "lora_B")]

    def disable(self) -> None:
        """Compute what the base computes: the pairs are passed over. Costs no memory."""
        self._switch(False)

    def enable(self) -> None:
        """Add the pairs again."""
        self._switch(True)

    def _switch(self, enabled: bool) -> None:
        for layer in self.layers.values():
            layer.enabled = enabled

    def merge(self) -> torch.nn.Module:
        """W = W₀ + (α/r)·BA in every wrapped layer; the wrappers are taken away.

        The sum is taken in float32 and rounded once to the dtype of W₀. A layer in four bits becomes a plain one: the
        decoded weight plus the change, in the dtype the base had before it was quantized.

        Raises:
            Refused: it has been merged already.
        """
        import torch

        if not self.layers:
            raise Refused("This adapter is already part of the weights.")
        with torch.no_grad():
            for path, layer in self.layers.items():
                replace_module(self.model, path, _merged(layer))
        self.layers = {}
        return self.model

    def save(self, folder: Path) -> None:
        """Write PEFT's `adapter_config.json` and `adapter_model.safetensors`, and our `deltalab.json`.

        `folder` is the adapter's own: it is replaced whole.

        Raises:
            Refused: it has been merged.
        """
        from safetensors.torch import save_file

        if not self.layers:
            raise Refused("This adapter has been folded into the weights; there is nothing of its own left to save.")
        own = self._parameters()
        tensors = {f"{PEFT_PREFIX}{name}": p.detach().cpu().contiguous() for name, p in own.items()}
        with saved.replacing(folder) as fresh:
            save_file(tensors, fresh / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            saved.write_json(fresh / ADAPTER_CONFIG, self._peft_config())
            saved.write_record(fresh, self.method, self.config, self.model, sum(p.numel() for p in own.values()))

    def load(self, folder: Path) -> None:
        """Read a saved adapter of the same rank, scale and layers.

        Raises:
            BadInput: files are missing or damaged; other layers, shapes or scale; a variant of LoRA not known here.
        """
        folder = Path(folder)
        there = read_config(folder)
        scale = there.alpha / there.rank
        mine = self.config.alpha / self.config.rank
        if scale != mine:
            raise BadInput(
                f"The adapter in {folder.name} was trained with alpha {there.alpha:g} at rank {there.rank}, a scale of "
                f"{scale:g}; this model has {mine:g}.",
                f"Set rank to {there.rank} and alpha to {there.alpha:g}.",
            )
        self._check_storage(folder)
        tensors = saved.read_tensors(folder / ADAPTER_WEIGHTS)
        plain = {name.removeprefix(PEFT_PREFIX): t for name, t in tensors.items()}
        # PEFT stores the head's own weight beside a pair on the head: a copy of the base, which is here already.
        plain = {name: t for name, t in plain.items() if not re.search(r"\.base_layer\.(weight|bias)$", name)}
        saved.copy_into(self._parameters(), plain, f"The adapter in {folder.name}")

    def _check_storage(self, folder: Path) -> None:
        """Raise BadInput when the adapter was trained on another 4-bit form of the base than this one."""
        here = getattr(self.config, "quant_type", None)
        if here is None or saved.read_record(folder).get("method") != self.method:
            return
        there = saved.read_settings(folder, self.method).quant_type
        if there != here:
            raise BadInput(
                f"The adapter in {folder.name} was trained on a base in {there}; this one is in {here}.",
                f"Set quant_type to {there}.",
            )

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        """Trained parameters by name, in the order of `trainable_names`."""
        return {
            f"{path}.{part}.weight": getattr(layer, part).weight
            for path, layer in self.layers.items()
            for part in ("lora_A", "lora_B")
        }

    def _peft_config(self) -> dict[str, Any]:
        from core.layers.low_rank import is_conv1d

        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": saved.base_name(self.model),
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": self.config.dropout,
            "target_modules": shortest_names(list(self.layers), [n for n, _ in self.model.named_modules()]),
            "fan_in_fan_out": all(is_conv1d(layer.base_layer) for layer in self.layers.values()),
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "modules_to_save": None,
            "inference_mode": True,
        }


def _merged(layer: LowRank) -> torch.nn.Module:
    """The plain layer with ΔW folded in."""
    from core.layers.low_rank import is_conv1d

    base: Any = layer.base_layer
    delta = layer.delta()
    to_dense: Callable[..., torch.nn.Module] | None = getattr(base, "to_dense", None)
    if to_dense is not None:
        return to_dense(delta)
    update = delta.t() if is_conv1d(base) else delta
    base.weight.copy_((base.weight.float() + update).to(base.weight.dtype))
    return base


def shortest_names(paths: list[str], all_paths: Iterable[str]) -> list[str]:
    """The last parts of `paths`, if those pick out exactly these modules in PEFT's rule; else the paths themselves."""
    short = sorted({path.rpartition(".")[2] for path in paths})
    # Inside a wrapper there are modules of ours (….q_proj.lora_A): PEFT will see the base's names only.
    inside = tuple(f"{path}." for path in paths)
    hit = {p for p in all_paths if not p.startswith(inside) and any(ends_with(p, name) for name in short)}
    return short if hit == set(paths) else paths


# --- PEFT's file --------------------------------------------------------------------------------------------------

# Fields of PEFT's LoraConfig (0.21) that make an adapter something other than plain LoRA, each with PEFT's own default,
# which means "not used", as null, false and nothing at all do. A field that stands in no table here is treated so too.
_VARIANTS: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "bias": "none",
    "ensure_weight_tying": False,
    "exclude_modules": None,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_bias": False,
    "megatron_config": None,
    "modules_to_save": None,
    "monteclora_config": None,
    "rank_pattern": {},
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}
_READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "init_lora_weights")
# Where the adapter comes from, and settings of what the fields above or init_lora_weights would have to choose first.
# fan_in_fan_out follows from the layer's class, here as in PEFT.
_OF_NO_EFFECT = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config",
    "task_type", "fan_in_fan_out", "corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core",
    "qalora_group_size",
)  # fmt: skip
# Ways to start A and B that leave the base as it is (PEFT 0.21, tuners/lora/layer.py, LoraLayer.update_layer). The
# others (pissa, pissa_niter_…, olora, corda, loftq, lora_ga) take out of the base's weights what they put into A and B,
# so what is saved is a change of weights that nobody has.
_STARTS = ("gaussian", "orthogonal", "eva", "mica")


def _unused(name: str, value: Any) -> bool:
    """Whether a field of PEFT's file is left at what means "not used". 0 is a value: it can number a layer."""
    return value is None or value is False or value in ("", [], {}) or value == _VARIANTS.get(name)


def _check_plain_lora(record: dict[str, Any], name: str) -> None:
    """Raise BadInput when PEFT's file tells of anything but plain LoRA, with the field and its value."""
    start = record.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in _STARTS)):
        raise BadInput(
            f"The adapter in {name} was started with init_lora_weights={_shown(start)}, which changes the base's own "
            "weights too, and those are not in its folder.",
            "Save it from PEFT as plain LoRA (save_pretrained with path_initial_model_for_weight_conversion, for "
            "PiSSA, OLoRA, CorDA and LoRA-GA), or merge it there and use the merged model as base.",
        )
    known = (*_READ, *_OF_NO_EFFECT)
    odd = [f"{key}={_shown(value)}" for key, value in record.items() if key not in known and not _unused(key, value)]
    if odd:
        raise BadInput(
            f"The adapter in {name} uses {', '.join(odd[:5])}, which plain LoRA does not have.",
            "Merge it with PEFT and use the merged model as base.",
        )


def _shown(value: Any) -> str:
    """A value of a JSON file, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def read_config(folder: Path) -> Config:
    """The settings of a saved adapter, ours or PEFT's.

    Raises:
        BadInput: no adapter there, not LoRA, or a variant or a start not known here (named, with its value).
    """
    folder = Path(folder)
    record = saved.read_json(folder / ADAPTER_CONFIG)
    if record.get("peft_type") != "LORA":
        raise BadInput(f"The adapter in {folder.name} is of type {record.get('peft_type')!r}, not LORA.")
    _check_plain_lora(record, folder.name)
    rank, alpha = record.get("r"), record.get("lora_alpha")
    names, dropout = record.get("target_modules"), record.get("lora_dropout") or 0.0
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        names = ",".join(sorted(names))
    wrong = [
        name
        for name, right in (
            ("r", isinstance(rank, int) and not isinstance(rank, bool) and rank > 0),
            ("lora_alpha", isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and alpha > 0),
            ("lora_dropout", isinstance(dropout, (int, float)) and 0 <= dropout < 1),
            ("target_modules", isinstance(names, str)),
        )
        if not right
    ]
    if wrong:
        raise BadInput(f"The file {ADAPTER_CONFIG} in {folder.name} lacks a usable {', '.join(wrong)}.")
    # Our own record, if there is one, says what was asked for (all-linear); PEFT's file, what that came to.
    own = saved.read_record(folder).get("method")
    if own in ("lora", "qlora"):
        names = saved.read_settings(folder, own).target_modules
    return Config(rank, alpha, names, float(dropout))  # type: ignore[arg-type]
