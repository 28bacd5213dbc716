"""Finding modules by the ends of their names or by what they do, and putting others in their place: what several
methods share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.errors import Incompatible
from core.methods.base import Site

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture, Module

# What a linear layer of a transformer does, told by the end of its name. Every family has its own names; this is the
# one place that lists them.
KEYS = ("k_proj", "attention.self.key", "k_lin", "attention.key", "key_proj", "SelfAttention.k", "EncDecAttention.k")
VALUES = (
    "v_proj",
    "attention.self.value",
    "v_lin",
    "attention.value",
    "value_proj",
    "SelfAttention.v",
    "EncDecAttention.v",
)
QUERIES = (
    "q_proj",
    "attention.self.query",
    "q_lin",
    "attention.query",
    "query_proj",
    "SelfAttention.q",
    "EncDecAttention.q",
)
# One matrix for queries, keys and values (GPT-2, GPT-NeoX, Bloom, Falcon, Phi-3).
FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "W_pack")
ATTENTION_OUTPUTS = (
    "o_proj", "out_proj", "attn.c_proj", "self_attn.dense", "attention.dense", "self_attention.dense",
    "attention.output.dense", "out_lin", "attn.Wo",
    "SelfAttention.o", "EncDecAttention.o",
)  # fmt: skip
MLP_INPUTS = (
    "gate_proj", "up_proj", "gate_up_proj", "fc1", "mlp.c_fc", "dense_h_to_4h", "fc_in", "intermediate.dense", "w1",
    "w3", "lin1", "mlp.Wi", "ffn", "DenseReluDense.wi", "wi_0", "wi_1",
)  # fmt: skip
MLP_OUTPUTS = (
    "down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out", "output.dense", "w2", "lin2", "mlp.Wo", "ffn_output",
    "DenseReluDense.wo",
)  # fmt: skip
ATTENTION = (*QUERIES, *KEYS, *VALUES, *FUSED, *ATTENTION_OUTPUTS)
MLP = (*MLP_INPUTS, *MLP_OUTPUTS)


def names_of(text: str) -> list[str]:
    """'q_proj, v_proj' -> ['q_proj', 'v_proj']."""
    return [name.strip() for name in text.split(",") if name.strip()]


def ends_with(path: str, name: str) -> bool:
    """PEFT's rule for a name that is asked for: the whole path, or its end at a dot. 'proj' does not match 'q_proj'."""
    return path == name or path.endswith(f".{name}")


def is_one_of(path: str, names: Iterable[str]) -> bool:
    """Whether a module does what the names of one of the tables above stand for.

    BERT's `attention.output.dense` ends like its MLP's `output.dense`: the longest name that fits decides.
    """
    fits = [name for name in (*ATTENTION, *MLP) if ends_with(path, name)]
    return bool(fits) and max(fits, key=len) in names


def linears(architecture: Architecture, names: Iterable[str]) -> list[Module]:
    """The linear layers that do what the names of one of the tables above stand for, in the model's order."""
    return [m for m in architecture.linears() if m.name not in architecture.heads and is_one_of(m.name, names)]


def named_linears(architecture: Architecture, text: str, title: str) -> list[Module]:
    """The linear layers whose names end as the list in `text` says, in the model's order.

    Raises:
        Incompatible: an unknown name (with those that exist), something that is no linear layer, a classification head,
            or a matrix that is shared with the embedding.
    """
    candidates = [m for m in architecture.linears() if m.name not in architecture.classifier]
    names = names_of(text)
    for name in names:
        rows = [m for m in architecture.modules if ends_with(m.name, name) and m.name not in architecture.classifier]
        if not rows and any(ends_with(path, name) for path in architecture.classifier):
            raise Incompatible(
                f"{name} belongs to the classification head, which trains whole with every method.",
                "Leave it out of target_modules.",
            )
        wrong = next((m for m in rows if m not in candidates), None)
        if not rows:
            known = ", ".join(sorted({m.name.rpartition(".")[2] for m in candidates if not m.tied_to}))
            raise Incompatible(f"{architecture.name} has no module called {name!r}.", f"Its linear layers are {known}.")
        if wrong is not None:
            raise Incompatible(
                f"{wrong.name} is not a linear layer but of kind {wrong.kind}; {title} wraps linear ones.",
                "Leave it out of target_modules.",
            )
    chosen = [m for m in candidates if any(ends_with(m.name, name) for name in names)]
    tied = next((m for m in chosen if m.tied_to), None)
    if tied is not None:
        raise Incompatible(
            f"{tied.name} shares its matrix with {tied.tied_to}, so a change of one could not be folded in without "
            "changing the other.",
            "Leave it out of target_modules.",
        )
    return chosen


def whole(m: Module) -> Site:
    """A module of which everything trains."""
    if m.kind in ("linear", "conv1d"):
        shape: tuple[int, ...] = (m.out_features, m.in_features)
    elif m.kind == "embedding":
        shape = (m.in_features, m.out_features)
    else:
        shape = (m.weight,)
    return Site(m.name, shape, m.parameters)


def head_sites(architecture: Architecture) -> list[Site]:
    """The classification head, which trains whole with every method; nothing for a causal language model."""
    return [whole(m) for m in architecture.modules if m.name in architecture.classifier]


def head_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The classification head's parameters by their name in the model; {} for a causal language model."""
    from core.architecture import classifier_of

    paths = set(classifier_of(model))
    return {name: p for name, p in model.named_parameters() if name.rpartition(".")[0] in paths}


def replace_module(model: torch.nn.Module, path: str, module: torch.nn.Module) -> None:
    """Put `module` where `path` is."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def check_plain(model: torch.nn.Module) -> None:
    """Raise Incompatible when a method has put something into the model already."""
    if any(hasattr(m, "base_layer") or getattr(m, "IS_PROMPT", False) for m in model.modules()):
        raise Incompatible("This model carries an adapter already.", "Merge it, or load the base again.")


def check_readable(model: torch.nn.Module, paths: Iterable[str], title: str) -> None:
    """Raise Incompatible when one of the layers is stored in something that is neither floating-point numbers nor a
    layer of core.layers in few bits, which decodes itself."""
    for path in paths:
        weight = model.get_parameter(f"{path}.weight")
        if not weight.is_floating_point() and not hasattr(model.get_submodule(path), "dense_weight"):
            raise Incompatible(
                f"The weights of {path} are stored as {dtype_name(weight)}, in a layer that {title} cannot read.",
                "Load the base with core.base.load_base, which takes layers of bitsandbytes over, or unquantized.",
            )


def check_unquantized(model: torch.nn.Module, paths: Iterable[str], title: str, changes: str) -> None:
    """Raise Incompatible when one of the layers is not stored as numbers that a method could change.

    Args:
        changes: what the method does to them, behind its title.
    """
    for path in paths:
        weight = model.get_parameter(f"{path}.weight")
        if not weight.is_floating_point():
            raise Incompatible(
                f"{title} {changes}, and those of {path} are stored as {dtype_name(weight)}.",
                "Choose a method that trains beside them, such as lora, or load the base unquantized.",
            )


def dtype_name(parameter: torch.Tensor) -> str:
    """'float32' rather than 'torch.float32'."""
    return str(parameter.dtype).removeprefix("torch.")
