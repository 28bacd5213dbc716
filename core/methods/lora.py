"""LoRA: the weights stay, and beside each chosen matrix a product of two thin ones is trained.

    h = W₀x + ΔWx = W₀x + (α/r)·BAx       W₀: out × in, frozen;  A: r × in;  B: out × r, zero at the start

(Hu et al. 2021, section 4.1.) A chosen matrix of shape out × in costs r·(in + out) trained parameters instead of
in·out. After training the product can be folded into W₀, so that the model is as fast as before.

The folder that `save` writes is PEFT's own: PEFT loads it, and what PEFT saved (plain LoRA, without its many variants)
loads here. The variants that are methods of their own (rsLoRA, LoRA+, PiSSA, DoRA, QLoRA) build on this file.

W₀ may be stored in few bits (a checkpoint that bitsandbytes quantized): it is decoded where it is needed, as in QLoRA,
and stays as it is. On such a base LoRA and QLoRA are the same method; QLoRA also quantizes a base that is not yet so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import knob
from core.errors import BadInput, Incompatible
from core.methods import saved
from core.methods.base import Site
from core.methods.modules import (
    ATTENTION,
    MLP,
    check_plain,
    check_readable,
    ends_with,
    head_sites,
    linears,
    named_linears,
    names_of,
)
from core.methods.saved import ADAPTER_CONFIG
from core.methods.wrapped import Wrapped, shortest_names, wrap

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

NAME = "lora"
TITLE = "LoRA"
SUMMARY = "Freezes the model and trains a product of two thin matrices beside each chosen weight matrix."
PAPER = "Hu et al., 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685"
FORMULA = "h = W₀x + (α/r)·BAx"
INFERENCE = "Nothing once merged; unmerged, two thin products per wrapped matrix."
BASE = "frozen"
START = "base"
MERGES = True
CHECKPOINTS = True
RATES = (1e-3, 3e-3, 6e-3)
PATIENCE = 1
PUBLISHED = (2e-4, "the LoRA authors' runs, GPT-2 medium: github.com/microsoft/LoRA, examples/NLG/README.md")
PUBLISHED_ENCODER = (5e-4, "Hu et al. 2021, arXiv:2106.09685, table 9: RoBERTa-base on MNLI, SST-2, QQP and RTE")

ALL_LINEAR = "all-linear"
GROUPS = {"attention": ATTENTION, "mlp": MLP}


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
        ALL_LINEAR,
        "Which matrices get a pair: all-linear, attention, mlp, or the ends of module names, such as q_proj,v_proj.",
        why="All linear layers match full fine-tuning where attention alone falls short (QLoRA, section 4).",
    )  # fmt: skip
    dropout: float = knob(
        0.0, "Share of the inputs of the thin matrices set to zero while training.", low=0.0, high=0.9, warn_high=0.3,
        why="Short runs on many examples do not overfit.",
    )  # fmt: skip
    rank_pattern: str = knob(
        "", "Other ranks for some of the matrices, such as q_proj=4,down_proj=16; empty: the same everywhere.",
        why="One rank for all is what nearly everybody uses; the lesson on rank shows where more of it goes.",
    )  # fmt: skip
    bias: str = knob(
        "none", "Which bias vectors train as well: none, those of the wrapped layers (lora_only), or all.",
        choices=("none", "lora_only", "all"),
        why="The paper leaves them frozen; with them, switching the adapter off means putting the old ones back.",
    )  # fmt: skip


def problems(config: Config) -> list[str]:
    """What is wrong with the settings whatever the base."""
    found = []
    if not names_of(config.target_modules):
        found.append("target_modules names nothing; give all-linear, or names such as q_proj,v_proj.")
    try:
        ranks(config)
    except BadInput as why:
        found.append(why.sentence)
    return found


def ranks(config: Config) -> dict[str, int]:
    """'q_proj=4, down_proj=16' -> {'q_proj': 4, 'down_proj': 16}.

    Raises:
        BadInput: it does not read so, or a rank is not a positive whole number.
    """
    found = {}
    for part in names_of(config.rank_pattern):
        name, equals, number = (word.strip() for word in part.partition("="))
        if not (name and equals and number.isascii() and number.isdigit() and int(number) > 0):
            raise BadInput(f"rank_pattern must read like q_proj=4,down_proj=16; {part!r} does not.")
        found[name] = int(number)
    return found


def rank_of(config: Config, path: str) -> int:
    """The rank of the pair at a module: the first name of the pattern that fits, else the common one."""
    return next((rank for name, rank in ranks(config).items() if ends_with(path, name)), config.rank)


# --- which matrices -----------------------------------------------------------------------------------------------


def targets(architecture: Architecture, config: Config) -> list[Module]:
    """The linear layers that get a pair, in the model's order.

    all-linear means every linear layer but the head that makes the logits, as in PEFT.

    Raises:
        Incompatible: nothing to wrap, an unknown name, a rank that no matrix has room for, or a matrix that is shared
            with the embedding.
    """
    asked = config.target_modules.lower()
    if asked in GROUPS:
        chosen = linears(architecture, GROUPS[asked])
    elif asked == ALL_LINEAR:
        chosen = [m for m in architecture.linears() if m.name not in architecture.heads]
    else:
        chosen = named_linears(architecture, config.target_modules, TITLE)
    if not chosen:
        raise Incompatible(
            f"{architecture.name} has no linear layers that {TITLE} could wrap.",
            "Choose a transformer as base, or name its layers in target_modules.",
        )
    unknown = [name for name in ranks(config) if not any(ends_with(m.name, name) for m in chosen)]
    if unknown:
        raise Incompatible(
            f"rank_pattern names {', '.join(unknown)}, which is no end of a wrapped layer's name.",
            f"Wrapped are {', '.join(sorted({m.name.rpartition('.')[2] for m in chosen}))}.",
        )
    narrow = next((m for m in chosen if rank_of(config, m.name) > min(m.in_features, m.out_features)), None)
    if narrow is not None:
        most = min(narrow.in_features, narrow.out_features)
        raise Incompatible(
            f"{narrow.name} is {narrow.out_features} × {narrow.in_features}: no change of it has a rank above {most}, "
            f"and {rank_of(config, narrow.name)} is asked for.",
            f"Set rank to {most} at most, or give this layer one of its own in rank_pattern.",
        )
    return chosen


def biases(architecture: Architecture, config: Config) -> list[Module]:
    """The modules whose bias trains too."""
    if config.bias == "none":
        return []
    wrapped = {m.name for m in targets(architecture, config)}
    return [
        m
        for m in architecture.modules
        if m.bias and (config.bias == "all" or m.name in wrapped) and m.name not in architecture.classifier
    ]


def pair_parameters(fan_in: int, fan_out: int, rank: int) -> int:
    """r·(in + out): what A (r × in) and B (out × r) have together."""
    return rank * (fan_in + fan_out)


def sites(architecture: Architecture, config: Config) -> list[Site]:
    """Each wrapped matrix (out × in) and the r·(in + out) parameters beside it; then the biases, if they train, and a
    classification head."""
    pairs = [
        Site(
            m.name,
            (m.out_features, m.in_features),
            pair_parameters(m.in_features, m.out_features, rank_of(config, m.name)),
        )
        for m in targets(architecture, config)
    ]
    biased = [Site(m.name, (m.bias,), m.bias) for m in biases(architecture, config)]
    return pairs + biased + head_sites(architecture)


def count(architecture: Architecture, config: Config) -> int:
    """Σ r·(in + out) over the wrapped matrices, the biases that train, and a classification head."""
    return sum(site.trained for site in sites(architecture, config))


# --- attaching ----------------------------------------------------------------------------------------------------


def plain_pair(layer: Any, rank: int, config: Config) -> Any:
    """LoRA's own wrapper: BA scaled by α/r."""
    from core.layers.low_rank import LowRank

    return LowRank(layer, rank, config.alpha / rank, config.dropout)


def apply(model: torch.nn.Module, config: Config, *, keep_base: bool = True) -> Attached:
    """Freeze `model` and put a pair of matrices beside every chosen linear layer.

    Args:
        keep_base: copy the biases and the classification head, if they train; the rest of the base is never changed,
            and switching the pairs off costs nothing.

    Raises:
        Incompatible: nothing to wrap, an unknown name, or a base that is stored in a way that cannot be read.
    """
    return attach(model, config, NAME, plain_pair, keep_base=keep_base)


def attach(
    model: torch.nn.Module,
    config: Config,
    method: str,
    make: Callable[[Any, int, Any], Any],
    *,
    keep_base: bool = True,
    kind: type[Attached] | None = None,
) -> Any:
    """What the whole family does: choose the layers, make a wrapper for each and put it there. The layers may be stored
    in few bits; they stay so.

    Args:
        make: (layer, rank, config) -> the wrapper.
        kind: the class of the handle.
    """
    from core.architecture import Architecture

    check_plain(model)
    architecture = Architecture.of(model)
    chosen = [m.name for m in targets(architecture, config)]
    check_readable(model, chosen, TITLE)
    biased = [m.name for m in biases(architecture, config)]
    layers = {path: make(model.get_submodule(path), rank_of(config, path), config) for path in chosen}
    wrap(model, layers)
    return (kind or Attached)(model, config, method, layers, biased, keep_base=keep_base)


class Attached(Wrapped):
    """A model with low-rank pairs beside some of its layers; see `core.methods.base.Attached`.

    Merged, W = W₀ + ΔW in every wrapped layer. A layer in few bits becomes a plain one: the decoded weight plus the
    change, in the dtype that the base had before it was quantized.

    Args:
        layers: path -> the wrapper there, in the model's order.
        biased: paths of the modules whose bias trains too.
    """

    # What PEFT's file says of a variant of LoRA.
    FLAGS: Mapping[str, Any] = {}

    def __init__(
        self,
        model: torch.nn.Module,
        config: Any,
        method: str,
        layers: dict[str, Any],
        biased: list[str],
        *,
        keep_base: bool = True,
    ) -> None:
        # Inside a wrapper the bias is its base_layer's.
        names = [f"{path}.base_layer.bias" if path in layers else f"{path}.bias" for path in biased]
        super().__init__(model, config, method, layers, names, keep_base=keep_base)

    def place(self, tensors: dict[str, torch.Tensor], what: str) -> None:
        # PEFT stores the head's own weight beside a pair on the head: a copy of the base, which is here already.
        mine = self.stored()
        kept = {n: t for n, t in tensors.items() if n in mine or not re.search(r"\.base_layer\.(weight|bias)$", n)}
        super().place(kept, what)

    def check(self, folder: Path) -> None:
        """Another scale, rank or 4-bit form of the base than this model has is refused."""
        there = read_config(folder, self.FLAGS)
        scale, mine = there.alpha / there.rank, self.config.alpha / self.config.rank
        if scale != mine:
            raise BadInput(
                f"The adapter in {folder.name} was trained with alpha {there.alpha:g} at rank {there.rank}, a scale of "
                f"{scale:g}; this model has {mine:g}.",
                f"Set rank to {there.rank} and alpha to {there.alpha:g}.",
            )
        here = getattr(self.config, "quant_type", None)
        if here is None or saved.read_record(folder).get("method") != self.method:
            return
        stored = saved.read_settings(folder, self.method).quant_type
        if stored != here:
            raise BadInput(
                f"The adapter in {folder.name} was trained on a base in {stored}; this one is in {here}.",
                f"Set quant_type to {stored}.",
            )

    def adapter_config(self) -> dict[str, Any]:
        from core.layers.low_rank import is_conv1d

        return {
            "peft_type": "LORA",
            **saved.task_fields(self.model),
            **saved.base_fields(self.model),
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": self.config.dropout,
            "target_modules": shortest_names(list(self.layers), [n for n, _ in self.model.named_modules()]),
            "rank_pattern": ranks(self.config),
            "fan_in_fan_out": all(is_conv1d(layer.base_layer) for layer in self.layers.values()),
            "bias": self.config.bias,
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "inference_mode": True,
            **self.FLAGS,
        }


# --- PEFT's file --------------------------------------------------------------------------------------------------

# Fields of PEFT's LoraConfig (0.21) that make an adapter something other than plain LoRA, each with PEFT's own default,
# which means "not used", as null, false and nothing at all do. A field that stands in no table here is treated so too.
_VARIANTS: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
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
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}
_READ = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "init_lora_weights", "rank_pattern", "bias",
)  # fmt: skip
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
STARTS = ("gaussian", "orthogonal", "eva", "mica")


def _unused(name: str, value: Any) -> bool:
    """Whether a field of PEFT's file is left at what means "not used". 0 is a value: it can number a layer."""
    return value is None or value is False or value in ("", [], {}) or value == _VARIANTS.get(name)


def _check_known(record: dict[str, Any], name: str, flags: Mapping[str, Any]) -> None:
    """Raise BadInput when PEFT's file tells of anything but LoRA with the given flags: the field and its value."""
    start = record.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool) or (isinstance(start, str) and start.lower() in STARTS)):
        raise BadInput(
            f"The adapter in {name} was started with init_lora_weights={_shown(start)}, which changes the base's own "
            "weights too, and those are not in its folder.",
            "Save it from PEFT as plain LoRA (save_pretrained with path_initial_model_for_weight_conversion, for "
            "PiSSA, OLoRA, CorDA and LoRA-GA), or merge it there and use the merged model as base.",
        )
    known = (*_READ, *_OF_NO_EFFECT, *flags)
    beside = {"modules_to_save": saved.modules_beside(record)}
    odd = [
        f"{key}={_shown(value)}"
        for key, value in (record | beside).items()
        if key not in known and not _unused(key, value)
    ]
    if odd:
        raise BadInput(
            f"The adapter in {name} uses {', '.join(odd[:5])}, which plain LoRA does not have.",
            "Merge it with PEFT and use the merged model as base.",
        )


def _shown(value: Any) -> str:
    """A value of a JSON file, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _paired(folder: Path) -> list[str]:
    """Paths of the layers that have a pair in the weights' file."""
    end = ".lora_A.weight"
    names = saved.read_tensors(folder / saved.ADAPTER_WEIGHTS)
    return [name.removeprefix(saved.PEFT_PREFIX).removesuffix(end) for name in names if name.endswith(end)]


def reads(record: Mapping[str, Any]) -> bool:
    """Whether PEFT's file is of this method."""
    return record.get("peft_type") == "LORA" and not record.get("use_rslora") and not record.get("use_dora")


def read_config(folder: Path, flags: Mapping[str, Any] | None = None, kind: type[Config] = Config) -> Any:
    """The settings of a saved adapter, ours or PEFT's.

    Args:
        flags: fields that a variant of LoRA sets, with its values: they must be so.
        kind: the variant's Config.

    Raises:
        BadInput: no adapter there, not LoRA, or a variant or a start not known here (named, with its value).
    """
    folder = Path(folder)
    record = saved.read_peft(folder, "LORA")
    flags = flags or {}
    _check_known(record, folder.name, flags)
    other = next((f for f, value in flags.items() if record.get(f) != value), None)
    if other is not None:
        raise BadInput(f"The adapter in {folder.name} has {other}={_shown(record.get(other))}, not {flags[other]!r}.")
    rank, alpha = record.get("r"), record.get("lora_alpha")
    names, dropout = record.get("target_modules"), record.get("lora_dropout") or 0.0
    pattern, bias = record.get("rank_pattern") or {}, record.get("bias") or "none"
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        names = ",".join(sorted(names))
    elif isinstance(names, str) and names.lower() != ALL_LINEAR:
        names = ",".join(_paired(folder))  # a pattern, in PEFT: which layers it fitted, the pairs tell
    wrong = [
        name
        for name, right in (
            ("r", isinstance(rank, int) and not isinstance(rank, bool) and rank > 0),
            ("lora_alpha", isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and alpha > 0),
            ("lora_dropout", isinstance(dropout, (int, float)) and 0 <= dropout < 1),
            ("target_modules", isinstance(names, str)),
            ("rank_pattern", isinstance(pattern, dict) and all(isinstance(r, int) for r in pattern.values())),
            ("bias", bias in ("none", "lora_only", "all")),
        )
        if not right
    ]
    if wrong:
        raise BadInput(f"The file {ADAPTER_CONFIG} in {folder.name} lacks a usable {', '.join(wrong)}.")
    # Our own record, if there is one, says what was asked for (all-linear); PEFT's file, what that came to.
    own = saved.read_record(folder).get("method")
    if own is not None:
        names = getattr(saved.read_settings(folder, own), "target_modules", names)
    ranks = ",".join(f"{name}={r}" for name, r in pattern.items())
    return kind(rank, alpha, names, float(dropout), ranks, bias)  # type: ignore[arg-type]
